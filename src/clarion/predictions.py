"""Tables of predictions: a row a sample, and the file they are kept in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def predict(predictor: Callable, samples: Iterable, total: int, split: str):
    """Run a predictor over samples; one row a sample. Returns a pandas DataFrame."""
    import pandas as pd
    from tqdm import tqdm

    rows = [
        {"sample_id": p.sample_id, "patient_id": p.patient_id, **p.values}
        for p in tqdm(predictor(samples), total=total, desc=f"predict {split}", unit="sample")
    ]
    return pd.DataFrame(rows)


def save_table(path: Path, table: Any) -> None:
    """Parquet, renamed into place when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    table.to_parquet(partial, index=False)
    os.replace(partial, path)


def image_paths(data: Any, split: str) -> dict[str, str]:
    """sample_id -> image of a split, for overlays."""
    return {s.sample_id: str(s.inputs["image"]) for s in data.samples(split) if "image" in s.inputs}
