"""Lightning's own checkpoints as states to resume from: two are kept, each written whole, checked when read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from clarion.trainers.states import forget_older, newest, state_path, written_whole


class WholeFiles(TorchCheckpointIO):
    """Checkpoints appear under their name when they are whole.

    Lightning's own way writes to the system's temporary folder and moves the file: a kill leaves it there for ever,
    and on another disk the move is a copy that can be cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with written_whole(Path(path)) as partial:
            torch.save(checkpoint, partial)


class KeepStates(Checkpoint):  # a Checkpoint: lightning calls these after all other callbacks, in the given order
    """The state after each epoch in `folder`, the last two kept. `ended`: nothing is left to train."""

    def __init__(self, folder: Path):
        self.folder, self.ended, self.epochs = folder, False, 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epochs = trainer.current_epoch + 1
        self.ended = bool(trainer.should_stop or self.epochs == trainer.max_epochs)
        trainer.save_checkpoint(state_path(self.folder, self.epochs, "ckpt"))  # every process takes part
        if trainer.is_global_zero:
            forget_older(self.folder)

    def state_dict(self) -> dict[str, Any]:
        return {"ended": self.ended, "epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ended, self.epochs = bool(state_dict["ended"]), int(state_dict["epochs"])


def read_newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """(file, states of the callbacks) of the newest whole state, or None."""
    return newest(folder, _read)


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    if path.is_dir():  # a strategy that shards the state writes a folder
        return path, torch.load(path / "meta.pt", map_location="cpu", weights_only=True)["callbacks"]
    with zipfile.ZipFile(path) as archive:  # torch's format; a file cut short has no directory at its end
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it is damaged")
    return path, torch.load(path, map_location="cpu", mmap=True, weights_only=True)["callbacks"]


def is_ended(callbacks: dict[str, Any]) -> bool:
    return bool(callbacks.get(KeepStates.__qualname__, {}).get("ended"))

