"""Average precision, and precision and recall over confidence, under patient weights.

One pass prepares counts per patient; every resample is then a matrix product and a cumulative sum. A weight w acts as
w copies of the patient's images (tests compare it with real copies), so a row of ones gives the plain score.

Why only true positives are walked through: average precision reads the envelope max(precision to the right), and
precision falls at every false positive, so the envelope is attained at true positives alone. The false positives
between two of them enter as one count per patient. That prunes 195,000 detections to the few that can matter,
exactly, for any weights.
"""

from __future__ import annotations

import numpy as np

from clarion.evaluators.bootstrap import group_counts
from clarion.evaluators.matching import Boxes, Matches

RECALL_GRID = np.linspace(0, 1, 101)
CONFIDENCE_GRID = np.linspace(0, 1, 1000)


class PrecisionRecall:
    """Counts of one matching, per class and patient.

    matches, truth: see matching; patient [n images] int codes; n_patients P; coco: read the curve as pycocotools does.
    classes [C]: those that occur in the truth. Others are left out, as both references do.
    """

    def __init__(self, matches: Matches, truth: Boxes, patient: np.ndarray, n_patients: int, coco: bool = False):
        self.coco = coco
        self.classes = np.unique(truth.label)
        self.truths = group_counts(
            np.searchsorted(self.classes, truth.label), patient[truth.image], len(self.classes), n_patients
        )
        self.n_thresholds = matches.tp.shape[1]
        self._steps = []  # per class, per threshold: (patients of the true positives [K], detections up to each)
        self._confidence = []
        for label in self.classes:
            keep = matches.detections.label == label
            tp, owner = matches.tp[keep], patient[matches.detections.image[keep]]
            self._steps.append([_steps(tp[:, t], owner, n_patients) for t in range(self.n_thresholds)])
            self._confidence.append(_Confidence(matches.detections.score[keep], tp[:, 0], owner, n_patients))

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """weights [B, P] -> AP [B, C, T]; NaN where a resample holds no true box of the class.

        101-point interpolation. pycocotools takes the mean of the envelope at recalls r = 0, .01 .. 1, at the first
        point with recall >= r; ultralytics takes the trapezoid over the same r, at the first point with recall > r
        (numpy.interp on its repeated recalls). A faultless detector scores 1.000 by the first, .995 by the second.
        """
        n_true = self.truths @ weights.T  # [C, B]
        ap = np.full((len(weights), len(self.classes), self.n_thresholds), np.nan)
        for c, levels in enumerate(self._steps):
            some = n_true[c] > 0
            for t, (owner, until) in enumerate(levels):
                ap[some, c, t] = self._area(owner, until, weights[some], n_true[c, some])
        return ap

    def _area(self, owner, until, weights, n_true) -> np.ndarray:
        if len(owner) == 0:
            return np.zeros(len(weights))
        recall, envelope = _curve(owner, until, weights, n_true)
        reached = np.searchsorted(RECALL_GRID, recall.ravel(), "right" if self.coco else "left").reshape(recall.shape)
        points = np.diff(reached, axis=0, prepend=0)  # grid points that read each step of the envelope
        total = (points * envelope).sum(0)
        if self.coco:
            return total / len(RECALL_GRID)
        return (total - 0.5 * envelope[0]) / (len(RECALL_GRID) - 1)  # half weight at r = 0, and nothing is > r = 1

    def pr_curve(self, threshold: int = 0) -> np.ndarray:
        """Interpolated precision at RECALL_GRID, mean over classes, [101]; 0 where the recall is never reached."""
        curves = [np.zeros(len(RECALL_GRID))] if len(self.classes) == 0 else []
        for c in range(len(self.classes)):
            owner, until = self._steps[c][threshold]
            ones = np.ones((1, self.truths.shape[1]))
            curve = np.zeros(len(RECALL_GRID))
            if len(owner):
                recall, envelope = _curve(owner, until, ones, (self.truths @ ones.T)[c])
                step = np.searchsorted(recall[:, 0], RECALL_GRID, "left")
                curve = np.append(envelope[:, 0], 0.0)[step]
            curves.append(curve)
        return np.mean(curves, axis=0)

    def over_confidence(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and F1 at CONFIDENCE_GRID, means over the classes present: three [B, 1000].

        As ultralytics reads them: linear between neighbouring detections, precision 1 and recall 0 above the best
        score; a class without any detection counts 0.
        """
        n_true = self.truths @ weights.T
        sums = np.zeros((3, len(weights), len(CONFIDENCE_GRID)))
        for c, confidence in enumerate(self._confidence):
            precision, recall = confidence(weights, n_true[c])
            f1 = 2 * precision * recall / (precision + recall + 1e-16)
            sums += np.where((n_true[c] > 0)[:, None], np.stack([precision, recall, f1]), 0.0)
        present = (n_true > 0).sum(0)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return tuple(np.where(present > 0, s / present, np.nan) for s in sums)


def best_f1(f1: np.ndarray) -> np.ndarray:
    """[B, 1000] F1 over confidence -> [B] grid index of its maximum after a box filter of 101 points, the smoothing
    by which ultralytics picks the operating confidence."""
    width = 101
    smooth = [np.convolve(np.pad(row, width // 2, mode="edge"), np.ones(width) / width, mode="valid") for row in f1]
    return np.argmax(smooth, axis=1)


def _steps(tp: np.ndarray, owner: np.ndarray, n_patients: int):
    """tp [N] in falling score -> (owner of each true positive [K], detections per patient in the stretch that ends
    with each true positive [K, P])."""
    at = np.flatnonzero(tp)
    if len(at) == 0:
        return owner[at], np.zeros((0, n_patients))
    until = at[-1] + 1
    stretch = np.cumsum(tp[:until]) - tp[:until]
    return owner[at], group_counts(stretch, owner[:until], len(at), n_patients)


def _curve(owner, until, weights, n_true) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision envelope at every true positive: two [K, B]."""
    found = np.cumsum(weights.T[owner], axis=0)
    seen = np.cumsum(until @ weights.T, axis=0)
    precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
    return found / n_true, np.maximum.accumulate(precision[::-1], axis=0)[::-1]


class _Confidence:
    """Precision and recall of one class at IoU .5 on CONFIDENCE_GRID, from counts at the two detections beside each
    grid value."""

    def __init__(self, score: np.ndarray, tp: np.ndarray, owner: np.ndarray, n_patients: int):
        self.n = len(score)
        if self.n == 0:
            return
        last = np.searchsorted(-score, -CONFIDENCE_GRID, "right") - 1  # last detection with score >= grid value
        following = np.minimum(last + 1, self.n - 1)
        self.above = last < 0
        last = np.maximum(last, 0)
        gap = score[last] - score[following]
        ahead = np.clip(score[last] - CONFIDENCE_GRID, 0, None)
        self.share = np.divide(ahead, gap, out=np.zeros_like(gap), where=gap > 0)
        places, where = np.unique(np.concatenate([last, following]), return_inverse=True)
        self.last, self.following = np.split(where, 2)
        row = np.searchsorted(places, np.arange(self.n), "left")  # counted from the first place at or after it
        use = row < len(places)
        self.seen = group_counts(row[use], owner[use], len(places), n_patients)
        self.found = group_counts(row[use & tp], owner[use & tp], len(places), n_patients)

    def __call__(self, weights: np.ndarray, n_true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.n == 0:
            nothing = np.zeros((len(weights), len(CONFIDENCE_GRID)))
            return nothing, nothing
        found = np.cumsum(self.found @ weights.T, axis=0)
        seen = np.cumsum(self.seen @ weights.T, axis=0)
        # Before the first drawn detection: nothing was found and nothing was wrong, as above the best score.
        precision = np.divide(found, seen, out=np.ones_like(found), where=seen > 0)
        recall = np.divide(found, n_true, out=np.zeros_like(found), where=n_true > 0)
        on_grid = []
        for values, beyond in ((precision, 1.0), (recall, 0.0)):
            line = values[self.last] + self.share[:, None] * (values[self.following] - values[self.last])
            on_grid.append(np.where(self.above[:, None], beyond, line).T)
        return on_grid[0], on_grid[1]
