from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from clarion.errors import DataError, UsageError
from clarion.evaluators.agreement import AgreementEvaluator, coverage
from clarion.evaluators.confusion_statistics import kappa
from clarion.evaluators.continuous_agreement import bland_altman, clustered_agreement, icc_2_1

# Shrout & Fleiss 1979, table 2: six targets, four judges
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_icc_of_shrout_and_fleiss():
    found = icc_2_1(np.array(SHROUT_FLEISS))
    assert found.value == pytest.approx(0.29, abs=0.005)
    # The interval that R's psych::ICC prints for these data
    assert (found.low, found.high) == pytest.approx((0.019, 0.761), abs=0.001)
    assert icc_2_1(1e6 + np.array(SHROUT_FLEISS)).value == pytest.approx(found.value, abs=1e-6)


def test_icc_interval_covers():
    rng = np.random.default_rng(0)
    truth, covered = 1.0 / (1.0 + 0.25 + 0.5), 0
    for _ in range(300):
        ratings = rng.normal(0, 1, (30, 1)) + rng.normal(0, 0.5, (1, 5)) + rng.normal(0, 0.5**0.5, (30, 5))
        found = icc_2_1(ratings)
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / 300 <= 0.99


def test_icc_without_spread_is_not_defined():
    assert icc_2_1(np.ones((5, 2))).value is None
    same = icc_2_1(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    assert same.value == pytest.approx(1.0) and same.low is None and same.note
    assert icc_2_1(np.ones((1, 2))).value is None


def test_bland_altman_by_hand():
    first, second = np.array([10.0, 12, 14, 20]), np.array([11.0, 15, 13, 23])
    found = bland_altman(first, second)
    difference = second - first
    sd = difference.std(ddof=1)
    assert found["bias"].value == 1.5 and found["loa_high"].value == pytest.approx(1.5 + 1.96 * sd)
    assert found["bias"].high - 1.5 == pytest.approx(3.18245 * sd / 2, rel=1e-5)
    assert found["loa_low"].low < found["loa_low"].value < found["bias"].low


def test_clustered_intervals_are_wider_than_classical_ones():
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(30), 10)
    first = rng.normal(0, 1, 300)
    second = first + rng.normal(0, 1, 30)[patient] + rng.normal(0, 0.1, 300)
    found = clustered_agreement(first, second, patient, 300, 0, 0.95)
    classical = bland_altman(first, second)
    assert found["bias"].value == pytest.approx(classical["bias"].value)
    assert found["loa_low"].value == pytest.approx(classical["loa_low"].value)
    assert found["icc"].value == pytest.approx(icc_2_1(np.stack([first, second], 1)).value)
    assert found["bias"].high - found["bias"].low > 2 * (classical["bias"].high - classical["bias"].low)


@pytest.mark.parametrize("weighting", ["unweighted", "linear", "quadratic"])
def test_kappa_equals_scikit_learn(weighting):
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, 200)
    second = np.clip(first + rng.integers(-1, 2, 200), 0, 4)
    matrix = np.zeros((1, 5, 5))
    np.add.at(matrix[0], (first, second), 1)
    name = None if weighting == "unweighted" else weighting
    assert kappa(matrix, weighting)[0] == pytest.approx(cohen_kappa_score(first, second, weights=name))


def test_coverage_counts_overlaps_once():
    box = np.array([[0, 0, 10, 5], [5, 0, 15, 5], [6, 0, 8, 5], [30, 0, 40, 5], [2, 0, 4, 9]], dtype=float)
    assert coverage(np.array([0, 0, 0, 0, 2]), box, 3).tolist() == [25.0, 0.0, 2.0]
    assert coverage(np.empty(0, int), np.empty((0, 4)), 2).tolist() == [0.0, 0.0]


def test_model_against_rater(make_boxes):
    predictions, truth = make_boxes(1, images=120, most_truths=2, found=0.9, false_per_image=1, jitter=2)
    truth["lateral_um"] = 11.5
    result = AgreementEvaluator(n_resamples=100).evaluate(predictions, truth, {"seed": 0})
    json.dumps(result, allow_nan=False)
    metrics = result["metrics"]
    assert metrics["extent_bias"]["unit"] == "mm" and metrics["extent_icc"]["value"] > 0.5
    assert metrics["patient_extent_icc"]["n"] == 24 and metrics["presence_kappa"]["n"] == 120
    assert result["baseline"]["presence_kappa"]["value"] == 0.0 and abs(result["baseline"]["extent_icc"]["value"]) < 0.2
    assert result["baseline"]["extent_icc"]["name"] and any("on the test itself" in n for n in result["notes"])
    again = AgreementEvaluator(n_resamples=100).evaluate(predictions.sample(frac=1, random_state=0), truth, {"seed": 0})
    assert again == result


def test_a_rater_agrees_with_himself(make_boxes, tmp_path):
    predictions, truth = make_boxes(2, images=40)
    rows = []
    for key, boxes in zip(truth["sample_id"], truth["boxes"]):
        rows += [(key, *box) for box in boxes] or [(key, None, None, None, None)]
    path = tmp_path / "second.csv"
    pd.DataFrame(rows, columns=["sample_id", "x1", "y1", "x2", "y2"]).to_csv(path, index=False)
    result = AgreementEvaluator(second_rater=str(path), n_resamples=30).evaluate(predictions, truth, {})
    assert result["metrics"]["raters_presence_kappa"]["value"] == 1.0
    assert result["metrics"]["raters_extent_icc"]["value"] == pytest.approx(1.0)
    assert result["metrics"]["raters_extent_bias"]["value"] == pytest.approx(0.0, abs=1e-9)
    short = pd.read_csv(path)
    short[short["sample_id"] != "s0007"].to_csv(path, index=False)
    with pytest.raises(DataError, match="s0007.*second rater"):
        AgreementEvaluator(second_rater=str(path), n_resamples=30).evaluate(predictions, truth, {})


def test_two_raters_of_stages_and_of_a_measurement(tmp_path):
    rng = np.random.default_rng(0)
    key = {"sample_id": [f"s{i}" for i in range(60)], "patient_id": [f"p{i // 2}" for i in range(60)]}
    label, depth = rng.integers(0, 4, 60), rng.normal(300, 40, 60)
    truth = pd.DataFrame({**key, "label": label, "thickness": depth})
    predictions = pd.DataFrame({**key, "probabilities": np.eye(4)[rng.integers(0, 4, 60)].tolist()})
    path = tmp_path / "second.csv"
    second = truth.assign(label=np.clip(label + (rng.random(60) < 0.2), 0, 3), thickness=depth + rng.normal(5, 4, 60))
    second.sample(frac=1, random_state=0).to_csv(path, index=False)
    evaluator = AgreementEvaluator(
        task=["detection", "classification"], second_rater=str(path), column="thickness", unit="um", n_resamples=100
    )
    context = {"class_names": list("abcd"), "task": "classification"}
    metrics = evaluator.evaluate(predictions, truth, context)["metrics"]
    assert metrics["raters_kappa_quadratic"]["value"] > 0.7 > 0.2 > abs(metrics["kappa"]["value"])
    assert metrics["raters_thickness_icc"]["value"] > 0.95
    assert metrics["raters_thickness_bias"]["value"] == pytest.approx(5, abs=2)
    assert metrics["raters_thickness_bias"]["unit"] == "um"
    second.assign(label=9).to_csv(path, index=False)
    with pytest.raises(DataError, match="second rater.*0..3"):
        evaluator.evaluate(predictions, truth, context)


def test_wrong_settings_are_refused(make_boxes, tmp_path):
    with pytest.raises(UsageError, match="detection or classification"):
        AgreementEvaluator(task="segmentation")
    with pytest.raises(UsageError, match="this run is for generation"):
        AgreementEvaluator(task=["detection", "classification"]).evaluate(None, None, {"task": "generation"})
    with pytest.raises(UsageError, match="second_rater"):
        AgreementEvaluator(column="thickness")
    predictions, truth = make_boxes(3, images=5)
    with pytest.raises(UsageError, match="nowhere.csv"):
        AgreementEvaluator(second_rater=str(tmp_path / "nowhere.csv")).evaluate(predictions, truth, {})
