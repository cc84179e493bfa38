"""Validation of thickness, fovea and shape on phantom eyes: what raster, fusion and segmentation do to the numbers.

With true surfaces the error is that of the raster, the interpolation and the detected fovea alone; with a predictor's
surfaces it is that of the whole chain.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from scipy.stats import rankdata

from clarion.oct.enface import Grid, grid_of
from clarion.oct.etdrs import centre_point, sectors, volume_mm3
from clarion.oct.fovea import find_fovea
from clarion.oct.phantom import SPECTRALIS_25, Eye, Geometry, make_eye
from clarion.oct.phantom.fields import GRID_HALF_MM, GRID_N, GRID_STEP_MM, sample
from clarion.oct.shape import RING_MM, band_um, measure_shape
from clarion.oct.thickness import crossing_difference_um, thickness_maps
from clarion.oct.volume import Volume
from clarion.samples import Prediction, Sample

from .eyes import true_volume

FIRST_SEED = 900_000  # no training has seen these eyes
STAGES = 5
_RESAMPLES = 1000
_EYE_GRID = Grid(-GRID_HALF_MM, -GRID_HALF_MM, GRID_N, GRID_N, GRID_STEP_MM)
Predictor = Callable[[Iterable[Sample]], Iterator[Prediction]]


def measure(
    eyes: int,
    seed: int = 0,
    layers_predictor: Predictor | None = None,
    predicted_eyes: int = 10,
    geometry: Geometry = SPECTRALIS_25,
    workers: int | None = None,
) -> dict[str, Any]:
    """Errors of thickness (um), fovea (mm), crossing repeatability (um) and fold index over `eyes` phantom eyes.

    Stages 0-4 in turn, seeds from FIRST_SEED + 10,000 seed. layers_predictor: also measured, on `predicted_eyes` of
    the eyes, rendered. Intervals: 95 % percentile bootstrap over eyes.
    """
    jobs = [(FIRST_SEED + 10_000 * seed + k, k % STAGES, geometry) for k in range(eyes)]
    true = list(_each(_from_truth, jobs, workers))
    rng = np.random.default_rng([seed, 4])
    table = _Table(rng)
    _thickness_rows(table, "true surfaces", "true", true)
    _fovea_rows(table, "true surfaces", "true", true)
    _shape_rows(table, true)
    notes = [
        "True surfaces: the error is that of the raster, the interpolation and the detected fovea. "
        "Each eye is one patient; 95 % bootstrap over eyes.",
        "Fold index: RMS height of the ILM in wavelengths 0.1-0.6 mm; planted: the phantom's wrinkle in the same band.",
    ]
    if layers_predictor is None:
        notes.append("No layer predictor was handed in: nothing is said here about segmentation.")
    else:
        chosen = jobs[:predicted_eyes]
        drawn = _each(_rendered, chosen, workers)
        predicted = [_from_pictures(eye, v, _predict(layers_predictor, v)) for eye, v in drawn]
        _thickness_rows(table, "predicted surfaces", "predicted", predicted)
        _fovea_rows(table, "predicted surfaces", "predicted", predicted)
        folds = [np.array([f["fold_um"] for f in group], float) for group in (predicted, true[: len(predicted)])]
        table.add("predicted_fold_rho", "Fold index, predicted against true surfaces: rank correlation",
                  "predicted surfaces", folds, _spearman, "1")  # fmt: skip
        table.add("predicted_fold_bias", "Fold index, predicted minus true surfaces: median", "predicted surfaces",
                  [folds[0] - folds[1]], lambda d: np.median(d, -1), "um")  # fmt: skip
    return {
        "part": "thickness",
        "title": f"Thickness, fovea and folds on {eyes} phantom eyes ({geometry.name})",
        "columns": ["measure", "eyes", "n", "value", "95 % interval", "unit", "detail"],
        "rows": table.rows,
        "notes": notes,
        "n": eyes,
        "data": "phantom",
        "figures": table.figures,
    }


def agreement(truth: np.ndarray, measured: np.ndarray) -> dict[str, np.ndarray]:
    """Bias, MAE, limits of agreement (Bland and Altman 1986) and ICC(A,1) of values [..., n].

    ICC: two-way, absolute agreement, single measurement (McGraw and Wong 1996, Psychol Methods 1:30).
    """
    difference = measured - truth
    n = truth.shape[-1]
    bias, sd = difference.mean(-1), difference.std(-1, ddof=1)
    both = np.stack([truth, measured], -1)
    grand = both.mean((-1, -2), keepdims=True)
    rows = 2 * np.square(both.mean(-1) - grand[..., 0]).sum(-1) / (n - 1)
    columns = n * np.square(both.mean(-2) - grand[..., 0, :]).sum(-1)
    rest = both - both.mean(-1, keepdims=True) - both.mean(-2, keepdims=True) + grand
    error = np.square(rest).sum((-1, -2)) / (n - 1)
    icc = (rows - error) / (rows + error + 2 * (columns - error) / n)
    return {
        "bias": bias, "mae": np.abs(difference).mean(-1), "low": bias - 1.96 * sd, "high": bias + 1.96 * sd, "icc": icc
    }  # fmt: skip


class _Table:
    """Rows as they are printed and figures as they are stored, each with a bootstrap interval over eyes."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.rows, self.figures = rng, [], {}

    def add(
        self, name: str, label: str, group: str, columns: list[np.ndarray], statistic: Callable, unit: str,
        n: int | None = None, detail: str = "", target: str = "", digits: int = 2,
    ) -> None:  # fmt: skip
        """A figure and its row; n: measurements, where an eye gives several."""
        found = self.figure(name, columns, statistic, unit, target)
        if found is not None:
            interval = f"{found['low']:.{digits}f} to {found['high']:.{digits}f}"
            value = f"{found['value']:.{digits}f}"
            self.rows.append([label, group, n or found["n"], value, interval, unit, detail])

    def figure(
        self, name: str, columns: list[np.ndarray], statistic: Callable, unit: str, target: str = ""
    ) -> dict[str, Any] | None:
        """statistic(*columns [..., eyes]) -> [...], with its interval; None for fewer than two eyes."""
        eyes = len(columns[0])
        if eyes < 2:
            return None
        index = self.rng.integers(0, eyes, (_RESAMPLES, eyes))
        drawn = np.asarray(statistic(*(c[index] for c in columns)))
        low, high = (float(q) for q in np.nanquantile(drawn, [0.025, 0.975]))
        found = {"value": float(statistic(*columns)), "low": low, "high": high, "n": eyes, "unit": unit,
                 "target": target}  # fmt: skip
        self.figures[name] = found
        return found


def _thickness_rows(table: _Table, words: str, key: str, found: list[dict]) -> None:
    """Central subfield, rings, volume; and how H and V agree."""
    for name, label, unit in (
        ("csf", "Central subfield", "um"), ("centre_point", "Central point (0.1 mm)", "um"),
        ("inner", "Inner ring sectors", "um"), ("outer", "Outer ring sectors", "um"),
        ("volume", "Volume in 6 mm", "mm3"),
    ):  # fmt: skip
        truth = np.array([f["truth"][name] for f in found])
        measured = np.array([f["measured"][name] for f in found])
        both = agreement(truth.T.ravel(), measured.T.ravel())
        digits = 4 if unit == "mm3" else 2
        detail = (
            f"bias {both['bias']:+.{digits}f}, limits of agreement {both['low']:+.{digits}f} to "
            f"{both['high']:+.{digits}f}, ICC {both['icc']:.4f}"
        )
        error = np.abs(measured - truth).reshape(len(found), -1).mean(1)
        table.add(f"{key}_{name}_mae", f"{label}: mean absolute error", words, [error], lambda e: e.mean(-1), unit,
                  n=truth.size, detail=detail, digits=digits)  # fmt: skip
        square = np.square(measured - truth).reshape(len(found), -1).mean(1)
        table.figure(f"{key}_{name}_rmse", [square], lambda e: np.sqrt(e.mean(-1)), unit)
    sd = np.array([f["crossing_sd_um"] for f in found])
    n = sum(f["crossings"] for f in found)
    table.add(f"{key}_crossing_sd", "H against V at crossings: SD of one measurement", words, [sd],
              lambda e: np.median(e, -1), "um", n=n, detail="median over eyes")  # fmt: skip


def _fovea_rows(table: _Table, words: str, key: str, found: list[dict]) -> None:
    """Distance to the true fovea where the detector was confident, by stage and over all."""
    for stage in (*range(STAGES), None):
        group = [f for f in found if stage in (None, f["stage"])]
        sure = np.array([f["fovea_mm"] for f in group if f["confident"]])
        name = "all" if stage is None else f"stage{stage}"
        label = "all stages" if stage is None else f"stage {stage}"
        detail = f"confident in {len(sure)} of {len(group)}"
        if len(sure):
            detail += f", 95th percentile {np.quantile(sure, 0.95):.3f}, worst {sure.max():.3f}"
        table.add(f"{key}_fovea_{name}_median", f"Fovea, {label}: median error", words, [sure],
                  lambda e: np.median(e, -1), "mm", detail=detail, target="< 0.15", digits=3)  # fmt: skip


def _shape_rows(table: _Table, found: list[dict]) -> None:
    stage = np.array([f["stage"] for f in found], float)
    fold, traction = (np.array([f[k] for f in found]) for k in ("fold_um", "traction_um_per_mm"))
    table.add("fold_stage_rho", "Fold index against stage: rank correlation", "true surfaces", [fold, stage],
              _spearman, "1", detail=_by_stage(fold, stage, "um"))  # fmt: skip
    table.add("traction_stage_rho", "Traction index against stage: rank correlation", "true surfaces",
              [traction, stage], _spearman, "1", detail=_by_stage(traction, stage, "um/mm"))  # fmt: skip
    ill = [f for f in found if f["planted_um"] and f["fold_inside_um"]]
    inside, planted = (np.array([f[k] for f in ill]) for k in ("fold_inside_um", "planted_um"))
    table.add("fold_planted_rho", "Fold index under the membrane against planted wrinkle: rank correlation",
              "true surfaces", [inside, planted], _spearman, "1")  # fmt: skip
    table.add("fold_planted_ratio", "Fold index under the membrane / planted wrinkle: median", "true surfaces",
              [inside / planted if len(ill) else inside], lambda r: np.median(r, -1), "1")  # fmt: skip


def _by_stage(values: np.ndarray, stage: np.ndarray, unit: str) -> str:
    medians = [f"{np.median(values[stage == s]):.2f}" for s in range(STAGES) if (stage == s).any()]
    return f"median by stage {' / '.join(medians)} {unit}"


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis, ties averaged."""
    a, b = (rankdata(v, axis=-1) for v in (a, b))
    a, b = (v - v.mean(-1, keepdims=True) for v in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def _measurements(eye: Eye, volume: Volume, surfaces: list[np.ndarray]) -> dict[str, Any]:
    """What is measured of one eye beside its truth."""
    grid = grid_of(volume)
    maps = thickness_maps(volume, surfaces, grid)
    fovea = find_fovea(maps, grid, volume, surfaces)
    crossings = crossing_difference_um(volume, surfaces)
    return {
        "stage": eye.stage,
        "truth": _numbers(eye.thickness_um, _EYE_GRID, eye.fovea, eye.laterality),
        "measured": _numbers(maps.total, grid, fovea, eye.laterality),
        "fovea_mm": float(np.hypot(fovea.x_mm - eye.fovea.x_mm, fovea.y_mm - eye.fovea.y_mm)),
        "confident": fovea.confident,
        "crossing_sd_um": crossings.sd_um,
        "crossings": crossings.n,
    }


def _numbers(total_um: np.ndarray, grid: Grid, fovea, laterality: str) -> dict[str, Any]:
    found = sectors(total_um, grid, fovea, laterality)
    ring = {r: np.array([s.mean for name, s in found.items() if name.startswith(r)]) for r in ("inner", "outer")}
    point = centre_point(total_um, grid, fovea).mean
    return {"csf": found["CSF"].mean, "centre_point": point, **ring, "volume": volume_mm3(found).mean}


def _from_truth(job: tuple) -> dict[str, Any]:
    eye = make_eye(*job)
    volume, surfaces, presence = true_volume(eye)
    shape = measure_shape(volume, surfaces, eye.fovea, presence)
    return _measurements(eye, volume, surfaces) | {
        "fold_um": shape.fold_um["all"],
        "fold_inside_um": shape.fold_um["inside"],
        "traction_um_per_mm": shape.traction_um_per_mm["all"],
        "planted_um": _planted_um(eye, volume, presence),
    }


def _from_pictures(eye: Eye, volume: Volume, surfaces: list[np.ndarray]) -> dict[str, Any]:
    shape = measure_shape(volume, surfaces, eye.fovea)
    return _measurements(eye, volume, surfaces) | {"fold_um": shape.fold_um["all"]}


def _planted_um(eye: Eye, volume: Volume, presence: list[np.ndarray]) -> float:
    """RMS of the phantom's wrinkle under the membrane, in the fold band and along the same lines; 0 without one."""
    total, count = 0.0, 0
    for scan, under in zip(volume.scans, presence, strict=True):
        x, y = scan.path_mm()
        r = np.hypot(x - eye.fovea.x_mm, y - eye.fovea.y_mm)
        use = (under > 0.5) & (r >= RING_MM[0]) & (r <= RING_MM[1])
        planted = band_um(sample(eye.erm.wrinkle_um[None], x, y)[0], scan.length_mm / scan.width)
        total, count = total + np.square(planted[use]).sum(), count + use.sum()
    return float(np.sqrt(total / count)) if count else 0.0


def _rendered(job: tuple) -> tuple[Eye, Volume]:
    eye = make_eye(*job)
    volume, _, _ = true_volume(eye)
    scans = [replace(scan, image=eye.bscan(scan.direction, scan.line).image) for scan in volume.scans]
    return eye, replace(volume, scans=tuple(scans))


def _predict(predictor: Predictor, volume: Volume) -> list[np.ndarray]:
    """Predicted surfaces in the order of the scans (joined by id)."""
    samples = [
        Sample(scan.scan_id, volume.patient_id, {
            "bscan": scan.image, "axial_um": volume.axial_um, "lateral_um": 1000 * scan.length_mm / scan.width,
        })
        for scan in volume.scans
    ]  # fmt: skip
    found = {p.sample_id: np.asarray(p.values["surfaces"], np.float32) for p in predictor(samples)}
    return [found[scan.scan_id] for scan in volume.scans]


def _each(work: Callable, jobs: list[tuple], workers: int | None) -> Iterator:
    """work(job) for every job, in order, over processes; in this process for a handful."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers < 2 or len(jobs) < 8:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(work, jobs, chunksize=1)
