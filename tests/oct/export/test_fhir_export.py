"""FHIR out: a bundle that validates, whose codes are those that R4B allows, and that says what was measured."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

pytest.importorskip("fhir.resources", reason="fhir.resources is not installed: no FHIR export to test")
import pydicom  # noqa: E402
from drawn_study import drawn_study  # noqa: E402

from clarion.errors import DataError  # noqa: E402
from clarion.oct.export import export_all  # noqa: E402
from clarion.oct.export.fhir import build_bundle, check_codes, check_references, read_bundle  # noqa: E402


@pytest.fixture(scope="module")
def study():
    return drawn_study()


@pytest.fixture(scope="module")
def bundle(study):
    return build_bundle(study)


def resources(bundle, kind):
    return [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == kind]


def test_written_and_read_back(study, bundle, tmp_path):
    (path,) = export_all(study, tmp_path, {"fhir"})
    assert path.name == "fhir.json" and read_bundle(path) == json.loads(json.dumps(bundle))


def test_each_finding_is_an_observation(study, bundle):
    observations = {o["identifier"][0]["value"]: o for o in resources(bundle, "Observation")}
    assert list(observations) == [f.id for f in study.document.findings]
    side = {"OD": "24028007", "OS": "7771000"}[study.volume.laterality]
    for finding in study.document.findings:
        found = observations[finding.id]
        assert found["status"] == "preliminary" and found["method"]["text"]
        assert [c["code"] for c in found["bodySite"]["coding"]] == ["244486005", side]
        if isinstance(finding.value, bool):
            assert found["valueBoolean"] is finding.value
        elif isinstance(finding.value, str):
            assert found["valueString"] == finding.value
        else:
            quantity = found["valueQuantity"]
            assert quantity["value"] == finding.value and quantity["code"] == (finding.unit or "1")
            assert quantity["system"] == "http://unitsofmeasure.org"
        bounds = [c["valueQuantity"]["value"] for c in found.get("component", [])]
        assert bounds == (list(finding.interval[:2]) if finding.interval else [])
        loinc = [c["code"] for c in found["code"]["coding"] if c["system"] == "http://loinc.org"]
        assert loinc == ([finding.codes["loinc"]] if "loinc" in finding.codes else [])
        if "model" in finding.source:
            assert any(finding.source["model"] in note["text"] for note in found["note"])
    flagged = observations["erm_share_csf"]
    assert flagged["note"][0]["text"] == "Flagged: The fovea was not found with certainty."
    area = next(e["fullUrl"] for e in bundle["entry"] if e["resource"] is observations["erm_area"])
    assert {"reference": area} in flagged["derivedFrom"]


def test_a_membrane_is_a_provisional_condition(study, bundle):
    (condition,) = resources(bundle, "Condition")
    code = {"OD": "H35.371", "OS": "H35.372"}[study.volume.laterality]
    assert condition["code"]["coding"][0] == {
        "system": "http://hl7.org/fhir/sid/icd-10-cm",
        "code": code,
        "display": f"Puckering of macula, {'right' if code.endswith('1') else 'left'} eye",
    }
    assert condition["verificationStatus"]["coding"][0]["code"] == "provisional"
    assert len(condition["evidence"][0]["detail"]) == 4


def test_no_membrane_no_condition(study):
    bare = replace(study, document=copy.deepcopy(study.document))
    bare.document.findings[0] = replace(bare.document.findings[0], value=False)
    assert not resources(build_bundle(bare), "Condition")


def test_the_report_is_preliminary_and_tells_what_is_missing(bundle):
    (report,) = resources(bundle, "DiagnosticReport")
    assert report["status"] == "preliminary" and len(report["result"]) == 6
    assert "Not measured: Stage (No central scan was measured.)" in report["conclusion"]
    assert "Warning: The scale is the device's nominal one" in report["conclusion"]
    (provenance,) = resources(bundle, "Provenance")
    assert len(provenance["target"]) == 8 and provenance["agent"]
    (software,) = [d for d in resources(bundle, "Device") if "property" in d]
    assert len(software["property"][0]["valueCode"][0]["text"]) == 64


def test_phantoms_are_marked_as_test_data_everywhere(bundle, study):
    assert all(e["resource"]["meta"]["security"][0]["code"] == "HTEST" for e in bundle["entry"])
    real = replace(study, document=replace(study.document, data_kind="private"))
    assert not any("security" in e["resource"]["meta"] for e in build_bundle(real)["entry"])


def test_nothing_of_the_patient_but_the_pseudonym(study, bundle):
    (patient,) = resources(bundle, "Patient")
    assert set(patient) == {"resourceType", "id", "meta", "identifier", "active"}
    assert patient["identifier"][0]["value"] == study.volume.patient_id
    (imaging,) = resources(bundle, "ImagingStudy")
    assert "started" not in imaging and imaging["numberOfSeries"] == 2


def test_observations_derive_from_the_segmentations_written_beside_them(study, bundle, tmp_path):
    """R4B's Observation.derivedFrom cannot name a series, but a DocumentReference."""
    pytest.importorskip("highdicom", reason="highdicom is not installed: no DICOM export to test")
    paths = {p.name: p for p in export_all(study, tmp_path, {"dicom", "fhir"})}
    found = read_bundle(paths["fhir.json"])
    documents = {d["content"][0]["attachment"]["url"]: d for d in resources(found, "DocumentReference")}
    assert list(documents) == ["seg_H.dcm", "seg_V.dcm"]
    (imaging,) = resources(found, "ImagingStudy")
    series = {s["uid"]: s for s in imaging["series"]}
    assert imaging["numberOfSeries"] == imaging["numberOfInstances"] == len(series) == 4
    for name, document in documents.items():
        seg = pydicom.dcmread(paths[name])
        assert document["masterIdentifier"]["value"] == f"urn:oid:{seg.SOPInstanceUID}"
        held = series[seg.SeriesInstanceUID]
        assert held["modality"]["code"] == "SEG" and held["instance"][0]["uid"] == seg.SOPInstanceUID
        assert held["instance"][0]["sopClass"]["code"] == f"urn:oid:{seg.SOPClassUID}"
    derived = {
        o["identifier"][0]["value"]: {
            name for name, d in documents.items() if {"reference": f"urn:uuid:{d['id']}"} in o["derivedFrom"]
        }
        for o in resources(found, "Observation")
    }
    assert derived["erm_area"] == {"seg_H.dcm", "seg_V.dcm"} and derived["erm_present"] == {"seg_V.dcm"}
    assert derived["central_subfield_thickness"] == {"seg_H.dcm"} and derived["erm_share_csf"] == set()
    assert not resources(bundle, "DocumentReference")  # nothing is referred to that was not written


def test_the_same_study_gives_the_same_bundle(study, bundle):
    assert build_bundle(study) == bundle
    ids = [e["fullUrl"] for e in bundle["entry"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("Observation", "status", "done"),
        ("DiagnosticReport", "status", "draft"),
        ("ImagingStudy", "status", "final"),
        ("Condition", "verificationStatus", {"coding": [{"code": "sure"}]}),
    ],
)
def test_codes_that_r4b_does_not_know_are_refused(bundle, kind, field, value):
    broken = copy.deepcopy(bundle)
    resources(broken, kind)[0][field] = value
    with pytest.raises(DataError, match=f"{kind}.{field}"):
        check_codes(broken)


def test_a_reference_to_nothing_is_refused(bundle):
    broken = copy.deepcopy(bundle)
    broken["entry"] = [e for e in broken["entry"] if e["resource"]["resourceType"] != "Patient"]
    with pytest.raises(DataError, match="refers to urn:uuid"):
        check_references(broken)


def test_laterality_mismatch_is_a_hard_failure(study):
    other = "OD" if study.volume.laterality == "OS" else "OS"
    wrong = replace(study, volume=replace(study.volume, laterality=other))
    with pytest.raises(DataError, match="Laterality mismatch"):
        build_bundle(wrong)
    unknown = replace(study, volume=replace(study.volume, laterality=None), document=copy.deepcopy(study.document))
    unknown.document.findings[0] = replace(unknown.document.findings[0], laterality=other)
    with pytest.raises(DataError, match="both eyes"):
        build_bundle(unknown)


def test_an_unknown_eye_is_said_to_be_unknown(study):
    document = copy.deepcopy(study.document)
    document.findings = [replace(f, laterality=None) for f in document.findings]
    bundle = build_bundle(replace(study, volume=replace(study.volume, laterality=None), document=document))
    assert resources(bundle, "Condition")[0]["code"]["coding"][0]["code"] == "H35.379"
    assert resources(bundle, "Observation")[0]["bodySite"]["text"] == "Retina, eye unknown"


def test_files_that_are_no_bundle(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="no FHIR R4B bundle"):
        read_bundle(tmp_path / "x.json")
