"""Tiles of a slide: a grid at a target scale over its tissue, and their pixels.

Places are kept, not pixels: upper left corners in pixels of level 0, so that any level (and any program) finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from clarion.cancer.slides.files import slide_error
from clarion.cancer.slides.reader import NATIVE, Slide, shrunk
from clarion.cancer.slides.tissue import KINDS, TISSUE, Tissue
from clarion.errors import DataError, UsageError

MAX_TILES = 20_000_000


@dataclass(frozen=True)
class Tiles:
    """Where the tiles of one slide are and how they are read.

    xy: int64 [n, 2] upper left corners (x, y) in pixels of level 0, row by row; level, read_size: a tile is read as
    read_size x read_size pixels of that level and made patch x patch; mpp: um a pixel asked for; read_mpp: what the
    tiles really have (within 3 % of it); overlap: pixels of the patch that neighbours share;
    tissue: float32 [n] share of kept tissue; counts: grid places in all, kept, and left out by what covers most;
    sha, dimensions, level0_mpp, level0_magnification: the slide's."""

    xy: np.ndarray
    level: int
    read_size: int
    patch: int
    mpp: float
    read_mpp: float
    overlap: int
    tissue: np.ndarray
    counts: dict[str, int] = field(hash=False)
    sha: str
    dimensions: tuple[int, int]
    level0_mpp: float
    level0_magnification: float

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def side(self) -> float:
        """Of a tile in pixels of level 0."""
        return self.patch * self.read_mpp / self.level0_mpp


def grid(
    slide: Slide, tissue: Tissue | None, patch: int = 256, mpp: float = 0.5, overlap: int = 0, min_tissue: float = 0.5
) -> Tiles:
    """Tiles of patch x patch pixels at `mpp` um a pixel, of which at least `min_tissue` is kept tissue.

    The nearest level that is not coarser is read; where it, or a whole multiple of its scale, is within 3 % of `mpp`,
    pixels are taken as they are or averaged by whole numbers.
    The grid starts at the slide's corner, so that tiles fall on the file's own where the sizes agree. A tile may reach
    beyond the edge (white there). tissue: None takes every place of the grid.

    Raises UsageError for sizes that make no grid or a scale finer than the slide's (tiles would be invented), DataError
    where no tile has enough tissue, or where the slide does not say its scale."""
    if not 8 <= patch <= 8192 or not 0 <= overlap < patch or not 0 <= min_tissue <= 1:
        raise UsageError(
            f"patch={patch} overlap={overlap} min_tissue={min_tissue}: give patch 8 to 8192, 0 <= overlap < patch, "
            "0 <= min_tissue <= 1."
        )
    if not mpp > 0:
        raise UsageError(f"mpp={mpp}: give the um a pixel of the tiles, such as 0.5.")
    wanted = mpp / slide.mpp
    if wanted < 1 - NATIVE:
        raise UsageError(
            f"mpp={mpp:g} is finer than the slide's {slide.mpp:.4g} um/px: tiles would be enlarged; "
            f"give mpp={slide.mpp:.4g} or more."
        )
    level = slide.level_for(wanted)
    own = slide.levels[level][2]
    ratio, whole = wanted / own, max(1, round(wanted / own))
    read_size = patch * whole if abs(ratio / whole - 1) <= NATIVE + 1e-9 else round(patch * ratio)
    scale = own * read_size / patch  # pixels of level 0 a pixel of the tile
    step = (patch - overlap) * scale
    width, height = slide.dimensions
    columns, rows = (max(1, int(np.ceil((side - overlap * scale) / step - 1e-6))) for side in (width, height))
    if columns * rows > MAX_TILES:
        raise UsageError(f"patch={patch} overlap={overlap}: {columns * rows:,} places; make the step larger.")
    x, y = np.round(np.arange(columns) * step).astype(np.int64), np.round(np.arange(rows) * step).astype(np.int64)
    corners = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    counts = {"places": len(corners)}
    if tissue is None:
        share, keep = np.ones(len(corners), np.float32), np.ones(len(corners), bool)
    else:
        shares = tissue.shares(corners, patch * scale)
        share = shares[:, TISSUE]
        keep = (share >= min_tissue) & (share > 0)
        covering = shares.copy()
        covering[:, TISSUE] = -1
        why = covering.argmax(axis=1)
        counts |= {kind: int((~keep & (why == k)).sum()) for k, kind in enumerate(KINDS) if k != TISSUE}
    counts["kept"] = int(keep.sum())
    if not counts["kept"]:
        raise _nothing(slide, tissue, counts, min_tissue)
    return Tiles(
        corners[keep], level, read_size, patch, float(mpp), slide.mpp * scale, overlap, share[keep].astype(np.float32),
        counts, slide.sha, tuple(slide.dimensions), slide.mpp, slide.magnification,
    )  # fmt: skip


def _nothing(slide: Slide, tissue: Tissue, counts: dict[str, int], min_tissue: float) -> DataError:
    found = ", ".join(f"{kind} {n}" for kind, n in counts.items() if n)
    if tissue.counts["kept"] == 0:
        return slide_error(slide.path, f"has no tissue ({found}): leave this slide out, or look at its thumbnail.")
    return slide_error(
        slide.path, f"has no tile with {min_tissue:.0%} of tissue ({found}): lower min_tissue or the patch size."
    )


def read_tiles(
    slide: Slide, tiles: Tiles, indices: Sequence[int] | np.ndarray | None = None, batch: int = 64
) -> Iterator[np.ndarray]:
    """Pixels of the tiles in order (or of `indices`): uint8 [b, patch, patch, 3], b <= batch.

    Tiles that coincide with JPEG tiles of the file are decoded straight into the batch; others are put together from
    the file's tiles, each decoded once while it stays in the slide's cache; formats without such tiles go through
    OpenSlide. Raises DataError where these tiles are of another slide, or a place is damaged."""
    if tiles.sha != slide.sha:
        raise slide_error(slide.path, "is another slide than the one these tiles were found on; tile it again.")
    chosen = tiles.xy if indices is None else tiles.xy[np.asarray(indices, np.int64)]
    patch, size = tiles.patch, tiles.read_size
    for start in range(0, len(chosen), batch):
        corners = chosen[start : start + batch]
        out = np.empty((len(corners), patch, patch, 3), np.uint8)
        for place, (x, y) in zip(out, corners.tolist()):
            if size == patch:
                slide.read(x, y, tiles.level, patch, patch, out=place)
            else:
                place[:] = shrunk(slide.read(x, y, tiles.level, size, size), patch, patch)
        yield out


def draw_tiles(slide: Slide, tiles: Tiles, longest: int = 1600) -> np.ndarray:
    """uint8 [h, w, 3]: a thumbnail with the kept tiles outlined in green."""
    picture = np.ascontiguousarray(slide.thumbnail(longest))
    scale = picture.shape[1] / slide.dimensions[0]
    side = tiles.side * scale
    for x, y in (tiles.xy * scale).tolist():
        corner, end = (round(x), round(y)), (round(x + side) - 1, round(y + side) - 1)
        cv2.rectangle(picture, corner, end, (0, 150, 60), max(1, round(side / 24)))
    return picture
