"""Two survival models on the same patients: paired resamples, DeLong, and the recalibration under both."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from clarion.errors import DataError
from clarion.evaluators.survival import SurvivalEvaluator
from clarion.evaluators.survival_calibration import logistic
from clarion.evaluators.survival_comparison import delong


def cohort(n: int = 250, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    life, watched = rng.exponential(60 * np.exp(-x)), rng.exponential(80, n)
    ids = {"sample_id": [f"s{i:04d}" for i in range(n)], "patient_id": [f"s{i:04d}" for i in range(n)]}
    truth = pd.DataFrame({**ids, "time": np.minimum(life, watched), "event": life <= watched})
    good, poor = (pd.DataFrame({**ids, "risk": x + s * rng.normal(size=n)}) for s in (0.3, 2.0))
    return good, poor, truth


def test_delong_is_its_definition():
    """Against the structural components written out over all pairs, with ties."""
    rng = np.random.default_rng(0)
    positive = rng.random(120) < 0.4
    a, b = np.round(rng.normal(size=120) + positive, 1), np.round(rng.normal(size=120) + 0.5 * positive, 1)
    found = delong(a, b, positive)
    parts = []
    for score in (a, b):
        above = (score[positive][:, None] > score[~positive]) + 0.5 * (score[positive][:, None] == score[~positive])
        parts.append((above.mean(1), above.mean(0)))
    m, n = positive.sum(), (~positive).sum()
    of_cases, of_controls = np.cov([p[0] for p in parts]) / m, np.cov([p[1] for p in parts]) / n
    contrast = np.array([1, -1])
    se = np.sqrt(contrast @ (of_cases + of_controls) @ contrast)
    assert found["se"] == pytest.approx(se, abs=1e-12)
    assert found["auc_a"] == pytest.approx(roc_auc_score(positive, a), abs=1e-12)
    assert found["auc_b"] == pytest.approx(roc_auc_score(positive, b), abs=1e-12)
    assert found["z"] == pytest.approx((found["auc_a"] - found["auc_b"]) / se) and 0 < found["p"] < 1


def test_delong_keeps_its_level():
    """Two equally good scores differ at p < 0.05 in about one of twenty cohorts."""
    rng = np.random.default_rng(1)
    small = 0
    for _ in range(400):
        positive = rng.random(150) < 0.4
        a, b = rng.normal(size=(2, 150)) + positive
        small += delong(a, b, positive)["p"] < 0.05
    assert 8 <= small <= 34


def test_delong_edges():
    positive = np.arange(10) < 4
    same = delong(np.arange(10), 2 * np.arange(10), positive)
    assert same["p"] == 1 and same["difference"] == 0
    assert np.isnan(delong(np.arange(10), np.arange(10), np.arange(10) < 1)["p"])


def test_comparison_is_paired():
    good, poor, truth = cohort()
    evaluator = SurvivalEvaluator(n_resamples=200)
    found = evaluator.compare(good, poor.sample(frac=1, random_state=0), truth, {"seed": 0}, ("good", "poor"))
    json.dumps(found, allow_nan=False)
    alone = [evaluator.evaluate(p, truth, {"seed": 0})["metrics"] for p in (good, poor)]
    for name in ("c_index", "c_index_uno", "auc_36m", "auc_60m"):
        entry = found["metrics"][name]
        assert (entry["a"]["value"], entry["b"]["value"]) == (alone[0][name]["value"], alone[1][name]["value"])
        assert (entry["a"]["low"], entry["b"]["high"]) == (alone[0][name]["low"], alone[1][name]["high"])
        assert entry["difference"]["value"] == pytest.approx(entry["a"]["value"] - entry["b"]["value"])
        assert 0 < entry["difference"]["low"] and "good minus poor" in entry["difference"]["method"]
    test = found["delong"]["auc_naive_60m"]
    known = ((truth["time"] > 60) | truth["event"]).to_numpy()
    assert test["n"] == known.sum() and test["p"] < 0.01 and test["low"] < test["difference"] < test["high"]
    assert test["a"] == pytest.approx(found["metrics"]["auc_naive_60m"]["a"]["value"], abs=1e-12)
    boot = found["metrics"]["auc_naive_60m"]["difference"]
    assert (test["high"] - test["low"]) == pytest.approx(boot["high"] - boot["low"], rel=0.25)
    same = evaluator.compare(good, good, truth, {"seed": 0})
    assert same["metrics"]["c_index"]["difference"]["value"] == 0 and same["delong"]["auc_naive_60m"]["p"] == 1


def test_comparison_refuses_what_it_cannot_pair():
    good, poor, truth = cohort(60)
    evaluator = SurvivalEvaluator(n_resamples=20)
    with pytest.raises(DataError, match="predictions of poor"):
        evaluator.compare(good, poor[:-1], truth, {}, ("good", "poor"))
    with pytest.raises(DataError, match="two different names"):
        evaluator.compare(good, poor, truth, {}, ("one", "one"))
    for table in (good, poor, truth):
        table["patient_id"] = [f"p{i // 2}" for i in range(60)]
    found = evaluator.compare(good, poor, truth, {"train_truth": truth[:0]})
    assert found["delong"] == {} and any("one row a patient" in note for note in found["notes"])


def test_recalibration_is_weighted_logistic_regression():
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=200), (rng.random(200) < 0.4).astype(float)
    weights = rng.exponential(size=(3, 200))
    a, b = logistic(weights, label, x)
    for k in range(3):
        model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(x[:, None], label, weights[k])
        assert (a[k], b[k]) == pytest.approx((model.intercept_[0], model.coef_[0, 0]), abs=1e-5)
    fixed, _ = logistic(weights, label, x, slope=1.0)
    p = 1 / (1 + np.exp(-(fixed[:, None] + x)))
    assert (weights * (label - p)).sum(1) == pytest.approx(0, abs=1e-8)
    separated = logistic(np.ones((1, 200)), (x > 0).astype(float), x)
    assert np.isnan(separated).all() and np.isnan(logistic(np.ones((1, 200)), np.ones(200), x)).all()
    assert np.isnan(logistic(np.ones((1, 200)), label, np.full(200, 0.3))).all()
