"""What a language model answers before it is tuned (model.before=true), scored beside what it answers afterwards."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from clarion.errors import UsageError
from clarion.predictions import predict, save_table

log = logging.getLogger("clarion")
FILE = "predictions/before_test.parquet"


def predict_before(cfg: DictConfig, model: Mapping[str, Any], data: Any, directory: Path) -> None:
    """Answers of the start weights to the test split, into the run directory; those of an interrupted run are kept.
    Raises UsageError, before anything is trained, where there is nothing to answer with or to be asked."""
    if not cfg.model.get("before") or (directory / FILE).is_file():
        return
    from clarion.trainers.pretrained import PretrainedTrainer

    log.info("answers of %s before it is tuned", cfg.model.name)
    _check(model, data)
    trainer = PretrainedTrainer(model, device=cfg.trainer.device, precision=cfg.trainer.precision, seed=cfg.seed)
    predictor = trainer.untuned()
    predictor.use_cache(cfg.model.get("cache", "auto"), data.kind)
    save_table(directory / FILE, predict(predictor, data.samples("test"), len(data.splits["test"]), "test, untuned"))


def _check(model: Mapping[str, Any], data: Any) -> None:
    if model.get("weights") == "random" and not model.get("path"):
        raise UsageError(
            f"model.before=true: model={model.get('name')} is drawn at random, so there is nothing to score before it "
            "is trained; drop model.before, or choose a model with weights (smollm2_135m)."
        )
    if str(model.get("engine") or "transformers") != "transformers":
        raise UsageError(f"model.before=true: model={model.get('name')} is not tuned here; drop model.before.")
    first = next(iter(data.samples("test")), None)
    if first is not None and "messages" not in first.inputs:
        raise UsageError(
            f"model.before=true scores answers, and data={data.name} holds documents without questions; drop "
            "model.before (trainer=pretrained measures a model's perplexity as it comes)."
        )


def add_before(
    result: dict, evaluator: Any, directory: Path, split: str, truth: pd.DataFrame, context: Mapping[str, Any]
) -> None:
    """result["before"] = {"metrics"} of the untuned answers to the same samples, where the run has them."""
    if split != "test" or not (directory / FILE).is_file():
        return
    scored = evaluator.evaluate(pd.read_parquet(directory / FILE), truth, context)
    result["before"] = {"metrics": scored["metrics"], "name": "before tuning"}
