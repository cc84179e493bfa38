"""What a coefficient table fitted on the evaluated patients too would seem to gain: `clarion measure cancer_leak`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clarion.cancer.cohort import Cohort
from clarion.cancer.lookup import LeakGap, leak_gap
from clarion.cancer.readers import porpoise_files, read_cohort
from clarion.cancer.readers.folds import Plan, find_published, split_cohort
from clarion.cancer.synthetic import synthetic_cohort
from clarion.errors import UsageError

VARIABLE = "CLARION_REAL_DATA"
COLUMNS = ["cohort", "patients", "deaths", "c nested", "c leaky", "c gap", "AUC nested", "AUC leaky", "AUC gap"]
FOLDS = 5


def measure_folder(
    root: str | None = None, seed: int = 0, top: int = 50, horizon: float = 60.0, n_resamples: int = 1000,
    cohorts: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The PORPOISE-style cohorts of a folder on their published folds (own ones where there are none).

    root: default $CLARION_REAL_DATA/cancer. UsageError where there is none, or no such cohort."""
    given = root or (os.environ.get(VARIABLE) and Path(os.environ[VARIABLE]) / "cancer")
    if not given or not Path(given).expanduser().is_dir():
        raise UsageError(f"The cohorts of part tcga are not here: set {VARIABLE} to the folder that holds cancer/, or "
                         "options.root in experiments/cancer_leak/table.yaml.")  # fmt: skip
    files = porpoise_files(Path(given).expanduser())
    if absent := [c for c in cohorts or () if c not in files]:
        raise UsageError(f"{absent[0]}: no such cohort in {Path(given).name} ({', '.join(files)}).")

    def read() -> Iterator[tuple[str, Cohort, list]]:
        for name in cohorts or files:
            cohort = read_cohort(files[name], name=name, kind="public")
            found = [find_published(Path(given).expanduser(), files[name], k, FOLDS) for k in range(FOLDS)]
            yield name, cohort, folds_of(cohort, seed, found)

    title = f"Sign score of the {top} best genes, TCGA cohorts on their published folds"
    return result("tcga", title, "public", read(), top, horizon, n_resamples, seed)


def measure_synthetic(
    seed: int = 0, top: int = 50, horizon: float = 60.0, n_resamples: int = 1000, **synthetic: Any
) -> dict[str, Any]:
    """The cancers of a synthetic cohort on five own folds. synthetic: arguments of `synthetic_cohort`."""
    whole = synthetic_cohort(**synthetic, seed=seed)

    def read() -> Iterator[tuple[str, Cohort, list]]:
        for cancer in whole.cancers:
            one = whole.of_cancer(cancer)
            yield cancer, one, folds_of(one, seed)

    title = f"Sign score of the {top} best genes, synthetic cancers with planted effects on five folds"
    return result("synthetic", title, "phantom", read(), top, horizon, n_resamples, seed)


def folds_of(cohort: Cohort, seed: int, published: Sequence[Path | None] = ()) -> list[tuple[list[str], list[str]]]:
    """(training ids, evaluated ids) of each fold, validation patients among the training ones."""
    folds = []
    for k in range(FOLDS):
        path = published[k] if published and all(published) else None
        files = dict.fromkeys(cohort.cancers, path) if path else None
        split = split_cohort(cohort, Plan(fold=k, folds=FOLDS, seed=seed), files)
        folds.append((split["train"] + split["val"], split["test"]))
    return folds


def result(
    part: str, title: str, kind: str, cohorts: Iterator[tuple[str, Cohort, list]], top: int, horizon: float,
    n_resamples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """One row a cohort, and the means over cohorts as figures."""
    rows, gaps, patients, notes = [], {}, 0, []
    for name, cohort, folds in cohorts:
        gap = leak_gap(cohort.omics["rna"], cohort.time, cohort.event, folds, top=top, horizon=horizon,
                       n_resamples=n_resamples, seed=seed)  # fmt: skip
        gaps[name] = gap
        patients += len(cohort)
        rows.append([name, len(cohort), int(cohort.event.sum()), *_cells(gap)])
        notes += [f"{name}: {note}" for note in gap.notes]
    figures = {}
    for measure in ("c", "auc"):
        higher = sum((g.summary[f"{measure}_gap"]["value"] or 0) > 0 for g in gaps.values())
        for which in ("nested", "leaky", "gap"):
            values = [g.summary[f"{measure}_{which}"]["value"] for g in gaps.values()]
            known = [v for v in values if v is not None]
            figures[f"mean {measure} {which}"] = {"value": float(np.mean(known)) if known else None, "n": len(known)}
        figures[f"cohorts in which leaky {measure} is higher"] = {"value": higher, "n": len(gaps)}
    told = [
        "nested: the table is fitted on the training patients of the fold; leaky: on all patients, the evaluated too. "
        "Nothing else differs. Rank-normal scores learned on the training patients.",
        f"c: Harrell's c-index over the whole follow-up; AUC: dead by {horizon:g} months, patients of known state. "
        f"Means over {FOLDS} folds; intervals: {n_resamples} resamples of the evaluated patients, tables held fixed.",
    ]
    return {"part": part, "title": title, "columns": COLUMNS, "rows": rows, "notes": told + notes, "n": patients,
            "data": kind, "figures": figures}  # fmt: skip


def _cells(gap: LeakGap) -> list[Any]:
    cells: list[Any] = []
    for measure in ("c", "auc"):
        for which in ("nested", "leaky", "gap"):
            entry = gap.summary[f"{measure}_{which}"]
            sign = "+" if which == "gap" else ""
            text = "—" if entry["value"] is None else f"{entry['value']:{sign}.3f}"
            if entry["low"] is not None:
                text += f" [{entry['low']:{sign}.3f}, {entry['high']:{sign}.3f}]"
            cells.append(text)
    return cells
