"""Continued pre-training: documents with one BOS and their end, wrapped or isolated packs, Base -> Instruct."""

from __future__ import annotations

import json
import math

import pytest
from sft_small import SMALL, Log, Rows, model_config, run_in, trainer_for

from clarion.errors import DataError, UsageError
from clarion.evaluators.perplexity import PerplexityEvaluator
from clarion.llm.instruct import InstructData
from clarion.llm.pretraining import CorpusData
from clarion.trainers.base import Sample

PIT = ("preserved", "lost")
TEXTS = [{"text": f"Report {k}. The foveal pit is {PIT[k % 2]}. " * (1 + k % 5)} for k in range(30)]


def small(**changes) -> dict:
    return model_config("llama_tiny", architecture=SMALL, **changes)


@pytest.fixture(scope="module")
def corpus() -> CorpusData:
    return CorpusData(train=40, val=5, test=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory, corpus):
    """A small Llama trained on documents in windows of 128: (trainer, checkpoint, tracker)."""
    tracker = Log()
    args = {"packing": True, "packing_strategy": "wrapped", "max_length": 128, "eval_on_start": True}
    trainer = trainer_for(small(), epochs=3, batch_size=4, logging_steps=5, **args)
    return trainer, trainer.fit(run_in(tmp_path_factory.mktemp("base"), corpus, tracker)), tracker


def rows(strategy: str | None, length: int, texts=TEXTS, **args) -> dict:
    packing = {} if strategy is None else {"packing": True, "packing_strategy": strategy}
    return {"data": Rows(texts), "args": {"max_length": length, "max_steps": 1, **packing, **args}}


def fit(folder, setting: dict, **model):
    return trainer_for(small(**model), batch_size=4, **setting["args"]).fit(run_in(folder, setting["data"]))


def test_the_loss_falls_and_the_likelihoods_agree_with_it(base, corpus):
    trainer, checkpoint, tracker = base
    val = [row["val/loss"] for _, row in tracker.rows if "val/loss" in row]
    assert val[-1] < 0.5 * val[0]
    predictions = list(trainer.load(checkpoint)(corpus.samples("val")))
    assert [p.sample_id for p in predictions] == corpus.splits["val"]
    per_token = sum(p.values["nll"] for p in predictions) / sum(p.values["tokens"] for p in predictions)
    # The trainer's windows see their neighbours, documents alone do not: near, not equal.
    assert per_token == pytest.approx(val[-1], abs=0.5)
    record = json.loads((checkpoint / "clarion.json").read_text())
    assert record["rows"] == "documents" and record["supervised_share"] == {"train": 1.0, "val": 1.0}


def test_windows_are_the_published_packing():
    """BOS + text + EOS, concatenated, cut at max_length, tail dropped; across the batches of a map too."""
    from datasets import Dataset

    from clarion.trainers.sft_documents import DocumentFormat, tokenized, windows

    class Letters:
        def __call__(self, texts, **_):
            return {"input_ids": [[ord(c) for c in text] for text in texts]}

    texts = ["abc" * (k % 7) for k in range(2500)]  # more than one batch of a map
    documents = tokenized(Dataset.from_dict({"text": texts}), Letters(), DocumentFormat(1, 2))
    stream = [token for text in texts for token in (1, *map(ord, text), 2)]
    packed = windows(documents, 64, True, "train")
    assert [t for row in packed for t in row["input_ids"]] == stream[: len(stream) // 64 * 64]
    assert all(len(row["input_ids"]) == 64 and row["labels"] == row["input_ids"] for row in packed)
    kept = windows(documents, 64, False, "val")
    assert [t for row in kept for t in row["input_ids"]] == stream


def test_likelihoods_of_a_document_are_those_of_the_plain_loss(base):
    """Against cross entropy by hand, and a document longer than the window counted once."""
    import torch

    from clarion.trainers.sft_likelihood import DocumentPredictor

    trainer, checkpoint, _ = base
    predictor = trainer.load(checkpoint).documents
    text = "The foveal pit is lost. " * 20
    words = predictor.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [predictor.form.bos_id, *words, predictor.form.eos_id]
    with torch.no_grad():
        logits = predictor.network(torch.tensor([ids])).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")
    one = next(iter(predictor([Sample("a", "a", {"text": text})]))).values
    assert one["nll"] == pytest.approx(float(loss), rel=1e-5)
    assert one["tokens"] == len(ids) - 1 and one["bytes"] == len(text.encode())
    narrow = DocumentPredictor(predictor.network, predictor.tokenizer, predictor.form, 4, window=32)
    assert next(iter(narrow([Sample("a", "a", {"text": text})]))).values["tokens"] == len(ids) - 1


@pytest.mark.parametrize("strategy", ["wrapped", "bfd_split"])
def test_every_document_has_one_bos_and_its_end(tmp_path, capsys, strategy):
    fit(tmp_path, rows(strategy, 64))
    said = capsys.readouterr().err
    assert "train: 30 documents" in said and "all supervised" in said
    if strategy == "bfd_split":
        assert "BOS <|begin_of_text|> (30), EOS <|end_of_text|> (30)" in said
        assert "documents are isolated" in said


def test_documents_cut_by_max_length_are_refused(tmp_path):
    with pytest.raises(DataError, match="documents lose their end.*packing_strategy=bfd_split"):
        fit(tmp_path, rows(None, 16))
    with pytest.raises(DataError, match="documents lose their end"):
        fit(tmp_path, rows("bfd", 16))


def test_text_that_fills_no_window_is_refused(tmp_path):
    with pytest.raises(DataError, match="tokens of split train do not fill one window of trainer.args.max_length=1024"):
        fit(tmp_path, rows("wrapped", 1024, TEXTS[:3]))


@pytest.mark.parametrize("name", ["completion_only_loss", "assistant_only_loss"])
def test_masks_that_trl_ignores_on_text_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=f"trainer.args.{name}=true does nothing on rows of plain text"):
        fit(tmp_path, rows("bfd_split", 64, **{name: True}))


def test_special_tokens_inside_a_text_are_refused(tmp_path):
    with pytest.raises(DataError, match="wrong number of BOS tokens .2 instead of 1"):
        fit(tmp_path, rows("wrapped", 64, [{"text": "<|begin_of_text|>Report. The pit is lost."}] * 20))
    with pytest.raises(DataError, match="hold the end-of-text token <.end_of_text.> inside"):
        fit(tmp_path, rows("wrapped", 64, [{"text": "The pit<|end_of_text|> is lost."}] * 20))


def test_an_unknown_end_of_text_is_named(tmp_path):
    with pytest.raises(UsageError, match="document_tokens.eos=<eod> is not in the tokenizer's vocabulary"):
        fit(tmp_path, rows("wrapped", 64), document_tokens={"eos": "<eod>"})


def test_an_empty_training_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="the training split is empty"):
        trainer_for(small()).fit(run_in(tmp_path, Rows([])))


def test_instruction_tuning_starts_from_the_base_run(base, tmp_path):
    """Base -> Instruct as init_from does it: model.path is the Base run's checkpoint, tokenizer and all."""
    from safetensors.torch import load_file

    data = InstructData(train=20, val=5, test=4)
    tracker = Log()
    model = small(path=str(base[1]), lora={"r": 4})
    trainer = trainer_for(model, max_steps=4, logging_steps=1, eval_on_start=True)
    checkpoint = trainer.fit(run_in(tmp_path, data, tracker))
    own = base[1] / "tokenizer.json"
    assert json.loads((checkpoint / "tokenizer.json").read_text())["model"] == json.loads(own.read_text())["model"]
    fresh = Log()
    trainer_for(small(lora={"r": 4}), max_steps=1, logging_steps=1, eval_on_start=True).fit(
        run_in(tmp_path / "fresh", data, fresh)
    )
    first = [next(row["val/loss"] for _, row in log.rows if "val/loss" in row) for log in (tracker, fresh)]
    assert first[0] < first[1] - 0.5, "the Base run's weights did not arrive"
    assert load_file(checkpoint / "adapter_model.safetensors")
    predictor = trainer.load(checkpoint)
    assert all("text" in p.values for p in predictor(data.samples("test")))
    documents = list(predictor(CorpusData(train=1, val=1, test=3).samples("test")))
    assert all(math.isfinite(p.values["untouched_nll"]) for p in documents)
    assert any(p.values["untouched_nll"] != p.values["nll"] for p in documents)


def test_an_adapter_is_no_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds an adapter, no model: merge it first .clarion merge"):
        trainer_for(small(path=str(tmp_path))).check()


# --------------------------------------------------------------------------------------------------------- the data


def write(folder, documents, name="documents.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(d, ensure_ascii=False) for d in documents]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


def test_a_folder_is_split_by_document_and_read_from_disk(tmp_path):
    documents = [{"id": f"d{k}", "text": f"문서 {k}: 망막전막 report.", "source": "pmc"} for k in range(200)]
    data = CorpusData(root=write(tmp_path, documents), kind="public", val_share=0.1, test_share=0.1)
    data.check().raise_if_bad()
    assert {s: len(ids) for s, ids in data.splits.items()} == {"train": 160, "val": 20, "test": 20}
    texts = dict(data.train_texts())
    assert len(texts) == 160 and texts[data.splits["train"][0]].startswith("문서")
    assert sorted(data.hf_dataset("train")["text"]) == sorted(texts.values())
    again = CorpusData(root=str(tmp_path), kind="public", val_share=0.1, test_share=0.1)
    assert again.splits == data.splits and again.fingerprint() == data.fingerprint()
    assert data.card()["splits"]["test"]["sources"] == {"pmc": 20}


def test_a_folder_is_private_unless_said_otherwise(tmp_path):
    data = CorpusData(root=write(tmp_path, [{"id": f"Kim-{k}", "text": f"note {k}"} for k in range(300)]))
    assert data.kind == "private" and not any("Kim" in i for ids in data.splits.values() for i in ids)


def test_a_text_in_two_splits_is_refused(tmp_path):
    same = [{"id": f"d{k}", "text": "The same report."} for k in range(300)]
    with pytest.raises(DataError, match="the same text is in two splits"):
        CorpusData(root=write(tmp_path, same), kind="public").check().raise_if_bad()


@pytest.mark.parametrize(("lines", "said"), [
    ("", "holds no documents"), ('{"id": "a"}\n', 'line 1 has no "text"'), ("no\n", "line 1 is not a JSON object"),
])  # fmt: skip
def test_broken_folders(tmp_path, lines, said):
    (tmp_path / "documents.jsonl").write_text(lines)
    with pytest.raises(DataError, match=said):
        CorpusData(root=str(tmp_path), kind="public").prepare()


def test_a_folder_without_documents(tmp_path):
    with pytest.raises(UsageError, match=r"has no documents\*.jsonl"):
        CorpusData(root=str(tmp_path), kind="public").prepare()


def test_embedded_reports_share_no_case_with_the_questions(corpus):
    asked = {i["patient_id"] for items in InstructData(train=50, val=5, test=5).items.values() for i in items}
    reported = {d.unit for documents in corpus.documents.values() for d in documents}
    assert not asked & reported
    corpus.check().raise_if_bad()


def test_the_run_is_scored(base, corpus):
    import pandas as pd

    trainer, checkpoint, _ = base
    predicted = [
        {"sample_id": p.sample_id, "patient_id": p.patient_id, **p.values}
        for p in trainer.load(checkpoint)(corpus.samples("test"))
    ]
    result = PerplexityEvaluator(n_resamples=100).evaluate(pd.DataFrame(predicted), corpus.truth("test"), {"seed": 0})
    assert result["metrics"]["bits_per_byte"]["value"] < 0.6 * result["baseline"]["bits_per_byte"]["value"]
