"""What a detector's boxes say about single A-scans.

A box knows only where a membrane begins and ends: gaps inside it read as membrane, and short pieces that annotators
do not box read as none. That is the weakness of every projection made of boxes; network.py looks at the A-scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from clarion.errors import DataError

FEWEST_ASCANS = 50


@dataclass(frozen=True)
class ScoreTable:
    """Best box score over an A-scan (rising, 0: no box) -> probability of membrane there (rising), linear between."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        s, p = np.asarray(self.scores, float), np.asarray(self.probabilities, float)
        sound = s.shape == p.shape and s.ndim == 1 and s.size and np.isfinite(s).all() and np.isfinite(p).all()
        if not (sound and (np.diff(s) > 0).all() and (np.diff(p) >= 0).all() and 0 <= p[0] and p[-1] <= 1):
            raise DataError("A score table needs rising scores and as many probabilities in 0..1 that never fall.")

    def __call__(self, score: np.ndarray) -> np.ndarray:
        return np.interp(score, self.scores, self.probabilities)


def presence_from_boxes(
    boxes: np.ndarray | None, width: int, confidence: float = 0.0, table: ScoreTable | None = None
) -> np.ndarray:
    """Probability of ERM per A-scan, float32 [width]: the best score among the boxes over it, 0 where there is none.

    boxes: [n, 5] x1, y1, x2, y2 (px), score 0..1; those below `confidence` do not count. table: turns best scores into
    probabilities (fit_score_table); without it the score itself is taken. Overlapping boxes are one membrane seen
    twice, so their maximum is taken: a noisy-or would count one sighting as two. An A-scan belongs to a box if its
    middle lies inside. Raises DataError for boxes of another shape.
    """
    best = np.zeros(width)
    rows = np.zeros((0, 5)) if boxes is None or not len(boxes) else np.asarray(boxes, np.float64)
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise DataError(f"Boxes of shape {rows.shape}: presence needs five numbers a box, x1, y1, x2, y2 and score.")
    if not np.isfinite(rows).all():
        raise DataError("A box holds a number that is not finite: drop it before asking for presence.")
    for x1, _, x2, _, score in rows[rows[:, 4] >= confidence]:
        first, last = (int(np.clip(np.ceil(x - 0.5), 0, width)) for x in (x1, x2))
        np.maximum(best[first:last], np.clip(score, 0, 1), out=best[first:last])
    return (best if table is None else table(best)).astype(np.float32)


def fit_score_table(scores: Sequence[np.ndarray], presence: Sequence[np.ndarray], knots: int = 25) -> ScoreTable:
    """Isotonic regression of true presence on the best score per A-scan, read off at `knots` scores.

    scores: presence_from_boxes without a table, [width] a scan; presence: truth 0 or 1, [width] a scan, NaN unknown.
    A-scans without a box get the share of membrane that boxes miss. DataError with fewer than 50 A-scans.
    """
    score, truth = (np.concatenate([np.asarray(v, np.float64) for v in part]) for part in (scores, presence))
    use = np.isfinite(score) & np.isfinite(truth)
    if use.sum() < FEWEST_ASCANS:
        raise DataError(f"{int(use.sum())} A-scans of known presence calibrate nothing: give {FEWEST_ASCANS} or more.")
    level, index = np.unique(score[use], return_inverse=True)
    weight = np.bincount(index).astype(float)
    fitted = isotonic_regression(np.bincount(index, truth[use]) / weight, weights=weight).x
    inside = level[level > 0]
    at = np.unique(np.quantile(inside, np.linspace(0, 1, knots))) if inside.size else inside
    at = np.unique(np.r_[level[level == 0], at])
    return ScoreTable(tuple(at.tolist()), tuple(np.clip(np.interp(at, level, fitted), 0, 1).tolist()))
