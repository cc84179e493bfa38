"""The protocol every trainer keeps.

A trainer knows its library and this file, and no room. It maps the four settings that mean the same
everywhere (`trainer.epochs, batch_size, device, precision`) in one visible function and hands
`trainer.args` to its library verbatim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from clarion.samples import Prediction, Sample

__all__ = ["Prediction", "Predictor", "Run", "Sample", "Trainer"]


@dataclass
class Run:
    """What a trainer may know of the run it works for.

    cfg: the composed config (OmegaConf); directory: the run directory (write checkpoints below
    `checkpoints`, scratch below `work`); data: the data object; tracker: see clarion.tracking.Tracker;
    resume: continue from what lies in `checkpoints`.
    """

    cfg: Any
    directory: Path
    data: Any
    tracker: Any
    resume: bool = False

    @property
    def checkpoints(self) -> Path:
        path = self.directory / "checkpoints"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def work(self) -> Path:
        path = self.directory / "work"
        path.mkdir(parents=True, exist_ok=True)
        return path


class Predictor(Protocol):
    """A trained model: samples in, predictions out, batched and streaming (never a list of all)."""

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]: ...


@runtime_checkable
class Trainer(Protocol):
    """Built by hydra.utils.instantiate(cfg.trainer, model=cfg.model)."""

    def fit(self, run: Run) -> Path:
        """Train; return the best checkpoint (a file or a folder inside run.checkpoints)."""

    def check(self) -> None:
        """Refuse (UsageError) what cannot work on this machine, before data are prepared: absent weights, no GPU."""

    def parameters(self, classes: int | None = None) -> int | None:
        """Trainable and frozen weights of the network for this many classes; None where the notion is void."""

    def load(self, checkpoint: Path) -> Predictor:
        """A checkpoint this trainer wrote -> a predictor, without the run or its data."""
