"""Survival data as the fits read them: patients in the order in which they enter the risk sets, cut into groups.

The partial likelihood is a walk over the patients from the last time to the first. `layout` turns times, events and
strata into that walk once: one group per distinct time of death holds everybody who enters the risk set there, the tied
deaths last. Who is censored before the first death of his stratum is never at risk and is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numba import njit

from clarion.errors import DataError, UsageError


@njit(cache=True, nogil=True)
def layout(order, event, stratum, time, keep):
    """The walk over the patients of one pattern of missing values.

    order [n] int64: patients by (stratum, time descending, deaths last among equals). event [n] bool, stratum [n]
    int64, time [n] float64, keep [n] bool: those whose value is known. Returns rows [r] int64 (patients ever at risk,
    in walking order), end [g] int64 (a group is rows[end[g-1]:end[g]]), tied [g] int64 (how many of its last rows die
    there) and fresh [g] bool (the first group of a stratum, where the sums start again)."""
    n = order.size
    rows = np.empty(n, np.int64)
    end = np.empty(n, np.int64)
    tied = np.empty(n, np.int64)
    fresh = np.empty(n, np.bool_)
    used = 0
    groups = 0
    last = -1  # stratum of the last closed group
    i = 0
    while i < n:
        here = stratum[order[i]]
        closed = used  # rows after the last group of a stratum are never at risk: they fall off here
        while i < n and stratum[order[i]] == here:
            row = order[i]
            if not keep[row]:
                i += 1
                continue
            rows[used] = row
            used += 1
            i += 1
            if not event[row]:
                continue
            deaths = 1
            while i < n and stratum[order[i]] == here and time[order[i]] == time[row]:
                other = order[i]  # sorted after a death of the same time: a death too
                if keep[other]:
                    rows[used] = other
                    used += 1
                    deaths += 1
                i += 1
            end[groups] = used
            tied[groups] = deaths
            fresh[groups] = last != here
            last = here
            groups += 1
            closed = used
        used = closed
    return rows[:used].copy(), end[:groups].copy(), tied[:groups].copy(), fresh[:groups].copy()


class Walk(NamedTuple):
    """The patients ever at risk in walking order, cut into groups; see `layout`."""

    rows: np.ndarray
    end: np.ndarray
    tied: np.ndarray
    fresh: np.ndarray

    @classmethod
    def of(cls, order, event, stratum, time, keep) -> Walk:
        return cls(*layout(order, event, stratum, time, keep))


def survival_arrays(time, event, n: int, horizon: float | None) -> tuple[np.ndarray, np.ndarray]:
    """time float64 [n], event bool [n], follow-up ended at the horizon. DataError on what is no survival data."""
    time = np.array(time, dtype=np.float64)
    event = np.asarray(event)
    if time.shape != (n,) or event.shape != (n,):
        raise DataError(f"{n} patients need {n} times and {n} events (got {time.shape} and {event.shape}).")
    if event.dtype != bool:
        event = event.astype(np.float64)
        if not np.isin(event, (0.0, 1.0)).all():
            raise DataError("Events must be true/false or 1/0, without missing values.")
        event = event.astype(bool)
    if not np.isfinite(time).all() or (time < 0).any():
        wrong = int((~np.isfinite(time) | (time < 0)).sum())
        raise DataError(f"{wrong} survival times are negative or missing: drop those patients or correct the times.")
    if horizon is not None:
        if not horizon > 0:
            raise UsageError(f"horizon={horizon} must be a positive time, in the unit of the survival times.")
        event = event & (time <= horizon)
        time = np.minimum(time, horizon)
    if not event.any():
        where = "" if horizon is None else f" up to the horizon of {horizon:g}"
        raise DataError(f"All {n} patients are censored{where}: nothing can be fitted.")
    return time, event


def patient_order(time, event, strata=None):
    """(order, event, stratum, time) as `layout` wants them."""
    stratum = np.zeros(len(time), np.int64)
    if strata is not None:
        labels = np.asarray(strata, dtype=object)
        if labels.shape != time.shape:
            raise DataError(f"{len(labels)} strata for {len(time)} patients.")
        stratum = pd.factorize(labels, use_na_sentinel=False)[0].astype(np.int64)
    return np.lexsort((event, -time, stratum)).astype(np.int64), np.ascontiguousarray(event), stratum, time
