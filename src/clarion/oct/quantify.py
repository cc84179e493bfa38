"""One eye from B-scans to numbers: layers -> presence -> projection and area -> thickness -> association -> stage.

Trained networks are handed in as predictors; everything else is computed here. A step that cannot be done says why in
`document.omitted` and the rest goes on; what is wrong with the input itself (no B-scan, no scale) was refused by the
reader before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from clarion.errors import DataError, UsageError
from clarion.findings import Document
from clarion.oct import area, association, etdrs, fovea, projection, staging, thickness
from clarion.oct.area_detection import apply_rule, load_calibration
from clarion.oct.enface import grid_of
from clarion.oct.study import Study
from clarion.oct.study_findings import add_findings, membrane_present
from clarion.oct.volume import SURFACES, Scan, Volume
from clarion.samples import Prediction, Sample

log = logging.getLogger("clarion")
Predictor = Callable[[Iterable[Sample]], Iterator[Prediction]]
LEAST_SEEN, ENOUGH_SEEN = 0.05, 0.8  # share of A-scans with layers: under the first no study, under the second flagged
FILE_SEEN = 0.5  # the network sees less than this: surfaces that the file brought are used, if they show more
LEAST_LINES = 3  # fewer make no map
CALIBRATED = (
    "The shipped networks and the intervals of area and thickness were learnt on phantoms: on patients' scans their "
    "error has not been measured, and the true intervals are wider."
)


@dataclass(frozen=True)
class Model:
    """A predictor with its name for the findings' source; calibrated_as: its entry in area_calibration.json."""

    predictor: Predictor
    source: dict[str, str]
    confidence: float = 0.25  # detectors: from where a box counts
    calibrated_as: str | None = None


def measure(
    volume: Volume,
    layers: Model,
    presence: Model | None = None,
    detector: Model | None = None,
    presence_from: str = "head",
    permutations: int = 999,
    seed: int = 0,
) -> Study:
    """Everything that can be measured in one visit of one eye, with its findings.

    presence_from: "head" (the per-A-scan network) or "boxes" (the detector's); the other one is still run if given, for
    the report. Raises UsageError where the model that presence_from needs is not given.
    """
    if presence_from not in ("head", "boxes"):
        raise UsageError(f"presence {presence_from!r} is unknown: choose head or boxes.")
    if (presence if presence_from == "head" else detector) is None:
        option = {"head": "--presence-model", "boxes": "--detector"}[presence_from]
        raise UsageError(f"presence {presence_from} needs its model: give {option}.")
    document = Document(
        patient=volume.patient_id,
        study=volume.study_id,
        device=volume.device,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data_kind=volume.data_kind,
        warnings=[{"name": flag.name, "message": flag.message} for flag in volume.flags],
    )
    study = Study(volume, document, grid_of(volume), surfaces=[], surfaces_sd=[])
    if volume.data_kind != "phantom":
        _warn(study, "calibrated_on_phantoms", CALIBRATED)
    with _timed(study, "layers"):
        used_layers = _segment(study, layers)
    if detector is not None:
        with _timed(study, "detection"):
            study.boxes = detect(volume, detector)
    with _timed(study, "presence"):
        if presence_from == "head":
            study.presence = _presence(study, presence.predictor)
        else:
            study.presence = _where_measured(study, projection.boxes_presence(volume, study.boxes))
    used = presence if presence_from == "head" else detector
    with _timed(study, "area"):
        study.projection = projection.project(volume, study.presence, study.grid)
        if len(volume.scans) >= LEAST_LINES:
            study.area = area.measure_area(
                volume, study.presence, study.projection, study.grid, detection=used.calibrated_as
            )
            for note in study.area.notes:
                if note.startswith("Horizontal and vertical lines differ"):
                    _warn(study, "directions_disagree", note)
            study.doubt = study.doubt or _unread(study)
    with _timed(study, "thickness"):
        _thickness(study, used.calibrated_as)
    with _timed(study, "association"):
        _associate(study, permutations, seed)
    with _timed(study, "stage"):
        study.stage = staging.grade(volume, study.surfaces, study.fovea, presence=study.presence)
        if study.area is not None and study.stage.value is not None:
            study.stage = _one_answer(study)
    with _timed(study, "findings"):
        add_findings(study, used_layers, used.source, presence_from)
    return study


@contextmanager
def _timed(study: Study, step: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    study.timings_s[step] = round(time.perf_counter() - began, 3)
    log.info("%s: %.1f s", step, study.timings_s[step])


def _warn(study: Study, name: str, message: str) -> None:
    """What the measurement found wrong: beside the reader's flags in the document, and on the screen."""
    study.document.warnings.append({"name": name, "message": message})
    log.warning("%s", message)


def _samples(volume: Volume, **extra: list) -> Iterator[Sample]:
    for k, scan in enumerate(volume.scans):
        lateral = 1000 * scan.length_mm / scan.width
        inputs = {"bscan": scan.image, "axial_um": volume.axial_um, "lateral_um": lateral}
        yield Sample(scan.scan_id, volume.patient_id, inputs | {name: rows[k] for name, rows in extra.items()})


def _in_order(volume: Volume, predictions: Iterator[Prediction]) -> list[Prediction]:
    """Predictions joined to the scans by id."""
    by_id = {p.sample_id: p for p in predictions}
    return [by_id[scan.scan_id] for scan in volume.scans]


def _segment(study: Study, model: Model) -> dict[str, str]:
    """Surfaces of every scan, by the network, or where it sees too little by the file's own; returns their source."""
    volume, source = study.volume, model.source
    for answer in _in_order(volume, model.predictor(_samples(volume))):
        study.surfaces.append(np.asarray(answer.values["surfaces"], np.float32))
        study.surfaces_sd.append(np.asarray(answer.values["sd"], np.float32))
    seen = _seen(study.surfaces)
    vendors = [_vendor_surfaces(scan) for scan in volume.scans]
    if seen < FILE_SEEN and _seen(vendors) > seen:
        study.surfaces, study.surfaces_sd = vendors, [np.full_like(rows, np.nan) for rows in vendors]
        message = f"The network found layers in {100 * seen:.0f} % of the A-scans; the file's own surfaces were used."
        _warn(study, "layers_from_file", message)
        seen, source = _seen(vendors), {"surfaces": f"of the {volume.source} file"}
    if LEAST_SEEN <= seen < ENOUGH_SEEN:
        study.doubt = f"retinal layers were found in only {100 * seen:.0f} % of the A-scans"
        _warn(study, "layers_poor", f"{study.doubt[0].upper()}{study.doubt[1:]}.")
    if seen < LEAST_SEEN:
        raise DataError(
            f"Retinal layers were found in only {100 * seen:.0f} % of the A-scans: this is no macular OCT, or its "
            "scale is wrong (see --spacing)."
        )
    return source


def _seen(surfaces: list[np.ndarray]) -> float:
    """Share of the A-scans with both ILM and BM."""
    return float(np.mean([np.isfinite(rows[0] + rows[-1]).mean() for rows in surfaces]))


def _vendor_surfaces(scan: Scan) -> np.ndarray:
    """The surfaces that the file brought, float32 [8, width], NaN for those it did not."""
    missing = np.full(scan.width, np.nan, np.float32)
    return np.stack([np.asarray(scan.surfaces.get(name, missing), np.float32) for name in SURFACES])


def _presence(study: Study, predictor: Predictor) -> list[np.ndarray]:
    found = predictor(_samples(study.volume, ilm=[rows[0] for rows in study.surfaces]))
    return [np.asarray(p.values["presence"], np.float32) for p in _in_order(study.volume, found)]


def detect(volume: Volume, detector: Model) -> list[np.ndarray]:
    """Boxes [n, 5] x1, y1, x2, y2, score of each scan that reach the operating confidence, inside the picture."""
    samples = (Sample(s.scan_id, volume.patient_id, {"image": np.ascontiguousarray(s.image)}) for s in volume.scans)
    boxes = []
    for scan, answer in zip(volume.scans, _in_order(volume, detector.predictor(samples)), strict=True):
        rows = np.column_stack([np.reshape(answer.values["boxes"], (-1, 4)), answer.values["scores"]])
        rows = rows[rows[:, 4] >= detector.confidence]
        depth, width = scan.image.shape
        rows[:, :4] = np.clip(rows[:, :4], 0, [width, depth, width, depth])
        boxes.append(rows.astype(np.float32))
    return boxes


def _thickness(study: Study, calibrated_as: str | None) -> None:
    volume, document = study.volume, study.document
    study.thickness = thickness.thickness_maps(volume, study.surfaces, study.grid)
    found = fovea.find_fovea(study.thickness, study.grid, volume, study.surfaces)
    study.fovea = found
    if not found.confident:
        _warn(study, "fovea_uncertain", f"The place of the fovea is uncertain: {found.why}")
    if len(volume.scans) < LEAST_LINES:
        document.omit("etdrs", "fewer than three B-scans: no map of the macula")
        return
    study.etdrs_um = etdrs.sectors(study.thickness.total, study.grid, found, volume.laterality)
    # Shares of sectors follow the area: the same rule on probabilities, the same gain.
    error = load_calibration(calibrated_as)
    counted = projection.project(volume, [apply_rule(p, error.rule) for p in study.presence], study.grid).probability
    share = np.minimum(error.gain * counted, 1.0)
    study.etdrs_erm = etdrs.sectors(share, study.grid, found, volume.laterality)


def _associate(study: Study, permutations: int, seed: int) -> None:
    if study.thickness is None or len(study.volume.scans) < LEAST_LINES:
        study.document.omit("erm_thickness_association", "fewer than three B-scans: no map of the macula")
        return
    at = (study.fovea.x_mm, study.fovea.y_mm) if study.fovea.confident else None
    study.association = association.associate(
        study.thickness.total, study.projection.probability, study.grid, at, permutations=permutations, seed=seed
    )



def _where_measured(study: Study, presence: list[np.ndarray]) -> list[np.ndarray]:
    """Presence with NaN where no ILM was found: boxes say nothing of an A-scan that shows no retina."""
    return [np.where(np.isfinite(rows[0]), p, np.nan) for p, rows in zip(presence, study.surfaces, strict=True)]


def _unread(study: Study) -> str:
    """Why the whole study is in doubt, where a fifth or more of the A-scans could not be read; else ""."""
    missing = float(np.mean([np.isnan(p).mean() for p in study.presence]))
    if missing < 1 - ENOUGH_SEEN:
        return ""
    doubt = f"{100 * missing:.0f} % of the A-scans could not be read"
    _warn(study, "scans_unread", f"{doubt}.")
    return doubt


def _one_answer(study: Study) -> staging.Stage:
    """The stage, unless it contradicts the area on whether there is a membrane at all."""
    present = membrane_present(study.area)
    if present and study.stage.value == 0:
        why = "there is a membrane, but too little of it near the fovea to stage the eye by"
        return replace(study.stage, value=None, why=why)
    if not present and study.stage.value:
        return replace(study.stage, value=0, trace=(*study.stage.trace, "The area found is none: stage 0."))
    return study.stage
