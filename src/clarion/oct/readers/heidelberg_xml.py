"""HEYEX XML export: one XML beside the pictures it names, with scale, positions and surfaces of every B-scan."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from clarion.data.grey import read_grey
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

MAX_XML_BYTES = 256 * 2**20
_INVALID = 1e30
SURFACES = {
    "ILM": "ILM", "RNFL": "RNFL/GCL", "IPL": "IPL/INL", "INL": "INL/OPL", "OPL": "OPL/ONL",
    "PR1": "EZ", "RPE": "RPE", "BM": "BM",
}  # fmt: skip


def is_xml(head: bytes) -> bool:
    return b"<HEDX" in head[:2000]


def read(path: Path, asked: Asked) -> Volume:
    """The Volume of an XML file and the pictures beside it. DataError for damage, missing pictures, two series."""
    content = read_bytes(path)
    if len(content) > MAX_XML_BYTES or re.search(rb"<!(DOCTYPE|ENTITY)", content):
        raise bad_file(path, "is no plain HEYEX XML (too large, or with entities of its own)")
    try:
        root = ElementTree.fromstring(content.decode("utf-8", "replace"))
    except ElementTree.ParseError as error:
        raise bad_file(path, f"is no whole XML ({error})") from None
    series = [s for s in root.iter("Series") if any(_type(i) == "OCT" for i in s.iter("Image"))]
    if not series:
        raise bad_file(path, "lists no OCT image", "export the OCT series, not the photograph alone")
    if len(series) > 1:
        raise DataError(f"The XML holds {len(series)} OCT series: export one scan of one eye at a time.")
    images = list(series[0].iter("Image"))
    eyes = {_eye(i.findtext("Laterality")) for i in images} | {_eye(series[0].findtext("Laterality"))}
    eye, flags = settle_laterality(eyes, asked.laterality)

    digests = [content]
    localiser, origin = None, None
    for image in (i for i in images if _type(i) == "LOCALIZER"):
        context = image.find("OphthalmicAcquisitionContext")
        scale = (_number(context, "ScaleX"), _number(context, "ScaleY"))
        picture = _picture(path, image, digests)
        if None in scale:
            flags.append(Flag("localiser_unscaled", "The infrared picture has no scale and was left out."))
            break
        origin = (-picture.shape[1] * scale[0] / 2, -picture.shape[0] * scale[1] / 2)
        localiser = Localiser(picture, scale, origin)
        break
    scans, axial, odd = [], None, 0
    ordered = [i for i in images if _type(i) == "OCT"]
    for line, image in enumerate(ordered):
        context = image.find("OphthalmicAcquisitionContext")
        scale_x, scale_z = _number(context, "ScaleX"), _number(context, "ScaleY")
        ends = [_coordinates(context, which) for which in ("Start", "End")]
        if None in (scale_x, scale_z, *ends):
            raise bad_file(path, f"gives no scale or no position for B-scan {line + 1} (a circle scan?)")
        if not (0.0005 < scale_x < 0.1 and 0.0005 < scale_z < 0.03):
            raise bad_file(path, "gives no possible scale (mm per pixel)")
        if axial is not None and abs(scale_z / axial - 1) > 1e-3:
            raise bad_file(path, "holds B-scans of different axial scale", "export one scan pattern")
        axial = scale_z
        picture = _picture(path, image, digests)
        check_size(path, len(ordered), *picture.shape)
        (x0, y0), (x1, y1) = ends
        length, wanted = float(np.hypot(x1 - x0, y1 - y0)), picture.shape[1] * scale_x
        if length <= 0:
            raise DataError("A scan that begins where it ends is a circle scan, which covers no area: export a volume.")
        if abs(length / wanted - 1) > 0.02:
            x1, y1, odd = x0 + (x1 - x0) * wanted / length, y0 + (y1 - y0) * wanted / length, odd + 1
        shift = origin or (0.0, 0.0)
        scans.append(scan_from(picture, line, (x0 + shift[0], y0 + shift[1]), (x1 + shift[0], y1 + shift[1]),
                               _surfaces(image, picture.shape[1]), _number(context, "ImageQuality")))  # fmt: skip
    if odd:
        message = (
            f"{odd} of {len(scans)} B-scans are longer or shorter in the file's positions than their pixels are; the "
            "scale of the pixels was used and lines begin where the file says."
        )
        flags.append(Flag("positions_conflict", message))
    check_parallel(scans)
    study = study_id(*digests)
    qualities = [s.quality for s in scans if s.quality is not None]
    day = root.find(".//Study/StudyDate/Date")
    volume = Volume(
        scans=tuple(scans),
        axial_um=axial * 1000,
        laterality=eye,
        patient_id=pseudonym(root.findtext(".//Patient/PatientID") or root.findtext(".//Patient/ID"), study),
        study_id=study,
        device="Heidelberg Spectralis",
        source="xml",
        data_kind=asked.data_kind,
        localiser=localiser,
        acquired=None if day is None else valid_date(*(day.findtext(k) or 0 for k in ("Year", "Month", "Day"))),
        quality=float(np.median(qualities)) if qualities else None,
        flags=tuple(flags),
    )
    if asked.spacing is not None:
        volume = rescale(volume, asked.spacing)
    return volume.flagged(*common_flags(volume))


def _type(image: ElementTree.Element) -> str:
    return (image.findtext("ImageType/Type") or "").strip().upper()


def _eye(letter: str | None) -> str | None:
    return {"R": "OD", "L": "OS"}.get((letter or "").strip().upper()[:1])


def _number(element: ElementTree.Element | None, name: str) -> float | None:
    try:
        value = float(element.findtext(name))
    except (AttributeError, TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def _coordinates(context: ElementTree.Element | None, which: str) -> tuple[float, float] | None:
    coord = None if context is None else context.find(f"{which}/Coord")
    x, y = _number(coord, "X"), _number(coord, "Y")
    return None if x is None or y is None else (x, y)


def _picture(path: Path, image: ElementTree.Element, digests: list[bytes]) -> np.ndarray:
    """The picture an Image element names, looked for beside the XML only, whatever path the element gives."""
    name = re.split(r"[\\/]", (image.findtext("ImageData/ExamURL") or "").strip())[-1]
    file = path.parent / name
    if name in ("", ".", "..") or not file.is_file():
        raise bad_file(path, "names a picture that is not beside it", "keep the XML and its pictures in one folder")
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise bad_file(path, "names a picture that is a link to elsewhere", "copy the picture into the folder")
    digests.append(read_bytes(file))
    try:
        return read_grey(file)
    except DataError:
        raise bad_file(file, "is damaged or no picture") from None


def _surfaces(image: ElementTree.Element, width: int) -> dict[str, np.ndarray]:
    found = {}
    for segment in image.iter("SegLine"):
        name = SURFACES.get((segment.findtext("Name") or "").strip())
        try:
            rows = np.array((segment.findtext("Array") or "").split(), np.float32)
        except ValueError:
            continue
        if name and rows.size == width:
            rows = np.where((rows < _INVALID) & (rows > 0), rows, np.nan).astype(np.float32)
            if np.isfinite(rows).any():
                found[name] = rows
    return found
