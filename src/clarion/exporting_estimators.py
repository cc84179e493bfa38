"""Fitted baselines as arrays: what a linear classifier learned, in safetensors, with its formula in export.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from clarion.errors import UsageError
from clarion.exporting import Job

FORMULA = {
    "logistic": "probabilities = softmax(((x - mean) / scale) @ coef.T + intercept); two classes: one row of coef, "
    "sigmoid of it is the second class",
    "prior": "probabilities = prior, whatever x",
}


def arrays_of(estimator: Any) -> tuple[str, dict[str, np.ndarray]]:
    """(which formula, its arrays). UsageError for an estimator that is more than a formula of arrays."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    last = steps[-1]
    if len(steps) == 1 and isinstance(last, DummyClassifier) and last.strategy == "prior":
        return "prior", {"prior": last.class_prior_, "classes": last.classes_}
    scaler = steps[0] if len(steps) == 2 and isinstance(steps[0], StandardScaler) else None
    if isinstance(last, LogisticRegression) and (scaler or len(steps) == 1):
        width = last.coef_.shape[1]
        mean = scaler.mean_ if scaler is not None and scaler.with_mean else np.zeros(width)
        scale = scaler.scale_ if scaler is not None and scaler.with_std else np.ones(width)
        return "logistic", {"mean": mean, "scale": scale, "coef": last.coef_, "intercept": last.intercept_,
                            "classes": last.classes_}  # fmt: skip
    raise UsageError(
        f"{type(last).__name__} is more than a formula of arrays: its checkpoint, checkpoints/best/model.skops, is the "
        "form in which it is passed on (skops.io.load reads it; no pickle)."
    )


def computed(kind: str, arrays: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Probabilities [n, classes] by the formula alone."""
    if kind == "prior":
        return np.tile(arrays["prior"], (len(features), 1))
    scores = ((features - arrays["mean"]) / arrays["scale"]) @ arrays["coef"].T + arrays["intercept"]
    if scores.shape[1] == 1:
        scores = np.hstack([np.zeros_like(scores), scores])
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)


def safetensors(job: Job) -> dict[str, Any]:
    """model.safetensors (float64), computed with numpy from the file and compared with the estimator."""
    from safetensors.numpy import load_file, save_file

    predictor = job.predictor()
    kind, arrays = arrays_of(predictor.estimator)
    path = job.folder / "model.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
    features = np.stack([predictor._features(sample) for sample in job.samples])
    found = computed(kind, load_file(path), features)
    expected = predictor.estimator.predict_proba(features)
    return {
        "max_difference": float(np.abs(found - expected).max()),
        "checked_by": "numpy, from the file",
        "formula": FORMULA[kind],
        "inputs": {"x": {"dtype": "float64", "shape": ["batch", int(features.shape[1])]}},
        "outputs": ["probabilities"],
        "facts": {"class_names": predictor.description["class_names"], "features": predictor.description["features"]},
    }
