"""Scales of a modality: what its values look like, and whether they fit the scale it declares."""

from __future__ import annotations

import re
import warnings

import numpy as np

# log2 of the largest value that the quantity can have, with room: a million per million; reads of a large library.
_TOP = {"TPM": 20.0, "CPM": 20.0, "FPKM": 22.0, "RPKM": 22.0, "COUNTS": 26.0, "": 26.0}
ENOUGH = 100  # genes from which the values of a table tell its scale
RATIO = 20.0  # 99.9th percentile over median of the values above 0 that amounts on their own scale exceed
SPAN = 4.0  # that logarithms of many genes exceed
LOUD = 100.0  # 75th percentile of a million shared among all genes, unexpressed ones included: far above any tissue's
_LOG = re.compile(r"log2\((?P<quantity>\w+)(?: counts?)? ?\+ ?(?P<offset>[\d.]+)\)$", re.IGNORECASE)


def guess_scale(values: np.ndarray, modality: str = "rna") -> str:
    """What the numbers of a modality look like: "0/1", "-2..2", "counts", "z-score", "log2" or "linear"."""
    seen = values[np.isfinite(values)]
    if not len(seen):
        return "unknown"
    low, high = float(seen.min()), float(seen.max())
    whole = bool((seen == np.rint(seen)).all())
    if whole and low >= 0 and high <= 1 and modality != "cnv":
        return "0/1"
    if whole and low >= -2 and high <= 2:
        return "-2..2"
    if low >= 0:
        return "counts" if whole else "log2" if high <= 25 else "linear"
    if abs(low - np.log2(0.001)) < 0.01:  # Xena's recomputed expression alone adds 0.001
        return "log2(TPM+0.001)"
    centred = float(np.nanmedian(np.abs(percentiles(values, [50], axis=0))))
    return "z-score" if centred < 0.75 else "log2"


def percentiles(values: np.ndarray, which: list[float], axis: int) -> np.ndarray:
    """float64 [which, ...] without the missing values; NaN, and no warning, where there are no others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanpercentile(values, which, axis=axis)


def scale_problems(values: np.ndarray, scale: str, modality: str) -> list[str]:
    """Sentences for what is wrong; [] where the values fit the declared scale, or where none is declared.

    values: float [patients, genes], NaN missing. Known scales: log2(Q+offset) and Q for Q of TPM, CPM, FPKM, RPKM,
    counts, linear (amounts of an unknown unit); log2; z-score; 0/1; -2..2; others are not checked. A guessed scale is
    checked as a declared one: ten times a logarithm looks like no amount."""
    seen = values[np.isfinite(values)]
    if not len(seen):
        return []
    low, high, name = float(seen.min()), float(seen.max()), scale.strip()
    said = f"read as {name}, but"
    if name == "0/1":
        return [] if np.isin(seen, (0, 1)).all() else [f"{said} values go from {low:g} to {high:g}, not only 0 and 1"]
    if name == "-2..2":
        fits = low >= -2 and high <= 2
        return [] if fits else [f"{said} values go from {low:g} to {high:g}; copy number of this kind is -2 to 2"]
    if modality != "rna":
        return []
    if name == "z-score":
        return _z_problems(values, said)
    if found := _LOG.match(name):
        return _log_problems(values, low, high, found["quantity"].upper(), float(found["offset"]), said)
    if name.lower() == "log2":
        return _log_problems(values, low, high, "", None, said)
    if name.lower() == "linear" or (name and name.upper() in _TOP):
        return _linear_problems(values, low, high, name, said)
    return []


def _z_problems(values: np.ndarray, said: str) -> list[str]:
    q = percentiles(values, [25, 50, 75], axis=0)
    spread, centre = float(np.nanmedian(q[2] - q[0])) / 1.349, float(np.nanmedian(np.abs(q[1])))
    if len(values) < 10:
        return []
    if not 0.2 <= spread <= 5:  # outliers shrink the bulk of a z-score: [0.6 to 0.8 in nine TCGA cohorts]
        return [f"{said} genes spread by {spread:.2g} (robust SD) where z-scores spread by about 1: another scale?"]
    if centre > 2:
        return [f"{said} genes lie around {centre:.2g} where z-scores lie around 0: another scale?"]
    return []


def _log_problems(
    values: np.ndarray, low: float, high: float, quantity: str, offset: float | None, said: str
) -> list[str]:
    top, problems = _TOP.get(quantity, 26.0), []
    if high > top + 0.01:
        problems.append(f"{said} values reach {high:,.4g} where {top:g} is the most: no logarithms, or 10x too large?")
    bottom = -15.0 if offset is None else float(np.log2(offset)) if offset > 0 else None
    if bottom is not None and low < bottom - 0.01:
        problems.append(f"{said} values go down to {low:.3g}, {bottom:.3g} is the least: another offset, z-scores, or "
                        "10x too large?")  # fmt: skip
    if values.shape[1] >= ENOUGH and high - low < SPAN:
        problems.append(f"{said} {values.shape[1]:,} genes span only {high - low:.2g}: 10x too small?")
    return problems


def _linear_problems(values: np.ndarray, low: float, high: float, name: str, said: str) -> list[str]:
    """Amounts. In one tissue they spread over orders of magnitude: the 99.9th percentile of those above 0 is hundreds
    of times their median, that of logarithms (times any factor) two to ten times."""
    problems = []
    if low < 0:
        problems.append(f"{said} values go down to {low:.3g}: logarithms or z-scores?")
    elif high <= 25 and values.shape[1] >= ENOUGH:
        problems.append(f"{said} no value exceeds {high:.3g}: logarithms?")
    elif values.shape[1] >= ENOUGH:
        above = values[np.isfinite(values) & (values > 0)]
        middle, most = np.percentile(above, [50, 99.9]) if above.size else (0.0, 0.0)
        if most < RATIO * middle:
            problems.append(f"{said} the largest values are only {most / middle:.2g} times the median where amounts "
                            "spread over orders of magnitude: logarithms times a factor?")  # fmt: skip
    if name.lower() == "counts" and not problems:
        sample = values[np.isfinite(values)][:1_000_000]
        if np.abs(sample - np.rint(sample)).max() > 1e-3 and np.mean(np.abs(sample - np.rint(sample)) > 1e-3) > 0.5:
            problems.append(f"{said} most values are no whole numbers: normalised, or another scale?")
    if name.upper() in ("TPM", "CPM") and not problems:
        total = float(np.nanmedian(np.nansum(values, axis=1)))
        if total > 1.2e6 or (values.shape[1] >= 15_000 and total < 3e5):
            problems.append(f"{said} a patient's values sum to {total:.3g}, not to a million: wrong by a factor?")
    if name.upper() in ("TPM", "CPM", "FPKM", "RPKM") and not problems and values.shape[1] >= 10 * ENOUGH:
        # a choice of loud genes has no silent ones; a panel with silent genes is like all genes, and those are few
        silent, upper = float(np.mean(values[np.isfinite(values)] <= 0.1)), float(np.nanpercentile(values, 75))
        if silent >= 0.05 and upper > LOUD:
            problems.append(f"{said} a quarter of the values exceed {upper:,.3g} although {silent:.0%} of them are "
                            "nearly 0: 10x too large?")  # fmt: skip
    return problems
