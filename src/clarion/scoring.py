"""`clarion score`: a file of predictions against a file of the truth, by any evaluator; no run needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarion.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

LISTS = ("codes", "confidences", "procedures", "labs", "drugs", "options")  # columns that hold a list a row
SUFFIXES = (".jsonl", ".csv", ".parquet")


def score_files(
    predictions: Path,
    truth: Path,
    evaluator: str,
    settings: Mapping[str, str],
    train: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What the evaluator returns (CONTRIBUTING.md), plus `files` {name: rows}.

    predictions, truth, train: jsonl, csv (lists with ; between) or parquet with sample_id; patient_id is the
    sample_id where neither file has one. train: the truth of the training, where a baseline comes from. settings:
    fields of the evaluator's config, as texts. UsageError for an unknown evaluator or setting, DataError for files
    that do not fit."""
    import yaml
    from omegaconf import OmegaConf

    from clarion.config import choices, conf_dir, nearest

    if evaluator not in choices("evaluator"):
        known = choices("evaluator")
        raise UsageError(f"--evaluator {evaluator}: no such evaluator.{nearest(evaluator, known)} ({', '.join(known)})")
    node = OmegaConf.load(conf_dir() / "evaluator" / f"{evaluator}.yaml")
    for key, value in settings.items():
        if key not in node:
            known = [str(k) for k in node]
            raise UsageError(f"{evaluator} has no setting {key}.{nearest(key, known)} ({', '.join(known)})")
        node[key] = yaml.safe_load(value)
    tables = {"predictions": read_rows(predictions), "truth": read_rows(truth)}
    if not any("patient_id" in table for table in tables.values()):
        tables = {name: table.assign(patient_id=table["sample_id"]) for name, table in tables.items()}
    elif "patient_id" not in tables["predictions"]:  # whose a sample is stands with the truth
        owner = dict(zip(tables["truth"]["sample_id"], tables["truth"]["patient_id"], strict=True))
        named = tables["predictions"]["sample_id"]
        tables["predictions"] = tables["predictions"].assign(patient_id=[owner.get(s, s) for s in named])
    from clarion.building import build

    context = {"seed": seed, "task": node.get("task"), "train_truth": read_rows(train) if train else None}
    result = build(node).evaluate(tables["predictions"], tables["truth"], context)
    return result | {"files": {name: len(table) for name, table in tables.items()}}


def read_rows(path: Path) -> pd.DataFrame:
    """The table of a file; sample_id as text."""
    import pandas as pd

    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f"{path}: no such file.")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path.name}: give {', '.join(SUFFIXES)}.")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            for column in set(LISTS) & set(table.columns):
                table[column] = [[p.strip() for p in cell.split(";") if p.strip()] for cell in table[column]]
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            table = pd.DataFrame([json.loads(line) for line in lines if line.strip()])
    except (ValueError, OSError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())[:200]
        raise DataError(f"{path.name} cannot be read as {path.suffix[1:]}: {why}") from error
    if "sample_id" not in table:
        found = ", ".join(map(str, table.columns)) or "none"
        raise DataError(f"{path.name} has no column sample_id, by which rows are joined; it has: {found}.")
    return table.assign(sample_id=table["sample_id"].astype(str))


def markdown(result: Mapping[str, Any]) -> str:
    """Metrics with n, interval and baseline, then the notes."""
    lines = ["| metric | value | 95 % interval | baseline | n |", "|---|---|---|---|---|"]
    for name, one in result["metrics"].items():
        base = result["baseline"].get(name, {})
        known = one["low"] is not None
        span = f"{one['low']:.3f} to {one['high']:.3f}" if known else "—"
        lines.append(f"| {name} | {_number(one['value'])} | {span} | {_number(base.get('value'))} | {one['n']} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in result["notes"])]) + "\n"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"
