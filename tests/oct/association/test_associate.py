"""The association of one eye: planted differences, what it refuses, and its behaviour without any association."""

import numpy as np
import pytest

from clarion.errors import UsageError
from clarion.oct.association import associate, nulls
from clarion.oct.association.cells import independent, make_cells, trend
from clarion.oct.association.covariance import fit, matern
from clarion.oct.validation.association import draw_maps, measure

FAR = 970_000


@pytest.fixture(scope="module")
def eye():
    return draw_maps(FAR)


def _associate(eye, thickness=None, erm=None, permutations=99, **options):
    thickness = eye.thickness_um if thickness is None else thickness
    erm = eye.erm if erm is None else erm
    return associate(thickness, erm, eye.grid, eye.fovea_xy_mm, permutations, **options)


def test_a_planted_difference_is_found_in_um(eye):
    none, planted = _associate(eye), _associate(eye, eye.thickness_um + 60 * eye.erm)
    interval = planted.adjusted_difference_um
    assert interval.low <= 60 <= interval.high and interval.high - interval.low < 12
    assert planted.p_value == pytest.approx(0.01)
    # The fit is linear in the thickness and its covariance does not see the effect: the estimate moves by 60 exactly.
    assert interval.value - none.adjusted_difference_um.value == pytest.approx(60, abs=1e-3)
    assert planted.away_from_edge_um.value - none.away_from_edge_um.value == pytest.approx(60, abs=1e-3)
    assert planted.adjusted_spearman.low > 0 and planted.spearman.value > none.spearman.value
    assert planted.inside_um - planted.outside_um == pytest.approx(planted.difference_um.value)
    assert 3 < planted.n_effective < planted.n_cells < planted.n_pixels


def test_dose_response_shows_the_step(eye):
    bins = _associate(eye, eye.thickness_um + 60 * eye.erm).dose_response
    assert bins[0].excess_um.value == 0 and bins[0].from_mm == -np.inf and bins[-1].to_mm == np.inf
    assert all(a.to_mm == b.from_mm for a, b in zip(bins, bins[1:]))
    for b in bins[1:]:
        assert abs(b.excess_um.value - (60 if b.from_mm >= 0 else 0)) < 15, b
        assert 2 < b.excess_um.high - b.excess_um.low < 40
    edge = next(k for k, b in enumerate(bins) if b.from_mm == 0)
    assert bins[edge].excess_um.value - bins[edge - 1].excess_um.value == pytest.approx(60, abs=6)


def test_same_seed_same_answer_and_missing_patches_are_no_harm(eye):
    assert _associate(eye, seed=3) == _associate(eye, seed=3)
    holes = eye.thickness_um + 60 * eye.erm
    holes[40:60, 100:180] = np.nan
    erm = eye.erm.astype(np.float32)
    erm[:20] = np.nan
    result = _associate(eye, holes, erm)
    assert result.adjusted_difference_um.low <= 60 <= result.adjusted_difference_um.high
    assert result.n_pixels < _associate(eye).n_pixels


def test_calibrated_probability_stays_unbiased(eye):
    rng = np.random.default_rng(0)
    blocks = tuple(-(-s // 10) for s in eye.erm.shape)
    probability = np.kron(rng.choice([0.05, 0.5, 0.95], blocks), np.ones((10, 10)))[: eye.grid.rows, : eye.grid.columns]
    truth = np.kron(rng.random(blocks), np.ones((10, 10)))[: eye.grid.rows, : eye.grid.columns] < probability
    interval = _associate(eye, eye.thickness_um + 60 * truth, probability).adjusted_difference_um
    assert interval.low <= 60 <= interval.high


def test_what_cannot_be_measured_is_said(eye):
    bare = _associate(eye, erm=np.zeros_like(eye.erm))
    assert bare.omitted == {"association": "there is no epiretinal membrane"} and bare.p_value is None
    assert "no bare retina" in _associate(eye, erm=np.ones_like(eye.erm)).omitted["association"]
    little = np.full_like(eye.thickness_um, np.nan)
    little[90:110, 120:200] = 300
    assert "mm2 of the macula" in _associate(eye, little).omitted["association"]
    speck = np.zeros_like(eye.erm)
    speck[100:104, 150:154] = True
    assert "covers only" in _associate(eye, erm=speck).omitted["association"]
    lost = associate(eye.thickness_um, eye.erm, eye.grid, None, 9)
    assert lost.difference_um.low < lost.difference_um.value < lost.difference_um.high
    assert lost.adjusted_difference_um is None and lost.omitted["p_value"] == "the fovea was not found"
    x, y = eye.grid.mm()
    disc = np.hypot(x - eye.fovea_xy_mm[0], y - eye.fovea_xy_mm[1]) < 1.5
    round_one = _associate(eye, erm=np.where(disc, 0.9, 0.1))
    assert round_one.adjusted_difference_um is not None, "a sharp edge is told apart even from free eccentricity"


def test_bad_input_is_refused(eye):
    with pytest.raises(UsageError, match="use one grid"):
        associate(eye.thickness_um[1:], eye.erm, eye.grid, eye.fovea_xy_mm)
    with pytest.raises(UsageError, match="probabilities"):
        _associate(eye, erm=eye.erm * 255.0)
    with pytest.raises(UsageError, match="choose spin or torus"):
        _associate(eye, null="shuffle")
    with pytest.raises(UsageError, match="permutations"):
        _associate(eye, permutations=0)


def test_moves_keep_what_they_promise(eye):
    x, y = eye.grid.mm()
    within = np.hypot(x - eye.fovea_xy_mm[0], y - eye.fovea_xy_mm[1]) <= 2.5
    cells = make_cells(within, eye.grid, eye.fovea_xy_mm)
    r = np.hypot(x - eye.fovea_xy_mm[0], y - eye.fovea_xy_mm[1])
    ring = ((r > 1) & (r < 1.8)).astype(float)
    spun = nulls.moved_coverage(ring, eye.grid, cells, eye.fovea_xy_mm, 20, "spin", 0)
    assert np.abs(spun - spun[:, :1]).max() < 0.25, "a ring about the fovea looks the same however it is turned"
    half = (x > eye.fovea_xy_mm[0]).astype(float)
    assert nulls.moved_coverage(half, eye.grid, cells, eye.fovea_xy_mm, 20, "spin", 0).std(1).max() > 0.3
    shifted = nulls.moved_coverage(ring, eye.grid, cells, eye.fovea_xy_mm, 20, "torus", 0)
    assert np.ptp(shifted[:, 1:].sum(0)) > 1 and not np.allclose(shifted[:, 1], shifted[:, 0])
    design = trend(cells, eye.grid, eye.fovea_xy_mm)
    basis = independent(design)
    assert basis.shape[1] <= design.shape[1] and np.allclose(basis.T @ basis, np.eye(basis.shape[1]))
    assert nulls.p_value(np.array([3.0, -3.0, 1.0, 2.0])) == 0.5
    known = nulls.fill_nearest(np.array([[0.0, np.nan, np.nan, 1.0]]))
    assert known.tolist() == [[0, 0, 1, 1]]


def test_covariance_is_recovered():
    x, y = (v.ravel() for v in np.meshgrid(np.arange(18) * 0.3, np.arange(18) * 0.3))
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    root = np.linalg.cholesky(64 * matern(distance, 1.0, 0.5) + 1e-6 * np.eye(len(x)))
    draws = np.random.default_rng(0).standard_normal((len(x), 4))
    for values in (root @ draws).T:
        found = fit(values, np.ones((len(x), 1)), x, y)
        assert 0.25 <= found.length_mm <= 4.0 and 4 < np.sqrt(found.variance_um2) < 16
        # What decides the intervals: the variance of a difference between neighbours
        step = found.matrix[0, 0] - found.matrix[0, 1]
        assert step == pytest.approx(64 * (1 - np.exp(-0.3)), rel=0.35)


def test_without_association_it_keeps_quiet_and_a_plain_test_does_not():
    table = measure(eyes=8, seed=FAR - 900_000 + 100, permutations=39, workers=1)
    figures = table["figures"]
    assert figures["null_rejection"]["value"] <= 2 / 8 and figures["coverage_0"]["value"] >= 6 / 8
    assert figures["null_rejection_naive"]["value"] >= 6 / 8
    assert figures["power_60"]["value"] == 1
    assert set(table) == {"part", "title", "columns", "rows", "notes", "n", "data", "figures"}
    assert table["n"] == 8 and all(len(row) == len(table["columns"]) for row in table["rows"])
    assert all({"value", "low", "high", "n", "target"} <= set(figure) for figure in figures.values())
    with pytest.raises(UsageError, match="at least 2"):
        measure(eyes=1)
