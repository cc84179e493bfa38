"""The search space in Hydra's own grammar: choice(...), range(...), interval(...), tag(log, interval(...)).

Imports no optuna: the pre-flight check composes the corners of a space before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override, RangeSweep

from clarion.errors import UsageError


@dataclass(frozen=True)
class Axis:
    """One tuned setting. `choices` (as Hydra writes them), or numbers from low to high, both included."""

    key: str  # model.lr
    prefix: str  # "", "+" or "++": how the override is written
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def override(self, value: Any) -> str:
        return f"{self.prefix}{self.key}={value if isinstance(value, str) else repr(value)}"

    def ends(self) -> list[str]:
        """Overrides that between them show every kind of value: all choices, or both ends."""
        values = self.choices or dict.fromkeys((self.low, self.high))
        return [self.override(v) for v in values]

    def suggest(self, trial: Any) -> Any:
        """The value that an optuna trial takes on this axis."""
        if self.choices:
            return trial.suggest_categorical(self.key, list(self.choices))
        if self.whole:
            return trial.suggest_int(self.key, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def described(self) -> list[Any]:
        """JSON-able: what makes two spaces the same."""
        return [self.key, list(self.choices), self.low, self.high, self.step, self.log]


def axis(override: Override) -> Axis:
    """One sweep override -> its axis. UsageError for what cannot be searched."""
    key, prefix = override.key_or_group, override.get_key_element()[: -len(override.key_or_group)]
    value = override.value()
    log = "log" in getattr(value, "tags", ())
    if override.is_interval_sweep():
        low, high = value.start, value.end
        if not low < high:
            raise UsageError(f"{key}: interval({low},{high}) is empty; write the smaller end first.")
        if log and low <= 0:
            raise UsageError(f"{key}: a log scale needs an interval above 0, not from {low}.")
        return Axis(key, prefix, low=low, high=high, log=log)
    if override.is_range_sweep() and isinstance(value, RangeSweep):
        values = [float(v) if not isinstance(v, int) else v for v in value.range()]
        if not values:
            raise UsageError(f"{key}: range({value.start},{value.stop}) is empty.")
        if len(values) == 1 or value.shuffle or values[0] > values[-1]:
            return Axis(key, prefix, choices=tuple(str(v) for v in values))
        return Axis(key, prefix, low=values[0], high=values[-1], step=value.step)
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise UsageError(f"{key}: nothing to choose from.")
    return Axis(key, prefix, choices=choices)


def divide(overrides: Iterable[Override]) -> tuple[list[str], list[Axis]]:
    """Parsed overrides -> (those that are the same in every trial, as text; the axes)."""
    fixed, axes = [], []
    for o in overrides:
        if o.is_sweep_override():
            axes.append(axis(o))
        else:
            fixed.append(o.input_line)
    return fixed, axes


def corners(overrides: Iterable[Override]) -> list[list[str]]:
    """Jobs that show every value of every axis at least once (not their product): what a check composes."""
    fixed, axes = divide(overrides)
    first = [a.ends()[0] for a in axes]
    jobs = [fixed + first]
    for k, a in enumerate(axes):
        jobs += [fixed + first[:k] + [other] + first[k + 1 :] for other in a.ends()[1:]]
    return jobs
