"""Clarion's settings as trl.SFTConfig, the device and precision they run on, and the global state they leave behind.

Imports no torch at the top: a refusal must be quick.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clarion.distributed import local_rank
from clarion.errors import UsageError

# Settings that Clarion owns, and where the user sets them instead.
OWNED = {
    "num_train_epochs": "trainer.epochs",
    "per_device_train_batch_size": "trainer.batch_size",
    "use_cpu": "trainer.device",
    "bf16": "trainer.precision",
    "fp16": "trainer.precision",
    "seed": "seed",
    "data_seed": "seed",
    "output_dir": "runs_dir",
    "resume_from_checkpoint": "resume=true",
    "report_to": "tracker",
}


def refuse_owned(args: Mapping[str, Any]) -> None:
    """UsageError for trainer.args that Clarion sets itself."""
    owned = [f"trainer.args.{key} (set {place})" for key, place in OWNED.items() if key in args]
    if owned:
        raise UsageError(f"these settings belong to Clarion: {', '.join(owned)}.")


def refuse_new_tokens(tokens: Any) -> None:
    """UsageError for model.new_tokens that is no list of texts; a text alone would be taken letter by letter."""
    if tokens is not None and (
        not isinstance(tokens, list | tuple) or any(not isinstance(t, str) or not t.strip() for t in tokens)
    ):
        raise UsageError(
            f"model.new_tokens={tokens}: write a list of texts, such as 'model.new_tokens=[\"<think>\",\"</think>\"]'."
        )


def sft_config(
    args: Mapping[str, Any],
    output: Path,
    device: Any,
    precision: str,
    epochs: float,
    batch_size: int,
    seed: int,
    has_validation: bool = True,
) -> Any:
    """The one place where Clarion's settings become trl.SFTConfig; trainer.args win where Clarion owns nothing.

    Raises UsageError for an unknown setting (with the nearest name) and for what the library refuses."""
    from trl import SFTConfig

    known = [f.name for f in dataclasses.fields(SFTConfig) if f.init]
    unknown = [key for key in args if key not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        names = ", trainer.args.".join(unknown)
        raise UsageError(f"trainer.args.{names}: trl.SFTConfig has no such setting.{hint}")
    if args.get("use_liger_kernel") and device.type != "cuda":
        raise UsageError("trainer.args.use_liger_kernel=true: its kernels run on CUDA alone; drop it on this device.")
    mapped = {
        "output_dir": str(output),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "use_cpu": device.type == "cpu",
        "bf16": precision == "bf16",
        "fp16": precision == "16",
        "seed": seed,
        "data_seed": seed,
        "report_to": [],
        "logging_steps": 10,
        "logging_nan_inf_filter": False,  # it would show the mean of earlier losses in a NaN's place
        "eval_strategy": "epoch" if has_validation else "no",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": has_validation,
        "activation_checkpointing": device.type != "cpu",  # saves GPU memory; on a CPU it only costs time
        "dataloader_pin_memory": device.type != "cpu",
    }
    if "gradient_checkpointing" in args:  # its older name decides too
        mapped.pop("activation_checkpointing")
    merged = mapped | dict(args)
    if not has_validation:
        merged["eval_on_start"] = False
    try:
        config = SFTConfig(**merged)
        _ = config.device
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"trainer.args are refused by trl: {' '.join(str(error).split())}") from error
    if device.type == "cuda":
        config._n_gpu = 1  # trainer.device names one GPU; TRL refuses nn.DataParallel over all of them
    return config


def torch_device(device: str) -> Any:
    """auto | cpu | cuda | cuda:N -> torch.device. Raises UsageError when it is not there."""
    import torch

    available = torch.cuda.is_available()
    if device == "auto" and not available:
        device = "cpu"
    if device in ("auto", "cuda") and available:
        device = f"cuda:{local_rank()}"  # of several processes, each its own
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"trainer.device={device} is unknown: write auto, cpu, cuda or cuda:0.")
    if chosen.type == "cuda":
        if not available or (chosen.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"trainer.device={device}: this machine has no such GPU; use trainer.device=auto.")
        torch.cuda.set_device(chosen.index or 0)
    return chosen


def chosen_precision(precision: str, device: Any) -> str:
    """auto -> bf16 on a GPU that has it, 16 on an older one, else 32; "16" needs a GPU."""
    import torch

    if precision == "auto":
        return "32" if device.type == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "16"
    if precision not in ("32", "16", "bf16"):
        raise UsageError(f"trainer.precision={precision} is unknown: write auto, 32, 16 or bf16.")
    if precision == "16" and device.type == "cpu":
        raise UsageError("trainer.precision=16 needs a GPU; on a CPU use 32 or bf16.")
    return precision


@contextlib.contextmanager
def undo_global_state() -> Iterator[None]:
    """Jobs of one process share it: accelerate's state is a singleton, and its environment variables stay."""
    before = {key: value for key, value in os.environ.items() if key.startswith("ACCELERATE_")}
    try:
        yield
    finally:
        for key in [k for k in os.environ if k.startswith("ACCELERATE_")]:
            del os.environ[key]
        os.environ.update(before)
        with contextlib.suppress(ImportError):
            from accelerate.state import AcceleratorState, GradientState

            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


@contextlib.contextmanager
def same_random_state() -> Iterator[None]:
    """What is drawn inside leaves Python's, numpy's and torch's generators as they were."""
    import numpy as np
    import torch

    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        yield
    random.setstate(python)
    np.random.set_state(numpy_state)
