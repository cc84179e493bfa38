"""Fact check of rationales: how much of what a text states is so, what it leaves out, before and after cleaning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError
from clarion.evaluators import factcheck_patterns as patterns
from clarion.evaluators.bootstrap import Interval, bootstrap, entry, wilson
from clarion.evaluators.factcheck_claims import CONTRADICTED, KINDS, SUPPORTED, UNFOUNDED
from clarion.evaluators.factcheck_facts import Facts
from clarion.evaluators.factcheck_text import TOP, Checked, check
from clarion.evaluators.join import join
from clarion.evaluators.mcqa_questions import as_text
from clarion.evaluators.subgroups import subgroups

BOOTSTRAP = "percentile bootstrap over patients"
WILSON = "Wilson interval over patients: every text gives the same value"
_RESERVED = ("facts", "tissue", "patterns", "text", "time", "event", "question", "answer")
# name -> (what it is, numerator, denominator) over the counts of a text
MEASURES = {
    "precision": ("share of the claims that the facts support, before anything is removed", "supported", "claims"),
    "contradicted_rate": ("share of the claims that the facts contradict", "contradicted", "claims"),
    "unfounded_rate": ("share of the claims of which the facts hold nothing", "unfounded", "claims"),
    "precision_cleaned": ("share of the claims that the same rules support, after sentences with an unsupported claim "
                          "were removed", "kept_supported", "kept_claims"),
    "removed_rate": ("share of the sentences that were removed", "removed", "sentences"),
    "unread_rate": ("share of the sentences in which the rules find no claim to check", "unread", "sentences"),
    "omission": ("share of the top genes and tissues that the text does not name", "omitted", "expected"),
    "omission_cleaned": ("the same, of the text that is left", "left_out", "expected"),
    "empty_rate": ("share of the texts without a word", "empty", "texts"),
    "claims_per_text": ("claims a text", "claims", "texts"),
}  # fmt: skip


class FactcheckEvaluator:
    """Rationales against each patient's facts; `evaluate` returns the dict described in CONTRIBUTING.

    Facts are JSON (`Facts.to_json`) in a column `facts` of the truth or, where the truth has none, of the predictions
    (a model's own probability and attention are known only there). Where the predictions have a column `patterns` (JSON
    [{name, share}]: the tissue that the model attended to, as its prompt named it), it takes the place of the facts'
    patterns: a text is right about tissue where it says what the model was told, which is not yet what lies on the
    slide. How often the two agree is `patterns_true`, where the truth knows the tissue (column `tissue` of synthetic
    patients: JSON {kind: share of the tissue}): of the kinds in `patterns` those that make at least min_share of it.

    top: genes that a text should name; n_resamples, level: bootstrap over patients; most_values: a truth column with
    more values makes no subgroups. The rules read words, not meaning; what they catch and let pass is measured in
    tests/evaluators/test_factcheck_text.py."""

    def __init__(
        self, task: Any = ("generation", "survival"), top: int = TOP, n_resamples: int = 1000, level: float = 0.95,
        most_values: int = 12, min_share: float = 0.05, name: str = "factcheck",
    ):  # fmt: skip
        self.task, self.name, self.top = task, name, int(top)
        self.n_resamples, self.level, self.most_values = n_resamples, level, most_values
        self.min_share = float(min_share)

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id, text; joined by sample_id. DataError without texts or facts."""
        seed, notes = int(context.get("seed") or 0), []
        if "text" not in predictions.columns:
            raise DataError("evaluator=factcheck checks texts, and these predictions have no column text: choose a "
                            "model that writes rationales, or leave the evaluator out.")  # fmt: skip
        own = "facts" not in truth.columns
        if own and "facts" not in predictions.columns:
            raise DataError("Neither the truth nor the predictions have a column facts (JSON of a patient's facts): "
                            "there is nothing to check the texts against.")  # fmt: skip
        predictions, truth = join(predictions, truth, ["text"], [] if own else ["facts"])
        facts = _read((predictions if own else truth)["facts"], truth["sample_id"])
        if own:
            notes.append("The facts come with the predictions: they hold the model's own probability and attention.")
        stated = patterns.stated(predictions, notes)
        facts = [f if told is None else replace(f, patterns=told) for f, told in zip(facts, stated, strict=True)]
        texts, patients = [as_text(t) for t in predictions["text"]], truth["patient_id"].to_numpy()
        symbols = {g.name for f in facts for g in f.genes}
        checked = [check(t, f, symbols, self.top) for t, f in zip(texts, facts, strict=True)]
        counts = _counts(texts, facts, checked, symbols)
        self._remarks(checked, notes)
        groups: dict[str, dict] = {}
        for column, value, rows in subgroups(truth, _RESERVED, self.most_values, notes):
            part = {name: values[rows] for name, values in counts.items()}
            groups.setdefault(column, {})[value] = self._entries(part, patients[rows], seed, None)
        metrics = self._entries(counts, patients, seed, notes) | self._by_kind(checked, patients, seed)
        baseline = self._baseline(texts, facts, patients, symbols, seed, notes)
        for found, told in ((metrics, stated), (baseline, self._exchanged(stated, patients, seed))):
            found |= self._patterns_true(told, truth, patients, seed, found is baseline)
        return {
            "metrics": metrics,
            "baseline": baseline,
            "curves": {}, "subgroups": groups, "notes": notes,
        }  # fmt: skip

    def _entries(self, counts: Mapping[str, np.ndarray], patients, seed: int, notes: list[str] | None) -> dict:
        found = {}
        for name, (what, above, below) in MEASURES.items():
            found[name] = self._ratio(name, what, counts[above], counts[below], patients, seed, notes)
        return found

    def _ratio(self, name: str, what: str, above, below, patients, seed: int, notes: list[str] | None) -> dict:
        def stat(weights: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return (weights @ above) / (weights @ below)

        interval, how = bootstrap(stat, patients, self.n_resamples, seed, self.level), BOOTSTRAP
        n_patients = len(set(patients[below > 0]))
        if interval.value in (0.0, 1.0) and interval.low is None and n_patients > 1 and name != "claims_per_text":
            # All texts without an error are no proof of none to come: a bootstrap cannot tell.
            interval, how = wilson(interval.value * n_patients, n_patients, self.level), WILSON
            interval = Interval(interval.value, interval.low, interval.high)
        return entry(interval, int((below > 0).sum()), n_patients, f"{what}; {how}", None, notes, name)

    def _by_kind(self, checked: list[Checked], patients, seed: int) -> dict:
        """precision_KIND of every kind of claim that occurs."""
        found = {}
        for kind in KINDS:
            of_kind = [[c.verdict == SUPPORTED for c in one.claims if c.kind == kind] for one in checked]
            below = np.array([len(v) for v in of_kind], dtype=np.float64)
            if below.any():
                above = np.array([sum(v) for v in of_kind], dtype=np.float64)
                what = f"share of the claims of kind {kind} that the facts support"
                found[f"precision_{kind}"] = self._ratio(kind, what, above, below, patients, seed, None)
        return found

    def _baseline(self, texts, facts, patients, symbols, seed: int, notes: list[str]) -> dict:
        """Another patient's text, of the same model: what one would score that ignores its inputs."""
        partner = other_patients(patients, seed)
        if partner is None:
            notes.append("No baseline: another patient's text needs a second patient.")
            return {}
        exchanged = [texts[k] for k in partner]
        checked = [check(t, f, symbols, self.top) for t, f in zip(exchanged, facts, strict=True)]
        found = self._entries(_counts(exchanged, facts, checked, symbols), patients, seed, None)
        return {name: value | {"name": "another patient's text"} for name, value in found.items()}

    def _patterns_true(self, told, truth: pd.DataFrame, patients, seed: int, other: bool) -> dict:
        """{"patterns_true": ...} where both the tissue told of and that of the slide are known, else {}."""
        if told is None or "tissue" not in truth.columns:
            return {}
        counts = patterns.true_ones(told, truth["tissue"], self.min_share)
        if not counts["named"].any():
            return {}
        what = ("share of the kinds of tissue named in the prompt that make at least "
                f"{100 * self.min_share:g} % of the patient's tissue, as planted")  # fmt: skip
        found = self._ratio("patterns_true", what, counts["true"], counts["named"], patients, seed, None)
        return {"patterns_true": found | ({"name": "another patient's tissue"} if other else {})}

    @staticmethod
    def _exchanged(told, patients, seed: int):
        """What was told of other patients' tissue; None where there are none."""
        partner = other_patients(patients, seed)
        return None if partner is None else [told[k] for k in partner]

    @staticmethod
    def _remarks(checked: list[Checked], notes: list[str]) -> None:
        removed, sentences = sum(len(c.removed) for c in checked), sum(_sentences(c) for c in checked)
        notes.append(f"{removed} of {sentences} sentences had an unsupported claim and were removed.")
        wrong = Counter((c.kind, c.verdict) for one in checked for c in one.unsupported)
        if wrong:
            listed = ", ".join(f"{n} x {kind} {verdict}" for (kind, verdict), n in wrong.most_common(8))
            notes.append(f"Unsupported claims: {listed}.")
        notes.append("precision_cleaned is judged by the rules that chose what to remove: it says that the text is "
                     "consistent with them, no more.")  # fmt: skip


def other_patients(patients: np.ndarray, seed: int) -> np.ndarray | None:
    """For each row a row of another patient [n], drawn once; None where there is only one patient."""
    names = list(dict.fromkeys(patients))
    if len(names) < 2:
        return None
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(names))
    following = {names[k]: names[j] for k, j in zip(order, np.roll(order, 1), strict=True)}
    rows: dict[Any, list[int]] = {}
    for row, name in enumerate(patients):
        rows.setdefault(name, []).append(row)
    return np.array([rng.choice(rows[following[name]]) for name in patients])


def _read(column: pd.Series, ids: pd.Series) -> list[Facts]:
    found = []
    for given, sample in zip(column, ids, strict=True):
        try:
            found.append(Facts.read(given))
        except DataError as error:
            raise DataError(f"Sample {sample}: {error}") from None
    return found


def _sentences(checked: Checked) -> int:
    return sum(bool(claims) for _, claims in checked.sentences) + checked.unread


def _counts(texts, facts, checked: list[Checked], symbols) -> dict[str, np.ndarray]:
    """float64 [n] each: what the measures divide."""
    rows = []
    for text, known, one in zip(texts, facts, checked, strict=True):
        verdicts = Counter(c.verdict for c in one.claims)
        left = check(one.text, known, symbols).claims if one.removed else one.claims
        rows.append({
            "claims": len(one.claims), "supported": verdicts[SUPPORTED], "contradicted": verdicts[CONTRADICTED],
            "unfounded": verdicts[UNFOUNDED], "kept_claims": len(left),
            "kept_supported": sum(c.verdict == SUPPORTED for c in left), "removed": len(one.removed),
            "sentences": _sentences(one), "unread": one.unread, "omitted": len(one.omitted),
            "left_out": len(one.left_out), "expected": one.expected, "empty": not text.strip(), "texts": 1,
        })  # fmt: skip
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
