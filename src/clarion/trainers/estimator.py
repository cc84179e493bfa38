"""scikit-learn style baselines: a table of features in, class probabilities or a risk out.

A baseline is recorded and tabled like any model, so that a network's score is read beside what needs none.
The estimator is whatever the config builds (`model.estimator: {_target_: sklearn...}`), the checkpoint a skops
file: it holds no pickle, and types that skops does not know are refused when saving and when loading; the one
exception is the very class of ours that the config names, whose fields are restored and nothing of it is run.

model.task=survival: the estimator has fit(X, y) and predict(X) -> risk [n], higher is worse, optionally
predict_survival(X, times) -> [n, T] (at model.times). X is the DataFrame of data.table, missing values and all: the
estimator knows what to do with them; y is a structured array of event and time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from hydra.utils import get_method, instantiate

from clarion.config import numbered, target_problems
from clarion.errors import DataError, UsageError
from clarion.trainers.base import Prediction, Predictor, Run, Sample
from clarion.trainers.estimator_checkpoint import FORMAT, export, ours, read
from clarion.trainers.plain import plain

TASKS = {"classification": "predict_proba", "survival": "predict"}

log = logging.getLogger(__name__)



class EstimatorTrainer:
    """The Trainer protocol over scikit-learn's fit and predict_proba, or predict where a risk is predicted.

    batch_size: samples a step in prediction; epochs, device and precision are accepted and change nothing
    (a fit is one pass on the CPU in float64); args go to estimator.fit verbatim.
    """

    def __init__(
        self,
        model: Any,
        epochs: int = 1,
        batch_size: int = 64,
        device: str = "auto",
        precision: str | int = "auto",
        args: Any = None,
        name: str = "estimator",
        seed: int = 0,
    ):
        self.model, self.args = plain(model), plain(args or {})
        self.batch_size, self.name, self.seed = int(batch_size), name, int(seed)
        self.task = str(self.model.get("task") or "classification")
        if self.task not in TASKS:
            raise UsageError(f"model.task={self.task} is nothing that trainer=estimator does ({', '.join(TASKS)}).")

    def check(self) -> None:
        """An estimator that cannot be built is refused before data are prepared."""
        self._build()

    def parameters(self, classes: int | None = None) -> None:
        """Baselines have no count worth comparing with a network's."""

    def fit(self, run: Run) -> Path:
        """Fit on data.table("train"), log accuracies (or c-indices) on train and val, return checkpoints/best.

        Raises DataError for a table with missing or infinite numbers, with fewer than two classes, or without events.
        """
        estimator = self._build()
        if self.task == "survival":
            return self._fit_risk(run, estimator)
        features, labels, ids = run.data.table("train")
        features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.int64)
        bad = [ids[row] for row in np.flatnonzero(~np.isfinite(features).all(axis=1))[:5]]
        if bad:
            raise DataError(f"Missing or infinite features in train, first in {', '.join(bad)}: impute or drop them.")
        if len(np.unique(labels)) < 2:
            raise DataError("The train split holds a single class: a classifier needs at least two.")
        self._call_fit(estimator, features, labels)
        metrics = {"train/accuracy": float(np.mean(estimator.predict(features) == labels))}
        if run.data.splits.get("val"):
            val_features, val_labels, _ = run.data.table("val")
            metrics["val/accuracy"] = float(np.mean(estimator.predict(val_features) == np.asarray(val_labels)))
        run.tracker.log(metrics, step=0)
        description = {
            "format": FORMAT,
            "class_names": list(run.data.class_names),
            "n_features": int(features.shape[1]),
            "features": self.model.get("features"),
            "n_train": len(ids),
            "scikit_learn": sklearn.__version__,
        }
        return export(estimator, description, run.checkpoints / "best")

    def _call_fit(self, estimator: Any, features: Any, target: np.ndarray) -> None:
        try:
            estimator.fit(features, target, **self.args)
        except TypeError as error:
            raise UsageError(f"trainer.args={self.args} do not fit {type(estimator).__name__}.fit: {error}.") from error
        log.info("%s fitted on %d samples, %d features", type(estimator).__name__, *features.shape)

    def _fit_risk(self, run: Run, estimator: Any) -> Path:
        """As fit, for survival."""
        features, outcome, ids = run.data.table("train")
        if not outcome["event"].any():
            raise DataError("Nobody in the train split has an event: nothing can be learned about survival.")
        self._call_fit(estimator, features, outcome)
        metrics = {"train/c_index": c_index(outcome, estimator.predict(features))}
        if run.data.splits.get("val"):
            val_features, val_outcome, _ = run.data.table("val")
            metrics["val/c_index"] = c_index(val_outcome, estimator.predict(val_features))
        run.tracker.log({name: value for name, value in metrics.items() if value is not None}, step=0)
        description = {
            "format": FORMAT,
            "task": self.task,
            "columns": [str(c) for c in features.columns],
            "features": self.model.get("features"),
            "n_train": len(ids),
            "n_events": int(outcome["event"].sum()),
            "scikit_learn": sklearn.__version__,
        }
        return export(estimator, description, run.checkpoints / "best", ours(estimator))

    def load(self, checkpoint: Path) -> Predictor:
        """checkpoints/best -> a Predictor. Raises UsageError for unknown formats and for untrusted types.

        How features are made from images is this trainer's own model config, never the checkpoint's.
        """
        trusted = ours(self._build()) if self.task == "survival" else ()
        estimator, description = read(Path(checkpoint), trusted)
        if (fitted := description.get("task", "classification")) != self.task:
            raise UsageError(
                f"{checkpoint} was fitted for {fitted}, the model config is for {self.task}: "
                "choose the model it was trained with."
            )
        named = self.model.get("features")
        if description["features"] != named:
            raise UsageError(
                f"{checkpoint} was fitted on features by {description['features']}, the model config names {named}: "
                "choose the model it was trained with."
            )
        if problems := target_problems({"_target_": named} if named else {}, "model.features"):
            raise UsageError(numbered(problems))
        make_features = get_method(named) if named else None
        if self.task == "survival":
            if make_features is None:
                raise UsageError("model.features names no function that makes rows of samples: survival needs one.")
            return RiskPredictor(estimator, description, make_features, self.batch_size, self.model.get("times"))
        return EstimatorPredictor(estimator, description, make_features, self.batch_size)

    def _build(self) -> Any:
        """The estimator of the config, its random_state (where it has one) set to the run's seed."""
        node = self.model["estimator"]  # a config, or (without a config, from Python) the estimator itself
        estimator = instantiate(node, _convert_="all") if isinstance(node, dict) else node
        if not hasattr(estimator, "fit") or not hasattr(estimator, TASKS[self.task]):
            raise UsageError(
                f"model.estimator builds a {type(estimator).__name__}, which has no fit and {TASKS[self.task]}."
            )
        states = [key for key in estimator.get_params() if key.split("__")[-1] == "random_state"]
        return estimator.set_params(**{key: self.seed for key in states if estimator.get_params()[key] is None})


class EstimatorPredictor:
    """Samples in, predictions out, `batch_size` at a time; a sample brings `features`, or an `image` to make them."""

    def __init__(self, estimator: Any, description: dict, make_features: Callable | None, batch_size: int):
        self.estimator, self.description = estimator, description
        self.make_features, self.batch_size = make_features, batch_size

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        remaining = iter(samples)
        # A class that train did not hold has no column in predict_proba: its probability is 0.
        columns = np.asarray(self.estimator.classes_, dtype=int)
        with ThreadPoolExecutor(max_workers=4) as readers:
            while batch := list(islice(remaining, self.batch_size)):
                features = np.stack(list(readers.map(self._features, batch)))
                probabilities = np.zeros((len(batch), len(self.description["class_names"])))
                probabilities[:, columns] = self.estimator.predict_proba(features)
                for sample, row in zip(batch, probabilities.tolist(), strict=True):
                    yield Prediction(sample.sample_id, sample.patient_id, {"probabilities": row})

    def _features(self, sample: Sample) -> np.ndarray:
        if "features" in sample.inputs:
            features = np.asarray(sample.inputs["features"], dtype=np.float64)
        elif "image" in sample.inputs and self.make_features is not None:
            features = np.asarray(self.make_features(sample.inputs["image"]), dtype=np.float64)
        else:
            raise UsageError(
                f"Sample {sample.sample_id} brings no features, and model.features names no way to make them."
            )
        if features.shape != (self.description["n_features"],):
            raise DataError(
                f"Sample {sample.sample_id} has {features.size} features, "
                f"the estimator was fitted on {self.description['n_features']}."
            )
        return features


class RiskPredictor:
    """Samples in, risks out (higher is worse), `batch_size` at a time; with `times` survival probabilities too, where
    the estimator tells them. make_rows(inputs of the samples, columns) -> the X that the estimator was fitted on."""

    def __init__(
        self, estimator: Any, description: dict, make_rows: Callable, batch_size: int, times: Iterable[float] | None
    ):
        self.estimator, self.description, self.make_rows = estimator, description, make_rows
        self.batch_size = batch_size
        self.times = [float(t) for t in times or ()] if hasattr(estimator, "predict_survival") else []

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        remaining = iter(samples)
        while batch := list(islice(remaining, self.batch_size)):
            rows = self.make_rows([sample.inputs for sample in batch], self.description["columns"])
            values = [{"risk": float(risk)} for risk in np.asarray(self.estimator.predict(rows), dtype=np.float64)]
            if self.times:
                survival = np.asarray(self.estimator.predict_survival(rows, self.times), dtype=np.float64)
                for value, curve in zip(values, survival.tolist(), strict=True):
                    value |= {"survival": curve, "times": self.times}
            for sample, value in zip(batch, values, strict=True):
                yield Prediction(sample.sample_id, sample.patient_id, value)


def c_index(outcome: np.ndarray, risk: np.ndarray) -> float | None:
    """Harrell's c-index of a structured array of event and time; None where no two patients can be compared."""
    from clarion.evaluators.survival_scores import Concordance

    pairs = Concordance(outcome["time"], outcome["event"], np.asarray(risk, np.float64))
    value = pairs(np.ones((1, len(outcome))), np.ones(len(outcome)))[0][0]
    return None if np.isnan(value) else float(value)
