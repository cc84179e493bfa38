"""Two visits on one frame: found to a fraction of a pixel, refused for another eye."""

import cv2
import numpy as np
import pytest

from clarion.errors import DataError
from clarion.oct.enface import Grid
from clarion.oct.phantom import make_eye
from clarion.oct.phantom.fields import GRID_HALF_MM, GRID_STEP_MM
from clarion.oct.phantom.localiser import draw_localiser
from clarion.oct.phantom.revisit import Pose, revisit
from clarion.oct.registration import Registration, register, warp
from clarion.oct.volume import Localiser

GRID = Grid(-GRID_HALF_MM, -GRID_HALF_MM, 320, 320, GRID_STEP_MM)


def localiser(eye, size=496, crop=0):
    half = eye.geometry.extent_mm / 2
    step = 2 * half / size
    image = draw_localiser(eye, size)
    return Localiser(image[crop:, crop:], (step, step), (-half + crop * step, -half + crop * step))


def error_mm(found, pose):
    x, y = np.meshgrid(np.linspace(-4, 4, 9), np.linspace(-2.8, 2.8, 9))
    return float(np.hypot(*np.subtract(found.apply(x, y), pose.forward(x, y))).max())


@pytest.fixture(scope="module")
def eye():
    return make_eye(880_003, 3)


@pytest.mark.parametrize("pose", [Pose(), Pose((0.21, -0.13), 2.3), Pose((-0.6, 0.35), -6.5)])
def test_localisers_are_registered_within_a_pixel(eye, pose):
    later = revisit(eye, 1, 0.1, 15.0, pose.shift_mm, pose.rotation_deg)
    found = register(localiser(eye), localiser(later))
    assert error_mm(found, pose) < 0.018, "more than one pixel of the infrared picture"
    assert found.correlation > 0.6 and found.distinct > 2 and found.residual_mm < 0.02
    assert found.source == "localiser" and found.proves_identity


def test_scale_and_frame_of_the_pictures_do_not_matter(eye):
    pose = Pose((0.1, 0.05), 1.0)
    later = revisit(eye, 2, shift_mm=pose.shift_mm, rotation_deg=pose.rotation_deg)
    found = register(localiser(eye, 496), localiser(later, 380, crop=40))
    assert error_mm(found, pose) < 0.024


def test_another_eye_is_refused(eye):
    with pytest.raises(DataError, match="same eye"):
        register(localiser(eye), localiser(make_eye(880_008, 3)))


def test_a_blank_picture_is_refused(eye):
    blank = Localiser(np.full((300, 300), 80, np.uint8), (0.03, 0.03), (-4.5, -4.5))
    with pytest.raises(DataError, match="do not match"):
        register(localiser(eye), blank)


def test_thickness_takes_the_localisers_place(eye):
    pose = Pose((-0.12, 0.08), 1.5)
    later = revisit(eye, 3, shift_mm=pose.shift_mm, rotation_deg=pose.rotation_deg)
    maps = [np.where(np.abs(GRID.mm()[1]) < 3, e.thickness_um, np.nan).astype(np.float32) for e in (eye, later)]
    found = register(localiser(eye), None, ((maps[0], GRID), (maps[1], GRID)))
    assert error_mm(found, pose) < 0.06
    assert found.source == "thickness" and not found.proves_identity
    other = np.where(np.abs(GRID.mm()[1]) < 3, make_eye(880_005, 0).thickness_um, np.nan).astype(np.float32)
    with pytest.raises(DataError, match="thickness maps"):
        register(None, None, ((maps[0], GRID), (other, GRID)))


def test_nothing_to_register_on_is_said():
    with pytest.raises(DataError, match="export both visits"):
        register(None, None)


def test_warp_brings_a_map_to_the_first_frame(eye):
    pose = Pose((0.2, -0.1), 3.0)
    later = revisit(eye, 4, shift_mm=pose.shift_mm, rotation_deg=pose.rotation_deg)
    exact = Registration(3.0, (0.2, -0.1), 1, 9, 0, 1, "localiser", True)
    coarse = Grid(-3.0, -2.5, 120, 100, 0.05)
    back, still = warp(later.thickness_um, GRID, coarse, exact), warp(
        eye.thickness_um, GRID, coarse, Registration(0, (0, 0), 1, 9, 0, 1, "localiser", True))  # fmt: skip
    assert np.nanmean(np.abs(back - still)) < 2
    x, y = np.array([1.0, -2.0]), np.array([0.5, 1.5])
    assert np.allclose(exact.undo(*exact.apply(x, y)), (x, y))
    outside = warp(np.ones((10, 10)), Grid(0, 0, 10, 10, 0.1), coarse, exact)
    assert np.isnan(outside[0, 0]) and np.nanmax(outside) == pytest.approx(1)


def test_a_real_infrared_picture_is_registered_on_itself_moved(real_data):
    path = real_data / "oct" / "Linescan_1.vol"
    if not path.is_file():
        pytest.skip("CLARION_REAL_DATA is not set to a folder with oct/Linescan_1.vol")
    from clarion.oct.readers import read_volume

    first = read_volume(path).localiser
    height, width = first.image.shape
    move = cv2.getRotationMatrix2D((width / 2, height / 2), -2.0, 1)
    move[:, 2] += (8, -5)
    noise = np.random.default_rng(0).normal(0, 12, first.image.shape)
    image = cv2.warpAffine(first.image, move, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    image = np.clip(0.9 * image + noise, 0, 255).astype(np.uint8)
    found = register(first, Localiser(image, first.mm_per_px, first.origin_mm))
    assert found.rotation_deg == pytest.approx(2.0, abs=0.02)
    x = np.array([0.0, width / 2])
    expected = np.array([move[:, :2] @ (a, a) + move[:, 2] for a in x]).T * first.mm_per_px[0]
    # Pixel p lies at (p + 0.5) steps from the corner.
    places = [(x + 0.5) * first.mm_per_px[0] + first.origin_mm[k] for k in (0, 1)]
    reached = np.array(found.apply(*places)) - np.array(first.origin_mm)[:, None] - 0.5 * first.mm_per_px[0]
    assert np.allclose(reached, expected, atol=0.006)
