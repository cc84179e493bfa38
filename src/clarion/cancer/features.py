"""What the baselines of survival learn about their inputs, as arrays and texts: clinical columns, rank-normal genes,
Breslow's baseline hazard."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.cox import RankNormal
from clarion.cancer.cox.walk import survival_arrays
from clarion.cancer.quantiles import PER_KNOT, QuantileNormal
from clarion.errors import DataError, UsageError

log = logging.getLogger(__name__)

CLINICAL = ("age", "sex", "cancer")
SHARED = 0.5  # of a model's genes that a patient's table must hold: below, it names other genes
FEWEST = 20  # training patients of a cancer from which its own ranks are learned
_ALL = ""  # the key of what is learned on all cancers together


def outcome(y: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(time float64 [n], event bool [n]) of a structured array or DataFrame. DataError without any event."""
    time, event = survival_arrays(np.asarray(y["time"]), np.asarray(y["event"]), n, None)
    return np.asarray(time, dtype=np.float64), np.asarray(event, dtype=bool)


# ---- clinical columns ----------------------------------------------------------------------------------------


def learn_clinical(X: pd.DataFrame, event: np.ndarray, columns: Sequence[str], min_events: int) -> dict[str, Any]:
    """{"names", "median_age", "sex", "cancers", "mean"}: columns that vary in X, centred by its means.

    What has fewer than min_events events would have a coefficient of minus infinity, or nearly: such cancers are pooled
    (and count as unknown if even together they are too few), and sex is left out where one sex has so few."""
    if unknown := [c for c in columns if c not in CLINICAL]:
        raise UsageError(f"{unknown[0]} is no clinical column here; choose from {', '.join(CLINICAL)}.")
    learned: dict[str, Any] = {"names": [], "median_age": 0.0, "sex": 0.5, "cancers": {}, "mean": np.zeros(0)}
    names = []
    if "age" in columns:
        age = X["age"].to_numpy(np.float64)
        if not np.isfinite(age).any() and list(columns) == ["age"]:
            raise DataError("No training patient has an age: choose another baseline than age.")
        learned["median_age"] = float(np.nanmedian(age)) if np.isfinite(age).any() else 0.0
        names.append("age")
    if "sex" in columns:
        sex = _sex(X)
        learned["sex"] = float(np.nanmean(sex)) if np.isfinite(sex).any() else 0.5
        if min(event[sex == value].sum() for value in (0.0, 1.0)) >= min_events:
            names.append("sex")
    if "cancer" in columns:
        cancer = X["cancer"].astype(str).to_numpy()
        events = {c: int(event[cancer == c].sum()) for c in sorted(set(cancer))}
        few = [c for c, count in events.items() if count < min_events]
        groups = {c: c for c in events if c not in few}
        if sum(events[c] for c in few) >= min_events:
            groups |= dict.fromkeys(few, "few events")
        learned["cancers"] = groups
        named = pd.Series(cancer).map(groups).dropna()
        if len(named):
            largest = named.value_counts().sort_index().idxmax()
            names += [f"cancer={c}" for c in sorted(set(named)) if c != largest]
    learned["names"], learned["mean"] = names, np.zeros(len(names))
    design = apply_clinical(learned, X)
    spread = np.ptp(design, axis=0) > 0 if len(names) else np.zeros(0, bool)
    grouped = X["cancer"].astype(str).isin(learned["cancers"]).to_numpy()
    mean = [design[grouped if name.startswith("cancer=") else slice(None), k].mean() for k, name in enumerate(names)]
    return learned | {
        "names": [name for name, varies in zip(names, spread, strict=True) if varies],
        "mean": np.array(mean, dtype=np.float64)[spread],
    }


def apply_clinical(learned: Mapping[str, Any], X: pd.DataFrame) -> np.ndarray:
    """float64 [n, names]: age in decades, sex (1 female), one column a cancer; 0 is the mean of the training."""
    out = np.zeros((len(X), len(learned["names"])))
    for k, (name, mean) in enumerate(zip(learned["names"], learned["mean"], strict=True)):
        if name == "age":
            age = X["age"].to_numpy(np.float64)
            out[:, k] = np.where(np.isfinite(age), age, learned["median_age"]) / 10.0 - mean
        elif name == "sex":
            sex = _sex(X)
            out[:, k] = np.where(np.isfinite(sex), sex, learned["sex"]) - mean
        else:
            group = X["cancer"].astype(str).map(learned["cancers"])
            out[:, k] = np.where(group.isna(), 0.0, ("cancer=" + group.fillna("") == name) - mean)
    return out


def _sex(X: pd.DataFrame) -> np.ndarray:
    return X["sex"].map({"F": 1.0, "M": 0.0}).to_numpy(np.float64)


# ---- genes ---------------------------------------------------------------------------------------------------


def gene_columns(X: pd.DataFrame, modality: str) -> list[str]:
    """Columns "modality:GENE". UsageError where there are none."""
    columns = [c for c in X.columns if str(c).startswith(f"{modality}:")]
    if not columns:
        known = sorted({str(c).split(":")[0] for c in X.columns if ":" in str(c)})
        raise UsageError(f"The patients have no {modality} data (they have {', '.join(known) or 'none'}).")
    return columns


def gene_places(
    names: Iterable[str], wanted: Sequence[str], columns: Sequence[int], modality: str, who: str = "A patient"
) -> np.ndarray:
    """Where each wanted gene stands among a patient's `names`, int64 [wanted], -1 where he has no such gene.

    columns: the place of each wanted gene in the table of the training. Genes in another order are found by name, a few
    absent ones are missing values (and logged); DataError where fewer than half are there: those are other genes."""
    names = list(names)
    place = {str(name): k for k, name in enumerate(names)}
    found = np.array([place.get(gene, -1) for gene in wanted], np.int64)
    absent = np.flatnonzero(found < 0)
    if absent.size > (1 - SHARED) * len(found):
        first = absent[np.argmin(np.asarray(columns)[absent])]
        at = int(columns[first])
        given = str(names[at]) if at < len(names) else "absent"
        raise DataError(
            f"{who}: gene {at + 1} of {modality} is {given}, the model was trained on {wanted[first]}; only "
            f"{len(found) - absent.size} of the model's {len(found)} genes are there. Name genes as the training did."
        )
    if absent.size:
        log.warning("%d of the model's %d genes of %s are not in the patients' table (%s, ...): they count as missing",
                    absent.size, len(found), modality, wanted[absent[0]])  # fmt: skip
    return found


def varying(values: np.ndarray, most: int) -> np.ndarray:
    """Indices, rising, of the `most` columns of largest variance of [n, p]; constant or unknown ones never."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, values - np.where(known, values, 0.0).sum(axis=0, dtype=np.float64) / count, 0.0)
    variance = (centred**2).sum(axis=0) / count
    order = np.argsort(-variance, kind="stable")[:most]
    return np.sort(order[variance[order] > 1e-12])


def learn_scores(X: pd.DataFrame, columns: Sequence[str], within: str | None) -> dict[str, Any]:
    """{"columns", "knots": {group: float32 [K, p]}}: quantiles (see QuantileNormal) of all rows, and of each cancer
    with FEWEST rows or more where within="cancer". A knot stands for PER_KNOT patients: nobody's values are kept."""
    columns = list(columns)
    values = X[columns].to_numpy(np.float32)
    rows = _rank_groups(X, within)
    return {"columns": columns, "knots": {key: QuantileNormal.fit(values[some]).knots for key, some in rows.items()}}


def training_scores(X: pd.DataFrame, columns: Sequence[str], within: str | None) -> np.ndarray:
    """float64 [n, p]: the exact rank-normal scores of the training patients themselves, missing values 0. What is
    fitted is fitted on these; what is kept to score others (learn_scores) follows them by a few quantiles."""
    values = X[list(columns)].to_numpy(np.float32)
    out = np.zeros(values.shape)
    for _, some in sorted(_rank_groups(X, within).items()):  # all together first, then each cancer over it
        out[some] = np.nan_to_num(RankNormal.fit(values[some]).apply(values[some]))
    return out


def _rank_groups(X: pd.DataFrame, within: str | None) -> dict[str, np.ndarray]:
    """group -> its rows [n] bool: all, and each cancer with FEWEST rows or more where within="cancer"."""
    if within not in (None, "cancer"):
        raise UsageError(f"within={within} is neither cancer nor null.")
    rows = {_ALL: np.ones(len(X), bool)}
    if within:
        cancer = X["cancer"].astype(str).to_numpy()
        found = sorted(set(cancer))
        if len(found) > 1:
            rows |= {c: cancer == c for c in found if (cancer == c).sum() >= FEWEST}
    return rows


def apply_scores(learned: Mapping[str, Any], X: pd.DataFrame) -> np.ndarray:
    """float64 [n, p] normal scores, missing values 0 (the middle of the training)."""
    if "knots" not in learned:
        raise DataError("This baseline was stored by an earlier version, with every training value; fit it again.")
    values, knots = X[learned["columns"]].to_numpy(np.float32), learned["knots"]
    if len(knots) == 1:
        group = np.full(len(X), _ALL, dtype=object)
    else:
        group = np.array([c if c in knots else _ALL for c in X["cancer"].astype(str)], dtype=object)
    out = np.zeros(values.shape)
    for key in set(group):
        rows = group == key
        out[rows] = np.nan_to_num(QuantileNormal(np.asarray(knots[key])).apply(values[rows]))
    return out


# ---- hazards -------------------------------------------------------------------------------------------------


def _at_risk(lp: np.ndarray, time: np.ndarray, times: np.ndarray) -> np.ndarray:
    """log of the sum of exp(lp) over those with time >= t, for each of times."""
    order = np.argsort(-time, kind="stable")
    running = np.logaddexp.accumulate(lp[order])
    return running[np.searchsorted(-time[order], -times, side="right") - 1]


def partial_loglik(lp: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    """Breslow's log partial likelihood of log hazards [n]."""
    return float((lp[event] - _at_risk(lp, time, time[event])).sum())


def breslow(lp: np.ndarray, time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(times of events, cumulative baseline hazard there) for log hazards [n] (Breslow 1974)."""
    times, deaths = np.unique(time[event], return_counts=True)
    return times, np.cumsum(deaths * np.exp(-_at_risk(lp, time, times)))


def on_grid(times: np.ndarray, hazard: np.ndarray, deaths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(grid, cumulative hazard on it) of a stepwise cumulative hazard: whole units of time, PER_KNOT deaths or more
    from one to the next, so that no patient's own time of death is kept. deaths: at each of times [k].

    The last one is the first whole unit at or after the last event; with fewer than 2 x PER_KNOT deaths it is the only
    one."""
    whole = np.ceil(times)
    ends = np.unique(whole)
    died = np.array([deaths[whole <= end].sum() for end in ends])
    kept, last = [], 0
    for end, count in zip(ends, died, strict=True):
        if count - last >= PER_KNOT and died[-1] - count >= PER_KNOT:
            kept.append(end)
            last = count
    grid = np.array([*kept, ends[-1]])
    return grid, hazard[np.searchsorted(times, grid, side="right") - 1]


def survival_at(lp: np.ndarray, grid: np.ndarray, hazard: np.ndarray, at: Sequence[float]) -> np.ndarray:
    """S(t) = exp(-H0(t) exp(lp)) [n, T]. H0 rises in a line from 0 to the first point of the grid, log H0 in lines from
    there on (late deaths, of few at risk, weigh more than early ones), and H0 stays after the last."""
    at = np.asarray(at, dtype=np.float64)
    first = np.interp(at, [0.0, grid[0]], [0.0, hazard[0]])
    between = np.where(at < grid[0], first, np.exp(np.interp(at, grid, np.log(hazard))))
    with np.errstate(over="ignore"):
        return np.exp(-np.outer(np.exp(lp), between))
