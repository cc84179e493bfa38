"""The survival evaluator: a result as every report reads it, honest under censoring, whole on poor data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clarion.errors import DataError, UsageError
from clarion.evaluators.bootstrap import auc_statistic
from clarion.evaluators.survival import SurvivalEvaluator

ROOT = Path(__file__).resolve().parents[2]
TIMES = np.arange(6.0, 121.0, 6.0)


def tables(seed: int = 0, n: int = 300, effect: float = 1.0, censored: float = 60.0, copies: int = 1):
    """Exponential survival with log hazard `effect` x, two cancers, exact S(t) predicted; censoring of mean
    `censored` months."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    rate = np.exp(effect * x) / 60
    life, watched = rng.exponential(1 / rate), rng.exponential(censored, n)
    ids = {"sample_id": [f"s{i:05d}" for i in range(n)], "patient_id": [f"p{i // copies:05d}" for i in range(n)]}
    truth = pd.DataFrame(
        {**ids, "time": np.minimum(life, watched), "event": life <= watched, "cancer": np.where(x > 0, "brca", "luad"),
         "age": 60 + 10 * rng.normal(size=n) + 3 * x, "sex": rng.choice(["F", "M"], n), "site": "somewhere"}
    )  # fmt: skip
    survival = np.exp(-rate[:, None] * TIMES)
    predictions = pd.DataFrame({**ids, "risk": x, "survival": list(survival), "times": [TIMES] * n})
    return predictions, truth, life


def evaluate(predictions, truth, context=None, **options):
    evaluator = SurvivalEvaluator(**{"n_resamples": 100, **options})
    result = evaluator.evaluate(predictions, truth, {"seed": 0, **(context or {})})
    json.dumps(result, allow_nan=False)
    return result


@pytest.fixture(scope="module")
def usual():
    predictions, truth, _ = tables()
    _, train, _ = tables(1)
    return predictions, truth, train, evaluate(predictions, truth, {"train_truth": train})


def test_result_is_as_every_report_reads_it(usual):
    _, truth, _, result = usual
    metrics = result["metrics"]
    assert next(iter(metrics)) == "c_index"
    ranked = ["c_index", "c_index_within_cancer", "c_index_uno", "auc_36m", "auc_60m", "auc_naive_36m", "auc_naive_60m"]
    assert set(metrics) == {
        *ranked, "brier_36m", "brier_60m", "integrated_brier", "calibration_slope_60m", "calibration_intercept_60m",
        "calibration_error_60m", "calibration_ratio_60m", "c_index_gain_over_age", "label_known_36m",
        "label_known_60m", "logrank_p", "events",
    }  # fmt: skip
    for name in set(metrics) - {"logrank_p", "events"}:
        e = metrics[name]
        assert e["low"] < e["value"] < e["high"] or name == "calibration_error_60m", name
        assert set(e) == {"value", "low", "high", "n", "n_patients", "unit", "method"} and e["n_patients"] == e["n"]
    known = ((truth["time"] > 60) | truth["event"]).sum()
    assert metrics["auc_naive_60m"]["n"] == known < 300 and metrics["c_index"]["n"] == 300
    assert metrics["events"]["value"] == truth["event"].sum() == sum(
        group["events"]["value"] for group in result["subgroups"]["sex"].values()
    )
    assert metrics["label_known_60m"]["value"] == pytest.approx(known / 300)
    assert any(f"known for {known} of 300 patients; {300 - known} were censored" in note for note in result["notes"])
    assert metrics["logrank_p"]["value"] < 1e-6
    for curve in result["curves"].values():
        assert 1 < len(curve["x"]) == len(curve["y"]) <= 201 and curve["x_label"] and curve["y_label"]
    assert set(result["curves"]) == {
        "kaplan_meier_low", "kaplan_meier_high", "auc_over_time", "brier_over_time_model",
        "brier_over_time_kaplan-meier", "calibration_36m", "calibration_60m",
    }  # fmt: skip
    assert set(result["subgroups"]) == {"cancer", "sex"} and set(result["subgroups"]["cancer"]) == {"brca", "luad"}
    assert any(note.startswith("300 patients, ") and "median follow-up" in note for note in result["notes"])


def test_report_draws_it(usual):
    from clarion.report.results import evaluator_view

    view = evaluator_view("survival", usual[3])
    assert {"AUC over time", "Brier over time"} == {chart.title for chart in view.charts}
    assert view.survival["chart"].svg.count('class="band') == 2 and "Log-rank" in view.survival["logrank"]
    assert [name for name, *_ in view.survival["at_risk"]] == ["low", "high"]
    assert [chart.title.split(" (")[0] for chart in view.survival["calibration"]] == [
        "Calibration at 36 months", "Calibration at 60 months"]  # fmt: skip
    assert view.rows[0].name == "c-index" and [s["column"] for s in view.subgroups] == ["Cancer", "Sex"]
    assert any(note.startswith("Log-rank test of the 2 risk groups: chi-square") for note in view.notes)


def test_baselines_are_age_and_kaplan_meier(usual):
    predictions, truth, train, result = usual
    baseline = result["baseline"]
    assert "age" in baseline["c_index"]["name"] and 0.4 < baseline["c_index"]["value"] < 0.7
    assert "Kaplan-Meier of the training" in baseline["integrated_brier"]["name"]
    assert baseline["integrated_brier"]["value"] > result["metrics"]["integrated_brier"]["high"]
    plain = evaluate(predictions, truth.drop(columns="age"), {"train_truth": train})
    assert plain["baseline"]["c_index"]["value"] == 0.5 == plain["baseline"]["auc_60m"]["value"]
    assert plain["baseline"]["c_index"]["name"] == "a constant" and plain["baseline"]["c_index"]["low"] is None
    ridge = predictions[["sample_id", "patient_id"]].assign(risk=predictions["risk"] + np.linspace(-1, 1, 300))
    given = evaluate(predictions, truth, {"train_truth": train, "baselines": {"ridge_cox": ridge}})
    assert given["baseline"]["c_index"]["name"] == "ridge_cox"
    gain = given["metrics"]["c_index_gain_over_ridge_cox"]
    assert gain["low"] < gain["value"] < given["metrics"]["c_index_gain_over_age"]["value"]
    assert any("Knowing the cancer alone" in note for note in given["notes"])


def test_within_cancer_the_cancer_is_worth_nothing():
    """A risk that only tells the cancers apart ranks over all pairs and not inside one."""
    predictions, truth, _ = tables()
    predictions["risk"] = (truth["cancer"] == "brca").astype(float)
    metrics = evaluate(predictions, truth)["metrics"]
    assert metrics["c_index"]["value"] > 0.6 and metrics["c_index_within_cancer"]["value"] == 0.5


def test_ipcw_undoes_the_censoring():
    """With half of the patients censored the weighted scores find what full follow-up would show, the naive do not."""
    predictions, truth, life = tables(n=6000, censored=40)
    result = evaluate(predictions, truth.drop(columns=["cancer", "sex"]), n_resamples=0)
    found = {name: e["value"] for name, e in result["metrics"].items()}
    dead, one = life <= 60, np.ones((1, 6000))
    full = float(auc_statistic(predictions["risk"], dead, np.arange(6000), 6000)(one)[0])
    s60 = np.stack(predictions["survival"])[:, 9]
    brier = float(((~dead - s60) ** 2).mean())
    assert abs(found["auc_60m"] - full) < 0.015 < abs(found["auc_naive_60m"] - full)
    assert abs(found["brier_60m"] - brier) < 0.012


def test_true_probabilities_are_found_calibrated():
    """Mean over ten cohorts: slope 1, intercept 0, ratio 1, whatever the censoring."""
    found = []
    for seed in range(10):
        predictions, truth, _ = tables(seed, n=1200, censored=50)
        found.append(evaluate(predictions, truth.drop(columns=["cancer", "sex", "age"]), n_resamples=0)["metrics"])
    mean = {name: np.mean([m[f"calibration_{name}_60m"]["value"] for m in found]) for name in ("slope", "intercept")}
    assert mean["slope"] == pytest.approx(1, abs=0.1) and mean["intercept"] == pytest.approx(0, abs=0.1)
    assert np.mean([m["calibration_ratio_60m"]["value"] for m in found]) == pytest.approx(1, abs=0.03)
    assert np.mean([m["calibration_error_60m"]["value"] for m in found]) < 0.06


def test_overconfidence_shows_in_the_slope():
    predictions, truth, _ = tables(n=1500)
    s = np.clip(np.stack(predictions["survival"]), 1e-9, 1 - 1e-9)
    odds = np.log((1 - s) / s) * 2
    predictions["survival"] = list(1 / (1 + np.exp(odds)))
    metrics = evaluate(predictions, truth)["metrics"]
    assert metrics["calibration_slope_60m"]["value"] == pytest.approx(0.5, abs=0.08)
    assert metrics["calibration_error_60m"]["value"] > 0.05


def test_the_order_of_rows_plays_no_part(usual):
    predictions, truth, train, first = usual
    shuffled = evaluate(
        predictions.sample(frac=1, random_state=1), truth.sample(frac=1, random_state=2), {"train_truth": train}
    )
    assert shuffled == first


def test_the_patient_is_drawn_not_the_sample():
    predictions, truth, _ = tables(n=300, copies=3)
    metrics = evaluate(predictions, truth)["metrics"]
    assert metrics["c_index"]["n"] == 300 and metrics["c_index"]["n_patients"] == 100


def test_intervals_cover():
    """The 95 % interval holds the c-index of a huge cohort in most of 40 draws."""
    predictions, truth, _ = tables(99, n=4000)
    bare = truth.drop(columns=["cancer", "sex", "age"])
    target = evaluate(predictions[["sample_id", "patient_id", "risk"]], bare, n_resamples=0)["metrics"]
    inside = {"c_index": 0, "auc_60m": 0}
    for seed in range(40):
        predictions, truth, _ = tables(seed, n=120)
        bare = truth.drop(columns=["cancer", "sex", "age"])
        found = evaluate(predictions[["sample_id", "patient_id", "risk"]], bare, n_resamples=150)["metrics"]
        for name in inside:
            inside[name] += found[name]["low"] <= target[name]["value"] <= found[name]["high"]
    assert min(inside.values()) >= 34


def test_training_decides_the_weights_and_its_absence_is_told():
    predictions, truth, _ = tables()
    _, train, _ = tables(5, censored=30)
    alone, trained = evaluate(predictions, truth), evaluate(predictions, truth, {"train_truth": train})
    assert any("for want of the training" in note for note in alone["notes"])
    assert not any("for want of the training" in note for note in trained["notes"])
    assert evaluate(predictions, truth, {"train_truth": train[:0]}) == alone
    assert alone["metrics"]["c_index"] == trained["metrics"]["c_index"]
    assert alone["metrics"]["auc_60m"]["value"] != trained["metrics"]["auc_60m"]["value"]
    by_cancer = evaluate(predictions, truth, {"train_truth": train}, censoring_by="cancer")["metrics"]
    assert by_cancer["auc_60m"]["value"] == pytest.approx(trained["metrics"]["auc_60m"]["value"], abs=0.05)
    with pytest.raises(DataError, match="censoring_by=ward"):
        evaluate(predictions, truth, censoring_by="ward")


def test_follow_up_that_ends_early_is_a_note():
    predictions, truth, _ = tables(censored=20)
    truth["event"] &= truth["time"] <= 50
    truth["time"] = truth["time"].clip(upper=50)
    result = evaluate(predictions, truth)
    metrics = result["metrics"]
    assert metrics["auc_60m"]["value"] is None and metrics["auc_36m"]["value"] is not None
    assert metrics["brier_60m"]["value"] is None and metrics["integrated_brier"]["value"] is not None
    assert any("no patient is followed beyond 60" in note for note in result["notes"])
    assert any("predicted times: the others lie beyond" in note for note in result["notes"])
    short = evaluate(predictions, tables()[1], {"train_truth": truth})
    assert short["metrics"]["auc_60m"]["value"] is None and short["metrics"]["c_index_uno"]["value"] is not None
    assert any("auc_60m: the training patients are not followed" in note for note in short["notes"])
    assert any("c_index_uno leaves out" in note for note in short["notes"])


def test_survival_predicted_too_short_or_not_at_all():
    predictions, truth, _ = tables()
    early = predictions.assign(survival=[s[:7] for s in predictions["survival"]], times=[TIMES[:7]] * 300)
    result = evaluate(early, truth)
    assert result["metrics"]["brier_36m"]["value"] is not None and result["metrics"]["brier_60m"]["value"] is None
    assert any("No calibration at 60" in note for note in result["notes"])
    bare = evaluate(predictions[["sample_id", "patient_id", "risk"]], truth)
    assert "integrated_brier" not in bare["metrics"] and "integrated_brier" not in bare["baseline"]
    assert any("no Brier score and no calibration" in note for note in bare["notes"])
    given = evaluate(predictions.drop(columns="times"), truth, {"times": TIMES.tolist()})
    assert given["metrics"]["brier_60m"] == evaluate(predictions, truth)["metrics"]["brier_60m"]


@pytest.mark.parametrize("case", ["all censored", "one event", "all tied", "one patient", "one time", "all dead"])
def test_poor_data_gives_none_and_no_crash(case):
    predictions, truth, _ = tables(n=40)
    if case == "all censored":
        truth["event"] = False
    elif case == "one event":
        truth["event"] = truth["time"].rank() == 5
    elif case == "all tied":
        predictions["risk"] = 1.0
        predictions["survival"] = [np.full(len(TIMES), 0.5)] * 40
    elif case == "one patient":
        predictions, truth = predictions[:1], truth[:1]
    elif case == "one time":
        truth["time"] = 12.0
    else:
        truth["event"] = True
    result = evaluate(predictions, truth, n_resamples=50, risk_groups=3)
    c = result["metrics"]["c_index"]
    if case in ("all censored", "one patient"):
        assert c["value"] is None and any("c_index: not defined" in note for note in result["notes"])
        assert result["baseline"]["c_index"]["value"] is None
    elif case == "all tied":
        assert c["value"] == 0.5 and c["low"] is None and result["metrics"]["logrank_p"]["value"] is None
        assert any("Tied risks leave a risk group empty" in note for note in result["notes"])
    else:
        assert 0 <= c["value"] <= 1
    for e in result["metrics"].values():
        assert e["value"] is None or np.isfinite(e["value"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t: p["risk"].__setitem__(3, np.nan), "1 sample.*s00003.*no finite risk"),
        (lambda p, t: p["risk"].__setitem__(4, np.inf), "s00004.*no finite risk"),
        (lambda p, t: t["time"].__setitem__(2, -1.0), "s00002.*negative time"),
        (lambda p, t: t["time"].__setitem__(2, np.nan), "s00002.*no finite time"),
        (lambda p, t: p["survival"].__setitem__(1, TIMES / 120), "s00001.*rises with time"),
        (lambda p, t: p["survival"].__setitem__(1, TIMES * 0 + 2), "s00001.*outside 0..1"),
        (lambda p, t: p["survival"].__setitem__(1, TIMES[:3] * 0), "must hold 20 probabilities"),
        (lambda p, t: p["times"].__setitem__(1, TIMES + 1), "differs between samples"),
        (lambda p, t: p.__setitem__("times", [TIMES[::-1]] * len(p)), "rising list"),
        (lambda p, t: p.pop("times"), "no times"),
        (lambda p, t: p.__setitem__("risk", [[0.5]] * len(p)), "s00000.*no finite risk"),
        (lambda p, t: t.__setitem__("event", "dead"), "s00000.*event other than"),
        (lambda p, t: t.pop("time"), "lacks the column.*time"),
        (lambda p, t: p.pop("risk"), "lacks the column.*risk"),
    ],
)
def test_bad_tables_are_refused_by_name(change, message):
    predictions, truth, _ = tables(n=20)
    with pd.option_context("mode.chained_assignment", None):
        change(predictions, truth)
    with pytest.raises(DataError, match=message):
        evaluate(predictions, truth)


def test_bad_options_are_refused():
    for options in ({"horizons": []}, {"horizons": [0, 60]}, {"risk_groups": 1}):
        with pytest.raises(UsageError):
            SurvivalEvaluator(**options)


def test_missing_ages():
    predictions, truth, _ = tables()
    truth.loc[:9, "age"] = np.nan
    assert any("median stands for 10 missing ages" in note for note in evaluate(predictions, truth)["notes"])
    truth.loc[:200, "age"] = np.nan
    result = evaluate(predictions, truth)
    assert "c_index_gain_over_age" not in result["metrics"] and result["baseline"]["c_index"]["name"] == "a constant"


def test_other_units_and_groups():
    predictions, truth, _ = tables()
    truth["time"] *= 30.4
    bare = predictions[["sample_id", "patient_id", "risk"]]
    result = evaluate(bare, truth, horizons=[365, 1825], time_unit="days", risk_groups=3, tau=float("inf"))
    metrics = result["metrics"]
    assert {"auc_365d", "auc_1825d"} <= set(metrics) and "inf days" in metrics["c_index_uno"]["method"]
    assert {"kaplan_meier_low", "kaplan_meier_middle", "kaplan_meier_high"} <= set(result["curves"])


def test_config_builds_and_imports_no_network_library():
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    path = ROOT / "conf" / "evaluator" / "survival.yaml"
    assert path.read_text(encoding="utf-8").startswith("# @package evaluators.survival\n")
    evaluator = instantiate(OmegaConf.load(path), _convert_="all")
    assert evaluator.task == "survival" and [h.when for h in evaluator.horizons] == [36, 60] and evaluator.tau == 60
    code = (
        "import sys, clarion.evaluators.survival\n"
        "sys.exit(bool({'torch', 'sksurv', 'lifelines', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_real_cohort_of_mcat(real_data):
    """BLCA with the published risks: 206 of 373 have a known status at five years, as counted elsewhere."""
    table = pd.read_csv(real_data / "cancer" / "mcat_val_risks.csv").query("cohort == 'blca'").reset_index(drop=True)
    ids = {"sample_id": table["case_id"], "patient_id": table["case_id"]}
    truth = pd.DataFrame({**ids, "time": table["survival"], "event": table["censorship"] == 0, "fold": table["fold"]})
    result = evaluate(pd.DataFrame({**ids, "risk": table["risk"]}), truth, within="fold")
    assert result["metrics"]["auc_naive_60m"]["n"] == 206 and result["metrics"]["c_index"]["n"] == 373
    folds = result["subgroups"]["fold"]
    assert np.mean([m["c_index"]["value"] for m in folds.values()]) == pytest.approx(0.6243, abs=5e-5)
    assert result["metrics"]["c_index_within_fold"]["value"] == pytest.approx(0.6245, abs=5e-5)
