"""Two visits of one eye -> a page: what changed beyond repeatability, on maps in the first visit's frame."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from clarion.report import enface_figures as enface
from clarion.report import study_pictures as pictures
from clarion.report.charts import number
from clarion.report.page import KINDS, environment, write
from clarion.report.study import EYES, UNITS, shown

if TYPE_CHECKING:
    from clarion.oct.progression import Change, Progression
    from clarion.oct.study import Study

_STEP_UM = 10.0  # the change map reaches to a multiple of this on both sides of 0
_LEAST_UM = 30.0
PHANTOM = "Phantom data: the B-scans were made by a simulator. These figures say nothing about a patient."


def write_progression_report(first_study: Study, second_study: Study, progression: Progression, path: Path) -> Path:
    """Write one static page that needs nothing but itself, and return its path."""
    page = (
        environment().get_template("progression.html").render(progression_view(first_study, second_study, progression))
    )
    return write(Path(path), page)


def progression_view(first: Study, second: Study, progression: Progression) -> dict[str, Any]:
    """Everything the template shows; an empty part is left out by it."""
    kinds = {first.document.data_kind, second.document.data_kind}
    kind = next(iter(kinds)) if len(kinds) == 1 else "private"  # of mixed kinds the most guarded holds
    eye = first.volume.laterality or second.volume.laterality
    return {
        "title": f"Change between two visits, {EYES[eye]}",
        "kind": kind,
        "kind_sentence": PHANTOM if kind == "phantom" else KINDS.get(kind, ""),
        "warnings": _warnings(first, second, progression),
        "facts": _facts(first, second, progression),
        "headline": _headline(progression),
        "maps": _maps(first, second, progression, eye),
        "changes": _changes(progression),
        "omitted": [{"name": name.replace("_", " "), "why": why} for name, why in progression.omitted.items()],
        "how": _how(progression),
    }


def _warnings(first: Study, second: Study, progression: Progression) -> list[str]:
    said = [flag.message for flag in progression.flags]
    for name, study in (("Visit 1", first), ("Visit 2", second)):
        own = [flag.message for flag in study.volume.flags] + [w["message"] for w in study.document.warnings]
        said += [f"{name}: {message}" for message in own]
    return list(dict.fromkeys(said))


def _facts(first: Study, second: Study, progression: Progression) -> list[tuple[str, str]]:
    facts = [
        ("patient", " / ".join(dict.fromkeys((first.volume.patient_id, second.volume.patient_id)))),
        ("visit 1", first.volume.study_id[:12]),
        ("visit 2", second.volume.study_id[:12]),
        ("device", " / ".join(dict.fromkeys((first.volume.device, second.volume.device)))),
        ("between them", "" if progression.years is None else f"{progression.years:.2f} years"),
        ("scanned twice", f"{100 * progression.common_share:.0f} % of visit 1"),
    ]
    return [(name, value) for name, value in facts if value.strip(" /")]


def _headline(progression: Progression) -> list[dict[str, str]]:
    rows = []
    if progression.area is not None:
        rows.append(_tile("Change of the membrane's area", progression.area))
    if progression.growth_mm2_per_year is not None:
        value, low, high = progression.growth_mm2_per_year
        rows.append({"name": "Growth of the membrane", "value": signed(value, "mm2"), "unit": "mm²/year",
                     "interval": f"{signed(low, 'mm2')} to {signed(high, 'mm2')} (95 %)", "verdict": ""})  # fmt: skip
    if progression.csf is not None:
        rows.append(_tile("Change of the central subfield", progression.csf))
    return rows


def _tile(name: str, change: Change) -> dict[str, str]:
    return {"name": name, "value": signed(change.value, change.unit), "unit": UNITS.get(change.unit, change.unit),
            "interval": _interval(change), "verdict": change.verdict}  # fmt: skip


def _interval(change: Change) -> str:
    low, high, level = change.interval
    return f"{signed(low, change.unit)} to {signed(high, change.unit)} ({100 * level:g} %)"


def _changes(progression: Progression) -> list[dict[str, Any]]:
    named = [("Area of the membrane", progression.area)]
    named += [
        ("Thickness, " + ("central subfield" if name == "CSF" else name.replace("_", " ")), change)
        for name, change in progression.sectors.items()
    ]
    return [
        {
            "name": name, "first": shown(change.first, change.unit), "second": shown(change.second, change.unit),
            "change": signed(change.value, change.unit), "limit": f"±{shown(change.limit, change.unit)}",
            "unit": UNITS.get(change.unit, change.unit), "verdict": change.verdict, "changed": change.changed,
        }
        for name, change in named if change is not None
    ]  # fmt: skip


def signed(value: float, unit: str | None = None) -> str:
    """shown() with a plus on what grew."""
    text = shown(value, unit)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def _maps(first: Study, second: Study, progression: Progression, eye: str | None) -> list[dict[str, Any]]:
    found = []
    for name, study in (("Visit 1", first), ("Visit 2", second)):
        if study.projection is not None:
            area = "" if study.area is None else f" {study.area.value_mm2:.2f} mm² in all that was scanned."
            found.append({
                "title": f"{name}: membrane", "bar": "",
                "svg": enface.projection_figure(study.volume, study.grid, study.projection, study.fovea),
                "caption": f"As scanned, in its own frame.{area}",
            })  # fmt: skip
    if progression.new_erm is not None and progression.lost_erm is not None:
        pixel = progression.grid.pixel_mm2
        new, lost = (float(m.sum()) * pixel for m in (progression.new_erm, progression.lost_erm))
        found.append({
            "title": "Membrane, visit 2 against 1", "bar": enface.membrane_legend(),
            "svg": enface.membrane_change_figure(
                first.volume, progression.grid, first.projection.mask, progression.new_erm, progression.lost_erm,
                progression.common,
            ),
            "caption": f"In the frame of visit 1: {new:.2f} mm² new, {lost:.2f} mm² gone by the maps alone. Edges "
                       "scatter between lines; the limit above says whether the sum is a change.",
        })  # fmt: skip
    change = progression.thickness_change_um
    if change is not None and np.isfinite(change).any():
        found.append(_thickness_map(first, second, progression, change, eye))
    return found


def _thickness_map(first, second, progression, change, eye) -> dict[str, Any]:
    largest = float(np.nanpercentile(np.abs(change), 98))
    reach = max(math.ceil(largest / _STEP_UM) * _STEP_UM, _LEAST_UM)
    limits = (-reach, reach)
    fovea = _fovea(first, second, progression)
    sectors = {name: SimpleNamespace(mean=c.value) for name, c in progression.sectors.items()}
    words = "Visit 2 minus visit 1, ILM to Bruch's membrane; red is thicker, blue thinner."
    return {
        "title": "Change of thickness, µm",
        "bar": enface.colour_bar(limits, "µm", pictures.DIVERGING),
        "svg": enface.map_figure(
            first.volume,
            progression.grid,
            change,
            limits,
            f"Map: {words}",
            None,
            fovea,
            sectors,
            pictures.DIVERGING,
            signed=True,
        ),
        "caption": words + (" Numbers: mean change by ETDRS sector, µm." if sectors else ""),
    }


def _fovea(first: Study, second: Study, progression: Progression):
    """Where the sectors of the comparison were centred: the first visit's fovea, else the second's brought back."""
    if first.fovea is not None and first.fovea.confident:
        return first.fovea
    if second.fovea is not None and second.fovea.confident:
        x, y = progression.registration.undo(second.fovea.x_mm, second.fovea.y_mm)
        return SimpleNamespace(x_mm=float(x), y_mm=float(y), confident=True)
    return None


def _how(progression: Progression) -> list[tuple[str, str]]:
    found, limit = progression.registration, progression.repeatability
    residual = "" if found.residual_mm is None else f"{1000 * found.residual_mm:.0f} µm"
    rows = [
        ("registered on", {"localiser": "vessels of the infrared images"}.get(found.source, f"{found.source} maps")),
        ("shift", f"{found.shift_mm[0]:+.3f}, {found.shift_mm[1]:+.3f} mm"),
        ("rotation", f"{found.rotation_deg:+.2f}°"),
        ("correlation", f"{number(found.correlation)}, {found.distinct:.1f} times that of the best other place"),
        ("left between tiles", residual),
        ("repeatability measured on", f"{limit.n} pairs of scans ({limit.source}), lines {1000 * limit.spacing_mm:.0f} "
                                      "µm apart"),
        ("limit", "1.96 SD of the difference of two scans of an unchanged eye"),
    ]  # fmt: skip
    return [
        (name, value.replace("-", "−") if name in ("shift", "rotation") else value) for name, value in rows if value
    ]
