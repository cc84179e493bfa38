"""How alike the thickness of two places is beyond the trend: a Matern covariance fitted by restricted likelihood.

Patterson & Thompson 1971 (REML); Matern class: Stein 1999. All intervals of the association come from it, because
ten thousand pixels of a smooth map hold the information of some tens of independent ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import cholesky, solve_triangular

# Smoothness and length (mm): rough maps that vary over long ranges, smooth ones over short ranges.
_SHAPES = ((0.5, 0.5), (0.5, 1.0), (0.5, 2.0), (0.5, 4.0), (1.5, 0.35), (1.5, 0.5), (1.5, 0.7), (1.5, 1.0), (1.5, 1.6))
_FIRST_NUGGET = 0.01
_NUGGETS = (0.002, 0.05, 0.2, 0.5)  # share of the variance that belongs to single cells
_JITTER = 1e-6


@dataclass(frozen=True)
class Covariance:
    """matrix = variance * ((1 - nugget) * Matern(distance / length) + nugget * I), um^2 [n, n]."""

    variance_um2: float
    length_mm: float
    smoothness: float
    nugget: float
    root: np.ndarray = field(repr=False)  # lower Cholesky factor of the matrix

    @property
    def range_mm(self) -> float:
        """Distance at which the correlation has fallen to 5 % (the practical range)."""
        return {0.5: 2.996, 1.5: 2.739}[self.smoothness] * self.length_mm

    @property
    def matrix(self) -> np.ndarray:
        return self.root @ self.root.T

    def whiten(self, columns: np.ndarray) -> np.ndarray:
        """root^-1 columns: residuals of the model become white."""
        return solve_triangular(self.root, columns, lower=True, check_finite=False)


def matern(distance: np.ndarray, length: float, smoothness: float) -> np.ndarray:
    """Matern correlation of smoothness 1/2 or 3/2 (Rasmussen & Williams 2006, eq. 4.17)."""
    s = np.sqrt(2 * smoothness) * distance / length
    return np.exp(-s) if smoothness == 0.5 else np.exp(-s) * (1 + s)


def fit(values: np.ndarray, design: np.ndarray, x_mm: np.ndarray, y_mm: np.ndarray) -> Covariance:
    """The covariance of values [n] (um) about the span of design [n, k], by REML over tables of shapes and nuggets."""
    distance = np.hypot(x_mm[:, None] - x_mm, y_mm[:, None] - y_mm)
    joint = np.column_stack([design, values])
    free = len(values) - design.shape[1]

    def candidate(shape: tuple[float, float], nugget: float) -> tuple[float, Covariance]:
        smoothness, length = shape
        correlation = (1 - nugget) * matern(distance, length, smoothness)
        correlation[np.diag_indices_from(correlation)] = 1 + _JITTER
        root = cholesky(correlation, lower=True, overwrite_a=True, check_finite=False)
        white = solve_triangular(root, joint, lower=True, check_finite=False)
        # R's last diagonal entry is the length of the residual, the others give the determinant of X' C^-1 X
        diagonal = np.abs(np.diag(np.linalg.qr(white, mode="r")))
        variance = max(float(diagonal[-1] ** 2 / free), 1e-9)
        minus_twice_log_likelihood = (
            2 * np.log(np.diag(root)).sum() + free * np.log(variance) + 2 * np.log(diagonal[:-1]).sum()
        )
        return minus_twice_log_likelihood, Covariance(variance, length, smoothness, nugget, root * np.sqrt(variance))

    best = min((candidate(shape, _FIRST_NUGGET) for shape in _SHAPES), key=lambda c: c[0])
    shape = (best[1].smoothness, best[1].length_mm)
    return min([best, *(candidate(shape, nugget) for nugget in _NUGGETS)], key=lambda c: c[0])[1]
