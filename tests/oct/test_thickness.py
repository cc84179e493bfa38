"""Thickness maps: known slabs, gaps, lines that cross, and the phantom's own truth."""

from dataclasses import replace

import numpy as np
import pytest

from clarion.errors import DataError
from clarion.oct.enface import grid_of
from clarion.oct.phantom import make_eye
from clarion.oct.thickness import LAYERS, crossing_difference_um, scan_thickness_um, thickness_maps
from clarion.oct.validation.eyes import true_volume
from clarion.oct.validation.thickness import agreement, measure
from clarion.samples import Prediction


@pytest.fixture(scope="module")
def eye():
    return true_volume(make_eye(900_503, 3))


def _slab(volume, rows):
    return [np.repeat(np.array(rows, np.float32)[:, None], scan.width, 1) for scan in volume.scans]


def test_flat_slabs_have_their_thickness_everywhere(eye):
    volume = eye[0]
    grid = grid_of(volume)
    maps = thickness_maps(volume, _slab(volume, [100, 105, 125, 135, 140, 165, 178, 182]), grid)
    scanned = np.isfinite(maps.total)
    assert maps.total.dtype == np.float32 and maps.total.shape == (grid.rows, grid.columns)
    assert np.allclose(maps.total[scanned], 82 * volume.axial_um, rtol=1e-5)
    assert np.allclose(maps.inner[scanned] + maps.outer[scanned], maps.total[scanned], rtol=1e-5)
    assert list(maps.layers) == list(LAYERS)
    expected = np.array([5, 20, 10, 5, 25, 13, 4]) * volume.axial_um
    assert np.allclose([np.nanmedian(maps.layers[name]) for name in LAYERS], expected, rtol=1e-4)


def test_unmeasured_stretch_stays_a_gap_and_zero_is_never_invented(eye):
    volume, surfaces, _ = eye
    holed = [rows.copy() for rows in surfaces]
    for scan, rows in zip(volume.scans, holed, strict=True):
        x, y = scan.path_mm()
        rows[:, np.hypot(x - 1.5, y + 1) < 0.8] = np.nan
    grid = grid_of(volume)
    total = thickness_maps(volume, holed, grid).total
    x, y = grid.mm()
    inside, far = np.hypot(x - 1.5, y + 1) < 0.6, np.hypot(x - 1.5, y + 1) > 1.2
    assert np.isnan(total[inside]).mean() > 0.95
    assert np.isfinite(total[far & (np.abs(x) < 2.8) & (np.abs(y) < 2.8)]).all()
    assert np.nanmin(total) > 50


def test_crossed_surfaces_give_zero_not_less_and_misfits_are_refused(eye):
    volume, surfaces, _ = eye
    swapped = [rows[::-1] for rows in surfaces]
    assert all((t == 0).all() for t in scan_thickness_um(volume, swapped))
    with pytest.raises(DataError, match="do not fit the scans"):
        thickness_maps(volume, surfaces[:-1], grid_of(volume))
    with pytest.raises(DataError, match="do not fit the scans"):
        crossing_difference_um(volume, [rows[:, :-1] for rows in surfaces])


def test_crossings_of_true_surfaces_agree_and_planted_noise_is_found(eye):
    volume, surfaces, _ = eye
    clean = crossing_difference_um(volume, surfaces)
    assert clean.n == 625 and clean.sd_um < 1.5 and abs(clean.bias_um) < 0.3
    shifted = [
        np.concatenate([rows[:1] - (2 if scan.direction == "H" else 0), rows[1:]])
        for scan, rows in zip(volume.scans, surfaces, strict=True)
    ]
    biased = crossing_difference_um(volume, shifted)
    assert biased.bias_um - clean.bias_um == pytest.approx(2 * volume.axial_um, abs=0.05)
    rng = np.random.default_rng(0)
    noisy = []
    for rows in surfaces:
        rows = rows.copy()
        rows[0] += rng.normal(0, 1.5)  # one error a line: nothing is averaged along it
        noisy.append(rows)
    found = crossing_difference_um(volume, noisy)
    assert found.sd_um == pytest.approx(1.5 * volume.axial_um, rel=0.35)
    assert found.repeatability_um == pytest.approx(2.77 * found.sd_um, rel=0.01)


def test_crossing_points_are_placed_right():
    volume, surfaces, _ = true_volume(make_eye(900_504, 0))
    ramp = []
    for scan, rows in zip(volume.scans, surfaces, strict=True):
        x, y = scan.path_mm()
        rows = np.zeros_like(rows)
        rows[-1] = 80 + 5 * x - 3 * y  # one plane, whatever the direction
        ramp.append(rows)
    assert crossing_difference_um(volume, ramp).mean_abs_um < 1e-3
    only_h = volume.of("H")
    alone = replace(volume, scans=tuple(volume.scans[k] for k in only_h))
    assert crossing_difference_um(alone, [ramp[k] for k in only_h]).n == 0


def test_agreement_of_known_values():
    truth = np.array([200.0, 250, 300, 350, 400])
    same = agreement(truth, truth + np.array([1.0, -1, 1, -1, 0]))
    assert same["bias"] == pytest.approx(0) and same["mae"] == pytest.approx(0.8) and same["icc"] > 0.999
    off = agreement(truth, truth + 50)
    # ICC(A,1) by hand: MSR = 12500, MSC = 6250, MSE = 0, n = 5
    assert off["bias"] == pytest.approx(50) and off["icc"] == pytest.approx(12500 / (12500 + 2 * 6250 / 5))


def test_validation_measures_true_and_predicted_surfaces(monkeypatch):
    from clarion.oct.validation import thickness as validation

    # Pictures are no matter here: the "predictor" answers with the truth, moved by one pixel, in another order.
    monkeypatch.setattr(validation, "_rendered", lambda job: (e := make_eye(*job), true_volume(e)[0]))

    def predictor(samples):
        samples = list(samples)
        assert set(samples[0].inputs) == {"bscan", "axial_um", "lateral_um"}
        _, surfaces, _ = true_volume(make_eye(int(samples[0].patient_id[2:]), int(samples[0].patient_id[2:]) % 5))
        for s, rows in reversed(list(zip(samples, surfaces, strict=True))):
            yield Prediction(s.sample_id, s.patient_id, {"surfaces": rows - [[1]] + np.eye(8)[:, -1:], "sd": rows * 0})

    result = measure(5, layers_predictor=predictor, predicted_eyes=2)
    figures = result["figures"]
    assert result["n"] == 5 and all(len(row) == len(result["columns"]) for row in result["rows"])
    assert figures["true_csf_mae"]["value"] < 4 and figures["true_fovea_all_median"]["value"] < 0.15
    assert figures["predicted_csf_mae"]["value"] == pytest.approx(3.872, abs=3)
    assert figures["fold_planted_ratio"]["value"] == pytest.approx(1, abs=0.15)
