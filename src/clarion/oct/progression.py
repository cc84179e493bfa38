"""Two visits of one eye compared: what grew, what thickened, and whether that is more than a repeated scan would show.

Both visits are brought to the first one's frame (clarion.oct.registration) and compared where both were scanned. A
change counts only beyond the repeatability limit: what the difference of two scans of an unchanged eye stays below in
95 % of cases (1.96 SD of the difference; Bland and Altman 1986, Lancet 327:307). That SD was measured on phantom eyes
scanned twice and is shipped as repeatability.json, with n and with what found the layers and the membrane there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from math import isfinite, sqrt
from typing import Any, Protocol

import numpy as np

from clarion.errors import DataError, UsageError
from clarion.oct import etdrs
from clarion.oct.enface import Grid
from clarion.oct.registration import Registration, register, warp
from clarion.oct.volume import Flag, Volume

LEVEL, _Z = 0.95, 1.96
_DAYS = 365.25
_MIN_COMMON, _MIN_COVERAGE = 0.6, 0.9
_LOOSE_MM = 0.06  # residual of the registration worth telling: two pixels of the maps
SECTOR_KINDS = ("CSF", "inner", "outer")


class StudyLike(Protocol):
    """What is read of a clarion.oct.study.Study; all but volume and grid may be None."""

    volume: Volume
    grid: Grid
    projection: Any  # .probability float [rows, columns], 0-1, NaN where nothing was scanned
    thickness: Any  # .total um [rows, columns]
    fovea: Any  # .x_mm .y_mm .confident
    area: Any  # .value_mm2


@dataclass(frozen=True)
class Repeatability:
    """SD of the difference between two scans of an unchanged eye.

    Area's SD grows with the root of the area (the boundary does): area_mm * sqrt(area in mm2), and at least
    area_floor_mm2. thickness_um: by kind of ETDRS sector. spacing_mm: of the lines it was measured with.
    """

    area_mm: float
    area_floor_mm2: float
    thickness_um: dict[str, float]
    spacing_mm: float
    n: int
    source: str  # what found layers and membrane
    registration_mm: float | None = None

    def area_sd_mm2(self, area_mm2: float, spacing_mm: float) -> float:
        """Coarser lines scatter more (their error grows with spacing^1.5: a boundary of random course)."""
        coarser = max(1.0, spacing_mm / self.spacing_mm) ** 1.5
        return coarser * max(self.area_mm * sqrt(max(area_mm2, 0)), self.area_floor_mm2)


@dataclass(frozen=True)
class Visit:
    """Which scan a visit was: digest of the input, pseudonym, device, and whether it is a phantom's."""

    study: str
    patient: str
    device: str
    data_kind: str


@dataclass(frozen=True)
class Change:
    """second - first, in `unit`. limit: of repeatability, the half-width of the 95 % interval too."""

    first: float
    second: float
    value: float
    interval: tuple[float, float, float]  # low, high, level
    limit: float
    unit: str

    @property
    def changed(self) -> bool:
        return abs(self.value) > self.limit

    @property
    def verdict(self) -> str:
        if not self.changed:
            return "no change beyond repeatability"
        return "increased" if self.value > 0 else "decreased"


@dataclass(frozen=True)
class Progression:
    """Everything between two visits, on the first visit's grid. None or absent: see `omitted` (name -> reason)."""

    registration: Registration
    grid: Grid
    years: float | None
    area: Change | None  # mm2, where both visits were scanned
    growth_mm2_per_year: tuple[float, float, float] | None  # value, low, high
    csf: Change | None  # um, central subfield round the first visit's fovea
    sectors: dict[str, Change]  # um
    thickness_change_um: np.ndarray | None = field(repr=False)  # float32 [rows, columns]
    new_erm: np.ndarray | None = field(repr=False)  # bool [rows, columns]
    lost_erm: np.ndarray | None = field(repr=False)
    common: np.ndarray = field(repr=False)  # bool: scanned at both visits
    common_share: float
    repeatability: Repeatability
    flags: tuple[Flag, ...] = ()
    omitted: dict[str, str] = field(default_factory=dict)
    visits: tuple[Visit, ...] = ()  # first, second

    @property
    def data_kind(self) -> str:
        """That of both visits; of mixed kinds the most guarded, private."""
        kinds = {visit.data_kind for visit in self.visits}
        return kinds.pop() if len(kinds) == 1 else "private"

    def to_dict(self) -> dict[str, Any]:
        """Numbers, verdicts and reasons as plain data; maps are left out."""

        def plain(change: Change | None) -> dict[str, Any] | None:
            return None if change is None else {**asdict(change), "interval": list(change.interval),
                                                "changed": change.changed, "verdict": change.verdict}  # fmt: skip

        pixel = self.grid.pixel_mm2
        return {
            "data_kind": self.data_kind,
            "visits": [asdict(visit) for visit in self.visits],
            "registration": {**asdict(self.registration), "shift_mm": list(self.registration.shift_mm)},
            "years": self.years,
            "area": plain(self.area),
            "new_erm_mm2": None if self.new_erm is None else float(self.new_erm.sum() * pixel),
            "lost_erm_mm2": None if self.lost_erm is None else float(self.lost_erm.sum() * pixel),
            "growth_mm2_per_year": None if self.growth_mm2_per_year is None else list(self.growth_mm2_per_year),
            "csf": plain(self.csf),
            "sectors": {name: plain(change) for name, change in self.sectors.items()},
            "common_share": self.common_share,
            "repeatability": asdict(self.repeatability),
            "flags": [asdict(flag) for flag in self.flags],
            "omitted": dict(self.omitted),
        }


def compare(
    first: StudyLike,
    second: StudyLike,
    years: float | None = None,
    repeatability: Repeatability | None = None,
    registration: Registration | None = None,
) -> Progression:
    """The change from the first visit to the second.

    years: between the visits; None: from the dates of the scans. repeatability: None: the shipped one.
    registration: None: found here. DataError for a right eye against a left one, for visits in the wrong order, and
    for scans that do not match; UsageError for years that are not above 0.
    """
    years, flags = check_visits(first.volume, second.volume, years)
    omitted: dict[str, str] = {}
    if registration is None:
        maps = None
        if first.thickness is not None and second.thickness is not None:
            maps = ((first.thickness.total, first.grid), (second.thickness.total, second.grid))
        registration = register(first.volume.localiser, second.volume.localiser, maps)
    repeatability = repeatability or load_repeatability()
    scanned = np.isfinite(_mapped(first))
    common = scanned & np.isfinite(warp(_mapped(second), second.grid, first.grid, registration))
    share = float(common.sum() / max(scanned.sum(), 1))
    flags += _doubts(registration, share)

    area = new = lost = growth = None
    if first.projection is None or second.projection is None:
        omitted["area_change"] = "The membrane was not mapped at both visits."
    elif not common.any():
        omitted["area_change"] = "The visits have no scanned region in common."
    else:
        area, new, lost = _area_change(first, second, registration, common, repeatability)
    if area is not None and years is None:
        omitted["growth"] = "The time between the visits is unknown: give it in years."
    elif area is not None:
        growth = tuple(v / years for v in (area.value, *area.interval[:2]))

    difference, sectors = None, {}
    if first.thickness is None or second.thickness is None:
        omitted["thickness_change"] = "Thickness was not measured at both visits."
    else:
        later = warp(second.thickness.total, second.grid, first.grid, registration)
        difference = (later - first.thickness.total).astype(np.float32)
        sectors, why = _sector_changes(first, second, difference, registration, repeatability)
        omitted.update(why)
    return Progression(
        registration, first.grid, years, area, growth, sectors.get(etdrs.CENTRAL), sectors, difference, new, lost,
        common, share, repeatability, tuple(flags), omitted,
        tuple(_visit(study.volume) for study in (first, second)),
    )  # fmt: skip


def load_repeatability() -> Repeatability:
    """The repeatability that is shipped with the package (repeatability.json; made by validation/progression.py)."""
    text = resources.files("clarion.oct").joinpath("repeatability.json").read_text(encoding="utf-8")
    return Repeatability(**json.loads(text)["repeatability"])


def check_visits(first: Volume, second: Volume, years: float | None) -> tuple[float | None, list[Flag]]:
    """Years between two visits (None: unknown) and what speaks against comparing them.

    DataError for a right eye against a left one and for visits in the wrong order; UsageError for years not above 0.
    """
    return _interval_years(first, second, years), _identity(first, second)


def _interval_years(first: Volume, second: Volume, years: float | None) -> float | None:
    if years is not None:
        if not (isfinite(years) and years > 0):
            raise UsageError(f"The time between the visits must be above 0 years, not {years:g}: give them in order.")
        return float(years)
    if first.acquired is None or second.acquired is None:
        return None
    days = (second.acquired - first.acquired).days
    if days < 0:
        raise DataError("The first visit is later than the second: give the earlier scan first.")
    return days / _DAYS if days else None


def _identity(first: Volume, second: Volume) -> list[Flag]:
    """What speaks against comparing: DataError where the eyes are on different sides, flags for the rest."""
    flags = []
    if first.laterality and second.laterality and first.laterality != second.laterality:
        raise DataError(f"The first visit is of a {_side(first)} eye, the second of a {_side(second)} eye: "
                        "compare scans of the same eye.")  # fmt: skip
    if not (first.laterality and second.laterality):
        flags.append(Flag("laterality_unknown", "The side of the eye is not known at both visits."))
    if first.study_id == second.study_id:
        flags.append(Flag("same_scan", "Both visits are the same scan: every change is 0 by construction."))
    if first.patient_id != second.patient_id:
        message = "The visits carry different patient pseudonyms: check that both are of one patient."
        flags.append(Flag("patient_differs", message))
    if first.device != second.device:
        message = f"The visits were scanned on different devices ({first.device}; {second.device}): their thickness "
        flags.append(Flag("device_differs", message + "is not interchangeable."))
    patterns = [sorted((d, round(v.line_spacing_mm(d) or 0, 3)) for d in v.directions) for v in (first, second)]
    if patterns[0] != patterns[1]:
        flags.append(Flag("pattern_differs", "The visits were scanned with different line patterns."))
    return flags


def _visit(volume: Volume) -> Visit:
    return Visit(volume.study_id, volume.patient_id, volume.device, volume.data_kind)


def _side(volume: Volume) -> str:
    return {"OD": "right", "OS": "left"}[volume.laterality]


def _doubts(registration: Registration, share: float) -> list[Flag]:
    flags = []
    if not registration.proves_identity:
        message = "The visits were registered on thickness maps, as an infrared picture is missing: "
        flags.append(Flag("registered_on_thickness", message + "this does not prove that they are of the same eye."))
    if registration.residual_mm is not None and registration.residual_mm > _LOOSE_MM:
        message = f"Parts of the visits still lie {registration.residual_mm * 1000:.0f} um apart after registration."
        flags.append(Flag("registration_loose", message))
    if share < _MIN_COMMON:
        flags.append(Flag("little_in_common", f"Only {100 * share:.0f} % of the first visit's scan was scanned again."))
    return flags


def _mapped(study: StudyLike) -> np.ndarray:
    """A map of the study that is NaN where it was not scanned."""
    if study.projection is not None:
        return study.projection.probability
    if study.thickness is not None:
        return study.thickness.total
    raise DataError("A visit has neither a membrane map nor a thickness map: there is nothing to compare.")


def _area_change(
    first: StudyLike, second: StudyLike, registration: Registration, common: np.ndarray, repeatability: Repeatability
) -> tuple[Change, np.ndarray, np.ndarray]:
    """Change of area inside what both scanned, and where membrane is new and lost.

    Each visit's own area (with its gain and rule) is shared out by the integral of its map inside the common region,
    so that a membrane that lies inside keeps the area its study reports.
    """
    pixel = first.grid.pixel_mm2
    later = warp(second.projection.probability, second.grid, first.grid, registration)
    inside = [float(np.sum(p[common], dtype=np.float64)) * pixel for p in (first.projection.probability, later)]
    areas = []
    for study, part in zip((first, second), inside):
        whole = float(np.nansum(study.projection.probability, dtype=np.float64)) * study.grid.pixel_mm2
        reported = getattr(study.area, "value_mm2", None)
        areas.append(part if reported is None or whole <= 0 else reported * min(part / whole, 1.0))
    spacing = max(_finest(v) for v in (first.volume, second.volume))
    limit = _Z * repeatability.area_sd_mm2(sum(areas) / 2, spacing)
    before, after = first.projection.probability >= 0.5, later >= 0.5
    return _change(*areas, limit, "mm2"), after & ~before & common, before & ~after & common


def _finest(volume: Volume) -> float:
    spacings = [s for d in volume.directions if (s := volume.line_spacing_mm(d))]
    return min(spacings, default=0.0)


def _sector_changes(
    first: StudyLike, second: StudyLike, difference: np.ndarray, registration: Registration, limits: Repeatability
) -> tuple[dict[str, Change], dict[str, str]]:
    """Change of each ETDRS sector round one and the same point of the retina, um, and why sectors are missing."""
    fovea = _common_fovea(first, second, registration)
    if fovea is None:
        return {}, {"csf_change": "The fovea was not found with confidence at either visit."}
    side = first.volume.laterality or second.volume.laterality
    both = np.where(np.isfinite(difference), first.thickness.total, np.nan)
    start, more = (etdrs.sectors(values, first.grid, fovea, side) for values in (both, difference))
    found, why = {}, {}
    for name, sector in more.items():
        if sector.coverage < _MIN_COVERAGE or not isfinite(sector.mean):
            why[f"sector_{name}"] = f"Only {100 * sector.coverage:.0f} % of it was measured at both visits."
            continue
        sd = limits.thickness_um[next(kind for kind in SECTOR_KINDS if name.startswith(kind))]
        before = start[name].mean
        found[name] = _change(before, before + sector.mean, _Z * sd, "um")
    if etdrs.CENTRAL not in found:
        why["csf_change"] = "The central subfield was not measured at both visits."
    return found, why


def _common_fovea(first: StudyLike, second: StudyLike, registration: Registration) -> tuple[float, float] | None:
    """The fovea in the first visit's frame; the second's, brought back, where only that is certain."""
    if first.fovea is not None and first.fovea.confident:
        return float(first.fovea.x_mm), float(first.fovea.y_mm)
    if second.fovea is not None and second.fovea.confident:
        x, y = registration.undo(second.fovea.x_mm, second.fovea.y_mm)
        return float(x), float(y)
    return None


def _change(first: float, second: float, limit: float, unit: str) -> Change:
    value = second - first
    return Change(float(first), float(second), float(value), (value - limit, value + limit, LEVEL), float(limit), unit)


def repeatability_of(
    areas_mm2: Sequence[tuple[float, float]], thickness_um: dict[str, Sequence[float]], spacing_mm: float, source: str,
    registration_mm: float | None = None,
) -> Repeatability:
    """Repeatability from pairs of scans of unchanged eyes: areas [(first, second)], differences by kind of sector.

    SDs are root mean squares of the differences: two scans of one eye have no true difference.
    """
    pairs = np.asarray(areas_mm2, float)
    mean, difference = pairs.mean(1), pairs[:, 1] - pairs[:, 0]
    under = mean > 0.5
    scale = float(np.sqrt(np.mean(difference[under] ** 2 / mean[under]))) if under.any() else 0.0
    floor = float(np.sqrt(np.mean(difference[~under] ** 2))) if (~under).any() else 0.0
    spread = {kind: float(np.sqrt(np.mean(np.square(v)))) for kind, v in thickness_um.items()}
    # Below 0.5 mm2 the root law ends; half of its value there keeps the limit from vanishing with the area.
    return Repeatability(scale, max(floor, 0.5 * scale * sqrt(0.5)), spread, spacing_mm, len(pairs), source,
                         registration_mm)  # fmt: skip
