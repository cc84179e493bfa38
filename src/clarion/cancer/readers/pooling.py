"""Several cohorts as one, the cohort that scikit-survival ships, and other names for patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from clarion.cancer.cohort import CLINICAL, Cohort
from clarion.errors import DataError

DAYS_PER_MONTH = 365.25 / 12


def pool(cohorts: Sequence[Cohort], name: str) -> Cohort:
    """One cohort of several: all genes of all of them, missing where a cohort did not measure one.

    DataError where a patient is in two of them, or where a modality comes on two scales."""
    if len(cohorts) == 1:
        return replace(cohorts[0], name=name)
    clinical = pd.concat([c.clinical for c in cohorts])
    if clinical.index.has_duplicates:
        n = int(clinical.index.duplicated().sum())
        raise DataError(f"{n} patients are in two of the cohorts {', '.join(c.name for c in cohorts)}; choose one.")
    for column in clinical.columns.difference(list(CLINICAL)):
        clinical[column] = clinical[column].fillna("")
    omics, scale = {}, {}
    for modality in dict.fromkeys(m for c in cohorts for m in c.omics):
        scales = {c.scale.get(modality, "unknown") for c in cohorts if modality in c.omics}
        if len(scales) > 1:
            raise DataError(
                f"the cohorts give {modality} as {' and as '.join(sorted(scales))}; bring them to one scale."
            )
        genes = list(dict.fromkeys(g for c in cohorts if modality in c.omics for g in c.omics[modality].columns))
        place = {g: k for k, g in enumerate(genes)}
        values = np.full((len(clinical), len(genes)), np.nan, np.float32)
        start = 0
        for cohort in cohorts:
            if modality in cohort.omics:
                table = cohort.omics[modality]
                values[start : start + len(cohort), [place[g] for g in table.columns]] = table.to_numpy()
            start += len(cohort)
        omics[modality] = pd.DataFrame(values, clinical.index, genes)
        scale[modality] = scales.pop()
    notes = tuple(f"{c.name}: {note}" for c in cohorts for note in c.notes)
    return Cohort(name, clinical, omics, cohorts[0].kind, scale, notes)


def renamed(cohort: Cohort, patients: Mapping[str, str], slides: Mapping[str, str] | None = None) -> Cohort:
    """The cohort with other ids. patients: id -> new id, of every patient; slides: the same for slides."""
    index = pd.Index([patients[p] for p in cohort.patients], name="patient_id")
    clinical = cohort.clinical.set_axis(index, axis=0)
    if slides is not None:
        clinical["slide_ids"] = [tuple(slides[s] for s in own) for own in clinical["slide_ids"]]
    return replace(cohort, clinical=clinical, omics={m: t.set_axis(index, axis=0) for m, t in cohort.omics.items()})


def read_gse7390() -> Cohort:
    """GSE7390 (Desmedt et al. 2007, Clin Cancer Res 13, 3207): 198 women with node-negative breast cancer, 76 probes,
    months to distant metastasis; from scikit-survival's wheel, nothing is fetched."""
    from sksurv.datasets import load_breast_cancer

    table, outcome = load_breast_cancer()
    ids = pd.Index([f"GSE7390-{k + 1:03d}" for k in range(len(table))], name="patient_id")
    table = table.set_axis(ids, axis=0)
    probes = [c for c in table.columns if str(c).startswith("X")]
    clinical = pd.DataFrame(
        {
            "time": np.asarray(outcome["t.tdm"], float) / DAYS_PER_MONTH,
            "event": np.asarray(outcome["e.tdm"], bool),
            "cancer": "BRCA",
            "site": "",
            "age": table["age"].astype(float),
            "sex": "F",
            "slide_ids": [()] * len(ids),
            "er": table["er"].astype(str),
            "grade": table["grade"].astype(str),
            "size_cm": table["size"].astype(float),
        },
        index=ids,
    )
    rna = table[probes].astype(np.float32)
    notes = ("the event is distant metastasis; genes are 76 Affymetrix probes of a prognostic signature.",)
    return Cohort("gse7390", clinical, {"rna": rna}, "public", {"rna": "log2"}, notes)
