"""Truth and prediction on an image: as SVG over a small inline picture (page) or drawn into it (trackers)."""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

from markupsafe import Markup, escape
from PIL import Image, ImageDraw

from clarion.report.cases import Boxes, Case

logger = logging.getLogger(__name__)

THUMBNAIL = 640  # pixels of the longer side: sharp at the page's widest column, ~40 kB each
LARGEST = 40_000_000  # pixels of an image that is opened at all
TRUTH, PREDICTION = (26, 188, 120), (255, 140, 0)  # RGB in drawn pictures; the page has its own in CSS


def thumbnail(path: Path) -> tuple[Image.Image, float] | None:
    """A grey or RGB copy at most 640 px long, and its scale; None (with a warning) when it cannot be read."""
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
    scale = min(1.0, THUMBNAIL / max(picture.size))
    if scale < 1:
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    return picture, scale


def overlay_svg(case: Case, path: Path) -> Markup | None:
    """The image with truth (dashed) and predictions (solid); None when the image cannot be read."""
    loaded = thumbnail(path)
    if loaded is None:
        return None
    picture, scale = loaded
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    width, height = picture.size
    parts = [f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>']
    for kind, boxes in (("predicted", case.predicted), ("truth", case.truth)):
        for x1, y1, x2, y2, title in _rectangles(boxes, kind, scale):
            shape = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
            parts.append(
                f'<rect class="halo" {shape}/><rect class="box {kind}" {shape}><title>{escape(title)}</title></rect>'
            )
    label = f"Sample {case.sample_id}: {case.note}"
    return Markup(
        f'<svg class="overlay" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def overlay_picture(case: Case, path: Path) -> Image.Image | None:
    """The same drawn into pixels, for a tracker."""
    loaded = thumbnail(path)
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
    return picture


def _rectangles(boxes: Boxes | None, kind: str, scale: float):
    if boxes is None:
        return
    for box, score in zip(boxes.xyxy, boxes.scores, strict=True):
        x1, y1, x2, y2 = (float(v) * scale for v in box)
        title = "truth" if kind == "truth" else f"prediction, score {score:.2f}"
        yield min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), title


def _dashed(draw: ImageDraw.ImageDraw, start, end, dash: float = 8, gap: float = 5) -> None:
    (x1, y1), (x2, y2) = start, end
    length = max(abs(x2 - x1), abs(y2 - y1), 1e-9)  # lines are horizontal or vertical
    along = 0.0
    while along < length:
        until = min(along + dash, length)
        ends = [(x1 + (x2 - x1) * t / length, y1 + (y2 - y1) * t / length) for t in (along, until)]
        draw.line(ends, fill=TRUTH, width=2)
        along += dash + gap
