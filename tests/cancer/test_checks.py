"""Each artefact, planted, is found under its own code; a sound cohort and nine real ones are not accused of it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from clarion.cancer.checks import CODES, Limits, check_cohort
from clarion.cancer.cohort import Cohort
from clarion.cancer.datasets import OmicsData
from clarion.cancer.readers import porpoise_files, read_cohort
from clarion.cancer.readers.scales import scale_problems
from clarion.cancer.synthetic import synthetic_cohort
from clarion.errors import DataError, UsageError


@pytest.fixture(scope="module")
def sound() -> Cohort:
    return synthetic_cohort(cancers=1, patients=120, genes=300, missing=0, seed=2)


def clinical(cohort: Cohort, **columns) -> Cohort:
    return replace(cohort, clinical=cohort.clinical.assign(**columns))


def rna(cohort: Cohort, values, scale: str | None = None) -> Cohort:
    table = cohort.omics["rna"]
    if not isinstance(values, pd.DataFrame):
        values = pd.DataFrame(np.asarray(values, np.float32), table.index, table.columns)
    scales = cohort.scale | ({"rna": scale} if scale else {})
    return replace(cohort, omics=cohort.omics | {"rna": values}, scale=scales)


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)


def errors(cohort: Cohort, **options) -> set[str]:
    return {f.code for f in check_cohort(cohort, **options).errors}


def test_a_sound_cohort_passes(sound):
    report = check_cohort(sound)
    assert report.ok and report.counts["events"] == sound.event.sum()


@pytest.mark.parametrize("change, code", [
    (lambda c: clinical(c, event=False), "all_censored"),
    (lambda c: clinical(c, event=np.arange(len(c)) < 4), "too_few_events"),
    (lambda c: clinical(c, time=c.time - 5), "time_not_positive"),
    (lambda c: clinical(c, time=np.where(np.arange(len(c)) == 3, 0.0, c.time)), "time_not_positive"),
    (lambda c: clinical(c, time=np.where(np.arange(len(c)) == 3, np.nan, c.time)), "time_missing"),
    (lambda c: clinical(c, time=c.time * 30.4), "time_scale"),  # days read as months
    (lambda c: clinical(c, time=c.time * 10), "time_scale"),
    (lambda c: clinical(c, time=c.time / 12), "time_scale"),  # years read as months
    (lambda c: rna(c, c.omics["rna"] * 10), "expression_scale"),
    (lambda c: rna(c, 2 ** c.omics["rna"] - 1), "expression_scale"),  # declared as logarithms
    (lambda c: rna(c, c.omics["rna"].to_numpy() - 3), "expression_scale"),
    (lambda c: rna(c, c.omics["rna"], "TPM"), "expression_scale"),
    (lambda c: rna(c, 10 * standardised(c.omics["rna"].to_numpy()), "z-score"), "expression_scale"),
    (lambda c: rna(c, c.omics["rna"].to_numpy() * np.where(np.arange(len(c)) == 7, 0.1, 1)[:, None]), "sample_scale"),
    (lambda c: rna(c, c.omics["rna"].to_numpy() * (np.arange(300) < 100)), "constant_genes"),
    (lambda c: rna(c, np.where(np.arange(300) % 3 == 0, c.omics["rna"], np.nan)), "missing_values"),
    (lambda c: rna(c, c.omics["rna"].to_numpy()[[0, 0, *range(2, len(c))]]), "duplicate_profiles"),
    (lambda c: rna(c, c.omics["rna"].rename(columns={"GENE00002": "2-Sep", "GENE00003": "1-Mar"})), "gene_dates"),
    (lambda c: rna(c, c.omics["rna"].rename(columns={"GENE00002": "GENE00003"})), "gene_twice"),
])  # fmt: skip
def test_artefacts_are_refused_unless_allowed(sound, change, code):
    changed = change(sound)
    report = check_cohort(changed)
    assert {f.code for f in report.errors} == {code}, report.text()
    with pytest.raises(DataError, match=r"kind\(s\) of error"):
        report.raise_if_bad()
    allowed = check_cohort(changed, allow=[code])
    assert allowed.ok and code in {f.code for f in allowed.warnings}


@pytest.fixture(scope="module")
def amounts() -> pd.DataFrame:
    """log2(TPM + 1) of 2,000 genes of 60 patients."""
    return synthetic_cohort(cancers=1, patients=60, genes=2000, missing=0, cnv=0, mut=0, seed=4).omics["rna"]


@pytest.mark.parametrize("genes", [150, 2000])
@pytest.mark.parametrize("values, refused", [
    (lambda x: x, ""),
    (lambda x: 2**x - 1, ""),  # TPM, read as linear
    (lambda x: 100 * (2**x - 1), ""),  # intensities of no known unit
    (lambda x: (x - x.mean()) / x.std(), ""),
    (lambda x: 10 * x, "times the median where amounts spread over orders of magnitude"),
    (lambda x: 0.1 * x, "10x too small"),
    (lambda x: 10 * (x - x.mean()) / x.std(), "another scale|10x too large"),
])  # fmt: skip
def test_a_wrong_scale_is_found_where_none_is_declared(amounts, tmp_path, values, refused, genes):
    """A table of one's own with data.scale null: the values themselves tell."""
    table = values(amounts.iloc[:, :genes]).add_suffix("_rnaseq")
    rng = np.random.default_rng(0)
    head = pd.DataFrame({"patient_id": table.index, "time_months": rng.uniform(2, 90, 60), "event": [1, 0] * 30})
    pd.concat([head, table.reset_index(drop=True)], axis=1).to_csv(tmp_path / "own.csv", index=False)
    data = OmicsData("own", root=str(tmp_path), kind="public", limits={"max_two_floors": 1.0})
    if not refused:
        assert not [f for f in data.check().errors if f.code == "expression_scale"]
        return
    with pytest.raises(DataError, match=refused):
        data.check()


@pytest.mark.parametrize("declared", ["TPM", "FPKM", "linear"])
def test_ten_times_the_amounts_are_found_as_far_as_they_can_be(amounts, declared):
    right, wrong = 2 ** amounts.to_numpy() - 1, 10 * (2 ** amounts.to_numpy() - 1)
    assert scale_problems(right, declared, "rna") == []
    # amounts of an unknown unit have no wrong factor; logarithms times ten are none of them
    assert bool(scale_problems(wrong, declared, "rna")) == (declared != "linear")
    assert "logarithms times a factor" in scale_problems(10 * amounts.to_numpy(), declared, "rna")[0]
    loud = right[:, right.mean(axis=0) > 100]  # a choice of loud genes is no wrong scale
    assert scale_problems(loud, declared, "rna") == []


def test_z_scores_that_no_cohort_can_have(sound):
    x = standardised(sound.omics["rna"].to_numpy())
    x[4, 11] = 36_893
    found = check_cohort(rna(sound, x, "z-score"))
    assert {f.code for f in found.errors} == {"outliers"} and "GENE00012 36,893" in found.errors[0].text(private=False)
    x[4, 11] = 30  # above sqrt(120), below the limit
    assert check_cohort(rna(sound, x, "z-score")).ok
    assert "outliers" in {f.code for f in check_cohort(rna(sound, x, "z-score")).warnings}
    assert errors(rna(sound, x, "z-score"), limits={"max_abs_z": 20}) == {"outliers"}


def test_studies_that_were_z_scored_apart_are_found(sound):
    """As in GBMLGG: the mean of every gene agrees between the studies, but what is not expressed has two values."""
    x = sound.omics["rna"].to_numpy()
    rng = np.random.default_rng(0)
    low = rng.random(x.shape[1]) < 0.3  # genes that a third of the patients do not express
    x = np.where(low & (rng.random(x.shape) < 0.33), 0, x)
    whole = standardised(x)
    assert errors(rna(sound, whole, "z-score")) == set()
    apart = np.concatenate([standardised(x[:50]), standardised(x[50:])])
    assert errors(rna(sound, apart, "z-score")) == {"pooled_studies"}


def test_studies_with_a_shift_are_found_with_and_without_their_names(sound):
    x = sound.omics["rna"].to_numpy().copy()
    shift = np.random.default_rng(1).normal(0, 1.5, x.shape[1])
    second = np.arange(len(x)) < 40
    moved = rna(sound, np.clip(x + second[:, None] * shift, 0, None))
    assert errors(moved) == {"pooled_studies"}
    assert "80 and 40" in check_cohort(moved).text()
    assert "batch_effect" in errors(clinical(moved, study=np.where(second, "A", "B")))
    assert "batch_effect" in errors(clinical(moved, site=np.where(second, "A", "B")))
    assert errors(clinical(sound, study=np.where(second, "A", "B"))) == set()


def test_nothing_recorded_names_a_patient(sound):
    report = check_cohort(clinical(sound, time=sound.time - 5))
    with pytest.raises(DataError) as caught:
        report.raise_if_bad()
    assert "SYN-" in str(caught.value) and "SYN-" not in caught.value.recorded and "SYN-" not in str(report.to_dict())


def test_unknown_options_are_refused(sound):
    with pytest.raises(UsageError, match="allow=outlier "):
        check_cohort(sound, allow=["outlier"])
    with pytest.raises(UsageError, match="limits.min_event "):
        check_cohort(sound, limits={"min_event": 3})
    assert errors(sound, limits=Limits(min_events=500)) == {"too_few_events"} and "outliers" in CODES


def test_each_cancer_is_checked_for_itself():
    cohort = synthetic_cohort(cancers=2, patients=60, genes=200, specific=1, cnv=10, mut=5)
    few = clinical(cohort, event=cohort.event & (cohort.clinical["cancer"] == "ALFA").to_numpy())
    report = check_cohort(few)
    assert [f.code for f in report.errors] == ["all_censored"] and "BRAVO" in report.errors[0].message


@pytest.mark.parametrize("name", ["blca", "kirp", "paad"])
def test_real_cohorts_show_their_known_artefacts_only(real_data, name):
    """facts/cancer.md: z-scores with outliers up to 36,893, KIRP has few events; no cohort of these is pooled."""
    highest = {"blca": "14,071", "kirp": "269", "paad": "827"}[name]
    report = check_cohort(read_cohort(porpoise_files(real_data / "cancer")[name], kind="public"))
    assert [f.code for f in report.errors] == ["outliers"] and f"up to {highest} " in report.errors[0].message
    assert [f.code for f in report.warnings] == (["few_events"] if name == "kirp" else [])


def test_two_real_cohorts_put_together_are_found_out(real_data):
    files = porpoise_files(real_data / "cancer")
    parts = [read_cohort(files[n], kind="public") for n in ("kirp", "paad")]
    genes = parts[0].omics["rna"].columns.intersection(parts[1].omics["rna"].columns)
    table = pd.concat([p.omics["rna"][genes] for p in parts])
    both = pd.concat([p.clinical for p in parts]).assign(cancer="MIXED")
    mixed = Cohort("mixed", both, {"rna": table}, "public", {"rna": "z-score"})
    assert "pooled_studies" in errors(mixed, allow=["outliers"])
