"""The presence network that Clarion ships, or another checkpoint folder, ready to answer without a trainer."""

from __future__ import annotations

from pathlib import Path

import torch

from clarion.networks import ModulePredictor, load_predictor

from .network import PresenceModule

SHIPPED = Path(__file__).resolve().parents[2] / "weights" / "erm_presence"


def load_presence(folder: Path | None = None, device: torch.device | str = "cpu") -> ModulePredictor:
    """The predictor of a checkpoint folder; None: the shipped one. UsageError for a folder without such a network."""
    folder = SHIPPED if folder is None else Path(folder)
    return load_predictor(PresenceModule, folder, "presence network", device=device)
