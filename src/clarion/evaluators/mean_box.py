"""The trivial detector every trained one must beat: the mean true box, placed on every image."""

from __future__ import annotations

import numpy as np
import pandas as pd

from clarion.evaluators.bootstrap import codes
from clarion.evaluators.matching import flatten


def mean_box_predictions(truth: pd.DataFrame, source: pd.DataFrame | None, seed: int) -> pd.DataFrame:
    """Predictions for the rows of `truth`: per class the mean box, as shares of width and height, put on each image.

    source: the truth to take the mean from (validation); None: for every patient the mean over the other patients of
    `truth`, so that no image sees its own boxes. An image for which nothing is left to average gets no box.
    Scores are drawn at random with `seed`: the box says nothing of its certainty, and equal scores would make
    average precision depend on the order of the images.
    """
    patient, names = codes(truth["patient_id"])
    sums, counts = _sums(truth if source is None else source)
    n_classes = sums.shape[1]
    total, total_count = sums.sum(0), counts.sum(0)
    rng = np.random.default_rng(seed)
    size = _size(truth)
    rows = []
    for i, sample_id in enumerate(truth["sample_id"]):
        left = (total - sums[patient[i]], total_count - counts[patient[i]]) if source is None else (total, total_count)
        labels = [c for c in range(n_classes) if left[1][c] > 0]
        boxes = [(left[0][c] / left[1][c] * size[i]).tolist() for c in labels]
        scores = rng.uniform(0.01, 0.99, len(labels)).tolist()
        rows.append((sample_id, names[patient[i]], boxes, scores, labels))
    return pd.DataFrame(rows, columns=["sample_id", "patient_id", "boxes", "scores", "labels"])


def _sums(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Sum of relative boxes [P, C, 4] and their number [P, C], by patient and class."""
    boxes = flatten(table, scored=False)
    patient, names = codes(table["patient_id"])
    n_classes = int(boxes.label.max(initial=-1)) + 1
    sums, counts = np.zeros((len(names), n_classes, 4)), np.zeros((len(names), n_classes))
    where = (patient[boxes.image], boxes.label)
    np.add.at(sums, where, boxes.box / _size(table)[boxes.image])
    np.add.at(counts, where, 1)
    return sums, counts


def _size(table: pd.DataFrame) -> np.ndarray:
    """[n, 4] width, height, width, height in pixels."""
    return table[["width", "height", "width", "height"]].to_numpy(dtype=np.float64)
