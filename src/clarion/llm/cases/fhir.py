"""Case reports from FHIR bundles (R4B and R5), with Condition resources as the diagnoses.

Each resource is validated by fhir.resources. Active, confirmed conditions are diagnoses; resolved and inactive ones are
history, refuted ones are denied, relatives' ones come from FamilyMemberHistory. What is provisional is neither.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clarion.errors import DataError
from clarion.llm.cases.readers import case_from_dict, checked_code, decoded, eye_of
from clarion.llm.cases.schema import CaseReport

log = logging.getLogger(__name__)
MAX_BUNDLE_BYTES = 64_000_000
MAX_RESOURCES = 200_000
ICD10CM = "http://hl7.org/fhir/sid/icd-10-cm"
ICD10PCS = ("http://www.cms.gov/medicare/coding/icd10", "http://hl7.org/fhir/sid/icd-10-pcs")
ATC, LOINC = "http://www.whocc.no/atc", "http://loinc.org"
_EYE_SNOMED = {"24028007": "OD", "7771000": "OS", "51440002": "OU", "81745001": None}
_USED = (
    "Patient", "Condition", "Observation", "Procedure", "MedicationRequest", "MedicationStatement",
    "FamilyMemberHistory", "DocumentReference", "DiagnosticReport", "ClinicalImpression",
)  # fmt: skip
_ENDED = {"inactive", "remission", "resolved"}
_UNSURE = {"unconfirmed", "provisional", "differential", "entered-in-error"}


def read_bundle(path: Path) -> list[CaseReport]:
    """The cases of a bundle file, one a patient, in the order in which the patients are met.

    The note is the narrative of DocumentReference, DiagnosticReport.conclusion and ClinicalImpression.summary;
    where a patient has none, it is written from history, findings, labs and treatment (never from the diagnoses).
    Raises DataError for text that is no bundle, resources that FHIR refuses, codes that do not exist, files over the
    limits."""
    where = path.name
    try:
        raw = json.loads(decoded(path, MAX_BUNDLE_BYTES))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} is no JSON ({error}); give a FHIR bundle.") from None
    if not isinstance(raw, dict) or raw.get("resourceType") != "Bundle":
        found = raw.get("resourceType") if isinstance(raw, dict) else type(raw).__name__
        raise DataError(
            f"{where} is no FHIR bundle (resourceType {str(found)[:40]!r}); put the resources into a Bundle."
        )
    entries = raw.get("entry") or []
    if not isinstance(entries, list) or len(entries) > MAX_RESOURCES:
        raise DataError(f"{where}: entry must be a list of at most {MAX_RESOURCES:,} resources.")
    people: dict[str, dict[str, list[dict]]] = {}
    lone = _only_patient(entries)
    for number, resource in _resources(entries, where):
        kind = resource["resourceType"]
        owner = _owner(resource) or lone
        if owner is None:
            raise DataError(f"{where} entry {number}: {kind} names no patient (subject); the bundle has several.")
        people.setdefault(owner, {}).setdefault(kind, []).append(resource)
    cases = [_case(owner, found, f"{where} (patient {n})") for n, (owner, found) in enumerate(people.items(), start=1)
             if "Condition" in found]  # fmt: skip
    if not cases:
        raise DataError(f"{where} holds no Condition resource; a case report needs its diagnoses.")
    return cases


def _resources(entries: list[Any], where: str) -> Iterator[tuple[int, dict]]:
    """(number, resource) of the kinds in use, each validated; other kinds are counted and left out."""
    ignored: Counter[str] = Counter()
    for number, entry in enumerate(entries, start=1):
        resource = entry.get("resource") if isinstance(entry, Mapping) else None
        if not isinstance(resource, Mapping) or not isinstance(resource.get("resourceType"), str):
            raise DataError(f"{where} entry {number} holds no resource.")
        if resource["resourceType"] not in _USED:
            ignored[resource["resourceType"]] += 1
            continue
        _validate(resource, f"{where} entry {number}")
        yield number, dict(resource)
    if ignored:
        log.info("%s: left out %s", where, ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items())))


def _validate(resource: Mapping[str, Any], where: str) -> None:
    """By the R4B model, or the R5 one (their Condition and MedicationRequest differ)."""
    from fhir.resources import get_fhir_model_class
    from fhir.resources.R4B import get_fhir_model_class as r4b_class
    from pydantic import ValidationError

    problem = None
    for find in (r4b_class, get_fhir_model_class):
        try:
            find(resource["resourceType"]).model_validate(dict(resource))
            return
        except KeyError:
            continue
        except (ValidationError, TypeError) as error:
            problem = problem or error
    told = "unknown resource"
    if isinstance(problem, ValidationError):
        first = problem.errors()[0]
        told = f"{'.'.join(map(str, first['loc'])) or 'resource'}: {' '.join(first['msg'].split())}"[:160]
    raise DataError(f"{where}: the {resource['resourceType']} is no valid FHIR R4B or R5 ({told}).")


def _only_patient(entries: list[Any]) -> str | None:
    found = {
        str(resource.get("id"))
        for entry in entries
        if isinstance(entry, Mapping) and isinstance(resource := entry.get("resource"), Mapping)
        if resource.get("resourceType") == "Patient" and resource.get("id")
    }
    return found.pop() if len(found) == 1 else None


def _owner(resource: Mapping[str, Any]) -> str | None:
    if resource["resourceType"] == "Patient":
        return str(resource["id"]) if resource.get("id") else None
    reference = (resource.get("subject") or resource.get("patient") or {}).get("reference")
    return re.split(r"[/:]", str(reference))[-1] if reference else None


def _case(owner: str, found: dict[str, list[dict]], where: str) -> CaseReport:
    patient = (found.get("Patient") or [{}])[0]
    diagnoses, history, mentions = _conditions(found["Condition"], where)
    mentions += [
        {"text": _words(c.get("code")), "kind": "family", "code": _coded(c.get("code"), (ICD10CM,))}
        for member in found.get("FamilyMemberHistory", [])
        for c in member.get("condition", [])
        if _words(c.get("code"))
    ]
    findings, labs = _observations(found.get("Observation", []))
    raw: dict[str, Any] = {
        "patient_id": owner,
        "case_id": owner,
        "sex": patient.get("gender"),
        "age": _age(patient.get("birthDate"), found),
        "diagnoses": diagnoses,
        "history": history,
        "mentions": mentions,
        "findings": findings,
        "labs": labs,
        "procedures": [
            {"title": _words(p.get("code")), "code": _coded(p.get("code"), ICD10PCS),
             "laterality": _eye(p.get("bodySite"), p.get("code"))}
            for p in found.get("Procedure", []) if _words(p.get("code"))
        ],
        "treatment": [
            {"text": _words(_drug(m)), "code": _coded(_drug(m), (ATC,))}
            for kind in ("MedicationRequest", "MedicationStatement")
            for m in found.get(kind, []) if _words(_drug(m))
        ],
    }  # fmt: skip
    eyes = {d["laterality"] for d in diagnoses if d["laterality"]}
    raw["laterality"] = eyes.pop() if len(eyes) == 1 else "OU" if eyes else None
    narrative = "\n".join(_narrative(found, where))
    raw["note"] = without_names(narrative, patient) if narrative else structured_note(raw)
    return case_from_dict(raw, where)


def _conditions(conditions: list[dict], where: str) -> tuple[list[dict], list[str], list[dict]]:
    diagnoses, history, mentions = [], [], []
    for condition in conditions:
        code = _coded(condition.get("code"), (ICD10CM,))
        clinical, verified = (
            next(iter(c.get("code", "") for c in (condition.get(name) or {}).get("coding", [])), "")
            for name in ("clinicalStatus", "verificationStatus")
        )
        words = _words(condition.get("code"))
        if verified in _UNSURE:
            continue
        if verified == "refuted" or clinical in _ENDED:
            kind = "negated" if verified == "refuted" else "history"
            mentions.append({"text": words or code, "kind": kind, "code": code})
            history += [words or code] if kind == "history" else []
            continue
        if not code:
            raise DataError(
                f"{where}: a Condition has no code of {ICD10CM}; add one, or set its verificationStatus to unconfirmed."
            )
        code = checked_code(code, where)
        diagnoses.append({"code": code, "laterality": _eye(condition.get("bodySite"), condition.get("code"))})
    return diagnoses, history, mentions


def _observations(observations: list[dict]) -> tuple[list[dict], list[dict]]:
    findings, labs = [], []
    for observation in observations:
        name, quantity = _words(observation.get("code")), observation.get("valueQuantity") or {}
        value = quantity.get("value", observation.get("valueString"))
        value = _words(observation.get("valueCodeableConcept")) if value is None else value
        if value in (None, "") or not name:
            continue
        unit, code = quantity.get("code") or quantity.get("unit"), _coded(observation.get("code"), (LOINC,))
        categories = {c.get("code") for group in observation.get("category", []) for c in group.get("coding", [])}
        if "laboratory" in categories:
            labs.append({"name": name, "value": value, "unit": unit, "code": code})
            continue
        eye = _eye(observation.get("bodySite"), observation.get("code"))
        findings.append(
            {"id": f"finding_{len(findings) + 1}", "name": name, "value": value, "unit": unit, "body_site": "eye",
             "laterality": eye if eye != "OU" else None, "codes": {"loinc": code} if code else {}}
        )  # fmt: skip
    return findings, labs


def _narrative(found: dict[str, list[dict]], where: str) -> Iterator[str]:
    for document in found.get("DocumentReference", []):
        for content in document.get("content", []):
            attachment = content.get("attachment") or {}
            if str(attachment.get("contentType", "")).startswith("text/plain") and attachment.get("data"):
                try:
                    yield base64.b64decode(attachment["data"], validate=True).decode("utf-8")
                except (binascii.Error, UnicodeDecodeError):
                    raise DataError(f"{where}: a DocumentReference holds no UTF-8 text in base64.") from None
    for report in found.get("DiagnosticReport", []):
        if report.get("conclusion"):
            yield report["conclusion"]
    for impression in found.get("ClinicalImpression", []):
        if text := impression.get("summary") or impression.get("description"):
            yield text


def structured_note(raw: Mapping[str, Any]) -> str:
    """A note of what is known besides the diagnoses, for bundles without a narrative."""
    age = f"{raw['age']}-year-old" if raw.get("age") is not None else ""
    head = " ".join(part for part in (age, raw.get("sex")) if part)

    def value(row: Mapping[str, Any]) -> str:
        return " ".join(str(row[k]) for k in ("name", "laterality", "value", "unit") if row.get(k) not in (None, ""))

    lines = [
        f"Patient: {head or 'not described'}.",
        *([f"History: {'; '.join(raw['history'])}."] if raw["history"] else []),
        *([f"Findings: {'; '.join(map(value, raw['findings']))}."] if raw["findings"] else []),
        *([f"Laboratory: {'; '.join(map(value, raw['labs']))}."] if raw["labs"] else []),
        *([f"Procedures: {'; '.join(p['title'] for p in raw['procedures'])}."] if raw["procedures"] else []),
        *([f"Treatment: {'; '.join(t['text'] for t in raw['treatment'])}."] if raw["treatment"] else []),
    ]
    return "\n".join(lines)


def without_names(text: str, patient: Mapping[str, Any]) -> str:
    """The text with the names and identifiers that the Patient resource states replaced by "[removed]".

    No de-identification: what stands in the text alone (addresses, relatives) stays."""
    known = {str(i.get("value", "")) for i in patient.get("identifier", [])} | {str(patient.get("id", ""))}
    for name in patient.get("name", []):
        known |= {str(name.get("text", "")), str(name.get("family", "")), *map(str, name.get("given", []))}
    for value in sorted((v.strip() for v in known), key=len, reverse=True):
        if len(value) >= 2:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "[removed]", text, flags=re.IGNORECASE)
    return text


def _age(birth: Any, found: dict[str, list[dict]]) -> int | None:
    """Whole years at the first dated condition; None where either date is absent (today's age would not be a fact)."""
    dates = sorted(
        str(c.get("recordedDate") or c.get("onsetDateTime") or "")[:10]
        for c in found["Condition"]
        if c.get("recordedDate") or c.get("onsetDateTime")
    )
    if not birth or not dates or len(str(birth)) < 4:
        return None
    then, born = dates[0], str(birth)
    return int(then[:4]) - int(born[:4]) - (then[5:] < born[5:] if len(born) == len(then) == 10 else 0)


def _drug(resource: Mapping[str, Any]) -> Any:
    """medicationCodeableConcept (R4) or medication.concept (R5)."""
    return resource.get("medicationCodeableConcept") or (resource.get("medication") or {}).get("concept")


def _coded(concept: Any, systems: tuple[str, ...]) -> str:
    codings = concept.get("coding", []) if isinstance(concept, Mapping) else []
    return next((str(c["code"]) for c in codings if str(c.get("system", "")).lower() in systems and c.get("code")), "")


def _words(concept: Any) -> str:
    if not isinstance(concept, Mapping):
        return ""
    shown = [str(c["display"]) for c in concept.get("coding", []) if c.get("display")]
    return str(concept.get("text") or (shown[0] if shown else "")).strip()


def _eye(sites: Any, concept: Any) -> str | None:
    """From the body site (SNOMED CT, words), else from the words of the code itself."""
    for site in [sites] if isinstance(sites, Mapping) else sites or []:
        for coding in site.get("coding", []):
            if _EYE_SNOMED.get(str(coding.get("code"))):
                return _EYE_SNOMED[str(coding["code"])]
        if eye := eye_of(_words(site)):
            return eye
    return eye_of(_words(concept))
