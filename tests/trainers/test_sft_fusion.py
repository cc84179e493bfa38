"""Slide and omics fused into a small language model, for real: two unimodal runs, two stages, answers, ablations."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from fusion_small import composed, fused, one_thread, run, unimodal  # noqa: F401
from omegaconf import OmegaConf

from clarion.building import build, build_data
from clarion.errors import DataError, UsageError
from clarion.samples import Sample
from clarion.trainers import sft_fusion
from clarion.trainers.sft_fusion_encoders import check_start


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fusion-runs")


@pytest.fixture(scope="module")
def starts(folder):
    return unimodal(folder)


@pytest.fixture(scope="module")
def finished(folder, starts):
    """(config, run directory) of a fused run."""
    cfg = fused(folder, starts)
    return cfg, run(cfg)


@pytest.fixture(scope="module")
def data(finished):
    return build_data(finished[0])


@pytest.fixture(scope="module")
def predictor(finished):
    cfg, directory = finished
    trainer = build(cfg.trainer, model=OmegaConf.load(directory / "config.yaml").model, seed=0)
    return trainer.load(directory / "checkpoints/best")


def test_the_run_is_scored_as_survival_with_probabilities_and_texts(finished, data):
    _, directory = finished
    metrics = json.loads((directory / "metrics.json").read_text())["evaluators"]["survival"]["metrics"]
    assert metrics["auc_60m"]["n"] == len(data.splits["test"]) and metrics["brier_60m"]["value"] is not None
    table = pd.read_parquet(directory / "predictions/test.parquet")
    assert list(table["sample_id"]) == data.splits["test"]
    p = table["probability"].to_numpy()
    assert ((p > 0) & (p < 1)).all() and np.allclose(np.log((1 - p) / p), table["risk"], atol=1e-5)
    assert np.allclose([s[0] for s in table["survival"]], p) and {t[0] for t in table["times"]} == {60.0}
    assert (table["parse_failed"] == table["answer"].isna()).all() and table["tokens"].between(0, 24).all()


def test_the_record_says_where_it_came_from_and_who_trained_the_statement(finished, starts, data):
    _, directory = finished
    record = json.loads((directory / "checkpoints/best/clarion.json").read_text())
    assert {n: s["run"] for n, s in record["fusion"]["sources"].items()} == {n: d.name for n, d in starts.items()}
    assert [s["stage"] for s in record["stages"]] == ["one", "two"]
    known, left = record["statement"]["in_the_loss"]["train"], record["statement"]["censored_left_out"]["train"]
    assert known + left == len(data.splits["train"]) and left > 0
    assert [s["patients"]["train"] for s in record["stages"]] == [known, known + left]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert set(manifest["init_from"]) == {"slide", "omics"}


def test_stage_one_moves_the_projector_alone_and_the_checkpoint_holds_no_base_twice(finished):
    _, directory = finished
    best = directory / "checkpoints/best"
    held = {p.relative_to(best).as_posix() for p in best.rglob("*.safetensors")}
    assert held == {"adapter_model.safetensors", "base/model.safetensors", "fusion/projector.safetensors",
                    "fusion/slide/model.safetensors", "fusion/omics/model.safetensors",
                    "fusion/tissue/tissue.safetensors"}  # fmt: skip
    assert not (directory / "checkpoints/steps").exists()


def test_truth_holds_the_facts_of_the_fact_check(finished, data):
    from clarion.evaluators.factcheck_facts import Facts

    truth = pd.read_parquet(finished[1] / "truth/test.parquet")
    facts = [Facts.read(f) for f in truth["facts"]]
    assert all(len(f.genes) == (0 if "omics" in f.missing else 10) and f.survival is None for f in facts)
    assert {m for f in facts for m in f.missing} == {"slide", "omics"}
    assert "facts" in data.truth("val").columns
    planted = data.planted.shares.loc[truth["patient_id"]]
    for known, missing, (_, shares) in zip(truth["tissue"], facts, planted.iterrows(), strict=True):
        if "slide" in missing.missing:
            assert known is None
        else:
            found = json.loads(known)
            assert found["necrosis"] == pytest.approx(shares["necrosis"], abs=1e-4)
            assert sum(found.values()) == pytest.approx(1, abs=1e-3)


def test_the_head_for_tissue_is_fitted_on_training_patients_and_scored_on_others(finished, data):
    from clarion.cancer.swin.tissue_types import TissueHead

    best = finished[1] / "checkpoints/best"
    record = json.loads((best / "clarion.json").read_text())["tissue"]
    with_slide = {s: sum(bool(x.inputs["slides"]) for x in data.samples(s)) for s in ("train", "val")}
    assert record["trained_on"]["patients"] <= with_slide["train"] < len(data.splits["train"])
    assert record["trained_on"]["labels"] == data.tissue_labels("train").digest()
    held = record["held_out"]["balanced_accuracy"]
    assert 0 < held["n_patients"] <= with_slide["val"] and held["value"] > 2 * record["held_out"]["chance"]
    assert list(TissueHead.load(best / "fusion/tissue").kinds) == record["kinds"]


def test_prompts_name_the_tissue_attended_and_predictions_say_which(finished, predictor, data):
    table = pd.read_parquet(finished[1] / "predictions/test.parquet").set_index("sample_id")
    from clarion.cancer.rationale.english import tissue

    named = 0
    for one in predictor.inputs(list(data.samples("test"))):
        told = json.loads(table.at[one.sample_id, "patterns"])
        assert [(p["name"], pytest.approx(p["share"], abs=1e-3)) for p in told] == [
            (p.name, p.share) for p in one.facts.patterns
        ]
        prompt = predictor.prompter.messages(one.facts, predictor.soft)[1]["content"]
        assert ("Tissue attended:" in prompt) == bool(told) == ("slide" not in one.facts.missing)
        assert len(told) <= 3 and all(p["share"] >= 0.05 and f"{tissue(p['name'])} " in prompt for p in told)
        named += len(told)
    assert named > len(table)


def test_the_fact_check_knows_the_tissue_that_the_prompt_named(finished, predictor, data):
    """Rationales by template of the prompts' facts: every claim on tissue is supported, and none without the column."""
    from clarion.evaluators.factcheck import FactcheckEvaluator

    given = predictor.inputs(list(data.samples("test")))
    table = pd.read_parquet(finished[1] / "predictions/test.parquet").set_index("sample_id")
    ids = [one.sample_id for one in given]
    texts = pd.DataFrame({
        "sample_id": ids, "patient_id": ids, "patterns": table.loc[ids, "patterns"].to_numpy(),
        "text": [predictor.prompter.rationale(one.facts, one.sample_id) for one in given],
    })  # fmt: skip
    evaluator, truth = FactcheckEvaluator(n_resamples=50), data.truth("test")
    found = evaluator.evaluate(texts, truth, {"seed": 0})
    scores = found["metrics"]
    assert all(scores[name]["value"] == 1 for name in ("precision", "precision_pattern", "precision_share"))
    assert found["baseline"]["precision"]["value"] < 1 and "patterns_true" in found["baseline"]
    right = [
        [json.loads(tissue)[p.name] >= 0.05 for p in one.facts.patterns]
        for one, tissue in zip(given, truth.set_index("sample_id").loc[ids, "tissue"], strict=True) if tissue
    ]  # fmt: skip
    assert scores["patterns_true"]["value"] == pytest.approx(np.mean([r for own in right for r in own]))
    without = evaluator.evaluate(texts.drop(columns="patterns"), truth, {"seed": 0})["metrics"]
    assert without["precision_pattern"]["value"] == 0 and "patterns_true" not in without


def test_without_labels_or_where_nobody_wants_it_there_is_no_head(finished, predictor, data, monkeypatch):
    from clarion.cancer.patients.tissue_labels import PointLabels
    from clarion.trainers.sft_fusion_tissue import Tissue

    options = OmegaConf.to_container(finished[0].model.fusion.patterns)
    assert Tissue.fit(None, predictor.encoders, data, 0) is None
    assert Tissue.fit(options, predictor.encoders, object(), 0) is None  # data that know nothing of tissue
    again = Tissue.fit(options, predictor.encoders, data, 0)
    assert np.allclose(again.head.weight, predictor.tissue.head.weight, atol=1e-4)
    monkeypatch.setattr(data, "tissue_labels", lambda split: PointLabels({}))
    assert Tissue.fit(options, predictor.encoders, data, 0) is None


def test_patterns_of_the_inputs_go_before_the_head_and_no_head_says_nothing(predictor, data):
    from clarion.trainers.sft_fusion_rows import fused_inputs

    sample = whole(data)
    own = Sample("x", "x", sample.inputs | {"patterns": {"mucin": 0.7}})
    assert [p.name for p in predictor.inputs([own])[0].facts.patterns] == ["mucin"]
    assert not fused_inputs([sample], predictor.prompter, predictor.encoders)[0].facts.patterns
    assert predictor.inputs([sample])[0].facts.patterns


def test_ablations_are_kept_beside(finished):
    kept = json.loads((finished[1] / "explanation.json").read_text())
    assert kept["format"] == "clarion-modality-ablation/1"
    moved = {what: m["probability_changed_by"]["value"] for what, m in kept["metrics"].items()}
    assert len(moved) == 12
    assert moved["patterns_shuffled"] > 0 and moved["patterns_withheld"] > 0
    assert moved["slide_shuffled"] > 0 and moved["omics_zeroed"] > 0 and moved["genes_withheld"] > 0


def test_a_fresh_load_answers_the_same_without_the_unimodal_runs(finished, predictor, data, starts):
    table = pd.read_parquet(finished[1] / "predictions/test.parquet").set_index("sample_id")
    for one in predictor(list(data.samples("test"))[:3]):
        assert one.values["probability"] == pytest.approx(table.at[one.sample_id, "probability"], abs=1e-4)
    assert all(not str(f).startswith(str(d)) for f in predictor.encoders.folders.values() for d in starts.values())


def whole(data) -> Sample:
    """A test patient with slide and omics."""
    return next(s for s in data.samples("test") if s.inputs["slides"] and s.inputs["omics"] is not None)


def test_options_are_scored_as_a_plain_forward_scores_them(predictor, data):
    """Packed option scoring with soft tokens against one forward an option."""
    one = predictor.inputs([whole(data)])[0]
    values = predictor.answer([one], text=False)[0]
    turns = predictor.prompter.messages(one.facts, predictor.soft)
    prompt = predictor.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    for statement, found in zip(predictor.prompter.statements, values["option_logprobs"], strict=True):
        start = len(predictor.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        ids = torch.tensor([predictor.tokenizer(prompt + statement, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            given = {n: e[None] for n, e in one.embeddings.items()}
            logits = predictor.network(ids, torch.ones_like(ids), given, torch.ones(1, 2, dtype=torch.bool)).logits
        each = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        assert float(each[start - 1 :].sum()) == pytest.approx(found, abs=1e-3)


def test_a_patient_without_omics_or_without_a_slide_is_answered_and_without_both_refused(predictor, data):
    sample = whole(data)
    gone = {"slide": {"slide": None, "slides": ()}, "omics": {"omics": None}}
    both = next(iter(predictor([sample]))).values["probability"]
    for name, without in gone.items():
        values = next(iter(predictor([Sample("x", "x", sample.inputs | without)]))).values
        assert values["missing"] == [name] and values["probability"] != both
    neither = Sample("x", "x", sample.inputs | gone["slide"] | gone["omics"])
    with pytest.raises(DataError, match="Patient x has neither a slide nor omics"):
        list(predictor([neither]))


def test_embeddings_of_another_size_are_refused(predictor, data):
    encode = predictor.encoders.embed["omics"]
    predictor.encoders.embed["omics"] = lambda samples: np.concatenate([encode(samples)] * 2, axis=1)
    try:
        with pytest.raises(DataError, match=r"omics model gives embeddings of \d+ numbers, the fusion was"):
            predictor.inputs([whole(data)])
    finally:
        predictor.encoders.embed["omics"] = encode


def test_runs_that_knew_test_patients_or_other_data_are_refused(starts):
    moved = build_data(composed("model=fusion_smollm2", "data.split_seed=1"))
    with pytest.raises(DataError, match=r"trained on \d+ of this run's \d+ test patients"):
        check_start("omics", starts["omics"] / "checkpoints/best", moved)
    other = build_data(composed("model=fusion_smollm2", "data.missing={omics: 0.2, slide: 0.2}"))
    with pytest.raises(DataError, match="another data set .*where patients, values or splits differ"):
        check_start("omics", starts["omics"] / "checkpoints/best", other)


def test_a_checkpoint_outside_a_run_is_refused(starts, data, tmp_path):
    shutil.copytree(starts["omics"] / "checkpoints/best", tmp_path / "a/b/best")
    with pytest.raises(UsageError, match="lies in no complete run"):
        check_start("omics", tmp_path / "a/b/best", data)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"slide": None}, "has none for slide: add init_from.slide=RUN"),
        ({"fusion": {"tokenss": 3}}, "tokenss is unknown"),
        ({"fusion": {"tokens": 0}}, "tokens must be at least 1"),
        ({"fusion": {"network": "os.system"}}, "not an admitted class"),
        ({"fusion": {"patterns": {"head": "os.system", "kinds": 3, "min_share": 0.05}}}, "not an admitted class"),
        ({"fusion": {"patterns": {"head": "clarion.X", "kind": 3, "min_share": 0.05}}}, "patterns.kind is unknown"),
        ({"fusion": {"patterns": {"head": "clarion.X", "kinds": 0, "min_share": 0.05}}}, "kinds must be at least 1"),
        ({"fusion": {"patterns": 3}}, "or null for prompts without tissue"),
        ({"look": {"page": 3}}, "model.look.page is unknown; .*`pages`"),
        ({"look": {"operator": "rolout"}}, "model.look.operator=rolout is unknown; .*`rollout`"),
        ({"look": {"pages": -1}}, "model.look.pages=-1: give a whole number of at least 0"),
        ({"look": {"patients": 0}}, "model.look.patients=0: .* or null for all"),
        ({"look": True}, "model.look=True: give its settings"),
        ({"explain": {"patients": 3}}, "model.explain=.*: give true or false"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(changes, words):
    model = OmegaConf.to_container(composed("model=fusion_smollm2").model, resolve=True)
    model |= {"slide": "a", "omics": "b"}
    for key, value in changes.items():
        model[key] = model[key] | value if key == "fusion" else value
    with pytest.raises(UsageError, match=words):
        sft_fusion.check(model, {})


def test_a_placeholder_outside_the_vocabulary_names_others(predictor):
    from clarion.trainers.sft_fusion_rows import placeholder_id

    with pytest.raises(UsageError, match="no special token of this vocabulary"):
        placeholder_id(predictor.tokenizer, "<|image_pad|>")


def test_rows_train_the_statement_of_known_outcomes_alone(predictor, data):
    from clarion.trainers.sft_chat import chat_format
    from clarion.trainers.sft_fusion_rows import RowMaker, check_rows

    tokens = predictor.network.config.tokens
    maker = RowMaker(predictor.tokenizer, chat_format(predictor.tokenizer), {}, predictor.prompter, "<|end_of_text|>",
                     tokens, 2.0, 1024)  # fmt: skip
    inputs, outcomes = predictor.inputs(list(data.samples("train"))), data.outcomes("train")
    rows = maker.rows(inputs, outcomes, brief=False)
    assert len(rows) == len(inputs)
    for row, one in zip(rows, inputs, strict=True):
        labels, weights = np.array(row["labels"]), np.array(row["weights"])
        died, weight = outcomes.loc[one.sample_id]
        text = predictor.tokenizer.decode(labels[labels >= 0])
        assert text.startswith("The patient") == (weight > 0)
        if weight > 0:
            assert predictor.prompter.parse(text) == (died == 0)
            assert weights.max() == pytest.approx(2.0 * weight)
        told = weights[(weights > 0) & (weights < 0.5)]
        assert told.sum() == pytest.approx(1.0) and row["input_ids"].count(maker.placeholder) == tokens
    brief = maker.rows(inputs, outcomes, brief=True)
    assert len(brief) == int((outcomes["weight"] > 0).sum()) and max(len(r["labels"]) for r in brief) < 150
    known = len(brief)
    assert f"outside that of {len(rows) - known}" in check_rows(rows, maker, "train", known)
    at = next(k for k, one in enumerate(inputs) if outcomes.at[one.sample_id, "weight"] > 0)
    start = next(k for k, label in enumerate(rows[at]["labels"]) if label >= 0)
    shifted = rows[at] | {"labels": [-100 if k == start else label for k, label in enumerate(rows[at]["labels"])]}
    with pytest.raises(DataError, match=f"statement of {known - 1} patients .* the outcome of {known} is known"):
        check_rows([shifted, *rows[:at], *rows[at + 1 :]], maker, "train", known)
    maker.max_length = 40
    with pytest.raises(DataError, match="raise it, or show fewer genes"):
        maker.rows(inputs, outcomes, brief=False)


def test_a_resume_between_the_stages_draws_the_same_adapter(folder, starts, tmp_path, monkeypatch):
    from clarion.run import started_model
    from clarion.trainers.base import Run

    cfg = fused(folder, starts)
    trainer, data = build(cfg.trainer, model=started_model(cfg)[0], seed=0), build_data(cfg)

    class Reached(Exception):
        """Stage two would begin."""

    def stage(trainer, run, network, tokenizer, name, *rest):
        if name == "two":
            raise Reached({n: p.detach().clone() for n, p in network.llm.named_parameters() if "lora_A" in n})
        if not run.resume:
            torch.rand(1000)  # what a training of stage one draws
        return {}

    monkeypatch.setattr(sft_fusion, "_stage", stage)
    drawn = []
    for resume in (False, True):
        with pytest.raises(Reached) as reached:
            sft_fusion.fit(trainer, Run(cfg, tmp_path, data, None, resume))
        drawn.append(reached.value.args[0])
    assert drawn[0] and all(torch.equal(tensor, drawn[1][name]) for name, tensor in drawn[0].items())


def test_ipcw_weights_are_those_of_the_five_year_head(data):
    from clarion.cancer.transformer.heads import censoring_weights

    part, found = data.cohort("train"), data.outcomes("train")
    label, weight = censoring_weights(part.time, part.event, 60.0)
    assert np.allclose(found["weight"], weight) and np.allclose(found["died"].fillna(0), label)


def test_unimodal_models_are_trained_first_where_the_command_says_so(folder, starts):
    """init_from: {omics: model=...}: found again where it is complete, under the same name."""
    from clarion.starting import trained_first

    cfg = fused(folder, {})
    cfg.init_from = {"omics": "model=tabular_transformer trainer.epochs=2 model.explain=false model.baselines=[] "
                     "model.datamodule.genes=20 model.datamodule.min_events=4"}  # fmt: skip
    asked = []
    done = trained_first(cfg, lambda own, words, directory: asked.append(directory) or {"status": "done"})
    assert done.init_from.omics == str(starts["omics"]) and not asked
    cfg.init_from.omics += " model.lr=0.01"
    trained_first(cfg, lambda own, words, directory: asked.append(directory) or {"status": "done"})
    assert len(asked) == 1 and asked[0].parent == folder and not asked[0].exists()
    cfg.init_from.omics = "model=tabular_transformer data=omics_demo"
    with pytest.raises(UsageError, match="this run's to choose"):
        trained_first(cfg, None)
