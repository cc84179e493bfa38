"""The membrane and the retinal layers as a DICOM Segmentation of the B-scans it was measured on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from clarion import __version__
from clarion.errors import DataError
from clarion.oct.export.codes import ERM, PRIVATE, RETINA, uid
from clarion.oct.export.opt import stamp

if TYPE_CHECKING:
    from clarion.oct.study import Study

LAYERS = ("RNFL", "GCL + IPL", "INL", "OPL", "ONL to EZ", "EZ to RPE", "RPE to BM")  # between consecutive SURFACES
ERM_SEGMENT = 1  # layers follow it, in the order of LAYERS
BAND_UM = 23.0  # a membrane's line as a Spectralis shows it, full width at half maximum
PRESENT = 0.5


def label_scan(surfaces: np.ndarray, presence: np.ndarray | None, depth: int, axial_um: float) -> np.ndarray:
    """Segment numbers of one B-scan, uint8 [depth, width]; 0 where there is neither membrane nor layer.

    surfaces: float [8, width] rows, NaN where not measured (both bounds of a layer must be). presence: float [width];
    where it is at least 0.5 the membrane is painted as a band of 23 um on the vitreous side of the ILM.
    """
    row = np.arange(depth)[:, None] + 0.5
    labels = np.zeros((depth, surfaces.shape[1]), np.uint8)
    for k in range(len(LAYERS)):
        labels[(row >= surfaces[k]) & (row < surfaces[k + 1])] = k + 1 + ERM_SEGMENT
    if presence is not None:
        band = (row < surfaces[0]) & (row >= surfaces[0] - BAND_UM / axial_um) & (presence >= PRESENT)
        labels[band] = ERM_SEGMENT
    return labels


def write_seg(study: Study, source: Dataset, name: str, scans: list[int], series: int) -> hd.seg.Segmentation | None:
    """A binary segmentation of `source`, whose frames are the study's scans of these indices, in memory.

    name: tells the segmentations of one study apart; series: the series' number.

    None where nothing was segmented in any of them. Raises DataError when the source has other frames than that.
    """
    volume = study.volume
    shapes = {(*volume.scans[k].image.shape,) for k in scans}
    if int(source.get("NumberOfFrames", 1)) != len(scans) or shapes != {(source.Rows, source.Columns)}:
        raise DataError("The DICOM image to be segmented has other frames than the volume that was measured.")
    labels = np.stack(
        [
            label_scan(
                study.surfaces[k], None if study.presence is None else study.presence[k], volume.depth, volume.axial_um
            )
            for k in scans
        ]
    )
    # Segment numbers of a SEG count from 1 without gaps, so what does not occur is left out and the rest moves up.
    present = [int(number) for number in np.unique(labels) if number]
    if not present:
        return None
    renumber = np.zeros(labels.max() + 1, np.uint8)
    renumber[present] = np.arange(1, len(present) + 1)
    seg = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=renumber[labels],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(study, number, k + 1) for k, number in enumerate(present)],
        series_instance_uid=uid(volume.study_id, "series", "seg", name),
        series_number=series,
        sop_instance_uid=uid(volume.study_id, "seg", name),
        instance_number=1,
        manufacturer="Clarion",
        manufacturer_model_name="Clarion OCT quantification",
        software_versions=__version__,
        device_serial_number=__version__,
        content_label="ERM_LAYERS",
        content_description="Epiretinal membrane and retinal layers",
        series_description=f"Membrane and layers, {name}",
    )
    # Whole slices of one bit a pixel: empty almost everywhere, 50 to 100 times smaller when deflated.
    seg.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stamp(seg, study)
    organization = uid(volume.study_id, "dimensions", "seg", name)  # highdicom draws one at random
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return seg


def segment_number(seg: hd.seg.Segmentation, label: str) -> int | None:
    """The number of the segment with this label, None where the segmentation has none."""
    return next((int(s.SegmentNumber) for s in seg.SegmentSequence if s.SegmentLabel == label), None)


def _description(study: Study, number: int, at: int) -> hd.seg.SegmentDescription:
    membrane = number == ERM_SEGMENT
    label = "ERM" if membrane else LAYERS[number - 1 - ERM_SEGMENT]
    category = ("49755003", "Morphologically Abnormal Structure") if membrane else ("91723000", "Anatomical Structure")
    kind = (
        hd.sr.CodedConcept(ERM[0], "SCT", ERM[1])
        if membrane
        else hd.sr.CodedConcept(f"LAYER{number - ERM_SEGMENT}", PRIVATE, f"Retina, {label}")
    )
    return hd.seg.SegmentDescription(
        segment_number=at,
        segment_label=label,
        segmented_property_category=hd.sr.CodedConcept(category[0], "SCT", category[1]),
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="Clarion ERM presence" if membrane else "Clarion OCT layers",
            version=__version__,
            family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
        ),
        tracking_uid=uid(study.volume.study_id, "track", number),
        tracking_id=label,
        anatomic_regions=[hd.sr.CodedConcept(RETINA[0], "SCT", RETINA[1])],
    )
