"""The published association score, for comparison only: it grows with the membrane's area, not with association.

Baek et al., IEEE Access 13:196887, 2025, as described in the project's facts: the colour picture of the vendor's
thickness map is cut into nine hue classes, thickest first; score = mean over k of w_k IoU(membrane, classes 1..k).
"""

from __future__ import annotations

import cv2
import numpy as np

from clarion.errors import UsageError

CLASSES = 9
# OpenCV hue (0-179, both ends included), least saturation, least value; thickest class first.
HSV_CLASSES = (
    (0, 3, 50, 50), (4, 7, 50, 50), (8, 13, 50, 50),
    (14, 20, 100, 100), (21, 27, 100, 100), (28, 35, 100, 100),
    (36, 48, 0, 0), (49, 58, 0, 100), (59, 68, 0, 100),
)  # fmt: skip
ROI_ROWS = 640  # the picture height the limits below are counted in
ERM_ROWS = (110, 534)
THICKNESS_ROWS = (0, 600)


def legacy_weights() -> np.ndarray:
    """w_1..w_9; their mean is 0.9993."""
    k = np.arange(1, CLASSES + 1)
    return -0.01 * k**2 - 0.07 * k + 1.666


def colour_classes(picture: np.ndarray) -> np.ndarray:
    """Classes 1 (thickest) to 9 of an RGB picture uint8 [rows, columns, 3], 0 elsewhere: int8 [rows, columns].

    White and pink, the vendor's colours of the thickest retina, fall in no class, and blue and black, the thinnest,
    neither: that is the published rule.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise UsageError("The legacy score needs a colour picture: uint8 [rows, columns, 3], red first.")
    hue, saturation, value = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV))
    classes = np.zeros(hue.shape, np.int8)
    for k, (low, high, least_saturation, least_value) in enumerate(HSV_CLASSES, 1):
        inside = (hue >= low) & (hue <= high) & (saturation >= least_saturation) & (value >= least_value)
        classes[inside] = k
    return classes


def thickness_classes(thickness_um: np.ndarray, edges_um: tuple[float, ...] | None = None) -> np.ndarray:
    """Classes 1 (thickest) to 9 of a numeric map [rows, columns] um, 0 where it is NaN: int8.

    edges_um: eight rising inner edges. Which um the vendor's hues stand for is not published; without edges the
    classes are nine of equal area (quantiles of this map), so every measured pixel lies in one.
    """
    measured = np.isfinite(thickness_um)
    if not measured.any():
        raise UsageError("The thickness map holds no measured value: the legacy score is not defined.")
    if edges_um is None:
        edges_um = np.quantile(thickness_um[measured], np.arange(1, CLASSES) / CLASSES)
    edges = np.asarray(edges_um, float)
    if edges.shape != (CLASSES - 1,) or (np.diff(edges) < 0).any():
        raise UsageError(f"edges_um must be {CLASSES - 1} rising values in um.")
    above = np.digitize(np.nan_to_num(thickness_um), edges)
    return np.where(measured, CLASSES - above, 0).astype(np.int8)


def score(erm: np.ndarray, classes: np.ndarray) -> float:
    """The score of a mask bool [rows, columns] and classes int [rows, columns]; IoU is 0 where both are empty."""
    if erm.shape != classes.shape:
        raise UsageError(f"The ERM mask is {erm.shape}, the thickness classes {classes.shape}: use one frame.")
    erm = erm.astype(bool)
    everywhere = np.bincount(classes.ravel(), minlength=CLASSES + 1)[1:].cumsum()
    under = np.bincount(classes[erm], minlength=CLASSES + 1)[1:].cumsum()
    union = np.count_nonzero(erm) + everywhere - under
    return float((legacy_weights() * under / np.maximum(union, 1)).mean())


def legacy_score(erm: np.ndarray, thickness: np.ndarray, edges_um: tuple[float, ...] | None = None) -> float:
    """The published score of a mask bool [rows, columns].

    thickness: the vendor's colour picture (uint8 RGB [rows, columns, 3]; rows 110-534 of 640 of the mask and rows
    0-599 of the picture count, in proportion for other heights), or a numeric map (float [rows, columns] um, all of
    it: no burnt-in margin to cut).
    """
    if thickness.ndim == 2:
        return score(erm.astype(bool) & np.isfinite(thickness), thickness_classes(thickness, edges_um))
    classes, mask = colour_classes(thickness), erm.astype(bool).copy()
    for image, (first, end) in ((mask, ERM_ROWS), (classes, THICKNESS_ROWS)):
        image[: round(first * len(image) / ROI_ROWS)] = 0
        image[round(end * len(image) / ROI_ROWS) :] = 0
    return score(mask, classes)
