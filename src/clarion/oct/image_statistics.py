"""Simple numbers of a grey image: what a score must beat before a network may claim to have seen anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clarion.data.grey import read_grey

SIZE = (128, 192)  # height, width: the aspect of a 496 x 768 B-scan at a quarter of its side
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
BINS, ROWS, COLUMNS = 16, 16, 8


def image_statistics(image: Path | str | np.ndarray) -> np.ndarray:
    """53 features, float64, of a picture file (or of a grey uint8 array [128, 192]).

    Grey levels are scaled to 0..1. In order: mean, standard deviation, 7 quantiles, 16 histogram shares, mean absolute
    vertical and horizontal gradient, their 0.99 quantiles, mean of 16 bands of rows, mean of 8 bands of columns.
    """
    grey = image if isinstance(image, np.ndarray) else read_grey(Path(image), SIZE)
    if grey.shape != SIZE or grey.dtype != np.uint8:
        raise ValueError(f"image_statistics needs a uint8 array {SIZE}, got {grey.dtype} {grey.shape}")
    unit = grey.astype(np.float64) / 255
    vertical, horizontal = np.abs(np.diff(unit, axis=0)), np.abs(np.diff(unit, axis=1))
    histogram = np.bincount(grey.ravel() // (256 // BINS), minlength=BINS) / grey.size
    rows = unit.reshape(ROWS, -1, SIZE[1]).mean(axis=(1, 2))
    columns = unit.reshape(SIZE[0], COLUMNS, -1).mean(axis=(0, 2))
    return np.concatenate(
        [
            [unit.mean(), unit.std()],
            np.quantile(unit, QUANTILES),
            histogram,
            [vertical.mean(), horizontal.mean(), np.quantile(vertical, 0.99), np.quantile(horizontal, 0.99)],
            rows,
            columns,
        ]
    )
