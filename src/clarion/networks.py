"""What every room's network needs and no room owns: an optimiser, start weights, a checkpoint without its trainer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from clarion.errors import UsageError
from clarion.samples import Prediction, Sample


def adamw_with_cosine(module: Any) -> dict[str, Any]:
    """What configure_optimizers returns: AdamW; the rate rises linearly, then falls as a cosine to 1 % of lr.

    module: a LightningModule with `network` and `model` (lr, weight_decay, warmup_steps). Biases and norms do not
    decay.
    """
    decayed = [p for p in module.network.parameters() if p.ndim > 1]
    free = [p for p in module.network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": float(module.model.get("weight_decay", 0.0))},
              {"params": free, "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=float(module.model["lr"]))
    total = max(1, int(module.trainer.estimated_stepping_batches))
    return cosine(optimizer, total, min(total // 4, int(module.model.get("warmup_steps", 0))))


def cosine(optimizer: torch.optim.Optimizer, total: int, warmup: int) -> dict[str, Any]:
    """The optimiser with its schedule, stepped every batch: `warmup` steps up, then down to 1 % at step `total`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def start_from(network: nn.Module, path: Path, model: str) -> None:
    """Load model.safetensors of a Clarion checkpoint (the file or its folder); UsageError where none fits."""
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"model.weights={path} is no file: give the model.safetensors of a {model} run.")
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (SafetensorError, RuntimeError) as error:
        raise UsageError(f"model.weights={path} does not fit this network: {error}.") from error


class ModulePredictor:
    """Samples in, predictions out, `batch_size` at a time, in order; never more than one batch in memory."""

    def __init__(self, module: Any, batch_size: int, device: torch.device | str = "cpu"):
        self.module, self.batch_size = module.to(device).eval(), batch_size

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        remaining = iter(samples)
        while batch := list(islice(remaining, self.batch_size)):
            with torch.inference_mode():
                answers = self.module.answer(batch)
            for sample, values in zip(batch, answers, strict=True):
                yield Prediction(sample.sample_id, sample.patient_id, values)


def load_predictor(
    module_class: type, folder: Path, what: str, batch_size: int = 64, device: torch.device | str = "cpu"
) -> ModulePredictor:
    """The predictor of a checkpoint folder (model.safetensors + model.json) of this class, without run or trainer.

    what: the network in words, for the UsageError of a folder that holds none.
    """
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        module = module_class(model=description["model"], facts=description["facts"])
        module.network.load_state_dict(weights, strict=True)
    except FileNotFoundError as error:
        missing = Path(error.filename or folder).name
        raise UsageError(f"{folder} is no checkpoint of a {what}: {missing} is missing.") from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
        raise UsageError(f"{folder} cannot be read as a checkpoint of the {what}: {error}.") from error
    return ModulePredictor(module, batch_size, device)
