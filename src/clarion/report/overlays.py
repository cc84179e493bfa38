"""Truth and prediction on an image: as SVG over a small inline picture (page) or drawn into it (trackers)."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy
from markupsafe import Markup, escape
from PIL import Image, ImageDraw

from clarion.report.cases import Boxes, Case

logger = logging.getLogger(__name__)

THUMBNAIL = 640  # pixels of the longer side: sharp at the page's widest column, ~40 kB each
LARGEST = 40_000_000  # pixels of an image that is opened at all
TRUTH, PREDICTION = (26, 188, 120), (255, 140, 0)  # RGB in drawn pictures; the page has its own in CSS
POINTS = 160  # of a drawn surface: one every four pixels of a thumbnail
STRIP = (420, 118)  # width and height of a presence strip that has no picture


def thumbnail(path: Path, longest: int = THUMBNAIL) -> tuple[Image.Image, float] | None:
    """A grey or RGB copy with no side above `longest`, and its scale; None (with a warning) when it cannot be read."""
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            if width * height > LARGEST:
                raise ValueError(f"{width} x {height} pixels is too large for a page")
            if opened.mode.startswith("I"):  # 16 bits: shown by its own range
                low, high = opened.getextrema()
                picture = opened.point(lambda v: (v - low) * (255.0 / max(high - low, 1))).convert("L")
            else:
                picture = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    except Exception as error:  # PIL's errors have no common base
        logger.warning("%s is not drawn on the page: %s", path.name, error)
        return None
    scale = min(1.0, longest / max(picture.size))
    if scale < 1:
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    return picture, scale


def overlay_svg(case: Case, path: Path | None, longest: int = THUMBNAIL) -> Markup | None:
    """The image with truth (dashed) and predictions (solid); None when there is none that can be read.

    Presence along the scan line needs no image: without one it is a chart of its own."""
    loaded = thumbnail(path, longest) if path else None
    label = escape(f"Sample {case.sample_id}: {case.note}")
    if loaded is None:
        if case.presence is None:
            return None
        width, height = STRIP
        parts = [f'<rect class="night" x="0" y="0" width="{width}" height="{height}"/>', *_strip(case, width, height)]
        return _drawing(width, height, label, parts)
    picture, scale = loaded
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82 if longest >= 400 else 70)
    data = base64.b64encode(buffer.getvalue()).decode()
    width, height = picture.size
    parts = [f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>']
    for kind, boxes in (("predicted", case.predicted), ("truth", case.truth)):
        for x1, y1, x2, y2, title in _rectangles(boxes, kind, scale):
            shape = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
            parts.append(
                f'<rect class="halo" {shape}/><rect class="box {kind}" {shape}><title>{escape(title)}</title></rect>'
            )
    for kind, points in _surfaces(case, scale):
        parts.append(f'<polyline class="box thin {kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
    if case.presence is not None:
        parts += _strip(case, width, height, tall=False)
    return _drawing(width, height, label, parts)


def _drawing(width: float, height: float, label: str, parts: list[str]) -> Markup:
    return Markup(
        f'<svg class="overlay" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def overlay_picture(case: Case, path: Path | None) -> Image.Image | None:
    """The same drawn into pixels, for a tracker."""
    loaded = thumbnail(path) if path else None
    if loaded is None:
        return None
    picture, scale = loaded
    picture = picture.convert("RGB")
    draw = ImageDraw.Draw(picture)
    for x1, y1, x2, y2, _ in _rectangles(case.predicted, "predicted", scale):
        draw.rectangle((x1, y1, x2, y2), outline=PREDICTION, width=2)
    for x1, y1, x2, y2, _ in _rectangles(case.truth, "truth", scale):
        for line in (((x1, y1), (x2, y1)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2)), ((x2, y1), (x2, y2))):
            _dashed(draw, *line)
    for kind, points in _surfaces(case, scale):
        pieces = [points] if kind == "predicted" else [points[k : k + 3] for k in range(0, len(points) - 1, 4)]
        for piece in pieces:
            draw.line(piece, fill=PREDICTION if kind == "predicted" else TRUTH, width=1)
    return picture


def _rectangles(boxes: Boxes | None, kind: str, scale: float):
    if boxes is None:
        return
    for box, score in zip(boxes.xyxy, boxes.scores, strict=True):
        x1, y1, x2, y2 = (float(v) * scale for v in box)
        title = "truth" if kind == "truth" else f"prediction, score {score:.2f}"
        yield min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), title


def _surfaces(case: Case, scale: float) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """(truth | predicted, points) of every stretch of a surface, predictions first; gaps end a stretch."""
    if case.surfaces is None:
        return
    true, guess = case.surfaces
    for kind, rows in (("predicted", guess), ("truth", true)):
        at = numpy.unique(numpy.linspace(0, rows.shape[1] - 1, POINTS).round().astype(int))
        for row in rows:
            for stretch in _stretches(numpy.isfinite(row[at])):
                points = [((float(at[k]) + 0.5) * scale, (float(row[at[k]]) + 0.5) * scale) for k in stretch]
                if len(points) > 1:
                    yield kind, points


def _stretches(finite: numpy.ndarray) -> list[range]:
    edges = numpy.flatnonzero(numpy.diff(numpy.r_[0, finite.astype(int), 0]))
    return [range(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _strip(case: Case, width: float, height: float, tall: bool = True) -> list[str]:
    """Truth as a bar and probability as a curve above it, over the width of the scan; low in a picture, else alone."""
    true, said = case.presence
    bar, room = (12.0, height - 18) if tall else (0.03 * height, 0.25 * height)
    foot = height - bar - 2
    step = width / len(true)
    parts = []
    for stretch in _stretches(numpy.nan_to_num(true) >= 0.5):
        x, long = stretch.start * step, len(stretch) * step
        told = f"<title>truth: membrane at A-scans {stretch.start} to {stretch.stop - 1}</title>"
        parts.append(f'<rect class="bar-truth" x="{x:.1f}" y="{foot + 2:.1f}" width="{long:.1f}" height="{bar:.1f}">')
        parts.append(f"{told}</rect>")
    at = numpy.unique(numpy.linspace(0, len(said) - 1, 2 * POINTS).round().astype(int))
    for stretch in _stretches(numpy.isfinite(said[at])):
        points = " ".join(f"{(at[k] + 0.5) * step:.1f},{foot - room * float(said[at[k]]):.1f}" for k in stretch)
        parts.append(f'<polyline class="box predicted" points="{points}"/>')
    return parts


def _dashed(draw: ImageDraw.ImageDraw, start, end, dash: float = 8, gap: float = 5) -> None:
    (x1, y1), (x2, y2) = start, end
    length = max(abs(x2 - x1), abs(y2 - y1), 1e-9)  # lines are horizontal or vertical
    along = 0.0
    while along < length:
        until = min(along + dash, length)
        ends = [(x1 + (x2 - x1) * t / length, y1 + (y2 - y1) * t / length) for t in (along, until)]
        draw.line(ends, fill=TRUTH, width=2)
        along += dash + gap
