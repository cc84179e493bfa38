"""A fused run beside the unimodal runs that it starts from: their recorded predictions of the same test patients.

Nothing is predicted again. A unimodal run is shown only where it was trained and tested on the very patients of the
fused one; else a sentence says why it is not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from clarion.predictions import save_table
from clarion.record import RunRecord

log = logging.getLogger("clarion")
PREFIX = "unimodal_"
COMPARED = ("auc_naive", "auc", "c_index", "brier")  # what stands side by side; the rest is in each run's own page


def unimodal(cfg: DictConfig, record: RunRecord, split: str, truth: pd.DataFrame) -> tuple[dict[str, Any], list[str]]:
    """({unimodal_MODALITY: predictions of a split}, sentences on those that cannot be shown); empty for other models.

    They are also kept among the baselines of the run directory."""
    found, absent = {}, []
    for name in (cfg.model.get("fusion") or {}).get("modalities") or []:
        table, why = _predictions(name, str((cfg.get("init_from") or {}).get(name) or ""), record, split, truth)
        if table is None:
            absent.append(f"The {name} model alone is not shown beside: {why}.")
            continue
        save_table(record.directory / "predictions" / "baselines" / f"{split}_{PREFIX}{name}.parquet", table)
        found[PREFIX + name] = table
    return found, absent


def _predictions(
    name: str, run: str, record: RunRecord, split: str, truth: pd.DataFrame
) -> tuple[pd.DataFrame | None, str]:
    """(its predictions of the patients of `truth`, "") or (None, why not)."""
    if not run:
        return None, f"init_from.{name} names no run"
    other = RunRecord(Path(run).expanduser().resolve())
    path = other.directory / "predictions" / f"{split}.parquet"
    if not other.complete or not path.is_file():
        return None, f"its run has no recorded predictions of the {split} split"
    theirs, mine = other.manifest(), record.manifest()
    for key, what in (("split_hash", "splits"), ("fingerprint", "data")):
        if (theirs.get("data") or {}).get(key) != (mine.get("data") or {}).get(key):
            return None, f"its run has other {what} than this one"
    used = (mine.get("init_from") or {}).get(name)
    if used and theirs.get("checkpoint_hash") != used:
        return None, "its run was trained again since the fusion started from it"
    table = pd.read_parquet(path)
    wanted = set(truth["sample_id"])
    if "risk" not in table or not wanted <= set(table["sample_id"]):
        return None, f"it did not predict all of the {len(wanted)} patients"
    return table[table["sample_id"].isin(wanted)].reset_index(drop=True), ""


def side_by_side(
    evaluator: Any, predictions: pd.DataFrame, others: Mapping[str, Any], truth: pd.DataFrame,
    context: Mapping[str, Any], names: Mapping[str, str],
) -> list[dict[str, Any]]:  # fmt: skip
    """Each other model on the same patients: [{name, label, metrics: {metric: {model, other, difference}}, delong}].

    difference: this model minus the other over the same resamples of patients; entries as in CONTRIBUTING. names: what
    others are called on a page."""
    found = []
    for name, table in others.items():
        compared = evaluator.compare(predictions, table, truth, context, ("model", "other"))
        metrics = {
            metric: {"model": entries["a"], "other": entries["b"], "difference": entries["difference"]}
            for metric, entries in compared["metrics"].items() if metric.startswith(COMPARED)
        }  # fmt: skip
        found.append({"name": name, "label": names.get(name, name), "metrics": metrics, "delong": compared["delong"]})
    return found


def labels(cfg: DictConfig, others: Mapping[str, Any]) -> dict[str, str]:
    """{unimodal_slide: "slide alone (swin_mil_nano)", ...}."""
    found = {}
    for name in others:
        if name.startswith(PREFIX):
            modality = name.removeprefix(PREFIX)
            run = RunRecord(Path(str(cfg.init_from[modality])).expanduser().resolve())
            found[name] = f"{modality} alone ({run.config().model.name})"
    return found
