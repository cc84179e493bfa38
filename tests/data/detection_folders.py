"""Small detection folders, sound until a test plants a fault."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """Unlike pictures for unlike seeds: blocks of random grey."""
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)
    return Image.fromarray(np.kron(blocks, np.ones((4, 4), np.uint8))).resize((width, height), Image.Resampling.NEAREST)


def write_folder(root: Path, eyes: dict[str, int] | None = None, scans: int = 2) -> Path:
    """YOLO folder with samples.csv: eyes a split, `scans` images an eye; every second image has one box."""
    rows, seed = ["sample_id,patient_id,stage"], 0
    for split, count in (eyes or {"train": 6, "val": 2, "test": 3}).items():
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True)
        for eye in range(count):
            for scan in range(scans):
                name = f"{split}{eye}_{scan}"
                picture(seed).save(root / "images" / split / f"{name}.png")
                text = "0 0.5 0.5 0.25 0.125\n" if scan % 2 else ""
                (root / "labels" / split / f"{name}.txt").write_text(text)
                rows.append(f"{name},{split}-eye{eye},{eye % 2}")
                seed += 1
    (root / "classes.txt").write_text("erm\n")
    (root / "samples.csv").write_text("\n".join(rows) + "\n")
    return root


def write_coco(root: Path, split: str = "train", count: int = 3, start: int = 0) -> dict:
    """annotations/instances_<split>.json with `count` images and one box each; returns the document."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for k in range(start, start + count):
        picture(1000 + k).save(root / "images" / split / f"{split}{k}.png")
        images.append({"id": k, "file_name": f"{split}{k}.png", "width": 64, "height": 48})
        annotations.append({"id": k, "image_id": k, "category_id": 7, "bbox": [8, 6, 16, 12], "iscrowd": 0})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "erm"}]}
    save_coco(root, split, document)
    return document


def save_coco(root: Path, split: str, document: dict) -> None:
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
