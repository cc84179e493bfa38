"""Which image goes to train, val and test: as the user laid it down, completed by patient where they did not."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clarion.data.layout import SPLIT_NAMES, Item
from clarion.data.paths import named_error
from clarion.data.patients import Table
from clarion.data.splits import fold_patients, patient_order, split_patients
from clarion.errors import UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How to complete splits; every share is of patients. See DetectionData for the meaning of each."""

    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2})
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    train_fraction: float = 1.0
    fold: int | None = None
    folds: int = 5
    stratify: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value in (("val_fraction", self.val_fraction), ("test_fraction", self.test_fraction)):
            if not 0 < value < 1:
                raise UsageError(f"data.{option}={value} must lie between 0 and 1.")
        if not 0 < self.train_fraction <= 1:
            raise UsageError(f"data.train_fraction={self.train_fraction} must lie in (0, 1].")
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise UsageError(f"data.fold={self.fold} must lie in 0..{self.folds - 1} (data.folds={self.folds}).")


def partition(
    items: Sequence[Item], patient: Mapping[str, str], table: Table | None, plan: Plan
) -> dict[str, list[Item]]:
    """Split -> its items, for train, val and test as far as they exist.

    patient: item key -> patient as the user names them (so that splits do not depend on pseudonyms)."""
    of_patient: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        of_patient[patient[item.key]].append(item)
    strata = _strata(of_patient, table, plan.stratify) if plan.stratify else None
    given = given_splits(items, table)

    def gather(people: Sequence[str]) -> list[Item]:
        return [item for p in people for item in of_patient[p]]

    def carve(name: str, share: float) -> None:
        """Move a share of train's patients into the split `name`."""
        people = {patient[i.key] for i in splits["train"]}
        moved = set(split_patients(people, {name: share, "train": 1 - share}, plan.seed, strata)[name])
        splits[name] = [i for i in splits["train"] if patient[i.key] in moved]
        splits["train"] = [i for i in splits["train"] if patient[i.key] not in moved]

    if plan.fold is not None:
        parts = fold_patients(of_patient, plan.folds, plan.seed, strata)
        rest = [p for k, part in enumerate(parts) if k != plan.fold for p in part]
        splits = {"test": gather(parts[plan.fold]), "train": gather(rest)}
        carve("val", plan.val_fraction)
    elif not given:
        parts = split_patients(of_patient, plan.fractions, plan.seed, strata)
        splits = {name: gather(people) for name, people in parts.items()}
    else:
        splits = defaultdict(list)
        for item in items:
            splits[given[item.key]].append(item)
        if splits.get("train") and not splits.get("test"):
            log.warning("data has no test split: %.0f %% of train's patients become it", 100 * plan.test_fraction)
            carve("test", plan.test_fraction)
        if splits.get("train") and not splits.get("val"):
            carve("val", plan.val_fraction)
    if plan.train_fraction < 1 and splits.get("train"):
        people = patient_order({patient[i.key] for i in splits["train"]}, plan.seed)
        kept = set(people[: max(1, round(len(people) * plan.train_fraction))])
        splits["train"] = [i for i in splits["train"] if patient[i.key] in kept]
    return {name: splits[name] for name in ("train", "val", "test") if splits.get(name)}


def given_splits(items: Sequence[Item], table: Table | None) -> dict[str, str]:
    """item key -> split as folders or the `split` column say; {} when neither does. DataError when they disagree,
    when a name is unknown, or when only some images have one."""
    written = table.split if table else {}
    given: dict[str, str] = {}
    for item in items:
        text = written.get(item.key)
        if text is not None and text not in SPLIT_NAMES:
            raise named_error(
                "{file}: split {text!r} is unknown; write train, val or test.", file=table.file.name, text=text
            )
        split = SPLIT_NAMES[text] if text else item.split
        if text and item.split and split != item.split:
            raise named_error(
                "{name} lies in {folder} but {file} says {split}; make them agree.",
                names={"name": item.key},
                folder=item.split,
                file=table.file.name,
                split=split,
            )
        if split:
            given[item.key] = split
    if given and len(given) < len(items):
        rest = [i.key for i in items if i.key not in given]
        message = "{count} images have no split while others do, such as {name}; give one to all or to none."
        raise named_error(message, names={"name": rest[0]}, count=len(rest))
    return given


def _strata(of_patient: Mapping[str, Sequence[Item]], table: Table | None, column: str) -> dict[str, str]:
    """patient -> the most frequent value of a column among their images."""
    values = (table.groups if table else {}).get(column)
    if values is None:
        raise UsageError(f"data.stratify={column} is not a column of samples.csv.")
    return {p: Counter(values.get(i.key, "") for i in own).most_common(1)[0][0] for p, own in of_patient.items()}
