"""Lists of mutations (MAF, Xena) -> 0/1 a gene and sample."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from clarion.cancer.readers.clinical import find
from clarion.cancer.readers.log import ReadLog
from clarion.cancer.readers.tables import file_error, read_header, read_table

# Variants that leave the protein as it is (GDC's MAF format; Xena writes Sequence Ontology terms).
SILENT = {
    "silent", "intron", "3'utr", "5'utr", "3'flank", "5'flank", "igr", "rna", "lincrna", "targeted_region",
    "synonymous_variant", "intron_variant", "3_prime_utr_variant", "5_prime_utr_variant", "upstream_gene_variant",
    "downstream_gene_variant", "intergenic_variant", "non_coding_transcript_exon_variant", "stop_retained_variant",
    "non_coding_transcript_variant",
}  # fmt: skip
_GENE = ("hugo_symbol", "gene", "gene_symbol")
_SAMPLE = ("tumor_sample_barcode", "sample_id", "sample")
_CLASS = ("variant_classification", "effect", "consequence")


def matrix_of_mutations(path: Path, log: ReadLog, profiled: Iterable[str] | None = None) -> pd.DataFrame:
    """float32 [samples, genes]: 1 where a gene has a mutation that changes the protein, else 0.

    profiled: samples that were sequenced, mutations found or not; without it only samples that occur in the list are
    known to have been, and the others are missing, not unmutated."""
    header = pd.DataFrame(columns=read_header(path))
    columns = [find(header, names) for names in (_GENE, _SAMPLE, _CLASS)]
    if columns[0] is None or columns[1] is None:
        raise file_error(path, "is no list of mutations: it has no columns Hugo_Symbol and Tumor_Sample_Barcode.")
    table = read_table(path, text_columns=[c for c in columns if c], columns=[c for c in columns if c])
    gene, sample, effect = columns
    table = table[table[gene].notna() & table[sample].notna()]
    seen = list(dict.fromkeys(table[sample].astype(str)))
    if effect is not None:
        terms = table[effect].astype("string").str.lower().str.split("[;,&]", regex=True)
        silent = terms.map(lambda t: all(x.strip() in SILENT for x in t), na_action="ignore")
        table = table[~silent.fillna(False).astype(bool)]
    if profiled is None:
        samples = seen
        log.note("mut: only samples with a mutation in the list are known to be sequenced; the others are missing.")
    else:
        samples = list(dict.fromkeys([*map(str, profiled), *seen]))
    rows = pd.Index(samples).get_indexer(table[sample].astype(str))
    genes = pd.Index(sorted(set(table[gene].astype(str))))
    values = np.zeros((len(samples), len(genes)), np.float32)
    values[rows, genes.get_indexer(table[gene].astype(str))] = 1
    return pd.DataFrame(values, index=samples, columns=genes)
