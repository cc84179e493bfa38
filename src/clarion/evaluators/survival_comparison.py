"""Two models on the same patients: differences over the same resamples, and DeLong's test of two plain AUCs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from clarion.errors import DataError
from clarion.evaluators.bootstrap import bootstrap, entry
from clarion.evaluators.join import join
from clarion.evaluators.survival_scores import cases_and_controls

if TYPE_CHECKING:
    from clarion.evaluators.survival import SurvivalEvaluator


def delong(score_a: np.ndarray, score_b: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837), with the midranks of Sun & Xu 2014: auc_a, auc_b,
    difference (a - b), se of the difference, z, p (two-sided).

    scores [n], positive [n] bool, independent patients. p is 1 where both rank all patients alike, NaN without two of
    each kind.
    """
    positive = np.asarray(positive, dtype=bool)
    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        return dict.fromkeys(("auc_a", "auc_b", "difference", "se", "z", "p"), float("nan"))
    of_cases, of_controls = [], []
    for score in (score_a, score_b):
        score = np.asarray(score, dtype=np.float64)
        every, case, control = rankdata(score), rankdata(score[positive]), rankdata(score[~positive])
        of_cases.append((every[positive] - case) / n)  # share of controls below each case
        of_controls.append(1 - (every[~positive] - control) / m)  # share of cases above each control
    auc = [float(values.mean()) for values in of_cases]
    covariance = np.cov(np.stack(of_cases)) / m + np.cov(np.stack(of_controls)) / n
    difference = auc[0] - auc[1]
    se = math.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    if se < 1e-12:
        z, p = (0.0, 1.0) if abs(difference) < 1e-12 else (math.copysign(math.inf, difference), 0.0)
    else:
        z = difference / se
        p = float(2 * ndtr(-abs(z)))
    return {"auc_a": auc[0], "auc_b": auc[1], "difference": difference, "se": se, "z": z, "p": p}


def compare(
    evaluator: SurvivalEvaluator,
    predictions_a: pd.DataFrame,
    predictions_b: pd.DataFrame,
    truth: pd.DataFrame,
    context: Mapping[str, Any],
    names: Sequence[str] = ("a", "b"),
) -> dict:
    """Both models and a - b for every metric that both have, over the same resamples of patients.

    Returns {"names", "metrics": {metric: {"a", "b", "difference"}} (entries as in CONTRIBUTING),
    "delong": {metric: {"a", "b", "difference", "low", "high", "p", "n"}}, "notes"}. DeLong applies to the plain AUC
    among patients whose status is known, one row a patient; it knows nothing of the others.
    """
    if len(names) != 2 or names[0] == names[1]:
        raise DataError("A comparison needs two different names, one a model.")
    left, ordered = join(predictions_a, truth, ["risk"], ["time", "event"], (f"predictions of {names[0]}", "truth"))
    right, _ = join(predictions_b, truth, ["risk"], ["time", "event"], (f"predictions of {names[1]}", "truth"))
    notes: list[str] = []
    cohort = evaluator.cohort(ordered, context, notes)  # one censoring distribution for both
    tables = zip((left, right), names, strict=True)
    both = [evaluator.measures(cohort, table, context, which) for table, which in tables]
    stats = [measures.statistic() for measures in both]
    for measures, which in zip(both, names, strict=True):
        notes += [f"{which}: {note}" for note in measures.notes]
    tell = evaluator.methods()
    patients = ordered["patient_id"].to_numpy()
    seed = int(context.get("seed") or 0)

    def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
        a, b = (one(weights) for one in stats)
        values = {}
        for name in (key for key in a if key in b):
            values |= {f"a/{name}": a[name], f"b/{name}": b[name], f"difference/{name}": a[name] - b[name]}
        return values

    found = bootstrap(stat, patients, evaluator.n_resamples, seed, evaluator.level)
    counts = evaluator.counts(cohort, patients)
    metrics: dict[str, dict[str, dict]] = {}
    for key, interval in found.items():
        side, name = key.split("/", 1)
        method = tell(name) + (f"; {names[0]} minus {names[1]}, paired" if side == "difference" else "")
        metrics.setdefault(name, {})[side] = entry(interval, *counts(name), method, None, notes, key)
    return {
        "names": list(names),
        "metrics": metrics,
        "delong": _delong_all(evaluator, cohort, both, patients, notes),
        "notes": notes,
    }


def _delong_all(evaluator, cohort, both, patients, notes) -> dict[str, dict]:
    if len(set(patients)) < len(patients):
        notes.append("No DeLong test: it needs one row a patient.")
        return {}
    found = {}
    for h in evaluator.horizons:
        case, control = cases_and_controls(cohort.time, cohort.event, h.when)
        known = case | control
        if min(case.sum(), control.sum()) < 2:
            notes.append(f"No DeLong test at {h.when:g}: fewer than two patients with or without an event by then.")
            continue
        test = delong(both[0].risk[known], both[1].risk[known], case[known])
        reach = float(ndtri((1 + evaluator.level) / 2)) * test["se"]
        found[f"auc_naive{h.suffix}"] = {
            "a": test["auc_a"], "b": test["auc_b"], "difference": test["difference"],
            "low": test["difference"] - reach, "high": test["difference"] + reach, "p": test["p"],
            "n": int(known.sum()),
        }  # fmt: skip
    return found
