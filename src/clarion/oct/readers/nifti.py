"""NIfTI volumes (.nii, .nii.gz): the voxel sizes of the header, which for OCT tell the axes apart.

NIfTI has no convention for OCT. The axis with the smallest voxel is depth (2-4 um on every device), the one with the
largest steps from B-scan to B-scan; without sizes the order is taken as A-scan, depth, B-scan and said so.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from clarion.errors import DataError
from clarion.oct.volume import Flag, Volume

from .common import (
    MAX_PIXEL_BYTES,
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
    stretch,
    study_id,
    upside_down,
)

_LARGEST_EXTENSION = 2**24
_NIFTI2 = (struct.pack("<i", 540), struct.pack(">i", 540))


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read(path: Path, asked: Asked) -> Volume:
    """The Volume of a NIfTI file. DataError for damage, an unknown scale, or an array that is no stack of B-scans."""
    import nibabel as nib

    study = study_id(read_bytes(path))
    _check_header(path)
    try:
        image = nib.load(path)
        shape, zooms = image.shape, [float(z) for z in image.header.get_zooms()]
        unit = image.header.get_xyzt_units()[0]
    except Exception as error:  # nibabel raises many types on damaged headers
        raise bad_file(path, f"is no readable NIfTI file ({type(error).__name__})") from None
    shape, zooms = [*shape], zooms[: len(shape)]
    while len(shape) > 3 and shape[-1] == 1:
        shape, zooms = shape[:-1], zooms[:-1]
    if len(shape) == 2:
        shape, zooms = [*shape, 1], [*zooms[:2], 1.0]
    if len(shape) != 3:
        raise bad_file(path, f"holds an array of {len(shape)} dimensions", "give one volume of B-scans")
    factor = {"mm": 1000.0, "micron": 1.0, "meter": 1e6}.get(unit, 1000.0)
    um = np.abs(np.asarray(zooms)) * factor
    # A header of ones is what software writes that knows no size.
    known = bool(np.isfinite(um).all() and (um > 0).all() and np.ptp(um[: 2 if shape[2] == 1 else 3]) > 0)
    known = known and 0.5 <= um.min() <= 30
    if not known and asked.spacing is None:
        raise DataError(f"The NIfTI header gives no believable voxel size ({_sizes(um)} um): {SPACING_HELP}.")
    if not known and shape[2] > 1 and asked.spacing.line_um is None:
        raise DataError("The NIfTI header gives no distance between B-scans: give --spacing AXIAL,LATERAL,LINE in um.")
    flags = []
    if known:
        depth_axis = int(um[: 2 if shape[2] == 1 else 3].argmin())
        rest = [k for k in range(3) if k != depth_axis]
        line_axis = 2 if shape[2] == 1 else max(rest, key=lambda k: um[k])
        width_axis = next(k for k in rest if k != line_axis)
    else:
        width_axis, depth_axis, line_axis = 0, 1, 2
        message = "The header gives no voxel sizes: axes are taken as A-scan, depth, B-scan; check the overlays."
        flags.append(Flag("axes_assumed", message))
    try:
        # As stored: nibabel's scaled array is of float64. Stretching undoes any scale but its sign.
        values = np.asarray(image.dataobj.get_unscaled())
    except (OSError, ValueError, EOFError, zlib.error):
        raise bad_file(path, "is cut off in its voxels") from None
    slope, offset = float(image.dataobj.slope), float(image.dataobj.inter)
    values = np.transpose(values.reshape(shape), (line_axis, depth_axis, width_axis))
    lines, depth, width = values.shape
    check_size(path, lines, depth, width)
    if values.dtype != np.uint8 or (slope, offset) != (1.0, 0.0):
        values = stretch(values)
        if slope < 0:
            values = 255 - values
        message = "The file's grey levels have no known scale; they were stretched for display."
        flags.append(Flag("display_stretched", message))
    if upside_down(values):
        values = values[:, ::-1]
        flags.append(Flag("turned_upright", "The B-scans stood upside down (vitreous below) and were turned."))
    if asked.spacing is not None:
        axial, lateral = asked.spacing.axial_um, asked.spacing.lateral_um
        line_um = asked.spacing.line_um or float(um[line_axis])
    else:
        axial, lateral, line_um = float(um[depth_axis]), float(um[width_axis]), float(um[line_axis])
    message = "NIfTI carries no localiser: lines are taken as horizontal, from top to bottom, centred on the macula."
    flags.append(Flag("positions_assumed", message))
    eye, eye_flags = settle_laterality([], asked.laterality)
    ends = raster(lines, width, lateral, line_um)
    volume = Volume(
        scans=tuple(scan_from(image, line, *ends[line]) for line, image in enumerate(values)),
        axial_um=axial,
        laterality=eye,
        patient_id=pseudonym(None, study),
        study_id=study,
        device="unknown",
        source="nifti",
        data_kind=asked.data_kind,
        scale_from="file" if asked.spacing is None else "given",
        flags=(*flags, *eye_flags),
    )
    return volume.flagged(*common_flags(volume))


def _check_header(path: Path) -> None:
    """DataError where the header claims voxels, or a beginning of them, that would fill the memory when inflated."""
    import nibabel as nib

    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as stream:
            head = stream.read(540)
        kind: Any = nib.Nifti2Header if head[:4] in _NIFTI2 else nib.Nifti1Header
        header = kind(head[: kind.sizeof_hdr], check=False)
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        begin = float(header["vox_offset"])
    except Exception as error:  # nibabel raises many types on damaged headers
        raise bad_file(path, f"is no readable NIfTI file ({type(error).__name__})") from None
    if dtype.kind not in "uif":
        raise bad_file(path, "holds no grey levels (colours or complex numbers)", "give the B-scans' grey levels")
    if any(n < 0 for n in shape) or math.prod(map(int, shape)) * dtype.itemsize > MAX_PIXEL_BYTES:
        raise bad_file(path, "claims voxels of more than 1 GiB, more than any scan", "give one volume of B-scans")
    if not 0 <= begin <= _LARGEST_EXTENSION:
        raise bad_file(path, "claims voxels that begin behind 16 MiB of header", "save it without header extensions")


def _sizes(um: np.ndarray) -> str:
    return " x ".join(f"{v:g}" for v in um)
