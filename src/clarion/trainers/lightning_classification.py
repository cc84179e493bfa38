"""Image classification with any network of timm, as one LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from clarion.config import nearest
from clarion.data.grey import read_grey
from clarion.errors import UsageError
from clarion.networks import cosine
from clarion.trainers.base import Sample


class ClassificationModule(L.LightningModule):
    """Grey images [B, 1, H, W] uint8 -> class scores [B, K]; cross-entropy, AdamW, cosine with linear warm-up.

    model (config): network (a name of timm), network_args (verbatim to timm.create_model), lr, weight_decay,
    warmup_epochs, label_smoothing, class_weights (null | balanced | one number a class), weights (start weights).
    facts (of the data): class_names, image_size [H, W], mean and std of the grey values in 0..1, class_counts.
    """

    def __init__(self, model: dict[str, Any], facts: dict[str, Any]):
        super().__init__()
        self.model, self.facts = model, facts
        classes = len(facts["class_names"])
        self.network = self.build(model, classes)
        weight = class_weights(model.get("class_weights"), facts)
        self.loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=float(model.get("label_smoothing", 0.0)))
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self.balanced_accuracy = MulticlassAccuracy(classes, average="macro")

    @staticmethod
    def build(model: dict[str, Any], classes: int) -> nn.Module:
        """A fresh network of the model config for this many classes."""
        return build_network(model["network"], classes, model.get("network_args") or {})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Grey levels 0..255 [B, 1, H, W] -> class scores [B, K]. The grey scale of training is applied here."""
        return self.network((images.float() / 255 - self.facts["mean"]) / self.facts["std"])

    def training_step(self, batch: dict[str, torch.Tensor], _index: int) -> torch.Tensor:
        loss = self.loss(self(batch["image"]), batch["label"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["label"]), prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], _index: int) -> None:
        scores, labels = self(batch["image"]), batch["label"]
        self.log("val/loss", self.loss(scores, labels), on_epoch=True, batch_size=len(labels), sync_dist=True)
        self.accuracy(scores, labels)
        self.balanced_accuracy(scores, labels)
        self.log("val/accuracy", self.accuracy, on_epoch=True, prog_bar=True)
        self.log("val/balanced_accuracy", self.balanced_accuracy, on_epoch=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW without decay of biases and norms; the rate rises linearly, then falls as a cosine to 1 % of lr."""
        optimizer = create_optimizer_v2(
            self.network, opt="adamw", lr=float(self.model["lr"]), weight_decay=float(self.model["weight_decay"])
        )
        total = max(1, int(self.trainer.estimated_stepping_batches))
        epochs = max(1, self.trainer.max_epochs or 1)
        warmup = min(total // 2, round(total * float(self.model.get("warmup_epochs", 0)) / epochs))
        return cosine(optimizer, total, warmup)

    def answer(self, samples: Sequence[Sample]) -> list[dict[str, list[float]]]:
        """Read the samples' images and return {"probabilities": [K floats]} for each, in order."""
        size = tuple(self.facts["image_size"])
        with ThreadPoolExecutor(max_workers=4) as readers:  # decoding releases the GIL
            images = list(readers.map(lambda sample: read_grey(Path(sample.inputs["image"]), size), samples))
        batch = torch.from_numpy(np.stack(images)).unsqueeze(1).to(self.device)
        probabilities = self(batch).double().softmax(dim=1).cpu().tolist()
        return [{"probabilities": row} for row in probabilities]

    def load_start_weights(self, path: Path) -> None:
        """Start from a safetensors file (timm's own, or model.safetensors of a Clarion checkpoint).

        timm fits the first layer to one grey channel and leaves the class head new. Raises UsageError for a name
        that is no file (nothing is downloaded), a pickle, and weights of another network.
        """
        if path.is_dir():
            path = path / "model.safetensors"
        if not path.is_file():
            raise UsageError(
                f"model.weights={path} is no file and Clarion downloads nothing: fetch the .safetensors of "
                f"{self.model['network']} from huggingface.co/timm on a connected machine and give its path."
            )
        if path.suffix != ".safetensors":
            raise UsageError(f"model.weights={path}: only .safetensors is read, since other formats may run code.")
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise UsageError(f"model.weights={path} is no intact safetensors file: {error}.") from error
        if not state:
            raise UsageError(f"model.weights={path} holds no tensor.")
        args = (self.model["network"], len(self.facts["class_names"]), self.model.get("network_args") or {})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            before = build_network(*args).state_dict()
            torch.manual_seed(0)
            try:
                loaded = build_network(*args, start=state).state_dict()
            except (RuntimeError, KeyError, ValueError) as error:
                raise UsageError(f"model.weights={path} does not fit {self.model['network']}: {error}.") from error
        # timm loads leniently: names that fit nothing are dropped, and weights of another network go unnoticed.
        # What equals a network built from the same random state was not in the file.
        weights = [name for name, tensor in before.items() if tensor.ndim > 1 and tensor.is_floating_point()]
        found = sum(not torch.equal(before[name], loaded[name]) for name in weights)
        if found < 0.8 * len(weights):
            raise UsageError(
                f"model.weights={path} does not fit {self.model['network']}: "
                f"only {found} of its {len(weights)} weight matrices are in the file."
            )
        self.network.load_state_dict(loaded)


def build_network(name: str, classes: int, args: dict[str, Any], start: dict[str, torch.Tensor] | None = None):
    """A network of timm for one grey channel; `start`: a state dict to start from. UsageError for unknown names.

    Only names that timm itself ships are taken: `hf-hub:` and `local-dir:` would fetch or run what others chose.
    """
    if not timm.is_model(name) or ":" in name:
        raise UsageError(
            f"model.network={name} is no network of timm {timm.__version__}.{nearest(name, timm.list_models())}"
        )
    overlay = {} if start is None else {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": start}}
    try:
        return timm.create_model(name, num_classes=classes, in_chans=1, **{"pretrained": False, **overlay}, **args)
    except (TypeError, AssertionError) as error:
        raise UsageError(f"model.network_args={args} do not fit {name}: {error}.") from error


def class_weights(asked: Any, facts: dict[str, Any]) -> torch.Tensor | None:
    """null -> None; "balanced" -> n / (K * count), as scikit-learn defines it; a list -> itself."""
    classes = len(facts["class_names"])
    if asked is None:
        return None
    if asked == "balanced":
        counts = torch.tensor(facts["class_counts"], dtype=torch.float32)
        return counts.sum() / (classes * counts.clamp(min=1))
    if isinstance(asked, (list, tuple)) and len(asked) == classes:
        return torch.tensor([float(value) for value in asked])
    raise UsageError(f"model.class_weights={asked}: use null, balanced or a list of {classes} numbers.")
