"""Boxes in images: a user's YOLO-format folder or COCO json, as the data object of a run."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clarion.data.coco import coco_files, read_coco
from clarion.data.fingerprint import fingerprint_files
from clarion.data.images import ImageFacts
from clarion.data.integrity import Boxes, IntegrityReport, check_boxes, check_images, check_patients
from clarion.data.layout import EXPECTED_LAYOUT, Folder, Item
from clarion.data.partition import Plan, partition
from clarion.data.paths import data_root
from clarion.data.patients import Table, match_regex, read_table, safe_subgroups
from clarion.data.pseudonym import pseudonyms, write_mapping
from clarion.data.splits import split_hash
from clarion.data.yolo import read_yolo
from clarion.data.yolo_tree import Entry, build_yolo_tree
from clarion.errors import UsageError
from clarion.samples import Sample


class DetectionData:
    """A folder of images with boxes.

    root: the user's folder (see EXPECTED_LAYOUT); nothing is ever written into it.
    format: auto, yolo or coco. class_names: needed when the folder does not name its classes.
    Patients come from samples.csv or patients.csv, else from `patient_regex` (searched in the path below root:
    the group named patient, the first group, or the whole match), else every image counts as its own patient
    and a warning says so.
    Splits come from folders, data.yaml, json names or the `split` column; what is missing is cut by patient:
    no splits at all -> `fractions`; no val -> `val_fraction` of train's patients; no test -> `test_fraction` of
    them. train_fraction keeps that share of train's patients (smaller shares are subsets of larger ones).
    fold=k pools all patients (the given splits too) into `folds` parts: part k is test, val is cut from the rest,
    so that the test parts of all folds cover every image once. stratify: a column of samples.csv.
    split_seed drives all this; it is apart from `seed` so that runs of several seeds share their test images
    (null: follow `seed`).
    pseudonyms: sample and patient ids become keyed hashes; null: yes for kind=private, no otherwise.
    subgroups: columns of samples.csv that truth() carries; null: those with few values and no identifying name.
    expected: a description of the layout, shown when root is wrong."""

    has_truth = True

    def __init__(
        self,
        name: str,
        task: str = "detection",
        kind: str = "private",
        root: str | None = None,
        seed: int = 0,
        fold: int | None = None,
        folds: int = 5,
        format: str = "auto",
        class_names: Sequence[str] | None = None,
        patient_regex: str | None = None,
        fractions: Mapping[str, float] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        train_fraction: float = 1.0,
        stratify: str | None = None,
        split_seed: int | None = 0,
        pseudonyms: bool | None = None,
        subgroups: Sequence[str] | None = None,
        expected: str = EXPECTED_LAYOUT,
    ):
        if format not in ("auto", "yolo", "coco"):
            raise UsageError(f"data.format={format} is unknown; use auto, yolo or coco.")
        self.name, self.task, self.kind, self.root, self.seed = name, task, kind, root, seed
        self.format, self.patient_regex, self.fold, self.folds = format, patient_regex, fold, folds
        self.plan = Plan(
            fractions=dict(fractions or Plan().fractions),
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            train_fraction=train_fraction,
            fold=fold,
            folds=folds,
            stratify=stratify,
            seed=seed if split_seed is None else split_seed,
        )
        self.pseudonymous = kind == "private" if pseudonyms is None else pseudonyms
        self.expected = expected
        self.source = "the user's folder"
        self._given_names, self._given_subgroups = class_names, subgroups
        self._prepared = False
        self._report: IntegrityReport | None = None
        self._fingerprint: str | None = None

    # -- finding the data -------------------------------------------------------------------------------------

    def find_root(self) -> Path:
        """The folder to read. UsageError when the user named none, or a wrong one."""
        if self.root is None:
            raise UsageError(f"data={self.name} reads your own folder: give data.root=/path/to/folder. {self.expected}")
        return data_root(self.root, self.expected)

    def prepare(self) -> None:
        """List the images, read labels and tables, settle patients, ids and splits. Decodes no image."""
        if self._prepared:
            return
        self._root = self.find_root()
        as_coco = self.format == "coco"
        if self.format == "auto":  # a labels folder is YOLO's; json files of other programs may lie beside it
            as_coco = not (self._root / "labels").is_dir() and bool(coco_files(self._root))
        self._folder: Folder = read_coco(self._root) if as_coco else read_yolo(self._root)
        items = self._folder.items
        if not items:
            raise UsageError(f"data={self.name} found no image below data.root. {self.expected}")
        self._class_names = self._settle_classes()
        self._table = read_table(self._root, items)
        self._patients_known, raw_patient = self._settle_patients(items, self._table)
        self._settle_ids(items, raw_patient)
        raw_splits = partition(items, raw_patient, self._table, self.plan)
        self._raw_split_hash = split_hash({s: [i.key for i in found] for s, found in raw_splits.items()})
        self._splits = {s: sorted(self._id_of[i.key] for i in found) for s, found in raw_splits.items()}
        used = {i for ids in self._splits.values() for i in ids}
        self._items = {self._id_of[i.key]: i for i in items if self._id_of[i.key] in used}
        self._prepared = True

    def _settle_classes(self) -> list[str]:
        found, given = self._folder.class_names, self._given_names
        if found and given and list(found) != list(given):
            raise UsageError(f"data.class_names={list(given)} differs from the folder's own {found}; give one of them.")
        names = list(given or found or [])
        if not names:
            raise UsageError("the folder does not name its classes; give them in order, as in data.class_names=[erm].")
        return names

    def _settle_patients(self, items: Sequence[Item], table: Table | None) -> tuple[bool, dict[str, str]]:
        if table is not None:
            return True, table.patient | {i.key: f"unknown/{i.key}" for i in table.missing}
        self._regex_missed: list[Item] = []
        if self.patient_regex:
            patient, self._regex_missed = match_regex(self.patient_regex, items)
            return True, patient | {i.key: f"unknown/{i.key}" for i in self._regex_missed}
        return False, {i.key: i.key for i in items}

    def _settle_ids(self, items: Sequence[Item], raw_patient: Mapping[str, str]) -> None:
        """Sample and patient ids as every later part sees them, and the names to show on the user's screen."""
        keys, who = [i.key for i in items], sorted(set(raw_patient.values()))
        if self.pseudonymous:
            self._id_of, patient_id = pseudonyms(keys, "S"), pseudonyms(who, "P")
            scope = hashlib.sha256(str(self._root).encode()).hexdigest()[:16]
            write_mapping(scope, {"patient": patient_id, "sample": self._id_of})
        else:
            short = Counter(Path(k).stem for k in keys)
            plain = {k: Path(k).stem if short[Path(k).stem] == 1 else k.replace("/", "__") for k in keys}
            self._id_of, patient_id = plain, {p: p for p in who}
        self._patient_of = {self._id_of[k]: patient_id[raw_patient[k]] for k in keys}
        self._names = {self._id_of[k]: k for k in keys} | {patient_id[p]: p for p in who}

    # -- the data object --------------------------------------------------------------------------------------

    @property
    def class_names(self) -> list[str]:
        self.prepare()
        return list(self._class_names)

    @property
    def splits(self) -> dict[str, list[str]]:
        """Split -> sample ids, in order of id."""
        self.prepare()
        return {name: list(ids) for name, ids in self._splits.items()}

    def split_hash(self) -> str:
        """Which image is in which split, by the user's names: equal on every machine, pseudonyms or not."""
        self.prepare()
        return self._raw_split_hash

    def check(self) -> IntegrityReport:
        """All checks of DESIGN rule 4; raises DataError when an error was found. Done once."""
        self.prepare()
        if self._report is None:
            report = IntegrityReport()
            self._check_folder(report)
            check_patients(report, self._splits, self._patient_of, self._names)
            images = {i: item.path for i, item in self._items.items()}
            declared = {i: item.size for i, item in self._items.items() if item.size}
            self._facts = check_images(report, images, self._splits, self._patient_of, self._names, declared)
            self._boxes = {i: _boxes(item, self._facts[i]) for i, item in self._items.items()}
            check_boxes(report, self._boxes, self._class_names, self._names)
            self._boxes = {i: _without_doubles(b) for i, b in self._boxes.items()}
            self._report = report
        self._report.raise_if_bad()
        return self._report

    def _check_folder(self, report: IntegrityReport) -> None:
        named = [(i, item) for i, item in self._items.items()]
        bad = [(f"{i}: {p}", f"{item.label_name()}: {p}") for i, item in named for p in item.problems]
        report.error("label_unreadable", "labels cannot be read; correct them", bad)
        folder = self._folder
        report.error("label_unreadable", "label entries fit no image", [("an entry", p) for p in folder.problems])
        bare = [(i, item.key) for i, item in named if item.label is None]
        if bare and len(bare) == len(named):
            text = "no image has a label file; put them under labels/ with the images' names"
            report.error("labels_missing", text, bare)
        else:
            report.warning("label_missing", "images without a label file count as images without a box", bare)
        orphans = [("a label file", name) for name in folder.orphans]
        report.warning("image_missing", "label files belong to no image; they are not used", orphans)
        report.counts["images"] = len(named)
        report.counts["labels_without_image"] = len(orphans)
        report.counts["images_without_label_file"] = len(bare)
        report.counts["crowd_regions_left_out"] = sum(item.ignored for _, item in named)
        if not self._patients_known:
            text = (
                "patients are unknown, so each image counts as one: intervals are too narrow and leaks between splits "
                "stay unseen; add samples.csv (sample_id, patient_id) or set data.patient_regex"
            )
            report.warning("patients_unknown", text, [], total=len(named))
        elif self._table:
            missing = [(self._id_of[i.key], i.key) for i in self._table.missing]
            text = f"images have no row in {self._table.file.name}; add their patient"
            report.error("patient_missing", text, missing)
            rows = [("a row", name) for name in self._table.unmatched]
            report.warning("row_unmatched", f"rows of {self._table.file.name} match no image, or several", rows)
        else:
            missed = [(self._id_of[i.key], i.key) for i in self._regex_missed]
            report.error("patient_missing", "data.patient_regex does not match these images; widen it", missed)

    def fingerprint(self) -> str:
        """Content hash of all images, labels and tables used (hex); unchanged by their order."""
        self.prepare()
        if self._fingerprint is None:
            files = [item.path for item in self._items.values() if item.path.is_file()] + list(self._folder.files)
            if self._table:
                files.append(self._table.file)
            self._fingerprint = fingerprint_files(self._root, files, {"classes": "\n".join(self._class_names)})
        return self._fingerprint

    def _ids(self, split: str) -> list[str]:
        if split not in self.splits:
            raise UsageError(f"data={self.name} has no split {split!r}; it has {', '.join(self.splits)}.")
        return self.splits[split]

    def samples(self, split: str) -> Iterator[Sample]:
        """Images of a split in order of id; inputs = {"image": Path}."""
        ids = self._ids(split)
        self.check()
        for i in ids:
            yield Sample(i, self._patient_of[i], {"image": self._items[i].path})

    def truth(self, split: str) -> pd.DataFrame:
        """One row a sample: sample_id, patient_id, boxes ([[x1, y1, x2, y2], ...] in pixels of the image as
        displayed), labels (class indices), width, height, and the subgroup columns."""
        ids = self._ids(split)
        self.check()
        frame = pd.DataFrame(
            {
                "sample_id": ids,
                "patient_id": [self._patient_of[i] for i in ids],
                "boxes": pd.Series([self._boxes[i].boxes.tolist() for i in ids], dtype=object),
                "labels": pd.Series([self._boxes[i].labels.tolist() for i in ids], dtype=object),
                "width": [self._facts[i].width for i in ids],
                "height": [self._facts[i].height for i in ids],
            }
        )
        for column in self.subgroups:
            values = self._table.groups[column]
            frame[column] = [values.get(self._items[i].key, "") for i in ids]
        return frame

    @property
    def subgroups(self) -> list[str]:
        """Columns of truth() that scores may be split by."""
        self.prepare()
        groups = self._table.groups if self._table else {}
        if self._given_subgroups is not None:
            return [c for c in self._given_subgroups if c in groups]
        return safe_subgroups(groups, len(set(self._patient_of.values())))

    def card(self) -> dict[str, Any]:
        """What was used, in numbers; holds no file name and no patient."""
        report = self.check()
        splits = {}
        for split, ids in self._splits.items():
            frame = self.truth(split)
            labels = Counter(label for row in frame["labels"] for label in row)
            splits[split] = {
                "samples": len(ids),
                "patients": int(frame["patient_id"].nunique()),
                "samples_with_box": int(sum(len(b) > 0 for b in frame["boxes"])),
                "boxes": {name: labels.get(k, 0) for k, name in enumerate(self._class_names)},
                "subgroups": {c: {str(k): int(v) for k, v in frame[c].value_counts().items()} for c in self.subgroups},
            }
        sizes = Counter(f"{f.width}x{f.height}" for f in self._facts.values())
        return {
            "name": self.name,
            "task": self.task,
            "kind": self.kind,
            "source": self.source,
            "format": self._folder.format,
            "class_names": self.class_names,
            "splits": splits,
            "image_sizes": dict(sizes.most_common(10)),
            "patients_known": self._patients_known,
            "pseudonyms": self.pseudonymous,
            "fold": None if self.fold is None else {"fold": self.fold, "folds": self.folds},
            "fingerprint": self.fingerprint(),
            "split_hash": self.split_hash(),
            "integrity": report.to_dict(),
        }

    def yolo_yaml(self) -> Path:
        """Absolute path of a data yaml for ultralytics, on a tree of links in the cache (clarion.data.yolo_tree)."""
        self.check()
        if "train" not in self._splits:
            raise UsageError(f"data={self.name} has no train split; it can be scored, not trained on.")
        where = hashlib.sha256(str(self._root).encode()).hexdigest()[:8]  # links break when the folder moves
        ids = split_hash(self._splits)[:12]
        return build_yolo_tree(
            f"yolo-{self.fingerprint()[:16]}-{ids}-{where}",
            {split: [self._entry(i) for i in ids] for split, ids in self._splits.items()},
            self._class_names,
        )

    def _entry(self, i: str) -> Entry:
        item, boxes, facts = self._items[i], self._boxes[i], self._facts[i]
        return Entry(i, item.path, boxes.boxes, boxes.labels, facts.width, facts.height, copy=not facts.whole)


def _boxes(item: Item, facts: ImageFacts) -> Boxes:
    """Labels in pixels; a box that sticks out by rounding (up to 1 px) is clipped."""
    size = (facts.width, facts.height) if not facts.error else item.size or (0, 0)
    boxes = item.pixels(*size)
    if len(boxes) and all(size):
        limit = np.array([size[0], size[1], size[0], size[1]], dtype=float)
        clipped = np.clip(boxes, 0, limit)
        boxes = np.where(np.abs(boxes - clipped) <= 1.0, clipped, boxes)
    return Boxes(boxes, item.labels, *size, item.where)


def _without_doubles(b: Boxes) -> Boxes:
    """Each box of a class once, in the order written."""
    rows = np.column_stack([b.labels, np.round(b.boxes, 3)])
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return Boxes(b.boxes[first], b.labels[first], b.width, b.height, [b.where[k] for k in first])
