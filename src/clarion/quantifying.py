"""`clarion quantify` and `clarion compare`: a device's file -> findings.json, report.html, maps, exports.

Here the rooms meet the trainers: the room's measurements are handed the shipped (or the user's) networks.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clarion.errors import UsageError
from clarion.findings import read_document
from clarion.record import to_json, write_atomic

log = logging.getLogger("clarion")
LAYERS, PRESENCE, DETECTOR = "shipped:layers_unet", "shipped:erm_presence", "shipped:yolo11n_erm_phantom"
EXPORTS = ("dicom", "fhir")
EXPORTED = ("opt_H.dcm", "opt_V.dcm", "seg_H.dcm", "seg_V.dcm", "seg_1.dcm", "sr.dcm", "fhir.json")
DEFAULT_CONFIDENCE = 0.25


def read_visit(path: str, options: Mapping[str, Any]) -> Any:
    """A Volume of `path` with the reader's options (spacing, laterality, data_kind); its flags are logged."""
    from clarion.oct.readers import read_volume

    volume = read_volume(path, **{k: v for k, v in options.items() if v is not None})
    for flag in volume.flags:
        log.warning("%s", flag.message)
    return volume


def open_models(detector: str | None, layers: str, presence: str, presence_from: str, device: str) -> dict[str, Any]:
    """The models that `clarion.oct.quantify.measure` takes, loaded once for all visits."""
    from clarion.oct.quantify import Model
    from clarion.trained import open_model

    seg = open_model(layers, "layers", "layer_unet", device, "--layers")
    models: dict[str, Any] = {"layers": Model(seg.predictor, seg.source), "presence_from": presence_from}
    if presence_from == "head":
        head = open_model(presence, "presence", "erm_presence", device, "--presence-model")
        shipped = presence == PRESENCE and layers == LAYERS
        models["presence"] = Model(head.predictor, head.source, calibrated_as="head" if shipped else None)
    if detector or presence_from == "boxes":
        what = detector or DETECTOR
        found = open_model(what, "detection", "yolo11n", device, "--detector")
        confidence = DEFAULT_CONFIDENCE if found.confidence is None else found.confidence
        models["detector"] = Model(
            found.predictor, found.source, confidence, "boxes" if what == DETECTOR else None
        )
    return models


def quantify_path(
    path: str,
    out: Path | None,
    models: Callable[[], dict[str, Any]],
    reader: Mapping[str, Any],
    exports: set[str],
    page: bool = True,
) -> dict[str, Any]:
    """Measure one visit and write OUT/findings.json (last, atomically), report.html, maps.npz and exports.

    models: opens them, once the scan is known to be readable; out: None is findings-STUDY here. Returns a summary: the
    headline findings with units and intervals, where everything lies, seconds a step.
    """
    volume = read_visit(path, reader)
    out = out or Path(f"findings-{volume.study_id[:12]}")
    if "dicom" in exports and volume.laterality is None:
        raise UsageError("DICOM needs to know which eye this is, and the scan does not say: add --laterality OD or OS.")
    from clarion.oct.quantify import measure

    opened = models()
    check_out(out, volume.study_id)
    study = measure(volume, **opened)
    for name in EXPORTED:  # of an earlier measurement: they would stand beside other findings
        (out / name).unlink(missing_ok=True)
    written = [write_maps(study, out / "maps.npz")]
    if page:
        from clarion.report.study import write_study_report

        written.append(write_study_report(study, out / "report.html"))
    if exports:
        from clarion.oct.export import export_all

        written += export_all(study, out, exports, source=Path(path) if volume.source == "dicom" else None)
    study.document.write(out / "findings.json")
    files = [path.relative_to(out).as_posix() for path in [*written, out / "findings.json"]]
    return summary(study) | {"out": str(out), "files": files}


def check_out(out: Path, study_id: str) -> None:
    """Make the folder, or refuse: another study's findings are in it, it is no folder, it cannot be written to."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: give a folder.")
    if (out / "findings.json").is_file() and read_document(out / "findings.json").study != study_id:
        raise UsageError(f"--out {out} holds the findings of another study: give another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe, name = tempfile.mkstemp(dir=out)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written to ({error.strerror}): give another folder.") from None
    os.close(probe)
    os.unlink(name)


VISITS = ("visit1", "visit2")
HEADLINES = ("erm_present", "erm_area", "erm_share", "central_subfield_thickness", "macular_volume", "govetto_stage")


def summary(study: Any) -> dict[str, Any]:
    """What the command prints: headline findings, omitted, warnings, seconds."""
    document = study.document
    shown = {}
    for name in HEADLINES:
        if (f := document.get(name)) is not None:
            interval = list(f.interval) if f.interval else None
            quality = {"state": f.quality, "why": f.why}
            shown[name] = {"value": f.value, "unit": f.unit, "interval": interval, "quality": quality}
    return {
        "patient": document.patient,
        "study": document.study,
        "data_kind": document.data_kind,
        "scans": len(study.volume.scans),
        "findings": shown,
        "omitted": document.omitted,
        "warnings": document.warnings,
        "seconds": study.timings_s,
    }


def write_maps(study: Any, path: Path) -> Path:
    """The maps as numbers: npz of float32 [rows, columns] with the grid's place in mm; no pickle."""
    import numpy as np

    grid = study.grid
    maps = {"grid_x0_y0_step_mm": np.array([grid.x0_mm, grid.y0_mm, grid.step_mm])}
    maps["erm_probability"] = study.projection.probability.astype(np.float32)
    for name in ("total", "inner", "outer"):
        maps[f"thickness_{name}_um"] = getattr(study.thickness, name).astype(np.float32)
    with written_whole(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **maps)
    return path


@contextmanager
def written_whole(path: Path):
    """A temporary file beside `path` that takes its place only if nothing went wrong."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def compare_paths(
    first: str,
    second: str,
    out: Path,
    models: Callable[[], dict[str, Any]],
    reader: Mapping[str, Any],
    years: float | None,
) -> dict[str, Any]:
    """Measure two visits of one eye, register them and write OUT/progression.json and progression.html."""
    volumes = [read_visit(path, reader) for path in (first, second)]
    if volumes[0].study_id == volumes[1].study_id:
        raise UsageError("Both visits are the same scan: give two different ones.")
    from clarion.oct.progression import check_visits, compare

    check_visits(*volumes, years)  # before minutes of measuring
    for name, volume in zip(VISITS, volumes, strict=True):
        check_out(out / name, volume.study_id)
    from clarion.oct.quantify import measure
    from clarion.report.progression import write_progression_report

    opened = models()
    studies = [measure(volume, **opened) for volume in volumes]
    progression = compare(*studies, years=years)
    for name, study in zip(VISITS, studies, strict=True):
        study.document.write(out / name / "findings.json")
    write_progression_report(*studies, progression, out / "progression.html")
    result = progression.to_dict()
    write_atomic(out / "progression.json", to_json(result))
    return result | {"out": str(out)}


def parse_exports(text: str | None) -> set[str]:
    """ "dicom,fhir" -> {"dicom", "fhir"}; UsageError on another word."""
    from clarion.config import nearest

    chosen = {word.strip() for word in (text or "").split(",") if word.strip()}
    for word in sorted(chosen - set(EXPORTS)):
        raise UsageError(f"--export {word}: no such format.{nearest(word, EXPORTS)} (choices: {', '.join(EXPORTS)})")
    return chosen

