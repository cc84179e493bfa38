"""Random fields on the en-face grid: smooth, unit-variance, cheap at any length scale."""

from __future__ import annotations

import cv2
import numpy as np

GRID_HALF_MM = 4.8  # the grid covers every scan line of every geometry
GRID_N = 320
GRID_STEP_MM = 2 * GRID_HALF_MM / GRID_N


def grid_mm() -> tuple[np.ndarray, np.ndarray]:
    """x, y of the grid nodes in mm, float32 [GRID_N, GRID_N]."""
    axis = ((np.arange(GRID_N) + 0.5) * GRID_STEP_MM - GRID_HALF_MM).astype(np.float32)
    return np.meshgrid(axis, axis)


def smooth_noise(rng: np.random.Generator, scale_mm: float) -> np.ndarray:
    """A field of mean 0, variance 1 whose bumps are about `scale_mm` wide (white noise on a coarse grid, cubic)."""
    n = int(np.clip(round(2 * GRID_HALF_MM / (scale_mm / 2)), 4, GRID_N)) + 3
    field = cv2.GaussianBlur(rng.standard_normal((n, n), dtype=np.float32), (0, 0), 1.0)
    field = cv2.resize(field, (GRID_N, GRID_N), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / (field.std() + 1e-6)


def directed_noise(rng: np.random.Generator, across_mm: float, along_mm: float, angle_rad: float) -> np.ndarray:
    """Streaks `along_mm` long and `across_mm` wide, turned by `angle_rad`: the folds a contracting membrane pulls."""
    size = int(GRID_N * 1.45)  # a turned square still covers the grid
    nx, ny = (max(6, int(size * GRID_STEP_MM / (length / 2))) for length in (along_mm, across_mm))
    field = cv2.GaussianBlur(rng.standard_normal((ny, nx), dtype=np.float32), (0, 0), 1.0)
    field = cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), np.degrees(angle_rad), 1.0)
    turn[:, 2] -= (size - GRID_N) / 2
    field = cv2.warpAffine(field, turn, (GRID_N, GRID_N), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return (field - field.mean()) / (field.std() + 1e-6)


def smoothstep(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(value, 0, 1)
    return t * t * (3 - 2 * t)


def sample(maps: np.ndarray, x_mm: np.ndarray, y_mm: np.ndarray) -> np.ndarray:
    """Bilinear values of maps [k, GRID_N, GRID_N] at points [n] in mm -> float32 [k, n]."""
    col = np.clip((x_mm + GRID_HALF_MM) / GRID_STEP_MM - 0.5, 0, GRID_N - 1.001)
    row = np.clip((y_mm + GRID_HALF_MM) / GRID_STEP_MM - 0.5, 0, GRID_N - 1.001)
    c, r = col.astype(np.intp), row.astype(np.intp)
    fc, fr = (col - c).astype(np.float32), (row - r).astype(np.float32)
    top = maps[:, r, c] * (1 - fc) + maps[:, r, c + 1] * fc
    bottom = maps[:, r + 1, c] * (1 - fc) + maps[:, r + 1, c + 1] * fc
    return top * (1 - fr) + bottom * fr
