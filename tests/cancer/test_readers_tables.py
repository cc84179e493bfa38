"""Tables of one row a patient or slide: PORPOISE's, plain ones, and what can be wrong with them."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clarion.cancer.readers import detect_format, porpoise_files, read_cohort
from clarion.errors import DataError, UsageError


def slides() -> pd.DataFrame:
    """Four patients, five slides and one of normal tissue, as PORPOISE writes them."""
    return pd.DataFrame({
        "case_id": ["TCGA-ZZ-0001", "TCGA-ZZ-0001", "TCGA-ZZ-0002", "TCGA-ZY-0003", "TCGA-ZY-0003", "TCGA-ZX-0004"],
        "slide_id": ["TCGA-ZZ-0001-01Z-00-DX1.svs", "TCGA-ZZ-0001-01Z-00-DX2.svs", "TCGA-ZZ-0002-01Z-00-DX1.svs",
                     "TCGA-ZY-0003-01Z-00-DX1.svs", "TCGA-ZY-0003-11A-01-BS1.svs", "TCGA-ZX-0004-01Z-00-DX1.svs"],
        "age": [63, 63, 66, np.nan, np.nan, 51], "site": ["ZZ", "ZZ", "ZZ", "ZY", "ZY", "ZX"],
        "survival_months": [24.1, 24.1, 12.0, 57.98, 57.98, 26.68], "censorship": [0, 0, 0, 1, 1, 1],
        "is_female": [0, 0, 1, 0, 0, 1], "oncotree_code": ["BLCA"] * 6, "train": [1.0] * 6,
        "TP53_rnaseq": [0.5, 0.5, -1.25, np.nan, np.nan, 2.5], "MARCH1_rnaseq": [1.5, 1.5, 2.5, 3.5, 3.5, -4.5],
        "TP53_cnv": [-2, -2, 0, 1, 1, 2], "TP53_mut": [1, 1, 0, 0, 0, 1],
    })  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zip", ".parquet"])
def test_slides_become_patients(tmp_path, suffix):
    path = tmp_path / f"tcga_blca{suffix}"
    if suffix == ".parquet":
        slides().to_parquet(path)
    elif suffix == ".csv.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("tcga_blca.csv", slides().to_csv())
    else:
        slides().to_csv(path)
    assert detect_format(path) == "porpoise"
    cohort = read_cohort(path, kind="public")
    assert list(cohort.patients) == ["TCGA-ZZ-0001", "TCGA-ZZ-0002", "TCGA-ZY-0003", "TCGA-ZX-0004"]
    assert cohort.name == "blca" and cohort.cancers == ["BLCA"]
    np.testing.assert_array_equal(cohort.event, [True, True, False, False])  # censorship is 1 for the censored
    np.testing.assert_allclose(cohort.time, [24.1, 12.0, 57.98, 26.68])
    row = cohort.clinical.loc["TCGA-ZZ-0001"]
    assert (row.age, row.sex, row.site) == (63, "M", "ZZ") and len(row.slide_ids) == 2
    assert cohort.clinical.loc["TCGA-ZY-0003"].slide_ids == ("TCGA-ZY-0003-01Z-00-DX1.svs",)  # without the normal
    assert np.isnan(cohort.clinical.loc["TCGA-ZY-0003"].age)
    assert list(cohort.omics["rna"].columns) == ["TP53", "MARCHF1"] and set(cohort.omics) == {"rna", "cnv", "mut"}
    assert np.isnan(cohort.omics["rna"].loc["TCGA-ZY-0003", "TP53"])  # missing stays missing
    assert cohort.omics["cnv"]["TP53"].tolist() == [-2, 0, 1, 2] and cohort.omics["mut"]["TP53"].tolist() == [
        1,
        0,
        0,
        1,
    ]
    assert any("6 rows (slides) of 4 patients" in n for n in cohort.notes)


def test_rows_of_a_patient_that_disagree_are_refused(tmp_path):
    table = slides()
    table.loc[1, "survival_months"] = 99.0
    table.loc[1, "TP53_rnaseq"] = 0.9
    table.to_csv(tmp_path / "blca.csv")
    with pytest.raises(DataError, match="disagree on rna") as caught:
        read_cohort(tmp_path / "blca.csv")
    assert "disagree on survival" in str(caught.value)  # all at once
    assert "TCGA-ZZ-0001" in str(caught.value) and "TCGA" not in caught.value.recorded
    allowed = read_cohort(tmp_path / "blca.csv", allow=["patient_conflict"])
    assert allowed.clinical.loc["TCGA-ZZ-0001", "time"] == 99.0
    assert allowed.omics["rna"].loc["TCGA-ZZ-0001", "TP53"] == np.float32(0.5)


def plain(**columns) -> pd.DataFrame:
    base = {
        "patient_id": ["001", "002", "003"],
        "time_days": [30.4375, 365.25, 730.5],
        "event": [1, 0, 1],
        "age": [50, 60, 70],
        "sex": ["female", "M", ""],
        "TP53": [1.0, 2.0, 3.0],
        "EGFR": [0.1, np.nan, 0.3],
    }
    return pd.DataFrame({**base, **columns})


def write(folder: Path, table: pd.DataFrame, name: str = "mine.csv", **options) -> Path:
    table.to_csv(folder / name, index=False, **options)
    return folder / name


def test_a_plain_table(tmp_path):
    cohort = read_cohort(write(tmp_path, plain()), scale={"rna": "log2(TPM+1)"})
    assert list(cohort.patients) == ["001", "002", "003"]  # text, not numbers
    np.testing.assert_allclose(cohort.time, [1, 12, 24])
    assert cohort.clinical["sex"].tolist() == ["F", "M", ""] and cohort.cancers == ["MINE"]
    assert list(cohort.omics["rna"].columns) == ["TP53", "EGFR"] and cohort.scale == {"rna": "log2(TPM+1)"}
    assert np.isnan(cohort.omics["rna"].loc["002", "EGFR"])


def test_columns_of_words_are_no_genes(tmp_path):
    cohort = read_cohort(write(tmp_path, plain(histology=["ductal", "lobular", ""])))
    assert list(cohort.omics["rna"].columns) == ["TP53", "EGFR"] and any(
        "1 columns of words" in n for n in cohort.notes
    )


def test_semicolons_and_korean_words(tmp_path):
    table = plain(event=["사망", "생존", "사망"], sex=["여", "남", "여"])
    cohort = read_cohort(write(tmp_path, table, sep=";", encoding="utf-8-sig"))
    assert cohort.event.tolist() == [True, False, True] and cohort.clinical["sex"].tolist() == ["F", "M", "F"]


def test_units_of_time(tmp_path):
    table = plain().rename(columns={"time_days": "time"})
    path = write(tmp_path, table)
    with pytest.raises(UsageError, match="time_unit=days"):
        read_cohort(path)
    np.testing.assert_allclose(read_cohort(path, time_unit="days").time, [1, 12, 24])
    np.testing.assert_allclose(read_cohort(path, time_unit="years").time, table["time"] * 12)
    with pytest.raises(UsageError, match="time_unit=day is unknown"):
        read_cohort(path, time_unit="day")


@pytest.mark.parametrize("columns, code, words", [
    ({"time_days": [-5, 365, 730]}, "time_not_positive", "zero or less"),
    ({"time_days": [0, 365, 730]}, "time_not_positive", "zero or less"),
    ({"TP53": ["1,5", "2.0", "3.0"]}, "non_numeric", "no numbers"),
    ({"TP53": ["high", "2.0", "3.0"]}, "non_numeric", "no numbers"),
    ({"TP53": ["inf", "2.0", "3.0"]}, "non_numeric", "no numbers"),
    ({"time_days": ["30 days", "365", "730"]}, "non_numeric", "no numbers"),
    ({"event": ["dead", "alive", "perhaps"]}, "event_unknown", "neither event nor censored"),
])  # fmt: skip
def test_bad_cells_are_refused_unless_allowed(tmp_path, columns, code, words):
    path = write(tmp_path, plain(**columns))
    with pytest.raises(DataError, match=words) as caught:
        read_cohort(path)
    assert f"allow={code}" in str(caught.value)
    cohort = read_cohort(path, allow=[code])
    assert len(cohort) in (2, 3) and (cohort.time > 0).all() and any(n.endswith("(1).") for n in cohort.notes)
    if "TP53" in columns:
        assert np.isnan(cohort.omics["rna"]["TP53"].iloc[0])


def test_words_for_unknown_are_missing_and_patients_without_survival_left_out(tmp_path):
    table = plain(TP53=["[Not Available]", "2", "NA"], event=[1, "Not Reported", 0])
    cohort = read_cohort(write(tmp_path, table))
    assert list(cohort.patients) == ["001", "003"] and cohort.omics["rna"]["TP53"].isna().all()
    assert any("1 patients without known survival" in n for n in cohort.notes)


def test_events_coded_one_and_two_are_ambiguous(tmp_path):
    with pytest.raises(DataError, match="1 and 2"):
        read_cohort(write(tmp_path, plain(event=[1, 2, 2])))


def test_names_turned_into_dates(tmp_path):
    path = write(tmp_path, plain().rename(columns={"TP53": "2-Sep", "EGFR": "1-Mar"}))
    kept = read_cohort(path)
    assert list(kept.omics["rna"].columns) == ["2-Sep", "1-Mar"]
    assert any("2-Sep (SEPTIN2)" in n for n in kept.notes)
    assert list(read_cohort(path, dates="repair").omics["rna"].columns) == ["SEPTIN2"]


def test_a_second_table_with_the_clinical_columns(tmp_path):
    rna = write(tmp_path, pd.DataFrame({"case_id": ["b", "a", "x"], "TP53": [2.0, 1.0, 9.0]}), "rna.csv")
    clinical = write(tmp_path, slides().assign(case_id=["a", "a", "b", "c", "c", "d"]), "clinical.csv")
    cohort = read_cohort(rna, clinical=clinical, name="blca", cancer="BLCA")
    assert list(cohort.patients) == ["a", "b"] and cohort.omics["rna"]["TP53"].tolist() == [1, 2]
    assert {n.split(" ", 1)[1] for n in cohort.notes} >= {"patients without omics left out."}


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "a.csv").write_bytes("patient_id,time_days\n김,1".encode("cp949"))
    (tmp_path / "b.csv.gz").write_bytes(b"no gzip")
    (tmp_path / "c.csv").write_text("nothing", encoding="utf-8")
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress(b"patient_id,time_days,event,TP53\n1,2,1,3\n")[:-6])
    (tmp_path / "f.xlsx").write_bytes(b"PK")
    for name, words in (("a.csv", "not UTF-8"), ("b.csv.gz", "table|read"), ("c.csv", "not a table"),
                        ("d.parquet", "cannot be read"), ("e.csv.gz", "cannot be read|not a table")):  # fmt: skip
        with pytest.raises(DataError, match=words) as caught:
            read_cohort(tmp_path / name, "csv")
        assert name not in (caught.value.recorded or name)
    with pytest.raises(UsageError, match="is no table"):
        read_cohort(tmp_path / "f.xlsx")
    with pytest.raises(UsageError, match="does not exist"):
        read_cohort(tmp_path / "none.csv")


def test_an_unpacked_file_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("clarion.cancer.readers.tables.MAX_BYTES", 10_000)
    rows = "".join(f"{k},100,1,{k}.5\n" for k in range(10_000))
    (tmp_path / "big.csv.gz").write_bytes(gzip.compress(f"patient_id,time_days,event,TP53\n{rows}".encode()))
    with pytest.raises(DataError, match="unpacks to more"):
        read_cohort(tmp_path / "big.csv.gz", "csv")


@pytest.mark.parametrize("name, patients, events, rna, cnv, mut", [
    ("blca", 373, 169, 1554, 256, 371), ("brca", 956, 130, 1558, 1333, 21), ("kirp", 260, 40, 1557, 0, 20),
])  # fmt: skip
def test_published_cohorts_have_their_published_size(real_data, name, patients, events, rna, cnv, mut):
    cohort = read_cohort(porpoise_files(real_data / "cancer")[name], kind="public")
    assert (len(cohort), cohort.event.sum()) == (patients, events)
    assert [cohort.omics[m].shape[1] if m in cohort.omics else 0 for m in ("rna", "cnv", "mut")] == [rna, cnv, mut]
    assert (cohort.event & (cohort.time <= 60)).sum() == {"blca": 162, "brca": 83, "kirp": 35}[name]
    assert cohort.scale["rna"] == "z-score"


def test_expression_and_clinical_table_of_survpath(real_data):
    folder = real_data / "cancer" / "xena"
    cohort = read_cohort(folder / "rna_blca.parquet", clinical=folder / "meta_blca.csv", name="blca", kind="public")
    assert len(cohort) == 359 and cohort.omics["rna"].shape[1] == 1577 and cohort.scale["rna"] == "log2(TPM+0.001)"
    same = read_cohort(porpoise_files(real_data / "cancer")["blca"], kind="public").clinical
    both = cohort.patients.intersection(same.index)
    assert len(both) > 300
    apart = (cohort.clinical.loc[both, "time"] - same.loc[both, "time"]).abs()
    assert (apart < 1).mean() > 0.9  # two releases of the same follow-up
    dss = read_cohort(folder / "rna_blca.parquet", clinical=folder / "meta_blca.csv", endpoint="DSS")
    assert dss.event.sum() < cohort.event.sum()
