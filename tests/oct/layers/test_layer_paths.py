"""Paths, sub-pixel means and the order of surfaces, against brute force and known answers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from clarion.oct.layers.surfaces import best_path, ordered, trace


def score(log_p: np.ndarray, path, jump: float) -> float:
    path = np.asarray(path)
    return float(log_p[np.arange(len(path)), path].sum() - jump * np.abs(np.diff(path)).sum())


@pytest.mark.parametrize("jump", [0.0, 0.35, 2.0])
def test_the_path_is_the_best_of_all_paths(jump):
    log_p = np.random.default_rng(0).normal(0, 2, (6, 5, 4)).astype(np.float32)
    found = best_path(log_p, jump)
    for k in range(len(log_p)):
        best = max(score(log_p[k], path, jump) for path in product(range(4), repeat=5))
        assert score(log_p[k], found[k], jump) == pytest.approx(best, abs=1e-4)


def test_a_long_path_stays_the_best_where_sums_grow_large():
    rng = np.random.default_rng(1)
    log_p = np.log(rng.dirichlet(np.full(64, 0.02), (1, 3000)) + 1e-30).astype(np.float32)
    path = best_path(log_p, 0.35)[0]
    exact = log_p[0].astype(np.float64)
    best = score(exact, path, 0.35)
    for column in (5, 1500, 2990):  # no single step improves it
        for row in range(64):
            other = path.copy()
            other[column] = row
            assert score(exact, other, 0.35) <= best + 1e-3


def peaks(rows: np.ndarray, height: int, sd: float = 1.0) -> torch.Tensor:
    """Logits [1, k, height, columns] of Gaussians around rows [k, columns]."""
    z = (np.arange(height)[None, :, None] - rows[:, None]) / sd
    return torch.from_numpy((-0.5 * z**2).astype(np.float32))[None]


def test_sub_pixel_rows_and_variances_come_back():
    columns = np.arange(40)
    rows = np.stack([20 + 3 * np.sin(columns / 6), 40.3 + 0.1 * columns])
    traced = trace(peaks(rows, 64))
    assert np.abs(traced.rows[0] - rows).max() < 0.02
    assert traced.variance == pytest.approx(1.0, abs=0.03)
    assert traced.mass.min() > 0.99


def test_a_bright_line_elsewhere_does_not_tear_the_surface():
    rows = np.full((1, 60), 30.0)
    logits = peaks(rows, 64)
    logits[0, 0, 10, 25:28] = 1.5  # three columns prefer a row far away, a little
    assert np.abs(trace(logits).rows[0, 0] - 30).max() < 0.5


def test_nothing_seen_has_no_mass():
    traced = trace(torch.zeros(1, 2, 128, 20))
    assert traced.mass.max() < 0.1


def test_order_is_the_weighted_isotonic_regression():
    from scipy.optimize import minimize

    rng = np.random.default_rng(2)
    rows = rng.normal(0, 3, (2, 8, 5)) + np.arange(8)[:, None]
    weight = rng.uniform(0.2, 3, rows.shape)
    found = ordered(rows, weight)
    assert (np.diff(found, axis=1) >= -1e-9).all()
    constraint = {"type": "ineq", "fun": np.diff}
    for n, c in ((0, 0), (1, 3)):
        y, w = rows[n, :, c], weight[n, :, c]
        best = minimize(lambda x, y=y, w=w: (w * (x - y) ** 2).sum(), np.sort(y), constraints=constraint, tol=1e-12)
        assert found[n, :, c] == pytest.approx(best.x, abs=1e-3)
    inside = np.sort(rows, axis=1)
    assert ordered(inside, weight) is inside
