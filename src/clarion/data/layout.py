"""What a reader of a detection folder returns, whatever its format."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

EXPECTED_LAYOUT = """Expected is one of:
  YOLO  images/<train|val|test>/NAME.png with labels/<train|val|test>/NAME.txt (class cx cy w h, each in 0..1),
        or images/ and labels/ without split folders (then split by patient),
        or a data.yaml with names, train, val, test
  COCO  annotations/instances_<train|val|test>.json (bbox: x y w h in pixels) with its images below the same folder
  and beside either, optionally, samples.csv with the columns sample_id, patient_id, [split], [any subgroup]."""


def split_name(text: str) -> str | None:
    """The split that a folder or file name stands for ("valid" -> "val", "instances_train2017" -> "train")."""
    found = {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", text.lower()) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


@dataclass
class Item:
    """One image and its labels, as written by the user.

    key: path below the root, composed Unicode, "/" (the identity of the image; may hold identifiers);
    inner: path below its images folder without suffix (what samples.csv may call it);
    boxes: float [n, 4] x1 y1 x2 y2, in pixels, or in 0..1 when `normalised`; labels: int [n];
    where: names of the boxes for errors; size: (width, height) if the labels state it;
    label: the label file if there is one; problems: what does not parse; ignored: crowd regions left out."""

    key: str
    inner: str
    path: Path
    split: str | None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    where: list[str] = field(default_factory=list)
    normalised: bool = False
    size: tuple[int, int] | None = None
    label: Path | None = None
    problems: list[str] = field(default_factory=list)
    ignored: int = 0

    def label_name(self) -> str:
        """What to call its labels on the user's screen: the label file, for COCO the image in it."""
        if self.label is None or self.label.suffix == ".json":
            return self.key
        return f"{self.label.parent.name}/{self.label.name}"

    def set_boxes(self, rows: list[tuple[int, list[float], str]]) -> None:
        """rows: (class index, [x1, y1, x2, y2], name for errors)."""
        self.labels = np.array([r[0] for r in rows], dtype=int)
        self.boxes = np.array([r[1] for r in rows], dtype=float).reshape(-1, 4)
        self.where = [r[2] for r in rows]

    def pixels(self, width: int, height: int) -> np.ndarray:
        """Boxes in pixels of an image of this size, unclipped."""
        return self.boxes * np.array([width, height, width, height]) if self.normalised else self.boxes


@dataclass
class Folder:
    """items: all images; class_names: None if the folder does not name them; files: every table or label file
    read (for the fingerprint); orphans: label files without an image; problems: what fits no single image."""

    items: list[Item]
    class_names: list[str] | None
    files: list[Path]
    orphans: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    format: str = ""


def inner_name(relative: PurePosixPath) -> str:
    """images/train/p1/a.png -> p1/a: the path below the images folder and its split, without suffix."""
    parts = list(relative.parts)
    if "images" in parts[:-1]:
        cut = len(parts) - 1 - parts[::-1].index("images")
        parts = parts[cut + 1 :]
    if len(parts) > 1 and parts[0].lower() in SPLIT_NAMES:
        parts = parts[1:]
    return PurePosixPath(*parts).with_suffix("").as_posix()
