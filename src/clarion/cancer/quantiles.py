"""Scaling that a checkpoint may hold: normal scores by a few quantiles, which are nobody's values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from clarion.errors import DataError

PER_KNOT = 5  # training patients a knot stands for at least: no patient's own value can be read from a checkpoint
MOST_KNOTS = 65


@dataclass(frozen=True)
class QuantileNormal:
    """Normal scores by a few quantiles of the training values: rank-normal scaling that holds nobody's values.

    knots: float32 [K, p], rising; level k stands at (k + 1/2) / K. Between knots the score is linear, beyond the ends
    it is that of the end; tied knots share their mean score, a gene of one value scores 0. Missing stays missing."""

    knots: np.ndarray
    scores: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.knots)
        levels = ndtri((np.arange(count) + 0.5) / count)
        scores = np.repeat(levels[:, None], self.knots.shape[1], axis=1)
        for gene in np.flatnonzero((np.diff(self.knots, axis=0) == 0).any(axis=0)):
            _, group, size = np.unique(self.knots[:, gene], return_inverse=True, return_counts=True)
            scores[:, gene] = (np.bincount(group, levels) / size)[group].round(12)  # a constant gene: 0, no dust
        object.__setattr__(self, "scores", scores)

    @classmethod
    def fit(cls, values: np.ndarray) -> QuantileNormal:
        """values float [n, p], NaN missing. A gene nobody has gets knots of 0."""
        values = np.asarray(values, np.float32)
        if values.ndim != 2 or not len(values):
            raise DataError("Scaling needs a table of patients x genes with at least one patient.")
        count = int(np.clip(len(values) // PER_KNOT, 3, MOST_KNOTS))
        levels = (np.arange(count) + 0.5) / count
        known = np.isfinite(values)
        filled = np.where(known.any(axis=0), values, np.float32(0))
        quantiles = np.quantile if known.all() else np.nanquantile  # the second looks at each gene alone: slow
        return cls(quantiles(filled, levels, axis=0).astype(np.float32))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """[n, p] -> float32 [n, p]; DataError where the number of genes differs."""
        values = np.asarray(values, np.float32)
        if values.ndim != 2 or values.shape[1] != self.knots.shape[1]:
            raise DataError("The scaling was learned on another number of genes; keep the same columns.")
        out = np.empty(values.shape, np.float32)
        for gene in range(values.shape[1]):
            out[:, gene] = np.interp(values[:, gene], self.knots[:, gene], self.scores[:, gene])
        out[~np.isfinite(values)] = np.nan
        return out
