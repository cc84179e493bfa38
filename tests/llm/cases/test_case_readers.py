"""Readers of case reports: jsonl, headed text, FHIR bundles; what is broken ends in one sentence."""

from __future__ import annotations

import base64
import dataclasses
import json

import pytest

from clarion.errors import DataError
from clarion.llm.cases.generator import draw_cases
from clarion.llm.cases.readers import MAX_NOTE, case_from_dict, eye_of, language_of, read_cases
from clarion.llm.cases.schema import CaseReport

CONDITION_STATUS = "http://terminology.hl7.org/CodeSystem/condition-clinical"
VERIFIED = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
ICD = "http://hl7.org/fhir/sid/icd-10-cm"


def concept(text, system=None, code=None):
    return ({"text": text} if text else {}) | ({"coding": [{"system": system, "code": code}]} if code else {})


def condition(number, code, status="active", verified="confirmed", patient="p1", **more):
    return {
        "resourceType": "Condition",
        "id": f"c{number}",
        "subject": {"reference": f"Patient/{patient}"},
        "clinicalStatus": {"coding": [{"system": CONDITION_STATUS, "code": status}]},
        "verificationStatus": {"coding": [{"system": VERIFIED, "code": verified}]},
        "code": concept(f"condition {number}", ICD, code),
        **more,
    }


def patient(name="p1"):
    return {
        "resourceType": "Patient",
        "id": name,
        "gender": "female",
        "birthDate": "1955-06-30",
        "name": [{"family": "Haneul", "given": ["Gyeong"]}],
    }


def of(resource, who="p1"):
    return resource | {"subject": {"reference": f"Patient/{who}"}}


def bundle(path, *resources):
    content = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in resources]}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


# jsonl


def test_a_generated_case_survives_the_way_through_jsonl(tmp_path):
    cases = draw_cases({"train": 12, "val": 2, "test": 4}, 0)["train"]
    path = tmp_path / "cases.jsonl"
    lines = [json.dumps(c.to_dict(), ensure_ascii=False) for c in cases]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_cases(path, hide=False) == cases


def test_identifiers_become_pseudonyms(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"case_id": "MRN1", "patient_id": "MRN1", "note": "x", "diagnoses": ["H25.11"]}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"case_id": "MRN2"}), encoding="utf-8")
    first, second = read_cases(path)
    assert first.patient_id == second.patient_id and first.case_id != second.case_id
    assert first.patient_id.startswith("P-") and "MRN" not in json.dumps(dataclasses.asdict(first))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"note": "x"}, "lacks diagnoses"),
        ({"note": "  ", "diagnoses": []}, "note is empty"),
        ({"note": "x" * (MAX_NOTE + 1), "diagnoses": []}, "100,001 characters"),
        ({"note": "x", "diagnoses": ["H40.1139"]}, "no ICD-10-CM code of version .*did you mean H40.113"),
        ({"note": "x", "diagnoses": [7]}, "a diagnosis is '7'"),
        ({"note": "x", "diagnoses": ["H25.11"], "age": 200}, "age is '200'"),
        ({"note": "x", "diagnoses": ["H25.11"], "sex": "both"}, "sex is 'both'; write one of female"),
        ({"note": "x", "diagnoses": ["H25.11"], "laterality": "RE"}, "write one of OD, OS, OU"),
        ({"note": "x", "diagnoses": ["H25.11"], "findings": [{"value": 3}]}, "a finding is"),
        ({"note": "x", "diagnoses": ["H25.11"], "labs": [{"nam": "CRP"}]}, "entry of labs"),
        ({"note": "x", "diagnoses": ["H25.11"], "mentions": ["glaucoma"]}, "entry of mentions lacks a field"),
        ({"note": "x", "diagnoses": ["H25.11"], "history": 5}, "history is a int; write a list"),
        ({"note": {"a": 1}, "diagnoses": ["H25.11"]}, "note is a dict"),
        ({"note": "x", "diagnoses": ["H25.11"] * 501}, "501 entries"),
    ],
)
def test_a_broken_case_is_refused_with_its_line(tmp_path, row, told):
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({"note": "fine", "diagnoses": ["H25.11"]}) + "\n" + json.dumps(row), encoding="utf-8")
    with pytest.raises(DataError, match=told) as refused:
        read_cases(path)
    assert "cases.jsonl line 2" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("content", "told"), [(b"{oops", "not a JSON object"), (b"", "holds no cases"),
                                               (b"\xff\xfe\x00", "UTF-8"), (b"[1]", "not a JSON object")])  # fmt: skip
def test_a_broken_file_is_refused(tmp_path, content, told):
    path = tmp_path / "cases.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_cases(path)


def test_unknown_endings_and_absent_files_are_refused(tmp_path):
    (tmp_path / "a.docx").write_bytes(b"x")
    for name in ("a.docx", "b.jsonl"):
        with pytest.raises(DataError, match="give a|are read from"):
            read_cases(tmp_path / name)


def test_language_and_eye_from_words():
    assert language_of("양안 POAG, IOP 28 mmHg 이며 cup 확대") == "ko" and language_of("POAG 25 mmHg") == "en"
    found = [eye_of(t) for t in ("right eye", "좌안", "both eyes", "OD and OS", "the copyright", "")]
    assert found == ["OD", "OS", "OU", None, None, None]


# text


def test_a_headed_text_gives_its_parts_and_a_note_without_the_answer(tmp_path):
    path = tmp_path / "case.txt"
    path.write_text(
        "Age: 71 years\nSex: F\nEye: right eye\nSymptoms: halos; blurred vision\n"
        "Findings:\nIOP OD 31 mmHg; cup-disc ratio OD 0.85\ninferior notch\n\n"
        "Diagnosis:\nPOAG OD, moderate (H40.1112)\nsenile NS OD H2511\n\nTreatment: latanoprost; review\n",
        encoding="utf-8",
    )
    (case,) = read_cases(path)
    assert (case.age, case.sex, case.laterality, case.codes) == (71, "female", "OD", ["H40.1112", "H25.11"])
    assert case.symptoms == ("halos", "blurred vision") and [t.text for t in case.treatment] == [
        "latanoprost",
        "review",
    ]
    pressure, ratio, notch = case.findings
    assert (pressure.name, pressure.value, pressure.unit, pressure.laterality) == ("IOP", 31.0, "mmHg", "OD")
    assert ratio.value == 0.85 and notch.value is True
    assert "IOP OD 31" in case.note and "H40" not in case.note and "POAG" not in case.note and "H25" not in case.note


def test_a_korean_text_is_read(tmp_path):
    path = tmp_path / "case.txt"
    path.write_text(
        "나이: 64세\n성별: 남자\n좌우: 좌안\n주소: 시력저하\n소견: 안압 OS 30 mmHg\n진단: H40.1121\n", "utf-8"
    )
    (case,) = read_cases(path)
    assert (case.age, case.sex, case.laterality, case.language, case.codes) == (64, "male", "OS", "ko", ["H40.1121"])
    assert case.findings[0].value == 30.0


@pytest.mark.parametrize(("content", "told"), [(b"", "note is empty"), (b"x" * 1_000_001, "larger than 1,000,000"),
                                               ("진단: H40".encode("cp949"), "no UTF-8"),
                                               (b"pain\nDiagnosis: H99.99", "no ICD-10-CM code")])  # fmt: skip
def test_broken_texts_are_refused(tmp_path, content, told):
    path = tmp_path / "case.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_cases(path)


# FHIR


def full_bundle(path):
    text = "Mrs Gyeong Haneul, seen for raised pressure of the right eye."
    note = {"contentType": "text/plain", "data": base64.b64encode(text.encode()).decode()}
    return bundle(
        path,
        patient(),
        condition(1, "H40.1112", recordedDate="2024-03-02", bodySite=[concept("right eye structure")]),
        condition(2, "H25.12", recordedDate="2024-04-02", bodySite=[concept("", "http://snomed.info/sct", "7771000")]),
        condition(3, "H00.11", status="resolved"),
        condition(4, "H35.3211", verified="refuted"),
        condition(5, "H16.011", verified="provisional"),
        of({"resourceType": "Observation", "status": "final", "code": concept("intraocular pressure"),
            "bodySite": concept("right eye"), "valueQuantity": {"value": 31, "unit": "mmHg", "code": "mm[Hg]"}}),
        of({"resourceType": "Observation", "status": "final", "code": concept("CRP", "http://loinc.org", "1988-5"),
            "category": [{"coding": [{"code": "laboratory"}]}], "valueQuantity": {"value": 2.5, "unit": "mg/L"}}),
        of({"resourceType": "Procedure", "status": "completed",
            "code": concept("lens extraction", "http://www.cms.gov/Medicare/Coding/ICD10", "08DJ3ZZ")}),
        of({"resourceType": "MedicationRequest", "status": "active", "intent": "order",
            "medicationCodeableConcept": concept("latanoprost", "http://www.whocc.no/atc", "S01EE01")}),
        {"resourceType": "FamilyMemberHistory", "status": "completed", "patient": {"reference": "Patient/p1"},
         "relationship": concept("mother"), "condition": [{"code": concept("glaucoma", ICD, "H40.9")}]},
        of({"resourceType": "DocumentReference", "status": "current", "content": [{"attachment": note}]}),
        {"resourceType": "Organization", "name": "left out"},
    )  # fmt: skip


def test_a_fhir_bundle_becomes_a_case(tmp_path):
    (case,) = read_cases(full_bundle(tmp_path / "bundle.json"))
    assert case.codes == ["H40.1112", "H25.12"] and [d.laterality for d in case.diagnoses] == ["OD", "OS"]
    assert (case.age, case.sex, case.laterality) == (68, "female", "OU")  # on the day of the first record
    assert {(m.kind, m.code) for m in case.mentions} == {
        ("history", "H00.11"), ("negated", "H35.3211"), ("family", "H40.9"),
    }  # fmt: skip
    assert (case.findings[0].value, case.findings[0].unit, case.findings[0].laterality) == (31, "mm[Hg]", "OD")
    assert (case.labs[0].code, case.procedures[0].code, case.treatment[0].code) == ("1988-5", "08DJ3ZZ", "S01EE01")
    assert case.note == "Mrs [removed] [removed], seen for raised pressure of the right eye."
    assert case.patient_id.startswith("P-")


def test_a_bundle_of_the_newer_release_is_read(tmp_path):
    drug = of({"resourceType": "MedicationRequest", "status": "active", "intent": "order",
               "medication": {"concept": concept("timolol", "http://www.whocc.no/atc", "S01ED01")}})  # fmt: skip
    (case,) = read_cases(bundle(tmp_path / "r5.json", patient(), condition(1, "H40.1112"), drug))
    assert case.treatment[0].code == "S01ED01" and case.age is None  # no dated condition: no age is guessed


def test_two_patients_are_two_cases_and_a_note_without_narrative_tells_no_diagnosis(tmp_path):
    resources = [patient("a"), patient("b"), condition(1, "H25.11", patient="a"), condition(2, "H25.12", patient="b"),
                 of({"resourceType": "Observation", "status": "final", "code": concept("LOCS NO"),
                     "valueQuantity": {"value": 4.5}}, "a")]  # fmt: skip
    first, second = read_cases(bundle(tmp_path / "two.json", *resources))
    assert (first.codes, second.codes) == (["H25.11"], ["H25.12"]) and first.patient_id != second.patient_id
    assert "LOCS NO 4.5" in first.note and "condition" not in first.note and "H25" not in first.note


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ([], "no Condition"),
        ([patient()], "no Condition"),
        ([condition(1, "H99.99")], "no ICD-10-CM code"),
        ([condition(1, None)], "no code of http://hl7.org/fhir/sid/icd-10-cm"),
        ([{"resourceType": "Condition", "code": 5}], "entry 1: the Condition is no valid FHIR"),
        ([{"noType": 1}], "entry 1 holds no resource"),
        (
            [patient("a"), patient("b"), {k: v for k, v in condition(1, "H25.11").items() if k != "subject"}],
            "no valid FHIR",
        ),
    ],
)
def test_broken_bundles_are_refused(tmp_path, resources, told):
    with pytest.raises(DataError, match=told) as refused:
        read_cases(bundle(tmp_path / "bundle.json", *resources))
    assert "\n" not in str(refused.value) and "Haneul" not in str(refused.value)


@pytest.mark.parametrize(("content", "told"), [("{", "no JSON"), ('{"resourceType": "Patient"}', "no FHIR bundle"),
                                               ("[]", "no FHIR bundle"),
                                               ('{"resourceType":"Bundle","entry":5}', "list"),
                                               ("[" * 100_000, "no JSON")])  # fmt: skip
def test_json_that_is_no_bundle_is_refused(tmp_path, content, told):
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        read_cases(path)


def test_a_case_of_plain_data_needs_no_more_than_note_and_diagnoses():
    case = case_from_dict({"note": "hazy lens", "diagnoses": "h25.11"}, "here")
    assert isinstance(case, CaseReport) and case.codes == ["H25.11"] and case.patient_id == "case"
    assert case.diagnoses[0].title == "Age-related nuclear cataract, right eye"
