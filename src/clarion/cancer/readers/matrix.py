"""Folders of matrices with genes as rows and samples as columns: GDC and Xena, CPTAC and LinkedOmics.

Files are known by their names. Xena's GDC hub: TCGA-BLCA.star_tpm.tsv.gz, .star_counts, .htseq_fpkm, .gistic,
.survival, .clinical or .GDC_phenotype, .somaticmutation_wxs or .mutect2_snv, a probeMap. CPTAC's pan-cancer tables:
LUAD_RNAseq_gene_RSEM_..._Tumor.txt, LUAD_survival.txt, LUAD_meta.txt. LinkedOmics: ..._rnaseq_....cct, ..._cli.tsi.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clarion.cancer.cohort import Cohort
from clarion.cancer.readers.assemble import Options, assemble, named_genes
from clarion.cancer.readers.barcodes import one_a_patient, wanted_types
from clarion.cancer.readers.clinical import PATIENT, SAMPLE, clinical_rows, find, ids_of, plain
from clarion.cancer.readers.log import ReadLog
from clarion.cancer.readers.mutations import matrix_of_mutations
from clarion.cancer.readers.scales import guess_scale
from clarion.cancer.readers.tables import file_error, is_table, read_header, read_table, stem, to_numbers

# In order of preference: the first pattern that a file fits is the one that is read.
RNA = (r"star_tpm|(^|[._-])tpm|rsem_gene_tpm", r"fpkm(-uq|_uq)?", r"rnaseq.*tumor|rna_?seq|hiseqv2|expression",
       r"star_counts|htseq_counts|counts|rsem")  # fmt: skip
CNV = (r"gistic", r"cnv|cna|scna|copy_?number|gene[-_]level_ascat")
MUT = (r"somaticmutation|mutect2?|mc3|wxs|mutation", r"\.maf")
SURVIVAL = (r"survival",)
CLINICAL = (r"clinical|phenotype", r"_meta|[_-]cli(nical)?\b|clinmatrix")
PROBES = (r"probe_?map|gene_?map",)
_NORMAL = re.compile(r"[_-](normal|nat)\b", re.IGNORECASE)
_FIRST = ("idx", "gene", "genes", "gene_id", "gene_name", "hugo_symbol", "ensembl_id", "sample", "attrib_name", "name",
          "hybridization_ref", "id", "", "unnamed_0", "gene_symbol", "xena_sample", "site", "database_id")  # fmt: skip


def pick(files: Sequence[Path], patterns: Sequence[str], taken: set[Path]) -> Path | None:
    """The first file, by order of patterns and then of names, that fits; it counts as taken."""
    for pattern in patterns:
        for path in files:
            if path not in taken and re.search(pattern, path.name, re.IGNORECASE) and not _NORMAL.search(stem(path)):
                taken.add(path)
                return path
    return None


def read_matrix(path: Path, modality: str, log: ReadLog) -> pd.DataFrame:
    """float32 [samples, the file's gene names] of a file with genes as rows."""
    table = read_table(path, text_columns=[0] if path.suffix.lower() != ".parquet" else [])
    lead = [c for c in table.columns[:8] if plain(c) in _FIRST or plain(c) in ("entrez_gene_id", "cytoband", "locus_id",
            "gene_type", "chrom", "chromosome", "start", "end", "strand")]  # fmt: skip
    first = next((c for c in lead if plain(c) in ("hugo_symbol", "gene_symbol", "gene_name")), table.columns[0])
    names = table[first].astype("string").fillna("").astype(str)
    if other := next((c for c in lead if c != first and plain(c) in ("entrez_gene_id", "ensembl_id", "gene_id")), None):
        # "?|99" is the pair of no symbol and an Entrez id
        names = names.where(names != "", "?|" + table[other].astype(str).str.removesuffix(".0"))
    body = table.drop(columns=[first, *[c for c in lead if c != first]])
    if names.eq("").all() or not body.shape[1]:
        raise file_error(path, "is no matrix with genes as rows and samples as columns.")
    values = to_numbers(body, modality, log)
    values.index = pd.Index(names)
    kept = ~values.index.str.startswith(("__", "N_"))  # counters of HTSeq and STAR ("__no_feature", "N_unmapped")
    return values[kept].T


def scale_of(path: Path, values: np.ndarray, modality: str) -> str:
    """The file's name says the quantity, its values whether the logarithm was taken."""
    name, seen = path.name.lower(), guess_scale(values, modality)
    quantity = next((q for q, p in (("TPM", "tpm"), ("FPKM", "fpkm|rpkm"), ("counts", "count|rsem|hiseqv2"))
                     if re.search(p, name)), None)  # fmt: skip
    if modality != "rna" or quantity is None or seen in ("z-score", "0/1", "-2..2"):
        return seen
    if "log" not in name and seen in ("counts", "linear"):
        return quantity
    low = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
    return f"log2({quantity}+1)" if low >= 0 else f"log2({quantity}+0.001)" if low > -9.98 else "log2"


def _clinical_table(path: Path) -> pd.DataFrame:
    """Patients as rows; LinkedOmics' .tsi has attributes as rows."""
    header = read_header(path)
    table = read_table(path, text_columns=[c for c in header if plain(c) in (*PATIENT, *SAMPLE)] or [0])
    if plain(table.columns[0]) in ("attrib_name", "attribute", "feature"):
        table = table.set_index(table.columns[0]).T.rename_axis("patient_id").reset_index()
        table.columns = [str(c) for c in table.columns]
    if plain(str(table.columns[0])) in ("idx", "sample") and len(table) and str(table.iloc[0, 0]) == "data_type":
        table = table.iloc[1:]  # CPTAC's pan-cancer tables: a second header line with types
    return table


def read_folder(
    files: Sequence[Path], options: Options, log: ReadLog, clinical: Path | None = None, probes: Path | None = None
) -> Cohort:
    """A cohort of the matrices and clinical tables among `files`."""
    files = sorted(f for f in files if is_table(f) or re.search(PROBES[0], f.name, re.IGNORECASE))  # Xena's: no suffix
    taken = {p for p in (clinical, probes) if p is not None}
    probes = probes or pick(files, PROBES, taken)
    tables = [p for p in (clinical, pick(files, SURVIVAL, taken), pick(files, CLINICAL, taken)) if p is not None]
    found = {"mut": pick(files, MUT, taken), "cnv": pick(files, CNV, taken), "rna": pick(files, RNA, taken)}
    found = {m: p for m, p in found.items() if p is not None}
    if not tables:
        raise file_error(f"{options.name}:", "no clinical or survival table among the files; name it clinical=FILE.")
    if not found:
        raise file_error(f"{options.name}:", "no expression, copy number or mutation matrix among the files.")
    raw = [_clinical_table(p) for p in tables]
    rows = [clinical_rows(t, log, options.endpoint, options.time_unit, options.cancer) for t in raw]
    patient_of = samples_of(raw)
    options = Options(**{**options.__dict__, "gene_map": options.gene_map or (read_probes(probes) if probes else None)})
    types = options.sample_types or wanted_types(options.cancer or options.name)
    omics, scale = {}, {}
    for modality, path in found.items():
        if modality == "mut" and is_mutation_list(path):
            values = matrix_of_mutations(path, log)
        else:
            values = read_matrix(path, modality, log)
        if options.kind != "private":  # a name of a private file may hold more than the quantity
            log.note(f"{modality}: read from {path.name}.")
        chosen = one_a_patient(list(values.index), log, modality, types, patient_of)
        values = values.iloc[chosen.to_numpy()].set_axis(chosen.index, axis=0)
        scale[modality] = "0/1" if modality == "mut" else scale_of(path, values.to_numpy(), modality)
        omics[modality] = named_genes(values, modality, options, log)
    return assemble(rows, omics, options, log, scale=scale)


def samples_of(tables: Sequence[pd.DataFrame]) -> dict[str, str] | None:
    """sample id -> patient, where a clinical table names both and its ids are no barcodes; None where none does."""
    result: dict[str, str] = {}
    for table in tables:
        sample, patients = find(table, SAMPLE), ids_of(table)
        if sample and find(table, PATIENT):
            own = table[sample].astype("string")
            result |= {s: p for s, p in zip(own, patients, strict=True) if isinstance(s, str) and isinstance(p, str)}
    barcodes = sum(s.startswith(("TCGA-", "C3L-", "C3N-")) for s in result)
    return result if result and barcodes < len(result) / 2 else None


def read_probes(path: Path) -> dict[str, str]:
    """id without version -> symbol, of a probe map (columns id and gene, or gene_id and gene_name)."""
    table = read_table(path, text_columns=[0, 1])
    known = {plain(c): c for c in table.columns}
    key = next((known[k] for k in ("id", "gene_id", "ensembl_id", "probe", "probe_id") if k in known), table.columns[0])
    value = next((known[k] for k in ("gene", "gene_name", "symbol", "hugo_symbol") if k in known), table.columns[1])
    if key == value:
        raise file_error(path, "is no probe map: it has no columns id and gene.")
    pairs = table[[key, value]].dropna().astype(str)
    return dict(zip(pairs[key].str.replace(r"\.\d+(_PAR_Y)?$", "", regex=True), pairs[value], strict=True))


def is_mutation_list(path: Path) -> bool:
    """Whether one row is a mutation (a MAF, Xena's list) and not a gene."""
    names = {plain(c) for c in read_header(path)}
    return bool(names & {"tumor_sample_barcode", "sample_id", "sample"}) and bool(names & {"hugo_symbol", "gene"})
