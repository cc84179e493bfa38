"""The published score: its known answers, and that it measures area."""

import cv2
import numpy as np
import pytest

from clarion.errors import UsageError
from clarion.oct.association import colour_classes, legacy_score, legacy_weights, thickness_classes
from clarion.oct.association.legacy import HSV_CLASSES

SIDE = 360  # nine classes of equal area in a square field: the setting of the known answers


@pytest.fixture(scope="module")
def thickness():
    return np.random.default_rng(0).permutation(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.float32)


def test_weights():
    assert legacy_weights().mean() == pytest.approx(0.9993, abs=5e-5)
    assert legacy_weights()[0] == pytest.approx(1.586)


@pytest.mark.parametrize(("deepest", "expected"), [(1, 0.40), (3, 0.60), (9, 0.43)])
def test_membrane_exactly_on_the_thickest_classes(thickness, deepest, expected):
    classes = thickness_classes(thickness)
    assert np.bincount(classes.ravel())[1:].tolist() == [SIDE * SIDE // 9] * 9
    assert legacy_score((classes <= deepest), thickness) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.27), (0.9, 0.41)])
def test_a_random_mask_scores_by_its_area(thickness, share, expected):
    mask = np.random.default_rng(1).random(thickness.shape) < share
    # With classes of equal area the expectation is exact: IoU_k = p q / (p + q - p q) for shares p and q = k / 9, which
    # makes 0.279 and 0.404; the known answers were measured on one mask each.
    q = np.arange(1, 10) / 9
    exact = (legacy_weights() * share * q / (share + q - share * q)).mean()
    assert legacy_score(mask, thickness) == pytest.approx(exact, abs=0.003)
    assert exact == pytest.approx(expected, abs=0.01)


def test_colours_are_classed_as_published():
    picture = np.zeros((1, 12, 3), np.uint8)
    picture[0, :9] = [((low + high) // 2, 200, 200) for low, high, _, _ in HSV_CLASSES]
    picture[0, 9:] = (160, 80, 255), (0, 0, 255), (110, 255, 255)  # pink, white, blue: no class
    classes = colour_classes(cv2.cvtColor(picture, cv2.COLOR_HSV2RGB))
    assert classes[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0]


def test_picture_and_numbers_agree_inside_the_region(thickness):
    classes = cv2.resize(thickness_classes(thickness), (640, 640), interpolation=cv2.INTER_NEAREST)
    hues = np.array([0, *((low + high) // 2 for low, high, _, _ in HSV_CLASSES)], np.uint8)
    hsv = np.dstack([hues[classes], np.full((640, 640), 200, np.uint8), np.full((640, 640), 200, np.uint8)])
    picture = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    assert np.array_equal(colour_classes(picture), classes)
    mask = np.zeros((640, 640), bool)
    mask[:110] = mask[534:] = True  # only where the published rule does not look
    assert legacy_score(mask, picture) == 0
    mask[200:400] = True
    inner = np.zeros_like(mask)
    inner[200:400] = True
    assert legacy_score(mask, picture) == legacy_score(inner, picture) > 0


def test_edges_in_um_and_bad_input(thickness):
    edges = tuple(range(200, 360, 20))
    assert thickness_classes(np.array([[100.0, 500.0, 210.0, np.nan]]), edges).tolist() == [[9, 1, 8, 0]]
    with pytest.raises(UsageError, match="8 rising"):
        thickness_classes(thickness, (1.0, 2.0))
    with pytest.raises(UsageError, match="one frame"):
        legacy_score(np.zeros((4, 4), bool), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match="no measured value"):
        thickness_classes(np.full((3, 3), np.nan))
    with pytest.raises(UsageError, match="colour picture"):
        colour_classes(np.zeros((3, 3, 4), np.uint8))
