"""The trainer's log lines, renamed and handed to the run's tracker."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback

from clarion.errors import ClarionError

_NAMES = {"learning_rate": "lr", "num_tokens": "tokens", "mean_token_accuracy": "token_accuracy"}
_KEPT = ("loss", "lr", "grad_norm", "tokens", "token_accuracy", "entropy", "epoch", "perplexity")


def tracked(logs: dict[str, Any]) -> dict[str, float]:
    """One log dict of transformers' Trainer -> names such as train/loss, val/loss; run times are left out."""
    split = "val" if any(key.startswith("eval_") for key in logs) else "train"
    found = {}
    for key, value in logs.items():
        key = key.removeprefix("eval_")
        name = _NAMES.get(key, key)
        if name in _KEPT and isinstance(value, int | float):
            found["epoch" if name == "epoch" else f"{split}/{name}"] = float(value)
    return found


class TrackerCallback(TrainerCallback):
    """Logs loss, learning rate, token counts and evaluation losses at the trainer's global step."""

    def __init__(self, tracker: Any):
        self.tracker = tracker

    def on_step_end(self, args, state, control, **kwargs):
        """Log whenever a checkpoint is written: a resumed run then averages its losses over the same steps."""
        control.should_log |= control.should_save

    on_epoch_end = on_step_end

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs and ("loss" in logs or "eval_loss" in logs):
            refuse_divergence(logs, state.global_step)
            self.tracker.log(tracked(logs), step=state.global_step)


def refuse_divergence(logs: dict[str, Any], step: int) -> None:
    """Stop a training whose loss is no finite number. The library logs and validates before it saves, so the
    checkpoints that lie there are those of finite losses."""
    for key, name in (("loss", "train/loss"), ("eval_loss", "val/loss")):
        value = logs.get(key)
        if isinstance(value, int | float) and not math.isfinite(value):
            raise ClarionError(
                f"The training diverged by step {step} ({name} is {value}); the last checkpoints before it are kept: "
                "lower trainer.args.learning_rate or set trainer.precision=32."
            )
