"""BscanStages: the phantom with its stage groups, and folders of a user's."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clarion.config import compose_config
from clarion.errors import DataError, UsageError
from clarion.oct.image_statistics import SIZE, image_statistics
from clarion.oct.stages import CLASS_NAMES, CLASS_OF_STAGE, BscanStages

EYES = {"train": 100, "val": 20, "test": 40}  # the default demo, so that all tests share one phantom


@pytest.fixture(scope="module")
def phantom() -> BscanStages:
    data = BscanStages("bscan_stages", eyes=EYES, bscans_per_eye=3)
    data.prepare()
    return data


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(seed).integers(0, 255, (48, 64), dtype=np.uint8)
    Image.fromarray(grey).save(path)


def class_folder(root: Path, patients: int = 12, each: int = 2, table: bool = True) -> Path:
    """<root>/<class>/<patient>_<k>.png with samples.csv; patient p is of class p % 3."""
    rows = []
    for patient in range(patients):
        for k in range(each):
            name = f"{CLASS_NAMES[patient % 3]}/kim{patient:02d}_{k}"
            write_image(root / f"{name}.png", seed=100 * patient + k)
            rows.append({"sample_id": name, "patient_id": f"kim{patient:02d}", "device": "A" if patient % 2 else "B"})
    if table:
        with open(root / "samples.csv", "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return root


def test_the_phantom_has_the_asked_eyes_and_the_classes_of_their_stages(phantom):
    assert {split: len(ids) for split, ids in phantom.splits.items()} == {s: 3 * n for s, n in EYES.items()}
    truth = phantom.truth("test")
    assert truth["patient_id"].nunique() == EYES["test"]
    assert [CLASS_OF_STAGE[int(stage)] for stage in truth["stage"]] == truth["label"].tolist()
    assert phantom.check().ok
    samples = list(phantom.samples("test"))
    assert [s.sample_id for s in samples] == truth["sample_id"].tolist() == phantom.splits["test"]
    assert all(s.inputs["image"].is_file() for s in samples)


def test_runs_of_two_seeds_meet_the_same_eyes(phantom):
    other = BscanStages("bscan_stages", eyes=EYES, bscans_per_eye=3, seed=7)
    assert other.splits == phantom.splits
    assert other.fingerprint() == phantom.fingerprint()


def test_card_counts_samples_patients_and_classes(phantom):
    card = phantom.card()
    assert card["kind"] == "phantom" and card["recipe"]["eyes"] == EYES
    for split, counts in card["splits"].items():
        assert counts["patients"] == EYES[split]
        assert sum(counts["classes"].values()) == counts["samples"] == 3 * EYES[split]
        assert sum(counts["subgroups"]["stage"].values()) == counts["samples"]


def test_table_has_finite_features_that_differ_between_images(phantom):
    features, labels, ids = phantom.table("val")
    assert features.shape == (60, 53) and np.isfinite(features).all()
    assert ids == phantom.splits["val"] and labels.tolist() == phantom.truth("val")["label"].tolist()
    assert len(np.unique(features, axis=0)) == len(features)


def test_image_statistics_of_a_known_image():
    grey = np.zeros(SIZE, np.uint8)
    grey[64:] = 255  # lower half white
    values = image_statistics(grey)
    assert values[0] == pytest.approx(0.5) and values[1] == pytest.approx(0.5)
    assert values[9] == values[24] == pytest.approx(0.5)  # first and last histogram bin
    assert values[25] == pytest.approx(1 / 127) and values[26] == 0  # one step among 127 rows, none among columns
    assert values[29:45].tolist() == [0.0] * 8 + [1.0] * 8


def test_loader_augments_by_seed_epoch_and_image_only(phantom):
    def epoch_of(epoch: int, batch_size: int, seed: int = 3) -> dict[int, np.ndarray]:
        module = phantom.datamodule(batch_size, image_size=32, seed=seed)
        module.setup()
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)
        order = [index % len(loader.dataset) for index in loader.sampler]
        images = np.concatenate([batch["image"].numpy() for batch in loader])
        assert images.shape == (300, 1, 32, 32) and images.dtype == np.uint8
        return dict(zip(order, images, strict=True))

    first, again, next_epoch = epoch_of(1, 8), epoch_of(1, 16), epoch_of(2, 8)
    assert list(first) == list(again) != list(next_epoch)
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not all(np.array_equal(first[k], next_epoch[k]) for k in first)


def test_a_folder_of_classes_is_split_by_patient_under_pseudonyms(tmp_path):
    data = BscanStages("mine", root=str(class_folder(tmp_path)))
    assert data.kind == "private" and data.check().ok
    patients = {split: set(data.truth(split)["patient_id"]) for split in data.splits}
    assert set(patients) == {"train", "val", "test"}
    assert sum(len(found) for found in patients.values()) == len(set.union(*patients.values())) == 12
    everything = str(data.card()) + data.truth("train").to_csv()
    assert "kim" not in everything
    assert set(data.truth("test")["device"]) <= {"A", "B"}


def test_folds_cover_every_patient_once(tmp_path):
    root = str(class_folder(tmp_path))
    tests = [set(BscanStages("mine", root=root, fold=k, folds=4).truth("test")["patient_id"]) for k in range(4)]
    assert sum(len(t) for t in tests) == len(set.union(*tests)) == 12
    with pytest.raises(UsageError, match=r"data.fold=4 must lie in 0..3"):
        BscanStages("mine", root=root, fold=4, folds=4)


def test_a_leaking_split_is_refused_with_the_patient(tmp_path):
    class_folder(tmp_path)
    for split in ("train", "test"):
        for name in CLASS_NAMES:
            shutil.copytree(tmp_path / name, tmp_path / split / name)
    for name in CLASS_NAMES:
        shutil.rmtree(tmp_path / name)
    rows = ["sample_id,patient_id"]
    for path in sorted(tmp_path.glob("*/*/*.png")):
        rows.append(f"{path.relative_to(tmp_path)},{path.name[:5]}")
    (tmp_path / "samples.csv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"same patient is in two splits.*kim\d\d in"):
        BscanStages("mine", root=str(tmp_path)).check()


def test_folders_that_cannot_be_used_say_why(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        BscanStages("mine", root=str(tmp_path / "none")).prepare()
    with pytest.raises(DataError, match="holds no image.*Expected is"):
        BscanStages("mine", root=str(tmp_path)).prepare()
    unsplit = class_folder(tmp_path / "unsplit", table=False)
    with pytest.raises(UsageError, match="which patient.*samples.csv"):
        BscanStages("mine", root=str(unsplit)).prepare()
    assert BscanStages("mine", root=str(unsplit), patient_regex=r"(kim\d+)_").check().ok
    write_image(unsplit / "other" / "x.png", 1)
    with pytest.raises(DataError, match="no class folder.*other/x.png"):
        BscanStages("mine", root=str(unsplit), patient_regex=r"(kim\d+)_").prepare()


def test_an_unreadable_image_and_an_absent_class_stop_the_run(tmp_path):
    root = class_folder(tmp_path)
    (root / "early" / "kim01_0.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="cannot be used.*kim01_0"):
        BscanStages("mine", root=str(root)).check()
    (root / "early" / "kim01_0.png").unlink()
    shutil.rmtree(root / "advanced")
    with pytest.raises(DataError, match="without a single image in train.*advanced"):
        BscanStages("mine", root=str(root)).check()


def test_the_config_builds_it():
    config = compose_config(["model=swin_nano"])
    assert config.data.name == "bscan_stages" and config.data.task == config.model.task == "classification"
    assert sorted(config.data.class_names) == sorted(CLASS_NAMES)
