"""A cBioPortal study folder (docs.cbioportal.org, File-Formats): clinical data, expression, copy number, mutations."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from clarion.cancer.cohort import Cohort
from clarion.cancer.readers.assemble import Options, assemble, named_genes
from clarion.cancer.readers.barcodes import NAMES, one_a_patient, parse, wanted_types
from clarion.cancer.readers.clinical import clinical_rows
from clarion.cancer.readers.log import ReadLog
from clarion.cancer.readers.matrix import read_matrix, scale_of
from clarion.cancer.readers.mutations import matrix_of_mutations
from clarion.cancer.readers.tables import read_table
from clarion.errors import DataError

# Values before z-scores, which cBioPortal takes against samples that may be no part of the cohort.
MRNA = (
    "data_mrna_seq_tpm.txt", "data_mrna_seq_v2_rsem.txt", "data_mrna_seq_rsem.txt", "data_mrna_seq_fpkm.txt",
    "data_mrna_seq_rpkm.txt", "data_mrna_seq_expression.txt", "data_rna_seq_v2_mrna.txt",
    "data_mrna_seq_v2_rsem_zscores_ref_all_samples.txt", "data_mrna_seq_tpm_zscores_ref_all_samples.txt",
    "data_mrna_seq_v2_rsem_zscores_ref_diploid_samples.txt", "data_mrna_agilent_microarray.txt",
)  # fmt: skip
CNA = ("data_cna.txt", "data_CNA.txt")
MUTATIONS = ("data_mutations.txt", "data_mutations_extended.txt", "data_mutations_mskcc.txt")
_WANTED = {"primary", "primary solid tumor", "primary tumor", "tumor", "primary blood tumor", "primary cancer"}


def is_study(folder: Path) -> bool:
    return (folder / "data_clinical_patient.txt").is_file() or (folder / "data_clinical_sample.txt").is_file()


def _first(folder: Path, names: tuple[str, ...], more: str | None = None) -> Path | None:
    found = next((folder / n for n in names if (folder / n).is_file()), None)
    return found or (next(iter(sorted(folder.glob(more))), None) if more else None)


def read_study(folder: Path, options: Options, log: ReadLog) -> Cohort:
    """The cohort of a study: patients with survival, one primary tumour each, as far as the sample table says so."""
    patients, samples = folder / "data_clinical_patient.txt", folder / "data_clinical_sample.txt"
    if not samples.is_file():
        raise DataError("the study has no data_clinical_sample.txt, which says whose each sample is.")
    table = read_table(samples, text_columns=["PATIENT_ID", "SAMPLE_ID"])
    if not {"PATIENT_ID", "SAMPLE_ID"} <= set(table.columns):
        raise DataError("data_clinical_sample.txt lacks the columns PATIENT_ID and SAMPLE_ID.")
    rows = [clinical_rows(table, log, options.endpoint, options.time_unit, options.cancer)]
    if patients.is_file():
        read = read_table(patients, text_columns=["PATIENT_ID"])
        rows.insert(0, clinical_rows(read, log, options.endpoint, options.time_unit, options.cancer))
    omics, scale = {}, {}
    for modality, path in (("rna", _first(folder, MRNA, "data_mrna*.txt")), ("cnv", _first(folder, CNA)),
                           ("mut", _first(folder, MUTATIONS))):  # fmt: skip
        if path is None:
            continue
        if modality == "mut":
            values = matrix_of_mutations(path, log, sequenced(folder))
        else:
            values = read_matrix(path, modality, log)
        chosen = _chosen(values, table, modality, options, log)
        values = values.iloc[chosen.to_numpy()].set_axis(chosen.index, axis=0)
        log.note(f"{modality}: read from {path.name}.")  # one of the names above, or data_mrna*
        scale[modality] = "0/1" if modality == "mut" else scale_of(path, values.to_numpy(), modality)
        omics[modality] = named_genes(values, modality, options, log)
    return assemble(rows, omics, options, log, scale=scale)


def _chosen(values: pd.DataFrame, samples: pd.DataFrame, what: str, options: Options, log: ReadLog) -> pd.Series:
    """patient -> position of their sample. SAMPLE_TYPE decides where ids are no TCGA barcodes."""
    patient_of = dict(zip(samples["SAMPLE_ID"].astype(str), samples["PATIENT_ID"].astype(str), strict=True))
    types = options.sample_types or wanted_types(options.cancer or options.name)
    if "SAMPLE_TYPE" in samples and not any(parse(s)[1] for s in patient_of):
        said = samples.set_index("SAMPLE_ID")["SAMPLE_TYPE"].astype("string").str.strip().str.lower()
        primary = set(said.index[said.isin(_WANTED)])
        wanted = set(options.sample_types or ())
        others = set(said.index[said.isin({NAMES.get(t, t).lower() for t in wanted} | {t.lower() for t in wanted})])
        kept = primary | others
        dropped = [s for s in values.index if s in patient_of and s not in kept and said.get(s) is not pd.NA]
        if kept and dropped:
            log.note(f"{what}: {len(dropped)} samples whose SAMPLE_TYPE is no primary tumour left out.")
            patient_of = {s: p for s, p in patient_of.items() if s not in set(dropped)}
            before = len(log.notes)
            chosen = one_a_patient(list(values.index), log, what, types, patient_of)
            del log.notes[before:]  # it would count the same samples again, as unknown ones
            return chosen
    return one_a_patient(list(values.index), log, what, types, patient_of)


def sequenced(folder: Path) -> list[str] | None:
    """Samples that were sequenced, of case_lists/cases_sequenced.txt; None where the study does not say."""
    path = folder / "case_lists" / "cases_sequenced.txt"
    if not path.is_file():
        return None
    found = re.search(r"^case_list_ids:\s*(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].split() if found else None
