"""The findings as one FHIR R4B document of resources: a Bundle of type `collection`.

Patient (a pseudonym) <- ImagingStudy, DocumentReference per segmentation <- Observation per finding <- Condition
candidate, DiagnosticReport `preliminary`, Provenance. fhir.resources checks structure but not the codes that R4B
requires: `check_codes` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fhir.resources.R4B.bundle import Bundle

from clarion import __version__
from clarion.errors import DataError
from clarion.findings import Finding
from clarion.oct.export.codes import (
    ERM,
    EYE,
    LOINC,
    PRIVATE_SYSTEM,
    PUCKERING,
    RETINA,
    SIDES,
    Segmented,
    algorithm_of,
    check_laterality,
    uid,
    unit_of,
    uuid_of,
)  # fmt: skip
from clarion.oct.export.opt import SOP_CLASS, created
from clarion.record import to_json, write_atomic

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from clarion.oct.study import Study

SNOMED, LOINC_SYSTEM = "http://snomed.info/sct", "http://loinc.org"
UCUM, ICD10CM = "http://unitsofmeasure.org", "http://hl7.org/fhir/sid/icd-10-cm"
DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_OPT = {"system": DICOM, "code": "OPT", "display": "Ophthalmic Tomography"}
_SEG = {"system": DICOM, "code": "SEG", "display": "Segmentation"}
HL7 = "http://terminology.hl7.org/CodeSystem"
# Value sets with the binding `required` among the elements written here (HL7 FHIR R4B 4.3.0).
REQUIRED = {
    ("Bundle", "type"): {"collection"},
    ("Patient", "gender"): {"male", "female", "other", "unknown"},
    ("ImagingStudy", "status"): {"registered", "available", "cancelled", "entered-in-error", "unknown"},
    ("DocumentReference", "status"): {"current", "superseded", "entered-in-error"},
    ("Device", "status"): {"active", "inactive", "entered-in-error", "unknown"},
    ("Observation", "status"): {"registered", "preliminary", "final", "amended", "corrected", "cancelled",
                                "entered-in-error", "unknown"},
    ("DiagnosticReport", "status"): {"registered", "partial", "preliminary", "final", "amended", "corrected",
                                     "appended", "cancelled", "entered-in-error", "unknown"},
    ("Condition", "verificationStatus"): {"unconfirmed", "provisional", "differential", "confirmed", "refuted",
                                          "entered-in-error"},
    ("Condition", "clinicalStatus"): {"active", "recurrence", "relapse", "inactive", "remission", "resolved"},
}  # fmt: skip


def build_bundle(
    study: Study, sources: list[Dataset] | None = None, segmentations: Sequence[Segmented] = ()
) -> dict[str, Any]:
    """The study's findings as a checked R4B Bundle, plain data ready for JSON.

    sources: the DICOM images the volume was read from (their UIDs), None where Clarion writes the images itself.
    segmentations: written beside the bundle; an Observation derives from those of the scans that its finding cites.
    DataError on a laterality mismatch, on a unit outside UCUM as this project uses it, and on a required code that
    is none. Ids derive from the study, times from the findings: the same study gives the same bundle.
    """
    check_laterality(study.document, study.volume.laterality)
    maker = _Maker(study, sources, segmentations)
    observations = [maker.observation(finding) for finding in study.document.findings]
    conditions = maker.conditions()
    results = [*observations, *conditions]
    report = maker.report(observations, conditions)
    documents = [maker.segmentation(held) for held in segmentations]
    resources = [maker.patient(), *maker.devices(), maker.imaging_study(), *documents, *results, report]
    resources.append(maker.provenance([*documents, *results, report]))
    bundle = {
        "resourceType": "Bundle",
        "id": str(uuid_of(maker.key, "bundle")),
        "meta": maker.meta(),
        "type": "collection",
        "timestamp": maker.time,
        "entry": [{"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource} for resource in resources],
    }
    try:
        Bundle.model_validate(bundle)
    except ValueError as error:  # pydantic's, long and of its own terms
        raise DataError(f"The findings do not fit FHIR R4B: {str(error).splitlines()[0]}") from None
    check_codes(bundle)
    check_references(bundle)
    return bundle


def write_bundle(
    study: Study, path: Path, sources: list[Dataset] | None = None, segmentations: Sequence[Segmented] = ()
) -> Path:
    """Write the bundle as JSON, whole or not at all."""
    write_atomic(path, to_json(build_bundle(study, sources, segmentations)))
    return path


def read_bundle(path: Path) -> dict[str, Any]:
    """Read and validate a bundle; DataError if it is none or breaks a required binding."""
    try:
        bundle = json.loads(Path(path).read_text(encoding="utf-8"))
        Bundle.model_validate(bundle)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no FHIR R4B bundle ({str(error).splitlines()[0]}).") from None
    check_codes(bundle)
    check_references(bundle)
    return bundle


def check_codes(bundle: dict[str, Any]) -> None:
    """DataError where a code with a required binding is outside its value set."""
    for resource in [bundle, *(entry["resource"] for entry in bundle.get("entry", []))]:
        for (kind, name), allowed in REQUIRED.items():
            if resource.get("resourceType") != kind or name not in resource:
                continue
            value = resource[name]
            code = value["coding"][0]["code"] if isinstance(value, dict) else value
            if code not in allowed:
                raise DataError(f"{kind}.{name} {code!r} is not one of {', '.join(sorted(allowed))}.")


def check_references(bundle: dict[str, Any]) -> None:
    """DataError where a resource refers to one that is not in the bundle."""
    known = {entry["fullUrl"] for entry in bundle["entry"]}

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            reference = value.get("reference")
            if isinstance(reference, str) and reference.startswith("urn:uuid:") and reference not in known:
                raise DataError(f"The bundle refers to {reference}, which it does not hold.")
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(bundle)


class _Maker:
    """The resources of one study."""

    def __init__(self, study: Study, sources: list[Dataset] | None, segmentations: Sequence[Segmented]):
        self.sources, self.segmentations = sources, segmentations
        self.document, self.volume = study.document, study.volume
        self.key = study.volume.study_id
        self.time = created(study).isoformat(timespec="seconds")

    def ref(self, *parts: object) -> dict[str, str]:
        return {"reference": f"urn:uuid:{uuid_of(self.key, *parts)}"}

    def meta(self) -> dict[str, Any]:
        """Marks what is no patient's: HTEST is HL7's mark of test data."""
        tags = [{"system": f"{PRIVATE_SYSTEM}:data-kind", "code": self.document.data_kind}]
        if self.document.data_kind != "phantom":
            return {"tag": tags}
        test = {"system": f"{HL7}/v3-ActReason", "code": "HTEST", "display": "test health data"}
        return {"security": [test], "tag": [*tags, test]}

    def resource(self, kind: str, *parts: object, **fields: Any) -> dict[str, Any]:
        kept = {name: value for name, value in fields.items() if value not in (None, [], "")}
        return {"resourceType": kind, "id": str(uuid_of(self.key, *parts)), "meta": self.meta(), **kept}

    def patient(self) -> dict[str, Any]:
        pseudonym = {"use": "secondary", "system": f"{PRIVATE_SYSTEM}:pseudonym", "value": self.volume.patient_id}
        return self.resource("Patient", "patient", identifier=[pseudonym], active=True)

    def devices(self) -> list[dict[str, Any]]:
        scanner = self.resource(
            "Device", "scanner", status="active",
            deviceName=[{"name": self.volume.device or "unknown", "type": "model-name"}],
            type=concept(SNOMED, "392012008", "Optical Coherence Tomography Scanner"),
        )  # fmt: skip
        models = sorted({algorithm_of(f, __version__).digest for f in self.document.findings} - {""})
        software = self.resource(
            "Device", "software", status="active", deviceName=[{"name": "Clarion", "type": "model-name"}],
            type={"text": "Software, not for clinical use"}, version=[{"value": __version__}],
            property=[{"type": {"text": "hash of model weights (SHA-256)"}, "valueCode": [{"text": digest}]}
                      for digest in models],
        )  # fmt: skip
        return [scanner, software]

    def imaging_study(self) -> dict[str, Any]:
        series = self._series()
        study_uid = self.sources[0].StudyInstanceUID if self.sources else uid(self.key, "study")
        return self.resource(
            "ImagingStudy", "imaging study", status="available", subject=self.ref("patient"),
            identifier=[{"system": "urn:dicom:uid", "value": f"urn:oid:{study_uid}"}],
            modality=[_OPT, _SEG] if self.segmentations else [_OPT],
            numberOfSeries=len(series), numberOfInstances=sum(s["numberOfInstances"] for s in series), series=series,
            note=[{"text": flag.message} for flag in self.volume.flags],
        )  # fmt: skip

    def _series(self) -> list[dict[str, Any]]:
        """The images by series; those that came with the study may share one."""
        volume = self.volume
        if self.sources:
            images = [(i.SeriesInstanceUID, i.SOPInstanceUID, int(i.NumberOfFrames)) for i in self.sources]
        else:
            images = [
                (uid(self.key, "series", "opt", direction), uid(self.key, "opt", direction), len(volume.of(direction)))
                for direction in sorted(volume.directions)
            ]
        by_series: dict[str, list[tuple[str, int]]] = {}
        for series, image, frames in images:
            by_series.setdefault(series, []).append((image, frames))
        rows = [(series, _OPT, SOP_CLASS, f"{sum(frames for _, frames in held)} B-scans", [i for i, _ in held])
                for series, held in by_series.items()]  # fmt: skip
        rows += [(s.data.SeriesInstanceUID, _SEG, s.data.SOPClassUID, f"Segmentation of {len(s.scans)} B-scans",
                  [s.data.SOPInstanceUID]) for s in self.segmentations]  # fmt: skip
        side = SIDES.get(volume.laterality)
        return [{
            "uid": series, "number": number, "numberOfInstances": len(held), "description": words, "modality": modality,
            "bodySite": {"system": SNOMED, "code": RETINA[0], "display": RETINA[1]},
            **({"laterality": {"system": SNOMED, "code": side[0], "display": side[1]}} if side else {}),
            "instance": [{"uid": image, "number": k,
                          "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{sop_class}"}}
                         for k, image in enumerate(held, 1)],
        } for number, (series, modality, sop_class, words, held) in enumerate(rows, 1)]  # fmt: skip

    def segmentation(self, held: Segmented) -> dict[str, Any]:
        """The segmentation's file: Observation.derivedFrom may name a DocumentReference, but no series of a study."""
        return self.resource(
            "DocumentReference", "segmentation", held.file, status="current", subject=self.ref("patient"),
            masterIdentifier={"system": "urn:dicom:uid", "value": f"urn:oid:{held.data.SOPInstanceUID}"},
            type={"text": "DICOM segmentation of membrane and retinal layers"}, date=self.time,
            author=[self.ref("software")], context={"related": [self.ref("imaging study")]},
            content=[{"attachment": {"contentType": "application/dicom", "url": held.file, "title": held.file}}],
        )  # fmt: skip

    def observation(self, finding: Finding) -> dict[str, Any]:
        """One finding; its interval as two components beside the value, its level said in their text."""
        eye = finding.laterality or self.volume.laterality
        algorithm = algorithm_of(finding, __version__)
        ids = {f.id for f in self.document.findings}
        scans = [name for name in finding.derived_from if name not in ids]
        notes = [f"Flagged: {finding.why}"] if finding.quality == "flagged" else []
        notes += [f"Measured on {', '.join(scans) if len(scans) <= 6 else f'{len(scans)} B-scans'}."] if scans else []
        notes += [f"Made by {algorithm.name} {algorithm.version}, " + _listed(finding.source)]
        method = finding.method or algorithm.name
        return self.resource(
            "Observation", "finding", finding.id, status="preliminary", subject=self.ref("patient"),
            identifier=[{"system": PRIVATE_SYSTEM, "value": finding.id}],
            category=[concept(f"{HL7}/observation-category", "imaging", "Imaging")],
            code=_code(finding), bodySite=_body_site(eye), method={"text": method}, device=self.ref("software"),
            issued=self.time, component=_interval(finding), note=[{"text": note} for note in notes],
            derivedFrom=[self.ref("imaging study"),
                         *(self.ref("segmentation", s.file) for s in self.segmentations if set(s.scans) & set(scans)),
                         *(self.ref("finding", name) for name in finding.derived_from if name in ids)],
            **_value(finding),
        )  # fmt: skip

    def conditions(self) -> list[dict[str, Any]]:
        """A candidate diagnosis where a membrane was found: puckering of macula, provisional."""
        present = self.document.get("erm_present")
        area = self.document.get("erm_area")
        found = present.value if present is not None else bool(area and area.value > 0)
        if not found:
            return []
        eye = (present or area).laterality or self.volume.laterality
        code, name = PUCKERING[eye]
        evidence = [f for f in self.document.findings if f.id.startswith(("erm_", "govetto"))]
        coding = [{"system": ICD10CM, "code": code, "display": name},
                  {"system": SNOMED, "code": ERM[0], "display": ERM[1]}]  # fmt: skip
        return [
            self.resource(
                "Condition", "condition", "erm", subject=self.ref("patient"), recordedDate=self.time,
                clinicalStatus=concept(f"{HL7}/condition-clinical", "active", "Active"),
                verificationStatus=concept(f"{HL7}/condition-ver-status", "provisional", "Provisional"),
                category=[concept(f"{HL7}/condition-category", "encounter-diagnosis", "Encounter Diagnosis")],
                code={"coding": coding, "text": "Epiretinal membrane: a candidate found by software"},
                bodySite=[_body_site(eye)],
                evidence=[{"detail": [self.ref("finding", f.id) for f in evidence]}],
                note=[{"text": "Proposed by software from the cited observations; not confirmed by a clinician."}],
            )
        ]  # fmt: skip

    def report(self, observations: list[dict], conditions: list[dict]) -> dict[str, Any]:
        words = [f"Not measured: {item['name']} ({item['why']})" for item in self.document.omitted]
        words += [f"Warning: {item['message']}" for item in self.document.warnings]
        return self.resource(
            "DiagnosticReport", "report", status="preliminary", subject=self.ref("patient"),
            category=[concept(f"{HL7}/v2-0074", "IMG", "Diagnostic Imaging")],
            code=concept(SNOMED, "700070005", "Optical coherence tomography of retina"), issued=self.time,
            imagingStudy=[self.ref("imaging study")],
            result=[{"reference": f"urn:uuid:{o['id']}"} for o in observations],
            conclusion=" ".join(w if w.endswith(".") else f"{w}." for w in words),
            conclusionCode=[condition["code"] for condition in conditions],
        )  # fmt: skip

    def provenance(self, targets: list[dict]) -> dict[str, Any]:
        return self.resource(
            "Provenance", "provenance", recorded=self.time,
            target=[{"reference": f"urn:uuid:{target['id']}"} for target in targets],
            activity=concept(f"{HL7}/v3-DataOperation", "CREATE", "create"),
            agent=[{"type": concept(f"{HL7}/provenance-participant-type", "assembler", "Assembler"),
                    "who": self.ref("software")}],
            entity=[{"role": "source", "what": self.ref("imaging study")}],
        )  # fmt: skip


def concept(system: str, code: str, display: str) -> dict[str, Any]:
    """A CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _code(finding: Finding) -> dict[str, Any]:
    coding = [{"system": PRIVATE_SYSTEM, "code": finding.id, "display": finding.name}]
    if loinc := finding.codes.get("loinc"):
        coding.insert(0, {"system": LOINC_SYSTEM, "code": loinc, "display": LOINC.get(loinc, finding.name)})
    if snomed := finding.codes.get("snomed"):
        coding.insert(0, {"system": SNOMED, "code": snomed})
    return {"coding": coding, "text": finding.name}


def _body_site(eye: str | None) -> dict[str, Any]:
    """The eye, and which: R4B has no element for laterality, so both are codings of one concept."""
    site = concept(SNOMED, *EYE)
    if eye:
        code, name = SIDES[eye]
        site["coding"].append({"system": SNOMED, "code": code, "display": name})
        site["text"] = f"Retina of the {name.lower()} eye"
    else:
        site["text"] = "Retina, eye unknown"
    return site


def _quantity(value: float, finding: Finding) -> dict[str, Any]:
    unit, words = unit_of(finding)
    return {"value": float(value), "unit": words, "system": UCUM, "code": unit}


def _value(finding: Finding) -> dict[str, Any]:
    if isinstance(finding.value, bool):
        return {"valueBoolean": finding.value}
    if isinstance(finding.value, str):
        return {"valueString": finding.value}
    return {"valueQuantity": _quantity(finding.value, finding)}


def _interval(finding: Finding) -> list[dict[str, Any]]:
    if finding.interval is None:
        return []
    low, high, level = finding.interval
    return [
        {
            "code": {"coding": [{"system": PRIVATE_SYSTEM, "code": f"interval-{end}"}],
                     "text": f"{end} end of the {100 * level:g} % interval"},
            "valueQuantity": _quantity(bound, finding),
        }
        for end, bound in (("lower", low), ("upper", high))
    ]  # fmt: skip


def _listed(source: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in source.items()) or "no model"
