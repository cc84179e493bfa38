"""Area on phantom eyes: error and coverage of the interval with true presence, with a presence head, with boxes.

Eyes of seed 900 000 and up measure; eyes from 800 000 to 899 999 calibrate; networks are trained below 800 000.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from clarion.errors import UsageError
from clarion.evaluators.bootstrap import bootstrap, wilson
from clarion.oct.area import measure_area
from clarion.oct.area_detection import DetectionError, calibrate, calibration_row
from clarion.oct.enface import grid_of
from clarion.oct.phantom.boxes import draw_boxes
from clarion.oct.phantom.eye import Eye, make_eye
from clarion.oct.phantom.geometry import DIRECTIONS, SPECTRALIS_25, Geometry
from clarion.oct.phantom.membrane import area_mm2
from clarion.oct.presence.boxes import presence_from_boxes
from clarion.oct.projection import boxes_presence, project, project_boxes
from clarion.oct.quantify import Model, detect
from clarion.oct.volume import Scan, Volume
from clarion.samples import Sample

FIRST_TEST_SEED = 900_000
FIRST_CALIBRATION_SEED = 800_000
HEALTHY_SHARE = 0.25  # eyes without membrane, on top of the eyes with one
METHODS = {
    "fused": "H + V fused, integral of the map (this system)",
    "mask": "H + V fused, pixels of the mask",
    "H": "horizontal lines only",
    "V": "vertical lines only",
    "nearest": "nearest-line painting, both directions overlaid",
    "boxes": "annotator's boxes, nearest-line painting (published method)",
}


@dataclass(frozen=True)
class Case:
    """One phantom eye with its true area in the union of the rasters and in each raster, mm2."""

    volume: Volume
    presence: list[np.ndarray]  # true, bool [width] a scan
    boxes: list[np.ndarray]  # an annotator's, [n, 4] a scan
    stage: int
    area_mm2: float
    raster_mm2: dict[str, float]


def draw_case(seed: int, stage: int | None = None, render: bool = False, geometry: Geometry = SPECTRALIS_25) -> Case:
    """The eye of `seed`. Without `render` its B-scans are blank (and it takes 0.2 s instead of some seconds)."""
    eye = make_eye(seed, stage, geometry)
    blank = np.broadcast_to(np.uint8(0), (geometry.depth, geometry.width))
    scans, presence, boxes = [], [], []
    half = geometry.extent_mm / 2
    for direction in DIRECTIONS:
        for line in range(geometry.lines):
            at = geometry.line_position_mm(line)
            ends = ((-half, at), (half, at)) if direction == "H" else ((at, half), (at, -half))
            if render:
                cut = eye.bscan(direction, line)
                image, ilm, drawn = cut.image, cut.surfaces["ILM"], cut.boxes
            else:
                # The same random stream as Eye.bscan, so that the line lies where it does in the rendered study.
                cut = eye.section(eye.line_rng(direction, line), direction, line)
                image, ilm = blank, cut.surfaces[0].astype(np.float32)
                drawn = draw_boxes(cut.presence, cut.membrane, cut.surfaces, geometry.depth, geometry.axial_um,
                                   geometry.lateral_um)  # fmt: skip
            scans.append(Scan(f"{direction}{line:02d}", image, direction, line, *ends, surfaces={"ILM": ilm}))
            presence.append(cut.presence)
            boxes.append(drawn)
    volume = Volume(tuple(scans), geometry.axial_um, eye.laterality, eye.eye_id, eye.eye_id, "Heidelberg Spectralis",
                    "phantom", "phantom")  # fmt: skip
    return Case(volume, presence, boxes, eye.stage, *true_areas(eye))


def true_areas(eye: Eye) -> tuple[float, dict[str, float]]:
    """(area in the union of the two rasters, {direction: area in its raster}), mm2."""
    raster = {d: eye.erm_area_scanned_mm2(d) for d in DIRECTIONS}
    inner = min(eye.geometry.extent_mm, eye.geometry.lines * eye.geometry.line_spacing_um / 1000) / 2
    return sum(raster.values()) - area_mm2(eye.erm.level, inner, inner), raster


def predicted_presence(volume: Volume, predictors: Mapping[str, Callable]) -> list[np.ndarray]:
    """Presence of every scan by predictors["presence"]; the ILM by predictors["layers"] or as the volume has it."""
    samples = [
        Sample(scan.scan_id, volume.patient_id, {
            "bscan": scan.image, "axial_um": volume.axial_um, "lateral_um": 1000 * scan.length_mm / scan.width,
        })
        for scan in volume.scans
    ]  # fmt: skip
    if "layers" in predictors:
        ilm = {p.sample_id: p.values["surfaces"][0] for p in predictors["layers"](samples)}
    else:
        ilm = {scan.scan_id: scan.surfaces["ILM"] for scan in volume.scans}
    samples = [replace(s, inputs={**s.inputs, "ilm": np.asarray(ilm[s.sample_id], np.float32)}) for s in samples]
    found = {p.sample_id: p.values["presence"] for p in predictors["presence"](samples)}
    return [np.asarray(found[scan.scan_id], np.float32) for scan in volume.scans]


def source_presence(case: Case, source: str, predictors: Mapping[str, Callable] | None = None) -> list[np.ndarray]:
    """Presence of a case by "truth", "head" (predictors "presence" and perhaps "layers"), or "boxes".

    predictors["boxes"](volume) -> [n, 5] boxes with scores a scan; without it the annotator's boxes stand in.
    UsageError on others.
    """
    predictors = predictors or {}
    if source == "truth":
        return [p.astype(np.float32) for p in case.presence]
    if source == "boxes" and "boxes" in predictors:
        found = predictors["boxes"](case.volume)
        return [presence_from_boxes(b, scan.width) for b, scan in zip(found, case.volume.scans, strict=True)]
    if source == "boxes":
        return boxes_presence(case.volume, case.boxes)
    if source == "head" and "presence" in predictors:
        return predicted_presence(case.volume, predictors)
    raise UsageError(
        f'Presence source {source!r} is not at hand: use "truth", "boxes", or "head" with predictors["presence"].'
    )


def counting_boxes(volume: Volume, detector: Callable) -> list[np.ndarray]:
    """A detector's boxes as `quantify` takes them: from the operating confidence on all count alike."""
    found = detect(volume, Model(detector, {}))
    return [np.column_stack([b[:, :4], np.ones(len(b))]) for b in found]


def score_case(case: Case, presence: list[np.ndarray], detection: DetectionError | str | None) -> dict:
    """The areas of one eye by every method, with intervals where the method has one."""
    volume, grid = case.volume, grid_of(case.volume)
    projection = project(volume, presence, grid)
    area = measure_area(volume, presence, projection, grid, detection=detection)
    row = {"seed": volume.patient_id, "stage": case.stage, "true": case.area_mm2, "sd": area.sd_mm2,
           "fused": area.value_mm2, "fused_interval": area.interval, "mask": area.map_mm2}  # fmt: skip
    for d in DIRECTIONS:
        part = replace(volume, scans=tuple(volume.scans[k] for k in volume.of(d)))
        own = [presence[k] for k in volume.of(d)]
        # On the study's grid, so that one raster's own area is measured.
        alone = measure_area(part, own, project(part, own, grid), grid, detection=detection)
        row |= {d: alone.value_mm2, f"{d}_true": case.raster_mm2[d], f"{d}_interval": alone.interval}
    painted = [_runs(np.nan_to_num(p) >= 0.5) for p in presence]
    row["nearest"] = float(project_boxes(volume, painted, grid).mask.sum() * grid.pixel_mm2)
    row["boxes"] = float(project_boxes(volume, case.boxes, grid).mask.sum() * grid.pixel_mm2)
    return row


def measure(eyes: int = 200, seed: int = 0, source: str = "truth", predictors: Mapping[str, Callable] | None = None,
            detection: DetectionError | str | None = None, workers: int | None = None,
            layers_predictor: Callable | None = None, presence_predictor: Callable | None = None,
            detector: Callable | None = None) -> dict:  # fmt: skip
    """Area of `eyes` phantom eyes with membrane (stages by prevalence) and a quarter as many without.

    source: see source_presence, whose `predictors` may also be given one by one. detection: what measure_area takes,
    None: the shipped calibration of `source`. Returns the table of the module's contract: rows by method and by stage,
    figures with intervals.
    """
    named = {"layers": layers_predictor, "presence": presence_predictor}
    predictors = {**(predictors or {}), **{name: p for name, p in named.items() if p is not None}}
    if detector is not None:
        predictors["boxes"] = partial(counting_boxes, detector=detector)
    detection = source if detection is None else detection
    rows: list[dict] = []
    if source == "head" or "boxes" in predictors:  # networks stay in this process, drawing goes to the workers
        for case in _cases(eyes, seed, FIRST_TEST_SEED, workers, partial(draw_case, render=True)):
            rows.append(score_case(case, source_presence(case, source, predictors), detection))
    else:
        rows = list(_cases(eyes, seed, FIRST_TEST_SEED, workers, partial(_scored, source=source, detection=detection)))
    return _table(rows, source, seed)


def calibration(eyes: int = 200, seed: int = 0, predictors: Mapping[str, Callable] | None = None,
                workers: int | None = None) -> dict:  # fmt: skip
    """What area_calibration.json holds, from `eyes` phantom eyes (and a quarter as many healthy) never tested on.

    Sources: "boxes" always (the annotator's, unless predictors bring a detector), "head" with predictors["presence"].
    """
    predictors = predictors or {}
    sources = ["boxes", *(["head"] if "presence" in predictors else [])]
    render = bool(predictors)
    rows: dict[str, list[dict]] = {name: [] for name in sources}
    for case in _cases(eyes, seed, FIRST_CALIBRATION_SEED, workers, partial(draw_case, render=render)):
        for name in sources:
            found = source_presence(case, name, predictors)
            rows[name].append(calibration_row(case.volume, case.presence, found))
    return calibrate(rows)


def _scored(seed: int, stage: int | None, source: str, detection: DetectionError | str | None) -> dict:
    case = draw_case(seed, stage)
    return score_case(case, source_presence(case, source), detection)


def _cases(eyes: int, seed: int, first: int, workers: int | None, work: Callable) -> Iterator:
    """work(seed, stage) of each eye, in order, in processes of one thread each."""
    if eyes < 1 or seed < 0:
        raise UsageError(f"Area is measured on 1 eye or more from seed 0 on, not on {eyes} from {seed}.")
    jobs = _jobs(eyes, first + seed)
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers < 2:
        yield from (work(*job) for job in jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_one_thread) as pool:
        yield from pool.imap(partial(_apply, work), jobs)


def _jobs(eyes: int, first: int) -> list[tuple[int, int | None]]:
    """(seed, stage) a job: stages 1-4 by prevalence as each seed draws them, then stage 0."""
    rng = np.random.default_rng([0xA4EA, first])
    stages = rng.choice([1, 2, 3, 4], size=eyes, p=(0.221, 0.454, 0.263, 0.062))
    return [(first + k, int(s)) for k, s in enumerate([*stages, *[0] * round(eyes * HEALTHY_SHARE)])]


def _apply(work: Callable, job: tuple[int, int | None]):
    return work(*job)


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def _table(rows: list[dict], source: str, seed: int) -> dict:
    sick, healthy = [r for r in rows if r["stage"]], [r for r in rows if not r["stage"]]
    found = {name: _figures(sick, name, seed) for name in METHODS}
    table = [_row(METHODS[name], figures, len(sick)) for name, figures in found.items()]
    for stage in (1, 2, 3, 4):
        group = [r for r in sick if r["stage"] == stage]
        if group:
            table.append(_row(f"this system, stage {stage}", _figures(group, "fused", seed), len(group)))
    figures = {
        "median_absolute_error_percent": found["fused"]["error"],
        "bias_percent": found["fused"]["bias"],
        "coverage_percent": found["fused"]["coverage"],
        "median_half_width_percent": found["fused"]["width"],
    }
    figures["median_absolute_error_percent"]["target"] = "<= 5 (true presence)"
    figures["coverage_percent"]["target"] = ">= 90"
    figures["median_half_width_percent"]["target"] = "<= 15"
    notes = [
        f"Presence: {source}. Errors are relative to the true area in what was scanned (H + V: the union of both "
        "rasters); brackets hold 95 % intervals (bootstrap over eyes; Wilson for coverage).",
        "Median standard errors, mm2: " + ", ".join(
            f"{name} {np.median([r['sd'][name] for r in sick]):.3f}" for name in ("raster", "detection", "motion")
        ) + f"; median true area {np.median([r['true'] for r in sick]):.1f}.",
    ]  # fmt: skip
    if healthy:
        false = np.array([r["fused"] for r in healthy])
        zero = sum(r["fused_interval"][0] <= 0 for r in healthy)
        low, high = wilson(zero, len(healthy)).low, wilson(zero, len(healthy)).high
        figures["healthy_false_area_mm2"] = {
            "value": float(np.median(false)), "low": float(np.quantile(false, 0.025)),
            "high": float(np.quantile(false, 0.975)), "n": len(healthy), "target": "",
        }  # fmt: skip
        notes.append(
            f"{len(healthy)} eyes without membrane: area found, median {np.median(false):.3f}, 95 % below "
            f"{np.quantile(false, 0.95):.3f} mm2; the interval reaches 0 in {zero} (Wilson {100 * low:.0f}-"
            f"{100 * high:.0f} %)."
        )
    return {
        "part": "area", "title": f"Membrane area, presence from {source}",
        "columns": ["Method", "Eyes", "Median |error| %", "Bias (median) %", "95 % interval covers %",
                    "Median half-width %"],
        "rows": table, "notes": notes, "n": len(rows), "data": "phantom", "figures": figures,
    }  # fmt: skip


def _figures(rows: list[dict], name: str, seed: int) -> dict[str, dict | None]:
    """Median |error|, median error, coverage and median half-width of one method, percent."""
    true = np.array([r["true" if name not in DIRECTIONS else f"{name}_true"] for r in rows])
    error = 100 * (np.array([r[name] for r in rows]) / true - 1)
    figures = {"error": _median(np.abs(error), seed), "bias": _median(error, seed), "coverage": None, "width": None}
    if f"{name}_interval" in rows[0]:
        low, high = np.array([r[f"{name}_interval"][:2] for r in rows]).T
        covered = wilson(int(((low <= true) & (true <= high)).sum()), len(rows))
        figures["coverage"] = _entry(*(100 * v for v in (covered.value, covered.low, covered.high)), len(rows))
        value = np.maximum([r[name] for r in rows], 1e-9)
        figures["width"] = _median(100 * (high - low) / 2 / value, seed)
    return figures


def _median(values: np.ndarray, seed: int) -> dict:
    def stat(weights: np.ndarray) -> np.ndarray:
        order = np.argsort(values)
        share = np.cumsum(weights[:, order], axis=1) / weights.sum(1, keepdims=True)
        below, above = (values[order][np.argmax(share >= at, axis=1)] for at in (0.5 - 1e-9, 0.5 + 1e-9))
        return (below + above) / 2

    found = bootstrap(stat, list(range(len(values))), seed=seed)
    return _entry(found.value, found.low, found.high, len(values))


def _entry(value: float, low: float | None, high: float | None, n: int) -> dict:
    return {"value": value, "low": low, "high": high, "n": n, "target": ""}


def _row(title: str, figures: dict[str, dict | None], n: int) -> list:
    cells = [figures[name] for name in ("error", "bias", "coverage", "width")]
    return [title, n, *("-" if c is None else _cell(c) for c in cells)]


def _cell(figure: dict) -> str:
    if figure["low"] is None:
        return f"{figure['value']:.2f}"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def _runs(present: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] that hold exactly the A-scans which are present."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], present.astype(np.int8), [0]]))).reshape(-1, 2)
    return np.stack([edges[:, 0], 0 * edges[:, 0], edges[:, 1], 0 * edges[:, 1] + 1], 1).astype(float)
