"""Tissue that a model was told of: it comes with the predictions, and the truth says whether it is there."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from clarion.errors import DataError
from clarion.evaluators.factcheck import FactcheckEvaluator
from clarion.evaluators.factcheck_facts import Facts
from clarion.evaluators.factcheck_patterns import true_ones


def tables(told: list, texts: list[str], tissue: list | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    ids = [f"P{k}" for k in range(len(told))]
    predictions = pd.DataFrame({"sample_id": ids, "patient_id": ids, "text": texts, "patterns": told})
    truth = pd.DataFrame({"sample_id": ids, "patient_id": ids, "facts": [Facts(age=60.0).to_json()] * len(ids)})
    return predictions, truth if tissue is None else truth.assign(tissue=tissue)


def told(**shares: float) -> str:
    return json.dumps([{"name": name, "share": share} for name, share in shares.items()])


def test_claims_on_tissue_are_checked_against_what_the_model_was_told():
    predictions, truth = tables(
        [told(necrosis=0.4, fat=0.2), told(stroma=0.6), "[]"],
        ["The model attended to necrosis (40%).", "It looked at necrosis (40%).", "It looked at stroma."],
    )
    found = FactcheckEvaluator(n_resamples=20).evaluate(predictions, truth, {})
    metrics = found["metrics"]
    assert metrics["precision_pattern"]["value"] == pytest.approx(1 / 3)  # of three tissues one was told
    assert metrics["precision_share"]["value"] == pytest.approx(1 / 2)
    assert metrics["omission"]["value"] == pytest.approx(2 / 3)  # fat, and the second patient's stroma
    assert any("what the model was told" in note for note in found["notes"]) and "patterns_true" not in metrics


def test_what_was_told_is_true_where_the_tissue_has_it():
    given = [told(necrosis=0.4, fat=0.2), told(stroma=0.6, fat=0.1), told(fat=0.9), "[]"]
    tissue = [json.dumps({"necrosis": 0.05, "fat": 0.04}), json.dumps({"stroma": 0.9}), None, json.dumps({"fat": 1.0})]
    predictions, truth = tables(given, ["Fatty tissue was seen."] * 4, tissue)
    found = FactcheckEvaluator(n_resamples=20).evaluate(predictions, truth, {})
    entry = found["metrics"]["patterns_true"]
    assert entry["value"] == pytest.approx(2 / 4) and entry["n"] == entry["n_patients"] == 2
    assert found["baseline"]["patterns_true"]["name"] == "another patient's tissue"
    assert "tissue" not in found["subgroups"]
    assert true_ones([None], [tissue[0]], 0.05)["named"].tolist() == [0]


def test_facts_of_the_truth_stay_where_the_prediction_says_nothing():
    from clarion.evaluators.factcheck_facts import Pattern

    predictions, truth = tables([None], ["It looked at mucin."])
    truth["facts"] = Facts(patterns=(Pattern("mucin", 0.5),)).to_json()
    assert FactcheckEvaluator(n_resamples=5).evaluate(predictions, truth, {})["metrics"]["precision"]["value"] == 1


@pytest.mark.parametrize("cell", ["{", '{"name": "fat"}', '[{"share": 0.5}]', '[{"name": "fat", "share": 7}]', "3"])
def test_another_thing_is_named(cell):
    predictions, truth = tables([cell, "[]"], ["a", "b"])
    with pytest.raises(DataError, match="Sample P0: patterns are JSON"):
        FactcheckEvaluator().evaluate(predictions, truth, {})
