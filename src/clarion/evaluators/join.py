"""Predictions meet the truth by sample_id, never by position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from clarion.errors import DataError

KEYS = ("sample_id", "patient_id")


def join(
    predictions: pd.DataFrame,
    truth: pd.DataFrame,
    predicted: Sequence[str],
    true: Sequence[str],
    names: tuple[str, str] = ("predictions", "truth"),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables, row by row about the same sample, in the order of sample_id.

    predictions, truth: one row a sample, columns sample_id and patient_id plus `predicted` / `true`;
    `names`: what to call the two tables in an error.
    Sorting by id makes every score independent of the order the rows came in, also where scores tie.
    Raises DataError naming the ids that are missing, duplicate, unknown, or belong to two patients.
    """
    left, right = _keyed(predictions, predicted, names[0]), _keyed(truth, true, names[1])
    if right.empty:
        raise DataError(f"The {names[1]} table has no rows, so there is nothing to score: check the split.")
    missing = right.index.difference(left.index)
    if len(missing):
        raise DataError(f"{_some(missing)} of the {names[1]} have no row in the {names[0]}: predict every sample once.")
    unknown = left.index.difference(right.index)
    if len(unknown):
        raise DataError(f"{_some(unknown)} of the {names[0]} are unknown to the {names[1]}: score the split predicted.")
    left = left.loc[right.index]
    differ = right.index[(left["patient_id"] != right["patient_id"]).to_numpy()]
    if len(differ):
        raise DataError(
            f"{_some(differ)} belong to one patient in the {names[0]} and to another in the {names[1]}: "
            "rebuild the predictions from this data."
        )
    return left.reset_index(drop=True), right.reset_index(drop=True)


def _keyed(table: pd.DataFrame, columns: Iterable[str], name: str) -> pd.DataFrame:
    absent = [c for c in (*KEYS, *columns) if c not in table.columns]
    if absent:
        found = ", ".join(map(str, table.columns)) or "none"
        raise DataError(f"The {name} table lacks the column(s) {', '.join(absent)}; it has: {found}.")
    for key in KEYS:
        empty = table[key].isna()
        if empty.any():
            raise DataError(f"{int(empty.sum())} row(s) of the {name} have no {key}: every row needs one.")
    # Ids read back from csv or json may have become numbers: compare them as text.
    table = table.assign(**{key: table[key].astype(str) for key in KEYS})
    twice = table["sample_id"][table["sample_id"].duplicated()].unique()
    if len(twice):
        raise DataError(f"{_some(twice)} occur more than once in the {name}: keep one row a sample.")
    return table.set_index("sample_id", drop=False).rename_axis(None).sort_index()


def _some(ids: Iterable[str], show: int = 5) -> str:
    ids = sorted(map(str, ids))
    more = f" and {len(ids) - show} more" if len(ids) > show else ""
    return f"{len(ids)} sample id(s) ({', '.join(ids[:show])}{more})"
