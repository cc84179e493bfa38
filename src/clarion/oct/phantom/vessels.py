"""Retinal vessels en face: arcades that leave the disc and branches that turn towards the fovea and stop before it."""

from __future__ import annotations

import cv2
import numpy as np

from .anatomy import Fovea, disc_centre_mm
from .fields import GRID_HALF_MM, GRID_N, GRID_STEP_MM

_SHIFT = 4  # fractional bits of OpenCV's line drawing


def vessel_map(rng: np.random.Generator, fovea: Fovea, laterality: str) -> np.ndarray:
    """How much blood lies over a point, 0-1 float32 [n, n]; its shadow falls on everything below."""
    canvas = np.zeros((2 * GRID_N, 2 * GRID_N), np.uint8)
    sign = 1 if laterality == "OD" else -1
    _, disc_y = disc_centre_mm(fovea, laterality)
    for above in (-1, 1):
        for offset, width_um in ((0.0, 125), (rng.uniform(0.25, 0.6), 95)):  # a vein and its artery
            nasal = np.linspace(4.6, -4.6, 60)
            reach = rng.uniform(2.3, 3.0) + offset
            bow = (reach - 0.25) / (4.6 + 0.5) ** 2
            y = disc_y + above * (reach - bow * (nasal + 0.5) ** 2) + np.cumsum(rng.normal(0, 0.025, 60))
            x = fovea.x_mm + sign * nasal
            _draw(canvas, x, y, width_um)
            for start in rng.choice(np.arange(8, 55), rng.integers(4, 8), replace=False):
                _branch(rng, canvas, x[start], y[start], fovea, rng.uniform(25, 55), inward=rng.random() < 0.7)
    for _ in range(rng.integers(2, 5)):  # cilioretinal and macular twigs from the disc
        _branch(rng, canvas, fovea.x_mm + sign * 3.9, disc_y + rng.normal(0, 0.5), fovea, 35, inward=True)
    small = cv2.resize(canvas, (GRID_N, GRID_N), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), 0.7).astype(np.float32) / 255


def _branch(rng, canvas: np.ndarray, x: float, y: float, fovea: Fovea, width_um: float, inward: bool) -> None:
    goal = np.arctan2(fovea.y_mm - y, fovea.x_mm - x) + (0 if inward else np.pi) + rng.normal(0, 0.4)
    steps = rng.integers(12, 30)
    heading = goal + np.cumsum(rng.normal(0, 0.10, steps))
    px, py = x + np.cumsum(0.1 * np.cos(heading)), y + np.cumsum(0.1 * np.sin(heading))
    keep = np.hypot(px - fovea.x_mm, py - fovea.y_mm) > rng.uniform(0.35, 0.7)
    stop = len(keep) if keep.all() else int(np.argmin(keep))
    if stop >= 2:
        _draw(canvas, px[:stop], py[:stop], width_um)


def _draw(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, width_um: float) -> None:
    step = GRID_STEP_MM / 2
    points = np.stack([x + GRID_HALF_MM, y + GRID_HALF_MM], axis=1) / step * (1 << _SHIFT)
    thickness = max(1, round(width_um / 1000 / step))
    value = 255 if width_um > 60 else int(90 + 2 * width_um)
    cv2.polylines(canvas, [points.astype(np.int32)], False, value, thickness, cv2.LINE_AA, _SHIFT)
