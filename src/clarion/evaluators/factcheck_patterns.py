"""The tissue that a model was told of, which comes with its predictions, beside the tissue that is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError
from clarion.evaluators.factcheck_facts import Facts, Pattern

Told = tuple[Pattern, ...] | None


def stated(predictions: pd.DataFrame, notes: list[str]) -> list[Told]:
    """Of each prediction the patterns of its column `patterns` (JSON [{name, share}]); None without one. DataError,
    naming the sample, for another thing."""
    if "patterns" not in predictions.columns:
        return [None] * len(predictions)
    found = [_read(v, s) for v, s in zip(predictions["patterns"], predictions["sample_id"], strict=True)]
    if any(found):
        notes.append("What a text says of tissue is checked against what the model was told of it (the prediction's "
                     "patterns).")  # fmt: skip
    return found


def _read(value: Any, sample: str) -> Told:
    if not isinstance(value, str):
        return None
    try:
        read = tuple(Pattern(str(p["name"]), p.get("share")) for p in json.loads(value))
        return Facts(patterns=read).patterns  # which refuses shares that are none
    except (ValueError, TypeError, KeyError, AttributeError, DataError) as error:
        raise DataError(f"Sample {sample}: patterns are JSON [{{name, share}}] ({error}).") from None


def true_ones(told: Sequence[Told], tissue: Sequence[Any], min_share: float) -> dict[str, np.ndarray]:
    """float64 [n]: kinds `named`, and how many of them are `true`: at least min_share of the patient's tissue (JSON
    {kind: share}); nothing is named of a patient whose tissue is not known."""
    rows = []
    for own, known in zip(told, tissue, strict=True):
        shares = json.loads(known) if isinstance(known, str) else None
        names = [p.name for p in own or ()] if shares is not None else []
        rows.append((len(names), sum(shares.get(name, 0.0) >= min_share for name in names) if names else 0))
    named, true = np.array(rows, np.float64).reshape(-1, 2).T
    return {"named": named, "true": true}
