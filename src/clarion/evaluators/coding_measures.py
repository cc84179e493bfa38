"""Scores of codes as ratios of sums over cases, with intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clarion.codes.scores import CodeSets
from clarion.evaluators.bootstrap import bootstrap, codes, entry, wilson

BOOTSTRAP = "percentile bootstrap over patients"


@dataclass(frozen=True)
class Ratio:
    """sum(over) / sum(under) over cases [n]; proportion: each case adds 0 or 1 to `over`, so Wilson's interval holds
    where all cases agree and a bootstrap has no width."""

    over: np.ndarray
    under: np.ndarray
    method: str
    unit: str | None = None
    proportion: bool = False


def level_ratios(sets: CodeSets, levels: Sequence[str], prefix: str = "") -> dict[str, Ratio]:
    """LEVEL_f1, _precision, _recall (micro) and case_LEVEL_f1 (mean over the cases with a true code)."""
    found: dict[str, Ratio] = {}
    for level in levels:
        counts, named = sets.counts(level), f"{sets.system.name} {level}"
        micro = f"micro over cases, sets of {named} codes"
        found[f"{prefix}{level}_f1"] = Ratio(2 * counts.both, counts.true + counts.predicted, micro)
        found[f"case_{prefix}{level}_f1"] = mean(counts.f1(), f"F1 of each case's set of {named} codes, mean")
        found[f"{prefix}{level}_precision"] = Ratio(counts.both, counts.predicted, micro)
        found[f"{prefix}{level}_recall"] = Ratio(counts.both, counts.true, micro)
    return found


def mean(values: np.ndarray, method: str, unit: str | None = None, proportion: bool = False) -> Ratio:
    """The mean over cases [n], NaN left out."""
    defined = np.isfinite(values)
    return Ratio(np.where(defined, values, 0.0), defined.astype(float), method, unit, proportion)


def measure(
    ratios: Mapping[str, Ratio], patients: Sequence, n_resamples: int, seed: int, level: float,
    notes: list[str] | None = None, averages: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, dict]:  # fmt: skip
    """Metric entries of all ratios from one bootstrap. averages: name -> the ratios whose plain mean it is; notes gets
    one sentence for all metrics that have no interval for one reason."""
    index, names = codes(patients)
    columns = list(ratios)
    over, under = (
        np.stack([np.bincount(index, getattr(ratios[c], side), len(names)) for c in columns], axis=1)
        for side in ("over", "under")
    )

    def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
        above, below = weights @ over, weights @ under  # [B, ratios]
        with np.errstate(invalid="ignore", divide="ignore"):
            values = dict(zip(columns, np.where(below > 0, above / below, np.nan).T, strict=True))
        for name, parts in (averages or {}).items():
            values[name] = np.mean([values[part] for part in parts], axis=0)
        return values

    intervals = bootstrap(stat, patients, n_resamples, seed, level, per_group=True)
    found, reasons = {}, {}
    for name, interval in intervals.items():
        if name not in ratios:
            method = f"mean of {', '.join(averages[name])}; {BOOTSTRAP}"
            found[name] = entry(interval, len(index), len(names), method)
            continue
        ratio = ratios[name]
        counted = ratio.under > 0
        n, n_patients, method = int(counted.sum()), len(set(index[counted])), f"{ratio.method}; {BOOTSTRAP}"
        if ratio.proportion and interval.low is None and interval.value in (0.0, 1.0):
            interval = wilson(interval.value * n_patients, n_patients, level)
            method = f"{ratio.method}; Wilson over patients, since all cases agree"
        found[name] = entry(interval, n, n_patients, method, ratio.unit)
        if interval.note:
            reasons.setdefault(interval.note, []).append(name)
    if notes is not None:
        notes.extend(f"{', '.join(metrics)}: {why}." for why, metrics in reasons.items())
    return found
