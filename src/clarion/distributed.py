"""One run in several processes: `torchrun --nproc_per_node 2 train.py model=...` (or SLURM tasks, see docs/scaling.md).

Every process runs the same command. Process 0 owns the run directory: it alone opens it, records, tracks, predicts and
evaluates. The others wait until it says what to do, train with it, and leave. trainer.batch_size stays the number of
samples of one optimiser step, however many processes share them, so the same command learns the same.

Imports no torch at the top: a refusal must be quick.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from clarion.errors import ClarionError, UsageError

log = logging.getLogger("clarion")

TRAINERS = ("lightning", "sft")  # those whose library trains in several processes of one command
WAIT = timedelta(minutes=10)  # for the other processes to come up, and for process 0 to open the run
SHARDING = ("fsdp", "deepspeed", "zero")

_team: Team | None = None


@dataclass(frozen=True)
class Team:
    """This process among the others of its run; `store` is torch's key-value store that all of them reach."""

    rank: int
    local_rank: int
    world: int
    local_world: int
    store: Any

    @property
    def nodes(self) -> int:
        return self.world // self.local_world


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default


def world_size() -> int:
    """Processes of this run, as the launcher's environment says; 1 without a launcher."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Number of this process; 0 writes."""
    return _number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    return _number("LOCAL_RANK", 0) if world_size() > 1 else 0


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """How many processes there are is still known afterwards: Lightning deletes WORLD_SIZE when it ends."""
    size = os.environ.get("WORLD_SIZE")
    try:
        yield
    finally:
        if size is not None:
            os.environ["WORLD_SIZE"] = size


def from_submitit() -> None:
    """Tasks of one submitit job (hydra.launcher.tasks_per_node > 1) -> the variables that torch reads."""
    import sys

    if "submitit" not in sys.modules or "WORLD_SIZE" in os.environ:
        return
    import submitit

    with contextlib.suppress(RuntimeError):  # no job of submitit
        if submitit.JobEnvironment().num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


def refuse(trainer: str, sweeping: bool = False) -> None:
    """UsageError for what several processes cannot do. Quick: before torch is loaded."""
    if world_size() == 1:
        return
    if sweeping:
        raise UsageError("A sweep is not started by torchrun: each of its jobs would need processes of its own; use "
                         "hydra/launcher=submitit_local or submitit_slurm with hydra.launcher.tasks_per_node="
                         f"{world_size()}.")  # fmt: skip
    if trainer not in TRAINERS:
        raise UsageError(f"trainer={trainer} trains in one process: start it with python train.py, not with torchrun "
                         f"(trainers that share a run: {', '.join(TRAINERS)}).")  # fmt: skip


def needs_cuda(what: Any, device: str) -> None:
    """UsageError for sharded training (FSDP, DeepSpeed ZeRO) on a CPU. what: the strategy in the library's words."""
    named = what.get("_target_", "") if isinstance(what, Mapping) else str(what or "")
    kind = next((k for k in SHARDING if k in named.lower()), None)
    if kind is None:
        return
    import importlib.util

    import torch

    if device == "cpu" or not torch.cuda.is_available():
        name = "FSDP" if kind == "fsdp" else "DeepSpeed ZeRO"
        raise UsageError(f"{name} shards a model over GPUs and this run is on the CPU: use DDP there "
                         "(trainer=lightning_ddp or trainer=sft_ddp).")  # fmt: skip
    if kind != "fsdp" and importlib.util.find_spec("deepspeed") is None:
        raise UsageError("DeepSpeed is not installed: pip install deepspeed (it builds against the CUDA toolkit).")


def share(batch_size: int) -> int:
    """trainer.batch_size of this process: an equal part of the samples of one step. UsageError where it has none."""
    if batch_size % world_size():
        raise UsageError(f"trainer.batch_size={batch_size} is the batch of all {world_size()} processes together and "
                         f"is not divided by them: use a multiple of {world_size()}.")  # fmt: skip
    return batch_size // world_size()


def confirm(processes: int, library: str) -> None:
    """ClarionError unless the library trains with as many processes as were started: accelerate, wrongly launched,
    leaves them unsynchronised, and each would train on its part of the batch alone."""
    if processes != world_size():
        raise ClarionError(f"{world_size()} processes were started and {library} trains with {processes}: start them "
                           f"with torchrun --nproc_per_node {world_size()} train.py ...")  # fmt: skip


# ------------------------------------------------------------------------------------------------ coming and going


def join(device: str) -> Team | None:
    """Meet the other processes (blocks until all are there); None in a run of one process."""
    global _team
    if world_size() == 1:
        return None
    import torch
    import torch.distributed as dist

    on_gpu = str(device) != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank())
    else:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    store, number, world = next(dist.rendezvous("env://", timeout=WAIT))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=dist.PrefixStore("torch", store), rank=number,
        world_size=world,
    )  # fmt: skip
    _team = Team(number, local_rank(), world, _number("LOCAL_WORLD_SIZE", world), dist.PrefixStore("clarion", store))
    log.info("process %d of %d, on %s", number, world, "cuda" if on_gpu else "cpu")
    return _team


def team() -> Team | None:
    """The team this process has joined."""
    return _team


def leave() -> None:
    """After training: the processes part, and what follows runs in process 0 as if it had been alone."""
    global _team
    if _team is None:
        return
    import torch.distributed as dist

    dist.barrier()
    dist.destroy_process_group()
    _team = None
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID"):
        os.environ.pop(name, None)


class Leader:
    """Process 0: says once whether the others train, and ends the run when one of them fails.

    A process blocked in a collective operation cannot be told anything, so a thread watches the store; it calls
    `fail(sentence)`, which records the failure, and ends the process."""

    def __init__(self, team: Team | None, fail: Callable[[str], None]):
        self.team, self.fail, self._said, self._over = team, fail, False, threading.Event()

    def say(self, go: bool, resume: bool = False) -> None:
        if self.team and not self._said:
            self._said = True
            self.team.store.set("go", f"{int(go)}{int(resume)}")
            if go:
                threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(0.3):
            try:
                if not self.team.store.check(["failed"]):
                    continue
                sentence = self.team.store.get("failed").decode()
            except Exception:  # the store went with the launcher
                return
            self.fail(sentence)
            self.team.store.set("seen", "1")
            os._exit(1)

    def __enter__(self) -> Leader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.say(False)
        self._over.set()


def orders(team: Team) -> tuple[bool, bool]:
    """(train?, resume?) as process 0 says."""
    team.store.wait(["go"], WAIT)
    said = team.store.get("go").decode()
    return said[0] == "1", said[1] == "1"


def report(team: Team, error: BaseException) -> None:
    """Tell process 0 that this process failed, and wait until it has been recorded (15 s at most)."""
    what = str(error) if isinstance(error, ClarionError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(Exception):  # the store went with the launcher
        team.store.set("failed", f"process {team.rank} of {team.world} failed: {' '.join(what.split())[:500]}")
        for _ in range(50):
            if team.store.check(["seen"]):
                return
            time.sleep(0.3)


def whole_loader(trainer: Any, rows: Any) -> Any:
    """All rows of a transformers Trainer's data set, in its batches, as they lie (its own loaders give a share)."""
    from torch.utils.data import DataLoader

    return DataLoader(rows, trainer.args.per_device_train_batch_size, collate_fn=trainer.data_collator)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """The others say nothing: process 0 says it for all."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


class NoTracker:
    """What the others track."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None
