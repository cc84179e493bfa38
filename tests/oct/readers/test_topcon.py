"""Topcon .fda and .fds, written from the phantom, and the public ones."""

from datetime import date

import numpy as np
import pytest

from clarion.errors import DataError
from clarion.oct.phantom.localiser import draw_localiser
from clarion.oct.readers import read_volume

from .exports import topcon_bytes
from .test_heidelberg import public


@pytest.fixture(scope="module")
def bscans(eye):
    return np.stack([eye.bscan("H", k).image[:, :512] for k in (11, 12, 13)])


def test_fda_reads_back(tmp_path, eye, bscans):
    contours = {
        "MULTILAYERS_1": np.stack([eye.bscan("H", k).surfaces["ILM"][:512] for k in (11, 12, 13)]),
        "MULTILAYERS_9": np.full((3, 512), 200.0),
    }
    fundus = (draw_localiser(eye), (100, 90, 400, 390))
    raw = topcon_bytes(bscans, field=(6.0, 6.0, 3.5), eye=1, contours=contours, fundus=fundus)
    (tmp_path / "a.fda").write_bytes(raw)
    volume = read_volume(tmp_path / "a.fda")
    assert (volume.laterality, volume.acquired, volume.device) == ("OS", date(2019, 5, 4), "Topcon 3DOCT-2000")
    assert [f.name for f in volume.flags] == ["direction_missing"]
    assert volume.axial_um == 3.5 and volume.line_spacing_mm("H") == pytest.approx(2.0)
    for k, scan in enumerate(volume.scans):
        assert np.array_equal(scan.image, bscans[k]), "JPEG 2000 without loss"
        assert set(scan.surfaces) == {"ILM"}
        assert scan.surfaces["ILM"] == pytest.approx(contours["MULTILAYERS_1"][k], abs=0.51)
        assert scan.length_mm == pytest.approx(6.0)
    # The box on the fundus picture: 300 px are 6 mm, its middle lies at (250, 240) of 496 px.
    assert volume.localiser.mm_per_px == pytest.approx((0.02, 0.02))
    middle = np.mean([volume.scans[1].start_mm, volume.scans[1].end_mm], axis=0)
    assert middle == pytest.approx(((250 - 248) * 0.02, (240 - 248) * 0.02), abs=1e-6)
    assert not any(word in repr(volume) for word in ("4711", "Anna", "Mueller"))


def test_fds_reads_back(tmp_path, bscans):
    (tmp_path / "a.fds").write_bytes(topcon_bytes(bscans[:, ::-1].copy(), kind="FDS"))
    volume = read_volume(tmp_path / "a.fds")
    assert {f.name for f in volume.flags} == {"display_stretched", "direction_missing", "localiser_missing"}
    for k, scan in enumerate(volume.scans):  # stored with the vitreous below: turned upright
        assert np.corrcoef(scan.image.ravel(), bscans[k].ravel())[0, 1] > 0.97


def test_scale_must_be_known(tmp_path, bscans):
    (tmp_path / "a.fda").write_bytes(topcon_bytes(bscans, field=None))
    with pytest.raises(DataError, match="scale is unknown"):
        read_volume(tmp_path / "a.fda")
    volume = read_volume(tmp_path / "a.fda", spacing=(2.6, 11.7), line_spacing_um=100)
    assert volume.scale_from == "given" and volume.line_spacing_mm("H") == pytest.approx(0.1)
    assert volume.axial_um == 2.6 and volume.scans[0].length_mm == pytest.approx(512 * 0.0117)


def test_public_fda():
    volume = read_volume(public("fda_minimized.fda"), data_kind="public")
    (scan,) = volume.scans
    assert scan.image.shape == (650, 512) and volume.laterality == "OS" and volume.acquired == date(2010, 7, 9)
    assert volume.axial_um == 3.5 and scan.length_mm == pytest.approx(6.0)
    assert {f.name for f in volume.flags} == {"lines_missing", "localiser_missing", "single_line"}
    # Topcon's surfaces lie where the picture says: dark above the ILM, bright below; bright above BM, darker below.
    columns = np.arange(512)
    ilm, bm = (scan.surfaces[n].astype(int) for n in ("ILM", "BM"))
    at_ilm, at_bm = (scan.image[r + 4, columns].mean() - scan.image[r - 4, columns].mean() for r in (ilm, bm))
    assert at_ilm > 40 and at_bm < -30
    assert 200 < np.nanmedian(bm - ilm) * 3.5 < 350


def test_public_fds_is_thinned():
    with pytest.raises(DataError, match="only 3 x 2 pixels"):
        read_volume(public("fds_minimized.fds"))
