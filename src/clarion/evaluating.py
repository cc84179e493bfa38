"""A trained model on the splits of its data: predictions and truth to files, then every evaluator's scores."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from clarion import beside, unimodal
from clarion.before import add_before
from clarion.building import build
from clarion.errors import ClarionError, UsageError
from clarion.predictions import image_paths, predict, save_table
from clarion.record import RunRecord, now, to_json, write_atomic

log = logging.getLogger("clarion")
# what a job's row shows first
HEADLINE = ("map50", "c_index", "auroc", "balanced_accuracy", "leaf_f1", "rouge_l", "accuracy")


def predict_and_evaluate(
    cfg: DictConfig, data: Any, predictor: Callable, record: RunRecord, splits: list[str], checkpoint: Path
) -> dict:
    """Predictions of each split to files, then every evaluator on the last split; the others are its context.

    checkpoint: of the model; the run it lies in holds the index of what a language model was trained on."""
    if hasattr(predictor, "use_cache"):  # language models: an interrupted evaluation goes on where it stopped
        predictor.use_cache(cfg.model.get("cache", "auto"), data.kind)
    final = splits[-1]
    present = [split for split in splits if data.splits.get(split)]
    tables = {split: kept_tables(data, predictor, split, record.directory, split == final) for split in present}
    if final not in tables:
        raise ClarionError(f"data={cfg.data.name} has no {final} split to evaluate on.")
    predictions, truth = tables[final]
    if truth is None:
        raise UsageError(f"data={cfg.data.name} has no truth to score against: use `clarion predict` for predictions.")
    others, absent = beside.baselines(cfg, data, final, record, checkpoint)
    alone, unshown = unimodal.unimodal(cfg, record, final, truth)
    others |= alone
    context = {
        "task": cfg.model.task,
        "class_names": list(getattr(data, "class_names", [])),
        "seed": cfg.seed,
        "data_kind": data.kind,
        "validation": tables.get("val") if final != "val" else None,
        "train_counts": train_counts(data),
        "train_truth": train_truth(data, truth),
        "baselines": others,
        "baseline_notes": absent + unshown,
    }
    results, overlaps = {}, find_overlaps(cfg, data, final, checkpoint)
    for name, node in cfg.evaluators.items():
        log.info("evaluating: %s on %d samples of %s", name, len(truth), final)
        evaluator = build(node)
        results[name] = evaluator.evaluate(predictions, truth, context)
        if overlaps is not None:
            overlaps.apply(results[name], evaluator.evaluate, predictions, truth, context)
        add_before(results[name], evaluator, record.directory, final, truth, context)
        if cfg.model.get("fusion") and hasattr(evaluator, "compare"):
            named = unimodal.labels(cfg, others)
            results[name]["beside"] = unimodal.side_by_side(evaluator, predictions, others, truth, context, named)
    if cfg.model.get("explain"):
        write_explanation(data, predictor, final, record.directory)
    if cfg.model.get("look"):
        write_look(cfg, data, predictor, final, record.directory, checkpoint)
    return {
        "run": record.directory.name,
        "model": cfg.model.name,
        "data": cfg.data.name,
        "data_kind": data.kind,
        "split": final,
        "seed": cfg.seed,
        "finished": now(),
        "device": record.manifest().get("device"),
        "evaluators": results,
        "data_card": data.card(),
    }


def kept_tables(data: Any, predictor: Callable, split: str, directory: Path, final: bool) -> tuple:
    """(predictions, truth or None) of a split, also below the run directory; of the final one the images' paths too."""
    answers = predictor if final else getattr(predictor, "without_texts", predictor)
    predictions, truth = predict(answers, data.samples(split), len(data.splits[split]), split), data.truth(split)
    save_table(directory / "predictions" / f"{split}.parquet", predictions)
    if truth is not None:
        save_table(directory / "truth" / f"{split}.parquet", truth)
        if final and data.kind != "private" and (paths := image_paths(data, split)):  # private paths may hold names
            write_atomic(directory / "truth" / f"{split}_images.json", json.dumps(paths))
    return predictions, truth


def write_explanation(data: Any, predictor: Callable, split: str, directory: Path) -> None:
    """explanation.json: what the data say a model looked at (model.explain); a run is complete without it."""
    try:
        write_atomic(directory / "explanation.json", to_json(data.explain(predictor, split)))
    except ClarionError as error:
        log.info("no explanation is kept: %s", error)
    except Exception:
        log.exception("the model could not be explained; the run goes on without")


def write_look(cfg: DictConfig, data: Any, predictor: Any, split: str, directory: Path, checkpoint: Path) -> None:
    """RUN/look: where a slide model looked (model.look); a run is complete without it."""
    from clarion.looking import look_within

    try:
        look_within(cfg, data, predictor, split, directory, checkpoint)
    except ClarionError as error:
        log.info("where it looked is not kept: %s", error)
    except Exception:
        log.exception("where the model looked could not be shown; the run goes on without")


def train_counts(data: Any) -> list[int] | None:
    """Samples per class in training: what a majority baseline is allowed to know."""
    if data.task != "classification" or not data.splits.get("train"):
        return None
    labels = data.truth("train")["label"]
    return [int((labels == k).sum()) for k in range(len(data.class_names))]


def train_truth(data: Any, evaluated: Any):
    """What scores learn of the training patients (DataFrame): times and events, from which survival scores learn the
    censoring; codes, whose most frequent ones are the baseline of clinical coding. evaluated: the split's own truth."""
    coded = ["codes"] if "codes" in evaluated.columns else []
    columns = ["time", "event", "cancer"] if data.task == "survival" else coded
    if not columns or not data.splits.get("train"):
        return None
    truth = data.truth("train")
    return truth[[c for c in columns if c in truth.columns]]


def find_overlaps(cfg: DictConfig, data: Any, split: str, checkpoint: Path):
    """Evaluated items of a language model against its recorded training texts (clarion.llm.overlaps), else None."""
    if data.task != "generation":
        return None
    from clarion.llm.overlaps import Overlaps

    return Overlaps.of(data, split, checkpoint, cfg.model)


def headline(metrics: dict) -> str:
    """'map50 0.631 [0.58, 0.68]': the score a job's row shows."""
    for result in metrics.get("evaluators", {}).values():
        values = result.get("metrics", {})
        name = next((h for h in HEADLINE if h in values), next(iter(values), None))
        if name and values[name].get("value") is not None:
            entry = values[name]
            interval = f" [{entry['low']:.3f}, {entry['high']:.3f}]" if entry.get("low") is not None else ""
            return f"{name} {entry['value']:.3f}{interval}"
    return ""
