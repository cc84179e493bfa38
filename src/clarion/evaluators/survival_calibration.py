"""Is a predicted risk of an event by 60 months the share that has one? Answered under censoring.

Groups: mean prediction against the Kaplan-Meier estimate. Slope and intercept: logistic recalibration of the label
"event by t" with inverse-probability-of-censoring weights (the estimating equations of Zheng, Cai & Feng 2006,
Biometrics 62:279; reading as in Van Calster 2019, BMC Med 17:230).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clarion.evaluators.survival_curves import kaplan_meier, weighted_kaplan_meier
from clarion.evaluators.survival_scores import case_weights, cases_and_controls, weighted_mean

MOST_GROUPS = 10
PER_GROUP = 30  # patients a group should have at least, as far as two groups allow
EDGE = 1e-6  # predicted probabilities are kept this far from 0 and 1 before their logit is taken
STEPS = 50  # Newton steps before a fit counts as failed


@dataclass(frozen=True)
class Calibration:
    """Predicted probability [n] of an event by `when` beside what happened. g: G at each patient's own time [n],
    g_when: G at `when` [n]; NaN where unknown."""

    time: np.ndarray
    event: np.ndarray
    predicted: np.ndarray
    when: float
    g: np.ndarray
    g_when: np.ndarray

    def groups(self) -> list[np.ndarray]:
        """Rows of each group of neighbouring predictions; equal predictions stay together."""
        n_groups = int(np.clip(len(self.predicted) // PER_GROUP, 2, MOST_GROUPS))
        cuts = np.unique(np.quantile(self.predicted, np.arange(1, n_groups) / n_groups))
        code = np.searchsorted(cuts, self.predicted, side="left")
        return [np.flatnonzero(code == c) for c in np.unique(code)]

    def points(self) -> list[dict]:
        """A group each: mean predicted, observed (1 - Kaplan-Meier; None when the group is not watched until `when`),
        n, events by then."""
        found = []
        for rows in self.groups():
            seen = float(kaplan_meier(self.time[rows], self.event[rows]).at(self.when))
            found.append(
                {
                    "predicted": float(self.predicted[rows].mean()),
                    "observed": None if np.isnan(seen) else 1 - seen,
                    "n": len(rows),
                    "events": int((self.event[rows] & (self.time[rows] <= self.when)).sum()),
                }
            )
        return found

    def statistic(self) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """weights [B, n] -> slope, intercept, error, ratio, [B] each.

        slope: 1 well spread, below 1 too extreme. intercept: log odds by which risks must be raised (slope kept 1).
        error: mean |observed - predicted| over groups, by their size. ratio: observed / mean predicted.
        """
        both = zip(self.groups(), self.points(), strict=True)
        groups = [rows for rows, point in both if point["observed"] is not None]
        case, control = cases_and_controls(self.time, self.event, self.when)
        known = np.flatnonzero(case | control)
        weight = (case_weights(case, self.g) + np.where(control, 1 / np.where(control, self.g_when, 1.0), 0.0))[known]
        inside = np.clip(self.predicted[known], EDGE, 1 - EDGE)
        logit, label = np.log(inside / (1 - inside)), case[known].astype(np.float64)
        followed = not np.isnan(kaplan_meier(self.time, self.event).at(self.when))

        def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
            drawn = weights[:, known] * weight
            gaps, size = np.zeros(len(weights)), np.zeros(len(weights))
            for rows in groups:
                w = weights[:, rows]
                total = w.sum(1)
                with np.errstate(invalid="ignore", divide="ignore"):
                    gap = 1 - weighted_kaplan_meier(self.time[rows], self.event[rows], w, self.when) - (
                        w @ self.predicted[rows] / total
                    )
                gaps += np.where(total > 0, np.abs(gap) * total, 0.0)
                size += total
            with np.errstate(invalid="ignore", divide="ignore"):
                observed = 1 - weighted_kaplan_meier(self.time, self.event, weights, self.when)
                ratio = observed / weighted_mean(weights, self.predicted)
                return {
                    "slope": logistic(drawn, label, logit)[1],
                    "intercept": logistic(drawn, label, logit, slope=1.0)[0],
                    "error": gaps / size if groups else np.full(len(weights), np.nan),
                    "ratio": ratio if followed else np.full(len(weights), np.nan),
                }

        return stat


def logistic(
    weights: np.ndarray, label: np.ndarray, x: np.ndarray, slope: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted maximum likelihood of logit P(label) = a + b x for each row of weights [B, n] -> a [B], b [B], by
    Newton steps. slope: keep b at this. NaN where there is no finite maximum (one kind of label, separation, constant
    x) or a weight is unknown."""
    a, b = np.zeros(len(weights)), np.full(len(weights), 0.0 if slope is None else slope)
    change = np.full(len(weights), np.inf)
    with np.errstate(all="ignore"):
        total, positive = weights.sum(1), weights @ label
        possible = (positive > 0) & (positive < total)
        for _ in range(STEPS):
            p = 1 / (1 + np.exp(-(a[:, None] + b[:, None] * x)))
            left, spread = weights * (label - p), weights * p * (1 - p)
            u, h = left.sum(1), spread.sum(1)
            if slope is None:
                ux, hx, hxx = left @ x, spread @ x, spread @ x**2
                determinant = h * hxx - hx**2
                da, db = (hxx * u - hx * ux) / determinant, (h * ux - hx * u) / determinant
            else:
                da, db = u / h, np.zeros_like(u)
            size = np.maximum(np.abs(da), np.abs(db))
            damp = np.minimum(1.0, 5 / np.maximum(size, 1e-300))  # far from the maximum a full step overshoots
            a, b, change = a + damp * da, b + damp * db, size
            if not (change[possible & np.isfinite(change)] > 1e-10).any():
                break
        good = possible & (change <= 1e-6) & (np.abs(b) < 100)
    return np.where(good, a, np.nan), np.where(good, b, np.nan)
