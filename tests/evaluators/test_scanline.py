"""Presence along the scan line: known answers, intervals, baselines, bad tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from clarion.errors import DataError, UsageError
from clarion.evaluators.scanline import ScanlineEvaluator

WIDTH = 120


def tables(seed: int, patients: int = 12, scans: int = 4, noise: float = 1.0, calibrated: bool = True):
    """Scores drawn so that they are probabilities (calibrated) or twice as sure as they should be."""
    random = np.random.default_rng(seed)
    rows, truth = [], []
    for p in range(patients):
        for k in range(scans):
            logit = random.normal(-0.5 if p % 3 else -8, 2 * noise, WIDTH)
            probability = 1 / (1 + np.exp(-logit))
            present = (random.random(WIDTH) < probability).astype(float)
            said = probability if calibrated else 1 / (1 + np.exp(-2.5 * logit))
            ids = {"sample_id": f"s{p}_{k}", "patient_id": f"p{p:02d}"}
            rows.append(ids | {"presence": said.tolist()})
            line = present * 0.3 + random.normal(0.9, 0.4, WIDTH)
            boxed = np.maximum(present, k == 0)
            truth.append(ids | {"presence": present, "stage": str(p % 3), "boxed": boxed, "line": line})
    return pd.DataFrame(rows), pd.DataFrame(truth)


def evaluate(predictions, truth, validation=None, **options):
    evaluator = ScanlineEvaluator(**{"n_resamples": 100, **options})
    return evaluator.evaluate(predictions, truth, {"seed": 0, "validation": validation, "class_names": ["erm"]})


def test_scores_are_those_of_scikit_learn():
    predictions, truth = tables(0)
    scores = evaluate(predictions, truth, threshold=0.4)
    said, true = np.concatenate(list(predictions["presence"])), np.concatenate(list(truth["presence"]))
    metrics = scores["metrics"]
    assert metrics["auc"]["value"] == pytest.approx(roc_auc_score(true, said), abs=1e-3)
    assert metrics["dice"]["value"] == pytest.approx(f1_score(true, np.rint(said * 1000) >= 400), abs=1e-6)
    assert metrics["length_bias"]["value"] == pytest.approx(said.sum() / true.sum() - 1, abs=1e-6)
    for name in ("auc", "dice", "ece"):
        assert metrics[name]["low"] < metrics[name]["value"] < metrics[name]["high"]
        assert metrics[name]["n"] == 48 and metrics[name]["n_patients"] == 12
    assert set(scores["subgroups"]["stage"]) == {"0", "1", "2"}
    within = metrics["length_within_10"]
    assert within["n"] <= 12 and within["low"] < within["value"] <= within["high"] <= 1 and "Wilson" in within["method"]


def test_the_order_of_rows_plays_no_part():
    predictions, truth = tables(1)
    first = evaluate(predictions, truth)
    second = evaluate(predictions.sample(frac=1, random_state=1), truth.sample(frac=1, random_state=2))
    assert first["metrics"] == second["metrics"]


def test_calibration_tells_sure_from_right():
    good, bad = (evaluate(*tables(2, calibrated=c))["metrics"]["ece"]["value"] for c in (True, False))
    assert good < 0.03 and bad > 0.06


def test_unknown_ascans_count_nowhere_and_unanswered_ones_are_told():
    predictions, truth = tables(3)
    whole = evaluate(predictions, truth, threshold=0.5)["metrics"]
    blind = truth.copy()
    blind["presence"] = [np.r_[row[:100], np.full(20, np.nan)] for row in truth["presence"]]
    cut = evaluate(predictions, blind, threshold=0.5)["metrics"]
    assert cut["assessed"]["value"] == 1 and cut["dice"]["value"] != whole["dice"]["value"]
    silent = predictions.copy()
    silent["presence"] = [[None if i < 30 else v for i, v in enumerate(row)] for row in predictions["presence"]]
    assert evaluate(silent, truth, threshold=0.5)["metrics"]["assessed"]["value"] == pytest.approx(0.75)


def test_the_threshold_comes_from_the_validation():
    validation = tables(4)
    scores = evaluate(*tables(5), validation=validation)
    threshold = scores["metrics"]["threshold"]
    assert threshold["method"] == "best Dice on the validation" and 0.2 < threshold["value"] < 0.6
    assert any("0.5" in note for note in evaluate(*tables(5))["notes"])


def test_baselines_know_no_network():
    predictions, truth = tables(6)
    baseline = evaluate(predictions, truth, validation=tables(7))["baseline"]
    prevalence = np.concatenate(list(truth["presence"])).mean()
    assert baseline["dice_everywhere"]["value"] == pytest.approx(2 * prevalence / (1 + prevalence))
    assert baseline["dice_true_boxes"]["value"] > baseline["dice"]["value"]
    assert "brightness" in baseline["auc"]["name"] and 0.5 < baseline["auc"]["value"] < 0.8


def test_eyes_without_membrane_have_no_length_error():
    predictions, truth = tables(8)
    truth["presence"] = [np.zeros(WIDTH)] * len(truth)
    metrics = evaluate(predictions, truth)["metrics"]
    assert metrics["auc"]["value"] is None and metrics["length_error"]["value"] is None
    said = np.concatenate(list(predictions["presence"]))
    assert metrics["false_length"]["value"] == pytest.approx(said.mean(), abs=1e-6)


def test_bad_tables_are_refused():
    predictions, truth = tables(9)
    with pytest.raises(DataError, match="A-scans"):
        evaluate(predictions.assign(presence=[row[:-1] for row in predictions["presence"]]), truth)
    with pytest.raises(DataError, match="predict every sample"):
        evaluate(predictions.iloc[1:], truth)
    with pytest.raises(DataError, match="list of numbers|per A-scan"):
        evaluate(predictions.assign(presence=["x"] * len(predictions)), truth)
    with pytest.raises(UsageError, match="between 0 and 1"):
        ScanlineEvaluator(threshold=1.5)
