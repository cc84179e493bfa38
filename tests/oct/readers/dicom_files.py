"""DICOM OPT and reference pictures, written with pydicom as the standard says."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
PHOTO = "1.2.840.10008.5.1.4.1.1.77.1.5.1"


def _base(kind: str, pixels: np.ndarray, patient: str, eye: str | None) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = kind
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.PatientName, data.PatientID = "Mueller^Anna", patient
    data.PatientBirthDate, data.PatientSex = "19500101", "F"
    data.Modality = "OPT" if kind == OPT else "OP"
    data.Manufacturer, data.ManufacturerModelName = "Heidelberg Engineering", "SPECTRALIS"
    data.AcquisitionDateTime = "20210304101112"
    if eye:
        data.ImageLaterality = eye
    bits = 8 * pixels.dtype.itemsize
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit = bits - 1
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    return data


def _one(**values) -> Sequence:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Sequence([item])


def photograph(picture: np.ndarray, mm_per_px: float, patient="4711", eye: str | None = "R") -> Dataset:
    data = _base(PHOTO, picture, patient, eye)
    data.PixelSpacing = [mm_per_px, mm_per_px]
    return data


def opt(
    bscans: np.ndarray,
    spacing=(0.003872, 0.0117),
    reference: Dataset | None = None,
    places=None,
    in_patient=None,
    patient="4711",
    eye: str | None = "R",
    orientation="LINEAR",
) -> Dataset:
    """A multi-frame OPT of uint8 or uint16 [n, rows, columns]. places: per frame (row0, column0, row1, column1) on the
    reference picture; in_patient: per frame (position [3], row direction [3])."""
    data = _base(OPT, bscans, patient, None)
    data.NumberOfFrames = len(bscans)
    shared = Dataset()
    if spacing is not None:
        shared.PixelMeasuresSequence = _one(PixelSpacing=[f"{v:.8f}" for v in spacing])
    if eye:
        shared.FrameAnatomySequence = _one(FrameLaterality=eye)
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    frames, uid = [], reference.SOPInstanceUID if reference is not None else generate_uid()
    for k in range(len(bscans)):
        frame = Dataset()
        if places is not None:
            frame.OphthalmicFrameLocationSequence = _one(
                ReferencedSOPClassUID=PHOTO,
                ReferencedSOPInstanceUID=uid,
                ReferenceCoordinates=[float(v) for v in places[k]],
                OphthalmicImageOrientation=orientation,
            )
        if in_patient is not None:
            position, along = in_patient[k]
            frame.PlanePositionSequence = _one(ImagePositionPatient=[float(v) for v in position])
            frame.PlaneOrientationSequence = _one(ImageOrientationPatient=[*map(float, along), 0.0, 1.0, 0.0])
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return data


def write(path: Path, data: Dataset, compress: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if compress == JPEG2000Lossless:  # gdcm reads it, and no installed library of pydicom's writes it
        frames = []
        for frame in np.frombuffer(data.PixelData, np.uint8).reshape(-1, data.Rows, data.Columns):
            stream = io.BytesIO()
            Image.fromarray(frame).save(stream, "JPEG2000", no_jp2=True)
            frames.append(stream.getvalue())
        data.PixelData = encapsulate(frames)
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = compress
    elif compress:
        data.compress(compress)
    data.save_as(path, enforce_file_format=True)
    return path


def write_deflated(path: Path, data: Dataset) -> Path:
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return write(path, data)


def as_bytes(data: Dataset) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder) / "a.dcm", data).read_bytes()
