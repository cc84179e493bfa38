"""Multiple choice: what answers are read as, known scores, ids, failures counted, baselines."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from clarion.errors import DataError, UsageError
from clarion.evaluators.mcqa import McqaEvaluator
from clarion.evaluators.mcqa_parsing import parse_answer

OPTIONS = ["Open-angle glaucoma", "Glaucoma", "Cataract", "Uveitis"]
YNM = ["yes", "no", "maybe"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Explanation:\nThe lens is cloudy, so A and B are wrong.\n\nAnswer:\nC) Cataract", 2),
        ("Answer: C", 2), ("C", 2), ("(c)", 2), ("c.", 2), ("**C)** Cataract", 2), ("C) cataract.", 2),
        ("The correct answer is C.", 2), ("The answer is option C because the lens is cloudy.", 2),
        ("The best answer is cataract", 2), ("I choose (C)", 2), ("The correct option is: C", 2),
        ("정답: C", 2), ("정답은 C입니다", 2), ("정답: ③", 2), ("ㄷ", 2), ("정답: 3번", 2), ("정답은 ㄷ", 2),
        ("It is a cataract.", 2), ("Cataract", 2), ("open-angle glaucoma", 0), ("This is glaucoma", 1),
        ("It is not glaucoma but uveitis.", 3), ("The answer is not A. The answer is D.", 3),
        ("A patient with a cloudy lens has a cataract.", 2),
        ("Answer: A? No. Final answer: B", 1), ("Answer:\nB) Glaucoma\n\nExplanation: A is too narrow", 1),
        ("I am not sure, but the answer is D", 3), ("The diagnosis is (B), not (C).", 1),
        # no single answer
        ("Answer: A or B", None), ("A, B", None), ("Both glaucoma and uveitis", None), ("", None), (None, None),
        ("I'm sorry, I cannot answer medical questions.", None), ("As an AI I do not give medical advice.", None),
        ("It depends on the patient.", None), ("Answer: A. Answer: B.", None), ("B) Cataract", None),
        ("The lens is cloudy", None), ("알 수 없습니다", None), ("none of the above", None), ("E", None),
        ("A 60-year-old man", None),
        # the list said again chooses nothing; a rejected option is none; "not A but C" is C
        ("A) Open-angle glaucoma\nB) Glaucoma\nC) Cataract\nD) Uveitis", None),
        ("Answer:\nA) Open-angle glaucoma\nB) Glaucoma\nC) Cataract\nD) Uveitis", None),
        ("A) Open-angle glaucoma\nB) Glaucoma\nC) Cataract\nD) Uveitis\n\nAnswer:\nC) Cataract", 2),
        ("B) Glaucoma is wrong. D) Uveitis is right.", 3), ("The correct answer is not A but C.", 2),
        ("Answer: B) Glaucoma\nA) Open-angle glaucoma is wrong.", 1),
    ],
)  # fmt: skip
def test_what_an_answer_chooses(text, expected):
    assert parse_answer(text, OPTIONS).index == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", 0), ("Yes, there is no doubt.", 0), ("No.", 1), ("maybe", 2), ("Answer:\nB) no", 1),
        ("The answer is maybe", 2), ("Yes or no", None), ("Answer: yes\nbecause there was no difference", 0),
        ("NO, the data show yes-men", 1), ("Perhaps", None), ("A) yes", 0), ("A) no", None),
        ("There was no significant difference between the groups.", None),
        ("The results show no doubt that surgery helps.", None), ("No significant difference was found.", None),
        ("Answer: no significant difference", None), ("Maybe the groups differed.", 2), ("No, it does not.", 1),
        ("No\nThere was a difference.", 1), ("No because the groups were equal.", 1), ("Final answer: no", 1),
        ("A) yes\nB) no\nC) maybe", None), ("The truth is that yes is said by many.", None),
    ],
)  # fmt: skip
def test_yes_no_maybe(text, expected):
    found = parse_answer(text, YNM).index
    assert found == expected


def test_why_an_answer_failed():
    why = [parse_answer(t, OPTIONS).why for t in ("", "I cannot answer that", "A or B", "Perhaps", "A")]
    assert why == ["empty", "refusal", "several", "none", ""]


def tables(gold, logprobs=None, texts=None, options=None, patients=None, **columns):
    n = len(gold)
    keys = {"sample_id": [f"s{k:04d}" for k in range(n)], "patient_id": patients or [f"d{k}" for k in range(n)]}
    predicted = {}
    if logprobs is not None:
        tokens = [None if row is None else [2] * len(row) for row in logprobs]
        predicted |= {"option_logprobs": logprobs, "option_tokens": tokens}
    if texts is not None:
        predicted["text"] = texts
    truth = {"answer_index": gold, "options": options or [YNM] * n, "answer": ["x"] * n}
    return pd.DataFrame({**keys, **predicted}), pd.DataFrame({**keys, **truth, **columns})


def choose(index: int, n: int = 3, margin: float = 2.0) -> list[float]:
    return [-1.0 if k == index else -1.0 - margin for k in range(n)]


def test_the_published_majority_of_pubmedqa():
    """Test split of PubMedQA-L: 276 yes, 169 no, 55 maybe: majority accuracy .552, macro-F1 .237114."""
    gold = [0] * 276 + [1] * 169 + [2] * 55
    predictions, truth = tables(gold, [choose(0)] * 500, ["Answer:\nA) yes"] * 500)
    result = McqaEvaluator(n_resamples=200).evaluate(predictions, truth, {"seed": 0})
    for name in ("accuracy", "parsed_accuracy"):
        assert result["metrics"][name]["value"] == pytest.approx(0.552) and result["metrics"][name]["n"] == 500
    assert result["metrics"]["macro_f1"]["value"] == pytest.approx(0.237114, abs=1e-6)
    assert result["baseline"]["accuracy"]["value"] == pytest.approx(0.552)
    assert result["baseline"]["macro_f1"]["value"] == pytest.approx(0.237114, abs=1e-6)
    assert result["baseline"]["accuracy"]["name"] == "majority"
    assert result["baseline"]["accuracy_chance"]["value"] == pytest.approx(1 / 3)
    low, high = result["metrics"]["accuracy"]["low"], result["metrics"]["accuracy"]["high"]
    assert 0.50 < low < 0.552 < high < 0.60
    assert result["confusion"]["labels"] == ["yes", "no", "maybe", "no choice"]
    json.dumps(result, allow_nan=False)


def test_the_published_test_answers_give_the_known_majority(real_data):
    key = json.loads((real_data / "llm/pubmedqa/test_ground_truth.json").read_text(encoding="utf-8"))
    gold = [YNM.index(answer) for answer in key.values()]
    assert [gold.count(k) for k in range(3)] == [276, 169, 55]
    predictions, truth = tables(gold, texts=["yes"] * 500, patients=list(key))
    result = McqaEvaluator(headline="parsed", n_resamples=100).evaluate(predictions, truth, {"seed": 0})
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(0.552)
    assert result["metrics"]["macro_f1"]["value"] == pytest.approx(0.237114, abs=1e-6)


def test_the_published_human_performance_on_pubmedqa(real_data):
    """Jin et al. 2019: a second annotator who reads the abstract without its conclusion: accuracy .780, F1 .7219."""
    folder = real_data / "llm/pubmedqa"
    key = json.loads((folder / "test_ground_truth.json").read_text(encoding="utf-8"))
    rows = json.loads((folder / "ori_pqal.json").read_text(encoding="utf-8"))
    said = [rows[i]["reasoning_required_pred"] for i in key]
    gold = [YNM.index(answer) for answer in key.values()]
    predictions, truth = tables(gold, texts=said, patients=list(key))
    result = McqaEvaluator(headline="parsed", n_resamples=100).evaluate(predictions, truth, {"seed": 0})
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(0.780)
    assert result["metrics"]["macro_f1"]["value"] == pytest.approx(0.721920, abs=1e-6)


def test_macro_f1_is_scikit_learns():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    gold, found = rng.integers(0, 3, 60).tolist(), rng.integers(0, 3, 60).tolist()
    predictions, truth = tables(gold, [choose(k) for k in found])
    value = McqaEvaluator(n_resamples=0).evaluate(predictions, truth, {})["metrics"]["macro_f1"]["value"]
    assert value == pytest.approx(f1_score(gold, found, average="macro"))


def test_rows_meet_by_id_in_any_order():
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 3, 50).tolist()
    predictions, truth = tables(gold, [choose(k) for k in gold], [f"Answer: {'ABC'[k]}" for k in gold])
    straight = McqaEvaluator().evaluate(predictions, truth, {"seed": 0})
    shuffled = McqaEvaluator().evaluate(predictions.sample(frac=1, random_state=3), truth, {"seed": 0})
    assert straight == shuffled and straight["metrics"]["accuracy"]["value"] == 1.0
    moved = predictions.assign(**{key: np.roll(predictions[key], 1) for key in ("sample_id", "patient_id")})
    assert McqaEvaluator().evaluate(moved, truth, {"seed": 0})["metrics"]["parsed_accuracy"]["value"] < 0.7
    with pytest.raises(DataError, match="s0000"):
        McqaEvaluator().evaluate(predictions.iloc[1:], truth, {"seed": 0})


def test_failures_are_wrong_and_never_dropped():
    """Blank answers must not shift or shrink the rows: 2 right of 6, not 2 of 3."""
    gold = [0, 1, 2, 0, 1, 2]
    texts = ["A", "", "C", "I cannot answer", "A or B", None]
    logprobs = [choose(0), None, choose(2), choose(0), choose(1), None]
    result = McqaEvaluator().evaluate(*tables(gold, logprobs, texts), {"seed": 0})
    metrics = result["metrics"]
    assert metrics["parsed_accuracy"]["value"] == pytest.approx(2 / 6) and metrics["parsed_accuracy"]["n"] == 6
    assert metrics["parse_failure_rate"]["value"] == pytest.approx(4 / 6)
    assert metrics["accuracy"]["value"] == pytest.approx(4 / 6) and metrics["accuracy"]["n"] == 6
    assert any("4 answer(s) cannot be parsed (2 are empty, 1 refuse, 1 name several)" in n for n in result["notes"])
    assert any("2 question(s) have no option log-probabilities" in n for n in result["notes"])
    assert metrics["ece"]["n"] == 4


def test_sum_and_mean_a_token_differ_on_long_options():
    predictions, truth = tables([1], [[-3.0, -4.0]], options=[["short", "a much longer option"]])
    predictions["option_tokens"] = [[1, 4]]
    result = McqaEvaluator().evaluate(predictions, truth, {})
    assert result["metrics"]["accuracy"]["value"] == 0.0 and result["metrics"]["accuracy_logprob_mean"]["value"] == 1.0
    result = McqaEvaluator(headline="mean").evaluate(predictions, truth, {})
    assert result["metrics"]["accuracy"]["value"] == 1.0 and result["metrics"]["accuracy_logprob_sum"]["value"] == 0.0
    with pytest.raises(UsageError, match="headline=best is unknown"):
        McqaEvaluator(headline="best")


def test_baselines_of_validation_and_of_the_options_alone():
    gold = [0, 0, 0, 1]
    predictions, truth = tables(gold, [choose(k) for k in gold])
    predictions["blind_logprobs"] = [choose(0), choose(1), choose(1), choose(1)]
    validation = tables([1, 1, 0], [choose(0)] * 3)
    result = McqaEvaluator().evaluate(predictions, truth, {"seed": 0, "validation": validation})
    assert result["baseline"]["accuracy"]["value"] == 0.25  # "no" is the majority of the validation
    assert result["baseline"]["accuracy_question_blind"]["value"] == 0.5
    accuracy = result["metrics"]["accuracy"]  # all of four right is no certainty
    assert accuracy["value"] == 1.0 == accuracy["high"] and 0.4 < accuracy["low"] < 0.6
    assert "Wilson" in accuracy["method"]


def test_calibration_of_a_known_case():
    """Four questions, two options, probability .8 for the choice, three right: ECE .05, Brier (3 x .08 + 1.28) / 4."""
    margin = float(np.log(4))
    predictions, truth = tables([0, 0, 0, 1], [choose(0, 2, margin)] * 4, options=[["a", "b"]] * 4)
    result = McqaEvaluator().evaluate(predictions, truth, {})
    assert result["metrics"]["ece"]["value"] == pytest.approx(0.05)
    assert result["metrics"]["brier"]["value"] == pytest.approx((3 * 0.08 + 1.28) / 4)
    assert result["curves"]["calibration"]["x"] == pytest.approx([0.8])
    assert result["curves"]["calibration"]["y"] == pytest.approx([0.75])


def test_letters_are_classes_where_questions_differ_and_position_bias_shows():
    options = [["a", "b", "c"], ["d", "e"], ["f", "g", "h"], ["i", "j", "k"]]
    predictions, truth = tables([0, 1, 2, 1], [choose(0, len(o)) for o in options], options=options,
                                topic=["x", "x", "y", "y"])  # fmt: skip
    result = McqaEvaluator().evaluate(predictions, truth, {})
    assert result["confusion"]["labels"] == ["A", "B", "C", "no choice"]
    assert result["metrics"]["position_bias"]["value"] == pytest.approx(0.75)
    assert result["subgroups"]["topic"]["x"]["accuracy"]["value"] == 0.5
    assert result["subgroups"]["topic"]["y"]["accuracy"]["value"] == 0.0


def test_documents_are_resampled_not_questions():
    gold = [0] * 20
    found = [0] * 10 + [1] * 10
    many, truth_many = tables(gold, [choose(k) for k in found])
    one, truth_one = tables(gold, [choose(k) for k in found], patients=["a"] * 10 + ["b"] * 10)
    wide, narrow = (McqaEvaluator().evaluate(p, t, {"seed": 0})["metrics"]["accuracy"] for p, t in
                    ((one, truth_one), (many, truth_many)))  # fmt: skip
    assert wide["n_patients"] == 2 and narrow["n_patients"] == 20
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"]


def test_essay_rows_are_left_and_none_is_said():
    predictions, truth = tables([0, -1], [choose(0), None], options=[YNM, []])
    result = McqaEvaluator().evaluate(predictions, truth, {})
    assert result["metrics"]["accuracy"]["n"] == 1 and any("evaluator=essay" in n for n in result["notes"])
    nothing = McqaEvaluator().evaluate(predictions, truth.drop(columns=["answer_index", "options"]), {})
    assert nothing["metrics"] == {} and "None of the 2 rows has options" in nothing["notes"][0]


def test_wrong_tables_are_refused():
    for logprobs, said in (([[-1.0, -2.0]], "must be 3 log-probabilities"), ([[0.5, -1, -2]], "log-probabilities")):
        with pytest.raises(DataError, match=said):
            McqaEvaluator().evaluate(*tables([0], logprobs), {})
    with pytest.raises(DataError, match="points outside the options"):
        McqaEvaluator().evaluate(*tables([7], [choose(0)]), {})
    with pytest.raises(DataError, match="neither option_logprobs nor text"):
        McqaEvaluator().evaluate(*tables([0]), {})


def test_a_table_read_back_from_parquet_scores_the_same(tmp_path):
    gold = [0, 1, 2, 1]
    predictions, truth = tables(gold, [choose(0), None, choose(2), choose(1)], ["A", "b", "", "no"])
    predictions["blind_logprobs"] = [choose(0), None, None, choose(1)]
    before = McqaEvaluator().evaluate(predictions, truth, {"seed": 0})
    for name, table in (("p", predictions), ("t", truth)):
        table.to_parquet(tmp_path / name)
    after = McqaEvaluator().evaluate(*(pd.read_parquet(tmp_path / name) for name in "pt"), {"seed": 0})
    assert after == before
