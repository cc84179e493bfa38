"""Baselines of clinical coding: notes to codes without a language model, recorded and tabled like any model.

`model.coder` builds what reads a note (`coder.batch(texts)`, each result with `.codes` of `.code` and `.confidence`);
null is the majority: the same most frequent training codes for every case. Fitting learns one number, the confidence
from which a code counts, on the validation part.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate

from clarion.codes.icd10cm import icd10cm
from clarion.config import numbered, target_problems
from clarion.errors import DataError, UsageError
from clarion.evaluators.coding_tables import top_codes
from clarion.record import write_atomic
from clarion.trainers.base import Prediction, Predictor, Run, Sample
from clarion.trainers.plain import plain

log = logging.getLogger(__name__)

RECORD, FORMAT = "coder.json", "clarion-coder-1"
Read = tuple[list[str], list[float]]  # codes of a note and their confidences


class CoderTrainer:
    """Trainer of the protocol. model.threshold: auto (calibrated: the best micro F1 of leaves on val, on train where
    there is no val) or a number; batch_size: notes read at a time; epochs, device, precision and args change nothing.
    """

    trains = False  # no text is learned, so a run has no training texts that a test could repeat

    def __init__(
        self,
        model: Any,
        epochs: int = 1,
        batch_size: int = 256,
        device: str = "auto",
        precision: str | int = "auto",
        args: Any = None,
        name: str = "coder",
        seed: int = 0,
    ):
        self.model, self.batch_size, self.name, self.seed = plain(model), int(batch_size), name, int(seed)
        self.given = _threshold(self.model.get("threshold", "auto"))

    def check(self) -> None:
        """A coder that cannot be built is refused before data are prepared."""
        node = self.model.get("coder")
        if isinstance(node, Mapping) and (problems := target_problems(node, "model.coder")):
            raise UsageError(numbered(problems))
        if node is not None and not hasattr(self._coder(), "batch"):
            raise UsageError("model.coder reads no notes: it has no method batch(texts).")

    def parameters(self, classes: int | None = None) -> None:
        """Nothing worth comparing with a network's."""

    def fit(self, run: Run) -> Path:
        """Count the training codes, or calibrate the threshold; write checkpoints/best/coder.json.

        Raises DataError for a training part without codes."""
        train = _true(run.data, "train")
        if not any(train.values()):
            raise DataError("the training split holds no codes: give its cases the column codes.")
        record: dict[str, Any] = {"format": FORMAT, "coder": self.model.get("coder"), "n_train": len(train)}
        if self.model.get("coder") is None:
            codes = top_codes(list(train.values()), icd10cm())
            share = {code: sum(code in row for row in train.values()) / len(train) for code in codes}
            record |= {"codes": codes, "confidences": [share[code] for code in codes]}
            log.info("the most frequent of %d training cases: %s", len(train), ", ".join(codes))
        else:
            record |= self._calibrated(run)
        best = run.checkpoints / "best"
        shutil.rmtree(best, ignore_errors=True)
        write_atomic(best / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return best

    def load(self, checkpoint: Path) -> Predictor:
        """A folder written by `fit`. Raises UsageError where it is none, or was fitted with another coder."""
        path = Path(checkpoint) / RECORD
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if record.get("format") != FORMAT:
            raise UsageError(f"{checkpoint} is no checkpoint of the coder trainer.")
        if record["coder"] != self.model.get("coder"):
            raise UsageError(f"{checkpoint} was fitted with another model.coder: choose the model it was fitted with.")
        if record["coder"] is None:
            return MajorityPredictor(record["codes"], record["confidences"])
        return CoderPredictor(self._coder(), float(record["threshold"]), self.batch_size)

    def _coder(self) -> Any:
        node = self.model["coder"]  # a config, or (from Python) the coder itself
        return instantiate(node, _convert_="all") if isinstance(node, Mapping) else node

    def _calibrated(self, run: Run) -> dict[str, Any]:
        if self.given is not None:
            return {"threshold": self.given}
        split = "val" if run.data.splits.get("val") else "train"
        truth = _true(run.data, split)
        found = {
            p.sample_id: (p.values["codes"], p.values["confidences"])
            for p in CoderPredictor(self._coder(), -np.inf, self.batch_size)(run.data.samples(split))
        }
        threshold, f1 = best_threshold([found[k] for k in truth], list(truth.values()))
        run.tracker.log({f"{split}/leaf_f1": f1}, step=0)
        log.info("codes count from confidence %.3f (leaf F1 %.3f on %d cases of %s)", threshold, f1, len(truth), split)
        return {"threshold": threshold, "calibrated": {"split": split, "n": len(truth), "leaf_f1": f1}}


def best_threshold(found: Sequence[Read], true: Sequence[Sequence[str]]) -> tuple[float, float]:
    """(confidence from which codes are kept, micro F1 there): the best over all thresholds, of equal ones the highest.

    (0, 0) where nothing was found, so that nothing is withheld."""
    rows = [
        (sure, code in set(gold))
        for (codes, confidences), gold in zip(found, true, strict=True)
        for code, sure in zip(codes, confidences, strict=True)
    ]
    if not rows:
        return 0.0, 0.0
    sure, right = (np.array(column) for column in zip(*sorted(rows, key=lambda row: -row[0]), strict=True))
    f1 = 2 * right.cumsum() / (sum(map(len, true)) + np.arange(1, len(rows) + 1))
    last = np.flatnonzero(np.append(sure[1:] < sure[:-1], True))  # codes of one confidence are kept together
    k = last[int(np.argmax(f1[last]))]
    return float(sure[k]), float(f1[k])


class MajorityPredictor:
    """The same codes for every sample."""

    def __init__(self, codes: Sequence[str], confidences: Sequence[float]):
        self.codes, self.confidences = list(codes), list(confidences)

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        for sample in samples:
            values = {"codes": list(self.codes), "confidences": list(self.confidences)}
            yield Prediction(sample.sample_id, sample.patient_id, values)


class CoderPredictor:
    """Samples {"note"} -> predictions {"codes", "confidences"}: what the coder reads with at least `threshold`."""

    def __init__(self, coder: Any, threshold: float, batch_size: int = 256):
        self.coder, self.threshold, self.batch_size = coder, threshold, batch_size

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        remaining = iter(samples)
        while batch := list(islice(remaining, self.batch_size)):
            for sample, coded in zip(batch, self.coder.batch([_note(s) for s in batch]), strict=True):
                kept = [span for span in coded.codes if span.confidence >= self.threshold]
                values = {"codes": [s.code for s in kept], "confidences": [float(s.confidence) for s in kept]}
                yield Prediction(sample.sample_id, sample.patient_id, values)


def _note(sample: Sample) -> str:
    note = sample.inputs.get("note")
    if not isinstance(note, str):
        raise UsageError(f"sample {sample.sample_id} brings no note to code: use data=case_reports.")
    return note


def _true(data: Any, split: str) -> dict[str, list[str]]:
    """sample_id -> true codes of a split, in one spelling each."""
    truth = data.truth(split)
    if truth is None or "codes" not in truth.columns:
        raise UsageError(f"data={getattr(data, 'name', '?')} has no codes: use data=case_reports.")
    system = icd10cm()
    return {
        key: sorted({system.normalise(code) or str(code) for code in codes})
        for key, codes in zip(truth["sample_id"], truth["codes"], strict=True)
    }


def _threshold(setting: Any) -> float | None:
    if setting in (None, "auto"):
        return None
    try:
        return float(setting)
    except (TypeError, ValueError):
        raise UsageError(f"model.threshold={setting}: write auto or a number.") from None
