"""Scores of generated text: known values, joining by id, failures counted."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from clarion.errors import DataError
from clarion.evaluators import generation as g
from clarion.evaluators.generation import GenerationEvaluator


def tables(texts, answers, **columns):
    ids = [f"s{k}" for k in range(len(texts))]
    patients = [f"p{k // 2}" for k in range(len(texts))]
    keys = {"sample_id": ids, "patient_id": patients}
    extra = {name: values for name, values in columns.items() if name != "stopped"}
    predicted = {"stopped": columns["stopped"]} if "stopped" in columns else {}
    return pd.DataFrame({**keys, "text": texts, **predicted}), pd.DataFrame({**keys, "answer": answers, **extra})


def test_known_rouge_values():
    score, method = g._rouge(["The quick brown fox jumps over the lazy dog"])
    assert score(
        "The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog"
    ) == pytest.approx(0.588235, abs=1e-6)
    assert "rouge-score 0.1.2" in method and "stemmer" in method
    pair = (
        "Glaucoma is a disease that damages the optic nerve.",
        "Glaucoma damages the optic nerve and causes vision loss.",
    )
    assert score(*pair) == pytest.approx(0.555556, abs=1e-6)


def test_rouge_of_korean_is_not_zero():
    score, method = g._rouge(["망막 전막 2 기", "황반 두께"])
    assert score("망막 전막 3 기", "망막 전막 2 기") == pytest.approx(0.75) and "any script" in method


@pytest.mark.parametrize(
    ("a", "b", "exact", "f1"),
    [
        ("Stage 2.", "stage 2", 1, 1),
        ("The pit is lost", "the pit was lost", 0, 0.75),
        ("-2.5 D", "2.5 D", 0, 0.5),
        ("\u22122.5 D", "-2.5 d", 1, 1),
        ("", "yes", 0, 0),
    ],
)
def test_exact_match_and_f1(a, b, exact, f1):
    assert g.exact_match(a, b) == exact and g.token_f1(a, b) == pytest.approx(f1)


def test_numbers_of_a_text():
    assert g.numbers("20/40, -2.50 D, 1,234.5 um, 38 %, 2020-03") == [20, 40, -2.5, 1234.5, 38, 2020, 3]
    assert g.numbers_agree("It is 405.0 um", "405 um", 0.01) and not g.numbers_agree("405 or 406", "405 um", 0.01)
    assert g.numbers_agree("404", "405", 0.01) and not g.numbers_agree("-405", "405", 0.01)


def test_scores_with_intervals_baseline_and_subgroups():
    answers = ["Stage 2", "No.", "Stage 3", "No.", "38 %", "No."]
    predictions, truth = tables(["stage 2", "No", "Stage 2", "", "38 percent", "No."], answers, kind=list("abcabc"),
                                stopped=[True, True, True, False, True, True])  # fmt: skip
    shuffled = predictions.sample(frac=1, random_state=3)
    result = GenerationEvaluator().evaluate(shuffled, truth, {"seed": 0})
    metrics = result["metrics"]
    assert metrics["exact_match"]["value"] == pytest.approx(3 / 6) and metrics["exact_match"]["n_patients"] == 3
    assert metrics["exact_match"]["low"] <= 3 / 6 <= metrics["exact_match"]["high"]
    assert metrics["numeric_accuracy"]["value"] == pytest.approx(2 / 3) and metrics["numeric_accuracy"]["n"] == 3
    assert metrics["empty_rate"]["value"] == pytest.approx(1 / 6) == metrics["cut_off_rate"]["value"]
    assert "rouge-score" in metrics["rouge_l"]["method"] and "bootstrap over patients" in metrics["rouge_l"]["method"]
    assert set(result["subgroups"]) == {"kind"} and set(result["subgroups"]["kind"]) == {"a", "b", "c"}
    assert result["baseline"]["exact_match"]["name"] == "majority"
    assert any("1 empty answer" in note for note in result["notes"])
    assert result == GenerationEvaluator().evaluate(predictions, truth, {"seed": 0})
    json.dumps(result, allow_nan=False)


def test_the_majority_is_counted_on_the_validation_answers():
    predictions, truth = tables(["x"] * 4, ["No.", "No.", "Yes.", "No."])
    validation = tables(["x"] * 3, ["Yes.", "Yes.", "No."])
    result = GenerationEvaluator().evaluate(predictions, truth, {"seed": 0, "validation": validation})
    assert result["baseline"]["exact_match"]["value"] == pytest.approx(0.25)
    assert any("counted on the validation answers" in note for note in result["notes"])
    assert result["metrics"]["numeric_accuracy"]["value"] is None


def test_ids_must_match():
    predictions, truth = tables(["a", "b", "c"], ["a", "b", "c"])
    for wrong in (predictions.iloc[:2], pd.concat([predictions, predictions.iloc[:1]]),
                  predictions.assign(sample_id=["s0", "s1", "zz"])):  # fmt: skip
        with pytest.raises(DataError, match="s0|s2|zz"):
            GenerationEvaluator().evaluate(wrong, truth, {"seed": 0})
