"""Two raters, or a model and a rater: kappa on categories, ICC(2,1) and Bland-Altman on measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError, UsageError
from clarion.evaluators import confusion_statistics as cs
from clarion.evaluators.bootstrap import Interval, bootstrap, codes, entry
from clarion.evaluators.continuous_agreement import bland_altman, clustered_agreement, icc_2_1
from clarion.evaluators.detection import operating_confidence
from clarion.evaluators.join import join
from clarion.evaluators.matching import flatten
from clarion.evaluators.outcomes import DETECTION_COLUMNS, TRUTH_COLUMNS

BOOTSTRAP = "percentile bootstrap over patients"
BOX = ["x1", "y1", "x2", "y2"]
SOURCES = {
    "icc": "ICC(2,1), two-way random, absolute agreement (Shrout & Fleiss 1979)",
    "bias": "mean difference, second - first (Bland & Altman)",
    "loa_low": "lower 95 % limit of agreement (Bland & Altman)",
    "loa_high": "upper 95 % limit of agreement (Bland & Altman)",
}


class AgreementEvaluator:
    """How well two sets of ratings agree; `evaluate` returns the dict described in CONTRIBUTING.

    The first rater is the truth, the second the model; with `second_rater` (a csv) two human raters are compared as
    well, under names that start with `raters_`, so that a model stands beside the agreement people reach.

    task: one or both of detection (is there a box in the B-scan: kappa; how much of its width the boxes cover: ICC,
      Bland-Altman) and classification (the most probable class: kappa); of both, the context's task is done.
    second_rater: csv with sample_id (patient_id) and, for detection, one row a box with x1, y1, x2, y2 in pixels (a
      B-scan without a box: one row with these empty); for classification one row a sample with label (class index).
    column: a measured column of truth (and of second_rater) on which the two raters are compared, too.
    confidence: boxes below it are not counted; None: the best-F1 one of the validation, else of the test.
    lateral_um: width of a pixel; None: the truth's column lateral_um, else extents stay in pixels.
    """

    def __init__(
        self, task: str | Sequence[str] = "detection", second_rater: str | None = None, column: str | None = None,
        confidence: float | None = None, lateral_um: float | None = None, unit: str | None = None,
        n_resamples: int = 1000, level: float = 0.95, name: str = "agreement",
    ):
        tasks = [task] if isinstance(task, str) else list(task)
        if not tasks or not set(tasks) <= {"detection", "classification"}:
            raise UsageError(f"evaluators.agreement.task is {task!r}: write detection or classification.")
        if column is not None and second_rater is None:
            raise UsageError("evaluators.agreement.column compares two raters: give second_rater=<csv>, too.")
        self.task, self.tasks, self.name = task, tasks, name
        self.second_rater, self.column = second_rater, column
        self.confidence, self.lateral_um, self.unit = confidence, lateral_um, unit
        self.n_resamples, self.level = n_resamples, level

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """Tables as the evaluators of the task take them; context: class_names, seed, validation or None."""
        notes: list[str] = []
        work = _Work(self, int(context.get("seed") or 0), notes)
        task = context.get("task") or self.tasks[0]
        if task not in self.tasks:
            raise UsageError(f"evaluator=agreement is for {' / '.join(self.tasks)}, this run is for {task}.")
        if task == "detection":
            confusion = self._detection(work, predictions, truth, context)
        else:
            confusion = self._classification(work, predictions, truth, context)
        if self.column is not None:
            rater = self._rater(truth, task)
            rater, first = join(rater, truth, [self.column], [self.column], ("second rater", "truth"))
            values = [pd.to_numeric(t[self.column], errors="coerce").to_numpy(dtype=float) for t in (first, rater)]
            if not all(np.isfinite(v).all() for v in values):
                raise DataError(f"Column {self.column} holds cells that are not numbers: fill or drop these samples.")
            work.measurement(*values, first, f"raters_{self.column}", self.unit)
        notes.append("Baseline: every sample rated as the mean (or most frequent kind) of the other patients.")
        return {
            "metrics": work.metrics, "baseline": work.baseline, "curves": work.curves, "confusion": confusion,
            "subgroups": {}, "notes": notes,
        }

    def _detection(self, work: _Work, predictions, truth, context) -> dict:
        predictions, truth = join(predictions, truth, DETECTION_COLUMNS, TRUTH_COLUMNS)
        confidence = self._confidence(predictions, truth, context, work.notes)
        scale, unit = self._scale(truth)
        kept = flatten(predictions, scored=True)
        kept = kept.take(np.flatnonzero(kept.score >= confidence))
        model = coverage(kept.image, kept.box, len(truth)) * scale
        rater = self._extents(truth) * scale
        both = work.presence(rater, model, truth, "")
        work.measurement(rater, model, truth, "extent", unit, baseline=True)
        if self.second_rater is not None and "boxes" in (table := self._rater(truth, "detection")).columns:
            table, first = join(table, truth, TRUTH_COLUMNS, TRUTH_COLUMNS, ("second rater", "truth"))
            second = self._extents(table) * scale
            work.presence(rater, second, first, "raters_")
            work.measurement(rater, second, first, "raters_extent", unit)
        return both

    def _classification(self, work: _Work, predictions, truth, context) -> dict:
        predictions, truth = join(predictions, truth, ["probabilities"], ["label"])
        chosen = np.array([int(np.argmax(p)) for p in predictions["probabilities"]])
        names = [str(n) for n in context.get("class_names") or range(len(predictions["probabilities"].iloc[0]))]
        if chosen.max() >= len(names):
            raise DataError(f"The predictions have more classes than the {len(names)} of the data.")
        label = _indices(truth["label"], len(names), "truth")
        both = work.categories(label, chosen, truth, names, "", baseline=True)
        if self.second_rater is not None and "label" in (table := self._rater(truth, "classification")).columns:
            table, _ = join(table, truth, ["label"], ["label"], ("second rater", "truth"))
            work.categories(label, _indices(table["label"], len(names), "second rater"), truth, names, "raters_")
        return both

    def _confidence(self, predictions, truth, context, notes) -> float:
        if self.confidence is not None:
            return float(self.confidence)
        found, where = None, "the validation"
        validation = context.get("validation")
        if validation is not None and validation[1] is not None:
            found = operating_confidence(*validation)
        if found is None and {"width", "height"} <= set(truth.columns):
            found, where = operating_confidence(predictions, truth), "the test itself"
        if found is None:
            notes.append("Boxes count from confidence 0.25: without boxes on both sides there is no best F1.")
            return 0.25
        notes.append(f"Boxes count from confidence {found:.3f}, the best F1 on {where}.")
        return found

    def _scale(self, truth: pd.DataFrame) -> tuple[np.ndarray | float, str]:
        """Factor from pixels to the unit, per sample or for all."""
        if self.lateral_um is not None:
            return float(self.lateral_um) / 1000.0, "mm"
        if "lateral_um" in truth.columns and truth["lateral_um"].notna().all():
            return truth["lateral_um"].to_numpy(dtype=float) / 1000.0, "mm"
        return 1.0, "px"

    def _extents(self, table: pd.DataFrame) -> np.ndarray:
        boxes = flatten(table, scored=False)
        return coverage(boxes.image, boxes.box, len(table))

    def _rater(self, truth: pd.DataFrame, task: str) -> pd.DataFrame:
        """The second rater's csv as a table like truth; patient_id is taken from the truth where the csv has none."""
        path = Path(self.second_rater)
        if not path.is_file():
            raise UsageError(f"No second rater's table at {path}: set evaluators.agreement.second_rater to a csv.")
        table = pd.read_csv(path, dtype={"sample_id": str, "patient_id": str})
        if "sample_id" not in table.columns:
            raise DataError(f"{path.name} has no column sample_id: one row a box or sample, with its id.")
        if "patient_id" not in table.columns:
            owner = dict(zip(truth["sample_id"].astype(str), truth["patient_id"]))
            table["patient_id"] = table["sample_id"].map(owner).fillna("unknown")
        wanted = ["label"] if task == "classification" else BOX
        if not set(wanted) <= set(table.columns) and self.column is None:
            raise DataError(f"{path.name} needs the column(s) {', '.join(wanted)} to be compared for {task}.")
        if task == "classification" or not set(wanted) <= set(table.columns):
            return table
        rows = []
        for sample_id, group in table.groupby("sample_id", sort=True):
            if group["patient_id"].nunique() > 1:
                raise DataError(f"{path.name} gives sample {sample_id} to more than one patient.")
            boxes = group[BOX].dropna(how="all").to_numpy(dtype=float)
            first = group.iloc[0].drop(labels=BOX).to_dict()
            rows.append({**first, "boxes": boxes.tolist(), "labels": [0] * len(boxes)})
        return pd.DataFrame(rows)


class _Work:
    """Collects entries of one evaluation."""

    def __init__(self, settings: AgreementEvaluator, seed: int, notes: list[str]):
        self.n_resamples, self.level, self.seed, self.notes = settings.n_resamples, settings.level, seed, notes
        self.metrics: dict[str, dict] = {}
        self.baseline: dict[str, dict] = {}
        self.curves: dict[str, dict] = {}

    def presence(self, first: np.ndarray, second: np.ndarray, table: pd.DataFrame, prefix: str) -> dict:
        return self.categories(
            (first > 0).astype(int), (second > 0).astype(int), table, ["absent", "present"], f"{prefix}presence_",
            baseline=not prefix,
        )

    def categories(self, first, second, table, names, prefix: str, baseline: bool = False) -> dict:
        """Kappa (weighted too where there are more than two classes) and share of agreement; the confusion matrix."""
        patients = table["patient_id"].to_numpy()
        found = self._kappas(first, second, patients, len(names))
        for key, interval in found.items():
            how = f"{'share of equal ratings' if key == 'agreement' else 'Cohen ' + key}; {BOOTSTRAP}"
            self._add(self.metrics, f"{prefix}{key}", interval, len(first), patients, how, None)
        if baseline:
            guess = _most_frequent_of_others(first, patients, len(names))
            for key, interval in self._kappas(first, guess, patients, len(names)).items():
                self._add(self.baseline, f"{prefix}{key}", interval, len(first), patients, BOOTSTRAP, None)
        matrix = np.zeros((len(names),) * 2, dtype=int)
        np.add.at(matrix, (first, second), 1)
        return {"labels": list(names), "matrix": matrix.tolist(), "rows": "truth", "columns": "prediction"}

    def _kappas(self, first, second, patients, n_classes) -> dict[str, Interval]:
        patient, who = codes(patients)
        matrices = cs.ConfusionCounts(first, second, n_classes, patient, len(who))

        def stat(w: np.ndarray) -> dict[str, np.ndarray]:
            matrix = matrices(w)
            values = {"kappa": cs.kappa(matrix), "agreement": cs.accuracy(matrix)}
            if n_classes > 2:
                values |= {f"kappa_{kind}": cs.kappa(matrix, kind) for kind in ("linear", "quadratic")}
            return values

        return bootstrap(stat, patients, self.n_resamples, self.seed, self.level, per_group=True)

    def measurement(self, first, second, table, name: str, unit: str | None, baseline: bool = False) -> None:
        """ICC and Bland-Altman over samples (bootstrap over patients), and over the patients' means (the classical
        intervals, which want independent targets). Means, as sums would measure how many samples a patient has."""
        patients = table["patient_id"].to_numpy()
        patient, who = codes(patients)
        found = clustered_agreement(first, second, patients, self.n_resamples, self.seed, self.level)
        for key, interval in found.items():
            self._add(
                self.metrics, f"{name}_{key}", interval, len(first), patients, f"{SOURCES[key]}; {BOOTSTRAP}",
                None if key == "icc" else unit,
            )
        means = [np.bincount(patient, v) / np.bincount(patient) for v in (first, second)]
        classical = {"icc": icc_2_1(np.stack(means, axis=1), self.level), **bland_altman(*means, self.level)}
        for key, interval in classical.items():
            how = f"{SOURCES[key]} of the means per patient; {'F-based' if key == 'icc' else 't-based'} interval"
            self._add(
                self.metrics, f"patient_{name}_{key}", interval, len(who), patients, how,
                None if key == "icc" else unit,
            )
        if baseline and len(who) > 1:
            guess = _mean_of_others(first, patient, len(who))
            found = clustered_agreement(first, guess, patients, self.n_resamples, self.seed, self.level)
            for key, interval in found.items():
                self._add(
                    self.baseline, f"{name}_{key}", interval, len(first), patients, f"{SOURCES[key]}; {BOOTSTRAP}",
                    None if key == "icc" else unit,
                )
        some = np.unique(np.linspace(0, len(first) - 1, min(201, len(first))).round().astype(int))
        middle, difference = (first + second) / 2, second - first
        label = f" [{unit}]" if unit else ""
        self.curves[f"bland_altman_{name}"] = {
            "x": middle[some].tolist(), "y": difference[some].tolist(), "kind": "scatter",
            "x_label": f"mean of the two{label}", "y_label": f"second - first{label}",
        }

    def _add(self, where, name, interval, n, patients, how, unit) -> None:
        notes = self.notes if where is self.metrics else []
        where[name] = entry(interval, n, len(set(patients)), how, unit, notes, name)
        if where is self.baseline:
            where[name]["name"] = "mean of the other patients" if unit or "icc" in name else "most frequent rating"


def coverage(image: np.ndarray, box: np.ndarray, n_images: int) -> np.ndarray:
    """Width of each image that its boxes cover, in pixels [n_images]: the sum of the widths, overlaps counted once
    (two boxes on one membrane do not make it longer)."""
    covered = np.zeros(n_images)
    if len(box) == 0:
        return covered
    order = np.lexsort((box[:, 0], image))
    image, left, right = image[order], box[order, 0], box[order, 2]
    # Shifting every image beyond the last makes one running maximum serve all images.
    low = left.min()
    shift = image * (right.max() - low + 1.0)
    left, right = left - low + shift, right - low + shift
    reached = np.concatenate([[-np.inf], np.maximum.accumulate(right)[:-1]])
    np.add.at(covered, image, np.maximum(right - np.maximum(left, reached), 0))
    return covered


def _mean_of_others(values: np.ndarray, patient: np.ndarray, n_patients: int) -> np.ndarray:
    sums, counts = np.bincount(patient, values, n_patients), np.bincount(patient, minlength=n_patients)
    return ((values.sum() - sums) / (len(values) - counts))[patient]


def _most_frequent_of_others(label: np.ndarray, patients: np.ndarray, n_classes: int) -> np.ndarray:
    patient, who = codes(patients)
    counts = np.zeros((len(who), n_classes))
    np.add.at(counts, (patient, label), 1)
    return (counts.sum(0) - counts).argmax(1)[patient]


def _indices(column: pd.Series, n_classes: int, name: str) -> np.ndarray:
    number = pd.to_numeric(column, errors="coerce")
    if not number.isin(range(n_classes)).all():
        raise DataError(f"Column label of the {name} must hold class indices 0..{n_classes - 1} and no empty cell.")
    return number.to_numpy(dtype=np.intp)
