"""What the ERM effect looks like where there is none: the same membrane laid elsewhere on the same retina."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from clarion.errors import UsageError
from clarion.oct.association.cells import Cells
from clarion.oct.association.covariance import Covariance
from clarion.oct.enface import Grid

KINDS = ("spin", "torus")


def fill_nearest(erm: np.ndarray) -> np.ndarray:
    """The map with NaN replaced by the nearest known value: a turned membrane needs a value where none was scanned."""
    unknown = np.isnan(erm)
    if not unknown.any():
        return erm
    rows, columns = distance_transform_edt(unknown, return_distances=False, return_indices=True)
    return erm[rows, columns]


def moved_coverage(
    erm: np.ndarray, grid: Grid, cells: Cells, centre_mm: tuple[float, float], moves: int, kind: str, seed: int
) -> np.ndarray:
    """Coverage of the cells by the unmoved membrane (column 0) and by `moves` moved ones: [n cells, moves + 1].

    erm: float [rows, columns] without NaN. kind "spin": turned about the fovea by a uniform angle, every second one
    mirrored first, so that each point keeps its eccentricity; "torus": shifted over the scanned rectangle, leaving at
    one edge and entering at the other. All columns are sampled in the same way, which makes them comparable.
    """
    if kind not in KINDS:
        raise UsageError(f"The null model {kind!r} does not exist: choose {' or '.join(KINDS)}.")
    rng = np.random.default_rng(seed)
    pixels = max(int(round(cells.size_mm / grid.step_mm)), 1)
    smooth = cv2.blur(erm.astype(np.float32), (pixels, pixels), borderType=cv2.BORDER_REPLICATE)
    x, y = cells.x_mm[:, None], cells.y_mm[:, None]
    if kind == "spin":
        angle = np.r_[0.0, rng.uniform(0, 2 * np.pi, moves)]
        mirror = np.r_[1.0, rng.choice([-1.0, 1.0], moves)]
        u, v = mirror * (x * np.cos(angle) - y * np.sin(angle)), x * np.sin(angle) + y * np.cos(angle)
    else:
        u = x + np.r_[0.0, rng.uniform(0, grid.columns * grid.step_mm, moves)]
        v = y + np.r_[0.0, rng.uniform(0, grid.rows * grid.step_mm, moves)]
    column = (u + centre_mm[0] - grid.x0_mm) / grid.step_mm - 0.5
    row = (v + centre_mm[1] - grid.y0_mm) / grid.step_mm - 0.5
    border = cv2.BORDER_REPLICATE if kind == "spin" else cv2.BORDER_WRAP
    at = (column.astype(np.float32), row.astype(np.float32))
    return cv2.remap(smooth, *at, cv2.INTER_LINEAR, borderMode=border).astype(np.float64)


def scores(coverage: np.ndarray, values: np.ndarray, design: np.ndarray, covariance: Covariance) -> np.ndarray:
    """Studentised generalised-least-squares effect of each column of coverage [n, k] on values [n], beside design.

    0 where a column is not told apart from the design (a membrane that covers all or nothing there).
    """
    white = covariance.whiten(np.column_stack([design, values, coverage]))
    basis, _ = np.linalg.qr(white[:, : design.shape[1]])
    rest = white[:, design.shape[1] :]
    rest = rest - basis @ (basis.T @ rest)
    length = np.linalg.norm(rest[:, 1:], axis=0)
    told_apart = length > 1e-3 * np.linalg.norm(white[:, design.shape[1] + 1 :], axis=0)
    return np.where(told_apart, rest[:, 0] @ rest[:, 1:] / np.maximum(length, 1e-12), 0.0)


def p_value(statistics: np.ndarray) -> float:
    """Two-sided Monte Carlo p of statistics[0] among all (Davison & Hinkley 1997, eq. 4.11): (1 + as extreme)/(1 + n).

    Ties within rounding count as extreme.
    """
    size = np.abs(statistics)
    return float(np.count_nonzero(size >= size[0] * (1 - 1e-9)) / size.size)
