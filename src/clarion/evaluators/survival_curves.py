"""Kaplan-Meier and log-rank on right-censored data, and the censoring distribution that weights other scores.

time: float [n], event: bool [n] (False: censored at `time`). An event and a censoring at one time are ordered event
first, as everywhere in survival analysis (Kaplan & Meier 1958, JASA 53:457).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, ndtri

RISK_STEPS = (1, 2, 3, 6, 12, 24, 36, 60, 120, 240)  # between the times of a numbers-at-risk table
MOST_STEPS = 99  # two points a step and the origin: 199 of the 201 points a curve may have


@dataclass(frozen=True)
class Step:
    """A survival function that steps down at `time` [k] to `value` [k]; 1 before the first. `spread` [k]: Greenwood's
    sum, the variance of log S. `at_risk` [k]: patients under observation just before each time."""

    time: np.ndarray
    value: np.ndarray
    spread: np.ndarray
    at_risk: np.ndarray

    def at(self, when: np.ndarray) -> np.ndarray:
        """S(t), right-continuous. NaN beyond the last observation unless S has fallen to 0 there: nobody was watched
        for so long."""
        when = np.asarray(when, dtype=np.float64)
        index = np.searchsorted(self.time, when, side="right") - 1
        found = np.where(index < 0, 1.0, self.value[np.maximum(index, 0)])
        return np.where((when > self.time[-1]) & (self.value[-1] > 0), np.nan, found)

    def band(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Pointwise interval at each step on the log(-log S) scale (Kalbfleisch & Prentice 1980), NaN at S = 0 or 1."""
        z = ndtri((1 + level) / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(self.value)
            reach = np.exp(z * np.sqrt(self.spread) / np.abs(log))
            inside = (self.value > 0) & (self.value < 1)
            low, high = self.value**reach, self.value ** (1 / reach)
        return np.where(inside, low, np.nan), np.where(inside, high, np.nan)


def kaplan_meier(time: np.ndarray, event: np.ndarray) -> Step:
    """The product-limit estimate of S(t) = P(T > t). Needs at least one patient."""
    times, died, _, at_risk = _counts(time, event)
    return _product_limit(times, died, at_risk)


def censoring(time: np.ndarray, event: np.ndarray) -> Step:
    """The product-limit estimate of G(t) = P(censored after t): events leave the risk set first at a tied time."""
    times, died, lost, at_risk = _counts(time, event)
    return _product_limit(times, lost, at_risk - died)


@dataclass(frozen=True)
class Censoring:
    """G fitted on training patients, one for all or one for each stratum (cancer); what IPCW divides by."""

    steps: dict[str | None, Step]
    source: str  # "training" or "test"

    @classmethod
    def fit(
        cls, time: np.ndarray, event: np.ndarray, strata: np.ndarray | None = None, source: str = "training"
    ) -> Censoring:
        """strata: a name for each patient [n], or None for one distribution."""
        if strata is None:
            return cls({None: censoring(time, event)}, source)
        return cls({s: censoring(time[strata == s], event[strata == s]) for s in np.unique(strata)}, source)

    @property
    def stratified(self) -> bool:
        return None not in self.steps

    def at(self, when: np.ndarray | float, strata: np.ndarray | None, n: int) -> np.ndarray:
        """G [n] at one time for all or at one each; NaN where it is unknown (beyond the follow-up, unknown stratum)
        and where it is 0: no patient there can be weighted."""
        when = np.broadcast_to(np.asarray(when, dtype=np.float64), n)
        if not self.stratified:
            found = self.steps[None].at(when)
        else:
            found = np.full(n, np.nan)
            for name, step in self.steps.items():
                rows = strata == name
                found[rows] = step.at(when[rows])
        return np.where(found > 0, found, np.nan)


def weighted_kaplan_meier(time: np.ndarray, event: np.ndarray, weights: np.ndarray, when: float) -> np.ndarray:
    """S(when) under each row of patient weights [B, n] -> [B]; a patient drawn twice counts as two. Beyond the last
    observation S keeps its value; a row that weighs nothing gives NaN."""
    order = np.argsort(time, kind="stable")
    starts = np.flatnonzero(np.diff(time[order], prepend=-np.inf))
    w = weights[:, order]
    total = np.add.reduceat(w, starts, axis=1)
    died = np.add.reduceat(w * event[order], starts, axis=1)
    at_risk = np.cumsum(total[:, ::-1], axis=1)[:, ::-1]
    factor = 1 - np.divide(died, at_risk, out=np.zeros_like(died), where=at_risk > 0)
    by_then = time[order][starts] <= when
    return np.where(at_risk[:, 0] > 0, factor[:, by_then].prod(1), np.nan)


def log_rank(time: np.ndarray, event: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """(chi-square, p) of the log-rank test over the K values of group [n] int, K - 1 degrees of freedom (Mantel 1966,
    hypergeometric variance). (NaN, NaN) with one group or without events."""
    names, group = np.unique(group, return_inverse=True)
    k = len(names)
    if k < 2 or not event.any():
        return float("nan"), float("nan")
    times, code = np.unique(time, return_inverse=True)
    inside, died = np.zeros((len(times), k)), np.zeros((len(times), k))
    np.add.at(inside, (code, group), 1)
    np.add.at(died, (code, group), event)
    at_risk = np.cumsum(inside[::-1], axis=0)[::-1]
    n, d = at_risk.sum(1), died.sum(1)
    share = at_risk / n[:, None]
    excess = (died - d[:, None] * share).sum(0)
    scale = np.divide(d * (n - d), n - 1, out=np.zeros_like(d), where=n > 1)
    covariance = np.diag((scale[:, None] * share).sum(0)) - (scale[:, None] * share).T @ share
    # One group is redundant; the pseudo-inverse also survives a group that was never at risk together with another.
    chi2 = float(excess[1:] @ np.linalg.pinv(covariance[1:, 1:]) @ excess[1:])
    return chi2, float(chdtrc(k - 1, chi2))


def median_follow_up(time: np.ndarray, event: np.ndarray) -> float | None:
    """Median time to censoring, deaths counted as censored (reverse Kaplan-Meier, Schemper & Smith 1996); None where
    it is not reached."""
    step = censoring(time, event)
    below = np.flatnonzero(step.value <= 0.5)
    return float(step.time[below[0]]) if below.size else None


def risk_groups(risk: np.ndarray, n_groups: int) -> np.ndarray:
    """Group 0 (lowest) .. n_groups - 1 of each patient, cut at the quantiles of risk; equal risks stay together, so
    ties may leave a group empty."""
    cuts = np.quantile(risk, np.arange(1, n_groups) / n_groups)
    return np.searchsorted(cuts, risk, side="left")


def group_names(n_groups: int) -> list[str]:
    """low, high; low, middle, high; or low, 2, 3, high."""
    return ["low", *(["middle"] if n_groups == 3 else [str(i) for i in range(2, n_groups)]), "high"]


def km_curves(
    time: np.ndarray, event: np.ndarray, group: np.ndarray, names: Sequence[str], x_label: str, level: float
) -> dict[str, dict]:
    """One staircase a group with its band (`low`, `high`, None where undefined) and `at_risk` at each point; at most
    201 points each. It ends at the group's last observation. numbers_at_risk: {time, n} at round times, the same for
    all groups: how many are under observation just before."""
    curves = {}
    when = risk_times(float(time.max()))
    for code, name in enumerate(names):
        rows = group == code
        if not rows.any():
            continue
        step = kaplan_meier(time[rows], event[rows])
        low, high = step.band(level)
        falls = np.flatnonzero(np.diff(step.value, prepend=1.0) < 0)
        falls = np.unique(np.r_[falls, len(step.time) - 1])
        if len(falls) > MOST_STEPS:  # keep the shape: steps evenly spaced over the falls, the last one always
            falls = falls[np.linspace(0, len(falls) - 1, MOST_STEPS).round().astype(int)]
        value = np.r_[1.0, step.value[falls]]
        stairs = np.repeat(np.arange(len(value)), 2)  # each value from its own time to the next
        x = np.r_[0.0, np.repeat(step.time[falls], 2)]
        curves[f"kaplan_meier_{name}"] = {
            "x": np.round(x, 6).tolist(),
            "y": np.round(value[stairs[:-1]], 6).tolist(),
            "x_label": x_label,
            "y_label": "share without event",
            "low": _plain(np.r_[np.nan, low[falls]][stairs[:-1]]),
            "high": _plain(np.r_[np.nan, high[falls]][stairs[:-1]]),
            "at_risk": np.r_[rows.sum(), step.at_risk[falls]][stairs[:-1]].astype(int).tolist(),
            "numbers_at_risk": {"time": when, "n": [int((time[rows] >= t).sum()) for t in when]},
            "n": int(rows.sum()),
            "events": int(event[rows].sum()),
        }
    return curves


def risk_times(end: float) -> list[float]:
    """Round times from 0 to `end`, at most nine, for a table of numbers at risk."""
    step = next((s for s in RISK_STEPS if end / s <= 8), end / 8)
    return np.arange(0, end + 1e-9, step).tolist()


def _counts(time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, ...]:
    """(distinct times, events, censorings, at risk just before) [k] each, float."""
    times, code = np.unique(time, return_inverse=True)
    died = np.bincount(code, event, len(times))
    every = np.bincount(code, minlength=len(times)).astype(np.float64)
    return times, died, every - died, np.cumsum(every[::-1])[::-1]


def _product_limit(times: np.ndarray, left: np.ndarray, at_risk: np.ndarray) -> Step:
    share = np.divide(left, at_risk, out=np.zeros_like(left), where=at_risk > 0)
    rest = at_risk * (at_risk - left)
    spread = np.cumsum(np.divide(left, rest, out=np.zeros_like(left), where=rest > 0))
    return Step(times, np.cumprod(1 - share), spread, at_risk)


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), 6) for v in values]
