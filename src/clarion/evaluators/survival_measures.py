"""All scores of one set of survival predictions, as one function of patient weights: what the bootstrap resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from clarion.evaluators.survival_calibration import Calibration
from clarion.evaluators.survival_curves import Censoring
from clarion.evaluators.survival_scores import (
    Concordance,
    RankedAuc,
    brier_parts,
    case_weights,
    cases_and_controls,
    integration_weights,
    survival_at,
    tied_times,
    uno_weights,
)

THIN = 0.1  # G below which single patients weigh more than ten


@dataclass(frozen=True)
class Cohort:
    """Who is scored, and what was learnt about censoring. time, event [n]; within: stratum names [n] whose pairs alone
    count for c_index_within_..., or None; stratum: names [n] for a censoring distribution by stratum, or None."""

    time: np.ndarray
    event: np.ndarray
    censoring: Censoring
    within: np.ndarray | None = None
    stratum: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.time)

    def of(self, rows: np.ndarray) -> Cohort:
        """The same for rows [n] bool."""
        part = [None if names is None else names[rows] for names in (self.within, self.stratum)]
        return Cohort(self.time[rows], self.event[rows], self.censoring, *part)

    @cached_property
    def g(self) -> np.ndarray:
        """G at each patient's own time [n], NaN where unknown or 0."""
        return self.censoring.at(self.time, self.stratum, len(self))

    def g_at(self, when: float) -> np.ndarray:
        """G at one time for each patient [n], NaN where unknown or 0."""
        return self.censoring.at(when, self.stratum, len(self))

    def auc_weights(self, when: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights as case and as control [n] of the cumulative/dynamic AUC at `when`."""
        case, control = cases_and_controls(self.time, self.event, when)
        if not self.censoring.stratified:  # one G(t) for all controls cancels
            return case_weights(case, self.g), control.astype(np.float64)
        return case_weights(case, self.g), np.where(control, 1 / np.where(control, self.g_at(when), 1.0), 0.0)


@dataclass(frozen=True)
class Horizon:
    """A time at which status is asked, and how metrics at it are called: 60 -> _60m."""

    when: float
    suffix: str


@dataclass
class Measures:
    """Scores of one model on a Cohort.

    risk [n]; survival: (times [T], S [n, T]) or None; horizons; tau: Uno's c-index looks at events before it.
    `notes` fills with what could not be measured and why.
    """

    cohort: Cohort
    risk: np.ndarray
    survival: tuple[np.ndarray, np.ndarray] | None
    horizons: list[Horizon]
    tau: float
    within: str = "cancer"  # what the strata are, in the name of the metric
    notes: list[str] = field(default_factory=list)

    def statistic(self, calibration: bool = True) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """weights [B, n] -> {metric: [B]}. calibration: also Brier scores and calibration, where survival is given."""
        parts = [self.concordance(), self.areas()]
        if calibration and self.survival is not None:
            parts += [self.brier(), *self.calibrations()]

        def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
            return {name: value for part in parts for name, value in part(weights).items()}

        return stat

    def concordance(self) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """c_index, c_index_within_... (where there are strata) and c_index_uno."""
        cohort = self.cohort
        uno, lost = uno_weights(cohort.time, cohort.event, cohort.g, self.tau)
        if lost:
            self.notes.append(
                f"c_index_uno leaves out {lost} event(s) at times at which the {cohort.censoring.source} patients say "
                "nothing about censoring."
            )
        ones = np.ones(len(cohort))
        pairs = Concordance(cohort.time, cohort.event, self.risk)
        inner = None
        if cohort.within is not None and len(np.unique(cohort.within)) > 1:
            inner = Concordance(cohort.time, cohort.event, self.risk, cohort.within)

        def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
            harrell, ipcw = pairs(weights, ones, uno)
            values = {"c_index": harrell}
            if inner is not None:
                values[f"c_index_within_{self.within}"] = inner(weights, ones)[0]
            return values | {"c_index_uno": ipcw}

        return stat

    def areas(self) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """auc (IPCW) and auc_naive at each horizon."""
        auc, cohort = RankedAuc(self.risk), self.cohort
        weighted = {h.suffix: cohort.auc_weights(h.when) for h in self.horizons}
        plain = {h.suffix: cases_and_controls(cohort.time, cohort.event, h.when) for h in self.horizons}
        for h in self.horizons:
            case, control = weighted[h.suffix]
            if not plain[h.suffix][1].any():
                self.notes.append(f"auc{h.suffix}: no patient is followed beyond {h.when:g}.")
            elif np.isnan(case).any() or np.isnan(control).any():
                self.notes.append(
                    f"auc{h.suffix}: the {cohort.censoring.source} patients are not followed for long enough to weigh "
                    f"the events up to {h.when:g}."
                )
            elif case.max(initial=0) > 1 / THIN:
                self.notes.append(
                    f"auc{h.suffix}: one event counts for up to {case.max():.0f}, since few patients are followed for "
                    "so long; read it with its interval."
                )

        def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
            values = {f"auc{s}": auc(weights, *kinds) for s, kinds in weighted.items()}
            return values | {f"auc_naive{s}": auc(weights, *kinds) for s, kinds in plain.items()}

        return stat

    def usable_times(self) -> np.ndarray:
        """Which predicted times [T] bool lie inside the follow-up of the test and of the censoring distribution."""
        times, cohort = self.survival[0], self.cohort
        known = np.array([np.isfinite(cohort.g_at(t)).all() for t in times])
        return known & (times < cohort.time.max())

    def brier_table(self) -> tuple[np.ndarray, np.ndarray]:
        """(usable times [U], parts [n, U] whose mean is the Brier score at each)."""
        use = self.usable_times()
        times, survival = self.survival[0][use], self.survival[1][:, use]
        g_when = np.stack([self.cohort.g_at(t) for t in times], axis=1) if use.any() else np.empty((len(survival), 0))
        return times, brier_parts(self.cohort.time, self.cohort.event, survival, times, self.cohort.g, g_when)

    def brier(self) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """brier at each horizon and integrated_brier over the predicted times."""
        times, parts = self.brier_table()
        if len(times) < len(self.survival[0]):
            self.notes.append(
                f"Brier scores use {len(times)} of the {len(self.survival[0])} predicted times: the others lie beyond "
                "the follow-up."
            )
        columns = {}
        for h in self.horizons:
            column = self._at(h)
            columns[f"brier{h.suffix}"] = np.full(len(self.cohort), np.nan) if column is None else column
        whole = np.full(len(self.cohort), np.nan)
        columns["integrated_brier"] = parts @ integration_weights(times) if len(times) > 1 else whole
        table = np.stack(list(columns.values()), axis=1)

        def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
            means = weights @ table / weights.sum(1, keepdims=True)
            return dict(zip(columns, means.T, strict=True))

        return stat

    def calibration(self, h: Horizon) -> Calibration | None:
        """Predicted against observed at a horizon, None where survival is not predicted for so long."""
        if self.survival is None or (predicted := survival_at(*self.survival, h.when)) is None:
            return None
        cohort = self.cohort
        return Calibration(cohort.time, cohort.event, 1 - predicted, h.when, cohort.g, cohort.g_at(h.when))

    def calibrations(self) -> list[Callable[[np.ndarray], dict[str, np.ndarray]]]:
        """Slope, intercept, error and observed/expected ratio at the last horizon."""
        h = self.horizons[-1]
        found = self.calibration(h)
        if found is None:
            self.notes.append(
                f"No calibration at {h.when:g}: survival is predicted up to {self.survival[0][-1]:g} only."
            )
            return []
        stat = found.statistic()
        return [lambda weights: {f"calibration_{name}{h.suffix}": value for name, value in stat(weights).items()}]

    def auc_over_time(self, most: int = 40) -> tuple[np.ndarray, np.ndarray]:
        """(times, cumulative/dynamic AUC at them): quantiles of the event times up to the last horizon."""
        cohort, auc, ones = self.cohort, RankedAuc(self.risk), np.ones((1, len(self.cohort)))
        early = cohort.time[cohort.event & (cohort.time <= self.horizons[-1].when)]
        if early.size < 2:
            return np.empty(0), np.empty(0)
        times = np.unique(np.quantile(early, np.linspace(0.1, 1, most), method="higher"))
        values = np.array([auc(ones, *cohort.auc_weights(t))[0] for t in times])
        return times[np.isfinite(values)], values[np.isfinite(values)]

    def ties(self) -> int:
        """Pairs of an event and a censoring at one time."""
        return tied_times(self.cohort.time, self.cohort.event)

    def uno_strict(self) -> float:
        """Uno's c-index without the pairs that share a time (survAUC's convention)."""
        cohort = self.cohort
        uno, _ = uno_weights(cohort.time, cohort.event, cohort.g, self.tau)
        pairs = Concordance(cohort.time, cohort.event, self.risk, strict=True)
        return float(pairs(np.ones((1, len(cohort))), uno)[0][0])

    def _at(self, h: Horizon) -> np.ndarray | None:
        """What each patient adds to the Brier score at a horizon [n]."""
        predicted, cohort = survival_at(*self.survival, h.when), self.cohort
        if predicted is None or h.when >= cohort.time.max():
            self.notes.append(f"brier{h.suffix}: {h.when:g} lies beyond the follow-up or the predicted times.")
            return None
        return brier_parts(
            cohort.time, cohort.event, predicted[:, None], np.array([h.when]), cohort.g, cohort.g_at(h.when)[:, None]
        )[:, 0]


def gain(
    cohort: Cohort, risk: np.ndarray, others: Mapping[str, np.ndarray]
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """c-index of `risk` minus that of each other risk, on the same resample: [B] by name. Pairs inside a stratum only,
    where the cohort has strata."""
    ones, within = np.ones(len(cohort)), cohort.within
    own = Concordance(cohort.time, cohort.event, risk, within)
    rest = {name: Concordance(cohort.time, cohort.event, other, within) for name, other in others.items()}

    def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
        value = own(weights, ones)[0]
        return {name: value - pairs(weights, ones)[0] for name, pairs in rest.items()}

    return stat


