"""Folders written from the phantom: complete, reproducible for any number of workers, prefixes of larger ones."""

import csv
import json

import cv2
import numpy as np
import pytest

from clarion.errors import UsageError
from clarion.oct.phantom import contact_sheet, make_eye, write_detection_folder, write_stage_folder
from clarion.oct.phantom.dataset import COLUMNS, eye_seed, foveal_lines, spread_lines


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_of(folder):
    with open(folder / "samples.csv", encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("detection") / "data"
    write_detection_folder(path, {"train": 4, "test": 2}, bscans_per_eye=4, seed=5, workers=2)
    return path


def test_bytes_do_not_depend_on_workers(folder, tmp_path):
    write_detection_folder(tmp_path, {"train": 4, "test": 2}, bscans_per_eye=4, seed=5, workers=1)
    assert files_of(tmp_path) == files_of(folder)


def test_fewer_eyes_are_a_prefix(folder, tmp_path):
    write_detection_folder(tmp_path, {"train": 2, "test": 2}, bscans_per_eye=4, seed=5, workers=1)
    small, large = files_of(tmp_path), files_of(folder)
    pictures = {name for name in small if name.startswith(("images/", "labels/"))}
    assert pictures < set(large) and all(small[name] == large[name] for name in pictures)
    of_split = [[r for r in rows_of(f) if r["split"] == "test"] for f in (tmp_path, folder)]
    assert of_split[0] == of_split[1]
    other = tmp_path / "other"
    write_detection_folder(other, {"train": 1}, bscans_per_eye=1, seed=6, workers=1)
    assert not set(files_of(other)) & pictures, "another seed gives other eyes"


def test_folder_is_complete_and_labels_are_the_truth(folder):
    rows = rows_of(folder)
    assert tuple(rows[0]) == COLUMNS and len(rows) == 24
    assert len({r["sample_id"] for r in rows}) == 24
    assert (folder / "classes.txt").read_text(encoding="utf-8").split() == ["erm"]
    eyes = {split: {r["patient_id"] for r in rows if r["split"] == split} for split in ("train", "test")}
    assert len(eyes["train"]) == 4 and len(eyes["test"]) == 2 and not eyes["train"] & eyes["test"]
    truth = {t["patient_id"]: t for t in json.loads((folder / "truth.json").read_text(encoding="utf-8"))}
    assert set(truth) == eyes["train"] | eyes["test"]
    made = {name: make_eye(int(name[2:])) for name in truth}
    boxed = 0
    for row in rows:
        image = cv2.imread(str(folder / "images" / row["split"] / f"{row['sample_id']}.png"), cv2.IMREAD_UNCHANGED)
        scan = made[row["patient_id"]].bscan(row["direction"], int(row["line"]))
        assert np.array_equal(image, scan.image), "the eye's number is its seed"
        text = (folder / "labels" / row["split"] / f"{row['sample_id']}.txt").read_text(encoding="utf-8")
        values = np.array([line.split() for line in text.splitlines()], float).reshape(-1, 5)
        assert len(values) == len(scan.boxes) and not values[:, 0].any() and np.all((values >= 0) & (values <= 1))
        centre, size = values[:, 1:3] * (768, 496), values[:, 3:5] * (768, 496)
        assert np.concatenate([centre - size / 2, centre + size / 2], axis=1) == pytest.approx(scan.boxes, abs=0.01)
        assert float(row["erm_fraction"]) == pytest.approx(scan.presence.mean(), abs=1e-4)
        assert (truth[row["patient_id"]]["erm_area_mm2"] > 0) == (row["stage"] != "0")
        boxed += len(values)
    assert boxed > 0


def test_stage_folder_takes_the_lines_at_the_fovea(tmp_path):
    write_stage_folder(tmp_path, {"val": 2}, bscans_per_eye=4, seed=1, workers=1)
    rows = rows_of(tmp_path)
    assert len(rows) == 8 and not (tmp_path / "labels").exists()
    assert all((tmp_path / "images" / "val" / f"{r['sample_id']}.png").is_file() for r in rows)
    for row in rows:
        eye = make_eye(int(row["patient_id"][2:]))
        at = eye.fovea.y_mm if row["direction"] == "H" else eye.fovea.x_mm
        assert abs(eye.geometry.line_position_mm(int(row["line"])) - at) <= 1.01 * 0.24


@pytest.mark.parametrize("count", [1, 2, 7, 10, 25, 49, 50])
def test_lines_are_distinct_and_spread(count):
    eye = make_eye(11)
    for lines in (spread_lines(eye, count), foveal_lines(eye, count)):
        assert len(lines) == len(set(lines)) == count
        assert all(0 <= n < 25 for _, n in lines)
        assert abs(sum(d == "H" for d, _ in lines) - count / 2) <= 0.5
    assert spread_lines(eye, count) == spread_lines(make_eye(11), count)


def test_eye_seeds_never_meet():
    seeds = [eye_seed(s, split, k) for s in range(3) for split in ("train", "val", "test") for k in (0, 1, 99_999)]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    "arguments",
    [
        {"eyes": {"trian": 1}},
        {"eyes": {"train": 1}, "bscans_per_eye": 51},
        {"eyes": {"train": 1}, "bscans_per_eye": 0},
        {"eyes": {"train": 1}, "seed": -1},
    ],
)
def test_wrong_use_is_named(tmp_path, arguments):
    with pytest.raises(UsageError):
        write_detection_folder(tmp_path / "x", workers=1, **arguments)


def test_no_eyes_is_an_empty_folder(tmp_path):
    write_detection_folder(tmp_path, {"train": 0}, workers=2)
    assert rows_of(tmp_path) == [] and (tmp_path / "images" / "train").is_dir()


def test_contact_sheet(tmp_path):
    real = make_eye(1, 2).bscan("H", 12).image
    contact_sheet(tmp_path / "sheet.png", seed=1, real=[real])
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture.shape == (5 * 300, 3 * 768, 3) and picture.std() > 20
