"""The library's own detection trainer, with three changes: whose networks, whose callbacks, whose final artefact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.utils.torch_utils import unwrap_model

from clarion.trainers import ultralytics_checkpoint as checkpoint
from clarion.trainers.base import Run

LOGGED_AS = {
    "metrics/precision(B)": "val/precision", "metrics/recall(B)": "val/recall",
    "metrics/mAP50(B)": "val/map50", "metrics/mAP50-95(B)": "val/map50_95",
}  # fmt: skip


class RecordedDetectionTrainer(DetectionTrainer):
    """DetectionTrainer that builds the configured network, logs to `run.tracker` and writes into `run.checkpoints`.

    run: the run; network: the `model` config (network, network_class, weights); overrides: the library's arguments.
    """

    def __init__(self, run: Run, network: dict[str, Any], overrides: dict[str, Any]):
        self.run, self.network = run, network
        self.threads = torch.get_num_threads()  # the library goes down to one when it seeds
        super().__init__(overrides=overrides)

    def run_callbacks(self, event: str) -> None:
        """Only the two things recorded here happen; the library's integrations (trackers, cloud, statistics) do not."""
        if event == "on_train_start":
            torch.set_num_threads(self.threads)
        elif event == "on_fit_epoch_end":
            self.run.tracker.log(self.epoch_metrics(), step=self.epoch + 1)
        elif event == "on_model_save" and self.best_fitness == self.fitness:
            checkpoint.save(self.run.checkpoints / "best", self.ema.ema, self.description())

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True):
        """A new network of the configured class; on resume `cfg` is the structure stored in last.pt."""
        nc, channels = self.data["nc"], self.data["channels"]
        structure = cfg if isinstance(cfg, dict) else self.network["network"]
        model = checkpoint.build_network(structure, self.network.get("network_class"), nc, channels)
        model.names = self.data["names"]
        if weights is not None:  # resume
            model.load(weights)
        elif self.network.get("weights"):
            checkpoint.load_start_weights(model, self.network["weights"])
        return model

    def _build_train_pipeline(self) -> None:
        """Before the first step, let a network with anchors check them against the labels (model.auto_anchor)."""
        super()._build_train_pipeline()
        model = unwrap_model(self.model)
        wanted = hasattr(model.model[-1], "adapt") and self.network.get("auto_anchor", True) and not self.resume
        if wanted and not self.train_loader.dataset.rect:  # with rect=True the library forgets the image shapes
            model.model[-1].adapt(self.object_sizes(), seed=int(self.args.seed))

    def object_sizes(self) -> np.ndarray:
        """Width, height in px of all training objects at the training image size, [n, 2]."""
        labels = self.train_loader.dataset.labels
        scale = [self.args.imgsz / max(label["shape"]) * np.array(label["shape"])[::-1] for label in labels]
        return np.concatenate([label["bboxes"][:, 2:4] * s for label, s in zip(labels, scale, strict=True)])

    def get_validator(self) -> DetectionValidator:
        """The library's validator, without its integrations' callbacks."""
        return DetectionValidator(self.test_loader, save_dir=self.save_dir, args=self.args)

    def final_eval(self) -> None:
        """Nothing: the library would validate its fp16 copy of the best epoch once more and strip last.pt.

        That epoch's figures are logged already, and the run's evaluators score the fp32 weights kept here.
        """

    def read_results_csv(self) -> dict:
        """Nothing: the library would copy the whole history into every checkpoint; metrics.jsonl holds it."""
        return {}

    def epoch_metrics(self) -> dict[str, float]:
        """Losses, learning rates and validation metrics of the epoch under the names all trainers use."""
        metrics = {**self.label_loss_items(self.tloss, prefix="train"), **(self.metrics or {}), **self.lr}
        return {LOGGED_AS.get(name, name): float(value) for name, value in metrics.items()}

    def save_model(self) -> bool:
        """The library's last.pt, for resuming, in run.checkpoints; a kill leaves the old file or the new, not half."""
        final = self.run.checkpoints / "last.pt"
        self.last = final.with_name("last.pt.partial")
        saved = super().save_model()
        os.replace(self.last, final)
        self.last = final
        return saved

    def description(self) -> dict[str, Any]:
        """What beside the weights is needed to rebuild this network, and what it was trained to."""
        return {
            "network": Path(str(self.network["network"])).name,
            "network_class": self.network.get("network_class"),
            "imgsz": int(self.args.imgsz),
            "epoch": self.epoch + 1,
            "fitness": None if self.fitness is None else float(self.fitness),
        }
