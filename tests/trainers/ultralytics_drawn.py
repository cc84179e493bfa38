"""A small detection data set drawn for the tests: bright plates on a dark, noisy ground, grey PNGs, YOLO labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import yaml

from clarion.trainers.base import Run, Sample


class DrawnPlates:
    """The part of a data object that the ultralytics trainer and predictor use."""

    def __init__(self, root: Path, sizes=((96, 128),), train=16, val=8, seed=0, classes=("plate",)):
        self.root, self.class_names = root, list(classes)
        self.truth: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # sample id -> boxes xyxy px [n, 4], labels [n]
        self.splits: dict[str, list[str]] = {"train": [], "val": []}
        rng = np.random.default_rng(seed)
        for split, count in (("train", train), ("val", val)):
            for folder in ("images", "labels"):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
            for k in range(count):
                self._draw(rng, split, f"{split}-augenpaß-{k:03d}", sizes[k % len(sizes)])

    def _draw(self, rng: np.random.Generator, split: str, name: str, size: tuple[int, int]) -> None:
        height, width = size
        image = rng.normal(40, 12, size)
        boxes, labels, lines = [], [], []
        for _ in range(int(rng.integers(0, 3)) if name[-1] == "3" else int(rng.integers(1, 3))):
            w, h = rng.uniform(0.25, 0.5) * width, rng.uniform(0.2, 0.4) * height
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            label = int(rng.integers(len(self.class_names)))
            image[int(y):int(y + h), int(x):int(x + w)] = 150 + 60 * label + rng.normal(0, 12)
            boxes.append([x, y, x + w, y + h])
            labels.append(label)
            relative = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
            lines.append(f"{label} " + " ".join(f"{v:.6f}" for v in relative))
        ok, png = cv2.imencode(".png", np.clip(image, 0, 255).astype(np.uint8))
        assert ok
        (self.root / "images" / split / f"{name}.png").write_bytes(png.tobytes())
        (self.root / "labels" / split / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
        self.truth[name] = np.array(boxes, float).reshape(-1, 4), np.array(labels, int)
        self.splits[split].append(name)

    def yolo_yaml(self) -> Path:
        file = self.root / "data.yaml"
        content = {"path": str(self.root), "train": "images/train", "val": "images/val",
                   "names": dict(enumerate(self.class_names))}
        file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        return file

    def samples(self, split: str) -> Iterator[Sample]:
        for name in self.splits[split]:
            yield Sample(name, f"patient-{name}", {"image": self.root / "images" / split / f"{name}.png"})


class ListTracker:
    """Keeps what is logged: (step, metrics) in order."""

    def __init__(self):
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((step, metrics))


def make_run(folder: Path, data: DrawnPlates, resume: bool = False) -> Run:
    return Run(cfg=None, directory=folder, data=data, tracker=ListTracker(), resume=resume)
