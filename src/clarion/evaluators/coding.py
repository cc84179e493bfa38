"""Clinical coding: sets of ICD-10-CM codes (and of procedures, laboratory tests, medicines) against the true ones.

Scores stand at every level of the code tree. A case from which no code could be read has an empty prediction: it is
counted (coding_failure_rate) and scored, never left out. `protocol="clibench"` scores as CliBench published instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clarion.codes.atc import atc
from clarion.codes.icd10cm import icd10cm
from clarion.codes.loinc import NO_TABLE, loinc
from clarion.codes.pcs import icd10pcs
from clarion.codes.scores import CodeSets, System
from clarion.errors import UsageError
from clarion.evaluators import coding_abstention
from clarion.evaluators import coding_clibench as clibench
from clarion.evaluators.coding_measures import Ratio, level_ratios, mean, measure
from clarion.evaluators.coding_tables import (
    STALE,
    code_lists,
    predicted_codes,
    top_codes,
    true_lists,
)
from clarion.evaluators.join import join
from clarion.evaluators.subgroups import subgroups

log = logging.getLogger("clarion")

PROTOCOLS = ("clarion", "clibench")
OTHERS = {"procedures": "procedure_", "labs": "lab_", "drugs": "drug_"}  # optional columns and their metrics' prefix
HEADLINE = ("leaf_f1", "case_leaf_f1", "category_f1")
_RESERVED = (
    "codes", "procedures", "labs", "drugs", "question", "answer", "options", "answer_index", "context", "text", "note"
)  # fmt: skip


class CodingEvaluator:
    """Scores of predicted codes; `evaluate` returns the dict described in CONTRIBUTING.

    protocol: clarion, or clibench for the published scores with their conventions; coder: reads codes from the column
    `text` where predictions hold no `codes` (`coder.batch(texts)` or `coder(text)`, each result with .codes of .code
    and .confidence); stale: refuse or drop true codes that do not exist any more; procedures, loinc, atc: tables of
    the user (a newer ICD-10-PCS list, LOINC's ComponentHierarchyBySystem.csv, ATC codes); scope: protocol clibench
    matches phrases with the titles below this code (null: all, slow); encoder: its sentence encoder; n_resamples,
    level: bootstrap over patients; most_values: a truth column with more values makes no subgroups.
    """

    def __init__(
        self, task: str = "generation", protocol: str = "clarion", coder: Callable | None = None,
        stale: str = "refuse", procedures: str | None = None, loinc: str | None = None, atc: str | None = None,
        scope: str | None = "7", encoder: str | None = None, n_resamples: int = 1000, level: float = 0.95,
        most_values: int = 60, name: str = "coding",
    ):  # fmt: skip
        if protocol not in PROTOCOLS:
            raise UsageError(f"evaluators.coding.protocol={protocol} is unknown: write {' or '.join(PROTOCOLS)}.")
        if stale not in STALE:
            raise UsageError(f"evaluators.coding.stale={stale} is unknown: write {' or '.join(STALE)}.")
        self.task, self.name, self.protocol, self.coder, self.stale = task, name, protocol, coder, stale
        self.tables = {"procedures": procedures, "labs": loinc, "drugs": atc}
        self.scope, self.encoder = scope, encoder
        self.n_resamples, self.level, self.most_values = n_resamples, level, most_values
        self._validated: tuple[pd.DataFrame, float | None] | None = None

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id and codes (list[str]) [, confidences (list[float])] or text [,
        procedures, labs, drugs]; truth: codes [, procedures, labs, drugs] and columns that make subgroups; context:
        seed, train_truth or validation (their codes give the majority). Joined by sample_id."""
        seed, notes = int(context.get("seed") or 0), []
        predictions, truth = join(predictions, truth, [], ["codes"])
        system = icd10cm()
        true = true_lists(truth, "codes", system, self.stale, notes)
        coarse = sum(not system.is_leaf(code) for row in true for code in row)
        if coarse:
            notes.append(
                f"{coarse} true code(s) are no leaves: at levels below their own only the same code matches them."
            )
        patients = truth["patient_id"].to_numpy()
        majority, where = self._majority(context, true, system)
        named = ", ".join(majority[:6]) + (f" and {len(majority) - 6} more" if len(majority) > 6 else "")
        notes.append(
            f"Majority baseline: {named} for every case: the most frequent of {where}, as many as score best there."
        )
        if self.protocol == "clibench":
            return self._as_published(predictions, truth, true, majority, patients, seed, notes)
        predicted = predicted_codes(predictions, self.coder)
        sets = CodeSets(true, predicted.codes, system)
        ratios = self._ratios(sets, system, notes)
        for column, prefix in OTHERS.items():
            ratios |= self._other(column, prefix, predictions, truth, notes)
        threshold = self._threshold(context.get("validation"), system) if predicted.confidences else None
        if threshold is not None:
            ratios |= coding_abstention.at_threshold(true, predicted, threshold, system)
            notes.append(f"Abstaining scores: the threshold {threshold:.3g} is the best on the validation split.")
        metrics = self._measure(ratios, patients, seed, notes)
        base = self._ratios(CodeSets(true, [majority] * len(true), system), system, [])
        groups: dict[str, dict] = {}
        few = {name: ratios[name] for name in (*HEADLINE, "sub_category_f1", "exact_match", "coding_failure_rate")}
        for column, value, rows in subgroups(truth, _RESERVED, self.most_values, notes):
            part = {k: Ratio(r.over[rows], r.under[rows], r.method, r.unit, r.proportion) for k, r in few.items()}
            groups.setdefault(column, {})[value] = self._measure(part, patients[rows], seed, None)
        return {
            "metrics": metrics,
            "baseline": _named(self._measure(base, patients, seed, None)),
            "curves": coding_abstention.curves(sets, predicted),
            "subgroups": groups,
            "notes": notes,
        }

    # ------------------------------------------------------------------------------------------------ scores

    def _ratios(self, sets: CodeSets, system: System, notes: list[str]) -> dict[str, Ratio]:
        wrong, given = sets.invalid()
        failed = given - wrong == 0
        if n_failed := int(failed.sum()):
            notes.append(f"{n_failed} case(s) with no code that exists are empty predictions, and are not left out.")
        if wrong.any():
            notes.append(f"{int(wrong.sum())} predicted code(s) do not exist: each counts as a wrong one.")
        levels = level_ratios(sets, system.LEVELS[::-1])
        rest = {
            "exact_match": mean(sets.exact(), "cases whose set of codes is the true one", None, proportion=True),
            "hierarchical_distance": mean(
                sets.distances(),
                "edges of the code tree from each code to the nearest of the other set, none: to the root; mean",
                "edges",
            ),
            "coding_failure_rate": mean(failed.astype(float), "cases without a predicted code", None, proportion=True),
            "invalid_code_rate": Ratio(wrong, given, "share of predicted codes that do not exist"),
        }
        return {name: levels[name] for name in HEADLINE} | rest | levels

    def _other(self, column: str, prefix: str, predictions, truth, notes: list[str]) -> dict[str, Ratio]:
        """Scores of an optional column; a note where predictions lack it."""
        if column not in truth.columns:
            return {}
        if column not in predictions.columns:
            notes.append(f"{column} are not scored: the predictions have no column {column}.")
            return {}
        system = self._system(column)
        if column == "labs" and self.tables["labs"] is None:
            notes.append(NO_TABLE)
        true = true_lists(truth, column, system, self.stale, notes)
        sets = CodeSets(true, code_lists(predictions, column, "predictions"), system)
        if wrong := int(sets.invalid()[0].sum()):
            notes.append(f"{wrong} predicted {column} do not exist: each counts as a wrong one.")
        return level_ratios(sets, system.LEVELS[::-1], prefix)

    def _system(self, column: str) -> System:
        return {"procedures": icd10pcs, "labs": loinc, "drugs": atc}[column](self.tables[column])

    def _measure(self, ratios, patients, seed, notes, averages=None) -> dict:
        return measure(ratios, patients, self.n_resamples, seed, self.level, notes, averages)

    def _threshold(self, validation: tuple | None, system: System) -> float | None:
        """The best one of the validation split; its texts are read once for all evaluations of a run."""
        if not validation or validation[0] is None:
            return None
        if self._validated is None or self._validated[0] is not validation[0]:
            self._validated = (validation[0], coding_abstention.best_threshold(*validation, self.coder, system))
        return self._validated[1]

    def _majority(self, context: Mapping[str, Any], true, system: System) -> tuple[list[str], str]:
        """(the codes, where they were counted): training, else validation, else the scored cases themselves."""
        validation = context.get("validation")
        tables = (
            (context.get("train_truth"), "the training codes"),
            (validation[1] if validation else None, "the validation codes"),
        )
        for table, where in tables:
            if table is not None and "codes" in table.columns and len(table):
                rows = table.assign(sample_id=table.get("sample_id", pd.Series(range(len(table)), index=table.index)))
                if top := top_codes(code_lists(rows, "codes", where), system):
                    return top, where
        return top_codes(true, system), "the scored codes themselves, since there are no training codes"

    # ------------------------------------------------------------------------------------------------ published

    def _as_published(self, predictions, truth, true, majority, patients, seed, notes: list[str]) -> dict:
        """The published protocol. Its conventions and what it leaves out are notes of the result."""
        system = icd10cm()
        if "codes" in predictions.columns:
            lists = code_lists(predictions, "codes", "predictions")
        else:
            lists = clibench.read(predictions["text"], system, self.scope, self.encoder, notes)
        lists = [clibench.valid(row, system) for row in lists]
        scored = np.array([bool(row) for row in lists])
        told = clibench.left_out(scored)
        notes.extend(told)
        for note in told:
            log.info("%s", note)
        if not scored.any():
            return {"metrics": {}, "baseline": {}, "curves": {}, "subgroups": {}, "notes": notes}
        ratios, averages = clibench.ratios(_kept(true, scored), _kept(lists, scored), system)
        base, base_averages = clibench.ratios(_kept(true, scored), [majority] * int(scored.sum()), system)
        who = patients[scored]
        skipped = mean((~scored).astype(float), "cases without a parsed code, which the protocol skips", None, True)
        metrics = self._measure(ratios, who, seed, notes, averages)
        metrics |= self._measure({"skipped_rate": skipped}, patients, seed, notes)
        for column, prefix in OTHERS.items():
            metrics |= self._other_as_published(column, prefix, predictions, truth, patients, seed, notes)
        groups: dict[str, dict] = {}
        few = {name: ratios[name] for name in HEADLINE}
        for column, value, rows in subgroups(truth[scored].reset_index(drop=True), _RESERVED, self.most_values, notes):
            part = {k: Ratio(r.over[rows], r.under[rows], r.method) for k, r in few.items()}
            groups.setdefault(column, {})[value] = self._measure(part, who[rows], seed, None)
        return {
            "metrics": metrics,
            "baseline": _named(self._measure(base, who, seed, None, base_averages)),
            "curves": {},
            "subgroups": groups,
            "notes": notes,
        }

    def _other_as_published(self, column, prefix, predictions, truth, patients, seed, notes: list[str]) -> dict:
        """Procedures, tests and medicines are tasks of their own there, each with its own skipped cases."""
        if column not in truth.columns or column not in predictions.columns:
            return {}
        system = self._system(column)
        sliced = clibench.convention(column, system)
        if sliced is None:
            notes.append(NO_TABLE)
            return {}
        lists = [clibench.valid(row, sliced) for row in code_lists(predictions, column, "predictions")]
        scored = np.array([bool(row) for row in lists])
        notes.append(f"Protocol clibench: {int((~scored).sum())} cases without valid {column} are skipped for these.")
        if not scored.any():
            return {}
        true = true_lists(truth, column, system, self.stale, notes)
        ratios, averages = clibench.ratios(_kept(true, scored), _kept(lists, scored), sliced, prefix)
        return self._measure(ratios, patients[scored], seed, notes, averages)


def _kept(rows: Sequence, keep: np.ndarray) -> list:
    return [row for row, kept in zip(rows, keep, strict=True) if kept]


def _named(entries: dict[str, dict]) -> dict[str, dict]:
    return {name: value | {"name": "majority"} for name, value in entries.items()}
