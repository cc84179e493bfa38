"""Area: known answers, what each part of the interval is worth, and intervals that hold on phantom eyes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from clarion.errors import DataError, UsageError
from clarion.oct.area import measure_area
from clarion.oct.area_detection import (
    EXACT,
    DetectionError,
    apply_rule,
    calibrate,
    calibration_row,
    load_calibration,
)
from clarion.oct.area_sampling import CAVALIERI, line_sums, motion_variance_mm4, raster_variance_mm4
from clarion.oct.enface import grid_of
from clarion.oct.phantom.geometry import Geometry
from clarion.oct.projection import project
from clarion.oct.validation.area import calibration, draw_case, measure, source_presence
from clarion.oct.volume import Scan, Volume
from clarion.samples import Prediction


def raster(lines: int, spacing: float, directions: str = "HV", width: int = 512, pitch: float = 0.0117,
           shift: float = 0.0) -> Volume:  # fmt: skip
    """Blank lines around (0, 0), all moved by `shift` mm across their course."""
    image = np.broadcast_to(np.uint8(0), (8, width))
    half = width * pitch / 2
    scans = []
    for d in directions:
        for k in range(lines):
            at = (k - (lines - 1) / 2) * spacing + shift
            ends = ((-half, at), (half, at)) if d == "H" else ((at, half), (at, -half))
            scans.append(Scan(f"{d}{k:02d}", image, d, k, *ends))
    return Volume(tuple(scans), 3.9, "OD", "p", "s", "Heidelberg Spectralis", "folder", "phantom")


def ellipse(volume: Volume, radius: float, stretch: float = 1.0, turn: float = 0.0, at=(0.0, 0.0)) -> list[np.ndarray]:
    rows = []
    for scan in volume.scans:
        x, y = (v - c for v, c in zip(scan.path_mm(), at, strict=True))
        u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        rows.append((np.hypot(u * stretch, v / stretch) <= radius).astype(float))
    return rows


def area_of(volume: Volume, presence: list[np.ndarray], detection=EXACT, **options):
    grid = grid_of(volume)
    return measure_area(volume, presence, project(volume, presence, grid), grid, detection=detection, **options)


# The floor of facts/erm.md: worst case over where the raster happens to lie, perfect detection, one direction.
@pytest.mark.parametrize(
    ("spacing", "floors"),
    [(0.245, {0.5: 5.8, 1.0: 1.5, 2.0: 0.5}), (0.123, {0.5: 1.6, 1.0: 0.45, 2.0: 0.25}),
     (0.060, {0.5: 0.8, 1.0: 0.2, 2.0: 0.1})],
)  # fmt: skip
def test_the_worst_error_of_a_disc_is_the_published_floor(spacing, floors):
    lines = int(4.6 / spacing)
    for radius, floor in floors.items():
        worst = 0.0
        for shift in np.linspace(0, spacing, 16, endpoint=False):
            volume = raster(lines, spacing, "H", width=1700, pitch=0.0027, shift=shift)
            sums = line_sums(volume, ellipse(volume, radius), grid_of(volume, 0.25))
            worst = max(worst, abs(100 * (sums.area_mm2 / (np.pi * radius**2) - 1)))
        assert 0.6 * floor < worst < 1.12 * floor, (radius, worst)


def test_the_raster_variance_is_that_of_random_ellipses():
    rng = np.random.default_rng(0)
    volume = raster(25, 0.24)
    grid = grid_of(volume, 0.06)
    one = replace(volume, scans=volume.scans[:25])
    z_one, z_both = [], []
    for _ in range(80):
        radius, stretch, turn = rng.uniform(0.5, 2.0), rng.uniform(0.8, 1.0), rng.uniform(0, np.pi)
        presence = ellipse(volume, radius, stretch, turn, rng.uniform(-0.3, 0.3, 2))
        true = np.pi * radius**2
        sums = line_sums(one, presence[:25], grid)
        z_one.append((sums.area_mm2 - true) / np.sqrt(raster_variance_mm4(sums)))
        area = measure_area(volume, presence, project(volume, presence, grid), grid, detection=EXACT)
        z_both.append((area.value_mm2 - true) / area.sd_mm2["raster"])
    assert 0.75 < np.std(z_one) < 1.25
    assert 0.75 < np.std(z_both) < 1.25
    assert abs(np.mean(z_both)) < 0.4


def test_boundary_and_variance_of_one_disc():
    volume = raster(25, 0.24, "H")
    sums = line_sums(volume, ellipse(volume, 1.5), grid_of(volume, 0.06))
    boundary = np.pi / 2 * 0.24 * sums.edges_alone["H"]
    assert boundary == pytest.approx(2 * np.pi * 1.5, rel=0.04)
    assert raster_variance_mm4(sums) == pytest.approx(CAVALIERI * boundary * 0.24**3)


def test_motion_moves_the_area_as_the_formula_says():
    rng = np.random.default_rng(1)
    volume = raster(21, 0.24, "H")
    grid = grid_of(volume, 0.06)
    found, predicted = [], []
    for _ in range(150):
        moved = []
        for scan in volume.scans:
            by = rng.normal(0, 0.03)
            moved.append(replace(scan, start_mm=(scan.start_mm[0], scan.start_mm[1] + by),
                                 end_mm=(scan.end_mm[0], scan.end_mm[1] + by)))  # fmt: skip
        sums = line_sums(volume, ellipse(replace(volume, scans=tuple(moved)), 1.4, 0.7, 0.5), grid)
        found.append(sums.area_mm2)
        predicted.append(motion_variance_mm4(sums, 0.03))
    assert np.std(found) == pytest.approx(np.sqrt(np.mean(predicted)), rel=0.3)


def test_an_empty_eye_has_an_area_of_zero_and_an_upper_limit():
    volume = raster(25, 0.24)
    nothing = [np.zeros(scan.width) for scan in volume.scans]
    area = area_of(volume, nothing)
    assert area.value_mm2 == 0 and area.interval[0] == 0
    # A disc of one spacing's diameter can lie between the lines.
    assert 0.02 < area.interval[1] < 0.12
    unknown = area_of(volume, nothing, detection=None)
    assert unknown.value_mm2 == 0 and unknown.interval[1] > area.interval[1]


def test_a_speck_met_by_one_line_keeps_a_wide_interval():
    volume = raster(25, 0.24)
    nothing = [np.zeros(scan.width) for scan in volume.scans]
    nothing[12] = nothing[12].copy()
    nothing[12][250:262] = 1  # 0.14 mm
    area = area_of(volume, nothing)
    assert 0 <= area.interval[0] < 0.2 * area.value_mm2
    assert area.interval[1] > 2 * area.value_mm2


def test_unknown_sources_are_wide_and_say_so():
    volume = raster(25, 0.24)
    presence = ellipse(volume, 1.5, at=(0.05, -0.03))
    area = area_of(volume, presence, detection="somebody's network")
    low, high, level = area.interval
    assert level == 0.95 and (high - low) / 2 / area.value_mm2 > 0.25
    assert any("never measured" in note for note in area.notes)
    exact = area_of(volume, presence, detection="truth")
    assert exact.sd_mm2["detection"] == 0 and exact.value_mm2 == pytest.approx(np.pi * 1.5**2, rel=0.01)
    assert exact.interval[0] < np.pi * 1.5**2 < exact.interval[1]
    wider = area_of(volume, presence, level=0.99)
    assert wider.interval[0] < exact.interval[0] and wider.interval[1] > exact.interval[1]


def test_notes_tell_what_limits_the_number():
    volume = raster(25, 0.24, "H")
    area = area_of(volume, ellipse(volume, 1.5))
    assert any("Only horizontal" in note for note in area.notes)
    other = replace(volume, device="Topcon 3D-1000", scale_from="nominal")
    notes = area_of(other, ellipse(other, 1.5)).notes
    assert any("track" in note for note in notes) and any("nominal" in note for note in notes)
    both = raster(25, 0.24)
    torn = [p * (scan.direction == "H") for p, scan in zip(ellipse(both, 1.5), both.scans, strict=True)]
    assert any("differ by" in note for note in area_of(both, torn).notes)


def test_what_cannot_be_read_is_not_counted_as_healthy():
    volume = raster(25, 0.24)
    presence = ellipse(volume, 1.5)
    whole = area_of(volume, presence).value_mm2
    blind = [np.where(np.arange(p.size) % 10 == 0, np.nan, p) for p in presence]
    area = area_of(volume, blind)  # bridged along the line
    assert area.value_mm2 == pytest.approx(whole, rel=0.02) and not any("A-scans" in note for note in area.notes)
    dark = [np.where(np.abs(np.arange(p.size) - 256) < 50, np.nan, p) for p in presence]
    area = area_of(volume, dark)
    assert any("19 % of the A-scans" in note for note in area.notes)
    assert area.scanned_mm2 == pytest.approx(6.0 * 6.0 - 1.16**2, rel=0.02)


def test_bad_arguments_are_refused():
    volume = raster(5, 0.24)
    presence = ellipse(volume, 0.4)
    with pytest.raises(UsageError, match="level 1"):
        area_of(volume, presence, level=1.0)
    with pytest.raises(DataError, match="9 scans for a volume of 10"):
        grid = grid_of(volume)
        measure_area(volume, presence[:9], project(volume, presence, grid), grid)
    with pytest.raises(DataError, match="unknown"):
        apply_rule(presence[0], "softly:0.5")


def test_rules():
    p = np.array([0.02, 0.3, 0.8, np.nan])
    assert apply_rule(p, "soft:0.1")[:3].tolist() == [0, 0.3, 0.8]
    assert apply_rule(p, "hard:0.5")[:3].tolist() == [0, 0, 1]
    assert np.isnan(apply_rule(p, "hard:0.5")[3])


def simulated_head(presence: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """What a trained head does: soft edges, noise with a course along the line, and one bias for the whole eye."""
    rng = np.random.default_rng([77, seed])
    eye = rng.normal(0, 0.8)
    rows = []
    for p in presence:
        noise = gaussian_filter1d(rng.standard_normal(p.size), 15, mode="wrap")
        logit = 4 * gaussian_filter1d(2.0 * p - 1, 4) + eye + rng.normal(0, 0.4) + 1.5 * noise / noise.std()
        rows.append((1 / (1 + np.exp(-logit))).astype(np.float32))
    return rows


@pytest.fixture(scope="module")
def eyes():
    """Thirty-two membranes and eight healthy eyes with a head's opinion; (case, presence)."""
    drawn = [draw_case(860_000 + k, stage=(0, 1, 2, 2, 3)[k % 5]) for k in range(40)]
    return [(case, simulated_head(case.presence, k)) for k, case in enumerate(drawn)]


@pytest.fixture(scope="module")
def rows(eyes):
    return [calibration_row(case.volume, case.presence, found) for case, found in eyes[:28]]


def test_calibrated_intervals_hold_on_other_eyes(eyes, rows):
    """A head that errs for whole eyes is covered, and no more widely than its errors ask for."""
    fitted = DetectionError.from_dict(json.loads(json.dumps(calibrate({"head": rows})))["head"])
    assert fitted.n_eyes == 28 and fitted.quantile(0.95, 10.0) > fitted.quantile(0.8, 10.0)
    # What p (1 - p) alone says, as if A-scans erred independently of each other.
    naive = DetectionError("head", fitted.rule, fitted.gain, 0.0, 0.0, 0.0, 0.02)
    true = [case.area_mm2 for case, _ in eyes[28:]]
    covered, missed = [], []
    for detection, inside in ((fitted, covered), (naive, missed)):
        for (case, found), area in zip(eyes[28:], true, strict=True):
            low, high, _ = area_of(case.volume, found, detection=detection).interval
            inside.append(low <= area <= high)
    assert np.mean(covered) >= 0.8 > 0.7 > np.mean(missed)


def test_calibration_learns_a_gain(rows):
    """A source that reads a fifth too much is brought back."""
    swollen = [{**r, "found_mm2": {k: 1.2 * v for k, v in r["found_mm2"].items()}} for r in rows]
    plain, fitted = (calibrate({"x": r})["x"]["gain"] for r in (rows, swollen))
    assert fitted == pytest.approx(plain / 1.2, rel=0.02)


def test_calibration_needs_eyes_and_survives_a_file(rows):
    with pytest.raises(DataError, match="at least 20"):
        calibrate({"head": rows[:5]})
    entry = calibrate({"head": rows})["head"]
    assert DetectionError.from_dict(json.loads(json.dumps(entry))).to_dict() == entry
    with pytest.raises(DataError, match="damaged"):
        DetectionError.from_dict({**entry, "rule": "sometimes"})
    with pytest.raises(DataError, match="damaged"):
        DetectionError.from_dict({"surprise": 1})
    assert load_calibration("truth") == EXACT
    assert load_calibration("nobody has heard of it").n_eyes == 0


def test_true_presence_gives_the_true_area():
    table = measure(eyes=8, source="truth", workers=1)
    figures = table["figures"]
    assert figures["median_absolute_error_percent"]["value"] < 1
    assert figures["coverage_percent"]["value"] >= 75
    assert figures["median_half_width_percent"]["value"] < 3
    assert table["n"] == 10 and len(table["columns"]) == len(table["rows"][0])
    published = next(row for row in table["rows"] if "published" in row[0])
    assert float(published[2].split()[0]) > 5


def test_annotators_boxes_are_calibrated_from_start_to_end():
    found = calibration(eyes=16, workers=1)["boxes"]
    assert found["n_eyes"] == 20 and 0.8 < found["gain"] < 1.0  # boxes fill gaps
    table = measure(eyes=3, source="boxes", detection=DetectionError.from_dict(found), workers=1)
    assert table["figures"]["median_absolute_error_percent"]["value"] < 12
    with pytest.raises(UsageError, match="not at hand"):
        measure(eyes=1, source="head", workers=1)


def test_predictors_are_asked_scan_by_scan_and_joined_by_id():
    """The head's predictor gets picture, scales and the layers predictor's ILM; its answers may come in any order."""
    case = draw_case(3, stage=3, render=True, geometry=Geometry("tiny", 3, 96, 256, 3.872, 11.7, 240.0))
    truth = dict(zip((s.scan_id for s in case.volume.scans), case.presence, strict=True))

    def layers(samples):
        for s in samples:
            yield Prediction(s.sample_id, s.patient_id, {"surfaces": np.full((8, 96), 7.0)})

    def presence(samples):
        for s in reversed(list(samples)):
            assert s.inputs["bscan"].shape == (256, 96) and s.inputs["lateral_um"] == pytest.approx(11.7)
            assert (s.inputs["ilm"] == 7).all()
            yield Prediction(s.sample_id, s.patient_id, {"presence": truth[s.sample_id].astype(np.float32)})

    found = source_presence(case, "head", {"layers": layers, "presence": presence})
    assert all(np.array_equal(a, b) for a, b in zip(found, case.presence, strict=True))
    boxed = source_presence(case, "boxes", {"boxes": lambda v: [np.array([[10, 0, 20, 9, 0.7]])] * len(v.scans)})
    assert boxed[0].sum() == pytest.approx(7.0)
