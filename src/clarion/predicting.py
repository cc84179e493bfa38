"""A trained detector on new scans: `clarion predict PATH --model RUN --out DIR`.

PATH is a HEYEX screen export, or a folder (or one file) of B-scan images. Nothing is scored: there is no truth.
Sample ids come from the pictures' content, so that no file name (which may hold a patient's) is written.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clarion.config import compose_config
from clarion.errors import DataError, UsageError
from clarion.record import to_json, write_atomic
from clarion.trained import open_model

log = logging.getLogger("clarion")
DEFAULT_CONFIDENCE = 0.25  # where no run found an operating point
PICTURES = {".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff"}


class ImageFolder:
    """Plain B-scan images; ids are digests of their content. The part of the data protocol that prediction needs."""

    kind = "private"

    def __init__(self, path: Path):
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES)
        self.files: dict[str, Path] = {}
        for file in files:
            if path not in (file, *file.resolve().parents) and path.resolve() not in file.resolve().parents:
                raise DataError(f"{file} is a link that leaves {path}; copy the picture into the folder.")
            self.files.setdefault("I-" + hashlib.sha256(file.read_bytes()).hexdigest()[:12], file)
        if not self.files:
            raise DataError(f"{path} holds no picture ({', '.join(sorted(PICTURES))}).")

    def samples(self, split: str = "test") -> Iterator[Any]:
        from clarion.samples import Sample

        for sample_id, file in self.files.items():
            yield Sample(sample_id, sample_id, {"image": file})


def open_scans(path: Path, class_names: list[str]) -> Any:
    """A HEYEX export if PATH reads as one, else plain images. Raises DataError where it is neither."""
    from clarion.building import build

    cfg = compose_config(["data=heyex", f"data.root={_quoted(path)}"])
    cfg.data.class_names = class_names
    try:
        data = build(cfg.data, seed=0)
        data.check()
        return data
    except (DataError, UsageError) as not_heyex:
        log.info("not a HEYEX export (%s): read as plain B-scan images", not_heyex)
        return ImageFolder(path)


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def predict_path(path: Path, model: Path, out: Path, confidence: float | None = None, device: str = "auto") -> dict:
    """Predict every scan below `path` with the run `model`; write detections.csv, detections.json and overlays/.

    Returns the summary that is also detections.json's head: counts, confidence used, model and data kinds.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder.")
    trained = open_model(str(model), "detection", "yolo11n", device)
    if confidence is None:
        confidence = DEFAULT_CONFIDENCE if trained.confidence is None else trained.confidence

    from clarion.predictions import predict

    scans = open_scans(path.resolve(), trained.class_names)
    samples = list(scans.samples("test"))
    table = predict(trained.predictor, samples, len(samples), "scans")
    summary = {
        "model": trained.name,
        "hash": trained.digest,
        "trained_on": trained.trained_on,
        "scans": len(table),
        "confidence": round(confidence, 4),
        "scans_with_finding": int(sum(bool(len(s)) and max(s) >= confidence for s in table["scores"])),
    }
    write_detections(out, table, samples, confidence, summary)
    return summary | {"out": str(out)}


def clipped(box: Any, size: tuple[int, int]) -> list[float]:
    """x1, y1, x2, y2 inside an image of (width, height), to a tenth of a pixel."""
    limits = (size[0], size[1]) * 2
    return [round(min(max(float(v), 0.0), float(limit)), 1) for v, limit in zip(box, limits)]


def write_detections(out: Path, table: Any, samples: list, confidence: float, summary: dict) -> None:
    import csv
    import io

    from PIL import Image, ImageDraw

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["sample_id", "patient_id", "direction", "line", "x1", "y1", "x2", "y2", "score"])
    by_id = {s.sample_id: s for s in samples}
    scans = []
    (out / "overlays").mkdir(parents=True, exist_ok=True)
    for row in table.itertuples():
        sample = by_id[row.sample_id]
        with Image.open(sample.inputs["image"]) as picture:
            drawn = picture.convert("RGB")
        kept = [(clipped(b, drawn.size), s) for b, s in zip(row.boxes, row.scores) if s >= confidence]
        where = [sample.inputs.get("direction"), sample.inputs.get("line")]
        for box, score in kept:
            writer.writerow([row.sample_id, row.patient_id, *where, *box, round(float(score), 4)])
        scans.append(
            {
                "sample_id": row.sample_id,
                "patient_id": row.patient_id,
                "direction": where[0],
                "line": where[1],
                "boxes": [b for b, _ in kept],
                "scores": [float(s) for _, s in kept],
            }
        )
        if kept:
            pen = ImageDraw.Draw(drawn)
            for box, score in kept:
                pen.rectangle(box, outline=(255, 196, 0), width=2)
                pen.text((box[0] + 3, max(box[1] - 12, 0)), f"{score:.2f}", fill=(255, 196, 0))
            name = f"{where[0]}{where[1]:02d}-{row.sample_id}" if where[0] else row.sample_id
            drawn.save(out / "overlays" / f"{name}.png", compress_level=3)
    write_atomic(out / "detections.csv", buffer.getvalue())
    write_atomic(out / "detections.json", to_json({**summary, "detections": scans}))
