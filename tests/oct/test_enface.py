"""Maps from lines: known functions come back, whatever way the raster lies."""

from __future__ import annotations

import numpy as np
import pytest

from clarion.oct.enface import Grid, direction_map, fuse, fused_map, grid_of
from clarion.oct.volume import Scan, Volume


def raster(lines: int = 9, spacing: float = 0.24, width: int = 200, pitch: float = 0.0117, directions: str = "HV",
           turn: float = 0.0) -> Volume:  # fmt: skip
    """Blank lines centred on (0, 0), vertical ones from bottom to top, the whole raster turned by `turn` rad."""
    image = np.broadcast_to(np.uint8(0), (8, width))
    half = width * pitch / 2
    frame = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    scans = []
    for d in directions:
        for k in range(lines):
            at = ((lines - 1) / 2 - k) * spacing
            ends = [(-half, at), (half, at)] if d == "H" else [(at, half), (at, -half)]
            start, end = (tuple(float(v) for v in np.array(p) @ frame) for p in ends)
            scans.append(Scan(f"{d}{k:02d}", image, d, k, start, end))
    return Volume(tuple(scans), 3.9, None, "p", "s", "Heidelberg Spectralis", "folder", "phantom")


def along_lines(volume: Volume, function) -> list[np.ndarray]:
    return [function(*scan.path_mm()) for scan in volume.scans]


def plane(x, y):
    return 3.0 + 0.7 * x - 1.3 * y


@pytest.mark.parametrize("directions", ["H", "V", "HV"])
@pytest.mark.parametrize("turn", [0.0, 0.12])
def test_a_plane_comes_back_exactly(directions, turn):
    volume = raster(directions=directions, turn=turn)
    grid = grid_of(volume)
    found = fused_map(volume, along_lines(volume, plane), grid)
    x, y = grid.mm()
    core = np.hypot(x, y) < 0.9  # between lines on every side
    assert np.isfinite(found[core]).all()
    assert np.abs(found - plane(x, y))[core].max() < 1e-5


def test_the_grid_reaches_half_a_spacing_beyond_the_end_lines():
    grid = grid_of(raster(directions="H"))
    assert (grid.columns, grid.rows) == (78, 72)  # 2.34 mm by 9 * 0.24 mm in steps of 0.03 mm
    assert grid.y0_mm == pytest.approx(-1.08) and grid.x0_mm == pytest.approx(-1.17)
    assert grid.pixel_mm2 == pytest.approx(0.0009)


def test_outside_the_raster_nothing_is_claimed():
    volume = raster(directions="H")
    wide = Grid(-3, -3, 200, 200)
    value, distance = direction_map(volume, along_lines(volume, plane), "H", wide)
    assert np.isfinite(value).sum() * wide.pixel_mm2 == pytest.approx(2.34 * 2.16, rel=0.02)
    assert np.array_equal(np.isfinite(value), np.isfinite(distance))
    assert np.nanmax(distance) <= 0.12 + 1e-6
    assert np.isnan(direction_map(volume, along_lines(volume, plane), "V", wide)[0]).all()


def test_a_line_scanned_backwards_is_turned_round():
    volume = raster(directions="H")
    scans = list(volume.scans)
    scans[3] = Scan("back", scans[3].image, "H", 3, scans[3].end_mm, scans[3].start_mm)
    volume = Volume(tuple(scans), 3.9, None, "p", "s", "d", "folder", "phantom")
    grid = grid_of(volume)
    found = fused_map(volume, along_lines(volume, plane), grid)
    x, y = grid.mm()
    core = np.hypot(x, y) < 0.9
    assert np.abs(found - plane(x, y))[core].max() < 1e-5


def test_unmeasured_a_scans_leave_a_hole_of_their_own_size():
    volume = raster(directions="H")
    values = along_lines(volume, plane)
    values[4] = values[4].copy()
    values[4][80:120] = np.nan  # the middle line
    value, _ = direction_map(volume, values, "H", grid := grid_of(volume))
    hole = np.isnan(value)
    assert hole.sum() * grid.pixel_mm2 == pytest.approx(40 * 0.0117 * 0.24, rel=0.15)
    x, y = grid.mm()
    assert np.abs(y[hole]).max() <= 0.12 + 0.03


def test_a_single_line_and_scans_of_different_width():
    one = raster(lines=1, directions="H")
    grid = grid_of(one)
    assert grid.rows == 1 and np.isfinite(fused_map(one, along_lines(one, plane), grid)).all()
    mixed = raster(directions="H").scans[:4] + raster(directions="H", width=100, pitch=0.0234).scans[4:]
    volume = Volume(mixed, 3.9, None, "p", "s", "d", "folder", "phantom")
    grid = grid_of(volume)
    x, y = grid.mm()
    core = np.hypot(x, y) < 0.9
    assert np.abs(fused_map(volume, along_lines(volume, plane), grid) - plane(x, y))[core].max() < 1e-5


def test_the_nearer_line_has_the_say():
    one, none = np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)
    near, far = np.array([[0.0, 0.06, 0.12]], np.float32), np.array([[0.12, 0.06, 0.0]], np.float32)
    mixed = fuse([(one, near), (none, far)], scale_mm=0.06)[0]
    assert mixed == pytest.approx([5 / 6, 0.5, 1 / 6])
    nan = np.full((1, 3), np.nan, np.float32)
    assert fuse([(one, near), (nan, far)])[0] == pytest.approx(1)
    assert np.isnan(fuse([(nan, near), (nan, far)])).all()
