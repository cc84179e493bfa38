"""`clarion export RUN --format onnx|torchscript|safetensors|hf`: a trained model for programs that know no Clarion.

What is written is read again and computes the run's own samples; the largest difference from the checkpoint is
printed, and above the tolerance nothing is kept. With it goes README.md, a model card: data, results with intervals,
intended use, limits, licence. No sample of the data is written.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from clarion.config import nearest
from clarion.errors import ClarionError, DataError, UsageError
from clarion.record import RunRecord, hash_tree, to_json, write_atomic

log = logging.getLogger("clarion")
FORMATS = ("onnx", "torchscript", "safetensors", "hf")
TOLERANCE = 1e-4
SAMPLES = 6  # of the run's data that both must agree on
INFO = "export.json"


@dataclass
class Job:
    """One export: the run, its model loaded on the CPU, real samples, and the folder to fill (renamed when whole)."""

    record: RunRecord
    cfg: Any
    checkpoint: Path
    format: str
    folder: Path
    tolerance: float
    samples: list[Any] = field(default_factory=list)
    split: str = ""

    def predictor(self) -> Any:
        from clarion.trained import open_model

        return open_model(str(self.record.directory), self.cfg.model.task, self.cfg.model.name, "cpu", "RUN").predictor


def export_run(run: Path, form: str, out: Path | None = None, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Write RUN/exports/FORMAT (or `out`) and return what stands in its export.json.

    UsageError for a run or format that cannot be exported, DataError where the run's data have changed, ClarionError
    where the exported model computes something else."""
    if form not in FORMATS:
        raise UsageError(f"--format {form}: choose {', '.join(FORMATS)}.{nearest(form, FORMATS)}")
    if not tolerance > 0:
        raise UsageError(f"--tolerance {tolerance}: give a number above 0, such as {TOLERANCE}.")
    record = RunRecord(run.expanduser().resolve())
    if not record.complete or record.manifest().get("kind") == "evaluation":
        raise UsageError(f"{run} is not a complete training run (train one with python train.py).")
    cfg, manifest = record.config(), record.manifest()
    checkpoint = (record.directory / str(manifest.get("checkpoint"))).resolve()
    if record.directory not in checkpoint.parents or not checkpoint.exists():
        raise UsageError(f"{run} has no checkpoint below it.")
    write = writer(str(cfg.trainer.name), form)
    folder = (out or record.directory / "exports" / form).expanduser().resolve()
    if folder.exists() and not (folder.is_dir() and ((folder / INFO).is_file() or not any(folder.iterdir()))):
        raise UsageError(f"--out {folder} exists and is no export: give a new folder.")
    partial = folder.with_name(f".{folder.name}.partial.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        job = Job(record, cfg, checkpoint, form, partial, tolerance)
        job.samples, job.split = real_samples(record)
        said = write(job)
        if not said["max_difference"] <= tolerance:  # NaN included
            raise ClarionError(
                f"The exported model differs from the checkpoint by {said['max_difference']:.3g} on {len(job.samples)} "
                f"samples, more than --tolerance {tolerance:g}: nothing is kept."
            )
        info = {"run": record.directory.name, "model": cfg.model.name, "task": cfg.model.task, "format": form,
                "tolerance": tolerance, "compared_samples": len(job.samples), "compared_split": job.split,
                "checkpoint_hash": hash_tree(checkpoint), **said}  # fmt: skip
        write_atomic(partial / INFO, to_json(info))
        from clarion.exporting_card import model_card

        write_atomic(partial / "README.md", model_card(record, info))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return info | {"out": str(folder), "files": files}


def writer(trainer: str, form: str) -> Callable[[Job], dict[str, Any]]:
    """What writes this format of this trainer's models; UsageError with what there is instead."""
    from importlib import import_module

    known = {
        ("lightning", "onnx"): "exporting_networks:onnx",
        ("lightning", "torchscript"): "exporting_networks:torchscript",
        ("lightning", "safetensors"): "exporting_networks:safetensors",
        ("lightning", "hf"): "exporting_networks:hugging_face",
        ("ultralytics", "onnx"): "exporting_detectors:onnx",
        ("ultralytics", "torchscript"): "exporting_detectors:torchscript",
        ("ultralytics", "safetensors"): "exporting_detectors:safetensors",
        ("sft", "hf"): "exporting_language:hugging_face",
        ("estimator", "safetensors"): "exporting_estimators:safetensors",
    }
    if (trainer, form) not in known:
        offered = [f for t, f in known if t == trainer]
        if not offered:
            raise UsageError(f"Models of trainer={trainer} are not exported: they are somebody else's as they come.")
        raise UsageError(
            f"Models of trainer={trainer} are not exported as {form}: use --format {' or '.join(offered)}."
        )
    module, _, name = known[trainer, form].partition(":")
    return getattr(import_module(f"clarion.{module}"), name)


def real_samples(record: RunRecord) -> tuple[list[Any], str]:
    """(a few samples of the run's own data, their split), the data built again and checked to be the same."""
    from clarion.explaining import same_data

    data = same_data(record)
    for split in ("test", "val", "train"):
        if data.splits.get(split) and (found := list(islice(iter(data.samples(split)), SAMPLES))):
            return found, split
    raise DataError(f"The data of {record.directory.name} have no sample to compare on.")
