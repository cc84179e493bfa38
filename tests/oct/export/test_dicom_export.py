"""DICOM out: what is written is valid, says what was measured, and nothing of the patient."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

hd = pytest.importorskip("highdicom", reason="highdicom is not installed: no DICOM export to test")
import pydicom  # noqa: E402
from drawn_study import drawn_study  # noqa: E402
from pydicom.uid import DeflatedExplicitVRLittleEndian  # noqa: E402

from clarion.errors import DataError, UsageError  # noqa: E402
from clarion.findings import Finding  # noqa: E402
from clarion.oct.export import export_all  # noqa: E402
from clarion.oct.export.opt import read_source, write_opt  # noqa: E402
from clarion.oct.export.seg import BAND_UM, ERM_SEGMENT, LAYERS, label_scan, segment_number  # noqa: E402
from clarion.oct.export.sr import read_findings, read_remarks  # noqa: E402
from clarion.oct.readers import read_volume  # noqa: E402


@pytest.fixture(scope="module")
def study():
    return drawn_study()


@pytest.fixture(scope="module")
def files(study, tmp_path_factory):
    paths = export_all(study, tmp_path_factory.mktemp("export"), {"dicom"})
    assert [p.name for p in paths] == ["opt_H.dcm", "seg_H.dcm", "opt_V.dcm", "seg_V.dcm", "sr.dcm"]
    return {p.name: pydicom.dcmread(p) for p in paths}


def required(iod: str):
    """Attributes of type 1 and 2 at the top level of an IOD's mandatory modules, as highdicom's tables have them."""
    folder = Path(hd.__file__).parent / "_standard"
    modules = json.loads((folder / "iod_module_map.json").read_text())[iod]
    attributes = json.loads((folder / "module_attribute_map.json").read_text())
    for module in modules:
        if module["usage"] == "M" and module["key"] != "sr-document-content":  # its attributes hang on value types
            yield from ((a["keyword"], a["type"]) for a in attributes[module["key"]] if not a["path"])


@pytest.mark.parametrize(
    ("name", "iod"),
    [("opt_H.dcm", "ophthalmic-tomography-image"), ("seg_H.dcm", "segmentation"), ("sr.dcm", "comprehensive-3d-sr")],
)
def test_every_required_attribute_is_there(files, name, iod):
    data = files[name]
    for keyword, kind in required(iod):
        if kind in ("1", "2"):
            assert keyword in data, keyword
        if kind == "1" and not data[keyword].VR == "SQ":
            assert data[keyword].value not in (None, ""), keyword


def test_images_come_back_as_they_were(study, files):
    for direction in "HV":
        data = files[f"opt_{direction}.dcm"]
        scans = [study.volume.scans[k] for k in study.volume.of(direction)]
        assert np.array_equal(data.pixel_array, np.stack([scan.image for scan in scans]))
        axial, lateral = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        assert float(axial) == pytest.approx(0.003872) and float(lateral) == pytest.approx(0.036)
        assert data.ImageLaterality == {"OD": "R", "OS": "L"}[study.volume.laterality]
        labels = [f.FrameContentSequence[0].FrameLabel for f in data.PerFrameFunctionalGroupsSequence]
        assert labels == [scan.scan_id for scan in scans]


def test_lines_lie_where_they_were_scanned(study, files):
    """Patient axes: en-face x is left, en-face y is foot; the first A-scan's middle is the frame's position."""
    for direction in "HV":
        data = files[f"opt_{direction}.dcm"]
        shared = data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
        pitch = float(data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[1])
        for k, group in zip(study.volume.of(direction), data.PerFrameFunctionalGroupsSequence):
            x, y = study.volume.scans[k].path_mm()
            at = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
            last = at + np.array(shared[:3], float) * pitch * (study.volume.scans[k].width - 1)
            assert np.allclose(at, [x[0], 0, -y[0]], atol=1e-4) and np.allclose(last, [x[-1], 0, -y[-1]], atol=1e-4)
        assert [float(v) for v in shared[3:]] == [0, 1, 0]


def test_segmentation_comes_back_as_it_was_painted(study, files, tmp_path):
    for direction in "HV":
        files[f"seg_{direction}.dcm"].save_as(tmp_path / "seg.dcm")
        seg, order = hd.seg.segread(tmp_path / "seg.dcm"), study.volume.of(direction)
        assert [s.SegmentLabel for s in seg.SegmentSequence] == ["ERM", *LAYERS]
        assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "367649002"
        source = files[f"opt_{direction}.dcm"].SOPInstanceUID
        back = seg.get_pixels_by_source_frame(source, list(range(1, len(order) + 1)), combine_segments=True)
        for frame, k in zip(back, order):
            painted = label_scan(study.surfaces[k], study.presence[k], study.volume.depth, study.volume.axial_um)
            assert np.array_equal(frame, painted)


def test_label_scan_paints_layers_and_the_band():
    rows = np.array([10.0, 20, 30, 40, 50, 60, 70, 80], np.float32)
    surfaces = np.repeat(rows[:, None], 5, 1)
    surfaces[3, 4] = np.nan
    labels = label_scan(surfaces, np.array([0, 1, 1, 0.49, 1.0]), 100, 3.872)
    assert labels.shape == (100, 5) and labels.dtype == np.uint8
    band = round(BAND_UM / 3.872)
    assert np.count_nonzero(labels[:, 1] == ERM_SEGMENT) == band and labels[9, 1] == ERM_SEGMENT
    assert not (labels[:, [0, 3]] == ERM_SEGMENT).any()
    for layer in range(7):
        assert (labels[10 + 10 * layer : 20 + 10 * layer, 0] == layer + 2).all()
    assert not np.isin(labels[:, 4], (4, 5)).any()  # an unmeasured border leaves out both its layers


def test_report_says_what_was_found(study, files, tmp_path):
    files["sr.dcm"].save_as(tmp_path / "sr.dcm")
    read = {row["id"]: row for row in read_findings(tmp_path / "sr.dcm")}
    findings = study.document.findings
    assert len(read) == len(findings)
    for finding in findings:
        if isinstance(finding.value, bool) or isinstance(finding.value, str):
            row = next(r for r in read.values() if r["name"] == finding.name)
            assert row["value"] == ("Yes" if finding.value is True else finding.value)
            continue
        row = read[finding.id]
        assert row["value"] == finding.value and row["unit"] == finding.unit
        assert row["interval"] == finding.interval and row["laterality"] == finding.laterality
        assert row["codes"] == ({"loinc": finding.codes["loinc"]} if "loinc" in finding.codes else {})
        if finding.interval:
            low, high, _ = finding.interval
            assert row["uncertainty"] == pytest.approx((finding.value - low, high - finding.value))
        if "model" in finding.source:
            assert f"model={finding.source['model']}" in row["parameters"] and row["version"] == "1"
    assert "flagged=The fovea was not found with certainty." in read["erm_share_csf"]["parameters"]


def test_report_points_at_segment_and_frames(files):
    content = hd.sr.Comprehensive3DSR.from_dataset(files["sr.dcm"]).content
    group = content.get_volumetric_roi_measurement_groups()[0]
    segment = group.referenced_segment
    assert segment.referenced_sop_instance_uid == files["seg_H.dcm"].SOPInstanceUID
    assert segment.referenced_segment_numbers == [segment_number(files["seg_H.dcm"], "ERM")] == [1]
    text = files["sr.dcm"].to_json()
    for name in ("opt_H.dcm", "opt_V.dcm"):
        assert files[name].SOPInstanceUID in text
    assert files["sr.dcm"].CompletionFlag == "COMPLETE" and files["sr.dcm"].VerificationFlag == "UNVERIFIED"
    assert files["sr.dcm"].PreliminaryFlag == "PRELIMINARY"


def test_one_study_one_pseudonym_and_no_date_of_the_scan(study, files):
    assert len({data.StudyInstanceUID for data in files.values()}) == 1
    assert len({data.SOPInstanceUID for data in files.values()}) == len(files)
    for data in files.values():
        assert data.PatientID == study.volume.patient_id and not data.PatientBirthDate and not data.StudyDate
        assert data.SOPInstanceUID.startswith("2.25.") and len(data.SOPInstanceUID) <= 64
        assert data.ContentDate == "20260304"


def test_export_is_the_same_again(study, files, tmp_path):
    for path in export_all(study, tmp_path, {"dicom"}):
        assert pydicom.dcmread(path).to_json() == files[path.name].to_json(), path.name


def test_source_image_is_referred_to_and_its_patient_left_out(study, tmp_path):
    """A volume that was read from a DICOM OPT file: its UIDs are kept, what names a person is not."""
    given = write_opt(study, "H")
    given.PatientName, given.PatientID, given.PatientBirthDate = "Kim^Real", "12345", "19500101"
    given.StudyInstanceUID, given.StudyDate, given.InstitutionName = "1.2.3.4", "20250101", "Some Hospital"
    given.save_as(tmp_path / "given.dcm", enforce_file_format=True)
    order = study.volume.of("H")
    only = replace(study.volume, scans=tuple(study.volume.scans[k] for k in order), source="dicom")
    part = replace(
        study, volume=only, surfaces=[study.surfaces[k] for k in order], presence=[study.presence[k] for k in order]
    )
    paths = export_all(part, tmp_path / "out", {"dicom", "fhir"}, source=tmp_path / "given.dcm")
    assert [p.name for p in paths] == ["seg_1.dcm", "sr.dcm", "fhir.json"]
    for path in paths:
        text = path.read_text() if path.suffix == ".json" else pydicom.dcmread(path).to_json()
        assert "1.2.3.4" in text
        for secret in ("Kim", "12345", "19500101", "20250101", "Hospital"):
            assert secret not in text, (path.name, secret)
    seg = pydicom.dcmread(paths[0])
    assert (
        seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == given.SOPInstanceUID
    )


def test_a_folder_of_source_images_is_referred_to(study, files, tmp_path):
    for name in ("opt_H.dcm", "opt_V.dcm"):
        files[name].save_as(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no DICOM")
    sources = read_source(tmp_path, study)
    assert [s.scans for s in sources] == [study.volume.of("H"), study.volume.of("V")]
    paths = {p.name: pydicom.dcmread(p) for p in export_all(study, tmp_path / "out", {"dicom"}, source=tmp_path)}
    assert list(paths) == ["seg_1.dcm", "seg_2.dcm", "sr.dcm"]
    for name, image in (("seg_1.dcm", "opt_H.dcm"), ("seg_2.dcm", "opt_V.dcm")):
        refers = paths[name].ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
        assert refers == files[image].SOPInstanceUID


def test_a_source_that_is_another_image_is_not_referred_to(study, tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"not DICOM")
    assert read_source(tmp_path / "x.dcm", study) is None
    write_opt(study, "H").save_as(tmp_path / "half.dcm", enforce_file_format=True)
    assert read_source(tmp_path / "half.dcm", study) is None
    assert read_source(tmp_path / "missing.dcm", study) is None


def test_without_membrane_there_is_no_erm_segment(study, tmp_path):
    bare = replace(study, presence=[np.zeros_like(p) for p in study.presence])
    paths = {p.name: p for p in export_all(bare, tmp_path, {"dicom"})}
    seg = pydicom.dcmread(paths["seg_V.dcm"])
    assert [s.SegmentLabel for s in seg.SegmentSequence] == list(LAYERS)
    assert len(read_findings(paths["sr.dcm"])) == len(study.document.findings)


def test_refusals_are_sentences(study, tmp_path):
    unknown = replace(study, volume=replace(study.volume, laterality=None))
    unknown.document.findings = [replace(f, laterality=None) for f in study.document.findings]
    try:
        with pytest.raises(DataError, match="--laterality"):
            export_all(unknown, tmp_path / "a", {"dicom"})
        odd = Finding("x", "X", 1.0, "furlong", data_kind="phantom")
        unknown.document.findings = [odd]
        with pytest.raises(DataError, match="furlong"):
            export_all(study, tmp_path / "a", {"dicom"})
    finally:
        unknown.document.findings = list(drawn_study().document.findings)
    with pytest.raises(UsageError, match="hl7"):
        export_all(study, tmp_path / "a", {"hl7"})
    assert not (tmp_path / "a").exists()


def test_laterality_mismatch_stops_everything(tmp_path):
    study = drawn_study()
    other = "OD" if study.volume.laterality == "OS" else "OS"
    study.document.findings[1] = replace(study.document.findings[1], laterality=other)
    with pytest.raises(DataError, match="Laterality mismatch.*erm_area"):
        export_all(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_report_holds_every_warning_and_every_omission(study, files, tmp_path):
    """A code's meaning ends at 64 letters; these sentences are longer and must come back whole."""
    files["sr.dcm"].save_as(tmp_path / "sr.dcm")
    assert read_remarks(tmp_path / "sr.dcm") == {
        "warnings": ["The scale is the device's nominal one, not measured."],
        "omitted": ["Stage: No central scan was measured."],
    }
    long = "Why " * 50 + "not."
    document = replace(study.document, warnings=[{"name": "a", "message": long}] * 2, omitted=[])
    (path,) = [p for p in export_all(replace(study, document=document), tmp_path) if p.name == "sr.dcm"]
    assert read_remarks(path) == {"warnings": [long] * 2, "omitted": []}
    assert len(read_findings(path)) == len(study.document.findings)
    silent = replace(study, document=replace(document, warnings=[]))
    (path,) = [p for p in export_all(silent, tmp_path) if p.name == "sr.dcm"]
    assert read_remarks(path) == {"warnings": [], "omitted": []}
    assert b"C0034375" not in path.read_bytes()  # an empty container is left out


@pytest.fixture
def read_back(tmp_path):
    """A study's images, exported and read again."""

    def read(study, **changes):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for direction in "HV":
            data = write_opt(study, direction)
            for name, value in changes.items():
                setattr(data, name, value)
            data.save_as(folder / f"{direction}.dcm", enforce_file_format=True)
        return read_volume(folder)

    return read


def test_the_day_of_measuring_is_not_taken_as_that_of_scanning(study, read_back):
    """Between two visits measured on one day and scanned years apart, `compare` would divide by that day."""
    assert read_back(study).acquired is None
    # Either mark of this project's files is enough, whatever an archive filled in.
    assert read_back(study, StudyDate="20240102", DeidentificationMethod="").acquired is None
    assert read_back(study, AcquisitionDateTime="20240102101112").acquired is None
    other = {"AcquisitionDateTime": "", "DeidentificationMethod": ""}
    assert read_back(study, **other).acquired is None  # ContentDate is when a file's content was made
    assert read_back(study, **other, StudyDate="20240102").acquired == date(2024, 1, 2)


def test_a_phantom_stays_a_phantom(study, read_back):
    assert read_back(study).data_kind == "phantom"
    assert read_back(replace(study, volume=replace(study.volume, data_kind="private"))).data_kind == "private"
    assert read_back(study, StudyDescription="Phantom limb, OCT").data_kind == "private"


@pytest.mark.parametrize(
    "device", ["phantom 6 (spectralis_25)", "Heidelberg Spectralis (screen export)", "Spectralis", "unknown"]
)
def test_the_device_comes_back_as_it_was(study, read_back, device):
    assert read_back(replace(study, volume=replace(study.volume, device=device))).device == device


def test_a_maker_that_the_model_repeats_is_named_once(study, read_back):
    names = {"Manufacturer": "Heidelberg", "ManufacturerModelName": "Heidelberg Spectralis"}
    assert read_back(study, **names).device == "Heidelberg Spectralis"
    assert read_back(study, **names | {"ManufacturerModelName": "Heidelbergian"}).device == "Heidelberg Heidelbergian"


def test_an_export_folder_is_read_by_its_images_alone(study, tmp_path):
    """The segmentations are deflated, which no reader here inflates."""
    export_all(study, tmp_path)
    for other in ("fhir.json", "sr.dcm"):
        (tmp_path / other).unlink()
    volume = read_volume(tmp_path)
    assert len(volume.scans) == 14 and "files_left_out" in {f.name for f in volume.flags}


def test_a_source_is_not_inflated_to_be_looked_at(study, tmp_path):
    given = write_opt(study, "H")
    given.PixelData = bytes(2**25)
    given.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    given.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    tracemalloc.start()
    try:
        assert read_source(tmp_path, study) is None
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_this_projects_own_reader_finds_every_line_where_it_was(study, tmp_path):
    """Writer and reader of OPT were written apart; they must agree on every axis."""
    for path in export_all(study, tmp_path / "all", {"dicom"}):
        if path.name.startswith("opt_"):
            (tmp_path / "opt").mkdir(exist_ok=True)
            path.rename(tmp_path / "opt" / path.name)
    back = read_volume(tmp_path / "opt")
    assert (back.laterality, back.axial_um) == (study.volume.laterality, pytest.approx(study.volume.axial_um))
    for direction in "HV":
        pairs = [(back.scans[a], study.volume.scans[b]) for a, b in zip(back.of(direction), study.volume.of(direction))]
        assert len(pairs) == 7
        for found, given in pairs:
            assert np.array_equal(found.image, given.image)
            assert np.allclose([found.start_mm, found.end_mm], [given.start_mm, given.end_mm], atol=1e-4)
