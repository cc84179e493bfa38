"""Validation of the stage on phantom eyes: agreement with the stage each eye was drawn as.

The phantom draws its eyes from the same published means that the rules' limits come from, so this says whether rules
and measurement hold together under anatomical variation, not how well the scheme serves in the clinic.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from clarion.errors import UsageError
from clarion.evaluators.bootstrap import Interval, bootstrap, wilson
from clarion.oct.enface import grid_of
from clarion.oct.fovea import find_fovea
from clarion.oct.phantom import Eye, Geometry, make_eye
from clarion.oct.phantom.geometry import SPECTRALIS_25
from clarion.oct.staging import Stage, central_erm_share, grade
from clarion.oct.thickness import thickness_maps
from clarion.oct.volume import Volume
from clarion.samples import Prediction, Sample

from .eyes import true_volume

FIRST_SEED = 900_000
STAGES = 5
Predictor = Callable[[Iterable[Sample]], Iterator[Prediction]]


def measure(
    eyes: int = 200,
    seed: int = 0,
    layers_predictor: Predictor | None = None,
    workers: int | None = None,
    geometry: Geometry = SPECTRALIS_25,
) -> dict[str, Any]:
    """Quadratic-weighted kappa, confusion and exact agreement over `eyes` eyes, as many of each stage.

    Three ways: true surfaces and true fovea, true surfaces and the fovea found on them, and, with a layers predictor,
    predicted surfaces on rendered B-scans (true fovea and presence). UsageError for fewer than 5 eyes.
    """
    if eyes < STAGES:
        raise UsageError(f"Stages are validated on {STAGES} eyes or more, not {eyes}.")
    seeds = [FIRST_SEED + seed * 10_000 + k for k in range(eyes)]
    ways = {"true surfaces, true fovea": [], "true surfaces, found fovea": []}
    for pair in spread(partial(_true_stages, geometry=geometry), seeds, workers):
        for way, found in zip(ways, pair):
            ways[way].append(found)
    if layers_predictor is not None:
        ways["predicted surfaces, true fovea"] = [_predicted_stage(s, layers_predictor, geometry) for s in seeds]
    truth = np.array([s % STAGES for s in seeds])
    figures, rows, notes = {}, [], []
    for way, found in ways.items():
        short = way.replace(",", "").replace(" ", "_")
        part = agreement(truth, [f.value for f in found])
        n = part["n"]
        for name, target in (("kappa", ">= 0.80 (Landis and Koch)"), ("exact", ""), ("cannot_tell", "")):
            value = part[name]
            figures[f"{name}_{short}"] = {"value": value.value, "low": value.low, "high": value.high,
                                          "n": eyes if name == "cannot_tell" else n, "target": target}  # fmt: skip
        rows.append([way, n, _shown(part["kappa"]), _shown(part["exact"]), _shown(part["cannot_tell"])])
        notes.append(f"{way}: drawn stage (rows 0-4) against measured (0-4, cannot tell): {part['confusion']}.")
    majority = float(np.bincount(truth).max() / eyes)
    rows.append(["baseline: the commonest stage for all", eyes, "0.00", f"{majority:.2f}", "0.00"])
    notes.append("The phantom's foveas are drawn from the published means that the limits were derived from; limits "
                 "were checked on seeds below 900000.")  # fmt: skip
    return {
        "part": "stage",
        "title": "Govetto stage: agreement with the phantom's stage",
        "columns": ["way", "eyes graded", "weighted kappa (95 %)", "exact agreement", "cannot tell"],
        "rows": rows,
        "notes": notes,
        "n": eyes,
        "data": "phantom",
        "figures": figures,
    }


def agreement(truth: np.ndarray, found: list[int | None]) -> dict[str, Any]:
    """Quadratic-weighted kappa (Cohen 1968) and exact agreement with bootstrap and Wilson intervals over eyes; share
    of "cannot tell"; confusion [5][6], its last column "cannot tell"."""
    told = np.array([f is not None for f in found])
    t, p = np.asarray(truth)[told].astype(float), np.array([f for f in found if f is not None], float)
    confusion = np.zeros((STAGES, STAGES + 1), int)
    for drawn, measured in zip(truth, found):
        confusion[drawn, STAGES if measured is None else measured] += 1

    def kappa(weights: np.ndarray) -> np.ndarray:
        share = weights / weights.sum(1, keepdims=True)
        observed = share @ (t - p) ** 2
        expected = share @ t**2 + share @ p**2 - 2 * (share @ t) * (share @ p)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(expected > 0, 1 - observed / expected, np.nan)

    return {
        "kappa": bootstrap(kappa, np.arange(t.size)) if t.size else Interval(None),
        "exact": wilson(float((t == p).sum()), t.size),
        "cannot_tell": wilson(float((~told).sum()), told.size),
        "confusion": confusion.tolist(),
        "n": int(t.size),
    }


def true_fovea(eye: Eye) -> SimpleNamespace:
    """The phantom's fovea as staging and progression read one."""
    return SimpleNamespace(x_mm=eye.fovea.x_mm, y_mm=eye.fovea.y_mm, confident=True, why="")


def spread(work: Callable[[int], Any], seeds: list[int], workers: int | None) -> Iterator[Any]:
    """work(seed) for each seed, in order, over at most as many processes as there are cores, one thread each."""
    workers = min(workers or os.cpu_count() or 1, os.cpu_count() or 1, len(seeds))
    if workers < 2:
        yield from map(work, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_one_thread) as pool:
        yield from pool.imap(work, seeds, chunksize=max(1, min(8, len(seeds) // (2 * workers))))


def _one_thread() -> None:
    import cv2
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    threadpool_limits(1)


def _true_stages(seed: int, geometry: Geometry) -> tuple[Stage, Stage]:
    eye = make_eye(seed, seed % STAGES, geometry)
    volume, surfaces, presence = true_volume(eye)
    grid = grid_of(volume)
    found = find_fovea(thickness_maps(volume, surfaces, grid), grid, volume, surfaces)
    return tuple(grade(volume, surfaces, fovea, presence) for fovea in (true_fovea(eye), found))


def _predicted_stage(seed: int, predictor: Predictor, geometry: Geometry) -> Stage:
    eye = make_eye(seed, seed % STAGES, geometry)
    fovea = true_fovea(eye)
    whole, _, presence = true_volume(eye)
    share = central_erm_share(whole, presence, fovea)
    positions = np.array([geometry.line_position_mm(k) for k in range(geometry.lines)])
    near = {int(np.argmin(np.abs(positions - p))) for p in (eye.fovea.x_mm, eye.fovea.y_mm)}
    volume, _, _ = true_volume(eye, sorted(near), render=True)
    return grade(volume, predicted_surfaces(volume, predictor), fovea, erm_share=share)


def predicted_surfaces(volume: Volume, predictor: Predictor) -> list[np.ndarray]:
    """Rows of each scan by a layers predictor, float32 [8, width], in the order of the scans."""
    found = {p.sample_id: p for p in predictor(samples(volume))}
    return [np.asarray(found[scan.scan_id].values["surfaces"], np.float32) for scan in volume.scans]


def samples(volume: Volume, **extra: list) -> Iterator[Sample]:
    """The inputs of the layers and presence predictors, one sample a scan; extra: further inputs, one list entry a
    scan ("ilm" for presence)."""
    for k, scan in enumerate(volume.scans):
        lateral = 1000 * scan.length_mm / scan.width
        inputs = {"bscan": scan.image, "axial_um": volume.axial_um, "lateral_um": lateral}
        yield Sample(scan.scan_id, volume.patient_id, inputs | {name: rows[k] for name, rows in extra.items()})


def _shown(interval: Interval) -> str:
    if interval.value is None:
        return "-"
    if interval.low is None:
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} ({interval.low:.2f}-{interval.high:.2f})"
