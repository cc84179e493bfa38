"""Levels of tiled TIFF files, read block by block: generic pyramids (pages or subIFDs), OME-TIFF, single levels.

tifffile parses the structure and decodes every codec; JPEG blocks with baseline Huffman codes take the short way of
jpeg.py. Nothing but the blocks that a region touches is decoded, and no more than CACHE of them is kept.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from clarion.cancer.slides.files import slide_error
from clarion.cancer.slides.jpeg import DamagedTile, UnsupportedTile, decode_tile
from clarion.errors import DataError

CACHE = 64 * 2**20  # bytes of decoded blocks kept of one slide
MAX_SIDE = 2**21  # pixels; the largest scanners give 0.3 million
MAX_BLOCK = 256 * 2**20  # bytes of one decoded block
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it narrates damage with file names; our errors say it
_JPEG, _WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 7, 0, 1, 2, 6
_MICRONS = {"µm": 1.0, "um": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


class BlockCache:
    """Decoded blocks of all levels of one slide, least recently used out first. At least one block is kept."""

    def __init__(self, limit: int = CACHE):
        self._limit, self._held = limit, 0
        self._blocks: OrderedDict[tuple, np.ndarray] = OrderedDict()

    def get(self, key: tuple) -> np.ndarray | None:
        if (block := self._blocks.get(key)) is not None:
            self._blocks.move_to_end(key)
        return block

    def put(self, key: tuple, block: np.ndarray) -> None:
        self._blocks[key] = block
        self._held += block.nbytes
        while self._held > self._limit and len(self._blocks) > 1:
            self._held -= self._blocks.popitem(last=False)[1].nbytes


@dataclass
class TiffLevel:
    """One level: `planes` are one page of RGB (or grey), or three pages or planes of one colour each."""

    path: Path
    file: int  # descriptor
    planes: list[tifffile.TiffPage]
    cache: BlockCache
    number: int = 0
    sparse: bool = False  # blocks that are not stored are white; else MissingTile, for OpenSlide has their stand-in

    def __post_init__(self) -> None:
        page = self.page = self.planes[0].keyframe
        self.width, self.height = page.imagewidth, page.imagelength
        self.block_width = page.tilewidth or page.imagewidth
        self.block_height = page.tilelength or min(page.rowsperstrip or page.imagelength, page.imagelength)
        self.columns, self.rows = -(-self.width // self.block_width), -(-self.height // self.block_height)
        self.samples = 1 if page.planarconfig == 2 else page.samplesperpixel
        self._offsets = [p.dataoffsets for p in self.planes]
        self._counts = [p.databytecounts for p in self.planes]
        self._tables = [p.jpegtables for p in self.planes]
        self.direct = (
            page.compression == _JPEG
            and (self.samples, page.bitspersample, len(self.planes)) == (3, 8, 1)
            and page.photometric in (_RGB, _YCBCR)
        )
        self._colour = "RGB" if page.photometric == _RGB else "YCBCR"

    @property
    def compression(self) -> str:
        """Of the pixels: JPEG, LZW, ..."""
        return getattr(self.page.compression, "name", str(self.page.compression))

    def check(self) -> None:
        """DataError where this level declares what the file cannot hold or what is no 8-bit picture."""
        page, refuse = self.page, slide_error
        if max(self.width, self.height) > MAX_SIDE or min(self.width, self.height) < 1:
            raise refuse(
                self.path,
                f"declares {self.width} x {self.height} pixels, more than any slide has ({MAX_SIDE:,} a side): "
                "its header is damaged.",
            )
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        for offsets, counts in zip(self._offsets, self._counts):
            needed = self.columns * self.rows * planes
            if len(offsets) != needed or len(counts) != needed:
                raise refuse(
                    self.path,
                    f"declares {self.width} x {self.height} pixels, which are {needed} blocks, but names "
                    f"{min(len(offsets), len(counts))}: its header is damaged.",
                )
        if (page.bitspersample, page.sampleformat) != (8, 1):
            raise refuse(self.path, f"has {page.bitspersample}-bit samples; convert it to 8-bit RGB.")
        colours = page.samplesperpixel * len(self.planes)
        if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR) or colours not in (1, 3, 4):
            name = getattr(page.photometric, "name", page.photometric)
            raise refuse(
                self.path, f"has {colours} channels ({name}); a bright-field slide in 8-bit RGB or grey is expected."
            )
        if page.photometric == _YCBCR and page.compression != _JPEG:
            raise refuse(self.path, f"keeps YCbCr colours as {self.compression}; convert it to RGB or JPEG.")
        if self.block_width * self.block_height * 3 > MAX_BLOCK:
            raise refuse(
                self.path,
                f"is stored in blocks of {self.block_width} x {self.block_height} pixels, which cannot be read in "
                "parts; convert it to a tiled TIFF (vips tiffsave --tile --pyramid).",
            )

    def blocks_end(self) -> int:
        """The last byte that this level's blocks need of the file; DataError where places and sizes do not pair."""
        for offsets, counts in zip(self._offsets, self._counts):
            if len(offsets) != len(counts) or not len(offsets):
                raise slide_error(
                    self.path,
                    f"names the places of {len(offsets)} blocks and the sizes of {len(counts)}: its header is damaged.",
                )
        ends = [np.add(o, c, dtype=np.int64).max() for o, c in zip(self._offsets, self._counts)]
        return int(max(ends))

    def read(self, x: int, y: int, width: int, height: int, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 [height, width, 3] with its upper left pixel at (x, y) of this level; white outside.

        Raises DamagedTile, UnsupportedTile or MissingTile of the first block that cannot be decoded."""
        if (
            self.direct
            and (width, height) == (self.block_width, self.block_height)
            and x % width == y % height == 0
            and 0 <= x <= self.width - width
            and 0 <= y <= self.height - height
        ):
            return self._decode(y // height * self.columns + x // width, out)
        if out is None:
            out = np.empty((height, width, 3), np.uint8)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, self.width), min(y + height, self.height)
        if (left, top, right, bottom) != (x, y, x + width, y + height):
            out[:] = 255
        if left >= right or top >= bottom:
            return out
        for row in range(top // self.block_height, -(-bottom // self.block_height)):
            y0 = row * self.block_height
            a, b = max(top, y0), min(bottom, y0 + self.block_height)
            for column in range(left // self.block_width, -(-right // self.block_width)):
                x0 = column * self.block_width
                c, d = max(left, x0), min(right, x0 + self.block_width)
                block = self._block(row * self.columns + column)
                out[a - y : b - y, c - x : d - x] = block[a - y0 : b - y0, c - x0 : d - x0]
        return out

    def _block(self, index: int) -> np.ndarray:
        key = (self.number, index)
        if (block := self.cache.get(key)) is None:
            block = self._decode(index)
            self.cache.put(key, block)
        return block

    def _decode(self, index: int, out: np.ndarray | None = None) -> np.ndarray:
        if self.sparse and not all(counts[index] for counts in self._counts):
            out = np.empty((self.block_height, self.block_width, 3), np.uint8) if out is None else out
            out[:] = 255
            return out
        if self.direct:
            try:
                data, size = self._bytes(0, index), (self.block_width, self.block_height)
                return self._checked(decode_tile(data, self._tables[0], self._colour, *size, out), index)
            except UnsupportedTile:
                pass  # progressive: libjpeg's work, and nothing walks its codes
        try:
            if self.page.planarconfig == 2:
                step = self.columns * self.rows
                planes = [self._segment(0, index + k * step) for k in range(self.page.samplesperpixel)]
            else:
                planes = [self._segment(k, index) for k in range(len(self.planes))]
        except (DamagedTile, MissingTile):
            raise
        except Exception as error:  # noqa: BLE001  each codec of imagecodecs has its own errors
            raise DamagedTile(str(error)) from error
        block = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)
        if self.page.photometric == _WHITE_IS_ZERO:
            block = 255 - block
        block = np.repeat(block, 3, axis=-1) if block.shape[-1] == 1 else block[..., :3]
        return self._checked(block, index) if out is None else _copied(self._checked(block, index), out)

    def _checked(self, block: np.ndarray, index: int) -> np.ndarray:
        row, column = divmod(index, self.columns)
        needed = min(self.block_height, self.height - row * self.block_height)
        across = min(self.block_width, self.width - column * self.block_width)
        if block.shape[0] < needed or block.shape[1] < across:
            raise DamagedTile(f"it holds {block.shape[1]} x {block.shape[0]} pixels")
        return block

    def _segment(self, plane: int, index: int) -> np.ndarray:
        page = self.planes[plane]
        decoded = self.page.decode(self._bytes(plane, index), index, jpegtables=page.jpegtables)[0]
        return decoded[0]

    def _bytes(self, plane: int, index: int) -> bytes:
        count = self._counts[plane][index]
        if not count:
            raise MissingTile("it is not stored")
        data = os.pread(self.file, count, self._offsets[plane][index])
        if len(data) != count:
            raise DamagedTile("it lies behind the end of the file")
        return data


class MissingTile(ValueError):
    """A block that the writer left out (sparse pyramids): other levels or white stand for it."""


def _copied(block: np.ndarray, out: np.ndarray) -> np.ndarray:
    out[:] = block[: out.shape[0], : out.shape[1]]
    return out


def pyramid(path: Path, tiff: tifffile.TiffFile) -> list[TiffLevel]:
    """The levels of a generic or OME-TIFF, largest first, checked. Labels and thumbnails do not enter.

    Levels are the sub-resolutions tifffile finds (subIFDs, OME), else the following pages of the same shape made
    smaller. Raises DataError for what is damaged, truncated or no bright-field picture."""
    try:
        series = tiff.series
        first = series[0]
        found = [_planes(path, first, level) for level in first.levels]
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged directory fails in many ways
        raise slide_error(
            path, "holds no readable image (DETAIL): it is truncated or damaged; copy it again.", error
        ) from error
    if len(found) == 1 and len(found[0]) == 1:
        found += [[page] for page in _smaller_pages(found[0][0], tiff.pages[1:])]
    cache, file = BlockCache(), tiff.filehandle.fileno()
    levels = [TiffLevel(path, file, planes, cache, number, sparse=True) for number, planes in enumerate(found)]
    for level in levels:
        level.check()
    check_extent(path, levels)
    return levels


def _planes(path: Path, series: tifffile.TiffPageSeries, level: tifffile.TiffPageSeries) -> list:
    pages = [page for page in level.pages if page is not None]
    if not pages:
        raise slide_error(path, "holds a level without pixels: it is damaged; copy it again.")
    if pages[0].keyframe.samplesperpixel >= 3 or len(pages) == 1:
        return pages[:1]  # of a focus stack the first plane
    axes = series.axes
    channels = series.shape[axes.index("C")] if "C" in axes else len(pages)
    if channels != 3:
        raise slide_error(path, f"has {channels} separate channels; a bright-field slide in RGB is expected.")
    return pages[:3]


def _smaller_pages(base: tifffile.TiffPage, pages: list) -> list[tifffile.TiffPage]:
    """Tiled pages with the base's proportions, each smaller than the one before."""
    found = [base]
    for page in pages:
        page = page.aspage() if hasattr(page, "aspage") else page
        last = found[-1]
        if not page.is_tiled or page.samplesperpixel != base.samplesperpixel or page.imagewidth >= last.imagewidth:
            continue
        scale = base.imagewidth / page.imagewidth
        if abs(base.imagelength / scale - page.imagelength) <= 1.5:
            found.append(page)
    return found[1:]


def check_extent(path: Path, levels: list[TiffLevel]) -> None:
    """DataError where blocks of any level lie behind the end of the file."""
    size = path.stat().st_size
    end = max((level.blocks_end() for level in levels), default=0)
    if end > size:
        raise slide_error(path, f"is truncated: it has {size:,} of at least {end:,} bytes; copy it again.")


def physical_size(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    """(x, y) in um a pixel by OME-XML or by the resolution tags of the first page; None where neither says it."""
    if tiff.ome_metadata and "<!DOCTYPE" not in tiff.ome_metadata and (found := _ome_size(tiff.ome_metadata)):
        return found
    page = tiff.pages[0]
    unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.tags.valueof("ResolutionUnit", 2)))
    sides = []
    for name in ("XResolution", "YResolution"):
        over, under = page.tags.valueof(name, (0, 1))
        if not unit or not over or not under:
            return None
        sides.append(unit * under / over)
    return sides[0], sides[1]


def _ome_size(xml: str) -> tuple[float, float] | None:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels = next((e for e in root.iter() if re.sub(r"\{.*\}", "", e.tag) == "Pixels"), None)
    if pixels is None:
        return None
    try:
        sides = [
            float(pixels.attrib[f"PhysicalSize{a}"]) * _MICRONS[pixels.attrib.get(f"PhysicalSize{a}Unit", "µm")]
            for a in "XY"
        ]
    except (KeyError, ValueError):
        return None
    return (sides[0], sides[1]) if all(math.isfinite(s) and s > 0 for s in sides) else None
