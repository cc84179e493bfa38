"""The en face membrane map: known shapes, both readings, and the picture on the localiser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clarion.errors import DataError
from clarion.oct.enface import grid_of
from clarion.oct.projection import boxes_presence, project, project_boxes
from clarion.oct.validation.area import draw_case
from clarion.oct.volume import Scan, Volume


def raster(lines: int = 17, spacing: float = 0.24, width: int = 400, pitch: float = 0.0117, directions: str = "HV"):
    image = np.broadcast_to(np.uint8(0), (8, width))
    half = width * pitch / 2
    scans = []
    for d in directions:
        for k in range(lines):
            at = ((lines - 1) / 2 - k) * spacing
            ends = ((-half, at), (half, at)) if d == "H" else ((at, half), (at, -half))
            scans.append(Scan(f"{d}{k:02d}", image, d, k, *ends))
    return Volume(tuple(scans), 3.9, "OD", "p", "s", "Heidelberg Spectralis", "folder", "phantom")


def disc(volume: Volume, radius: float, x0: float = 0.05, y0: float = -0.03) -> list[np.ndarray]:
    return [(np.hypot(scan.path_mm()[0] - x0, scan.path_mm()[1] - y0) <= radius).astype(float) for scan in volume.scans]


def test_a_disc_is_where_it_is():
    volume = raster()
    grid = grid_of(volume)
    found = project(volume, disc(volume, 1.2), grid)
    x, y = grid.mm()
    true = np.hypot(x - 0.05, y + 0.03) <= 1.2
    assert 2 * (found.mask & true).sum() / (found.mask.sum() + true.sum()) > 0.98
    assert found.scanned.sum() * grid.pixel_mm2 == pytest.approx(2 * 4.68 * 4.08 - 4.08**2, rel=0.01)
    assert np.isnan(found.probability[~found.scanned]).all() and not found.mask[~found.scanned].any()
    assert set(found.by_direction) == {"H", "V"}


def test_two_directions_draw_a_phantom_membrane_better_than_one():
    case = draw_case(870_001, stage=2)
    grid = grid_of(case.volume)
    true = case.presence
    both = project(case.volume, true, grid).probability
    part = replace(case.volume, scans=tuple(case.volume.scans[k] for k in case.volume.of("H")))
    alone = project(part, [true[k] for k in case.volume.of("H")], grid).probability
    # What the lines of the other direction saw is the truth for a map that did not have them.
    x = np.concatenate([case.volume.scans[k].path_mm()[0] for k in case.volume.of("V")])
    y = np.concatenate([case.volume.scans[k].path_mm()[1] for k in case.volume.of("V")])
    seen = np.concatenate([true[k] for k in case.volume.of("V")])
    row = ((y - grid.y0_mm) / grid.step_mm).astype(int)
    column = ((x - grid.x0_mm) / grid.step_mm).astype(int)
    inside = np.isfinite(alone[row, column])
    error = [np.mean((m[row, column] - seen)[inside] ** 2) for m in (alone, both)]
    assert error[1] < 0.7 * error[0]


def test_boxes_fill_gaps_and_both_directions_are_overlaid():
    volume = raster(lines=5)
    boxes = [np.array([[100, 10, 300, 50, 0.9]]) if s.scan_id == "H02" else None for s in volume.scans]
    grid = grid_of(volume)
    found = project_boxes(volume, boxes, grid)
    assert found.mask.sum() * grid.pixel_mm2 == pytest.approx(200 * 0.0117 * 0.24, rel=0.03)
    x, y = grid.mm()
    assert np.abs(y[found.mask]).max() <= 0.12
    # The same extent, read by one vertical line as well, adds what the horizontal one did not paint.
    k = next(k for k, s in enumerate(volume.scans) if s.scan_id == "V02")
    boxes[k] = np.array([[100, 10, 300, 50]])
    more = project_boxes(volume, boxes, grid)
    assert more.mask.sum() * grid.pixel_mm2 == pytest.approx(2 * 200 * 0.0117 * 0.24 - 0.24**2, rel=0.03)
    assert more.method == "boxes" and set(np.unique(more.probability[more.scanned])) <= {0.0, 1.0}


def test_boxes_presence_counts_pixels_between_the_edges():
    volume = raster(lines=2, width=20, directions="H")
    found = boxes_presence(volume, [np.array([[2.0, 0, 5.0, 9], [4, 0, 8, 9]]), np.zeros((0, 5))])
    assert np.flatnonzero(found[0]).tolist() == [2, 3, 4, 5, 6, 7] and found[1].sum() == 0
    with pytest.raises(DataError, match="one entry a scan"):
        boxes_presence(volume, [None])


def test_presence_that_does_not_fit_is_refused():
    volume = raster(lines=3)
    grid = grid_of(volume)
    good = disc(volume, 0.3)
    with pytest.raises(DataError, match="5 scans for a volume of 6"):
        project(volume, good[:5], grid)
    with pytest.raises(DataError, match="H00 has shape"):
        project(volume, [good[0][:-1], *good[1:]], grid)
    with pytest.raises(DataError, match="no probability"):
        project(volume, [good[0] + 1.5, *good[1:]], grid)
