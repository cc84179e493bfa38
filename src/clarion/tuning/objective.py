"""What a trial is judged by: a metric of its evaluator on the validation split, and while it trains the value by which
its trainer picks the best epoch. The test split of a tuned run is neither predicted nor scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clarion.config import nearest
from clarion.errors import UsageError

# evaluator -> (the metric by which its models are compared, what is better)
HEADLINES = {
    "detection": ("map50", "maximize"),
    "classification": ("auroc", "maximize"),
    "survival": ("c_index", "maximize"),
    "surfaces": ("mae_um", "minimize"),
    "scanline": ("auc", "maximize"),
    "generation": ("rouge_l", "maximize"),
    "perplexity": ("perplexity", "minimize"),
}
SMALLER_IS_BETTER = ("brier", "ece", "error", "loss", "perplexity", "bits_per_byte", "mae", "rate", "p95")
MONITORS = {"ultralytics": ("val/map50", "max"), "sft": ("val/loss", "min")}  # lightning: model.monitor


@dataclass(frozen=True)
class Objective:
    """metric: `evaluator.metric`; direction: maximize | minimize; monitor: (metric per epoch, min | max) or None."""

    metric: str
    direction: str
    monitor: tuple[str, str] | None = None

    def value(self, metrics: Mapping[str, Any]) -> float | None:
        """Of a trial's metrics.json; None where it is undefined. UsageError for a metric that is not there."""
        if metrics.get("split") != "val":
            raise UsageError(f"{metrics.get('run')} was not scored on the validation split: it is no trial.")
        evaluator, _, name = self.metric.partition(".")
        found = metrics["evaluators"].get(evaluator, {}).get("metrics", {})
        if name not in found:
            raise UsageError(f"hydra.sweeper.metric={self.metric}: no such metric.{nearest(name, found)} "
                             f"({evaluator} has: {', '.join(found)})")  # fmt: skip
        value = found[name].get("value")
        return None if value is None or not math.isfinite(value) else float(value)

    def reported(self, value: float) -> float:
        """A monitored value, its sign so that the study's direction is right for it too (pruners know but one)."""
        same = (self.monitor[1] == "max") == (self.direction == "maximize")
        return value if same else -value


def choose(
    settings: Mapping[str, Any], evaluators: Mapping[str, Any], trainer: str, model: Mapping[str, Any]
) -> Objective:
    """The objective of a study. UsageError, with what to write, where the settings leave it open."""
    names = list(evaluators)
    metric, direction = settings.get("metric"), settings.get("direction")
    evaluator, _, name = str(metric or "").rpartition(".")
    evaluator = evaluator or names[0]
    if evaluator not in names:
        raise UsageError(f"hydra.sweeper.metric={metric}: no such evaluator.{nearest(evaluator, names)} "
                         f"(this run has: {', '.join(names)})")  # fmt: skip
    if not name and evaluator not in HEADLINES:
        raise UsageError(f"evaluator={evaluator} has no headline: say hydra.sweeper.metric=NAME and "
                         "hydra.sweeper.direction=maximize or minimize.")  # fmt: skip
    headline, better = HEADLINES.get(evaluator, ("", "maximize"))
    name = name or headline
    if direction is None:
        direction = better if name == headline else "minimize" if name.startswith(SMALLER_IS_BETTER) else "maximize"
    if direction not in ("maximize", "minimize"):
        raise UsageError(f"hydra.sweeper.direction={direction}: write maximize or minimize.")
    return Objective(f"{evaluator}.{name}", direction, _monitor(settings, trainer, model))


def _monitor(settings: Mapping[str, Any], trainer: str, model: Mapping[str, Any]) -> tuple[str, str] | None:
    if settings.get("pruner") in (None, "none"):
        return None
    if name := settings.get("monitor"):
        mode = settings.get("monitor_mode") or ("min" if "loss" in name else "max")
    elif model.get("monitor"):
        name, mode = model["monitor"], model.get("monitor_mode", "min")
    elif trainer in MONITORS:
        name, mode = MONITORS[trainer]
    else:
        return None  # fitted in one pass: nothing to prune
    if mode not in ("min", "max"):
        raise UsageError(f"hydra.sweeper.monitor_mode={mode}: write min or max.")
    return str(name), mode
