"""All that a detector's training knows at the end of an epoch, so that a killed one ends as if it had never stopped.

The library's own last.pt holds an fp16 average of the weights and no random state: a run continued from it ends
elsewhere. A state here is one safetensors file: the weights, their moving average, the optimiser's moments and the
gradients not yet applied as they are (fp32), the random states, and, as JSON in its header, the numbers beside them.
Bitwise on a CPU. Where loader processes are used (beside a GPU), the order of the images is restored too, but not
what augmentation the images of the first batches draw: each process has random numbers of its own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import Sampler
from ultralytics.utils.torch_utils import unwrap_model

from clarion.trainers.states import forget_older, newest, state_path, written_whole

if TYPE_CHECKING:
    from clarion.trainers.ultralytics_training import RecordedDetectionTrainer

FORMAT = "clarion-detector-training/1"


@dataclass(frozen=True)
class TrainingState:
    """tensors: by name, on the CPU; facts: JSON, with `epochs` (finished) and `ended` (nothing is left to train)."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


def read_newest(folder: Path) -> TrainingState | None:
    """The newest whole state of a folder, or None."""
    return newest(folder, _read)


def _read(path: Path) -> TrainingState:
    with safe_open(path, framework="pt") as file:  # a truncated file is refused here
        facts = json.loads(file.metadata()["facts"])
        if facts["format"] != FORMAT:
            raise ValueError(f"its format is {facts['format']}, not {FORMAT}")
        return TrainingState({name: file.get_tensor(name) for name in file.keys()}, facts)


def write(folder: Path, trainer: RecordedDetectionTrainer) -> None:
    """Keep the trainer's state after the epoch that it has just finished, and the one before."""
    state = capture(trainer)
    with written_whole(state_path(folder, state.facts["epochs"], "safetensors")) as partial:
        save_file(state.tensors, partial, metadata={"facts": json.dumps(state.facts)})
    forget_older(folder)


# ------------------------------------------------------------------------------------------------ taking it down


def capture(trainer: RecordedDetectionTrainer) -> TrainingState:
    model = unwrap_model(trainer.model)
    optimizer = trainer.optimizer.state_dict()
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in trainer.ema.ema.state_dict().items()}
    # nbs / batch batches make one step, and steps go on over the end of an epoch: what is gathered belongs to it
    tensors |= {f"grad.{k}": p.grad for k, p in model.named_parameters() if p.grad is not None}
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    random_tensors, random_facts = random_state()
    facts = {
        "format": FORMAT,
        "epochs": trainer.epoch + 1,
        "ended": bool(trainer.stop),
        "batch_size": int(trainer.batch_size),
        "optimizer": {"name": trainer.args.optimizer, "lr0": float(trainer.args.lr0), "numbers": numbers,
                      "groups": optimizer["param_groups"]},
        "scaler": trainer.scaler.state_dict(),
        "ema_updates": int(trainer.ema.updates),
        "accumulate": int(trainer.nominal_accumulate),
        "last_step": int(trainer.last_step),
        "best_fitness": _number(trainer.best_fitness),
        "stopper": {"best_fitness": _number(trainer.stopper.best_fitness), "best_epoch": trainer.stopper.best_epoch,
                    "possible_stop": bool(trainer.stopper.possible_stop)},
        "buffer": [int(i) for i in getattr(trainer.train_loader.dataset, "buffer", ())],
        "random": random_facts,
    }  # fmt: skip
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in (tensors | random_tensors).items()}
    return TrainingState(tensors, facts)


def random_state() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The random states of Python, numpy and torch (CPU and every CUDA device)."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert name == "MT19937"
    tensors = {
        "random.python": torch.tensor(words, dtype=torch.int64),
        "random.numpy": torch.from_numpy(keys.astype(np.int64)),
        "random.torch": torch.get_rng_state(),
    }
    for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        tensors[f"random.cuda.{device}"] = torch.cuda.get_rng_state(device)
    return tensors, {"python": [version, gauss], "numpy": [int(position), int(has_gauss), float(cached)]}


@contextmanager
def undisturbed_random() -> Iterator[None]:
    """The random states after the block are those before it (some libraries draw when they are first imported)."""
    tensors, facts = random_state()
    try:
        yield
    finally:
        set_random_state(tensors, facts)


def set_random_state(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """As `random_state` told them; CUDA devices that are not here now are left out."""
    version, gauss = facts["python"]
    random.setstate((version, tuple(tensors["random.python"].tolist()), gauss))
    position, has_gauss, cached = facts["numpy"]
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, cached))
    torch.set_rng_state(tensors["random.torch"])
    for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        if (saved := tensors.get(f"random.cuda.{device}")) is not None:
            torch.cuda.set_rng_state(saved, device)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


# ------------------------------------------------------------------------------------------------ taking it up again


def restore(trainer: RecordedDetectionTrainer, state: TrainingState) -> None:
    """Weights, average, optimiser, loss scaling, best fitness and patience, before the first epoch begins."""
    facts = state.facts
    model = unwrap_model(trainer.model)
    model.load_state_dict(part(state, "model."))
    trainer.ema.ema.load_state_dict(part(state, "ema."))
    trainer.ema.updates = facts["ema_updates"]
    entries: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in facts["optimizer"]["numbers"].items()}
    for name, tensor in part(state, "optimizer.").items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = tensor
    pairs = zip(trainer.optimizer.param_groups, facts["optimizer"]["groups"], strict=True)
    groups = [saved | {"fused": own.get("fused")} for own, saved in pairs]  # the kernel of this machine's device
    trainer.optimizer.load_state_dict({"state": entries, "param_groups": groups})
    if facts["scaler"]:
        trainer.scaler.load_state_dict(facts["scaler"])
    trainer.best_fitness = facts["best_fitness"]
    trainer.stopper.__dict__.update(facts["stopper"])
    trainer.start_epoch = facts["epochs"]
    trainer.last_step = facts["last_step"]
    if getattr(model.model[-1], "one2one_cv2", None) is not None:
        # networks with two heads shift the weight of their losses from epoch to epoch
        model.criterion = model.init_criterion()
        model.criterion.updates = trainer.start_epoch - 1
        model.criterion.update()


def restore_random(trainer: RecordedDetectionTrainer, state: TrainingState) -> None:
    """The last thing before the first batch: gathered gradients, images at hand for mosaics, random states."""
    gathered = part(state, "grad.")
    for name, parameter in unwrap_model(trainer.model).named_parameters():
        if name in gathered:
            parameter.grad = gathered[name].to(parameter.device).to(parameter)
    loader, facts = trainer.train_loader, state.facts
    trainer.nominal_accumulate = facts["accumulate"]
    if loader.num_workers == 0:
        for index in facts["buffer"]:  # mosaics are made of images read lately
            loader.dataset.load_image(index)
    else:
        seeds = np.random.SeedSequence([loader.generator.initial_seed(), facts["epochs"]])
        loader.generator.manual_seed(int(seeds.generate_state(1)[0]))
    set_random_state(state.tensors, facts["random"])


def part(state: TrainingState, prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)}


class EpochOrder(Sampler):
    """The order in which the library's loader draws images, epoch by epoch, from any epoch on.

    Orders and the seeds of loader processes come from one generator: a seed whenever the loader starts (which it does
    anew when mosaics end), an order an epoch, and an unused one after it (torch's RandomSampler). The same draws are
    made here from a generator of its own, so that an uninterrupted run sees the library's order, and a resumed one
    the rest of it. batch: images a batch; seed: of the loader's generator; first: epoch (from 0) to begin with;
    closing: epoch from which there are no mosaics, or None.
    """

    def __init__(self, images: int, batch: int, seed: int, first: int, closing: int | None):
        self.generator = torch.Generator().manual_seed(seed)
        self.images, self.batch, self.closing, self.epoch = images, batch, closing, 0
        while self.epoch < first:
            self.draw()

    def __len__(self) -> int:
        return self.images

    def __iter__(self):
        yield from self.draw()

    def draw(self) -> list[int]:
        """The order of the next epoch."""
        starts = self.epoch in (0, self.closing)
        if self.epoch and (not starts or self.images % self.batch):  # an iterator left at its last index draws no more
            torch.randperm(self.images, generator=self.generator)
        if starts:
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        self.epoch += 1
        return torch.randperm(self.images, generator=self.generator).tolist()
