"""Is there a finding at all, in this B-scan and in this eye: sensitivity, specificity, area under the ROC curve.

The score of a B-scan is that of its best box, 0 without a box; the score of an eye is that of its best B-scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from clarion.evaluators.bootstrap import Interval, auc_statistic, bootstrap, codes, wilson
from clarion.evaluators.matching import Boxes


@dataclass(frozen=True)
class Presence:
    """score and positive of each B-scan [n] and of each eye [E], with the patient codes of both."""

    score: np.ndarray
    positive: np.ndarray
    patient: np.ndarray
    eye_score: np.ndarray
    eye_positive: np.ndarray
    eye_patient: np.ndarray


def eyes_of(truth: pd.DataFrame) -> np.ndarray:
    """Which eye each B-scan shows, codes [n]: patient and laterality, the patient alone where no column tells."""
    side = truth["laterality"].astype(str) if "laterality" in truth.columns else ""
    return codes((truth["patient_id"] + "\0" + side).to_numpy())[0]


def presence(detections: Boxes, truth: Boxes, patient: np.ndarray, eye: np.ndarray) -> Presence:
    """Boxes of n B-scans, their patient and eye codes [n] -> presence per B-scan and per eye."""
    score = np.zeros(len(patient))
    np.maximum.at(score, detections.image, detections.score)
    positive = np.bincount(truth.image, minlength=len(patient)) > 0
    n_eyes = int(eye.max(initial=-1)) + 1
    eye_score, eye_positive = np.zeros(n_eyes), np.zeros(n_eyes, dtype=bool)
    np.maximum.at(eye_score, eye, score)
    np.logical_or.at(eye_positive, eye, positive)
    owner = np.zeros(n_eyes, dtype=np.intp)
    owner[eye] = patient
    return Presence(score, positive, patient, eye_score, eye_positive, owner)


def youden_threshold(score: np.ndarray, positive: np.ndarray) -> float | None:
    """The score from which on "present" is said so that sensitivity + specificity is largest (Youden 1950); the
    highest of several. None without both kinds. Never 0: an eye without any box is never called present."""
    candidates = np.unique(score[score > 0])[::-1]
    if not positive.any() or positive.all() or len(candidates) == 0:
        return None
    said = score[None, :] >= candidates[:, None]
    gain = said[:, positive].mean(1) - said[:, ~positive].mean(1)
    return float(candidates[np.argmax(gain)])


def aucs(p: Presence, names, n_resamples: int, seed: int, level: float) -> dict[str, Interval]:
    """Areas under the ROC curve over B-scans and over eyes, bootstrapped over patients (names [n])."""
    n_patients = int(p.patient.max()) + 1
    by_scan = auc_statistic(p.score, p.positive, p.patient, n_patients)
    by_eye = auc_statistic(p.eye_score, p.eye_positive, p.eye_patient, n_patients)
    return bootstrap(
        lambda w: {"bscan_auc": by_scan(w), "eye_auc": by_eye(w)}, names, n_resamples, seed, level, per_group=True
    )


def eye_rates(p: Presence, threshold: float, level: float) -> dict[str, tuple[Interval, int, int]]:
    """Sensitivity and specificity over eyes at a threshold: (Wilson interval, number of eyes, of their patients)."""
    said = p.eye_score >= threshold
    rates = {}
    for name, kind, right in (
        ("eye_sensitivity", p.eye_positive, said),
        ("eye_specificity", ~p.eye_positive, ~said),
    ):
        n = int(kind.sum())
        rates[name] = (wilson(int((kind & right).sum()), n, level), n, len(np.unique(p.eye_patient[kind])))
    return rates
