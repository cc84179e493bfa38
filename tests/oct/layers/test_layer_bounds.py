"""The bound's model is the renderer's, and the bound behaves as a bound must."""

from __future__ import annotations

import numpy as np
import pytest

from clarion.oct.layers import bounds
from clarion.oct.phantom import SURFACES, make_eye

ROWS = np.array([150.0, 158, 175, 184, 192, 212, 224, 229])


def test_mean_profile_is_that_of_rendered_a_scans():
    eye = make_eye(900_001, 0)
    off, level = [], []
    for line in (4, 8, 17, 20):
        scan = eye.bscan("H", line)
        surfaces = np.stack([scan.surfaces[name] for name in SURFACES])
        for column in range(30, 740, 11):
            rows = np.arange(int(surfaces[0, column]) - 20, int(surfaces[7, column]) + 12)
            if rows[0] < 0 or rows[-1] >= scan.image.shape[0]:
                continue
            profile = bounds.mean_profile(rows, surfaces[:, column])
            stretched = np.linspace(0, 1, 40)
            at = np.linspace(0, 1, len(rows))
            off.append(np.interp(stretched, at, scan.image[rows, column] - profile))
            level.append(np.interp(stretched, at, profile))
    off, level = np.mean(off, 0), np.mean(level, 0)
    gain = (off * level).sum() / (level**2).sum()  # the eye's own gain
    assert abs(gain) < 0.15
    assert np.abs(off - gain * level).mean() < 5
    assert np.corrcoef(level, level + off)[0, 1] > 0.99


def test_covariance_is_symmetric_and_positive():
    matrix = bounds.covariance(np.arange(120, 260), ROWS)
    assert np.allclose(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_a_stronger_step_is_located_better():
    bound = bounds.bounds_px(ROWS)
    assert np.isfinite(bound).all() and (bound > 0).all()
    assert bound[0] < bound[1] and bound[5] < bound[3]  # vitreous to ILM, EZ line against INL/OPL


def test_the_bound_is_reached_by_maximum_likelihood_where_noise_is_small(monkeypatch):
    """Gauss-Newton on simulated A-scans with known covariance: its spread is the bound's, as theory says."""
    monkeypatch.setattr(bounds, "_SPECKLE", 0.02)
    rows = np.arange(120.0, 262.0)
    truth = ROWS
    matrix = bounds.covariance(rows, truth)
    root, inverse = np.linalg.cholesky(matrix), np.linalg.inv(matrix)
    mean = bounds.mean_profile(rows, truth)
    step = 0.05
    slopes = np.array([(bounds.mean_profile(rows, truth + step * e) - bounds.mean_profile(rows, truth - step * e))
                       / (2 * step) for e in np.eye(8)])  # fmt: skip
    seen = mean + np.random.default_rng(0).standard_normal((600, len(rows))) @ root.T
    estimate = (seen - mean) @ inverse @ slopes.T @ np.linalg.inv(slopes @ inverse @ slopes.T)
    ratio = estimate.std(0) / bounds.bounds_px(truth)
    assert (ratio > 0.93).all()  # never below; above where only the mean is used and not the variance
    assert ratio[0] < 1.6


def test_absent_layers_have_no_bound():
    rows = ROWS.copy()
    rows[1] = rows[0] + 0.5
    bound = bounds.bounds_px(rows)
    assert np.isnan(bound[:2]).all() and np.isfinite(bound[3:]).all()


def test_neighbours_help_less_than_if_they_were_independent():
    assert bounds.lateral_gain(1) == pytest.approx(1)
    assert 1 / np.sqrt(12) < bounds.lateral_gain(12) < 1
    assert bounds.lateral_gain(100) < bounds.lateral_gain(12)
