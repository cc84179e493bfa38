"""Folders as GDC / Xena, CPTAC and cBioPortal lay them out, written here with known numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clarion.cancer.readers import detect_format, read_cohort
from clarion.errors import DataError, UsageError

PATIENTS = ["TCGA-ZZ-0001", "TCGA-ZZ-0002", "TCGA-ZY-0003", "TCGA-ZX-0004"]
SAMPLES = ["TCGA-ZZ-0001-01A", "TCGA-ZZ-0001-01B", "TCGA-ZZ-0001-11A", "TCGA-ZZ-0002-01A", "TCGA-ZY-0003-06A",
           "TCGA-ZY-0003-01A", "TCGA-ZX-0004-06A"]  # fmt: skip


def tsv(path: Path, table: pd.DataFrame, **options) -> None:
    table.to_csv(path, sep="\t", index=False, **options)


def xena(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    values = np.arange(len(SAMPLES), dtype=float)
    rna = pd.DataFrame(
        [values + 0.25, values * 0 + 7.5, values / 2, values / 4], columns=SAMPLES,
        index=["ENSG00000141510.16", "ENSG00000146648.17", "ENSG00000002586.18", "ENSG00000002586.18_PAR_Y"],
    ).rename_axis("Ensembl_ID").reset_index()  # fmt: skip
    tsv(folder / "TCGA-BLCA.star_tpm.tsv.gz", rna)
    probes = {"id": ["ENSG00000141510.16", "ENSG00000146648.17"], "gene": ["TP53", "EGFR"], "chrom": ["17", "7"]}
    tsv(folder / "gencode.v36.annotation.gtf.gene.probemap", pd.DataFrame(probes))  # Xena gives it no other suffix
    tsv(folder / "TCGA-BLCA.survival.tsv", pd.DataFrame({
        "sample": SAMPLES, "OS": [1, 1, 1, 0, 1, 1, 0], "_PATIENT": [s[:12] for s in SAMPLES],
        "OS.time": [730.5, 730.5, 730.5, 365.25, 30.4375, 30.4375, 100]}))  # fmt: skip
    tsv(folder / "TCGA-BLCA.GDC_phenotype.tsv.gz", pd.DataFrame({
        "submitter_id.samples": SAMPLES, "gender.demographic": ["male"] * 3 + ["female"] * 4,
        "age_at_initial_pathologic_diagnosis": [63] * 3 + [66, 40, 40, 71]}))  # fmt: skip
    tsv(
        folder / "TCGA-BLCA.somaticmutation_wxs.tsv",
        pd.DataFrame(
            {
                "sample": ["TCGA-ZZ-0001-01A", "TCGA-ZZ-0001-01A", "TCGA-ZZ-0002-01A"],
                "gene": ["TP53", "EGFR", "EGFR"],
                "chrom": 1,
                "effect": ["missense_variant", "synonymous_variant", "stop_gained;splice_region_variant"],
            }
        ),
    )
    return folder


def test_a_xena_folder(tmp_path):
    folder = xena(tmp_path / "TCGA-BLCA")
    assert detect_format(folder) == "xena"
    cohort = read_cohort(folder, cancer="BLCA", kind="public")
    assert list(cohort.patients) == PATIENTS[:3]  # the fourth has a metastasis alone
    np.testing.assert_allclose(cohort.time, [24, 12, 1])  # days to months
    assert cohort.event.tolist() == [True, False, True] and cohort.clinical["sex"].tolist() == ["M", "F", "F"]
    assert cohort.clinical["site"].tolist() == ["ZZ", "ZZ", "ZY"] and cohort.clinical["age"].tolist() == [63, 66, 40]
    rna = cohort.omics["rna"]
    assert list(rna.columns) == ["TP53", "EGFR", "ENSG00000002586"]
    np.testing.assert_allclose(rna["TP53"], [0.25, 3.25, 5.25])  # vial A before B, tumour before normal, 01 not 06
    np.testing.assert_allclose(rna["ENSG00000002586"], [0, 1.5, 2.5])  # the expressed copy of the X and Y gene
    assert cohort.scale == {"rna": "log2(TPM+1)", "mut": "0/1"}
    mut = cohort.omics["mut"]
    assert mut.loc[PATIENTS[0]].to_dict() == {"EGFR": 0, "TP53": 1} and mut.loc[PATIENTS[1], "EGFR"] == 1
    assert mut.loc[PATIENTS[2]].isna().all()  # not in the list: not known to be sequenced
    notes = " ".join(cohort.notes)
    assert "1 samples of type 11 (tissue normal)" in notes and "2 samples of type 06 (metastasis)" in notes
    assert "1 further samples" in notes and "1 genes came several times" in notes


def test_metastases_count_where_asked_for_and_in_melanoma(tmp_path):
    folder = xena(tmp_path / "x")
    assert list(read_cohort(folder, cancer="SKCM").patients) == PATIENTS
    assert list(read_cohort(folder, cancer="BLCA", sample_types=["06"]).patients) == PATIENTS[2:]


@pytest.mark.parametrize("name, transform, scale", [
    ("a.htseq_counts.tsv", lambda x: np.rint(2**x), "counts"), ("a.htseq_counts.tsv", lambda x: x, "log2(counts+1)"),
    ("a.htseq_fpkm.tsv", lambda x: x, "log2(FPKM+1)"), ("tcga_RSEM_gene_tpm.tsv", lambda x: x - 9, "log2(TPM+0.001)"),
    ("a_tpm.tsv", lambda x: 2.5**x, "TPM"),
])  # fmt: skip
def test_scales_of_matrices(tmp_path, name, transform, scale):
    rng = np.random.default_rng(0)
    x = transform(rng.uniform(0.1, 14, (60, len(SAMPLES))))
    table = pd.DataFrame(x, columns=SAMPLES, index=[f"G{k}|{k}" for k in range(60)]).rename_axis("sample").reset_index()
    tsv(tmp_path / name, table)
    clinical = xena(tmp_path / "x") / "TCGA-BLCA.survival.tsv"
    cohort = read_cohort(tmp_path / name, "xena", clinical=clinical, cancer="BLCA")
    assert cohort.scale["rna"] == scale and len(cohort) == 3 and cohort.omics["rna"].columns[0] == "G0"


def test_a_matrix_with_words_in_it(tmp_path):
    folder = xena(tmp_path / "x")
    rna = pd.read_csv(folder / "TCGA-BLCA.star_tpm.tsv.gz", sep="\t").astype(object)
    rna.iloc[1, 2], rna.iloc[0, 1] = "#REF!", "NA"
    tsv(folder / "TCGA-BLCA.star_tpm.tsv.gz", rna)
    with pytest.raises(DataError, match="no numbers") as caught:
        read_cohort(folder, cancer="BLCA")
    assert "#REF!" in str(caught.value) and "TCGA-" not in caught.value.recorded
    allowed = read_cohort(folder, cancer="BLCA", allow=["non_numeric"])
    assert np.isnan(allowed.omics["rna"].loc[PATIENTS[0], "TP53"])


def test_cptac_tables(tmp_path):
    genes = pd.DataFrame({"idx": ["ENSG00000141510.16", "ENSG00000146648.17"], "C3L-00001": [1.0, 2.0],
                          "C3N-00002": [3.0, 4.0], "C3N-00003": [5.0, np.nan]})  # fmt: skip
    tsv(tmp_path / "LUAD_RNAseq_gene_RSEM_coding_UQ_1500_log2_Tumor.txt", genes)
    tsv(tmp_path / "LUAD_RNAseq_gene_RSEM_coding_UQ_1500_log2_Normal.txt", genes * 2)
    tsv(
        tmp_path / "LUAD_survival.txt",
        pd.DataFrame(
            {
                "case_id": ["C3L-00001", "C3N-00002", "C3N-00003"],
                "OS_days": [365.25, 730.5, np.nan],
                "OS_event": [1, 0, 0],
            }
        ),
    )
    tsv(tmp_path / "LUAD_meta.txt", pd.DataFrame({
        "idx": ["data_type", "C3L-00001", "C3N-00002", "C3N-00003"], "Sex": ["BIN", "Female", "Male", "Male"],
        "Age": ["CON", "60", "70", "80"]}))  # fmt: skip
    assert detect_format(tmp_path) == "cptac"
    cohort = read_cohort(tmp_path, cancer="LUAD")
    assert list(cohort.patients) == ["C3L-00001", "C3N-00002"] and cohort.clinical["age"].tolist() == [60, 70]
    np.testing.assert_allclose(cohort.time, [12, 24])
    assert cohort.omics["rna"]["ENSG00000141510"].tolist() == [1, 3] and cohort.clinical["sex"].tolist() == ["F", "M"]


def test_linkedomics_tables_with_attributes_as_rows(tmp_path):
    tsv(tmp_path / "Human__CPTAC_LUAD__rnaseq_rpkm_log2_tumor.cct", pd.DataFrame(
        {"idx": ["TP53", "EGFR"], "C3L-00001": [1.0, 2.0], "C3L-00002": [3.0, 4.0]}))  # fmt: skip
    tsv(tmp_path / "Human__CPTAC_LUAD__clinical.tsi", pd.DataFrame({
        "attrib_name": ["OS_days", "OS_event", "Gender", "Age"], "C3L-00001": ["365.25", "1", "male", "61"],
        "C3L-00002": ["30.4375", "0", "female", "NA"]}))  # fmt: skip
    cohort = read_cohort(tmp_path, cancer="LUAD")
    np.testing.assert_allclose(cohort.time, [12, 1])
    assert cohort.clinical["sex"].tolist() == ["M", "F"] and cohort.clinical["age"].isna().tolist() == [False, True]


def study(folder: Path, own_ids: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    patients = ["P-1", "P-2", "P-3", "P-4"] if own_ids else PATIENTS
    samples = {f"{p}-T" if own_ids else f"{p}-01": p for p in patients}
    samples |= {"P-1-M": "P-1"} if own_ids else {f"{PATIENTS[0]}-06": PATIENTS[0]}
    head = "#Patient Identifier\tMonths\n#text\ttext\n#STRING\tNUMBER\n#1\t1\n"
    clinical = pd.DataFrame({"PATIENT_ID": patients, "OS_STATUS": ["1:DECEASED", "0:LIVING", "1:DECEASED", "0:LIVING"],
                             "OS_MONTHS": [10.0, 20.0, 30.0, "[Not Available]"], "AGE": [50, 60, 70, 80],
                             "SEX": ["Male", "Female", "Male", "Female"], "PFS_STATUS": "1:Progressed",
                             "PFS_MONTHS": [5.0, 6, 7, 8]})  # fmt: skip
    (folder / "data_clinical_patient.txt").write_text(head + clinical.to_csv(sep="\t", index=False), encoding="utf-8")
    kinds = ["Primary", "Primary", "Primary", "Primary", "Metastasis"]
    table = pd.DataFrame({"PATIENT_ID": samples.values(), "SAMPLE_ID": samples.keys(), "ONCOTREE_CODE": "LUAD",
                          "CANCER_TYPE": "Non-Small Cell Lung Cancer", "SAMPLE_TYPE": kinds})  # fmt: skip
    (folder / "data_clinical_sample.txt").write_text(head + table.to_csv(sep="\t", index=False), encoding="utf-8")
    ids = list(samples)
    lead = {"Hugo_Symbol": ["TP53", "EGFR", "TP53", np.nan], "Entrez_Gene_Id": [7157, 1956, 7157, 99]}
    rna = np.array([[100.5, 200, 300, 400, 9], [1, 2, 3, 4, 9], [0, 0, 0, 0, 9], [5, 5, 5, 5, 5]])
    tsv(folder / "data_mrna_seq_v2_rsem.txt", pd.DataFrame({**lead, **dict(zip(ids, rna.T, strict=True))}))
    tsv(folder / "data_mrna_seq_v2_rsem_zscores_ref_all_samples.txt", pd.DataFrame({**lead, ids[0]: [0.0] * 4}))
    cna = {"Hugo_Symbol": ["EGFR"], **{s: [k - 2] for k, s in enumerate(ids)}}
    tsv(folder / "data_cna.txt", pd.DataFrame(cna))
    maf = pd.DataFrame({"Hugo_Symbol": ["TP53", "EGFR", "KRAS"], "Chromosome": ["17", "7", "12"],
                        "Variant_Classification": ["Missense_Mutation", "Silent", "Missense_Mutation"],
                        "Tumor_Sample_Barcode": [ids[0], ids[1], ids[4]]})  # fmt: skip
    (folder / "data_mutations.txt").write_text("#version 2.4\n" + maf.to_csv(sep="\t", index=False), encoding="utf-8")
    return folder


@pytest.mark.parametrize("own_ids", [False, True])
def test_a_cbioportal_study(tmp_path, own_ids):
    folder = study(tmp_path / "luad_tcga", own_ids)
    assert detect_format(folder) == "cbioportal"
    cohort = read_cohort(folder, kind="public", cancer="LUAD")
    assert len(cohort) == 3 and cohort.event.tolist() == [True, False, True] and cohort.time.tolist() == [10, 20, 30]
    assert cohort.clinical["age"].tolist() == [50, 60, 70] and cohort.clinical["sex"].tolist() == ["M", "F", "M"]
    assert cohort.clinical["subtype"].tolist() == ["LUAD"] * 3
    rna = cohort.omics["rna"]
    np.testing.assert_allclose(rna["TP53"], [100.5, 200, 300])  # the expressed copy; the primary, not the metastasis
    assert cohort.scale == {"rna": "counts", "cnv": "-2..2", "mut": "0/1"}
    assert cohort.omics["cnv"]["EGFR"].tolist() == [-2, -1, 0]
    mut = cohort.omics["mut"]
    assert mut["TP53"].iloc[0] == 1 and mut.iloc[1].eq(0).all() and mut.iloc[2].isna().all()
    assert "KRAS" in mut and mut["KRAS"].iloc[0] == 0  # that mutation is the metastasis's


def test_sequenced_samples_without_mutations_are_unmutated(tmp_path):
    folder = study(tmp_path / "s")
    (folder / "case_lists").mkdir()
    listed = "\t".join(f"{p}-01" for p in PATIENTS)
    (folder / "case_lists" / "cases_sequenced.txt").write_text(
        f"stable_id: s\ncase_list_ids: {listed}\n", encoding="utf-8"
    )
    mut = read_cohort(folder, cancer="LUAD").omics["mut"]
    assert mut.iloc[2].eq(0).all() and mut["TP53"].tolist() == [1, 0, 0]


def test_a_matrix_that_r_wrote(tmp_path):
    """write.table gives the column of row names no header, so that a header is one name short."""
    folder = xena(tmp_path / "x")
    (folder / "TCGA-BLCA.star_tpm.tsv.gz").unlink()
    rows = "\n".join(
        f"{g}\t" + "\t".join(str(v + k) for k in range(len(SAMPLES))) for g, v in (("TP53", 1), ("EGFR", 5))
    )
    (folder / "tpm.tsv").write_text("\t".join(SAMPLES) + "\n" + rows + "\n", encoding="utf-8")
    rna = read_cohort(folder, cancer="BLCA").omics["rna"]
    assert rna["TP53"].tolist() == [1, 4, 6] and rna["EGFR"].tolist() == [5, 8, 10]
    (folder / "tpm.tsv").write_text("\t".join(SAMPLES) + "\n" + rows.replace("\t7\n", "\n") + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="longer than its first|is not a table"):
        read_cohort(folder, cancer="BLCA")


def test_rows_that_end_with_a_separator(tmp_path):
    folder = xena(tmp_path / "x")
    path = folder / "TCGA-BLCA.survival.tsv"
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([first, *(f"{line}\t" for line in rest)]) + "\n", encoding="utf-8")
    np.testing.assert_allclose(read_cohort(folder, cancer="BLCA").time, [24, 12, 1])


def test_long_comments_and_genes_without_a_symbol(tmp_path):
    folder = study(tmp_path / "s")
    path = folder / "data_clinical_patient.txt"
    path.write_text("#" + "x" * 50_000 + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    cohort = read_cohort(folder, cancer="LUAD")
    assert list(cohort.omics["rna"].columns) == ["TP53", "EGFR", "ENTREZ:99"]


def test_other_endpoints(tmp_path):
    folder = study(tmp_path / "s")
    cohort = read_cohort(folder, endpoint="PFS", cancer="LUAD")
    assert len(cohort) == 4 and cohort.event.all() and cohort.time.tolist() == [5, 6, 7, 8]
    with pytest.raises(DataError, match="no time and no event of the endpoint DSS"):
        read_cohort(folder, endpoint="DSS")
    with pytest.raises(UsageError, match="endpoint=XX is unknown"):
        read_cohort(folder, endpoint="XX")


def test_folders_that_hold_no_cohort(tmp_path):
    with pytest.raises(UsageError, match="holds no cohort"):
        read_cohort(tmp_path)
    with pytest.raises(UsageError, match="format=gdc is unknown"):
        read_cohort(tmp_path, "gdc")
    (tmp_path / "survival.tsv").write_text("sample\tOS\tOS.time\nA\t1\t5\n", encoding="utf-8")
    with pytest.raises(DataError, match="no expression"):
        read_cohort(tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = xena(tmp_path / "x")
    (tmp_path / "secret.tsv").write_text("a\tb\n1\t2\n", encoding="utf-8")
    (folder / "TCGA-BLCA.gistic.tsv").symlink_to(tmp_path / "secret.tsv")
    with pytest.raises(DataError, match="link out of"):
        read_cohort(folder)
