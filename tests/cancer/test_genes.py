"""Names of genes: what spreadsheets did to them, and one column a gene."""

import numpy as np
import pandas as pd
import pytest

from clarion.cancer.genes import clean_name, collapse, damaged_names, date_damage, harmonise


@pytest.mark.parametrize("name, was", [
    ("1-Mar", "MARCHF1 or MTARC1"), ("02-Mar", "MARCHF2 or MTARC2"), ("3-Mar", "MARCHF3"), ("Mar-09", "MARCHF9"),
    ("2-Sep", "SEPTIN2"), ("Sep-02", "SEPTIN2"), ("2-Sept", "SEPTIN2"), ("15-Sep", "SELENOF"), ("1-Dec", "DELEC1"),
    ("2001-03-03", "MARCHF3"), ("2005-09-07 00:00:00", "SEPTIN7"), ("3/4/2001", "MARCHF4"), ("7.Mrz", "MARCHF7"),
    ("9월 2일", "SEPTIN2"), ("2016년 3월 5일", "MARCHF5"), ("2.31E+13", "unknown"), ("4-Jul", "unknown"),
])  # fmt: skip
def test_dates_are_recognised(name, was):
    assert date_damage(name) == was


@pytest.mark.parametrize(
    "name",
    [
        "TP53",
        "MARCH1",
        "SEPT2",
        "DEC1",
        "MARC1",
        "RP11-707M1.1",
        "FPGT-TNNI3K",
        "H1-4",
        "HLA-A",
        "E2F1",
        "ENSG00000141510.16",
        "AC010642.2",
        "MAY1",
        "OCT4",
        "1-8D",
    ],
)
def test_genes_are_no_dates(name):
    assert date_damage(name) is None


def test_days_since_1900_count_only_among_names():
    names = ["TP53", "EGFR", *[f"G{k}" for k in range(30)]]
    assert damaged_names([*names, "44256"]) == {"44256": "unknown"}
    assert damaged_names([str(k) for k in range(44250, 44260)]) == {}  # Entrez ids


@pytest.mark.parametrize("name, clean", [
    ("ENSG00000141510.16", "ENSG00000141510"), ("ENSG00000182378.14_PAR_Y", "ENSG00000182378"), ("TP53|7157", "TP53"),
    ("7157|TP53", "TP53"), ("?|100130426", "ENTREZ:100130426"), ("ENSG00000141510.16|TP53", "TP53"),
    ("TP53 (7157)", "TP53"), (" EGFR ", "EGFR"), ("nan", ""), ("?", ""), ("RP11-707M1.1", "RP11-707M1.1"),
])  # fmt: skip
def test_one_name_a_gene(name, clean):
    assert clean_name(name) == clean


def test_old_symbols_become_todays_and_dates_are_kept_repaired_or_dropped():
    names = ["MARCH1", "SEPT2", "TP53", "2-Sep", "1-Mar"]
    kept = harmonise(names)
    assert kept.names == ["MARCHF1", "SEPTIN2", "TP53", "2-Sep", "1-Mar"] and set(kept.damaged) == {"2-Sep", "1-Mar"}
    assert harmonise(names, dates="repair").names == ["MARCHF1", "SEPTIN2", "TP53", "SEPTIN2", ""]
    assert harmonise(names, dates="drop").names == ["MARCHF1", "SEPTIN2", "TP53", "", ""]
    assert kept.renamed == {"MARCH1": "MARCHF1", "SEPT2": "SEPTIN2"}
    assert harmonise(["ENSG00000141510.16", "ENSG9"], {"ENSG00000141510": "TP53"}).names == ["TP53", "ENSG9"]


def test_columns_of_one_gene_become_one():
    nan = np.nan
    table = pd.DataFrame([[1, 5, 0, 9], [2, nan, 1, 9], [nan, nan, 0, 9]], columns=list("abcd"))
    rna, doubled = collapse(table, ["G", "G", "H", ""], "rna")
    assert list(rna.columns) == ["G", "H"] and doubled == {"G": 2} and rna.dtypes.eq(np.float32).all()
    np.testing.assert_array_equal(rna["G"], [5, nan, nan])  # the expressed copy, not a mixture
    mut, _ = collapse(pd.DataFrame([[0, 1], [0, nan], [nan, nan]]), ["G", "G"], "mut")
    np.testing.assert_array_equal(mut["G"], [1, 0, nan])
    cnv, _ = collapse(pd.DataFrame([[1, -2], [nan, 1], [nan, nan]]), ["G", "G"], "cnv")
    np.testing.assert_array_equal(cnv["G"], [-2, 1, nan])
