"""Subgroups of a truth table: every column that is neither id nor answer and takes few values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd


def subgroups(
    truth: pd.DataFrame, reserved: tuple[str, ...], most_values: int, notes: list[str]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(column, value as text, rows [n] bool) for columns of 2..most_values values; others are named in `notes`."""
    skipped = []
    for column in truth.columns:
        if column in {"sample_id", "patient_id", *reserved}:
            continue
        values = truth[column]
        if values.map(lambda v: isinstance(v, (list, dict, np.ndarray))).any():
            continue
        text = values.map(_text)
        names = text.unique()
        if len(names) > most_values:
            skipped.append(str(column))
        elif len(names) > 1:
            for name in sorted(names):
                yield str(column), name, (text == name).to_numpy()
    if skipped:
        notes.append(f"No subgroups by {', '.join(skipped)}: more than {most_values} values.")


def _text(value) -> str:
    if pd.isna(value):
        return "missing"
    # A column of whole numbers with a gap is read back as float: 3.0 is stage 3.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
