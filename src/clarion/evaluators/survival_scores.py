"""Discrimination and probability scores of right-censored survival, each as a function of patient weights.

A statistic takes weights [B, n] (how often each patient was drawn) and gives [B] values, so that a thousand bootstrap
resamples are a few matrix products. With weights of one the values are scikit-survival's.

time: float [n], event: bool [n], risk: float [n], higher is worse. Risks within TIED of each other are tied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

TIED = 1e-8  # risks this near are equal (scikit-survival's tolerance)
PAIRS_HELD = 20_000_000  # pairs kept between resamples: 2 x 80 MB
PAIRS_AT_ONCE = 4_000_000

Weighted = Callable[[np.ndarray], np.ndarray]


class Concordance:
    """Weighted share of comparable pairs in which the patient with the earlier event has the higher risk.

    A pair is comparable when one has an event and the other is known to live longer: a later time, or censored at the
    same time. Two events at one time are not comparable, hence neither are two draws of one patient. Tied risks
    count half. strata: names [n]; only pairs inside one stratum count. strict: a censoring at the very time of an
    event is not comparable (R's survAUC; see scikit-survival's issue 428 on where the two differ).
    """

    def __init__(
        self,
        time: np.ndarray,
        event: np.ndarray,
        risk: np.ndarray,
        strata: np.ndarray | None = None,
        strict: bool = False,
    ):
        self.time, self.event, self.risk, self.strict = time, event, risk, strict
        groups = [np.arange(len(time))] if strata is None else [np.flatnonzero(strata == s) for s in np.unique(strata)]
        self.groups = [rows for rows in groups if event[rows].any()]
        pairs = sum(int(event[rows].sum()) * len(rows) for rows in self.groups)
        self._held = list(self._blocks()) if pairs <= PAIRS_HELD else None

    def pairs(self) -> int:
        """Comparable pairs in all."""
        return int(sum(later.sum(dtype=np.float64) for _, _, later, _ in self._held or self._blocks()))

    def __call__(self, weights: np.ndarray, *case_weights: np.ndarray) -> list[np.ndarray]:
        """Values [B] for each of case_weights [n] (the weight of a pair by its earlier patient): ones for Harrell's
        c-index (1996, Stat Med 15:361), 1/G(t)^2 for Uno's (2011, Stat Med 30:1105). NaN without a pair."""
        top = [np.zeros(len(weights)) for _ in case_weights]
        bottom = [np.zeros(len(weights)) for _ in case_weights]
        counts = weights.astype(np.float32)  # counts, and sums of halves of them, are exact in float32
        for cases, others, later, right in self._held or self._blocks():
            part = counts[:, others]
            concordant, comparable = (part @ right.T).astype(np.float64), (part @ later.T).astype(np.float64)
            for k, case_weight in enumerate(case_weights):
                drawn = weights[:, cases] * case_weight[cases]
                top[k] += (drawn * concordant).sum(1)
                bottom[k] += (drawn * comparable).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return [np.where(b > 0, t / b, np.nan) for t, b in zip(top, bottom, strict=True)]

    def _blocks(self) -> Iterator[tuple[np.ndarray, ...]]:
        """(cases [e], others [m], comparable [e, m], concordant [e, m]: 1, 0.5 or 0), the last two float32."""
        for rows in self.groups:
            time, risk, alive = self.time[rows], self.risk[rows], ~self.event[rows]
            cases = np.flatnonzero(self.event[rows])
            size = max(1, PAIRS_AT_ONCE // len(rows))
            for start in range(0, len(cases), size):
                some = cases[start : start + size]
                later = time > time[some, None]
                if not self.strict:
                    later |= (time == time[some, None]) & alive
                gap = risk - risk[some, None]
                tied = np.abs(gap) <= TIED
                right = np.where(tied, np.float32(0.5), (gap < 0).astype(np.float32)) * later
                yield rows[some], rows, later.astype(np.float32), right


def uno_weights(time: np.ndarray, event: np.ndarray, g: np.ndarray, tau: float) -> tuple[np.ndarray, int]:
    """(1/G(t)^2 of the events before tau, 0 elsewhere [n]; events before tau left out because G is unknown there).

    g: G at each patient's own time [n], NaN where unknown or 0.
    """
    inside = event & (time < tau)
    known = inside & np.isfinite(g)
    return np.divide(1.0, g**2, out=np.zeros(len(time)), where=known), int((inside & ~known).sum())


def tied_times(time: np.ndarray, event: np.ndarray) -> int:
    """Pairs of an event and a censoring at one time: where conventions of Uno's c-index differ."""
    times, code = np.unique(time, return_inverse=True)
    died = np.bincount(code, event, len(times))
    return int((died * (np.bincount(code, minlength=len(times)) - died)).sum())


def cases_and_controls(time: np.ndarray, event: np.ndarray, when: float) -> tuple[np.ndarray, np.ndarray]:
    """bool [n] each: event by `when`; known to be without one after it. Neither: censored before, status unknown."""
    return event & (time <= when), time > when


class RankedAuc:
    """Area under the ROC curve of risk for weighted cases and controls, ties counted half.

    Cases weighted 1/G(t_i): the cumulative/dynamic AUC (Uno 2007, JASA 102:527; Hung & Chiang 2010); ones: the plain
    AUC among known labels. Runs of risks less than TIED apart are one threshold.
    """

    def __init__(self, risk: np.ndarray):
        self.order = np.argsort(risk, kind="stable")
        self.starts = np.flatnonzero(np.r_[True, np.diff(risk[self.order]) > TIED])

    def __call__(self, weights: np.ndarray, case: np.ndarray, control: np.ndarray) -> np.ndarray:
        """case, control: weight of each patient [n] as one and the other, 0 for neither -> [B]; NaN without both."""
        drawn = weights[:, self.order]
        positive = np.add.reduceat(drawn * case[self.order], self.starts, axis=1)
        negative = np.add.reduceat(drawn * control[self.order], self.starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative
        pairs = positive.sum(1) * negative.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, (positive * (below + 0.5 * negative)).sum(1) / pairs, np.nan)


def case_weights(case: np.ndarray, g: np.ndarray) -> np.ndarray:
    """1/G(t_i) of the cases, 0 of the others [n]; NaN for a case whose G is unknown."""
    return np.where(case, 1 / np.where(case, g, 1.0), 0.0)


def brier_parts(
    time: np.ndarray, event: np.ndarray, survival: np.ndarray, when: np.ndarray, g: np.ndarray, g_when: np.ndarray
) -> np.ndarray:
    """What each patient adds to the IPCW Brier score at each time: [n, T]; its mean over patients is the score
    (Graf 1999, Stat Med 18:2529).

    survival: predicted S [n, T] at when [T]; g [n]: G at the patient's own time; g_when [n, T]: G at `when`.
    """
    case, control = event[:, None] & (time[:, None] <= when), time[:, None] > when
    lost = np.where(case, survival**2 / np.where(case, g[:, None], 1.0), 0.0)
    return lost + np.where(control, (1 - survival) ** 2 / np.where(control, g_when, 1.0), 0.0)


def integration_weights(when: np.ndarray) -> np.ndarray:
    """Weights [T] of the trapezoid rule over when [T], divided by its span."""
    width = np.diff(when)
    return (np.r_[width, 0.0] + np.r_[0.0, width]) / 2 / (when[-1] - when[0])


def weighted_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of values [n] under each row of weights [B, n]."""
    return weights @ values / weights.sum(1)


def survival_at(times: np.ndarray, survival: np.ndarray, when: float) -> np.ndarray | None:
    """S(when) [n] from S [n, T] at times [T]: linear between them and from S(0) = 1; None beyond the last time."""
    if when > times[-1]:
        return None
    times, survival = np.r_[0.0, times], np.c_[np.ones(len(survival)), survival]
    right = int(np.searchsorted(times, when, side="left"))
    if times[right] == when or right == 0:
        return survival[:, right]
    share = (when - times[right - 1]) / (times[right] - times[right - 1])
    return (1 - share) * survival[:, right - 1] + share * survival[:, right]
