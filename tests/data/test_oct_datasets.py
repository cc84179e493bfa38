"""ErmDetection on a small phantom, HeyexExport on exports made of it, and the configs of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clarion.config import compose_config
from clarion.errors import DataError, UsageError
from clarion.oct.datasets import ErmDetection, HeyexExport
from clarion.run import build

EYES = {"train": 4, "val": 1, "test": 2}


@pytest.fixture(scope="module")
def phantom_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("phantom")


@pytest.fixture
def small(phantom_cache, monkeypatch):
    """Arguments of a phantom of 7 eyes x 2 B-scans, drawn once for this module."""
    monkeypatch.setenv("CLARION_CACHE", str(phantom_cache))
    return {"name": "erm", "eyes": EYES, "bscans_per_eye": 2, "workers": 1, "subgroups": ["stage"]}


def test_null_root_builds_and_announces_a_phantom_once(small, capsys, phantom_cache):
    data = ErmDetection(**small)
    report = data.check()
    assert "PHANTOM" in capsys.readouterr().err and data.kind == "phantom"
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 8, "val": 2, "test": 4}
    assert report.counts["test_patients"] == 2
    truth = data.truth("train")
    assert (truth["width"] == 768).all() and (truth["height"] == 496).all() and "stage" in truth
    assert truth["patient_id"].str.startswith("PH").all()
    folders = sorted(p.name for p in phantom_cache.glob("erm-phantom-*"))
    assert len(folders) == 1
    again = ErmDetection(**small, seed=7)
    assert again.splits == data.splits and again.fingerprint() == data.fingerprint()
    assert sorted(p.name for p in phantom_cache.glob("erm-phantom-*")) == folders


def test_half_shares_the_phantom_and_keeps_val_and_test(small, phantom_cache):
    full, half = ErmDetection(**small), ErmDetection(**small, train_fraction=0.5)
    assert set(half.splits["train"]) < set(full.splits["train"]) and len(half.splits["train"]) == 4
    assert half.splits["test"] == full.splits["test"] and half.splits["val"] == full.splits["val"]
    assert half.fingerprint() == full.fingerprint() and half.split_hash() != full.split_hash()
    assert half.yolo_yaml() != full.yolo_yaml()


def test_phantom_fingerprint_follows_the_recipe_without_building(small):
    first = ErmDetection(**small).recipe()
    assert ErmDetection(**{**small, "phantom_seed": 1}).recipe() != first


def test_a_given_root_is_the_users_own_and_private(small, tmp_path):
    phantom = ErmDetection(**small)
    phantom.prepare()
    data = ErmDetection("erm", root=str(phantom._root))
    assert data.kind == "private" and data.splits["test"][0].startswith("S-")
    assert data.class_names == ["erm"] and {k: len(v) for k, v in data.splits.items()} == {
        "train": 8,
        "val": 2,
        "test": 4,
    }
    assert data.split_hash() == ErmDetection("erm", root=str(phantom._root), kind="public").split_hash()
    with pytest.raises(UsageError, match="does not exist"):
        ErmDetection("erm", root=str(tmp_path / "none")).prepare()


@pytest.mark.parametrize("name", ["erm_full", "erm_half", "erm_demo", "yolo_folder", "coco", "heyex"])
def test_configs_build(name, tmp_path, folder):
    root = [] if name.startswith("erm") else [f"data.root={folder}"]
    node = compose_config([f"data={name}", *root]).data
    assert node.name == name and node.task == "detection" and node.expected and node.layouts
    data = build(node, seed=0)
    assert data.name == name and data.task == "detection" and data.kind == node.kind
    if name.startswith("erm"):
        eyes = {"erm_demo": {"train": 60, "val": 10, "test": 20}}.get(name, {"train": 220, "val": 20, "test": 65})
        assert data.eyes == eyes and data.plan.train_fraction == (0.5 if name == "erm_half" else 1.0)


def write_export(root: Path, scans: int = 2, seed: int = 3) -> list[np.ndarray]:
    """A screen export as HEYEX writes it, made of phantom B-scans; returns the B-scans."""
    from clarion.oct.phantom import make_eye

    eye, images = make_eye(seed), []
    rng = np.random.default_rng(seed)
    for direction, folder in (("H", "Horizontal"), ("V", "Vertical")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for line in range(scans):
            bscan = eye.bscan(direction, line + 10).image
            infrared = rng.integers(90, 160, (496, 496), dtype=np.uint8)
            Image.fromarray(np.hstack([infrared, bscan])).save(root / folder / f"{line:04d}_{direction}.bmp")
            images.append(bscan)
    return images


def test_heyex_export_is_cut_into_the_cache_and_names_nobody(tmp_path):
    root = tmp_path / "Hong Gildong 1961"
    images = write_export(root)
    before = sorted(p.name for p in root.rglob("*"))
    data = HeyexExport("heyex", root=str(root))
    data.prepare()
    samples = list(data.samples("predict"))
    assert [(s.inputs["direction"], s.inputs["line"]) for s in samples] == [("H", 0), ("H", 1), ("V", 0), ("V", 1)]
    for sample, image in zip(samples, images, strict=True):
        assert np.array_equal(np.asarray(Image.open(sample.inputs["image"])), image)
        assert "Hong" not in str(sample)
    assert data.splits == {"test": [s.sample_id for s in samples]}
    assert data.truth("test") is None and not data.has_truth
    assert data.card()["splits"]["test"] == {"samples": 4, "patients": 1}
    assert sorted(p.name for p in root.rglob("*")) == before
    moved = root.rename(tmp_path / "other")
    assert HeyexExport("heyex", root=str(moved)).fingerprint() == data.fingerprint()


def test_damaged_pictures_of_an_export_are_all_named(tmp_path, own_cache):
    write_export(tmp_path)
    for name in ("Horizontal/0001_H.bmp", "Vertical/0000_V.bmp"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:3000])
    data = HeyexExport("heyex", root=str(tmp_path))
    with pytest.raises(DataError, match=r"\(2\)") as caught:
        data.check()
    assert "0001_H.bmp" in str(caught.value) and "0000_V.bmp" in str(caught.value)
    assert "0001_H.bmp" not in caught.value.recorded
    assert not list(own_cache.glob("heyex-*"))
    with pytest.raises(UsageError, match="data.root="):
        HeyexExport("heyex")
