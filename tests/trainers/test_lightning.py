"""The lightning trainer: a real small fit, resume, checkpoints without pickle, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from clarion.config import compose_config
from clarion.errors import ClarionError, DataError, UsageError
from clarion.oct.stages import BscanStages
from clarion.trainers.base import Run, Trainer
from clarion.trainers.lightning import LightningTrainer
from clarion.trainers.lightning_classification import ClassificationModule, build_network, class_weights
from clarion.trainers.lightning_ddp import SharedData
from clarion.trainers.lightning_states import KeepStates, read_newest

EYES = {"train": 100, "val": 20, "test": 40}  # the default demo, so that all tests share one phantom


class Recorder:
    """A tracker that keeps what is logged."""

    def __init__(self):
        self.rows: list[tuple[int, dict]] = []

    def log(self, metrics, step):
        self.rows.append((step, dict(metrics)))


@pytest.fixture(scope="module")
def data() -> BscanStages:
    data = BscanStages("bscan_stages", eyes=EYES, bscans_per_eye=3)
    data.prepare()
    return data


@pytest.fixture(autouse=True)
def _one_thread():
    """Small networks gain nothing from threads, and several test runs may share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trainer_of(model: str, *overrides: str, **settings) -> LightningTrainer:
    config = compose_config([f"model={model}", *overrides])
    keep = {k: v for k, v in config.trainer.items() if k not in ("_target_", "task")}
    return LightningTrainer(model=config.model, **{**keep, "seed": 0, "device": "cpu", **settings})


def fit(trainer, data, directory: Path, resume: bool = False) -> tuple[Path, Recorder]:
    tracker = Recorder()
    return trainer.fit(Run(OmegaConf.create(), directory, data, tracker, resume)), tracker


def probabilities(trainer, checkpoint: Path, data, split: str = "test") -> np.ndarray:
    return np.array([p.values["probabilities"] for p in trainer.load(checkpoint)(data.samples(split))])


@pytest.fixture(scope="module")
def short_run(data, tmp_path_factory):
    """Three epochs of swin_nano, unbroken."""
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("short")
    trainer = trainer_of("swin_nano", epochs=3)
    checkpoint, tracker = fit(trainer, data, directory)
    return trainer, checkpoint, tracker, directory


def test_swin_nano_learns_stages_better_than_the_majority(data, tmp_path):
    trainer = trainer_of("swin_nano")
    checkpoint, tracker = fit(trainer, data, tmp_path)
    truth = data.truth("test")["label"].to_numpy()
    majority = np.bincount(data.truth("train")["label"]).argmax()
    accuracy = (probabilities(trainer, checkpoint, data).argmax(1) == truth).mean()
    assert accuracy > (truth == majority).mean() + 0.05
    losses = [row["train/loss"] for _, row in tracker.rows]
    assert losses[-1] < 0.9 * losses[0]


def test_predictions_come_one_a_sample_in_order_and_stream(data, short_run):
    trainer, checkpoint, _, _ = short_run
    predictor = trainer.load(checkpoint)
    taken = []

    def counted():
        for sample in data.samples("test"):
            taken.append(sample)
            yield sample

    stream = predictor(counted())
    first = next(stream)
    assert len(taken) == trainer.batch_size  # one batch is read, not the split
    rest = [first, *stream]
    assert [p.sample_id for p in rest] == data.splits["test"]
    assert np.allclose([sum(p.values["probabilities"]) for p in rest], 1)
    assert isinstance(trainer, Trainer)


def test_every_epoch_is_tracked_once(short_run):
    _, _, tracker, _ = short_run
    assert [step for step, _ in tracker.rows] == [0, 1, 2]
    assert {"train/loss", "train/lr", "val/loss", "val/accuracy", "val/balanced_accuracy"} <= set(tracker.rows[0][1])


def test_the_same_seed_gives_the_same_predictions_and_another_seed_others(data, short_run, tmp_path):
    trainer, checkpoint, _, _ = short_run
    expected = probabilities(trainer, checkpoint, data)
    again, _ = fit(trainer_of("swin_nano", epochs=3), data, tmp_path / "again")
    assert np.array_equal(probabilities(trainer, again, data), expected)
    other, _ = fit(trainer_of("swin_nano", epochs=1, seed=1), data, tmp_path / "other")
    assert not np.allclose(probabilities(trainer, other, data), expected)


def test_data_whose_inputs_a_network_makes_are_told_the_device(tmp_path):
    class Asked(Exception):
        """The data module was asked for."""

    class Data:
        def datamodule(self, batch_size, seed, device="nowhere", **options):
            raise Asked(device)

    class Others:
        def datamodule(self, batch_size, seed, **options):
            raise Asked(options.get("device"))

    for data, device in ((Data(), "cpu"), (Others(), None)):
        with pytest.raises(Asked) as asked:
            fit(trainer_of("swin_nano", epochs=1), data, tmp_path)
        assert asked.value.args == (device,)


@pytest.mark.parametrize("setting, words", [
    ("++model.look.page=3", "model.look.page is unknown; it has .*`pages`"),
    ("++model.look.operator=rolout", "model.look.operator=rolout is unknown; .*`rollout`"),
    ("++model.explain.page=3", "model.explain=.*: give true or false"),
])  # fmt: skip
def test_what_is_asked_for_after_training_is_checked_before(setting, words):
    with pytest.raises(UsageError, match=words):
        trainer_of("swin_nano", setting).check()
    trainer_of("swin_nano", "++model.look={pages: 0, patients: null}").check()


def test_processes_that_share_data_ask_it_for_the_rest():
    class Data(L.LightningDataModule):
        facts, warmed, whitening = {"classes": 3}, object(), None

    shared = SharedData(Data(), None)
    assert shared.warmed is Data.warmed and shared.whitening is None and shared.facts == Data.facts
    with pytest.raises(AttributeError):
        _ = shared.nothing


BRIEF = {"args": {"limit_train_batches": 3, "limit_val_batches": 1, "gradient_clip_val": 1.0}, "batch_size": 8}


class PowerCut(Exception):
    """The machine goes down."""


def fit_until(data, directory: Path, module_class, hook: str, when, **settings) -> None:
    """A fit that dies inside a hook of the module or of our own callback, the first time that when(...) says so."""
    original = getattr(module_class, hook)

    def dies(self, *args, **kwargs):
        if when(self, *args):
            raise PowerCut
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_class, hook, dies)
        with pytest.raises(PowerCut):
            fit(trainer_of("swin_nano", epochs=3, **settings), data, directory)


@pytest.fixture(scope="module")
def brief_run(data, tmp_path_factory):
    """Three short epochs of swin_nano, unbroken."""
    torch.set_num_threads(1)
    return fit(trainer_of("swin_nano", epochs=3, **BRIEF), data, tmp_path_factory.mktemp("brief"))


@pytest.mark.parametrize("moment", ["in epoch 3", "between best and state", "after the last epoch"])
def test_a_resumed_run_equals_the_unbroken_one(data, brief_run, tmp_path, moment):
    checkpoint, tracker = brief_run
    if moment == "in epoch 3":
        module, hook, when = ClassificationModule, "training_step", lambda m, batch, i: (m.current_epoch, i) == (2, 1)
        again = [2]
    elif moment == "between best and state":  # epoch 2's weights are kept already, its state is not
        module, hook, when = KeepStates, "on_train_epoch_end", lambda k, trainer, m: trainer.current_epoch == 1
        again = [1, 2]
    else:
        module, hook, when = LightningTrainer, "_export", lambda *_: True
        again = []
    fit_until(data, tmp_path, module, hook, when, **BRIEF)
    resumed, resumed_tracker = fit(trainer_of("swin_nano", epochs=3, **BRIEF), data, tmp_path, resume=True)
    assert resumed_tracker.rows == [row for row in tracker.rows if row[0] in again]
    for name in ("model.safetensors", "model.json"):
        assert (resumed / name).read_bytes() == (checkpoint / name).read_bytes()
    _, finished = fit(trainer_of("swin_nano", epochs=3, **BRIEF), data, tmp_path, resume=True)
    assert finished.rows == []


def test_a_state_cut_short_is_ignored_for_the_one_before_it(data, brief_run, tmp_path, caplog):
    checkpoint, tracker = brief_run
    third = lambda m, batch, i: (m.current_epoch, i) == (2, 1)  # noqa: E731
    fit_until(data, tmp_path, ClassificationModule, "training_step", third, **BRIEF)
    states = sorted((tmp_path / "checkpoints" / "resume").iterdir())
    assert [p.name for p in states] == ["epoch-000001.ckpt", "epoch-000002.ckpt"]
    torch.load(states[0], weights_only=True)  # nothing in it needs unpickling
    states[1].write_bytes(states[1].read_bytes()[:-1000])
    resumed, resumed_tracker = fit(trainer_of("swin_nano", epochs=3, **BRIEF), data, tmp_path, resume=True)
    assert "epoch-000002.ckpt is damaged" in caplog.text
    assert resumed_tracker.rows == tracker.rows[1:]
    assert (resumed / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_a_training_that_stopped_early_is_not_continued(data, tmp_path):
    """Killed after early stopping, before its checkpoint was written: the epochs that were saved stay saved."""
    early = "lightning.pytorch.callbacks.EarlyStopping"
    stop = {"_target_": early, "monitor": "val/loss", "min_delta": 9, "patience": 1}
    settings = {"args": BRIEF["args"] | {"callbacks": [stop]}}
    fit_until(data, tmp_path, LightningTrainer, "_export", lambda *_: True, **settings)
    resumed, tracker = fit(trainer_of("swin_nano", epochs=3, **settings), data, tmp_path, resume=True)
    assert tracker.rows == []
    assert json.loads((resumed / "model.json").read_text(encoding="utf-8"))["trained"]["epochs"] == 2


def test_a_fresh_process_gives_identical_probabilities(data, short_run, in_a_fresh_process):
    trainer, checkpoint, _, _ = short_run
    found = in_a_fresh_process("swin_nano", checkpoint, data.samples("val"))
    assert np.array_equal(found, probabilities(trainer, checkpoint, data, "val"))


def test_the_checkpoint_is_described_and_holds_no_pickle(short_run):
    _, checkpoint, _, directory = short_run
    assert sorted(p.name for p in checkpoint.iterdir()) == ["model.json", "model.safetensors"]
    description = json.loads((checkpoint / "model.json").read_text(encoding="utf-8"))
    assert description["facts"]["class_names"] == ["normal", "early", "advanced"]
    assert description["facts"]["image_size"] == [112, 112] and 0 < description["facts"]["std"] < 1
    assert description["model"]["network"] == "swin_tiny_patch4_window7_224"
    assert sorted(p.name for p in (directory / "checkpoints").iterdir()) == ["best", "training.json"]


@pytest.mark.parametrize(
    ("model", "parameters"),
    # timm's counts at 3 colours and 1,000 classes, less 997 rows of the head and two colours of the first layer
    [
        ("swin_tiny", 28_288_354 - 997 * 769 - 2 * 96 * 16),
        ("swin_small", 49_606_258 - 997 * 769 - 2 * 96 * 16),
        ("swin_base", 87_768_224 - 997 * 1025 - 2 * 128 * 16),
        ("resnet18", 11_689_512 - 997 * 513 - 2 * 64 * 49),
        ("resnet10t", 5_435_488 - 997 * 513 - 2 * 24 * 9),
        ("swin_nano", None),
    ],
)
def test_every_model_config_builds_its_network(model, parameters):
    config = compose_config([f"model={model}"])
    settings = OmegaConf.to_container(config.model, resolve=True)
    with torch.device("meta"):
        network = build_network(settings["network"], 3, settings["network_args"])
        size = settings["image_size"]
        assert network(torch.zeros(2, 1, size, size)).shape == (2, 3)
    count = sum(p.numel() for p in network.parameters())
    assert count == parameters if parameters else count < 500_000
    assert config.model.name == model and config.trainer.name == config.model.trainer == "lightning"


def test_start_weights_are_used_and_foreign_ones_refused(tmp_path):
    import timm

    facts = {
        "class_names": ["a", "b", "c"],
        "image_size": [112, 112],
        "mean": 0.2,
        "std": 0.2,
        "class_counts": [1, 1, 1],
    }
    model = {"network": "resnet10t", "lr": 1e-3, "weight_decay": 0.0}
    pretrained = timm.create_model("resnet10t", num_classes=1000, in_chans=3)
    save_file(pretrained.state_dict(), tmp_path / "r.safetensors")
    module = ClassificationModule(model, facts)
    module.load_start_weights(tmp_path / "r.safetensors")
    ours, theirs = module.network.state_dict(), pretrained.state_dict()
    assert torch.equal(ours["layer1.0.conv1.weight"], theirs["layer1.0.conv1.weight"])
    assert torch.allclose(ours["conv1.0.weight"], theirs["conv1.0.weight"].sum(1, keepdim=True), atol=1e-6)
    save_file({"other.weight": torch.zeros(3, 3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UsageError, match="does not fit resnet10t"):
        module.load_start_weights(tmp_path / "foreign.safetensors")
    with pytest.raises(UsageError, match="Clarion downloads nothing.*huggingface.co/timm"):
        module.load_start_weights(Path("timm/resnet10t.c3_in1k"))
    (tmp_path / "r.pth").write_bytes(b"x")
    with pytest.raises(UsageError, match="only .safetensors"):
        module.load_start_weights(tmp_path / "r.pth")


def test_class_weights_follow_the_counts():
    facts = {"class_names": ["a", "b"], "class_counts": [30, 10]}
    assert class_weights("balanced", facts).tolist() == pytest.approx([40 / 60, 2.0])
    assert class_weights(None, facts) is None and class_weights([1, 3], facts).tolist() == [1, 3]
    with pytest.raises(UsageError, match="list of 2 numbers"):
        class_weights([1, 2, 3], facts)


def test_the_four_settings_map_to_lightning():
    mapped = trainer_of("swin_nano", epochs=7, precision="bf16").library_settings()
    assert mapped == {"max_epochs": 7, "precision": "bf16-mixed", "accelerator": "cpu", "devices": 1,
                      "use_distributed_sampler": False}  # the module deals the samples out
    with pytest.raises(UsageError, match="trainer.precision=8 is unknown"):
        trainer_of("swin_nano", precision="8").library_settings()
    with pytest.raises(UsageError, match="trainer.device=gpu is unknown"):
        trainer_of("swin_nano", device="gpu").library_settings()


def test_wrong_settings_are_named(data, tmp_path):
    with pytest.raises(UsageError, match="trainer.args.max_epochs.*trainer.epochs"):
        fit(trainer_of("swin_nano", args={"max_epochs": 3}), data, tmp_path)
    with pytest.raises(UsageError, match=r"gradient_clip is no argument.*gradient_clip_val"):
        fit(trainer_of("swin_nano", args={"gradient_clip": 3}), data, tmp_path)
    with pytest.raises(UsageError, match="no network of timm.*swin_tiny_patch4_window7_224"):
        fit(trainer_of("swin_nano", "model.network=swin_tiny_patch4_window7_225"), data, tmp_path)
    with pytest.raises(UsageError, match="hf-hub:x/y is no network"):
        fit(trainer_of("swin_nano", "model.network='hf-hub:x/y'"), data, tmp_path)
    with pytest.raises(UsageError, match="not an admitted class"):
        fit(trainer_of("swin_nano", "model.module=os.system"), data, tmp_path)


def test_checkpoints_of_another_kind_are_refused(short_run, tmp_path):
    trainer, checkpoint, _, _ = short_run
    with pytest.raises(UsageError, match="is no checkpoint of the lightning trainer"):
        trainer.load(tmp_path)
    description = json.loads((checkpoint / "model.json").read_text(encoding="utf-8"))
    for change, message in [({"module": "os.system"}, "holds a os.system"), ({"format": "x/9"}, "has format 'x/9'")]:
        (tmp_path / "model.json").write_text(json.dumps(description | change), encoding="utf-8")
        (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
        with pytest.raises(UsageError, match=message):
            trainer.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(description), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(UsageError, match="cannot be read as a checkpoint"):
        trainer.load(tmp_path)


def test_a_diverged_training_stops_with_a_sentence_and_keeps_the_last_good_state(data, tmp_path, monkeypatch):
    trainer, directory = trainer_of("swin_nano", epochs=4), tmp_path / "run"
    step = ClassificationModule.training_step

    def diverges(self, batch, number):
        return step(self, batch, number) * (float("nan") if self.current_epoch == 2 else 1)

    monkeypatch.setattr(ClassificationModule, "training_step", diverges)
    with pytest.raises(ClarionError, match="diverged in epoch 3 .*2 epoch.s. is kept.*resume=true.*model.lr"):
        fit(trainer, data, directory)
    monkeypatch.undo()
    (state, _) = read_newest(directory / "checkpoints" / "resume")
    weights = torch.load(state, map_location="cpu", weights_only=True)["state_dict"]
    assert all(bool(t.isfinite().all()) for t in weights.values() if t.is_floating_point())


def test_a_picture_that_turns_unreadable_while_training_is_a_sentence(data, tmp_path, monkeypatch):
    """Large sets are read anew each epoch; the file's name (a patient's, perhaps) stays off the record."""
    from clarion.data import grey
    from clarion.oct import stage_loader

    monkeypatch.setattr(stage_loader, "MEMORY_LIMIT", 0)
    calls, read = [], grey.read_grey

    def vanishes(path, size=None):
        calls.append(path)
        return read(path if len(calls) < 900 else tmp_path / "KIM^MINSU.png", size)

    monkeypatch.setattr(stage_loader, "read_grey", vanishes)
    with pytest.raises(DataError, match="KIM.MINSU.png does not exist") as refused:
        fit(trainer_of("swin_nano", epochs=6), data, tmp_path / "run")
    assert len(calls) >= 900 and "KIM" not in refused.value.recorded
    assert read_newest(tmp_path / "run" / "checkpoints" / "resume") is not None, "the epochs before are lost"
