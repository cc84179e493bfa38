"""Training, loading and predicting with ultralytics' networks: real fits of a small network on drawn plates."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ultralytics_drawn import DrawnPlates, make_run

from clarion.errors import ClarionError, DataError, UsageError
from clarion.trainers import ultralytics_setup
from clarion.trainers.base import Sample, Trainer
from clarion.trainers.ultralytics import UltralyticsTrainer, map_device, map_precision

NANO = {"name": "yolo11n", "task": "detection", "network": "yolo11n.yaml", "weights": None, "network_class": None}
ANCHORS = {"name": "yolov5n", "network": "yolov5n.yaml", "network_class": "clarion.detectors.yolov5.YOLOv5"}
FAST = {"imgsz": 64, "warmup_epochs": 0, "close_mosaic": 0}


def trainer_of(epochs=1, model=NANO, seed=0, batch_size=8, **args) -> UltralyticsTrainer:
    return UltralyticsTrainer(model, epochs, batch_size, "cpu", "32", {**FAST, **args}, seed=seed)


@pytest.fixture(autouse=True)
def _one_thread():
    """Small networks gain nothing from threads, and several test runs may share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plates(tmp_path_factory) -> DrawnPlates:
    return DrawnPlates(tmp_path_factory.mktemp("plates"), classes=("plate", "bright plate"))


@pytest.fixture(scope="module")
def fitted(plates, tmp_path_factory):
    """(run, checkpoint) of two epochs, with everything that reached stdout and every host asked for."""
    run = make_run(tmp_path_factory.mktemp("run"), plates)
    asked: list = []
    original = socket.getaddrinfo
    socket.getaddrinfo = lambda host, *a, **k: asked.append(host) or original(host, *a, **k)
    try:
        checkpoint = trainer_of(epochs=2).fit(run)
    finally:
        socket.getaddrinfo = original
    assert asked == []
    return run, checkpoint


def test_the_trainer_keeps_the_protocol():
    assert isinstance(trainer_of(), Trainer)


def test_check_refuses_before_any_data_is_touched_and_parameters_are_counted():
    trainer_of().check()
    assert trainer_of(model={"name": "yolo11s", "network": "yolo11s.yaml"}).parameters(1) == 9_428_179
    with pytest.raises(UsageError, match="model.weights=yolo11x.pt does not exist"):
        trainer_of(model={**NANO, "weights": "yolo11x.pt"}).check()
    with pytest.raises(UsageError, match="trainer.device"):
        UltralyticsTrainer(NANO, 1, 8, "cuda:99", "32", {}).check()


def test_fit_logs_each_epoch_once_and_leaves_a_checkpoint_without_pickle(fitted):
    run, checkpoint = fitted
    assert [step for step, _ in run.tracker.logged] == [1, 2]
    for _, metrics in run.tracker.logged:
        assert {"train/box_loss", "train/cls_loss", "val/map50", "val/map50_95", "val/precision"} <= set(metrics)
        assert all(isinstance(v, float) and np.isfinite(v) for v in metrics.values())
    assert checkpoint == run.checkpoints / "best"
    assert sorted(p.name for p in checkpoint.iterdir()) == ["network.json", "weights.safetensors"]
    record = json.loads((checkpoint / "network.json").read_text(encoding="utf-8"))
    assert record["class_names"] == ["plate", "bright plate"] and record["imgsz"] == 64
    assert record["network"] == "yolo11n.yaml" and record["parameters"] > 2_000_000
    assert not list(run.directory.rglob("*.pt"))
    assert not [p for p in run.directory.rglob("*") if p.suffix in (".png", ".jpg")]  # no plots unless asked for
    assert not list(run.data.root.rglob("*.cache"))  # nor anything left in the user's data
    assert str(run.directory) not in (checkpoint / "network.json").read_text(encoding="utf-8")


def test_predictions_come_in_order_in_original_pixels_and_do_not_depend_on_the_batch(fitted, plates):
    _, checkpoint = fitted
    samples = list(plates.samples("val"))
    by_batch = {}
    for batch_size in (1, 3, 8):
        trainer = trainer_of()
        trainer.batch_size = batch_size
        by_batch[batch_size] = list(trainer.load(checkpoint)(iter(samples)))
    for predictions in by_batch.values():
        assert [p.sample_id for p in predictions] == [s.sample_id for s in samples]
        assert [p.patient_id for p in predictions] == [s.patient_id for s in samples]
    for one, eight in zip(by_batch[1], by_batch[8], strict=True):
        assert set(one.values) == {"boxes", "scores", "labels"}
        boxes = np.array(one.values["boxes"]).reshape(-1, 4)
        assert len(boxes) == len(one.values["scores"]) == len(one.values["labels"]) > 0
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert (centres > -40).all() and (centres < (168, 136)).all()  # within the padded picture
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert sorted(one.values["scores"], reverse=True) == one.values["scores"]
        assert set(one.values["labels"]) <= {0, 1}
        assert len(boxes) <= 300 and min(one.values["scores"]) >= 0.001
        np.testing.assert_allclose(one.values["scores"][:5], eight.values["scores"][:5], rtol=1e-3)


def test_the_predictor_streams(fitted, plates):
    taken = []

    def endless():
        for k, sample in enumerate(plates.samples("val")):
            taken.append(k)
            yield sample

    predictor = trainer_of().load(fitted[1])
    predictor.batch_size = 2
    next(iter(predictor(endless())))
    assert taken == [0, 1]
    assert list(predictor([])) == []


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(fitted, tmp_path, content):
    file = tmp_path / "müller.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match="müller.png cannot be read"):
        list(trainer_of().load(fitted[1])([Sample("a", "p", {"image": file})]))


def test_grey_colour_16_bit_and_odd_sizes_are_read(fitted, tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"grey.png": (496, 768), "colour.png": (31, 200, 3), "tall.bmp": (300, 40), "tiny.png": (1, 5)}
    images = {name: rng.integers(0, 255, shape, dtype=np.uint8) for name, shape in shapes.items()}
    images["deep.png"] = (rng.random((64, 64)) * 65535).astype(np.uint16)
    for name, image in images.items():
        cv2.imwrite(str(tmp_path / name), image)
    predictor = trainer_of().load(fitted[1])
    samples = [Sample(name, "p", {"image": tmp_path / name}) for name in images]
    for name, prediction in zip(images, predictor(samples), strict=True):
        boxes = np.array(prediction.values["boxes"]).reshape(-1, 4)
        assert np.isfinite(boxes).all() and (boxes[:, 2:] >= boxes[:, :2]).all(), name


def test_one_seed_gives_one_network_and_another_seed_another(plates, fitted, tmp_path):
    def weights(folder):
        return (folder / "weights.safetensors").read_bytes()

    again = trainer_of(epochs=2).fit(make_run(tmp_path / "again", plates))
    other = trainer_of(epochs=2, seed=1).fit(make_run(tmp_path / "other", plates))
    assert weights(again) == weights(fitted[1]) != weights(other)


class Stop(Exception):
    """The machine goes down."""


def fit_with_stops(plates, folder, stops: list[int], **settings):
    """(rows logged by epoch, checkpoint) of a training that dies while the epochs of `stops` are being logged."""
    logged = {}
    for k, stop in enumerate([*stops, None]):
        run = make_run(folder, plates, resume=k > 0)

        def record(metrics, step, stop=stop):
            logged[step] = metrics
            if step == stop:
                raise Stop

        run.tracker.log = record
        try:
            checkpoint = trainer_of(**settings).fit(run)
        except Stop:
            assert list((folder / "checkpoints" / "resume").glob("*.safetensors")) or stop == 1
    return logged, checkpoint


@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        # accumulated gradients cross the end of an epoch (2 batches an epoch, 3 a step); mosaics end with epoch 2
        ({"model": NANO, "nbs": 24, "close_mosaic": 2, "warmup_epochs": 1}, [2, 4]),
        ({"model": ANCHORS, "optimizer": "SGD", "lr0": 0.01, "cos_lr": True, "mosaic": 0.5}, [3]),
    ],
    ids=["nano", "anchors"],
)
def test_a_stopped_training_ends_as_if_it_had_never_stopped(plates, tmp_path, settings, stops):
    settings = {"epochs": 4, **settings}
    unbroken, reference = fit_with_stops(plates, tmp_path / "unbroken", [], **settings)
    resumed, checkpoint = fit_with_stops(plates, tmp_path / "resumed", stops, **settings)
    assert resumed == unbroken and list(unbroken) == [1, 2, 3, 4]
    for name in ("weights.safetensors", "network.json"):
        assert (checkpoint / name).read_bytes() == (reference / name).read_bytes()
    assert not (tmp_path / "resumed" / "checkpoints" / "resume").exists()  # nothing is left to resume

    finished = make_run(tmp_path / "resumed", plates, resume=True)
    assert trainer_of(**settings).fit(finished) == checkpoint
    assert finished.tracker.logged == []


def test_a_state_cut_short_is_ignored_for_the_one_before_it(plates, tmp_path, caplog):
    unbroken, reference = fit_with_stops(plates, tmp_path / "unbroken", [], epochs=3)
    run = make_run(tmp_path / "cut", plates)
    run.tracker.log = lambda metrics, step: (_ for _ in ()).throw(Stop) if step == 3 else None
    with pytest.raises(Stop):
        trainer_of(epochs=3).fit(run)
    states = sorted((run.checkpoints / "resume").iterdir())
    assert [p.name for p in states] == ["epoch-000001.safetensors", "epoch-000002.safetensors"]
    states[1].write_bytes(states[1].read_bytes()[:-1000])
    (run.checkpoints / "best").rename(run.checkpoints / "best.old")  # killed while it was being replaced
    resumed = make_run(tmp_path / "cut", plates, resume=True)
    checkpoint = trainer_of(epochs=3).fit(resumed)
    assert "epoch-000002.safetensors is damaged" in caplog.text
    assert resumed.tracker.logged == [(2, unbroken[2]), (3, unbroken[3])]
    assert (checkpoint / "weights.safetensors").read_bytes() == (reference / "weights.safetensors").read_bytes()


def test_the_training_is_the_librarys_own(plates, tmp_path):
    """Losses and scores of every epoch equal those of ultralytics' DetectionTrainer with the same settings."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    settings = {"epochs": 4, "nbs": 24, "close_mosaic": 2, "warmup_epochs": 1}
    ours, _ = fit_with_stops(plates, tmp_path / "ours", [], **settings)
    overrides = trainer_of(**settings).overrides(make_run(tmp_path / "bare", plates)) | {"model": "yolo11n.yaml"}
    theirs = []
    with ultralytics_setup.offline_training():
        bare = DetectionTrainer(overrides=overrides)
        bare.add_callback(
            "on_fit_epoch_end", lambda t: theirs.append({**t.label_loss_items(t.tloss, prefix="train"), **t.metrics})
        )
        bare.train()
    assert len(theirs) >= 4
    for row, expected in zip(ours.values(), theirs, strict=False):
        assert [row[k] for k in ("train/box_loss", "train/cls_loss", "val/map50", "val/cls_loss")] == [
            expected[k] for k in ("train/box_loss", "train/cls_loss", "metrics/mAP50(B)", "val/cls_loss")
        ]


def test_a_diverged_training_stops_with_a_sentence_and_keeps_the_last_good_state(plates, tmp_path, monkeypatch):
    from clarion.trainers.ultralytics_training import RecordedDetectionTrainer

    begin = RecordedDetectionTrainer.begin_epoch

    def poison(self):
        begin(self)
        if self.epoch == 2:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))

    monkeypatch.setattr(RecordedDetectionTrainer, "begin_epoch", poison)
    run = make_run(tmp_path, plates)
    with pytest.raises(ClarionError, match="diverged in epoch 3.*2 epochs is kept.*trainer.args.lr0"):
        trainer_of(epochs=3).fit(run)
    assert sorted(p.name for p in (run.checkpoints / "resume").iterdir())[-1] == "epoch-000002.safetensors"
    monkeypatch.undo()
    assert trainer_of(epochs=3).fit(make_run(tmp_path, plates, resume=True)).is_dir()


def test_an_image_that_becomes_unreadable_is_named_on_the_screen_only(tmp_path):
    data = DrawnPlates(tmp_path / "data", train=8, val=4)
    run = make_run(tmp_path / "run", data)
    contents = {path: path.read_bytes() for path in (data.root / "images" / "train").iterdir()}

    def spoil(metrics, step):  # most images are still in memory, where mosaics are made from
        for path in contents if step == 2 else ():
            path.write_bytes(b"")

    run.tracker.log = spoil
    with pytest.raises(DataError, match="train-augenpaß-00..png became unreadable.*resume=true") as raised:
        trainer_of(epochs=3, batch_size=4).fit(run)
    assert "augenpaß" not in raised.value.recorded
    for path, content in contents.items():
        path.write_bytes(content)
    resumed = make_run(tmp_path / "run", data, resume=True)
    trainer_of(epochs=3, batch_size=4).fit(resumed)
    assert [step for step, _ in resumed.tracker.logged] == [3]


def test_start_weights_from_a_checkpoint_of_ours(plates, fitted, tmp_path):
    checkpoint = fitted[1]
    one_class = DrawnPlates(tmp_path / "data", train=8, val=4)
    run = make_run(tmp_path / "run", one_class)
    from clarion.trainers import ultralytics_checkpoint as files

    fresh = files.build_network("yolo11n.yaml", None, nc=1)
    files.load_start_weights(fresh, str(checkpoint))
    trained, _ = files.load(checkpoint)
    torch.testing.assert_close(fresh.model[0].conv.weight, trained.model[0].conv.weight)
    assert trainer_of(model={**NANO, "weights": str(checkpoint)}).fit(run).is_dir()
    assert trainer_of(model={**NANO, "weights": str(checkpoint / "weights.safetensors")}).overrides(run)
    with pytest.raises(UsageError, match="fits no layer of yolov8m.yaml"):
        files.load_start_weights(files.build_network("yolov8m.yaml", None, nc=1), str(checkpoint))


def test_an_official_pickle_is_read_without_running_it_and_a_hostile_one_refused(tmp_path, fitted):
    from clarion.trainers import ultralytics_checkpoint as files

    model, _ = files.load(fitted[1])
    official = tmp_path / "yolo11n.pt"
    torch.save({"model": model.half(), "ema": None, "train_args": {}}, official)
    fresh = files.build_network("yolo11n.yaml", None, nc=2)
    files.load_start_weights(fresh, str(official))
    torch.testing.assert_close(fresh.model[0].conv.weight, model.float().model[0].conv.weight)

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"model": Hostile()}, tmp_path / "evil.pt")
    with pytest.raises(UsageError, match="pickle that may run any code.*safetensors"):
        files.load_start_weights(fresh, str(tmp_path / "evil.pt"))
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="refused"):
        files.load_start_weights(fresh, str(tmp_path / "broken.pt"))
    assert not (tmp_path / "owned").exists()


def test_a_name_like_yolo11x_pt_says_what_to_do_and_asks_no_network(plates, tmp_path):
    with pytest.raises(UsageError, match="does not exist and nothing is downloaded.*model.weights=null"):
        trainer_of(model={**NANO, "weights": "yolo11x.pt"}).fit(make_run(tmp_path, plates))
    with pytest.raises(UsageError, match="must name a structure such as yolo11n.yaml"):
        trainer_of(model={**NANO, "network": "yolo11x.pt"}).fit(make_run(tmp_path, plates))
    with pytest.raises(UsageError, match="neither a network that ultralytics knows"):
        trainer_of(model={**NANO, "network": "yolo99n.yaml"}).fit(make_run(tmp_path, plates))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"imgsize": 64}, "refused by ultralytics.*'imgsize' is not a valid YOLO argument.*imgsz"),
        ({"mosaic": "much"}, "refused by ultralytics.*mosaic"),
        ({"mosaic": 7.0}, "refused by ultralytics.*mosaic"),
        ({"lr0": 0.001}, "lr0 would be ignored.*optimizer=SGD"),
        ({"optimizer": "auto", "momentum": 0.9}, "momentum would be ignored"),
        ({"batch": 4}, "trainer.batch_size"),
        ({"epochs": 4}, "trainer.epochs"),
        ({"resume": True}, "resume"),
        ({"half": True}, "trainer.precision"),
    ],
)
def test_settings_that_would_be_refused_or_ignored_are_named(plates, tmp_path, args, message, capfd):
    with pytest.raises(UsageError, match=message):
        UltralyticsTrainer(NANO, 1, 8, "cpu", "32", {**FAST, **args}).fit(make_run(tmp_path, plates))
    assert capfd.readouterr().out == ""


def test_arguments_reach_the_library_verbatim(plates, tmp_path):
    run = make_run(tmp_path, plates)
    overrides = trainer_of(lr0=0.003, optimizer="SGD", mosaic=0.5, plots=True, workers=1).overrides(run)
    assert overrides["lr0"] == 0.003 and overrides["mosaic"] == 0.5 and overrides["plots"] and overrides["workers"] == 1
    assert Path(overrides["save_dir"]).is_absolute() and Path(overrides["save_dir"]).is_relative_to(run.work)


def test_device_and_precision_are_mapped_or_refused():
    assert map_device("cpu") == "cpu"
    assert map_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")
    for wrong in ("cuda:99", "gpu", "0,1", "cuda:x"):
        with pytest.raises(UsageError, match="trainer.device"):
            map_device(wrong)
    assert map_precision("auto", "cpu") is False and map_precision("auto", "cuda:0") == "fp16"
    assert map_precision(32, "cuda:0") is False and map_precision("bf16", "cuda:0") == "bf16"
    for wrong, device in (("16", "cpu"), ("bf16", "cpu"), ("8", "cuda:0")):
        with pytest.raises(UsageError, match="trainer.precision"):
            map_precision(wrong, device)


def test_checkpoints_from_others_cannot_run_code(fitted, tmp_path):
    from clarion.trainers import ultralytics_checkpoint as files

    def altered(**changes):
        record = json.loads((fitted[1] / "network.json").read_text(encoding="utf-8"))
        for key, value in changes.items():
            target = record["structure"] if key in ("activation", "surprise") else record
            target[key] = value
        (tmp_path / "network.json").write_text(json.dumps(record), encoding="utf-8")
        (tmp_path / "weights.safetensors").write_bytes((fitted[1] / "weights.safetensors").read_bytes())
        return tmp_path

    assert files.load(altered())[1]["nc"] == 2
    for changes, message in (
        ({"activation": "__import__('os').getcwd()"}, "not safe to load"),
        ({"surprise": 1}, "not of the form"),
        ({"network_class": "os.path.join"}, "not part of Clarion"),
        ({"nc": 3}, "not of the form"),
        ({"format": "other/1"}, "not of the form"),
    ):
        with pytest.raises(UsageError, match=message):
            files.load(altered(**changes))
    altered()
    (tmp_path / "weights.safetensors").write_bytes(b"short")
    with pytest.raises(UsageError, match="cannot be read"):
        files.load(tmp_path)
    with pytest.raises(UsageError, match="is not a detector checkpoint"):
        files.load(tmp_path / "nothing")


def test_a_fresh_import_asks_no_host_and_writes_nothing_to_stdout_or_home(tmp_path):
    """In a new process, with ultralytics' own switches unset and every look-up of a host name an error."""
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit(f'asked for {a[0]}')\n"
        "socket.getaddrinfo = refuse\n"
        "from clarion.trainers import ultralytics_setup\n"
        "ultralytics_setup.prepare()\n"
        "from ultralytics import utils\n"
        "from ultralytics.utils.checks import check_font\n"
        "from ultralytics.utils.events import events\n"
        "assert check_font('Arial.ttf').exists() and not events.enabled and not utils.SETTINGS['sync']\n"
        "assert not any(utils.SETTINGS[k] for k in ultralytics_setup.INTEGRATIONS)\n"
        "utils.LOGGER.info('chatter')\n"
    )
    source = str(Path(ultralytics_setup.__file__).parents[2])
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO", "ULTRA", "PYTEST"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
                          env={**clean, "HOME": str(tmp_path), "PYTHONPATH": source})  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "chatter" in done.stderr
    assert not (tmp_path / ".config" / "Ultralytics").exists()


def test_training_chatter_goes_to_stderr_and_the_library_is_left_as_found(plates, tmp_path, capfd):
    from ultralytics.data import dataset
    from ultralytics.engine import trainer as engine

    def state():
        return engine.check_amp, dataset.load_dataset_cache_file, logging.getLogger("ultralytics").level, sys.stdout

    before = state()
    trainer_of(epochs=1).fit(make_run(tmp_path, plates))
    out, err = capfd.readouterr()
    assert out == ""
    assert "Epoch" in err
    assert state() == before


def test_a_pickled_label_cache_in_the_data_folder_is_not_opened(tmp_path):
    data = DrawnPlates(tmp_path / "data", train=8, val=4)

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    for split in ("train", "val"):
        np.save(tmp_path / "trap.npy", np.array(Hostile(), dtype=object), allow_pickle=True)
        (tmp_path / "trap.npy").rename(data.root / "labels" / f"{split}.cache")
    trainer_of(epochs=1).fit(make_run(tmp_path / "run", data))
    assert not (tmp_path / "owned").exists()
