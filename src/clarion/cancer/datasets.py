"""OmicsData: patients with omics and survival as the data object of a run; synthetic, GSE7390, or a user's folder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.checks import check_cohort
from clarion.cancer.cohort import MODALITIES, Cohort
from clarion.cancer.readers import detect_format, porpoise_files
from clarion.cancer.readers.folds import SPLITS, Plan, find_published, split_cohort
from clarion.cancer.readers.pooling import pool, read_gse7390, renamed
from clarion.cancer.readers.remembered import read_remembered
from clarion.cancer.readers.tables import is_table
from clarion.cancer.synthetic import SYNTHETIC_VERSION, PlantedCohort, synthetic_cohort
from clarion.data.fingerprint import fingerprint_items
from clarion.data.integrity import IntegrityReport, check_patients
from clarion.data.paths import data_root
from clarion.data.pseudonym import pseudonyms, write_mapping
from clarion.data.splits import split_hash
from clarion.errors import UsageError
from clarion.samples import Sample

log = logging.getLogger(__name__)

SOURCES = ("folder", "synthetic", "gse7390")
_READING = ("endpoint", "time_unit", "scale", "sample_types", "dates")


class OmicsData:
    """Cohorts of patients (task survival); one sample a patient, sample_id = patient_id.

    source: folder (root: see `read_cohort` for what it may hold; a folder of PORPOISE-style tables, with the published
    folds in splits/5foldcv, is one such) | synthetic (`synthetic`: arguments of `synthetic_cohort`) | gse7390.
    cohort: which of the folder's cohorts, one, several or null for all, pooled. modalities: of rna, cnv, mut; null: all
    that there are. fold=k: part k is the test split, by the published folds where the folder has them (their "val" is
    our test; our val is cut from their train), else of `folds` own parts; null: `fractions`. leave_out, few_shot,
    scratch: a cancer that is tested only, see `Plan`. split_seed drives the splits, apart from the run's seed.
    endpoint, time_unit, scale, sample_types, dates: as `read_cohort`. allow: codes of problems and artefacts to go on
    with; limits: of `check_cohort`. kind=private: ids become pseudonyms."""

    class_names: list[str] = []

    def __init__(
        self,
        name: str,
        task: str = "survival",
        kind: str = "private",
        source: str = "folder",
        root: str | None = None,
        seed: int = 0,
        format: str = "auto",
        cohort: str | Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        fold: int | None = None,
        folds: int = 5,
        fractions: Mapping[str, float] | None = None,
        val_fraction: float = 0.15,
        leave_out: str | None = None,
        few_shot: int | None = None,
        scratch: bool = False,
        split_seed: int = 0,
        endpoint: str = "OS",
        time_unit: str | None = None,
        scale: Mapping[str, str] | None = None,
        sample_types: Sequence[str] | None = None,
        dates: str = "keep",
        allow: Sequence[str] = (),
        limits: Mapping[str, float] | None = None,
        synthetic: Mapping[str, Any] | None = None,
        expected: str = "",
    ):
        if source not in SOURCES:
            raise UsageError(f"data.source={source} is unknown; choose one of {', '.join(SOURCES)}.")
        if kind not in ("phantom", "public", "private"):
            raise UsageError(f"data.kind={kind} is unknown: write phantom, public or private.")
        if source == "folder" and root is None:
            raise UsageError(f"data={name} has no embedded default: add data.root=/folder. {expected}".strip())
        if source != "folder" and root is not None:
            raise UsageError(f"data={name} is embedded; for a folder of yours use data=cancer_omics data.root={root}.")
        if unknown := [m for m in modalities or () if m not in MODALITIES]:
            raise UsageError(f"data.modalities: {unknown[0]} is unknown; choose from {', '.join(MODALITIES)}.")
        self.name, self.task, self.source, self.format = name, task, source, format
        self.kind = {"synthetic": "phantom", "gse7390": "public"}.get(source, kind)
        self.root = data_root(root, expected) if root is not None else None
        self.wanted = [cohort] if isinstance(cohort, str) else list(cohort) if cohort is not None else None
        self.modalities = list(modalities) if modalities is not None else None
        shares = {} if fractions is None else {"fractions": dict(fractions)}
        self.plan = Plan(fold=fold, folds=folds, val_fraction=val_fraction, leave_out=leave_out, few_shot=few_shot,
                         scratch=scratch, seed=split_seed, **shares)  # fmt: skip
        self.reading = dict(zip(_READING, (endpoint, time_unit, scale, sample_types, dates), strict=True))
        self.allow, self.limits, self.synthetic = tuple(allow), limits, dict(synthetic or {})
        self._own: Cohort | None = None  # with the ids of the source

    # ---- read ----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read or draw the cohort and split it; idempotent. UsageError / DataError for what cannot be read."""
        if self._own is not None:
            return
        published: dict[str, Path] = {}
        if self.source == "synthetic":
            own: Cohort = synthetic_cohort(**self.synthetic, name=self.name)
        elif self.source == "gse7390":
            own = read_gse7390()
        else:
            own, published = self._read()
        if self.modalities is not None:
            own = own.with_omics(self.modalities)
        self._own_splits = split_cohort(own, self.plan, published)
        self._named = own
        if self.kind == "private":
            patients = pseudonyms(set(own.patients), "P")
            slides = pseudonyms({s for ids in own.clinical["slide_ids"] for s in ids}, "S")
            scope = "omics-" + hashlib.blake2b(str(self.root).encode(), digest_size=6).hexdigest()
            write_mapping(scope, {"patient": patients, "slide": slides})
            self._named = renamed(own, patients, slides)
            self._splits = {s: [patients[p] for p in ids] for s, ids in self._own_splits.items()}
        else:
            self._splits = self._own_splits
        self._own = own

    def _read(self) -> tuple[Cohort, dict[str, Path]]:
        """The chosen cohorts of the folder, pooled, and the published fold of each cancer as far as there are any."""
        known = self._sources()
        if not known:
            raise UsageError(
                f"data.root={self.root} holds no cohort that is known; see the layouts of data=cancer_omics."
            )
        chosen = self.wanted if self.wanted is not None else list(known)
        lower = {k.lower(): k for k in known}
        if absent := [c for c in chosen if str(c).lower() not in lower]:
            raise UsageError(f"data.cohort={absent[0]}: no such cohort; choose from {', '.join(known)}.")
        chosen = [lower[str(c).lower()] for c in dict.fromkeys(chosen)]
        cohorts, published = [], {}
        for cohort in chosen:
            path = known[cohort]
            options = {"name": cohort, "kind": self.kind, "allow": self.allow, **self.reading}
            read = read_remembered(path, self.format, **options)
            cohorts.append(read)
            if self.plan.fold is not None and path.is_file():
                found = find_published(self.root, path, self.plan.fold, self.plan.folds)
                published |= dict.fromkeys(read.cancers, found) if found else {}
        if published and self.plan.fold is not None:
            log.info("fold %d is the published one of %s", self.plan.fold, ", ".join(chosen))
        return pool(cohorts, "+".join(chosen) if len(chosen) <= 3 else f"{len(chosen)} cohorts"), published

    def _sources(self) -> dict[str, Path]:
        """cohort -> table or folder."""
        if self.format in ("auto", "porpoise") and (found := porpoise_files(self.root)):
            return found
        folders = [self.root, *sorted(p for p in self.root.iterdir() if p.is_dir() and not p.is_symlink())]
        cohorts = {}
        for folder in folders:
            try:
                detect_format(folder)
            except UsageError:
                continue
            cohorts[folder.name] = folder
        if cohorts or self.format not in ("auto", "csv"):
            return cohorts or {self.root.name: self.root}
        return {p.name.split(".")[0]: p for p in sorted(self.root.iterdir()) if p.is_file() and is_table(p)}

    # ---- what everyone may ask -----------------------------------------------------------------------------

    def cohort(self, split: str | None = None) -> Cohort:
        """The patients of a split, in the order of `splits`; None: all of them."""
        self.prepare()
        return self._named if split is None else self._named.of(self._of(split))

    def _of(self, split: str) -> list[str]:
        if split not in self.splits:
            raise UsageError(f"data={self.name} has no split {split!r}; use {', '.join(self.splits)}.")
        return self._splits[split]

    @property
    def splits(self) -> dict[str, list[str]]:
        """split -> sample ids (patient ids)."""
        self.prepare()
        return {split: self._splits[split] for split in SPLITS if self._splits.get(split)}

    def split_hash(self) -> str:
        """Of the source's own names: equal on every machine, pseudonyms or not."""
        self.prepare()
        return split_hash(self._own_splits)

    @property
    def genes(self) -> dict[str, list[str]]:
        """modality -> its genes, in the order of the samples' arrays."""
        return {m: list(t.columns) for m, t in self.cohort().omics.items()}

    @property
    def planted(self) -> PlantedCohort | None:
        """The synthetic cohort with its effects; None for data that nobody planted."""
        own = self.cohort()
        return own if isinstance(own, PlantedCohort) else None

    def samples(self, split: str) -> Iterator[Sample]:
        """One a patient: omics {modality: float32 [genes], NaN missing}, genes {modality: their names, one tuple for
        all}, cancer, age (NaN unknown), sex, site."""
        part = self.cohort(split)
        arrays = {m: t.to_numpy(np.float32) for m, t in part.omics.items()}
        genes = {m: tuple(map(str, t.columns)) for m, t in part.omics.items()}
        for k, (patient, row) in enumerate(zip(part.patients, part.clinical.itertuples(index=False), strict=True)):
            inputs = {"omics": {m: a[k] for m, a in arrays.items()}, "genes": genes, "cancer": row.cancer,
                      "age": float(row.age), "sex": row.sex, "site": row.site}  # fmt: skip
            yield Sample(patient, patient, inputs)

    def table(self, split: str) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
        """(X, y, ids) for estimators. X [n]: float32 columns "rna:GENE", "cnv:GENE", "mut:GENE" (NaN missing) in the
        order of `genes`, then age (NaN unknown), sex and cancer; y: structured array of event (bool), time (months)."""
        part = self.cohort(split)
        columns = [t.add_prefix(f"{m}:") for m, t in part.omics.items()]
        y = np.empty(len(part), dtype=[("event", bool), ("time", np.float64)])
        y["event"], y["time"] = part.event, part.time
        return pd.concat([*columns, part.clinical[["age", "sex", "cancer"]]], axis=1), y, list(part.patients)

    def truth(self, split: str) -> pd.DataFrame:
        """sample_id, patient_id, time (months), event (bool), cancer, age, sex, site."""
        table = self.cohort(split).clinical[["time", "event", "cancer", "age", "sex", "site"]].reset_index(drop=True)
        for column in ("patient_id", "sample_id"):
            table.insert(0, column, self._of(split))
        return table

    def check(self) -> IntegrityReport:
        """Artefacts of the cohort, patients in two splits, splits without events; DataError lists what must stop."""
        self.prepare()
        report = check_cohort(self._own, self.allow, self.limits)
        own = dict(zip(self._named.patients, self._own.patients, strict=True))
        check_patients(report, self.splits, {p: p for p in own}, own)
        for split in SPLITS:
            part = self.splits.get(split)
            if not part:
                report.error("split_empty", f"the {split} split holds no patient", [], total=1)
            elif not self._named.clinical.loc[part, "event"].any():
                add = report.warning if split == "val" else report.error  # a few-shot run has a val of two or three
                add("split_without_events", f"nobody in the {split} split has an event; take other splits or a larger "
                    "share", [], total=len(part))  # fmt: skip
        unused = len(self._own) - len({p for ids in self._splits.values() for p in ids})
        if unused and self.plan.few_shot is None:
            report.warning("patients_unused", "patients are in no split", [], total=unused)
        report.raise_if_bad()
        return report

    def fingerprint(self) -> str:
        """Hash of every patient, value and split."""
        self.prepare()
        items = {"cohort": self._own.fingerprint(), "splits": self.split_hash(),
                 "clinical": hashlib.blake2b(self._own.clinical[["cancer", "site", "age", "sex"]].to_csv().encode(),
                                             digest_size=16).hexdigest()}  # fmt: skip
        return fingerprint_items(items)

    def card(self) -> dict[str, Any]:
        """Patients, events and cancers of every split; modalities; what the reading left out; fingerprint."""
        whole, splits = self.cohort(), {}
        for split in self.splits:
            part = self.cohort(split)
            splits[split] = {
                "samples": len(part),
                "patients": len(part),
                "events": int(part.event.sum()),
                "median_months": round(float(np.median(part.time)), 1),
                "cancers": part.clinical["cancer"].value_counts().sort_index().to_dict(),
            }
        source = {"synthetic": f"synthetic cohort, recipe {SYNTHETIC_VERSION}", "gse7390": "scikit-survival's wheel",
                  "folder": "tables given by the user"}[self.source]  # fmt: skip
        return {
            "name": self.name,
            "task": self.task,
            "kind": self.kind,
            "source": source,
            "cohort": whole.name,
            "fingerprint": self.fingerprint(),
            "notes": list(whole.notes),
            "modalities": {m: {"genes": t.shape[1], "scale": whole.scale.get(m, ""),
                               "missing": round(float(t.isna().to_numpy().mean()), 4)}
                           for m, t in whole.omics.items()},
            "splits": splits,
            **({"recipe": self.synthetic} if self.source == "synthetic" else {}),
        }  # fmt: skip

    def explain(self, predictor: Any, split: str, patients: int | str | None = "few", **options: Any) -> dict[str, Any]:
        """Which genes a trained model looked at on patients of a split, see `explanation.explain`. UsageError where
        the model cannot say."""
        from clarion.cancer.explanation import explain

        return explain(predictor, self, split, patients, **options)

    # ---- for the trainer -----------------------------------------------------------------------------------

    def datamodule(
        self, batch_size: int, seed: int = 0, genes: int | None = 200, num_workers: int = 0,
        start: str | Path | None = None, **options: Any,
    ):  # fmt: skip
        """train and val as a LightningDataModule, see `transformer.loader.SurvivalTables` for the options; its tables
        are fitted on the train split, and DataError says so where a val or test patient should be among them.
        start: the checkpoint whose weights the training starts from: its genes, scaling and coefficients are kept."""
        from clarion.cancer.transformer.loader import SurvivalTables

        for split in ("train", "val"):
            if split not in self.splits:
                raise UsageError(f"data={self.name} has no {split} split to train with; choose other splits.")
        module = SurvivalTables(self.cohort("train"), self.cohort("val"), batch_size, seed, genes, num_workers,
                                start=start, **options)  # fmt: skip
        for table in module.tables.values():
            table.check([p for split, ids in self.splits.items() if split != "train" for p in ids])
        return module
