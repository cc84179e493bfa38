from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
import yaml
from detection_folders import picture, save_coco, write_coco, write_folder

from clarion.data.detection import DetectionData
from clarion.data.pseudonym import pseudonyms
from clarion.errors import DataError, UsageError


def files_below(root: Path) -> dict[str, tuple]:
    return {p.relative_to(root).as_posix(): (p.stat().st_mtime_ns, p.stat().st_size) for p in root.rglob("*")}


def patients(data: DetectionData) -> dict[str, set[str]]:
    return {split: set(data.truth(split)["patient_id"]) for split in data.splits}


def test_contract_on_a_folder_with_splits(folder):
    data = DetectionData("scans", root=str(folder), pseudonyms=False)
    data.prepare()
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 12, "val": 4, "test": 6}
    samples = list(data.samples("test"))
    truth = data.truth("test")
    assert [s.sample_id for s in samples] == list(truth["sample_id"]) == data.splits["test"]
    assert [s.patient_id for s in samples] == list(truth["patient_id"])
    assert all(s.inputs["image"].is_file() for s in samples)
    row = truth.set_index("sample_id").loc["test0_1"]
    assert row["boxes"] == [[24.0, 21.0, 40.0, 27.0]] and row["labels"] == [0]
    assert (row["width"], row["height"], row["stage"]) == (64, 48, "0")
    assert data.class_names == ["erm"] and data.subgroups == ["stage"]
    card = data.card()
    assert card["splits"]["train"] == {
        "samples": 12,
        "patients": 6,
        "samples_with_box": 6,
        "boxes": {"erm": 6},
        "subgroups": {"stage": {"0": 6, "1": 6}},
    }
    json.dumps(card, allow_nan=False)


def test_private_data_shows_pseudonyms_and_the_way_back_lies_in_the_cache(folder, own_cache):
    data = DetectionData("scans", root=str(folder))
    shown = json.dumps(data.card()) + data.truth("train").to_json() + str([*data.samples("train")][0].sample_id)
    assert "eye" not in shown and "train0_" not in shown and str(folder) not in shown
    assert data.splits["train"][0].startswith("S-")
    tables = list((own_cache / "pseudonyms").glob("*.csv"))
    back = pd.read_csv(tables[0]).set_index("pseudonym")["original"]
    assert back[data.truth("val")["patient_id"][0]].startswith("val-eye")
    assert tables[0].stat().st_mode & 0o077 == 0 and (own_cache / "pseudonym.key").stat().st_mode & 0o077 == 0


def test_pseudonyms_depend_on_the_key_and_are_stable(own_cache):
    first = pseudonyms(["김철수", "1"], "P")
    assert pseudonyms([unicodedata.normalize("NFD", "김철수")], "P").popitem()[1] == first["김철수"]
    assert pseudonyms(["1"], "S")["1"][2:] != first["1"][2:]
    (own_cache / "pseudonym.key").unlink()
    assert pseudonyms(["1"], "P")["1"] != first["1"]
    (own_cache / "pseudonym.key").write_text("short")
    with pytest.raises(DataError, match="damaged"):
        pseudonyms(["1"], "P")


def test_identifying_columns_are_no_subgroups(folder):
    table = folder / "samples.csv"
    lines = table.read_text().splitlines()
    lines = [lines[0] + ",patient_name,이름,device"] + [line + ",Kim,김,A" for line in lines[1:]]
    table.write_text("\n".join(lines), encoding="utf-8")
    assert DetectionData("scans", root=str(folder)).subgroups == ["stage", "device"]
    assert DetectionData("scans", root=str(folder), subgroups=["device"]).subgroups == ["device"]


def test_flat_folder_is_split_by_patient_deterministically(tmp_path):
    root = write_folder(tmp_path / "a", {"train": 20})
    for part in ("images", "labels"):
        for path in (root / part / "train").iterdir():
            path.rename(root / part / path.name)
        (root / part / "train").rmdir()
    data = DetectionData("scans", root=str(root))
    found = patients(data)
    assert {k: len(v) for k, v in found.items()} == {"train": 14, "val": 2, "test": 4}
    assert not (found["train"] & found["test"] or found["train"] & found["val"] or found["val"] & found["test"])
    assert DetectionData("scans", root=str(root), seed=5).splits == data.splits
    assert DetectionData("scans", root=str(root), split_seed=5).splits != data.splits
    assert DetectionData("scans", root=str(root), split_seed=None, seed=5).splits != data.splits
    by_stage = DetectionData("scans", root=str(root), stratify="stage", subgroups=["stage"])
    assert by_stage.truth("test")["stage"].value_counts().to_dict() == {"0": 4, "1": 4}
    regex = DetectionData("scans", root=str(root), patient_regex=r"(train\d+)_")
    (root / "samples.csv").unlink()
    assert {k: len(v) for k, v in patients(regex).items()} == {"train": 14, "val": 2, "test": 4}


def test_without_patients_a_warning_says_what_that_costs(folder):
    (folder / "samples.csv").unlink()
    report = DetectionData("scans", root=str(folder)).check()
    assert [w.code for w in report.warnings] == ["patients_unknown"]
    bad = DetectionData("scans", root=str(folder), patient_regex="eye(")
    with pytest.raises(UsageError, match="not a regular expression"):
        bad.prepare()
    with pytest.raises(DataError, match="patient_regex does not match"):
        DetectionData("scans", root=str(folder), patient_regex=r"train(\d)").check()


def test_missing_val_and_test_are_carved_from_train_by_patient(tmp_path):
    root = write_folder(tmp_path / "a", {"train": 10, "test": 2})
    found = patients(DetectionData("scans", root=str(root)))
    assert {k: len(v) for k, v in found.items()} == {"train": 9, "val": 1, "test": 2}
    root = write_folder(tmp_path / "b", {"train": 10, "val": 2})
    found = patients(DetectionData("scans", root=str(root)))
    assert {k: len(v) for k, v in found.items()} == {"train": 8, "val": 2, "test": 2}


def test_half_is_a_subset_of_full_with_the_same_rest(folder):
    full, half, third = (DetectionData("s", root=str(folder), train_fraction=f) for f in (1.0, 0.5, 1 / 3))
    assert set(third.splits["train"]) < set(half.splits["train"]) < set(full.splits["train"])
    assert len(patients(half)["train"]) == 3
    assert half.splits["test"] == full.splits["test"] and half.splits["val"] == full.splits["val"]
    assert half.split_hash() != full.split_hash()


def test_folds_cover_every_image_once_and_partition_patients(folder):
    runs = [DetectionData("s", root=str(folder), fold=k, folds=4) for k in range(4)]
    tested = [i for run in runs for i in run.splits["test"]]
    assert len(tested) == len(set(tested)) == 22
    for run in runs:
        found = patients(run)
        assert set(found) == {"train", "val", "test"}
        assert not (found["train"] & found["test"] or found["val"] & found["test"] or found["train"] & found["val"])
    with pytest.raises(UsageError, match="data.fold=4"):
        DetectionData("s", root=str(folder), fold=4, folds=4)


def test_fingerprint_follows_bytes_and_names_not_order_or_place(folder, tmp_path):
    first = DetectionData("s", root=str(folder)).fingerprint()
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    table = moved / "samples.csv"
    assert DetectionData("s", root=str(moved)).fingerprint() == first
    from clarion.data.fingerprint import fingerprint_files

    paths = sorted(folder.rglob("*.png"))
    assert fingerprint_files(folder, paths) == fingerprint_files(folder, paths[::-1])
    for path in (moved / "images/train/train0_0.png", moved / "labels/train/train0_1.txt", table):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert DetectionData("s", root=str(moved)).fingerprint() != first
        path.write_bytes(content)
        assert DetectionData("s", root=str(moved)).fingerprint() == first


def as_user_folder(tree: Path, target: Path) -> Path:
    """A copy of a tree of links, with files in their place and paths relative."""
    shutil.copytree(tree, target)
    config = yaml.safe_load((target / "data.yaml").read_text(encoding="utf-8"))
    (target / "data.yaml").write_text(yaml.safe_dump(config | {"path": "."}, allow_unicode=True), encoding="utf-8")
    return target


def test_yolo_tree_is_outside_the_root_and_holds_the_same_truth(folder, tmp_path):
    before = files_below(folder)
    data = DetectionData("scans", root=str(folder))
    config = yaml.safe_load(data.yolo_yaml().read_text(encoding="utf-8"))
    tree = Path(config["path"])
    assert not tree.is_relative_to(folder) and config["names"] == {0: "erm"}
    again = DetectionData("again", root=str(as_user_folder(tree, tmp_path / "copy")), kind="public")
    assert again.splits == data.splits
    for split in data.splits:
        a, b = data.truth(split), again.truth(split)
        assert a["labels"].tolist() == b["labels"].tolist()
        assert a["boxes"].tolist() == b["boxes"].tolist()
    assert files_below(folder) == before


def test_ultralytics_reads_the_tree_and_leaves_no_cache_in_the_root(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "1")
    broken = folder / "images" / "train" / "train0_1.jpg"
    (folder / "images" / "train" / "train0_1.png").unlink()
    picture(55).save(broken, "JPEG")
    broken.write_bytes(broken.read_bytes() + b"padding")  # ultralytics saves such a file anew
    before = files_below(folder)
    data = DetectionData("scans", root=str(folder))
    path = data.yolo_yaml()
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    config = check_det_dataset(str(path))
    dataset = YOLODataset(img_path=config["train"], data=config, task="detect", augment=False, imgsz=64)
    assert len(dataset) == 12 and sum(len(label["cls"]) for label in dataset.labels) == 6
    assert files_below(folder) == before
    assert list(path.parent.rglob("*.cache"))


def test_korean_and_spaces_in_names_in_both_unicode_forms(tmp_path):
    root = tmp_path / "눈 자료"
    for split in ("train", "val", "test"):
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True)
    rows = ["sample_id,patient_id"]
    for k, split in enumerate(["train", "train", "val", "test"]):
        name = f"환자 {k} 좌안"
        picture(k).save(root / "images" / split / f"{unicodedata.normalize('NFD', name)}.PNG")
        (root / "labels" / split / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        rows.append(f"{name},환자 {k}")
    (root / "samples.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    data = DetectionData("scans", root=str(root), class_names=["망막앞막"])
    assert data.check().warnings == []
    assert data.truth("test")["boxes"][0] == [[16.0, 12.0, 48.0, 36.0]]
    assert yaml.safe_load(data.yolo_yaml().read_text(encoding="utf-8"))["names"] == {0: "망막앞막"}
    (root / "samples.csv").write_text("\n".join(rows), encoding="cp949")
    with pytest.raises(DataError, match="not UTF-8"):
        DetectionData("scans", root=str(root), class_names=["망막앞막"]).prepare()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: ../other/images\nval: images/val\nnames: [erm]\n", "outside data.root"),
        ("path: /etc\ntrain: images/train\nnames: [erm]\n", "outside data.root"),
        ("train: images/train\nval: images/nowhere\nnames: [erm]\n", "does not exist below"),
        ("train: images/train\nval: images/train\nnames: [erm]\n", "into both train and val"),
        ("train: list.txt\nnames: [erm]\n", "outside data.root"),
        ("train: images/train\nnames: {0: erm, 2: cyst}\n", "without gaps"),
        ("train: [1, 2]\nnames: [erm]\n", "must be a folder"),
        ("train: !!python/object/apply:os.system ['true']\n", "not valid UTF-8 YAML"),
    ],
)
def test_hostile_or_wrong_data_yaml(folder, text, message):
    (folder / "data.yaml").write_text(text)
    (folder / "list.txt").write_text("images/train/train0_0.png\n../../secret.png\n")
    with pytest.raises(DataError, match=message):
        DetectionData("scans", root=str(folder)).prepare()


def test_data_yaml_with_lists_and_names(folder):
    (folder / "images" / "val").rename(folder / "images" / "second")
    (folder / "labels" / "val").rename(folder / "labels" / "second")
    lines = [f"images/train/train{k}_{s}.png" for k in range(6) for s in (0, 1)]
    (folder / "train.txt").write_text("\n".join(lines))
    text = "train: train.txt\nval: [images/second]\ntest: images/test\nnames: {0: membrane}\n"
    (folder / "data.yaml").write_text(text)
    (folder / "classes.txt").unlink()
    data = DetectionData("scans", root=str(folder))
    assert data.class_names == ["membrane"]
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 12, "val": 4, "test": 6}


def test_split_column_of_the_table(tmp_path):
    root = write_folder(tmp_path / "a", {"train": 6})
    for part in ("images", "labels"):
        (root / part / "train").rename(root / part / "all")
    lines = (root / "samples.csv").read_text().splitlines()
    names = ["train", "train", "Valid", "val", "test", "test"]
    rows = [lines[0] + ",split"] + [f"{line},{names[k // 2]}" for k, line in enumerate(lines[1:])]
    (root / "samples.csv").write_text("\n".join(rows))
    data = DetectionData("s", root=str(root))
    assert {k: len(v) for k, v in patients(data).items()} == {"train": 2, "val": 2, "test": 2}
    (root / "samples.csv").write_text("\n".join(rows).replace(",Valid", ",holdout"))
    with pytest.raises(DataError, match="'holdout' is unknown"):
        DetectionData("s", root=str(root)).prepare()
    (root / "samples.csv").write_text("\n".join(rows).replace(",Valid", ","))
    with pytest.raises(DataError, match="have no split"):
        DetectionData("s", root=str(root)).prepare()


def test_wrong_roots_say_what_is_expected(tmp_path, folder):
    with pytest.raises(UsageError, match="data.root=/path"):
        DetectionData("scans").prepare()
    with pytest.raises(UsageError, match="does not exist. Expected"):
        DetectionData("scans", root=str(tmp_path / "none")).prepare()
    with pytest.raises(UsageError, match="is a file"):
        DetectionData("scans", root=str(folder / "classes.txt")).prepare()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="(?s)no images were found.*YOLO"):
        DetectionData("scans", root=str(tmp_path / "empty")).prepare()
    (folder / "classes.txt").unlink()
    with pytest.raises(UsageError, match="data.class_names"):
        DetectionData("scans", root=str(folder)).prepare()
    assert DetectionData("scans", root=str(folder), class_names=["erm"]).class_names == ["erm"]
    with pytest.raises(UsageError, match="no split 'dev'"):
        list(DetectionData("scans", root=str(folder), class_names=["erm"]).samples("dev"))


def test_folder_by_split_first_and_stems_repeated_across_splits(tmp_path):
    for k, split in enumerate(("train", "valid", "test")):
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "labels").mkdir()
        picture(k).save(tmp_path / split / "images" / "001.png")
        (tmp_path / split / "labels" / "001.txt").write_text("0 .5 .5 .5 .5\n")
    data = DetectionData("s", root=str(tmp_path), class_names=["erm"], pseudonyms=False)
    assert data.splits == {
        "train": ["train__images__001.png"],
        "val": ["valid__images__001.png"],
        "test": ["test__images__001.png"],
    }
    assert data.truth("val")["labels"][0] == [0]


def test_tables_that_link_out_or_are_no_tables(folder, tmp_path):
    (tmp_path / "classes.txt").write_text("secret\n")
    (folder / "classes.txt").unlink()
    (folder / "classes.txt").symlink_to(tmp_path / "classes.txt")
    with pytest.raises(DataError, match="link out of data.root"):
        DetectionData("s", root=str(folder)).prepare()
    (folder / "classes.txt").unlink()
    for text, message in [
        ("", "at least one row|and a row"),
        ("image,eye\na,b\n", "needs the columns sample_id"),
        ("sample_id,patient_id\ntrain0_0,\n", "has no patient_id"),
        ("sample_id,patient_id\ntrain0_0,a\ntrain0_0.png,b\n", "two patient ids"),
        ('sample_id,patient_id\n"' + "x" * 200_000 + '",a\n', "not a CSV table"),
    ]:
        (folder / "samples.csv").write_text(text)
        with pytest.raises(DataError, match=message) as caught:
            DetectionData("s", root=str(folder), class_names=["erm"]).prepare()
        assert "train0_0" not in (caught.value.recorded or "")


# ------------------------------------------------------------------------------------------------------- COCO


@pytest.fixture
def coco(tmp_path) -> Path:
    for k, split in enumerate(("train", "val", "test")):
        write_coco(tmp_path / "coco", split, start=10 * k)
    return tmp_path / "coco"


def test_yolo_and_coco_give_the_same_truth(coco, tmp_path):
    data = DetectionData("c", root=str(coco), pseudonyms=False)
    assert data.class_names == ["erm"] and data.card()["format"] == "coco"
    again = DetectionData("y", root=str(as_user_folder(data.yolo_yaml().parent, tmp_path / "yolo")), kind="public")
    for split in ("train", "val", "test"):
        a, b = data.truth(split), again.truth(split)
        columns = ["sample_id", "labels", "width", "height"]
        assert a[columns].values.tolist() == b[columns].values.tolist()
        assert a["boxes"].tolist() == b["boxes"].tolist() == [[[8.0, 6.0, 24.0, 18.0]]] * 3


def test_coco_with_a_missing_image_and_a_wrong_size(coco):
    (coco / "images" / "train" / "train0.png").unlink()
    picture(500, 80, 48).save(coco / "images" / "train" / "train1.png")
    with pytest.raises(DataError, match="train0.png is missing") as caught:
        DetectionData("c", root=str(coco)).check()
    assert "train1.png is 80x48, its labels say 64x48" in str(caught.value)


def test_coco_crowd_regions_are_left_out_and_counted(coco):
    document = json.loads((coco / "annotations" / "instances_test.json").read_text())
    document["annotations"][0]["iscrowd"] = 1
    save_coco(coco, "test", document)
    data = DetectionData("c", root=str(coco))
    assert data.check().counts["crowd_regions_left_out"] == 1
    assert sum(map(len, data.truth("test")["boxes"])) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "bbox is not"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, None, 4]), "bbox is not"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, float("nan"), 4]), "hold NaN"),
        (lambda d: d["annotations"][0].update(bbox=[60, 2, 30, 4]), "outside their image"),
        (lambda d: d["annotations"][0].update(bbox=[6, 2, 0, 4]), "no width or no height"),
        (lambda d: d["annotations"][0].update(category_id=3), "category_id 3 is not"),
        (lambda d: d["annotations"][0].update(image_id=999), "belongs to no image"),
        (lambda d: d["annotations"][0].update(image_id=[1]), "belongs to no image"),
        (lambda d: d["images"][0].update(file_name="../../etc/passwd"), "outside data.root"),
        (lambda d: d["images"][0].update(file_name="/etc/passwd"), "outside data.root"),
        (lambda d: d["images"][0].update(id=1), "used twice"),
        (lambda d: d["images"][0].update(file_name="train1.png"), "is listed twice"),
        (lambda d: d["images"][0].pop("file_name"), "lacks its id or file_name"),
        (lambda d: d.pop("categories"), "not a COCO file"),
        (lambda d: d["categories"].append({"id": 8, "name": "cyst"}), "other categories"),
        (lambda d: d["images"].append(3), "must hold objects"),
    ],
)
def test_faulty_coco(coco, change, message):
    document = json.loads((coco / "annotations" / "instances_train.json").read_text())
    change(document)
    save_coco(coco, "train", document)
    with pytest.raises(DataError, match=message):
        DetectionData("c", root=str(coco)).check()


def test_coco_files_without_their_own_split(coco):
    (coco / "annotations" / "instances_val.json").rename(coco / "annotations" / "instances_train2.json")
    with pytest.raises(DataError, match="its own split"):
        DetectionData("c", root=str(coco)).prepare()
    for name in ("train", "train2"):
        (coco / "annotations" / f"instances_{name}.json").unlink()
    (coco / "annotations" / "instances_test.json").rename(coco / "annotations" / "boxes.json")
    assert {k: len(v) for k, v in DetectionData("c", root=str(coco)).splits.items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    (coco / "annotations" / "boxes.json").write_text("{")
    with pytest.raises(DataError, match="not valid UTF-8 JSON"):
        DetectionData("c", root=str(coco)).prepare()
