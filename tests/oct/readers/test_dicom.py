"""DICOM OPT written with pydicom, read back to the geometry it was written with."""

from datetime import date

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from clarion.errors import DataError
from clarion.oct.phantom.localiser import draw_localiser
from clarion.oct.readers import read_volume

from .dicom_files import opt, photograph, write


@pytest.fixture(scope="module")
def both(eye):
    """B-scans and places (row, column pairs on a 496 px picture) of two lines in each direction."""
    geometry = eye.geometry
    px = 496 / geometry.extent_mm
    data = {}
    for direction in "HV":
        at = [geometry.line_position_mm(k) * px + 248 for k in (11, 13)]
        places = [(y, 0, y, 496) if direction == "H" else (496, y, 0, y) for y in at]
        data[direction] = (np.stack([eye.bscan(direction, k).image for k in (11, 13)]), places)
    return data


def test_folder_with_both_directions_and_reference(tmp_path, eye, both):
    slo = photograph(draw_localiser(eye), eye.geometry.extent_mm / 496, eye="R")
    write(tmp_path / "Mueller.dcm", slo)
    write(tmp_path / "h.dcm", opt(both["H"][0], reference=slo, places=both["H"][1]))
    write(tmp_path / "deep" / "v", opt(both["V"][0], reference=slo, places=both["V"][1]))
    volume = read_volume(tmp_path)
    assert (volume.source, volume.laterality, volume.acquired) == ("dicom", "OD", date(2021, 3, 4))
    assert volume.flags == () and volume.scale_from == "file" and volume.device == "Heidelberg Engineering SPECTRALIS"
    assert [s.scan_id for s in volume.scans] == ["V00", "V01", "H00", "H01"]
    half = eye.geometry.extent_mm / 2
    for scan in volume.scans:
        line = (11, 13)[scan.line]
        at = eye.geometry.line_position_mm(line)
        ends = [(-half, at), (half, at)] if scan.direction == "H" else [(at, half), (at, -half)]
        assert np.array([scan.start_mm, scan.end_mm]) == pytest.approx(np.array(ends), abs=1e-3)
        assert np.array_equal(scan.image, both[scan.direction][0][scan.line])
    assert np.array_equal(volume.localiser.image, draw_localiser(eye))
    assert not any(word in repr(volume) for word in ("Mueller", "Anna", "4711", slo.SOPInstanceUID))


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_single_file_plain_and_compressed(tmp_path, both, syntax):
    bscans, places = both["H"]
    volume = read_volume(write(tmp_path / "a.dcm", opt(bscans, places=places), syntax))
    assert {f.name for f in volume.flags} == {"localiser_missing", "direction_missing"}
    assert np.array_equal(volume.scans[1].image, bscans[1]) and volume.line_spacing_mm("H") == pytest.approx(0.48)
    assert volume.scans[0].length_mm == pytest.approx(768 * 0.0117)


def test_places_from_patient_coordinates(tmp_path, both):
    # Patient coordinates: x grows to the patient's left (right on a fundus picture), z upwards.
    rows = [((-3.0, 10.0, z), (1.0, 0.0, 0.0)) for z in (0.5, -0.1)]
    volume = read_volume(write(tmp_path / "a.dcm", opt(both["H"][0], in_patient=rows)))
    first, second = volume.scans
    assert first.start_mm[0] < first.end_mm[0] and second.start_mm[1] - first.start_mm[1] == pytest.approx(0.6)


def test_sixteen_bits_are_stretched_and_said(tmp_path, both):
    bscans, places = both["H"]
    volume = read_volume(write(tmp_path / "a.dcm", opt(bscans.astype(np.uint16) * 16, places=places)))
    assert "display_stretched" in {f.name for f in volume.flags}
    assert np.corrcoef(volume.scans[0].image.ravel(), bscans[0].ravel())[0, 1] > 0.99


def test_no_places_needs_a_distance(tmp_path, both):
    file = write(tmp_path / "a.dcm", opt(both["H"][0]))
    with pytest.raises(DataError, match="no places for its frames"):
        read_volume(file)
    volume = read_volume(file, spacing="3.872,11.7,240")
    assert "positions_assumed" in {f.name for f in volume.flags} and volume.line_spacing_mm("H") == pytest.approx(0.24)


def test_scale_of_reference_that_disagrees_is_flagged(tmp_path, eye, both):
    slo = photograph(draw_localiser(eye), 0.025)
    write(tmp_path / "s.dcm", slo)
    write(tmp_path / "h.dcm", opt(both["H"][0], reference=slo, places=both["H"][1]))
    assert "scale_conflict" in {f.name for f in read_volume(tmp_path).flags}
