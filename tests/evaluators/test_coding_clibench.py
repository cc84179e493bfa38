"""The published protocol: its way to read answers, its conventions, and that the result says what it leaves out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clarion.codes.atc import atc
from clarion.codes.icd10cm import icd10cm
from clarion.codes.loinc import Loinc
from clarion.evaluators import coding_clibench as clibench
from clarion.evaluators.coding import CodingEvaluator

TRUE = ["H40.1131", "H25.11"]


def score(true, truth_columns=None, **columns):
    ids = {"sample_id": [f"s{k}" for k in range(len(true))], "patient_id": [f"p{k}" for k in range(len(true))]}
    truth = pd.DataFrame(ids | {"codes": true} | (truth_columns or {}))
    evaluator = CodingEvaluator(protocol="clibench", n_resamples=100, scope="H40-H42")
    return evaluator.evaluate(pd.DataFrame(ids | columns), truth, {"seed": 0})


def test_cases_without_a_code_are_skipped_and_the_result_says_so():
    result = score([TRUE] * 4, codes=[TRUE, ["H40.1132", "H25.11", "H40.1139"], [], ["H40.1139"]])
    metrics = result["metrics"]
    assert metrics["leaf_f1"]["value"] == pytest.approx(3 / 4) and metrics["leaf_f1"]["n"] == 2
    assert metrics["leaf_precision"]["value"] == pytest.approx(3 / 4)  # codes that do not exist are no mistakes there
    assert metrics["skipped_rate"]["value"] == 0.5 and metrics["skipped_rate"]["n"] == 4
    assert metrics["average_f1"]["value"] == pytest.approx((3 / 4 + 4) / 5)
    assert any("2 of 4 cases without a parsed code are skipped" in note for note in result["notes"])
    ours = CodingEvaluator(n_resamples=0)
    ids = {"sample_id": list("abcd"), "patient_id": list("abcd")}
    predicted = pd.DataFrame(ids | {"codes": [TRUE, ["H40.1132", "H25.11", "H40.1139"], [], ["H40.1139"]]})
    same = ours.evaluate(predicted, pd.DataFrame(ids | {"codes": [TRUE] * 4}), {})
    assert same["metrics"]["leaf_f1"]["value"] < metrics["leaf_f1"]["value"]


def test_all_skipped_is_no_score():
    result = score([TRUE], codes=[[]])
    assert result["metrics"] == {} and "1 of 1 cases" in result["notes"][-3]


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("1. Glaucoma (H40.9)\n2. Cataract", ["1. Glaucoma (H40.9)", "2. Cataract"]),
        ("Here they are:\n\n- Glaucoma\n- Cataract\n\nSee a doctor.", ["- Glaucoma", "- Cataract"]),
        ("- Glaucoma\n- Cataract\n\nSee a doctor.", ["- Glaucoma", "- Cataract"]),
        ("a\n\nb\n\nc\n\nd\n\ne\n\nf\n\ng", list("abcdefg")),
        ("Glaucoma<br>Cataract", ["Glaucoma", "Cataract"]),
        ("1. Glaucoma 2. Cataract", ["Glaucoma ", "Cataract"]),
        ("", []),
        ("\n\n", []),
    ],
)
def test_bullets(text, points):
    assert clibench.bullets(text) == points


def test_phrase_loses_number_code_and_label():
    assert clibench.phrase("2. Primary glaucoma (H40.1131)") == "Primary glaucoma"
    assert clibench.phrase("Glaucoma ICD-10-CM Code: H40.9") == "Glaucoma"


def test_answers_are_read_by_the_published_rules():
    texts = [
        "1. Glaucoma (H40.1131)\n2. Unspecified glaucoma",  # a code; a title
        "1. H401131\n2. C4A.0",  # without a dot, and with a letter in third place: not seen as codes
        "As an AI model I cannot give a diagnosis.\nPlease see a doctor.",
        "",
    ]
    notes: list[str] = []
    found = clibench.read(texts, icd10cm(), "H40-H42", None, notes)
    assert found[0] == ["H40.1131", "H40.9"]
    glaucoma = set(icd10cm().descendant_leaves("H40-H42"))
    assert found[1] != ["H40.1131", "C4A.0"] and set(found[1]) <= glaucoma
    assert found[2] and set(found[2]) <= glaucoma  # a disclaimer becomes diagnoses: why the protocol is not the default
    assert found[3] == []
    assert "4 of 6 bullets" in notes[0] and "whatever its likeness" in notes[0]


def test_text_through_the_evaluator():
    result = score([["H40.1131"]] * 2, text=["1. Glaucoma (H40.1131)\n", "- H40.9\n"])
    assert result["metrics"]["leaf_f1"]["value"] == pytest.approx(0.5)
    assert result["metrics"]["category_f1"]["value"] == 1
    assert result["metrics"]["skipped_rate"]["value"] == 0


def test_atc_is_sliced_off_by_one_as_published():
    system = clibench.OffByOneAtc(atc())
    assert [system.at_level("A10BA02", level) for level in system.LEVELS] == ["A", "A1", "A10", "A10BA0"]
    assert [system.at_level("A10BA", level) for level in system.LEVELS] == ["A", "A1", "A10", "A10B"]
    drugs = {"drugs": [["A10BA02"]]}
    result = score([TRUE], codes=[TRUE], truth_columns=drugs, drugs=[["A10BA01"]])
    assert result["metrics"]["drug_finest_f1"]["value"] == 1  # metformin and phenformin: one and the same there


def test_laboratory_codes_stand_for_the_part_above_them():
    table = Loinc("test", {"718-7": ("LP1", "LP2", "LP3"), "20509-6": ("LP1", "LP2", "LP3")})
    system = clibench.convention("labs", table)
    assert [system.at_level("718-7", level) for level in system.LEVELS] == ["LP1", "LP2", "LP3", "LP3"]
    labs = {"labs": [["718-7"]]}
    result = score([TRUE], codes=[TRUE], truth_columns=labs, labs=[["718-7"]])
    assert not any(name.startswith("lab_") for name in result["metrics"])
    assert any("Name ComponentHierarchyBySystem.csv" in note for note in result["notes"])


def test_levels_and_means_are_those_of_ancestor_lists_counted_from_their_ends():
    """As published: a code's ancestors by simple_icd_10_cm, the chapter last; a list too short stands for the code."""
    import simple_icd_10_cm as package

    rng = np.random.default_rng(3)
    pool = [*icd10cm().descendant_leaves("7")[::300], "B20", "C4A.0", "H40", "H40.11", "S05.01XA"]
    true = [list(rng.choice(pool, rng.integers(1, 5), replace=False)) for _ in range(60)]
    predicted = [list(rng.choice(pool, rng.integers(0, 5), replace=False)) for _ in range(60)]
    metrics = score(true, codes=predicted)["metrics"]

    def at(code, place):
        line = [code, *package.get_ancestors(code)]
        return line[place] if -len(line) <= place < len(line) else code

    averages = []
    for level, place in zip(icd10cm().LEVELS, (-1, -2, -3, -4, 0), strict=True):
        both = given = wanted = 0
        cases = []
        for one, other in zip(true, predicted, strict=True):
            if other:
                left, right = {at(c, place) for c in one}, {at(c, place) for c in other}
                both, wanted, given = both + len(left & right), wanted + len(left), given + len(right)
                cases.append(2 * len(left & right) / (len(left) + len(right)))
        averages.append(2 * both / (given + wanted))
        assert metrics[f"{level}_precision"]["value"] == pytest.approx(both / given)
        assert metrics[f"{level}_recall"]["value"] == pytest.approx(both / wanted)
        assert metrics[f"{level}_f1"]["value"] == pytest.approx(averages[-1])
        assert metrics[f"case_{level}_f1"]["value"] == pytest.approx(np.mean(cases))
    assert metrics["average_f1"]["value"] == pytest.approx(np.mean(averages))
