"""What Clarion costs: the same training as a run of train.py and through the bare library, in one process, in turns.

    python benchmarks/overhead.py [--pairs 5] [--libraries ultralytics,lightning,sft] [--epochs 3]

Ours is the whole job of train.py behind its composed configuration (clarion.run.execute): checks, run record, local
tracker, states to resume from after every epoch, fp32 weights of the best one. The bare side is what the library's
documentation shows, with its own checkpoints and validations: the same network, data, order, batches and steps, as an
assertion on the steps holds it to. Timed from the first training step to the end of the fit: what a run does before
that (start-up: imports, hashes and checks of the data) is reported apart, and its predictions, evaluation and page
have no counterpart on the bare side. A pair is one training of each, in an order that alternates; the ratio is of wall
times (Clarion / bare) with a bootstrap interval of the median over pairs, steps_per_s_ratio of the steps a second.
One thread. Prints JSON, one line a library, and as its last line {name, ratio, peer, n, ...}: the worst of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"  # both sides alike, whatever a library sets on its way
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np  # noqa: E402


@dataclass
class Timed:
    """Seconds until the first step, from there to the end of the fit, and the steps in it."""

    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    ended: float | None = None
    steps: int = 0

    def step(self) -> None:
        self.first = self.first or time.perf_counter()
        self.steps += 1

    def end(self) -> Timed:
        self.ended = time.perf_counter()
        return self

    @property
    def startup_s(self) -> float:
        return self.first - self.began

    @property
    def training_s(self) -> float:
        return self.ended - self.first


Side = Callable[[], Timed]
now = [Timed()]  # of the training under way, so that a hook set once serves all


@contextlib.contextmanager
def fit_timed(trainer_class: type) -> Iterator[None]:
    """The end of a trainer's fit is where the timed part ends."""
    fit = trainer_class.fit

    def timed(self, run):
        done = fit(self, run)
        now[0].end()
        return done

    with mock.patch.object(trainer_class, "fit", timed):
        yield


def run_of(folder: Path, overrides: list[str], trainer_class: type) -> Timed:
    """One run of train.py's job in a fresh directory."""
    from clarion.config import compose_config
    from clarion.run import execute

    now[0] = Timed()
    directory = Path(tempfile.mkdtemp(dir=folder, prefix="run")) / "run"
    with fit_timed(trainer_class):
        outcome = execute(compose_config(overrides), overrides, directory)
    if outcome["status"] != "done":
        raise SystemExit(f"the run failed: {outcome['reason']}")
    return now[0]


def ultralytics(folder: Path, epochs: int) -> tuple[Side, Side]:
    """YOLO11n at 128 px on a phantom of 60 B-scans; bare: DetectionTrainer with the same overrides."""
    from clarion.building import build, build_data
    from clarion.config import compose_config
    from clarion.trainers import ultralytics_setup
    from clarion.trainers.base import Run

    overrides = [
        "model=yolo11n", "data=erm_demo", "data.eyes={train:6,val:2,test:1}", f"trainer.epochs={epochs}",
        "trainer.batch_size=8", "trainer.device=cpu", "trainer.args.imgsz=128",
    ]  # fmt: skip
    cfg = compose_config(overrides)
    data, trainer = build_data(cfg), build(cfg.trainer, model=cfg.model, seed=0)
    ultralytics_setup.prepare()
    from ultralytics.models.yolo.detect import DetectionTrainer

    from clarion.trainers.ultralytics_training import RecordedDetectionTrainer

    def counting(trainer_class: type) -> contextlib.AbstractContextManager:
        callbacks = trainer_class.run_callbacks

        def counted(self, event: str) -> None:
            if event == "on_train_batch_start":
                now[0].step()
            callbacks(self, event)

        return mock.patch.object(trainer_class, "run_callbacks", counted)

    def ours() -> Timed:
        with counting(RecordedDetectionTrainer):
            return run_of(folder, overrides, type(trainer))

    def bare() -> Timed:
        now[0] = Timed()
        directory = Path(tempfile.mkdtemp(dir=folder, prefix="bare"))
        settings = trainer.overrides(Run(cfg=None, directory=directory, data=data, tracker=None))
        with ultralytics_setup.offline_training(), counting(DetectionTrainer):
            library = DetectionTrainer(overrides=settings | {"model": "yolo11n.yaml"})
            library.final_eval = lambda: None  # one more validation, which Clarion leaves to its evaluators
            library.train()
        return now[0].end()

    return ours, bare


def lightning(folder: Path, epochs: int) -> tuple[Side, Side]:
    """A small Swin on a phantom of 180 B-scans; bare: L.Trainer with ModelCheckpoint (best and last)."""
    import lightning as L
    from lightning.pytorch.callbacks import ModelCheckpoint

    from clarion.building import build, build_data
    from clarion.config import compose_config

    overrides = [
        "model=swin_nano", "data=bscan_stages", "data.eyes={train:60,val:12,test:12}", f"trainer.epochs={epochs}",
        "trainer.device=cpu", "+trainer.args.enable_progress_bar=false",
    ]  # fmt: skip
    cfg = compose_config(overrides)
    data, trainer = build_data(cfg), build(cfg.trainer, model=cfg.model, seed=0)
    module_class = trainer._module_class()

    def counted(self, *_) -> None:
        now[0].step()

    def ours() -> Timed:
        with mock.patch.object(L.LightningModule, "on_train_batch_start", counted):
            return run_of(folder, overrides, type(trainer))

    def bare() -> Timed:
        now[0] = Timed()
        directory = Path(tempfile.mkdtemp(dir=folder, prefix="bare"))
        L.seed_everything(0, workers=True, verbose=False)
        loaders = data.datamodule(batch_size=trainer.batch_size, seed=0, **trainer.model.get("datamodule", {}))
        loaders.setup("fit")
        module = module_class(model=trainer.model, facts=loaders.facts)
        best = ModelCheckpoint(directory, "best", monitor="val/loss", save_weights_only=True)
        library = L.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, precision="32-true", logger=False,
            num_sanity_val_steps=0, enable_model_summary=False, enable_progress_bar=False, gradient_clip_val=1.0,
            default_root_dir=directory, callbacks=[best, ModelCheckpoint(directory, "last")],
        )  # fmt: skip
        with mock.patch.object(L.LightningModule, "on_train_batch_start", counted):
            library.fit(module, datamodule=loaders)
        return now[0].end()

    return ours, bare


def sft(folder: Path, epochs: int) -> tuple[Side, Side]:
    """llama_tiny in full on the demo questions; bare: SFTConfig, SFTTrainer, train, as TRL's documentation shows."""
    import torch
    from omegaconf import OmegaConf
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from clarion.building import build_data
    from clarion.config import compose_config
    from clarion.trainers import sft_models
    from clarion.trainers.sft import SftTrainer, texts
    from clarion.trainers.sft_weights import find_weights

    shared = {"learning_rate": 2e-3, "max_length": 512, "logging_steps": 10, "eval_on_start": False}
    overrides = [
        "model=llama_tiny", "data=ophtimus_demo", "data.train=96", "data.val=16", "data.test=4",
        "model.generation.max_new_tokens=4", f"trainer.epochs={epochs}", "trainer.batch_size=8", "trainer.device=cpu",
        "trainer.args.lr_scheduler_type=constant", "trainer.args.warmup_steps=0",
        *(f"++trainer.args.{name}={value}" for name, value in shared.items()),
    ]  # fmt: skip
    cfg = compose_config(overrides)
    data = build_data(cfg)
    rows = {split: data.hf_dataset(split) for split in ("train", "val")}
    model = OmegaConf.to_container(cfg.model, resolve=True)
    drawn = folder / "weights"  # once, so that every training begins at the same weights
    network, tokenizer = sft_models.build(
        model, find_weights(model), texts(rows["train"]), torch.float32, torch.device("cpu"), 0
    )
    network.save_pretrained(drawn)
    tokenizer.save_pretrained(drawn)
    training_step = SFTTrainer.training_step

    def counted(self, *args, **kwargs):
        now[0].step()
        return training_step(self, *args, **kwargs)

    def ours() -> Timed:
        with mock.patch.object(SFTTrainer, "training_step", counted):
            return run_of(folder, [*overrides, f"model.path={drawn}"], SftTrainer)

    def bare() -> Timed:
        now[0] = Timed()
        config = SFTConfig(
            output_dir=tempfile.mkdtemp(dir=folder, prefix="bare"), num_train_epochs=epochs, use_cpu=True, bf16=False,
            per_device_train_batch_size=8, per_device_eval_batch_size=8, seed=0, report_to=[], save_total_limit=2,
            gradient_checkpointing=False, dataloader_pin_memory=False, eval_strategy="epoch", save_strategy="epoch",
            lr_scheduler_type="constant", load_best_model_at_end=True, metric_for_best_model="eval_loss", **shared,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(drawn), args=config, train_dataset=rows["train"],
            eval_dataset=rows["val"], processing_class=AutoTokenizer.from_pretrained(drawn),
        )  # fmt: skip
        with mock.patch.object(SFTTrainer, "training_step", counted), contextlib.redirect_stdout(sys.stderr):
            trainer.train()
        return now[0].end()

    return ours, bare


LIBRARIES = {"ultralytics": ultralytics, "lightning": lightning, "sft": sft}


def compared(name: str, sides: tuple[Side, Side], pairs: int) -> dict:
    """Median ratios over pairs of trainings, after one unmeasured training of each."""
    import torch

    found: tuple[list[Timed], list[Timed]] = ([], [])
    for pair in range(-1, pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            torch.set_num_threads(1)
            timed = sides[side]()
            print(f"{name} pair {pair + 1}/{pairs} {('clarion', 'bare')[side]}: {timed.training_s:.2f} s, "
                  f"start-up {timed.startup_s:.2f} s, {timed.steps} steps", file=sys.stderr)  # fmt: skip
            if pair >= 0:
                found[side].append(timed)
    ours, bare = found
    assert {t.steps for t in ours} == {t.steps for t in bare}, "the two sides did not do the same work"
    wall = np.array([a.training_s / b.training_s for a, b in zip(ours, bare, strict=True)])
    rate = np.array([(a.steps / a.training_s) / (b.steps / b.training_s) for a, b in zip(ours, bare, strict=True)])
    draws = np.random.default_rng(0).integers(0, pairs, (10_000, pairs))
    low, high = np.quantile(np.median(wall[draws], axis=1), (0.025, 0.975))
    return {
        "name": f"overhead-{name}", "ratio": round(float(np.median(wall)), 4), "low": round(float(low), 4),
        "high": round(float(high), 4), "steps_per_s_ratio": round(float(np.median(rate)), 4), "peer": f"bare {name}",
        "n": pairs, "steps": ours[0].steps, "seconds": round(float(np.median([b.training_s for b in bare])), 2),
        "startup_s": {"clarion": round(float(np.median([t.startup_s for t in ours])), 2),
                      "bare": round(float(np.median([t.startup_s for t in bare])), 2)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--libraries", default=",".join(LIBRARIES))
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    results = []
    for name in asked.libraries.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results.append(compared(name, LIBRARIES[name](Path(folder), asked.epochs), asked.pairs))
        print(json.dumps(results[-1]), flush=True)
    worst = max(results, key=lambda r: r["ratio"])
    print(json.dumps({"name": "overhead", "ratio": worst["ratio"], "peer": worst["peer"], "n": worst["n"],
                      "target": 1.05, "all": {r["peer"]: r["ratio"] for r in results}}))  # fmt: skip


if __name__ == "__main__":
    main()
