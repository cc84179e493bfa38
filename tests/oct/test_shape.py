"""Shape: known curvatures, ripples and pits, and the phantom's planted folds."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from clarion.oct.enface import Grid, grid_of
from clarion.oct.phantom import make_eye
from clarion.oct.shape import band_um, curvature, measure_pit, measure_shape
from clarion.oct.thickness import thickness_maps
from clarion.oct.validation.eyes import true_volume

CENTRE = SimpleNamespace(x_mm=0.0, y_mm=0.0)


@pytest.fixture(scope="module")
def ill():
    eye = make_eye(900_703, 3)
    return eye, *true_volume(eye)


def _with_ilm(volume, height_um):
    """Flat surfaces, the ILM 300 um and height_um(x, y) above BM."""
    surfaces = []
    for scan in volume.scans:
        rows = np.repeat(np.linspace(200, 280, 8)[:, None], scan.width, 1)
        rows[0] = rows[-1] - (300 + height_um(*scan.path_mm())) / volume.axial_um
        surfaces.append(rows.astype(np.float32))
    return surfaces


def test_curvature_of_a_known_bowl(ill):
    _, volume, surfaces, _ = ill
    bowl = [rows.copy() for rows in surfaces]
    for scan, rows in zip(volume.scans, bowl, strict=True):
        u = scan.path_mm()[0 if scan.direction == "H" else 1]
        rows[-1] = 300 - (10 * u**2 + 25 * u) / volume.axial_um  # 10 um/mm2 and a tilt: 0.02 / mm
        rows[-1, :40] = np.nan
    found = curvature(volume, bowl)
    assert all(np.isnan(c[:40]).all() for c in found)
    assert np.allclose(np.concatenate([c[140:-100] for c in found]), 0.02, rtol=0.02)  # steeper: less, as it must
    nothing = [np.full_like(rows, np.nan) for rows in bowl]
    assert all(np.isnan(c).all() for c in curvature(volume, nothing))


def test_fold_index_is_the_rms_of_a_ripple_in_the_band_and_only_there(ill):
    volume = ill[1]
    in_band = measure_shape(volume, _with_ilm(volume, lambda x, y: 8 * np.sin(2 * np.pi * (x + y) / 0.25)), CENTRE)
    passed = 2 ** -((0.1 / 0.25) ** 2) - 2 ** -((0.6 / 0.25) ** 2)  # transmission of the two filters, ISO 16610-21
    assert in_band.fold_um["all"] == pytest.approx(8 / np.sqrt(2) * passed, rel=0.01)
    assert in_band.crests_per_mm["all"] == pytest.approx(4, rel=0.1)
    slow = measure_shape(volume, _with_ilm(volume, lambda x, y: 8 * np.sin(2 * np.pi * (x + y) / 3)), CENTRE)
    assert slow.fold_um["all"] < 0.3 and slow.crests_per_mm["all"] == 0
    assert in_band.fold_um["inside"] is None and in_band.line_mm["inside"] == 0


def test_filter_passes_half_at_its_cut_offs_and_keeps_gaps():
    x = np.arange(4000) * 0.01
    for wavelength in (0.1, 0.6):
        wave = band_um(np.sin(2 * np.pi * x / wavelength), 0.01)[500:-500]
        assert np.abs(wave).max() == pytest.approx(0.5, abs=0.03)
    gap = np.sin(2 * np.pi * x / 0.25)
    gap[1000:1100] = np.nan
    found = band_um(gap, 0.01)
    assert np.isnan(found[1000:1100]).all() and np.isfinite(np.delete(found, np.s_[1000:1100])).all()


def test_folds_lie_under_the_membrane_of_the_phantom(ill):
    eye, volume, surfaces, presence = ill
    shape = measure_shape(volume, surfaces, eye.fovea, presence)
    assert shape.fold_um["inside"] > 2 * shape.fold_um["outside"]
    assert shape.traction_um_per_mm["inside"] > 1.5 * shape.traction_um_per_mm["outside"]
    assert shape.line_mm["all"] == pytest.approx(shape.line_mm["inside"] + shape.line_mm["outside"])
    healthy = make_eye(900_703, 0)
    volume0, surfaces0, _ = true_volume(healthy)
    assert measure_shape(volume0, surfaces0, healthy.fovea).fold_um["all"] < 0.5 * shape.fold_um["all"]


def test_pit_of_a_known_shape():
    grid = Grid(-3, -3, 200, 200)
    r = np.hypot(*grid.mm())
    # A Gaussian pit in a plateau: depth 120, half width where exp(-r^2 / 2 s^2) = 1/2
    s = 0.3
    pit = measure_pit(330 - 120 * np.exp(-(r**2) / (2 * s**2)), grid, CENTRE)
    assert pit.present and pit.depth_um == pytest.approx(120, abs=2)
    assert pit.width_mm == pytest.approx(2 * s * np.sqrt(2 * np.log(2)), abs=0.04)
    assert pit.volume_mm3 == pytest.approx(0.120 * 2 * np.pi * s**2, rel=0.03)
    assert pit.slope_deg == pytest.approx(np.degrees(np.arctan(0.120 / s * np.exp(-0.5))), abs=1)
    plateau = measure_pit(np.full_like(r, 400.0), grid, CENTRE)
    assert not plateau.present and plateau.depth_um == pytest.approx(0)
    assert measure_pit(np.where(r < 1, np.nan, 300.0), grid, CENTRE) is None


def test_pit_of_the_phantom_by_stage():
    depth = {}
    for stage in (0, 2):
        eye = make_eye(900_710, stage)
        volume, surfaces, _ = true_volume(eye)
        grid = grid_of(volume)
        depth[stage] = measure_pit(thickness_maps(volume, surfaces, grid).total, grid, eye.fovea)
    assert depth[0].present and 60 < depth[0].depth_um < 180 and 0.5 < depth[0].rim_mm < 1.4
    assert not depth[2].present


def test_too_short_a_line_gives_no_index(ill):
    eye, volume, surfaces, _ = ill
    rows = np.full_like(surfaces[12], np.nan)
    rows[:, 300:340] = surfaces[12][:, 300:340]
    shape = measure_shape(replace(volume, scans=volume.scans[12:13]), [rows], eye.fovea)
    assert shape.fold_um["all"] is None and shape.line_mm["all"] < 2


def test_ilm_and_bm_alone_give_folds_but_no_traction(ill):
    eye, volume, surfaces, presence = ill
    vendor = [np.where(np.isin(np.arange(8), (0, 7))[:, None], rows, np.nan) for rows in surfaces]
    whole, outer = (measure_shape(volume, s, eye.fovea, presence) for s in (surfaces, vendor))
    assert outer.fold_um == whole.fold_um and set(outer.traction_um_per_mm.values()) == {None}
