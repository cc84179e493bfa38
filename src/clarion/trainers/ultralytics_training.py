"""The library's own detection trainer; whose networks, whose callbacks and whose files are changed here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.utils.torch_utils import unwrap_model

from clarion.errors import ClarionError
from clarion.trainers import ultralytics_checkpoint as checkpoint
from clarion.trainers import ultralytics_state
from clarion.trainers.base import Run

LOGGED_AS = {
    "metrics/precision(B)": "val/precision", "metrics/recall(B)": "val/recall",
    "metrics/mAP50(B)": "val/map50", "metrics/mAP50-95(B)": "val/map50_95",
}  # fmt: skip


class RecordedDetectionTrainer(DetectionTrainer):
    """DetectionTrainer that builds the configured network, logs to `run.tracker` and writes into `run.checkpoints`.

    run: the run; network: the `model` config (network, network_class, weights); overrides: the library's arguments;
    state: where an earlier process stopped. The library's own resuming is not used: it loses too much.
    """

    def __init__(
        self, run: Run, network: dict[str, Any], overrides: dict[str, Any],
        state: ultralytics_state.TrainingState | None = None,
    ):  # fmt: skip
        self.run, self.network, self.state = run, network, state
        self.threads = torch.get_num_threads()  # the library goes down to one when it seeds
        self.nominal_accumulate, self.last_step, self.batches_seen, self.in_epoch = 1, -1, -1, False
        results = Path(overrides["save_dir"]) / "results.csv"  # the library deletes it, and plots it at the end
        known = state is not None and results.exists()
        self.earlier_results = results.read_text(encoding="utf-8").splitlines(True) if known else []
        super().__init__(overrides=overrides)

    def run_callbacks(self, event: str) -> None:
        """Only what is recorded here happens; the library's integrations (trackers, cloud, statistics) do not."""
        if event == "on_train_start":
            torch.set_num_threads(self.threads)
        elif event == "on_train_epoch_start":
            self.begin_epoch()
        elif event == "on_train_batch_start":
            self.batches_seen += 1
        elif event == "on_model_save" and self.best_fitness == self.fitness:
            checkpoint.save(self.run.checkpoints / "best", self.ema.ema, self.description())
        elif event == "on_fit_epoch_end":
            self.run.tracker.log(self.epoch_metrics(), step=self.epoch + 1)
            ultralytics_state.write(states_of(self.run), self)

    # ---- when an optimiser step is due ---------------------------------------------------------------------

    # The library steps every `accumulate` batches, also over the end of an epoch, and keeps the batch of the last
    # step in a local variable. Its loop is told here that each batch is due, and optimizer_step() decides.

    @property
    def accumulate(self) -> int:
        return 1 if self.in_epoch else self.nominal_accumulate

    @accumulate.setter
    def accumulate(self, batches: int) -> None:
        self.nominal_accumulate = batches

    def begin_epoch(self) -> None:
        self.batches_seen, self.in_epoch = self.epoch * len(self.train_loader) - 1, True
        if self.state is not None:
            ultralytics_state.restore_random(self, self.state)
            self.state = None

    def optimizer_step(self) -> None:
        if self.batches_seen - self.last_step >= self.nominal_accumulate:
            super().optimizer_step()
            self.last_step = self.batches_seen

    # ---- what the library does otherwise -------------------------------------------------------------------

    def resume_training(self, ckpt: Any) -> None:
        """Go on where `state` was taken."""
        if self.state is not None:
            ultralytics_state.restore(self, self.state)
            self.csv.write_text("".join(self.earlier_results[: self.start_epoch + 1]), encoding="utf-8")

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Stop a training that diverged (the library would repeat the epoch three times, from half the state)."""
        tensors = [*unwrap_model(self.model).state_dict().values(), *self.ema.ema.state_dict().values()]
        lost = [bool(self.loss.isfinite()) or self.scaler.is_enabled()]  # a scaled step with NaN is left out
        lost += [self.fitness is None or math.isfinite(self.fitness)]
        if all(lost) and all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point()):
            return False
        kept = f"; what was learned in {epoch} epochs is kept in {self.run.checkpoints.name}" if epoch else ""
        raise ClarionError(
            f"The training diverged in epoch {epoch + 1} (its loss or weights are no finite numbers){kept}: take a "
            "lower learning rate (+trainer.args.optimizer=AdamW +trainer.args.lr0=0.0005) or trainer.precision=32."
        )

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True):
        """A new network of the configured class, with its start weights."""
        nc, channels = self.data["nc"], self.data["channels"]
        model = checkpoint.build_network(self.network["network"], self.network.get("network_class"), nc, channels)
        model.names = self.data["names"]
        if self.network.get("weights") and self.state is None:
            checkpoint.load_start_weights(model, self.network["weights"])
        return model

    def _build_train_pipeline(self) -> None:
        """Restartable order of images; before the first step, let a network with anchors check them (auto_anchor)."""
        self.in_epoch, self.last_step = False, -1  # the library comes back here when a GPU's memory is too small
        super()._build_train_pipeline()
        self._use_epoch_order()
        model = unwrap_model(self.model)
        wanted = hasattr(model.model[-1], "adapt") and self.network.get("auto_anchor", True) and self.state is None
        if wanted and not self.train_loader.dataset.rect:  # with rect=True the library forgets the image shapes
            with ultralytics_state.undisturbed_random():
                model.model[-1].adapt(self.object_sizes(), seed=int(self.args.seed))

    def _use_epoch_order(self) -> None:
        loader = self.train_loader
        batches = loader.batch_sampler.sampler  # below the library's endless repetition
        if isinstance(batches.sampler, RandomSampler):  # rect=True takes the images as they come
            first = self.state.facts["epochs"] if self.state else self.start_epoch
            closing = max(self.epochs - self.args.close_mosaic, 0) if self.args.close_mosaic else None
            batches.sampler = ultralytics_state.EpochOrder(
                len(loader.dataset), loader.batch_size, loader.generator.initial_seed(), first, closing
            )

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
        """Nothing of the library's: run_callbacks keeps the best weights and the state to resume from."""
        return True

    def description(self) -> dict[str, Any]:
        """What beside the weights is needed to rebuild this network, and what it was trained to."""
        return {
            "network": Path(str(self.network["network"])).name,
            "network_class": self.network.get("network_class"),
            "imgsz": int(self.args.imgsz),
            "epoch": self.epoch + 1,
            "fitness": None if self.fitness is None else float(self.fitness),
        }


def states_of(run: Run) -> Path:
    """The folder of the states to resume from."""
    return run.checkpoints / "resume"
