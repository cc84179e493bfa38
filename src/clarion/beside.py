"""Baselines beside a network of survival: fitted on the training patients of its run, scored on the same test patients.

A network is worth what it adds to age, a clinical Cox model, ridge-Cox, the nested table and boosted trees
(`model.baselines`, names of conf/model; [] for none). Each takes seconds. Their predictions are kept in the run
directory, where a resumed run finds them again; the fitted baselines are not.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from clarion import config, distributed
from clarion.building import build
from clarion.errors import ClarionError, UsageError
from clarion.predictions import predict, save_table
from clarion.record import RunRecord

log = logging.getLogger("clarion")
TASK = "survival"


def names(cfg: DictConfig) -> list[str]:
    """model.baselines, checked: UsageError for a name that is no survival model without a network."""
    wanted = [str(name) for name in cfg.model.get("baselines") or []] if cfg.model.task == TASK else []
    known = [name for name in config.choices("model") if config.group_task("model", name) == TASK]
    for name in wanted:
        if name not in known:
            raise UsageError(f"model.baselines: {name} is no survival model.{config.nearest(name, known)}")
        if name == cfg.model.name:
            raise UsageError(f"model.baselines: {name} is the model itself; leave it out.")
        if _composed(name).model.trainer != "estimator":
            raise UsageError(f"model.baselines: {name} is a network; train it as a run of its own.")
    return wanted


def baselines(
    cfg: DictConfig, data: Any, split: str, record: RunRecord, checkpoint: Path
) -> tuple[dict[str, Any], list[str]]:
    """({name: predictions of a split}, sentences on those that are absent).

    An evaluation on other data than the model was trained on has none: they would know patients the model does not. A
    study's trial has none either: it is compared with other trials."""
    kind = record.manifest().get("kind")
    wanted = names(cfg) if kind != "trial" else []
    if not wanted or not data.splits.get("train"):
        return {}, []
    if kind == "evaluation" and _trained_on(checkpoint) != data.fingerprint():
        return {}, ["No baselines are fitted: these are other data than the model was trained on."]
    tables, notes = {}, []
    for name in wanted:
        try:
            tables[name] = _predictions(name, cfg, data, split, record)
        except ClarionError as error:
            log.warning("baseline %s: %s", name, error)
            notes.append(f"Baseline {name} could not be fitted: {getattr(error, 'recorded', error)}")
        except Exception as error:  # a trained network is not lost with its baseline
            log.exception("baseline %s failed; the run goes on without", name)
            notes.append(f"Baseline {name} failed ({type(error).__name__}).")
    return tables, notes


def _predictions(name: str, cfg: DictConfig, data: Any, split: str, record: RunRecord) -> Any:
    import pandas as pd

    from clarion.trainers.base import Run

    path = record.directory / "predictions" / "baselines" / f"{split}_{name}.parquet"
    if path.is_file():
        return pd.read_parquet(path)
    composed = deepcopy(_composed(name))
    if cfg.model.get("times"):
        composed.model.times = cfg.model.times
    log.info("baseline beside: %s", name)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(composed.trainer, model=composed.model, seed=cfg.seed)
        run = Run(cfg=composed, directory=Path(folder), data=data, tracker=distributed.NoTracker())
        predictor = trainer.load(trainer.fit(run))
        table = predict(predictor, data.samples(split), len(data.splits[split]), f"{split}, {name}")
    save_table(path, table)
    return table


@lru_cache
def _composed(name: str) -> DictConfig:
    with hydra_kept():
        return config.compose_config([f"model={name}"])


@contextmanager
def hydra_kept() -> Iterator[None]:
    """Composing anew clears Hydra's global state, which belongs to the job that is running."""
    from hydra.core.global_hydra import GlobalHydra

    kept = GlobalHydra.instance().hydra
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = kept


def _trained_on(checkpoint: Path) -> str | None:
    """Fingerprint of the data of the run that a checkpoint lies in."""
    return (RunRecord(checkpoint.parent.parent).manifest().get("data") or {}).get("fingerprint")
