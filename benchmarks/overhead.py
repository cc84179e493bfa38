"""What Clarion costs: the same training through its trainer and through the bare library, in one process, in turns.

    python benchmarks/overhead.py [--pairs 5] [--libraries ultralytics,lightning] [--epochs 3]

Both do the same work: the same network, data, order of images, steps and validations. Clarion's also writes a state to
resume from after every epoch and fp32 weights of the best one, the library its own checkpoints. A pair is one training
of each, in an order that alternates; the ratio is of wall times (Clarion / bare), its interval a bootstrap of the
median over pairs. Start-up (until the first step) is reported apart. The fine-tuning of language models has its own
benchmark (benchmarks/sft.py). Prints JSON, one line a library, and as its last line {name, ratio, peer, n, ...}.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class Timed:
    """Seconds until the first step, from there to the end, and the steps in it."""

    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    steps: int = 0
    ended: float | None = None

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


class NoTracker:
    """Curves are a run's business, not a trainer's: they are left out of both sides."""

    def log(self, metrics, step) -> None: ...


def new_run(folder: Path, data, name: str):
    from clarion.trainers.base import Run

    return Run(cfg=None, directory=Path(tempfile.mkdtemp(dir=folder, prefix=name)), data=data, tracker=NoTracker())


def ultralytics(folder: Path, epochs: int) -> tuple[Callable[[], Timed], Callable[[], Timed]]:
    """YOLO11n at 128 px on a phantom of 60 B-scans."""
    from clarion.config import compose_config
    from clarion.run import build, build_data
    from clarion.trainers import ultralytics_setup

    cfg = compose_config([
        "model=yolo11n", "data=erm_demo", "data.eyes={train:6,val:2,test:1}", f"trainer.epochs={epochs}",
        "trainer.batch_size=8", "trainer.device=cpu", "trainer.args.imgsz=128",
    ])  # fmt: skip
    data, trainer = build_data(cfg), build(cfg.trainer, model=cfg.model, seed=0)
    ultralytics_setup.prepare()
    from ultralytics.models.yolo.detect import DetectionTrainer

    from clarion.trainers.ultralytics_training import RecordedDetectionTrainer

    def ours() -> Timed:
        timed, original = Timed(), RecordedDetectionTrainer.run_callbacks

        def counted(self, event: str) -> None:
            timed.step() if event == "on_train_batch_start" else None
            original(self, event)

        RecordedDetectionTrainer.run_callbacks = counted
        try:
            trainer.fit(new_run(folder, data, "ours"))
        finally:
            RecordedDetectionTrainer.run_callbacks = original
        return timed.end()

    def bare() -> Timed:
        overrides = trainer.overrides(new_run(folder, data, "bare")) | {"model": "yolo11n.yaml"}
        timed = Timed()
        with ultralytics_setup.offline_training():
            library = DetectionTrainer(overrides=overrides)
            library.add_callback("on_train_batch_start", lambda _: timed.step())
            library.final_eval = lambda: None  # one more validation, which Clarion leaves to its evaluators
            library.train()
        return timed.end()

    return ours, bare


def lightning(folder: Path, epochs: int) -> tuple[Callable[[], Timed], Callable[[], Timed]]:
    """A small Swin on a phantom of 180 B-scans; bare: L.Trainer with ModelCheckpoint (best and last)."""
    import lightning as L
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint

    from clarion.config import compose_config
    from clarion.run import build, build_data

    cfg = compose_config([
        "model=swin_nano", "data=bscan_stages", "data.eyes={train:60,val:12,test:12}", f"trainer.epochs={epochs}",
        "trainer.device=cpu", "+trainer.args.enable_progress_bar=false",
    ])  # fmt: skip
    data, trainer = build_data(cfg), build(cfg.trainer, model=cfg.model, seed=0)
    module_class, current = trainer._module_class(), [Timed()]

    class Steps(Callback):
        def on_train_batch_start(self, *_) -> None:
            current[0].step()

    from clarion.trainers import lightning as ours_module

    metrics_class = ours_module.EpochMetrics
    counted = type("Counted", (metrics_class,), {"on_train_batch_start": Steps.on_train_batch_start})

    def ours() -> Timed:
        current[0], ours_module.EpochMetrics = Timed(), counted
        try:
            trainer.fit(new_run(folder, data, "ours"))
        finally:
            ours_module.EpochMetrics = metrics_class
        return current[0].end()

    def bare() -> Timed:
        current[0] = Timed()
        run = new_run(folder, data, "bare")
        L.seed_everything(0, workers=True, verbose=False)
        loaders = data.datamodule(batch_size=trainer.batch_size, seed=0, **trainer.model.get("datamodule", {}))
        loaders.setup("fit")
        module = module_class(model=trainer.model, facts=loaders.facts)
        best = ModelCheckpoint(run.checkpoints, "best", monitor="val/loss", save_weights_only=True)
        last = ModelCheckpoint(run.checkpoints, "last")
        library = L.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, precision="32-true", logger=False,
            num_sanity_val_steps=0, enable_model_summary=False, enable_progress_bar=False, gradient_clip_val=1.0,
            default_root_dir=run.work, callbacks=[Steps(), best, last],
        )  # fmt: skip
        library.fit(module, datamodule=loaders)
        return current[0].end()

    return ours, bare


LIBRARIES = {"ultralytics": ultralytics, "lightning": lightning}


def compared(name: str, sides: tuple[Callable[[], Timed], Callable[[], Timed]], pairs: int) -> dict:
    """Median ratios over pairs of trainings, after one unmeasured training of each."""
    for side in sides:
        side()
    found: tuple[list[Timed], list[Timed]] = ([], [])
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            found[side].append(sides[side]())
            print(f"{name} pair {pair + 1}/{pairs} {('clarion', 'bare')[side]}: {found[side][-1].training_s:.2f} s, "
                  f"start-up {found[side][-1].startup_s:.2f} s", file=sys.stderr)  # fmt: skip
    ours, bare = found
    assert {t.steps for t in ours} == {t.steps for t in bare}, "the two sides did not do the same work"
    wall = np.array([a.training_s / b.training_s for a, b in zip(ours, bare, strict=True)])
    draws = np.random.default_rng(0).integers(0, pairs, (10_000, pairs))
    low, high = np.quantile(np.median(wall[draws], axis=1), (0.025, 0.975))
    rate = np.array([(b.training_s / b.steps) / (a.training_s / a.steps) for a, b in zip(ours, bare, strict=True)])
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
    import torch

    torch.set_num_threads(1)
    logging.getLogger("ultralytics").setLevel(logging.ERROR)
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
