"""The ETDRS macular grid: nine sectors of three circles (1, 3 and 6 mm across) round the fovea, and their means.

Early Treatment Diabetic Retinopathy Study report 7, Ophthalmology 1991; 98:741. A sector's mean weights every pixel of
the map by the share of it that lies inside the sector, so that the result does not hang on how the raster falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import nan, pi

import numpy as np

from clarion.oct.enface import Grid

RADII_MM = (0.5, 1.5, 3.0)
CENTRAL = "CSF"
# Quadrants as the map shows them, in the order of the sector table.
_QUADRANTS = ("superior", "right", "inferior", "left")
_SUBPIXELS = 64
_PLASTIC = (0.7548776662466927, 0.5698402909980532)  # R2 sequence: even, and aligned with no diagonal
AREA_MM2 = {
    CENTRAL: pi * RADII_MM[0] ** 2,
    "inner": pi * (RADII_MM[1] ** 2 - RADII_MM[0] ** 2) / 4,
    "outer": pi * (RADII_MM[2] ** 2 - RADII_MM[1] ** 2) / 4,
}

# Thickness by OCT; facts: LOINC 57108-3 to 57118-2. "centre_point" and "volume" are not sectors.
LOINC = {
    "centre_point": "57108-3",
    "CSF": "57109-1",
    "inner_superior": "57110-9",
    "inner_nasal": "57111-7",
    "inner_inferior": "57112-5",
    "inner_temporal": "57113-3",
    "outer_superior": "57114-1",
    "outer_nasal": "57115-8",
    "outer_inferior": "57116-6",
    "outer_temporal": "57117-4",
    "volume": "57118-2",
}


@dataclass(frozen=True)
class Sector:
    """mean: in the map's unit, over what was scanned (NaN if nothing was); area_mm2: of the whole sector;
    coverage: 0-1, the share of that area that was scanned and measured."""

    mean: float
    area_mm2: float
    coverage: float


def sector_names(laterality: str | None) -> tuple[str, ...]:
    """The nine names, central subfield first, then inner and outer ring clockwise from superior.

    Nasal is on the right of a right eye; of an unknown eye the sides are called right and left of the picture.
    """
    side = {"OD": {"right": "nasal", "left": "temporal"}, "OS": {"right": "temporal", "left": "nasal"}}
    words = side.get(laterality or "", {})
    return (CENTRAL, *(f"{ring}_{words.get(q, q)}" for ring in ("inner", "outer") for q in _QUADRANTS))


def sectors(values: np.ndarray, grid: Grid, fovea, laterality: str | None) -> dict[str, Sector]:
    """The nine sectors of a map [rows, columns] on `grid`; any unit, also a share 0-1 (share of a sector under ERM).

    fovea: a clarion.oct.fovea.Fovea or (x_mm, y_mm). laterality: "OD", "OS" or None.
    """
    weights = sector_weights(grid, *_xy(fovea)).reshape(9, -1)
    known = np.isfinite(values).ravel()
    flat = np.where(known, values.ravel(), 0).astype(np.float64)
    scanned = weights @ known.astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weights @ flat) / scanned
    areas = [AREA_MM2[CENTRAL], *[AREA_MM2["inner"]] * 4, *[AREA_MM2["outer"]] * 4]
    return {
        name: Sector(float(m), area, float(min(s * grid.pixel_mm2 / area, 1.0)) if s > 0 else 0.0)
        for name, m, s, area in zip(sector_names(laterality), mean, scanned, areas, strict=True)
    }


def volume_mm3(found: dict[str, Sector]) -> Sector:
    """Retinal volume within 6 mm from the nine sectors of a thickness map in um: Sector(mean=mm3, area, coverage).

    Sum of sector mean times sector area, so that a gap inside a sector takes its sector's mean; NaN if a whole sector
    was not scanned.
    """
    area = sum(s.area_mm2 for s in found.values())
    value = sum(s.mean * s.area_mm2 for s in found.values()) / 1000
    return Sector(float(value), area, sum(s.coverage * s.area_mm2 for s in found.values()) / area)


def centre_point(values: np.ndarray, grid: Grid, fovea, radius_mm: float = 0.1) -> Sector:
    """Mean within `radius_mm` of the fovea: the central point, over as wide a spot as fixation wanders."""
    x0, y0 = _xy(fovea)
    x, y = grid.mm()
    inside = np.hypot(x - x0, y - y0) <= radius_mm
    known = inside & np.isfinite(values)
    if not known.any():
        return Sector(nan, pi * radius_mm**2, 0.0)
    return Sector(float(np.mean(values[known], dtype=np.float64)), pi * radius_mm**2, float(known.sum() / inside.sum()))


@lru_cache(maxsize=4)
def sector_weights(grid: Grid, x_mm: float, y_mm: float) -> np.ndarray:
    """Share of each pixel inside each sector, float32 [9, rows, columns], order: centre, inner, outer ring (superior,
    right, inferior, left). Pixels on an edge are probed at 64 points."""
    x, y = grid.mm()
    x, y = x - x_mm, y - y_mm
    weights = np.zeros((9, grid.rows, grid.columns), np.float32)
    index = _sector_index(x, y)
    for k in range(9):
        weights[k] = index == k
    # A pixel is on an edge if a circle or a diagonal passes closer to its middle than half its diagonal.
    reach = grid.step_mm * np.sqrt(0.5)
    r = np.hypot(x, y)
    edge = (np.abs(r[..., None] - np.array(RADII_MM)) <= reach).any(-1)
    edge |= (np.abs(np.abs(x) - np.abs(y)) <= 2 * reach) & (r < RADII_MM[-1] + reach) & (r > RADII_MM[0] - reach)
    px, py = (((0.5 + np.arange(_SUBPIXELS) * a) % 1 - 0.5) * grid.step_mm for a in _PLASTIC)
    sub = _sector_index(x[edge][:, None] + px, y[edge][:, None] + py)
    for k in range(9):
        weights[k][edge] = (sub == k).mean(1)
    weights.setflags(write=False)  # it is shared by every caller
    return weights


def _sector_index(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """0 centre, 1-4 inner and 5-8 outer superior, right, inferior, left; 9 outside. y grows downwards."""
    ring = np.searchsorted(RADII_MM, np.hypot(x, y))  # 0, 1, 2, 3 = outside
    quadrant = np.where(np.abs(x) > np.abs(y), np.where(x > 0, 1, 3), np.where(y < 0, 0, 2))
    return np.where(ring == 0, 0, np.where(ring < 3, 1 + 4 * (ring - 1) + quadrant, 9))


def _xy(fovea) -> tuple[float, float]:
    """A Fovea or a pair -> (x, y) mm."""
    return (float(fovea.x_mm), float(fovea.y_mm)) if hasattr(fovea, "x_mm") else (float(fovea[0]), float(fovea[1]))
