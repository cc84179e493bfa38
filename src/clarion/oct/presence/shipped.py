"""The presence network that Clarion ships, or another checkpoint folder, ready to answer without a trainer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clarion.errors import UsageError
from clarion.samples import Prediction, Sample

from .network import PresenceModule

SHIPPED = Path(__file__).resolve().parents[2] / "weights" / "erm_presence"
AT_ONCE = 64  # scans handed to the network together


class PresencePredictor:
    """Samples in, predictions out, in order (see PresenceModule.answer); the Predictor protocol."""

    def __init__(self, module: PresenceModule, device: torch.device | str = "cpu"):
        self.module = module.to(device).eval()

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        remaining = iter(samples)
        while batch := list(islice(remaining, AT_ONCE)):
            with torch.inference_mode():
                answers = self.module.answer(batch)
            for sample, values in zip(batch, answers, strict=True):
                yield Prediction(sample.sample_id, sample.patient_id, values)


def load_presence(folder: Path | None = None, device: torch.device | str = "cpu") -> PresencePredictor:
    """The predictor of a checkpoint folder (model.safetensors + model.json); None: the shipped one.

    Raises UsageError for a folder that holds no presence network.
    """
    folder = SHIPPED if folder is None else Path(folder)
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        module = PresenceModule(model=description["model"], facts=description["facts"])
        module.network.load_state_dict(weights, strict=True)
    except FileNotFoundError as error:
        missing = Path(error.filename or folder).name
        raise UsageError(f"{folder} is no checkpoint of a presence network: {missing} is missing.") from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
        raise UsageError(f"{folder} cannot be read as a checkpoint of the presence network: {error}.") from error
    return PresencePredictor(module, device)
