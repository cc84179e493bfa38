"""En face map of the membrane: what each line says along itself, spread between the lines, on the localiser's frame.

Two readings of the same study: `project` fuses probabilities of horizontal and vertical lines, each weighted by how
near it is; `project_boxes` paints the x-extents of boxes line by line, as the published system draws its "projection
image" (Baek et al. 2025, doi 10.1109/ACCESS.2025.3629332; its code is not published, this follows its figure).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from clarion.errors import DataError
from clarion.oct.enface import STEP_MM, Grid, direction_map, fuse
from clarion.oct.presence.boxes import presence_from_boxes
from clarion.oct.volume import Volume

# How far beside its line a B-scan still speaks for itself. On 101 phantom eyes every choice from 0.01 to 0.24 mm gives
# a map of the same Dice score within 0.001 and the same mean area within 0.02 %; sharper weights scatter less.
SCALE_MM = 0.06
PRESENT = 0.5


@dataclass(frozen=True)
class Projection:
    """En face membrane maps [rows, columns] on one grid."""

    probability: np.ndarray = field(repr=False)  # float32, 0-1, NaN where nothing was scanned
    mask: np.ndarray = field(repr=False)  # bool: probability >= 0.5
    by_direction: dict[str, np.ndarray] = field(repr=False)  # "H", "V": float32 from that direction's lines alone
    scanned: np.ndarray = field(repr=False)  # bool: inside the raster of at least one direction
    method: str = "fused"  # "fused" | "boxes"


def project(volume: Volume, presence: list[np.ndarray], grid: Grid, scale_mm: float = SCALE_MM) -> Projection:
    """Probability of membrane at every point, horizontal and vertical lines fused by distance to the nearest line.

    presence: float [width] a scan, in the order of volume.scans, 0-1 (NaN: not measured). DataError on another count,
    another width or values outside 0-1.
    """
    presence = checked(volume, presence)
    maps = {d: direction_map(volume, presence, d, grid) for d in volume.directions}
    probability = np.clip(fuse(list(maps.values()), scale_mm), 0, 1)
    return Projection(
        probability=probability,
        mask=np.nan_to_num(probability) >= PRESENT,
        by_direction={d: value for d, (value, _) in maps.items()},
        scanned=np.isfinite(probability),
    )


def project_boxes(volume: Volume, boxes: list[np.ndarray | None], grid: Grid) -> Projection:
    """The published system's picture: each box's x-extent painted across its line's strip, both directions overlaid.

    boxes: [n, 4 or 5] x1, y1, x2, y2 (score) in px a scan, None or empty: no membrane. A strip is one line spacing wide
    (the nearest line decides), gaps inside a box are filled, and a point is membrane if either direction paints it.
    """
    painted = boxes_presence(volume, boxes)
    maps = {d: _nearest_line(volume, painted, d, grid) for d in volume.directions}
    stack = np.stack(list(maps.values()))
    scanned = np.isfinite(stack).any(0)
    mask = np.nan_to_num(stack).max(0) >= PRESENT
    probability = np.where(scanned, mask, np.nan).astype(np.float32)
    return Projection(probability, mask, maps, scanned, method="boxes")


def boxes_presence(volume: Volume, boxes: list[np.ndarray | None]) -> list[np.ndarray]:
    """1 inside the x-extent of any box, 0 elsewhere: float32 [width] a scan. DataError on another count of scans."""
    if len(boxes) != len(volume.scans):
        raise DataError(f"Boxes of {len(boxes)} scans for a volume of {len(volume.scans)}: give one entry a scan.")
    painted = []
    for scan, found in zip(volume.scans, boxes, strict=True):
        edges = np.zeros((0, 4)) if found is None or not len(found) else np.asarray(found, np.float64)[:, :4]
        painted.append(presence_from_boxes(np.column_stack([edges, np.ones(len(edges))]), scan.width))
    return painted


def checked(volume: Volume, presence: list[np.ndarray]) -> list[np.ndarray]:
    """The presence of every scan as float64 [width]; DataError where it does not fit the volume.

    Unreadable stretches up to one line spacing are bridged linearly, as the map bridges the space between lines;
    longer ones stay NaN and count as not scanned.
    """
    if len(presence) != len(volume.scans):
        raise DataError(f"Presence of {len(presence)} scans for a volume of {len(volume.scans)}: give one row a scan.")
    rows = []
    spacing = {d: volume.line_spacing_mm(d) or STEP_MM for d in volume.directions}
    for scan, values in zip(volume.scans, presence, strict=True):
        values = np.asarray(values, np.float64)
        if values.shape != (scan.width,):
            raise DataError(f"Presence of scan {scan.scan_id} has shape {values.shape}, its width is {scan.width} px.")
        if np.isinf(values).any() or np.nanmin(values, initial=0) < 0 or np.nanmax(values, initial=0) > 1:
            raise DataError(f"Presence of scan {scan.scan_id} is no probability: give values from 0 to 1.")
        reach = spacing[scan.direction] * scan.width / scan.length_mm
        rows.append(_bridged(values, reach))
    return rows


def _bridged(values: np.ndarray, reach: float) -> np.ndarray:
    """NaN between two measured A-scans at most `reach` px apart -> linear between them."""
    known = np.flatnonzero(~np.isnan(values))
    if known.size in (0, values.size):
        return values
    at = np.arange(values.size)
    after = np.searchsorted(known, at)
    left, right = known[np.maximum(after - 1, 0)], known[np.minimum(after, known.size - 1)]
    short = (left < at) & (at < right) & (right - left <= reach)
    return np.where(np.isnan(values) & short, np.interp(at, known, values[known]), values)


def _nearest_line(volume: Volume, values: list[np.ndarray], direction: str, grid: Grid) -> np.ndarray:
    """One direction's lines, each painted over its strip: float32 [rows, columns], NaN outside the raster."""
    order = volume.of(direction)
    inside = np.isfinite(direction_map(volume, values, direction, grid)[0])
    points = np.stack(grid.mm(), -1)[inside]  # [n, 2]
    starts = np.array([volume.scans[k].start_mm for k in order])
    along = np.array([np.subtract(volume.scans[k].end_mm, volume.scans[k].start_mm) for k in order])
    length = np.hypot(*along.T)
    along = along / length[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    # Lines of a raster are parallel: the first one's frame tells which line is nearest.
    line_v = starts @ across[0]
    sort = np.argsort(line_v)
    v = points @ across[0]
    nearest = sort[np.searchsorted((line_v[sort][1:] + line_v[sort][:-1]) / 2, v)]
    u = np.einsum("nk,nk->n", points - starts[nearest], along[nearest])
    width = np.array([volume.scans[k].width for k in order])
    column = np.clip((u / (length / width)[nearest]).astype(int), 0, width[nearest] - 1)
    table = np.zeros((len(order), width.max()), np.float32)
    for row, k in enumerate(order):
        table[row, : width[row]] = values[k]
    painted = np.full(inside.shape, np.nan, np.float32)
    painted[inside] = table[nearest, column]
    return painted
