"""Stain normalisation: every slide as if it came from one laboratory.

Macenko et al. 2009, DOI 10.1109/ISBI.2009.5193250: in optical density the two stains span a plane; its extreme
directions are haematoxylin and eosin. A slide's stains are found once; then each tile is one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clarion.cancer.slides.files import slide_error
from clarion.cancer.slides.reader import Slide
from clarion.cancer.slides.tiles import Tiles, read_tiles
from clarion.errors import DataError

WHITE = 240.0  # grey level of glass
_LEAST = 0.15  # optical density (natural logarithm): below it is glass
_EXTREME = 1.0  # per cent of the angles beyond the stains' directions
_STRONGEST = 99.0  # per cent of the amounts below a stain's strongest
_MIN_PIXELS = 1_000


@dataclass(frozen=True)
class Stains:
    """matrix: float [3, 2] optical density (natural logarithm) of R, G, B for a unit of haematoxylin and of eosin, of
    length 1; strongest: float [2] the 99th percentile of their amounts."""

    matrix: np.ndarray
    strongest: np.ndarray


# The directions of Ruifrok and Johnston 2001 (haematoxylin and eosin), and amounts of a well stained section.
REFERENCE = Stains(
    np.stack([np.array([0.650, 0.704, 0.286]), np.array([0.072, 0.990, 0.105])], axis=1)
    / np.linalg.norm([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]], axis=1),
    np.array([1.9, 1.0]),
)


def optical_density(rgb: np.ndarray) -> np.ndarray:
    """Natural-logarithm density of uint8 RGB, float32, 0 for glass and whatever is brighter."""
    table = np.maximum(-np.log((np.arange(256, dtype=np.float32) + 1) / (WHITE + 1)), 0)
    return table[rgb]


def estimate(rgb: np.ndarray) -> Stains:
    """The stains of pixels uint8 [..., 3]. Raises DataError where they hold too little stain to tell two apart."""
    density = optical_density(rgb).reshape(-1, 3)
    stained = density[(density >= _LEAST).all(axis=1)].astype(np.float64)
    if len(stained) < _MIN_PIXELS:
        raise DataError(f"stains cannot be told from {len(stained)} stained pixels ({_MIN_PIXELS:,} needed).")
    values, vectors = np.linalg.eigh(np.cov(stained.T))
    if values[1] < 1e-6:
        raise DataError("stains cannot be told apart: the pixels hold one colour.")
    plane = vectors[:, [2, 1]]
    if plane[:, 0].sum() < 0:  # densities are positive: so is their main direction
        plane[:, 0] *= -1
    projected = stained @ plane
    angles = np.arctan2(projected[:, 1], projected[:, 0])
    extremes = np.percentile(angles, [_EXTREME, 100 - _EXTREME])
    directions = plane @ np.stack([np.cos(extremes), np.sin(extremes)])
    if directions[0, 0] < directions[0, 1]:  # haematoxylin absorbs red, eosin hardly does
        directions = directions[:, ::-1]
    matrix = np.maximum(directions, 0)
    matrix = matrix / np.linalg.norm(matrix, axis=0)
    amounts = stained @ np.linalg.pinv(matrix).T
    strongest = np.percentile(amounts, _STRONGEST, axis=0)
    if not (np.isfinite(matrix).all() and (strongest > 0).all()):
        raise DataError("stains cannot be told apart: one of the two is missing.")
    return Stains(matrix, strongest)


def estimate_slide(slide: Slide, tiles: Tiles, sample: int = 48, seed: int = 0) -> Stains:
    """The stains of a slide by up to `sample` of its tiles, drawn with `seed`."""
    chosen = np.random.default_rng(seed).permutation(len(tiles))[:sample]
    pixels = np.concatenate([b[:, ::2, ::2].reshape(-1, 3) for b in read_tiles(slide, tiles, np.sort(chosen))])
    try:
        return estimate(pixels)
    except DataError as error:
        raise slide_error(slide.path, f"cannot be normalised: {error}") from error


def normalise(rgb: np.ndarray, stains: Stains, target: Stains = REFERENCE) -> np.ndarray:
    """uint8 [..., 3]: the pixels with the target's stains in the slide's relative amounts."""
    scale = np.diag(target.strongest / stains.strongest)
    through = (target.matrix @ scale @ np.linalg.pinv(stains.matrix)).astype(np.float32)
    density = optical_density(rgb) @ through.T
    return np.clip((WHITE + 1) * np.exp(-density) - 1 + 0.5, 0, 255).astype(np.uint8)
