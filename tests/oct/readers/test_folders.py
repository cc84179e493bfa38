"""Plain folders, NIfTI and the built-in phantom."""

import gzip
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from clarion.errors import DataError, UsageError
from clarion.oct.enface import fused_map, grid_of
from clarion.oct.phantom import Geometry, make_eye
from clarion.oct.phantom.fields import sample
from clarion.oct.phantom.localiser import draw_localiser
from clarion.oct.readers import FORMATS, phantom_volume, read_volume

from .exports import save

SMALL = Geometry("small", 3, 128, 248, 7.744, 70.2, 2400.0)


@pytest.fixture(scope="module")
def bscans(eye):
    return np.stack([eye.bscan("H", k).image for k in (10, 12, 14)])


def test_pictures_in_the_order_of_their_names(tmp_path, bscans):
    for k, name in enumerate(("b2.png", "b10.png", "b11.tif")):
        save(tmp_path / name, bscans[k])
    volume = read_volume(tmp_path, spacing="3.872,11.7,240", laterality="OS")
    assert [np.array_equal(s.image, b) for s, b in zip(volume.scans, bscans)] == [True] * 3
    assert volume.scale_from == "given" and volume.source == "folder" and volume.laterality == "OS"
    assert [s.start_mm[1] for s in volume.scans] == pytest.approx([-0.24, 0, 0.24])
    assert {f.name for f in volume.flags} == {"positions_given", "direction_missing"}
    single = read_volume(tmp_path / "b2.png", spacing=(3.872, 11.7))
    assert len(single.scans) == 1 and "single_line" in {f.name for f in single.flags}


@pytest.mark.parametrize("axes", [(2, 1, 0), (0, 1, 2), (2, 0, 1)])
def test_nifti_axes_are_told_by_their_voxel_sizes(tmp_path, bscans, axes):
    stored = np.transpose(bscans, axes)
    affine = np.diag([*np.array([0.24, 0.003872, 0.0117])[list(axes)], 1.0])
    image = nib.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.scans[1].image, bscans[1]) and volume.axial_um == pytest.approx(3.872, rel=1e-5)
    assert volume.line_spacing_mm("H") == pytest.approx(0.24) and volume.scale_from == "file"


def test_nifti_upside_down_and_floats(tmp_path, bscans):
    stored = np.transpose(bscans[:, ::-1], (2, 1, 0)).astype(np.float32) * 0.01
    nib.save(nib.Nifti1Image(stored, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match="no believable voxel size"):
        read_volume(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii", spacing="3.872,11.7,240")
    assert {"turned_upright", "axes_assumed", "display_stretched"} <= {f.name for f in volume.flags}
    assert np.corrcoef(volume.scans[0].image.ravel(), bscans[0].ravel())[0, 1] > 0.97


@pytest.mark.parametrize(("slope", "offset"), [(2.0, 1.0), (-1.0, 255.0)])
def test_scaled_nifti_takes_no_floats_of_its_size(tmp_path, bscans, slope, offset):
    """With a scale in its header nibabel's array is of float64: eight times a uint8 volume, and more to stretch it."""
    stored = np.tile(np.transpose(bscans if slope > 0 else 255 - bscans, (2, 1, 0)), (1, 1, 8))
    nib.save(nib.Nifti1Image(stored, np.diag([0.0117, 0.003872, 0.24, 1])), tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = struct.pack("<ff", slope, offset)  # scl_slope, scl_inter
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw))
    tracemalloc.start()
    try:
        volume = read_volume(tmp_path / "a.nii.gz")
        assert tracemalloc.get_traced_memory()[1] < 6 * stored.nbytes
    finally:
        tracemalloc.stop()
    assert {f.name for f in volume.flags} >= {"display_stretched"} and len(volume.scans) == 24
    assert np.corrcoef(volume.scans[4].image.ravel(), bscans[1].ravel())[0, 1] > 0.97


def test_phantom_volume_tells_its_truth():
    eye = make_eye(900_001, 3, SMALL)
    volume = phantom_volume(eye)
    assert volume.truth is eye and volume.data_kind == "phantom" and volume.laterality == eye.laterality
    assert len(volume.scans) == 6 and volume.directions == ("H", "V") and volume.flags == ()
    for scan in volume.scans:
        x, y = eye.geometry.path_mm(scan.direction, scan.line)
        assert np.array(scan.path_mm()) == pytest.approx(np.array([x, y]))
    again = phantom_volume(eye, visit=1)
    assert again.study_id != volume.study_id and again.patient_id == volume.patient_id
    assert not np.array_equal(again.scans[0].image, volume.scans[0].image)
    assert fused_map(volume, [np.ones(s.width) for s in volume.scans], grid_of(volume)).shape[0] > 100


def test_phantom_localiser_shows_the_eye():
    eye = make_eye(900_002, 3)
    image = draw_localiser(eye).astype(float)
    assert image.shape == (496, 496)
    half = eye.geometry.extent_mm / 2
    middle = ((np.arange(496) + 0.5) / 496 * 2 - 1) * half
    x, y = (v.ravel() for v in np.meshgrid(middle, middle))
    vessels, disc = (m.reshape(496, 496) for m in sample(np.stack([eye.vessels, eye.disc]), x, y))
    plain = (vessels < 0.02) & (disc < 0.02)
    assert image[vessels > 0.7].mean() < 0.75 * image[plain].mean()
    r = np.hypot(x - eye.fovea.x_mm, y - eye.fovea.y_mm).reshape(496, 496)
    assert np.median(image[plain & (r < 0.3)]) < np.median(image[plain & (r > 1.2) & (r < 2)])
    assert np.array_equal(draw_localiser(eye), draw_localiser(eye))


def test_phantom_paths(tmp_path, monkeypatch):
    monkeypatch.setattr("clarion.oct.readers.phantom_eye.make_eye", lambda seed, stage: make_eye(seed, stage, SMALL))
    assert read_volume("phantom").truth.stage == 3
    volume = read_volume("phantom:12:1", data_kind="public")
    assert (volume.truth.seed, volume.truth.stage, volume.data_kind) == (12, 1, "phantom")
    wrong = "OS" if volume.laterality == "OD" else "OD"
    with pytest.raises(DataError, match="--laterality"):
        read_volume("phantom:12:1", laterality=wrong)
    later = read_volume("phantom:12:1:100")
    assert later.truth.erm_area_mm2 > volume.truth.erm_area_mm2 and later.patient_id == volume.patient_id
    assert later.study_id != volume.study_id
    with pytest.raises(UsageError, match="phantom:SEED"):
        read_volume("phantom:12:7")
    assert FORMATS.endswith("phantom[:SEED[:STAGE[:GROWTH]]]")
