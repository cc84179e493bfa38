"""What happened in each sample at one confidence: hits, false alarms, misses; confusion with the background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clarion.evaluators.join import join
from clarion.evaluators.matching import Boxes, flatten, match

DETECTION_COLUMNS = ("boxes", "scores", "labels")
TRUTH_COLUMNS = ("boxes", "labels")


def per_sample_outcomes(
    predictions: pd.DataFrame, truth: pd.DataFrame, confidence: float, iou: float = 0.5
) -> pd.DataFrame:
    """One row a sample, worst first (most errors, misses before false alarms, then by id), for overlays and lists.

    Columns: sample_id, patient_id, tp, fp, fn (counts); kept (indices into the sample's predicted boxes with a score
    of at least `confidence`, best first), hit (bool for each of them), missed (indices of true boxes not found).
    """
    predictions, truth = join(predictions, truth, DETECTION_COLUMNS, TRUTH_COLUMNS)
    detections, boxes = flatten(predictions, scored=True), flatten(truth, scored=False)
    first_found, first_true = (np.searchsorted(b.image, np.arange(len(truth))) for b in (detections, boxes))
    keep = np.flatnonzero(detections.score >= confidence)
    order = keep[np.argsort(-detections.score[keep], kind="stable")]  # the order in which match returns them
    found = match(detections.take(keep), boxes, np.array([iou]))
    rows = []
    for i, (sample_id, patient_id) in enumerate(zip(truth["sample_id"], truth["patient_id"])):
        here = np.flatnonzero(found.detections.image == i)
        hit = found.tp[here, 0]
        claimed = found.truth[here, 0][hit] - first_true[i]
        missed = np.setdiff1d(np.arange((boxes.image == i).sum()), claimed)
        rows.append(
            {
                "sample_id": sample_id,
                "patient_id": patient_id,
                "tp": int(hit.sum()),
                "fp": int((~hit).sum()),
                "fn": len(missed),
                "kept": (order[here] - first_found[i]).tolist(),
                "hit": hit.tolist(),
                "missed": missed.tolist(),
            }
        )
    table = pd.DataFrame(rows)
    table = table.assign(errors=table["fp"] + table["fn"])
    table = table.sort_values(["errors", "fn", "sample_id"], ascending=[False, False, True], kind="stable")
    return table.drop(columns="errors").reset_index(drop=True)


def confusion(
    detections: Boxes, truth: Boxes, confidence: float, iou: float, class_names: Sequence[str]
) -> dict:
    """Classes and background at one confidence; a box may be claimed by a detection of another class.

    Rows are the truth, columns the prediction; [background, background] is left 0: it has no count.
    """
    kept = detections.take(np.flatnonzero(detections.score >= confidence))
    found = match(kept, truth, np.array([iou]), any_class=True)
    n = max(len(class_names), *(int(b.label.max(initial=-1)) + 1 for b in (detections, truth)))
    labels = [class_names[i] if i < len(class_names) else str(i) for i in range(n)]
    matrix = np.zeros((n + 1, n + 1), dtype=int)
    claimed = found.truth[:, 0]
    true_label = np.where(claimed >= 0, truth.label[claimed] if len(truth) else n, n)
    np.add.at(matrix, (true_label, found.detections.label), 1)
    unseen = np.setdiff1d(np.arange(len(truth)), claimed)
    np.add.at(matrix, (truth.label[unseen], n), 1)
    return {"labels": [*labels, "background"], "matrix": matrix.tolist(), "rows": "truth", "columns": "prediction"}
