"""The genome-wide Cox fit against published answers, R's golden fits, lifelines and scikit-survival."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from clarion.cancer.cox import benjamini_hochberg, fit, fit_model, rank_normal
from clarion.errors import DataError, UsageError

# Published to nine digits (2e-9 from the maximum, a default precision): all seven columns together, and each alone
ROSSI_EFRON = {
    "fin": -0.379422166, "age": -0.057437743, "race": 0.313899788, "wexp": -0.149795698, "mar": -0.433703878,
    "paro": -0.084871083, "prio": 0.091497081,
}  # fmt: skip
ROSSI_ALONE = {"fin": -0.36906921, "age": -0.07284542, "prio": 0.10096630}


def cohort(n=300, p=20, seed=0, ties=True, hazard=None):
    """Random expression float64 [n, p], times (whole months where `ties`), events; `hazard` [n] is the log hazard."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    rate = np.exp(np.zeros(n) if hazard is None else hazard(x))
    death, censor = rng.exponential(60.0 / rate), rng.uniform(6, 140, n)
    time = np.minimum(death, censor)
    return x, np.ceil(time) if ties else time, death <= censor


def lifelines_fit(columns: dict, time, event, **options):
    from lifelines import CoxPHFitter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitter = CoxPHFitter(**options)
        return fitter.fit(
            pd.DataFrame({**columns, "t": time, "e": event}), "t", "e",
            fit_options={"precision": 1e-20, "r_precision": 1e-20},
        )  # fmt: skip


@pytest.fixture(scope="module")
def rossi() -> pd.DataFrame:
    from lifelines.datasets import load_rossi

    return load_rossi()


def test_rossi_alone_and_together(rossi):
    alone = fit(rossi.drop(columns=["week", "arrest"]), rossi.week, rossi.arrest)
    for name, known in ROSSI_ALONE.items():
        assert alone.coef[alone.genes.index(name)] == pytest.approx(known, abs=1e-8)
    together = fit_model(rossi[list(ROSSI_EFRON)], rossi.week, rossi.arrest)
    np.testing.assert_allclose(together.coef, list(ROSSI_EFRON.values()), rtol=0, atol=5e-9)
    assert together.aic == pytest.approx(1331.50, abs=0.005)
    breslow = fit_model(rossi[list(ROSSI_EFRON)], rossi.week, rossi.arrest, ties="breslow")
    assert breslow.coef[0] == pytest.approx(-0.37902189, abs=1e-8)
    assert breslow.coef[-1] == pytest.approx(0.09111154, abs=1e-8)
    # the gene beside its covariates is one column of the same model
    for name, known in ROSSI_EFRON.items():
        others = [c for c in ROSSI_EFRON if c != name]
        table = fit(rossi[[name]], rossi.week, rossi.arrest, covariates=rossi[others])
        assert table.coef[0] == pytest.approx(known, abs=5e-9)
        assert table.coef[0] == pytest.approx(together.coef[list(ROSSI_EFRON).index(name)], abs=1e-12)
        assert table.se[0] == pytest.approx(together.se[list(ROSSI_EFRON).index(name)], rel=1e-7)


def test_veteran():
    from sksurv.datasets import load_veterans_lung_cancer
    from sksurv.metrics import concordance_index_censored

    x, y = load_veterans_lung_cancer()
    x = pd.get_dummies(x, drop_first=True, dtype=float)
    model = fit_model(x, y["Survival_in_days"], y["Status"], ties="breslow")
    assert model.coef[list(x.columns).index("Karnofsky_score")] == pytest.approx(-0.032622, abs=5e-7)
    c = concordance_index_censored(y["Status"], y["Survival_in_days"], x.to_numpy() @ model.coef)[0]
    assert c == pytest.approx(0.73626, abs=5e-6)


def test_gse7390():
    from sksurv.datasets import load_breast_cancer

    x, y = load_breast_cancer()
    genes = x[[c for c in x.columns if c.startswith("X")] + ["age", "size"]]
    table = fit(genes, y["t.tdm"], y["e.tdm"])
    top = int(np.nanargmin(table.p_wald))
    assert table.genes[top] == "X203306_s_at"
    assert table.coef[top] == pytest.approx(-0.794590, abs=5e-7)
    assert table.p_wald[top] == pytest.approx(8.6e-4, rel=0.01)
    assert len(table) == 78 and (table.p_wald < 0.05).sum() == 14
    assert not table.hits() and table.counts() == {"ok": 78}
    assert table.n[0] == 198 and table.events[0] == 51


def test_r_golden_fits(real_data):
    """Every one of the 340 fits of R's coxph (eps 1e-12): coefficient, standard error, Wald and LR tests."""
    golden = pd.read_csv(real_data / "cancer/golden/univariate_cox_R_survival_3.5-3.csv")
    tables = {
        "gse7390": (pd.read_csv(real_data / "cancer/small_survival/gse7390_breast_tdm.csv"), "time_days", "event"),
        "rossi": (pd.read_csv(real_data / "cancer/small_survival/rossi.csv"), "week", "arrest"),
    }
    seen = 0
    for (name, horizon, ties), rows in golden.groupby(["dataset", "horizon", "ties"], dropna=False):
        data, time, event = tables[name]
        horizon = None if np.isnan(horizon) else horizon
        table = fit(data[rows["var"]], data[time], data[event], ties=ties, horizon=horizon)
        assert np.abs(table.coef - rows["coef"].to_numpy()).max() <= 1e-8
        np.testing.assert_allclose(table.se, rows["se"], rtol=1e-7)
        np.testing.assert_allclose(table.p_wald, rows["p_wald"], rtol=1e-6)
        np.testing.assert_allclose(table.lr, rows["lr"], rtol=1e-7, atol=1e-9)
        assert (table.n == rows["n"].to_numpy()).all() and (table.events == rows["nevent"].to_numpy()).all()
        seen += len(rows)
    assert seen == 340


@pytest.mark.parametrize("ties_in_time", [True, False])
def test_equals_lifelines(ties_in_time):
    x, time, event = cohort(n=250, p=4, seed=3, ties=ties_in_time, hazard=lambda x: 0.5 * x[:, 0])
    table = fit(x, time, event, horizon=60.0)
    capped, dies = np.minimum(time, 60.0), event & (time <= 60.0)
    for gene in range(4):
        peer = lifelines_fit({"x": x[:, gene]}, capped, dies)
        assert abs(table.coef[gene] - peer.params_["x"]) <= 1e-8
        assert table.se[gene] == pytest.approx(peer.standard_errors_["x"], rel=1e-7)
        assert table.lr[gene] == pytest.approx(peer.log_likelihood_ratio_test().test_statistic, rel=1e-7)


def test_strata_and_covariates_equal_lifelines():
    x, time, event = cohort(n=300, p=3, seed=4, hazard=lambda x: 0.4 * x[:, 0])
    rng = np.random.default_rng(5)
    site, clinical = rng.integers(0, 4, len(x)), rng.normal(size=(len(x), 2)) + x[:, :1] * 0.3
    stratified = fit(x, time, event, strata=site)
    adjusted = fit(x, time, event, strata=site, covariates=clinical)
    for gene in range(3):
        peer = lifelines_fit({"x": x[:, gene], "s": site}, time, event, strata=["s"])
        assert abs(stratified.coef[gene] - peer.params_["x"]) <= 1e-8
        columns = {"x": x[:, gene], "a": clinical[:, 0], "b": clinical[:, 1], "s": site}
        peer = lifelines_fit(columns, time, event, strata=["s"])
        assert abs(adjusted.coef[gene] - peer.params_["x"]) <= 1e-8
        assert adjusted.se[gene] == pytest.approx(peer.standard_errors_["x"], rel=1e-7)
        less = lifelines_fit({k: v for k, v in columns.items() if k != "x"}, time, event, strata=["s"])
        assert adjusted.lr[gene] == pytest.approx(2 * (peer.log_likelihood_ - less.log_likelihood_), rel=1e-6)


def test_score_test_equals_log_rank():
    """Two groups without tied times: the score test is the log-rank test (Cox 1972)."""
    from lifelines.statistics import logrank_test

    x, time, event = cohort(n=120, p=1, seed=6, ties=False)
    group = (x > 0.2).astype(float)
    one, other = group[:, 0] == 1, group[:, 0] == 0
    known = logrank_test(time[one], time[other], event[one], event[other])
    assert fit(group, time, event).p_score[0] == pytest.approx(known.p_value, rel=1e-9)


def test_a_covariate_of_no_variance_is_dropped_and_a_copy_refused():
    x, time, event = cohort(p=2)
    constant = pd.DataFrame({"sex": np.ones(len(x))})
    table = fit(x, time, event, covariates=constant)
    np.testing.assert_array_equal(table.coef, fit(x, time, event).coef)
    assert "sex" in table.notes[0]
    with pytest.raises(UsageError, match="redundant"):
        fit(x, time, event, covariates=np.column_stack([x[:, 0], 2 * x[:, 0] + 1]))
    with pytest.raises(UsageError, match="numbers"):
        fit(x, time, event, covariates=pd.DataFrame({"sex": ["F"] * len(x)}))
    assert fit(x, time, event, covariates=x[:, :1]).status[0] == "no variance"


def test_missing_values_leave_out_their_patients_only():
    x, time, event = cohort(p=150, seed=7)
    holes = x.copy()
    rng = np.random.default_rng(8)
    holes[rng.random(x.shape) < 0.02] = np.nan  # a pattern of its own in nearly every gene
    holes[:, :3] = x[:, :3]
    clinical = rng.normal(size=(len(x), 1))
    clinical[:5] = np.nan
    site = rng.integers(0, 3, len(x))
    table, adjusted = fit(holes, time, event, strata=site), fit(holes, time, event, covariates=clinical)
    for gene in (0, 3, 77, 149):
        known = np.isfinite(holes[:, gene])
        alone = fit(holes[known][:, [gene]], time[known], event[known], strata=site[known])
        assert table.coef[gene] == pytest.approx(alone.coef[0], abs=1e-12)
        assert table.lr[gene] == pytest.approx(alone.lr[0], abs=1e-9)
        assert table.n[gene] == known.sum() and table.events[gene] == event[known].sum()
        known &= np.isfinite(clinical[:, 0])
        alone = fit(holes[known][:, [gene]], time[known], event[known], covariates=clinical[known])
        assert adjusted.coef[gene] == pytest.approx(alone.coef[0], abs=1e-12)
        assert adjusted.n[gene] == known.sum()
    assert "5 patients" in adjusted.notes[0]


def test_every_status():
    x, time, event = cohort(n=200, p=8, seed=9)
    first = np.argsort(-time, kind="stable")
    x[:, 1] = 7.25  # constant
    x[:, 2] = -time  # each death has the largest value of its risk set
    x[:, 3] = time
    x[:, 4] = np.nan
    x[first[:12], 4] = np.arange(12.0)  # known in twelve patients, few of them dead
    x[:, 5] = 0.0
    x[np.flatnonzero(~event)[time[~event] < time[event].min()], 5] = 1.0  # varies only among the never at risk
    x[:, 6] = x[:, 0] * 1e-7 + 1e3  # float64 survives a large offset
    table = fit(x, time, event)
    assert list(table.status[:4]) == ["ok", "no variance", "separated", "separated"]
    assert list(table.status[4:]) == ["too few events", "no variance", "ok", "ok"]
    assert table.coef[2] == np.inf and table.coef[3] == -np.inf
    assert np.isnan(table.se[2]) and table.p_lr[2] < 1e-20 and table.p_score[2] < 1e-10
    assert np.isnan(table.coef[[1, 4, 5]]).all() and np.isnan(table.q[[1, 4, 5]]).all()
    assert table.coef[6] * 1e-7 == pytest.approx(table.coef[0], rel=1e-5)
    # a copy of time makes the risk sets perfectly ordered: the limit is that of every death certain
    assert table.loglik[2] > table.loglik[0] + 100
    adjusted = fit(x, time, event, covariates=np.random.default_rng(0).normal(size=(200, 1)))
    assert list(adjusted.status) == list(table.status)
    assert adjusted.coef[2] == np.inf and adjusted.lr[2] == pytest.approx(table.lr[2], rel=0.05)


def test_refits_do_not_depend_on_threads_blocks_layout_or_precision():
    x, time, event = cohort(n=150, p=333, seed=10)
    table = fit(x, time, event, threads=1)
    for other in (fit(x, time, event, threads=2), fit(np.asfortranarray(x), time, event)):
        np.testing.assert_array_equal(table.coef, other.coef)
        np.testing.assert_array_equal(table.q, other.q)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_allclose(fit(x[order], time[order], event[order]).coef, table.coef, atol=1e-12)
    np.testing.assert_allclose(fit(x[:, 100:101], time, event).coef[0], table.coef[100], atol=1e-14)
    single = x.astype(np.float32)
    np.testing.assert_array_equal(fit(single, time, event).coef, fit(single.astype(float), time, event).coef)
    scaled = fit(x * 1e4 - 3e5, time, event)
    np.testing.assert_allclose(scaled.coef * 1e4, table.coef, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(fit(-x, time, event).coef, -table.coef, rtol=1e-9, atol=1e-12)


def test_outliers_of_public_matrices():
    """A z-score of 36,893 among ordinary ones (PORPOISE's BRCA): the fit still ends, at lifelines' answer."""
    x, time, event = cohort(n=200, p=2, seed=11, hazard=lambda x: 0.8 * x[:, 0])
    x[17, 0] = 36_893.0
    table = fit(x, time, event)
    assert table.status[0] in ("ok", "separated") and np.isfinite(table.p_lr[0])
    assert table.status[1] == "ok"
    # lifelines in units of the outlier: a coefficient of size 1 again
    for gene, unit in ((0, 36_893.0), (1, 1.0)):
        peer = lifelines_fit({"x": x[:, gene] / unit}, time, event)
        assert table.coef[gene] * unit == pytest.approx(peer.params_["x"], rel=1e-6, abs=1e-8)
        assert table.p_lr[gene] == pytest.approx(peer.log_likelihood_ratio_test().p_value, rel=1e-6)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_a_strong_effect_converges(ties):
    x, time, event = cohort(n=400, p=1, seed=12, ties=False, hazard=lambda x: 6.0 * x[:, 0])
    table = fit(x, time, event, ties=ties)
    peer = lifelines_fit({"x": x[:, 0]}, time, event)
    assert table.coef[0] == pytest.approx(peer.params_["x"], abs=1e-8) and table.coef[0] > 4


def test_long_cohorts_keep_their_likelihood():
    """More deaths than the product of risk-set sums may hold between two normalisations."""
    rng = np.random.default_rng(13)
    x, time = rng.normal(size=(2000, 1)), rng.exponential(size=2000)
    table = fit(x, time, np.ones(2000, bool))
    order = np.argsort(-time)
    eta = x[order, 0] * table.coef[0]
    assert table.loglik[0] == pytest.approx(np.sum(eta - np.logaddexp.accumulate(eta)), rel=1e-12)


def test_bad_input_is_one_sentence():
    x, time, event = cohort(p=2)
    for match, call in {
        "negative": lambda: fit(x, -time, event),
        "censored": lambda: fit(x, time, np.zeros(len(x), bool)),
        "horizon of 0.5": lambda: fit(x, time, event, horizon=0.5),
        "true/false": lambda: fit(x, time, np.where(event, 2, 1)),
        "infinite": lambda: fit(np.where(x > 2.0, np.inf, x), time, event),
        "not numbers": lambda: fit(pd.DataFrame({"A": ["x"] * len(x)}), time, event),
        "300 patients": lambda: fit(x, time[:-1], event),
        "efron": lambda: fit(x, time, event, ties="exact"),
        "firth": lambda: fit(x, time, event, firth="maybe"),
        "gene names": lambda: fit(x, time, event, genes=["A"]),
    }.items():
        with pytest.raises((DataError, UsageError), match=match):
            call()


def test_benjamini_hochberg():
    from scipy.stats import false_discovery_control

    p = np.random.default_rng(0).random(500) ** 2
    holes = np.insert(p, [3, 200], np.nan)
    q = benjamini_hochberg(holes)
    np.testing.assert_allclose(q[np.isfinite(holes)], false_discovery_control(p), rtol=1e-12)
    assert np.isnan(q[~np.isfinite(holes)]).all() and np.isnan(benjamini_hochberg(np.full(3, np.nan))).all()


def test_p_values_far_out():
    x, time, event = cohort(n=400, p=1, seed=14, hazard=lambda x: 1.5 * x[:, 0])
    table = fit(x, time, event)
    assert table.p_lr[0] == pytest.approx(chi2.sf(table.lr[0], 1), rel=1e-10) and 0 < table.p_lr[0] < 1e-30


def loglik_of_the_definition(b, x, time, event, stratum, efron):
    """A loop over strata, death times and tied deaths: slow, and nothing in common with the kernels."""
    total = 0.0
    for s in np.unique(stratum):
        eta, t, dies = b * x[stratum == s], time[stratum == s], event[stratum == s]
        for u in np.unique(t[dies]):
            dead, top = dies & (t == u), eta[t >= u].max()
            w = np.exp(np.minimum(eta - top, 0.0))
            for l in range(dead.sum()):
                share = l / dead.sum() if efron else 0.0
                total += eta[dead][l] - top - np.log((w * ((t >= u) - share * dead)).sum())
    return total


def test_small_cohorts_of_every_kind_against_the_definition():
    """Heavy ties, strata, 0/1 genes, outliers, near-copies of time, missing values: each status means what it says."""
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, efron = int(rng.integers(8, 60)), bool(rng.integers(2))
        time = rng.integers(1, rng.integers(2, 40), n).astype(float)
        event = rng.random(n) < rng.uniform(0.2, 1)
        event[0] = True
        stratum = rng.integers(0, rng.integers(1, 4), n)
        x = rng.normal(size=(n, 6))
        x[:, 1], x[:, 2], x[:, 3] = rng.integers(0, 2, n), rng.random(n) < 0.08, np.exp(3 * x[:, 3])
        x[:, 4] = rng.normal(size=n) * rng.choice([0.0, 0.1, 1.0]) - time
        x[rng.random(n) < 0.1, 5] = np.nan
        table = fit(x, time, event, strata=stratum, ties="efron" if efron else "breslow", min_events=1)
        for gene, status in enumerate(table.status):
            known = np.isfinite(x[:, gene])
            scale = np.std(x[known, gene]) or 1.0
            z = (x[known, gene] - np.mean(x[known, gene])) / scale
            rest = (z, time[known], event[known], stratum[known], efron)
            null = loglik_of_the_definition(0.0, *rest)
            seen.add(status)
            if np.isfinite(table.coef[gene]):
                b = table.coef[gene] * scale
                best = loglik_of_the_definition(b, *rest)
                assert best >= max(loglik_of_the_definition(b + h, *rest) for h in (-1e-3, 1e-3)) - 1e-9
                assert table.lr[gene] == pytest.approx(2 * (best - null), rel=1e-6, abs=1e-7)
            elif status == "separated":
                end = loglik_of_the_definition(np.sign(table.coef[gene]) * 1e8, *rest)
                assert table.lr[gene] == pytest.approx(2 * (end - null), rel=1e-5, abs=1e-7)
            elif status == "no variance":
                assert loglik_of_the_definition(0.5, *rest) == pytest.approx(null, abs=1e-9)
    assert {"ok", "separated", "no variance"} <= seen


def test_lusc_has_no_hit(real_data):
    """0 of 1,556 at FDR 5 %: one row a patient, rank-normal expression, follow-up ended at 60 months, Efron."""
    table = pd.read_parquet(real_data / "cancer/tcga/tcga_lusc.parquet").drop_duplicates("case_id")
    genes = [c for c in table.columns if c.endswith("_rnaseq")]
    keep = table["survival_months"].notna()
    table = table[keep]
    result = fit(
        rank_normal(table[genes].to_numpy()), table["survival_months"], table["censorship"] == 0, horizon=60.0,
        genes=[g.removesuffix("_rnaseq") for g in genes],
    )  # fmt: skip
    assert len(result) == 1556 and result.n.max() == 450 and result.events.max() == 163
    # PTH2 is expressed in nine patients, none of whom died in time: reported, not fitted
    assert not result.hits() and result.counts() == {"ok": 1555, "separated": 1}
    assert result.status[result.genes.index("PTH2")] == "separated"
