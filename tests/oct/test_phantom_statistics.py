"""The rendered picture measures like the exports do (ranges of facts/erm.md, and of phantom/statistics.py)."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from clarion.oct.phantom import display_statistics, make_eye
from clarion.oct.phantom.speckle import shot_noise, speckle


@pytest.fixture(scope="module")
def measured():
    """Statistics of 18 B-scans of six eyes with a membrane; the line's profile where the membrane is."""
    found = []
    for seed in range(200, 206):
        eye = make_eye(seed, 1 + seed % 4)
        for direction, line in (("H", 11), ("V", 13), ("H", 9)):
            scan = eye.bscan(direction, line)
            if scan.presence.sum() > 100:
                found.append(display_statistics(scan.image, scan.presence))
    assert len(found) >= 12
    return found


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("vitreous_mean", 3, 8),
        ("vitreous_zeros", 0.28, 0.54),
        ("line_peak", 180, 208),
        ("line_fwhm_px", 5.0, 6.3),
        ("plateau", 110, 132),
        ("patch_cv", 0.25, 0.39),
        ("grain", 0.12, 0.18),
    ],
)
def test_grey_levels(measured, name, low, high):
    values = np.array([m[name] for m in measured])
    assert low <= values.mean() <= high, f"{name}: mean {values.mean():.3f}"
    wide = 0.25 * (high - low) + 0.12 * high  # a single scan may leave the range of means, not by much
    assert values.min() > low - wide and values.max() < high + wide, f"{name}: {values.round(2)}"


@pytest.mark.parametrize(("name", "lags"), [("axial", (0.80, 0.45, 0.20)), ("lateral", (0.78, 0.60, 0.51))])
def test_autocorrelation(measured, name, lags):
    mean = np.mean([m[name] for m in measured], axis=0)
    assert mean == pytest.approx(lags, abs=0.05)


def test_noise_fields_are_what_they_claim():
    rng = np.random.default_rng(0)
    grain = speckle(rng, (400, 600))
    assert grain.std() == pytest.approx(1, abs=0.03) and abs(grain.mean()) < 0.05
    assert (grain[1:] * grain[:-1]).mean() == pytest.approx(0.81, abs=0.03)
    assert (grain[:, 1:] * grain[:, :-1]).mean() == pytest.approx(0.70, abs=0.03)
    for mean, zeros in ((3.2, 0.5), (7.0, 0.3)):
        noise = shot_noise(rng, (300, 600), mean, zeros)
        assert noise.mean() == pytest.approx(mean, rel=0.06) and (noise == 0).mean() == pytest.approx(zeros, abs=0.02)


def test_layers_rank_in_brightness_as_measured():
    """RPE > RNFL > GCL/IPL > OPL > INL > ONL, all far above the vitreous."""
    scan = make_eye(90, 0).bscan("V", 7)
    image, s = scan.image.astype(float), scan.surfaces
    rows = np.arange(496)[:, None]

    def grey(top, bottom, trim=0.25):
        height = s[bottom] - s[top]
        inside = (rows > s[top] + trim * height) & (rows < s[bottom] - trim * height)
        return image[inside].mean()

    rnfl, ganglion, inl = grey("ILM", "RNFL/GCL"), grey("RNFL/GCL", "IPL/INL"), grey("IPL/INL", "INL/OPL")
    opl, onl, rpe = grey("INL/OPL", "OPL/ONL"), grey("OPL/ONL", "EZ", 0.35), grey("RPE", "BM")
    assert rpe > rnfl > ganglion > opl > inl > onl > 4 * image[:60].mean()
    # Displayed contrast within a third of what erm.md's relative brightness gives after stretching 37 -> 0.
    assert onl / ganglion == pytest.approx((51 - 37) / (76 - 37), rel=0.4)


def test_statistics_can_tell_a_wrong_picture():
    """Speckle twice as coarse, or none, leaves the ranges: the checks above are able to fail."""
    scan = make_eye(201, 3).bscan("H", 12).image
    coarse = cv2.resize(scan[100:348, 200:584], None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    assert display_statistics(coarse)["axial"][1] > 0.60
    assert display_statistics(cv2.GaussianBlur(scan, (0, 0), 3.0))["grain"] < 0.10


def test_real_healthy_scan_measures_alike():
    """Axial speckle of the real line scan (displayed as x ** 0.25) equals the phantom's."""
    from_env = os.environ.get("CLARION_REAL_DATA")
    files = sorted(Path(from_env).rglob("Linescan_1.vol")) if from_env else []
    if not files:
        pytest.skip("CLARION_REAL_DATA is not set to a folder with Linescan_1.vol")
    raw = files[0].read_bytes()
    width, _, depth = np.frombuffer(raw, "<i4", 3, 12)
    slo = np.prod(np.frombuffer(raw, "<i4", 2, 48))
    start = 2048 + int(slo) + int(np.frombuffer(raw, "<i4", 1, 100)[0])
    values = np.frombuffer(raw, "<f4", int(width) * int(depth), start).reshape(depth, width)
    shown = (255 * np.where(values > 1, 0, values) ** 0.25).astype(np.uint8)
    real = display_statistics(np.pad(shown, ((60, 60), (0, 0))))
    phantom = display_statistics(make_eye(91, 0).bscan("H", 8).image)
    assert real["axial"] == pytest.approx(phantom["axial"], abs=0.08)
    assert real["grain"] == pytest.approx(phantom["grain"], abs=0.05)
