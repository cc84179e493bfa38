"""Pixels for the study's page: arrays as small data URIs, maps through perceptually uniform colours."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
from PIL import Image

SEQUENTIAL, DIVERGING = "viridis", "coolwarm"
MEMBRANE = (255, 150, 30)  # the colour of the membrane all over the page


def webp(image: np.ndarray, longest: int = 900, quality: int = 80) -> str:
    """A grey or RGB picture (uint8) as a lossy data URI, its longer side at most `longest` px."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    scale = longest / max(picture.size)
    if scale < 1:
        picture = picture.resize([max(1, round(s * scale)) for s in picture.size], Image.Resampling.LANCZOS)
    return _uri(picture, "WEBP", quality=quality, method=4)


def png(image: np.ndarray) -> str:
    """An RGBA or grey picture (uint8) as a lossless data URI."""
    return _uri(Image.fromarray(np.ascontiguousarray(image)), "PNG", optimize=True)


def coloured(values: np.ndarray, low: float, high: float, name: str = SEQUENTIAL) -> np.ndarray:
    """RGBA uint8 [rows, columns, 4] of a map between low and high; where it is NaN, transparent."""
    shares = np.clip((np.asarray(values, float) - low) / max(high - low, 1e-9), 0, 1)
    rgba = (matplotlib.colormaps[name](np.nan_to_num(shares)) * 255).round().astype(np.uint8)
    rgba[..., 3] = np.where(np.isfinite(values), 255, 0)
    return rgba


def tint(probability: np.ndarray, strongest: float = 0.5) -> np.ndarray:
    """RGBA uint8 of the membrane's colour, as opaque as it is probable; nothing where NaN or near 0."""
    shares = np.nan_to_num(np.clip(probability, 0, 1))
    rgba = np.zeros((*shares.shape, 4), np.uint8)
    rgba[..., :3] = MEMBRANE
    rgba[..., 3] = np.where(shares < 0.05, 0, shares * strongest * 255).round()
    return rgba


def bar(name: str = SEQUENTIAL, steps: int = 128) -> str:
    """A colour bar from low (left) to high, one pixel high, to be stretched."""
    return png(coloured(np.linspace(0, 1, steps)[None], 0, 1, name))


def round_range(values: np.ndarray, step: float) -> tuple[float, float] | None:
    """The 2nd to 98th percentile widened to a multiple of 4 steps, so that five ticks are round. None: no value."""
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    low, high = np.percentile(known, (2, 98))
    low = np.floor(low / step) * step
    return float(low), float(low + 4 * step * max(np.ceil((high - low) / (4 * step)), 1))


def _uri(picture: Image.Image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
