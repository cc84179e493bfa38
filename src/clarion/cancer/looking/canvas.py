"""Maps of tiles laid out on their slide, as an array of cells and as pyramidal TIFF files that keep the scale."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import tifffile

from clarion.cancer.looking.maps import PatientMaps
from clarion.cancer.slides.reader import Slide, shrunk

TILE = 256
LONGEST = 16_384  # pixels of the largest level of a heatmap: a slide of 100,000 is shown at a sixth
SMALLEST = 512  # levels are halved down to here
MOST = 16_000_000  # pixels of a level read at once
SHOWN = 0.995  # the strongest half per cent of the cells share one colour


@dataclass(frozen=True)
class Canvas:
    """One map on one slide. values: float32 [rows, columns], NaN where no tile was; downsample: pixels of level 0 a
    cell; mpp: um a cell."""

    values: np.ndarray = field(repr=False)
    downsample: float
    mpp: float

    @property
    def peak(self) -> tuple[float, float]:
        """(x, y) in pixels of level 0: the middle of the cell of the largest |value|; of several equal cells (maps that
        are even over a tile) that nearest to their centre."""
        strength = np.nan_to_num(np.abs(self.values), nan=-1.0)
        equal = np.argwhere(strength == strength.max())
        row, column = equal[np.argmin(((equal - equal.mean(0)) ** 2).sum(1))]
        return (column + 0.5) * self.downsample, (row + 0.5) * self.downsample

    def centres(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(x, y, value) of the cells that a tile covers."""
        rows, columns = np.nonzero(np.isfinite(self.values))
        return (columns + 0.5) * self.downsample, (rows + 0.5) * self.downsample, self.values[rows, columns]

    def strength(self) -> np.ndarray:
        """float32 [rows, columns] of -1 to 1, 0 where no tile was: for colours."""
        known = np.abs(self.values[np.isfinite(self.values)])
        top = float(np.quantile(known, SHOWN)) if known.size else 0.0
        return np.clip(np.nan_to_num(self.values) / (top or 1.0), -1, 1).astype(np.float32)


def lay_out(maps: PatientMaps, name: str, number: int = 0) -> Canvas:
    """A map of PatientMaps.cells on slide `number` of the patient; where tiles overlap, the mean of theirs."""
    tiles = maps.bag.slides[number].tiles
    own = maps.bag.places[:, 0] == number
    cells = maps.cells[name][own]
    side = cells.shape[1]
    downsample = tiles.side / side
    width, height = tiles.dimensions
    rows, columns = (int(np.ceil(length / downsample)) + side for length in (height, width))
    sums, counts = np.zeros((rows, columns)), np.zeros((rows, columns))
    for (x, y), values in zip(tiles.xy[maps.bag.places[own, 1]], cells, strict=True):
        column, row = round(x / downsample), round(y / downsample)
        sums[row : row + side, column : column + side] += values
        counts[row : row + side, column : column + side] += 1
    inside = slice(0, int(np.ceil(height / downsample))), slice(0, int(np.ceil(width / downsample)))
    with np.errstate(invalid="ignore"):
        return Canvas((sums / counts)[inside].astype(np.float32), downsample, downsample * tiles.level0_mpp)


def colours(strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(RGB uint8 [..., 3], opacity float32 [...]) of -1 to 1: red raises or attracts, blue lowers; 0 is clear."""
    red, blue = np.array([214, 39, 40], np.float32), np.array([31, 119, 180], np.float32)
    rgb = np.where((strength >= 0)[..., None], red, blue)
    return rgb.astype(np.uint8), np.sqrt(np.abs(strength)) * 0.75


def view_downsample(slide: Slide, mpp: float) -> float:
    """Of the picture that a map is laid on: the tiles' scale, or what keeps its longer side below LONGEST."""
    return max(1.0, mpp / slide.mpp, max(slide.dimensions) / LONGEST)


def write_values(path: Path, canvas: Canvas) -> None:
    """The numbers of a map: one float32 level, tiled, with its scale; NaN where no tile was."""

    def write(file: tifffile.TiffWriter) -> None:
        file.write(canvas.values, tile=(TILE, TILE), compression="zlib", predictor=True, **_scale(canvas.mpp))

    _whole(path, write, big=False)


def write_heatmap(path: Path, slide: Slide, canvas: Canvas, mpp: float) -> None:
    """The slide with the map laid over it: pyramidal JPEG TIFF of RGB in tiles, scale kept; read piece by piece.

    mpp: um a pixel of the largest level, at least (see `view_downsample`)."""
    first = view_downsample(slide, mpp)
    strength = canvas.strength()

    def write(file: tifffile.TiffWriter) -> None:
        level = 0
        while True:
            downsample = first * 2**level
            width, height = (max(1, int(side / downsample)) for side in slide.dimensions)
            file.write(
                pieces(slide, downsample, canvas.downsample, strength), shape=(height, width, 3), dtype=np.uint8,
                tile=(TILE, TILE), photometric="rgb", compression="jpeg", compressionargs={"level": 85},
                subfiletype=0 if level == 0 else 1, **_scale(slide.mpp * downsample),
            )  # fmt: skip
            if max(width, height) <= SMALLEST:
                return
            level += 1

    _whole(path, write, big=max(slide.dimensions) / first > 30_000)


def pieces(slide: Slide, downsample: float, cell: float, strength: np.ndarray) -> Iterator[np.ndarray]:
    """uint8 [256, 256, 3], row by row: the slide at 1 / downsample with the map over it."""
    width, height = (max(1, int(side / downsample)) for side in slide.dimensions)
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            picture = region(slide, x, y, TILE, TILE, downsample).astype(np.float32)
            columns = ((x + np.arange(TILE) + 0.5) * downsample / cell - 0.5).astype(np.float32)
            rows = ((y + np.arange(TILE) + 0.5) * downsample / cell - 0.5).astype(np.float32)
            over = cv2.remap(strength, *np.meshgrid(columns, rows), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            rgb, opacity = colours(over)
            yield (picture + (rgb - picture) * opacity[..., None]).round().astype(np.uint8)


def region(slide: Slide, x: int, y: int, width: int, height: int, downsample: float) -> np.ndarray:
    """uint8 [height, width, 3] of the slide at 1 / downsample; x, y in pixels of that scale; white outside.

    Read in pieces where it is large: a slide without small levels is shrunk from its whole level 0 for a thumbnail."""
    level = slide.level_for(downsample)
    ratio = downsample / slide.levels[level][2]
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return _shrunk(slide, level, (round(x * downsample), round(y * downsample)), size, (width, height))


def _shrunk(
    slide: Slide, level: int, corner: tuple[int, int], size: tuple[int, int], wanted: tuple[int, int]
) -> np.ndarray:
    """uint8 of `wanted` (width, height): `size` pixels of a level from `corner` (of level 0). More than MOST of them
    are read in halves of the longer side, cut where an edge of the picture's pixels lies nearest to one of the level's.
    """
    width, height = wanted
    if size[0] * size[1] > MOST and width * height > 1:
        axis, own = int(height > width), slide.levels[level][2]
        ratio, middle = size[axis] / wanted[axis], wanted[axis] // 2
        near = range(max(1, middle - wanted[axis] // 8), middle + wanted[axis] // 8 + 1)
        cut = min(near, key=lambda k: abs(k * ratio - round(k * ratio)))
        halves = []
        for first, last in ((0, cut), (cut, wanted[axis])):
            a, b = round(first * ratio), round(last * ratio)
            place, part, piece = list(corner), list(size), list(wanted)
            place[axis], part[axis], piece[axis] = round(corner[axis] + a * own), b - a, last - first
            halves.append(_shrunk(slide, level, tuple(place), tuple(part), tuple(piece)))
        return np.concatenate(halves, axis=1 - axis)
    found = slide.read(*corner, level, *size)
    if found.shape[0] < height or found.shape[1] < width:  # a level within 3 % of the scale
        return cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR)
    return shrunk(found, width, height)


def _scale(mpp: float) -> dict:
    """Pixels a centimetre: where OpenSlide and QuPath look for a generic TIFF's scale."""
    return {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER", "metadata": None, "software": False}


def _whole(path: Path, write, big: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with tifffile.TiffWriter(partial, bigtiff=big) as file:
            write(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
