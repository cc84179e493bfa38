"""Boxes scored: average precision, precision and recall, presence per eye, beside the mean-box baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError
from clarion.evaluators.bootstrap import Interval, bootstrap, codes, entry
from clarion.evaluators.join import join
from clarion.evaluators.matching import COCO, IOU_THRESHOLDS, Boxes, Matches, flatten, match
from clarion.evaluators.mean_box import mean_box_predictions
from clarion.evaluators.outcomes import DETECTION_COLUMNS, TRUTH_COLUMNS, confusion, per_sample_outcomes
from clarion.evaluators.precision_recall import CONFIDENCE_GRID, RECALL_GRID, PrecisionRecall, best_f1
from clarion.evaluators.presence import Presence, aucs, eye_rates, eyes_of, presence, youden_threshold
from clarion.evaluators.subgroups import subgroups

__all__ = ["DetectionEvaluator", "operating_confidence", "per_sample_outcomes"]

RESERVED = (*TRUTH_COLUMNS, "width", "height")
BOOTSTRAP = "percentile bootstrap over patients"
METHODS = {
    "map50": f"ultralytics 101-point AP at IoU .5, mean over classes; {BOOTSTRAP}",
    "map50_95": f"ultralytics 101-point AP, mean over IoU .5:.95 and classes; {BOOTSTRAP}",
    "coco_map50": f"pycocotools AP at IoU .5, 100 detections an image; {BOOTSTRAP}",
    "coco_map50_95": f"pycocotools AP at IoU .5:.95, 100 detections an image; {BOOTSTRAP}",
    "precision": f"at the confidence of the best F1, IoU .5, mean over classes; {BOOTSTRAP}, confidence chosen anew",
    "recall": f"at the confidence of the best F1, IoU .5, mean over classes; {BOOTSTRAP}, confidence chosen anew",
    "f1": f"best F1 over confidence, IoU .5, mean over classes; {BOOTSTRAP}, confidence chosen anew",
}
FIXED = {
    "precision": "right boxes of all boxes given",
    "recall": "true boxes found",
    "f1": "harmonic mean of precision and recall",
    "false_positives_per_bscan": "wrong boxes an image",
    "bscan_sensitivity": "B-scans with a true box that got any box",
    "bscan_specificity": "B-scans without a true box that got none",
}


class DetectionEvaluator:
    """Scores for a detector; `evaluate` returns the dict described in CONTRIBUTING.

    n_resamples: bootstrap resamples; level: coverage of the intervals; iou: overlap that counts as found in the
    confusion matrix; most_values: a truth column with more values makes no subgroups.
    """

    def __init__(
        self, task: str = "detection", n_resamples: int = 1000, level: float = 0.95, iou: float = 0.5,
        most_values: int = 12, name: str = "detection",
    ):
        self.task, self.name = task, name
        self.n_resamples, self.level, self.iou, self.most_values = n_resamples, level, iou, most_values

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id, boxes, scores, labels; truth: boxes, labels, width, height instead, and
        any column that makes subgroups; context: class_names, seed, validation (predictions, truth) or None."""
        seed, notes = int(context.get("seed") or 0), []
        validation = _validation(context)
        test = Scored.join(predictions, truth)
        interval = (self.n_resamples, seed, self.level)

        main = test.best(interval)
        confidence = test.operating_confidence()
        metrics = {name: self._entry(main[name], test, METHODS[name], notes, name) for name in main}
        if not len(test.detections):
            notes.append("The detector gave no box at all: precision and F1 are not defined.")
        if not len(test.boxes):
            notes.append("The test holds no true box: average precision and recall are not defined.")
        metrics["confidence"] = self._entry(
            Interval(confidence), test, "confidence of the best F1 on the test, as ultralytics reports it", [], ""
        )
        used = test.at(0.0 if confidence is None else confidence, interval)
        for name in ("false_positives_per_bscan", "bscan_sensitivity", "bscan_specificity"):
            how = f"{FIXED[name]}, at the confidence of the best F1; {BOOTSTRAP}"
            metrics[name] = self._entry(used[name], test, how, notes, name)
        if validation is not None and (chosen := validation.operating_confidence()) is not None:
            fixed = test.at(chosen, interval)
            for name in ("precision", "recall", "f1"):
                how = f"{FIXED[name]}, IoU .5, at confidence {chosen:.3f}, chosen on the validation; {BOOTSTRAP}"
                key = f"{name}_validation_confidence"
                metrics[key] = self._entry(fixed[name], test, how, notes, key)
        metrics.update(self._presence(test, validation, interval, confidence, notes))
        return {
            "metrics": metrics,
            "baseline": self._baseline(test, validation, interval, seed, notes),
            "curves": _curves(test),
            "confusion": confusion(
                test.detections, test.boxes, confidence or 0.0, self.iou, list(context.get("class_names") or [])
            ),
            "subgroups": self._subgroups(test, confidence or 0.0, interval, notes),
            "notes": notes,
        }

    def _entry(self, interval: Interval, scored: Scored, method: str, notes: list[str], name: str) -> dict:
        return entry(interval, len(scored.truth), scored.n_patients, method, None, notes, name)

    def _presence(self, test, validation, interval, confidence, notes) -> dict:
        found = test.presence()
        areas = aucs(found, test.truth["patient_id"], *interval)
        over = {"bscan_auc": "B-scans, score of the best box", "eye_auc": "eyes, score of the best B-scan"}
        metrics = {
            name: self._entry(areas[name], test, f"ROC area over {what}; {BOOTSTRAP}", notes, name)
            for name, what in over.items()
        }
        metrics["eye_auc"]["n"] = len(found.eye_score)
        threshold, where = None, "largest sensitivity + specificity on the validation"
        if validation is not None:
            there = validation.presence()
            threshold = youden_threshold(there.eye_score, there.eye_positive)
        if threshold is None:
            threshold, where = youden_threshold(found.eye_score, found.eye_positive), "chosen on the test itself"
            if threshold is not None:
                notes.append(
                    "eye_sensitivity, eye_specificity: the threshold was chosen on the test itself "
                    "(no validation with eyes of both kinds), so they are optimistic."
                )
        if threshold is None:
            threshold, where = confidence or 1.0, "the confidence of the best F1"
            notes.append("eye_sensitivity, eye_specificity: no eyes of both kinds to choose a threshold on.")
        how = f"eyes, best score >= {threshold:.3f} ({where}); Wilson"
        for name, (rate, n, n_patients) in eye_rates(found, threshold, self.level).items():
            metrics[name] = entry(rate, n, n_patients, how, None, notes, name)
        return metrics

    def _baseline(self, test, validation, interval, seed, notes) -> dict:
        if len(test.boxes) == 0:
            return {}
        source = None if validation is None or not len(validation.boxes) else validation.truth
        where = "the other eyes of the test" if source is None else "the validation"
        notes.append(f"Baseline: the mean true box of {where}, placed on every image with a random score.")
        guess = Scored.join(mean_box_predictions(test.truth, source, seed), test.truth)
        found = guess.best(interval)
        return {
            name: {**self._entry(found[name], guess, METHODS[name], [], name), "name": f"mean box of {where}"}
            for name in found
        }

    def _subgroups(self, test, confidence, interval, notes) -> dict:
        result: dict[str, dict] = {}
        for column, value, rows in subgroups(test.truth, RESERVED, self.most_values, notes):
            part = test.part(rows)
            scores = {**part.areas(interval), **part.at(confidence, interval)}
            how = f"at the confidence of the best F1 of the whole test, {confidence:.3f}; {BOOTSTRAP}"
            result.setdefault(column, {})[value] = {
                name: self._entry(i, part, METHODS[name] if "map" in name else f"{FIXED[name]}, {how}", [], name)
                for name, i in scores.items()
            }
        return result


@dataclass(frozen=True)
class Scored:
    """Joined tables with their boxes matched, ready for any number of resamples."""

    predictions: pd.DataFrame
    truth: pd.DataFrame
    detections: Boxes
    boxes: Boxes
    patient: np.ndarray
    n_patients: int
    matches: Matches
    counts: PrecisionRecall
    coco: PrecisionRecall

    @classmethod
    def join(cls, predictions: pd.DataFrame, truth: pd.DataFrame) -> Scored:
        """Raises DataError as clarion.evaluators.join and flatten do."""
        return cls.of(*join(predictions, truth, DETECTION_COLUMNS, RESERVED))

    @classmethod
    def of(cls, predictions: pd.DataFrame, truth: pd.DataFrame) -> Scored:
        patient, names = codes(truth["patient_id"])
        detections, boxes = flatten(predictions, scored=True), flatten(truth, scored=False)
        if len(detections) and not (detections.score.min() >= 0 and detections.score.max() <= 1 + 1e-6):
            raise DataError("A detection has a score outside 0..1: hand the evaluator confidences, not logits.")
        matches = match(detections, boxes)
        counts = PrecisionRecall(matches, boxes, patient, len(names))
        coco = PrecisionRecall(match(detections, boxes, convention=COCO), boxes, patient, len(names), coco=True)
        return cls(predictions, truth, detections, boxes, patient, len(names), matches, counts, coco)

    def part(self, rows: np.ndarray) -> Scored:
        return Scored.of(*(t[rows].reset_index(drop=True) for t in (self.predictions, self.truth)))

    def areas(self, interval: tuple) -> dict[str, Interval]:
        """mAP in both conventions; interval: (n_resamples, seed, level)."""
        return bootstrap(self._areas, self.truth["patient_id"], *interval, per_group=True)

    def best(self, interval: tuple) -> dict[str, Interval]:
        """Precision, recall and F1 at the best-F1 confidence, and mAP in both conventions."""

        def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
            precision, recall, f1 = self.counts.over_confidence(weights)
            at = best_f1(f1), np.arange(len(weights))
            picked = {"precision": precision, "recall": recall, "f1": f1}
            picked = {name: curve[at[1], at[0]] for name, curve in picked.items()}
            if not len(self.detections):
                picked["precision"] = picked["f1"] = np.full(len(weights), np.nan)
            return {**picked, **self._areas(weights)}

        return bootstrap(stat, self.truth["patient_id"], *interval, per_group=True)

    def _areas(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        values = {}
        for prefix, counts in (("", self.counts), ("coco_", self.coco)):
            ap = counts.average_precision(weights)  # [B, C, T]
            values[f"{prefix}map50"] = _mean_over_classes(ap[:, :, 0])
            values[f"{prefix}map50_95"] = _mean_over_classes(ap.mean(axis=2))
        return values

    def operating_confidence(self) -> float | None:
        """Confidence of the best F1; None without boxes on either side."""
        if not len(self.detections) or not len(self.boxes):
            return None
        f1 = self.counts.over_confidence(np.ones((1, self.n_patients)))[2]
        return float(CONFIDENCE_GRID[best_f1(f1)[0]])

    def at(self, confidence: float, interval: tuple) -> dict[str, Interval]:
        """Rates at a fixed confidence, counted over all classes together."""
        kept = self.matches.detections.score >= confidence
        image, hit = self.matches.detections.image[kept], self.matches.tp[kept, 0]
        found = self.presence()
        said = np.bincount(image, minlength=len(self.patient)) > 0

        def per_patient(patients: np.ndarray) -> np.ndarray:
            return np.bincount(patients, minlength=self.n_patients).astype(np.float64)

        given, right = per_patient(self.patient[image]), per_patient(self.patient[image[hit]])
        true, scans = per_patient(self.patient[self.boxes.image]), per_patient(self.patient)
        kinds = {k: per_patient(self.patient[rows]) for k, rows in {
            "ill": found.positive, "ill said": found.positive & said,
            "well": ~found.positive, "well said": ~found.positive & ~said,
        }.items()}

        def stat(w: np.ndarray) -> dict[str, np.ndarray]:
            precision, recall = _ratio(w @ right, w @ given), _ratio(w @ right, w @ true)
            return {
                "precision": precision,
                "recall": recall,
                "f1": _ratio(2 * (w @ right), w @ given + w @ true),
                "false_positives_per_bscan": _ratio(w @ (given - right), w @ scans),
                "bscan_sensitivity": _ratio(w @ kinds["ill said"], w @ kinds["ill"]),
                "bscan_specificity": _ratio(w @ kinds["well said"], w @ kinds["well"]),
            }

        return bootstrap(stat, self.truth["patient_id"], *interval, per_group=True)

    def presence(self) -> Presence:
        return presence(self.detections, self.boxes, self.patient, eyes_of(self.truth))


def operating_confidence(predictions: pd.DataFrame, truth: pd.DataFrame) -> float | None:
    """The confidence at which F1 is largest, as ultralytics picks it; None without boxes on either side."""
    return Scored.join(predictions, truth).operating_confidence()


def _validation(context: Mapping[str, Any]) -> Scored | None:
    given: Sequence | None = context.get("validation")
    return None if given is None or given[1] is None else Scored.join(*given)


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    """[B, C] -> [B] mean over the classes present in each resample, NaN without any."""
    present = np.isfinite(values)
    return _ratio(np.where(present, values, 0.0).sum(1), present.sum(1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _curves(test: Scored) -> dict:
    ones = np.ones((1, test.n_patients))
    curves = {}
    if len(test.boxes):
        precision, recall, f1 = (values[0] for values in test.counts.over_confidence(ones))
        some = np.linspace(0, len(CONFIDENCE_GRID) - 1, 201).round().astype(int)
        ap = test.counts.average_precision(ones)[0].mean(axis=0)
        curves = {
            "pr_iou50": _curve(RECALL_GRID, test.counts.pr_curve(), "recall", "precision (IoU .5)"),
            "f1_confidence": _curve(CONFIDENCE_GRID[some], f1[some], "confidence", "F1 (IoU .5)"),
            "precision_confidence": _curve(CONFIDENCE_GRID[some], precision[some], "confidence", "precision (IoU .5)"),
            "recall_confidence": _curve(CONFIDENCE_GRID[some], recall[some], "confidence", "recall (IoU .5)"),
            "ap_per_iou": _curve(IOU_THRESHOLDS, ap, "IoU threshold", "average precision"),
        }
    if len(test.detections):
        curves["reliability"] = _reliability(test.matches)
    return curves


def _curve(x: np.ndarray, y: np.ndarray, x_label: str, y_label: str) -> dict:
    return {"x": np.round(x, 6).tolist(), "y": np.round(y, 6).tolist(), "x_label": x_label, "y_label": y_label}


def _reliability(matches: Matches, n_bins: int = 10) -> dict:
    """Share of right boxes (IoU .5) against mean score, in bins of equal width; empty bins are left out."""
    score, tp = matches.detections.score, matches.tp[:, 0]
    bins = np.minimum((score * n_bins).astype(int), n_bins - 1)
    n = np.bincount(bins, minlength=n_bins)
    full = n > 0
    mean = np.bincount(bins, score, n_bins)[full] / n[full]
    right = np.bincount(bins, tp, n_bins)[full] / n[full]
    return {**_curve(mean, right, "mean score of the boxes", "share of right boxes (IoU .5)"), "n": n[full].tolist()}
