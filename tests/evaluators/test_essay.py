"""Essay scores: known answers, what each was computed with, failures that are no zeros, ids, baselines."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from clarion.errors import DataError, UsageError
from clarion.evaluators import text_overlap as overlap
from clarion.evaluators.essay import EssayEvaluator
from clarion.evaluators.text_embedding import Encoder, cosines

A = "Glaucoma damages the optic nerve and causes vision loss."
B = "Glaucoma is a disease that damages the optic nerve."
REFERENCES = (
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
)


@pytest.fixture(scope="module")
def dictionary():
    try:
        return overlap.wordnet()
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def encoder():
    return Encoder()


def split(text: str) -> list[str]:
    return text.lower().split()


def test_known_rouge_and_bleu():
    scores, method = overlap.rouge_l(
        ["The quick brown dog jumps on the log.", B], ["The quick brown fox jumps over the lazy dog", A]
    )
    assert scores == pytest.approx([0.588235, 0.555556], abs=1e-6) and "Porter" in method and "rouge-score" in method
    scores, method = overlap.bleu_sentences([B], [A], split)
    assert scores == pytest.approx([0.127534], abs=1e-6) and "smoothing 1" in method and "nltk" in method
    rows, score, method = overlap.corpus_statistics("bleu", [B], [A])
    assert score(rows.sum(0)) == pytest.approx(29.0715, abs=1e-4) and "tok:13a" in method


def test_pooled_scores_are_sacrebleus_own():
    import sacrebleu

    texts, answers = [B, "The lens is cloudy.", ""], [A, "A cloudy lens is a cataract.", "Nothing."]
    for name, own in (("bleu", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)):
        rows, score, _ = overlap.corpus_statistics(name, texts, answers)
        assert score(rows.sum(0)) == pytest.approx(own(texts, [answers]).score)


def test_known_meteor(dictionary):
    from nltk.translate.meteor_score import meteor_score

    text = "It is a guide to action which ensures that the military always obeys the commands of the party"
    found = meteor_score([r.split() for r in REFERENCES], text.split(), wordnet=dictionary)
    assert found == pytest.approx(0.694444, abs=1e-6)
    scores, method = overlap.meteor(["this is a cat", B, ""], ["this is a cat", A, A], dictionary, split)
    assert scores == pytest.approx([0.9921875, 0.416667, 0.0], abs=1e-6) and "WordNet 3.0" in method


def test_the_lexicographer_files_are_the_45_of_wordnet(real_data):
    shipped = [line.split() for line in (real_data / "llm/lexnames").read_text().splitlines()]
    assert [line.split() for line in overlap.lexnames().splitlines()] == shipped and len(shipped) == 45


def test_known_semscores(encoder):
    found = cosines(encoder([A, "yes"]), encoder([B, "no"]))
    assert found == pytest.approx([0.88415, 0.733], abs=5e-4)
    assert "all-MiniLM-L6-v2" in encoder.signature and "256" in encoder.signature


def tables(texts, answers, **columns):
    keys = {"sample_id": [f"s{k:03d}" for k in range(len(texts))], "patient_id": [f"d{k}" for k in range(len(texts))]}
    predicted = {name: columns.pop(name) for name in ("stopped",) if name in columns}
    return pd.DataFrame({**keys, "text": texts, **predicted}), pd.DataFrame({**keys, "answer": answers, **columns})


ANSWERS = ["yes", "Cataract is an opacity of the lens.", A, "The pressure is 28 mmHg.", "Drops are used.",
           "Blurred vision."]  # fmt: skip
TEXTS = ["no", "A cataract is a cloudy lens.", B, "The pressure is 14 mmHg.", "", "Vision becomes blurred."]


@pytest.fixture(scope="module")
def result():
    predictions, truth = tables(TEXTS, ANSWERS, topic=list("ababab"), stopped=[True] * 5 + [False])
    return EssayEvaluator(n_resamples=200).evaluate(predictions, truth, {"seed": 0})


def test_every_metric_says_what_it_was_computed_with(result):
    metrics = result["metrics"]
    assert list(metrics)[:4] == ["rouge_l", "bleu", "meteor", "semscore"]
    for name, said in (("rouge_l", "rouge-score 0."), ("bleu", "nltk 3."), ("sacrebleu", "tok:13a"), ("chrf", "nc:6"),
                       ("semscore", "all-MiniLM-L6-v2"), ("contradiction_rate", "negation")):  # fmt: skip
        assert said in metrics[name]["method"] and "bootstrap" in metrics[name]["method"]
        assert metrics[name]["n"] == 6 and metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    json.dumps(result, allow_nan=False)


def test_contradictions_stand_beside_the_semscore_that_misses_them(result):
    metrics = result["metrics"]
    assert metrics["contradiction_rate"]["value"] == pytest.approx(2 / 6)  # yes / no, and 28 / 14 mmHg
    assert metrics["semscore_agreeing"]["value"] < metrics["semscore"]["value"] - 0.2
    assert any("verdict 1" in n and "number 1" in n for n in result["notes"])


def test_empty_and_cut_answers_count(result):
    assert result["metrics"]["empty_rate"]["value"] == pytest.approx(1 / 6)
    assert result["metrics"]["cut_off_rate"]["value"] == pytest.approx(1 / 6)
    assert any("1 empty answer(s) score 0" in n for n in result["notes"])


def test_baselines_are_the_majority_and_the_chance_level(result):
    base = result["baseline"]
    assert base["rouge_l"]["name"] == "majority"
    assert base["semscore_shuffled"]["name"] == "another question's reference"
    assert base["semscore_shuffled"]["value"] < result["metrics"]["semscore"]["value"]
    assert set(result["subgroups"]["topic"]) == {"a", "b"}


def test_order_does_not_matter_and_ids_must_match():
    predictions, truth = tables(TEXTS, ANSWERS)
    chosen = {"metrics": ["rouge_l", "bleu"], "n_resamples": 100}
    straight = EssayEvaluator(**chosen).evaluate(predictions, truth, {"seed": 0})
    assert straight == EssayEvaluator(**chosen).evaluate(predictions.sample(frac=1, random_state=1), truth, {"seed": 0})
    with pytest.raises(DataError, match="s000"):
        EssayEvaluator(**chosen).evaluate(predictions.iloc[1:], truth, {"seed": 0})


def test_korean_that_is_the_same_scores_one():
    answers = ["망막 전막은 망막 앞의 얇은 막입니다.", "안압이 높습니다.", "백내장 수술을 합니다."]
    result = EssayEvaluator(n_resamples=50).evaluate(*tables(answers, answers), {"seed": 0})
    metrics = result["metrics"]
    for name in ("rouge_l", "chrf", "sacrebleu", "semscore"):
        assert metrics[name]["value"] == pytest.approx(1.0)
    assert metrics["contradiction_rate"]["value"] == 0
    assert metrics["meteor"]["value"] is None and any("meteor is not computed" in n for n in result["notes"])


def test_without_wordnet_the_other_metrics_stay(tmp_path):
    result = EssayEvaluator(wordnet=str(tmp_path), n_resamples=50).evaluate(*tables(TEXTS, ANSWERS), {"seed": 0})
    assert result["metrics"]["meteor"]["value"] is None and result["metrics"]["rouge_l"]["value"] > 0
    assert any("install wordnet-base and wordnet-sense-index" in n for n in result["notes"])


def test_a_metric_that_raises_is_none_with_a_note_and_no_zero(monkeypatch):
    def broken(*_):
        raise RuntimeError("no such table")

    monkeypatch.setattr(overlap, "bleu_sentences", broken)
    result = EssayEvaluator(metrics=["rouge_l", "bleu"], n_resamples=50).evaluate(*tables(TEXTS, ANSWERS), {})
    assert result["metrics"]["bleu"]["value"] is None and result["metrics"]["rouge_l"]["value"] > 0
    assert any("bleu is not computed: RuntimeError: no such table" in n for n in result["notes"])
    assert "bleu" not in result["baseline"]


def test_legacy_scores_count_sub_word_pieces(tmp_path, dictionary):
    from clarion.trainers.sft_models import train_tokenizer

    tokenizer = train_tokenizer([A, B, *ANSWERS], 300)
    tokenizer.save_pretrained(tmp_path / "pieces")
    evaluator = EssayEvaluator(legacy=True, tokenizer=str(tmp_path / "pieces"), n_resamples=0)
    metrics = evaluator.evaluate(*tables([B, "xyz"], [A, "Drops."]), {})["metrics"]
    expected = np.mean(overlap.bleu_sentences([B, "xyz"], [A, "Drops."], tokenizer.tokenize)[0])
    assert metrics["bleu_legacy"]["value"] == pytest.approx(expected) != metrics["bleu"]["value"]
    assert "sub-word tokens of pieces" in metrics["rouge_l_legacy"]["method"] and "meteor_legacy" in metrics
    with pytest.raises(UsageError, match="name the folder of its tokenizer"):
        EssayEvaluator(legacy=True)
    with pytest.raises(UsageError, match="holds no tokenizer"):
        EssayEvaluator(legacy=True, tokenizer=str(tmp_path))


def test_multiple_choice_rows_are_left():
    predictions, truth = tables(TEXTS, ANSWERS, answer_index=[0, -1, -1, -1, -1, -1])
    result = EssayEvaluator(metrics=["rouge_l"], n_resamples=0).evaluate(predictions, truth, {})
    assert result["metrics"]["rouge_l"]["n"] == 5 and any("evaluator=mcqa" in n for n in result["notes"])
    none = EssayEvaluator(metrics=["rouge_l"]).evaluate(predictions, truth.assign(answer_index=0), {})
    assert none["metrics"] == {}


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(UsageError, match="bleurt is unknown: choose rouge_l"):
        EssayEvaluator(metrics=["bleurt"])
    with pytest.raises(UsageError, match="no such folder of a sentence-transformers model"):
        EssayEvaluator(encoder=str(tmp_path / "no")).evaluate(*tables(TEXTS, ANSWERS), {})


def test_parts_of_a_set_are_measured_as_the_whole():
    """One Korean reference makes the whole set count words of any script; without it the English rest keeps that."""
    answers = ["Membranes are peeled.", "It damages nerves.", "수술이 필요합니다."]
    keys = {"sample_id": ["a", "b", "c"], "patient_id": ["a", "b", "c"]}
    predictions = pd.DataFrame({**keys, "text": ["The membrane is peeled.", "Nerve damage.", "수술이 필요합니다."]})
    truth = pd.DataFrame({**keys, "answer": answers})
    evaluator = EssayEvaluator(metrics=["rouge_l"], n_resamples=50)
    whole = evaluator.evaluate(predictions, truth, {"seed": 0})["metrics"]["rouge_l"]
    part = evaluator.evaluate(predictions[:2], truth[:2], {"seed": 0, "full_truth": truth})["metrics"]["rouge_l"]
    alone = evaluator.evaluate(predictions[:2], truth[:2], {"seed": 0})["metrics"]["rouge_l"]
    assert "any script" in whole["method"] and part["method"] == whole["method"]
    assert "Porter" in alone["method"] and alone["value"] > part["value"]  # stems match more
    scores, _ = overlap.rouge_l(list(predictions.text), answers)
    assert part["value"] == pytest.approx(scores[:2].mean())
