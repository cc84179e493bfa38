"""From values along scan lines to maps on one en-face grid, horizontal and vertical lines fused.

Between two lines a value is interpolated; how far that can be trusted falls with the distance to the nearest line.
Where both directions were scanned, each point takes a mean weighted by that trust, so that a horizontal line decides
along itself and a vertical one along its own course.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clarion.oct.volume import Volume

STEP_MM = 0.03


@dataclass(frozen=True)
class Grid:
    """Square pixels en face. x0_mm, y0_mm: the outer corner of pixel [0, 0]; maps on it are [rows, columns]."""

    x0_mm: float
    y0_mm: float
    columns: int
    rows: int
    step_mm: float = STEP_MM

    def axes_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """x of the columns' and y of the rows' middles, mm."""
        return (
            self.x0_mm + (np.arange(self.columns) + 0.5) * self.step_mm,
            self.y0_mm + (np.arange(self.rows) + 0.5) * self.step_mm,
        )

    def mm(self) -> tuple[np.ndarray, np.ndarray]:
        """x, y in mm of every pixel's middle, [rows, columns] each."""
        return np.meshgrid(*self.axes_mm())

    @property
    def pixel_mm2(self) -> float:
        return self.step_mm**2


def grid_of(volume: Volume, step_mm: float = STEP_MM) -> Grid:
    """The grid that covers every line of the volume and half a line spacing beyond its end lines."""
    points = np.array([p for scan in volume.scans for p in (scan.start_mm, scan.end_mm)])
    margin = {d: (volume.line_spacing_mm(d) or 0.0) / 2 for d in volume.directions}
    low, high = points.min(0), points.max(0)
    for direction, axis in (("H", 1), ("V", 0)):
        if direction in margin:
            lines = np.array([(volume.scans[k].start_mm, volume.scans[k].end_mm) for k in volume.of(direction)])
            low[axis] = min(low[axis], lines[..., axis].min() - margin[direction])
            high[axis] = max(high[axis], lines[..., axis].max() + margin[direction])
    count = np.maximum(np.ceil((high - low) / step_mm - 1e-6).astype(int), 1)
    return Grid(float(low[0]), float(low[1]), int(count[0]), int(count[1]), step_mm)


def direction_map(
    volume: Volume, values: list[np.ndarray], direction: str, grid: Grid, cubic: bool = False
) -> tuple[np.ndarray, ...]:
    """Values of one direction's lines, interpolated linearly along and across them.

    cubic: across the lines by Catmull-Rom splines where the neighbours were measured. Right for what is smooth, such
    as thickness: linear between two lines cuts the bottom off a foveal pit. Wrong for probabilities: it overshoots.

    values: one float array [width] a scan of the volume (NaN: not measured). Returns (map, distance in mm to the
    nearest line), float32 [rows, columns]; NaN outside the raster, which reaches half a line spacing beyond its end
    lines (there the end line's value holds).
    """
    order = volume.of(direction)
    nothing = np.full((grid.rows, grid.columns), np.nan, np.float32)
    if not order:
        return nothing, nothing
    # The raster's own frame: u along the lines, v across them; a raster may be turned by a few degrees.
    first = volume.scans[order[0]]
    along = np.subtract(first.end_mm, first.start_mm)
    along = along / np.hypot(*along)
    across = np.array([-along[1], along[0]])
    v_lines = np.array([volume.scans[k].start_mm for k in order]) @ across
    sort = np.argsort(v_lines)
    order = [order[k] for k in sort]
    v_lines = v_lines[sort]
    # Some instruments scan every other line backwards: those are read from their end.
    ends = np.array([(volume.scans[k].start_mm, volume.scans[k].end_mm) for k in order]) @ along
    backwards = ends[:, 1] < ends[:, 0]
    u_starts = ends.min(1)
    pitch = np.array([volume.scans[k].length_mm / volume.scans[k].width for k in order])
    # All lines on one axis u, so that neighbours are compared at the same place.
    ends = u_starts + pitch * [volume.scans[k].width for k in order]
    u_axis = np.arange(u_starts.min(), ends.max(), pitch.min()) + pitch.min() / 2
    table = np.stack([
        _resample(np.asarray(values[k], np.float64)[:: -1 if back else 1], (u_axis - u0) / p - 0.5)
        for k, u0, p, back in zip(order, u_starts, pitch, backwards)
    ])  # fmt: skip

    x, y = grid.mm()
    u, v = x * along[0] + y * along[1], x * across[0] + y * across[1]
    spacing = float(np.median(np.diff(v_lines))) if len(v_lines) > 1 else grid.step_mm
    inside = (v >= v_lines[0] - spacing / 2) & (v <= v_lines[-1] + spacing / 2)
    at = np.interp(v, v_lines, np.arange(len(v_lines), dtype=float))
    low = np.clip(at.astype(int), 0, max(len(v_lines) - 2, 0))
    high = np.minimum(low + 1, len(v_lines) - 1)
    share = at - low
    column = (u - u_axis[0]) / pitch.min()
    inside &= (column > -1) & (column < len(u_axis))
    top, bottom = _lookup(table, low, column), _lookup(table, high, column)
    # Where one neighbour was not measured the nearer one decides alone, if it was.
    nearer = np.where(share < 0.5, top, bottom)
    value = np.where(np.isnan(top) | np.isnan(bottom), nearer, top * (1 - share) + bottom * share)
    if cubic:
        value = _catmull_rom(table, low, high, column, top, bottom, share, value)
    distance = np.minimum(np.abs(v - v_lines[low]), np.abs(v - v_lines[high]))
    return (
        np.where(inside, value, np.nan).astype(np.float32),
        np.where(inside, distance, np.nan).astype(np.float32),
    )


def fuse(maps: list[tuple[np.ndarray, np.ndarray]], scale_mm: float = 0.06) -> np.ndarray:
    """One map of several directions' (map, distance): weights 1 / (scale_mm^2 + distance^2), NaN where none measured.

    scale_mm: how far beside its line a B-scan still tells the truth (beam width and eye motion).
    """
    total, weight = 0.0, 0.0
    for value, distance in maps:
        w = np.where(np.isfinite(value) & np.isfinite(distance), 1 / (scale_mm**2 + np.square(distance)), 0.0)
        total = total + np.where(w > 0, value, 0.0) * w
        weight = weight + w
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / weight).astype(np.float32)


def fused_map(volume: Volume, values: list[np.ndarray], grid: Grid, cubic: bool = False) -> np.ndarray:
    """Values along every scan of the volume -> one map float32 [rows, columns], NaN where nothing was scanned.

    cubic: see direction_map.
    """
    return fuse([direction_map(volume, values, d, grid, cubic) for d in volume.directions])


def _catmull_rom(table, low, high, column, top, bottom, t, linear) -> np.ndarray:
    """Cubic through lines low and high with the slopes of their neighbours; `linear` where one was not measured."""
    before = np.where(low > 0, _lookup(table, np.maximum(low - 1, 0), column), 2 * top - bottom)
    last = len(table) - 1
    after = np.where(high < last, _lookup(table, np.minimum(high + 1, last), column), 2 * bottom - top)
    bend = 2 * before - 5 * top + 4 * bottom - after + t * (3 * (top - bottom) + after - before)
    cubic = top + 0.5 * t * (bottom - before + t * bend)
    return np.where(np.isfinite(cubic), cubic, linear)


def _resample(line: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Linear values of a line at fractional columns; NaN beyond its ends and beside unmeasured A-scans."""
    index = np.arange(line.size)
    value = np.interp(column, index, line, left=np.nan, right=np.nan)
    at_edge = (column >= -0.5) & (column <= line.size - 0.5) & ~((column >= 0) & (column <= line.size - 1))
    return np.where(at_edge, line[np.clip(np.rint(column).astype(int), 0, line.size - 1)], value)


def _lookup(table: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    c = np.clip(column, 0, table.shape[1] - 1)
    left = np.minimum(c.astype(int), max(table.shape[1] - 2, 0))
    right = np.minimum(left + 1, table.shape[1] - 1)
    part = c - left
    a, b = table[row, left], table[row, right]
    value = a * (1 - part) + b * part
    return np.where(np.isnan(value), np.where(part < 0.5, a, b), value)
