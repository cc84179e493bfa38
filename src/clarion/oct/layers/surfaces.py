"""From per-column probabilities to eight smooth, ordered, sub-pixel surfaces; all scans and surfaces at once.

1. Path. For each surface the row r(c) of every column c that maximises  sum_c log p(r(c), c) - jump * |r(c) - r(c-1)|:
   dynamic programming over columns (Viterbi). With a penalty that is linear in the jump, the best predecessor of every
   row is found by two running maxima (the distance transform of Felzenszwalb & Huttenlocher 2012, Theory of Computing
   8:415), so jumps of any size cost no more time.
2. Sub-pixel. Mean and variance of the probability within a few rows of the path.
3. Order. Where surfaces would cross, the least-squares ordered positions, weighted by 1/variance: isotonic regression
   by its min-max formula (Barlow et al. 1972, Statistical Inference under Order Restrictions).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

JUMP = 0.35  # log-probability lost per row of difference between neighbouring columns
REACH = 4  # rows on both sides of the path that count towards its mean
CHUNK = 96  # curves traced together: bounds memory


@dataclass(frozen=True)
class Traced:
    """Curves at the scale of the probabilities: rows, variance (rows^2) and mass near the path, [..., columns] each."""

    rows: np.ndarray
    variance: np.ndarray
    mass: np.ndarray


def trace(logits: torch.Tensor, jump: float = JUMP) -> Traced:
    """logits float32 [n, k, rows, columns] (softmax along rows) -> the k surfaces of n scans, float32 [n, k, columns].

    Where a surface is not visible the network spreads its probability: `mass` tells (1: certain, 9/rows: nothing).
    """
    n, k, height, width = logits.shape
    curves = logits.permute(0, 1, 3, 2).reshape(n * k, width, height)
    parts = [_trace(part, jump) for part in curves.split(CHUNK)]
    rows, variance, mass = (np.concatenate(values).reshape(n, k, width) for values in zip(*parts, strict=True))
    return Traced(ordered(rows, 1 / (variance + 0.05)), variance, mass)


def _trace(logits: torch.Tensor, jump: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """logits [m, columns, rows] -> rows, variance, mass, [m, columns] each."""
    log_p = logits.log_softmax(-1)
    path = torch.from_numpy(best_path(log_p.numpy(), jump))
    height = logits.shape[-1]
    around = path[..., None] + torch.arange(-REACH, REACH + 1)
    inside = (around >= 0) & (around < height)
    p = log_p.gather(-1, around.clamp(0, height - 1)).exp() * inside
    mass = p.sum(-1)
    p = p / mass.clamp(min=1e-12)[..., None]
    mean = (p * around).sum(-1)
    variance = (p * (around - mean[..., None]) ** 2).sum(-1)
    return mean.numpy(), variance.numpy(), mass.numpy()


def best_path(log_p: np.ndarray, jump: float = JUMP) -> np.ndarray:
    """log_p float32 [m, columns, rows] -> the best row of every column, int64 [m, columns]."""
    m, width, height = log_p.shape
    slope = (jump * np.arange(height)).astype(np.float32)
    best = np.empty((width, m, height), np.float32)
    best[0] = log_p[:, 0]
    for c in range(1, width):
        # max over r' <= r of best(r') - jump (r - r'), then the same from below
        down = np.maximum.accumulate(best[c - 1] + slope, axis=1)
        down -= slope
        up = np.maximum.accumulate((best[c - 1] - slope)[:, ::-1], axis=1)[:, ::-1]
        up += slope
        np.maximum(down, up, out=best[c])
        best[c] += log_p[:, c]
        best[c] -= best[c].max(axis=1, keepdims=True)  # sums over many columns would lose digits
    path = np.empty((m, width), np.int64)
    path[:, -1] = best[-1].argmax(1)
    for c in range(width - 2, -1, -1):
        distance = np.abs(np.arange(height) - path[:, c + 1, None]).astype(np.float32)
        path[:, c] = (best[c] - np.float32(jump) * distance).argmax(1)
    return path


def ordered(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Least-squares non-decreasing rows along axis 1; rows, weight [n, k, columns], finite, weight > 0.

    min-max formula: the k-th value is the largest, over starts a <= k, of the smallest, over ends b >= k, of the
    weighted mean of a..b.
    """
    if (np.diff(rows, axis=1) >= 0).all():
        return rows
    k = rows.shape[1]
    total = np.cumsum(rows * weight, axis=1, dtype=np.float64)
    weights = np.cumsum(weight, axis=1, dtype=np.float64)
    total, weights = (np.concatenate([np.zeros_like(v[:, :1]), v], axis=1) for v in (total, weights))
    result = np.full(rows.shape, -np.inf)
    for a in range(k):
        means = (total[:, a + 1 :] - total[:, a : a + 1]) / (weights[:, a + 1 :] - weights[:, a : a + 1])
        # smallest mean of a..b over b >= each k: a running minimum from the end
        smallest = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        result[:, a:] = np.maximum(result[:, a:], smallest)
    return result.astype(rows.dtype)
