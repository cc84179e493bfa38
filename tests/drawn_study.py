"""A study whose every number is known: a phantom eye with its own surfaces and membrane, nothing predicted."""

from __future__ import annotations

import hashlib

import numpy as np

from clarion.findings import Document, Finding
from clarion.oct.enface import fused_map, grid_of
from clarion.oct.phantom import Eye, make_eye
from clarion.oct.phantom.geometry import Geometry
from clarion.oct.study import Study
from clarion.oct.volume import SURFACES, Flag, Localiser, Scan, Volume

SMALL = Geometry("small", 7, 192, 496, 3.872, 36.0, 800.0)


def drawn_volume(
    seed: int = 900_001, stage: int = 2, geometry: Geometry = SMALL, localiser: bool = True, eye: Eye | None = None
):
    """(Volume, list of the scans' truth) of one phantom eye: the one given, or that of the seed."""
    eye = eye or make_eye(seed, stage, geometry)
    geometry = eye.geometry
    scans, truth = [], []
    for direction in ("H", "V"):
        for line in range(geometry.lines):
            cut = eye.bscan(direction, line)
            x, y = geometry.path_mm(direction, line)
            half = np.array([x[1] - x[0], y[1] - y[0]]) / 2
            ends = np.array([[x[0], y[0]] - half, [x[-1], y[-1]] + half]).tolist()
            scans.append(Scan(f"{direction}{line:02d}", cut.image, direction, line, tuple(ends[0]), tuple(ends[1]),
                              quality=float(20 + (line * 7) % 11)))  # fmt: skip
            truth.append(cut)
    picture = Localiser((255 - 150 * _shrunk(eye.vessels)).astype(np.uint8), (0.04, 0.04), (-4.5, -4.5))
    study_id = hashlib.sha256(repr((eye.seed, eye.fovea)).encode()).hexdigest()[:16]
    volume = Volume(
        tuple(scans), geometry.axial_um, eye.laterality, eye.eye_id, study_id,
        "Phantom Spectralis", "phantom", "phantom", localiser=picture if localiser else None,
        flags=(Flag("scale_nominal", "The scale is the device's nominal one, not measured."),), truth=eye,
    )  # fmt: skip
    return volume, truth


def _shrunk(vessels: np.ndarray, size: int = 225) -> np.ndarray:
    index = np.linspace(0, vessels.shape[0] - 1, size).astype(int)
    return np.clip(vessels[np.ix_(index, index)], 0, 1)


def drawn_study(**options) -> Study:
    """A study with true surfaces and presence; what other parts measure from them is added by `measured_study`."""
    volume, truth = drawn_volume(**options)
    grid = grid_of(volume)
    surfaces = [np.stack([cut.surfaces[name] for name in SURFACES]).astype(np.float32) for cut in truth]
    presence = [cut.presence.astype(np.float32) * 0.96 + 0.01 for cut in truth]
    boxes = [np.column_stack([cut.boxes, np.full(len(cut.boxes), 0.9)]).astype(np.float32) for cut in truth]
    document = Document(volume.patient_id, volume.study_id, volume.device, "2026-03-04T05:06:07+00:00",
                        data_kind=volume.data_kind)  # fmt: skip
    document.warnings = [{"name": flag.name, "message": flag.message} for flag in volume.flags]
    document.omit("Stage", "No central scan was measured.")
    eye = volume.laterality
    model = {"model": hashlib.sha256(b"weights").hexdigest(), "version": "1"}
    area = float((fused_map(volume, presence, grid) > 0.5).sum() * grid.pixel_mm2)
    document.add(
        Finding("erm_present", "Epiretinal membrane present", True, method="Any A-scan above 0.5.", source=model,
                laterality=eye, derived_from=("V03",), codes={"snomed": "367649002"}, data_kind="phantom"),
        Finding("erm_area", "Area of epiretinal membrane", round(area, 3), "mm2", (area * 0.9, area * 1.1, 0.95),
                "Fused map of both directions.", model, ("H03", "V03"), eye, data_kind="phantom"),
        Finding("central_subfield_thickness", "Central subfield thickness", 331.25, "um", (320.5, 342.0, 0.95),
                "ILM to BM.", {"formula": "ETDRS"}, ("H03",), eye, codes={"loinc": "57109-1"}, data_kind="phantom"),
        Finding("erm_share_csf", "Central subfield under membrane", 41.5, "%", None, "Share of the mask.",
                {"formula": "ETDRS"}, ("erm_area",), eye, quality="flagged",
                why="The fovea was not found with certainty.", data_kind="phantom"),
        Finding("govetto_stage", "Govetto stage", 2, "1", method="Rules on pit, ONL, EIFL.", laterality=eye,
                data_kind="phantom"),
        Finding("pit", "Foveal pit", "absent", method="Depth of the pit under 20 um.", laterality=eye,
                data_kind="phantom"),
    )  # fmt: skip
    return Study(volume, document, grid, surfaces, [np.full_like(s, 0.6) for s in surfaces], presence, boxes,
                 timings_s={"layers": 1.5})  # fmt: skip


def measured_study(**options) -> Study:
    """The same with everything that the project's own parts measure from the true surfaces and presence."""
    from clarion.oct import area, etdrs, fovea, projection, staging, thickness

    study = drawn_study(**options)
    volume, grid = study.volume, study.grid
    study.projection = projection.project(volume, study.presence, grid)
    study.area = area.measure_area(volume, study.presence, study.projection, grid, detection="truth")
    study.thickness = thickness.thickness_maps(volume, study.surfaces, grid)
    study.fovea = fovea.find_fovea(study.thickness, grid, volume, study.surfaces)
    study.etdrs_um = etdrs.sectors(study.thickness.total, grid, study.fovea, volume.laterality)
    study.etdrs_erm = etdrs.sectors(study.projection.probability, grid, study.fovea, volume.laterality)
    study.stage = staging.grade(volume, study.surfaces, study.fovea, presence=study.presence)
    return study


def known_association():
    """An Association of invented numbers (fitting one takes seconds): thickening that rises across the edge."""
    from clarion.evaluators.bootstrap import Interval
    from clarion.oct.association import Association, DoseBin

    edges = (-np.inf, -1.0, -0.5, 0.0, 0.25, 0.5, np.inf)
    excess = [Interval(0.0)] + [Interval(v, v - 9, v + 9) for v in (4.0, 11.0, 38.0, 52.0, 55.0)]
    return Association(
        inside_um=351.5, outside_um=302.25, difference_um=Interval(49.25, 30.0, 68.5),
        adjusted_difference_um=Interval(41.0, 22.5, 59.5), spearman=Interval(0.61, 0.4, 0.77),
        adjusted_spearman=Interval(0.48, 0.2, 0.66),
        dose_response=tuple(DoseBin(a, b, 2.0, e) for a, b, e in zip(edges, edges[1:], excess)),
        p_value=0.012, permutations=499, n_pixels=9000, n_cells=160, n_effective=44.0,
    )  # fmt: skip
