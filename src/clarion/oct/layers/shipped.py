"""The layer network that Clarion ships, or another checkpoint folder, ready to answer without a trainer."""

from __future__ import annotations

from pathlib import Path

import torch

from clarion.networks import ModulePredictor, load_predictor

from .network import LayerModule

SHIPPED = Path(__file__).resolve().parents[2] / "weights" / "layers_unet"


def load_layers(folder: Path | None = None, device: torch.device | str = "cpu") -> ModulePredictor:
    """The predictor of a checkpoint folder; None: the shipped one. UsageError for a folder without such a network."""
    return load_predictor(LayerModule, SHIPPED if folder is None else Path(folder), "layer network", device=device)
