"""Rank-normal scores learned on training patients: what tames the outliers of public z-score matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from clarion.errors import DataError


@dataclass(frozen=True)
class RankNormal:
    """Each gene's values replaced by the normal score of their rank among the training patients.

    score = Phi^-1((r - 3/8) / (n + 1/4)) (Blom 1958), ties share their mean rank, missing values stay missing. A value
    of a new patient lies between two ranks and gets the score between theirs; beyond the ends it gets the end's."""

    sorted_values: np.ndarray  # float32 or float64 [n, p], NaN last
    counts: np.ndarray  # int [p], known values

    @classmethod
    def fit(cls, expression: np.ndarray) -> RankNormal:
        """expression float [n, p]. DataError where there is nobody to learn from."""
        values = np.asarray(expression)
        if values.ndim != 2 or not len(values):
            raise DataError("Rank-normal scores need a table of patients x genes with at least one patient.")
        return cls(np.sort(values, axis=0), np.isfinite(values).sum(axis=0))

    def apply(self, expression: np.ndarray) -> np.ndarray:
        """[m, p] -> float64 [m, p]. DataError where the number of genes differs."""
        values = np.asarray(expression)
        if values.ndim != 2 or values.shape[1] != self.sorted_values.shape[1]:
            raise DataError("Rank-normal scores were learned on another number of genes; keep the same columns.")
        out = np.full(values.shape, np.nan)
        for gene, count in enumerate(self.counts):
            if not count:
                continue
            known, column = self.sorted_values[:count, gene], values[:, gene]
            below = np.searchsorted(known, column, side="left")
            upto = np.searchsorted(known, column, side="right")
            # equal to training values: their mean rank; between two: half-way between their ranks
            rank = np.clip((below + upto + 1) / 2.0, 1.0, count)
            out[:, gene] = np.where(np.isnan(column), np.nan, ndtri((rank - 0.375) / (count + 0.25)))
        return out


def rank_normal(expression: np.ndarray) -> np.ndarray:
    """Rank-normal scores of a table by its own ranks, [n, p] -> float64 [n, p]; within one set of patients only."""
    return RankNormal.fit(expression).apply(expression)
