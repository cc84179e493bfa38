"""HEYEX screen export -> Volume: pictures with the infrared image on the left and a B-scan on the right.

Nothing but pixels tells the geometry. The burnt-in lines give each B-scan its place, the arrow its course; the
infrared image spans 30 degrees, nominally 8.99 mm, and the 200 um bars confirm or refuse that. Horizontal and
vertical lines are two acquisitions: where their infrared images are shifted, the vertical lines are moved back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ImageFile

from clarion.errors import DataError
from clarion.oct import heyex
from clarion.oct.volume import Flag, Localiser, Volume

from . import burnt_in
from .common import (
    AXIAL_UM,
    MM_PER_DEGREE,
    SPACING_HELP,
    Asked,
    check_size,
    common_flags,
    pseudonym,
    read_bytes,
    rescale,
    scan_from,
    settle_laterality,
    study_id,
)

MAX_PICTURES = 2000
FIELD_DEGREES = 30
BAR_UM = 200.0
_EYE = re.compile(r"(?<![A-Za-z])(OD|OS)(?![A-Za-z])")
_WORDS = {"H": "horizontal", "V": "vertical"}


@dataclass
class _Picture:
    """One exported picture, decoded once."""

    path: Path
    number: int
    digest: bytes
    infrared: np.ndarray
    bscan: np.ndarray


@dataclass
class _Direction:
    """What the infrared pictures of one direction show. places: per picture (line's row, runs to the far end)."""

    lines: burnt_in.Lines
    places: list[tuple[float, bool]]
    clean: np.ndarray


def read(path: Path, asked: Asked) -> Volume:
    """The Volume of one eye's export. DataError for several eyes, damaged pictures, missing lines or unknown scale."""
    scans, flags = _find(path)
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # others set it globally
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            pictures = list(pool.map(lambda s: _load(s.path, s.line), scans))
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant
    groups: dict[str, list[_Picture]] = {}
    for scan, picture in zip(scans, pictures, strict=True):
        groups.setdefault(scan.direction, []).append(picture)
    _same_layout(pictures)

    infrared, bscan = pictures[0].infrared, pictures[0].bscan
    height, width = infrared.shape
    found = {d: _locate(members, d, flags, asked) for d, members in groups.items()}
    shift = _align(found, FIELD_DEGREES * MM_PER_DEGREE / width, flags)
    image = _localiser_image(found, shift)
    eye, eye_flags = settle_laterality([*_eyes_in_names(path, scans)], asked.laterality)
    if eye_flags == [] and asked.laterality is None:
        flags.append(Flag("laterality_from_name", f"{eye} is read from the names of the files: check that it is so."))

    first = next(iter(found.values())).lines
    scale = _scale(pictures, (first.last - first.first) / bscan.shape[1], asked, flags)
    built = []
    for direction, members in groups.items():
        lines = found[direction].lines
        dx, dy = shift if direction == "V" else (0.0, 0.0)
        for picture, (at, forward) in zip(members, found[direction].places, strict=True):
            along = (lines.first, lines.last) if forward else (lines.last, lines.first)
            ends = [(c, at) if direction == "H" else (at, c) for c in along]
            start, end = (((x - dx - width / 2) * scale.mm_per_px, (y - dy - height / 2) * scale.mm_per_px)
                          for x, y in ends)  # fmt: skip
            built.append(scan_from(without_bar(picture.bscan), picture.number, start, end))
    study = study_id(*sorted(p.digest for p in pictures))
    volume = Volume(
        scans=tuple(built),
        axial_um=scale.axial_um,
        laterality=eye,
        patient_id=pseudonym(None, study),
        study_id=study,
        device="Heidelberg Spectralis (screen export)",
        source="heyex_screen",
        data_kind=asked.data_kind,
        localiser=Localiser(
            image, (scale.mm_per_px,) * 2, (-width / 2 * scale.mm_per_px, -height / 2 * scale.mm_per_px)
        ),
        scale_from=scale.source,
        flags=(*flags, *eye_flags),
    )
    if asked.spacing is not None:
        volume = rescale(volume, asked.spacing)
    return volume.flagged(*common_flags(volume))


def _find(path: Path) -> tuple[list[heyex.ExportedScan], list[Flag]]:
    """The pictures that are scans of one eye, and what was left out."""
    root = path if path.is_dir() else path.parent
    pictures = [p for p in (path.rglob("*") if path.is_dir() else [path]) if heyex.is_picture(p)]
    if len(pictures) > MAX_PICTURES:
        raise DataError(f"The folder holds {len(pictures)} pictures, too many for one eye: give one eye's folder.")
    if any(not p.resolve().is_relative_to(root.resolve()) for p in pictures):
        raise DataError("The folder holds links to pictures outside it: copy them into it.")
    scans = heyex.read_export(path)
    by_eye: dict[str, list[heyex.ExportedScan]] = {}
    for scan in scans:
        by_eye.setdefault(scan.patient_id, []).append(scan)
    if len(by_eye) > 1:
        listed = "; ".join(
            f"eye {k}: {', '.join(f'{n} {_WORDS[d]}' for d in 'HV' if (n := sum(s.direction == d for s in eye)))}"
            for k, eye in enumerate(by_eye.values(), 1)
        )
        raise DataError(
            f"The folder holds {len(by_eye)} eyes, in the order of their folders' names: {listed}. Give one of them."
        )
    left_out = len(pictures) - len(scans)
    flags = []
    if left_out:
        message = (
            f"{left_out} pictures are no scans (thickness maps and others) and were left out: thickness is measured "
            "from the B-scans."
        )
        flags.append(Flag("pictures_left_out", message))
    return scans, flags


def _load(path: Path, number: int) -> _Picture:
    content = read_bytes(path)
    picture = heyex.decode_picture(content, path)
    try:
        seam = heyex.find_seam(picture, path.name)
    except DataError as error:
        error.recorded = "A picture is no HEYEX screen export with an infrared picture and a B-scan."
        raise
    check_size(path, 1, picture.shape[0], picture.shape[1] - seam)
    return _Picture(path, number, content, picture[:, :seam], np.ascontiguousarray(picture[:, seam:]))


def _same_layout(pictures: Sequence[_Picture]) -> None:
    shapes = {(p.infrared.shape, p.bscan.shape) for p in pictures}
    if len(shapes) > 1:
        sizes = ", ".join(sorted({f"{p.infrared.shape[1] + p.bscan.shape[1]}x{p.bscan.shape[0]}" for p in pictures}))
        raise DataError(f"The pictures differ in size or layout ({sizes}): export all of one eye in the same way.")


def _eyes_in_names(path: Path, scans: Sequence[heyex.ExportedScan]) -> set[str]:
    """OD and OS as words of the names of files, their folders and the folder given."""
    root = path if path.is_dir() else path.parent
    names = {root.name} | {part for s in scans for part in s.path.relative_to(root).with_suffix("").parts}
    return {match[1] for name in names for match in [_EYE.search(name)] if match}


def _locate(pictures: list[_Picture], direction: str, flags: list[Flag], asked: Asked) -> _Direction:
    """Each picture's line from the burnt-in lines and arrows of its direction."""
    stack = np.stack([p.infrared for p in pictures])
    median = np.median(stack[:: max(1, len(stack) // 25)], axis=0).astype(np.uint8) if len(stack) > 2 else stack[0]
    lines = burnt_in.find_lines(median, direction)
    if lines is not None and len(lines.at) >= len(pictures):
        under = median if len(pictures) > 2 else None
        arrows = [burnt_in.find_arrow(p.infrared, lines, direction, under) for p in pictures]
        places = _places(pictures, lines, arrows, direction, flags)
    else:
        lines, places = _single_lines(pictures, direction, flags, asked)
    clean = burnt_in.paint_out_labels(burnt_in.paint_out(median, lines, direction))
    return _Direction(lines, places, clean)


def _places(
    pictures: list[_Picture],
    lines: burnt_in.Lines,
    arrows: list[burnt_in.Arrow | None],
    direction: str,
    flags: list[Flag],
) -> list[tuple[float, bool]]:
    """Row and course per picture. Where an arrow is hidden, the export's numbers tell: 0 is the lowest, rightmost."""
    seen = [a for a in arrows if a is not None]
    forward = sum(a.at_end for a in seen) * 2 > len(seen) if seen else direction == "H"
    offsets = [a.line + p.number for a, p in zip(arrows, pictures) if a is not None]
    top = round(float(np.median(offsets))) if offsets else len(lines.at) - 1
    if len(seen) < len(pictures):
        message = (
            f"In {len(pictures) - len(seen)} of {len(pictures)} {_WORDS[direction]} pictures no arrow was found; their "
            "lines are placed by their numbers (0 is the lowest horizontal and the rightmost vertical line)."
        )
        flags.append(Flag("arrow_missing", message))
    chosen = [top - p.number if a is None else a.line for a, p in zip(arrows, pictures)]
    if len(set(chosen)) < len(chosen) or min(chosen) < 0 or max(chosen) >= len(lines.at):
        raise DataError(
            f"The {_WORDS[direction]} pictures do not fit the {len(lines.at)} lines in their infrared picture (the "
            "same line twice, or numbers beyond the last line): export one scan of one eye again."
        )
    return [(float(lines.at[k]), forward) for k in chosen]


def _single_lines(
    pictures: list[_Picture], direction: str, flags: list[Flag], asked: Asked
) -> tuple[burnt_in.Lines, list[tuple[float, bool]]]:
    """Places where each picture shows only its own line; without any line, from the distance that the user gives."""
    forward = direction == "H"
    own = [burnt_in.find_lines(p.infrared, direction) for p in pictures]
    if all(lines is not None and len(lines.at) == 1 for lines in own):
        at = np.array([lines.at[0] for lines in own])
        arrows = [burnt_in.find_arrow(p.infrared, lines, direction) for p, lines in zip(pictures, own)]
        seen = [a.at_end for a in arrows if a is not None]
        forward = sum(seen) * 2 > len(seen) if seen else forward
        lines = burnt_in.Lines(np.sort(at), min(o.first for o in own), max(o.last for o in own))
        return lines, [(float(y), forward) for y in at]
    other = "V" if direction == "H" else "H"
    across = burnt_in.find_lines(pictures[0].infrared, other)
    if across is not None and len(across.at) >= 3:
        raise DataError(
            f"Pictures named as {_WORDS[direction]} scans show {_WORDS[other]} lines: rename them, or export again."
        )
    if asked.spacing is None or asked.spacing.line_um is None:
        raise DataError(
            f"The scan lines of the {_WORDS[direction]} pictures cannot be found in their infrared pictures: export "
            "with lines shown, or give their distance with --spacing AXIAL,LATERAL,LINE in um."
        )
    shape = pictures[0].infrared.shape if direction == "H" else pictures[0].infrared.shape[::-1]
    # The infrared picture is as wide as a B-scan is long.
    pitch = asked.spacing.line_um / (asked.spacing.lateral_um * pictures[0].bscan.shape[1] / shape[1])
    numbers = np.array([p.number for p in pictures])
    at = shape[0] / 2 - (numbers - (numbers.max() + numbers.min()) / 2) * pitch
    message = f"No {_WORDS[direction]} lines are burnt in: they are placed around the picture's centre as given."
    flags.append(Flag("positions_given", message))
    return burnt_in.Lines(np.sort(at), 0.0, float(shape[1])), [(float(y), forward) for y in at]


def _align(found: dict[str, _Direction], mm_per_px: float, flags: list[Flag]) -> tuple[float, float]:
    """How far (px) the fundus lies right of and below its place in the horizontal lines' infrared picture."""
    if len(found) < 2:
        return 0.0, 0.0
    dx, dy, response = burnt_in.shift_between(found["H"].clean, found["V"].clean)
    size = found["H"].clean.shape[0]
    if response < 0.15 or np.hypot(dx, dy) > 0.15 * size:
        message = (
            "The infrared pictures of the horizontal and the vertical lines do not match: both directions are used "
            "as if the eye had not moved between them."
        )
        flags.append(Flag("directions_not_aligned", message))
        return 0.0, 0.0
    moved = float(np.hypot(dx, dy) * mm_per_px * 1000)
    if moved > 40:
        message = (
            f"Between the horizontal and the vertical lines the eye moved by {moved:.0f} um; the vertical lines were "
            "moved back by that."
        )
        flags.append(Flag("directions_aligned", message))
    return dx, dy


def _localiser_image(found: dict[str, _Direction], shift: tuple[float, float]) -> np.ndarray:
    """The infrared picture without what is burnt in; under the horizontal lines the other acquisition shows through."""
    if "H" not in found or "V" not in found:
        return next(iter(found.values())).clean
    base, other = found["H"].clean.astype(np.float32), found["V"].clean.astype(np.float32)
    move = np.float32([[1, 0, -shift[0]], [0, 1, -shift[1]]])
    other = cv2.warpAffine(other, move, other.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    level = cv2.GaussianBlur(base, (0, 0), 12) / np.maximum(cv2.GaussianBlur(other, (0, 0), 12), 1)
    scale = base.shape[0] / burnt_in.ROWS
    near = np.abs(np.arange(base.shape[0])[:, None] + 0.5 - found["H"].lines.at[None]).min(1) <= 2 * scale
    base[near] = (other * level)[near]
    return np.clip(base, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Scale:
    axial_um: float
    mm_per_px: float  # of the infrared picture
    source: str


def _scale(pictures: Sequence[_Picture], px_per_ascan: float, asked: Asked, flags: list[Flag]) -> _Scale:
    """Nominal scale if the bars agree with it, else the bars' own; without bars DataError unless the user gives one.

    px_per_ascan: columns of the infrared picture per A-scan. Bars are drawn in whole pixels, cut off at the end.
    """
    infrared, bscan = pictures[0].infrared, pictures[0].bscan
    per_px = FIELD_DEGREES * MM_PER_DEGREE / infrared.shape[1]
    lateral, axial = per_px * px_per_ascan * 1000, AXIAL_UM * burnt_in.ROWS / bscan.shape[0]
    bars = [bar for p in pictures[:3] if (bar := burnt_in.bar_px(p.bscan)) is not None]
    on_infrared = burnt_in.bar_px(infrared)
    if asked.spacing is not None:
        if bars and not (
            _agree(bars[0][0], asked.spacing.axial_um) and _agree(bars[0][1], asked.spacing.lateral_um)
        ):
            message = (
                f"The scale given differs from the {BAR_UM:g} um bars in the pictures (about "
                f"{BAR_UM / bars[0][0]:.2f} x {BAR_UM / bars[0][1]:.1f} um): check --spacing."
            )
            flags.append(Flag("spacing_contradicts_bar", message))
        return _Scale(axial, per_px, "nominal")
    if not bars:
        raise DataError(
            f"The scale is unknown: no {BAR_UM:g} um bar was found in the B-scans; export with it, or {SPACING_HELP}."
        )
    high, wide = bars[0]
    agree = _agree(high, axial) and _agree(wide, lateral)
    agree = agree and (on_infrared is None or _agree(on_infrared[1], per_px * 1000))
    across, deep = (f"{BAR_UM / (n + 1):.{k}f}-{BAR_UM / n:.{k}f} um" for n, k in ((wide, 1), (high, 2)))
    measured = f"{across} across, {deep} deep"
    if agree:
        message = (
            f"The scale is the nominal one of a Spectralis ({lateral:.2f} x {axial:.3f} um per pixel, {FIELD_DEGREES} "
            f"degrees = {FIELD_DEGREES * MM_PER_DEGREE:.2f} mm), which the {BAR_UM:g} um bars confirm to a pixel "
            f"({measured}); the eye's own may differ by some percent, areas by twice that."
        )
        flags.append(Flag("scale_nominal", message))
        return _Scale(axial, per_px, "nominal")
    message = (
        f"The scale comes from the {BAR_UM:g} um bars, drawn in whole pixels ({measured}), because they differ from "
        f"the nominal scale of a Spectralis: lengths are uncertain by {100 / wide:.0f} %."
    )
    flags.append(Flag("scale_from_bar", message))
    axial = axial if _agree(high, axial) else BAR_UM / (high + 0.5)
    return _Scale(axial, BAR_UM / (wide + 0.5) / 1000 / px_per_ascan, "scale bar")


def _agree(bar_px: int, um_per_px: float) -> bool:
    true = BAR_UM / um_per_px
    return true - max(2.0, 0.1 * true) <= bar_px <= true + max(1.0, 0.05 * true)


def without_bar(bscan: np.ndarray) -> np.ndarray:
    """The B-scan with the scale bar and its label painted out, so that no network takes them for tissue."""
    if burnt_in.bar_px(bscan) is None:
        return bscan
    height = bscan.shape[0]
    top, side = height - round(height * 0.13), round(height * 0.12)
    corner = bscan[top:, :side]
    mask = cv2.dilate((corner >= 150).astype(np.uint8), np.ones((5, 5), np.uint8))
    cleaned = bscan.copy()
    cleaned[top:, :side] = cv2.inpaint(corner, mask, 3, cv2.INPAINT_TELEA)
    return cleaned


