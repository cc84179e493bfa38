"""A user's folder with something wrong in it: one sentence each, exactly; what is recorded names no patient."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_slide_patients import folder, synthetic

from clarion.cancer.swin.bags import TileSettings, bag_of
from clarion.errors import DataError

SLIDE = "SYN-ALFA-0001-DX1"
NOT_USED = "slides cannot be used; replace them, or go on without them by data.allow=[slide_unreadable] (1): "


@pytest.fixture(scope="module")
def drawn():
    data = synthetic()
    data.prepare()
    return data.planted.folder


@pytest.fixture
def root(drawn, tmp_path) -> Path:
    shutil.copytree(drawn, tmp_path / "mine", ignore=shutil.ignore_patterns("maps"))
    return tmp_path / "mine"


def clinical(root: Path, **columns) -> None:
    """Overwrite cells of clinical.csv: column -> the first cells of it."""
    table = pd.read_csv(root / "clinical.csv").astype(object)
    for column, values in columns.items():
        table.loc[table.index[: len(values)], column] = values
    table.to_csv(root / "clinical.csv", index=False)


def repeated(root: Path, gene: str, add: float) -> None:
    """A second column of one gene in omics.csv, under the same name."""
    table = pd.read_csv(root / "omics.csv")
    again = (table[gene] + add).rename(gene)
    pd.concat([table, again], axis=1).to_csv(root / "omics.csv", index=False)


def write_slide(root: Path, height: int = 512, mpp: float | None = 2.0, **more) -> None:
    import tifffile

    scale = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    glass = np.full((height, 512, 3), 240, np.uint8)
    tifffile.imwrite(root / "slides" / f"{SLIDE}.tif", glass, tile=(256, 256), photometric="rgb", metadata=None,
                     compression="jpeg", **scale, **more)  # fmt: skip


def cut(root: Path) -> None:
    path = root / "slides" / f"{SLIDE}.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


CASES = {
    "a slide without scale": (
        lambda r: write_slide(r, mpp=None),
        NOT_USED + f"{SLIDE}.tif does not say its scale: give mpp=, um a pixel of level 0; data.mpp= of a run, "
        "--slide-mpp or --mpp of a command."),
    "an empty file": (
        lambda r: (r / "slides" / f"{SLIDE}.tif").write_bytes(b""),
        NOT_USED + f"{SLIDE}.tif is empty (0 bytes); copy it again."),
    "a picture with another name": (
        lambda r: (r / "slides" / f"{SLIDE}.tif").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)),
        NOT_USED + f"{SLIDE}.tif is a PNG picture, not a slide, whatever its name says; give the scanner's file."),
    "a slide that is named and not there": (
        lambda r: clinical(r, slide_id=["NOPE-1"]),
        "slides that the clinical table names are not in slides/; add them, or go on without them by "
        "data.allow=[slide_missing] (1): NOPE-1"),
    "a slide outside of the folder": (
        lambda r: clinical(r, slide_id=[f"../{SLIDE}"]),
        "slides that the clinical table names are not in slides/; add them, or go on without them by "
        f"data.allow=[slide_missing] (1): ../{SLIDE}"),
    "an id that is a path": (
        lambda r: clinical(r, patient_id=["../../elsewhere", ".."]),
        "ids cannot name a file or folder; write ids without /, \\ or null bytes, other than . and .. (2): "
        "patient '../../elsewhere', patient '..'"),
    "a slide whose name is a path elsewhere": (
        lambda r: (r / "slides" / f"{SLIDE}.tif").rename(r / "slides" / "a\\b.tif"),
        "ids cannot name a file or folder; write ids without /, \\ or null bytes, other than . and .. (1): "
        "slide 'a\\\\b'"),
    "one slide for two patients": (
        lambda r: clinical(r, slide_id=[SLIDE, SLIDE]),
        "the clinical table gives a slide to two patients; keep the row that is right (1): "
        f"{SLIDE} of SYN-ALFA-0001 and SYN-ALFA-0002"),
    "a gene that comes twice": (
        lambda r: repeated(r, "GENE00003_rnaseq", 1.0),
        "columns of the omics table come twice; keep one of each, or allow=gene_twice: the first of them counts (1): "
        "GENE00003_rnaseq"),
    "a cancer with two patients": (
        lambda r: clinical(r, cancer=["ZETA", "ZETA"]),
        "ZETA: fewer than 3 events; add follow-up or patients (2)"),
    "a survival time in words": (
        lambda r: clinical(r, survival_months=["long"]),
        "survival_months holds cells that are no numbers; write a number or leave them empty, or allow=non_numeric: "
        "cells that are no numbers count as missing (1): row 1: 'long'"),
    "an event that is neither": (
        lambda r: clinical(r, event=[7]),
        "event holds words that say neither event nor censored; write 1 and 0, or allow=event_unknown: patients with "
        "such a word count as without survival (1): 7"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_that_names_it(root, name):
    break_it, sentence = CASES[name]
    break_it(root)
    with pytest.raises(DataError) as caught:
        folder(root).check()
    assert str(caught.value).splitlines() == ["the data has 1 kind(s) of error:", f"  - {sentence}"]
    assert "SYN-" not in caught.value.recorded and "NOPE" not in caught.value.recorded
    assert "elsewhere" not in caught.value.recorded


def test_half_a_slide_is_truncated(root):
    cut(root)
    with pytest.raises(DataError, match=rf"{SLIDE}\.tif .*(truncated|known format)"):
        folder(root).check()


@pytest.mark.parametrize("content, sentence", [
    ("", "clinical.csv is not a table: its first line has one column; save it as UTF-8 csv or tsv."),
    ("patient_id,survival_months,event\n환자,3,1\n".encode("cp949"),
     "clinical.csv is not UTF-8; save it as UTF-8 (in Excel: CSV UTF-8)."),
])  # fmt: skip
def test_a_table_that_is_none(root, content, sentence):
    (root / "clinical.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        folder(root).check()
    assert str(caught.value) == sentence


def test_a_doubled_gene_may_be_allowed_and_the_first_counts(root):
    plain = folder(root)
    plain.check()
    repeated(root, "GENE00003_rnaseq", 1.0)
    lenient = folder(root, allow=["gene_twice"])
    lenient.check()
    for one, other in zip(plain.samples("test"), lenient.samples("test"), strict=True):
        assert np.array_equal(one.inputs["omics"]["rna"], other.inputs["omics"]["rna"])
    assert "the first of them counts (1)." in lenient.cohort("test").notes


def test_a_slide_of_nobody_is_reported_and_not_used(root):
    """The reverse: it lies in slides/ and no row of clinical.csv is its patient's."""
    shutil.copy(root / "slides" / f"{SLIDE}.tif", root / "slides" / "OTHER-1.tif")
    data = folder(root)
    (stray,) = [w for w in data.check().warnings if w.code == "slide_stray"]
    assert stray.message == "slides belong to no patient of the clinical table and are not used" and stray.total == 1
    used = [p.name for split in data.splits for s in data.samples(split) for p in s.inputs["slides"]]
    assert "OTHER-1.tif" not in used and f"{SLIDE}.tif" in used


def test_a_slide_of_glass_leaves_the_patient_without_tiles(root, caplog):
    write_slide(root)
    data = folder(root)
    data.check()
    (sample,) = [s for split in data.splits for s in data.samples(split) if s.sample_id == "SYN-ALFA-0001"]
    own = [p for p in sample.inputs["slides"] if p.name == f"{SLIDE}.tif"]
    bag = bag_of(sample.__class__(sample.sample_id, sample.patient_id, sample.inputs | {"slides": tuple(own)}),
                 TileSettings.of({"patch": 32, "mpp": 2.0}))  # fmt: skip
    assert len(bag) == 0 and "has no tissue" in caplog.text and SLIDE not in caplog.text
