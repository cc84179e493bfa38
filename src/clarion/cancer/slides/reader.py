"""Whole-slide images: one surface for OpenSlide's formats (DICOM too), generic TIFF and OME-TIFF.

    with open_slide("case.svs") as slide:
        rgb = slide.read(x0, y0, slide.level_for(4), 512, 512)

Coordinates are pixels of level 0. What a slide says beside pixels and scale (names, dates, scanner and user numbers,
label and macro pictures) is never read out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import openslide
import tifffile

from clarion.cancer.slides import files, tiff
from clarion.cancer.slides.files import slide_error
from clarion.cancer.slides.jpeg import DamagedTile, UnsupportedTile
from clarion.errors import DataError, UsageError

MPP_RANGE = (0.02, 32.0)  # um a pixel; 72 or 96 dpi, the defaults of image software, are 353 and 265
NATIVE = 0.03  # a level within 3 % of the wanted scale is taken as it is: scanners of "0.25" give 0.2449 to 0.2527
_STRIP = 6_000_000  # pixels decoded at once when a whole level is read


def open_slide(path: str | os.PathLike, mpp: float | None = None) -> Slide:
    """Open a slide for reading; use it as a context manager.

    path: a file, or a folder of DICOM instances. mpp: um a pixel of level 0, where the file does not say it (or is
    wrong). Raises UsageError for a path that is not there or an impossible mpp, DataError for a file that is empty,
    truncated, damaged or no slide."""
    if mpp is not None and not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
        raise UsageError(f"mpp={mpp} um/px is no scale of a slide; give {MPP_RANGE[0]} to {MPP_RANGE[1]:g}.")
    return Slide(files.resolve(path), mpp)


class Slide:
    """An open slide. `levels`: (width, height, downsample) of each, largest first; `dimensions`: level 0's size.

    `format`: OpenSlide's vendor, or "tiff" / "ome-tiff". One thread reads at a time; in another process (a worker that
    gets it pickled) it is opened anew."""

    def __init__(self, path: Path, mpp: float | None = None):
        self.path, self._given_mpp = path, mpp
        self._openslide: openslide.OpenSlide | None = None
        self._tiff: tifffile.TiffFile | None = None
        self._blocks: dict[int, tiff.TiffLevel] = {}  # level -> its blocks, where they can be read directly
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            vendor = openslide.OpenSlide.detect_format(self.path)
        except openslide.OpenSlideError as error:
            raise slide_error(self.path, "cannot be read (DETAIL).", error) from error
        is_tiff = files.is_tiff(self.path)
        if is_tiff:
            try:
                self._tiff = tifffile.TiffFile(self.path)
                len(self._tiff.pages)
            except Exception as error:  # noqa: BLE001  a damaged header fails in many ways
                raise slide_error(
                    self.path, "is no whole TIFF (DETAIL): it is truncated or damaged; copy it again.", error
                ) from error
        if is_tiff and vendor in (None, "generic-tiff"):
            self._blocks = dict(enumerate(tiff.pyramid(self.path, self._tiff)))
            self.format = "ome-tiff" if self._tiff.is_ome else "tiff"
            sizes = [(level.width, level.height) for level in self._blocks.values()]
            wide, high = sizes[0]
            self.levels = tuple((w, h, (wide / w + high / h) / 2) for w, h in sizes)
        elif vendor is None:
            raise slide_error(self.path, "is no slide of a known format (OpenSlide, TIFF, OME-TIFF, DICOM).")
        else:
            if is_tiff:
                self._find_blocks(vendor)
            try:
                self._openslide = openslide.OpenSlide(self.path)
            except openslide.OpenSlideError as error:
                raise slide_error(
                    self.path, "cannot be opened (DETAIL): it is damaged or a part is missing.", error
                ) from error
            self.format = vendor
            sizes = zip(self._openslide.level_dimensions, self._openslide.level_downsamples)
            self.levels = tuple((w, h, float(d)) for (w, h), d in sizes)
            by_size = {(b.width, b.height): b for b in self._blocks.values()}
            self._blocks = {i: by_size[w, h] for i, (w, h, _) in enumerate(self.levels) if (w, h) in by_size}
        self.dimensions = self.levels[0][:2]

    def _find_blocks(self, vendor: str) -> None:
        """The tiled pages of a scanner's TIFF: all must be whole; Aperio's JPEG tiles can be decoded directly.

        Other scanners' tiles overlap or are shifted (Ventana, Leica, Philips): OpenSlide places those."""
        cache, found = tiff.BlockCache(), []
        for page in self._tiff.pages:
            page = page.aspage() if hasattr(page, "aspage") else page
            if page.is_tiled:
                level = tiff.TiffLevel(self.path, self._tiff.filehandle.fileno(), [page], cache, len(found))
                if vendor == "aperio":
                    level.check()
                found.append(level)
        tiff.check_extent(self.path, found)
        if vendor == "aperio":
            self._blocks = {level.number: level for level in found if level.direct}

    def __reduce__(self) -> tuple:
        return open_slide, (self.path, self._given_mpp)

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the files; reading afterwards is an error."""
        for handle in (self._openslide, self._tiff):
            if handle is not None:
                with suppress(Exception):
                    handle.close()
        self._blocks = {}

    # -- scale

    @cached_property
    def _found_mpp(self) -> float | None:
        if self._openslide is not None:
            sides = [self._number(openslide.PROPERTY_NAME_MPP_X), self._number(openslide.PROPERTY_NAME_MPP_Y)]
        else:
            sides = tiff.physical_size(self._tiff) or [None, None]
        if None in sides:
            return None
        if abs(sides[0] / sides[1] - 1) > 0.1:
            raise slide_error(
                self.path, f"has pixels of {sides[0]:.4g} x {sides[1]:.4g} um, not square ones; give mpp= to go on."
            )
        mean = math.sqrt(sides[0] * sides[1])
        return mean if MPP_RANGE[0] <= mean <= MPP_RANGE[1] else None

    @property
    def mpp(self) -> float:
        """um a pixel of level 0. DataError where neither the file nor the caller says it: a guess would put every
        measurement and every feature at a wrong scale."""
        if self._given_mpp is not None:
            return self._given_mpp
        if self._found_mpp is None:
            power = self._objective
            hint = f" (its {power:g}x objective usually means mpp={10 / power:.3g})" if power else ""
            raise slide_error(self.path, f"does not say its scale: give mpp=, um a pixel of level 0{hint}; "
                              "data.mpp= of a run, --slide-mpp or --mpp of a command.")  # fmt: skip
        return self._found_mpp

    @cached_property
    def _objective(self) -> float | None:
        return self._number(openslide.PROPERTY_NAME_OBJECTIVE_POWER) if self._openslide is not None else None

    @property
    def magnification(self) -> float:
        """The objective's power as the file says it, else 10 / mpp (the usual relation: 20x at 0.5 um a pixel)."""
        return self._objective or round(10 / self.mpp, 2)

    def _number(self, name: str) -> float | None:
        try:
            value = float(self._openslide.properties.get(name, "nan"))
        except ValueError:
            return None
        return value if math.isfinite(value) and value > 0 else None

    def level_for(self, downsample: float) -> int:
        """The smallest level that is not coarser than `downsample` (by more than 3 %): to be read and made smaller."""
        return max(i for i, (_, _, d) in enumerate(self.levels) if i == 0 or d <= downsample * (1 + NATIVE))

    # -- pixels

    def read(self, x0: int, y0: int, level: int, width: int, height: int, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 [height, width, 3] RGB of a level; white outside the slide and where nothing was scanned.

        x0, y0: upper left corner in pixels of level 0, rounded to the level's nearest pixel. width, height: pixels of
        the level. out: a contiguous array to fill. Raises DataError naming the place where the file is damaged."""
        if not 0 <= level < len(self.levels):
            raise UsageError(f"level {level}: this slide has levels 0 to {len(self.levels) - 1}.")
        downsample = self.levels[level][2]
        x, y = round(x0 / downsample), round(y0 / downsample)
        if (blocks := self._blocks.get(level)) is not None:
            try:
                return blocks.read(x, y, width, height, out)
            except (DamagedTile, UnsupportedTile, tiff.MissingTile) as error:
                if self._openslide is None:
                    raise self._damaged(x0, y0, level, error) from error
        corner = (round(x * downsample), round(y * downsample))
        try:
            rgba = np.asarray(self._openslide.read_region(corner, level, (width, height)))
        except openslide.OpenSlideError as error:
            raise self._damaged(x0, y0, level, error) from error
        return _on_white(rgba, out)

    def _damaged(self, x0: int, y0: int, level: int, error: Exception) -> DataError:
        where = f"a tile of level {level} at or right below ({x0}, {y0}) cannot be decoded"
        return slide_error(self.path, f"is damaged: {where} (DETAIL); copy it again.", error)

    def blocks(self, downsample: float, multiple: int = 1) -> Iterator[tuple[int, int, np.ndarray]]:
        """The whole slide at 1 / downsample of level 0, in pieces: (x, y, uint8 [h, w, 3]) in output pixels.

        multiple: pieces begin at multiples of it (so that a caller's cells are not cut).
        Each piece is the mean of the pixels of the nearest finer level; memory stays bounded whatever the slide."""
        level = self.level_for(downsample)
        wide, high, own = self.levels[level]
        shrink = max(1.0, downsample / own)
        columns, rows = max(1, round(wide / shrink)), max(1, round(high / shrink))
        across = max(1, int(8192 / shrink) // multiple) * multiple
        down = max(1, int(_STRIP / (across * shrink) / shrink) // multiple) * multiple
        for top in range(0, rows, down):
            bottom = min(rows, top + down)
            a, b = top * high // rows, bottom * high // rows
            for left in range(0, columns, across):
                right = min(columns, left + across)
                c, d = left * wide // columns, right * wide // columns
                piece = self.read(round(c * own), round(a * own), level, d - c, b - a)
                yield left, top, shrunk(piece, right - left, bottom - top)

    def thumbnail(self, longest: int = 1024) -> np.ndarray:
        """uint8 [h, w, 3]: the slide with its longer side `longest` pixels, or smaller where it has fewer."""
        downsample = max(1.0, max(self.dimensions) / longest)
        return self.shrink(downsample)

    def shrink(self, downsample: float) -> np.ndarray:
        """uint8 [h, w, 3]: the slide at 1 / downsample, as one array."""
        pieces = list(self.blocks(downsample))
        width = max(x + p.shape[1] for x, _, p in pieces)
        height = max(y + p.shape[0] for _, y, p in pieces)
        whole = np.full((height, width, 3), 255, np.uint8)
        for x, y, piece in pieces:
            whole[y : y + piece.shape[0], x : x + piece.shape[1]] = piece
        return whole

    # -- identity

    @cached_property
    def sha(self) -> str:
        """SHA-256 of the slide's content (files.identity): the same under any name."""
        return files.identity(files.parts(self.path))

    def card(self) -> dict:
        """What may be recorded and shown of this slide: nothing that names a patient, a case, a user or a scanner."""
        return {
            "sha": self.sha,
            "format": self.format,
            "dimensions": list(self.dimensions),
            "levels": [[w, h, round(d, 4)] for w, h, d in self.levels],
            "mpp": self._given_mpp or self._found_mpp,
            "mpp_source": "given" if self._given_mpp else "file" if self._found_mpp else None,
            "objective": self._objective,
            "compression": self._blocks[0].compression if 0 in self._blocks else None,
            "direct_jpeg": bool(self._blocks) and all(level.direct for level in self._blocks.values()),
        }


def shrunk(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image at a smaller (or equal) size by the mean of the pixels that fall into each new one."""
    if rgb.shape[:2] == (height, width):
        return rgb
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)


def _on_white(rgba: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """RGB of RGBA laid on white: OpenSlide marks what was never scanned as transparent."""
    if out is None:
        out = np.empty((*rgba.shape[:2], 3), np.uint8)
    alpha = rgba[..., 3]
    cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB, dst=out)
    if alpha.min() < 255:
        weight = alpha[..., None].astype(np.uint16)
        out[:] = (out * weight + 255 * (255 - weight) + 127) // 255
    return out
