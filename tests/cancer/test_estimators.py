"""Baselines of survival: what they learn, from whom, and that they come back from a checkpoint as they were."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from clarion.cancer import estimators as E
from clarion.cancer import features as F
from clarion.cancer.datasets import OmicsData
from clarion.config import compose_config
from clarion.errors import DataError, UsageError
from clarion.evaluators.survival import SurvivalEvaluator
from clarion.record import hash_tree
from clarion.run import build
from clarion.trainers.base import Run, Sample, Trainer
from clarion.trainers.estimator import EstimatorTrainer, c_index

RECIPE = {"cancers": 2, "patients": 150, "genes": 80, "specific": 1, "shared": 3, "opposed": 1, "cnv": 10, "mut": 5,
          "effect": 0.9}  # fmt: skip
MODELS = ("cox_age", "cox_clinical", "ridge_cox", "sign_score", "gbm_survival")
OWN = {
    "age": E.AgeCox, "clinical": E.ClinicalCox, "ridge": lambda: E.RidgeCoxPCs(components=10, random_state=0),
    "sign": lambda: E.SignScore(top=10), "boosting": lambda: E.GradientBoosting(components=5, trees=20, random_state=0),
}  # fmt: skip


class Recorder:
    def __init__(self):
        self.rows: list[dict] = []

    def log(self, metrics, step):
        self.rows.append(dict(metrics))


@pytest.fixture(scope="module")
def data() -> OmicsData:
    data = OmicsData("omics_demo", source="synthetic", synthetic=RECIPE)
    data.prepare()
    return data


def configured(model: str, *overrides: str) -> EstimatorTrainer:
    """As run.py builds it."""
    config = compose_config([f"model={model}", *overrides])
    return build(config.trainer, model=config.model, seed=0)


def fit(trainer, data, directory: Path) -> tuple[Path, Recorder]:
    tracker = Recorder()
    return trainer.fit(Run(OmegaConf.create(), directory, data, tracker)), tracker


def risks(trainer, checkpoint: Path, data, split: str = "test") -> np.ndarray:
    return np.array([p.values["risk"] for p in trainer.load(checkpoint)(data.samples(split))])


# ---- through the trainer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_predicts_what_the_estimator_did(model, data, tmp_path):
    trainer = configured(model)
    assert isinstance(trainer, Trainer) and trainer.task == "survival"
    checkpoint, tracker = fit(trainer, data, tmp_path)
    assert sorted(p.name for p in checkpoint.iterdir()) == ["model.json", "model.skops"]
    assert set(tracker.rows[0]) == {"train/c_index", "val/c_index"}
    again, _ = fit(configured(model), data, tmp_path / "again")
    assert hash_tree(again) == hash_tree(checkpoint)  # the manifest's hash identifies the model
    X, y, ids = data.table("train")
    direct = trainer._build().fit(X, y)
    found = list(trainer.load(checkpoint)(data.samples("test")))
    T, _, test_ids = data.table("test")
    assert [p.sample_id for p in found] == test_ids
    assert np.allclose([p.values["risk"] for p in found], direct.predict(T), rtol=0, atol=1e-9)
    if model == "sign_score":
        assert set(found[0].values) == {"risk"}
        return
    survival = np.array([p.values["survival"] for p in found])
    assert survival.shape == (len(T), 10) and (np.diff(survival, axis=1) <= 0).all()
    assert (survival > 0).all() and (survival <= 1).all()
    assert np.allclose(survival, direct.predict_survival(T, found[0].values["times"]))


@pytest.mark.parametrize("model", ["ridge_cox", "cox_age"])
def test_predictions_are_scored_beside_the_training_follow_up(model, tmp_path):
    gse = OmicsData("gse7390", source="gse7390")
    gse.prepare()
    trainer = configured(model, "data=gse7390")
    checkpoint, _ = fit(trainer, gse, tmp_path)
    rows = [{"sample_id": p.sample_id, "patient_id": p.patient_id, **p.values}
            for p in trainer.load(checkpoint)(gse.samples("test"))]  # fmt: skip
    context = {"seed": 0, "train_truth": gse.truth("train")}
    found = SurvivalEvaluator(n_resamples=100).evaluate(pd.DataFrame(rows), gse.truth("test"), context)["metrics"]
    assert (
        found["c_index"]["n"] == len(rows) == len(gse.splits["test"])
        and found["c_index"]["low"] < found["c_index"]["high"]
    )
    assert 0 < found["brier_60m"]["value"] < 0.4


@pytest.mark.parametrize("model", ["ridge_cox", "sign_score", "gbm_survival", "cox_age"])
def test_a_checkpoint_holds_nobodys_values(model, data, tmp_path):
    """Neither values of genes nor times of death: quantiles of five patients and more, hazards on whole months."""
    trainer = configured(model)
    checkpoint, _ = fit(trainer, data, tmp_path)
    estimator = trainer.load(checkpoint).estimator
    X, y, _ = data.table("train")
    if hasattr(estimator, "baseline_times_"):
        grid = np.asarray(estimator.baseline_times_)
        assert (grid == np.rint(grid)).all()
        between = np.diff([(y["time"][y["event"]] <= end).sum() for end in np.r_[0, grid]])
        assert between.min() >= 5 and between.sum() == y["event"].sum()
    learned = {"ridge_cox": lambda e: [e.parts_["scores"]], "gbm_survival": lambda e: [e.parts_["scores"]],
               "sign_score": lambda e: [t["scores"] for t in e.tables_.values()],
               "cox_age": lambda e: []}[model](estimator)  # fmt: skip
    for scores in learned:
        for cancer, knots in scores["knots"].items():
            rows = X if cancer == "" else X[X["cancer"] == cancer]
            assert len(knots) * 5 <= len(rows)
    arrays = [np.asarray(knots) for scores in learned for knots in scores["knots"].values()]
    patients = X[[c for c in X.columns if c.startswith("rna:")]].to_numpy(np.float32)
    for knots in arrays:  # quantiles lie between two patients' values, but for rare coincidences
        assert np.isin(knots, patients).mean() < 0.3


def test_the_thinned_hazard_is_nearly_breslows(data):
    X, y, _ = data.table("train")
    model = E.AgeCox().fit(X, y)
    lp = model.predict(X)
    times, hazard = F.breslow(lp, y["time"], y["event"])
    at = np.arange(6.0, 61.0, 6.0)
    exact = np.exp(-np.outer(np.exp(lp), np.r_[0.0, hazard][np.searchsorted(times, at, side="right")]))
    assert np.abs(model.predict_survival(X, at) - exact).max() < 0.05
    assert np.abs(model.predict_survival(X, at) - exact).mean() < 0.01
    few = F.on_grid(np.array([1.2, 3.0, 8.4]), np.array([0.1, 0.2, 0.4]), np.array([1, 2, 1]))
    assert [list(a) for a in few] == [[9.0], [0.4]]


def test_samples_become_the_rows_of_the_table(data):
    X, y, ids = data.table("val")
    samples = list(data.samples("val"))
    pd.testing.assert_frame_equal(
        E.patient_rows([s.inputs for s in samples], list(X.columns)), X.reset_index(drop=True), check_dtype=False
    )
    truth = data.truth("val")
    assert (
        ids == list(truth["patient_id"]) and (y["time"] == truth["time"]).all() and (y["event"] == truth["event"]).all()
    )
    inputs = samples[0].inputs | {"omics": {**samples[0].inputs["omics"], "rna": np.zeros(3)}}
    with pytest.raises(DataError, match="3 genes of rna, the estimator was fitted on 80"):
        E.patient_rows([inputs], list(X.columns))


def test_a_patient_without_omics_has_all_genes_missing():
    known = {"omics": {"rna": np.ones(2, np.float32)}, "age": 60.0}
    rows = E.patient_rows([known, {"omics": None, "age": 70.0}], ["rna:A", "rna:B", "age"])
    assert rows.loc[0].notna().all() and rows.loc[1, ["rna:A", "rna:B"]].isna().all() and rows.loc[1, "age"] == 70


def test_only_the_configured_class_is_loaded(data, tmp_path):
    from sklearn.preprocessing import FunctionTransformer
    from skops import io

    trainer = configured("cox_age")
    checkpoint, _ = fit(trainer, data, tmp_path)
    with pytest.raises(UsageError, match="not trusted.*AgeCox"):
        configured("cox_clinical").load(checkpoint)
    with pytest.raises(UsageError, match="not trusted.*AgeCox"):
        EstimatorTrainer({"estimator": {"_target_": "sklearn.linear_model.LogisticRegression"}}).load(checkpoint)
    io.dump(FunctionTransformer(fit), checkpoint / "model.skops")
    with pytest.raises(UsageError, match="not trusted"):
        trainer.load(checkpoint)
    (checkpoint / "model.skops").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UsageError, match="cannot be read as a checkpoint"):
        trainer.load(checkpoint)


def test_tasks_are_kept_apart(data, tmp_path):
    with pytest.raises(UsageError, match="model.task=detection is nothing that trainer=estimator does"):
        EstimatorTrainer({"task": "detection", "estimator": E.AgeCox()})
    with pytest.raises(UsageError, match="AgeCox, which has no fit and predict_proba"):
        EstimatorTrainer({"estimator": {"_target_": "clarion.cancer.estimators.AgeCox"}}).check()
    checkpoint, _ = fit(configured("cox_age"), data, tmp_path)
    text = (checkpoint / "model.json").read_text().replace('"task": "survival"', '"task": "classification"')
    (checkpoint / "model.json").write_text(text)
    with pytest.raises(UsageError, match="fitted for classification, the model config is for survival"):
        configured("cox_age").load(checkpoint)


# ---- what is learned -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN)
def test_a_prediction_does_not_depend_on_the_other_rows(name, data):
    X, y, _ = data.table("train")
    T = data.table("test")[0]
    model = OWN[name]().fit(X, y)
    whole = model.predict(T)
    assert whole.shape == (len(T),) and np.isfinite(whole).all()
    assert np.allclose(model.predict(T.iloc[5:6]), whole[5:6], rtol=0, atol=1e-9)
    assert np.allclose(model.predict(T.iloc[::-1])[::-1], whole, rtol=0, atol=1e-9)
    again = OWN[name]().fit(X, pd.DataFrame({"time": y["time"], "event": y["event"]}))
    assert np.allclose(again.predict(T), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", OWN)
def test_missing_values_and_an_unseen_cancer_are_predicted(name, data):
    X, y, _ = data.table("train")
    model = OWN[name]().fit(X, y)
    T = data.table("test")[0].iloc[:4].copy()
    T[[c for c in T.columns if ":" in c]] = np.nan
    T[["age", "sex", "cancer"]] = [np.nan, "", "ZULU"]
    found = model.predict(T)
    assert np.isfinite(found).all() and np.ptp(found) == 0


def test_planted_effects_are_found_and_shuffled_outcomes_are_not(data):
    X, y, _ = data.table("train")
    T, yt, _ = data.table("test")
    rng = np.random.default_rng(0)
    for name in ("ridge", "sign", "boosting"):
        assert c_index(yt, OWN[name]().fit(X, y).predict(T)) > 0.6, name
    nulls, seen = [], []
    for _ in range(8):
        shuffled = y[rng.permutation(len(y))]
        model = OWN["sign"]().fit(X, shuffled)
        nulls.append(c_index(yt, model.predict(T)))
        seen.append(c_index(shuffled, model.predict(X)))
    # The best ten of 80 genes look well on those who chose them, and say nothing about others.
    assert np.mean(seen) > 0.58 and abs(np.mean(nulls) - 0.5) < 0.06


def test_age_and_clinical_agree_with_lifelines(data):
    from lifelines import CoxPHFitter

    X, y, _ = data.table("train")
    table = pd.DataFrame({"age": X["age"].fillna(X["age"].median()) / 10, "time": y["time"], "event": y["event"]})
    table.index = range(len(table))
    peer = CoxPHFitter().fit(table, "time", "event")
    model = E.AgeCox().fit(X, y)
    assert model.coef_ == pytest.approx(peer.params_.to_numpy(), rel=1e-4)
    times = [6.0, 24.0, 60.0]
    theirs = peer.predict_survival_function(table, times=times).T.to_numpy()
    assert np.allclose(model.predict_survival(X, times), theirs, atol=2e-3)
    table["F"] = (X["sex"] == "F").to_numpy(float)
    table["B"] = (X["cancer"] == sorted(set(X["cancer"]))[1]).to_numpy(float)
    peer = CoxPHFitter().fit(table, "time", "event")
    clinical = E.ClinicalCox().fit(X, y)
    assert np.sort(np.abs(clinical.coef_)) == pytest.approx(np.sort(np.abs(peer.params_.to_numpy())), rel=1e-3)


def test_ridge_shrinks_and_chooses_a_penalty(data):
    X, y, _ = data.table("train")
    weak, strong = (E.RidgeCoxPCs(components=10, alpha=a, random_state=0).fit(X, y) for a in (1.0, 1e5))
    pcs = slice(len(weak.clinical_["names"]), None)
    assert np.abs(strong.coef_[pcs]).max() < 0.05 * np.abs(weak.coef_[pcs]).max()
    assert strong.coef_[0] != pytest.approx(0, abs=1e-3)  # age is not penalised
    chosen = E.RidgeCoxPCs(components=10, random_state=0).fit(X, y)
    assert chosen.alpha_ in chosen.alphas
    nothing = y[np.random.default_rng(1).permutation(len(y))]
    assert E.RidgeCoxPCs(components=10, random_state=0).fit(X, nothing).alpha_ >= chosen.alpha_


def test_flat_trees_are_the_boosters(data):
    X, y, _ = data.table("train")
    model = E.GradientBoosting(components=5, trees=30, max_depth=3, random_state=0).fit(X, y)
    design = model._design(data.table("test")[0])
    _, components = E.learn_components(X, "rna", 5, "cancer", 5000, 0)
    trained = np.hstack([F.apply_clinical(model.clinical_, X), components])
    peer = model._boosted(trained, y["time"], y["event"])
    assert np.allclose(E.forest_sum(model.forest_, design), peer.predict(design), atol=1e-9)


def test_partial_likelihood_and_breslow_by_hand():
    time, event = np.array([3.0, 1.0, 2.0, 2.0]), np.array([True, True, True, False])
    lp = np.log([2.0, 1.0, 3.0, 4.0])
    assert F.partial_loglik(lp, time, event) == pytest.approx(np.log(1 / 10) + np.log(3 / 9) + np.log(2 / 2))
    times, hazard = F.breslow(lp, time, event)
    assert list(times) == [1, 2, 3] and hazard == pytest.approx(np.cumsum([1 / 10, 1 / 9, 1 / 2]))
    survival = F.survival_at(np.zeros(1), times, hazard, [0.5, 1, 9])[0]
    assert survival == pytest.approx(np.exp([-0.05, -0.1, -hazard[-1]]))


def test_rare_cancers_are_pooled_and_a_sex_without_deaths_is_left_out():
    cancer = np.repeat(["A", "B", "C", "D"], [40, 40, 6, 6])
    event = np.r_[np.ones(80, bool), np.zeros(12, bool)]
    X = pd.DataFrame({"age": 60.0, "sex": ["F"] * 86 + ["M"] * 6, "cancer": cancer})
    learned = F.learn_clinical(X, event, ("age", "sex", "cancer"), 5)
    assert learned["names"] == ["cancer=B"] and learned["cancers"] == {"A": "A", "B": "B"}
    assert F.apply_clinical(learned, X)[:, 0] == pytest.approx(np.repeat([-0.5, 0.5, 0.0], [40, 40, 12]))
    event[80:83] = event[86:89] = True
    learned = F.learn_clinical(X, event, ("cancer",), 5)
    assert learned["names"] == ["cancer=B", "cancer=few events"]
    time = np.random.default_rng(0).exponential(10, len(X))
    assert np.isfinite(E.ClinicalCox().fit(X, {"time": time, "event": event}).predict(X)).all()


def test_what_nothing_can_be_learned_from_is_refused(data, tmp_path):
    X, y, _ = data.table("train")
    nobody = y.copy()
    nobody["event"] = False
    with pytest.raises(DataError, match="are censored: nothing can be fitted"):
        E.AgeCox().fit(X, nobody)
    with pytest.raises(DataError, match="No training patient has an age"):
        E.AgeCox().fit(X.assign(age=np.nan), y)
    with pytest.raises(DataError, match="Nothing of age, sex varies"):
        E.ClinicalCox(("age", "sex")).fit(X.assign(age=60.0, sex="F"), y)
    with pytest.raises(UsageError, match="no wsi data .they have cnv, mut, rna"):
        E.RidgeCoxPCs("wsi").fit(X, y)
    with pytest.raises(UsageError, match="grade is no clinical column"):
        E.ClinicalCox(("grade",)).fit(X, y)
    trainer = EstimatorTrainer({"task": "survival", "estimator": E.AgeCox()})
    checkpoint, _ = fit(trainer, data, tmp_path)
    with pytest.raises(UsageError, match="model.features names no function"):
        trainer.load(checkpoint)([Sample("x", "x", {})])
