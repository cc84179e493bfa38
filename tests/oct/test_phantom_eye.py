"""The phantom eye: truth that agrees with itself and with the published numbers."""

import numpy as np
import pytest

from clarion.errors import UsageError
from clarion.oct.phantom import SPECTRALIS_25, SPECTRALIS_49, SURFACES, make_eye
from clarion.oct.phantom.anatomy import CFT_UM, EIFL_UM, STAGE_PREVALENCE, draw_fovea, draw_stage
from clarion.oct.phantom.boxes import MARGIN_PX, SPECK_UM, draw_boxes, runs
from clarion.oct.phantom.fields import GRID_STEP_MM, sample


@pytest.fixture(scope="module")
def eyes():
    return {stage: make_eye(40 + stage, stage) for stage in range(5)}


@pytest.fixture(scope="module")
def raster():
    """All 50 B-scans of one eye with a large membrane, keyed by direction and line."""
    eye = make_eye(7, 3)
    return eye, {(d, n): eye.bscan(d, n) for d in "HV" for n in range(SPECTRALIS_25.lines)}


def test_same_seed_same_scan_whatever_was_rendered_before():
    first, second = make_eye(3), make_eye(3)
    second.bscan("V", 4)
    a, b = first.bscan("H", 11), second.bscan("H", 11)
    assert np.array_equal(a.image, b.image) and np.array_equal(a.boxes, b.boxes)
    assert all(np.array_equal(a.surfaces[name], b.surfaces[name]) for name in SURFACES)
    assert not np.array_equal(a.image, make_eye(4).bscan("H", 11).image)
    assert not np.array_equal(a.image, first.bscan("H", 12).image)


def test_scan_is_complete_and_ordered(eyes):
    for stage, eye in eyes.items():
        for direction, line in (("H", 0), ("H", 12), ("V", 24)):
            scan = eye.bscan(direction, line)
            assert scan.image.shape == (496, 768) and scan.image.dtype == np.uint8
            assert scan.presence.shape == (768,) and scan.presence.dtype == bool
            assert scan.boxes.ndim == 2 and scan.boxes.shape[1] == 4
            assert (scan.stage, scan.direction, scan.line) == (stage, direction, line)
            rows = np.stack([scan.surfaces[name] for name in SURFACES])
            assert np.all(np.diff(rows, axis=0) >= -1e-3), "a surface lies above the one before it"
            assert rows.min() > 0 and rows.max() < 496
            assert np.array_equal(np.isfinite(scan.membrane), scan.presence)
            assert np.all(scan.membrane[scan.presence] <= scan.surfaces["ILM"][scan.presence] + 1e-3)


def test_normal_eye_has_no_membrane(eyes):
    assert eyes[0].erm_area_mm2 == 0
    scans = [eyes[0].bscan("H", n) for n in (3, 12, 20)]
    assert not any(len(s.boxes) or s.presence.any() for s in scans)


def test_boxes_cover_the_membrane_and_nothing_else(raster):
    _, scans = raster
    boxed = 0
    for scan in scans.values():
        covered = np.zeros(768, bool)
        for x1, y1, x2, y2 in scan.boxes:
            assert 0 <= x1 < x2 <= 768 and 0 <= y1 < y2 <= 496
            start, end = int(x1), int(x2)
            covered[start:end] = True
            assert scan.presence[start] and scan.presence[end - 1], "a box begins and ends on membrane"
            rows = scan.membrane[start:end][scan.presence[start:end]]
            assert rows.min() - y1 == pytest.approx(MARGIN_PX, abs=0.6) and rows.max() + MARGIN_PX <= y2 + 0.6
            boxed += 1
        for start, end in runs(scan.presence):
            small = end - start < SPECK_UM / SPECTRALIS_25.lateral_um
            assert covered[start:end].all() or small, f"a run of {end - start} A-scans has no box"
    assert boxed > 20


@pytest.mark.parametrize(
    ("presence", "bridge", "shortest", "expected"),
    [
        ([], 0, 1, []),
        ([0, 0, 0], 2, 1, []),
        ([1, 1, 1], 0, 1, [(0, 3)]),
        ([1, 0, 1], 0, 1, [(0, 1), (2, 3)]),
        ([1, 0, 1], 1, 1, [(0, 3)]),
        ([0, 1, 0, 0, 1, 1], 1, 2, [(4, 6)]),
        ([1, 0, 0, 1, 0, 0, 1], 2, 7, [(0, 7)]),
    ],
)
def test_runs(presence, bridge, shortest, expected):
    assert runs(np.array(presence, bool), bridge, shortest) == expected


def test_boxes_hold_for_any_presence():
    rng = np.random.default_rng(0)
    ilm = 200 + 40 * np.sin(np.arange(768) / 90)
    surfaces = np.stack([ilm, ilm + 10] + [ilm + 80] * 6)
    for _ in range(200):
        presence = np.repeat(rng.random(96) < rng.random(), 8)
        boxes = draw_boxes(presence, ilm - 2, surfaces, 496, 3.872, 11.7)
        inside = np.zeros(768, bool)
        for x1, y1, x2, y2 in boxes:
            assert not inside[int(x1) : int(x2)].any(), "boxes of one scan do not overlap"
            inside[int(x1) : int(x2)] = True
            assert y2 > y1
        assert not (boxes.size and not presence.any())
        dropped = sum(end - start for start, end in runs(presence) if not inside[start])
        assert dropped == 0 or dropped < presence.sum() or not boxes.size


def test_horizontal_and_vertical_scans_agree_where_they_cross(raster):
    eye, scans = raster
    geometry = eye.geometry

    def crossing(value, h, v, mirrored=False):
        x = -geometry.line_position_mm(v) if mirrored else geometry.line_position_mm(v)
        column_h = int((x + geometry.extent_mm / 2) / (geometry.lateral_um / 1000))
        column_v = int((geometry.extent_mm / 2 - geometry.line_position_mm(h)) / (geometry.lateral_um / 1000))
        return value(scans["H", h])[column_h], value(scans["V", v])[column_v]

    lines = [(h, v) for h in range(0, 25, 2) for v in range(0, 25, 2) if h != 12 and v != 12]

    def thickness(scan):
        return scan.surfaces["BM"] - scan.surfaces["ILM"]

    right = np.array([crossing(thickness, h, v) for h, v in lines])
    wrong = np.array([crossing(thickness, h, v, mirrored=True) for h, v in lines])
    assert np.abs(np.diff(right)).max() < 4.0 and np.abs(np.diff(right)).mean() < 0.8
    assert np.abs(np.diff(wrong)).mean() > 2.0, "the check could not tell a mirrored axis"
    present = np.array([crossing(lambda s: s.presence, h, v) for h, v in lines])
    assert (present[:, 0] == present[:, 1]).mean() > 0.95 and 0.1 < present.mean() < 0.9


def test_area_is_that_of_the_mask_and_of_the_raster(raster):
    eye, scans = raster
    assert eye.erm_area_mm2 == pytest.approx(eye.erm_mask.sum() * GRID_STEP_MM**2, rel=0.02)
    for direction in "HV":
        length = sum(scans[direction, n].presence.sum() for n in range(25)) * SPECTRALIS_25.lateral_um / 1000
        area = length * SPECTRALIS_25.line_spacing_um / 1000
        assert area == pytest.approx(eye.erm_area_scanned_mm2(direction), rel=0.08)
        assert eye.erm_area_scanned_mm2(direction) <= eye.erm_area_mm2 + 1e-9


def test_stages_follow_the_published_thickness():
    rng = np.random.default_rng(1)
    measured = []
    for stage in range(5):
        fovea = [f for f in (draw_fovea(rng, stage) for _ in range(600)) if f.hole == "none"]
        thickness, eifl = np.mean([f.thickness_um for f in fovea]), np.mean([f.eifl_um for f in fovea])
        assert thickness == pytest.approx(CFT_UM[stage][0], rel=0.04)
        assert eifl == pytest.approx(EIFL_UM[stage], rel=0.15)
        measured.append(thickness)
    assert np.all(np.diff(measured) > 0)


def test_the_map_shows_the_thickness_it_states():
    for stage in range(5):
        for seed in (60, 61):
            eye = make_eye(seed, stage)
            at = sample(eye.thickness_um[None], np.array([eye.fovea.x_mm]), np.array([eye.fovea.y_mm]))[0, 0]
            assert at == pytest.approx(eye.central_thickness_um, abs=30)
    by_stage = [np.mean([make_eye(s, stage).central_subfield_um for s in range(80, 83)]) for stage in range(5)]
    assert np.all(np.diff(by_stage) > 0)


def test_healthy_eye_has_a_pit_and_a_rim():
    for seed in (70, 71, 72):
        eye = make_eye(seed, 0)
        line = min(range(25), key=lambda n: abs(eye.geometry.line_position_mm(n) - eye.fovea.y_mm))
        scan = eye.bscan("H", line)
        thickness = (scan.surfaces["BM"] - scan.surfaces["ILM"]) * scan.spacing[0]
        middle, parafovea = thickness[300:470].min(), np.quantile(thickness[250:520], 0.9)
        assert 170 < middle < 320 and 280 < parafovea < 390 and parafovea > middle + 20


def test_stages_come_by_prevalence():
    rng = np.random.default_rng(2)
    stages = np.array([draw_stage(rng) for _ in range(6000)])
    assert (stages == 0).mean() == pytest.approx(0.30, abs=0.02)
    share = np.bincount(stages[stages > 0], minlength=5)[1:] / (stages > 0).sum()
    assert share == pytest.approx(STAGE_PREVALENCE, abs=0.025)


def test_other_geometry_same_eye():
    coarse, fine = make_eye(5, 2), make_eye(5, 2, geometry=SPECTRALIS_49)
    assert coarse.erm_area_mm2 == fine.erm_area_mm2
    scan = fine.bscan("V", 48)
    assert scan.image.shape == (496, 512) and scan.spacing == (3.872, 11.5)
    assert scan.position_mm == pytest.approx(-2.952)


@pytest.mark.parametrize("bad", [lambda: make_eye(-1), lambda: make_eye(1, 5), lambda: make_eye(1).bscan("X", 3),
                                 lambda: make_eye(1).bscan("H", 25)])  # fmt: skip
def test_wrong_use_is_named(bad):
    with pytest.raises(UsageError, match=r"\."):
        bad()
