"""Resampling keeps curves where they are; changed pictures keep their surfaces on the same tissue."""

from __future__ import annotations

import numpy as np
import pytest

from clarion.errors import DataError
from clarion.oct.layers.augment import augmented
from clarion.oct.layers.scale import columns_between, resize, rows_to_working, working_shape


def edge_picture(depth: int, width: int, row: np.ndarray) -> np.ndarray:
    """Dark above, bright below the row (the pixel that holds the edge is part bright)."""
    return (200 * np.clip(np.arange(depth)[:, None] + 0.5 - row, 0, 1)).astype(np.uint8)


def edge_of(picture: np.ndarray) -> np.ndarray:
    """Row of the edge per column, from the share of bright area."""
    return picture.shape[0] - 0.5 - picture.sum(0) / picture.max()


@pytest.mark.parametrize("shape, axial, lateral", [
    ((496, 768), 3.872, 11.7), ((1024, 512), 1.953, 11.72), ((650, 512), 3.5, 11.72), ((240, 128), 9.0, 60.0),
])  # fmt: skip
def test_an_edge_stays_where_it_is(shape, axial, lateral):
    row = 0.5 * shape[0] + 0.05 * shape[0] * np.sin(np.arange(shape[1]) / shape[1] * 6)
    work = working_shape(shape, axial, lateral)
    seen = edge_of(resize(edge_picture(*shape, row), work))
    expected = columns_between(rows_to_working(row, shape[0], work[0]), work[1])
    assert np.abs(seen - expected)[2:-2].max() < 0.1


def test_columns_between_is_exact_for_lines_and_keeps_nan_local():
    line = np.linspace(0, 100, 192)
    back = columns_between(columns_between(line, 768), 192)
    assert np.abs(back - line)[1:-1].max() < 1e-6
    line[50] = np.nan
    assert np.isnan(columns_between(line, 768)).sum() <= 8


def test_scales_that_no_eye_has_are_refused():
    for axial, lateral in ((0, 11.7), (3.9, np.nan), (3.9, 1000.0)):
        with pytest.raises(DataError):
            working_shape((496, 768), axial, lateral)


def test_surfaces_move_with_the_picture():
    """Whatever is done to it, the brightest step of an edge picture lies at its surface."""
    row = 230 + 20 * np.sin(np.arange(256) / 30)
    image = edge_picture(496, 256, row + 0.5)
    rows = np.repeat(row[None], 8, 0).astype(np.float32)
    off = []
    for seed in range(60):
        picture, moved = augmented(image, rows, np.random.default_rng(seed), (256, 128), (2.0, 4 / 3))
        assert picture.shape == (256, 128) and moved.shape == (8, 128) and np.isfinite(picture).all()
        usable = np.flatnonzero(np.isfinite(moved[0]) & (moved[0] > 12) & (moved[0] < 243))
        for column in usable[::16]:
            centre = round(float(moved[0, column]))
            window = picture[centre - 10 : centre + 11, max(0, column - 2) : column + 3].mean(1)
            off.append(np.diff(window).argmax() - 10 + 0.5 + centre - moved[0, column])
    off = np.abs(off)
    assert len(off) > 150 and np.median(off) < 1.0 and (off < 2.5).mean() > 0.8


def test_the_same_seed_changes_a_picture_in_the_same_way():
    image = np.random.default_rng(0).integers(0, 255, (496, 256)).astype(np.uint8)
    rows = np.linspace(200, 300, 8, dtype=np.float32)[:, None] + np.zeros((8, 256), np.float32)
    first, again, other = (
        augmented(image, rows, np.random.default_rng(s), (256, 128), (2.0, 4 / 3)) for s in (3, 3, 4)
    )
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1], equal_nan=True)
    assert not np.array_equal(first[0], other[0])
