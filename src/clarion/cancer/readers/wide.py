"""Tables with one row a patient, or (PORPOISE) one row a slide: clinical columns, then genes.

PORPOISE (Chen et al., Cancer Cell 40, 865, 2022) writes case_id, slide_id, survival_months, censorship (1 = censored),
is_female, oncotree_code, and genes as NAME_rnaseq, NAME_cnv, NAME_mut. A plain table may do the same, or have genes
without suffix (then they are expression), or keep them in a second file that shares the patient ids.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from clarion.cancer.cohort import Cohort
from clarion.cancer.readers.assemble import Options, assemble, named_genes
from clarion.cancer.readers.barcodes import parse, wanted_types
from clarion.cancer.readers.clinical import PATIENT, SAMPLE, clinical_rows, find, ids_of, plain
from clarion.cancer.readers.log import ReadLog
from clarion.cancer.readers.tables import file_error, read_header, read_table, stem, to_numbers

SUFFIXES = {"_rnaseq": "rna", "_rna": "rna", "_cnv": "cnv", "_mut": "mut"}
_SLIDE = ("slide_id", "slide", "slide_ids")
# Columns of such tables that are no genes, by their plain name; a gene of that name needs a suffix.
_CLINICAL = {
    *PATIENT, *SAMPLE, *_SLIDE, "age", "sex", "gender", "is_female", "female", "site", "cancer", "cohort", "project_id",
    "oncotree_code", "subtype", "stage", "grade", "train", "split", "fold", "unnamed_0", "event", "status", "os", "dss",
    "pfi", "pfs", "dfi", "dfs", "vital_status", "censorship", "censored", "time", "survival", "study", "batch",
    "platform", "plate", "center", "institution", "hospital", "tissue_source_site", "index", "race", "ethnicity",
}  # fmt: skip
_CLINICAL_STARTS = ("survival_", "censorship_", "time_", "os_", "dss_", "pfi_", "pfs_", "dfi_", "dfs_", "age_",
                    "days_to_", "tumor_stage", "pathologic", "ajcc_")  # fmt: skip


def modality_of(column: str) -> tuple[str, str] | None:
    """Column -> (modality, gene), or None for a column that is clinical."""
    for suffix, modality in SUFFIXES.items():
        if column.lower().endswith(suffix) and len(column) > len(suffix):
            return modality, column[: -len(suffix)]
    name = plain(column)
    return None if name in _CLINICAL or name.startswith(_CLINICAL_STARTS) else ("rna", column)


def has_omics(header: list[str]) -> bool:
    """Whether a header is of a table with suffixed genes and survival."""
    names = {plain(c) for c in header}
    time = any(n.startswith(("survival", "time", "os_")) for n in names)
    return time and any(c.lower().endswith(tuple(SUFFIXES)) for c in header)


def read_wide(path: Path, options: Options, log: ReadLog, clinical: Path | None = None) -> Cohort:
    """One cohort of one file (and of a second one with the clinical columns)."""
    table = read_table(path, text_columns=_texts(path))
    patients = ids_of(table)
    if patients is None:
        raise file_error(path, "names no patient; give it a column patient_id (or case_id).")
    genes = [(c, *found) for c in table.columns if (found := modality_of(str(c))) is not None]
    if any(str(c).lower().endswith(tuple(SUFFIXES)) for c in table.columns):
        genes = [g for g in genes if str(g[0]).lower().endswith(tuple(SUFFIXES))]
    elif words := {c for c, _, _ in genes if _words(table[c])}:
        log.note(f"{len(words)} columns of words, which are no genes, left out.")
        genes = [g for g in genes if g[0] not in words]
    kept = patients.notna().to_numpy() & _tumours(table, options, log)
    if unnamed := int(patients.isna().sum()):
        log.note(f"{unnamed} rows without a patient id left out.")
    table, patients = table[kept], patients[kept].astype(str)
    if patients.duplicated().any():
        log.note(f"{len(table)} rows (slides) of {patients.nunique()} patients; one row a patient kept.")
    rows = [clinical_rows(table, log, options.endpoint, options.time_unit, options.cancer)]
    slides = table
    if clinical is not None:
        slides = read_table(clinical, text_columns=_texts(clinical))
        rows.insert(0, clinical_rows(slides, log, options.endpoint, options.time_unit, options.cancer))
    omics = {}
    for modality in dict.fromkeys(m for _, m, _ in genes):
        own = {c: g for c, m, g in genes if m == modality}
        values = to_numbers(table[list(own)], modality, log).set_axis(pd.Index(patients), axis=0)
        values.columns = list(own.values())
        omics[modality] = named_genes(_one_row(values, modality, log), modality, options, log)
    return assemble(rows, omics, options, log, _slides(slides))


def _words(column: pd.Series) -> bool:
    """Whether no cell is a number and some are words: a histology, say."""
    if pd.api.types.is_numeric_dtype(column):
        return False
    return bool(column.notna().any()) and bool(pd.to_numeric(column, errors="coerce").isna().all())


def _texts(path: Path) -> list[str]:
    return [c for c in read_header(path) if plain(c) in {*PATIENT, *SAMPLE, *_SLIDE, "site"}]


def _tumours(table: pd.DataFrame, options: Options, log: ReadLog) -> np.ndarray:
    """bool [rows]: the ids and slides are of tumours, as far as they say what they are of."""
    types = set(options.sample_types or wanted_types(options.cancer or options.name))
    column = find(table, SAMPLE) or find(table, PATIENT)
    kinds = [parse(s)[1] for s in table[column].astype(str)]
    kept = np.array([k in types for k in kinds], bool)
    if (~kept).any():
        log.note(f"{int((~kept).sum())} rows of samples that are no primary tumour left out.")
    return kept


def _one_row(values: pd.DataFrame, modality: str, log: ReadLog) -> pd.DataFrame:
    """[rows, genes] -> [patients, genes]. Slides of a patient repeat their omics; where they differ by more than
    rounding it is the problem `patient_conflict` (allowed: the first row counts)."""
    if not values.index.has_duplicates:
        return values
    first = values[~values.index.duplicated()]
    again = values[values.index.duplicated()]
    mine, other = first.loc[again.index].to_numpy(), again.to_numpy()
    apart = np.abs(mine - other) > 1e-4 * np.maximum(np.abs(mine), 1)
    differs = (apart | (np.isnan(mine) != np.isnan(other))).any(axis=1)
    where = list(dict.fromkeys(again.index[differs]))
    if where:
        log.problem(
            "patient_conflict",
            f"the rows of a patient disagree on {modality}; keep one sample a patient",
            [(f"patient {k + 1} of them", str(p)) for k, p in enumerate(where)],
            f"the first row of a patient counts for {modality}",
        )
    return first


def _slides(table: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """patient -> slide ids, each once; slides of normal tissue (TCGA types 10 and above) are left out."""
    column = find(table, _SLIDE)
    patients = ids_of(table)
    if column is None or patients is None:
        return {}
    found: dict[str, dict[str, None]] = {}
    for patient, slide in zip(patients, table[column], strict=True):
        if isinstance(slide, str) and isinstance(patient, str):
            kind = parse(slide.split(".")[0])[1]
            if not (kind.isdigit() and int(kind) >= 10):
                found.setdefault(patient, {})[slide] = None
    return {patient: tuple(names) for patient, names in found.items()}


def cohort_name(path: Path) -> str:
    """ "blca" of tcga_blca.parquet, tcga_blca_all_clean.csv.zip."""
    name = stem(path).lower().removesuffix("_all_clean").removesuffix("_all").removesuffix("_clean")
    return name.split("_", 1)[1] if name.startswith(("tcga_", "cptac_")) else name
