"""Questions with options as the arrays that a score needs, and what is drawn of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError
from clarion.evaluators.bootstrap import codes
from clarion.evaluators.mcqa_parsing import LETTERS, Parsed

BINS = 10  # of a reliability curve, of equal width


@dataclass(frozen=True)
class Choices:
    """One way of choosing, for n questions. index [n]: the option chosen, -1 for none (wrong)."""

    index: np.ndarray

    def classes(self, labels: Sequence[Sequence[int]], none: int) -> np.ndarray:
        """[n] class of the option chosen; `none` where there is no choice."""
        return np.array([row[k] if 0 <= k < len(row) else none for row, k in zip(labels, self.index, strict=True)])


@dataclass(frozen=True)
class Questions:
    """The n questions. labels: class of each option; names: of the classes."""

    patients: np.ndarray
    gold: np.ndarray
    labels: list[list[int]]
    names: list[str]
    options: list[list[str]]

    @property
    def group(self) -> np.ndarray:
        return codes(self.patients)[0]

    @property
    def n_groups(self) -> int:
        return len(codes(self.patients)[1])

    @property
    def by_text(self) -> bool:
        return self.names != list(LETTERS[: len(self.names)])

    @property
    def what(self) -> str:
        return "classes are the option texts" if self.by_text else "classes are the letters"


def nothing(rows: int) -> dict:
    """The result of a table without a question that has options."""
    return {
        "metrics": {}, "baseline": {}, "curves": {}, "subgroups": {},
        "notes": [f"None of the {rows} rows has options: there is no multiple-choice question (evaluator=essay)."],
    }  # fmt: skip


def as_text(value: Any) -> str:
    """A cell of a table as text; missing ones (None, NaN) as the empty text."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def is_list(value: Any) -> bool:
    """Lists, and the arrays that parquet makes of them."""
    return isinstance(value, list | tuple | np.ndarray)


def check_gold(gold: np.ndarray, options: Sequence[Sequence[str]], ids: pd.Series) -> None:
    """Raise DataError where an answer is none of its options."""
    bad = [i for i, g, o in zip(ids, gold, options, strict=True) if len(o) < 2 or g >= len(o)]
    if bad:
        raise DataError(f"answer_index points outside the options of {len(bad)} sample(s), first {bad[0]}.")


def classes_of(options: Sequence[Sequence[str]]) -> tuple[list[list[int]], list[str]]:
    """Class of each option: its text where all questions offer the same texts (yes, no, maybe), else its letter."""
    cleaned = [[_unlabelled(o, k) for k, o in enumerate(row)] for row in options]
    sets = {frozenset(row) for row in cleaned}
    if len(sets) == 1 and all(len(set(row)) == len(row) for row in cleaned):
        names = list(cleaned[0])
        return [[names.index(o) for o in row] for row in cleaned], names
    most = max(map(len, options))
    return [list(range(len(row))) for row in options], list(LETTERS[:most])


def _unlabelled(option: str, position: int) -> str:
    """"A) yes" -> "yes", where A is the letter of its position."""
    found = re.match(r"^\(?([A-J])[).:]\s+(.+)$", option, re.DOTALL)
    return (found[2] if found and found[1] == LETTERS[position] else option).strip().lower()


def scores_of(
    predictions: pd.DataFrame, column: str, options: Sequence[Sequence[str]]
) -> list[np.ndarray | None] | None:
    """One array of log-probabilities a question (None where it has none), or None where no question has any."""
    if column not in predictions:
        return None
    rows: list[np.ndarray | None] = []
    for sample_id, value, choices in zip(predictions["sample_id"], predictions[column], options, strict=True):
        if not is_list(value):
            rows.append(None)
            continue
        scores = np.asarray(value, dtype=np.float64)
        if scores.shape != (len(choices),) or np.isnan(scores).any() or (scores > 1e-6).any():
            raise DataError(
                f"{column} of sample {sample_id} must be {len(choices)} log-probabilities (0 or less), one an option."
            )
        rows.append(scores)
    return None if all(row is None for row in rows) else rows


def normalised(logprobs, predictions) -> list[np.ndarray | None]:
    """Sums of log-probabilities -> means a token of the option."""
    return [
        None if row is None else row / np.maximum(np.asarray(tokens, dtype=np.float64), 1)
        for row, tokens in zip(logprobs, predictions["option_tokens"], strict=True)
    ]


def argmax(rows: list[np.ndarray | None] | None) -> np.ndarray | None:
    """[n] best option, -1 for none; of equal ones the first."""
    return None if rows is None else np.array([-1 if row is None else int(row.argmax()) for row in rows])


def softmax(logprobs, predictions, rule: str) -> list[np.ndarray | None] | None:
    """Probability of each option among the options of its question; rule: sum or mean."""
    if logprobs is None:
        return None
    rows = normalised(logprobs, predictions) if rule == "mean" else logprobs
    found: list[np.ndarray | None] = []
    for row in rows:
        if row is None or not np.isfinite(row).any():
            found.append(None)
            continue
        powers = np.exp(row - row.max())
        found.append(powers / powers.sum())
    return None if all(p is None for p in found) else found


def tell_failures(parsed: Sequence[Parsed], notes: list[str]) -> None:
    """Note how many answers chose nothing, and why."""
    why = Counter(p.why for p in parsed if p.index is None)
    if why:
        said = {"none": "name no option", "several": "name several", "refusal": "refuse", "empty": "are empty"}
        parts = ", ".join(f"{n} {said[k]}" for k, n in sorted(why.items()))
        notes.append(f"{sum(why.values())} answer(s) cannot be parsed ({parts}) and count as wrong.")


def majority(rows: Questions, truth: pd.DataFrame, context: Mapping[str, Any]) -> tuple[np.ndarray, str]:
    """The option of each question that the majority class names (-1 where it has none), and where it was counted."""
    known, where = None, "the scored questions themselves, for want of validation answers"
    validation = context.get("validation")
    table = validation[1] if validation else None
    if table is not None and "answer_index" in table:
        table = table[table["answer_index"].to_numpy(dtype=int) >= 0]
        if len(table):
            known, where = table, "the validation answers"
    known = truth if known is None else known
    counts: Counter = Counter()
    for row, index in zip(known["options"], known["answer_index"], strict=True):
        name = _unlabelled(as_text(row[int(index)]), int(index)) if rows.by_text else LETTERS[int(index)]
        counts[name] += 1
    best = min(counts, key=lambda name: (-counts[name], name))
    wanted = rows.names.index(best) if best in rows.names else -1
    return np.array([row.index(wanted) if wanted in row else -1 for row in rows.labels]), where


def positions(rows: Questions, choice: Choices, metrics: dict, notes: list[str]) -> dict:
    """Share of each letter among gold and predicted answers; their distance becomes a metric."""
    most = max(map(len, rows.options))
    made = choice.index[choice.index >= 0]
    gold = np.bincount(rows.gold, minlength=most) / len(rows.gold)
    found = np.bincount(made, minlength=most) / max(1, len(made))
    distance = float(np.abs(gold - found).sum() / 2) if len(made) else None
    metrics["position_bias"] = {
        "value": distance, "low": None, "high": None, "n": len(made), "n_patients": rows.n_groups, "unit": None,
        "method": "total variation distance of the letters chosen and the letters of the answers (0: same shares)",
    }  # fmt: skip
    shares = ", ".join(f"{LETTERS[k]} {100 * found[k]:.0f} % (answers {100 * gold[k]:.0f} %)" for k in range(most))
    notes.append(f"Letters chosen: {shares}.")
    x_label, y_label = "share among the answers", "share among the choices"
    return {"x": gold.round(6).tolist(), "y": found.round(6).tolist(), "x_label": x_label, "y_label": y_label,
            "kind": "scatter"}  # fmt: skip


def reliability(probability, gold: np.ndarray) -> dict:
    """Accuracy by probability of the chosen option, a point a bin that holds any."""
    rows = [(p.max(), p.argmax() == g) for p, g in zip(probability, gold, strict=True) if p is not None]
    top, right = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], dtype=float)
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    n = np.bincount(bins, minlength=BINS)
    full = n > 0
    mean, share = (np.bincount(bins, v, BINS)[full] / n[full] for v in (top, right))
    return {
        "x": mean.round(6).tolist(), "y": share.round(6).tolist(), "n": n[full].tolist(),
        "x_label": "mean probability of the chosen option", "y_label": "accuracy",
    }  # fmt: skip


def confusion(rows: Questions, choice: Choices) -> dict:
    """Classes of the answers by classes of the choices; the last column is no choice at all."""
    classes = len(rows.names)
    true = np.array([row[g] for row, g in zip(rows.labels, rows.gold, strict=True)])
    matrix = np.zeros((classes + 1, classes + 1), dtype=int)
    np.add.at(matrix, (true, choice.classes(rows.labels, none=classes)), 1)
    return {"labels": [*rows.names, "no choice"], "matrix": matrix.tolist(), "rows": "truth", "columns": "prediction"}
