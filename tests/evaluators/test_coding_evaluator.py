"""The coding evaluator: known answers, failures counted, intervals, baseline, abstention, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from clarion.codes.icd10cm import LEVELS, icd10cm
from clarion.errors import DataError, UsageError
from clarion.evaluators.coding import CodingEvaluator
from clarion.evaluators.coding_tables import top_codes

TRUE = ["H40.1131", "H25.11"]


def tables(true, predicted, truth_columns=None, **columns):
    ids = {"sample_id": [f"s{k:03d}" for k in range(len(true))], "patient_id": [f"p{k:03d}" for k in range(len(true))]}
    truth = pd.DataFrame(ids | {"codes": true} | (truth_columns or {}))
    return pd.DataFrame(ids | ({} if predicted is None else {"codes": predicted}) | columns), truth


def score(true, predicted, context=None, truth_columns=None, options=None, **columns):
    predictions, truth = tables(true, predicted, truth_columns, **columns)
    evaluator = CodingEvaluator(**({"n_resamples": 200} | (options or {})))
    return evaluator.evaluate(predictions, truth, {"seed": 1} | (context or {}))


def value(result, name):
    return result["metrics"][name]["value"]


@pytest.mark.parametrize(
    ("predicted", "expected"), [(["H40.1132", "H25.11"], [1, 1, 1, 1, 0.5]), (["H40", "H25"], [1, 1, 1, 0, 0])]
)
def test_known_f1_by_level(predicted, expected):
    result = score([TRUE] * 3, [predicted] * 3)
    assert [value(result, f"{level}_f1") for level in LEVELS] == pytest.approx(expected)
    assert [value(result, f"case_{level}_f1") for level in LEVELS] == pytest.approx(expected)


def test_a_case_without_a_code_is_an_empty_prediction_and_not_left_out():
    result = score([TRUE] * 4, [TRUE, TRUE, [], ["H40.1139"]])
    assert value(result, "coding_failure_rate") == 0.5 and result["metrics"]["coding_failure_rate"]["n"] == 4
    assert value(result, "leaf_f1") == pytest.approx(2 * 4 / (8 + 5))  # the code that does not exist is a wrong one
    assert value(result, "case_leaf_f1") == pytest.approx(0.5)
    assert value(result, "leaf_recall") == pytest.approx(0.5) and value(result, "leaf_precision") == pytest.approx(0.8)
    assert value(result, "invalid_code_rate") == pytest.approx(1 / 5)
    assert value(result, "exact_match") == pytest.approx(0.5)
    assert "2 case(s) with no code that exists are empty predictions" in " ".join(result["notes"])


def test_no_prediction_at_all_scores_zero_with_undefined_precision():
    result = score([TRUE] * 3, [[], None, float("nan")])
    assert value(result, "leaf_f1") == 0 and value(result, "leaf_precision") is None
    assert value(result, "coding_failure_rate") == 1 and result["metrics"]["coding_failure_rate"]["low"] is not None
    assert value(result, "hierarchical_distance") == pytest.approx(6)
    json.dumps(result)


def test_spelling_repeats_and_order_of_rows_do_not_matter():
    predictions, truth = tables([TRUE, ["C4A.0"]], [["h25.11", "H401131", "H2511"], ["c4a0"]])
    result = CodingEvaluator(n_resamples=0).evaluate(predictions.iloc[::-1], truth, {})
    assert value(result, "leaf_f1") == 1 and value(result, "exact_match") == 1
    text = tables([TRUE, ["C4A.0"]], ["H25.11; h401131", "C4A.0"])[0]
    assert value(CodingEvaluator(n_resamples=0).evaluate(text, truth, {}), "leaf_f1") == 1


def study(n=120, seed=0):
    rng = np.random.default_rng(seed)
    leaves = icd10cm().descendant_leaves("7")[::110]  # 25 of them, of many categories
    true = [list(rng.choice(leaves, rng.integers(1, 4), replace=False)) for _ in range(n)]
    predicted, confidences = [], []
    for codes in true:
        sure = rng.random(len(codes))  # the surer, the more often right
        predicted.append([c if rng.random() < s else str(rng.choice(leaves)) for c, s in zip(codes, sure, strict=True)])
        confidences.append(sure.tolist())
    return true, predicted, confidences


def test_intervals_hold_the_value_and_cases_of_one_patient_stay_together():
    true, predicted, confidences = study()
    result = score(true, predicted, confidences=confidences)
    for name in ("leaf_f1", "case_leaf_f1", "category_f1", "exact_match", "hierarchical_distance"):
        metric = result["metrics"][name]
        assert metric["low"] < metric["value"] < metric["high"] and metric["n"] == metric["n_patients"] == 120
    predictions, truth = tables(true, predicted)
    for table in (predictions, truth):
        table["patient_id"] = [f"p{k // 12}" for k in range(120)]
    few = CodingEvaluator(n_resamples=200).evaluate(predictions, truth, {"seed": 1})["metrics"]["leaf_f1"]
    assert few["n_patients"] == 10 and few["value"] == pytest.approx(value(result, "leaf_f1"))
    assert few["low"] != result["metrics"]["leaf_f1"]["low"]


def test_abstention_raises_f1_where_confidence_means_something():
    true, predicted, confidences = study(300)
    result = score(true, predicted, confidences=confidences)
    curve = result["curves"]["abstention"]
    assert curve["x"] == sorted(curve["x"]) and curve["x"][-1] == 1.0 and len(curve["x"]) <= 201
    assert curve["y"][-1] == pytest.approx(value(result, "leaf_f1"))
    middle = int(np.searchsorted(curve["x"], 0.5))
    assert curve["y"][middle] > curve["y"][-1]
    assert result["curves"]["threshold_f1"]["y"][0] == pytest.approx(value(result, "leaf_f1"))
    assert score(true, predicted)["curves"] == {}


def test_threshold_is_chosen_on_the_validation_split():
    true, predicted, confidences = study(300)
    val_predictions, val_truth = tables(*study(300, seed=5)[:2], confidences=study(300, seed=5)[2])
    context = {"validation": (val_predictions, val_truth)}
    result = score(true, predicted, context, confidences=confidences)
    assert 0 < value(result, "abstaining_coverage") < 1
    assert value(result, "abstaining_leaf_precision") > value(result, "leaf_precision")
    note = next(n for n in result["notes"] if "threshold" in n)
    assert "validation" in note
    assert "abstaining_coverage" not in score(true, predicted, confidences=confidences)["metrics"]


def test_majority_is_learnt_from_training():
    train = pd.DataFrame({"codes": [["H25.11"], ["H25.11", "H40.1131"], ["h2511"]]})
    true = [["H25.11"], ["H25.11"], ["H40.1131"], ["H26.9"]]
    result = score(true, true, {"train_truth": train})
    base = result["baseline"]["leaf_f1"]
    assert base["name"] == "majority" and base["value"] == pytest.approx(0.5)
    told = "Majority baseline: H25.11 for every case: the most frequent of the training codes"
    assert any(note.startswith(told) for note in result["notes"])
    validation = (None, pd.DataFrame({"sample_id": ["v"], "patient_id": ["v"], "codes": [["H26.9"]]}))
    assert score(true, true, {"validation": validation})["baseline"]["leaf_f1"]["value"] == pytest.approx(0.25)
    assert "the scored codes themselves" in " ".join(score(true, true)["notes"])


def test_as_many_majority_codes_as_score_best():
    system = icd10cm()
    assert top_codes([["H25.11", "H40.1131"]] * 3 + [["H26.9"]], system) == ["H25.11", "H40.1131"]
    assert top_codes([["H26.9"], ["H25.11"], ["H25.11"]], system) == ["H25.11"]
    assert top_codes([[], ["gone"]], system) == []


def test_subgroups():
    columns = {"diagnoses": ["seen", "seen", "unseen"], "language": ["en", "ko", "ko"]}
    result = score([TRUE] * 3, [TRUE, TRUE, []], truth_columns=columns)
    groups = result["subgroups"]
    assert groups["diagnoses"]["seen"]["leaf_f1"]["value"] == 1
    assert groups["diagnoses"]["unseen"]["leaf_f1"]["value"] == 0
    assert groups["language"]["ko"]["case_leaf_f1"]["value"] == 0.5
    assert groups["diagnoses"]["unseen"]["coding_failure_rate"]["value"] == 1


def test_procedures_laboratory_and_medicines():
    others = {"procedures": [["08RJ3JZ"]] * 2, "labs": [["718-7"]] * 2, "drugs": [["A10BA02"]] * 2}
    result = score(
        [TRUE] * 2, [TRUE] * 2, truth_columns=others,
        procedures=[["08RK3JZ"]] * 2, labs=[["718-7"], []], drugs=[["A10BB01"], ["A10BA02"]],
    )  # fmt: skip
    assert [value(result, f"procedure_{x}_f1") for x in ("section", "body_system", "operation", "full")] == [1, 1, 1, 0]
    assert value(result, "lab_leaf_f1") == pytest.approx(2 / 3)
    levels = ("anatomical", "therapeutic", "pharmacological", "chemical", "substance")
    assert [value(result, f"drug_{x}_f1") for x in levels] == [1, 1, 1, 0.5, 0.5]
    assert any("Name ComponentHierarchyBySystem.csv" in n for n in result["notes"])
    assert "lab_part_1_f1" not in result["metrics"]
    without = score([TRUE] * 2, [TRUE] * 2, truth_columns=others)
    assert "procedures are not scored: the predictions have no column procedures." in without["notes"]


@dataclass
class Span:
    code: str | None
    confidence: float
    text: str = ""
    negated: bool = False
    historical: bool = False
    reason: str | None = None


@dataclass
class Coded:
    codes: list
    dropped: list = field(default_factory=list)


class WordCoder:
    """Reads codes that stand as words: enough of a coder to see what the evaluator makes of its answers."""

    def __call__(self, text):
        words, system = text.split(), icd10cm()
        found = [Span(c, 0.9, w, negated=w.endswith("?")) for w in words if (c := system.normalise(w.strip("?")))]
        return Coded(found, [Span(None, 1.0, w, reason="no_such_code") for w in words if w == "H40.1139"])


def test_text_is_read_by_the_coder():
    texts = ["H40.1131 H2511", "H40.1131 H26.9? H40.1139", "no code here", None]
    result = score([TRUE] * 4, None, text=texts, options={"coder": WordCoder()})
    assert value(result, "coding_failure_rate") == 0.5
    assert value(result, "leaf_f1") == pytest.approx(2 * 3 / (8 + 4))
    assert value(result, "invalid_code_rate") == pytest.approx(1 / 4)
    with pytest.raises(UsageError, match=r"name a coder with evaluators\.coding\.coder"):
        score([TRUE], None, text=["H40.1131"])


def test_refusals():
    gone = r"codes hold 1 code\(s\), 2 time\(s\), that do not exist: 'H40\.1139'.*nearest: H40\.113"
    with pytest.raises(DataError, match=gone):
        score([["H40.1139"]] * 2 + [TRUE], [TRUE] * 3)
    dropped = score([["H40.1139"]] * 2 + [TRUE], [TRUE] * 3, options={"stale": "drop"})
    assert "2 true codes are no codes of ICD-10-CM (April 2026) and are left out" in " ".join(dropped["notes"])
    assert value(dropped, "case_leaf_f1") == 1 and dropped["metrics"]["case_leaf_f1"]["n"] == 1
    assert value(dropped, "leaf_f1") == pytest.approx(2 * 2 / (2 + 6))
    with pytest.raises(DataError, match="No case of the truth has codes: there is nothing to score"):
        score([[], []], [TRUE, TRUE])
    with pytest.raises(DataError, match=r"lacks the column\(s\) codes"):
        CodingEvaluator().evaluate(*(t.drop(columns="codes") for t in tables([TRUE], [TRUE])), {})
    with pytest.raises(DataError, match="neither a column codes"):
        score([TRUE], None)
    with pytest.raises(DataError, match="predictions, sample s000: codes must be a list of codes, not '7'"):
        score([TRUE], [7])
    with pytest.raises(DataError, match="sample s000: 2 codes and 1 confidences"):
        score([TRUE], [TRUE], confidences=[[0.5]])
    with pytest.raises(DataError, match="some that are no numbers"):
        score([TRUE], [TRUE], confidences=[["0.5", "high"]])
    with pytest.raises(UsageError, match="protocol=published is unknown: write clarion or clibench"):
        CodingEvaluator(protocol="published")
    with pytest.raises(UsageError, match="stale=keep is unknown"):
        CodingEvaluator(stale="keep")


def test_true_codes_that_are_no_leaves_are_told():
    result = score([["H40"], TRUE], [["H40"], TRUE])
    assert value(result, "leaf_f1") == 1
    assert any(n.startswith("1 true code(s) are no leaves") for n in result["notes"])


def test_config_builds_and_imports_no_network_library():
    from pathlib import Path

    from omegaconf import OmegaConf

    path = Path(__file__).resolve().parents[2] / "conf" / "evaluator" / "coding.yaml"
    node = OmegaConf.load(path)
    node.coder = None
    from hydra.utils import instantiate

    assert instantiate(node, _convert_="all").scope == "7"
    code = "import sys, clarion.evaluators.coding; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
