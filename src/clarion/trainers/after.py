"""What a model's config asks for once it is trained (model.explain, model.look), checked before hours of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clarion.config import nearest
from clarion.errors import UsageError


def check_after(model: Mapping[str, Any]) -> None:
    """UsageError for settings of model.explain and model.look that would be refused at the end of the run."""
    if not isinstance(explain := model.get("explain"), bool | None):
        raise UsageError(f"model.explain={explain}: give true or false; it has no settings of its own.")
    look = model.get("look")
    if look in (None, False):
        return
    from clarion.looking import OPERATORS, WITHIN

    if not isinstance(look, Mapping):
        raise UsageError(f"model.look={look}: give its settings, {{{', '.join(WITHIN)}}}, or null.")
    if strange := sorted(map(str, set(look) - set(WITHIN))):
        hint = nearest(strange[0], WITHIN)
        raise UsageError(f"model.look.{strange[0]} is unknown; it has {', '.join(WITHIN)}.{hint}")
    wanted = WITHIN | dict(look)
    if wanted["operator"] not in OPERATORS:
        hint = nearest(str(wanted["operator"]), OPERATORS)
        raise UsageError(f"model.look.operator={wanted['operator']} is unknown; choose {', '.join(OPERATORS)}.{hint}")
    for name, least, rest in (("pages", 0, ""), ("patients", 1, ", or null for all")):
        value = wanted[name]
        if value is None and rest:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"model.look.{name}={value}: give a whole number of at least {least}{rest}.")
