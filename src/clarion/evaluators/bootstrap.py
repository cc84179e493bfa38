"""Intervals: percentile bootstrap over patients, Wilson for proportions, and the metric entry that carries them.

Images of one patient resemble each other, so the patient is what is drawn again, never the image. A resample
is a row of patient weights (how often each patient was drawn); a statistic takes many rows at once and returns
one value for each, which turns a thousand re-evaluations into a few matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

Statistic = Callable[[np.ndarray], "np.ndarray | Mapping[str, np.ndarray]"]
ROWS_AT_ONCE = 100  # resamples a statistic sees in one call: bounds memory, long enough to be vectorised


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its interval; None where it cannot be measured, `note` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str | None = None


def codes(groups: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Group (patient) names of n samples -> (codes [n] int in 0..P-1, the P names, sorted)."""
    index, names = pd.factorize(np.asarray(groups, dtype=object), sort=True)
    return index.astype(np.intp), names


def resample_weights(n_groups: int, n_resamples: int, seed: int) -> np.ndarray:
    """[n_resamples, n_groups] float64: how often each group was drawn; every row sums to n_groups."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_groups, np.full(n_groups, 1.0 / n_groups), size=n_resamples).astype(np.float64)


def bootstrap(
    stat: Statistic,
    groups: Sequence,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    per_group: bool = False,
) -> Interval | dict[str, Interval]:
    """Percentile bootstrap (Efron & Tibshirani 1993, ch. 13) over groups.

    stat: weights [B, n samples] (or [B, P groups in the order of `codes`] when per_group) -> [B] values, or a
    dict of such arrays; NaN where a resample leaves it undefined. A row of ones must give the value itself.
    groups: the group (patient) of each sample, [n]. level: coverage, 0..1.
    Returns one Interval, or a dict of them. Bounds are None, with a note, for fewer than two groups, when more
    than half of the resamples leave the statistic undefined, or when all of them give one and the same value
    (an interval of no width claims a certainty that the data do not give).
    """
    index, names = codes(groups)
    n_groups = len(names)
    if n_groups == 0:
        raise ValueError("bootstrap needs at least one sample")

    def spread(rows: np.ndarray) -> np.ndarray:
        return rows if per_group else rows[:, index]

    point = stat(spread(np.ones((1, n_groups))))
    single = not isinstance(point, Mapping)
    values = {"value": point} if single else dict(point)
    draws: dict[str, list[np.ndarray]] = {name: [] for name in values}
    if n_groups > 1 and n_resamples > 0:
        weights = resample_weights(n_groups, n_resamples, seed)
        for start in range(0, n_resamples, ROWS_AT_ONCE):
            part = stat(spread(weights[start : start + ROWS_AT_ONCE]))
            for name, drawn in ({"value": part} if single else part).items():
                draws[name].append(np.asarray(drawn, dtype=np.float64))
    result = {name: _interval(float(np.asarray(v).reshape(-1)[0]), draws[name], level) for name, v in values.items()}
    return result["value"] if single else result


def _interval(value: float, draws: list[np.ndarray], level: float) -> Interval:
    if not math.isfinite(value):
        return Interval(None, note="not defined on this data")
    if not draws:
        return Interval(value, note="no interval: one patient only")
    drawn = np.concatenate(draws)
    defined = drawn[np.isfinite(drawn)]
    if defined.size < 0.5 * drawn.size:
        share = 100.0 * defined.size / drawn.size
        return Interval(value, note=f"no interval: defined in only {share:.0f} % of the resamples")
    # ptp of a constant computed from sums of different order is rounding noise, not spread
    if np.ptp(defined) < 1e-12:
        return Interval(value, note="no interval: every resample gives the same value")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    note = None
    if defined.size < drawn.size:
        note = f"interval from the {defined.size} of {drawn.size} resamples in which it is defined"
    return Interval(value, float(low), float(high), note)


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion (Wilson 1927, JASA 22:209); holds at 0, n and small n, where
    a bootstrap would give no width. n independent trials: count patients, not images."""
    if n <= 0:
        return Interval(None, note="not defined on this data")
    z = float(ndtri((1 + level) / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At p = 0 and 1 the bound equals p exactly; rounding must not push it past the value.
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def entry(
    interval: Interval, n: int, n_patients: int, method: str, unit: str | None = None, notes: list[str] | None = None,
    name: str = "",
) -> dict:
    """The dict of one metric as every report reads it; what the interval has to say goes to `notes`."""
    if interval.note and notes is not None:
        notes.append(f"{name}: {interval.note}.")
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": int(n),
        "n_patients": int(n_patients),
        "unit": unit,
        "method": method,
    }


def group_counts(row: np.ndarray, group: np.ndarray, n_rows: int, n_groups: int, values: np.ndarray | None = None):
    """Sums of `values` (default 1) by (row, group): [n_rows, n_groups], dense, or sparse where dense is too big.

    `group_counts(...) @ weights.T` is then the weighted sum of each row under each resample, [n_rows, B].
    """
    from scipy.sparse import coo_array

    values = np.ones(len(row)) if values is None else np.asarray(values, dtype=np.float64)
    table = coo_array((values, (row, group)), shape=(n_rows, n_groups)).tocsr()
    return table.toarray() if n_rows * n_groups <= 20_000_000 else table


def auc_statistic(score: np.ndarray, positive: np.ndarray, group: np.ndarray, n_groups: int) -> Statistic:
    """Weighted area under the ROC curve, ties counted half (Mann-Whitney), as a function of group weights.

    score [n], positive [n] bool, group [n] codes -> stat(weights [B, P]) -> [B], NaN without both kinds.
    """
    levels, level = np.unique(np.asarray(score, dtype=np.float64), return_inverse=True)
    positive = np.asarray(positive, dtype=bool)
    kinds = [group_counts(level[keep], group[keep], len(levels), n_groups) for keep in (positive, ~positive)]

    def stat(weights: np.ndarray) -> np.ndarray:
        positives, negatives = (kind @ weights.T for kind in kinds)  # [levels, B]
        below = np.cumsum(negatives, axis=0) - negatives
        pairs = positives.sum(0) * negatives.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, (positives * (below + 0.5 * negatives)).sum(0) / pairs, np.nan)

    return stat
