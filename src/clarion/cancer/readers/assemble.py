"""Clinical rows and omics matrices -> one Cohort: patients matched, genes named, what is missing kept missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clarion.cancer.cohort import CLINICAL, MODALITIES, Cohort
from clarion.cancer.genes import collapse, harmonise
from clarion.cancer.readers.barcodes import parse
from clarion.cancer.readers.clinical import one_row_a_patient
from clarion.cancer.readers.log import ReadLog
from clarion.cancer.readers.scales import guess_scale
from clarion.cancer.readers.tables import file_error

_EXTRA = ("subtype", "study", "batch", "platform", "plate")


@dataclass(frozen=True)
class Options:
    """What every reader takes; see `read_cohort`."""

    name: str
    kind: str = "private"
    cancer: str | None = None
    endpoint: str = "OS"
    time_unit: str | None = None
    scale: Mapping[str, str] | None = None
    gene_map: Mapping[str, str] | None = None
    sample_types: Sequence[str] | None = None
    dates: str = "keep"


def named_genes(table: pd.DataFrame, modality: str, options: Options, log: ReadLog) -> pd.DataFrame:
    """[patients, the file's names] -> [patients, genes]; renamings and duplicates are noted."""
    names = harmonise(list(map(str, table.columns)), options.gene_map, options.dates)
    if names.damaged:
        shown = ", ".join(f"{raw} ({was})" for raw, was in list(names.damaged.items())[:5])
        done = {"keep": "kept", "repair": "repaired where only one gene fits", "drop": "left out"}[options.dates]
        log.note(f"{modality}: {len(names.damaged)} gene names are dates of a spreadsheet, {done}: {shown}.")
    if names.renamed:
        shown = ", ".join(f"{old} is {new}" for old, new in list(names.renamed.items())[:5])
        log.note(f"{modality}: {len(names.renamed)} old gene symbols renamed: {shown}.")
    unnamed = names.unnamed - (len(names.damaged) if options.dates == "drop" else 0)
    if unnamed > 0 and options.dates != "repair":
        log.note(f"{modality}: {unnamed} columns without a gene name left out.")
    result, doubled = collapse(table, names.names, modality)
    if doubled:
        shown = ", ".join(f"{gene} x{n}" for gene, n in list(doubled.items())[:5])
        log.note(f"{modality}: {len(doubled)} genes came several times and were made one column: {shown}.")
    return result


def assemble(
    clinical: Sequence[pd.DataFrame],
    omics: Mapping[str, pd.DataFrame],
    options: Options,
    log: ReadLog,
    slides: Mapping[str, Sequence[str]] | None = None,
    scale: Mapping[str, str] | None = None,
) -> Cohort:
    """clinical: tables of `clinical_rows`; omics: modality -> float32 [patients, genes], index patient id, genes named.

    Patients without survival or without any omics are left out and counted in the notes; a patient without one of the
    modalities keeps NaN there. Times of zero or less are the problem `time_not_positive` (allowed: those patients are
    left out). All problems of the reading are raised here, together."""
    omics = {m: omics[m] for m in MODALITIES if m in omics and omics[m].shape[1]}
    if not omics:
        raise file_error(f"{options.name}:", "no expression, copy number or mutation was found.")
    rows = one_row_a_patient(clinical, log)
    absent = [c for c in ("time", "event") if c not in rows]
    if absent:
        text = f"the clinical tables hold no {' and no '.join(absent)} of the endpoint {options.endpoint}; "
        text += "name the columns as in OS_MONTHS and OS_STATUS, or choose another endpoint."
        raise file_error(f"{options.name}:", text)
    rows = with_known_survival(rows, log)
    measured = rows.index.isin(pd.Index([]).append([t.index for t in omics.values()]))
    if (~measured).any():
        log.note(f"{int((~measured).sum())} patients without omics left out.")
    rows = rows[measured]
    unknown = {p for t in omics.values() for p in t.index} - set(rows.index)
    if unknown:
        log.note(f"{len(unknown)} patients with omics but without survival left out.")
    log.report.raise_if_bad()
    if not len(rows):
        raise file_error(f"{options.name}:", "no patient has both omics and survival; do the tables share patient ids?")
    tables = {}
    for modality, table in omics.items():
        lacking = len(rows) - int(rows.index.isin(table.index).sum())
        if lacking:
            log.note(f"{modality}: missing for {lacking} of {len(rows)} patients.")
        tables[modality] = table if table.index.equals(rows.index) else table.reindex(rows.index)
    declared = {**(scale or {}), **(options.scale or {})}
    scales = {m: declared.get(m) or guess_scale(t.to_numpy(), m) for m, t in tables.items()}
    return Cohort(options.name, _clinical(rows, slides or {}, options), tables, options.kind, scales, tuple(log.notes))


def _clinical(rows: pd.DataFrame, slides: Mapping[str, Sequence[str]], options: Options) -> pd.DataFrame:
    def text(column: str, default: str = "") -> pd.Series:
        return rows[column].fillna(default).astype(object) if column in rows else pd.Series(default, rows.index, object)

    table = pd.DataFrame(index=rows.index)
    table["time"] = rows["time"].astype(float)
    table["event"] = rows["event"].astype(bool)
    table["cancer"] = text("cancer", options.name.upper()).replace("", options.name.upper())
    site = text("site")
    table["site"] = site.where(site != "", [parse(p)[2] for p in rows.index])
    table["age"] = rows["age"].astype(float) if "age" in rows else np.nan
    table["sex"] = text("sex")
    table["slide_ids"] = [tuple(slides.get(p, ())) for p in rows.index]
    for extra in _EXTRA:
        if extra in rows:
            table[extra] = text(extra)
    assert tuple(table.columns[: len(CLINICAL)]) == CLINICAL
    return table


def with_known_survival(rows: pd.DataFrame, log: ReadLog) -> pd.DataFrame:
    """rows: index patient id, columns time (months) and event. Patients without either are left out and noted; times
    of zero or less are the problem `time_not_positive`, and are left out where that is allowed."""
    known = rows["time"].notna() & rows["event"].notna()
    if (~known).any():
        log.note(f"{int((~known).sum())} patients without known survival left out.")
    rows = rows[known]
    early = rows["time"] <= 0
    if early.any():
        log.problem(
            "time_not_positive",
            "patients have a survival time of zero or less; correct their dates",
            [(f"{t:g} months", f"{p}: {t:g} months") for p, t in rows.loc[early, "time"].items()],
            "patients with a time of zero or less are left out",
        )
    return rows[~early]
