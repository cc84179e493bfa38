"""The tiles of a patient's slides: found once, kept by content in the cache, read as pixels when they are needed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clarion.cancer.slides import stain, store
from clarion.cancer.slides.reader import Slide, open_slide
from clarion.cancer.slides.stain import Stains
from clarion.cancer.slides.tiles import Tiles, grid, read_tiles
from clarion.cancer.slides.tissue import find_tissue
from clarion.cancer.swin.settings import settings_of
from clarion.data.cache import cache_dir
from clarion.errors import DataError, UsageError
from clarion.samples import Sample

log = logging.getLogger(__name__)
TILING_VERSION = 1  # raise it when the same slide and settings give other tiles


@dataclass(frozen=True)
class TileSettings:
    """patch: pixels a side; mpp: um a pixel; overlap, min_tissue: as `tiles.grid`; stain: macenko or None; inks: False
    for immunostains; most: tiles a patient at most, evenly spaced (None: all)."""

    patch: int = 224
    mpp: float = 0.5
    overlap: int = 0
    min_tissue: float = 0.5
    stain: str | None = None
    inks: bool = True
    most: int | None = None

    def __post_init__(self) -> None:
        if self.stain not in (None, "macenko"):
            raise UsageError(f"model.tiles.stain={self.stain}: give macenko, or null.")
        if self.most is not None and self.most < 1:
            raise UsageError(f"model.tiles.most={self.most}: give 1 or more, or null.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> TileSettings:
        """From a config; UsageError on a name it does not know and on a value of another type."""
        return settings_of(cls, given, "model.tiles")

    def key(self, sha: str, mpp: float) -> str:
        """Names the tiles of one slide by these settings."""
        chosen = {k: v for k, v in asdict(self).items() if k != "most"}
        text = json.dumps([TILING_VERSION, chosen, sha, round(mpp, 6)], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class TiledSlide:
    """One slide and its tiles; key: their name in caches; number: of the slide among all of its patient's, from 0."""

    path: Path
    mpp: float | None
    tiles: Tiles
    stains: Stains | None
    key: str
    number: int = 0

    def open(self) -> Slide:
        return open_slide(self.path, self.mpp)


@dataclass(frozen=True)
class Bag:
    """All tiles of a patient: those of the first slide, then of the second. places: int64 [n, 2] of (slide, tile)."""

    sample_id: str
    slides: tuple[TiledSlide, ...]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @property
    def key(self) -> str:
        found = hashlib.blake2b(json.dumps([s.key for s in self.slides]).encode(), digest_size=10)
        found.update(self.places.tobytes())
        return found.hexdigest()

    def pixels(self, indices: Sequence[int] | np.ndarray | None = None, batch: int = 64) -> Iterator[np.ndarray]:
        """uint8 [b, patch, patch, 3] of the tiles in order (or of rising `indices`), stains normalised where so set."""
        places = self.places if indices is None else self.places[np.asarray(indices, np.int64)]
        for number, tiled in enumerate(self.slides):
            own = places[places[:, 0] == number, 1]
            if not len(own):
                continue
            with tiled.open() as slide:
                for pixels in read_tiles(slide, tiled.tiles, own, batch):
                    yield pixels if tiled.stains is None else stain.normalise(pixels, tiled.stains)


def bag_of(sample: Sample, settings: TileSettings) -> Bag:
    """The bag of a patient (inputs: slides, mpp). Slides without tissue bring no tiles and are named in the log; other
    faults are DataErrors."""
    paths = sample.inputs.get("slides") or ([sample.inputs["slide"]] if sample.inputs.get("slide") else [])
    every = [tile(Path(path), settings, sample.inputs.get("mpp")) for path in paths]
    tiled = [replace(found, number=k) for k, found in enumerate(every) if found is not None]
    places = [np.stack([np.full(len(t.tiles), k), np.arange(len(t.tiles))], 1) for k, t in enumerate(tiled)]
    chosen = np.concatenate(places) if places else np.empty((0, 2))
    if settings.most is not None and len(chosen) > settings.most:
        chosen = chosen[np.linspace(0, len(chosen) - 1, settings.most).round().astype(int)]
    return Bag(sample.sample_id, tuple(tiled), chosen.astype(np.int64))


def tile(path: Path, settings: TileSettings, mpp: float | None = None) -> TiledSlide | None:
    """The tiles of a slide, from the cache where it was tiled before; None for one without tissue."""
    with open_slide(path, mpp) as slide:
        key = settings.key(slide.sha, slide.mpp)
        kept = cache_dir() / "slide-tiles" / f"{key}.h5"
        if kept.is_file():
            try:
                return TiledSlide(path, mpp, store.read(kept), store.read_stains(kept), key)
            except DataError:
                log.warning("a file of tiles in the cache is damaged and made anew")
        tissue = find_tissue(slide, inks=settings.inks)
        try:
            tiles = grid(slide, tissue, settings.patch, settings.mpp, settings.overlap, settings.min_tissue)
        except DataError as error:  # no tissue, or none in pieces as large as a tile
            log.warning("%s Its patient goes on without it.", getattr(error, "recorded", None) or error)
            return None
        stains = None
        if settings.stain:
            try:
                stains = stain.estimate_slide(slide, tiles)
            except DataError as error:
                log.warning("%s It stays as it is.", getattr(error, "recorded", None) or error)
    store.write(kept, tiles, stains, asdict(settings))
    return TiledSlide(path, mpp, tiles, stains, key)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write .npy whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.npy")
    try:
        np.save(partial, array, allow_pickle=False)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load_array(path: Path) -> np.ndarray | None:
    """What `save_array` wrote; None where it is not there or damaged."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
