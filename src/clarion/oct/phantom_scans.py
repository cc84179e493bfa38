"""PhantomScans: what data objects of single phantom B-scans share; the rooms' own are OctLayers and ErmPresence."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from clarion.data.cache import build_once
from clarion.data.fingerprint import fingerprint_files
from clarion.data.integrity import IntegrityReport, check_patients
from clarion.data.splits import split_hash

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


class PhantomScans(ABC):
    """A folder of phantom B-scans, built once and kept in the cache, whose samples.csv has a row a B-scan.

    A child sets name, task, class_names, phantom_seed, eyes {split: eyes} and bscans; it answers `samples` and `truth`.
    """

    cache_name: str  # of the folder in the cache, before the recipe's hash
    folder_version: int  # raised when the folder's content changes: the cache is named by it
    groups: Sequence[str]  # columns of the truth that make subgroups
    needed: Sequence[str] = SPLITS  # splits that must not be empty
    kind, root = "phantom", None
    _rows: list[dict[str, str]] | None = None
    _folder = Path()

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Fill the folder: samples.csv (sample_id, patient_id, split, the groups, ...) and what else is read."""

    @abstractmethod
    def files(self) -> Iterable[Path]:
        """What the fingerprint covers."""

    def prepare(self) -> None:
        """Build the phantom (once) and read its table; idempotent."""
        if self._rows is not None:
            return
        from clarion.oct.phantom import PHANTOM_VERSION

        recipe = {"eyes": {split: int(self.eyes.get(split, 0)) for split in SPLITS}, "bscans": self.bscans,
                  "seed": self.phantom_seed, "version": [PHANTOM_VERSION, self.folder_version]}  # fmt: skip
        key = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()

        def build(folder: Path) -> None:
            eyes = sum(self.eyes.values())
            log.info("data.root is null: building %d phantom eyes (seed %d)", eyes, self.phantom_seed)
            self.write(folder)

        self._folder = build_once(f"{self.cache_name}-{key}", build)
        with open(self._folder / "samples.csv", encoding="utf-8", newline="") as table:
            self._rows = list(csv.DictReader(table))

    @property
    def folder(self) -> Path:
        """Where the phantom lies."""
        self.prepare()
        return self._folder

    @property
    def rows(self) -> list[dict[str, str]]:
        self.prepare()
        return self._rows

    def of(self, split: str) -> list[dict[str, str]]:
        """The rows of a split, in order."""
        return [row for row in self.rows if row["split"] == split]

    def truth_table(self, split: str) -> pd.DataFrame:
        """sample_id, patient_id and the groups of a split."""
        return pd.DataFrame([{n: row[n] for n in ("sample_id", "patient_id", *self.groups)} for row in self.of(split)])

    @property
    def splits(self) -> dict[str, list[str]]:
        """split -> sample ids, in order."""
        return {split: ids for split in SPLITS if (ids := [row["sample_id"] for row in self.of(split)])}

    def check(self) -> IntegrityReport:
        """Patients in two splits and empty splits; DataError lists everything that must stop a run."""
        report = IntegrityReport()
        patients = {row["sample_id"]: row["patient_id"] for row in self.rows}
        check_patients(report, self.splits, patients, {})
        self.check_files(report, patients)
        for split in self.needed:
            if not self.of(split):
                report.error("split_empty", f"the {split} split holds no B-scan", [], total=1)
        report.raise_if_bad()
        return report

    def check_files(self, report: IntegrityReport, patients: dict[str, str]) -> None:
        """Add what is wrong with the files; a folder without pictures has nothing more to check."""
        return

    def fingerprint(self) -> str:
        """Hash of every file and of the splits."""
        return fingerprint_files(self.folder, [*self.files()], {"splits": split_hash(self.splits)})

    def card(self) -> dict[str, Any]:
        """Counts of samples and patients and subgroups per split, source and fingerprint."""
        splits = {}
        for split in self.splits:
            rows = self.of(split)
            counts = {g: pd.Series([r[g] for r in rows]).value_counts().sort_index().to_dict() for g in self.groups}
            patients = len({row["patient_id"] for row in rows})
            splits[split] = {"samples": len(rows), "patients": patients, "subgroups": counts}
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
