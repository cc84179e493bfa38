"""The folder ultralytics trains on, built in the cache so that nothing is ever written into the user's folder.

ultralytics writes `labels/*.cache` beside labels, `.npy` beside images, and saves a JPEG that lacks its end
marker anew, through a link too. So images are links in a tree of ours, and such JPEGs are copies.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from clarion.data.cache import build_once, cache_dir
from clarion.data.yolo import write_labels


@dataclass(frozen=True)
class Entry:
    """One image of the tree. boxes: [n, 4] x1 y1 x2 y2 in pixels; copy: do not link, the file may be rewritten."""

    sample_id: str
    image: Path
    boxes: np.ndarray
    labels: np.ndarray
    width: int
    height: int
    copy: bool = False


def build_yolo_tree(name: str, splits: Mapping[str, Iterable[Entry]], class_names: Sequence[str]) -> Path:
    """cache/<name>/{images,labels}/<split>/<sample_id> and data.yaml with absolute paths; returns the yaml.

    name: must change whenever the content does."""
    final = cache_dir() / name

    def build(folder: Path) -> None:
        for split, entries in splits.items():
            images, labels = folder / "images" / split, folder / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for e in entries:
                _place(e, images / f"{e.sample_id}{e.image.suffix.lower()}")
                write_labels(labels / f"{e.sample_id}.txt", e.boxes, e.labels, e.width, e.height)
        config = {"path": str(final), **{split: f"images/{split}" for split in splits}}
        config["names"] = dict(enumerate(class_names))
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        (folder / "data.yaml").write_text(text, encoding="utf-8")

    return build_once(name, build) / "data.yaml"


def _place(entry: Entry, target: Path) -> None:
    source = entry.image.resolve()
    if not entry.copy:
        try:
            os.symlink(source, target)
            return
        except OSError:  # a file system without links
            target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
