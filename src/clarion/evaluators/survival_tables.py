"""Columns of a survival truth and of its predictions, checked: bad values are refused by the sample's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError


def outcome(truth: pd.DataFrame, name: str = "truth") -> tuple[np.ndarray, np.ndarray]:
    """(time [n] float, event [n] bool) of columns time and event. DataError on times that are missing or negative and
    events that are not true/false or 1/0."""
    absent = [c for c in ("time", "event") if c not in truth.columns]
    if absent:
        raise DataError(f"The {name} table lacks the column(s) {', '.join(absent)} that survival scores need.")
    time = numbers(truth, "time", name)
    if (time < 0).any():
        raise DataError(f"{_first(truth, time < 0)} of the {name} have a negative time: follow-up starts at 0.")
    event = pd.to_numeric(truth["event"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = ~np.isin(event, (0.0, 1.0))
    if wrong.any():
        raise DataError(f"{_first(truth, wrong)} of the {name} have an event other than true/false (1/0).")
    return time, event.astype(bool)


def numbers(table: pd.DataFrame, column: str, name: str) -> np.ndarray:
    """A column as finite floats [n]. DataError names the first sample that breaks this."""
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise DataError(f"{_first(table, wrong)} of the {name} have no finite {column}: every sample needs one number.")
    return values


def predicted_survival(
    predictions: pd.DataFrame, context: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray] | None:
    """(times [T], S [n, T]) of columns `survival` and `times` (a list a row, the same times in every row; or
    context["times"] for all), None where nothing is predicted. DataError on anything that is no survival function."""
    if "survival" not in predictions.columns or predictions["survival"].isna().all():
        return None
    rows = _lists(predictions, "survival")
    if "times" in predictions.columns and not predictions["times"].isna().all():
        each = _lists(predictions, "times")
        if any(not np.array_equal(times, each[0]) for times in each):
            raise DataError("Column times differs between samples: predict survival at the same times for all.")
        times = each[0]
    elif context.get("times") is not None:
        times = np.asarray(context["times"], dtype=np.float64)
    else:
        raise DataError("The predictions hold survival probabilities but no times: add the column times.")
    if times.ndim != 1 or not times.size or not np.isfinite(times).all() or (np.diff(times) <= 0).any() or times[0] < 0:
        raise DataError("The times of the survival probabilities must be a rising list of numbers from 0 on.")
    if any(row.shape != times.shape for row in rows):
        raise DataError(f"Column survival must hold {len(times)} probabilities a sample, one for each of the times.")
    table = np.stack(rows)
    outside = ~np.isfinite(table).all(1) | (table < -1e-6).any(1) | (table > 1 + 1e-6).any(1)
    if outside.any():
        raise DataError(f"{_first(predictions, outside)} have survival probabilities outside 0..1.")
    rising = (np.diff(table, axis=1) > 1e-6).any(1)
    if rising.any():
        raise DataError(f"{_first(predictions, rising)} have survival that rises with time: hand S(t), not the risk.")
    return times, np.clip(table, 0, 1)


def texts(table: pd.DataFrame, column: str | None) -> np.ndarray | None:
    """A column as text [n], "" for missing; None without it."""
    if column is None or column not in table.columns:
        return None
    return table[column].map(lambda v: "" if pd.isna(v) else str(v)).to_numpy(object).astype(str)


def _lists(table: pd.DataFrame, column: str) -> list[np.ndarray]:
    try:
        return [np.asarray(values, dtype=np.float64) for values in table[column]]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Column {column} of the predictions must hold one list of numbers a sample ({error})."
        ) from None


def _first(table: pd.DataFrame, wrong: np.ndarray) -> str:
    """'2 sample(s), first s7,'"""
    key = next((c for c in ("sample_id", "patient_id") if c in table.columns), None)
    at = int(np.argmax(wrong))
    return f"{int(wrong.sum())} sample(s), first {table[key].iloc[at] if key else f'row {at}'},"
