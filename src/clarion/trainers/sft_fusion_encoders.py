"""The unimodal models of a fusion: recorded runs whose patients and splits are this run's, and their embeddings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clarion.embedding import embedder
from clarion.errors import ClarionError, DataError, UsageError
from clarion.record import RunRecord
from clarion.trainers.base import Sample

SLIDE_MODEL, OMICS_MODEL = "swin_mil_nano", "tabular_transformer"
BATCH = 16  # patients at a time: the tiles of one are many


def starts(model: Mapping[str, Any]) -> dict[str, Path]:
    """modality -> checkpoint of its unimodal run, as init_from filled them in. UsageError where one is absent."""
    named = list(model["fusion"]["modalities"])
    if absent := [name for name in named if not model.get(name)]:
        raise UsageError(
            f"model={model.get('name')} fuses the embeddings of trained unimodal models and has none for "
            f"{' and '.join(absent)}: add "
            + " ".join(f"init_from.{name}=RUN" for name in absent)
            + f" (runs of model={SLIDE_MODEL} and model={OMICS_MODEL} on the same data), or take "
            "experiment=cancer_fusion_demo, which trains them first."
        )
    return {name: Path(str(model[name])) for name in named}


def check_start(name: str, checkpoint: Path, data: Any) -> dict[str, Any]:
    """What the record says of the run a checkpoint lies in: {run, model, data, fingerprint}. DataError where it was
    trained on a test or validation patient of `data`, or on other data altogether; UsageError where no run is round it.

    Its embeddings of patients it was trained on are too good to be true; for the others they must be out of fold."""
    record = RunRecord(checkpoint.resolve().parent.parent)
    if not record.complete:
        raise UsageError(f"init_from.{name}: {checkpoint} lies in no complete run, so nobody knows whom it was trained "
                         "on; give a run directory.")  # fmt: skip
    manifest, run = record.manifest(), record.directory.name
    recorded = manifest.get("data") or {}
    if recorded.get("fingerprint") != data.fingerprint():
        raise DataError(_difference(name, run, record, recorded, data))
    return {"run": run, "model": record.config().model.name, "data": recorded.get("name"),
            "fingerprint": recorded["fingerprint"]}  # fmt: skip


def _difference(name: str, run: str, record: RunRecord, recorded: Mapping[str, Any], data: Any) -> str:
    """The sentence on a start of other data: leaking patients where there are any."""
    from clarion.explaining import same_data

    fix = f"train it on data={data.name} with the same fold and splits."
    try:
        theirs = same_data(record).splits
    except (ClarionError, OSError) as error:
        return f"init_from.{name}={run} was trained on other data ({recorded.get('name')}; {error}): {fix}"
    trained = {p for split in ("train", "val") for p in theirs.get(split, [])}
    mine = {p for ids in data.splits.values() for p in ids}
    leaking = trained & set(data.splits.get("test", []))
    if leaking:
        return (f"init_from.{name}={run} was trained on {len(leaking)} of this run's {len(data.splits['test'])} test "
                f"patients, whose outcome would leak into their embeddings: {fix}")  # fmt: skip
    shared = "with none of these patients" if not trained & mine else "where patients, values or splits differ"
    return f"init_from.{name}={run} was trained on another data set ({recorded.get('name')}), {shared}: {fix}"


class Encoders:
    """modality -> a trained unimodal network (`modules`) and its embeddings before the last layer (`embed`).

    folders: checkpoints of the lightning trainer. device: torch device as text. Their class comes from the checkpoint's
    description and must be one of Clarion's (or of CLARION_TARGETS)."""

    def __init__(self, folders: Mapping[str, Path], device: str):
        from clarion.trainers.lightning import LightningTrainer

        self.folders, self.embed, self.modules = dict(folders), {}, {}
        for name, folder in folders.items():
            try:
                description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
                model = dict(description["model"])
            except (OSError, ValueError, KeyError) as error:
                raise UsageError(
                    f"{name}: {folder} is no checkpoint of the lightning trainer ({type(error).__name__}); embeddings "
                    f"come from networks such as model={SLIDE_MODEL} and model={OMICS_MODEL}."
                ) from None
            predictor = LightningTrainer(model, 1, 16, device).load(folder)
            self.embed[name] = embedder(predictor, str(model.get("name")))
            self.modules[name] = predictor.module.eval()

    def __call__(self, name: str, samples: Sequence[Sample]) -> np.ndarray:
        """float32 [n, width]; DataError where a number is not finite."""
        parts = [self.embed[name](samples[k : k + BATCH]) for k in range(0, len(samples), BATCH)]
        found = np.concatenate(parts).astype(np.float32)
        if not np.isfinite(found).all():
            bad = samples[int(np.flatnonzero(~np.isfinite(found).all(1))[0])].sample_id
            raise DataError(f"The {name} model gives no finite embedding for sample {bad}: look at its input.")
        return found

    def copy_to(self, folder: Path) -> None:
        """Keep them beside the fused model, which then needs no other run."""
        for name, source in self.folders.items():
            shutil.copytree(source, folder / name)
