"""Surfaces per A-scan scored: absolute error, bias, 95th percentile and thickness error, by surface and subgroup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError
from clarion.evaluators.bootstrap import bootstrap, codes, entry
from clarion.evaluators.join import join
from clarion.evaluators.subgroups import subgroups

BOOTSTRAP = "over A-scans; percentile bootstrap over patients"
RESERVED = ("surfaces", "axial_um", "lateral_um")
STEP_UM, STEPS = 0.25, 1600  # histogram of absolute errors for the percentile: up to 400 um
QUANTILE = 0.95


class SurfacesEvaluator:
    """Scores rows of surfaces; `evaluate` returns the dict described in CONTRIBUTING.

    Errors are predicted - true, over A-scans where both are known; `measured_*` is the share of true ones that got an
    answer, so that silence is no way to a good score. n_resamples: bootstrap resamples; level: coverage of the
    intervals; most_values: a truth column with more values makes no subgroups.
    """

    def __init__(
        self, task: str = "layers", n_resamples: int = 1000, level: float = 0.95, most_values: int = 12,
        name: str = "surfaces",
    ):  # fmt: skip
        self.task, self.name = task, name
        self.n_resamples, self.level, self.most_values = int(n_resamples), float(level), int(most_values)

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id, surfaces (k lists of rows, NaN or None unknown); truth: the same, and
        axial_um, and any column that makes subgroups; context: class_names (the k surfaces from the vitreous down,
        the first and the last bound the retina), seed, validation (predictions, truth) or None."""
        names, seed, notes = list(context["class_names"]), int(context.get("seed") or 0), []
        predictions, truth = join(predictions, truth, ["surfaces"], ["surfaces", "axial_um"])
        guess, true = (_curves(table, len(names), which) for table, which in
                       ((predictions, "predictions"), (truth, "truth")))  # fmt: skip
        _same_width(guess, true, truth)
        axial = truth["axial_um"].to_numpy(float)
        patients = truth["patient_id"].to_numpy()
        tally = Tally.of(guess, true, axial, patients)
        metrics = self._metrics(tally, names, seed, notes)

        groups: dict[str, dict[str, dict]] = {}
        for column, value, rows in subgroups(truth, RESERVED, self.most_values, notes):
            chosen = np.flatnonzero(rows)
            part = Tally.of([guess[i] for i in chosen], [true[i] for i in chosen], axial[chosen], patients[chosen])
            groups.setdefault(column, {})[value] = self._metrics(part, names, seed, [])
        return {
            "metrics": metrics,
            "baseline": self._baseline(context, true, axial, patients, names, seed, notes),
            "curves": {"absolute_error": _distribution(tally, names)},
            "subgroups": groups,
            "notes": notes,
        }

    def _metrics(self, tally: Tally, names: Sequence[str], seed: int, notes: list[str]) -> dict[str, dict]:
        found = bootstrap(tally.statistic(names), tally.patients, self.n_resamples, seed, self.level, per_group=True)
        return {name: entry(interval, tally.n, len(tally.patients), f"{_meaning(name)}; {BOOTSTRAP}",
                            _unit(name), notes, name)
                for name, interval in found.items()}  # fmt: skip

    def _baseline(self, context, true, axial, patients, names, seed: int, notes: list[str]) -> dict[str, dict]:
        """An average eye hung on the true last surface: every surface at its mean height in the validation.

        Of the last one itself only its mean row is known. Generous to the baseline, which thus knows tilt and bend.
        """
        validation = context.get("validation")
        if validation is None or validation[1] is None or not len(validation[1]):
            notes.append("No baseline: there is no validation split to take an average eye from.")
            return {}
        known = validation[1]
        past, scale = _curves(known, len(names), "validation"), known["axial_um"].to_numpy(float)
        height = np.nanmean(np.concatenate([(v[-1] - v) * s for v, s in zip(past, scale, strict=True)], 1), axis=1)
        row_um = float(np.nanmean(np.concatenate([v[-1] * s for v, s in zip(past, scale, strict=True)])))
        guess = [t[-1] - height[:, None] / s for t, s in zip(true, axial, strict=True)]
        for curve, s in zip(guess, axial, strict=True):
            curve[-1] = row_um / s
        result = self._metrics(Tally.of(guess, true, axial, patients), names, seed, [])
        what = f"an average eye of the validation hung on the true {names[-1]}"
        return {name: {**value, "name": what} for name, value in result.items() if not name.startswith("measured")}


@dataclass(frozen=True)
class Tally:
    """Sums per patient [P] and curve [k + 2: the surfaces, total thickness, and n A-scans known in the truth]."""

    patients: np.ndarray  # names [P]
    n: int  # scans
    known: np.ndarray  # [P, k]: A-scans with a true surface
    count: np.ndarray  # [P, k + 1]: A-scans with both; the last is the total thickness
    absolute_um: np.ndarray  # [P, k + 1]
    signed_um: np.ndarray  # [P, k + 1]
    absolute_px: np.ndarray  # [P, k + 1]
    histogram: np.ndarray  # [P, k + 1, STEPS] counts of absolute errors, um

    @classmethod
    def of(cls, guess, true, axial: np.ndarray, patients: np.ndarray) -> Tally:
        """guess, true: lists of float64 [k, width]; axial um per px [n]; patients [n]."""
        index, names = codes(patients)
        k = len(true[0])
        sums = {name: np.zeros((len(names), k + 1)) for name in ("count", "absolute", "signed", "pixels")}
        known, histogram = np.zeros((len(names), k)), np.zeros((len(names), k + 1, STEPS))
        for g, t, um, p in zip(guess, true, axial, index, strict=True):
            error = g - t
            error = np.concatenate([error, (error[-1] - error[0])[None]])
            use = np.isfinite(error)
            off = np.where(use, error, 0)
            known[p] += np.isfinite(t).sum(1)
            sums["count"][p] += use.sum(1)
            sums["signed"][p] += off.sum(1) * um
            sums["absolute"][p] += np.abs(off).sum(1) * um
            sums["pixels"][p] += np.abs(off).sum(1)
            bins = np.minimum(np.abs(off) * um / STEP_UM, STEPS - 1).astype(np.intp)
            for c in range(k + 1):
                histogram[p, c] += np.bincount(bins[c][use[c]], minlength=STEPS)
        return cls(names, len(true), known, sums["count"], sums["absolute"], sums["signed"], sums["pixels"], histogram)

    def statistic(self, names: Sequence[str]):
        """weights [B, P] -> dict of [B] values, for `bootstrap`."""
        slugs = [*map(slug, names), "total_thickness"]

        def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
            with np.errstate(invalid="ignore", divide="ignore"):
                count = weights @ self.count
                found = {f"mae_um_{s}": v for s, v in zip(slugs, (weights @ self.absolute_um / count).T, strict=True)}
                found |= {f"mae_px_{s}": v for s, v in zip(slugs, (weights @ self.absolute_px / count).T, strict=True)}
                found |= {f"bias_um_{s}": v for s, v in zip(slugs, (weights @ self.signed_um / count).T, strict=True)}
                shares = (weights @ self.count[:, :-1] / (weights @ self.known)).T
                for c, s in enumerate(slugs):
                    reached = np.cumsum(weights @ self.histogram[:, c], axis=1) >= QUANTILE * count[:, c : c + 1]
                    found[f"p95_um_{s}"] = np.where(count[:, c] > 0, (reached.argmax(1) + 0.5) * STEP_UM, np.nan)
                found |= {f"measured_{s}": v for s, v in zip(slugs, shares, strict=False)}
                mean = np.mean([found[f"mae_um_{s}"] for s in slugs[:-1]], axis=0)
            return {"mae_um": mean, **found}

        return stat


def slug(name: str) -> str:
    """"RNFL/GCL" -> "rnfl_gcl": the surface in the name of a metric."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _meaning(name: str) -> str:
    kinds = {"mae": "mean absolute error", "bias": "mean of predicted - true", "p95": "95th percentile of the error",
             "measured": "share of the true A-scans that got an answer"}  # fmt: skip
    what = "mean over surfaces of the mean absolute error" if name == "mae_um" else kinds[name.split("_")[0]]
    return f"{what}, last minus first surface" if name.endswith("total_thickness") else what


def _unit(name: str) -> str | None:
    return "um" if "_um" in name else "px" if "_px" in name else None


def _curves(table: pd.DataFrame, k: int, which: str) -> list[np.ndarray]:
    """Cells of column `surfaces` -> float64 [k, width] each."""
    curves = []
    for sample_id, cell in zip(table["sample_id"], table["surfaces"], strict=True):
        try:
            value = np.array([np.asarray(row, dtype=float) for row in cell])
        except (TypeError, ValueError):
            value = np.empty(0)
        if value.ndim != 2 or len(value) != k:
            raise DataError(f"Sample {sample_id} of the {which} has no {k} surfaces of one width in column surfaces.")
        curves.append(value)
    return curves


def _same_width(guess, true, truth: pd.DataFrame) -> None:
    for g, t, sample_id in zip(guess, true, truth["sample_id"], strict=True):
        if g.shape != t.shape:
            raise DataError(
                f"Sample {sample_id} has {g.shape[1]} A-scans in the predictions and {t.shape[1]} in the truth: "
                "predict the same pictures."
            )


def _distribution(tally: Tally, names: Sequence[str]) -> dict:
    """Cumulative share of A-scans by absolute error, all surfaces together."""
    total = tally.histogram.sum(0)
    edges = (np.arange(STEPS) + 1) * STEP_UM
    chosen = np.unique(np.minimum(np.geomspace(1, 161, 81).astype(int) - 1, STEPS - 1))
    share = np.cumsum(total[:-1].sum(0)) / max(total[:-1].sum(), 1)
    return {"x": edges[chosen].tolist(), "y": share[chosen].tolist(), "x_label": "absolute error, um",
            "y_label": f"share of A-scans, all {len(names)} surfaces"}  # fmt: skip
