"""Two runs on the same samples: the difference of their scores over the same resamples of patients.

Intervals of two runs that overlap say little about their difference, as both rest on the same patients; the paired
difference says it. Scores are computed again from the recorded predictions, joined by sample_id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
import pandas

from clarion.errors import ClarionError
from clarion.evaluators.bootstrap import Interval, bootstrap
from clarion.evaluators.mcqa_questions import argmax, as_text, scores_of
from clarion.report.charts import number
from clarion.report.files import RunFiles, as_dict
from clarion.report.results import label

RESAMPLES = 1000
LOWER_IS_BETTER = ("brier", "bits_per_byte", "mae_um", "integrated_brier", "ece")
Statistic = Callable[[numpy.ndarray], dict[str, numpy.ndarray]]  # weights [B, n samples] -> {score: [B]}


def paired_view(runs: Sequence[RunFiles], letters: Sequence[str]) -> dict[str, Any] | None:
    """Every run against the first, score by score: {"rows": [{metric, cells: [{pair, text, verdict}]}], "pairs",
    "notes"}; None where no two runs predicted the same samples."""
    rows: dict[str, list[dict | None]] = {}
    notes, pairs = [], []
    for run, letter in zip(runs[1:], letters[1:], strict=True):
        name = f"{letter} − {letters[0]}"
        try:
            found, n, patients, said = _compared(runs[0], run)
        except ClarionError as error:
            notes.append(f"{name}: not compared, {error}")
            continue
        if not found:
            continue
        pairs.append(name)
        notes.append(f"{name}: {number(n)} samples of {number(patients)} patients that both predicted.")
        notes += [f"{name}: {sentence}" for sentence in said]
        for metric, interval in found.items():
            rows.setdefault(metric, []).append(_cell(name, metric, interval, letter, letters[0]))
    if not pairs:
        return {"rows": [], "pairs": [], "notes": notes} if notes else None
    return {"rows": [{"metric": label(m), "cells": cells} for m, cells in rows.items()], "pairs": pairs, "notes": notes}


def _cell(pair: str, metric: str, interval, letter: str, first: str) -> dict[str, str]:
    if interval.value is None:
        return {"pair": pair, "text": "—", "verdict": ""}
    text = f"{interval.value:+.3f}"
    if interval.low is None:
        return {"pair": pair, "text": text, "verdict": "no interval"}
    text += f" [{interval.low:+.3f}, {interval.high:+.3f}]"
    if interval.low <= 0 <= interval.high:
        return {"pair": pair, "text": text, "verdict": "no difference shown"}
    better = (interval.value > 0) != metric.startswith(LOWER_IS_BETTER)
    return {"pair": pair, "text": text, "verdict": f"{letter if better else first} better"}


def differences(a: RunFiles, b: RunFiles) -> tuple[dict[str, Any], int, int]:
    """({score: interval of b - a}, samples, patients) on the samples that both predicted.

    Empty where the tasks differ or tables are absent. Raises ClarionError where they share no sample or disagree on the
    truth of one."""
    return _compared(a, b)[:3]


def _compared(a: RunFiles, b: RunFiles) -> tuple[dict[str, Any], int, int, list[str]]:
    """As differences, and sentences on how."""
    if any(table is None for run in (a, b) for table in (run.predictions, run.truth)):
        return {}, 0, 0, []
    if a.data_kind != b.data_kind:
        raise ClarionError(f"they were measured on {a.data_kind} and {b.data_kind} data.")
    ids = sorted(set(a.predictions["sample_id"]) & set(b.predictions["sample_id"]) & set(a.truth["sample_id"])
                 & set(b.truth["sample_id"]))  # fmt: skip
    if not ids:
        raise ClarionError("they share no sample.")
    truth, other = (run.truth.set_index("sample_id").loc[ids] for run in (a, b))
    shared = [c for c in _TRUTH if c in truth and c in other]
    if any(_text(x) != _text(y) for c in shared for x, y in zip(truth[c], other[c], strict=True)):
        raise ClarionError("the truth of samples of the same name differs: they are not the same data.")
    predictions = [run.predictions.set_index("sample_id").loc[ids].reset_index() for run in (a, b)]
    truth = truth.reset_index()
    counts = (len(ids), truth["patient_id"].nunique())
    if all("risk" in table for table in predictions) and {"time", "event"} <= set(truth.columns):
        found, said = _survival_differences(a, predictions, truth)
        return found, *counts, said
    runs = zip((a, b), predictions, strict=True)
    stats = [_statistic(run, predicted, truth) for run, predicted in runs]
    if not all(stats):
        return {}, 0, 0, []

    def stat(weights: numpy.ndarray) -> dict[str, numpy.ndarray]:
        before, after = (one(weights) for one in stats)
        return {name: after[name] - before[name] for name in before if name in after}

    return bootstrap(stat, truth["patient_id"].to_numpy(), RESAMPLES, seed=0), *counts, []


def _survival_differences(
    a: RunFiles, predictions: Sequence[pandas.DataFrame], truth: pandas.DataFrame
) -> tuple[dict[str, Interval], list[str]]:
    """The evaluator's own comparison (ranking and Brier scores), and DeLong's test of the plain AUCs in words. The runs
    keep no training outcomes: censoring weights come from the test patients, the same for both."""
    from clarion.evaluators.survival import SurvivalEvaluator

    configured = as_dict(as_dict(a.config.get("evaluators")).get("survival"))
    options = {key: configured[key] for key in ("horizons", "time_unit", "tau", "within") if key in configured}
    evaluator = SurvivalEvaluator(**options, n_resamples=RESAMPLES)
    result = evaluator.compare(predictions[1], predictions[0], truth, {"seed": 0}, ("second", "first"))
    found = {
        name: Interval(*(entry["difference"][key] for key in ("value", "low", "high")))
        for name, entry in result["metrics"].items()
        if not name.startswith("calibration")  # neither large nor small is good
    }
    said = [
        f"DeLong's test of {label(name)}: difference {test['difference']:+.3f}, p = {test['p']:.2g} ({test['n']} "
        "patients of known status)."
        for name, test in result["delong"].items()
    ]
    return found, said + ["Censoring weights (IPCW) come from the test patients, the same for both."]


# The truth of a task: what two runs must agree on for their scores to be of the same thing.
_TRUTH = ("patient_id", "boxes", "label", "surfaces", "presence", "answer", "answer_index", "time", "event", "text")


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple, numpy.ndarray)):
        return "[" + ",".join(_text(item) for item in value) + "]"
    return repr(value)


def _statistic(run: RunFiles, predicted: pandas.DataFrame, truth: pandas.DataFrame) -> Statistic | None:
    has = lambda *columns: {*columns} <= set(predicted.columns)  # noqa: E731
    if has("boxes", "scores") and "boxes" in truth:
        return _detection(predicted, truth)
    if has("probabilities") and "label" in truth:
        return _classification(predicted, truth)
    if has("surfaces") and "axial_um" in truth:
        return _surfaces(predicted, truth)
    if has("presence") and "presence" in truth:
        return _presence(run, predicted, truth)
    if has("nll", "bytes"):
        bits = predicted["nll"].to_numpy(float) / numpy.log(2)
        return _ratio("bits_per_byte", bits, predicted["bytes"].to_numpy(float))
    if "answer" in truth:
        return _language(predicted, truth)
    return None


def _detection(predicted: pandas.DataFrame, truth: pandas.DataFrame) -> Statistic:
    """Mean average precision at IoU .5 and over .5 to .95, as the evaluator's map50 and map50_95."""
    from clarion.evaluators.detection import Scored

    scored = Scored.join(predicted, truth)
    first = numpy.unique(scored.patient, return_index=True)[1]  # a sample of each patient: its weight is the patient's

    def stat(weights: numpy.ndarray) -> dict[str, numpy.ndarray]:
        precision = scored.counts.average_precision(weights[:, first])  # [B, classes, thresholds]
        with numpy.errstate(invalid="ignore"):
            return {"map50": numpy.nanmean(precision[:, :, 0], axis=1),
                    "map50_95": numpy.nanmean(precision.mean(axis=2), axis=1)}  # fmt: skip

    return stat


def _classification(predicted: pandas.DataFrame, truth: pandas.DataFrame) -> Statistic:
    probability = numpy.stack([numpy.asarray(p, dtype=float) for p in predicted["probabilities"]])
    true = truth["label"].to_numpy(int)
    right = (probability.argmax(1) == true).astype(float)
    brier = ((probability - numpy.eye(probability.shape[1])[true]) ** 2).sum(1)
    means = _means({"accuracy": right, "brier": brier})
    classes = [(true == c).astype(float) for c in range(probability.shape[1])]

    def stat(weights: numpy.ndarray) -> dict[str, numpy.ndarray]:
        with numpy.errstate(invalid="ignore", divide="ignore"):
            recalls = numpy.stack([(weights @ (of * right)) / (weights @ of) for of in classes if of.any()])
            return means(weights) | {"balanced_accuracy": numpy.nanmean(recalls, axis=0)}

    return stat


def _surfaces(predicted: pandas.DataFrame, truth: pandas.DataFrame) -> Statistic:
    """Mean absolute error over all measured A-scans of all surfaces, um."""
    sums = []
    for guess, true, um in zip(predicted["surfaces"], truth["surfaces"], truth["axial_um"], strict=True):
        off = numpy.abs(numpy.stack([numpy.asarray(r, float) for r in guess])
                        - numpy.stack([numpy.asarray(r, float) for r in true])) * float(um)  # fmt: skip
        sums.append((numpy.nansum(off), numpy.isfinite(off).sum()))
    total, count = numpy.array(sums, dtype=float).T
    return _ratio("mae_um", total, count)


def _presence(run: RunFiles, predicted: pandas.DataFrame, truth: pandas.DataFrame) -> Statistic:
    """Dice along the scan lines, at each run's own threshold."""
    from clarion.report.scan_cases import presence_threshold

    threshold, sums = presence_threshold(run), []
    for said, true in zip(predicted["presence"], truth["presence"], strict=True):
        said, true = numpy.asarray(said, dtype=float), numpy.asarray(true, dtype=float)
        use = numpy.isfinite(true)
        called, under = use & (numpy.nan_to_num(said) >= threshold), use & (true >= 0.5)
        sums.append((2 * (called & under).sum(), called.sum() + under.sum()))
    both, either = numpy.array(sums, dtype=float).T
    return _ratio("dice", both, either)


def _language(predicted: pandas.DataFrame, truth: pandas.DataFrame) -> Statistic | None:
    """Accuracy of multiple choice by option log-probability, ROUGE-L of the free answers; each over its own rows."""
    from clarion.evaluators.text_overlap import rouge_l

    choice = numpy.zeros(len(truth), dtype=bool)
    if {"options", "answer_index"} <= set(truth.columns):
        choice = truth["answer_index"].fillna(-1).to_numpy(int) >= 0
    parts = []
    if choice.any() and "option_logprobs" in predicted:
        rows = predicted[choice].reset_index(drop=True)
        chosen = argmax(scores_of(rows, "option_logprobs", truth.loc[choice, "options"].tolist()))
        if chosen is not None:
            right = numpy.zeros(len(truth))
            right[choice] = chosen == truth.loc[choice, "answer_index"].to_numpy(int)
            parts.append(_ratio("accuracy", right, choice.astype(float)))
    if (~choice).any() and "text" in predicted:
        scores = numpy.zeros(len(truth))
        scores[~choice] = rouge_l([as_text(t) for t in predicted.loc[~choice, "text"]],
                                  [as_text(t) for t in truth.loc[~choice, "answer"]])[0]  # fmt: skip
        parts.append(_ratio("rouge_l", scores, (~choice).astype(float)))
    if not parts:
        return None
    return lambda weights: {name: values for part in parts for name, values in part(weights).items()}


def _means(scores: Mapping[str, numpy.ndarray]) -> Statistic:
    return lambda weights: {name: weights @ values / weights.sum(1) for name, values in scores.items()}


def _ratio(name: str, part: numpy.ndarray, whole: numpy.ndarray) -> Statistic:
    def stat(weights: numpy.ndarray) -> dict[str, numpy.ndarray]:
        with numpy.errstate(invalid="ignore", divide="ignore"):
            return {name: (weights @ part) / (weights @ whole)}

    return stat



