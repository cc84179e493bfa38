"""Kinds of tissue: labels of tiles by planted maps and a user's points, the head on features, shares of attention."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from clarion.cancer.patients.regions import Regions
from clarion.cancer.patients.tissue_labels import PointLabels, kinds_of_tiles, read_points, shares_of_tiles
from clarion.cancer.patients.tissue_map import FAT, HIGH_GRADE, KINDS, STROMA
from clarion.cancer.swin.tissue_types import LabelledTiles, SeenTiles, TissueHead
from clarion.cancer.swin.whitening import Whitening
from clarion.errors import DataError, UsageError


def planted_tiles(n: int = 60, seed: int = 0, kinds=("fat", "necrosis", "stroma"), width: int = 8) -> LabelledTiles:
    """Kinds lie in different places of the features, as noise round them; six tiles a patient."""
    rng = np.random.default_rng(seed)
    names = np.array(list(kinds), object)[np.arange(n) % len(kinds)]
    centre = np.random.default_rng(9).normal(0, 2, (len(kinds), width))
    features = centre[np.arange(n) % len(kinds)] + 0.5 * rng.standard_normal((n, width))
    patients = np.array([f"P{k // 6}" for k in range(n)], object)
    return LabelledTiles(features.astype(np.float32), names, patients)


def seen(tiles: LabelledTiles, attention) -> SeenTiles:
    return SeenTiles(None, tiles.features, np.asarray(attention, np.float32))


# ---- labels ------------------------------------------------------------------------------------------------


@pytest.fixture
def regions() -> Regions:
    kinds = np.zeros((8, 16), np.uint8)  # cells of 8 pixels: a slide of 128 x 64
    kinds[:, :8] = STROMA
    kinds[:, 8:13] = HIGH_GRADE
    kinds[:4, 13:] = FAT
    return Regions(kinds, np.zeros_like(kinds))


def test_a_tile_is_of_the_kind_that_covers_most_of_it(regions):
    xy = np.array([[0, 0], [32, 0], [48, 0], [64, 0], [96, 0], [96, 32], [120, 0]])
    shares = shares_of_tiles(regions, xy, 32)
    assert np.allclose(shares.sum(1), 1)
    by_hand = regions.kinds[0:4, 6:10]
    assert np.allclose(shares[2], [(by_hand == k).mean() for k in range(len(KINDS))])
    # the third is half stroma, half tumour; the last two are mostly background, the last beyond the edge
    assert kinds_of_tiles(regions, xy, 32).tolist() == ["stroma", "stroma", "", "high_grade", "fat", "", ""]


def test_points_label_the_tiles_that_hold_them_and_ties_none():
    slide, xy = Path("a.tif"), np.array([[0, 0], [100, 0], [0, 100], [50, 50]])
    points = pd.DataFrame({"x": [10, 100, 20, 60, 70, 75], "y": [10, 99, 20, 60, 60, 75],
                           "kind": ["fat", "stroma", "tumour", "fat", "fat", "stroma"]})  # fmt: skip
    labels = PointLabels({slide: points})
    assert slide in labels and Path("b.tif") not in labels and len(labels) == 1
    # tile 0 (0..99): fat 3, tumour 1, stroma 1; tile 1 begins at 100; the last (50..149) holds 2 fat and 2 stroma
    assert labels.kinds(slide, xy, 100).tolist() == ["fat", "stroma", "", ""]


def table(tmp_path: Path, text: str) -> Path:
    (tmp_path / "tissue.csv").write_text(text, encoding="utf-8")
    return tmp_path / "tissue.csv"


def test_a_users_table_is_read_by_any_name_of_the_slide(tmp_path):
    files = {"S1.6E1F-77": tmp_path / "S1.6E1F-77.svs", "슬라이드2": tmp_path / "b.tif"}
    facts = {"S1.6E1F-77": {"dimensions": [100, 80]}, "슬라이드2": {"error": "cannot be read"}}
    rows = ["Slide_ID,x,y,kind", "S1.svs,5,6,Tumour  nest", "S1.6E1F-77,99,79,tumour nest", "슬라이드2,1,2,괴사"]
    path = table(tmp_path, "\n".join(rows))
    found = read_points(path, files, facts)
    assert set(found) == set(files.values())
    assert found[files["S1.6E1F-77"]]["kind"].tolist() == ["Tumour nest"] * 2
    assert found[tmp_path / "b.tif"][["x", "y", "kind"]].values.tolist() == [[1, 2, "괴사"]]


def test_wrong_rows_are_named_in_one_sentence_and_withheld_from_records(tmp_path):
    path = table(tmp_path, "slide_id,x,y,kind\nS1,5,6,fat\nS9,5,6,fat\nS1,100,6,fat\nS1,abc,6,fat\nS1,5,6,\n")
    with pytest.raises(DataError) as caught:
        read_points(path, {"S1": tmp_path / "S1.tif"}, {"S1": {"dimensions": [100, 80]}})
    said = str(caught.value)
    assert "1 row(s) name a slide that is not in slides/ (row 2: S9)" in said
    assert "2 row(s) have a place outside of their slide, or none (row 3: S1, row 4: S1)" in said
    assert "1 row(s) have no kind (row 5: S1)" in said and "S9" not in caught.value.recorded
    with pytest.raises(DataError, match=r"lacks the column\(s\) kind; it needs slide_id, x, y"):
        read_points(table(tmp_path, "slide_id,x,y\nS1,5,6\n"), {}, {})


def test_patients_know_their_own_splits_labels_alone(tmp_path):
    from clarion.cancer.patients.datasets import SlidePatients

    small = {"patients": 20, "side": 512, "genes": 60, "slide_effect": 1.0, "seed": 4}
    data = SlidePatients("slides_demo", source="synthetic", synthetic=small, limits={"min_events": 1},
                         missing={"slide": 0.1}, fractions={"train": 0.5, "val": 0.2, "test": 0.3})  # fmt: skip
    own = {s: [p for x in data.samples(s) for p in x.inputs["slides"]] for s in ("train", "val")}
    labels = data.tissue_labels("train")
    assert len(labels) == len(own["train"]) > 0 and not any(p in labels for p in own["val"])
    assert set(labels.kinds(own["train"][0], np.array([[200, 200]]), 64)) <= {"", *KINDS[1:]}
    assert labels.digest() == data.tissue_labels("train").digest() != data.tissue_labels("val").digest()
    # the same slides as a user's folder, without and with a table of points
    first = own["train"][0].stem
    given = {"kind": "public", "root": str(data.planted.folder), "limits": {"min_events": 1}, "fold": None,
             "fractions": {"train": 0.5, "val": 0.2, "test": 0.3}}  # fmt: skip
    assert len(SlidePatients("cancer_slides", **given).tissue_labels("train")) == 0
    shutil.copytree(data.planted.folder, tmp_path / "mine", ignore=shutil.ignore_patterns("maps"))
    (tmp_path / "mine" / "tissue.csv").write_text(f"slide_id,x,y,kind\n{first},210,220,괴사\n", encoding="utf-8")
    mine = SlidePatients("cancer_slides", **given | {"root": str(tmp_path / "mine")})
    holds = next(s for s in ("train", "val", "test") if len(mine.tissue_labels(s)))
    path = next(p for x in mine.samples(holds) for p in x.inputs["slides"] if p.stem == first)
    assert mine.tissue_labels(holds).kinds(path, np.array([[200, 200], [0, 0]]), 64).tolist() == ["괴사", ""]


# ---- the head ----------------------------------------------------------------------------------------------


def test_it_learns_kinds_and_says_how_well_on_other_patients():
    head = TissueHead.fit(planted_tiles(), "enc", "labels")
    others = planted_tiles(240, seed=1)
    others.features[:] += np.random.default_rng(3).normal(0, 2, others.features.shape)
    held = head.accuracy(others)
    entry = held["balanced_accuracy"]
    assert entry["value"] > 0.7 and (entry["n"], entry["n_patients"]) == (240, 40)
    assert entry["low"] < entry["value"] < entry["high"] and held["chance"] == pytest.approx(1 / 3)
    assert head.trained_on["tiles"] == {"fat": 20, "necrosis": 20, "stroma": 20} and head.trained_on["patients"] == 10
    shuffled = planted_tiles(240, seed=1)
    wrong = LabelledTiles(shuffled.features, np.roll(shuffled.kinds, 1), shuffled.patients)
    assert head.accuracy(wrong)["balanced_accuracy"]["value"] < 0.1
    unknown = LabelledTiles(shuffled.features, np.full(240, "mucin", object), shuffled.patients)
    assert head.accuracy(unknown) == {}


def test_balanced_accuracy_is_the_mean_recall():
    from sklearn.metrics import balanced_accuracy_score

    head, given = TissueHead.fit(planted_tiles()), planted_tiles(90, seed=2)
    rng = np.random.default_rng(3)
    noisy = LabelledTiles(given.features + rng.normal(0, 2, given.features.shape).astype(np.float32), given.kinds,
                          given.patients)  # fmt: skip
    found = head.accuracy(noisy)["balanced_accuracy"]["value"]
    named = [head.kinds[k] for k in head.predict(noisy.features)]
    assert found == pytest.approx(balanced_accuracy_score(list(given.kinds), named)) and found < 1


def test_rare_kinds_are_left_out_and_one_kind_is_none():
    given = planted_tiles(63)
    given.kinds[:3] = "mucin"
    head = TissueHead.fit(given)
    assert "mucin" not in head.kinds and head.trained_on["left_out"] == {"mucin": 3}
    given.kinds[:] = "fat"
    with pytest.raises(DataError, match="5 labelled tiles of each of two kinds .*found: fat 63"):
        TissueHead.fit(given)


@pytest.mark.parametrize("kinds", [("fat", "stroma"), ("fat", "necrosis", "stroma")])
def test_shares_are_those_of_the_attention(kinds):
    head, given = TissueHead.fit(planted_tiles(kinds=kinds)), planted_tiles(12, seed=5, kinds=kinds)
    assert [head.kinds[k] for k in head.predict(given.features)] == list(given.kinds)
    attention = np.arange(1, 13) / 78
    found = head.patterns(seen(given, attention), most=6, min_share=0)
    assert found == {k: pytest.approx(attention[given.kinds == k].sum(), abs=1e-4) for k in found}
    assert set(found) == set(kinds) and list(found.values()) == sorted(found.values(), reverse=True)
    fat = np.where(given.kinds == "fat", 1.0, 0.0)
    assert head.patterns(seen(given, fat / fat.sum()), most=3, min_share=0.05) == {"fat": 1.0}
    assert len(head.patterns(seen(given, attention), most=1, min_share=0)) == 1
    assert head.patterns(seen(LabelledTiles(given.features[:0], given.kinds[:0], given.patients[:0]), []), 3, 0) == {}


def test_it_goes_to_files_and_back_and_refuses_others(tmp_path):
    head = TissueHead.fit(planted_tiles(), "enc")
    head.save(tmp_path)
    again, given = TissueHead.load(tmp_path, "enc"), planted_tiles(30, seed=7)
    assert (again.predict(given.features) == head.predict(given.features)).all() and again.kinds == head.kinds
    assert again.trained_on == head.trained_on and {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    with pytest.raises(UsageError, match="fitted on another slide model's features"):
        TissueHead.load(tmp_path, "other")
    about = json.loads((tmp_path / "tissue.json").read_text())
    (tmp_path / "tissue.json").write_text(json.dumps(about | {"kinds": ["fat"]}))
    with pytest.raises(UsageError, match="holds no head for kinds of tissue"):
        TissueHead.load(tmp_path)
    with pytest.raises(UsageError, match="holds no head"):
        TissueHead.load(tmp_path / "absent")


def test_a_head_belongs_to_the_whitening_that_its_features_had(tmp_path):
    def module(seed: int) -> SimpleNamespace:
        torch.manual_seed(seed)
        tile = torch.nn.Sequential(Whitening(4).fit(torch.randn(50, 4)))
        return SimpleNamespace(network=SimpleNamespace(tile=tile), reader=SimpleNamespace(digest=lambda: "enc"))

    own, other = TissueHead.digest(module(0)), TissueHead.digest(module(1))
    assert own == TissueHead.digest(module(0)) != other
    TissueHead.fit(planted_tiles(), own).save(tmp_path)
    assert TissueHead.load(tmp_path, own).encoder == own
    with pytest.raises(UsageError, match="fitted on another slide model's features"):
        TissueHead.load(tmp_path, other)
    TissueHead.fit(planted_tiles(), "enc").save(tmp_path)  # of before the whitening was a part of it
    assert TissueHead.load(tmp_path, own).encoder == "enc"


def test_labels_outside_the_slides_train_nothing():
    module = SimpleNamespace(network=SimpleNamespace(encoder=SimpleNamespace(width=4)))
    from clarion.cancer.swin.tissue_types import labelled_tiles

    sample = SimpleNamespace(inputs={"slides": (Path("b.tif"),)}, patient_id="P")
    assert len(labelled_tiles(module, [sample], PointLabels({}))) == 0
