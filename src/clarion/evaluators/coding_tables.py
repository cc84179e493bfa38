"""Codes out of the tables of predictions and truth: lists, confidences, texts that a coder reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clarion.codes.scores import System
from clarion.errors import DataError, UsageError

STALE = ("refuse", "drop")
SHOWN = 5  # codes that an error names


@dataclass(frozen=True)
class Predicted:
    """codes: a list a case; confidences: as many numbers a case, None where nothing gives them."""

    codes: list[list[str]]
    confidences: list[list[float]] | None = None


def code_lists(table: pd.DataFrame, column: str, where: str) -> list[list[str]]:
    """The lists of a column; no value is an empty list, and a text is taken apart at commas, semicolons and line
    ends. DataError naming the sample whose cell is neither."""
    found = []
    for sample, cell in zip(table["sample_id"], table[column], strict=True):
        if isinstance(cell, (list, tuple, np.ndarray)):
            items = [str(c).strip() for c in cell if c is not None]
        elif isinstance(cell, str):
            items = [part.strip() for part in re.split(r"[;,\n]", cell)]
        elif cell is None or pd.isna(cell):
            items = []
        else:
            raise DataError(f"{where}, sample {sample}: {column} must be a list of codes, not {str(cell)[:40]!r}.")
        found.append([item for item in items if item])
    return found


def true_lists(
    truth: pd.DataFrame, column: str, system: System, stale: str, notes: list[str]
) -> list[list[str]]:  # fmt: skip
    """The true codes, normalised. Codes that do not exist (any more) are refused with the nearest ones, or with
    stale="drop" left out and counted."""
    raw = code_lists(truth, column, "truth")
    known = {code: system.normalise(code) for code in {c for row in raw for c in row}}
    gone = sorted(code for code, found in known.items() if found is None)
    if gone:
        times = sum(code in gone for row in raw for code in row)
        if stale != "drop":
            more = f" {len(gone) - SHOWN} more are unknown too." if len(gone) > SHOWN else ""
            raise DataError(
                f"The truth's {column} hold {len(gone)} code(s), {times} time(s), that do not exist: "
                f"{' '.join(system.unknown(code) for code in gone[:SHOWN])}{more} Correct them, or leave them out with "
                "evaluators.coding.stale=drop."
            )
        notes.append(
            f"{times} true {column} are no codes of {system.name} ({system.version}) and are left out (stale=drop): "
            f"{', '.join(gone[:SHOWN])}{' ...' if len(gone) > SHOWN else ''}."
        )
    lists = [[known[c] for c in row if known[c]] for row in raw]
    empty = sum(not row for row in lists)
    if empty == len(lists):
        raise DataError(f"No case of the truth has {column}: there is nothing to score; check the column.")
    if empty:
        notes.append(
            f"{empty} case(s) have no true {column}: what is predicted for them counts as wrong in micro scores, and "
            "they are left out of means over cases."
        )
    return lists


def predicted_codes(predictions: pd.DataFrame, coder: Callable | None) -> Predicted:
    """From the column `codes` (with `confidences`), else from `text` through the coder."""
    if "codes" in predictions.columns:
        lists = code_lists(predictions, "codes", "predictions")
        confidences = _confidences(predictions, lists) if "confidences" in predictions.columns else None
        return Predicted(lists, confidences)
    if "text" not in predictions.columns:
        found = ", ".join(map(str, predictions.columns))
        raise DataError(f"The predictions have neither a column codes (lists) nor text; they have: {found}.")
    if coder is None:
        raise UsageError(
            "The predictions are text, and nothing reads codes from it: name a coder with evaluators.coding.coder "
            "(conf/evaluator/coding.yaml has one), or give a column codes."
        )
    texts = ["" if not isinstance(t, str) else t for t in predictions["text"]]
    spans = [_asserted(coded) for coded in _read(coder, texts)]
    return Predicted([list(row) for row in spans], [list(row.values()) for row in spans])


def _read(coder: Any, texts: Sequence[str]) -> list:
    return list(coder.batch(texts)) if hasattr(coder, "batch") else [coder(text) for text in texts]


def _asserted(coded: Any) -> dict[str, float]:
    """code -> highest confidence of the spans that say the patient has it now. A code that was written down and does
    not exist is a prediction too, and a wrong one."""
    found: dict[str, float] = {}
    for span in coded.codes:
        if not (getattr(span, "negated", False) or getattr(span, "historical", False)):
            found[span.code] = max(found.get(span.code, 0.0), float(span.confidence))
    for span in getattr(coded, "dropped", ()):
        if getattr(span, "reason", None) == "no_such_code":
            found.setdefault(span.text, float(span.confidence))
    return found


def _confidences(predictions: pd.DataFrame, lists: list[list[str]]) -> list[list[float]] | None:
    if predictions["confidences"].isna().all():
        return None
    rows = []
    for sample, cell, codes in zip(predictions["sample_id"], predictions["confidences"], lists, strict=True):
        try:
            values = [float(v) for v in cell] if isinstance(cell, (list, tuple, np.ndarray)) else []
        except (TypeError, ValueError):  # as a csv may hold
            values = []
        if len(values) != len(codes) or not np.isfinite(values).all():
            raise DataError(
                f"predictions, sample {sample}: {len(codes)} codes and {len(values)} confidences (or some that are no "
                "numbers): give one number for each code, or leave the column out."
            )
        rows.append(values)
    return rows


def top_codes(train: Sequence[Sequence[str]], system: System) -> list[str]:
    """The most frequent training codes, as many as make the best micro F1 in training when given to every case."""
    codes = pd.Series([code for row in train for code in {system.normalise(c) for c in row} if code], dtype=object)
    if codes.empty:
        return []
    counts = codes.value_counts()
    ranked = sorted(counts.index, key=lambda code: (-counts[code], code))  # ties by name, not by order of arrival
    right = np.cumsum([counts[code] for code in ranked])
    f1 = 2 * right / (counts.sum() + len(train) * np.arange(1, len(ranked) + 1))
    return ranked[: int(np.argmax(f1)) + 1]
