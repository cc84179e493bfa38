"""Thickness maps in um from segmented surfaces, and what crossing scan lines say about their precision.

A thickness is axial: rows between two surfaces times um per row, without correction for the slant of the retina, as
the devices report it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from clarion.errors import DataError
from clarion.oct.enface import Grid, fused_map
from clarion.oct.volume import SURFACES, Volume

LAYERS = ("RNFL", "GCIPL", "INL", "OPL", "ONL", "EZ-RPE", "RPE-BM")  # between consecutive SURFACES
_ILM, _INL_OPL, _BM = (SURFACES.index(name) for name in ("ILM", "INL/OPL", "BM"))
_SLABS = {"total": (_ILM, _BM), "inner": (_ILM, _INL_OPL), "outer": (_INL_OPL, _BM)}
_SLABS.update({name: (k, k + 1) for k, name in enumerate(LAYERS)})
# Two lines may not pass a crossing closer to their ends than this many A-scans: there they were cut off.
_END = 1


@dataclass(frozen=True)
class ThicknessMaps:
    """um, float32 [rows, columns] of one Grid; NaN where nothing was scanned or a surface is missing."""

    total: np.ndarray = field(repr=False)  # ILM to BM
    inner: np.ndarray = field(repr=False)  # ILM to INL/OPL: RNFL, GCL, IPL, INL
    outer: np.ndarray = field(repr=False)  # INL/OPL to BM
    layers: dict[str, np.ndarray] = field(repr=False)  # by LAYERS


@dataclass(frozen=True)
class Crossings:
    """How well horizontal and vertical scans agree where they cross; None where there is no crossing.

    mean_abs_um: mean |H - V|. bias_um: mean H - V. sd_um: within-point SD of a single measurement,
    sqrt(mean (H - V)^2 / 2) (Bland and Altman 1996, BMJ 313:744). repeatability_um: 1.96 sqrt(2) sd_um, what two
    measurements of one point differ by in 95 % of cases.
    """

    mean_abs_um: float | None
    bias_um: float | None
    sd_um: float | None
    repeatability_um: float | None
    n: int


def scan_thickness_um(volume: Volume, surfaces: list[np.ndarray], slab: str = "total") -> list[np.ndarray]:
    """Thickness along every scan, float32 [width] each, um; slab: "total", "inner", "outer" or one of LAYERS.

    Surfaces that cross give 0, never less. DataError if surfaces do not fit the scans.
    """
    top, bottom = _SLABS[slab]
    checked(volume, surfaces)
    return [np.maximum((rows[bottom] - rows[top]) * volume.axial_um, 0).astype(np.float32) for rows in surfaces]


def thickness_maps(volume: Volume, surfaces: list[np.ndarray], grid: Grid) -> ThicknessMaps:
    """All thickness maps of a volume; surfaces: float [8, width] rows a scan (px), NaN where not measurable.

    Each slab is interpolated along the lines of a direction, by splines across them, and both directions are fused
    (clarion.oct.enface.fuse). DataError if surfaces do not fit the scans.
    """
    maps = {slab: fused_map(volume, scan_thickness_um(volume, surfaces, slab), grid, cubic=True) for slab in _SLABS}
    return ThicknessMaps(maps["total"], maps["inner"], maps["outer"], {name: maps[name] for name in LAYERS})


def crossing_difference_um(volume: Volume, surfaces: list[np.ndarray], slab: str = "total") -> Crossings:
    """Thickness of horizontal against vertical scans at every point where two lines cross.

    The two were taken at different moments and segmented apart from each other, so their difference holds
    segmentation noise and eye motion: a precision of this very study, with no second visit.
    """
    thickness = scan_thickness_um(volume, surfaces, slab)
    h, v = volume.of("H"), volume.of("V")
    if not h or not v:
        return Crossings(None, None, None, None, 0)
    a, b = _ends(volume, h), _ends(volume, v)
    # Solve start_h + s (end_h - start_h) = start_v + t (end_v - start_v) for every pair [H, V].
    d, e = (a[:, 1] - a[:, 0])[:, None], (b[:, 1] - b[:, 0])[None]
    gap = b[None, :, 0] - a[:, None, 0]
    cross = d[..., 0] * e[..., 1] - d[..., 1] * e[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        s = (gap[..., 0] * e[..., 1] - gap[..., 1] * e[..., 0]) / cross
        t = (gap[..., 0] * d[..., 1] - gap[..., 1] * d[..., 0]) / cross
    at_h = np.stack([_along(thickness[k], s[i]) for i, k in enumerate(h)])
    at_v = np.stack([_along(thickness[k], t[:, j]) for j, k in enumerate(v)], axis=1)
    difference = (at_h - at_v)[np.isfinite(at_h - at_v)]
    if not difference.size:
        return Crossings(None, None, None, None, 0)
    sd = float(np.sqrt(np.mean(difference**2) / 2))
    return Crossings(
        float(np.abs(difference).mean()), float(difference.mean()), sd, float(1.96 * np.sqrt(2) * sd), difference.size
    )


def checked(volume: Volume, surfaces: list[np.ndarray]) -> None:
    """DataError unless there is one [8, width] array a scan."""
    wrong = len(surfaces) != len(volume.scans) or any(
        np.shape(rows) != (len(SURFACES), scan.width) for rows, scan in zip(surfaces, volume.scans, strict=False)
    )
    if wrong:
        raise DataError(
            f"The surfaces do not fit the scans: {len(volume.scans)} arrays of {len(SURFACES)} rows of each scan's "
            "width are needed, in the order of the volume's scans; segment this volume again."
        )


def _ends(volume: Volume, chosen: list[int]) -> np.ndarray:
    """Start and end of the chosen scans, mm [n, 2, 2]."""
    return np.array([(volume.scans[k].start_mm, volume.scans[k].end_mm) for k in chosen], float)


def _along(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Linear values at shares 0-1 of a line's length; NaN off the line."""
    column = np.where(np.isfinite(share), share, -1.0) * values.size - 0.5
    inside = (column >= _END) & (column <= values.size - 1 - _END)
    return np.where(inside, np.interp(column, np.arange(values.size), values.astype(float)), np.nan)
