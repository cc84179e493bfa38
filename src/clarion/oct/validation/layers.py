"""Validation of the retinal surfaces: error by surface and stage on eyes never trained on, beside what is possible.

`measure` runs the shipped (or a given) layer network over phantom eyes and, where CLARION_REAL_DATA points to the
public data, over one real line scan that carries the vendor's ILM and BM.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from clarion.errors import DataError, UsageError
from clarion.evaluators.bootstrap import Interval, bootstrap
from clarion.oct.layers.bounds import SMOOTH_MM, bounds_px, lateral_gain
from clarion.oct.layers.phantom_folder import layer_lines, visible_surfaces
from clarion.oct.phantom import SPECTRALIS_25, make_eye
from clarion.oct.phantom.statistics import find_surface
from clarion.oct.volume import SURFACES
from clarion.samples import Sample

log = logging.getLogger(__name__)

FIRST_SEED = 900_000  # seeds below 800,000 belong to training
STAGES = (0, 1, 2, 3, 4)
TARGET_PX = tuple(1.0 if name in ("ILM", "BM") else 2.0 for name in SURFACES)
TARGET_LINE_UM = 10.0
LINE_SCAN = "oct/Linescan_1.vol"
CURVES = (*SURFACES, "total thickness")
BOUND_COLUMNS = 4  # A-scans of one B-scan whose bound is computed


@dataclass(frozen=True)
class EyeErrors:
    """Sums over the A-scans of one eye, px; [9]: the surfaces and the total thickness (BM - ILM)."""

    seed: int
    stage: int
    scans: int
    known: np.ndarray  # A-scans with a true value
    count: np.ndarray  # of those, with an answer
    absolute: np.ndarray
    signed: np.ndarray
    square: np.ndarray
    standard: np.ndarray  # sum of (error / stated SD)^2, surfaces only [8]
    ilm_by_threshold: float  # sum of absolute errors of a threshold's ILM, the baseline
    bound_square: np.ndarray  # [8] sum of squared Cramer-Rao bounds of single A-scans
    bound_count: np.ndarray  # [8]


def measure(
    eyes: int = 50, seed: int = 0, bscans_per_eye: int = 4, checkpoint: str | None = None, workers: int | None = None,
    n_resamples: int = 1000,
) -> dict:  # fmt: skip
    """Errors of the layer network on `eyes` phantom eyes of seeds 900,000 + seed on; stages 0-4 take turns.

    checkpoint: a folder with model.safetensors and model.json; None: the shipped one. Returns the dict that
    `clarion measure` keeps (part, title, columns, rows, notes, n, data, figures).
    """
    if eyes < len(STAGES):
        raise UsageError(f"eyes={eyes}: at least {len(STAGES)} are needed, one of each stage.")
    found = list(_run([FIRST_SEED + seed + k for k in range(eyes)], bscans_per_eye, checkpoint, workers))
    rows, figures = [], {}
    for stage in (*STAGES, None):
        part = [eye for eye in found if stage is None or eye.stage == stage]
        value = _intervals(part, n_resamples, seed)
        for k, name in enumerate(CURVES):
            rows.append(_row(part, stage, k, name, value))
            key = f"mae_um_{name}" + ("" if stage is None else f"_stage{stage}")
            target = "" if name not in SURFACES else f"<= {TARGET_PX[k]:g} px ({TARGET_PX[k] * 3.872:.1f} um)"
            figures[key] = _figure(value[f"mae_{k}"], 3.872, part, target)
    notes = [
        "MAE over A-scans in um and rows of 3.872 um; intervals: 95 % percentile bootstrap over eyes.",
        "CRB: Cramer-Rao bound of an unbiased estimate from one A-scan with known grey levels, and from the A-scans "
        f"within {SMOOTH_MM} mm, root mean square over A-scans whose layers are at least two rows thick "
        "(clarion.oct.layers.bounds); RMSE to be read beside it. The network also uses the shape of retinas, and the "
        "phantom's brightness drifts, so neither order is forced.",
        "SD ratio: root mean square of error / stated SD; 1 is calibrated.",
        _threshold_note(found),
    ]
    line = line_scan(checkpoint)
    if line is None:
        notes.append("Real line scan: not measured, CLARION_REAL_DATA is not set (or lacks it).")
    else:
        notes.append(
            f"Real line scan (public data, n = 1 scan, {line['n']} A-scans with vendor ILM and BM): mean absolute "
            f"error of total thickness {line['mae_um']:.1f} um (bias {line['bias_um']:+.1f}; "
            f"ILM {line['ilm_bias_um']:+.1f}, BM {line['bm_bias_um']:+.1f} um against the vendor; "
            f"{line['measured']:.1%} of these A-scans measured)."
        )
        figures["line_scan_total_um"] = {"value": line["mae_um"], "low": None, "high": None, "n": 1,
                                         "data": "public", "target": f"<= {TARGET_LINE_UM:g} um"}  # fmt: skip
    return {
        "part": "layers",
        "title": "Retinal surfaces against the phantom's truth",
        "columns": ["stage", "surface", "n eyes", "MAE um", "95 %", "MAE px", "target px", "bias um", "RMSE px",
                    "CRB 1 A-scan px", f"CRB {SMOOTH_MM} mm px", "measured", "SD ratio"],
        "rows": rows,
        "notes": notes,
        "n": len(found),
        "data": "phantom",
        "figures": figures,
    }  # fmt: skip


def line_scan(checkpoint: str | None = None) -> dict[str, float] | None:
    """Total thickness of the public Spectralis line scan against the vendor's; None where it is not there."""
    root = os.environ.get("CLARION_REAL_DATA")
    if not root or not (path := Path(root) / LINE_SCAN).is_file():
        return None
    from clarion.oct.layers.shipped import load_layers
    from clarion.oct.readers import read_volume

    volume = read_volume(path, data_kind="public")
    scan = volume.scans[0]
    lateral_um = scan.length_mm * 1000 / scan.width
    inputs = {"bscan": scan.image, "axial_um": volume.axial_um, "lateral_um": lateral_um}
    (answer,) = load_layers(Path(checkpoint) if checkpoint else None)([Sample(scan.scan_id, "public", inputs)])
    found = answer.values["surfaces"]
    if not {"ILM", "BM"} <= set(scan.surfaces):
        raise DataError(f"{LINE_SCAN} carries no vendor ILM and BM.")
    off = (np.stack([found[0], found[-1]]) - np.stack([scan.surfaces["ILM"], scan.surfaces["BM"]])) * volume.axial_um
    known = np.isfinite(scan.surfaces["ILM"]) & np.isfinite(scan.surfaces["BM"])
    use = known & np.isfinite(off).all(0)
    thickness = (off[1] - off[0])[use]
    return {
        "n": int(known.sum()),
        "measured": float(use.sum() / known.sum()),
        "mae_um": float(np.abs(thickness).mean()),
        "bias_um": float(thickness.mean()),
        "ilm_bias_um": float(off[0][use].mean()),
        "bm_bias_um": float(off[1][use].mean()),
    }


def _run(seeds: list[int], bscans: int, checkpoint: str | None, workers: int | None) -> Iterator[EyeErrors]:
    workers = min(workers or os.cpu_count() or 1, len(seeds), os.cpu_count() or 1)
    job = partial(_measure_eye, bscans=bscans, checkpoint=checkpoint)
    if workers <= 1:
        yield from map(job, seeds)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(job, seeds)


def _measure_eye(seed: int, bscans: int, checkpoint: str | None) -> EyeErrors:
    import cv2
    import torch

    from clarion.oct.layers.shipped import load_layers

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    eye = make_eye(seed, seed % len(STAGES), SPECTRALIS_25)
    scans = [eye.bscan(direction, line) for direction, line in layer_lines(eye, bscans)]
    samples = [Sample(str(k), eye.eye_id, {"bscan": scan.image, "axial_um": scan.spacing[0],
                                           "lateral_um": scan.spacing[1]}) for k, scan in enumerate(scans)]  # fmt: skip
    true = [visible_surfaces(scan).astype(np.float64) for scan in scans]
    sums = {name: np.zeros(len(CURVES)) for name in ("known", "count", "absolute", "signed", "square")}
    standard, threshold = np.zeros(len(SURFACES)), 0.0
    bound_square, bound_count = np.zeros(len(SURFACES)), np.zeros(len(SURFACES))
    predictor = load_layers(Path(checkpoint) if checkpoint else None)
    for scan, truth, prediction in zip(scans, true, predictor(samples), strict=True):
        error = prediction.values["surfaces"] - truth
        error = np.concatenate([error, (error[-1] - error[0])[None]])
        use = np.isfinite(error)
        off = np.where(use, error, 0)
        sums["known"] += np.append(np.isfinite(truth), np.isfinite(truth[[0, -1]]).all(0)[None], axis=0).sum(1)
        for name, value in (("count", use), ("absolute", np.abs(off)), ("signed", off), ("square", off**2)):
            sums[name] += value.sum(1)
        standard += ((off[:-1] / np.where(use[:-1], prediction.values["sd"], 1)) ** 2).sum(1)
        threshold += float(np.nansum(np.abs(find_surface(scan.image) - truth[0])))
        for column in np.linspace(0, truth.shape[1] - 1, BOUND_COLUMNS + 2).astype(int)[1:-1]:
            bound = bounds_px(truth[:, column], scan.spacing[0])
            bound_square += np.nan_to_num(bound) ** 2
            bound_count += np.isfinite(bound)
    return EyeErrors(seed, eye.stage, len(scans), **sums, standard=standard, ilm_by_threshold=threshold,
                     bound_square=bound_square, bound_count=bound_count)  # fmt: skip


def _intervals(eyes: list[EyeErrors], n_resamples: int, seed: int) -> dict[str, Interval]:
    """mae_k and bias_k in px of the nine curves."""
    count, absolute, signed = (np.stack([getattr(eye, n) for eye in eyes]) for n in ("count", "absolute", "signed"))

    def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = np.maximum(weights @ count, 1)
        mae, bias = (weights @ absolute / total).T, (weights @ signed / total).T
        return {f"mae_{k}": v for k, v in enumerate(mae)} | {f"bias_{k}": v for k, v in enumerate(bias)}

    # eyes come in the order of their seeds, so that the codes of `bootstrap` are their positions
    return bootstrap(stat, [f"{eye.seed:09d}" for eye in eyes], n_resamples, seed, per_group=True)


def _row(eyes: list[EyeErrors], stage: int | None, k: int, name: str, value: dict[str, Interval]) -> list:
    um = SPECTRALIS_25.axial_um
    mae, bias = value[f"mae_{k}"], value[f"bias_{k}"]
    count, known = (sum(getattr(eye, n)[k] for eye in eyes) for n in ("count", "known"))
    rmse = float(np.sqrt(sum(eye.square[k] for eye in eyes) / max(count, 1)))
    interval = "" if mae.low is None else f"{mae.low * um:.2f}-{mae.high * um:.2f}"
    extra = ["", "", "", ""]
    if k < len(SURFACES):
        seen = sum(eye.bound_count[k] for eye in eyes)
        single = float(np.sqrt(sum(eye.bound_square[k] for eye in eyes) / seen)) if seen else float("nan")
        near = lateral_gain(round(SMOOTH_MM * 1000 / SPECTRALIS_25.lateral_um)) * single
        ratio = float(np.sqrt(sum(eye.standard[k] for eye in eyes) / max(count, 1)))
        extra = [f"{TARGET_PX[k]:g}", f"{single:.3f}", f"{near:.3f}", f"{ratio:.2f}"]
    return ["all" if stage is None else str(stage), name, str(len(eyes)), f"{mae.value * um:.2f}", interval,
            f"{mae.value:.3f}", extra[0], f"{bias.value * um:+.2f}", f"{rmse:.3f}", extra[1], extra[2],
            f"{count / max(known, 1):.4f}", extra[3]]  # fmt: skip


def _figure(interval: Interval, scale: float, eyes: list[EyeErrors], target: str) -> dict:
    low, high = (None if bound is None else bound * scale for bound in (interval.low, interval.high))
    return {"value": interval.value * scale, "low": low, "high": high, "n": len(eyes), "target": target}


def _threshold_note(eyes: list[EyeErrors]) -> str:
    known = sum(eye.known[0] for eye in eyes)
    error = sum(eye.ilm_by_threshold for eye in eyes) / max(known, 1) * SPECTRALIS_25.axial_um
    return f"Baseline: an ILM by a brightness threshold (first sustained bright band) has an MAE of {error:.1f} um."
