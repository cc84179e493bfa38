"""Scores that a confusion matrix holds, for many matrices at once.

matrix [B, C, C] float, rows the truth, columns the prediction (or the two raters); every function returns [B],
NaN where the score is not defined.
"""

from __future__ import annotations

import numpy as np

from clarion.evaluators.bootstrap import group_counts


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is not positive."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


class ConfusionCounts:
    """Confusion matrices under patient weights: first, second [n] int in 0..C-1, patient [n] codes."""

    def __init__(self, first: np.ndarray, second: np.ndarray, n_classes: int, patient: np.ndarray, n_patients: int):
        self.n_classes = n_classes
        self.counts = group_counts(first * n_classes + second, patient, n_classes**2, n_patients)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """weights [B, P] -> [B, C, C]"""
        return (self.counts @ weights.T).T.reshape(len(weights), self.n_classes, self.n_classes)


def accuracy(matrix: np.ndarray) -> np.ndarray:
    return ratio(np.trace(matrix, axis1=1, axis2=2), matrix.sum((1, 2)))


def sensitivity(matrix: np.ndarray) -> np.ndarray:
    """[B, C] recall of each class, NaN for a class without truth."""
    return ratio(np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(2))


def specificity(matrix: np.ndarray) -> np.ndarray:
    """[B, C] share of the other classes that is not called this one."""
    right = np.diagonal(matrix, axis1=1, axis2=2)
    others = matrix.sum((1, 2))[:, None] - matrix.sum(2)
    return ratio(others - (matrix.sum(1) - right), others)


def balanced_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Mean sensitivity over the classes present (scikit-learn's definition)."""
    return mean_defined(sensitivity(matrix))


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur in truth or prediction; a class never found counts 0."""
    right = np.diagonal(matrix, axis1=1, axis2=2)
    return mean_defined(ratio(2 * right, matrix.sum(1) + matrix.sum(2)))


def mean_defined(values: np.ndarray) -> np.ndarray:
    """[B, C] -> [B] mean over the defined columns."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(1), defined.sum(1))


def kappa(matrix: np.ndarray, weighting: str = "unweighted") -> np.ndarray:
    """Cohen's kappa (1960; weighted 1968): 1 - observed / expected disagreement. weighting: unweighted, linear or
    quadratic in the distance of the classes' indices (ordinal classes). NaN if chance alone forces agreement."""
    n = matrix.shape[1]
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(np.float64)
    cost = {"unweighted": (distance > 0).astype(np.float64), "linear": distance, "quadratic": distance**2}[weighting]
    total = matrix.sum((1, 2))
    expected = ratio(matrix.sum(2)[:, :, None] * matrix.sum(1)[:, None, :], total[:, None, None])
    return 1 - ratio((matrix * cost).sum((1, 2)), (expected * cost).sum((1, 2)))
