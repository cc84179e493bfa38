"""OctLayers: phantom B-scans with the rows of eight retinal surfaces, for training and scoring the layer network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clarion.data.integrity import IntegrityReport, check_images
from clarion.errors import UsageError
from clarion.oct.phantom_scans import SPLITS, PhantomScans
from clarion.oct.volume import SURFACES
from clarion.samples import Sample


class OctLayers(PhantomScans):
    """B-scans of phantom eyes of every stage with their true surfaces; built once, kept in the cache.

    eyes: eyes per split (stages 0-4 take turns); bscans_per_eye: half of them next to the fovea; phantom_seed: of the
    eyes, independent of the run's seed. root must be null: layers are learned from the phantom, whose truth is exact.
    """

    cache_name, folder_version = "oct-layers", 1
    groups, needed = ("stage", "hole"), ("train", "test")

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
        self.name, self.task = name, task
        self.phantom_seed, self.class_names = int(phantom_seed), list(class_names)
        self.eyes = dict(eyes or {"train": 800, "val": 30, "test": 50})
        self.bscans, self.workers = int(bscans_per_eye), workers
        if unknown := set(self.eyes) - set(SPLITS):
            raise UsageError(f"data.eyes: split {sorted(unknown)[0]!r} does not exist; use {', '.join(SPLITS)}.")
        self._surfaces: dict[str, dict[str, np.ndarray]] = {}

    def write(self, folder: Path) -> None:
        from .phantom_folder import write_layer_folder

        eyes = {split: int(self.eyes.get(split, 0)) for split in SPLITS}
        write_layer_folder(folder, eyes, self.bscans, self.phantom_seed, self.workers)

    def files(self) -> list[Path]:
        """Every image and the surfaces."""
        return [*(self._path(row) for row in self.rows), *sorted((self.folder / "surfaces").glob("*.npz"))]

    def check_files(self, report: IntegrityReport, patients: dict[str, str]) -> None:
        """Unreadable and duplicate pictures."""
        check_images(report, {row["sample_id"]: self._path(row) for row in self.rows}, self.splits, patients, {})

    def _path(self, row: dict[str, str]) -> Path:
        return self.folder / "images" / row["split"] / f"{row['sample_id']}.png"

    def _true(self, split: str) -> dict[str, np.ndarray]:
        if split not in self._surfaces:
            with np.load(self.folder / "surfaces" / f"{split}.npz", allow_pickle=False) as stored:
                self._surfaces[split] = dict(stored)
        return self._surfaces[split]

    def samples(self, split: str) -> Iterator[Sample]:
        """Samples with the inputs image (a path), axial_um, lateral_um."""
        for row in self.of(split):
            scale = {name: float(row[name]) for name in ("axial_um", "lateral_um")}
            yield Sample(row["sample_id"], row["patient_id"], {"image": self._path(row), **scale})

    def truth(self, split: str) -> pd.DataFrame:
        """One row a sample: sample_id, patient_id, surfaces (eight rows of pixels), axial_um, lateral_um, subgroups."""
        rows, true, table = self.of(split), self._true(split), self.truth_table(split)
        table["surfaces"] = [list(true[row["sample_id"]]) for row in rows]
        for name in ("axial_um", "lateral_um"):
            table[name] = [float(row[name]) for row in rows]
        return table

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
                for row in self.of(split)
            ]
            for split in ("train", "val")
        }
        return LayerScans(labelled, batch_size, seed, crop, num_workers)
