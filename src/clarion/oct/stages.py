"""B-scans labelled with the stage group of an epiretinal membrane: normal, early (Govetto 1-2), advanced (3-4)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clarion.data.cache import build_once
from clarion.data.fingerprint import fingerprint_files
from clarion.data.images import IMAGE_SUFFIXES
from clarion.data.integrity import IntegrityReport, check_images, check_patients
from clarion.data.layout import SPLIT_NAMES, Item
from clarion.data.paths import data_root, nfc, walk
from clarion.data.patients import Table, match_regex, read_table, safe_subgroups
from clarion.data.pseudonym import pseudonyms, write_mapping
from clarion.data.splits import fold_patients, split_hash, split_patients
from clarion.errors import DataError, UsageError
from clarion.samples import Sample

log = logging.getLogger(__name__)

CLASS_NAMES = ("normal", "early", "advanced")
CLASS_OF_STAGE = (0, 1, 1, 2, 2)  # Govetto's stages 1-4; 0 is an eye without a membrane
SPLITS = ("train", "val", "test")
TEST_FRACTION = 0.2  # of the patients, when the folder brings no test split

EXPECTED = """Expected is <root>/<train|val|test>/<normal|early|advanced>/NAME.png, or
<root>/<normal|early|advanced>/NAME.png with samples.csv (sample_id, patient_id, [split], [any subgroup]), or images
anywhere below <root> with a samples.csv that also has the column stage (0-4)."""


@dataclass
class _Rows:
    """One entry an image, in one order: what everything below is read from."""

    sample_id: list[str] = field(default_factory=list)
    patient_id: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    path: list[Path] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)


class BscanStages:
    """Stage groups of B-scans near the fovea, from the phantom or from a folder of the user's.

    root: null builds the phantom (`eyes` per split, `bscans_per_eye` nearest the fovea, `phantom_seed`), kept in the
    cache; else a folder as EXPECTED says. The run's `seed` changes neither the phantom nor the splits (`split_seed`
    draws those that are not given), so that runs of several seeds are scored on the same eyes.
    fold: null, or which of `folds` parts of all patients is the test split. val_fraction: share of train's patients
    that becomes val where the folder has none. patient_regex: finds the patient in a file's path where no
    samples.csv does. Sample and patient ids of a user's data are pseudonyms.
    """

    def __init__(
        self,
        name: str,
        task: str = "classification",
        root: str | None = None,
        seed: int = 0,
        phantom_seed: int = 0,
        split_seed: int = 0,
        kind: str = "phantom",
        eyes: Mapping[str, int] | None = None,
        bscans_per_eye: int = 3,
        class_names: Sequence[str] = CLASS_NAMES,
        fold: int | None = None,
        folds: int = 5,
        val_fraction: float = 0.15,
        patient_regex: str | None = None,
    ):
        self.name, self.task, self.root = name, task, root
        self.phantom_seed, self.split_seed = int(phantom_seed), int(split_seed)
        self.kind = "phantom" if root is None else ("private" if kind == "phantom" else kind)
        self.eyes = dict(eyes or {"train": 100, "val": 20, "test": 40})
        self.bscans_per_eye, self.class_names = int(bscans_per_eye), list(class_names)
        self.fold, self.folds, self.val_fraction, self.patient_regex = (
            fold,
            int(folds),
            float(val_fraction),
            patient_regex,
        )
        if not 0 < self.val_fraction < 1:
            raise UsageError(f"data.val_fraction={val_fraction} must lie between 0 and 1.")
        if fold is not None and not 0 <= fold < self.folds:
            raise UsageError(f"data.fold={fold} must lie in 0..{self.folds - 1} (data.folds={self.folds}).")
        self._rows: _Rows | None = None
        self._folder = Path()
        self._table: Table | None = None
        self._names: dict[str, str] = {}  # pseudonym -> what the user calls it, for messages on the screen
        self._notes: list[str] = []

    # ---- build or find -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Build the phantom (once) or read the user's folder; idempotent."""
        if self._rows is not None:
            return
        if self.root is None:
            if tuple(self.class_names) != CLASS_NAMES:
                raise UsageError(
                    f"data.class_names: the phantom has {', '.join(CLASS_NAMES)}; other classes need data.root."
                )
            self._folder = self._build_phantom()
        else:
            self._folder = data_root(self.root, EXPECTED)
        self._rows = self._read()

    def _build_phantom(self) -> Path:
        from clarion.oct.phantom import PHANTOM_VERSION, write_stage_folder

        recipe = {
            "eyes": self.eyes,
            "bscans": self.bscans_per_eye,
            "seed": self.phantom_seed,
            "version": PHANTOM_VERSION,
        }
        key = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()

        def build(folder: Path) -> None:
            log.info(
                "data.root is null: building %d phantom eyes (seed %d)", sum(self.eyes.values()), self.phantom_seed
            )
            write_stage_folder(folder, self.eyes, self.bscans_per_eye, self.phantom_seed)

        return build_once(f"bscan-stages-{key}", build)

    def _read(self) -> _Rows:
        items, labels = self._items()
        table = self._table = read_table(self._folder, items)
        if labels is None:
            labels = self._labels_of_table(items, table)
        patients = self._patients(items, table)
        if self.root is None:
            patient_ids, sample_ids = {p: p for p in patients}, {item.key: item.path.stem for item in items}
        else:
            patient_ids = pseudonyms(set(patients), "P")
            sample_ids = pseudonyms({item.key for item in items}, "S")
            write_mapping(
                f"{self.name}",
                {
                    "patient": patient_ids,
                    "sample": sample_ids,
                },
            )
            self._names = {new: old for table_ in (patient_ids, sample_ids) for old, new in table_.items()}
        rows = _Rows(
            [sample_ids[item.key] for item in items],
            [patient_ids[patient] for patient in patients],
            [],
            labels,
            [item.path for item in items],
        )
        if table is not None:
            columns = list(table.groups) if self.root is None else safe_subgroups(table.groups, len(patient_ids))
            for column in columns:
                if self.root is None and column in ("erm_fraction", "line"):
                    continue  # of one B-scan each, no subgroup
                rows.groups[column] = [table.groups[column].get(item.key, "") for item in items]
        rows.split = self._splits(rows, [table.split.get(i.key, i.split) if table else i.split for i in items])
        return rows

    def _items(self) -> tuple[list[Item], list[int] | None]:
        """Images below the root with the split and the class that their folders say; labels None: folders say none."""
        classes = {name.lower(): index for index, name in enumerate(self.class_names)}
        items, labels = [], []
        for path in walk(self._folder, self._folder, IMAGE_SUFFIXES):
            relative = path.relative_to(self._folder)
            folders = [part.lower() for part in relative.parts[:-1]]
            split = next((SPLIT_NAMES[part] for part in folders if part in SPLIT_NAMES), None)
            key = nfc(relative.as_posix())
            items.append(Item(key, nfc(relative.with_suffix("").as_posix()), path, split))
            labels.append(next((classes[part] for part in reversed(folders) if part in classes), None))
        if not items:
            raise DataError(f"data.root={self.root} holds no image. {EXPECTED}")
        if all(label is None for label in labels):
            return items, None
        stray = [item.key for item, label in zip(items, labels, strict=True) if label is None]
        if stray:
            raise DataError(
                f"{len(stray)} image(s) lie in no class folder ({', '.join(self.class_names)}), first {stray[0]}: "
                "move them into one, or out of data.root."
            )
        return items, labels

    def _labels_of_table(self, items: list[Item], table: Table | None) -> list[int]:
        stages = table.groups.get("stage") if table else None
        if stages is None or tuple(self.class_names) != CLASS_NAMES:
            raise UsageError(f"data.root={self.root} does not say which class an image has. {EXPECTED}")
        labels = []
        for item in items:
            stage = stages.get(item.key, "")
            if stage not in {"0", "1", "2", "3", "4"}:
                raise DataError(
                    f"{table.file.name}: {item.key} has stage {stage or '(none)'!r}; write 0, 1, 2, 3 or 4."
                )
            labels.append(CLASS_OF_STAGE[int(stage)])
        return labels

    def _patients(self, items: list[Item], table: Table | None) -> list[str]:
        """The patient of each item as the user writes it."""
        if table is not None:
            if table.missing:
                raise DataError(
                    f"{table.file.name} has no row for {len(table.missing)} image(s), "
                    f"first {table.missing[0].key}: add them."
                )
            return [table.patient[item.key] for item in items]
        if self.patient_regex:
            found, missed = match_regex(self.patient_regex, items)
            if missed:
                raise DataError(f"data.patient_regex finds no patient in {len(missed)} path(s), first {missed[0].key}.")
            return [found[item.key] for item in items]
        if any(item.split is None for item in items) or self.fold is not None:
            raise UsageError(
                "Splitting needs to know which patient an image is of: add samples.csv (sample_id, patient_id) to "
                "data.root, or set data.patient_regex."
            )
        self._notes.append("patients unknown: every image counts as a patient of its own, leaks cannot be seen")
        return [item.key for item in items]

    def _splits(self, rows: _Rows, given: list[str | None]) -> list[str]:
        """A split for every row: as given, by folds, or drawn by patient; val is carved from train where absent."""
        classes = {patient: label for patient, label in zip(rows.patient_id, rows.label, strict=True)}
        if self.fold is not None:
            folds = fold_patients(classes, self.folds, self.split_seed, strata=classes)
            test = set(folds[self.fold])
            split = ["test" if patient in test else "train" for patient in rows.patient_id]
        elif all(name is None for name in given):
            parts = split_patients(
                classes, {"train": 1 - TEST_FRACTION, "test": TEST_FRACTION}, self.split_seed, strata=classes
            )
            test = set(parts["test"])
            split = ["test" if patient in test else "train" for patient in rows.patient_id]
        else:
            names = {name: SPLIT_NAMES.get(name or "") for name in given}
            wrong = next((name for name, known in names.items() if known is None), "")
            if wrong != "":
                raise DataError(
                    f"An image has split {wrong or '(none)'!r}: every image needs train, val or test, or none has one."
                )
            split = [names[name] for name in given]
        if "val" not in split:
            inside = {p: classes[p] for p, name in zip(rows.patient_id, split, strict=True) if name == "train"}
            shares = {"train": 1 - self.val_fraction, "val": self.val_fraction}
            val = set(split_patients(inside, shares, self.split_seed, strata=inside)["val"])
            split = [
                "val" if name == "train" and p in val else name for p, name in zip(rows.patient_id, split, strict=True)
            ]
        return split

    # ---- what everyone may ask -----------------------------------------------------------------------------

    @property
    def rows(self) -> _Rows:
        self.prepare()
        return self._rows

    @property
    def splits(self) -> dict[str, list[str]]:
        """split -> sample ids, in order."""
        return {
            split: [self.rows.sample_id[i] for i in self._indices(split)] for split in SPLITS if self._indices(split)
        }

    def _indices(self, split: str) -> list[int]:
        return [i for i, name in enumerate(self.rows.split) if name == split]

    def samples(self, split: str) -> Iterator[Sample]:
        """Samples with the input `image` (a path)."""
        for i in self._indices(split):
            yield Sample(self.rows.sample_id[i], self.rows.patient_id[i], {"image": self.rows.path[i]})

    def truth(self, split: str) -> pd.DataFrame:
        """One row a sample: sample_id, patient_id, label (class index) and subgroup columns (text)."""
        rows, chosen = self.rows, self._indices(split)
        columns = {"sample_id": rows.sample_id, "patient_id": rows.patient_id, "label": rows.label, **rows.groups}
        return pd.DataFrame({name: [values[i] for i in chosen] for name, values in columns.items()})

    def check(self) -> IntegrityReport:
        """Files, duplicates, patients and classes; DataError lists everything that must stop a run."""
        rows, report = self.rows, IntegrityReport()
        patients = dict(zip(rows.sample_id, rows.patient_id, strict=True))
        check_patients(report, self.splits, patients, self._names)
        check_images(report, dict(zip(rows.sample_id, rows.path, strict=True)), self.splits, patients, self._names)
        for split in ("train", "test"):
            present = Counter(rows.label[i] for i in self._indices(split))
            absent = [(name, name) for k, name in enumerate(self.class_names) if not present[k]]
            if not present:
                report.error("split_empty", f"the {split} split holds no image", [], total=1)
            elif split == "train":
                report.error(
                    "class_absent", "classes without a single image in train; add some, or remove the class", absent
                )
            else:
                report.warning("class_absent_test", "classes without an image in test cannot be scored", absent)
        if self._table and self._table.unmatched:
            unmatched = self._table.unmatched
            report.warning(
                "rows_unmatched", f"rows of {self._table.file.name} match no image", [("row", u) for u in unmatched]
            )
        for note in self._notes:
            report.warning("note", note, [], total=1)
        report.raise_if_bad()
        return report

    def fingerprint(self) -> str:
        """Hash of every image and table used, the classes and the splits."""
        files = [*self.rows.path, *([self._table.file] if self._table else [])]
        extra = {"classes": ",".join(self.class_names), "splits": split_hash(self.splits)}
        return fingerprint_files(self._folder, files, extra)

    def card(self) -> dict[str, Any]:
        """Counts of samples and patients, class balance and subgroups per split, source and fingerprint."""
        card: dict[str, Any] = {
            "name": self.name,
            "task": self.task,
            "kind": self.kind,
            "class_names": self.class_names,
            "source": "phantom of clarion.oct.phantom" if self.root is None else "folder given by data.root",
            "fingerprint": self.fingerprint(),
            "notes": list(self._notes),
            "splits": {},
        }
        if self.root is None:
            card["recipe"] = {"eyes": self.eyes, "bscans_per_eye": self.bscans_per_eye, "seed": self.phantom_seed}
        for split in self.splits:
            truth = self.truth(split)
            card["splits"][split] = {
                "samples": len(truth),
                "patients": int(truth["patient_id"].nunique()),
                "classes": {name: int((truth["label"] == k).sum()) for k, name in enumerate(self.class_names)},
                "subgroups": {g: truth[g].value_counts().sort_index().to_dict() for g in self.rows.groups},
            }
        return card

    # ---- for trainers --------------------------------------------------------------------------------------

    def datamodule(
        self, batch_size: int, image_size: int = 224, seed: int = 0, augment: bool = True, num_workers: int = 0
    ):
        """train and val as a LightningDataModule of grey uint8 images [B, 1, image_size, image_size]."""
        from clarion.oct.stage_loader import GreyImageModule, Labelled

        rows = self.rows
        labelled = {
            split: Labelled(
                [rows.path[i] for i in self._indices(split)],
                np.array([rows.label[i] for i in self._indices(split)], dtype=np.int64),
            )
            for split in ("train", "val")
        }
        return GreyImageModule(labelled, self.class_names, batch_size, image_size, seed, augment, num_workers)

    def table(self, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """(features [n, 53] float64, class indices [n], sample ids) by clarion.oct.image_statistics."""
        from concurrent.futures import ThreadPoolExecutor

        from clarion.oct.image_statistics import image_statistics

        chosen = self._indices(split)
        with ThreadPoolExecutor(max_workers=4) as readers:
            features = list(readers.map(image_statistics, [self.rows.path[i] for i in chosen]))
        labels = np.array([self.rows.label[i] for i in chosen], dtype=np.int64)
        return np.stack(features), labels, [self.rows.sample_id[i] for i in chosen]
