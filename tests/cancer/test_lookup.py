"""The coefficient table: bound to its patients, planted effects found, false discoveries held, the leak measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from clarion.cancer.cohort import Cohort
from clarion.cancer.cox import fit, rank_normal
from clarion.cancer.leak import measure_folder, measure_synthetic
from clarion.cancer.lookup import LookupTable, fit_cohort, fit_pancancer, leak_gap, sign_score
from clarion.cancer.pairs import input_pairs
from clarion.cancer.synthetic import synthetic_cohort
from clarion.errors import DataError, UsageError


def simulate(n, p, effects, seed, correlated=0.0):
    """(expression [n, p], time, event): exponential survival with log hazards `effects` on the first genes, uniform
    censoring, whole months (so: ties), values sharing a common factor of variance `correlated`."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 1))
    x = np.sqrt(correlated) * common + np.sqrt(1 - correlated) * rng.normal(size=(n, p))
    beta = np.zeros(p)
    beta[: len(effects)] = effects
    death, censor = rng.exponential(40.0 * np.exp(-x @ beta)), rng.uniform(12, 120, n)
    return x.astype(np.float32), np.maximum(1, np.ceil(np.minimum(death, censor))), death <= censor


def table_of(prefix, n, p, effects, seed, genes=None):
    x, time, event = simulate(n, p, effects, seed)
    genes = genes or [f"G{i}" for i in range(p)]
    return pd.DataFrame(x, [f"{prefix}-{i}" for i in range(n)], genes), time, event


@pytest.fixture(scope="module")
def lookup() -> LookupTable:
    stream = ((c, *table_of(c, 150, 12, [0.8, -0.8], seed)) for seed, c in enumerate(("AAA", "BBB")))
    return fit_pancancer(stream, horizon=60.0)


def test_a_row_a_gene_and_cancer_equal_to_the_single_fits(lookup):
    assert len(lookup.frame) == 24 and lookup.cancers == ["AAA", "BBB"] and list(lookup.genes[:2]) == ["G0", "G1"]
    for seed, cancer in enumerate(lookup.cancers):
        x, time, event = table_of(cancer, 150, 12, [0.8, -0.8], seed)
        alone = fit(x, time, event, horizon=60.0).frame().set_index("gene")
        of = lookup.of(cancer)
        for column in ("coef", "se", "p_lr", "q", "n", "events"):
            np.testing.assert_array_equal(of[column], alone[column])
            np.testing.assert_array_equal(lookup.matrix(column)[cancer], alone[column])
        assert list(of["status"].astype(str)) == list(alone["status"])
    assert lookup.matrix().loc["G0"].min() > 0.4 and lookup.matrix().loc["G1"].max() < -0.4


def test_evaluated_patients_of_the_fit_are_refused(lookup):
    lookup.check([f"AAA-{i}" for i in range(150, 200)])
    with pytest.raises(DataError, match="1 of BBB") as error:
        lookup.check(["new", "BBB-3"])
    assert "BBB-3" not in str(error.value)  # a count, no names


def test_the_file_keeps_the_bond_and_no_names(lookup, tmp_path):
    path = lookup.write(tmp_path / "deep" / "table.parquet")
    again = LookupTable.read(path)
    pd.testing.assert_frame_equal(again.frame, lookup.frame)
    assert again.patients == lookup.patients and again.settings == lookup.settings and again.digest == lookup.digest
    with pytest.raises(DataError, match="2 of AAA"):
        again.check(["AAA-0", "AAA-149"])
    raw = path.read_bytes()
    assert b"AAA-0" not in raw and b"AAA-149" not in raw
    # the same patient has another hash in another table
    other = fit_pancancer([("AAA", *table_of("AAA", 149, 12, [0.8], 0))])
    assert not other.patients["AAA"].hashes & lookup.patients["AAA"].hashes
    assert list(tmp_path.rglob("*")) == [tmp_path / "deep", path]


def test_files_that_are_no_table_are_refused(lookup, tmp_path):
    path = lookup.write(tmp_path / "table.parquet")
    bare = pq.read_table(path).replace_schema_metadata(None)
    pq.write_table(bare, tmp_path / "bare.parquet")
    (tmp_path / "text.parquet").write_text("gene,coef")
    short = pq.read_table(path)
    meta = {k: v.replace(b'"n": 150', b'"n": 151') for k, v in short.schema.metadata.items()}
    pq.write_table(short.replace_schema_metadata(meta), tmp_path / "short.parquet")
    for name, match in {"bare": "whom it was fitted on", "text": "table", "short": "all the patients"}.items():
        with pytest.raises(DataError, match=match):
            LookupTable.read(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError):
        LookupTable.read(tmp_path / "absent.parquet")


def test_cancers_may_differ_in_genes_and_be_too_few():
    quiet = table_of("CCC", 30, 4, [], 5, ["G0", "G1", "X", "Y"])
    table = fit_pancancer(
        [("AAA", *table_of("AAA", 150, 3, [0.8], 0)), ("CCC", quiet[0], quiet[1], np.zeros(30, bool))]
    )
    assert set(table.of("CCC")["status"]) == {"too few events"} and table.of("CCC")["events"].max() == 0
    wide = table.matrix()
    assert list(wide.index) == ["G0", "G1", "G2", "X", "Y"] and np.isnan(wide.loc["X"]).all()
    table.check(["CCC-99"])
    with pytest.raises(DataError, match="1 of CCC"):
        table.check(["CCC-9"])
    with pytest.raises(DataError, match="does not know"):
        table.of("DDD")


def test_streaming_refuses_what_comes_twice():
    one = table_of("AAA", 60, 3, [], 0)
    with pytest.raises(DataError, match="came twice"):
        fit_pancancer([("AAA", *one), ("AAA", *one)])
    double = (pd.concat([one[0], one[0]]), np.tile(one[1], 2), np.tile(one[2], 2))
    with pytest.raises(DataError, match="come twice"):
        fit_pancancer([("AAA", *double)])
    with pytest.raises(UsageError):
        fit_pancancer([])
    with pytest.raises(DataError, match="AAA: .* negative"):
        fit_pancancer([("AAA", one[0], -one[1], one[2])])


def test_a_cohort_with_covariates_and_strata():
    rng = np.random.default_rng(0)
    parts = [table_of(c, 120, 5, [0.8], s) for s, c in enumerate(("AAA", "BBB"))]
    x = pd.concat([p[0] for p in parts])
    clinical = pd.DataFrame(
        {
            "time": np.concatenate([p[1] for p in parts]), "event": np.concatenate([p[2] for p in parts]),
            "cancer": np.repeat(["AAA", "BBB"], 120), "site": rng.choice(["s1", "s2", ""], 240),
            "age": rng.normal(60, 8, 240), "sex": np.r_[np.full(120, "F"), rng.choice(["F", "M"], 120)],
            "slide_ids": [()] * 240,
        }, index=x.index,
    )  # fmt: skip
    cohort = Cohort("two", clinical, {"rna": x})
    table = fit_cohort(cohort, covariates=("age", "sex"), strata="site")
    assert "sex" in table.settings["notes"]["AAA"][0]  # one sex only: dropped there, kept in the other
    expected = fit(parts[0][0], parts[0][1], parts[0][2], covariates=clinical[["age"]].iloc[:120],
                   strata=clinical["site"].iloc[:120])  # fmt: skip
    np.testing.assert_allclose(table.of("AAA")["coef"], expected.coef, atol=1e-12)
    with pytest.raises(UsageError, match="stage"):
        fit_cohort(cohort, covariates=("stage",))


def test_planted_effects_are_recovered():
    effects = np.array([0.6, -0.6, 0.4, -0.4, 0.5])
    x, time, event = simulate(600, 400, effects, seed=1)
    table = fit(x, time, event)
    assert {f"{i}" for i in range(5)} <= set(table.hits(0.05)) and len(table.hits(0.05)) <= 8
    assert (np.sign(table.coef[:5]) == np.sign(effects)).all()
    # one gene at a time the others' effects are left out, which shrinks a hazard ratio (it never flips it)
    shrunk = table.coef[:5] / effects
    assert (shrunk > 0.5).all() and (shrunk < 1.15).all()
    alone, time, event = simulate(4000, 1, [0.7], seed=2)
    single = fit(alone, time, event)
    assert abs(single.coef[0] - 0.7) < 3 * single.se[0] and single.se[0] < 0.03


def test_false_discoveries_stay_at_the_nominal_rate():
    """Mean share of false discoveries over 100 cohorts with 12 planted genes of 240: at most 10 % + 2 standard errors.
    Genes are independent and the false ones independent of survival, as Benjamini & Hochberg's theorem asks."""
    shares, found = [], []
    for seed in range(100):
        x, time, event = simulate(250, 240, [0.4, -0.4] * 6, seed=1000 + seed)
        hits = np.flatnonzero(fit(x, time, event).q <= 0.10)
        shares.append((hits >= 12).sum() / max(1, len(hits)))
        found.append((hits < 12).sum())
    assert np.mean(shares) <= 0.10 + 2 * np.std(shares, ddof=1) / np.sqrt(100)
    assert np.mean(found) > 4  # and not by finding nothing


def test_false_discoveries_among_co_expressed_genes():
    """As above with modules of correlated genes, null modules among them: Benjamini & Hochberg's bound also holds under
    positive dependence (Benjamini & Yekutieli 2001). False is a hit in a module without any effect (associated())."""
    shares, found = [], []
    for seed in range(100):
        cohort = synthetic_cohort(1, 120, 60, shared=3, specific=0, opposed=0, effect=0.7, module_size=6,
                                  correlation=0.6, cnv=0, mut=0, missing=0, seed=5000 + seed)  # fmt: skip
        hits = fit(rank_normal(cohort.omics["rna"].to_numpy()), cohort.time, cohort.event).q <= 0.10
        true = cohort.associated().to_numpy()[:, 0]
        shares.append((hits & ~true).sum() / max(1, hits.sum()))
        found.append((hits & true).sum())
        assert 0 < true.sum() <= 18
    assert np.mean(shares) <= 0.10 + 2 * np.std(shares, ddof=1) / np.sqrt(100)
    assert np.mean(found) > 3


def test_null_p_values_are_uniform():
    x, time, event = simulate(300, 4000, [], seed=3)
    table = fit(x, time, event)
    for p in (table.p_lr, table.p_wald, table.p_score):
        assert 0.04 < (p < 0.05).mean() < 0.065 and abs(np.median(p) - 0.5) < 0.03
    assert len(table.hits(0.05)) <= 2


def test_the_leak_shows_on_data_without_any_signal():
    x, time, event = table_of("N", 200, 800, [], 7)
    ids = x.index.to_numpy()
    folds = [(np.setdiff1d(ids, ids[k::4]), ids[k::4]) for k in range(4)]
    gap = leak_gap(x, time, event, folds, horizon=60.0, n_resamples=200)
    assert gap.summary["c_leaky"]["value"] > 0.6 and gap.summary["c_gap"]["low"] > 0.05
    assert abs(gap.summary["c_nested"]["value"] - 0.5) < 0.08
    assert gap.summary["auc_leaky"]["value"] > gap.summary["auc_nested"]["value"]
    assert len(gap.folds) == 4 and gap.folds["n"].sum() == 200
    assert (gap.folds["n_auc"] < gap.folds["n"]).any() and gap.summary["auc_gap"]["n"] == gap.folds["n_auc"].sum()
    with pytest.raises(DataError, match="leaks"):
        leak_gap(x, time, event, [(ids, ids[:50])])
    less = leak_gap(x, time, event, [(ids[:150], [*ids[150:], "nobody"])], n_resamples=0)
    assert less.folds["n"][0] == 50 and "1 patients of the folds" in less.notes[0]
    # a fold in which nobody is known to be alive at the horizon has no AUC; the mean is over the others, and says so
    early = ids[time < 50][:30]
    two = [(np.setdiff1d(ids, early), early), (ids[::2], ids[1::2])]
    partial = leak_gap(x, time, event, two, horizon=60.0, n_resamples=20)
    assert np.isnan(partial.folds["auc_nested"][0]) and "1 of 2 folds" in partial.notes[0]
    assert partial.summary["auc_nested"]["value"] == pytest.approx(partial.folds["auc_nested"][1])


def test_a_score_does_not_depend_on_who_else_is_scored():
    x, time, event = table_of("N", 120, 30, [0.8, -0.8], 9)
    rows = fit_pancancer([("one", x, time, event)]).of("one")
    x.iloc[::3, :5] = np.nan
    for missing in (0.0, x.mean() + 3):
        every = sign_score(rows, x, 10, missing)
        assert sign_score(rows, x.iloc[:1], 10, missing) == pytest.approx(every[:1])
        best = rows["p_lr"].sort_values().index[:10]
        stand = x.iloc[[0]].fillna(missing)[best].to_numpy() @ np.sign(rows.loc[best, "coef"].to_numpy())
        assert every[:1] == pytest.approx(stand)


def test_the_table_of_a_cohort_keeps_its_scale_and_fingerprint(tmp_path):
    cohort = synthetic_cohort(2, 60, 30, shared=1, specific=0, opposed=0, cnv=0, mut=0, seed=3)
    table = LookupTable.read(fit_cohort(cohort).write(tmp_path / "t.parquet"))
    assert table.settings["scale"] == "log2(TPM+1)" and table.settings["cohort"] == cohort.fingerprint()
    ask = {"evaluated": False, "genes": list(table.genes[:3])}
    rna, cancer = cohort.omics["rna"], cohort.clinical["cancer"]
    assert len(input_pairs(table, rna, cancer, scale="log2(TPM+1)", **ask)) == 120
    with pytest.raises(DataError, match=r"fitted on values in log2\(TPM\+1\), these are in TPM"):
        input_pairs(table, 2**rna - 1, cancer, scale="TPM", **ask)


def test_the_leak_is_measured_cohort_by_cohort(tmp_path, monkeypatch):
    options = {"cancers": 2, "patients": 80, "genes": 120, "shared": 2, "specific": 0, "opposed": 0, "cnv": 0, "mut": 0}
    found = measure_synthetic(top=20, n_resamples=20, **options)
    assert [row[:2] for row in found["rows"]] == [["ALFA", 80], ["BRAVO", 80]] and found["n"] == 160
    assert all(len(row) == len(found["columns"]) for row in found["rows"]) and found["data"] == "phantom"
    figures = found["figures"]
    gap = figures["mean c leaky"]["value"] - figures["mean c nested"]["value"]
    assert figures["mean c gap"]["value"] == pytest.approx(gap) and gap > 0
    monkeypatch.delenv("CLARION_REAL_DATA", raising=False)
    with pytest.raises(UsageError, match="set CLARION_REAL_DATA"):
        measure_folder()


def test_the_measures_equal_scikit_survival():
    from sklearn.metrics import roc_auc_score
    from sksurv.metrics import concordance_index_censored

    x, time, event = table_of("N", 120, 60, [0.5], 8)
    x.iloc[3, 0] = np.nan
    ids = x.index.to_numpy()
    train, test = ids[:80], ids[80:]
    gap = leak_gap(x, time, event, [(train, test)], scale=None, top=20, n_resamples=0, horizon=50.0)
    table = fit_pancancer([("one", x.loc[train], time[:80], event[:80])], horizon=50.0)
    score = sign_score(table.of("one"), x.loc[test], 20)
    known = concordance_index_censored(event[80:], time[80:], score)[0]
    assert gap.folds["c_nested"][0] == pytest.approx(known, abs=1e-12)
    dead = event[80:] & (time[80:] <= 50)
    sure = dead | (time[80:] > 50)
    assert gap.folds["auc_nested"][0] == pytest.approx(roc_auc_score(dead[sure], score[sure]), abs=1e-12)


@pytest.mark.parametrize("cancer", ["blca"])
def test_leak_on_a_public_cohort(real_data, cancer):
    """BLCA on the published folds: the leaky table looks better in c-index and AUC."""
    folder = real_data / "cancer/tcga"
    table = pd.read_parquet(folder / f"tcga_{cancer}.parquet").drop_duplicates("case_id").set_index("case_id")
    splits = [pd.read_csv(folder / f"splits/5foldcv/tcga_{cancer}/splits_{k}.csv") for k in range(5)]
    folds = [(s["train"].dropna(), s["val"].dropna()) for s in splits]
    genes = [c for c in table.columns if c.endswith("_rnaseq")]
    gap = leak_gap(table[genes], table["survival_months"], table["censorship"] == 0, folds, n_resamples=100)
    assert gap.summary["c_gap"]["value"] > 0.03 and gap.summary["auc_gap"]["value"] > 0.05
    assert gap.folds["n"].sum() == 373 and gap.folds["n_auc"].sum() == 206
