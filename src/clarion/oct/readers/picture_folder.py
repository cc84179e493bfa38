"""A folder of B-scans as PNG, TIFF, BMP or JPEG, in the order of their names, with the scale that the user gives."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from clarion.data.grey import read_grey
from clarion.errors import DataError
from clarion.oct import heyex
from clarion.oct.volume import Flag, Volume

from .common import (
    SPACING_HELP,
    Asked,
    bad_file,
    check_size,
    common_flags,
    pseudonym,
    raster,
    read_bytes,
    scan_from,
    settle_laterality,
    study_id,
)

MAX_PICTURES = 2000


def read(path: Path, asked: Asked) -> Volume:
    """The Volume of the pictures directly in a folder (or of one picture), top line first.

    DataError without a scale, for several pictures without a distance between lines, or where sizes differ.
    """
    files = _sorted(p for p in path.iterdir() if heyex.is_picture(p)) if path.is_dir() else [path]
    if not files:
        raise DataError("The folder holds no B-scan picture (png, tif, bmp, jpg) and no file of a known OCT format.")
    if len(files) > MAX_PICTURES:
        raise DataError(f"The folder holds {len(files)} pictures, too many for one scan: give one scan's folder.")
    root = path if path.is_dir() else path.parent
    if any(not p.resolve().is_relative_to(root.resolve()) for p in files):
        raise DataError("The folder holds links to pictures outside it: copy them into it.")
    spacing = asked.spacing
    if spacing is None:
        raise DataError(f"Pictures carry no scale, so nothing can be measured in mm: {SPACING_HELP}.")
    if len(files) > 1 and spacing.line_um is None:
        raise DataError(
            f"{len(files)} B-scans need the distance between them: give --spacing AXIAL,LATERAL,LINE in um."
        )
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        images = list(pool.map(_read, files))
        contents = list(pool.map(read_bytes, files))
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise DataError(
            f"The pictures differ in size ({', '.join(f'{w}x{h}' for h, w in sorted(shapes))}): keep the B-scans of "
            "one scan in the folder."
        )
    depth, width = images[0].shape
    check_size(files[0], len(files), depth, width)
    flags = [
        Flag(
            "positions_given",
            "Pictures carry no places: the B-scans are taken as horizontal lines from top to bottom in the order of "
            "their names, at the distance given.",
        )
    ]
    eye, eye_flags = settle_laterality([], asked.laterality)
    ends = raster(len(files), width, spacing.lateral_um, spacing.line_um or 1.0)
    study = study_id(*contents)
    volume = Volume(
        scans=tuple(scan_from(image, line, *ends[line]) for line, image in enumerate(images)),
        axial_um=spacing.axial_um,
        laterality=eye,
        patient_id=pseudonym(None, study),
        study_id=study,
        device="unknown",
        source="folder",
        data_kind=asked.data_kind,
        scale_from="given",
        flags=(*(flags if len(files) > 1 else ()), *eye_flags),
    )
    return volume.flagged(*common_flags(volume))


def _sorted(files) -> list[Path]:
    """By name, numbers by their value: B2 before B10."""
    return sorted(files, key=lambda p: [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"(\d+)", p.name)])


def _read(file: Path) -> np.ndarray:
    try:
        image = read_grey(file)
    except DataError:
        raise bad_file(file, "is damaged, far too large or no picture", "export it again or remove it") from None
    return image
