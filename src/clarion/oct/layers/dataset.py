"""OctLayers: phantom B-scans with the rows of eight retinal surfaces, for training and scoring the layer network."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clarion.data.cache import build_once
from clarion.data.fingerprint import fingerprint_files
from clarion.data.integrity import IntegrityReport, check_images, check_patients
from clarion.data.splits import split_hash
from clarion.errors import UsageError
from clarion.oct.volume import SURFACES
from clarion.samples import Sample

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
FOLDER_VERSION = 1  # raise it when the folder's content changes: the cache is named by it
GROUPS = ("stage", "hole")  # columns of the truth that make subgroups


class OctLayers:
    """B-scans of phantom eyes of every stage with their true surfaces; built once, kept in the cache.

    eyes: eyes per split (stages 0-4 take turns); bscans_per_eye: half of them next to the fovea; phantom_seed: of the
    eyes, independent of the run's seed. root must be null: layers are learned from the phantom, whose truth is exact.
    """

    def __init__(
        self,
        name: str,
        task: str = "layers",
        root: str | None = None,
        seed: int = 0,
        phantom_seed: int = 0,
        kind: str = "phantom",
        eyes: Mapping[str, int] | None = None,
        bscans_per_eye: int = 4,
        class_names: Sequence[str] = SURFACES,
        workers: int | None = None,
    ):
        if root is not None:
            raise UsageError(
                "data=oct_layers is the phantom's alone, since no format of labelled layers is read yet: "
                "leave data.root=null."
            )
        if tuple(class_names) != SURFACES:
            raise UsageError(f"data.class_names: the surfaces are {', '.join(SURFACES)}, in this order.")
        self.name, self.task, self.root, self.kind = name, task, None, "phantom"
        self.phantom_seed, self.class_names = int(phantom_seed), list(class_names)
        self.eyes = dict(eyes or {"train": 800, "val": 30, "test": 50})
        self.bscans_per_eye, self.workers = int(bscans_per_eye), workers
        if unknown := set(self.eyes) - set(SPLITS):
            raise UsageError(f"data.eyes: split {sorted(unknown)[0]!r} does not exist; use {', '.join(SPLITS)}.")
        self._rows: list[dict[str, str]] | None = None
        self._folder = Path()
        self._surfaces: dict[str, dict[str, np.ndarray]] = {}

    # ---- build ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Build the phantom (once) and read its table; idempotent."""
        if self._rows is not None:
            return
        from clarion.oct.phantom import PHANTOM_VERSION

        from .phantom_folder import write_layer_folder

        recipe = {
            "eyes": {split: int(self.eyes.get(split, 0)) for split in SPLITS},
            "bscans": self.bscans_per_eye,
            "seed": self.phantom_seed,
            "version": [PHANTOM_VERSION, FOLDER_VERSION],
        }
        key = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()

        def build(folder: Path) -> None:
            log.info(
                "data.root is null: building %d phantom eyes (seed %d)", sum(self.eyes.values()), self.phantom_seed
            )
            write_layer_folder(folder, recipe["eyes"], self.bscans_per_eye, self.phantom_seed, self.workers)

        self._folder = build_once(f"oct-layers-{key}", build)
        with open(self._folder / "samples.csv", encoding="utf-8", newline="") as table:
            self._rows = list(csv.DictReader(table))

    @property
    def rows(self) -> list[dict[str, str]]:
        self.prepare()
        return self._rows

    def _of(self, split: str) -> list[dict[str, str]]:
        return [row for row in self.rows if row["split"] == split]

    def _path(self, row: dict[str, str]) -> Path:
        return self._folder / "images" / row["split"] / f"{row['sample_id']}.png"

    def _true(self, split: str) -> dict[str, np.ndarray]:
        if split not in self._surfaces:
            with np.load(self._folder / "surfaces" / f"{split}.npz", allow_pickle=False) as stored:
                self._surfaces[split] = dict(stored)
        return self._surfaces[split]

    # ---- what everyone may ask -----------------------------------------------------------------------------

    @property
    def splits(self) -> dict[str, list[str]]:
        """split -> sample ids, in order."""
        return {split: ids for split in SPLITS if (ids := [row["sample_id"] for row in self._of(split)])}

    def samples(self, split: str) -> Iterator[Sample]:
        """Samples with the inputs image (a path), axial_um, lateral_um."""
        for row in self._of(split):
            scale = {name: float(row[name]) for name in ("axial_um", "lateral_um")}
            yield Sample(row["sample_id"], row["patient_id"], {"image": self._path(row), **scale})

    def truth(self, split: str) -> pd.DataFrame:
        """One row a sample: sample_id, patient_id, surfaces (eight rows of pixels), axial_um, lateral_um, subgroups."""
        rows, true = self._of(split), self._true(split)
        table = pd.DataFrame([{name: row[name] for name in ("sample_id", "patient_id", *GROUPS)} for row in rows])
        table["surfaces"] = [list(true[row["sample_id"]]) for row in rows]
        for name in ("axial_um", "lateral_um"):
            table[name] = [float(row[name]) for row in rows]
        return table

    def check(self) -> IntegrityReport:
        """Files, duplicates, patients; DataError lists everything that must stop a run."""
        report = IntegrityReport()
        patients = {row["sample_id"]: row["patient_id"] for row in self.rows}
        check_patients(report, self.splits, patients, {})
        check_images(report, {row["sample_id"]: self._path(row) for row in self.rows}, self.splits, patients, {})
        for split in ("train", "test"):
            if not self._of(split):
                report.error("split_empty", f"the {split} split holds no image", [], total=1)
        report.raise_if_bad()
        return report

    def fingerprint(self) -> str:
        """Hash of every image, the surfaces, and the splits."""
        files = [*(self._path(row) for row in self.rows), *sorted((self._folder / "surfaces").glob("*.npz"))]
        return fingerprint_files(self._folder, files, {"splits": split_hash(self.splits)})

    def card(self) -> dict[str, Any]:
        """Counts of samples and patients and subgroups per split, source and fingerprint."""
        splits = {}
        for split in self.splits:
            rows = self._of(split)
            splits[split] = {
                "samples": len(rows),
                "patients": len({row["patient_id"] for row in rows}),
                "subgroups": {g: pd.Series([r[g] for r in rows]).value_counts().sort_index().to_dict() for g in GROUPS},
            }
        return {
            "name": self.name,
            "task": self.task,
            "kind": self.kind,
            "class_names": self.class_names,
            "source": "phantom of clarion.oct.phantom",
            "fingerprint": self.fingerprint(),
            "notes": [],
            "splits": splits,
            "recipe": {"eyes": self.eyes, "bscans_per_eye": self.bscans_per_eye, "seed": self.phantom_seed},
        }

    # ---- for the trainer -----------------------------------------------------------------------------------

    def datamodule(self, batch_size: int, seed: int = 0, crop: Sequence[int] = (192, 128), num_workers: int = 0):
        """train and val as a LightningDataModule at the working scale; crop: (rows, columns) of a training picture."""
        from .loader import Labelled, LayerScans

        labelled = {
            split: [
                Labelled(
                    self._path(row),
                    self._true(split)[row["sample_id"]],
                    float(row["axial_um"]),
                    float(row["lateral_um"]),
                )
                for row in self._of(split)
            ]
            for split in ("train", "val")
        }
        return LayerScans(labelled, batch_size, seed, crop, num_workers)
