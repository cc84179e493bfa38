"""Multiple-choice items: the published layout, options and answers as users write them, and what is refused."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from clarion.errors import DataError, UsageError
from clarion.llm.instruct import InstructData
from clarion.llm.options import find_answer, read_options


def folder(path, **splits):
    for split, items in splits.items():
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return path


def choice(number, **more):
    columns = {"option_a": "Glaucoma", "option_b": "Cataract", "option_c": "", "answer": "B", "explanation": "It is."}
    return {"question": f"What clouds lens {number}?", "patient_id": f"d{number}", **columns, **more}


def dataset(tmp_path, *test, **more):
    files = {"train": [choice(100 + k) for k in range(3)], "val": [choice(200)], "test": list(test)}
    return InstructData("mine", root=folder(tmp_path, **files), kind="public", **more)


def test_the_published_layout(tmp_path):
    data = dataset(tmp_path, choice(1), choice(2, explanation=None))
    rows = data.hf_dataset("test")
    assert rows[0]["prompt"][1]["content"] == "Question:\nWhat clouds lens 1?\n\nOptions:\nA) Glaucoma\nB) Cataract"
    assert rows[0]["completion"][0]["content"] == "Explanation:\nIt is.\n\nAnswer:\nB) Cataract"
    assert rows[1]["completion"][0]["content"] == "Answer:\nB) Cataract"
    short = dataset(tmp_path, choice(1), explanations=False)
    assert short.hf_dataset("test")[0]["completion"][0]["content"] == "Answer:\nB) Cataract"


def test_samples_hold_what_is_scored_and_not_the_answer(tmp_path):
    essay = {"question": "Why is it cloudy?", "answer": "Proteins clump in the lens.", "patient_id": "e"}
    data = dataset(tmp_path, choice(1), essay)
    first, second = data.samples("test")
    assert first.inputs["options"] == ["A) Glaucoma", "B) Cataract"] and first.inputs["lead"] == "Answer:\n"
    blind = first.inputs["blind_messages"][1]["content"]
    assert blind == "Options:\nA) Glaucoma\nB) Cataract"
    assert set(second.inputs) == {"messages"}
    assert "It is." not in str(first.inputs)  # the explanation belongs to the target
    truth = data.truth("test")
    assert truth["options"].tolist() == [["Glaucoma", "Cataract"], []] and truth["answer_index"].tolist() == [1, -1]
    assert truth["answer"].tolist() == ["Cataract", "Proteins clump in the lens."]
    assert next(dataset(tmp_path, choice(1), blind=False).samples("test")).inputs["blind_messages"] is None


def test_a_context_stands_before_the_question_and_not_in_the_blind_prompt(tmp_path):
    sample = next(dataset(tmp_path, choice(1, context="The lens is opaque.")).samples("test"))
    assert sample.inputs["messages"][1]["content"].startswith("Context:\nThe lens is opaque.\n\nQuestion:\nWhat")
    assert "opaque" not in str(sample.inputs["blind_messages"])


@pytest.mark.parametrize("answer", ["B", "b", "b)", "(B)", "B.", "B) cataract", "Option B", " CATARACT ", 1])
def test_answers_as_people_write_them(answer):
    assert find_answer(answer, ["Glaucoma", "Cataract"], "here") == 1


def test_the_text_of_an_option_wins_over_its_letter():
    assert find_answer("A", ["B", "A", "AB", "0"], "blood groups") == 1
    assert find_answer(2, ["1", "2", "3"], "numbers") == 1  # 2 is the text of the second option


def test_options_as_list_letters_or_columns():
    for raw in (
        {"options": ["x", "y"]},
        {"options": {"A": "x", "B": "y"}},
        {"option_a": "x", "option_b": "y", "option_c": None},
        {"Option_A": "x", "Option_B": "y"},
    ):
        assert read_options(raw, "here") == ["x", "y"]
    assert read_options({"question": "essay"}, "here") == []
    assert read_options({"options": [1, 2.5]}, "here") == ["1", "2.5"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"option_b": ""}, "1 option"),
        ({"option_a": ""}, "option_a is missing or empty"),
        ({"option_c": "cataract "}, "options B and C are the same text"),
        ({"answer": "D"}, "the answer is not one of the options A to B"),
        ({"answer": "Myopia"}, "the answer is not one of the options"),
        ({"answer": "B) Glaucoma"}, "is not one of the options"),
        ({"answer": 2}, "answer 2 is no index of 2 options"),
        ({"answer": ""}, "the answer is empty"),
        ({"option_c": "c", "option_d": "d", "option_e": "e", "option_f": "f"}, "6 option.*give 2 to 5"),
        ({"options": ["x", "y"]}, "both options and option_a"),
        ({"option_a": "", "option_b": "", "kind": "mcqa"}, "options are missing"),
        ({"option_a": "", "option_b": "", "options": []}, "options are missing"),
        ({"option_c": True}, "an option is bool"),
    ],
)
def test_what_is_wrong_with_options_is_said_with_its_line(tmp_path, change, said):
    with pytest.raises(DataError, match=f"test.jsonl line 2.*{said}"):
        dataset(tmp_path, choice(1), choice(2, **change)).prepare()


def test_errors_repeat_no_text_of_a_patient(tmp_path):
    private = choice(1, option_a="Kim Min-su has glaucoma", answer="Kim Min-su, born 1950")
    with pytest.raises(DataError) as error:
        dataset(tmp_path, private).prepare()
    assert "test.jsonl line 1" in str(error.value) and "Kim" not in str(error.value)


def test_the_same_question_with_other_options_is_another_one(tmp_path):
    other = choice(1, option_a="Uveitis")
    report = dataset(tmp_path, choice(1), other).check()
    assert report.ok and not report.warnings
    shuffled = choice(1, option_a="Cataract", option_b="Glaucoma", answer="A", patient_id="d9")
    assert [f.code for f in dataset(tmp_path, choice(1), shuffled).check().warnings] == ["duplicate"]


def test_a_blank_essay_answer_is_counted_and_shifts_nothing(tmp_path):
    essays = [{"question": f"Why {k}?", "answer": "" if k == 1 else f"because {k}", "id": f"e{k}"} for k in range(4)]
    data = dataset(tmp_path, *essays)
    report = data.check()
    assert [(f.code, f.ids) for f in report.errors] == [("empty_answer", ["e1"])]
    answers = data.truth("test").set_index("sample_id")["answer"]
    assert len(answers) == 4 and answers["e2"] == "because 2"


def test_the_demo_has_both_forms_of_the_same_cases():
    data = InstructData("ophtimus_demo", forms=("mcqa", "eqa"), train=100, val=20, test=500)
    report = data.check()
    assert report.ok and not report.warnings
    truth = data.truth("test")
    assert truth["kind"].value_counts().to_dict() == {"mcqa": 250, "eqa": 250}
    assert set(truth["topic"]) == {"stage", "surgery", "thickness", "area", "layers"}
    assert truth["patient_id"].nunique() == 50
    choices = truth[truth["answer_index"] >= 0]
    for row in choices.itertuples():
        assert row.options[row.answer_index] == row.answer and len(set(row.options)) == len(row.options)
    assert set(choices["options"].map(len)) == {2, 4}


def test_the_options_of_the_demo_do_not_give_the_answer_away():
    truth = InstructData("ophtimus_demo", forms=("mcqa", "eqa"), train=4000).truth("train")
    choices = truth[(truth["answer_index"] >= 0) & (truth["topic"] != "layers")]
    letters = Counter(choices["answer_index"])
    assert max(letters.values()) < 1.15 * len(choices) / 4
    area = truth[(truth["topic"] == "area") & (truth["answer_index"] >= 0)]
    ranks = Counter(
        sorted(float(o.split()[0]) for o in r.options).index(float(r.answer.split()[0])) for r in area.itertuples()
    )
    assert max(ranks.values()) < 0.4 * len(area)  # neither the smallest nor any other rank is the usual answer


def test_forms_that_do_not_exist():
    with pytest.raises(UsageError, match="one or both of eqa, mcqa"):
        InstructData(forms=("truefalse",))


def test_few_questions_a_case_make_many_cases():
    """experiment=ophtimus_demo: 60 test items are resampled by case, so they come from at least 30 of them."""
    from clarion.config import compose_config
    from clarion.run import build_data

    data = build_data(compose_config(["experiment=ophtimus_demo"]))
    truth = data.truth("test")
    assert len(truth) == 60 and truth["patient_id"].nunique() >= 30
    assert truth["topic"].value_counts().min() >= 10 and data.check().ok
    cases = [{item["patient_id"] for item in items} for items in data.items.values()]
    assert not cases[0] & cases[1] and not cases[0] & cases[2] and not cases[1] & cases[2]
    two = InstructData("ophtimus_demo", forms=("mcqa",), per_case=2, train=10, val=2, test=10).truth("test")
    assert two.groupby("patient_id")["topic"].nunique().tolist() == [2] * 5
    with pytest.raises(UsageError, match="data.per_case=6"):
        InstructData(per_case=6)
