"""The published training recipes as experiments: their settings, their words without weights, their offline form."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from clarion import preflight
from clarion.config import compose_config
from clarion.errors import UsageError
from clarion.run import build

SFT = {
    "learning_rate": 2e-4, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 10,
    "gradient_accumulation_steps": 8, "max_length": 2048,
}  # fmt: skip
BASE = {
    "learning_rate": 5e-5, "lr_scheduler_type": "linear", "warmup_steps": 5, "weight_decay": 0.0,
    "gradient_accumulation_steps": 4, "gradient_checkpointing": True, "max_length": 4096, "packing": True,
    "packing_strategy": "wrapped",
}  # fmt: skip
WEIGHTS = {
    "ophtimus_base": "meta-llama/Llama-3.1-8B",
    "ophtimus_llama_1b": "meta-llama/Llama-3.2-1B-Instruct",
    "ophtimus_llama_3b": "meta-llama/Llama-3.2-3B-Instruct",
    "ophtimus_llama_8b": "meta-llama/Llama-3.1-8B-Instruct",
    "ophtimus_instruct_8b": "meta-llama/Llama-3.1-8B",
}


def composed(name: str, *overrides: str):
    cfg = compose_config([f"experiment={name}", *overrides])
    assert preflight.check_config(cfg) == []
    return cfg


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_published_settings(name):
    cfg = composed(name)
    args, base = cfg.trainer.args, name == "ophtimus_base"
    assert (cfg.trainer.epochs, cfg.trainer.batch_size) == ((3, 4) if base else (5, 8))
    assert {key: args[key] for key in (BASE if base else SFT)} == (BASE if base else SFT)
    assert cfg.model.weights == WEIGHTS[name] and cfg.model.pad_token == "<|finetune_right_pad_id|>"
    if base:
        assert (cfg.model.lora, cfg.model.quantization, cfg.model.dtype) == (None, None, "bfloat16")
        assert (cfg.data.name, set(cfg.evaluators)) == ("corpus", {"perplexity"})
    else:
        lora = {"r": 32, "alpha": 16, "dropout": 0.05, "target_modules": "all-linear", "dora": False}
        assert OmegaConf.to_container(cfg.model.lora) == lora and cfg.model.quantization == "nf4"


@pytest.mark.parametrize("name", WEIGHTS)
def test_without_weights_one_sentence_says_what_to_fetch(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CLARION_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    cfg = composed(name, "trainer.device=cpu")
    with pytest.raises(UsageError, match=f"hf download {WEIGHTS[name]} --local-dir") as error:
        build(cfg.trainer, model=cfg.model, seed=0).check()
    assert "\n" not in str(error.value) and "model.path=/folder" in str(error.value)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("model", ["smollm2_135m", "llama_tiny"])
def test_the_same_recipe_is_laid_out_for_embedded_models(name, model):
    """Settings and network only; ophtimus_base and ophtimus_instruct_8b are trained below, on llama_tiny."""
    cfg = composed(name, f"model={model}", "trainer.device=cpu")
    assert cfg.model.quantization is None and cfg.data.kind == "phantom"
    assert cfg.trainer.args.learning_rate == (BASE if name == "ophtimus_base" else SFT)["learning_rate"]
    trainer = build(cfg.trainer, model=cfg.model, seed=0)
    assert trainer.parameters() > 100_000


def test_base_to_instruct_on_an_embedded_model(tmp_path, command):
    """Two commands as a user types them: the second starts from the first's checkpoint, and the manifest says so."""
    import json

    small = [
        "model=llama_tiny", f"runs_dir={tmp_path}", "trainer.device=cpu", "trainer.args.eval_on_start=false",
        "model.architecture.num_hidden_layers=1", "model.architecture.hidden_size=96", "trainer.epochs=1",
        "model.architecture.intermediate_size=192", "trainer.args.gradient_accumulation_steps=1",
    ]  # fmt: skip
    base = command(
        "train.py", "experiment=ophtimus_base", *small, "data.train=12", "data.val=3", "data.test=4",
        "trainer.args.max_length=64", "trainer.args.max_steps=2",
    )  # fmt: skip
    assert base.returncode == 0, base.stderr[-3000:]
    (first,) = tmp_path.glob("llama_tiny-corpus-*")
    tuned = command(
        "train.py", "experiment=ophtimus_instruct_8b", *small, f"init_from.path={first}", "data.train=12", "data.val=3",
        "data.test=4", "trainer.args.max_steps=2", "trainer.args.max_length=512", "model.generation.max_new_tokens=4",
    )  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr[-3000:]
    (second,) = tmp_path.glob("llama_tiny-instruct_demo-*")
    manifest = json.loads((second / "manifest.json").read_text())
    assert manifest["init_from"]["path"] == json.loads((first / "manifest.json").read_text())["checkpoint_hash"]
    found = json.loads((first / "metrics.json").read_text())["evaluators"]["perplexity"]["metrics"]["perplexity"]
    assert found["low"] < found["value"] < found["high"] and found["n"] == 4
