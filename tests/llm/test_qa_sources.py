"""Converters of public question sets: on the real files where they are there, on written ones for what they hide."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from clarion import config
from clarion.errors import DataError, UsageError
from clarion.evaluators.generation import GenerationEvaluator
from clarion.llm.qa_checks import normal
from clarion.llm.sources.common import split_documents, unique
from clarion.llm.sources.eye import about_eyes
from clarion.llm.sources.medical_meadow import MedicalMeadowData
from clarion.llm.sources.medmcqa import MedMcqaData
from clarion.llm.sources.medquad import MedQuadData
from clarion.llm.sources.mixture import MixtureData
from clarion.llm.sources.pubmedqa import PubMedQaData


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def medmcqa(number, cop, **more):
    options = {f"op{letter}": f"{letter}-{number}" for letter in "abcd"}
    base = {"id": f"m{number}", "question": f"Which is item {number}?", "cop": cop, "exp": None}
    return base | options | {"subject_name": "Ophthalmology", "topic_name": None} | more


# ------------------------------------------------------------------------------------------------------ real files


def test_medmcqa_dev_is_a_test_only(real_data):
    data = MedMcqaData(root=str(real_data / "llm"))
    assert {s: len(i) for s, i in data.splits.items()} == {"train": 0, "val": 0, "test": 4183}
    # the key counts from 1 in this copy: 1,076 explanations open with their letter, and every one agrees
    assert data.counts["dev"] == {
        "records": 4183, "without_key": 0, "same_option_twice": 21, "explanation_names_another_key": 0,
        "cop_counts_from": 1,
    }  # fmt: skip
    assert data.check().ok
    truth = data.truth("test")
    assert Counter(truth["answer_index"]) == {0: 1348, 1: 1085, 2: 925, 3: 825}
    assert all(row.options[row.answer_index] == row.answer for row in truth.itertuples())
    assert truth["topic"].nunique() == 21


def test_medmcqa_eye_is_58(real_data):
    data = MedMcqaData(root=str(real_data / "llm" / "medmcqa"), subset="eye")
    assert len(data.splits["test"]) == 58
    row = data.truth("test").iloc[0]
    assert row["question"] == "Concentration of tropicamide:" and row["answer"] == "0.01"
    assert not list(data.train_texts()) and data.card()["splits"]["train"]["samples"] == 0


def test_medmcqa_cut_for_training_drops_copies_first(real_data):
    data = MedMcqaData(root=str(real_data / "llm"), train_fraction=0.4)
    assert sum(map(len, data.splits.values())) == 4172 and data.counts["copies_dropped"] == 11
    assert data.check().ok  # nothing asked in two splits


def test_pubmedqa_counts_and_majority_are_the_published_ones(real_data):
    data = PubMedQaData(root=str(real_data / "llm"))
    everything = [i["answer"] for items in data.items.values() for i in items]
    assert Counter(everything) == {"yes": 552, "no": 338, "maybe": 110}
    truth = data.truth("test")
    assert Counter(truth["answer"]) == {"yes": 276, "no": 169, "maybe": 55}
    assert (len(data.splits["train"]), len(data.splits["val"])) == (450, 50)
    assert set(map(tuple, truth["options"])) == {("yes", "no", "maybe")}  # three, never True / False
    official = json.loads((real_data / "llm/pubmedqa/test_ground_truth.json").read_text())
    assert dict(zip(truth["sample_id"], truth["answer"], strict=True)) == official
    assert not set(data.splits["train"] + data.splits["val"]) & set(official)
    assert data.check().ok


def test_pubmedqa_open_and_closed_book(real_data):
    opened = next(PubMedQaData(root=str(real_data / "llm")).samples("test"))
    closed = next(PubMedQaData(root=str(real_data / "llm"), book="closed").samples("test"))
    assert "Context:\nProgrammed cell death" in opened.inputs["messages"][1]["content"]
    assert "Context:" not in closed.inputs["messages"][1]["content"]
    assert opened.inputs["options"] == ["A) yes", "B) no", "C) maybe"]
    assert "Our findings" not in str(opened.inputs) and "first report of mitochondria" not in str(opened.inputs)


def test_the_eye_filter_finds_the_published_subset(real_data, tmp_path):
    listed = PubMedQaData(root=str(real_data / "llm"), subset="eye")
    assert sum(map(len, listed.splits.values())) == 23 and len(listed.splits["test"]) == 14
    for name in ("ori_pqal.json", "test_ground_truth.json"):
        (tmp_path / name).symlink_to(real_data / "llm/pubmedqa" / name)
    with pytest.raises(DataError, match="link out of data.root"):
        PubMedQaData(root=str(tmp_path), subset="eye").prepare()
    for name in ("ori_pqal.json", "test_ground_truth.json"):
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes((real_data / "llm/pubmedqa" / name).read_bytes())
    filtered = PubMedQaData(root=str(tmp_path), subset="eye")
    assert filtered.splits == listed.splits  # the same 23 of 1,000, without the list
    assert listed.counts["eye_by"] == "pqal_ophth_subset.json" != filtered.counts["eye_by"]


def test_medquad_keeps_pages_and_repeated_questions_together(real_data):
    data = MedQuadData(root=str(real_data / "llm"))
    assert sum(map(len, data.splits.values())) == 1045 == data.counts["records"]
    assert len({i for ids in data.splits.values() for i in ids}) == 1045  # 20 numbers occur in two collections
    assert data.check().ok and min(map(len, data.splits.values())) >= 100
    pages = {s: {i["patient_id"] for i in items} for s, items in data.items.items()}
    assert not pages["train"] & pages["test"] and not pages["val"] & pages["test"]
    assert data.splits == MedQuadData(root=str(real_data / "llm")).splits
    assert data.splits != MedQuadData(root=str(real_data / "llm"), seed=1).splits


def test_the_public_mixture_trains_on_no_test_question(real_data):
    cfg = config.compose_config(["model=llama_tiny", "data=ophtimus_public", f"data.root={real_data / 'llm'}"])
    from clarion.run import build_data

    data = build_data(cfg)
    assert isinstance(data, MixtureData) and data.check().ok
    test = {normal(q) for q in data.truth("test")["question"]}
    assert not test & {normal(i["question"]) for s in ("train", "val") for i in data.items[s]}
    assert Counter(i["source"] for i in data.items["train"]) == {"PubMedQA": 450, "MedQuAD": 725}
    assert set(data.truth("test")["source"]) == {"PubMedQA", "MedQuAD"}
    assert data.hf_dataset("train")[0]["completion"][0]["content"].startswith("Answer:\n")
    assert max(len(i["answer"].split()) for i in data.items["test"] if i["source"] == "MedQuAD") <= 120


# ------------------------------------------------------------------------------------------------- what files hide


def test_the_base_of_the_key_is_found_and_never_guessed(tmp_path):
    jsonl(tmp_path / "dev.jsonl", [medmcqa(1, 0), medmcqa(2, 3)])
    assert MedMcqaData(root=str(tmp_path)).truth("test")["answer"].tolist() == ["a-1", "d-2"]
    jsonl(tmp_path / "dev.jsonl", [medmcqa(1, 1), medmcqa(2, 4)])
    assert MedMcqaData(root=str(tmp_path)).truth("test")["answer"].tolist() == ["a-1", "d-2"]
    jsonl(tmp_path / "dev.jsonl", [medmcqa(1, 1), medmcqa(2, 2, exp="Ans. is 'c' i.e., it")])
    assert MedMcqaData(root=str(tmp_path)).truth("test")["answer"].tolist() == ["b-1", "c-2"]
    jsonl(tmp_path / "dev.jsonl", [medmcqa(1, 1), medmcqa(2, 2)])
    with pytest.raises(DataError, match="data.cop_base=0 or 1"):
        MedMcqaData(root=str(tmp_path)).prepare()
    assert MedMcqaData(root=str(tmp_path), cop_base=1).truth("test")["answer"].tolist() == ["a-1", "b-2"]
    jsonl(tmp_path / "dev.jsonl", [medmcqa(1, 0), medmcqa(2, 4)])
    with pytest.raises(DataError, match="both 0 and 4"):
        MedMcqaData(root=str(tmp_path)).prepare()


def test_medmcqa_train_never_becomes_the_test(tmp_path):
    """Upstream's MedMCQA-ophth (6,932 questions) is mostly the train file."""
    jsonl(tmp_path / "dev.jsonl", [medmcqa(k, 1 + k % 4) for k in range(8)])
    copies = [medmcqa(3, 4, id="copy"), medmcqa(50, 1, id="again")]
    jsonl(tmp_path / "train.jsonl", [medmcqa(k, 1 + k % 4) for k in range(50, 90)] + copies)
    data = MedMcqaData(root=str(tmp_path))
    assert sorted(data.splits["test"]) == [f"m{k}" for k in range(8)]
    train = set(data.splits["train"] + data.splits["val"])
    assert len(train) == 40 + 1 and not train & {"copy", "m3"}
    # "again" has another key than m50, so it is no copy: both stay, in one split
    assert data.counts["train_copies_dropped"] == 0 and data.counts["train_also_in_dev_dropped"] == 1
    assert data.check().ok
    with pytest.raises(UsageError, match="there is a train file"):
        MedMcqaData(root=str(tmp_path), train_fraction=0.5).prepare()


def test_questions_without_a_key_are_counted_and_shift_nothing(tmp_path):
    jsonl(tmp_path / "dev.jsonl", [medmcqa(k, None if k == 2 else 1 + k % 4) for k in range(8)])
    data = MedMcqaData(root=str(tmp_path))
    assert "m2" not in data.splits["test"] and data.counts["dev"]["without_key"] == 1
    answers = data.truth("test").set_index("sample_id")["answer"]
    assert answers["m3"] == "d-3" and answers["m7"] == "d-7"


def test_a_duplicated_set_is_reduced_before_it_is_split():
    """Upstream doubled a set and split it afterwards, so that the evaluation had been trained on."""
    once = [
        {"id": f"{k}", "patient_id": f"{k}", "question": f"Question {k}?", "answer": f"answer {k}"} for k in range(40)
    ]
    twice = once + [{**i, "id": f"copy-{i['id']}", "patient_id": f"copy-{i['id']}"} for i in once]
    kept, copies = unique(twice)
    assert copies == 40 and [i["id"] for i in kept] == [i["id"] for i in once]
    # and even where copies are left in, they go to one side
    splits = split_documents(twice, {"train": 0.5, "test": 0.5}, seed=0)
    assert not {i["question"] for i in splits["train"]} & {i["question"] for i in splits["test"]}
    assert len(splits["train"]) == len(splits["test"]) == 40


def test_documents_linked_by_a_question_stay_together():
    items = [
        {"id": "1", "patient_id": "a", "question": "One?"}, {"id": "2", "patient_id": "a", "question": "Two?"},
        {"id": "3", "patient_id": "b", "question": "two"}, {"id": "4", "patient_id": "b", "question": "Three?"},
        {"id": "5", "patient_id": "c", "question": "three!"}, {"id": "6", "patient_id": "d", "question": "Four?"},
        {"id": "7", "patient_id": "e", "question": "Five?"},
    ]  # fmt: skip
    for seed in range(5):
        splits = split_documents(items, {"train": 0.5, "test": 0.5}, seed)
        linked = [s for s, rows in splits.items() for i in rows if i["patient_id"] in "abc"]
        assert len(set(linked)) == 1


def test_pubmedqa_files_that_do_not_fit(tmp_path):
    record = {"QUESTION": "Is it so?", "CONTEXTS": ["c"], "final_decision": "maybe", "LONG_ANSWER": "x"}
    (tmp_path / "test_ground_truth.json").write_text('{"1": "yes"}')
    for content, said in (
        ({"2": record}, "test id.s. are not in"),
        ({"1": record}, "differ from test_ground_truth"),
        ({"1": {**record, "final_decision": "True"}}, "the three answers are yes, no, maybe"),
        ({"1": {"QUESTION": "?"}}, "1 lacks QUESTION or final_decision"),
        ([], "no JSON object keyed by PMID"),
    ):
        (tmp_path / "ori_pqal.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=said):
            PubMedQaData(root=str(tmp_path)).prepare()


def test_medical_meadow_reads_tasks_questions_and_options(tmp_path):
    folder = tmp_path / "medical_meadow"
    folder.mkdir()
    task = "Answer this question truthfully"
    wiki = [{"instruction": task, "input": f"What is sign {k}?", "output": f"It is {k}."} for k in range(20)]
    wiki += [{"instruction": task, "input": "What is blank?", "output": ""}, {**wiki[0]}]
    (folder / "medical_meadow_wikidoc.json").write_text(json.dumps(wiki))
    medqa = "Please answer with one of the option in the bracket"
    exam = [
        {"instruction": medqa, "input": f"Q:Which drug lowers pressure {k}? {{'A': 'Timolol', 'B': \"Crohn's\"}}",
         "output": "A: Timolol" if k else "E: None"} for k in range(3)
    ]  # fmt: skip
    (folder / "medical_meadow_medqa.json").write_text(json.dumps(exam))
    data = MedicalMeadowData(root=str(tmp_path))
    assert data.check().ok and sum(map(len, data.splits.values())) == 23
    assert data.counts == {"records": 25, "options_unreadable": 1, "without_output": 1, "copies_dropped": 1}
    items = {i["id"]: i for s in data.items.values() for i in s}
    assert items["wikidoc-000001"]["question"] == "What is sign 0?"  # the task description is no part of it
    drug = items["medqa-000002"]
    assert drug["question"] == "Which drug lowers pressure 1?" and drug["options"] == ["Timolol", "Crohn's"]
    assert drug["answer"] == "Timolol" and items["medqa-000001"]["kind"] == "eqa"
    eye = MedicalMeadowData(root=str(tmp_path), subset="eye")
    with pytest.raises(DataError, match="no items on eyes"):
        eye.prepare()


def test_predictions_in_another_order_are_joined_by_id(tmp_path):
    """Upstream shuffled the evaluation set and compared answers by position."""
    import pandas as pd

    jsonl(tmp_path / "dev.jsonl", [medmcqa(k, 1 + k % 4) for k in range(12)])
    data = MedMcqaData(root=str(tmp_path))
    truth = data.truth("test")
    right = pd.DataFrame({"sample_id": truth.sample_id, "patient_id": truth.patient_id, "text": truth.answer})
    result = GenerationEvaluator().evaluate(right.sample(frac=1, random_state=1), truth, {"seed": 0})
    assert result["metrics"]["exact_match"]["value"] == 1.0


@pytest.mark.parametrize("data", ["medmcqa", "pubmedqa", "medquad", "medical_meadow", "ophtimus_public"])
def test_without_a_folder_the_layout_is_said(command, data):
    done = command("train.py", "model=llama_tiny", f"data={data}")
    assert done.returncode == 2 and f"data={data} has no embedded default" in done.stderr
    assert "Expected" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", [MedMcqaData, PubMedQaData, MedQuadData, MedicalMeadowData])
def test_an_empty_folder_and_a_wrong_subset(tmp_path, kind):
    with pytest.raises(UsageError, match="Expected"):
        kind(root=str(tmp_path)).prepare()
    with pytest.raises(UsageError, match="write eye or all"):
        kind(root=str(tmp_path), subset="ear")


def test_words_of_the_eye():
    assert about_eyes("Is trabeculectomy better?") and about_eyes("x", headings=["Corneal Diseases"])
    assert not about_eyes("Retinoic acid and school pupils") and not about_eyes("x", headings=["Choroid Plexus"])
    text = "retina " * 5
    assert about_eyes("x", text) and not about_eyes("x", "age, sex and retinopathy were noted")
