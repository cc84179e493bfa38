"""`clarion embed RUN --out FILE.parquet`: what a network knows of each patient before its last layer.

Survival networks on omics tables say it by `module.embed(samples)`; a network of timm by what enters its classifier.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from clarion.config import nearest
from clarion.errors import ClarionError, UsageError
from clarion.explaining import same_data
from clarion.record import RunRecord

log = logging.getLogger("clarion")
SPLITS = ("train", "val", "test")
META = b"clarion.embedding"
FORMAT = "clarion-embedding/1"


def embed_run(run: Path, out: Path, split: str = "all", device: str = "auto") -> dict[str, Any]:
    """Write the embeddings of a run's samples: sample_id, patient_id, split, e0 ... eD (float32), one row a sample.

    The run, its checkpoint's hash and the data's fingerprint stand in the parquet metadata (`read_embedding`). Returns
    that and the counts. UsageError for a model without such a layer; DataError where the data have changed."""
    if split not in (*SPLITS, "all"):
        raise UsageError(f"--split {split}: choose {', '.join(SPLITS)} or all.{nearest(split, [*SPLITS, 'all'])}")
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out}: the embeddings are one parquet file; name it FILE.parquet.")
    record = RunRecord(run.expanduser().resolve())
    if not record.complete or not (record.directory / "config.yaml").is_file():
        raise UsageError(f"{run} is not a complete run directory (train one with python train.py).")
    from clarion.trained import open_model

    cfg = record.config()
    trained = open_model(str(record.directory), cfg.model.task, cfg.model.name, device, "RUN")
    embed = embedder(trained.predictor, cfg.model.name)
    data = same_data(record)
    wanted = [s for s in (SPLITS if split == "all" else [split]) if data.splits.get(s)]
    if not wanted:
        raise UsageError(f"--split {split}: {record.directory.name} has no such samples.")
    about = {"format": FORMAT, "run": trained.name, "model": cfg.model.name, "hash": trained.digest,
             "data": cfg.data.name, "data_kind": data.kind, "fingerprint": data.fingerprint(),
             "splits": wanted}  # fmt: skip
    batches = _tables(data, wanted, embed, getattr(trained.predictor, "batch_size", 64))
    rows, width = write_embedding(batches, about, out)
    return about | {"rows": rows, "width": width, "out": str(out)}


def embedder(predictor: Any, name: str) -> Callable[[Sequence[Any]], Any]:
    """samples -> float32 [n, width] before the last layer. UsageError for a model that has none to give."""
    module = getattr(predictor, "module", None)
    if hasattr(module, "embed"):
        return module.embed
    classifier = getattr(getattr(module, "network", None), "get_classifier", None)
    layer = classifier() if callable(classifier) else None
    if layer is None or not hasattr(module, "answer"):
        raise UsageError(
            f"model={name} has no embeddings: networks of the lightning trainer with a layer before the last have them "
            "(tabular_transformer, mlp_survival, classifiers)."
        )

    def before_classifier(samples: Sequence[Any]) -> Any:
        import torch

        seen: list[Any] = []
        handle = layer.register_forward_pre_hook(lambda _layer, given: seen.append(given[0].detach()))
        try:
            with torch.inference_mode():
                module.answer(samples)
        finally:
            handle.remove()
        return torch.cat(seen).flatten(1).float().cpu().numpy()

    return before_classifier


def _tables(data: Any, splits: Sequence[str], embed: Callable, size: int) -> Iterator[Any]:
    """One pyarrow table a batch of samples."""
    import pyarrow as pa
    from tqdm import tqdm

    for split in splits:
        samples = iter(tqdm(data.samples(split), total=len(data.splits[split]), desc=f"embed {split}", unit="sample"))
        while batch := list(islice(samples, size)):
            found = embed(batch)
            columns = {"sample_id": [s.sample_id for s in batch], "patient_id": [s.patient_id for s in batch],
                       "split": [split] * len(batch)}  # fmt: skip
            yield pa.table(columns | {f"e{k}": pa.array(found[:, k], pa.float32()) for k in range(found.shape[1])})


def write_embedding(batches: Iterable[Any], about: dict[str, Any], out: Path) -> tuple[int, int]:
    """(rows, width) written, batch by batch; the file appears whole or not at all."""
    import pyarrow.parquet as pq

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    rows, writer = 0, None
    try:
        for table in batches:
            if writer is None:
                schema = table.schema.with_metadata({META: json.dumps(about, ensure_ascii=False).encode()})
                writer = pq.ParquetWriter(partial, schema, compression="zstd")
            writer.write_table(table.replace_schema_metadata(schema.metadata))
            rows += len(table)
        if writer is None:
            raise ClarionError("No sample to embed: nothing is written.")
        writer.close()
        os.replace(partial, out)
    except BaseException:
        if writer is not None:
            writer.close()
        partial.unlink(missing_ok=True)
        raise
    return rows, len(schema) - 3


def read_embedding(path: str | os.PathLike) -> tuple[Any, dict[str, Any]]:
    """(DataFrame, what the file says of its run) of `write_embedding`. UsageError for another file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[META])
    except (OSError, KeyError, ValueError, pa.ArrowInvalid):
        raise UsageError(f"{Path(path).name} is no file of `clarion embed`.") from None
    if about.get("format") != FORMAT:
        raise UsageError(f"{Path(path).name} has format {about.get('format')!r}; this version reads {FORMAT!r}.")
    return table.to_pandas(), about
