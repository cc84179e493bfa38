"""From maps to cells about the fovea: the resolution at which the association is modelled, and the healthy trend.

A cell is a square of about 0.3 mm, near the distance between B-scans: neighbouring pixels of an interpolated map are
copies of each other, cells are not. Averaging over cells is linear, so a model of the pixels holds for the cells with
the same coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import BSpline
from scipy.sparse import csr_array

from clarion.errors import DataError
from clarion.oct.enface import Grid

CELL_MM = 0.3
MAX_CELLS = 450  # the cost of the covariance grows with its cube
RADIUS_MM = 3.6  # the optic disc begins about 3.75 mm from the fovea
MIN_COVERAGE = 0.5  # share of a cell that must be measured

_RADIAL_KNOTS_MM = (0.0, 0.25, 0.5, 0.8, 1.2, 1.8, 2.6, RADIUS_MM)
_ANGULAR_KNOTS_MM = (0.0, 1.2, RADIUS_MM)
_HARMONICS = (1, 2)  # 1: nasal-temporal and superior-inferior; 2: an oval fovea, the arcades


@dataclass(frozen=True)
class Cells:
    """Cells of one eye. `average` [n cells, n pixels] turns values of the used pixels into means of the cells."""

    x_mm: np.ndarray  # [n] centroid of the measured pixels, relative to the fovea (or to the scanned centre)
    y_mm: np.ndarray
    size_mm: float
    used: np.ndarray = field(repr=False)  # bool [rows, columns]: pixels that belong to a cell
    average: csr_array = field(repr=False)

    def __len__(self) -> int:
        return len(self.x_mm)

    def mean(self, image: np.ndarray) -> np.ndarray:
        """Cell means of a map [rows, columns] -> [n], or of columns of pixel values [n pixels, k] -> [n, k]."""
        return self.average @ (image[self.used] if image.shape == self.used.shape else image)


def make_cells(measured: np.ndarray, grid: Grid, centre_mm: tuple[float, float]) -> Cells:
    """Cells over the measured pixels (bool [rows, columns], at least one), one of them centred on centre_mm.

    Raises DataError where no cell is half measured.
    """
    x, y = grid.mm()
    x, y = x - centre_mm[0], y - centre_mm[1]
    size = max(CELL_MM, float(np.sqrt(np.count_nonzero(measured) * grid.pixel_mm2 / MAX_CELLS)), grid.step_mm)
    column, row = (np.floor(v / size + 0.5).astype(np.intp) for v in (x, y))  # one cell sits on the fovea
    label = (row - row.min()) * (np.ptp(column) + 1) + column - column.min()
    full = (size / grid.step_mm) ** 2
    keep = np.bincount(label[measured], minlength=label.max() + 1) >= MIN_COVERAGE * full
    used = measured & keep[label]
    if not used.any():
        raise DataError("The measured patches are all smaller than half a cell of the association: scan a wider field.")
    _, index = np.unique(label[used], return_inverse=True)
    count = np.bincount(index)
    average = csr_array((1.0 / count[index], (index, np.arange(index.size))), shape=(count.size, index.size))
    return Cells(average @ x[used], average @ y[used], size, used, average)


def trend(cells: Cells, grid: Grid, centre_mm: tuple[float, float]) -> np.ndarray:
    """Columns that span the healthy thickness about the fovea, averaged over the cells: [n, k].

    A cubic spline of eccentricity, and two angular harmonics (cos, sin) each with a smooth radial course that
    vanishes at the fovea. The span turns into itself under rotation and reflection about the fovea.
    """
    x, y = grid.mm()
    x, y = x[cells.used] - centre_mm[0], y[cells.used] - centre_mm[1]
    r, angle = np.minimum(np.hypot(x, y), RADIUS_MM), np.arctan2(y, x)
    at = np.linspace(0, RADIUS_MM, 361)
    radial = _spline(at, _RADIAL_KNOTS_MM)
    course = _spline(at, _ANGULAR_KNOTS_MM) * (1 - np.exp(-((at / 0.4) ** 2)))[:, None]
    columns = [np.interp(r, at, b) for b in radial.T]
    turning = [np.interp(r, at, b) for b in course.T]
    for m in _HARMONICS:
        c, s = np.cos(m * angle), np.sin(m * angle)
        columns += [b * wave for b in turning for wave in (c, s)]
    return cells.mean(np.stack(columns, 1))


def independent(columns: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
    """An orthonormal basis [n, rank] of the columns' span: a partly scanned eye leaves some of them empty."""
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, s > tolerance * s[0]]


def _spline(at: np.ndarray, knots: tuple[float, ...]) -> np.ndarray:
    """Cubic B-spline basis [len(at), len(knots) + 2] on the interval of the knots."""
    full = np.r_[[knots[0]] * 3, knots, [knots[-1]] * 3]
    inside = np.clip(at, knots[0], np.nextafter(knots[-1], 0))
    return BSpline.design_matrix(inside, full, 3).toarray()
