"""One Cox model of a few columns: a clinical Cox model, or the covariates that every gene is fitted beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clarion.cancer.cox import kernels as K
from clarion.cancer.cox.adjusted import fit_adjusted
from clarion.cancer.cox.walk import Walk, patient_order, survival_arrays
from clarion.errors import DataError


@dataclass(frozen=True)
class CoxModel:
    """A fitted model: coef [d], covariance [d, d], log partial likelihood at 0 and at coef, score chi-square at 0."""

    coef: np.ndarray
    covariance: np.ndarray
    loglik_null: float
    loglik: float
    converged: bool

    @property
    def se(self) -> np.ndarray:
        return np.sqrt(np.diag(self.covariance))

    @property
    def aic(self) -> float:
        """Partial AIC: 2 d - 2 log partial likelihood."""
        return 2.0 * len(self.coef) - 2.0 * self.loglik


def standardise(design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of mean 0 and standard deviation 1, and the standard deviations (1 where constant)."""
    design = np.asarray(design, dtype=np.float64)
    design = design - design[:1]
    design = design - design.mean(axis=0)
    scale = design.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return np.ascontiguousarray(design / scale), scale


def fit_columns(z: np.ndarray, walk: Walk, efron: bool, tolerance: float = 1e-8, max_iter: int = 50) -> CoxModel:
    """Fit all columns of z [rows of the walk, d] (standardised) together, in units of z."""
    r, d = z.shape
    beta, variance, statistics = np.full((d, 1), np.nan), np.full((d, d, 1), np.nan), np.full((4, 1), np.nan)
    status = np.zeros(1, np.int64)
    first, rest = np.ascontiguousarray(z[:, :1]), np.ascontiguousarray(z[:, 1:])
    fit_adjusted(
        first, rest, np.zeros(d), walk.end, walk.tied, walk.fresh, efron, tolerance, max_iter,
        beta, variance, statistics, status,
    )  # fmt: skip
    return CoxModel(
        beta[:, 0], variance[:, :, 0], float(statistics[1, 0]), float(statistics[2, 0]), bool(status[0] == K.OK)
    )


def fit_model(
    design: np.ndarray | pd.DataFrame,
    time: Sequence[float],
    event: Sequence[bool],
    *,
    ties: str = "efron",
    horizon: float | None = None,
    strata: Sequence | None = None,
) -> CoxModel:
    """Multivariate Cox regression of a few columns, design float [n, d] without missing values.

    Raises DataError where the data have no maximum (separated or redundant columns)."""
    design = np.asarray(design, dtype=np.float64)
    if design.ndim != 2 or not np.isfinite(design).all():
        raise DataError("A Cox model needs a table of finite numbers; impute or drop missing values first.")
    time, event = survival_arrays(time, event, len(design), horizon)
    walk = Walk.of(*patient_order(time, event, strata), np.ones(len(time), bool))
    z, scale = standardise(design[walk.rows])
    model = fit_columns(z, walk, ties == "efron")
    if not model.converged:
        raise DataError("The Cox model has no finite maximum: a column is redundant or separates the deaths.")
    return CoxModel(
        model.coef / scale, model.covariance / np.outer(scale, scale), model.loglik_null, model.loglik, True
    )
