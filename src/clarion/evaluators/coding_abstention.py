"""Abstention: codes below a threshold of confidence are withheld. The curve, and one threshold from validation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from clarion.codes.scores import CodeSets, System
from clarion.evaluators.coding_measures import Ratio, mean
from clarion.evaluators.coding_tables import Predicted, predicted_codes, true_lists
from clarion.evaluators.join import join


def curves(sets: CodeSets, predicted: Predicted) -> dict[str, dict]:
    """abstention: leaf F1 of the cases that keep a code, over their share (coverage); threshold_f1 and
    threshold_coverage: leaf F1 of all cases and coverage over the threshold. {} without confidences."""
    if predicted.confidences is None or not any(predicted.confidences):
        return {}
    found = sets.ranked(predicted.confidences, "leaf").curve()
    return {
        "abstention": _curve(found["coverage"][::-1], found["f1_answered"][::-1], "cases answered", "leaf F1 of these"),
        "threshold_f1": _curve(found["threshold"], found["f1"], "threshold of confidence", "leaf F1 of all cases"),
        "threshold_coverage": _curve(found["threshold"], found["coverage"], "threshold of confidence", "coverage"),
    }


def best_threshold(predictions: pd.DataFrame, truth: pd.DataFrame | None, coder: Callable | None, system: System):
    """The confidence at which the leaf F1 of a (validation) split is highest; None where it has no confidences or no
    codes."""
    if truth is None or "codes" not in truth.columns or not len(truth):
        return None
    predictions, truth = join(predictions, truth, [], ["codes"])
    predicted = predicted_codes(predictions, coder)
    if predicted.confidences is None or not any(predicted.confidences):
        return None
    if not truth["codes"].map(len).any():
        return None
    sets = CodeSets(true_lists(truth, "codes", system, "drop", []), predicted.codes, system)
    found = sets.ranked(predicted.confidences, "leaf").curve()
    return float(found["threshold"][int(np.argmax(found["f1"]))])


def at_threshold(true: list[list[str]], predicted: Predicted, threshold: float, system: System) -> dict[str, Ratio]:
    """Leaf scores of all cases and coverage when codes below the threshold are withheld."""
    kept = [
        [code for code, sure in zip(codes, confidences, strict=True) if sure >= threshold]
        for codes, confidences in zip(predicted.codes, predicted.confidences, strict=True)
    ]
    counts = CodeSets(true, kept, system).counts("leaf")
    what = f"codes of a confidence of at least {threshold:.3g}, which is best on the validation split; micro over cases"
    return {
        "abstaining_leaf_f1": Ratio(2 * counts.both, counts.true + counts.predicted, what),
        "abstaining_leaf_precision": Ratio(counts.both, counts.predicted, what),
        "abstaining_leaf_recall": Ratio(counts.both, counts.true, what),
        "abstaining_coverage": mean(np.array([float(bool(row)) for row in kept]), f"cases with {what}", None, True),
    }


def _curve(x: np.ndarray, y: np.ndarray, x_label: str, y_label: str) -> dict:
    return {"x": x.tolist(), "y": y.tolist(), "x_label": x_label, "y_label": y_label}
