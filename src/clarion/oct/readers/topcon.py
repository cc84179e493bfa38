"""Topcon .fda and .fds: a chain of named chunks after a 15-byte head, each with its length.

Chunks used: @IMG_JPEG (JPEG 2000 B-scans, .fda), @IMG_SCAN_03 / @IMG_MOT_COMP_03 (uint16, .fds), @PARAM_SCAN_04 / _02
(field in mm), @CAPTURE_INFO_02 (eye, date), @CONTOUR_INFO (Topcon's surfaces, counted from the lower edge),
@IMG_FUNDUS or @IMG_OBS with @REGIST_INFO (where the raster lies on the fundus picture).

On the public .fda the rows of the contours and of the projection run in the order of the B-scans (grey gradients and
the projection of B-scan 1 both fit row 0 best), so nothing is turned over here.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from clarion.errors import DataError
from clarion.oct.volume import Flag, Localiser, Volume

from .common import (
    SPACING_HELP,
    Asked,
    bad_file,
    check_size,
    common_flags,
    pseudonym,
    raster,
    read_bytes,
    rescale,
    scan_from,
    settle_laterality,
    stretch,
    study_id,
    upside_down,
    valid_date,
)

MAGIC = b"FOCT"
MAX_CHUNKS = 10_000
RASTER_MODES = (2,)  # scan mode: 2 raster, 3 radial, 4 cross
# Topcon's names -> ours. RETINA_2 lies on the onset of the public file's ellipsoid band; RETINA_3 has no name here.
SURFACES = {
    "RETINA_1": "ILM", "RETINA_2": "EZ", "RETINA_4": "BM",
    "MULTILAYERS_1": "ILM", "MULTILAYERS_2": "RNFL/GCL", "MULTILAYERS_4": "IPL/INL", "MULTILAYERS_8": "INL/OPL",
    "MULTILAYERS_5": "EZ", "MULTILAYERS_6": "RPE", "MULTILAYERS_7": "BM",
}  # fmt: skip


def is_topcon(head: bytes) -> bool:
    return head.startswith(MAGIC)


@dataclass(frozen=True)
class _Field:
    """Size of the raster in mm and um per row."""

    width_mm: float
    height_mm: float
    axial_um: float


def read(path: Path, asked: Asked) -> Volume:
    """The Volume of an .fda or .fds file. DataError for damage, a missing scale, or radial and circle scans."""
    raw = read_bytes(path)
    chunks = _chunks(raw, path)
    images, flags = _bscans(chunks, path)
    depth, width = images[0].shape
    field = _field(chunks, path)
    if field is None and (asked.spacing is None or asked.spacing.line_um is None):
        raise DataError(f"The file holds no scan parameters, so its scale is unknown: {SPACING_HELP}.")
    contours = _contours(chunks, depth, width)
    lines = len(images)
    drawn = max([lines, *(rows.shape[0] for rows in contours.values())])
    if drawn > lines:
        message = f"The file holds {lines} of the {drawn} B-scans of its raster; the missing ones were not measured."
        flags.append(Flag("lines_missing", message))
    if field is not None:
        lateral, line_um = field.width_mm / width * 1000, field.height_mm / drawn * 1000
    else:
        lateral, line_um = asked.spacing.lateral_um, asked.spacing.line_um
    ends = raster(drawn, width, lateral, line_um)
    localiser, origin, more = _fundus(chunks, field)
    flags += more
    eye, day = _capture(chunks)
    laterality, eye_flags = settle_laterality([eye], asked.laterality)
    scans = []
    for line, image in enumerate(images):
        surfaces = {name: rows[line] for name, rows in contours.items() if line < len(rows)}
        (x0, y0), (x1, y1) = ends[line]
        start, end = (x0 + origin[0], y0 + origin[1]), (x1 + origin[0], y1 + origin[1])
        scans.append(scan_from(image, line, start, end, surfaces))
    study = study_id(raw)
    volume = Volume(
        scans=tuple(scans),
        axial_um=asked.spacing.axial_um if field is None else field.axial_um,
        laterality=laterality,
        patient_id=pseudonym(_patient(chunks), study),
        study_id=study,
        device=_device(chunks),
        source="fda",
        data_kind=asked.data_kind,
        localiser=localiser,
        acquired=day,
        scale_from="file" if field is not None else "given",
        flags=(*flags, *eye_flags),
    )
    if asked.spacing is not None:
        volume = rescale(volume, asked.spacing)
    return volume.flagged(*common_flags(volume))


def _chunks(raw: bytes, path: Path) -> dict[str, list[bytes]]:
    """Name -> contents, in the file's order. DataError where a chunk reaches beyond the file."""
    if not is_topcon(raw) or len(raw) < 16:
        raise bad_file(path, "is no Topcon .fda or .fds file, or cut off in its head")
    found: dict[str, list[bytes]] = {}
    at = 15
    for _ in range(MAX_CHUNKS):
        if at >= len(raw) or raw[at] == 0:
            break
        length = raw[at]
        if at + 5 + length > len(raw):
            raise bad_file(path, "is cut off between its parts")
        name = raw[at + 1 : at + 1 + length].decode("ascii", "replace")
        (size,) = struct.unpack_from("<I", raw, at + 1 + length)
        at += 5 + length
        if at + size > len(raw):
            shown = name[:24] if re.fullmatch(r"[@A-Z0-9_]+", name) else "of no known name"
            raise bad_file(path, f"is cut off in its part {shown}")
        found.setdefault(name, []).append(raw[at : at + size])
        at += size
    return found


def _bscans(chunks: dict[str, list[bytes]], path: Path) -> tuple[list[np.ndarray], list[Flag]]:
    """B-scans uint8 [depth, width], row 0 on the vitreous side."""
    if "@IMG_JPEG" in chunks:
        chunk = chunks["@IMG_JPEG"][0]
        if len(chunk) < 29:
            raise bad_file(path, "is cut off in its B-scans")
        mode, _, _, width, height, count, _ = struct.unpack_from("<B6I", chunk)
        _check_mode(mode)
        check_size(path, count, height, width)
        images, at = [], 25
        for line in range(count):
            (size,) = struct.unpack_from("<I", chunk, at) if at + 4 <= len(chunk) else (0,)
            if not size or at + 4 + size > len(chunk):
                raise bad_file(path, f"is cut off: only {line} of its {count} B-scans are whole")
            images.append(_jpeg2000(chunk[at + 4 : at + 4 + size], (height, width), path))
            at += 4 + size
        return images, []
    for name, head in (("@IMG_SCAN_03", 22), ("@IMG_MOT_COMP_03", 38)):
        if name in chunks and len(chunks[name][0]) >= head:
            chunk = chunks[name][0]
            mode, width, height, bits, count = struct.unpack_from("<B4I", chunk)
            if name == "@IMG_SCAN_03":
                _check_mode(mode)
            check_size(path, count, height, width)
            if bits != 16 or head + 2 * width * height * count > len(chunk):
                raise bad_file(path, "is cut off in its B-scans, or keeps them in an unknown way")
            values = stretch(np.frombuffer(chunk, "<u2", width * height * count, head).reshape(count, height, width))
            message = "The file's grey levels have no known scale; they were stretched for display."
            return list(values[:, ::-1] if upside_down(values) else values), [Flag("display_stretched", message)]
    raise bad_file(path, "holds no B-scans", "export the OCT scan, not the photograph alone")


def _check_mode(mode: int) -> None:
    if mode not in RASTER_MODES:
        kind = {0: "line", 1: "circle", 3: "radial", 4: "cross"}.get(mode, f"mode {mode}")
        raise DataError(f"This is a {kind} scan, which covers no area evenly: export a 3D (raster) scan.")


def _jpeg2000(content: bytes, shape: tuple[int, int], path: Path) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG2000", "JPEG")) as picture:
            if (picture.height, picture.width) != shape:
                raise ValueError("size")
            return np.asarray(picture.convert("L"))
    except (OSError, ValueError, SyntaxError, ImportError, UnidentifiedImageError, Image.DecompressionBombError):
        raise bad_file(path, "holds a damaged B-scan") from None


def _field(chunks: dict[str, list[bytes]], path: Path) -> _Field | None:
    for name, at in (("@PARAM_SCAN_04", 12), ("@PARAM_SCAN_02", 21)):
        if name in chunks and len(chunks[name][0]) >= at + 24:
            width, height, axial = struct.unpack_from("<3d", chunks[name][0], at)
            if not (0.5 <= width <= 30 and 0 <= height <= 30 and 0.5 <= axial <= 30):
                raise bad_file(path, "gives no possible field (mm)")
            return _Field(width, height, axial)
    return None


def _contours(chunks: dict[str, list[bytes]], depth: int, width: int) -> dict[str, np.ndarray]:
    """Surface -> rows float32 [lines, width], counted from the vitreous side."""
    found = {}
    for chunk in chunks.get("@CONTOUR_INFO", []):
        if len(chunk) < 34:
            continue
        name = SURFACES.get(chunk[:20].split(b"\0")[0].decode("ascii", "replace"))
        # After the name: a type of two bytes, then width, lines and the number of bytes that follow.
        columns, lines, size = struct.unpack_from("<3I", chunk, 22)
        if name is None or columns != width or not 0 < lines <= 4096 or 34 + 2 * columns * lines > len(chunk):
            continue
        rows = np.frombuffer(chunk, "<u2", columns * lines, 34).reshape(lines, columns).astype(np.float32)
        found[name] = np.where((rows > 0) & (rows < depth), depth - rows, np.nan).astype(np.float32)
    return found


def _fundus(chunks: dict[str, list[bytes]], field: _Field | None):
    """(Localiser or None, centre of the raster in mm from the picture's centre, flags)."""
    none = (None, (0.0, 0.0))
    box = next((struct.unpack_from("<4i", c[0], at) for name, at in (("@REGIST_INFO", 9), ("@EFFECTIVE_SCAN_RANGE", 0))
                if (c := chunks.get(name)) and len(c[0]) >= at + 16), None)  # fmt: skip
    chunk = chunks.get("@IMG_FUNDUS", [b""])[0]
    if len(chunk) < 30 or box is None or field is None:
        return *none, [Flag("localiser_missing", "The file holds no fundus picture with the place of the scan on it.")]
    try:
        with Image.open(io.BytesIO(chunk[24:]), formats=("JPEG2000", "JPEG")) as picture:
            if picture.width * picture.height > 64_000_000:
                raise ValueError("size")
            grey = np.asarray(picture.convert("RGB"))[..., 1].copy()
    except (OSError, ValueError, SyntaxError, ImportError, UnidentifiedImageError, Image.DecompressionBombError):
        return *none, [Flag("localiser_missing", "The fundus picture is damaged and was left out.")]
    left, top, right, bottom = box
    height, width = grey.shape
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        message = "The place of the scan lies outside the fundus picture, which was left out."
        return *none, [Flag("localiser_missing", message)]
    scale = (field.width_mm / (right - left), (field.height_mm or field.width_mm) / (bottom - top))
    origin = (-width * scale[0] / 2, -height * scale[1] / 2)
    centre = (origin[0] + (left + right) / 2 * scale[0], origin[1] + (top + bottom) / 2 * scale[1])
    return Localiser(grey, scale, origin), centre, []


def _capture(chunks: dict[str, list[bytes]]):
    """(eye, date) of the capture."""
    for name, at in (("@CAPTURE_INFO_02", 106), ("@CAPTURE_INFO", 1)):
        chunk = chunks.get(name, [b""])[0]
        if len(chunk) >= at + 6:
            return {0: "OD", 1: "OS"}.get(chunk[0]), valid_date(*struct.unpack_from("<3H", chunk, at))
    return None, None


def _patient(chunks: dict[str, list[bytes]]) -> str:
    chunk = next((chunks[k][0] for k in ("@PATIENT_INFO_02", "@PATIENT_INFO_03") if k in chunks), b"")
    return chunk[:32].split(b"\0")[0].decode("latin-1")


def _device(chunks: dict[str, list[bytes]]) -> str:
    chunk = next((chunks[k][0] for k in ("@HW_INFO_03", "@HW_INFO_02", "@HW_INFO_01") if k in chunks), b"")
    model = "".join(c for c in chunk[:16].split(b"\0")[0].decode("ascii", "replace") if c.isalnum() or c in "- ")
    return f"Topcon {model}".strip()
