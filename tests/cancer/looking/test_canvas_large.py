"""Pictures of a slide that has no small levels: read in bounded pieces, and the same as if read at once."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from clarion.cancer.looking import canvas, page
from clarion.cancer.prognosis.page import thumbnails
from clarion.cancer.slides.reader import Slide, open_slide

sys.path.insert(0, str(Path(__file__).parents[1] / "slides"))
from drawn_slides import tissue_picture, write_pyramid  # noqa: E402

BOUND = 100_000  # instead of 16 million: the slide has 2.9


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    """One level alone."""
    picture = tissue_picture(1500, 1930)
    return write_pyramid(tmp_path_factory.mktemp("single") / "slide.tif", picture, factors=(1,))


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """Pixels of every read of a slide."""
    found, read = [], Slide.read

    def counted(self, x0, y0, level, width, height, out=None):
        found.append(width * height)
        return read(self, x0, y0, level, width, height, out)

    monkeypatch.setattr(Slide, "read", counted)
    return found


@pytest.mark.parametrize("width, height", [(60, 48), (72, 56), (1, 90)])
def test_a_large_piece_is_read_in_bounded_ones_and_is_the_same(single, reads, monkeypatch, width, height):
    with open_slide(single) as slide:
        assert len(slide.levels) == 1
        downsample = max(slide.dimensions) / 72
        plain = canvas.region(slide, 0, 0, width, height, downsample)
        assert len(reads) == 1 and reads.pop() > 40_000
        monkeypatch.setattr(canvas, "MOST", BOUND // 4)
        found = canvas.region(slide, 0, 0, width, height, downsample)
    assert len(reads) > 1 and max(reads) <= BOUND // 4 and found.shape == plain.shape == (height, width, 3)
    assert np.abs(found.astype(int) - plain).max() <= 2


def test_thumbnails_and_tiles_of_one_level_stay_bounded(single, reads, monkeypatch, tmp_path):
    monkeypatch.setattr(canvas, "MOST", BOUND)
    with open_slide(single) as slide:
        values = np.zeros((15, 20), np.float32)
        thumbnails(slide, canvas.Canvas(values, 100.0, 50.0), longest=72)
        page.write_tiles(tmp_path / "tiles", slide, 1.0)
        canvas.write_heatmap(tmp_path / "heat.tif", slide, canvas.Canvas(values, 100.0, 50.0), 1.0)
        assert max(reads) <= BOUND
        monkeypatch.undo()
        lowest = page.write_tiles(tmp_path / "plain", slide, 1.0)["lowest"]
    ours, plain = (cv2.imread(str(tmp_path / name / f"{lowest}/0_0.jpg")).astype(int) for name in ("tiles", "plain"))
    assert ours.shape == plain.shape and ours.std() > 20 and np.abs(ours - plain).mean() < 0.5
