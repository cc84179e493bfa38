"""Reading HEYEX screen exports: synthetic ones made from the phantom, damaged ones, and a real line scan if at hand."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from clarion.errors import DataError
from clarion.oct.heyex import find_seam, read_export, read_picture, scale_bar_um
from clarion.oct.phantom import make_eye


def localiser(size: int, direction: str, seed: int = 0, lines: int = 25, arrow: int = 12) -> np.ndarray:
    """An infrared picture with vessels, burnt-in scan lines, arrow and counter."""
    rng = np.random.default_rng(seed)
    image = 95 + 22 * cv2.resize(rng.standard_normal((9, 9)), (size, size), interpolation=cv2.INTER_CUBIC)
    image += rng.normal(0, 6, (size, size))
    eye = make_eye(seed, 0)
    image -= 45 * cv2.resize(eye.vessels, (size, size))
    image = np.clip(image, 0, 255).astype(np.uint8)
    positions = np.linspace(0.167, 0.833, lines) * size
    for at in positions.round().astype(int):
        if direction == "H":
            image[at : at + 2] = 0
        else:
            image[:, at : at + 2] = 0
    cv2.putText(image, f"{arrow + 1} / {lines}", (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 0, 1)
    return image


def export(bscan: np.ndarray, direction: str = "H", scale_bar: bool = True) -> np.ndarray:
    bscan = bscan.copy()
    if scale_bar:
        bottom, left = bscan.shape[0] - 12, 10
        bscan[bottom - 51 : bottom, left : left + 2] = 255
        bscan[bottom - 2 : bottom, left : left + 17] = 255
    return np.hstack([localiser(bscan.shape[0], direction), bscan])


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    assert ok
    path.write_bytes(data.tobytes())


@pytest.fixture(scope="module")
def eye():
    return make_eye(17, 2)


@pytest.fixture()
def folder(tmp_path, eye):
    for direction, name in (("H", "Horizontal"), ("V", "Vertical")):
        for line in (3, 12):
            image = export(eye.bscan(direction, line).image, direction)
            save(tmp_path / "Müller Anna" / "SD_OCT" / name / f"{line:04d}_{direction}.bmp", image)
    return tmp_path


def test_reads_back_what_was_exported(folder, eye):
    scans = read_export(folder)
    assert [(s.direction, s.line) for s in scans] == [("H", 3), ("H", 12), ("V", 3), ("V", 12)]
    for scan in scans:
        image = scan.image
        assert image.shape == (496, 768) and image.dtype == np.uint8
        truth = eye.bscan(scan.direction, scan.line).image
        assert np.array_equal(image[:400], truth[:400]), "every pixel but the scale bar's"
        assert scan.infrared.shape == (496, 496)
        axial, lateral = scan.spacing_um
        assert axial == pytest.approx(3.872, rel=0.02) and lateral == pytest.approx(11.7, rel=0.02)


def test_ids_are_stable_unique_and_hold_no_name(folder):
    first, again = read_export(folder), read_export(folder / "Müller Anna")
    assert [s.sample_id for s in first] == [s.sample_id for s in again]
    assert len({s.sample_id for s in first}) == 4 and len({s.patient_id for s in first}) == 1
    assert not any(part in s.sample_id for s in first for part in ("Müller", "Anna"))


@pytest.mark.parametrize(("height", "width"), [(248, 384), (496, 768), (496, 512), (992, 1536)])
def test_seam_at_any_resolution(eye, height, width):
    bscan = cv2.resize(eye.bscan("H", 12).image, (width, height), interpolation=cv2.INTER_AREA)
    assert find_seam(export(bscan, scale_bar=False)) == height


def test_seam_of_a_localiser_that_is_not_square(eye):
    picture = export(eye.bscan("H", 12).image, scale_bar=False)[:, 130:]
    assert find_seam(picture) == pytest.approx(366, abs=6)


def test_direction_is_read_from_the_picture_when_the_name_does_not_tell(tmp_path, eye):
    for k, direction in enumerate("HV"):
        save(tmp_path / f"eye{k}" / f"scan{k}.png", export(eye.bscan(direction, 12).image, direction))
    assert sorted((s.path.parent.name, s.direction) for s in read_export(tmp_path)) == [("eye0", "H"), ("eye1", "V")]


def test_other_pictures_are_left_out(folder, caplog):
    save(folder / "Müller Anna" / "thickness.png", np.zeros((300, 300), np.uint8))
    with caplog.at_level("WARNING"):
        assert len(read_export(folder)) == 4
    assert "1 pictures" in caplog.text


def test_no_scale_bar_is_none_not_a_guess(eye):
    assert scale_bar_um(eye.bscan("H", 12).image) is None


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_export(tmp_path / "nowhere")
    with pytest.raises(DataError, match="No picture"):
        read_export(tmp_path)


def test_truncated_picture_is_said(folder):
    scan = read_export(folder)[1]
    for keep in (0.5, 0.0001):
        data = scan.path.read_bytes()
        scan.path.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(DataError, match="again from HEYEX"):
            _ = scan.image
        scan.path.write_bytes(data)


@pytest.mark.parametrize("kind", ["noise", "black", "grey", "bare", "empty_right", "tiny"])
def test_what_is_no_export_is_refused(eye, kind):
    rng = np.random.default_rng(0)
    bscan = eye.bscan("H", 12).image
    picture = {
        "noise": rng.integers(0, 255, (496, 1264)).astype(np.uint8),
        "black": np.zeros((496, 1264), np.uint8),
        "grey": np.full((496, 1264), 128, np.uint8),
        "bare": bscan,
        "empty_right": np.hstack([localiser(496, "H"), np.zeros((496, 768), np.uint8)]),
        "tiny": np.zeros((20, 50), np.uint8),
    }[kind]
    with pytest.raises(DataError, match="export|B-scan"):
        find_seam(picture, kind)


def test_colour_picture_is_refused(tmp_path):
    ok, data = cv2.imencode(".png", np.full((496, 1264, 3), (255, 40, 0), np.uint8))
    assert ok
    (tmp_path / "map.png").write_bytes(data.tobytes())
    with pytest.raises(DataError, match="colour"):
        read_picture(tmp_path / "map.png")


def test_same_line_twice_is_refused(folder):
    first = folder / "Müller Anna" / "SD_OCT" / "Horizontal" / "0003_H.bmp"
    first.with_suffix(".png").write_bytes(first.read_bytes())
    with pytest.raises(DataError, match="same line"):
        read_export(folder)


def test_real_line_scan_as_export(tmp_path):
    """A real localiser and a real B-scan, put side by side as HEYEX exports them."""
    root = os.environ.get("CLARION_REAL_DATA")
    files = sorted(Path(root).rglob("Linescan_1.vol")) if root else []
    if not files:
        pytest.skip("CLARION_REAL_DATA is not set to a folder with Linescan_1.vol")
    raw = files[0].read_bytes()
    width, _, depth = (int(v) for v in np.frombuffer(raw, "<i4", 3, 12))
    slo_width, slo_height = (int(v) for v in np.frombuffer(raw, "<i4", 2, 48))
    slo = np.frombuffer(raw, np.uint8, slo_width * slo_height, 2048).reshape(slo_height, slo_width)
    start = 2048 + slo.size + int(np.frombuffer(raw, "<i4", 1, 100)[0])
    values = np.frombuffer(raw, "<f4", width * depth, start).reshape(depth, width)
    shown = (255 * np.where(values > 1, 0, values) ** 0.25).astype(np.uint8)
    picture = np.hstack([cv2.resize(slo, (depth, depth), interpolation=cv2.INTER_AREA), shown])
    save(tmp_path / "0000_H.png", picture)
    (scan,) = read_export(tmp_path)
    assert scan.image.shape == (depth, width) and np.array_equal(scan.image, shown)
