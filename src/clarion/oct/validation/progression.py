"""Validation of progression on phantom eyes scanned twice: an unchanged eye, and eyes with a planted change.

Three sources of layers and membrane: "truth" (raster, motion and registration alone), "degraded" (the truth with errors
of the size that segmentation and presence make, drawn anew at each visit, which costs no rendering) and "predicted"
(predictors on rendered B-scans; some seconds a visit).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import ndimage

from clarion.errors import DataError, UsageError
from clarion.evaluators.bootstrap import Interval, bootstrap, wilson
from clarion.oct import etdrs
from clarion.oct.enface import Grid, fused_map, grid_of
from clarion.oct.phantom import SPECTRALIS_25, Eye, Geometry, make_eye
from clarion.oct.phantom.fields import grid_mm, sample, smoothstep
from clarion.oct.phantom.localiser import draw_localiser
from clarion.oct.phantom.revisit import Pose, draw_pose, revisit
from clarion.oct.progression import (
    SECTOR_KINDS,
    Progression,
    Repeatability,
    compare,
    load_repeatability,
    repeatability_of,
)
from clarion.oct.projection import project
from clarion.oct.volume import Localiser

from .eyes import true_volume
from .stage import FIRST_SEED, STAGES, Predictor, predicted_surfaces, samples, spread, true_fovea

FIRST_CALIBRATION_SEED = 800_000  # where the shipped repeatability is measured; training stays below
PLANTED = ((0.0, 0.0), (0.05, 5.0), (0.10, 10.0), (0.20, 20.0))  # growth of the boundary mm, thickening um
SOURCES = {
    "truth": "true layers and membrane",
    "degraded": "true layers and membrane with planted errors (1 px ILM and BM, 2 px inner layers, 0.1 mm of edge)",
    "predicted": "predicted layers and membrane",
}
# Errors of the "degraded" source: mean absolute error 1 px for ILM and BM and 2 px inside is 1.25 and 2.5 px SD; a
# tenth of the variance is shared by a whole scan. The membrane's edge moves by 0.1 mm SD along a line.
_ROW_SD_PX = np.array([1.25, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 1.25])[:, None]
_ROW_LENGTH_MM, _EDGE_SD_MM, _EDGE_LENGTH_MM = 0.1, 0.10, 0.3


@dataclass(frozen=True)
class Pair:
    """What one pair of visits gave, and what is true."""

    stage: int
    growth_mm: float
    thickening_um: float
    areas_mm2: tuple[float, float]
    true_change_mm2: float
    area_changed: bool
    csf_um: float
    true_csf_um: float
    csf_changed: bool
    sectors_um: dict[str, float]  # measured change less the truth
    registration_mm: float


def measure(
    eyes: int = 60,
    seed: int = 0,
    source: str = "degraded",
    layers_predictor: Predictor | None = None,
    presence_predictor: Predictor | None = None,
    repeatability: Repeatability | None = None,
    workers: int | None = None,
    planted: tuple[tuple[float, float], ...] = PLANTED,
) -> dict[str, Any]:
    """Bias and SD of changes, false alarms without a change, sensitivity to planted ones, error of the registration.

    Each eye is seen once and then once more with each pair of `planted` (growth mm, thickening um). With both
    predictors the source is "predicted". repeatability: None: the shipped one. UsageError for an unknown source or
    fewer than 5 eyes.
    """
    if source not in SOURCES or eyes < STAGES:
        raise UsageError(f"Choose a source of {', '.join(SOURCES)} (got {source!r}) and at least {STAGES} eyes.")
    pairs = _pairs(eyes, FIRST_SEED + seed * 10_000, planted, source, layers_predictor, presence_predictor,
                   repeatability, workers)  # fmt: skip
    limits = repeatability or load_repeatability()
    rows, figures = [], {}
    for growth, thickening in planted:
        chosen = [p for p in pairs if p.growth_mm == growth and p.thickening_um == thickening]
        erm = [p for p in chosen if p.stage > 0]
        area = np.array([p.areas_mm2[1] - p.areas_mm2[0] - p.true_change_mm2 for p in erm])
        csf = np.array([p.csf_um - p.true_csf_um for p in chosen])
        said_area = wilson(sum(p.area_changed for p in erm), len(erm))
        said_csf = wilson(sum(p.csf_changed for p in chosen), len(chosen))
        true_area = float(np.median([p.true_change_mm2 for p in erm]))
        rows.append([
            f"{growth:g}", f"{true_area:.2f}", f"{area.mean():+.3f}", f"{area.std(ddof=1):.3f}", _share(said_area),
            f"{thickening:g}", f"{csf.mean():+.2f}", f"{csf.std(ddof=1):.2f}", _share(said_csf),
        ])  # fmt: skip
        mean = bootstrap(lambda w, v=area: w @ v / w.sum(1), np.arange(area.size))
        unchanged = growth == 0 and thickening == 0
        if unchanged:
            figures["area_false_change"] = _figure(said_area, len(erm), "<= 0.10")
            figures["csf_false_change"] = _figure(said_csf, len(chosen), "<= 0.10")
        if growth:
            figures[f"area_sensitivity_{growth:g}mm"] = _figure(said_area, len(erm), "")
        if thickening:
            figures[f"csf_sensitivity_{thickening:g}um"] = _figure(said_csf, len(chosen), "")
        if growth or unchanged:
            figures[f"area_bias_mm2_{growth:g}mm"] = _figure(mean, area.size, "")
    error = np.array([p.registration_mm for p in pairs]) * 1000
    eye_of = np.repeat(np.arange(eyes), len(planted))
    rms = bootstrap(lambda w: np.sqrt(w @ error**2 / w.sum(1)), eye_of)
    figures["registration_rms_um"] = _figure(rms, error.size, "")
    return {
        "part": "progression",
        "title": f"Change between two visits: {SOURCES[_source(source, layers_predictor, presence_predictor)]}",
        "columns": ["growth mm", "true area change mm2", "bias mm2", "SD mm2", "said to change", "thickening um",
                    "CSF bias um", "SD um", "said to change "],
        "rows": rows,
        "notes": [
            f"Registration on the infrared picture: RMS error {rms.value:.1f} um, worst {error.max():.1f} um over the "
            f"scanned region ({error.size} pairs).",
            "Area: eyes with a membrane; central subfield: all eyes. Visits differ in noise, motion, a shift of 0.1 mm "
            "SD and a rotation of 1 degree SD.",
            f"Limits of change: {limits.source}, n = {limits.n} pairs of unchanged phantom eyes on other seeds.",
        ],
        "n": eyes,
        "data": "phantom",
        "figures": figures,
    }  # fmt: skip


def measure_repeatability(
    eyes: int = 100,
    source: str = "degraded",
    layers_predictor: Predictor | None = None,
    presence_predictor: Predictor | None = None,
    workers: int | None = None,
    path: Path | None = None,
) -> Repeatability:
    """SD between two scans of unchanged eyes, on seeds apart from those of `measure`; written to `path` if given
    (repeatability.json of clarion.oct), with n and the source."""
    open_limits = Repeatability(0.0, 0.0, dict.fromkeys(SECTOR_KINDS, 0.0), 1.0, 0, "none")
    pairs = _pairs(eyes, FIRST_CALIBRATION_SEED, ((0.0, 0.0),), source, layers_predictor, presence_predictor,
                   open_limits, workers)  # fmt: skip
    by_kind = {kind: [v for p in pairs for name, v in p.sectors_um.items() if name.startswith(kind)]
               for kind in SECTOR_KINDS}  # fmt: skip
    found = repeatability_of(
        [p.areas_mm2 for p in pairs],
        by_kind,
        SPECTRALIS_25.line_spacing_um / 1000,
        SOURCES[_source(source, layers_predictor, presence_predictor)],
        float(np.sqrt(np.mean([p.registration_mm**2 for p in pairs]))),
    )
    if path is not None:
        text = json.dumps({"data": "phantom", "pattern": SPECTRALIS_25.name, "repeatability": asdict(found)}, indent=2)
        Path(path).write_text(text + "\n", encoding="utf-8")
    return found


def true_study(eye: Eye, degraded: bool = False) -> SimpleNamespace:
    """What progression reads of a study, from the truth along every line, or from a degraded truth."""
    volume, surfaces, presence = true_volume(eye)
    if degraded:
        rng = np.random.default_rng([0xDE6, eye.seed, eye.visit])
        surfaces = [_shaken(rng, rows, eye.geometry) for rows in surfaces]
        presence = [_frayed(rng, p, eye.geometry) for p in presence]
    return study_of(eye, volume, surfaces, presence)


def study_of(eye: Eye, volume, surfaces: list[np.ndarray], presence: list[np.ndarray]) -> SimpleNamespace:
    """A study as progression reads it, with the phantom's localiser and fovea."""
    grid = grid_of(volume)
    total = fused_map(volume, [(rows[-1] - rows[0]) * volume.axial_um for rows in surfaces], grid)
    image, half = draw_localiser(eye), eye.geometry.extent_mm / 2
    localiser = Localiser(image, (2 * half / image.shape[1], 2 * half / image.shape[0]), (-half, -half))
    return SimpleNamespace(
        volume=SimpleNamespace(**{name: getattr(volume, name) for name in _READ}, localiser=localiser,
                               directions=volume.directions, line_spacing_mm=volume.line_spacing_mm),
        grid=grid,
        projection=project(volume, presence, grid),
        thickness=SimpleNamespace(total=total),
        fovea=true_fovea(eye),
        area=None,
    )  # fmt: skip


_READ = ("laterality", "patient_id", "study_id", "device", "acquired", "data_kind")


def _shaken(rng: np.random.Generator, rows: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Surfaces with errors that are alike over 0.1 mm and in part over the whole scan."""
    sd = 1000 * _ROW_LENGTH_MM / geometry.lateral_um
    noise = _smooth(rng, rows.shape, sd)
    return (rows + _ROW_SD_PX * (np.sqrt(0.9) * noise + np.sqrt(0.1) * rng.standard_normal((len(rows), 1)))).astype(
        np.float32
    )


def _frayed(rng: np.random.Generator, presence: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Presence whose edges moved along the line: the signed distance to the edge, shaken and cut again."""
    step = geometry.lateral_um / 1000
    inside = presence >= 0.5
    distance = (ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)) * step
    if not inside.any() or inside.all():
        return presence
    noise = _EDGE_SD_MM * _smooth(rng, presence.shape, _EDGE_LENGTH_MM / step)
    return (distance + noise > 0).astype(np.float32)


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], sd: float) -> np.ndarray:
    """Noise of variance 1, smooth along the last axis."""
    noise = ndimage.gaussian_filter1d(rng.standard_normal(shape), sd, axis=-1, mode="wrap")
    return noise * np.sqrt(2 * sd * np.sqrt(np.pi))


def _source(source: str, layers: Predictor | None, presence: Predictor | None) -> str:
    return source if layers is None or presence is None else "predicted"


def _pairs(
    eyes: int, first_seed: int, planted: tuple, source: str, layers: Predictor | None, presence: Predictor | None,
    repeatability: Repeatability | None, workers: int | None,
) -> list[Pair]:  # fmt: skip
    seeds = [first_seed + k for k in range(eyes)]
    if _source(source, layers, presence) == "predicted":
        if layers is None or presence is None:
            raise UsageError("The source predicted needs a layers and a presence predictor.")
        made: Callable[[Eye], SimpleNamespace] = partial(_predicted_study, layers=layers, presence=presence)
        found = [_compared(s, planted, made, repeatability) for s in seeds]  # predictors stay in this process
    else:
        work = partial(_compared, planted=planted, made=partial(true_study, degraded=source == "degraded"),
                       repeatability=repeatability)  # fmt: skip
        found = spread(work, seeds, workers)
    return [pair for part in found for pair in part]


def _predicted_study(eye: Eye, layers: Predictor, presence: Predictor) -> SimpleNamespace:
    volume, _, _ = true_volume(eye, render=True)
    surfaces = predicted_surfaces(volume, layers)
    found = {p.sample_id: p for p in presence(samples(volume, ilm=[rows[0] for rows in surfaces]))}
    rows = [np.asarray(found[scan.scan_id].values["presence"], np.float32) for scan in volume.scans]
    return study_of(eye, volume, surfaces, rows)


def _compared(
    seed: int, planted: tuple, made: Callable[[Eye], SimpleNamespace], repeatability: Repeatability | None
) -> list[Pair]:
    """One eye against each of its later visits."""
    eye = make_eye(seed, seed % STAGES)
    first = made(eye)
    pairs = []
    for k, (growth, thickening) in enumerate(planted):
        visit = 1 + seed * 16 + k  # no two eyes share a pose
        pose = draw_pose(visit)
        later = revisit(eye, visit, growth if eye.stage else 0.0, thickening)
        found = compare(first, made(later), repeatability=repeatability)
        if found.area is None or found.csf is None:
            raise DataError(f"Phantom eye {seed} could not be compared ({found.omitted}).")
        pairs.append(_scored(eye, later, pose, found, growth, thickening))
    return pairs


def _scored(eye: Eye, later: Eye, pose: Pose, found: Progression, growth: float, thickening: float) -> Pair:
    x, y = grid_mm()
    more = thickening * smoothstep(2 - np.hypot(x - eye.fovea.x_mm, y - eye.fovea.y_mm))
    points = found.grid.mm()
    planted_um = sample(more[None], *(p.ravel() for p in points)).reshape(points[0].shape)
    truth = etdrs.sectors(planted_um, found.grid, true_fovea(eye), eye.laterality)
    px, py = (np.linspace(v.min(), v.max(), 15) for v in points)
    corners = np.meshgrid(px, py)
    error = np.subtract(found.registration.apply(*corners), pose.forward(*corners))
    return Pair(
        stage=eye.stage,
        growth_mm=growth,
        thickening_um=thickening,
        areas_mm2=(found.area.first, found.area.second),
        true_change_mm2=_true_area(later, found, pose) - _true_area(eye, found, Pose()),
        area_changed=found.area.changed,
        csf_um=found.csf.value,
        true_csf_um=truth[etdrs.CENTRAL].mean,
        csf_changed=found.csf.changed,
        sectors_um={name: change.value - truth[name].mean for name, change in found.sectors.items()},
        registration_mm=float(np.sqrt((error**2).sum(0).mean())),
    )


def _true_area(eye: Eye, found: Progression, pose: Pose, times: int = 3) -> float:
    """True membrane area inside what both visits scanned, mm2; the eye's own frame is `pose` away from the first's."""
    grid = found.grid
    fine = Grid(grid.x0_mm, grid.y0_mm, grid.columns * times, grid.rows * times, grid.step_mm / times)
    inside = np.repeat(np.repeat(found.common, times, 0), times, 1)
    x, y = (v[inside] for v in fine.mm())
    return float(np.count_nonzero(sample(eye.erm.level[None], *pose.forward(x, y))[0] > 0) * fine.pixel_mm2)


def _figure(interval: Interval, n: int, target: str) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": int(n), "target": target}


def _share(interval: Interval) -> str:
    return f"{100 * interval.value:.0f} % ({100 * interval.low:.0f}-{100 * interval.high:.0f})"
