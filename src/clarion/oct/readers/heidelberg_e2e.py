"""Heidelberg .e2e (HEYEX database export), through eyepy's parser.

The file holds positions in degrees and no lateral scale in mm that anyone has found: the nominal 0.2995 mm per degree
of a Spectralis is used and flagged, or the scale that the user gives.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clarion.errors import DataError
from clarion.oct.volume import Flag, Localiser, Volume

from .common import (
    AXIAL_UM,
    MM_PER_DEGREE,
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
)
from .heidelberg_vol import refuse_pattern

MAGIC = (b"CMDb", b"MDbM", b"MDbD")
SURFACES = {
    "ILM": "ILM", "RNFL": "RNFL/GCL", "IPL": "IPL/INL", "INL": "INL/OPL", "OPL": "OPL/ONL",
    "PR1": "EZ", "EZ": "EZ", "RPE": "RPE", "BM": "BM",
}  # fmt: skip
_EYES = {"R": "OD", "OD": "OD", "L": "OS", "OS": "OS"}


def is_e2e(head: bytes) -> bool:
    return head.startswith(MAGIC)


def read(path: Path, asked: Asked) -> Volume:
    """The Volume of the one raster scan in an .e2e file. DataError if none or several can be read."""
    from eyepy.io.he import HeE2eReader

    raw = read_bytes(path)
    quiet = logging.getLogger("eyepy")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)  # what it logs may quote the file
    try:
        with HeE2eReader(path) as reader:
            patterns = [p for s in reader.series for p in [_pattern(s)] if p is not None]
            found = [(v, s) for s in reader.series for v in [_volume(s)] if v is not None]
            patient = next((str(s.patient_id) for _, s in found if getattr(s, "patient_id", None) is not None), None)
    except DataError:
        raise
    except Exception as error:  # the parser raises many types on damaged files
        raise bad_file(path, f"is damaged or of an unknown version ({type(error).__name__})") from None
    finally:
        quiet.setLevel(level)
    if not found:
        for pattern in patterns:
            refuse_pattern(pattern)
        raise bad_file(
            path,
            "holds no OCT volume that can be read (thinned, damaged or of another version)",
            "export it from HEYEX as .vol, as XML or as pictures instead",
        )
    if len(found) > 1:
        eyes = ", ".join(str(_EYES.get(str(v.meta.get("laterality")), "unknown eye")) for v, _ in found)
        raise DataError(f"The .e2e file holds {len(found)} scans ({eyes}): export one scan of one eye from HEYEX.")
    return from_eyepy(found[0][0], path, study_id(raw), patient, asked)


def _volume(series: Any) -> Any:
    try:
        return series.get_volume()
    except Exception:  # a series without OCT raises whatever the parser met
        return None


def _pattern(series: Any) -> int | None:
    try:
        return int(series.get_meta()["bscan_meta"][0]["scan_pattern"])
    except Exception:
        return None


def from_eyepy(eye_volume: Any, path: Path, study: str, patient: str | None, asked: Asked) -> Volume:
    """An eyepy.EyeVolume with B-scan positions in degrees -> Volume."""
    data = np.asarray(eye_volume.data)
    lines, depth, width = data.shape
    check_size(path, lines, depth, width)
    metas: Sequence[Any] = eye_volume.meta["bscan_meta"]
    if len(metas) != lines or any(m["pos_unit"] not in ("°", "mm") for m in metas):
        raise bad_file(path, "gives no places for its B-scans", "export it as .vol or XML")
    images = data if data.dtype == np.uint8 else _display(data)
    unit = MM_PER_DEGREE if metas[0]["pos_unit"] == "°" else 1.0
    layers = {SURFACES[n]: np.asarray(layer.data) for n, layer in eye_volume.layers.items() if n in SURFACES}
    # Degrees count from the middle of the infrared picture.
    scans = []
    for line in range(lines):
        ends = [tuple(float(v) * unit for v in metas[line][which]) for which in ("start_pos", "end_pos")]
        if not np.isfinite(ends).all() or ends[0] == ends[1]:
            raise DataError("A B-scan begins where it ends (a circle scan?), which covers no area: export a volume.")
        surfaces = {n: rows[line].astype(np.float32) for n, rows in layers.items() if np.isfinite(rows[line]).any()}
        scans.append(scan_from(images[line], line, *ends, surfaces=surfaces))
    check_parallel(scans)
    picture = np.asarray(eye_volume.localizer.data)
    step = 30 * MM_PER_DEGREE / picture.shape[1]
    localiser = Localiser(
        picture.astype(np.uint8), (step, step), (-picture.shape[1] * step / 2, -picture.shape[0] * step / 2)
    )
    eye, flags = settle_laterality([_EYES.get(str(eye_volume.meta.get("laterality")))], asked.laterality)
    lateral = scans[0].length_mm * 1000 / width
    if asked.spacing is None:
        message = (
            f"An .e2e file holds no lateral scale: {lateral:.2f} um per A-scan is the nominal one "
            f"({MM_PER_DEGREE:.4f} mm per degree); lengths may be wrong by several percent, areas by twice that, so "
            "give --spacing if you know it."
        )
        flags.append(Flag("scale_nominal", message))
    volume = Volume(
        scans=tuple(scans),
        axial_um=AXIAL_UM,
        laterality=eye,
        patient_id=pseudonym(patient, study),
        study_id=study,
        device="Heidelberg Spectralis",
        source="e2e",
        data_kind=asked.data_kind,
        localiser=localiser,
        scale_from="nominal",
        flags=tuple(flags),
    )
    if asked.spacing is not None:
        volume = rescale(volume, asked.spacing)
    return volume.flagged(*common_flags(volume))


def _display(data: np.ndarray) -> np.ndarray:
    """Linear intensities 0-1 as HEYEX shows them."""
    from .heidelberg_vol import display

    return display(data.astype(np.float32))
