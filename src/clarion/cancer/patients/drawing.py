"""One synthetic slide from a recipe, and its file: a tiled pyramidal JPEG TIFF that states its resolution."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import tifffile

from clarion.cancer.patients import artefacts
from clarion.cancer.patients.staining import MPP, Stain, stain_amounts, to_light
from clarion.cancer.patients.tissue_map import CELL, Composition, draw_map

TILE = 256
LEVELS = (1, 4, 16)  # downsamples, as scanners write them
QUALITY = 85  # of the JPEG tiles


@dataclass(frozen=True)
class SlideRecipe:
    """What a slide shows. side: about its longer side in pixels; site_seed: the laboratory, whose stain it has;
    flaws: of pen, fold, blur; variation: of the stain between laboratories (0: all alike)."""

    seed: tuple[int, ...]
    composition: Composition = field(default_factory=Composition)
    side: int = 2048
    site_seed: tuple[int, ...] = (0,)
    flaws: tuple[str, ...] = ()
    variation: float = 1.0


def draw_slide(recipe: SlideRecipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image uint8 [h, w, 3], kinds uint8 [h/8, w/8], flaws uint8 [h/8, w/8] of bits). Same recipe, same slide."""
    rng = np.random.default_rng(list(recipe.seed))
    height, width = (max(int(recipe.side * s) // CELL, 24) for s in rng.permutation([1.0, rng.uniform(0.85, 1.0)]))
    kinds = draw_map(rng, height, width, recipe.composition)
    tissue, places = kinds > 0, np.zeros_like(kinds)
    h, e = stain_amounts(rng, kinds)
    if "fold" in recipe.flaws:
        artefacts.fold(rng, tissue, h, e, places)
    stain = Stain.of(np.random.default_rng(list(recipe.site_seed)), recipe.variation).again(rng)
    image = to_light(rng, h, e, stain)
    if "blur" in recipe.flaws:
        artefacts.blur(rng, tissue, image, places)
    if "pen" in recipe.flaws:
        artefacts.pen(rng, tissue, image, places)
    return image, kinds, places


def write_slide(path: Path, image: np.ndarray, mpp: float = MPP) -> None:
    """uint8 [h, w, 3] -> tiled TIFF, JPEG in YCbCr, one page a level, pixels per centimetre in the resolution tags
    (OpenSlide takes its mpp from them)."""
    per_cm = 1e4 / mpp
    with tifffile.TiffWriter(path) as file:
        for down in LEVELS:
            size = (image.shape[1] // down, image.shape[0] // down)
            level = image if down == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            file.write(
                level,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": QUALITY},
                resolution=(per_cm / down, per_cm / down),
                resolutionunit="CENTIMETER",
                subfiletype=0 if down == 1 else 1,
                metadata=None,
                software=False,
            )


def write_maps(path: Path, kinds: np.ndarray, flaws: np.ndarray) -> None:
    """PNG of two planes one below the other (kinds, then flaws), a pixel for CELL x CELL pixels of the slide."""
    ok, data = cv2.imencode(".png", np.vstack([kinds, flaws]))
    if not ok:
        raise RuntimeError("cv2 could not encode a tissue map")
    path.write_bytes(data.tobytes())


def read_maps(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What `write_maps` wrote: (kinds, flaws)."""
    both = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    return both[: len(both) // 2], both[len(both) // 2 :]
