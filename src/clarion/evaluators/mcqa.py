"""Multiple-choice questions: options ranked by log-probability, and answers parsed from generated text.

Both are accuracies over all questions: an answer that cannot be parsed and an option score that is missing count as
wrong, never as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError, UsageError
from clarion.evaluators import confusion_statistics as cs
from clarion.evaluators.bootstrap import bootstrap, codes, entry, group_counts, wilson
from clarion.evaluators.join import join
from clarion.evaluators.mcqa_parsing import parse_answer
from clarion.evaluators.mcqa_questions import (
    BINS,
    Choices,
    Questions,
    argmax,
    as_text,
    check_gold,
    classes_of,
    confusion,
    is_list,
    majority,
    normalised,
    nothing,
    positions,
    reliability,
    scores_of,
    softmax,
    tell_failures,
)
from clarion.evaluators.subgroups import subgroups

BOOTSTRAP = "percentile bootstrap over patients (documents)"
HEADLINES = ("sum", "mean", "parsed")
_RESERVED = ("question", "answer", "options", "answer_index", "context")
RULES = {
    "sum": "option with the highest sum of token log-probabilities",
    "mean": "option with the highest mean log-probability a token",
    "parsed": "option parsed from the generated answer, failures wrong",
}


class McqaEvaluator:
    """Scores of multiple-choice answers; `evaluate` returns the dict described in CONTRIBUTING.

    headline: what `accuracy` and `macro_f1` are: sum (of an option's token log-probabilities, the usual accuracy of
    evaluation harnesses), mean (a token: long options are not punished) or parsed (the generated text); the others
    stand beside it. n_resamples, level: bootstrap over patients, here documents; most_values: a truth column with more
    values makes no subgroups.
    """

    def __init__(
        self, task: str = "generation", headline: str = "sum", n_resamples: int = 1000, level: float = 0.95,
        most_values: int = 24, name: str = "mcqa",
    ):  # fmt: skip
        if headline not in HEADLINES:
            raise UsageError(f"evaluators.mcqa.headline={headline} is unknown: write {', '.join(HEADLINES)}.")
        self.task, self.name, self.headline = task, name, headline
        self.n_resamples, self.level, self.most_values = n_resamples, level, most_values

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id and option_logprobs [, option_tokens, blind_logprobs] and/or text; truth:
        options, answer_index (-1: no multiple-choice question, left to the essay evaluator) and columns that make
        subgroups; context: seed, validation (its answers give the majority). Joined by sample_id."""
        seed, notes = int(context.get("seed") or 0), []
        if "answer_index" not in truth.columns:
            return nothing(len(truth))
        predictions, truth = join(predictions, truth, [], ["options", "answer_index"])
        asked = truth["answer_index"].to_numpy(dtype=int) >= 0
        if not asked.any():
            return nothing(len(truth))
        if not asked.all():
            notes.append(f"{int((~asked).sum())} row(s) without options are not scored here (evaluator=essay).")
        predictions, truth = (t[asked].reset_index(drop=True) for t in (predictions, truth))
        options = [[as_text(o) for o in row] for row in truth["options"]]
        gold = truth["answer_index"].to_numpy(dtype=int)
        check_gold(gold, options, truth["sample_id"])
        labels, names = classes_of(options)
        logprobs = scores_of(predictions, "option_logprobs", options)
        rules = self._choices(predictions, options, logprobs, notes)
        if not rules:
            raise DataError(
                "The predictions hold neither option_logprobs nor text for the questions with options: nothing to "
                "score."
            )
        chosen_by = self.headline if self.headline in rules else next(iter(rules))
        if chosen_by != self.headline:
            notes.append(f"The headline is by {chosen_by}: the predictions hold nothing for {self.headline}.")
        rows = Questions(truth["patient_id"].to_numpy(), gold, labels, names, options)
        blind = argmax(scores_of(predictions, "blind_logprobs", options))
        parsed = rules.get("parsed")
        groups: dict[str, dict] = {}
        for column, value, part in subgroups(truth, _RESERVED, self.most_values, notes):
            scored = {"accuracy": rules[chosen_by]} | ({"parsed_accuracy": parsed} if parsed is not None else {})
            groups.setdefault(column, {})[value] = {
                name: self._accuracy(rows, choice, seed, name, chosen_by, [], part) for name, choice in scored.items()
            }
        metrics = self._metrics(rows, rules, chosen_by, seed, notes)
        probability = softmax(logprobs, predictions, "mean" if chosen_by == "mean" else "sum")
        curves: dict[str, dict] = {}
        if probability is not None:
            metrics |= self._calibration(rows, probability, seed, notes)
            curves["calibration"] = reliability(probability, gold)
        curves["position_bias"] = positions(rows, rules[chosen_by], metrics, notes)
        return {
            "metrics": metrics,
            "baseline": self._baseline(rows, blind, truth, context, seed, notes),
            "curves": curves,
            "confusion": confusion(rows, rules[chosen_by]),
            "subgroups": groups,
            "notes": notes,
        }

    # ------------------------------------------------------------------------------------------------ choices

    def _choices(self, predictions, options, logprobs, notes: list[str]) -> dict[str, Choices]:
        rules: dict[str, Choices] = {}
        if logprobs is not None:
            missing = sum(row is None for row in logprobs)
            if missing:
                notes.append(f"{missing} question(s) have no option log-probabilities and count as wrong by them.")
            rules["sum"] = Choices(argmax(logprobs))
            if "option_tokens" in predictions and not any(
                row is not None and not is_list(t)
                for row, t in zip(logprobs, predictions["option_tokens"], strict=True)
            ):
                rules["mean"] = Choices(argmax(normalised(logprobs, predictions)))
        else:
            notes.append("The model gave no option log-probabilities: accuracy by them and calibration are undefined.")
        if "option_source" in predictions and (predictions["option_source"] == "top_logprobs").any():
            notes.append(
                "Option scores are of the first letter alone, from the alternatives that the server lists; an option "
                "that is not listed has an upper bound."
            )
        if "text" in predictions:
            parsed = [parse_answer(as_text(t), o) for t, o in zip(predictions["text"], options, strict=True)]
            rules["parsed"] = Choices(np.array([-1 if p.index is None else p.index for p in parsed]))
            tell_failures(parsed, notes)
        else:
            notes.append("No text was generated (max_new_tokens=0): parsed accuracy is undefined.")
        return rules

    # ------------------------------------------------------------------------------------------------ metrics

    def _metrics(self, rows: Questions, rules: dict[str, Choices], chosen_by: str, seed: int, notes: list[str]) -> dict:
        head = rules[chosen_by]
        metrics = {
            "accuracy": self._accuracy(rows, head, seed, "accuracy", chosen_by, notes),
            "macro_f1": self._macro_f1(rows, head, seed, f"{RULES[chosen_by]}; {rows.what}", notes),
        }
        named = {"sum": "accuracy_logprob_sum", "mean": "accuracy_logprob_mean", "parsed": "parsed_accuracy"}
        for rule, choice in rules.items():
            if rule != chosen_by or rule == "parsed":
                metrics[named[rule]] = self._accuracy(rows, choice, seed, named[rule], rule, notes)
        if "parsed" in rules:
            failed = (rules["parsed"].index < 0).astype(np.float64)
            what = f"share of answers from which no single option can be read; {BOOTSTRAP}"
            metrics["parse_failure_rate"] = self._mean(rows, failed, seed, what, notes, "parse_failure_rate")
        return metrics

    def _accuracy(self, rows, choice, seed, name, rule, notes, part=None) -> dict:
        right = (choice.index == rows.gold).astype(np.float64)
        return self._mean(rows, right, seed, f"{RULES[rule]}; {BOOTSTRAP}", notes, name, part)

    def _mean(self, rows, values, seed, method, notes, name, part=None) -> dict:
        part = np.ones(len(values), dtype=bool) if part is None else part
        values, patients = values[part], rows.patients[part]

        def stat(weights: np.ndarray) -> np.ndarray:
            return cs.ratio(weights @ values, weights.sum(1))

        n_patients = len(set(patients))
        interval = bootstrap(stat, patients, self.n_resamples, seed, self.level)
        if n_patients > 1 and np.ptp(values) == 0 and values[0] in (0.0, 1.0):
            # All or none of a few is no certainty, and a bootstrap cannot tell.
            interval = wilson(values[0] * n_patients, n_patients, self.level)
            method = method.replace(BOOTSTRAP, "Wilson interval over patients (documents)")
        return entry(interval, len(values), n_patients, method, None, notes, name)

    def _macro_f1(self, rows, choice, seed, method, notes) -> dict:
        classes = len(rows.names)
        true = np.array([row[g] for row, g in zip(rows.labels, rows.gold, strict=True)])
        found = choice.classes(rows.labels, none=classes)  # no choice: a class of its own, which is never right
        counts = cs.ConfusionCounts(true, found, classes + 1, rows.group, rows.n_groups)

        def stat(weights: np.ndarray) -> np.ndarray:
            matrix = counts(weights)
            right = np.diagonal(matrix, axis1=1, axis2=2)[:, :classes]
            both = (matrix.sum(1) + matrix.sum(2))[:, :classes]
            return cs.mean_defined(cs.ratio(2 * right, both))

        interval = bootstrap(stat, rows.patients, self.n_resamples, seed, self.level, per_group=True)
        return entry(interval, len(true), rows.n_groups, f"mean F1 over classes; {method}; {BOOTSTRAP}", None, notes,
                     "macro_f1")  # fmt: skip

    def _calibration(self, rows: Questions, probability, seed: int, notes: list[str]) -> dict:
        """ECE of the chosen option and Brier score, over the questions that have option scores."""
        kept = np.array([p is not None for p in probability])
        rows_of = [(p, g) for p, g in zip(probability, rows.gold, strict=True) if p is not None]
        top = np.array([p.max() for p, _ in rows_of])
        right = np.array([p.argmax() == g for p, g in rows_of], dtype=np.float64)
        square = np.array([float(((p - np.eye(len(p))[g]) ** 2).sum()) for p, g in rows_of])
        patients = rows.patients[kept]
        group, names = codes(patients)
        bins = np.minimum((top * BINS).astype(int), BINS - 1)
        gap = group_counts(bins, group, BINS, len(names), top - right)
        size, brier = np.bincount(group).astype(float), np.bincount(group, square)

        def stat(w: np.ndarray) -> dict[str, np.ndarray]:
            return {
                "ece": cs.ratio(np.abs(gap @ w.T).sum(0), w @ size),
                "brier": cs.ratio(w @ brier, w @ size),
            }

        found = bootstrap(stat, patients, self.n_resamples, seed, self.level, per_group=True)
        what = {
            "ece": f"expected calibration error of the chosen option, {BINS} bins of equal width; softmax over options",
            "brier": "sum over options of (probability - truth)^2, mean (0 best, 2 worst); softmax over options",
        }
        return {
            name: entry(interval, len(top), len(names), f"{what[name]}; {BOOTSTRAP}", None, notes, name)
            for name, interval in found.items()
        }

    def _baseline(self, rows: Questions, blind, truth, context, seed, notes) -> dict:
        index, where = majority(rows, truth, context)
        notes.append(f"Majority baseline: the most frequent answer of {where}.")
        choice = Choices(index)
        found = {
            "accuracy": self._accuracy(rows, choice, seed, "", "sum", None) | {"name": "majority"},
            "macro_f1": self._macro_f1(rows, choice, seed, rows.what, None) | {"name": "majority"},
        }
        for one in found.values():
            one["method"] = f"always the most frequent answer of {where}; {BOOTSTRAP}"
        if blind is not None:
            blind_entry = self._accuracy(rows, Choices(blind), seed, "", "sum", None)
            what = f"{RULES['sum']}, the question hidden from the model; {BOOTSTRAP}"
            found["accuracy_question_blind"] = blind_entry | {"name": "options alone", "method": what}
        share = np.array([1.0 / len(o) for o in rows.options])
        chance = self._mean(rows, share, seed, "1 / number of options, mean over questions", None, "")
        # A number known in advance has no sampling error of a model.
        found["accuracy_chance"] = chance | {"low": None, "high": None, "name": "chance"}
        return found
