"""Hallucinations: how often an answer claims what its source contradicts or does not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError
from clarion.evaluators.bootstrap import bootstrap, entry, wilson
from clarion.evaluators.grounding_claims import KINDS, Claim, read_source, unsupported
from clarion.evaluators.join import join
from clarion.evaluators.mcqa_questions import as_text
from clarion.evaluators.subgroups import subgroups

BOOTSTRAP = "percentile bootstrap over patients (documents)"
_RESERVED = ("question", "answer", "options", "answer_index", "context")
WHAT = {
    "number": "a number with a unit that the source does not hold",
    "side": "another eye than the source's",
    "polarity": "affirms what the source denies, or the opposite",
    "finding": "names a finding that the source does not mention",
}
OPEN, CLOSED = "open_book", "closed_book"


class GroundingEvaluator:
    """Share of answers with a claim that is not grounded; `evaluate` returns the dict described in CONTRIBUTING.

    The source of an answer is the truth's column `context` where it has one (a passage; the facts withheld from a
    closed-book question), else the question, which then holds the findings; the reference answer belongs to it, since
    what follows from findings (a difference, a stage) stands there. tolerance: relative error at which numbers agree;
    n_resamples, level: bootstrap over patients; most_values: a truth column with more values makes no subgroups. The
    rules read words, not meaning: what they miss and what they raise falsely is measured in tests/evaluators.
    """

    def __init__(
        self, task: str = "generation", tolerance: float = 0.02, n_resamples: int = 1000, level: float = 0.95,
        most_values: int = 24, name: str = "grounding",
    ):  # fmt: skip
        self.task, self.name, self.tolerance = task, name, tolerance
        self.n_resamples, self.level, self.most_values = n_resamples, level, most_values

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id, text; truth: answer, and context and/or question; joined by sample_id."""
        seed, notes = int(context.get("seed") or 0), []
        if not {"context", "question"} & set(truth.columns):
            raise DataError("The truth has neither context nor question: there is no source to ground answers in.")
        predictions, truth = join(predictions, truth, ["text"], ["answer"])
        texts = [as_text(t) for t in predictions["text"]]
        answers, patients = [as_text(a) for a in truth["answer"]], truth["patient_id"].to_numpy()
        sources = [read_source(*parts) for parts in self._sources(truth, answers)]
        claims = [unsupported(t, s, self.tolerance) for t, s in zip(texts, sources, strict=True)]
        empty = sum(not t.strip() for t in texts)
        if empty:
            notes.append(f"{empty} empty answer(s) claim nothing and count as not hallucinated: see empty_rate.")
        counts = Counter(c.kind for found in claims for c in found)
        listed = ", ".join(f"{counts[k]} x {WHAT[k]}" for k in KINDS if counts[k]) or "none"
        notes.append(f"Claims that are not grounded: {listed}.")
        scores = self._scores(claims)
        scores["empty_rate"] = np.array([float(not t.strip()) for t in texts])
        groups: dict[str, dict] = {}
        for column, value, rows in subgroups(truth, _RESERVED, self.most_values, notes):
            part = {name: values[rows] for name, values in scores.items()}
            groups.setdefault(column, {})[value] = self._entries(part, patients[rows], seed, None)
        kinds = truth["kind"].to_numpy() if "kind" in truth else np.full(len(truth), "")
        rate = scores["hallucination_rate"]
        return {
            "metrics": self._entries(scores, patients, seed, notes) | self._by_book(rate, kinds, patients, seed),
            "baseline": self._baseline(answers, sources, kinds, patients, seed),
            "curves": {},
            "subgroups": groups,
            "notes": notes,
        }

    @staticmethod
    def _sources(truth: pd.DataFrame, answers: list[str]) -> list[tuple[str, ...]]:
        given = [as_text(v) for v in truth["context"]] if "context" in truth else [""] * len(truth)
        asked = [as_text(v) for v in truth["question"]] if "question" in truth else [""] * len(truth)
        return list(zip(given, asked, answers, strict=True))

    @staticmethod
    def _scores(claims: list[list[Claim]]) -> dict[str, np.ndarray]:
        found = {"hallucination_rate": np.array([float(bool(c)) for c in claims])}
        for kind in KINDS:
            found[f"{kind}_rate"] = np.array([float(any(c.kind == kind for c in own)) for own in claims])
        return found

    def _entries(self, scores: Mapping[str, np.ndarray], patients, seed: int, notes: list[str] | None) -> dict:
        found = {}
        for name, values in scores.items():

            def stat(weights: np.ndarray, values=values) -> np.ndarray:
                return weights @ values / weights.sum(1)

            what = {
                "hallucination_rate": "share of answers with at least one claim that is not grounded",
                "empty_rate": "share of empty answers",
            }.get(name) or f"share of answers with a claim that {WHAT[name.removesuffix('_rate')]}"
            n_patients, how = len(set(patients)), BOOTSTRAP
            interval = bootstrap(stat, patients, self.n_resamples, seed, self.level)
            if n_patients > 1 and np.ptp(values) == 0:  # none of few is no proof of none: a bootstrap cannot tell
                interval = wilson(float(values[0]) * n_patients, n_patients, self.level)
                how = "Wilson interval over patients (documents)"
            found[name] = entry(interval, len(values), n_patients, f"{what}; {how}", None, notes, name)
        return found

    def _by_book(self, rate: np.ndarray, kinds: np.ndarray, patients: np.ndarray, seed: int) -> dict:
        """hallucination_rate_open_book and _closed_book, of those that the truth's column `kind` names."""
        found = {}
        for book in (OPEN, CLOSED):
            if (rows := kinds == book).any():
                part = self._entries({"hallucination_rate": rate[rows]}, patients[rows], seed, None)
                method = f"{book.replace('_', '-')} questions: {part['hallucination_rate']['method']}"
                found[f"hallucination_rate_{book}"] = part["hallucination_rate"] | {"method": method}
        return found

    def _baseline(self, answers, sources, kinds, patients, seed: int) -> dict:
        """A fluent answer to another question, from the same set: what a model that ignores the source would score."""
        if len(answers) < 2:
            return {}
        order = np.random.default_rng(seed).permutation(len(answers))
        partner = np.empty(len(answers), dtype=int)
        partner[order] = np.roll(order, 1)
        claims = [unsupported(answers[k], s, self.tolerance) for k, s in zip(partner, sources, strict=True)]
        scores = self._scores(claims)
        found = self._entries(scores, patients, seed, None)
        found |= self._by_book(scores["hallucination_rate"], kinds, patients, seed)
        return {k: v | {"name": "another question's reference answer"} for k, v in found.items()}
