"""Probabilities scored: discrimination, calibration and agreement, beside the majority baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError
from clarion.evaluators import confusion_statistics as cs
from clarion.evaluators.bootstrap import Interval, Statistic, auc_statistic, bootstrap, codes, entry, group_counts
from clarion.evaluators.join import join
from clarion.evaluators.subgroups import subgroups

BOOTSTRAP = "percentile bootstrap over patients"
CALIBRATION_BINS = 10
METHODS = {
    "accuracy": "share of samples whose most probable class is the true one",
    "balanced_accuracy": "mean sensitivity over classes",
    "macro_f1": "mean F1 over classes",
    "auroc": "area under the ROC curve, one class against the rest, mean over classes",
    "average_precision": "average precision (step-wise), one class against the rest, mean over classes",
    "brier": "Brier score, sum over classes of (probability - truth)^2, mean over samples (0 best, 2 worst)",
    "ece": f"expected calibration error of the top class, {CALIBRATION_BINS} bins of equal width",
    "kappa": "Cohen's kappa",
    "kappa_quadratic": "Cohen's kappa, quadratic weights",
}


class ClassificationEvaluator:
    """Scores for a classifier; `evaluate` returns the dict described in CONTRIBUTING.

    ordinal: classes are ordered (stages), so quadratic kappa is reported; n_resamples, level, most_values: see
    DetectionEvaluator.
    """

    def __init__(
        self, task: str = "classification", n_resamples: int = 1000, level: float = 0.95, ordinal: bool = True,
        most_values: int = 12, name: str = "classification",
    ):
        self.task, self.name, self.ordinal = task, name, ordinal
        self.n_resamples, self.level, self.most_values = n_resamples, level, most_values

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id, probabilities; truth: label instead, and any column that makes
        subgroups; context: class_names, seed, train_counts (samples per class in training) or None."""
        seed, notes = int(context.get("seed") or 0), []
        predictions, truth = join(predictions, truth, ["probabilities"], ["label"])
        probability = _probabilities(predictions)
        label = _labels(truth, probability.shape[1])
        names = _class_names(context, probability.shape[1])
        patients = truth["patient_id"].to_numpy()
        metrics = self._score(probability, label, patients, seed, names, notes)
        chosen = probability.argmax(1)
        matrix = np.zeros((len(names),) * 2, dtype=int)
        np.add.at(matrix, (label, chosen), 1)
        groups: dict[str, dict] = {}
        for column, value, rows in subgroups(truth, ("label",), self.most_values, notes):
            part = self._score(probability[rows], label[rows], patients[rows], seed, None, [])
            groups.setdefault(column, {})[value] = part
        return {
            "metrics": metrics,
            "baseline": self._baseline(label, patients, len(names), context, seed, notes),
            "curves": _curves(probability, label, names),
            "confusion": {"labels": names, "matrix": matrix.tolist(), "rows": "truth", "columns": "prediction"},
            "subgroups": groups,
            "notes": notes,
        }

    def _score(self, probability, label, patients, seed, names: Sequence[str] | None, notes) -> dict:
        """Entries for all rows; `names` adds sensitivity and specificity per class."""
        patient, who = codes(patients)
        stat = _statistic(probability, label, patient, len(who), self.ordinal, names)
        found: dict[str, Interval] = bootstrap(stat, patients, self.n_resamples, seed, self.level, per_group=True)
        entries = {}
        for name, interval in found.items():
            what = METHODS.get(name) or f"{name.replace('_', ' of class ', 1)} against the rest"
            entries[name] = entry(interval, len(label), len(who), f"{what}; {BOOTSTRAP}", None, notes, name)
        return entries

    def _baseline(self, label, patients, n_classes, context, seed, notes) -> dict:
        counts, source = context.get("train_counts"), "training"
        if counts is None:
            counts, source = np.bincount(label, minlength=n_classes), "test"
            notes.append("Baseline: class frequencies come from the test, for want of those of the training.")
        elif isinstance(counts, Mapping):
            names = _class_names(context, n_classes)
            counts = [counts.get(name, counts.get(i, counts.get(str(i), 0))) for i, name in enumerate(names)]
        counts = np.asarray(counts, dtype=np.float64)
        if counts.shape != (n_classes,) or not counts.sum() > 0:
            raise DataError(f"context train_counts must hold one count for each of the {n_classes} classes.")
        probability = np.tile(counts / counts.sum(), (len(label), 1))
        entries = self._score(probability, label, patients, seed, None, [])
        what = f"majority class and class frequencies of the {source}"
        return {name: {**found, "name": what} for name, found in entries.items()}


def _probabilities(predictions: pd.DataFrame) -> np.ndarray:
    """[n, C] rows that sum to 1. DataError names the first sample that breaks this."""
    rows = [np.asarray(p, dtype=np.float64) for p in predictions["probabilities"]]
    sizes = {row.shape for row in rows}
    if len(sizes) != 1 or len(rows[0].shape) != 1 or rows[0].size < 2:
        raise DataError("Column probabilities must hold one list of the same length (>= 2 classes) for every sample.")
    table = np.stack(rows)
    wrong = ~np.isfinite(table).all(1) | (table < -1e-6).any(1) | (np.abs(table.sum(1) - 1) > 1e-3)
    if wrong.any():
        sample_id = predictions["sample_id"].iloc[int(np.argmax(wrong))]
        raise DataError(
            f"{int(wrong.sum())} sample(s), first {sample_id}, have probabilities that do not sum to 1: "
            "hand the evaluator softmax outputs, not logits."
        )
    return table / table.sum(1, keepdims=True)


def _labels(truth: pd.DataFrame, n_classes: int) -> np.ndarray:
    label = truth["label"].to_numpy()
    bad = pd.isna(label) | ~np.isin(label, np.arange(n_classes))
    if bad.any():
        sample_id = truth["sample_id"].iloc[int(np.argmax(bad))]
        raise DataError(
            f"{int(bad.sum())} sample(s), first {sample_id}, have a label outside 0..{n_classes - 1}, the classes "
            "predicted: the model was trained on other classes than this data."
        )
    return label.astype(np.intp)


def _class_names(context: Mapping[str, Any], n_classes: int) -> list[str]:
    names = [str(name) for name in context.get("class_names") or range(n_classes)]
    if len(names) != n_classes:
        raise DataError(f"The predictions have {n_classes} classes, the data {len(names)} ({', '.join(names)}).")
    return names


def _statistic(probability, label, patient, n_patients, ordinal, names) -> Statistic:
    n, n_classes = probability.shape
    chosen = probability.argmax(1)
    matrices = cs.ConfusionCounts(label, chosen, n_classes, patient, n_patients)
    squares = ((probability - np.eye(n_classes)[label]) ** 2).sum(1)
    brier = np.bincount(patient, squares, n_patients)
    size = np.bincount(patient, minlength=n_patients).astype(np.float64)
    top = probability.max(1)
    bins = np.minimum((top * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gap = group_counts(bins, patient, CALIBRATION_BINS, n_patients, top - (chosen == label))
    # With two classes both one-against-rest problems are the same ranking turned over: score the second alone.
    scored = [1] if n_classes == 2 else range(n_classes)
    areas = [auc_statistic(probability[:, c], label == c, patient, n_patients) for c in scored]
    averages = [average_precision_statistic(probability[:, c], label == c, patient, n_patients) for c in scored]

    def stat(w: np.ndarray) -> dict[str, np.ndarray]:
        matrix, total = matrices(w), w @ size
        values = {
            "accuracy": cs.accuracy(matrix),
            "balanced_accuracy": cs.balanced_accuracy(matrix),
            "macro_f1": cs.macro_f1(matrix),
            "auroc": cs.mean_defined(np.stack([a(w) for a in areas], axis=1)),
            "average_precision": cs.mean_defined(np.stack([a(w) for a in averages], axis=1)),
            "brier": cs.ratio(w @ brier, total),
            "ece": cs.ratio(np.abs(gap @ w.T).sum(0), total),
            "kappa": cs.kappa(matrix),
        }
        if ordinal and n_classes > 2:
            values["kappa_quadratic"] = cs.kappa(matrix, "quadratic")
        for c, name in enumerate(names or []):
            values[f"sensitivity_{name}"] = cs.sensitivity(matrix)[:, c]
            values[f"specificity_{name}"] = cs.specificity(matrix)[:, c]
        return values

    return stat


def average_precision_statistic(score, positive, group, n_groups) -> Statistic:
    """Weighted average precision, sum of precision times the step in recall over distinct scores (scikit-learn's
    definition), as a function of group weights [B, P] -> [B]; NaN without positives."""
    levels, level = np.unique(-np.asarray(score, dtype=np.float64), return_inverse=True)
    hits = group_counts(level[positive], group[positive], len(levels), n_groups)
    every = group_counts(level, group, len(levels), n_groups)

    def stat(w: np.ndarray) -> np.ndarray:
        hit = hits @ w.T  # [levels, B]
        found, seen = np.cumsum(hit, axis=0), np.cumsum(every @ w.T, axis=0)
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        return cs.ratio((precision * hit).sum(0), found[-1])

    return stat


def _curves(probability: np.ndarray, label: np.ndarray, names: Sequence[str]) -> dict:
    """ROC and precision-recall of each class against the rest (of two the second alone), calibration of the top one."""
    curves = {}
    for c, name in enumerate(names):
        positive = label == c
        if (len(names) == 2 and c == 0) or not positive.any() or positive.all():
            continue
        order = np.argsort(-probability[:, c], kind="stable")
        last = np.flatnonzero(np.diff(probability[order, c], append=-np.inf))  # equal scores move together
        true, false = np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]
        recall = true / positive.sum()
        fall_out, precision = false / (~positive).sum(), true / (true + false)
        curves[f"roc_{name}"] = _curve(np.r_[0, fall_out], np.r_[0, recall], "1 - specificity", "sensitivity")
        curves[f"pr_{name}"] = _curve(recall, precision, "recall", "precision")
    top, right = probability.max(1), probability.argmax(1) == label
    bins = np.minimum((top * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    n = np.bincount(bins, minlength=CALIBRATION_BINS)
    full = n > 0
    mean, share = (np.bincount(bins, v, CALIBRATION_BINS)[full] / n[full] for v in (top, right))
    curves["calibration"] = _curve(mean, share, "mean probability of the top class", "accuracy")
    curves["calibration"]["n"] = n[full].tolist()
    return curves


def _curve(x: np.ndarray, y: np.ndarray, x_label: str, y_label: str, most: int = 201) -> dict:
    some = np.unique(np.linspace(0, len(x) - 1, min(most, len(x))).round().astype(int))
    x, y = (np.round(values[some], 6).tolist() for values in (x, y))
    return {"x": x, "y": y, "x_label": x_label, "y_label": y_label}
