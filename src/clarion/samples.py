"""The two records that pass between data, predictors and evaluators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One thing to predict on. `inputs` holds what the task needs, by name:

    detection, classification from images: {"image": Path}; a detector also takes a grey uint8 array
    layers: {"bscan": uint8 [depth, width], "axial_um", "lateral_um"}; presence: the same and "ilm" [width]
    tables: {"features": 1-d float array}
    language: {"messages": [{"role", "content"}, ...]} (the prompt only, never the answer)
    """

    sample_id: str
    patient_id: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """One answer. `values` become columns of the predictions table, by task:

    detection: boxes [[x1, y1, x2, y2], ...] in pixels of the original image, scores, labels (class index)
    classification: probabilities [p_0, ...] in the order of data.class_names
    generation: text
    survival: risk (higher is worse), optional survival (probabilities) at times (months)
    layers: surfaces and sd [8, width] in rows; presence: presence [width]
    """

    sample_id: str
    patient_id: str
    values: dict[str, Any] = field(default_factory=dict)
