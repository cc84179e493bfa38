from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from clarion.errors import DataError
from clarion.evaluators.classification import ClassificationEvaluator

KEYS = {"value", "low", "high", "n", "n_patients", "unit", "method"}


def simulate(seed=0, n=300, classes=4, strength=1.5, per_patient=6):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    logit = rng.normal(size=(n, classes))
    logit[np.arange(n), label] += strength
    probability = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    key = {"sample_id": [f"s{i}" for i in range(n)], "patient_id": [f"p{i // per_patient}" for i in range(n)]}
    predictions = pd.DataFrame({**key, "probabilities": probability.tolist()})
    return predictions, pd.DataFrame({**key, "label": label, "side": rng.choice(["OD", "OS"], n)})


def context(classes=4, **more):
    return {"class_names": list("abcdef"[:classes]), "seed": 0, **more}


@pytest.mark.parametrize("classes", [2, 4])
def test_values_equal_scikit_learn(classes):
    from sklearn import metrics as sk

    predictions, truth = simulate(classes=classes)
    found = ClassificationEvaluator(n_resamples=50).evaluate(predictions, truth, context(classes))["metrics"]
    p, y = np.array(predictions["probabilities"].tolist()), truth["label"].to_numpy()
    hat, one_hot = p.argmax(1), np.eye(classes)[y]
    score, target = (p[:, 1], y) if classes == 2 else (p, one_hot)
    expected = {
        "accuracy": sk.accuracy_score(y, hat),
        "balanced_accuracy": sk.balanced_accuracy_score(y, hat),
        "macro_f1": sk.f1_score(y, hat, average="macro"),
        "auroc": sk.roc_auc_score(y, score, multi_class="ovr") if classes > 2 else sk.roc_auc_score(y, score),
        "average_precision": sk.average_precision_score(target, score),
        "brier": ((p - one_hot) ** 2).sum(1).mean(),
        "kappa": sk.cohen_kappa_score(y, hat),
        "sensitivity_a": (hat[y == 0] == 0).mean(),
        "specificity_a": (hat[y != 0] != 0).mean(),
    }
    if classes > 2:
        expected["kappa_quadratic"] = sk.cohen_kappa_score(y, hat, weights="quadratic")
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-9), name
        assert set(found[name]) == KEYS and found[name]["low"] < value < found[name]["high"]


def test_calibration_error_against_a_plain_loop():
    predictions, truth = simulate(seed=3)
    p, y = np.array(predictions["probabilities"].tolist()), truth["label"].to_numpy()
    top, right, expected = p.max(1), p.argmax(1) == y, 0.0
    for low in np.arange(10) / 10:
        inside = (top >= low) & (top < low + 0.1)
        if inside.any():
            expected += inside.mean() * abs(top[inside].mean() - right[inside].mean())
    found = ClassificationEvaluator(n_resamples=10).evaluate(predictions, truth, context())
    assert found["metrics"]["ece"]["value"] == pytest.approx(expected, abs=1e-9)


def test_the_whole_result_and_its_baseline():
    predictions, truth = simulate(n=1000)
    result = ClassificationEvaluator(n_resamples=100).evaluate(
        predictions, truth, context(train_counts=[10, 50, 20, 20])
    )
    json.dumps(result, allow_nan=False)
    assert result["baseline"]["accuracy"]["value"] == pytest.approx((truth["label"] == 1).mean())
    assert result["baseline"]["auroc"]["value"] == 0.5 and result["baseline"]["kappa"]["value"] == 0.0
    assert "training" in result["baseline"]["accuracy"]["name"]
    assert set(result["subgroups"]) == {"side"} and result["subgroups"]["side"]["OD"]["accuracy"]["n"] < 1000
    assert all(len(c["x"]) == len(c["y"]) <= 201 for c in result["curves"].values())
    assert np.sum(result["confusion"]["matrix"]) == 1000
    named = ClassificationEvaluator(n_resamples=0).evaluate(
        predictions, truth, context(train_counts={"a": 10, "b": 50, "c": 20, "d": 20})
    )
    assert named["baseline"]["accuracy"]["value"] == result["baseline"]["accuracy"]["value"]


def test_shuffled_rows_score_the_same():
    predictions, truth = simulate()
    evaluator = ClassificationEvaluator(n_resamples=50)
    straight = evaluator.evaluate(predictions, truth, context())
    assert straight == evaluator.evaluate(
        predictions.sample(frac=1, random_state=0), truth.sample(frac=1, random_state=1), context()
    )


@pytest.mark.filterwarnings("error")
def test_one_class_or_one_patient_gives_none_with_a_note():
    predictions, truth = simulate(n=20)
    result = ClassificationEvaluator(n_resamples=30).evaluate(predictions, truth.assign(label=2), context())
    assert result["metrics"]["auroc"]["value"] is None and result["metrics"]["accuracy"]["value"] is not None
    assert any(note.startswith("auroc") for note in result["notes"])
    single = ClassificationEvaluator(n_resamples=30).evaluate(
        predictions.assign(patient_id="p"), truth.assign(patient_id="p"), context()
    )
    assert single["metrics"]["accuracy"]["value"] is not None and single["metrics"]["accuracy"]["low"] is None
    json.dumps([result, single], allow_nan=False)


def test_bad_tables_are_refused_by_name():
    predictions, truth = simulate(n=12)
    with pytest.raises(DataError, match="s3.*sum to 1"):
        broken = predictions.copy()
        broken.at[3, "probabilities"] = [3.0, -1.0, 0.2, 1.0]
        ClassificationEvaluator().evaluate(broken, truth, context())
    with pytest.raises(DataError, match="outside 0..3"):
        ClassificationEvaluator().evaluate(predictions, truth.assign(label=7), context())
    with pytest.raises(DataError, match="4 classes"):
        ClassificationEvaluator().evaluate(predictions, truth, context(3))
    with pytest.raises(DataError, match="s11"):
        ClassificationEvaluator().evaluate(predictions[:-1], truth, context())
