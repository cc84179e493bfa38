"""Screen exports made from the phantom, read back to its known geometry."""

import shutil
import time

import numpy as np
import pytest

from clarion.errors import DataError
from clarion.oct.phantom.localiser import draw_localiser
from clarion.oct.readers import read_volume
from clarion.oct.readers.heyex_screen import without_bar

from .exports import save, screen_export


def names(volume):
    return {flag.name for flag in volume.flags}


def test_geometry_comes_back(export, eye):
    volume = read_volume(export)
    assert [s.scan_id for s in volume.scans] == ["H00", "H12", "H20", "V00", "V12", "V20"]
    assert (volume.source, volume.scale_from, volume.axial_um) == ("heyex_screen", "nominal", pytest.approx(3.872))
    assert {"scale_nominal", "laterality_unknown", "directions_aligned"} <= names(volume)
    px = volume.localiser.mm_per_px[0]
    half = eye.geometry.extent_mm / 2
    for scan in volume.scans:
        at = eye.geometry.line_position_mm(scan.line)
        if scan.direction == "H":
            expected = np.array([[-half, at], [half, at]])
        else:  # the fundus had moved by (6, 2) px: moved back, the line lies left of and above where it was drawn
            expected = np.array([[at, half], [at, -half]]) - [6 * px, 2 * px]
        assert np.array([scan.start_mm, scan.end_mm]) == pytest.approx(expected, abs=0.012)


def test_bscans_keep_their_pixels_but_not_the_bar(export, eye):
    for scan in read_volume(export).scans[:2]:
        truth = eye.bscan(scan.direction, scan.line).image
        assert np.array_equal(scan.image[:420], truth[:420]) and np.array_equal(scan.image[:, 80:], truth[:, 80:])
        assert not (scan.image[430:, :60] >= 235).any()


def test_localiser_is_clean(export, eye):
    image = read_volume(export).localiser.image.astype(float)
    truth = draw_localiser(eye).astype(float)
    error = np.abs(image - truth)
    assert error.mean() < 2.5 and np.percentile(error[:, 20:-20], 99.5) < 40
    rows = np.array([eye.geometry.line_position_mm(k) for k in range(25)]) / eye.geometry.extent_mm * 496 + 248
    lined = np.abs(np.arange(496)[:, None] + 0.5 - rows).min(1) < 1.5
    assert abs(image[lined].mean() - image[~lined].mean()) < 4, "no trace of the lines"


@pytest.mark.parametrize(("scale", "bars"), [(2.0, True), (0.75, True)])
def test_any_resolution(tmp_path, eye, scale, bars):
    volume = read_volume(screen_export(tmp_path, eye, lines=(2, 14), directions="H", scale=scale, bars=bars))
    assert volume.axial_um == pytest.approx(3.872 / scale, rel=0.01)
    assert {"direction_missing", "arrow_missing"} & names(volume) == {"direction_missing"}
    for scan in volume.scans:
        assert scan.start_mm[1] == pytest.approx(eye.geometry.line_position_mm(scan.line), abs=0.02)
        assert scan.length_mm == pytest.approx(eye.geometry.extent_mm, rel=0.01)


def test_without_arrows_numbers_tell(tmp_path, eye):
    volume = read_volume(screen_export(tmp_path, eye, lines=(1, 3), directions="V", arrow=False))
    assert "arrow_missing" in names(volume)
    assert [s.start_mm[0] for s in volume.scans] == pytest.approx(
        [eye.geometry.line_position_mm(k) for k in (1, 3)], abs=0.012
    )
    assert all(s.start_mm[1] > s.end_mm[1] for s in volume.scans), "vertical scans run upwards"


def test_given_scale_wins_and_is_recorded(export):
    volume = read_volume(export, spacing="3.9,12")
    assert volume.scale_from == "given" and volume.axial_um == 3.9
    assert volume.scans[0].length_mm == pytest.approx(768 * 0.012)
    assert volume.localiser.mm_per_px[0] == pytest.approx(768 * 0.012 / 496)
    assert "scale_nominal" not in names(volume)
    assert "spacing_contradicts_bar" in names(read_volume(export, spacing="3.9,16"))
    with pytest.raises(DataError, match="third number"):
        read_volume(export, spacing="3.9,12,300")


def test_a_bar_that_differs_from_nominal_rules(tmp_path, eye):
    from .exports import draw_bar

    infrared = draw_localiser(eye)
    rows = 83.1 + 13.78 * np.arange(25)
    bscan = eye.bscan("H", 12).image.copy()
    draw_bar(bscan, 51, 25)
    from .exports import burn_in

    save(tmp_path / "0012_H.png", np.hstack([burn_in(infrared, "H", rows, 12, "13 / 25", bar=False), bscan]))
    volume = read_volume(tmp_path)
    assert volume.scale_from == "scale bar" and "scale_from_bar" in names(volume)
    assert volume.scans[0].length_mm * 1000 / 768 == pytest.approx(200 / 25, rel=0.05)


def test_eye_from_folder_names_and_mismatch(export, tmp_path):
    shutil.copytree(export, tmp_path / "OS")
    volume = read_volume(tmp_path / "OS")
    assert volume.laterality == "OS" and "laterality_from_name" in names(volume)
    with pytest.raises(DataError, match="says OS and --laterality says OD"):
        read_volume(tmp_path / "OS", laterality="OD")
    assert read_volume(export, laterality="OD").laterality == "OD"


def test_thickness_maps_are_left_out(export, tmp_path):
    shutil.copytree(export, tmp_path / "eye")
    save(tmp_path / "eye" / "thickness.png", np.full((300, 300, 3), (255, 40, 0), np.uint8))
    volume = read_volume(tmp_path / "eye")
    assert len(volume.scans) == 6 and "pictures_left_out" in names(volume)


def test_colour_pictures_among_unnamed_ones_are_left_out(eye, tmp_path):
    source = screen_export(tmp_path / "a", eye, lines=(2,), directions="H")
    (tmp_path / "b").mkdir()
    shutil.copy(source / "Horizontal" / "0002_H.bmp", tmp_path / "b" / "first scan.bmp")
    save(tmp_path / "b" / "thickness.png", np.full((496, 1264, 3), (255, 40, 0), np.uint8))
    volume = read_volume(tmp_path / "b")
    assert [s.direction for s in volume.scans] == ["H"] and "pictures_left_out" in names(volume)


def test_ids_follow_content_alone(export, tmp_path):
    shutil.copytree(export, tmp_path / "Mueller_Anna")
    first, again = read_volume(export), read_volume(tmp_path / "Mueller_Anna")
    assert (first.study_id, first.patient_id) == (again.study_id, again.patient_id)
    assert "Mueller" not in repr(again)


def test_fast(tmp_path, eye):
    """50 pictures within a second of work on one core; the limit leaves room for a loaded machine."""
    source = screen_export(tmp_path / "one", eye, lines=(0,))
    from PIL import Image

    from .exports import burn_in

    infrared = draw_localiser(eye)
    bscans = {d: np.asarray(Image.open(p))[:, 496:] for d in "HV" for p in source.rglob(f"*_{d}.bmp")}
    rows = np.array([eye.geometry.line_position_mm(k) for k in range(25)]) / eye.geometry.extent_mm * 496 + 248
    for d, bscan in bscans.items():
        for k in range(25):
            shown = burn_in(infrared, d, rows, k, f"{k + 1} / 25")
            save(tmp_path / "all" / f"{k:04d}_{d}.bmp", np.hstack([shown, bscan]))
    start = time.process_time()
    volume = read_volume(tmp_path / "all")
    assert time.process_time() - start < 3
    found = np.array([volume.scans[k].start_mm[1] for k in volume.of("H")])
    assert found == pytest.approx([eye.geometry.line_position_mm(k) for k in range(25)], abs=0.012)
    assert volume.flags[0].name == "scale_nominal", "no shift is invented where there is none"


def test_bar_free_bscan_is_untouched(eye):
    image = eye.bscan("H", 3).image
    assert without_bar(image) is image
