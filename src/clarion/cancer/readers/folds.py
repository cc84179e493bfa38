"""Who trains and who tests: published folds, own folds, shares, or whole cancers left out; always by patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from clarion.cancer.cohort import Cohort
from clarion.cancer.readers.tables import file_error, read_table, stem
from clarion.data.paths import inside
from clarion.data.splits import fold_patients, patient_order, split_patients
from clarion.errors import UsageError

SPLITS = ("train", "val", "test")
FEW = 50  # patients of a cancer left out that few-shot runs may train on
WATCHED = 10  # of its patients whose loss is watched where only those few train; all others are the test patients


@dataclass(frozen=True)
class Plan:
    """fold: which part is the test split, None for shares; val_fraction: of the training patients; leave_out: a cancer
    that is tested only; few_shot: so many of its patients train too (0 to 50; the test patients are the same for all);
    scratch: nobody else trains."""

    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2})
    fold: int | None = None
    folds: int = 5
    val_fraction: float = 0.15
    leave_out: str | None = None
    few_shot: int | None = None
    scratch: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.val_fraction < 1:
            raise UsageError(f"data.val_fraction={self.val_fraction} must lie between 0 and 1.")
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise UsageError(f"data.fold={self.fold} must lie in 0..{self.folds - 1} (data.folds={self.folds}).")
        if self.leave_out is not None and self.fold is not None:
            raise UsageError("data.leave_out names the test patients already; leave data.fold=null.")
        if self.few_shot is not None and (self.leave_out is None or not 0 <= self.few_shot <= FEW):
            raise UsageError(f"data.few_shot is 0 to {FEW} patients of a cancer that data.leave_out names.")
        if self.scratch and not self.few_shot:
            raise UsageError("data.scratch=true trains on the few-shot patients alone: give data.few_shot too.")


def split_cohort(cohort: Cohort, plan: Plan, published: Mapping[str, Path] | None = None) -> dict[str, list[str]]:
    """split -> patient ids as the cohort names them.

    published: cancer -> file with the columns train and val of the wanted fold (its val is our test split), for every
    cancer or for none. A patient whom such a file puts on both sides stays on both: the check refuses that."""
    strata = {p: f"{c}/{e}" for p, c, e in zip(cohort.patients, cohort.clinical["cancer"], cohort.event, strict=True)}
    if plan.leave_out is not None:
        train, val, test = _without_cancer(cohort, plan)
        if plan.scratch:
            return {"train": train, "val": val, "test": test}
    elif plan.fold is not None and published:
        train, test = _published(cohort, published)
    elif plan.fold is not None:
        parts = fold_patients(cohort.patients, plan.folds, plan.seed, strata)
        test = parts[plan.fold]
        train = [p for k, part in enumerate(parts) if k != plan.fold for p in part]
    else:
        return split_patients(cohort.patients, dict(plan.fractions), plan.seed, strata)
    share = {"val": plan.val_fraction, "train": 1 - plan.val_fraction}
    return {**split_patients(train, share, plan.seed, strata), "test": test}


def _without_cancer(cohort: Cohort, plan: Plan) -> tuple[list[str], list[str], list[str]]:
    """(train, watched, test): with few_shot=k the first k patients of the cancer train, all k of them."""
    cancer = next((c for c in cohort.cancers if c.lower() == str(plan.leave_out).lower()), None)
    if cancer is None:
        raise UsageError(f"data.leave_out={plan.leave_out}: no such cancer; choose one of {', '.join(cohort.cancers)}.")
    out = set(cohort.patients[cohort.clinical["cancer"] == cancer])
    order = patient_order(out, plan.seed)
    others = [] if plan.scratch else [p for p in cohort.patients if p not in out]
    if plan.few_shot is None:
        return others, [], order
    if len(order) < 2 * FEW:
        raise UsageError(f"{cancer} has {len(order)} patients; few-shot runs need {2 * FEW}.")
    kept = FEW + WATCHED
    return others + order[: plan.few_shot], order[FEW:kept], order[kept:]


def _published(cohort: Cohort, published: Mapping[str, Path]) -> tuple[list[str], list[str]]:
    absent = [c for c in cohort.cancers if c not in published]
    if absent:
        raise UsageError(f"{', '.join(absent)} has no published fold while others do; leave data.fold=null.")
    train: list[str] = []
    test: list[str] = []
    for path in dict.fromkeys(published.values()):
        table = _read_fold(path)
        _refuse_shared(path, table)
        train += [str(p) for p in table["train"].dropna()]
        test += [str(p) for p in table["val"].dropna()]
    return [p for p in dict.fromkeys(train) if p in cohort.patients], [p for p in test if p in cohort.patients]


def _read_fold(path: Path) -> pd.DataFrame:
    table = read_table(path)
    if not {"train", "val"} <= set(table.columns):
        raise file_error(path, "lacks the columns train and val.")
    return table


def _refuse_shared(path: Path, table: pd.DataFrame) -> None:
    """DataError where a patient of this fold's val is in another fold's too: he would be tested twice."""
    own = set(table["val"].dropna().astype(str))
    for other in sorted(path.parent.glob("splits_*.csv")):
        if other.name == path.name or other.is_symlink():
            continue
        if both := own & set(_read_fold(other)["val"].dropna().astype(str)):
            raise file_error(path, f"tests {len(both)} patient(s) whom {other.name} tests too; a patient belongs to "
                             "the val of one fold.")  # fmt: skip


def find_published(root: Path, table: Path, fold: int, folds: int) -> Path | None:
    """splits/5foldcv/tcga_blca/splits_0.csv beside tcga_blca.parquet or below the root; None where there is none."""
    name = stem(table).lower().removesuffix("_all_clean")
    for folder in dict.fromkeys((table.parent, root)):
        path = folder / "splits" / f"{folds}foldcv" / name / f"splits_{fold}.csv"
        if path.is_file():
            return inside(root, path, "data.root")
    return None
