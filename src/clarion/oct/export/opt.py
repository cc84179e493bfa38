"""B-scans of a volume as DICOM Ophthalmic Tomography Images (PS3.3 A.52.4), one multi-frame object a direction.

Screen exports, .vol and phantoms carry no DICOM image that a segmentation or a report could point at, so one is
written. The frame of reference is the volume's own: en-face x is the patient's left, en-face y the patient's foot,
depth points backwards, the eye taken as looking straight ahead; its origin is the volume's.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from clarion import __version__
from clarion.errors import DataError
from clarion.oct.export.codes import DEIDENTIFIED, NO_DATE, PHANTOM_STUDY, RETINA, SIDES, uid

if TYPE_CHECKING:
    from clarion.oct.study import Study
    from clarion.oct.volume import Scan

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.5.4"  # Ophthalmic Tomography Image Storage
SIDE_LETTER = {"OD": "R", "OS": "L"}


def write_opt(study: Study, direction: str) -> FileDataset:
    """The scans of one direction as an OPT dataset in memory, frames in the order of their lines.

    Nothing of the patient but the pseudonym is in it, and no date of the scan. Raises DataError when the lines of the
    direction differ in width, since frames of one object share their size, and where the laterality is unknown.
    """
    volume = study.volume
    if volume.laterality is None:
        raise DataError(
            "Which eye it is is unknown, and a DICOM ophthalmic image must state it: give --laterality OD or OS."
        )
    scans = [volume.scans[k] for k in volume.of(direction)]
    if len({scan.image.shape for scan in scans}) > 1:
        raise DataError(f"The {direction} scans differ in width and cannot be frames of one DICOM object.")
    data = _file(study, direction)
    _patient(data, study)
    data.StudyInstanceUID = uid(volume.study_id, "study")
    _series(data, study, direction)
    _image(data, scans)
    _acquisition(data)
    data.ImageLaterality = SIDE_LETTER[volume.laterality]
    data.AnatomicRegionSequence = Sequence([_region(volume.laterality)])
    data.SharedFunctionalGroupsSequence = Sequence([_shared(study, scans, direction)])
    data.PerFrameFunctionalGroupsSequence = Sequence([_frame(scan, k + 1) for k, scan in enumerate(scans)])
    _dimensions(data, study)
    data.PixelData = np.stack([np.ascontiguousarray(scan.image, np.uint8) for scan in scans]).tobytes()
    if len(data.PixelData) % 2:
        data.PixelData += b"\0"
    return data


def created(study: Study) -> datetime:
    """When the findings were made: the only time that is written, the same at every export of one study."""
    try:
        moment = datetime.fromisoformat(study.document.created)
    except ValueError:
        raise DataError(f"The findings' time {study.document.created!r} is not ISO 8601.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def stamp(data: Dataset, study: Study) -> None:
    """Set every date and time of writing to the findings' own, so that one study gives the same files again."""
    moment = created(study)
    day, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    for name in ("Content", "InstanceCreation"):
        setattr(data, f"{name}Date", day)
        setattr(data, f"{name}Time", time)
    for equipment in data.get("ContributingEquipmentSequence", []):
        equipment.ContributionDateTime = day + time


def code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    """One item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _file(study: Study, direction: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SOP_CLASS
    meta.MediaStorageSOPInstanceUID = uid(study.volume.study_id, "opt", direction)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("clarion", "implementation")
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.SpecificCharacterSet = "ISO_IR 192"
    stamp(data, study)
    return data


def _patient(data: Dataset, study: Study) -> None:
    volume = study.volume
    data.PatientID = volume.patient_id
    data.PatientName = f"{volume.patient_id}^"
    data.PatientBirthDate = data.PatientSex = ""
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = DEIDENTIFIED
    data.StudyID = volume.study_id[:16]
    data.StudyDate = data.StudyTime = data.AccessionNumber = data.ReferringPhysicianName = ""
    if volume.data_kind == "phantom":
        data.StudyDescription = PHANTOM_STUDY


def _series(data: Dataset, study: Study, direction: str) -> None:
    volume = study.volume
    data.Modality = "OPT"
    data.SeriesInstanceUID = uid(volume.study_id, "series", "opt", direction)
    data.SeriesNumber = data.InstanceNumber = 1 if direction == "H" else 2
    data.SeriesDescription = f"OCT, {'horizontal' if direction == 'H' else 'vertical'} lines"
    data.FrameOfReferenceUID = uid(volume.study_id, "frame of reference")
    data.PositionReferenceIndicator = ""
    data.SynchronizationFrameOfReferenceUID = uid(volume.study_id, "synchronization")
    data.SynchronizationTrigger, data.AcquisitionTimeSynchronized = "NO TRIGGER", "N"
    maker, _, model = volume.device.partition(" ")
    data.Manufacturer, data.ManufacturerModelName = maker or "unknown", model[:64] or "unknown"
    data.DeviceSerialNumber = "unknown"
    data.SoftwareVersions = f"Clarion {__version__}"


def _image(data: Dataset, scans: list[Scan]) -> None:
    data.ImageType = ["DERIVED", "SECONDARY", "", ""]  # what the export shows, not what the detector measured
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = scans[0].image.shape
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.NumberOfFrames = len(scans)
    data.PresentationLUTShape = "IDENTITY"
    data.LossyImageCompression = "00"
    data.BurnedInAnnotation = "NO"
    data.InConcatenationNumber = data.InConcatenationTotalNumber = 1
    data.ConcatenationFrameOffsetNumber = 0


def _acquisition(data: Dataset) -> None:
    data.AcquisitionDateTime = NO_DATE  # required, and a date of the scan is never written out
    data.AcquisitionNumber = 1
    data.AcquisitionContextSequence = Sequence([])
    data.RefractiveStateSequence = Sequence([])
    for unknown in ("AxialLengthOfTheEye", "HorizontalFieldOfView", "EmmetropicMagnification", "IntraOcularPressure"):
        setattr(data, unknown, None)
    data.PupilDilated = ""
    data.AcquisitionDeviceTypeCodeSequence = Sequence([code("392012008", "Optical Coherence Tomography Scanner")])
    data.LightPathFilterTypeStackCodeSequence = Sequence([])
    data.DetectorType = "CCD"


def _region(laterality: str) -> Dataset:
    region = code(*RETINA)
    region.AnatomicRegionModifierSequence = Sequence([code(*SIDES[laterality])])
    return region


def _shared(study: Study, scans: list[Scan], direction: str) -> Dataset:
    volume, group = study.volume, Dataset()
    measures, orientation, anatomy = Dataset(), Dataset(), Dataset()
    lateral = scans[0].length_mm / scans[0].width
    measures.PixelSpacing = [round(volume.axial_um / 1000, 7), round(lateral, 7)]  # between rows, between columns
    measures.SliceThickness = round(volume.line_spacing_mm(direction) or lateral, 7)
    orientation.ImageOrientationPatient = [round(v, 7) + 0.0 for v in (*_in_patient(_unit(scans[0])), 0.0, 1.0, 0.0)]
    anatomy.FrameLaterality = SIDE_LETTER[volume.laterality]
    anatomy.AnatomicRegionSequence = Sequence([_region(volume.laterality)])
    group.PixelMeasuresSequence = Sequence([measures])
    group.PlaneOrientationSequence = Sequence([orientation])
    group.FrameAnatomySequence = Sequence([anatomy])
    return group


def _frame(scan: Scan, number: int) -> Dataset:
    group, content, position = Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues = [1, number]
    content.StackID, content.InStackPositionNumber = "1", number
    content.FrameLabel = scan.scan_id[:16]
    group.FrameContentSequence = Sequence([content])
    x, y, z = _in_patient(np.add(scan.start_mm, _unit(scan) * scan.length_mm / scan.width / 2))
    position.ImagePositionPatient = [round(float(v), 6) for v in (x, y, z)]
    group.PlanePositionSequence = Sequence([position])
    return group


def _dimensions(data: Dataset, study: Study) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = uid(study.volume.study_id, "dimensions")
    data.DimensionOrganizationSequence = Sequence([organization])
    items = []
    for pointer, label in ((0x00209056, "Stack ID"), (0x00209057, "In-Stack Position Number")):
        item = Dataset()
        item.DimensionOrganizationUID = organization.DimensionOrganizationUID
        item.DimensionIndexPointer, item.FunctionalGroupPointer = pointer, 0x00209111
        item.DimensionDescriptionLabel = label
        items.append(item)
    data.DimensionIndexSequence = Sequence(items)


def _unit(scan: Scan) -> np.ndarray:
    return np.subtract(scan.end_mm, scan.start_mm) / scan.length_mm


def _in_patient(xy: np.ndarray) -> tuple[float, float, float]:
    """En-face (x, y) -> patient (left, posterior, head) with the depth's origin at row 0."""
    return float(xy[0]), 0.0, -float(xy[1])


class Source(NamedTuple):
    """An image that came with the study. scans: index of the volume's scan that each frame shows."""

    image: Dataset
    scans: list[int]


def read_source(path: Path | str, study: Study) -> list[Source] | None:
    """What a segmentation needs of the OPT objects the volume was read from, their patient replaced by the pseudonym.

    path: one file, or the folder that holds them. UIDs stay, to be referred to; of everything else only the frames'
    geometry is taken over. None (the caller then writes its own images) where the files hold other frames than, pixel
    by pixel, each of the volume's scans once.
    """
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    index = {_key(scan.image): k for k, scan in enumerate(study.volume.scans)}
    found = [source for file in files if (source := _read_one(file, study, index)) is not None]
    covered = sorted(k for source in found for k in source.scans)
    return found if covered == list(range(len(study.volume.scans))) else None


def _key(image: np.ndarray) -> bytes:
    return hashlib.sha256(repr((image.shape, image.dtype.str)).encode() + image.tobytes()).digest()


def _read_one(path: Path, study: Study, index: dict[bytes, int]) -> Source | None:
    try:
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return None  # inflated whole, to 1000 times its size; the reader takes no scan from it either
        given = dcmread(path)
        if given.SOPClassUID != SOP_CLASS:
            return None
        pixels = given.pixel_array
    except (OSError, InvalidDicomError, AttributeError, ValueError, RuntimeError, NotImplementedError):
        return None
    shared = given.get("SharedFunctionalGroupsSequence")
    if pixels.ndim != 3 or not shared:
        return None
    scans = [index.get(_key(np.ascontiguousarray(frame))) for frame in pixels]
    if None in scans or "PixelMeasuresSequence" not in shared[0] or "PlaneOrientationSequence" not in shared[0]:
        return None
    kept = Dataset()
    for keyword in _OF_SOURCE:
        if keyword in given:
            setattr(kept, keyword, given.get(keyword))
    kept.SharedFunctionalGroupsSequence = [_only(shared[0], "PixelMeasuresSequence", "PlaneOrientationSequence")]
    kept.PerFrameFunctionalGroupsSequence = [
        _only(item, "PlanePositionSequence") for item in given.PerFrameFunctionalGroupsSequence
    ]
    _patient(kept, study)
    return Source(kept, scans)


_OF_SOURCE = (
    "SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID FrameOfReferenceUID Modality Rows Columns "
    "NumberOfFrames BitsAllocated SamplesPerPixel PhotometricInterpretation ImageLaterality"
).split()


def _only(item: Dataset, *keywords: str) -> Dataset:
    kept = Dataset()
    for keyword in keywords:
        if keyword in item:
            setattr(kept, keyword, item.get(keyword))
    return kept
