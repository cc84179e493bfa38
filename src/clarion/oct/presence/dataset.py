"""ErmPresence: phantom B-scans with the presence of an epiretinal membrane at every A-scan."""

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
from clarion.data.integrity import IntegrityReport, check_patients
from clarion.data.splits import split_hash
from clarion.errors import UsageError
from clarion.samples import Sample

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
FOLDER_VERSION = 1  # raise it when the folder's content changes: the cache is named by it
GROUPS = ("stage", "direction", "laterality")  # columns of the truth that make subgroups
LAST_SEED = 1  # of the phantom: eyes of validation (seeds from 900,000) are never trained on
EYES = {"train": 320, "val": 50, "test": 60}
BSCANS = {"train": 8, "val": 8, "test": 12}


class ErmPresence:
    """B-scans of phantom eyes in the natural mixture of stages, with presence per A-scan; built once, in the cache.

    eyes, bscans_per_eye: per split, lines drawn from the whole raster; phantom_seed: 0 or 1, of the eyes, independent
    of the run's seed. The ILM of val and test is the true one with the errors of a layer network. root must be null.
    """

    def __init__(
        self,
        name: str,
        task: str = "presence",
        root: str | None = None,
        seed: int = 0,
        phantom_seed: int = 1,
        kind: str = "phantom",
        eyes: Mapping[str, int] | None = None,
        bscans_per_eye: Mapping[str, int] | None = None,
        class_names: Sequence[str] = ("erm",),
        workers: int | None = None,
    ):
        if root is not None:
            raise UsageError(
                "data=erm_presence is the phantom's alone, since no format of labelled A-scans is read yet: "
                "leave data.root=null."
            )
        if not 0 <= int(phantom_seed) <= LAST_SEED:
            raise UsageError(f"data.phantom_seed={phantom_seed}: use 0 or {LAST_SEED}; later eyes are for validation.")
        self.name, self.task, self.root, self.kind = name, task, None, "phantom"
        self.phantom_seed, self.class_names, self.workers = int(phantom_seed), list(class_names), workers
        self.eyes = {split: int((eyes or EYES).get(split, 0)) for split in SPLITS}
        self.bscans = {split: int((bscans_per_eye or BSCANS).get(split, 1)) for split in SPLITS}
        if unknown := {*(eyes or {}), *(bscans_per_eye or {})} - set(SPLITS):
            raise UsageError(f"data: split {sorted(unknown)[0]!r} does not exist; use {', '.join(SPLITS)}.")
        if wrong := [n for n in self.bscans.values() if not 1 <= n <= 50]:
            raise UsageError(f"data.bscans_per_eye: {wrong[0]} is not possible, an eye has 1 to 50 B-scans.")
        self._rows: list[dict[str, str]] | None = None
        self._folder = Path()

    # ---- build ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Build the phantom (once) and read its table; idempotent."""
        if self._rows is not None:
            return
        from clarion.oct.phantom import PHANTOM_VERSION

        from .phantom_folder import write_presence_folder

        recipe = {"eyes": self.eyes, "bscans": self.bscans, "seed": self.phantom_seed,
                  "version": [PHANTOM_VERSION, FOLDER_VERSION]}  # fmt: skip
        key = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()

        def build(folder: Path) -> None:
            eyes = sum(self.eyes.values())
            log.info("data.root is null: building %d phantom eyes (seed %d)", eyes, self.phantom_seed)
            write_presence_folder(folder, self.eyes, self.bscans, self.phantom_seed, self.workers)

        self._folder = build_once(f"erm-presence-{key}", build)
        with open(self._folder / "samples.csv", encoding="utf-8", newline="") as table:
            self._rows = list(csv.DictReader(table))

    @property
    def rows(self) -> list[dict[str, str]]:
        self.prepare()
        return self._rows

    def _of(self, split: str) -> list[dict[str, str]]:
        return [row for row in self.rows if row["split"] == split]

    def _stored(self, name: str) -> dict[str, np.ndarray]:
        self.prepare()
        with np.load(self._folder / f"{name}.npz", allow_pickle=False) as stored:
            return dict(stored)

    # ---- what everyone may ask -----------------------------------------------------------------------------

    @property
    def splits(self) -> dict[str, list[str]]:
        """split -> sample ids, in order."""
        return {split: ids for split in SPLITS if (ids := [row["sample_id"] for row in self._of(split)])}

    def samples(self, split: str) -> Iterator[Sample]:
        """Samples of val or test, rendered one by one: bscan uint8 [depth, width], axial_um, lateral_um, ilm."""
        from clarion.oct.phantom import make_eye

        if split == "train":
            raise UsageError("data=erm_presence keeps strips of its train split, no B-scans: predict val or test.")
        eye, ilm = None, self._stored(f"{split}_ascans")["ilm"]
        for row, found in zip(self._of(split), ilm, strict=True):
            if eye is None or eye.seed != int(row["seed"]):
                eye = make_eye(int(row["seed"]))
            scan = eye.bscan(row["direction"], int(row["line"]))
            axial_um, lateral_um = scan.spacing
            inputs = {"bscan": scan.image, "axial_um": axial_um, "lateral_um": lateral_um, "ilm": found}
            yield Sample(row["sample_id"], row["patient_id"], inputs)

    def truth(self, split: str) -> pd.DataFrame | None:
        """One row a sample: ids, subgroups, and per A-scan presence (0, 1, NaN where the ILM is not visible), boxed
        (inside a true box) and line (brightness of the ILM line). None for train, of which no B-scan is kept."""
        if split == "train":
            return None
        rows, stored = self._of(split), self._stored(f"{split}_ascans")
        table = pd.DataFrame([{name: row[name] for name in ("sample_id", "patient_id", *GROUPS)} for row in rows])
        presence = np.where(stored["assessable"], stored["presence"], np.nan).astype(np.float32)
        for name, values in (("presence", presence), ("boxed", stored["boxed"]), ("line", stored["line"])):
            table[name] = list(values.astype(np.float32))
        return table

    def check(self) -> IntegrityReport:
        """Patients and empty splits; DataError lists everything that must stop a run."""
        report = IntegrityReport()
        check_patients(report, self.splits, {row["sample_id"]: row["patient_id"] for row in self.rows}, {})
        for split in SPLITS:
            if not self._of(split):
                report.error("split_empty", f"the {split} split holds no B-scan", [], total=1)
        report.raise_if_bad()
        return report

    def fingerprint(self) -> str:
        """Hash of every strip and truth, and the splits."""
        self.prepare()
        files = [*sorted(self._folder.glob("*.npz")), self._folder / "samples.csv"]
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
            "recipe": {"eyes": self.eyes, "bscans_per_eye": self.bscans, "seed": self.phantom_seed},
        }

    # ---- for the trainer -----------------------------------------------------------------------------------

    def datamodule(self, batch_size: int, seed: int = 0, augment: bool = True, num_workers: int = 0):
        """train and val as a LightningDataModule of strips."""
        from .loader import PresenceStrips

        return PresenceStrips({s: self._stored(s) for s in ("train", "val")}, batch_size, seed, augment, num_workers)
