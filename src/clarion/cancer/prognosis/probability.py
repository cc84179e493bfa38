"""The probability of survival of one patient: log-odds of the fused model, recalibrated on the validation patients.

A language model's token probabilities rank patients; how large they are means little. Logistic recalibration (Platt
1999; Cox 1958, Biometrika 45:562) fits  logit P(dead at the horizon) = a + b x log-odds  to the validation patients
whose status at the horizon is known, weighted by the inverse probability of not being censored (IPCW); the interval is
the spread of the fitted probability at this patient's log-odds over bootstrap resamples of those patients. It is that
of the mean of such patients, not of one: nobody knows more of one patient than a probability.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.prognosis.words import Words
from clarion.evaluators.bootstrap import bootstrap
from clarion.evaluators.survival_calibration import logistic
from clarion.evaluators.survival_curves import Censoring, weighted_kaplan_meier
from clarion.evaluators.survival_scores import case_weights, cases_and_controls

LEAST = 5  # deaths, and survivors, below which two numbers are not fitted


@dataclass(frozen=True)
class Survival:
    """probability: of being alive at `months`; low, high at `level`, None without an interval, then reason says why and
    the probability is the model's own. raw: the model's own; log_odds: of dying. n: validation patients with known
    status, deaths of them; intercept, slope: of the recalibration. group: Kaplan-Meier of all validation patients, the
    baseline that knows nothing of this patient."""

    probability: float
    low: float | None
    high: float | None
    level: float
    months: float
    how: str
    reason: str | None
    n: int
    deaths: int
    raw: float
    log_odds: float
    intercept: float | None
    slope: float | None
    group: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float, float, float] | None:
        return None if self.low is None else (self.low, self.high, self.level)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def recalibrated(
    log_odds: float, months: float, validation: pd.DataFrame | None, words: Words | None = None, seed: int = 0,
    n_resamples: int = 1000, level: float = 0.95,
) -> Survival:  # fmt: skip
    """log_odds: of this patient's dying within `months`, as the model gives them. validation: patient_id, risk (their
    log-odds), time (months), event (bool), a row a patient; None where the run recorded none. words: the language of
    how, reason and notes (English)."""
    words = words or Words("en")
    raw = float(1 / (1 + np.exp(np.clip(log_odds, -700, 700))))
    how = words("how")
    if validation is None or not len(validation):
        empty = {"probability": None, "low": None, "high": None, "n": 0}
        return Survival(raw, None, None, level, months, how, words("why_none"), 0, 0, raw, log_odds, None, None, empty)
    time, event = validation["time"].to_numpy(np.float64), validation["event"].to_numpy(bool)
    risk, patients = validation["risk"].to_numpy(np.float64), validation["patient_id"].to_numpy()
    case, control = cases_and_controls(time, event, months)
    g = Censoring.fit(time, event, source="validation")
    weight = case_weights(case, g.at(time, None, len(time)))
    weight = weight + np.where(control, 1 / g.at(months, None, len(time)), 0.0)
    known = (case | control) & np.isfinite(weight) & np.isfinite(risk)
    n, deaths = int(known.sum()), int((case & known).sum())
    group = _group(time, event, patients, months, seed, n_resamples, level)

    def told(why: str, a: float | None = None, b: float | None = None) -> Survival:
        return Survival(raw, None, None, level, months, how, why, n, deaths, raw, log_odds, a, b, group)

    if min(deaths, n - deaths) < LEAST:
        return told(words("why_few", months=f"{months:g}", n=n, deaths=deaths, least=LEAST))
    label, own = case[known].astype(np.float64), risk[known]
    # IPCW weights are kept as they are in each resample: that makes intervals wider, if anything (Robins 1994).
    (a,), (b,) = logistic(weight[known][None], label, own)
    if not np.isfinite(b):
        return told(words("why_separable"))
    if b <= 0:
        return told(words("why_slope", slope=f"{b:.2f}"), float(a), float(b))

    def alive(weights: np.ndarray) -> np.ndarray:
        a, b = logistic(weights * weight[known], label, own)
        with np.errstate(invalid="ignore", over="ignore"):
            return 1 / (1 + np.exp(a + b * log_odds))

    found = bootstrap(alive, patients[known], n_resamples, seed, level)
    if found.low is None:
        return told(str(found.note), float(a), float(b))
    notes = [f"{found.note}."] if found.note else []
    if not own.min() <= log_odds <= own.max():
        ends = (f"{value:+.2f}" for value in (log_odds, own.min(), own.max()))
        notes.append(words("look_beyond", **dict(zip(("own", "low", "high"), ends, strict=True))))
    return Survival(found.value, found.low, found.high, level, months, how, None, n, deaths, raw, log_odds, float(a),
                    float(b), group, tuple(notes))  # fmt: skip


def _group(time, event, patients, months: float, seed: int, n_resamples: int, level: float) -> dict[str, Any]:
    """The share of all validation patients who live at `months`; None where nobody was watched for so long."""
    if time.max() < months:
        return {"probability": None, "low": None, "high": None, "n": len(time)}
    found = bootstrap(lambda w: weighted_kaplan_meier(time, event, w, months), patients, n_resamples, seed, level)
    return {"probability": found.value, "low": found.low, "high": found.high, "n": len(time)}
