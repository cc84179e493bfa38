"""Govetto stage 0-4 of an epiretinal membrane from measured foveal numbers, with the rules that led to it.

Scheme (Govetto et al., Am J Ophthalmol 2017; 0 added for eyes without membrane): 1 membrane, foveal pit present; 2 pit
lost, outer nuclear layer widened; 3 continuous ectopic inner foveal layers (EIFL); 4 thick EIFL with disrupted layers.

Limits come from the published means by stage 0-4 (PMC9524009; um): EIFL 7.5, 12, 27, 161, 362; ONL 126, 143, 201, 206,
177; central thickness 246+-46, 258+-45, 346+-45, 434+-61, 614. EIFL spans a factor of 50, so a limit between two
stages is the geometric mean of theirs: 12 and 27 -> 18 um, 27 and 161 -> 66 um, 161 and 362 -> 241 um. The pit is
lost where the fovea lies less than 20 um below its rim: a healthy rim of about 320 um (Dubis) less the midpoint 302 um
of the central thickness of stages 1 and 2. A pit within 15 um of that limit (a third of the central thickness' SD of
45 um) is decided by EIFL. ONL and central thickness corroborate and are said in the trace; they decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from clarion.oct.volume import SURFACES, Volume

EIFL_LIMIT_UM = (66.0, 241.0)  # stage 2 | 3, stage 3 | 4
PIT_LIMIT_UM = 20.0  # stage 1 | 2
PIT_DOUBT_UM = 15.0  # this close to the limit, the inner layers decide
PIT_EIFL_UM = 18.0  # stage 1 | 2 where the pit is in doubt
ONL_WIDE_UM = 170.0  # midpoint of stages 1 and 2: 143, 201
THICK_UM = 518.0  # central thickness equally far, in SD, from stage 3 (434+-61) and 4 (614+-70)
STEEP_UM_PER_MM = 700.0  # 35 degrees; a foveal slope in health is 8 to 20 degrees
ERM_SHARE_LIMIT = 0.05  # of the A-scans within 3 mm of the fovea

_CENTRE_MM = 0.10  # half-width of the foveal centre
_CONTINUOUS_MM = 0.25  # EIFL is continuous if it is nowhere thin within this distance
_CONTINUOUS_SHARE = 0.4  # of its mean
_RIM_MM = (0.7, 1.1)
_WALL_MM = 0.6
_ERM_RADIUS_MM = 3.0
_MAX_OFF_MM = 0.15  # a line this far from the foveal centre is no scan through the fovea
_MIN_MEASURED = 0.6
_MYOID_UM = 30.0  # external limiting membrane to EZ: inside the OPL/ONL-EZ slab, outside the published ONL
_CLOSE = 0.15

_ROW = {name: k for k, name in enumerate(SURFACES)}
NAMES = ("no epiretinal membrane", "stage 1", "stage 2", "stage 3", "stage 4")


class FoveaLike(Protocol):
    """What staging and progression read of clarion.oct.fovea.Fovea."""

    x_mm: float
    y_mm: float
    confident: bool
    why: str


@dataclass(frozen=True)
class Stage:
    """value: 0-4, or None with the reason in `why`. trace: the rules in the order they were asked."""

    value: int | None
    trace: tuple[str, ...] = ()
    measures: dict[str, float] = field(default_factory=dict)  # um unless the name says otherwise
    why: str = ""
    scan_ids: tuple[str, ...] = ()  # the scans through the fovea that were measured

    @property
    def name(self) -> str:
        return "cannot tell" if self.value is None else NAMES[self.value]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def grade(
    volume: Volume,
    surfaces: Sequence[np.ndarray],
    fovea: FoveaLike | None,
    presence: Sequence[np.ndarray] | None = None,
    erm_share: float | None = None,
) -> Stage:
    """The stage of one eye, or "cannot tell" (value None) with the reason.

    surfaces: rows float [8, width] of each scan, NaN where unmeasured. presence: probability of ERM at each A-scan,
    float [width] of each scan; or erm_share: the share (0-1) of the macula under ERM, where that is known already.
    """
    if fovea is None:
        return Stage(None, why="The fovea was not found.")
    if not fovea.confident:
        return Stage(None, why=f"The place of the fovea is not certain: {fovea.why or 'no reason given'}")
    if erm_share is None and presence is not None:
        erm_share = central_erm_share(volume, presence, fovea)
    if erm_share is None or not np.isfinite(erm_share):
        return Stage(None, why="It was not measured whether there is an epiretinal membrane.")
    cuts = [cut for d in ("H", "V") if (cut := _central_cut(volume, surfaces, fovea, d)) is not None]
    if not cuts:
        return Stage(None, why=f"No scan passes within {_MAX_OFF_MM * 1000:.0f} um of the fovea: "
                               "the central scans are missing.")  # fmt: skip
    measured = [m for m in (_measure(volume.axial_um, *cut) for cut in cuts) if m is not None]
    if not measured:
        return Stage(None, why="The layers could not be measured at the foveal centre.")
    measures = {name: float(np.mean([m[name] for _, m in measured])) for name in measured[0][1]}
    measures["eifl_min_um"] = min(m["eifl_min_um"] for _, m in measured)
    measures["wall_um_per_mm"] = max(m["wall_um_per_mm"] for _, m in measured)
    measures["erm_share"] = float(erm_share)
    value, trace = _decide(measures)
    if len(measured) < 2:
        trace.append("Only one scan through the fovea could be measured: numbers rest on one direction.")
    return Stage(value, tuple(trace), measures, scan_ids=tuple(scan_id for scan_id, _ in measured))


def central_erm_share(volume: Volume, presence: Sequence[np.ndarray], fovea: FoveaLike) -> float | None:
    """Share of the A-scans within 3 mm of the fovea where ERM is more likely than not; None where none was scanned."""
    under, seen = 0, 0
    for scan, p in zip(volume.scans, presence, strict=True):
        x, y = scan.path_mm()
        near = (np.hypot(x - fovea.x_mm, y - fovea.y_mm) <= _ERM_RADIUS_MM) & np.isfinite(p)
        under += int(np.count_nonzero(np.asarray(p)[near] >= 0.5))
        seen += int(np.count_nonzero(near))
    return under / seen if seen else None


def _central_cut(
    volume: Volume, surfaces: Sequence[np.ndarray], fovea: FoveaLike, direction: str
) -> tuple[str, np.ndarray, np.ndarray] | None:
    """The nearest scan of a direction: (its id, mm along it from the fovea's foot [width], rows [8, width])."""
    best = None
    for k in volume.of(direction):
        scan = volume.scans[k]
        start, along = np.array(scan.start_mm), np.subtract(scan.end_mm, scan.start_mm)
        along = along / np.hypot(*along)
        to_fovea = np.array([fovea.x_mm, fovea.y_mm]) - start
        off = abs(to_fovea[0] * along[1] - to_fovea[1] * along[0])
        foot = float(to_fovea @ along)
        if off <= _MAX_OFF_MM and 0 <= foot <= scan.length_mm and (best is None or off < best[0]):
            position = (np.arange(scan.width) + 0.5) * scan.length_mm / scan.width - foot
            best = (off, scan.scan_id, position, np.asarray(surfaces[k], np.float64))
    return None if best is None else best[1:]


def _measure(axial_um: float, scan_id: str, s: np.ndarray, rows: np.ndarray) -> tuple[str, dict[str, float]] | None:
    """Foveal numbers of one scan, um; None where too little of the centre or of both rims was measured."""
    total = (rows[_ROW["BM"]] - rows[_ROW["ILM"]]) * axial_um
    eifl = (rows[_ROW["INL/OPL"]] - rows[_ROW["ILM"]]) * axial_um
    onl = (rows[_ROW["EZ"]] - rows[_ROW["OPL/ONL"]]) * axial_um - _MYOID_UM
    centre = np.abs(s) <= _CENTRE_MM
    rims = [(s >= _RIM_MM[0]) & (s <= _RIM_MM[1]), (-s >= _RIM_MM[0]) & (-s <= _RIM_MM[1])]
    if min(_measured(v[centre]) for v in (total, eifl, onl)) < _MIN_MEASURED:
        return None
    rim = [float(np.nanmean(total[r])) for r in rims if _measured(total[r]) >= _MIN_MEASURED]
    if not rim:
        return None
    central = float(np.nanmedian(total[centre]))
    wide = (np.abs(s) <= _CONTINUOUS_MM) & np.isfinite(eifl)
    return scan_id, {
        "pit_depth_um": float(np.mean(rim)) - central,
        "eifl_um": float(np.nanmedian(eifl[centre])),
        "eifl_min_um": float(np.quantile(eifl[wide], 0.05)),
        "onl_um": float(np.nanmedian(onl[centre])),
        "central_um": central,
        "rim_um": float(np.mean(rim)),
        "wall_um_per_mm": _steepest(s, total),
    }


def _measured(values: np.ndarray) -> float:
    return float(np.isfinite(values).mean()) if values.size else 0.0


def _steepest(s: np.ndarray, total: np.ndarray) -> float:
    """Steepest rise from the fovea outwards over 100 um, um per mm; the flatter of both sides, so that one fold of the
    surface is no hole."""
    good = np.isfinite(total)
    if good.sum() < 2:
        return float("nan")
    r = np.arange(0.0, _WALL_MM, 0.02)
    sides = [np.interp(sign * r, s[good], total[good]) for sign in (1, -1)]
    return float(min((side[5:] - side[:-5]).max() / 0.1 for side in sides))


def _decide(m: dict[str, float]) -> tuple[int, list[str]]:
    """Stage and its trace from the measures; the rules are asked from 0 up."""
    share = f"ERM covers {100 * m['erm_share']:.0f} % of the macula within {_ERM_RADIUS_MM:g} mm"
    if m["erm_share"] < ERM_SHARE_LIMIT:
        trace = [f"{share} (limit {100 * ERM_SHARE_LIMIT:.0f} %): no membrane, stage 0."]
        if m["pit_depth_um"] < PIT_LIMIT_UM:
            trace.append(f"The foveal pit is only {m['pit_depth_um']:.0f} um deep, which no membrane explains.")
        return 0, trace
    trace = [f"{share} (limit {100 * ERM_SHARE_LIMIT:.0f} %): a membrane is present, stage 1 or more."]
    low, high = EIFL_LIMIT_UM
    pit = _pit_present(m, trace)
    if pit and m["wall_um_per_mm"] >= STEEP_UM_PER_MM:
        trace.append(
            f"The pit's walls rise by {m['wall_um_per_mm']:.0f} um per mm (limit {STEEP_UM_PER_MM:.0f}): "
            "suspect a pseudohole or lamellar hole; the scheme grades it as pit present."
        )
    eifl = f"Inner layers at the foveal centre are {m['eifl_um']:.0f} um thick (limits {low:.0f} and {high:.0f} um)"
    if m["eifl_um"] < low:
        stage = 1 if pit else 2
        trace.append(f"{eifl}: no ectopic inner foveal layer, stage {stage}.")
    elif m["eifl_min_um"] < _CONTINUOUS_SHARE * m["eifl_um"]:
        stage = 1 if pit else 2
        trace.append(f"{eifl}, but they thin to {m['eifl_min_um']:.0f} um and are not continuous: stage {stage}.")
    else:
        stage = 4 if m["eifl_um"] >= high else 3
        trace.append(f"{eifl} and continuous: stage {stage}.")
    trace += _corroboration(stage, m)
    return stage, trace


def _pit_present(m: dict[str, float], trace: list[str]) -> bool:
    """Whether there is a foveal pit; says so in the trace."""
    depth = f"The fovea lies {m['pit_depth_um']:.0f} um below its rim (limit {PIT_LIMIT_UM:.0f} um)"
    if abs(m["pit_depth_um"] - PIT_LIMIT_UM) >= PIT_DOUBT_UM:
        pit = m["pit_depth_um"] >= PIT_LIMIT_UM
        trace.append(f"{depth}: the pit is " + ("present." if pit else "lost, stage 2 or more."))
        return pit
    pit = m["eifl_um"] < PIT_EIFL_UM
    trace.append(
        f"{depth}, too close to tell; with {m['eifl_um']:.0f} um of inner layers at its centre (limit "
        f"{PIT_EIFL_UM:.0f} um) the pit counts as " + ("present." if pit else "lost, stage 2 or more.")
    )
    return pit


def _corroboration(stage: int, m: dict[str, float]) -> list[str]:
    """What the measures that decide nothing say, and what lies close to a limit."""
    wide = m["onl_um"] >= ONL_WIDE_UM
    notes = [
        f"The outer nuclear layer is {m['onl_um']:.0f} um thick ({'widened' if wide else 'not widened'}; limit "
        f"{ONL_WIDE_UM:.0f} um), which {'agrees' if wide == (stage >= 2) else 'does not agree'} with stage {stage}."
    ]
    thick = m["central_um"] >= THICK_UM
    if thick != (stage == 4) and stage >= 3:
        notes.append(f"The central thickness of {m['central_um']:.0f} um is {'above' if thick else 'below'} the "
                     f"{THICK_UM:.0f} um that part stages 3 and 4.")  # fmt: skip
    for name, limit in (("eifl_um", EIFL_LIMIT_UM[0]), ("eifl_um", EIFL_LIMIT_UM[1])):
        if abs(m[name] / limit - 1) < _CLOSE:
            notes.append(f"The inner layers' {m[name]:.0f} um are within {100 * _CLOSE:.0f} % of a limit: borderline.")
    if stage == 4:
        notes.append("Disruption of the layers is inferred from their thickness; it is not measured by itself.")
    return notes
