"""Which detection finds which true box: greedy matching, vectorised over images.

Two conventions are in use, and published numbers come from both. They differ in how IoU is rounded, in which of two
equally good true boxes is taken, and in how many detections of an image count:
  ultralytics 8.4: IoU in float32 with 1e-7 in the denominator, the first true box on a tie, all detections;
  COCO (pycocotools 2.0.11): IoU in float64, the last true box on a tie, the 100 best of an image and class.
Both go through the detections by falling score and give each the unclaimed true box of its class that it overlaps most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from clarion.errors import DataError

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
CELLS_AT_ONCE = 4_000_000  # IoU values held at a time


@dataclass(frozen=True)
class Convention:
    name: str
    dtype: type
    eps: float
    last_on_tie: bool
    max_detections: int | None


ULTRALYTICS = Convention("ultralytics", np.float32, 1e-7, last_on_tie=False, max_detections=None)
COCO = Convention("coco", np.float64, 0.0, last_on_tie=True, max_detections=100)


@dataclass(frozen=True)
class Boxes:
    """All boxes of a table, flat. image [N] int: row of the table; box [N, 4] xyxy px; label [N] int;
    score [N] (ones for true boxes)."""

    image: np.ndarray
    box: np.ndarray
    label: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def take(self, index: np.ndarray) -> Boxes:
        return Boxes(self.image[index], self.box[index], self.label[index], self.score[index])


def flatten(table: pd.DataFrame, scored: bool) -> Boxes:
    """Columns boxes, labels (and scores) of a table -> Boxes in the order of its rows.

    Raises DataError naming the sample whose lists differ in length, hold non-finite numbers, or boxes turned over.
    """
    counts, boxes, labels, scores = [], [], [], []
    rows = zip(table["sample_id"], table["boxes"], table["labels"], table["scores"] if scored else table["labels"])
    for sample_id, box, label, score in rows:
        try:
            # A table read back from parquet holds arrays of arrays, which only stack understands.
            box = np.stack(box).astype(np.float64) if len(box) else np.empty((0, 4))
            label, score = np.asarray(label, dtype=np.float64), np.asarray(score, dtype=np.float64)
            sound = box.ndim == 2 and box.shape[1] == 4 and len(box) == len(label) == len(score)
        except (TypeError, ValueError):
            sound = False
        if not sound:
            what = "boxes, scores and labels" if scored else "boxes and labels"
            raise DataError(f"Sample {sample_id}: {what} must be lists of one length, each box [x1, y1, x2, y2].")
        counts.append(len(box))
        if len(box):
            boxes.append(box)
            labels.append(label)
            scores.append(score)
    image = np.repeat(np.arange(len(counts)), counts)
    if not boxes:
        return Boxes(image, np.empty((0, 4)), np.empty(0, np.intp), np.empty(0))
    box, label, score = np.concatenate(boxes), np.concatenate(labels), np.concatenate(scores)
    wrong = ~np.isfinite(box).all(1) | (box[:, 2:] < box[:, :2]).any(1) | (label % 1 != 0) | (label < 0)
    wrong |= ~np.isfinite(score) if scored else False
    if wrong.any():
        sample_id = table["sample_id"].iloc[image[np.argmax(wrong)]]
        raise DataError(
            f"Sample {sample_id}: {int(wrong.sum())} box(es) with a number that is not finite, x2 < x1, y2 < y1 "
            "or a label that is no class index (0, 1, ..): write boxes as [x1, y1, x2, y2] in pixels."
        )
    return Boxes(image, box, label.astype(np.intp), score if scored else np.ones(len(box)))


@dataclass(frozen=True)
class Matches:
    """detections: by falling score (stable: equal scores keep the order of the table); tp [N, T] bool per
    threshold; truth [N, T] int: row of the true box found, -1 none."""

    detections: Boxes
    tp: np.ndarray
    truth: np.ndarray


def match(
    detections: Boxes,
    truth: Boxes,
    thresholds: np.ndarray = IOU_THRESHOLDS,
    convention: Convention = ULTRALYTICS,
    any_class: bool = False,
) -> Matches:
    """Greedy one-to-one matching at every threshold. any_class: a box of another class may be claimed too
    (confusion matrix); otherwise classes are matched apart."""
    found = detections.take(np.argsort(-detections.score, kind="stable"))
    group_of = _groups(found, truth, any_class)
    if convention.max_detections is not None:
        found, group_of = _limit(found, group_of, convention.max_detections)
    group, true_group, n_groups = group_of
    limits = np.asarray(thresholds, dtype=convention.dtype)
    if convention is COCO:
        limits = np.minimum(limits, 1 - 1e-10)
    matched = np.full((len(found), len(limits)), -1, dtype=np.intp)
    if len(found) and len(truth):
        # Groups of similar size share a padded block, so a crowded image does not inflate the others.
        n_true = np.bincount(true_group, minlength=n_groups)
        n_found = np.bincount(group, minlength=n_groups)
        both = np.flatnonzero((n_true > 0) & (n_found > 0))
        both = both[np.argsort(n_true[both] * n_found[both], kind="stable")[::-1]]
        while len(both):
            cells = n_true[both].max() * n_found[both].max()
            block, both = np.split(both, [max(1, CELLS_AT_ONCE // int(cells))])
            _match_block(block, found.box, group, truth.box, true_group, n_groups, limits, convention, matched)
    return Matches(found, matched >= 0, matched)


def _groups(found: Boxes, truth: Boxes, any_class: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Group number (image, or image and class) of every detection and true box: only these can meet."""
    n_labels = 1 if any_class else int(max(found.label.max(initial=0), truth.label.max(initial=0))) + 1
    key = [b.image * n_labels + (0 if any_class else b.label) for b in (found, truth)]
    names, group = np.unique(np.concatenate(key), return_inverse=True)
    return group[: len(found)], group[len(found) :], len(names)


def _limit(found: Boxes, groups: tuple, most: int) -> tuple[Boxes, tuple]:
    keep = np.flatnonzero(_rank(groups[0]) < most)
    return found.take(keep), (groups[0][keep], *groups[1:])


def _rank(group: np.ndarray) -> np.ndarray:
    """Position of each element among those of its group, 0-based, in the given order."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)[group[order]] if len(group) else group
    starts = np.concatenate([[0], np.cumsum(np.bincount(group))])[group[order]] if len(group) else sizes
    rank = np.empty(len(group), dtype=np.intp)
    rank[order] = np.arange(len(group)) - starts
    return rank


def _match_block(block, box, group, true_box, true_group, n_groups, limits, convention, matched) -> None:
    """Match the groups of `block`, writing into matched [N, T]. Images go in parallel, detections one rank at a time,
    because a detection's choice depends on what the better-scored ones of its image have claimed."""
    row = np.full(n_groups, -1, dtype=np.intp)
    row[block] = np.arange(len(block))
    det, det_row = _members(group, row)
    tru, tru_row = _members(true_group, row)
    slots = _padded(tru, tru_row, len(block))  # [rows, G] truth index, -1 padding
    real = slots >= 0
    iou = overlaps(box[det][:, None, :], true_box[slots[det_row]], convention)  # [n, G]
    iou = np.where(real[det_row], iou, -1)
    # A detection that reaches no true box at the lowest threshold claims nothing at any: leave it out.
    near = iou.max(axis=1) >= limits.min()
    det, det_row, iou = det[near], det_row[near], iou[near]
    free = np.repeat(real[:, :, None], len(limits), axis=2)
    if convention.last_on_tie:
        slots, free, iou = slots[:, ::-1], free[:, ::-1], iou[:, ::-1]
    rank = _rank(det_row)
    by_rank = np.split(np.argsort(rank, kind="stable"), np.cumsum(np.bincount(rank))[:-1]) if len(rank) else []
    steps = np.arange(len(limits))
    for now in by_rank:
        rows = det_row[now]
        open_iou = np.where(free[rows], iou[now][:, :, None], -1)  # [m, G, T]
        best = open_iou.argmax(axis=1)  # [m, T]
        value = np.take_along_axis(open_iou, best[:, None, :], axis=1)[:, 0]
        hit, level = np.nonzero(value >= limits)
        taken = best[hit, level]
        matched[det[now[hit]], steps[level]] = slots[rows[hit], taken]
        free[rows[hit], taken, level] = False


def _members(group: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    index = np.flatnonzero(row[group] >= 0)
    return index, row[group[index]]


def _padded(index: np.ndarray, rows: np.ndarray, n_rows: int) -> np.ndarray:
    """Lists of different length -> [n_rows, longest], -1 where a row has no more."""
    rank = _rank(rows)
    table = np.full((n_rows, int(rank.max()) + 1), -1, dtype=np.intp)
    table[rows, rank] = index
    return table


def overlaps(a: np.ndarray, b: np.ndarray, convention: Convention = ULTRALYTICS) -> np.ndarray:
    """Intersection over union of boxes [..., 4] xyxy, broadcast against each other; 0 for boxes without area."""
    a, b = a.astype(convention.dtype), b.astype(convention.dtype)
    size = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    shared = size[..., 0] * size[..., 1]
    area_a, area_b = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
    union = area_a + area_b - shared + convention.dtype(convention.eps)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
