"""Tiles of a slide as HDF5: corners and attributes, no pixels.

`coords` int64 [n, 2], x and y of the upper left corners in pixels of level 0, with the attributes that CLAM and TRIDENT
call by the same names (patch_size, patch_level, patch_size_level0, level0_magnification, target_magnification, overlap)
and the scales in um a pixel; `tissue` float32 [n]. Nothing in it names the file or the patient: `slide_sha` does.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import h5py
import numpy as np

from clarion.cancer.slides.files import slide_error
from clarion.cancer.slides.stain import Stains
from clarion.cancer.slides.tiles import Tiles

FORMAT = "clarion-tiles-1"


def write(path: Path, tiles: Tiles, stains: Stains | None = None, settings: dict | None = None) -> None:
    """Write `path` whole or not at all. stains: the slide's, for normalising; settings: how the tiles were made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        with h5py.File(partial, "w") as file:
            coords = file.create_dataset("coords", data=tiles.xy, compression="gzip", shuffle=True)
            coords.attrs.update(_attributes(tiles))
            file.create_dataset("tissue", data=tiles.tissue, compression="gzip")
            file.attrs["format"] = FORMAT
            file.attrs["counts"] = json.dumps(tiles.counts)
            file.attrs["settings"] = json.dumps(settings or {}, sort_keys=True)
            if stains is not None:
                file.create_dataset("stains", data=stains.matrix)
                file["stains"].attrs["strongest"] = stains.strongest
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _attributes(tiles: Tiles) -> dict:
    return {
        "patch_size": tiles.patch,
        "patch_level": tiles.level,
        "patch_size_level": tiles.read_size,
        "patch_size_level0": tiles.side,
        "overlap": tiles.overlap,
        "target_mpp": tiles.mpp,
        "read_mpp": tiles.read_mpp,
        "level0_mpp": tiles.level0_mpp,
        "level0_magnification": tiles.level0_magnification,
        "target_magnification": tiles.level0_magnification * tiles.level0_mpp / tiles.mpp,
        "level0_width": tiles.dimensions[0],
        "level0_height": tiles.dimensions[1],
        "slide_sha": tiles.sha,
    }


def read(path: Path) -> Tiles:
    """The tiles of a file that `write` made. Raises DataError for a file that is damaged or something else."""
    with _open(path) as file:
        try:
            coords, a = file["coords"], dict(file["coords"].attrs)
            tiles = Tiles(
                xy=coords[:].astype(np.int64),
                level=int(a["patch_level"]),
                read_size=int(a["patch_size_level"]),
                patch=int(a["patch_size"]),
                mpp=float(a["target_mpp"]),
                read_mpp=float(a["read_mpp"]),
                overlap=int(a["overlap"]),
                tissue=file["tissue"][:].astype(np.float32),
                counts=json.loads(file.attrs["counts"]),
                sha=str(a["slide_sha"]),
                dimensions=(int(a["level0_width"]), int(a["level0_height"])),
                level0_mpp=float(a["level0_mpp"]),
                level0_magnification=float(a["level0_magnification"]),
            )
        except (KeyError, ValueError, TypeError, OSError, RuntimeError) as error:
            raise slide_error(
                Path(path), "holds no tiles of `clarion slides tile` (DETAIL); tile the slide again.", error
            ) from error
    if tiles.xy.ndim != 2 or tiles.xy.shape[1] != 2 or len(tiles.tissue) != len(tiles.xy):
        raise slide_error(Path(path), "holds tiles whose tables do not fit each other; tile the slide again.")
    return tiles


def read_stains(path: Path) -> Stains | None:
    """The stains kept beside the tiles, or None."""
    with _open(path) as file:
        if "stains" not in file:
            return None
        return Stains(file["stains"][:], np.asarray(file["stains"].attrs["strongest"]))


def read_settings(path: Path) -> dict:
    """The settings the tiles were made with, and `slide_sha`; {} for a file that cannot be read."""
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file.attrs["settings"]) | {"slide_sha": str(file["coords"].attrs["slide_sha"])}
    except (OSError, KeyError, ValueError):
        return {}


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise slide_error(Path(path), "cannot be read as HDF5 (DETAIL); tile the slide again.", error) from error
