"""The same phantom eye at a later visit."""

import numpy as np
import pytest
from scipy import ndimage

from clarion.errors import UsageError
from clarion.oct.phantom import make_eye
from clarion.oct.phantom.fields import GRID_STEP_MM, sample
from clarion.oct.phantom.revisit import Pose, draw_pose, revisit


@pytest.fixture(scope="module")
def eye():
    return make_eye(880_003, 2)


def test_same_anatomy_other_picture(eye):
    again = revisit(eye, 1, shift_mm=(0, 0), rotation_deg=0)
    assert np.array_equal(again.layers_um, eye.layers_um) and again.erm_area_mm2 == eye.erm_area_mm2
    a, b = eye.bscan("H", 12), again.bscan("H", 12)
    assert not np.array_equal(a.image, b.image)
    # What remains of the eye's motion moves the cut by some um, tilt and height are the visit's own.
    total = [scan.surfaces["BM"] - scan.surfaces["ILM"] for scan in (a, b)]
    assert np.abs(total[0] - total[1]).mean() < 0.5
    other = revisit(eye, 2, shift_mm=(0, 0), rotation_deg=0).bscan("H", 12).image
    assert not np.array_equal(b.image, other)
    assert np.array_equal(b.image, revisit(eye, 1, shift_mm=(0, 0), rotation_deg=0).bscan("H", 12).image)


def test_line_rng_gives_the_truth_of_the_picture(eye):
    cut = eye.section(eye.line_rng("V", 3), "V", 3)
    scan = eye.bscan("V", 3)
    assert np.allclose(cut.surfaces[0], scan.surfaces["ILM"], atol=1e-3)
    assert np.array_equal(cut.presence, scan.presence)


def test_every_map_moves_with_the_pose(eye):
    pose = Pose((0.12, -0.07), 2.0)
    later = revisit(eye, 5, shift_mm=pose.shift_mm, rotation_deg=pose.rotation_deg)
    x, y = np.random.default_rng(0).uniform(-3, 3, (2, 500))
    moved = pose.forward(x, y)
    for name, tolerance in (("thickness_um", 1.5), ("vessels", 0.04)):
        before, after = sample(getattr(eye, name)[None], x, y)[0], sample(getattr(later, name)[None], *moved)[0]
        assert np.abs(before - after).mean() < tolerance
    assert np.allclose(pose.back(*moved), (x, y))
    assert (later.fovea.x_mm, later.fovea.y_mm) == pytest.approx(pose.forward(eye.fovea.x_mm, eye.fovea.y_mm))
    assert later.erm_area_mm2 == pytest.approx(eye.erm_area_mm2, rel=0.003)
    assert later.central_subfield_um == pytest.approx(eye.central_subfield_um, abs=0.5)


def test_growth_moves_the_outer_boundary_only(eye):
    later = revisit(eye, 1, growth_mm=0.1, shift_mm=(0, 0), rotation_deg=0)
    new, lost = later.erm_mask & ~eye.erm_mask, eye.erm_mask & ~later.erm_mask
    assert not lost.any()
    far = ndimage.distance_transform_edt(~eye.erm_mask)[new] * GRID_STEP_MM
    assert 0 < far.min() and far.max() < 0.1 + GRID_STEP_MM
    tears = ndimage.binary_fill_holes(eye.erm_mask) & ~eye.erm_mask
    assert tears.sum() > 50 and not (later.erm_mask & tears).any()
    assert later.erm_area_mm2 > eye.erm_area_mm2 + 0.5


@pytest.mark.parametrize("um", [-10.0, 15.0])
def test_thickening_is_what_was_planted(eye, um):
    later = revisit(eye, 1, thickening_um=um, shift_mm=(0, 0), rotation_deg=0)
    assert later.central_subfield_um - eye.central_subfield_um == pytest.approx(um, abs=0.1)
    assert later.layers_um.min() >= 0


def test_poses_are_drawn_small_and_known():
    poses = [draw_pose(k) for k in range(1, 60)]
    assert max(abs(v) for p in poses for v in p.shift_mm) <= 0.25
    assert 0.5 < np.std([p.rotation_deg for p in poses]) < 1.5
    assert draw_pose(3) == draw_pose(3)


@pytest.mark.parametrize(
    "wrong", [{"seed": 0}, {"seed": 1, "growth_mm": -0.1}, {"seed": 1, "thickening_um": 900},
              {"seed": 1, "shift_mm": (3.0, 0.0)}]
)  # fmt: skip
def test_wrong_use_is_refused(eye, wrong):
    with pytest.raises(UsageError):
        revisit(eye, **wrong)
    with pytest.raises(UsageError):
        revisit(make_eye(880_000, 0), 1, growth_mm=0.1)
