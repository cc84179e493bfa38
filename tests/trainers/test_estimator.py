"""The estimator trainer: baselines of scikit-learn, stored without pickle."""

from __future__ import annotations

import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sklearn
from omegaconf import OmegaConf
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from clarion.config import compose_config
from clarion.errors import DataError, UsageError
from clarion.oct.stages import BscanStages
from clarion.record import hash_tree
from clarion.run import build
from clarion.trainers.base import Run, Sample, Trainer
from clarion.trainers.estimator import EstimatorTrainer
from clarion.trainers.estimator_checkpoint import FORMAT, export, read

EYES = {"train": 100, "val": 20, "test": 40}  # the default demo, so that all tests share one phantom


class Recorder:
    def __init__(self):
        self.rows: list[tuple[int, dict]] = []

    def log(self, metrics, step):
        self.rows.append((step, dict(metrics)))


class Table:
    """A data object of plain numbers: three classes, two of them linearly separable."""

    class_names = ["a", "b", "c"]

    def __init__(self, count: int = 60, spoil: bool = False):
        random = np.random.default_rng(0)
        self.labels = np.arange(count) % 2 * 2  # classes 0 and 2; class 1 is absent from train
        self.features = random.normal(size=(count, 4)) + self.labels[:, None]
        if spoil:
            self.features[3, 1] = np.nan
        self.splits = {"train": [f"s{k}" for k in range(count)]}

    def table(self, split):
        return self.features, self.labels, self.splits[split]

    def samples(self, split):
        for name, row in zip(self.splits[split], self.features, strict=True):
            yield Sample(name, name, {"features": row})


@pytest.fixture(scope="module")
def data() -> BscanStages:
    data = BscanStages("bscan_stages", eyes=EYES, bscans_per_eye=3)
    data.prepare()
    return data


def fit(trainer, data, directory: Path) -> tuple[Path, Recorder]:
    tracker = Recorder()
    return trainer.fit(Run(OmegaConf.create(), directory, data, tracker)), tracker


def configured(model: str) -> EstimatorTrainer:
    """As run.py builds it."""
    config = compose_config([f"model={model}"])
    return build(config.trainer, model=config.model, seed=0)


def probabilities(trainer, checkpoint: Path, data, split: str = "test") -> np.ndarray:
    return np.array([p.values["probabilities"] for p in trainer.load(checkpoint)(data.samples(split))])


def test_logistic_regression_beats_the_majority_and_is_reproducible(data, tmp_path):
    truth = data.truth("test")["label"].to_numpy()
    majority, _ = fit(configured("majority"), data, tmp_path / "majority")
    shares = np.bincount(data.truth("train")["label"], minlength=3) / 300
    prior = probabilities(configured("majority"), majority, data)
    assert np.allclose(prior, shares)

    trainer = configured("logreg_image_stats")
    assert isinstance(trainer, Trainer)
    checkpoint, tracker = fit(trainer, data, tmp_path / "logreg")
    found = probabilities(trainer, checkpoint, data)
    assert (found.argmax(1) == truth).mean() > (prior.argmax(1) == truth).mean() + 0.05
    assert tracker.rows[0][0] == 0 and set(tracker.rows[0][1]) == {"train/accuracy", "val/accuracy"}
    again, _ = fit(configured("logreg_image_stats"), data, tmp_path / "again")
    assert np.array_equal(probabilities(trainer, again, data), found)


def test_a_fresh_process_gives_identical_probabilities(data, tmp_path, in_a_fresh_process):
    trainer = configured("logreg_image_stats")
    checkpoint, _ = fit(trainer, data, tmp_path)
    assert sorted(p.name for p in checkpoint.iterdir()) == ["model.json", "model.skops"]
    found = in_a_fresh_process("logreg_image_stats", checkpoint, data.samples("val"))
    assert np.array_equal(found, probabilities(trainer, checkpoint, data, "val"))


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "sklearn.linear_model.LogisticRegression"},
        {"_target_": "sklearn.linear_model.LogisticRegression", "solver": "saga", "max_iter": 20},
        {"_target_": "sklearn.discriminant_analysis.LinearDiscriminantAnalysis"},
        {"_target_": "sklearn.naive_bayes.GaussianNB"},
    ],
)
def test_the_same_fit_gives_the_same_bytes(node, tmp_path, monkeypatch):
    """... whenever it is written and wherever its objects lie: the manifest's hash identifies the model."""
    table, trainer = Table(), EstimatorTrainer({"estimator": node})
    one, _ = fit(trainer, table, tmp_path / "one")
    elsewhere = [object() for _ in range(1000)]
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 1e6)
    two, _ = fit(EstimatorTrainer({"estimator": node}), table, tmp_path / "two")
    assert hash_tree(one) == hash_tree(two) and elsewhere
    assert np.array_equal(probabilities(trainer, one, table, "train"), probabilities(trainer, two, table, "train"))

    table.features[0] += 1  # another fit has another hash
    other, _ = fit(trainer, table, tmp_path / "other")
    assert hash_tree(other) != hash_tree(one)


def test_a_stored_estimator_is_the_fitted_one(tmp_path):
    """Objects that are shared in the estimator, and text and bytes, survive the renumbering of its nodes."""
    from sklearn.ensemble import VotingClassifier
    from sklearn.naive_bayes import GaussianNB

    table = Table()
    parts = [("a", GaussianNB()), ("b", LogisticRegression())]
    votes = VotingClassifier(parts, voting="soft").fit(table.features, table.labels)
    votes.note, votes.twice = b"\x00bytes", [votes.estimators_[0], votes.estimators_[0]]
    description = {"format": FORMAT, "scikit_learn": sklearn.__version__}
    bunch = ["sklearn.utils._bunch.Bunch"]  # unknown to skops
    found, _ = read(export(votes, description, tmp_path / "best", bunch), bunch)
    assert np.array_equal(found.predict_proba(table.features), votes.predict_proba(table.features))
    assert found.note == b"\x00bytes" and found.twice[0] is found.twice[1] is found.estimators_[0]


def test_a_class_absent_from_train_has_probability_0(tmp_path):
    table = Table()
    trainer = EstimatorTrainer({"estimator": LogisticRegression()})
    checkpoint, _ = fit(trainer, table, tmp_path)
    found = probabilities(trainer, checkpoint, table, "train")
    assert found.shape == (60, 3) and (found[:, 1] == 0).all() and np.allclose(found.sum(1), 1)
    assert (found.argmax(1) == table.labels).mean() > 0.9


def test_random_estimators_follow_the_seed(tmp_path):
    table = Table()
    node = {"_target_": "sklearn.linear_model.LogisticRegression", "solver": "saga", "max_iter": 1}
    results = []
    for k, seed in enumerate([0, 0, 1]):
        trainer = EstimatorTrainer({"estimator": node}, seed=seed)
        results.append(probabilities(trainer, fit(trainer, table, tmp_path / str(k))[0], table, "train"))
    assert np.array_equal(results[0], results[1]) and not np.array_equal(results[0], results[2])


def test_what_cannot_be_stored_safely_is_refused(tmp_path):
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(FunctionTransformer(_twice), LogisticRegression())
    with pytest.raises(UsageError, match="cannot be stored safely.*_twice"):
        fit(EstimatorTrainer({"estimator": pipeline}), Table(), tmp_path)


def _twice(features):
    return 2 * features


def test_a_checkpoint_with_foreign_types_or_a_pickle_is_not_loaded(tmp_path):
    from skops import io

    trainer = EstimatorTrainer({"estimator": LogisticRegression()})
    checkpoint, _ = fit(trainer, Table(), tmp_path)
    io.dump(FunctionTransformer(_twice), checkpoint / "model.skops")
    with pytest.raises(UsageError, match="not trusted.*_twice"):
        trainer.load(checkpoint)
    (checkpoint / "model.skops").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UsageError, match="cannot be read as a checkpoint"):
        trainer.load(checkpoint)
    with zipfile.ZipFile(checkpoint / "model.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * (2**30 + 1))
    with pytest.raises(UsageError, match="unpacks to more than"):
        trainer.load(checkpoint)
    with pytest.raises(UsageError, match="is no checkpoint of the estimator trainer"):
        trainer.load(tmp_path / "none")


def test_wrong_settings_and_tables_are_named(tmp_path):
    with pytest.raises(DataError, match="Missing or infinite features in train, first in s3"):
        fit(EstimatorTrainer({"estimator": LogisticRegression()}), Table(spoil=True), tmp_path)
    with pytest.raises(UsageError, match="StandardScaler, which has no fit and predict_proba"):
        fit(EstimatorTrainer({"estimator": {"_target_": "sklearn.preprocessing.StandardScaler"}}), Table(), tmp_path)
    with pytest.raises(UsageError, match="trainer.args=.*weight.*do not fit LogisticRegression"):
        fit(EstimatorTrainer({"estimator": LogisticRegression()}, args={"weight": 1}), Table(), tmp_path)
    trainer = EstimatorTrainer({"estimator": LogisticRegression()})
    checkpoint, _ = fit(trainer, Table(), tmp_path)
    with pytest.raises(DataError, match="has 2 features, the estimator was fitted on 4"):
        list(trainer.load(checkpoint)([Sample("x", "x", {"features": np.zeros(2)})]))
    with pytest.raises(UsageError, match="brings no features"):
        list(trainer.load(checkpoint)([Sample("x", "x", {"image": "x.png"})]))
