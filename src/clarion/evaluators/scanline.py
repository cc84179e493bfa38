"""Presence along the scan line scored: ranking, overlap, calibration per A-scan; length of membrane per eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError, UsageError
from clarion.evaluators.bootstrap import Interval, Statistic, bootstrap, codes, entry, wilson
from clarion.evaluators.join import join
from clarion.evaluators.presence import eyes_of
from clarion.evaluators.subgroups import subgroups

RESERVED = ("presence", "boxed", "line")
LEVELS = 1000  # scores are counted in steps of 1 / LEVELS
ECE_BINS = 20
WITH_MEMBRANE = 0.02  # share of an eye's A-scans from which its relative error of length means something
NEAR = 0.10  # relative error of an eye's length that is near enough
LINE_RANGE = 2.0  # brightness of the ILM line relative to the inner retina: what counts as the highest score
METHODS = {
    "auc": "area under the ROC curve over A-scans, ties counted half",
    "dice": "Dice coefficient along the scan lines, all A-scans pooled",
    "sensitivity": "A-scans under a membrane that were called so",
    "specificity": "A-scans without membrane that were called so",
    "ece": f"expected calibration error over A-scans, {ECE_BINS} bins of equal width",
    "length_bias": "(found - true) / true length of membrane, all eyes together; found: sum of probabilities",
    "length_error": f"median |found - true| / true length over eyes with membrane (>= {WITH_MEMBRANE:.0%} of A-scans)",
    "length_within_10": f"share of eyes with membrane whose length is found within {NEAR:.0%}",
    "false_length": "mean share of the scanned length called membrane in eyes without any (sum of probabilities)",
    "assessed": "share of A-scans of the truth that got an answer",
}
OVER = "percentile bootstrap over patients"


class ScanlineEvaluator:
    """Scores presence per A-scan; `evaluate` returns the dict described in CONTRIBUTING.

    threshold: probability from which an A-scan is called membrane; None: the best Dice on the validation, 0.5 without
    one. n_resamples: bootstrap resamples; level: coverage; most_values: see DetectionEvaluator.
    """

    def __init__(
        self, task: str = "presence", n_resamples: int = 1000, level: float = 0.95, threshold: float | None = None,
        most_values: int = 12, name: str = "scanline",
    ):  # fmt: skip
        if threshold is not None and not 0 < float(threshold) < 1:
            raise UsageError(f"evaluator threshold={threshold} must lie between 0 and 1.")
        self.task, self.name, self.threshold = task, name, threshold
        self.n_resamples, self.level, self.most_values = int(n_resamples), float(level), int(most_values)

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id, presence (probability per A-scan, NaN or None: not assessed); truth:
        presence (0, 1, NaN), optional boxed (0, 1) and line (brightness), columns that make subgroups; context: seed,
        validation (predictions, truth) or None."""
        seed, notes = int(context.get("seed") or 0), []
        predictions, truth = join(predictions, truth, ["presence"], ["presence"])
        said, true = lines(predictions["presence"], "predictions"), lines(truth["presence"], "truth")
        patients, eyes = truth["patient_id"].to_numpy(), eyes_of(truth)
        tally = Tally.of(said, true, patients, eyes)
        validation = self._validation(context)
        threshold, where = self._threshold(validation, notes)
        metrics = self.metrics(tally, threshold, seed, notes)
        metrics["threshold"] = {**metrics["dice"], "value": threshold, "low": None, "high": None, "method": where}
        groups: dict[str, dict[str, dict]] = {}
        for column, value, rows in subgroups(truth, RESERVED, self.most_values, notes):
            at = np.flatnonzero(rows)
            part = Tally.of([said[i] for i in at], [true[i] for i in at], patients[at], eyes[at])
            groups.setdefault(column, {})[value] = self.metrics(part, threshold, seed, [])
        return {
            "metrics": metrics,
            "baseline": self._baseline(truth, true, patients, eyes, validation, seed, notes),
            "curves": _curves(tally),
            "subgroups": groups,
            "notes": notes,
        }

    def metrics(self, tally: Tally, threshold: float, seed: int, notes: list[str]) -> dict[str, dict]:
        """Entries of all METHODS for a tally."""
        found = tally.scores(threshold, self.n_resamples, seed, self.level)
        at = f" at probability {threshold:.3f}"
        eyes = {name: int(chosen.sum()) for name, chosen in tally.eyes().items()}
        return {
            name: entry(interval, eyes.get(name, tally.n), len(tally.patients),
                        f"{METHODS[name]}{at if name in ('dice', 'sensitivity', 'specificity') else ''}; "
                        f"{'Wilson, n: eyes' if name == 'length_within_10' else OVER}"
                        f"{'; n: eyes' if name in eyes and name != 'length_within_10' else ''}",
                        None, notes, name)
            for name, interval in found.items()
        }  # fmt: skip

    def _threshold(self, validation: tuple | None, notes: list[str]) -> tuple[float, str]:
        if self.threshold is not None:
            return float(self.threshold), "given in the config"
        if validation is not None:
            (predictions, truth) = validation
            tally = Tally.of(
                lines(predictions["presence"], "validation"), lines(truth["presence"], "validation"),
                truth["patient_id"].to_numpy(), eyes_of(truth),
            )  # fmt: skip
            if (best := tally.best_threshold()) is not None:
                return best, "best Dice on the validation"
        notes.append("Threshold 0.5: there is no validation with membrane to choose one on.")
        return 0.5, "0.5, for want of a validation"

    def _validation(self, context: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame] | None:
        found = context.get("validation")
        if found is None or found[1] is None or not len(found[1]):
            return None
        return join(found[0], found[1], ["presence"], ["presence"])

    def _baseline(self, truth, true, patients, eyes, validation, seed: int, notes: list[str]) -> dict[str, dict]:
        """The ILM line's brightness with a threshold; membrane everywhere; and what true boxes would give."""
        everywhere = Tally.of([np.ones_like(t) for t in true], true, patients, eyes)
        result = {"dice_everywhere": {**self.metrics(everywhere, 0.5, seed, [])["dice"], "name": "membrane everywhere"}}
        if "boxed" in truth.columns:
            tally = Tally.of(lines(truth["boxed"], "truth"), true, patients, eyes)
            boxes = self.metrics(tally, 0.5, seed, [])
            result |= {f"{name}_true_boxes": {**boxes[name], "name": "true boxes: the best that any detector can give"}
                       for name in ("auc", "dice", "length_bias", "length_error", "length_within_10")}  # fmt: skip
        if "line" not in truth.columns:
            notes.append("Baseline: the truth has no brightness of the ILM line, so no threshold on it was scored.")
            return result
        tally = Tally.of(_scored(truth), true, patients, eyes)
        source, where = tally, "the test itself (optimistic)"
        if validation is not None and "line" in validation[1].columns:
            known = validation[1]
            source = Tally.of(_scored(known), lines(known["presence"], "validation"),
                              known["patient_id"].to_numpy(), eyes_of(known))  # fmt: skip
            where = "the validation"
        rule = self.metrics(tally, source.best_threshold() or 0.5, seed, [])
        name = f"threshold on the brightness of the ILM line, chosen on {where}"
        return {n: {**rule[n], "name": name} for n in ("auc", "dice", "sensitivity", "specificity")} | result


@dataclass(frozen=True)
class Tally:
    """Counts per patient [P] and per eye [E]; enough for every score and every resample of patients."""

    patients: np.ndarray  # names [P]
    n: int  # scans
    positive: np.ndarray  # [P, LEVELS + 1]: A-scans with membrane by score
    negative: np.ndarray
    unanswered: np.ndarray  # [P]: A-scans of the truth without an answer
    eye_patient: np.ndarray  # [E]
    eye_found: np.ndarray  # [E]: sum of scores, A-scans
    eye_true: np.ndarray
    eye_ascans: np.ndarray

    @classmethod
    def of(
        cls, said: Sequence[np.ndarray], true: Sequence[np.ndarray], patients: np.ndarray, eyes: np.ndarray
    ) -> Tally:
        """said, true: one float array [width] a scan, NaN unknown; patients: names, eyes: codes, [n scans] each."""
        index, names = codes(patients)
        positive, negative = (np.zeros((len(names), LEVELS + 1)) for _ in range(2))
        unanswered, n_eyes = np.zeros(len(names)), int(np.max(eyes, initial=-1)) + 1
        found, length, ascans = (np.zeros(n_eyes) for _ in range(3))
        owner = np.zeros(n_eyes, np.intp)
        for s, t, p, e in zip(said, true, index, eyes, strict=True):
            if s.shape != t.shape:
                raise DataError(f"A scan has {t.size} A-scans in the truth and {s.size} in the predictions.")
            known = np.isfinite(t)
            use = known & np.isfinite(s)
            level = np.rint(np.clip(s[use], 0, 1) * LEVELS).astype(np.intp)
            there = t[use] > 0.5
            positive[p] += np.bincount(level[there], minlength=LEVELS + 1)
            negative[p] += np.bincount(level[~there], minlength=LEVELS + 1)
            unanswered[p] += known.sum() - use.sum()
            found[e] += float(s[use].sum())
            length[e] += there.sum()
            ascans[e] += use.sum()
            owner[e] = p
        kept = np.unique(eyes)
        per_eye = (values[kept] for values in (owner, found, length, ascans))
        return cls(names, len(true), positive, negative, unanswered, *per_eye)

    def best_threshold(self) -> float | None:
        """The probability from which calling membrane gives the best Dice; None without membrane."""
        hits = np.cumsum(self.positive.sum(0)[::-1])[::-1]
        called = np.cumsum((self.positive + self.negative).sum(0)[::-1])[::-1]
        if not self.positive.sum():
            return None
        dice = 2 * hits / np.maximum(called + self.positive.sum(), 1)
        return float(np.clip(dice.argmax(), 1, LEVELS - 1) / LEVELS)

    def eyes(self) -> dict[str, np.ndarray]:
        """Which eyes each score of a length is about, bool [E]."""
        membrane = self.eye_true >= WITH_MEMBRANE * np.maximum(self.eye_ascans, 1)
        every, none = np.ones(membrane.size, bool), self.eye_true == 0
        return {"length_bias": every, "length_error": membrane, "length_within_10": membrane, "false_length": none}

    def relative_error(self) -> np.ndarray:
        """|found - true| / true length of every eye [E]; without meaning where there is no membrane."""
        return np.abs(self.eye_found - self.eye_true) / np.maximum(self.eye_true, 1)

    def scores(self, threshold: float, n_resamples: int, seed: int, level: float = 0.95) -> dict[str, Interval]:
        """Every score with its interval: bootstrap over patients, Wilson for the share of eyes."""
        stat = self.statistic(threshold)
        found = bootstrap(stat, self.patients, n_resamples, seed, level, per_group=True)
        near = (self.relative_error() <= NEAR)[self.eyes()["length_within_10"]]
        return found | {"length_within_10": wilson(int(near.sum()), near.size, level)}

    def statistic(self, threshold: float) -> Statistic:
        """weights [B, P] -> dict of [B] values, for `bootstrap`."""
        from_level = int(np.ceil(threshold * LEVELS - 1e-9))
        score = np.arange(LEVELS + 1) / LEVELS
        of_bin = np.minimum((score * ECE_BINS).astype(int), ECE_BINS - 1)
        to_bins = np.eye(ECE_BINS)[of_bin]
        eyes, error = self.eyes(), self.relative_error()
        share = self.eye_found / np.maximum(self.eye_ascans, 1)

        def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
            pos, neg, eye = weights @ self.positive, weights @ self.negative, weights[:, self.eye_patient]
            p, n = pos.sum(1), neg.sum(1)
            tp, fp = pos[:, from_level:].sum(1), neg[:, from_level:].sum(1)
            membrane, none = eye * eyes["length_error"], eye * eyes["false_length"]
            with np.errstate(invalid="ignore", divide="ignore"):
                below = np.cumsum(neg, axis=1) - neg
                gap = np.abs(((pos + neg) * score - pos) @ to_bins).sum(1)
                return {
                    "auc": np.where((p > 0) & (n > 0), (pos * (below + 0.5 * neg)).sum(1) / (p * n), np.nan),
                    "dice": np.where(p > 0, 2 * tp / (tp + fp + p), np.nan),
                    "sensitivity": tp / np.where(p > 0, p, np.nan),
                    "specificity": 1 - fp / np.where(n > 0, n, np.nan),
                    "ece": gap / (p + n),
                    "length_bias": (eye @ self.eye_found) / np.where(p > 0, eye @ self.eye_true, np.nan) - 1,
                    "length_error": _median(error, membrane),
                    "length_within_10": (membrane @ (error <= NEAR)) / membrane.sum(1),
                    "false_length": (none @ share) / none.sum(1),
                    "assessed": (p + n) / (p + n + weights @ self.unanswered),
                }

        return stat


def lines(column: pd.Series, name: str) -> list[np.ndarray]:
    """A table's column of per-A-scan values -> one float array [width] a scan, None as NaN."""
    try:
        found = [np.asarray(values, dtype=np.float64) for values in column]
    except (TypeError, ValueError) as error:
        raise DataError(f"Column presence of the {name} must hold one list of numbers a scan ({error}).") from None
    if any(values.ndim != 1 for values in found):
        raise DataError(f"Column presence of the {name} must hold one number per A-scan for every scan.")
    return found


def _scored(truth: pd.DataFrame) -> list[np.ndarray]:
    return [np.clip(values / LINE_RANGE, 0, 1) for values in lines(truth["line"], "truth")]


def _median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted median of values [E] under each row of weights [B, E]; NaN where a row weighs nothing."""
    order = np.argsort(values)
    total = np.cumsum(weights[:, order], axis=1)
    if not values.size:
        return np.full(len(weights), np.nan)
    at = (total >= total[:, -1:] / 2).argmax(1)
    return np.where(total[:, -1] > 0, values[order][at], np.nan)


def _curves(tally: Tally) -> dict[str, dict]:
    """ROC, calibration over A-scans, and found against true length of every eye."""
    pos, neg = tally.positive.sum(0), tally.negative.sum(0)
    curves: dict[str, dict] = {}
    if pos.sum() and neg.sum():
        some = np.unique(np.linspace(0, LEVELS, 199).round().astype(int))[::-1]
        called = [np.r_[0, np.cumsum(c[::-1])[LEVELS - some], c.sum()] / c.sum() for c in (neg, pos)]
        curves["roc"] = _curve(called[0], called[1], "1 - specificity", "sensitivity")
    bins = np.minimum((np.arange(LEVELS + 1) / LEVELS * ECE_BINS).astype(int), ECE_BINS - 1)
    count, share = np.bincount(bins, pos + neg), np.bincount(bins, pos)
    mean = np.bincount(bins, (pos + neg) * np.arange(LEVELS + 1) / LEVELS)
    full = count > 0
    curves["calibration"] = _curve(mean[full] / count[full], share[full] / count[full], "probability", "share membrane")
    ascans = np.maximum(tally.eye_ascans, 1)
    some = np.unique(np.linspace(0, len(ascans) - 1, min(201, len(ascans))).astype(int))
    curves["length"] = {
        **_curve((tally.eye_true / ascans)[some], (tally.eye_found / ascans)[some],
                 "true share of the scanned length", "found"),
        "kind": "scatter",
    }  # fmt: skip
    return curves


def _curve(x: np.ndarray, y: np.ndarray, x_label: str, y_label: str) -> dict:
    return {"x": np.round(x, 6).tolist(), "y": np.round(y, 6).tolist(), "x_label": x_label, "y_label": y_label}
