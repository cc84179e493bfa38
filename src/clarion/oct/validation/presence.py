"""Validation of presence per A-scan: the network, the network on a network's ILM, detector boxes, and true boxes.

`measure` renders B-scans of phantom eyes that no network was trained on and scores each source against the truth, per
stage and per eye: an area is a sum over all scans, so an eye's length of membrane matters as much as the ranking.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from clarion.errors import UsageError
from clarion.evaluators.bootstrap import Interval
from clarion.evaluators.scanline import NEAR, WITH_MEMBRANE, Tally
from clarion.oct.layers.phantom_folder import visible_surfaces
from clarion.oct.phantom import make_eye
from clarion.oct.presence.boxes import presence_from_boxes
from clarion.oct.presence.phantom_folder import boxed, line_brightness, lines_anywhere
from clarion.oct.presence.strip import cut_strip
from clarion.samples import Prediction, Sample

FIRST_SEED = 900_000  # seeds below 800,000 belong to training
THRESHOLD = 0.5
OPERATING_CONFIDENCE = 0.25  # from where `clarion quantify` lets a box count, unless a run found a better point
TITLES = {
    "head": "network, true ILM",
    "head_layers": "network, ILM of the layer network",
    "boxes": "detector's boxes",
    "true_boxes": "true boxes",
    "line": "brightness of the ILM line",
}
COLUMNS = ("auc", "dice", "ece", "length_bias", "length_error", "length_within_10", "false_length")
Predictor = Callable[[Iterable[Sample]], Iterator[Prediction]]


@dataclass(frozen=True)
class EyeLines:
    """What each source says of one eye's scans: lists of float [width] per source, and the truth (NaN: not seen)."""

    seed: int
    stage: int
    hyaloid: bool  # a detached posterior hyaloid, the membrane's look-alike, is drawn
    truth: list[np.ndarray]
    said: dict[str, list[np.ndarray]]


def measure(
    eyes: int = 100, seed: int = 0, bscans_per_eye: int = 50, layers_predictor: Predictor | str | None = None,
    detector: Predictor | None = None, checkpoint: str | None = None, workers: int | None = None,
    n_resamples: int = 1000,
) -> dict:  # fmt: skip
    """Presence on `eyes` phantom eyes of seeds 900,000 + seed on, stages in their natural shares.

    layers_predictor: of surfaces (their first is the ILM), or "shipped"; detector: of boxes; either adds its rows. The
    same five tables of scores for every source. checkpoint: a presence network's folder, None: the shipped one. A
    predictor that is handed in runs in this process. Returns what `clarion measure` keeps.
    """
    if eyes < 2:
        raise UsageError(f"eyes={eyes}: two or more are needed for an interval.")
    seeds = [FIRST_SEED + seed + k for k in range(eyes)]
    found = list(_run(seeds, bscans_per_eye, layers_predictor, detector, checkpoint, workers))
    sources = [name for name in TITLES if name in found[0].said]
    rows, figures = [], {}
    for source in sources:
        for stage in (None, 0, 1, 2, 3, 4):
            part = [eye for eye in found if stage is None or eye.stage == stage]
            if not part:
                continue
            value = _scores(part, source, n_resamples, seed)
            rows.append(_row(source, stage, part, value))
            if stage is None:
                for name in COLUMNS:
                    figures[f"{name}_{source}"] = _figure(value[name], len(part), _target(name, source))
    return {
        "part": "presence",
        "title": "ERM presence per A-scan against the phantom's truth",
        "columns": ["source", "stage", "n eyes", "n scans", "AUC", "Dice", "ECE", "length bias %", "|length error| %",
                    f"within {NEAR:.0%} %", "false length %"],
        "rows": rows,
        "notes": [
            f"AUC, Dice (at {THRESHOLD:g}) and ECE over A-scans; intervals: 95 % percentile bootstrap over eyes "
            "(Wilson for the share of eyes).",
            "Length: sum of probabilities over all scans of an eye; bias of all eyes together, median of the relative "
            f"error and share within {NEAR:.0%} over eyes with membrane on at least {WITH_MEMBRANE:.0%} of A-scans; "
            "false length: share of the scanned length called membrane in eyes without any.",
            "True boxes are the best that any detector of boxes can give: gaps up to 1 mm are boxed over and pieces "
            "under 0.6 mm are not boxed. Brightness of the ILM line: no probability, ranking (AUC) alone is meant.",
            _look_alikes(found),
        ],
        "n": len(found),
        "data": "phantom",
        "figures": figures,
    }  # fmt: skip


def _run(seeds, bscans, layers, detector, checkpoint, workers) -> Iterator[EyeLines]:
    own = [p for p in (layers, detector) if callable(p)]
    job = partial(_measure_eye, bscans=bscans, layers=layers, detector=detector, checkpoint=checkpoint)
    workers = 1 if own else min(workers or os.cpu_count() or 1, len(seeds), os.cpu_count() or 1)
    if workers <= 1:
        yield from map(job, seeds)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        yield from pool.map(job, seeds)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _measure_eye(
    seed: int, bscans: int, layers: Predictor | str | None, detector: Predictor | None, checkpoint: str | None
) -> EyeLines:
    from clarion.oct.presence.shipped import load_presence

    if layers == "shipped":
        from clarion.oct.layers.shipped import load_layers

        layers = load_layers()
    eye = make_eye(seed)
    scans = [eye.bscan(direction, line) for direction, line in lines_anywhere(eye, bscans)]
    inputs = [{"bscan": s.image, "axial_um": s.spacing[0], "lateral_um": s.spacing[1]} for s in scans]
    ilm = [visible_surfaces(scan)[0] for scan in scans]
    seen = [np.isfinite(rows) for rows in ilm]
    head = load_presence(Path(checkpoint) if checkpoint else None)
    said = {
        "head": _ask(head, [i | {"ilm": rows} for i, rows in zip(inputs, ilm, strict=True)], "presence"),
        "true_boxes": [boxed(scan).astype(np.float32) for scan in scans],
        "line": [_line(scan.image, rows, scan.spacing) for scan, rows in zip(scans, ilm, strict=True)],
    }
    if layers is not None:
        surfaces = _ask(layers, inputs, "surfaces")
        said["head_layers"] = _ask(
            head, [i | {"ilm": np.asarray(s)[0]} for i, s in zip(inputs, surfaces, strict=True)], "presence"
        )
    if detector is not None:
        samples = [Sample(str(k), eye.eye_id, {"image": scan.image}) for k, scan in enumerate(scans)]
        said["boxes"] = [_of_detector(p, scan.image.shape[1]) for p, scan in zip(detector(samples), scans, strict=True)]
    truth = [np.where(known, scan.presence, np.nan) for known, scan in zip(seen, scans, strict=True)]
    return EyeLines(seed, eye.stage, eye.hyaloid_um is not None, truth, said)


def _ask(predictor: Predictor, inputs: list[dict], name: str) -> list[np.ndarray]:
    samples = [Sample(str(k), "eye", values) for k, values in enumerate(inputs)]
    return [np.asarray(prediction.values[name], np.float32) for prediction in predictor(samples)]


def _of_detector(prediction: Prediction, width: int) -> np.ndarray:
    boxes = np.asarray(prediction.values["boxes"], np.float64).reshape(-1, 4)
    # A score is no probability: the operating point is moved to THRESHOLD, which leaves the ranking as it is.
    scores = np.interp(prediction.values["scores"], [0, OPERATING_CONFIDENCE, 1], [0, THRESHOLD, 1]).reshape(-1, 1)
    return presence_from_boxes(np.hstack([boxes, scores]), width)


def _line(image: np.ndarray, ilm: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    strip, _ = cut_strip(image, ilm, *spacing)
    return np.clip(line_brightness(strip, ilm.size).astype(np.float32) / 2, 0, 1)


def _scores(eyes: list[EyeLines], source: str, n_resamples: int, seed: int) -> dict[str, Interval]:
    said = [scan for eye in eyes for scan in eye.said[source]]
    truth = [scan for eye in eyes for scan in eye.truth]
    number = np.repeat(np.arange(len(eyes)), [len(eye.truth) for eye in eyes])
    names = np.array([f"{eyes[k].seed:09d}" for k in number])
    tally = Tally.of(said, truth, names, number)
    return tally.scores(THRESHOLD, n_resamples, seed)


def _look_alikes(eyes: list[EyeLines]) -> str:
    """False length of the network in healthy eyes with and without a posterior hyaloid."""
    shares = {True: [], False: []}
    for eye in eyes:
        if eye.stage == 0:
            shares[eye.hyaloid].append(float(np.nanmean(np.concatenate(eye.said["head"]))))
    said = [f"{np.mean(s):.2%} (worst eye {max(s):.2%}, n = {len(s)})" if s else "no such eye" for s in shares.values()]
    return f"Length that the network calls membrane in healthy eyes: with a hyaloid {said[0]}, without {said[1]}."


def _row(source: str, stage: int | None, eyes: list[EyeLines], value: dict[str, Interval]) -> list[str]:
    shown = COLUMNS[:1] if source == "line" else COLUMNS
    cells = [_cell(value[name], 100 if name.startswith(("length", "false")) else 1) if name in shown else ""
             for name in COLUMNS]  # fmt: skip
    scans = sum(len(eye.truth) for eye in eyes)
    return [TITLES[source], "all" if stage is None else str(stage), str(len(eyes)), str(scans), *cells]


def _cell(interval: Interval, scale: float) -> str:
    if interval.value is None:
        return "-"
    digits = 1 if scale == 100 else 3
    shown = f"{interval.value * scale:.{digits}f}"
    if interval.low is None:
        return shown
    return f"{shown} [{interval.low * scale:.{digits}f}, {interval.high * scale:.{digits}f}]"


def _figure(interval: Interval, n: int, target: str) -> dict:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": n, "target": target}


def _target(name: str, source: str) -> str:
    if not source.startswith("head"):
        return ""
    return {"length_error": f"<= {NEAR:.0%}", "length_within_10": "most eyes"}.get(name, "")
