"""Settings of a dataclass from a config: the type of each by its annotation, one sentence for what does not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from clarion.config import nearest
from clarion.errors import UsageError

Settings = TypeVar("Settings")


def settings_of(kind: type[Settings], given: Any, where: str) -> Settings:
    """A dataclass whose fields are int, float, bool or str (or "... | None"). where: its place in the config, such as
    model.tiles. UsageError for no mapping, an unknown name or a value of another type; "128" is the number 128."""
    known = {f.name: str(f.type) for f in fields(kind)}
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}={given}: give its settings, {{{', '.join(known)}}}.")
    if strange := sorted(map(str, set(given) - set(known))):
        raise UsageError(f"{where}.{strange[0]} is unknown; known are {', '.join(known)}.{nearest(strange[0], known)}")
    return kind(**{name: typed(value, known[name], f"{where}.{name}") for name, value in given.items()})


def typed(value: Any, annotation: str, name: str) -> Any:
    """value as its annotation wants it. UsageError, naming `name`, where it cannot be that."""
    wanted, _, rest = annotation.partition(" | ")
    if value is None:
        if rest == "None":
            return None
    elif wanted == "bool":
        if isinstance(value, bool):
            return value
    elif wanted == "str":
        if isinstance(value, str):
            return value
    elif not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number) and (wanted == "float" or number.is_integer()):
            return number if wanted == "float" else int(number)
    said = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}[wanted]
    shown = "null" if value is None else value
    raise UsageError(f"{name}={shown}: give {said}{' or null' if rest == 'None' else ''}.")
