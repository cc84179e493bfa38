"""Heidelberg .vol, XML and e2e: written from the phantom with known geometry, and the public files."""

import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from clarion.errors import DataError
from clarion.oct.phantom.localiser import draw_localiser
from clarion.oct.readers import read_volume
from clarion.oct.readers.common import Asked
from clarion.oct.readers.heidelberg_e2e import from_eyepy

from .exports import save, vol_bytes


def public(name: str) -> Path:
    root = os.environ.get("CLARION_REAL_DATA")
    found = sorted(Path(root).rglob(name)) if root else []
    if not found:
        pytest.skip(f"CLARION_REAL_DATA is not set to a folder with {name}")
    return found[0]


@pytest.fixture(scope="module")
def lines(eye):
    """Three horizontal lines, linear intensities as the device stores them, at places from the SLO's corner (mm)."""
    shown = np.stack([eye.bscan("H", k).image for k in (11, 12, 13)])
    half = eye.geometry.extent_mm / 2
    ys = [eye.geometry.line_position_mm(k) + half for k in (11, 12, 13)]
    return shown, (shown / 255.0) ** 4, np.array([(0, y, 2 * half, y) for y in ys])


def test_vol_reads_back(tmp_path, eye, lines):
    shown, linear, places = lines
    truth = eye.bscan("H", 12).surfaces
    surfaces = np.stack([np.stack([truth[n]] * 3) for n in ("ILM", "BM", "RNFL/GCL")])
    surfaces[0, 1, :5] = 3.4e38  # not measured
    step = eye.geometry.extent_mm / 496
    raw = vol_bytes(linear, places, draw_localiser(eye), slo_mm=step, surfaces=surfaces, eye=eye.laterality)
    (tmp_path / "a.vol").write_bytes(raw)
    volume = read_volume(tmp_path / "a.vol", data_kind="public")
    assert (volume.laterality, volume.data_kind, volume.scale_from) == (eye.laterality, "public", "file")
    assert volume.acquired == date(2017, 1, 11) and volume.quality == 28
    assert [f.name for f in volume.flags] == ["direction_missing"]
    for k, scan in enumerate(volume.scans):
        assert np.abs(scan.image.astype(int) - shown[k]).max() <= 1
        assert scan.start_mm == pytest.approx((-eye.geometry.extent_mm / 2, eye.geometry.line_position_mm(11 + k)))
    assert set(volume.scans[1].surfaces) == {"ILM", "BM", "RNFL/GCL"}
    assert np.isnan(volume.scans[1].surfaces["ILM"][:5]).all()
    assert volume.scans[1].surfaces["BM"] == pytest.approx(truth["BM"])
    assert volume.localiser.origin_mm[0] == pytest.approx(-eye.geometry.extent_mm / 2)
    assert "12345" not in repr(volume)


def test_low_quality_is_flagged(tmp_path, eye, lines):
    _, linear, places = lines
    (tmp_path / "a.vol").write_bytes(vol_bytes(linear[:1], places[:1], draw_localiser(eye), quality=9.0))
    flags = {f.name: f.message for f in read_volume(tmp_path / "a.vol").flags}
    assert set(flags) == {"quality_low", "single_line"}
    assert flags["quality_low"].startswith("1 of 1 B-scans (H00) are below 15 dB")


def test_public_line_scan():
    volume = read_volume(public("Linescan_1.vol"), data_kind="public")
    (scan,) = volume.scans
    assert scan.image.shape == (496, 768) and volume.laterality == "OD" and volume.localiser.image.shape == (768, 768)
    assert volume.axial_um == pytest.approx(3.872, abs=0.001) and scan.length_mm == pytest.approx(9.078, abs=0.001)
    thickness = (scan.surfaces["BM"] - scan.surfaces["ILM"]) * volume.axial_um
    assert 200 < np.nanmin(thickness) < 230 and 310 < np.nanmedian(thickness) < 330
    assert [f.name for f in volume.flags] == ["single_line"]


def test_public_volume_and_xml_are_the_same_eye():
    raw, xml = read_volume(public("test_volume.vol")), read_volume(public("test_dummy.xml").parent)
    assert raw.patient_id == xml.patient_id and raw.laterality == xml.laterality == "OD"
    for volume in (raw, xml):
        assert len(volume.scans) == 10 and volume.scans[0].image.shape == (40, 50)
        assert volume.scans[0].length_mm == pytest.approx(50 * 0.011819)
        assert "positions_conflict" in {f.name for f in volume.flags}
    assert np.array([s.start_mm for s in raw.scans]) == pytest.approx(np.array([s.start_mm for s in xml.scans]))
    assert xml.scans[0].surfaces["ILM"][2] == pytest.approx(9.6) and len(xml.scans[0].surfaces) == 8


XML = """<HEDX><BODY><Patient><PatientID>4711</PatientID><LastName>Mueller</LastName><Study>
<StudyDate><Date><Year>2021</Year><Month>3</Month><Day>4</Day></Date></StudyDate>
<Series><Laterality>L</Laterality>{images}</Series></Study></Patient></BODY></HEDX>"""
IMAGE = """<Image><Laterality>L</Laterality><ImageType><Type>{kind}</Type></ImageType><OphthalmicAcquisitionContext>
<ScaleX>{x}</ScaleX><ScaleY>{y}</ScaleY><ImageQuality>30</ImageQuality><Start><Coord><X>0</X><Y>{at}</Y></Coord></Start>
<End><Coord><X>{end}</X><Y>{at}</Y></Coord></End></OphthalmicAcquisitionContext><ImageData><ExamURL>file:///\\\\x\\{name}
</ExamURL></ImageData></Image>"""


def test_xml_reads_back_and_picks_pictures_beside_it_only(tmp_path, eye, lines):
    shown, _, places = lines
    save(tmp_path / "ir.png", draw_localiser(eye))
    step = eye.geometry.extent_mm / 496
    images = IMAGE.format(kind="LOCALIZER", x=step, y=step, at=0, end=0, name="ir.png")
    for k in range(3):
        save(tmp_path / f"b{k}.png", shown[k])
        images += IMAGE.format(kind="OCT", x=0.0117, y=0.003872, at=places[k][1], end=places[k][2], name=f"b{k}.png")
    (tmp_path / "export.xml").write_text(XML.format(images=images), encoding="utf-8")
    volume = read_volume(tmp_path)
    assert (volume.laterality, volume.acquired, volume.source) == ("OS", date(2021, 3, 4), "xml")
    assert np.array_equal(volume.scans[2].image, shown[2])
    assert volume.scans[0].start_mm[1] == pytest.approx(eye.geometry.line_position_mm(11))
    assert "Mueller" not in repr(volume) and "4711" not in repr(volume)
    (tmp_path / "b1.png").rename(tmp_path.parent / "b1.png")
    with pytest.raises(DataError, match="not beside it"):
        read_volume(tmp_path / "export.xml")


def test_e2e_positions_in_degrees_become_nominal_mm(eye, lines):
    """Through the object that eyepy gives for an .e2e (no whole public file exists)."""
    from eyepy import EyeBscanMeta, EyeEnface, EyeEnfaceMeta, EyeVolume, EyeVolumeMeta

    _, linear, _ = lines
    metas = [EyeBscanMeta(start_pos=(-15.0, y), end_pos=(15.0, y), pos_unit="°") for y in (0.8, 0.0, -0.8)]
    meta = EyeVolumeMeta(
        scale_x=1, scale_y=1, scale_z=1, scale_unit="px", laterality="R", bscan_meta=metas, intensity_transform="e2e"
    )
    slo = EyeEnface(draw_localiser(eye), EyeEnfaceMeta(scale_x=30 / 496, scale_y=30 / 496, scale_unit="°"))
    source = EyeVolume(data=linear.astype(np.float32), meta=meta, localizer=slo)
    volume = from_eyepy(source, Path("a.e2e"), "S-00", "4711", Asked())
    assert volume.laterality == "OD" and volume.scale_from == "nominal"
    assert volume.scans[0].length_mm == pytest.approx(8.986, abs=0.001)
    assert {f.name for f in volume.flags} == {"scale_nominal", "direction_missing"}
    given = from_eyepy(source, Path("a.e2e"), "S-00", "4711", Asked(spacing=None, laterality="OD"))
    assert given.patient_id == volume.patient_id and "4711" not in given.patient_id


def test_public_e2e_is_refused_in_a_sentence():
    with pytest.raises(DataError, match="no OCT volume that can be read.*export it from HEYEX"):
        read_volume(public("e2e_minimized.E2E"))
