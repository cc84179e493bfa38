"""DICOM Ophthalmic Tomography (OPT): one multi-frame file, or a folder with several and their reference pictures.

Places come from the Ophthalmic Frame Location macro (PS3.3 C.8.17.10.1: row\\column pairs on the reference picture,
0\\0 its upper left corner), else from the patient coordinates of each frame (PS3.3 C.7.6.16.2.3), else they are taken
as an even raster and flagged. Names, UIDs and free texts of the file go nowhere: ids are digests and pseudonyms.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clarion.errors import DataError
from clarion.oct.export.codes import DEIDENTIFIED, NO_DATE, PHANTOM_STUDY
from clarion.oct.volume import Flag, Localiser, Scan, Volume

from . import burnt_in
from .common import (
    MAX_PIXEL_BYTES,
    SPACING_HELP,
    Asked,
    bad_file,
    check_parallel,
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
    valid_date,
)

OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
PHOTOGRAPHY = ("1.2.840.10008.5.1.4.1.1.77.1.5.1", "1.2.840.10008.5.1.4.1.1.77.1.5.2")
MAX_FILES = 2000
_EYES = {"R": "OD", "L": "OS"}


def is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM"


@dataclass
class _Frame:
    image: np.ndarray
    axial_um: float | None
    lateral_um: float | None
    eye: str | None
    reference: str | None = None  # UID of the picture its place refers to; compared, never shown
    on_picture: tuple[tuple[float, float], tuple[float, float]] | None = None  # (x, y) px of both ends
    in_patient: tuple[tuple[float, float], tuple[float, float]] | None = None  # (x, y) mm of both ends


@dataclass
class _Input:
    """What the files hold. pictures: reference pictures by UID."""

    frames: list[_Frame] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    spacings: dict[str, float] = field(default_factory=dict)  # of the pictures, mm per column
    eyes: set[str | None] = field(default_factory=set)
    patients: set[str] = field(default_factory=set)
    digests: list[bytes] = field(default_factory=list)
    device: str = ""
    day: Any = None
    slice_um: float | None = None
    phantoms: set[bool] = field(default_factory=set)  # of each scan: is it a phantom that Clarion wrote?
    pixel_bytes: int = 0
    stretched: bool = False
    left_out: int = 0


def read(path: Path, asked: Asked) -> Volume:
    """The Volume of a DICOM file or of all DICOM files below a folder. DataError for several patients or eyes,
    frames along circles, an unknown scale, or damage."""
    files = [path]
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*")) if p.is_file() and _starts_as_dicom(p)]
    if len(files) > MAX_FILES:
        raise DataError(f"The folder holds {len(files)} DICOM files: give the folder of one eye's scan.")
    held = _Input()
    for file in files:
        _load(file, held)
    if not held.frames:
        raise DataError("The input holds no Ophthalmic Tomography (OPT) image: export the OCT scan as DICOM OPT.")
    if len(held.patients) > 1:
        raise DataError(f"The folder holds scans of {len(held.patients)} patients: give one eye of one patient.")
    eye, flags = settle_laterality(held.eyes | {f.eye for f in held.frames}, asked.laterality)
    axial, lateral = _scale(held, asked)
    places, localiser, more = _places(held, lateral, asked)
    scans = _scans(held.frames, places)
    check_parallel(scans)
    flags += more
    if held.left_out:
        flags.append(Flag("files_left_out", f"{held.left_out} DICOM files hold no OCT scan and were left out."))
    if held.stretched:
        message = "The file's grey levels have no known scale; they were stretched for display."
        flags.append(Flag("display_stretched", message))
    study = study_id(*sorted(held.digests))
    volume = Volume(
        scans=tuple(scans),
        axial_um=axial,
        laterality=eye,
        patient_id=pseudonym(next(iter(held.patients), None), study),
        study_id=study,
        device=held.device or "unknown",
        source="dicom",
        data_kind="phantom" if held.phantoms == {True} else asked.data_kind,
        localiser=localiser,
        acquired=held.day,
        scale_from="file" if asked.spacing is None else "given",
        flags=tuple(flags),
    )
    if asked.spacing is not None:
        volume = rescale(volume, asked.spacing)
    return volume.flagged(*common_flags(volume))


def _starts_as_dicom(path: Path) -> bool:
    with open(path, "rb") as stream:
        return is_dicom(stream.read(132))


def _load(path: Path, held: _Input) -> None:
    """Add one file to what is held. pydicom reads elements when asked for, and raises many types on damaged ones."""
    raw = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they may quote values of the file
            _add(path, raw, held)
    except DataError:
        raise
    except Exception:
        raise bad_file(path, "is no readable DICOM file, damaged or cut off") from None


def _add(path: Path, raw: bytes, held: _Input) -> None:
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:  # inflated whole, to 1000 times its size
        if meta.get("MediaStorageSOPClassUID") in (OPT, *PHOTOGRAPHY):
            raise bad_file(path, "is a deflated DICOM file, which is not read", "export it without deflate compression")
        held.left_out += 1
        return
    data = pydicom.dcmread(path)
    kind = str(data.get("SOPClassUID", ""))
    rows, columns = int(data.get("Rows", 0)), int(data.get("Columns", 0))
    count = int(data.get("NumberOfFrames", 1) or 1)
    if kind != OPT and kind not in PHOTOGRAPHY:
        held.left_out += 1
        return
    if kind == OPT:
        check_size(path, count, rows, columns)
    elif rows * columns > 64_000_000 or count > 1:
        held.left_out += 1
        return
    sample_bits = int(data.get("SamplesPerPixel", 1)) * int(data.get("BitsAllocated", 8))
    held.pixel_bytes += count * rows * columns * sample_bits // 8
    if held.pixel_bytes > MAX_PIXEL_BYTES:
        raise bad_file(path, "brings the input's pixels above 1 GiB, more than any scan", "give one scan of one eye")
    pixels = _pixels(data, path, count)
    held.digests.append(raw)
    held.eyes.add(_EYES.get(str(data.get("ImageLaterality") or data.get("Laterality") or "").upper()[:1]))
    identity = str(data.get("PatientID") or data.get("PatientName") or "").strip()
    if identity:
        held.patients.add(identity)
    if kind != OPT:
        uid = str(data.get("SOPInstanceUID", ""))
        held.pictures[uid] = pixels[0] if pixels.dtype == np.uint8 else stretch(pixels[0])
        spacing = data.get("PixelSpacing")
        if spacing:
            held.spacings[uid] = float(spacing[1])
        return
    if pixels.dtype != np.uint8:
        pixels, held.stretched = stretch(pixels), True
    held.device = held.device or _device(data)
    held.phantoms.add(str(data.get("StudyDescription", "")).strip() == PHANTOM_STUDY)
    held.day = held.day or _day(data)
    held.slice_um = held.slice_um or _slice_um(data)
    shared = _item(data, "SharedFunctionalGroupsSequence")
    own = data.get("PerFrameFunctionalGroupsSequence") or []
    for k in range(count):
        held.frames.append(_frame(pixels[k], data, shared, own[k] if k < len(own) else None))


def _pixels(data: Any, path: Path, count: int) -> np.ndarray:
    """[frames, rows, columns], grey."""
    try:
        pixels = np.asarray(data.pixel_array)
        if int(data.get("SamplesPerPixel", 1)) == 3:
            pixels = pixels[..., 1]
        pixels = pixels.reshape(count, int(data.Rows), int(data.Columns))
    except Exception:  # decoders raise many types on damaged or unknown encodings
        raise bad_file(path, "holds pixels that cannot be decoded (cut off, or an unknown compression)") from None
    if str(data.get("PhotometricInterpretation")) == "MONOCHROME1":
        pixels = pixels.max() - pixels
    return pixels


def _item(data: Any, keyword: str) -> Any:
    sequence = None if data is None else data.get(keyword)
    return sequence[0] if sequence else None


def _frame(image: np.ndarray, data: Any, shared: Any, own: Any) -> _Frame:
    def macro(keyword: str) -> Any:
        return _item(own, keyword) or _item(shared, keyword)

    measures = macro("PixelMeasuresSequence")
    spacing = (measures.get("PixelSpacing") if measures is not None else None) or data.get("PixelSpacing")
    axial, lateral = (float(v) * 1000 for v in spacing) if spacing else (None, None)
    anatomy = macro("FrameAnatomySequence")
    eye = _EYES.get(str(anatomy.get("FrameLaterality", "")).upper()[:1]) if anatomy is not None else None
    frame = _Frame(image, axial, lateral, eye)
    location = macro("OphthalmicFrameLocationSequence")
    if location is not None:
        kind = str(location.get("OphthalmicImageOrientation", "LINEAR"))
        pairs = np.asarray(location.get("ReferenceCoordinates") or [], float).reshape(-1, 2)
        if kind == "NONLINEAR" or (len(pairs) >= 2 and np.allclose(pairs[0], pairs[-1])):
            raise DataError("The frames run along curves (a circle scan), which cover no area: export a volume scan.")
        if kind == "TRANSVERSE":
            raise DataError("The frames are en-face (transverse) pictures, not B-scans: export the B-scans.")
        if len(pairs) >= 2:
            (row0, column0), (row1, column1) = pairs[0], pairs[-1]
            frame.on_picture = ((column0, row0), (column1, row1))
            frame.reference = str(location.get("ReferencedSOPInstanceUID", ""))
    position, orientation = macro("PlanePositionSequence"), macro("PlaneOrientationSequence")
    if position is not None and orientation is not None and lateral:
        at = np.asarray(position.get("ImagePositionPatient"), float)
        along = np.asarray(orientation.get("ImageOrientationPatient"), float)[:3]
        # Patient coordinates grow to the left and upwards; a fundus is seen from the front: x alike, y downwards.
        start = at - along * lateral / 2000
        end = start + along * lateral * image.shape[1] / 1000
        frame.in_patient = ((start[0], -start[2]), (end[0], -end[2]))
    return frame


def _scale(held: _Input, asked: Asked) -> tuple[float, float]:
    """(axial, lateral) um of all frames."""
    if any(f.axial_um is None or f.lateral_um is None for f in held.frames):
        if asked.spacing is None:
            raise DataError(f"The DICOM file gives no Pixel Spacing, so its scale is unknown: {SPACING_HELP}.")
        return asked.spacing.axial_um, asked.spacing.lateral_um
    axials, laterals = ([getattr(f, name) for f in held.frames] for name in ("axial_um", "lateral_um"))
    if np.ptp(axials) > 1e-3 * axials[0]:
        raise DataError("The frames differ in axial scale: export one scan pattern of one eye.")
    if not (0.5 <= axials[0] <= 30 and all(1 <= v <= 100 for v in laterals)):
        if asked.spacing is None:
            raise DataError(f"The DICOM file's Pixel Spacing is impossible for an OCT: {SPACING_HELP}.")
        return asked.spacing.axial_um, asked.spacing.lateral_um
    return float(axials[0]), float(np.median(laterals))


def _places(held: _Input, lateral_um: float, asked: Asked) -> tuple[list, Localiser | None, list[Flag]]:
    """Both ends (mm) of every frame, the localiser, and flags."""
    frames = held.frames
    if all(f.on_picture is not None for f in frames):
        return _places_on_picture(held, lateral_um)
    flags = [Flag("localiser_missing", "The DICOM input holds no reference picture with the places of its frames.")]
    if all(f.in_patient is not None for f in frames):
        ends = np.array([f.in_patient for f in frames])
        ends -= (ends.reshape(-1, 2).min(0) + ends.reshape(-1, 2).max(0)) / 2
        if len({tuple(np.round(e.ravel(), 4)) for e in ends}) == len(ends):
            return [tuple(map(tuple, e)) for e in ends], None, flags
    line_um = (asked.spacing.line_um if asked.spacing else None) or held.slice_um
    if len(frames) > 1 and line_um is None:
        raise DataError(
            "The DICOM file gives no places for its frames: give the distance between lines with --spacing "
            "AXIAL,LATERAL,LINE in um."
        )
    if len(frames) > 1:
        message = (
            "The file gives no places for its frames: they are taken as horizontal lines from top to bottom, evenly "
            "spaced."
        )
        flags.append(Flag("positions_assumed", message))
    return raster(len(frames), frames[0].image.shape[1], lateral_um, line_um or 1.0), None, flags


def _places_on_picture(held: _Input, lateral_um: float) -> tuple[list, Localiser | None, list[Flag]]:
    """Places in mm about the middle of the first frame's reference picture; other pictures are matched to it."""
    frames, flags = held.frames, []
    base = next((f.reference for f in frames if f.reference in held.pictures), frames[0].reference)
    picture = held.pictures.get(base)
    if picture is None and len(held.pictures) == 1:  # one picture whose UID was changed by de-identification
        picture = next(iter(held.pictures.values()))
        flags.append(Flag("localiser_assumed", "The reference picture is not the one named; it was taken to be it."))
    ends = np.array([f.on_picture for f in frames], float)
    for reference in {f.reference for f in frames} - {base}:
        shift = _shift(picture, held.pictures.get(reference))
        members = [k for k, f in enumerate(frames) if f.reference == reference]
        if shift is None:
            message = "Frames refer to several pictures that cannot be matched; they are used as if they were one."
            flags.append(Flag("directions_not_aligned", message))
        else:
            ends[members] -= shift
    lengths = np.hypot(*(ends[:, 1] - ends[:, 0]).T)
    if not (np.isfinite(lengths).all() and lengths.min() > 0):
        raise DataError("A frame begins where it ends (a circle scan?), which covers no area: export a volume scan.")
    per_px = float(np.median([f.image.shape[1] / n for f, n in zip(frames, lengths)])) * lateral_um / 1000
    stated = held.spacings.get(base or "")
    if stated and abs(stated / per_px - 1) > 0.03:
        message = (
            f"The reference picture's scale ({stated * 1000:.2f} um per pixel) and the B-scans' "
            f"({per_px * 1000:.2f} um) disagree; the B-scans' was used."
        )
        flags.append(Flag("scale_conflict", message))
    if picture is None:
        middle = (ends.reshape(-1, 2).min(0) + ends.reshape(-1, 2).max(0)) / 2
        flags.append(Flag("localiser_missing", "The reference picture of the frames is not in the input."))
        localiser = None
    else:
        middle = np.array([picture.shape[1] / 2, picture.shape[0] / 2])
        localiser = Localiser(picture, (per_px, per_px), tuple(float(v) for v in -middle * per_px))
    mm = (ends - middle) * per_px
    return [tuple(map(tuple, e)) for e in mm], localiser, flags


def _shift(base: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    if base is None or other is None or base.shape != other.shape or min(base.shape) < 64:
        return None
    dx, dy, response = burnt_in.shift_between(base, other)
    return np.array([dx, dy]) if response >= 0.15 and np.hypot(dx, dy) < 0.15 * base.shape[0] else None


def _scans(frames: Sequence[_Frame], places: Sequence) -> list[Scan]:
    """Numbered per direction, in the order of the files and frames."""
    scans, numbers = [], {"H": 0, "V": 0}
    for frame, (start, end) in zip(frames, places, strict=True):
        direction = "H" if abs(end[0] - start[0]) >= abs(end[1] - start[1]) else "V"
        scans.append(scan_from(frame.image, numbers[direction], start, end))
        numbers[direction] += 1
    return scans


def _slice_um(data: Any) -> float | None:
    shared = _item(data, "SharedFunctionalGroupsSequence")
    measures = _item(shared, "PixelMeasuresSequence")
    for source in (measures, data):
        value = None if source is None else source.get("SpacingBetweenSlices") or source.get("SliceThickness")
        if value and 0 < float(value) < 5:
            return float(value) * 1000
    return None


def _day(data: Any):
    """The day of scanning; None in what Clarion wrote, which holds only the day of measuring."""
    if str(data.get("AcquisitionDateTime") or "") == NO_DATE or data.get("DeidentificationMethod") == DEIDENTIFIED:
        return None
    for keyword in ("AcquisitionDateTime", "AcquisitionDate", "StudyDate"):
        text = str(data.get(keyword) or "")
        if len(text) >= 8 and text[:8].isdigit():
            found = valid_date(text[:4], text[4:6], text[6:8])
            if found:
                return found
    return None


def _device(data: Any) -> str:
    """Manufacturer and model; the manufacturer once where the model's name begins with it."""
    maker, model = (_plain(str(data.get(name) or "")) for name in ("Manufacturer", "ManufacturerModelName"))
    if f"{model} ".lower().startswith(f"{maker} ".lower()):
        maker = ""
    return " ".join(part for part in (maker, model) if part.lower() not in ("", "unknown"))


def _plain(text: str) -> str:
    """A manufacturer's words without anything but letters, digits and a few signs."""
    return " ".join("".join(c if c.isascii() and (c.isalnum() or c in "-._()") else " " for c in text).split())[:60]
