"""Small slides that tests write: H&E-like pictures as TIFF pyramids of several kinds, and as tiled DICOM."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile
from imagecodecs import jpeg8_encode
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, generate_uid

WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"


def tissue_picture(height: int = 1024, width: int = 1280, seed: int = 0) -> np.ndarray:
    """uint8 [h, w, 3]: at 0.5 um a pixel, glass with one piece of stained texture in its middle 60 %."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((height, width), dtype=np.float32)
    nuclei = cv2.GaussianBlur(noise, (0, 0), 4)
    nuclei = np.clip(nuclei / nuclei.std() - 1, 0, 1.5)
    fibres = cv2.GaussianBlur(noise[::-1], (0, 0), 8, sigmaY=2)
    eosin = np.clip(0.45 + 0.15 * fibres / fibres.std(), 0.1, 1)
    y, x = np.ogrid[:height, :width]
    inside = (np.abs(y / height - 0.5) < 0.3) & (np.abs(x / width - 0.5) < 0.3)
    density = (nuclei * 0.9)[..., None] * (0.65, 0.70, 0.29) + eosin[..., None] * (0.07, 0.79, 0.21)
    density = density * inside[..., None]
    return np.clip(241 * np.exp(-density) + rng.normal(0, 1, density.shape), 0, 255).astype(np.uint8)


def smaller(picture: np.ndarray, factor: int) -> np.ndarray:
    return cv2.resize(picture, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)


def write_pyramid(
    path: Path,
    picture: np.ndarray,
    factors=(1, 4),
    mpp: float | None = 0.5,
    tile: int | None = 256,
    subifds=False,
    **more,
) -> Path:
    """A TIFF of the picture at 1 / factors; tile=None: in strips; subifds: the levels below the first page."""
    options = {"compression": "jpeg", "compressionargs": {"level": 85}, "photometric": "rgb"} | more
    if tile:
        options["tile"] = (tile, tile)
    if mpp:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for k, factor in enumerate(factors):
            extra = {"subifds": len(factors) - 1} if subifds and k == 0 else {}
            level = smaller(picture, factor) if factor > 1 else picture
            file.write(level, subfiletype=int(k > 0), metadata=None, **options, **extra)
    return path


def write_dicom(folder: Path, picture: np.ndarray, mpp: float = 0.5, tile: int = 256) -> Path:
    """A folder with one VL Whole Slide Microscopy instance, TILED_FULL, JPEG baseline; it names a patient."""
    folder.mkdir(parents=True, exist_ok=True)
    height, width = picture.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = cv2.copyMakeBorder(
        picture, 0, rows * tile - height, 0, columns * tile - width, cv2.BORDER_CONSTANT, value=(255,) * 3
    )
    frames = [
        jpeg8_encode(
            np.ascontiguousarray(padded[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile]),
            level=90, colorspace="RGB", outcolorspace="YCBCR", subsampling="422",
        )
        for r in range(rows)
        for c in range(columns)
    ]  # fmt: skip
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = WSI, generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    path = folder / "instance.dcm"
    d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = WSI, meta.MediaStorageSOPInstanceUID
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    d.PatientName, d.PatientID, d.Modality = "Hong^Gildong", "1234567", "SM"
    d.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    d.Rows = d.Columns = tile
    d.TotalPixelMatrixColumns, d.TotalPixelMatrixRows, d.TotalPixelMatrixFocalPlanes = width, height, 1
    d.NumberOfFrames, d.NumberOfOpticalPaths = len(frames), 1
    d.DimensionOrganizationType = "TILED_FULL"
    d.SamplesPerPixel, d.PhotometricInterpretation, d.PlanarConfiguration = 3, "YBR_FULL_422", 0
    d.BitsAllocated = d.BitsStored = 8
    d.HighBit, d.PixelRepresentation = 7, 0
    d.ImagedVolumeWidth, d.ImagedVolumeHeight, d.ImagedVolumeDepth = width * mpp / 1e3, height * mpp / 1e3, 0.001
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1e3, mpp / 1e3], 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([measures])
    d.SharedFunctionalGroupsSequence = Sequence([shared])
    optical = Dataset()
    optical.OpticalPathIdentifier, optical.ObjectiveLensPower = "1", 20
    d.OpticalPathSequence = Sequence([optical])
    d.PixelData = encapsulate(frames)
    d["PixelData"].VR = "OB"
    d.save_as(path, enforce_file_format=True)
    return folder
