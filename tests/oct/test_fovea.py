"""The fovea: found with and without a pit, and not claimed where there is none."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from clarion.oct.enface import grid_of
from clarion.oct.fovea import find_fovea, raster_centre_mm
from clarion.oct.phantom import make_eye
from clarion.oct.thickness import thickness_maps
from clarion.oct.validation.eyes import true_volume


def _find(volume, surfaces):
    grid = grid_of(volume)
    return find_fovea(thickness_maps(volume, surfaces, grid), grid, volume, surfaces)


@pytest.mark.parametrize("stage", range(5))
def test_found_in_every_stage(stage):
    errors, shifts = [], []
    for seed in range(900_600, 900_603):
        eye = make_eye(seed, stage)
        volume, surfaces, _ = true_volume(eye)
        fovea = _find(volume, surfaces)
        assert fovea.confident and fovea.why.startswith("Found by")
        errors.append(np.hypot(fovea.x_mm - eye.fovea.x_mm, fovea.y_mm - eye.fovea.y_mm))
        shifts.append(fovea.shift_mm - np.hypot(fovea.x_mm, fovea.y_mm))
    assert max(errors) < 0.15 and np.allclose(shifts, 0, atol=1e-6)


def test_segmentation_noise_is_borne():
    eye = make_eye(900_610, 2)
    volume, surfaces, _ = true_volume(eye)
    rng = np.random.default_rng(0)
    noisy = [
        np.sort(rows + gaussian_filter1d(rng.normal(0, 8, rows.shape), 8, axis=1), axis=0).astype(np.float32)
        for rows in surfaces
    ]
    fovea = _find(volume, noisy)
    assert fovea.confident and np.hypot(fovea.x_mm - eye.fovea.x_mm, fovea.y_mm - eye.fovea.y_mm) < 0.2


def test_a_retina_without_a_fovea_falls_back_to_the_centre():
    volume, surfaces, _ = true_volume(make_eye(900_611, 0))
    rng = np.random.default_rng(1)
    flat = np.array([0, 20, 80, 120, 150, 250, 300, 318], np.float32)[:, None] / 3.872 + 200
    rows = [np.sort(flat + gaussian_filter1d(rng.normal(0, 6, r.shape), 20, axis=1), axis=0) for r in surfaces]
    fovea = _find(volume, rows)
    assert not fovea.confident and (fovea.x_mm, fovea.y_mm) == raster_centre_mm(volume)
    assert "centre of the scan" in fovea.why and fovea.shift_mm == 0


def test_scans_that_miss_the_centre_are_said_so():
    volume, surfaces, _ = true_volume(make_eye(900_612, 1))
    holed = [rows.copy() for rows in surfaces]
    for scan, rows in zip(volume.scans, holed, strict=True):
        x, y = scan.path_mm()
        rows[:, np.hypot(x, y) < 1.3] = np.nan
    fovea = _find(volume, holed)
    assert not fovea.confident and "scanned and measured" in fovea.why
    middle = volume.of("H")[12]
    one = _find(replace(volume, scans=(volume.scans[middle],)), [surfaces[middle]])
    assert not one.confident and "scanned and measured" in one.why


def test_one_direction_suffices():
    eye = make_eye(900_613, 3)
    volume, surfaces, _ = true_volume(eye)
    h = volume.of("H")
    fovea = _find(replace(volume, scans=tuple(volume.scans[k] for k in h)), [surfaces[k] for k in h])
    assert fovea.confident and np.hypot(fovea.x_mm - eye.fovea.x_mm, fovea.y_mm - eye.fovea.y_mm) < 0.15
