"""Generated text scored against a reference answer: exact match, token F1, ROUGE-L, and the numbers in it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from clarion.evaluators.bootstrap import bootstrap, entry
from clarion.evaluators.join import join
from clarion.evaluators.subgroups import subgroups

# A sign counts only where no word or number stands before it: "2020-03" holds 2020 and 3, not -3.
_NUMBER = re.compile(r"(?<![\w.,])[-+]?\d+(?:,\d{3})*(?:\.\d+)?|\d+(?:\.\d+)?")
_WORD = re.compile(r"(?<![\w.,])-\d+(?:\.\d+)?|\d+(?:\.\d+)?|[^\W\d_]+")
_RESERVED = ("question", "answer")
BOOTSTRAP = "percentile bootstrap over patients"


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-").lower()


def words(text: str) -> list[str]:
    """Words and numbers of a text: NFKC, lower case, punctuation dropped; a decimal point and the minus of a number
    stay ("-2.5 D" is "-2.5", "d": the sign of a refraction is its meaning)."""
    return _WORD.findall(_plain(text))


def exact_match(prediction: str, answer: str) -> float:
    """1 when both have the same words in the same order, else 0; texts without words must be the same text."""
    found = words(prediction)
    return float(found == words(answer) and (bool(found) or prediction.strip() == answer.strip()))


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of the shares of shared words (bags of words; Rajpurkar et al. 2016, arXiv 1606.05250)."""
    found, wanted = words(prediction), words(answer)
    if not found or not wanted:
        return exact_match(prediction, answer)
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted))


def numbers(text: str) -> list[float]:
    """Numbers of a text, in order; thousands separated by commas are one number."""
    return [float(n.replace(",", "")) for n in _NUMBER.findall(_plain(text))]


def numbers_agree(prediction: str, answer: str, tolerance: float) -> float:
    """1 when the prediction holds the same numbers as the answer, in order, each within the relative tolerance."""
    found, wanted = numbers(prediction), numbers(answer)
    same = len(found) == len(wanted) and all(
        math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-9) for a, b in zip(found, wanted, strict=True)
    )
    return float(same)


class GenerationEvaluator:
    """Scores of generated answers; `evaluate` returns the dict described in CONTRIBUTING.

    tolerance: relative error at which two numbers agree; n_resamples, level: bootstrap over patients; most_values: a
    truth column with more values makes no subgroups. Exact wording is compared, not meaning: a negated answer may
    score a high F1 and ROUGE.
    """

    def __init__(
        self, task: str = "generation", tolerance: float = 0.01, n_resamples: int = 1000, level: float = 0.95,
        most_values: int = 12, name: str = "generation",
    ):  # fmt: skip
        self.task, self.name, self.tolerance = task, name, tolerance
        self.n_resamples, self.level, self.most_values = n_resamples, level, most_values

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id, text [, stopped]; truth: answer, and any column that makes subgroups;
        context: seed, validation (its answers give the majority baseline). An empty answer scores 0 and is counted."""
        seed = int(context.get("seed") or 0)
        notes: list[str] = []
        predictions, truth = join(predictions, truth, ["text"], ["answer"])
        texts = ["" if t is None or (isinstance(t, float) and math.isnan(t)) else str(t) for t in predictions["text"]]
        answers = truth["answer"].astype(str).tolist()
        patients = truth["patient_id"].to_numpy()
        rouge, rouge_method = _rouge(answers)
        methods = self._methods(rouge_method)
        scores = self._scores(texts, answers, rouge)
        scores["empty_rate"] = np.array([float(not t.strip()) for t in texts])
        if "stopped" in predictions:
            scores["cut_off_rate"] = 1.0 - predictions["stopped"].astype(float).to_numpy()
            cut = int(scores["cut_off_rate"].sum())
            if cut:
                notes.append(f"{cut} answer(s) reached max_new_tokens without a stop token and are scored as they are.")
        empty = int(scores["empty_rate"].sum())
        if empty:
            notes.append(f"{empty} empty answer(s) are scored 0, not left out.")
        if np.isnan(scores["numeric_accuracy"]).all():
            notes.append("No reference answer holds a number: numeric accuracy is not defined.")
        baseline_texts, how = _majority(truth, context)
        notes.append(how)
        groups: dict[str, dict] = {}
        for column, value, rows in subgroups(truth, _RESERVED, self.most_values, notes):
            part = {name: column_scores[rows] for name, column_scores in scores.items()}
            groups.setdefault(column, {})[value] = self._entries(part, patients[rows], seed, methods, None)
        base = self._entries(self._scores(baseline_texts, answers, rouge), patients, seed, methods, None)
        return {
            "metrics": self._entries(scores, patients, seed, methods, notes),
            "baseline": {name: {**value, "name": "majority"} for name, value in base.items()},
            "curves": {},
            "subgroups": groups,
            "notes": notes,
        }

    def _methods(self, rouge_method: str) -> dict[str, str]:
        return {
            "exact_match": "same words and numbers in the same order (NFKC, lower case, punctuation dropped)",
            "token_f1": "F1 of shared words (bag of words), mean over samples",
            "rouge_l": rouge_method,
            "numeric_accuracy": "samples whose reference holds numbers: all of them, in order, "
            f"within a relative error of {self.tolerance:g}",
            "empty_rate": "share of empty answers",
            "cut_off_rate": "share of answers that ended at max_new_tokens, without a stop token",
        }

    def _scores(self, texts: Sequence[str], answers: Sequence[str], rouge: Callable) -> dict[str, np.ndarray]:
        """Metric -> one score a sample [n]; NaN where a sample does not count."""
        pairs = list(zip(texts, answers, strict=True))
        agree = [numbers_agree(t, a, self.tolerance) if numbers(a) else math.nan for t, a in pairs]
        return {
            "exact_match": np.array([exact_match(t, a) for t, a in pairs]),
            "token_f1": np.array([token_f1(t, a) for t, a in pairs]),
            "rouge_l": np.array([rouge(t, a) for t, a in pairs]),
            "numeric_accuracy": np.array(agree),
        }

    def _entries(self, scores, patients, seed: int, methods: dict[str, str], notes: list[str] | None) -> dict:
        entries = {}
        for name, values in scores.items():
            counted = np.isfinite(values)
            n, n_patients = int(counted.sum()), len(set(patients[counted]))
            interval = bootstrap(_mean(values), patients, self.n_resamples, seed, self.level)
            said = notes if n else None  # an undefined metric has its own note
            entries[name] = entry(interval, n, n_patients, f"{methods[name]}; {BOOTSTRAP}", None, said, name)
        return entries


def _mean(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Weighted mean over the samples that count, as a statistic of bootstrap weights [B, n] -> [B]."""
    counted = np.isfinite(values).astype(np.float64)
    filled = np.nan_to_num(values)

    def stat(weights: np.ndarray) -> np.ndarray:
        total = weights @ counted
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, (weights @ filled) / total, np.nan)

    return stat


def _rouge(answers: Sequence[str]) -> tuple[Callable[[str, str], float], str]:
    """(prediction, answer) -> ROUGE-L F1 (Lin 2004), and what it was computed with.

    rouge-score's own tokenizer keeps only a-z and 0-9: where it would leave nothing of an answer (Korean), words of
    any script are used instead, for the whole table."""
    from rouge_score import rouge_scorer, tokenizers

    label = f"ROUGE-L F1, rouge-score {version('rouge-score')}"
    plain = tokenizers.DefaultTokenizer(use_stemmer=True)
    if all(plain.tokenize(a) for a in answers):
        scorer, label = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True), f"{label}, Porter stemmer"
    else:
        scorer, label = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_AnyScript()), f"{label}, words of any script"
    return lambda text, answer: float(scorer.score(answer, text)["rougeL"].fmeasure), label


class _AnyScript:
    """The tokenizer interface of rouge-score over `words`."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def _majority(truth: pd.DataFrame, context: Mapping[str, Any]) -> tuple[list[str], str]:
    """The most frequent answer (of each kind of question) as everyone's answer, and where it was counted."""
    validation = context.get("validation")
    validation = validation if validation and validation[1] is not None else None
    source = validation[1] if validation else truth
    where = "the validation answers" if validation else "the scored answers themselves"
    by_kind = "kind" in truth and "kind" in source
    overall = _most_frequent(source["answer"])
    how = f"Baseline: the most frequent answer{' of each kind of question' if by_kind else ''}, counted on {where}."
    if not by_kind:
        return [overall] * len(truth), how
    per_kind = {kind: _most_frequent(rows) for kind, rows in source.groupby("kind")["answer"]}
    return [per_kind.get(kind, overall) for kind in truth["kind"]], how


def _most_frequent(answers: pd.Series) -> str:
    counts = Counter(answers.astype(str))
    return min(counts, key=lambda a: (-counts[a], a))  # ties: the same answer on every machine
