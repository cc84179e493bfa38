"""Lightning in several processes: the devices it is told, and the part of the data that each process reads.

A loader's order is drawn by process 0 as it would be alone; process r takes the samples r, r + world, ... of it. The
samples of one optimiser step are therefore those of a run in one process with the same trainer.batch_size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Sampler

from clarion import distributed
from clarion.errors import UsageError


def settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of L.Trainer for the processes of this run. UsageError for what contradicts them."""
    team = distributed.team()
    world = distributed.world_size()
    if world == 1:
        for key in ("devices", "num_nodes"):
            if str(args.get(key, 1)) not in ("1", "auto", "None"):
                raise UsageError(
                    f"trainer.args.{key}={args[key]}: several devices need a process each; start it with `torchrun "
                    f"--nproc_per_node {args[key]} train.py trainer=lightning_ddp ...`, without trainer.args.{key}."
                )
        return {"use_distributed_sampler": False}  # it would draw another order, even for one process under ddp
    for key in ("devices", "num_nodes"):
        if key in args:
            raise UsageError(f"trainer.args.{key} is said by torchrun (--nproc_per_node, --nnodes): leave it out.")
    local = team.local_world if team else world
    return {"devices": local, "num_nodes": world // local, "strategy": "ddp", "use_distributed_sampler": False}


class Share(Sampler[int]):
    """Every world-th index of a sampler's order, padded from its start so that all processes have as many."""

    def __init__(self, whole: Sampler[int], team: distributed.Team):
        self.whole, self.team = whole, team

    def __len__(self) -> int:
        return -(-len(self.whole) // self.team.world)

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.whole, "set_epoch"):
            self.whole.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        order = torch.tensor(list(self.whole), dtype=torch.int64)
        torch.distributed.broadcast(order, 0)  # a shuffle draws from each process's own generator
        padded = torch.cat([order, order])[: len(self) * self.team.world]
        return iter(padded[self.team.rank :: self.team.world].tolist())


class SharedData(L.LightningDataModule):
    """The loaders of a data module, each process its share."""

    def __init__(self, data: L.LightningDataModule, team: distributed.Team):
        super().__init__()
        self.data, self.team, self.facts = data, team, data.facts

    def __getattr__(self, name: str) -> Any:
        """What a module asks its data for besides loaders."""
        if name.startswith("_") or "data" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.data, name)

    def setup(self, stage: str | None = None) -> None:
        self.data.setup(stage)

    def train_dataloader(self) -> DataLoader:
        return self._share(self.data.train_dataloader())

    def val_dataloader(self) -> DataLoader:
        return self._share(self.data.val_dataloader())

    def _share(self, loader: DataLoader) -> DataLoader:
        if loader.batch_size is None or type(loader.batch_sampler).__name__ != "BatchSampler":
            raise UsageError("This data set forms its own batches, which several processes cannot share: use one.")
        return DataLoader(
            loader.dataset, loader.batch_size, sampler=Share(loader.sampler, self.team),
            num_workers=loader.num_workers, collate_fn=loader.collate_fn, pin_memory=loader.pin_memory,
            drop_last=loader.drop_last, worker_init_fn=loader.worker_init_fn, generator=loader.generator,
            persistent_workers=loader.persistent_workers, prefetch_factor=loader.prefetch_factor,
        )  # fmt: skip


def mean_over_processes(metrics: dict[str, float]) -> dict[str, float]:
    """Means over the processes, whose shares are equally large; in one process the metrics themselves."""
    team = distributed.team()
    if team is None or not metrics:
        return metrics
    names = sorted(metrics)
    values = torch.tensor([metrics[name] for name in names], dtype=torch.float64)
    torch.distributed.all_reduce(values)
    return dict(zip(names, (values / team.world).tolist(), strict=True))
