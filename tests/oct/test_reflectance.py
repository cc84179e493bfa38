"""Reflectance: known bands, shadows that cancel, parts of a scan, the phantom's order of layers."""

from dataclasses import replace

import numpy as np
import pytest

from clarion.oct.phantom import make_eye
from clarion.oct.reflectance import BANDS, band_grey, measure_reflectance
from clarion.oct.validation.eyes import true_volume

EDGES = np.array([100, 110, 140, 150, 160, 200, 220, 230])
GREY = np.array([4, 80, 70, 50, 60, 40, 90, 150, 60])


def _picture(width=300):
    """Bands of known grey levels; boundaries between pixels: a surface at 99.5 has pixel 100 as its first below."""
    image = np.full((496, width), GREY[0], np.uint8)
    for top, bottom, grey in zip(EDGES, [*EDGES[1:], 400], GREY[1:], strict=True):
        image[top:bottom] = grey
    return image, np.repeat((EDGES - 0.5)[:, None], width, 1).astype(np.float32)


def test_bands_are_read_exactly():
    image, rows = _picture()
    assert np.allclose(band_grey(image, rows, 3.872), GREY[:, None])
    # A boundary within a pixel leaves that pixel out: neighbours never leak in.
    assert np.allclose(band_grey(image, rows + 0.3 * np.eye(8)[:, 3:4], 3.872), GREY[:, None])


def test_missing_and_empty_layers_are_nan():
    image, rows = _picture()
    rows[1] = rows[0]
    rows[4, :10] = np.nan
    grey = band_grey(image, rows, 3.872)
    assert np.isnan(grey[BANDS.index("RNFL")]).all() and np.isnan(grey[BANDS.index("OPL"), :10]).all()
    high = rows - 99.5  # the ILM at the picture's top: no vitreous to compare with
    assert np.isnan(band_grey(image, high, 3.872)[0]).all()


def _volume(image):
    volume, _, _ = true_volume(make_eye(900_800, 0))
    scan = replace(volume.scans[12], image=image)
    return replace(volume, scans=(scan,))


def test_relative_reflectance_is_free_of_shadows():
    image, rows = _picture(768)
    plain = measure_reflectance(_volume(image), [rows])
    assert plain.all.relative["vitreous"] == pytest.approx(0, abs=1e-6)
    assert plain.all.relative["RPE-BM"] == pytest.approx(1)
    assert plain.all.relative["GCIPL"] == pytest.approx((70 - 4) / (150 - 4), abs=1e-3)
    # Half of the scan lies in a wide shadow that halves all light above the vitreous' level.
    dark = image.astype(float)
    dark[:, 384:] = 4 + 0.5 * (dark[:, 384:] - 4)
    shadowed = measure_reflectance(_volume(dark.round().astype(np.uint8)), [rows])
    assert shadowed.all.grey["GCIPL"] < 60
    assert shadowed.all.relative["GCIPL"] == pytest.approx(plain.all.relative["GCIPL"], abs=0.02)


def test_inside_outside_and_by_scan():
    image, rows = _picture(768)
    image[100:110, :300] = 120
    presence = [np.where(np.arange(768) < 300, 0.9, 0.1)]
    presence[0][700:] = np.nan  # neither
    found = measure_reflectance(_volume(image), [rows], presence)
    assert found.inside.grey["RNFL"] == pytest.approx(120) and found.outside.grey["RNFL"] == pytest.approx(80)
    assert (found.inside.columns, found.outside.columns) == (300, 400) and list(found.by_scan) == ["H12"]
    assert measure_reflectance(_volume(image), [rows], [np.zeros(768)]).inside is None
    assert found.all.relative["RPE-BM"] == pytest.approx(1)


def test_blind_scan_gives_no_relative_values():
    image, rows = _picture(768)
    found = measure_reflectance(_volume(np.full_like(image, 9)), [rows])
    assert found.all.columns == 0 and np.isnan(found.all.relative["ONL"]) and found.all.grey["ONL"] == 9


def test_order_of_layers_in_a_rendered_scan():
    eye = make_eye(900_801, 0)
    volume, surfaces, _ = true_volume(eye)
    k = volume.of("H")[4]
    volume = replace(volume, scans=(replace(volume.scans[k], image=eye.bscan("H", volume.scans[k].line).image),))
    grey = measure_reflectance(volume, [surfaces[k]]).all.grey
    assert grey["vitreous"] < 15 < grey["ONL"] < grey["INL"] < grey["GCIPL"] < grey["RPE-BM"]
