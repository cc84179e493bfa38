"""Experts' ratings read back: what is wrong with a file in plain words, means, and how far the experts agree."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.rationale.sheet import CRITERIA
from clarion.config import nearest
from clarion.errors import DataError
from clarion.evaluators.bootstrap import bootstrap, codes, entry

LEVELS = (1, 2, 3, 4, 5)
BOOTSTRAP = "percentile bootstrap over patients"
_PSEUDONYM = re.compile(r"[A-Za-z0-9가-힣_\-]{1,24}")
_SHOWN = 5  # problems that one error lists


def read_ratings(paths: Sequence[Path], key: Mapping[str, Any]) -> pd.DataFrame:
    """One row a reviewer and item: reviewer, item, the criteria (float, NaN where left empty), comment, run, sample_id,
    patient_id.

    Rows without any rating are left out (a reviewer may stop early). Raises DataError that lists the first problems:
    columns that are missing, ratings that are no whole number 1 to 5, items the key does not know, rows of another
    sheet, reviewers without a pseudonym, one reviewer rating one item twice, in one file or in two."""
    rows, problems, seen = [], [], {}
    for path in paths:
        for line, row in enumerate(_table(path), start=2):
            where = f"{path.name} row {line}"
            scores = {c: (row[c] or "").strip() for c in CRITERIA}
            if not any(scores.values()):
                continue
            found = [f"{where}: {p}" for p in _problems(row, scores, key)]
            pair = (row["reviewer"].strip(), row["item"].strip())
            if pair in seen:
                found.append(f"{where}: {pair[0]} rated {pair[1]} already ({seen[pair]}); keep one")
            seen.setdefault(pair, where)
            problems += found
            if not found:
                numbers = {c: float(v) if v else np.nan for c, v in scores.items()}
                rows.append({"reviewer": pair[0], "item": pair[1], **numbers, "comment": row.get("comment") or "",
                             **key["items"][pair[1]]})  # fmt: skip
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(f"The ratings cannot be used. {'; '.join(problems[:_SHOWN])}{more}.")
    if not rows:
        raise DataError("The files hold no rating: fill the columns " + ", ".join(CRITERIA) + " with 1 to 5.")
    return pd.DataFrame(rows)


def _problems(row: Mapping[str, str], scores: Mapping[str, str], key: Mapping[str, Any]) -> list[str]:
    found = []
    reviewer, item, sheet = (str(row.get(c) or "").strip() for c in ("reviewer", "item", "sheet"))
    if not _PSEUDONYM.fullmatch(reviewer):
        found.append(f"the reviewer {reviewer!r} is no pseudonym (1 to 24 letters, digits, - or _)")
    if sheet and sheet != key["sheet"]:
        found.append(f"it belongs to sheet {sheet}, the key to {key['sheet']}")
    elif item not in key["items"]:
        found.append(f"the sheet has no item {item!r}.{nearest(item, list(key['items']))}".rstrip("."))
    for criterion, value in scores.items():
        if value and not re.fullmatch(r"[1-5](?:\.0+)?", value):
            found.append(f"{criterion} is {value!r}, not a whole number from 1 to 5")
    return found


def _table(path: Path) -> list[dict[str, str]]:
    """Rows of a csv as spreadsheets save it: UTF-8 or Korean code page, comma, semicolon or tab."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = raw.decode("cp949")
        except UnicodeDecodeError:
            raise DataError(f"{path.name} is no text file: save the sheet as csv.") from None
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    columns = [str(c).strip().lower() for c in reader.fieldnames or []]
    wanted = ("item", "reviewer", *CRITERIA)
    if absent := [c for c in wanted if c not in columns]:
        hints = [h for c in absent if (h := nearest(c, [x for x in columns if x not in wanted]))]
        raise DataError(f"{path.name} lacks the column(s) {', '.join(absent)}.{' '.join(hints)} A sheet has "
                        f"{', '.join(wanted)}.")  # fmt: skip
    reader.fieldnames = columns
    try:
        return [{k: v if isinstance(v, str) else "" for k, v in row.items() if k} for row in reader]
    except csv.Error as error:
        raise DataError(f"{path.name} cannot be read as csv ({error}): save the sheet as csv again.") from None


def alpha(counts: np.ndarray) -> float:
    """Krippendorff's alpha, ordinal, of counts [items, 5] (how many raters gave each level); NaN where it is not
    defined: fewer than two ratings of any item, or all ratings alike."""
    import krippendorff

    pairable = counts[counts.sum(1) > 1]
    if len(pairable) == 0 or (pairable.sum(0) > 0).sum() < 2:
        return float("nan")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return float(krippendorff.alpha(value_counts=counts, value_domain=LEVELS, level_of_measurement="ordinal"))


def summarise(ratings: pd.DataFrame, n_resamples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """{"criteria": {criterion: {"mean", "alpha": metric entries}}, "runs": {run: {criterion: metric entry}}, "raters":
    {reviewer: {criterion: mean, "n"}}, "n_items", "n_patients", "n_raters", "n_ratings", "notes"}.

    Intervals resample patients with all their items and raters. alpha needs two raters an item."""
    notes: list[str] = []
    criteria = {}
    for name in CRITERIA:
        rated = ratings[ratings[name].notna()]
        criteria[name] = {"mean": _mean(rated, name, n_resamples, seed, level, notes),
                          "alpha": _agreement(rated, name, n_resamples, seed, level, notes)}  # fmt: skip
    runs = {str(run): {c: _mean(part[part[c].notna()], c, n_resamples, seed, level, None) for c in CRITERIA}
            for run, part in ratings.groupby("run")}  # fmt: skip
    raters = {str(who): {**{c: float(part[c].mean()) for c in CRITERIA}, "n": len(part)}
              for who, part in ratings.groupby("reviewer")}  # fmt: skip
    if empty := int(ratings[list(CRITERIA)].isna().sum().sum()):
        notes.append(f"{empty} rating(s) were left empty and are not counted.")
    return {
        "criteria": criteria, "runs": runs, "raters": raters, "n_items": int(ratings["item"].nunique()),
        "n_patients": int(ratings["patient_id"].nunique()), "n_raters": len(raters), "n_ratings": len(ratings),
        "notes": notes,
    }  # fmt: skip


def _mean(rated: pd.DataFrame, name: str, n_resamples: int, seed: int, level: float, notes: list[str] | None) -> dict:
    if rated.empty:
        return {"value": None, "low": None, "high": None, "n": 0, "n_patients": 0, "unit": "1-5", "method": "no rating"}
    values, patients = rated[name].to_numpy(np.float64), rated["patient_id"].to_numpy()
    interval = bootstrap(lambda w: (w @ values) / w.sum(1), patients, n_resamples, seed, level)
    return entry(interval, len(values), len(set(patients)), f"mean rating; {BOOTSTRAP}", "1-5", notes, f"mean {name}")


def _agreement(rated: pd.DataFrame, name: str, n_resamples: int, seed: int, level: float, notes: list[str]) -> dict:
    method = f"Krippendorff's alpha, ordinal (krippendorff); {BOOTSTRAP}"
    counts = pd.crosstab(rated["item"], rated[name]).reindex(columns=LEVELS, fill_value=0)
    counts = counts[counts.sum(axis=1) > 1]  # one rating alone agrees with nobody
    if counts.empty:
        notes.append(f"alpha {name}: no item was rated by two reviewers.")
        return {"value": None, "low": None, "high": None, "n": 0, "n_patients": 0, "unit": None, "method": method}
    owner = rated.drop_duplicates("item").set_index("item")["patient_id"].loc[counts.index].to_numpy()
    table, patient = counts.to_numpy(), codes(owner)[0]

    def stat(weights: np.ndarray) -> np.ndarray:  # [B, patients]: an item counts as often as its patient was drawn
        return np.array([alpha(np.repeat(table, row[patient].astype(int), axis=0)) for row in weights])

    interval = bootstrap(stat, owner, n_resamples, seed, level, per_group=True)
    return entry(interval, len(table), len(set(owner)), method, None, notes, f"alpha {name}")
