"""Values of the survival scores: scikit-survival's on real cohorts, ties and repeated patients included."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clarion.evaluators import survival_curves as sc
from clarion.evaluators import survival_scores as ss

sksurv = pytest.importorskip("sksurv")
from sksurv import datasets, metrics, nonparametric  # noqa: E402
from sksurv.compare import compare_survival  # noqa: E402
from sksurv.linear_model import CoxPHSurvivalAnalysis  # noqa: E402
from sksurv.preprocessing import OneHotEncoder  # noqa: E402
from sksurv.util import Surv  # noqa: E402

LOADERS = {
    "gbsg2": datasets.load_gbsg2,
    "veteran": datasets.load_veterans_lung_cancer,
    "breast": datasets.load_breast_cancer,
    "whas500": datasets.load_whas500,
}


def cohort(name: str, tied: bool):
    """(time, event, risk, survival [n, T], times [T], train rows [n] bool) of a Cox model fitted on half of a cohort;
    tied: whole months of follow-up and risks in steps of a half."""
    x, y = LOADERS[name]()
    table = OneHotEncoder().fit_transform(x.apply(lambda c: c.astype("category") if c.dtype == object else c))
    table = table.iloc[:, -6:].astype(float)
    event, time = (y[field] for field in y.dtype.names)
    time = time.astype(float) / (30.4 if name != "whas500" else 1)
    time = np.ceil(time / 3) if tied else time
    train = np.arange(len(time)) % 2 == 0
    outcome = Surv.from_arrays(event, time)
    model = CoxPHSurvivalAnalysis(alpha=1e-3).fit(table[train], outcome[train])
    risk = model.predict(table)
    risk = np.round(risk * 2) / 2 if tied else risk
    # scikit-survival scores only patients inside the follow-up of the training, and before G falls to 0
    last = np.sort(time[train & event])[-1]
    inside = time < last
    times = np.unique(np.quantile(time[~train & inside & event], [0.1, 0.3, 0.5, 0.7, 0.9]))
    survival = np.stack([step(times) for step in model.predict_survival_function(table)])
    return time, event, risk, survival, times, train, inside


@pytest.fixture(params=[(name, tied) for name in LOADERS for tied in (False, True)], ids=lambda p: f"{p[0]}-{p[1]}")
def halves(request):
    time, event, risk, survival, times, train, inside = cohort(*request.param)
    test = ~train & inside
    fitted = sc.Censoring.fit(time[train], event[train])
    return {
        "train": Surv.from_arrays(event[train], time[train]),
        "test": Surv.from_arrays(event[test], time[test]),
        "time": time[test], "event": event[test], "risk": risk[test], "survival": survival[test], "times": times,
        "fitted": fitted, "g": fitted.at(time[test], None, int(test.sum())),
    }  # fmt: skip


def test_harrell_and_uno_are_those_of_scikit_survival(halves):
    time, event, risk, n = halves["time"], halves["event"], halves["risk"], len(halves["time"])
    pairs, one = ss.Concordance(time, event, risk), np.ones((1, n))
    theirs = metrics.concordance_index_censored(event, time, risk)
    assert pairs(one, np.ones(n))[0][0] == pytest.approx(theirs[0], abs=1e-10)
    assert pairs.pairs() == sum(theirs[1:4]) and ss.tied_times(time, event) == theirs[4]
    for tau in (None, halves["times"][2], halves["times"][-1]):
        weights, lost = ss.uno_weights(time, event, halves["g"], np.inf if tau is None else tau)
        expected = metrics.concordance_index_ipcw(halves["train"], halves["test"], risk, tau=tau)[0]
        assert pairs(one, weights)[0][0] == pytest.approx(expected, abs=1e-10) and lost == 0


def test_dynamic_auc_is_that_of_scikit_survival(halves):
    time, event, risk = halves["time"], halves["event"], halves["risk"]
    expected, _ = metrics.cumulative_dynamic_auc(halves["train"], halves["test"], risk, halves["times"])
    auc = ss.RankedAuc(risk)
    for when, value in zip(halves["times"], expected, strict=True):
        case, control = ss.cases_and_controls(time, event, when)
        found = auc(np.ones((1, len(time))), ss.case_weights(case, halves["g"]), control.astype(float))[0]
        assert found == pytest.approx(value, abs=1e-10)


def test_brier_is_that_of_scikit_survival(halves):
    time, event, times = halves["time"], halves["event"], halves["times"]
    g_when = np.stack([halves["fitted"].at(t, None, len(time)) for t in times], axis=1)
    parts = ss.brier_parts(time, event, halves["survival"], times, halves["g"], g_when)
    _, expected = metrics.brier_score(halves["train"], halves["test"], halves["survival"], times)
    assert parts.mean(0) == pytest.approx(expected, abs=1e-10)
    whole = metrics.integrated_brier_score(halves["train"], halves["test"], halves["survival"], times)
    assert (parts @ ss.integration_weights(times)).mean() == pytest.approx(whole, abs=1e-10)


def test_a_weight_is_a_repetition(halves):
    """Weights of a resample give what scikit-survival gives on the table with patients drawn several times."""
    time, event, risk = halves["time"], halves["event"], halves["risk"]
    drawn = np.random.default_rng(3).multinomial(len(time), np.full(len(time), 1 / len(time)))
    again = np.repeat(np.arange(len(time)), drawn)
    w = drawn[None].astype(float)
    uno, _ = ss.uno_weights(time, event, halves["g"], np.inf)
    found = [float(v[0]) for v in ss.Concordance(time, event, risk)(w, np.ones(len(time)), uno)]
    test = Surv.from_arrays(event[again], time[again])
    harrell = metrics.concordance_index_censored(event[again], time[again], risk[again])[0]
    ipcw = metrics.concordance_index_ipcw(halves["train"], test, risk[again])[0]
    assert found == pytest.approx([harrell, ipcw], abs=1e-10)
    when = halves["times"][2]
    case, control = ss.cases_and_controls(time, event, when)
    area = ss.RankedAuc(risk)(w, ss.case_weights(case, halves["g"]), control.astype(float))[0]
    expected = metrics.cumulative_dynamic_auc(halves["train"], test, risk[again], [when])[0][0]
    assert area == pytest.approx(expected, abs=1e-10)
    followed = sc.weighted_kaplan_meier(time, event, w, when)[0]
    assert followed == pytest.approx(float(sc.kaplan_meier(time[again], event[again]).at(when)), abs=1e-12)


def test_kaplan_meier_and_its_band(halves):
    time, event = halves["time"], halves["event"]
    step = sc.kaplan_meier(time, event)
    times, value, band = nonparametric.kaplan_meier_estimator(event, time, conf_type="log-log")
    assert np.array_equal(step.time, times) and step.value == pytest.approx(value, abs=1e-12)
    low, high = step.band()
    inside = np.isfinite(low)
    assert np.stack([low, high])[:, inside] == pytest.approx(band[:, inside], abs=1e-10)
    theirs = nonparametric.CensoringDistributionEstimator().fit(halves["train"])
    at = np.linspace(0, halves["time"].max(), 50)
    mine, other = halves["fitted"].at(at, None, 50), theirs.predict_proba(at)
    assert mine[other > 0] == pytest.approx(other[other > 0], abs=1e-12)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_log_rank_is_that_of_scikit_survival(halves, k):
    group = sc.risk_groups(halves["risk"], k)
    chi2, p = sc.log_rank(halves["time"], halves["event"], group)
    expected = compare_survival(halves["test"], group)
    assert chi2 == pytest.approx(expected[0], rel=1e-8) and p == pytest.approx(expected[1], rel=1e-6)


def test_ties_of_issue_428_in_both_conventions():
    """scikit-survival counts an event and a censoring at one time as comparable, R's survAUC does not."""
    time = np.array([11.0, 11, 26, 89, 128, 299, 300])
    event = np.array([1, 0, 0, 1, 0, 1, 0], dtype=bool)
    risk = np.array([-0.02, 1.20, -0.56, -1.33, -0.81, 1.02, -1.29])
    g = sc.Censoring.fit(time, event).at(time, None, 7)
    weights, _ = ss.uno_weights(time, event, g, 299)
    values = [ss.Concordance(time, event, risk, strict=s)(np.ones((1, 7)), weights)[0][0] for s in (False, True)]
    assert values == pytest.approx([0.37426900584795325, 0.4129032], abs=1e-7)


def test_many_pairs_are_counted_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    time, event, risk = rng.integers(1, 40, 300).astype(float), rng.random(300) < 0.5, rng.integers(0, 30, 300) / 3.0
    strata, w = rng.integers(0, 4, 300), rng.integers(0, 3, (5, 300)).astype(float)
    ones = np.ones(300)
    whole = ss.Concordance(time, event, risk)(w, ones)[0]
    inner = ss.Concordance(time, event, risk, strata)(w, ones)[0]
    monkeypatch.setattr(ss, "PAIRS_HELD", 0)
    monkeypatch.setattr(ss, "PAIRS_AT_ONCE", 1000)
    assert np.array_equal(ss.Concordance(time, event, risk)(w, ones)[0], whole)
    top = bottom = 0.0
    for s in range(4):
        part = strata == s
        c = metrics.concordance_index_censored(event[part], time[part], risk[part])
        top, bottom = top + c[1] + c[3] / 2, bottom + sum(c[1:4])
    found = ss.Concordance(time, event, risk, strata)
    assert found(np.ones((1, 300)), ones)[0][0] == pytest.approx(top / bottom, abs=1e-12)
    assert np.array_equal(found(w, ones)[0], inner) and found.pairs() == bottom


def test_a_stratified_censoring_is_one_fit_a_stratum():
    rng = np.random.default_rng(1)
    time, event, strata = rng.exponential(20, 200), rng.random(200) < 0.4, rng.choice(["a", "b"], 200)
    g = sc.Censoring.fit(time, event, strata).at(time, strata, 200)
    for s in "ab":
        rows = strata == s
        own = sc.Censoring.fit(time[rows], event[rows]).at(time[rows], None, int(rows.sum()))
        assert np.array_equal(g[rows], own, equal_nan=True)
    unknown = sc.Censoring.fit(time, event, strata).at(5.0, np.full(3, "c"), 3)
    assert np.isnan(unknown).all()


def test_veteran_known_answer():
    x, y = datasets.load_veterans_lung_cancer()
    table = OneHotEncoder().fit_transform(x)
    model = CoxPHSurvivalAnalysis().fit(table, y)
    assert model.coef_[list(table.columns).index("Karnofsky_score")] == pytest.approx(-0.032622, abs=1e-6)
    event, time = (y[field] for field in y.dtype.names)
    c = ss.Concordance(time, event, model.predict(table))(np.ones((1, len(y))), np.ones(len(y)))[0][0]
    assert c == pytest.approx(0.73626, abs=5e-6)


def test_rossi_known_answer(real_data):
    table = pd.read_csv(real_data / "cancer" / "small_survival" / "rossi.csv")
    columns = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
    time, event = table["week"].to_numpy(float), table["arrest"].to_numpy(bool)
    x = table[columns].to_numpy(float)
    model = CoxPHSurvivalAnalysis(ties="efron").fit(x, Surv.from_arrays(event, time))
    c = ss.Concordance(time, event, model.predict(x))(np.ones((1, len(time))), np.ones(len(time)))[0][0]
    assert round(float(c), 2) == 0.64


def test_risks_of_mcat_reproduce(real_data):
    """The published c-index is the mean over the five folds."""
    table = pd.read_csv(real_data / "cancer" / "mcat_val_risks.csv")
    found = {}
    for name, rows in table.groupby("cohort"):
        folds = []
        for _, fold in rows.groupby("fold"):
            event, ones = (fold["censorship"] == 0).to_numpy(), np.ones(len(fold))
            pairs = ss.Concordance(fold["survival"].to_numpy(float), event, fold["risk"].to_numpy(float))
            folds.append(pairs(ones[None], ones)[0][0])
        found[name] = round(float(np.mean(folds)), 4)
    assert found == {"blca": 0.6243, "brca": 0.5801, "gbmlgg": 0.8174, "luad": 0.6201, "ucec": 0.6219}


def test_nearly_equal_risks_are_tied():
    rng = np.random.default_rng(0)
    time, event = rng.exponential(10, 80), rng.random(80) < 0.7
    risk = rng.integers(0, 12, 80) + rng.choice([0, 4e-9], 80)
    one, y = np.ones((1, 80)), Surv.from_arrays(event, time)
    expected = metrics.concordance_index_censored(event, time, risk)[0]
    assert ss.Concordance(time, event, risk)(one, one[0])[0][0] == pytest.approx(expected, abs=1e-12)
    case, control = ss.cases_and_controls(time, event, 8.0)
    g = sc.Censoring.fit(time, event).at(time, None, 80)
    inside = np.isfinite(g) | ~event
    area = ss.RankedAuc(risk[inside])(
        one[:, inside], ss.case_weights(case[inside], g[inside]), control[inside].astype(float)
    )[0]
    theirs = metrics.cumulative_dynamic_auc(y, y[inside], risk[inside], [8.0])[0][0]
    assert area == pytest.approx(theirs, abs=1e-12)


def test_survival_between_and_beyond_the_predicted_times():
    survival = np.array([[0.8, 0.4], [1.0, 0.5]])
    times = np.array([10.0, 20.0])
    assert ss.survival_at(times, survival, 5.0) == pytest.approx([0.9, 1.0])
    assert ss.survival_at(times, survival, 20.0) == pytest.approx([0.4, 0.5])
    assert ss.survival_at(times, survival, 15.0) == pytest.approx([0.6, 0.75])
    assert ss.survival_at(times, survival, 21.0) is None
