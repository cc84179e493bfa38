"""Heidelberg .vol (raw export of the Spectralis): raster and line scans, with HEYEX's own surfaces.

Layout (little endian): a 2048-byte header, the SLO picture, then per B-scan its header, surfaces (float32 rows) and
float32 intensities, linear 0-1, which HEYEX displays as their fourth root.
"""

from __future__ import annotations

import struct
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from clarion.errors import DataError
from clarion.oct.volume import Flag, Localiser, Volume

from .common import (
    Asked,
    bad_file,
    check_parallel,
    check_size,
    common_flags,
    pseudonym,
    read_bytes,
    rescale,
    scan_from,
    settle_laterality,
    study_id,
    valid_date,
)

MAGIC = (b"HSF-OCT", b"ep-v")  # HEYEX, and the files that eyepy writes
_HEADER = 2048
_INVALID = 1e30
CIRCLE, STAR = 2, 5
# HEYEX's surfaces by their place in the file -> ours; HEYEX draws further ones that Volume has no name for.
SURFACES = {0: "ILM", 1: "BM", 2: "RNFL/GCL", 4: "IPL/INL", 5: "INL/OPL", 6: "OPL/ONL", 14: "EZ", 16: "RPE"}


def is_vol(head: bytes) -> bool:
    return head.startswith(MAGIC)


def read(path: Path, asked: Asked) -> Volume:
    """The Volume of a .vol file. DataError for a damaged file, a circle or star scan, or a laterality that differs."""
    raw = read_bytes(path)
    if len(raw) < _HEADER or not is_vol(raw):
        raise bad_file(path, "is no Heidelberg .vol file, or cut off in its header")
    width, count, depth = struct.unpack_from("<3i", raw, 12)
    scale_x, distance, scale_z = struct.unpack_from("<3d", raw, 24)
    slo_width, slo_height = struct.unpack_from("<2i", raw, 48)
    slo_x, slo_y = struct.unpack_from("<2d", raw, 56)
    (pattern,) = struct.unpack_from("<i", raw, 96)
    refuse_pattern(pattern)
    check_size(path, count, depth, width)
    if not (1 <= slo_width <= 10_000 and 1 <= slo_height <= 10_000):
        raise bad_file(path, f"claims an infrared picture of {slo_width} x {slo_height} pixels, which is impossible")
    if not (0.0005 < scale_x < 0.1 and 0.0005 < scale_z < 0.03 and 0.0005 < slo_x < 0.2 and 0.0005 < slo_y < 0.2):
        raise bad_file(path, "gives no possible scale (mm per pixel)")
    start = _HEADER + slo_width * slo_height
    if start > len(raw):
        raise _cut_off(path, 0, count)
    slo = np.frombuffer(raw, np.uint8, slo_width * slo_height, _HEADER).reshape(slo_height, slo_width)
    origin = (-slo_width * slo_x / 2, -slo_height * slo_y / 2)

    scans, flags, odd = [], [], 0
    for line in range(count):
        if start + 256 > len(raw):
            raise _cut_off(path, line, count)
        (header,) = struct.unpack_from("<i", raw, start + 12)
        x0, y0, x1, y1 = struct.unpack_from("<4d", raw, start + 16)
        layers, layers_at, quality = struct.unpack_from("<iif", raw, start + 48)
        if not 256 <= header <= 16_777_216:
            raise bad_file(path, f"is damaged in the header of B-scan {line + 1}")
        if start + header + 4 * width * depth > len(raw):
            raise _cut_off(path, line, count)
        if not all(np.isfinite(v) and abs(v) < 50 for v in (x0, y0, x1, y1)):
            raise bad_file(path, f"gives no possible place for B-scan {line + 1}")
        values = np.frombuffer(raw, "<f4", width * depth, start + header).reshape(depth, width)
        length, wanted = float(np.hypot(x1 - x0, y1 - y0)), width * scale_x
        if length <= 0:
            x1, y1, length = x0 + wanted, y0, wanted
        if abs(length / wanted - 1) > 0.02:  # a B-scan that was cropped after the export: its pixels' scale holds
            x1, y1, odd = x0 + (x1 - x0) * wanted / length, y0 + (y1 - y0) * wanted / length, odd + 1
        surfaces = {}
        for k in range(min(max(layers, 0), 32)):
            at = start + (layers_at or 256) + 4 * width * k
            if k in SURFACES and at + 4 * width <= start + header:
                rows = np.frombuffer(raw, "<f4", width, at).astype(np.float32)
                rows = np.where((rows < _INVALID) & (rows > 0), rows, np.nan)
                if np.isfinite(rows).any():
                    surfaces[SURFACES[k]] = rows
        ends = [(x + origin[0], y + origin[1]) for x, y in ((x0, y0), (x1, y1))]
        db = float(quality) if 0 < quality < 100 else None
        scans.append(scan_from(display(values), line, *ends, surfaces=surfaces, quality=db))
        start += header + 4 * width * depth
    if odd:
        message = (
            f"{odd} of {count} B-scans are longer or shorter in the file's positions than their pixels are; the scale "
            "of the pixels was used and lines begin where the file says."
        )
        flags.append(Flag("positions_conflict", message))
    check_parallel(scans)
    eye, eye_flags = settle_laterality([raw[84:88].rstrip(b"\0 ").decode("ascii", "replace")], asked.laterality)
    study = study_id(raw)
    qualities = [s.quality for s in scans if s.quality is not None]
    volume = Volume(
        scans=tuple(scans),
        axial_um=scale_z * 1000,
        laterality=eye,
        patient_id=pseudonym(raw[140:161].split(b"\0")[0].decode("latin-1"), study),
        study_id=study,
        device="Heidelberg Spectralis",
        source="vol",
        data_kind=asked.data_kind,
        localiser=Localiser(slo.copy(), (slo_x, slo_y), origin),
        acquired=_date(struct.unpack_from("<d", raw, 200)[0], struct.unpack_from("<Q", raw, 88)[0]),
        quality=float(np.median(qualities)) if qualities else None,
        flags=(*flags, *eye_flags),
    )
    if asked.spacing is not None:
        volume = rescale(volume, asked.spacing)
    return volume.flagged(*common_flags(volume))


def refuse_pattern(pattern: int) -> None:
    """DataError for Heidelberg's scan patterns that cover no area."""
    if pattern == CIRCLE:
        raise DataError(
            "This is a circle scan around the optic disc: it shows no macula and covers no area; export a volume scan."
        )
    if pattern == STAR:
        raise DataError(
            "This is a star (radial) scan, whose lines do not cover an area evenly: export a volume (raster) scan."
        )


def display(values: np.ndarray) -> np.ndarray:
    """Heidelberg's linear intensities -> grey levels as HEYEX shows them (fourth root); invalid A-scans are black."""
    valid = np.where((values >= 0) & (values <= 1), values, 0).astype(np.float32)
    return (255 * np.sqrt(np.sqrt(valid)) + 0.5).astype(np.uint8)


def _cut_off(path: Path, line: int, count: int) -> DataError:
    return bad_file(path, f"is cut off: only {line} of its {count} B-scans are whole")


def _date(visit: float, exam: int):
    """Days since 1899-12-30 (the visit), else 100 ns since 1601 (the examination)."""
    for origin, days in ((datetime(1899, 12, 30), visit), (datetime(1601, 1, 1), exam / 864e9)):
        if np.isfinite(days) and 0 < days < 400_000:
            found = origin + timedelta(days=days)
            checked = valid_date(found.year, found.month, found.day)
            if checked:
                return checked
    return None
