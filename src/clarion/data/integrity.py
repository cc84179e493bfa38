"""Checks before the first step (DESIGN rule 4): what must stop a run, and what its author should know.

Every finding carries two wordings. The one for the screen may name the user's own files, relative to
data.root: they are needed to mend them. The one that is recorded (`to_dict`, `DataError.recorded`) names
pseudonymous sample and patient ids only, because it reaches run directories, trackers and reports.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clarion.data.images import ImageFacts, inspect_images, near_duplicates
from clarion.data.splits import patients_in_two_splits
from clarion.errors import DataError

SHOWN = 10
MIN_SIDE = 10  # pixels; ultralytics refuses smaller images too

Names = Mapping[str, str]  # sample or patient id -> what the user calls it (a file below the root)


@dataclass(frozen=True)
class Finding:
    """code: a stable name; message: one sentence with the fix; total: how many; ids / local: the first ten,
    as recorded and as shown on the screen."""

    code: str
    message: str
    total: int
    ids: list[str]
    local: list[str]

    def __str__(self) -> str:
        return self.text(private=False)

    def text(self, private: bool) -> str:
        """One line; private=True: with the user's own names, for the screen only."""
        names = self.local if private else self.ids
        more = f", … and {self.total - len(names)} more" if self.total > len(names) else ""
        return f"{self.message} ({self.total}): {', '.join(names)}{more}" if names else f"{self.message} ({self.total})"


@dataclass
class IntegrityReport:
    """errors stop a run, warnings do not; counts: numbers by name."""

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.errors

    def error(self, code: str, message: str, items: Iterable[tuple[str, str]], total: int | None = None) -> None:
        """Add an error unless `items` is empty. items: (recorded wording, wording for the screen)."""
        self._add(self.errors, code, message, list(items), total)

    def warning(self, code: str, message: str, items: Iterable[tuple[str, str]], total: int | None = None) -> None:
        self._add(self.warnings, code, message, list(items), total)

    def _add(self, findings: list[Finding], code: str, message: str, items: list, total: int | None) -> None:
        if items or total:
            shown = items[:SHOWN]
            ids, local = [i for i, _ in shown], [name for _, name in shown]
            findings.append(Finding(code, message, total or len(items), ids, local))

    def text(self, private: bool = True) -> str:
        """Lines for the screen (private=True: with the user's file names) or for a record."""
        lines = [f"error [{f.code}] {f.text(private)}" for f in self.errors]
        return "\n".join(lines + [f"warning [{f.code}] {f.text(private)}" for f in self.warnings])

    def raise_if_bad(self) -> None:
        """DataError with all errors at once; its attribute `recorded` holds the wording without file names."""
        if self.ok:
            return

        def wording(private: bool) -> str:
            head = f"the data has {len(self.errors)} kind(s) of error:"
            return "\n  - ".join([head, *(f.text(private) for f in self.errors)])

        error = DataError(wording(private=True))
        error.recorded = wording(private=False)
        raise error

    def to_dict(self) -> dict[str, Any]:
        """For the manifest and the report: ids only, no file names."""

        def plain(findings: list[Finding]) -> list[dict]:
            return [{"code": f.code, "message": f.message, "total": f.total, "ids": f.ids} for f in findings]

        return {"errors": plain(self.errors), "warnings": plain(self.warnings), "counts": dict(self.counts)}


def _name(names: Names | None, key: str) -> str:
    return names.get(key, key) if names else key


def check_patients(
    report: IntegrityReport,
    splits: Mapping[str, Sequence[str]],
    patients: Mapping[str, str],
    names: Names | None = None,
) -> None:
    """The same patient, or the same sample, in two splits. patients: sample id -> patient id."""
    for split, ids in splits.items():
        report.counts[f"{split}_samples"] = len(ids)
        report.counts[f"{split}_patients"] = len({patients[i] for i in ids})
    shared = patients_in_two_splits(splits, patients)
    report.error(
        "patient_leak",
        "the same patient is in two splits; move all images of a patient to one split",
        [(f"{p} in {' and '.join(s)}", f"{_name(names, p)} in {' and '.join(s)}") for p, s in shared.items()],
    )
    places = Counter(i for ids in splits.values() for i in ids)
    report.error(
        "sample_repeated",
        "a sample id occurs more than once; give each image its own name",
        [(i, _name(names, i)) for i, n in places.items() if n > 1],
    )


def check_images(
    report: IntegrityReport,
    images: Mapping[str, Path],
    splits: Mapping[str, Sequence[str]],
    patients: Mapping[str, str],
    names: Names | None = None,
    declared: Mapping[str, tuple[int, int]] | None = None,
    workers: int | None = None,
) -> dict[str, ImageFacts]:
    """Missing, empty, unreadable, oversized and wrong-size images; duplicates and near-duplicates.

    images: sample id -> file; declared: sample id -> (width, height) where the labels state it.
    Returns the facts of every image, by sample id."""
    facts = inspect_images(images, workers)
    bad = [(i, f) for i, f in facts.items() if f.error]
    report.error(
        "image_unusable",
        "image files cannot be used; replace them or remove them together with their labels",
        [(f"{i} {f.error}", f"{_name(names, i)} {f.error}") for i, f in bad],
    )
    good = {i: f for i, f in facts.items() if not f.error}
    small = [(i, f) for i, f in good.items() if min(f.width, f.height) < MIN_SIDE]
    report.error(
        "image_too_small",
        f"images have fewer than {MIN_SIDE} pixels a side; remove them",
        [(f"{i} {f.width}x{f.height}", f"{_name(names, i)} {f.width}x{f.height}") for i, f in small],
    )
    wrong = []
    for i, (width, height) in (declared or {}).items():
        f = good.get(i)
        if f and (f.width, f.height) != (width, height):
            text = f"is {f.width}x{f.height}, its labels say {width}x{height}"
            wrong.append((f"{i} {text}", f"{_name(names, i)} {text}"))
    report.error("image_wrong_size", "images do not have the size that their labels state; export both again", wrong)
    broken = [(i, _name(names, i)) for i, f in good.items() if not f.whole]
    report.warning("jpeg_tail", "JPEG files decode but do not end with their end marker; training uses copies", broken)
    sizes = Counter((f.width, f.height) for f in good.values())
    if len(sizes) > 1:
        texts = [f"{n} x {w}x{h}" for (w, h), n in sizes.most_common()]
        report.warning("sizes_differ", "images come in several sizes", [(t, t) for t in texts])
    check_duplicates(report, good, splits, patients, names)
    return facts


def check_duplicates(
    report: IntegrityReport,
    facts: Mapping[str, ImageFacts],
    splits: Mapping[str, Sequence[str]],
    patients: Mapping[str, str],
    names: Names | None = None,
) -> None:
    """The same pixels twice: across splits an error, inside one a warning. Look-alikes: warnings, with pairs.

    Look-alikes of one patient in one split (neighbouring B-scans) are expected and only counted."""
    split_of = {i: split for split, ids in splits.items() for i in ids}
    rank = {split: k for k, split in enumerate(splits)}
    ids = sorted(facts, key=lambda i: (rank.get(split_of.get(i), len(rank)), _name(names, i)))

    def pair(a: str, b: str, note: str = "") -> tuple[str, str]:
        sa, sb = split_of.get(a, "-"), split_of.get(b, "-")
        place = f" ({sa} / {sb}{note})" if sa != sb else f" ({sa}{note})"
        return f"{a} = {b}{place}", f"{_name(names, a)} = {_name(names, b)}{place}"

    groups: dict[str, list[str]] = defaultdict(list)
    for i in ids:
        groups[facts[i].pixels].append(i)
    across, within = [], []
    for first, *copies in groups.values():  # sorted by split: a group in two splits has a copy outside first's
        for copy in copies:
            (across if split_of.get(first) != split_of.get(copy) else within).append(pair(first, copy))
    report.error("duplicate_across_splits", "the same image is in two splits; remove one of each pair", across)
    report.warning("duplicate", "the same image occurs twice in one split; it counts double", within)

    near_across, near_other, same_patient = [], [], 0
    for a, b, distance in near_duplicates([facts[i].dhash for i in ids]):
        a, b = ids[a], ids[b]
        if facts[a].pixels == facts[b].pixels:
            continue
        item = (*pair(a, b, f", {distance} of 256 bits differ"), distance)
        if split_of.get(a) != split_of.get(b):
            near_across.append(item)
        elif patients.get(a) != patients.get(b):
            near_other.append(item)
        else:
            same_patient += 1
    report.counts["near_duplicates_same_patient"] = same_patient
    for code, message, items in (
        ("near_duplicate_across_splits", "LOOK-ALIKES IN TWO SPLITS: check whether they show one eye", near_across),
        ("near_duplicate", "look-alikes of two patients in one split: check whether they are one patient", near_other),
    ):
        report.warning(code, message, [(i, n) for i, n, _ in sorted(items, key=lambda item: item[2])])


@dataclass
class Boxes:
    """Labels of one image. boxes: float [n, 4] x1 y1 x2 y2 in pixels; labels: int [n]; width, height: pixels;
    where: what names each box in an error ("line 3", "annotation 17")."""

    boxes: np.ndarray
    labels: np.ndarray
    width: int
    height: int
    where: list[str]


def check_boxes(
    report: IntegrityReport, annotations: Mapping[str, Boxes], classes: Sequence[str], names: Names | None = None
) -> None:
    """Classes out of range, NaN, boxes outside their image, boxes without area; doubled boxes are a warning.

    A box may stick out by one pixel (rounding in label tools) and is clipped there by the reader."""
    ids = [i for i, a in annotations.items() if len(a.boxes)]
    counts = [len(annotations[i].boxes) for i in ids]
    report.counts["boxes"] = int(sum(counts))
    report.counts["images_without_box"] = len(annotations) - len(ids)
    if not ids:
        return
    boxes = np.concatenate([annotations[i].boxes for i in ids])
    labels = np.concatenate([annotations[i].labels for i in ids])
    owner = np.repeat(np.arange(len(ids)), counts)
    place = [w for i in ids for w in annotations[i].where]
    size = np.array([[annotations[i].width, annotations[i].height] for i in ids], dtype=float)[owner]

    def listed(mask: np.ndarray, text) -> list[tuple[str, str]]:
        rows = np.flatnonzero(mask)
        items = [(ids[owner[r]], f" {place[r]}: {text(r)}") for r in rows]
        return [(i + note, _name(names, i) + note) for i, note in items]

    finite = np.isfinite(boxes).all(axis=1)
    report.error("box_nan", "boxes hold NaN or infinity; write their numbers again", listed(~finite, lambda r: "NaN"))
    known = (labels >= 0) & (labels < len(classes))
    report.error(
        "class_out_of_range",
        f"classes lie outside 0..{len(classes) - 1} ({', '.join(map(str, classes))}); correct them or the class names",
        listed(~known, lambda r: f"class {labels[r]}"),
    )
    safe = np.where(finite[:, None], boxes, 0.0)
    tolerance = 1.0
    sized = (size > 0).all(axis=1)  # an unreadable image has no size; it is an error of its own
    outside = finite & sized & ((safe[:, :2] < -tolerance) | (safe[:, 2:] > size + tolerance)).any(axis=1)

    def corners(r: int) -> str:
        return "[" + ", ".join(f"{v:.1f}" for v in boxes[r]) + f"] of {size[r, 0]:.0f}x{size[r, 1]:.0f}"

    report.error("box_outside", "boxes reach outside their image; clip or redraw them", listed(outside, corners))
    flat = finite & sized & ~outside & (safe[:, 2:] <= safe[:, :2]).any(axis=1)
    report.error("box_without_area", "boxes have no width or no height; remove or redraw them", listed(flat, corners))
    rows = np.column_stack([owner, labels, np.round(safe, 3)])
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    doubled = finite & (first[inverse.ravel()] != np.arange(len(rows)))
    report.warning("box_doubled", "the same box is written twice; one is kept", listed(doubled, corners))
