"""Which samples to show: the best, the worst and every missed one, of detection and classification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy
import pandas

from clarion.evaluators import matching
from clarion.report.files import RunFiles

MATCH = 0.5  # IoU from which a predicted box counts as the true one
DEFAULT_CONFIDENCE = 0.25  # where no evaluator recorded its operating point


@dataclass(frozen=True)
class Boxes:
    """xyxy in pixels [n, 4], class index [n], score [n] (NaN for truth)."""

    xyxy: numpy.ndarray
    labels: numpy.ndarray
    scores: numpy.ndarray


@dataclass(frozen=True)
class Case:
    """One sample of a gallery. `group`: best | worst | missed | mistake; `note` says what happened.

    What is drawn of it: boxes, surfaces (rows in pixels [k, width], NaN where there is none), or presence along the
    scan line [width] (truth 0 or 1, prediction a probability; NaN: not assessed)."""

    sample_id: str
    group: str
    note: str
    truth: Boxes | None = None
    predicted: Boxes | None = None
    surfaces: tuple[numpy.ndarray, numpy.ndarray] | None = None  # truth, prediction
    presence: tuple[numpy.ndarray, numpy.ndarray] | None = None  # truth, prediction


@dataclass
class Cases:
    """The chosen cases in the order of their groups, with every missed one among them (`missed`: their ids).

    kind: boxes | classes | surfaces | presence; told: how the groups were made, in a sentence."""

    shown: list[Case] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    samples: int = 0
    confidence: float | None = None
    kind: str = "boxes"
    told: str = ""

    def few(self, most: int) -> list[Case]:
        """At most `most` of each group: of the missed ones evenly spread, of the others the first."""
        groups: dict[str, list[Case]] = {}
        for case in self.shown:
            groups.setdefault(case.group, []).append(case)
        picks = ((spread if name == "missed" else _first)(cases, most) for name, cases in groups.items())
        return [case for group in picks for case in group]


def spread(items: list, most: int) -> list:
    """At most `most` of a list, evenly over it, in its order."""
    return [items[i] for i in sorted({round(k) for k in numpy.linspace(0, len(items) - 1, most)})] if items else []


def _first(items: list, most: int) -> list:
    return items[:most]


def find_cases(run: RunFiles) -> Cases:
    """The cases of a run of any task that has scans; without any for the others."""
    from clarion.report.scan_cases import presence_cases, surface_cases

    found = (chosen(run) for chosen in (detection_cases, classification_cases, surface_cases, presence_cases))
    return next((cases for cases in found if cases.samples), Cases())


def joined(run: RunFiles) -> pandas.DataFrame:
    """Predictions beside the truth by sample_id; a truth column that predictions have too ends in _true."""
    if run.predictions is None or run.truth is None:
        return pandas.DataFrame()
    truth = run.truth.drop(columns=["patient_id"], errors="ignore")
    return run.predictions.merge(truth, on="sample_id", suffixes=("", "_true"), validate="one_to_one")


def detection_cases(run: RunFiles, each: int = 4) -> Cases:
    """Up to `each` best and worst, and every missed sample, at the operating confidence.

    Quality of a sample is panoptic quality (Kirillov et al. 2019): sum of matched IoU / (TP + FP/2 + FN/2).
    Best: highest, with a true box. Missed: true boxes of which none was found, in the order of the samples.
    Worst: lowest of the rest (false alarms and poor boxes).
    """
    table = joined(run)
    if not {"boxes", "scores", "boxes_true"} <= set(table.columns):
        return Cases()
    confidence = operating_confidence(run)
    scored = []
    for row in table.to_dict("records"):
        truth = boxes_of(row["boxes_true"], row.get("labels_true"))
        predicted = boxes_of(row["boxes"], row.get("labels"), row["scores"], confidence)
        ious = matched_ious(truth, predicted)
        n_true, n_found, n_hit = len(truth.xyxy), len(predicted.xyxy), len(ious)
        quality = (
            float(ious.sum() / (n_hit + (n_found - n_hit) / 2 + (n_true - n_hit) / 2)) if n_true + n_found else None
        )
        scored.append((str(row["sample_id"]), quality, n_true, n_found, ious, truth, predicted))

    def case(entry, group: str) -> Case:
        sample, _, n_true, n_found, ious, truth, predicted = entry
        note = f"{len(ious)} of {n_true} found" if n_true else "no true box"
        if len(ious):
            note += f", IoU {ious.mean():.2f}"
        if n_found - len(ious):
            note += f", {n_found - len(ious)} false"
        return Case(sample, group, note, truth, predicted)

    missed = [entry for entry in scored if entry[2] and not len(entry[4])]
    hits = sorted((e for e in scored if e[2] and len(e[4])), key=lambda e: -e[1])
    best = hits[:each]
    taken = {entry[0] for entry in best} | {entry[0] for entry in missed}
    flawed = [e for e in scored if e[1] is not None and e[0] not in taken and (e[1] < 0.75 or e[3] > len(e[4]))]
    # the most confident error comes first: those mislead a reader most
    worst = sorted(flawed, key=lambda e: (e[1], -(e[6].scores.max() if len(e[6].scores) else 0)))[:each]
    groups = (("best", best), ("worst", worst), ("missed", missed))
    return Cases(
        [case(entry, name) for name, entries in groups for entry in entries],
        [entry[0] for entry in missed],
        len(scored),
        confidence,
        told=f"Boxes of confidence {confidence:.3f} and above; found means an overlap (IoU) of at least {MATCH:g}.",
    )


def classification_cases(run: RunFiles, each: int = 4) -> Cases:
    """The right answers given with the highest probability, and every wrong one, most confident first."""
    table = joined(run)
    if not {"probabilities", "label"} <= set(table.columns):
        return Cases()
    right, mistakes = [], []
    for row in table.to_dict("records"):
        p = numpy.asarray(row["probabilities"], dtype=float)
        if not p.size or not numpy.isfinite(p).all() or row["label"] != row["label"]:
            continue
        guess, label, sample = int(p.argmax()), int(row["label"]), str(row["sample_id"])
        if guess == label:
            right.append((p[guess], Case(sample, "best", f"{run.class_name(label)} with {p[guess]:.2f}")))
            continue
        own = f" (true class {p[label]:.2f})" if 0 <= label < p.size else ""
        note = f"{run.class_name(label)} taken for {run.class_name(guess)} with {p[guess]:.2f}{own}"
        mistakes.append((p[guess], Case(sample, "mistake", note)))
    chosen = sorted(right, key=lambda pair: -pair[0])[:each] + sorted(mistakes, key=lambda pair: -pair[0])
    wrong = [case.sample_id for _, case in chosen if case.group == "mistake"]
    return Cases([case for _, case in chosen], wrong, len(table), kind="classes")


def operating_confidence(run: RunFiles) -> float:
    """The confidence an evaluator chose (best F1), else 0.25."""
    for result in run.evaluators.values():
        metrics = result.get("metrics") or {}
        for name in ("confidence", "best_f1_confidence", "operating_confidence", "threshold"):
            value = (metrics.get(name) or {}).get("value") if isinstance(metrics.get(name), dict) else result.get(name)
            if isinstance(value, (int, float)) and 0 <= value <= 1:
                return float(value)
    return DEFAULT_CONFIDENCE


def boxes_of(boxes: Any, labels: Any = None, scores: Any = None, confidence: float = 0.0) -> Boxes:
    """Cells of a table (nested lists or arrays, None for no box) -> Boxes with score >= confidence, best first."""
    rows = [] if boxes is None or isinstance(boxes, float) else [numpy.asarray(box, dtype=float) for box in boxes]
    xyxy = numpy.stack(rows) if rows else numpy.zeros((0, 4))
    count = len(xyxy)
    labels = numpy.zeros(count, int) if labels is None else numpy.asarray(labels, dtype=int)
    scores = numpy.full(count, numpy.nan) if scores is None else numpy.asarray(scores, dtype=float)
    keep = numpy.isfinite(xyxy).all(axis=1) & (numpy.isnan(scores) | (scores >= confidence))
    order = numpy.argsort(-numpy.nan_to_num(scores[keep]), kind="stable")
    return Boxes(xyxy[keep][order], labels[keep][order], scores[keep][order])


def matched_ious(truth: Boxes, predicted: Boxes) -> numpy.ndarray:
    """IoU of each prediction that found a true box of its class, matched as the detection evaluator does."""
    found = matching.match(_flat(predicted), _flat(truth), numpy.array([MATCH]))
    hit = found.tp[:, 0]
    return matching.overlaps(found.detections.box[hit], truth.xyxy[found.truth[hit, 0]])


def _flat(boxes: Boxes) -> matching.Boxes:
    count = len(boxes.xyxy)
    return matching.Boxes(numpy.zeros(count, int), boxes.xyxy, boxes.labels, numpy.nan_to_num(boxes.scores, nan=1.0))
