"""Measuring one eye from B-scans to findings, with networks that know the truth: what is left is our own error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantom_oracle import SOURCE, Oracle

from clarion.errors import DataError, UsageError
from clarion.findings import read_document
from clarion.oct.phantom import make_eye
from clarion.oct.quantify import Model, measure
from clarion.oct.readers import phantom_volume
from clarion.samples import Prediction


@pytest.fixture(scope="module")
def volume():
    return phantom_volume(make_eye(900_003, 3))


@pytest.fixture(scope="module")
def oracle(volume):
    return Oracle(volume)


@pytest.fixture(scope="module")
def study(volume, oracle):
    return measure(volume, **oracle.models(boxes=True), permutations=99)


def test_the_findings_agree_with_the_eye(study, volume):
    eye, found = volume.truth, study.document
    area = found.get("erm_area")
    assert area.value == pytest.approx(eye.erm_area_mm2, rel=0.06) and area.unit == "mm2"
    assert area.interval[0] < eye.erm_area_mm2 < area.interval[1] and area.interval[2] == 0.95
    assert found.value("erm_present") is True
    assert found.get("erm_present").codes["icd10cm"] == {"OD": "H35.371", "OS": "H35.372"}[eye.laterality]
    assert found.value("central_subfield_thickness") == pytest.approx(eye.central_subfield_um, abs=6)
    assert found.get("central_subfield_thickness").codes == {"loinc": "57109-1"}
    assert found.value("govetto_stage") == eye.stage
    assert np.hypot(study.fovea.x_mm - eye.fovea.x_mm, study.fovea.y_mm - eye.fovea.y_mm) < 0.15
    assert 0 < found.value("erm_thickness_p") <= 1 and 0 < found.value("erm_association_legacy") < 1


def test_every_finding_is_whole(study, volume):
    document = study.document
    assert len(document.findings) > 40
    for finding in document.findings:
        assert finding.laterality == volume.laterality and finding.data_kind == "phantom"
        assert finding.method and finding.source and finding.derived_from
        assert finding.unit or isinstance(finding.value, bool) or finding.id == "govetto_stage"
        if finding.interval and finding.interval[0] is not None:
            assert finding.interval[0] <= finding.value <= finding.interval[1]
    words = {f.id for f in document.findings} | {o["name"] for o in document.omitted}
    assert {"erm_area", "macular_volume", "fold_index", "reflectance_rnfl", "erm_thickening", "bm_curvature"} <= words


def test_findings_are_written_and_read_back(study, tmp_path):
    path = study.document.write(tmp_path / "findings.json")
    again = read_document(path)
    assert again.to_dict() == study.document.to_dict()


def test_boxes_fill_gaps_and_read_larger(study, volume, oracle):
    boxed = measure(volume, **oracle.models(boxes=True), presence_from="boxes", permutations=19)
    assert boxed.area.value_mm2 > 1.02 * study.area.value_mm2
    # a detector nobody calibrated: the interval says so and is wide
    assert any("never measured" in note for note in boxed.area.notes)
    wide, narrow = (s.area.interval[1] - s.area.interval[0] for s in (boxed, study))
    assert wide > narrow


def test_a_single_line_gives_what_it_can(volume, oracle):
    middle = volume.of("H")[12]
    line = replace(volume, scans=(volume.scans[middle],))
    found = measure(line, **oracle.models()).document
    omitted = {o["name"] for o in found.omitted}
    assert {"erm_area", "etdrs", "erm_thickness_association", "govetto_stage"} <= omitted
    assert found.get("erm_line_share").quality == "flagged" and 200 < found.value("line_thickness_median") < 600
    assert found.value("fold_index") is not None


def test_no_membrane_is_no_zero_area_without_a_limit():
    volume = phantom_volume(make_eye(900_010, 0))
    found = measure(volume, **Oracle(volume).models(), permutations=19).document
    assert found.value("erm_present") is False and found.value("govetto_stage") == 0
    assert found.get("erm_present").codes == {}
    assert found.get("erm_area").interval[1] > 0
    assert "no epiretinal membrane" in next(o["why"] for o in found.omitted if o["name"] == "erm_thickness_association")


def test_what_cannot_be_measured_is_refused(volume, oracle):
    with pytest.raises(UsageError, match="needs its model: give --presence-model"):
        measure(volume, layers=oracle.models()["layers"])
    with pytest.raises(UsageError, match="choose head or boxes"):
        measure(volume, **oracle.models(), presence_from="eyes")

    def blind(samples):
        for s in samples:
            rows = np.full((8, s.inputs["bscan"].shape[1]), np.nan, np.float32)
            yield Prediction(s.sample_id, s.patient_id, {"surfaces": rows, "sd": rows})

    with pytest.raises(DataError, match="0 % of the A-scans"):
        measure(volume, **(oracle.models() | {"layers": Model(blind, SOURCE)}))
