"""How much can be known: scores of the true risk and of its parts, beside which a model's scores are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.cohort import Cohort
from clarion.evaluators.bootstrap import bootstrap

MONTHS = 60.0
PARTS = {"slide": ["slide"], "omics": ["omics"], "clinical": ["clinical"], "slide+omics": ["slide", "omics"],
         "all": ["slide", "omics", "clinical"]}  # fmt: skip


def status_at(time: np.ndarray, event: np.ndarray, months: float = MONTHS) -> np.ndarray:
    """float64 [n]: 1 had the event by then, 0 was seen without it after then, NaN censored before: unknown."""
    time, event = np.asarray(time, np.float64), np.asarray(event, bool)
    return np.where(event & (time <= months), 1.0, np.where(time > months, 0.0, np.nan))


def oracle_scores(
    cohort: Cohort, risk: pd.DataFrame, censoring: Cohort | None = None, months: float = MONTHS,
    n_resamples: int = 500, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """{part: {c_index, auc_60m: {value, low, high}}, n, events, known}; see PARTS.

    risk: log hazards, columns of PARTS, index of the patients. c_index: Harrell's; auc: cumulative/dynamic at `months`,
    weighted by the inverse probability of censoring as `censoring` (the training patients; None: the cohort) tells it
    (scikit-survival). Intervals: percentile bootstrap over patients, of these very patients: a model of all patients of
    this kind may lie outside them."""
    time, event = cohort.time, cohort.event
    source = censoring if censoring is not None else cohort
    status = status_at(time, event, months)
    case, control = status == 1, status == 0
    weights = np.where(case, 1 / _kept(source, np.minimum(time, months)), 0.0)
    found: dict[str, Any] = {"n": len(cohort), "events": int(event.sum()), "known": int((case | control).sum())}
    # [i, j]: the pair counts for Harrell, i died first; [case, control] likewise for the AUC.
    first = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event))
    for name, columns in PARTS.items():
        value = risk.loc[cohort.patients, columns].sum(axis=1).to_numpy()
        wins = np.where(value[:, None] == value, 0.5, value[:, None] > value)
        by_death = (first * wins, first.astype(float))
        pairs = weights[:, None] * control
        by_month = (pairs * wins, pairs)

        def stat(w: np.ndarray, death=by_death, month=by_month) -> dict[str, np.ndarray]:
            with np.errstate(invalid="ignore"):
                return {
                    key: np.einsum("bi,ij,bj->b", w, a, w, optimize=True) / np.einsum("bi,ij,bj->b", w, b, w,
                                                                                      optimize=True)
                    for key, (a, b) in (("c_index", death), (f"auc_{months:g}m", month))
                }  # fmt: skip

        intervals = bootstrap(stat, list(cohort.patients), n_resamples=n_resamples, seed=seed)
        found[name] = {k: {"value": i.value, "low": i.low, "high": i.high} for k, i in intervals.items()}
    return found


def _kept(cohort: Cohort, when: np.ndarray) -> np.ndarray:
    """P(not censored by `when`), Kaplan-Meier of the censoring (deaths come before censorings of the same time), never
    below 5 %."""
    from sksurv.nonparametric import kaplan_meier_estimator

    times, kept = kaplan_meier_estimator(cohort.event, cohort.time, reverse=True)
    place = np.searchsorted(times, when, side="right") - 1
    return np.maximum(np.where(place < 0, 1.0, kept[np.maximum(place, 0)]), 0.05)
