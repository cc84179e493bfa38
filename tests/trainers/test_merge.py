"""Adapters merged into their base: the same logits, readable by plain transformers and peft, refused where wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from sft_small import SMALL, model_config, run_in, trainer_for

from clarion import merging
from clarion.errors import DataError, UsageError
from clarion.llm.instruct import InstructData

# What someone without Clarion types: a fresh interpreter in which importing clarion fails.
PLAIN = """
import json, sys
sys.modules["clarion"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
folder, kind, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
if kind == "merged":
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
else:
    from peft import AutoPeftModelForCausalLM, PeftModel
    base = AutoModelForCausalLM.from_pretrained(folder + "/base", dtype=torch.float32)
    network = PeftModel.from_pretrained(base, folder)
inputs = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                       return_tensors="pt", return_dict=True)
with torch.no_grad():
    logits = network.eval()(**inputs).logits[0, -1]
print(json.dumps({"logits": logits.tolist(), "stops": network.generation_config.eos_token_id}))
"""
QUESTION = "Which stage is this eye?"


def plain(folder, kind) -> dict:
    done = subprocess.run([sys.executable, "-c", PLAIN, str(folder), kind, QUESTION], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A small Llama with DoRA-free LoRA, a few steps: (trainer, checkpoint)."""
    model = model_config("llama_tiny", architecture=SMALL, lora={"r": 4})
    trainer = trainer_for(model, max_steps=6, eval_strategy="no", load_best_model_at_end=False)
    return trainer, trainer.fit(run_in(tmp_path_factory.mktemp("lora"), InstructData(train=40, val=5, test=5)))


@pytest.fixture(scope="module")
def merged(adapted, tmp_path_factory):
    return merging.merge_run(adapted[1], tmp_path_factory.mktemp("out") / "model")


def test_merged_and_unmerged_logits_agree(merged):
    assert 0 < merged.difference < 1e-4 and merged.tokens > 30
    assert (merged.dtype, merged.cast_difference) == ("float32", 0.0)


def test_both_reload_without_clarion_and_agree(adapted, merged):
    one, two = plain(merged.folder, "merged"), plain(adapted[1], "adapter")
    assert max(abs(a - b) for a, b in zip(one["logits"], two["logits"], strict=True)) < 1e-4
    assert json.loads((adapted[1] / "clarion.json").read_text())["stop_ids"] == one["stops"]


def test_the_folder_is_whole(merged):
    names = {path.name for path in merged.folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert "chat_template.jinja" in names and not any(n.endswith((".bin", ".pt")) for n in names)
    card = (merged.folder / "README.md").read_text(encoding="utf-8")
    for part in ("## Training", "rank 4", "## Data", "## Licence", "## Intended use and limits"):
        assert part in card


def test_a_merged_folder_is_weights_like_any_other(merged, adapted):
    """model.path=FOLDER: it can be tuned and asked again."""
    model = model_config("llama_tiny", architecture=SMALL, path=str(merged.folder), weights="merged/own", lora={"r": 2})
    trainer = trainer_for(model)
    trainer.check()
    from clarion.trainers import sft_models
    from clarion.trainers.sft_weights import find_weights

    network, _ = sft_models.build(model, find_weights(model), [], sft_models.DTYPES["float32"], None, 0)
    assert network.num_parameters() > 0


def test_the_card_carries_figures_with_intervals(adapted):
    metrics = {
        "run": "smollm2-x", "data_kind": "phantom", "split": "test",
        "data_card": {"name": "instruct_demo", "kind": "phantom", "source": "drawn", "fingerprint": "ab12",
                      "splits": {"train": {"samples": 40, "patients": 8}}},
        "evaluators": {"generation": {
            "metrics": {"rouge_l": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20},
                        "numeric": {"value": None, "low": None, "high": None, "n": 0}},
            "baseline": {"rouge_l": {"value": 0.3, "name": "majority"}}}},
    }  # fmt: skip
    lines = "\n".join(merging._metric_lines(metrics) + merging._data_lines(metrics))
    assert "| generation | rouge_l | 0.500 | 0.400 to 0.600 | 20 | 0.300 (majority) |" in lines
    assert "numeric" not in lines and "train: 40 samples of 8 patients" in lines


def test_another_dtype_says_what_the_cast_costs(adapted, tmp_path):
    half = merging.merge_run(adapted[1], tmp_path / "half", dtype="bfloat16")
    assert half.dtype == "bfloat16" and half.difference < 1e-4 < half.cast_difference < 1


def test_a_merge_that_changes_the_answers_is_refused(adapted, tmp_path):
    with pytest.raises(DataError, match="logits differ from base . adapter by .* nothing was written"):
        merging.merge_run(adapted[1], tmp_path / "out", tolerance=1e-12)
    assert not list(tmp_path.iterdir())


def test_refusals(adapted, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    with pytest.raises(UsageError, match="exists and is not empty"):
        merging.merge_run(adapted[1], tmp_path / "full")
    with pytest.raises(UsageError, match="neither a run of the sft trainer nor one of its checkpoints"):
        merging.merge_run(tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="--dtype int8 is unknown"):
        merging.merge_run(adapted[1], tmp_path / "out", dtype="int8")
    record = {"adapter": False, "model": {}}
    (tmp_path / "clarion.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="trained all weights, so there is nothing to merge"):
        merging.merge_run(tmp_path, tmp_path / "out")


def test_dora_merges_too(tmp_path):
    model = model_config("llama_tiny", architecture=SMALL, lora={"r": 4, "dora": True})
    trainer = trainer_for(model, max_steps=3, eval_strategy="no", load_best_model_at_end=False)
    checkpoint = trainer.fit(run_in(tmp_path, InstructData(train=40, val=5, test=5)))
    assert merging.merge_run(checkpoint, tmp_path / "merged").difference < 1e-4


def test_the_command(adapted, tmp_path, command):
    done = command("clarion", "merge", str(adapted[1]), "--out", str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["max_logit_difference"] < 1e-4
    again = command("clarion", "merge", str(adapted[1]), "--out", str(tmp_path / "model"))
    assert again.returncode == 2 and "exists and is not empty" in again.stderr


def test_what_the_adapter_saw_goes_with_the_merged_weights(adapted, tmp_path):
    import shutil

    from clarion.llm.contamination import TrainIndex
    from clarion.llm.overlaps import FOLDER, write_index

    run = tmp_path / "run"
    shutil.copytree(adapted[1], run / "checkpoints" / "best")
    (run / "manifest.json").write_text("{}")
    write_index(run, InstructData(train=40, val=5, test=5))
    found = merging.merge_run(run / "checkpoints" / "best", tmp_path / "merged")
    assert TrainIndex.load(found.folder / FOLDER).about == TrainIndex.load(run / FOLDER).about
