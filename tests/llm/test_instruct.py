"""Instruction data: the demo's truth, a user's files, and the checks before training."""

from __future__ import annotations

import json
import re

import pytest

from clarion.errors import DataError, UsageError
from clarion.llm.erm_cases import QUESTIONS, Case, draw_case
from clarion.llm.instruct import InstructData
from clarion.llm.prompts import OPHTIMUS_SYSTEM


def write(folder, **splits):
    for split, items in splits.items():
        lines = [json.dumps(i, ensure_ascii=False) if isinstance(i, dict) else i for i in items]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def items(prefix, n=4):
    return [
        {"question": f"{prefix} question {k}?", "answer": f"answer {k}", "patient_id": f"{prefix}{k}"} for k in range(n)
    ]


def test_the_demo_is_complete_and_clean():
    data = InstructData()
    data.prepare()
    report = data.check()
    assert report.ok and not report.warnings
    assert {split: len(ids) for split, ids in data.splits.items()} == {"train": 400, "val": 50, "test": 100}
    truth = data.truth("test")
    assert list(truth.columns) == ["sample_id", "patient_id", "question", "answer", "kind", "stage"]
    assert truth["patient_id"].nunique() == 20 and not truth.isna().any().any()
    assert data.card()["splits"]["train"]["patients"] == 80


def test_no_wording_is_in_two_splits():
    for question in QUESTIONS:
        wordings = [*question.train, *question.val, *question.test]
        assert len(set(wordings)) == len(wordings)


def test_answers_follow_from_the_findings():
    case = Case("x", "left", True, False, 133, False, 405, 14.1, 50, True, True)
    answers = {q.kind: q.answer(case) for q in QUESTIONS}
    assert answers["stage"].startswith("Stage 3:") and "405 um" not in answers["thickness"]
    assert answers["thickness"] == "The fovea is 127 um thicker than normal."
    assert answers["area"] == "The membrane covers 50 % of the circle."
    assert answers["layers"] == "Yes, they measure 133 um."
    assert answers["surgery"] == "Phacovitrectomy with membrane peeling."
    healthy = Case("y", "left", False, True, 0, False, 250, 0.0, 20, False, True)
    assert healthy.stage == 0 and healthy.surgery == "observation"


def test_the_demo_truth_can_be_read_back_from_its_question():
    truth = InstructData().truth("train").query("kind == 'thickness'")
    for question, answer in zip(truth["question"], truth["answer"], strict=True):
        change = int(re.search(r"central foveal thickness (\d+) um", question)[1]) - 278
        found = re.search(r"(\d+) um (thicker|thinner)", answer)
        assert change == 0 or (int(found[1]), found[2]) == (abs(change), "thicker" if change > 0 else "thinner")


def test_a_seed_gives_the_same_data_and_a_smaller_demo_is_a_prefix():
    whole, again, other = InstructData(), InstructData(), InstructData(seed=1)
    assert whole.fingerprint() == again.fingerprint() != other.fingerprint()
    assert InstructData(train=40).splits["train"] == whole.splits["train"][:40]
    assert draw_case("train-00000", 0) == draw_case("train-00000", 0)


def test_prompt_and_completion_are_messages_and_samples_hold_no_answer():
    data = InstructData(train=5, val=5, test=5)
    row = data.hf_dataset("train")[0]
    assert [m["role"] for m in row["prompt"]] == ["system", "user"] and row["prompt"][0]["content"] == OPHTIMUS_SYSTEM
    assert row["prompt"][1]["content"].startswith("Question:\n")
    assert [m["role"] for m in row["completion"]] == ["assistant"]
    for sample, answer in zip(data.samples("test"), data.truth("test")["answer"], strict=True):
        assert answer not in str(sample.inputs) and set(sample.inputs) == {"messages"}


def test_a_users_files_with_val_carved_by_patient(tmp_path):
    train = [
        {**i, "patient_id": f"MRN{k // 2}", "system": "안과 전문의" if k == 0 else ""}
        for k, i in enumerate(items("a", 40))
    ]
    data = InstructData("mine", root=write(tmp_path, train=train, test=items("b")), kind="private")
    data.prepare()
    assert data.check().ok and len(data.splits["val"]) == 4 and len(data.splits["train"]) == 36
    assert "MRN" not in str([data.truth(s).drop(columns=["question", "answer"]) for s in data.splits])
    assert sum(p["content"] == "안과 전문의" for row in data.hf_dataset("train") for p in row["prompt"]) <= 1
    assert data.fingerprint() == InstructData("mine", root=tmp_path, kind="private").fingerprint()


def test_a_patient_or_a_question_in_two_splits_is_refused(tmp_path):
    test = [{"question": "A Question: 1", "answer": "x", "patient_id": "other"}, *items("b")]
    train = [*items("a"), {"question": "a question 1!", "answer": "y", "patient_id": "b0"}]
    data = InstructData("mine", root=write(tmp_path, train=train, val=items("v"), test=test), kind="public")
    with pytest.raises(DataError) as error:
        data.check().raise_if_bad()
    assert "b0 in train and test" in str(error.value) and "the same question is in two splits" in str(error.value)


def test_empty_answers_stop_and_leaked_answers_warn(tmp_path):
    leaked = {"question": "The pit is lost here. Is it so?", "answer": "The pit is lost.", "id": "leak"}
    train = [*items("a"), {"question": "Empty?", "answer": " ", "id": "none"}, leaked]
    data = InstructData("mine", root=write(tmp_path, train=train, val=items("v"), test=items("b")), kind="public")
    report = data.check()
    assert [f.code for f in report.errors] == ["empty_answer"] and report.errors[0].ids == ["none"]
    assert [(f.code, f.ids) for f in report.warnings] == [("answer_in_question", ["leak"])]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": "a"}', "line 2 lacks answer"),
        ("not json", "line 2 is not a JSON object"),
        ("[1]", "line 2 is a list"),
        ('{"question": ["a"], "answer": "b"}', "question is a list"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    write(tmp_path, train=[*items("a", 1), line], test=items("b"))
    with pytest.raises(DataError, match=f"train.jsonl {said}|train.jsonl line 2: {said}"):
        InstructData("mine", root=tmp_path, kind="public").prepare()


def test_a_wrong_root_says_what_is_expected(tmp_path):
    with pytest.raises(UsageError, match="lacks train.jsonl and test.jsonl. Expected"):
        InstructData("mine", root=tmp_path, kind="public").prepare()
    with pytest.raises(UsageError, match="has no embedded default"):
        InstructData("mine", kind="private")
