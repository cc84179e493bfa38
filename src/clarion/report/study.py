"""One study of one eye -> a page: findings first, warnings above them, then the pictures they can be checked on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clarion import record
from clarion.findings import Finding
from clarion.report import bscan_figures as bscans
from clarion.report import enface_figures as enface
from clarion.report.association_figures import association_view
from clarion.report.charts import number
from clarion.report.page import KINDS, environment, write
from clarion.report.study_pictures import round_range

if TYPE_CHECKING:
    from clarion.oct.study import Study

EYES = {"OD": "right eye (OD)", "OS": "left eye (OS)", None: "eye unknown"}
UNITS = {"um": "µm", "mm": "mm", "mm2": "mm²", "mm3": "mm³", "1": "", "%": "%", "deg": "°", "um/mm": "µm/mm",
         "mm2/a": "mm²/year"}  # fmt: skip
# What a reader asks first; each is shown if it was measured.
HEADLINE = (
    "erm_present", "erm_area", "erm_share", "govetto_stage", "central_subfield_thickness", "erm_thickening",
    "erm_share_csf", "macular_volume",
)  # fmt: skip


def write_study_report(study: Study, path: Path) -> Path:
    """Write one static page that needs nothing but itself, and return its path.

    What could not be measured is left out of the pictures and listed with its reason; warnings are never hidden.
    """
    page = environment().get_template("study.html").render(study_view(study))
    return write(Path(path), page)


def study_view(study: Study) -> dict[str, Any]:
    """Everything the template shows; an empty part is left out by it."""
    volume, document = study.volume, study.document
    kind = document.data_kind
    chosen = bscans.evidence(study)
    shown = {volume.scans[k].scan_id for k, _ in chosen}
    return {
        "title": f"Epiretinal membrane, {EYES[volume.laterality]}",
        "kind": kind,
        "kind_sentence": KINDS.get(kind, "") if kind != "phantom" else "Phantom data: the B-scans were made by a "
                         "simulator. These figures say nothing about a patient.",
        "warnings": _warnings(study),
        "facts": _facts(study),
        "headline": [finding_row(document.get(name)) for name in HEADLINE if document.get(name) is not None]
                    or [finding_row(f) for f in document.findings[:6]],
        "maps": _maps(study),
        "sectors": _sectors(study),
        "association": association_view(study),
        "stage": _stage(study),
        "scans": [
            {"id": volume.scans[k].scan_id, "reasons": reasons, "svg": bscans.bscan_figure(study, k),
             "quality": _decibels(volume.scans[k].quality)}
            for k, reasons in chosen
        ],
        "scan_legend": bscans.legend(),
        "thumbs": _thumbs(study),
        "findings": [finding_row(f, shown) for f in document.findings],
        "omitted": document.omitted,
        "sources": _sources(study),
        "volume": _input(study),
        "environment": _environment(study),
    }  # fmt: skip


def finding_row(finding: Finding, scans: set[str] = frozenset()) -> dict[str, Any]:
    """A finding as text; `scans`: ids that the page shows and that may be linked."""
    unit = UNITS.get(finding.unit or "", finding.unit or "")
    row = {"id": finding.id, "name": finding.name, "unit": unit, "method": finding.method, "why": finding.why,
           "value": shown(finding.value, finding.unit), "interval": ""}  # fmt: skip
    if finding.interval is not None:
        low, high, level = finding.interval
        row["interval"] = f"{shown(low, finding.unit)} to {shown(high, finding.unit)} ({100 * level:g} %)"
    row["scans"] = sorted(scans.intersection(finding.derived_from)) if len(finding.derived_from) <= 4 else []
    return row


def shown(value: Any, unit: str | None = None) -> str:
    """A value with the digits its unit deserves: 331 um, 4.27 mm2, 41.5 %; words and yes/no as they are."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return "—"
    digits = {"um": 0 if abs(value) >= 100 else 1, "mm": 2, "mm2": 2, "mm3": 2, "%": 1, "dB": 1}.get(unit or "")
    text = number(value) if digits is None else f"{value:.{digits}f}"
    return text.replace("-", "−") if text.startswith("-") else text


def _warnings(study: Study) -> list[str]:
    """What the reader of the file and the measurement flagged, each once."""
    said = [flag.message for flag in study.volume.flags] + [w["message"] for w in study.document.warnings]
    return list(dict.fromkeys(said))


def _facts(study: Study) -> list[tuple[str, str]]:
    volume = study.volume
    lines = [f"{len(volume.of(d))} {'horizontal' if d == 'H' else 'vertical'}" for d in volume.directions]
    facts = [
        ("patient", volume.patient_id),
        ("study", volume.study_id[:12]),
        ("device", volume.device),
        ("B-scans", " + ".join(lines)),
        ("image quality", _decibels(volume.quality)),
        ("measured", study.document.created[:16].replace("T", " ")),
    ]
    return [(name, value) for name, value in facts if value]


def _decibels(quality: float | None) -> str:
    return "" if quality is None else f"{quality:.0f} dB"


def _maps(study: Study) -> list[dict[str, Any]]:
    volume, grid, fovea = study.volume, study.grid, study.fovea
    found = []
    mask = None
    if study.projection is not None:
        mask = study.projection.mask
        lines = " and ".join({"H": "horizontal", "V": "vertical"}[d] for d in volume.directions)
        where = "on the infrared image" if volume.localiser is not None else "(the input holds no infrared image)"
        found.append({
            "title": "Membrane, projected", "bar": "",
            "svg": enface.projection_figure(volume, grid, study.projection, fovea),
            "caption": f"Epiretinal membrane {where}: tint by probability, outline where it exceeds one half; "
                       f"thin lines are the {lines} B-scans{_cross(fovea)}.",
        })  # fmt: skip
    if study.thickness is not None:
        slabs = [
            ("total", "Retinal thickness", "ILM to Bruch's membrane", study.etdrs_um),
            ("inner", "Inner retina", "ILM to the border of INL and OPL", None),
        ]
        for name, title, words, sectors in slabs:
            values = getattr(study.thickness, name)
            limits = round_range(values, 25)
            if limits is None:
                continue
            grid_words = " Means of the ETDRS grid (1, 3 and 6 mm) in µm." if sectors and fovea is not None else ""
            found.append({
                "title": f"{title}, µm", "bar": enface.colour_bar(limits, "µm"),
                "svg": enface.map_figure(volume, grid, values, limits, f"Map: {title}, {words}.", mask, fovea, sectors),
                "caption": f"{words}.{grid_words}{' Outline: membrane.' if mask is not None else ''}",
            })  # fmt: skip
    if study.etdrs_erm is not None:
        found.append({
            "title": "Share under membrane", "bar": "", "svg": enface.share_wheel(study.etdrs_erm, volume.laterality),
            "caption": "Percent of each sector of the ETDRS grid under membrane (mean probability).",
        })  # fmt: skip
    return found


def _cross(fovea) -> str:
    if fovea is None:
        return ""
    return "; the cross is the fovea" if fovea.confident else "; the dashed cross is where the fovea is assumed"


def _sectors(study: Study) -> list[dict[str, str]]:
    names = list(study.etdrs_um or study.etdrs_erm or {})
    rows = []
    for name in names:
        thick, share = (study.etdrs_um or {}).get(name), (study.etdrs_erm or {}).get(name)
        rows.append({
            "name": "central subfield" if name == "CSF" else name.replace("_", " "),
            "thickness": "—" if thick is None or not math.isfinite(thick.mean) else f"{thick.mean:.0f} µm",
            "share": "—" if share is None or not math.isfinite(share.mean) else f"{100 * share.mean:.0f} %",
            "coverage": f"{100 * (thick or share).coverage:.0f} %",
        })  # fmt: skip
    return rows


def _stage(study: Study) -> dict[str, Any] | None:
    stage = study.stage
    if stage is None:
        return None
    name = "cannot tell" if stage.value is None else f"{stage.value} of 4 (Govetto)"
    measures = {k: v for k, v in stage.measures.items() if isinstance(v, (int, float)) and math.isfinite(v)}
    return {
        "name": name, "why": stage.why, "trace": list(stage.trace),
        "measures": [_measure(key, value) for key, value in measures.items()],
    }  # fmt: skip


def _measure(key: str, value: float) -> tuple[str, str]:
    """("wall_um_per_mm", 343.1) -> ("wall", "343.1 µm/mm")"""
    for end, unit in (("_um_per_mm", "µm/mm"), ("_um", "µm"), ("_mm", "mm")):
        if key.endswith(end):
            return key.removesuffix(end).replace("_", " "), f"{value:.1f} {unit}".replace("-", "−")
    return key.replace("_", " "), number(value)


def _thumbs(study: Study) -> list[dict[str, Any]]:
    extents = bscans.membrane_extents_mm(study)
    scans = study.volume.scans
    order = [k for direction in study.volume.directions for k in study.volume.of(direction)]
    return [
        {"id": scans[k].scan_id, "svg": bscans.bscan_small(study, k),
         "extent": "" if extents is None or extents[k] == 0 else f"{extents[k]:.1f} mm"}
        for k in order
    ]  # fmt: skip


def _sources(study: Study) -> list[tuple[str, str]]:
    """Every model and formula once, with how many findings it stands behind."""
    used: dict[tuple[tuple[str, str], ...], int] = {}
    for finding in study.document.findings:
        source = tuple((key, str(value)) for key, value in sorted(finding.source.items()))
        if source:
            used[source] = used.get(source, 0) + 1
    rows = []
    for source, count in used.items():
        parts = dict(source)
        name = parts.pop("name", "") or ("model" if "model" in parts else "formula" if "formula" in parts else "code")
        words = ", ".join(value if key == "formula" else f"{key} {value}" for key, value in parts.items())
        rows.append((name, f"{words} ({count} finding{'s' if count > 1 else ''})"))
    return rows


def _input(study: Study) -> list[tuple[str, str]]:
    volume = study.volume
    scan = volume.scans[0]
    spacing = [f"{d}: {1000 * s:.0f} µm" for d in volume.directions if (s := volume.line_spacing_mm(d)) is not None]
    return [
        ("format", volume.source),
        ("B-scan", f"{scan.width} × {volume.depth} px"),
        ("axial scale", f"{volume.axial_um:.2f} µm/px"),
        ("lateral scale", f"{1000 * scan.length_mm / scan.width:.2f} µm/px"),
        ("scale taken from", volume.scale_from),
        ("distance of lines", ", ".join(spacing) or "one line"),
    ]


def _environment(study: Study) -> list[tuple[str, str]]:
    found = record.environment()
    git = found["git"]
    rows = [("revision", git.get("revision", "") + (" (changed)" if git.get("dirty") else ""))]
    rows += [("python", found["python"]), ("platform", found["platform"])]
    rows += list(found["versions"].items())
    rows += [(f"time, {step}", f"{seconds:.1f} s") for step, seconds in study.timings_s.items()]
    return [(name, value) for name, value in rows if value]
