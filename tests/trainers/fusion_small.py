"""What the tests of the fusion share: a few synthetic patients, some without omics or slide; two unimodal runs on them;
a small language model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from clarion import config
from clarion.config import register_resolvers
from clarion.run import execute

PATIENTS = ["data=cancer_fusion_demo", "data.synthetic.patients=36", "data.synthetic.side=512",
            "data.synthetic.genes=80", "data.synthetic.censored=0.3", "data.synthetic.two_slides=0",
            "data.synthetic.slide_effect=1.0", "data.synthetic.seed=2",
            "data.missing={omics: 0.15, slide: 0.2}", "data.prompt.min_events=4",
            "trainer.device=cpu", "model.baselines=[]"]  # fmt: skip
SMALL = {
    "num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
LLAMA = {
    "weights": "random", "tokenizer": {"vocab_size": 600}, "template": "llama3",
    "lora": {"r": 8, "alpha": 16, "target_modules": "all-linear"},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Imported by a module of tests: its trainings take one thread, as their cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    register_resolvers()
    yield
    torch.set_num_threads(before)


def composed(*overrides: str, folder: Path | None = None):
    """The config of a run on these patients (a later override replaces an earlier one of the same key)."""
    given = {o.split("=")[0]: o for o in [*PATIENTS, f"runs_dir={folder}", *overrides]}
    return config.compose_config(list(given.values()))


def run(cfg, overrides=()) -> Path:
    """The directory of a finished run, made through the life of a run."""
    directory = Path(cfg.runs_dir) / config.run_id(_root_=cfg)
    outcome = execute(cfg, list(overrides), directory)
    assert outcome["status"] in ("done", "skipped"), outcome
    return directory


def unimodal(folder: Path) -> dict[str, Path]:
    """{"slide": run, "omics": run}, trained for an epoch."""
    slide = composed("model=swin_mil_nano", "trainer.epochs=1", "model.datamodule.sampled=4",
                     "++model.datamodule.warm_up.epochs=1", folder=folder)  # fmt: skip
    omics = composed("model=tabular_transformer", "trainer.epochs=2", "model.explain=false",
                     "model.datamodule.genes=20", "++model.datamodule.min_events=4", folder=folder)  # fmt: skip
    return {"slide": run(slide), "omics": run(omics)}


def fused(folder: Path, starts: dict[str, Path], *overrides: str):
    """The config of a small fused run from these."""
    cfg = composed("model=fusion_smollm2", "trainer.epochs=2", *overrides, folder=folder)
    tiny = OmegaConf.to_container(config.compose_config(["model=llama_tiny"]).model.architecture)
    model = OmegaConf.to_container(cfg.model, resolve=True) | LLAMA | {"architecture": tiny | SMALL}
    model["fusion"] |= {"placeholder": "<|end_of_text|>", "tokens": 3, "hidden": 32}
    model["fusion"]["stage_one"] |= {"epochs": 2}
    model["generation"] = {"max_new_tokens": 24, "batch_size": 8}
    cfg.model = model
    cfg.init_from = {name: str(path) for name, path in starts.items()}
    return cfg
