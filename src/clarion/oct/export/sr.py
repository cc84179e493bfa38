"""The findings as a DICOM structured report: TID 1500 Measurement Report in a Comprehensive 3D SR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import highdicom as hd
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from clarion import __version__
from clarion.errors import DataError
from clarion.findings import Document, Finding
from clarion.oct.export.codes import (
    LOINC,
    PRIVATE,
    RETINA,
    SIDES,
    algorithm_of,
    check_laterality,
    uid,
    unit_of,
)  # fmt: skip
from clarion.oct.export.opt import stamp
from clarion.oct.export.seg import segment_number

if TYPE_CHECKING:
    from clarion.oct.study import Study

_UPPER, _LOWER = "371886008", "371885007"  # SNOMED: range of upper, lower measurement uncertainty
_QUALITY = CodedConcept("QUALITY", PRIVATE, "Quality of the finding")
_EVALUATIONS = CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")  # TID 1500, beside Imaging Measurements
_REMARKS = {
    "warnings": CodedConcept("WARNING", PRIVATE, "Warning"),
    "omitted": CodedConcept("NOT_MEASURED", PRIVATE, "Not measured"),
}


class Frame(NamedTuple):
    """Where a scan lies in the DICOM images: the image and its frame number, from 1."""

    image: Dataset
    number: int


def write_sr(
    study: Study,
    images: Mapping[str, Dataset],
    segmentations: Mapping[str, hd.seg.Segmentation],
    frames: Mapping[str, Frame],
) -> hd.sr.Comprehensive3DSR:
    """All findings of the study, each with unit, interval, eye, algorithm and the frames it was measured on.

    images, segmentations: source images and what was segmented in them, by direction; frames: by scan id. Numbers are
    measurements, their interval the upper and lower measurement uncertainty (its level stands in the algorithm's
    parameters); words and yes/no are qualitative evaluations. Findings of the membrane point at its segment where one
    was painted. Each warning and each thing not measured is a text of the report's own Qualitative Evaluations.
    DataError on a laterality mismatch and on units outside UCUM as this project uses it.
    """
    document, volume = study.document, study.volume
    check_laterality(document, volume.laterality)
    if not document.findings:
        raise DataError("There is no finding to report: nothing could be measured in this study.")
    segment = next(
        ((seg, number) for seg in segmentations.values() if (number := segment_number(seg, "ERM")) is not None), None
    )
    membrane = [f for f in document.findings if f.id.startswith("erm_")] if segment else []
    rest = [f for f in document.findings if f not in membrane]
    groups = []
    if membrane:
        groups.append(_segment_group(study, membrane, frames, images, *segment))
    if rest:
        groups.append(
            hd.sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=_tracking(study, "retina"),
                finding_sites=[_site(volume.laterality)],
                source_images=[
                    hd.sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)
                    for image in images.values()
                ],
                **_content(study, rest, frames),
            )
        )
    report = hd.sr.MeasurementReport(
        observation_context=_observer(study),
        procedure_reported=CodedConcept("700070005", "SCT", "Optical coherence tomography of retina"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    if remarks := _remarks(study.document):
        report[0].ContentSequence.append(remarks)
    sr = hd.sr.Comprehensive3DSR(
        evidence=[*images.values(), *segmentations.values()],
        content=report,
        series_instance_uid=uid(volume.study_id, "series", "sr"),
        series_number=21,
        sop_instance_uid=uid(volume.study_id, "sr"),
        instance_number=1,
        manufacturer="Clarion",
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description="PHANTOM: findings" if document.data_kind == "phantom" else "Findings, preliminary",
    )
    stamp(sr, study)
    return sr


def read_findings(path: Path | str) -> list[dict[str, Any]]:
    """What a report of this module says, in its order: {id, name, value, unit, interval, laterality, codes, algorithm,
    version, parameters}; value of words as text, unit None there."""
    sr = hd.sr.srread(path)
    found = []
    groups = [*sr.content.get_volumetric_roi_measurement_groups(), *sr.content.get_image_measurement_groups()]
    for group in groups:
        for item in group.get_measurements():
            found.append(_measurement_read(item))
        for item in group.get_qualitative_evaluations():
            if item.name.value != _QUALITY.value:
                found.append({"id": item.name.value, "name": item.name.meaning, "value": item.value.meaning,
                              "unit": None, "interval": None})  # fmt: skip
    return found


def read_remarks(path: Path | str) -> dict[str, list[str]]:
    """What else a report of this module says: {"warnings": [sentence], "omitted": ["name: reason"]}."""
    found: dict[str, list[str]] = {kind: [] for kind in _REMARKS}
    for container in hd.sr.srread(path).content[0].ContentSequence:
        if container.ConceptNameCodeSequence[0].CodeValue != _EVALUATIONS.value:
            continue
        for item in container.ContentSequence:
            for kind, concept in _REMARKS.items():
                if item.ConceptNameCodeSequence[0].CodeValue == concept.value:
                    found[kind].append(item.TextValue)
    return found


def _remarks(document: Document) -> hd.sr.ContainerContentItem | None:
    """Warnings and what was not measured as texts: a code's meaning ends at 64 letters. None where there is none."""
    texts = [("warnings", item["message"]) for item in document.warnings]
    texts += [("omitted", f"{item['name']}: {item['why']}") for item in document.omitted]
    if not texts:
        return None
    container = hd.sr.ContainerContentItem(_EVALUATIONS, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS)
    container.ContentSequence = hd.sr.ContentSequence(
        hd.sr.TextContentItem(_REMARKS[kind], text, hd.sr.RelationshipTypeValues.CONTAINS) for kind, text in texts
    )
    return container


def _segment_group(study, findings, frames, images, seg, number):
    source = next(i for i in images.values() if i.SOPInstanceUID == _source_uid(seg))
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(study, "erm"),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_images=[hd.sr.SourceImageForSegmentation(source.SOPClassUID, source.SOPInstanceUID)],
        ),
        finding_type=CodedConcept("367649002", "SCT", "Epiretinal membrane"),
        finding_sites=[_site(study.volume.laterality)],
        **_content(study, findings, frames),
    )


def _source_uid(seg: hd.seg.Segmentation) -> str:
    return seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID


def _content(study: Study, findings: list[Finding], frames: Mapping[str, Frame]) -> dict[str, list]:
    """The measurements and evaluations of a group; an empty list is left out, as its template asks."""
    numbers = [f for f in findings if isinstance(f.value, (int, float)) and not isinstance(f.value, bool)]
    words = [f for f in findings if f not in numbers]
    evaluations = [_evaluation(f) for f in words]
    evaluations += [
        hd.sr.QualitativeEvaluation(
            name=_QUALITY, value=CodedConcept(f"FLAGGED_{f.id}", PRIVATE, f"{f.id}: {f.why}"[:64])
        )
        for f in findings
        if f.quality == "flagged"
    ]
    content = {
        "measurements": [_measurement(study, f, frames) for f in numbers],
        "qualitative_evaluations": evaluations,
    }
    return {name: items for name, items in content.items() if items}


def _measurement(study: Study, finding: Finding, frames: Mapping[str, Frame]) -> hd.sr.Measurement:
    unit = _unit(finding)
    properties = None
    if finding.interval is not None:
        low, high, _ = finding.interval
        properties = hd.sr.MeasurementProperties(
            upper_measurement_uncertainty=float(high - finding.value),
            lower_measurement_uncertainty=float(finding.value - low),
        )
        for item in properties:  # highdicom gives them no unit; they are in the measurement's own
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [
                CodedConcept(unit.value, "UCUM", unit.meaning)
            ]
    algorithm = algorithm_of(finding, __version__)
    return hd.sr.Measurement(
        name=_name(finding),
        value=float(finding.value),
        unit=unit,
        tracking_identifier=_tracking(study, finding.id),
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=algorithm.name, version=algorithm.version, parameters=_parameters(finding)
        ),
        finding_sites=[_site(finding.laterality or study.volume.laterality)],
        properties=properties,
        referenced_images=_images(finding, frames) or None,
    )


def _images(finding: Finding, frames: Mapping[str, Frame]) -> list[hd.sr.SourceImageForMeasurement]:
    """One reference an image: to the frames the finding cites, to the whole image where it cites all of them."""
    cited: dict[str, list[Frame]] = {}
    for name in finding.derived_from:
        if name in frames:
            cited.setdefault(frames[name].image.SOPInstanceUID, []).append(frames[name])
    found = []
    for instance, shown in cited.items():
        image = shown[0].image
        numbers = sorted({frame.number for frame in shown})
        whole = len(numbers) == int(image.NumberOfFrames)
        found.append(hd.sr.SourceImageForMeasurement(image.SOPClassUID, instance, None if whole else numbers))
    return found


def _parameters(finding: Finding) -> list[str]:
    """What no coded item of TID 1419 holds: hashes, the interval as it was given, the method, doubts."""
    lines = [f"{name}={value}" for name, value in finding.source.items() if name != "version"]
    if finding.interval is not None:
        low, high, level = map(float, finding.interval)
        lines.append(f"interval={low!r}..{high!r} level={level!r}")
    if finding.method:
        lines.append(f"method={finding.method}")
    lines.append(f"data={finding.data_kind}")
    if finding.quality == "flagged":
        lines.append(f"flagged={finding.why}")
    return lines


def _evaluation(finding: Finding) -> hd.sr.QualitativeEvaluation:
    if isinstance(finding.value, bool):
        value = CodedConcept("373066001", "SCT", "Yes") if finding.value else CodedConcept("373067005", "SCT", "No")
    else:
        word = str(finding.value)
        value = CodedConcept(f"{finding.id}:{word}"[:64], PRIVATE, word[:64] or "none")
    return hd.sr.QualitativeEvaluation(name=_name(finding), value=value)


def _name(finding: Finding) -> CodedConcept:
    loinc = finding.codes.get("loinc")
    if loinc:
        return CodedConcept(loinc, "LN", LOINC.get(loinc, finding.name)[:64])
    return CodedConcept(finding.id[:64], PRIVATE, finding.name[:64])


def _unit(finding: Finding) -> Code:
    unit, words = unit_of(finding)
    return Code(unit, "UCUM", words)


def _site(laterality: str | None) -> hd.sr.FindingSite:
    side = CodedConcept(SIDES[laterality][0], "SCT", SIDES[laterality][1]) if laterality else None
    return hd.sr.FindingSite(CodedConcept(RETINA[0], "SCT", RETINA[1]), laterality=side)


def _tracking(study: Study, name: str) -> hd.sr.TrackingIdentifier:
    return hd.sr.TrackingIdentifier(uid=uid(study.volume.study_id, "finding", name), identifier=name)


def _observer(study: Study) -> hd.sr.ObservationContext:
    return hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=uid("clarion", "device", __version__),
                name="Clarion",
                manufacturer_name="Clarion",
                model_name=f"Clarion {__version__}",
            ),
        )
    )


def _measurement_read(item: hd.sr.Measurement) -> dict[str, Any]:
    texts = {}
    parameters, bounds, name, version, laterality, identifier = [], {}, "", "", None, ""
    for part in item[0].ContentSequence:
        concept = part.ConceptNameCodeSequence[0]
        key = concept.get("CodeValue", "")
        if part.ValueType == "NUM" and key in (_UPPER, _LOWER):
            measured = part.MeasuredValueSequence[0]
            bounds[key] = float(measured.get("FloatingPointValue", measured.NumericValue))
        elif part.ValueType == "TEXT":
            texts.setdefault(concept.CodeMeaning, []).append(part.TextValue)
        elif part.ValueType == "CODE" and concept.CodeMeaning == "Finding Site":
            for modifier in part.get("ContentSequence", []):
                laterality = {code: eye for eye, (code, _) in SIDES.items()}.get(
                    modifier.ConceptCodeSequence[0].CodeValue, laterality
                )
    parameters = texts.get("Algorithm Parameters", [])
    name, version = (texts.get(f"Algorithm {part}", [""])[0] for part in ("Name", "Version"))
    identifier = texts.get("Tracking Identifier", [""])[0]
    value, level = float(item.value), None
    for line in parameters:
        if line.startswith("interval="):
            low, high = line.removeprefix("interval=").split(" ")[0].split("..")
            level = (float(low), float(high), float(line.rsplit("level=", 1)[1]))
    return {
        "id": identifier, "name": item.name.meaning, "value": value, "unit": item.unit.value, "interval": level,
        "uncertainty": (bounds.get(_LOWER), bounds.get(_UPPER)) if bounds else None, "laterality": laterality,
        "codes": {"loinc": item.name.value} if item.name.scheme_designator == "LN" else {},
        "algorithm": name, "version": version, "parameters": parameters,
    }  # fmt: skip
