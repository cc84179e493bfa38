"""SlidePatients: patients with slides, omics and survival as the data object of a run; synthetic or a user's."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.checks import check_cohort
from clarion.cancer.cohort import Cohort
from clarion.cancer.datasets import OmicsData
from clarion.cancer.patients.folder import read_slide_folder
from clarion.cancer.patients.oracle import MONTHS, oracle_scores, status_at
from clarion.cancer.patients.planted import PATIENTS_VERSION, PatientRecipe, build_slides, synthetic_patients
from clarion.cancer.patients.regions import PlantedTruth
from clarion.cancer.patients.sites import split_by_site
from clarion.cancer.patients.tissue_labels import TissueLabels, labels_of, read_points, tissue_table
from clarion.cancer.readers.folds import SPLITS, split_cohort
from clarion.cancer.readers.pooling import renamed
from clarion.data.fingerprint import fingerprint_items
from clarion.data.integrity import IntegrityReport, check_patients
from clarion.data.pseudonym import pseudonyms, write_mapping
from clarion.data.splits import patient_order
from clarion.errors import ClarionError, UsageError
from clarion.samples import Sample

log = logging.getLogger(__name__)

SOURCES = ("folder", "synthetic")
SLIDE_CODES = ("slide_missing", "slide_unreadable", "slide_twice")  # of `check`, for `allow`


class SlidePatients(OmicsData):
    """Patients (task survival): one sample a patient, sample_id = patient_id, all of a patient's slides in one sample.

    source: folder (root: see `folder` for its layout) | synthetic (`synthetic`: of `PatientRecipe`; drawn once into the
    cache). mpp: um a pixel for slides whose files do not say it. by_site: whole sites train or test. missing
    {omics: share, slide: share}: synthetic patients whose omics or slide is withheld (never both), so that a model is
    seen to live without. allow: codes of `check_cohort` or SLIDE_CODES to go on with: such slides are left out. omics
    (fold, folds, fractions, val_fraction, split_seed, modalities, endpoint, scale, limits ...): as OmicsData; a column
    `split` of the clinical table counts where no fold is chosen. kind=private: ids become pseudonyms."""

    def __init__(
        self,
        name: str,
        kind: str = "private",
        source: str = "folder",
        root: str | None = None,
        seed: int = 0,
        mpp: float | None = None,
        by_site: bool = False,
        missing: Mapping[str, float] | None = None,
        allow: Sequence[str] = (),
        **omics: Any,
    ):
        if source not in SOURCES:
            raise UsageError(f"data.source={source} is unknown; choose one of {', '.join(SOURCES)}.")
        if source == "synthetic" and root is not None:
            raise UsageError(f"data={name} is embedded; for a folder of yours use data=cancer_slides data.root={root}.")
        super().__init__(name=name, kind=kind, source=source, root=root, seed=seed,
                         allow=[c for c in allow if c not in SLIDE_CODES], **omics)  # fmt: skip
        self.allow_slides = {c for c in allow if c in SLIDE_CODES}
        self.mpp, self.by_site = None if mpp is None else float(mpp), bool(by_site)
        self.missing = {"omics": 0.0, "slide": 0.0} | dict(missing or {})
        if set(self.missing) != {"omics", "slide"} or not all(0 <= s <= 0.45 for s in self.missing.values()):
            raise UsageError("data.missing is {omics: share, slide: share}, each of 0 to 0.45.")
        if any(self.missing.values()) and source != "synthetic":
            raise UsageError("data.missing withholds a part of synthetic patients; a folder has what it has.")
        self.recipe = PatientRecipe.of(dict(self.synthetic)) if source == "synthetic" else None
        self._planted: PlantedTruth | None = None
        self._facts: dict[str, dict[str, Any]] | None = None

    # ---- read ----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read the folder, or draw patients and slides, and split; idempotent. UsageError / DataError for what cannot
        be read."""
        if self._own is not None:
            return
        self._absent: list[str] = []
        self._strays: list[str] = []
        self._given: dict[str, list[str]] = {}
        own = self._draw() if self.recipe is not None else self._read_folder()
        if self.modalities is not None:
            own = own.with_omics(self.modalities)
        measured = _measured(own)
        empty = [p for p in own.patients if p not in measured and not own.clinical.at[p, "slide_ids"]]
        if empty:
            own = own.of([p for p in own.patients if p not in set(empty)])
            own = replace(own, notes=(*own.notes, f"{len(empty)} patients with neither slide nor omics left out."))
        if not len(own):
            raise UsageError(f"data={self.name} holds no patient with a slide or omics; do the names of slides begin "
                             "with patient ids, or does clinical.csv have a column slide_id?")  # fmt: skip
        self._measured_own = measured
        self._own_splits = self._divide(own)
        self._named, patients = own, {p: p for p in own.patients}
        if self.kind == "private":
            patients = pseudonyms(set(own.patients), "P")
            slides = pseudonyms({s for ids in own.clinical["slide_ids"] for s in ids}, "S")
            scope = "slides-" + hashlib.blake2b(str(self.root).encode(), digest_size=6).hexdigest()
            write_mapping(scope, {"patient": patients, "slide": slides})
            self._named = renamed(own, patients, slides)
        self._splits = {s: [patients[p] for p in ids] for s, ids in self._own_splits.items()}
        ids = own.clinical["slide_ids"]
        self._paths = {patients[p]: tuple(self._files[s] for s in ids[p]) for p in own.patients}
        self._measured = {patients[p] for p in measured if p in patients}
        self._own = own

    def _draw(self) -> Cohort:
        planted = synthetic_patients(self.recipe, self.name)
        folder = build_slides(planted)
        self._planted = PlantedTruth(planted, folder)
        self._files = {s: folder / "slides" / f"{s}.tif" for s in planted.slides}
        own = planted.cohort
        order = patient_order(own.patients, self.plan.seed + 1)
        without = {part: round(share * len(own)) for part, share in self.missing.items()}
        no_omics = order[: without["omics"]]
        no_slide = order[len(order) - without["slide"] :] if without["slide"] else []
        clinical, omics = own.clinical.copy(), {m: t.copy() for m, t in own.omics.items()}
        for table in omics.values():
            table.loc[no_omics] = np.nan
        hidden = set(no_slide)
        clinical["slide_ids"] = [() if p in hidden else ids for p, ids in clinical["slide_ids"].items()]
        return replace(own, clinical=clinical, omics=omics)

    def _read_folder(self) -> Cohort:
        options = {"format": self.format, "allow": self.allow, **self.reading}
        read = read_slide_folder(self.root, self.root.name, self.kind, **options)
        self._files, self._absent, self._strays, self._given = read.slides, read.absent, read.strays, read.splits
        return read.cohort

    def _divide(self, own: Cohort) -> dict[str, list[str]]:
        if self.by_site:
            return split_by_site(own, self.plan)
        if self._given and self.plan.fold is None:  # a patient whom the table puts into two splits stays in both: the
            return {s: [p for p in own.patients if s in self._given[p]] for s in SPLITS}  # check refuses that
        return split_cohort(own, self.plan, {})

    # ---- what everyone may ask -----------------------------------------------------------------------------

    @property
    def planted(self) -> PlantedTruth | None:
        """The truth of synthetic patients: `planted(sample_id)` gives the Regions of a slide; None for a folder."""
        self.prepare()
        return self._planted

    def samples(self, split: str) -> Iterator[Sample]:
        """One a patient: slide (Path of the first, or None), slides (all of them), mpp (um a pixel where the config
        says it, else None), omics {modality: float32 [genes]} or None, genes {modality: names}, clinical {age, sex,
        stage, site, cancer} (NaN or "" unknown), and cancer, age, sex, site as the omics models ask for them."""
        part = self.cohort(split)
        arrays = {m: t.to_numpy(np.float32) for m, t in part.omics.items()}
        genes = {m: tuple(map(str, t.columns)) for m, t in part.omics.items()}
        for k, (patient, row) in enumerate(zip(part.patients, part.clinical.itertuples(index=False), strict=True)):
            paths = self._paths[patient]
            clinical = {c: getattr(row, c) for c in ("age", "sex", "stage", "site", "cancer")}
            inputs = {
                "slide": paths[0] if paths else None,
                "slides": paths,
                "mpp": self.mpp,
                "omics": {m: a[k] for m, a in arrays.items()} if patient in self._measured else None,
                "genes": genes,
                "clinical": clinical,
                **{c: clinical[c] for c in ("cancer", "age", "sex", "site")},
            }
            yield Sample(patient, patient, inputs)

    def truth(self, split: str) -> pd.DataFrame:
        """sample_id, patient_id, time (months), event (bool), cancer, age, sex, site, stage, has ("slide and omics",
        "slide" or "omics")."""
        columns = ["time", "event", "cancer", "age", "sex", "site", "stage"]
        table = self.cohort(split).clinical[columns].reset_index(drop=True)
        ids = self._of(split)
        has = [("slide" * bool(self._paths[p]), "omics" * (p in self._measured)) for p in ids]
        table["has"] = [" and ".join(filter(None, parts)) for parts in has]
        for column in ("patient_id", "sample_id"):
            table.insert(0, column, ids)
        return table

    def status(self, split: str, months: float = MONTHS) -> pd.Series:
        """float64 by sample id: 1 died within `months`, 0 known to live longer, NaN unknown (censored before). Scores
        must weight for the unknown (IPCW); leaving them out is biased."""
        part = self.cohort(split)
        return pd.Series(status_at(part.time, part.event, months), part.patients, name=f"died_{months:g}m")

    def tissue_labels(self, split: str) -> TissueLabels:
        """Which kind of tissue tiles of this split's slides show, see `tissue_labels`: as planted, or by the points of
        tissue.csv in the user's folder; empty where there are none. DataError for rows of it that cannot be."""
        self.prepare()
        table = None if self.planted is not None else tissue_table(self.root)
        points = {} if table is None else read_points(table, self._files, self.slide_facts())
        return labels_of(self._of(split), self._paths, self.planted, points)

    def datamodule(
        self, batch_size: int, seed: int = 0, reads: str = "omics", start: str | Path | None = None,
        device: str = "cpu", **options: Any,
    ):  # fmt: skip
        """train and val for the trainer; reads: omics (see OmicsData) or slides (bags of tiles, see `swin.loader`).
        device: where an encoder of slides is warmed up and read."""
        if reads != "slides":
            return super().datamodule(batch_size, seed, start=start, **options)
        from clarion.cancer.swin.loader import SlideBags

        return SlideBags(self, batch_size, seed, start=start, device=device, **options)

    def slide_facts(self) -> dict[str, dict[str, Any]]:
        """own slide id -> the reader's card of it, or {"error": why}; every file is opened once."""
        from clarion.cancer.slides.reader import open_slide

        def look(item: tuple[str, Path]) -> tuple[str, dict[str, Any]]:
            try:
                with open_slide(item[1], self.mpp) as slide:
                    return item[0], {**slide.card(), "mpp": slide.mpp}
            except ClarionError as error:
                return item[0], {"error": str(error), "recorded": getattr(error, "recorded", None) or "(withheld)"}

        if self._facts is None:
            self.prepare()
            with ThreadPoolExecutor(4) as pool:
                self._facts = dict(pool.map(look, self._files.items()))
        return self._facts

    def check(self) -> IntegrityReport:
        """Artefacts of the cohort, missing, unreadable and doubled slides, patients or sites in two splits; DataError
        lists what must stop."""
        self.prepare()
        measured = [p for p in self._own.patients if p in self._measured_own]
        held = self._own.of(measured) if measured else replace(self._own, omics={})
        report = check_cohort(held, self.allow, self.limits)
        own = dict(zip(self._named.patients, self._own.patients, strict=True))
        check_patients(report, self.splits, {p: p for p in own}, own)
        self._check_slides(report)
        report.counts |= {"patients": len(own), "slides": len(self._files), "without_omics": len(own) - len(measured),
                          "without_slide": sum(not paths for paths in self._paths.values())}  # fmt: skip
        report.error("patient_empty", "patients are left with neither a readable slide nor omics; replace their "
                     "slides, or take them out of the clinical table",
                     [(p, own[p]) for p, paths in self._paths.items() if not paths and p not in self._measured])
        for split in SPLITS:
            part = self.splits.get(split)
            if not part:
                report.error("split_empty", f"the {split} split holds no patient", [], total=1)
            elif not self._named.clinical.loc[part, "event"].any():
                report.error("split_without_events", f"nobody in the {split} split has an event; take other splits or "
                             "a larger share", [], total=len(part))  # fmt: skip
        report.raise_if_bad()
        return report

    def _check_slides(self, report: IntegrityReport) -> None:
        def add(code: str, message: str, items: list[tuple[str, str]]) -> None:
            (report.warning if code in self.allow_slides else report.error)(code, message, items)

        number = {s: f"slide {k + 1}" for k, s in enumerate(self._files)}
        add("slide_missing", "slides that the clinical table names are not in slides/; add them, or go on without them "
            "by data.allow=[slide_missing]",
            [(f"missing slide {k + 1}", s) for k, s in enumerate(self._absent)])  # fmt: skip
        report.warning("slide_stray", "slides belong to no patient of the clinical table and are not used",
                       [(f"stray slide {k + 1}", s) for k, s in enumerate(self._strays)])  # fmt: skip
        facts, seen, twice = self.slide_facts(), {}, []
        bad = [(f"{number[s]}: {f['recorded']}", f["error"]) for s, f in facts.items() if "error" in f]
        add("slide_unreadable", "slides cannot be used; replace them, or go on without them by "
            "data.allow=[slide_unreadable]", bad)  # fmt: skip
        if "slide_unreadable" in self.allow_slides:
            kept = {self._files[s] for s, f in facts.items() if "error" not in f}
            self._paths = {p: tuple(path for path in paths if path in kept) for p, paths in self._paths.items()}
        owner = {s: p for p, ids in self._own.clinical["slide_ids"].items() for s in ids}
        for slide, fact in facts.items():
            if "error" in fact or slide not in owner:
                continue
            first = seen.setdefault(fact["sha"], slide)
            if owner[first] != owner[slide]:
                twice.append((f"{number[first]} = {number[slide]}", f"{first} = {slide}"))
        add("slide_twice", "one slide under the names of two patients; remove one of each pair", twice)

    def fingerprint(self) -> str:
        """Hash of every patient, value, slide and split."""
        self.prepare()
        columns = ["cancer", "site", "age", "sex", "stage"]
        clinical = hashlib.blake2b(self._own.clinical[columns].to_csv().encode(), digest_size=16).hexdigest()
        items = {"cohort": self._own.fingerprint(), "splits": self.split_hash(), "clinical": clinical}
        slides = {f"slide:{s}": str(f.get("sha") or "unreadable") for s, f in self.slide_facts().items()}
        return fingerprint_items(items | slides | {"mpp": str(self.mpp)})

    def card(self) -> dict[str, Any]:
        """OmicsData's card with slides, sites and what is missing; for synthetic patients also the planted effects and
        what a perfect model would score (`oracle`)."""
        card = super().card()
        facts = [f for f in self.slide_facts().values() if "error" not in f]
        for split, entry in card["splits"].items():
            part = self.cohort(split).clinical
            status = self.status(split)
            entry |= {
                "slides": sum(len(self._paths[p]) for p in part.index),
                "without_slide": sum(not self._paths[p] for p in part.index),
                "without_omics": sum(p not in self._measured for p in part.index),
                "known_60m": int(status.notna().sum()),
                "died_60m": int(status.sum()),
                "sites": part["site"].value_counts().sort_index().to_dict() if part["site"].nunique() <= 20 else
                         {"different": int(part["site"].nunique())},
            }  # fmt: skip
        card["source"] = {"synthetic": f"synthetic patients, recipe {PATIENTS_VERSION}",
                          "folder": "slides and tables given by the user"}[self.source]  # fmt: skip
        card["slides"] = {
            "n": len(facts),
            "formats": pd.Series([f["format"] for f in facts], dtype=object).value_counts().to_dict(),
            "mpp": sorted({round(float(f["mpp"]), 3) for f in facts}),
            "largest": max((f["dimensions"] for f in facts), key=lambda d: d[0] * d[1], default=None),
        }
        card["split_by"] = "site" if self.by_site else "patient"
        if self.planted is not None:
            card["recipe"] = {**dict(self.synthetic), "missing": self.missing}
            card["planted"] = {"slide": self.planted.slide_effects,
                               "genes": self.planted.effects[self.planted.effects.ne(0).any(axis=1)].iloc[:, 0].round(3)
                               .to_dict()}  # fmt: skip
            card["oracle"] = self.oracle()
        return card

    def oracle(self, split: str | None = None) -> dict[str, Any] | None:
        """c-index and AUC at 60 months of the true log hazard and of its parts, see `oracle_scores`: on the test split
        (or another), weighted by the training patients' censoring, and on all patients. None for a folder."""
        if self.planted is None:
            return None
        risk = self.planted.risk
        split = split or "test"
        return {split: oracle_scores(self.cohort(split), risk, self.cohort("train")),
                "all patients": oracle_scores(self.cohort(), risk)}  # fmt: skip


def _measured(cohort: Cohort) -> set[str]:
    """Patients with at least one omics value."""
    held = np.zeros(len(cohort), bool)
    for table in cohort.omics.values():
        held |= table.notna().to_numpy().any(axis=1)
    return set(cohort.patients[held])
