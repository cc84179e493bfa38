"""Between a B-scan's own pixels and the working scale of the layer network.

Every instrument is brought to the same micrometres per pixel, so that the network sees layers of one thickness
whatever the device; surfaces found there are mapped back. Rows and columns count from pixel centres.
"""

from __future__ import annotations

import cv2
import numpy as np

from clarion.errors import DataError

AXIAL_UM = 7.744  # two rows of a Spectralis
LATERAL_UM = 46.8  # four A-scans of a Spectralis
STRIDE = 16  # the network halves its input four times
MAX_WORK = (1024, 1024)  # rows, columns: 8 mm deep, 48 mm wide; more is a wrong scale, not an eye


def working_shape(shape: tuple[int, int], axial_um: float, lateral_um: float) -> tuple[int, int]:
    """(rows, columns) of a B-scan [depth, width] at the working scale; DataError for a scale that cannot be."""
    if not (np.isfinite(axial_um) and np.isfinite(lateral_um) and axial_um > 0 and lateral_um > 0):
        raise DataError(f"A B-scan's scale of {axial_um} x {lateral_um} um/px is no scale: give it with --spacing.")
    rows = max(STRIDE, round(shape[0] * axial_um / AXIAL_UM))
    columns = max(STRIDE, round(shape[1] * lateral_um / LATERAL_UM))
    if rows > MAX_WORK[0] or columns > MAX_WORK[1]:
        raise DataError(
            f"A B-scan of {shape[1]} x {shape[0]} px at {lateral_um:g} x {axial_um:g} um/px would be "
            f"{shape[1] * lateral_um / 1000:.0f} mm wide and {shape[0] * axial_um / 1000:.1f} mm deep: check its scale."
        )
    return rows, columns


def to_working(image: np.ndarray, axial_um: float, lateral_um: float) -> np.ndarray:
    """B-scan [depth, width] (uint8 or float32) resampled to the working scale, float32; averages what it shrinks."""
    shape = working_shape(image.shape, axial_um, lateral_um)
    return resize(image, shape)


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """image [H, W] -> float32 [shape]: area averaging along a side that shrinks, linear along one that grows."""
    image = np.ascontiguousarray(image, dtype=np.float32)
    for rows, columns in ((shape[0], image.shape[1]), shape):  # one side at a time: they may differ in direction
        if (rows, columns) != image.shape:
            shrinks = rows <= image.shape[0] and columns <= image.shape[1]
            image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return image


def normalised(image: np.ndarray) -> np.ndarray:
    """Grey levels [H, W] -> float32 with background near 0 and the brightest lines near 1, whatever the display.

    The darkest and brightest percents are taken from the picture itself: exports differ in gain and black level.
    """
    sample = image[::2, ::2]
    low, high = np.percentile(sample, [10, 99])
    return ((image - low) / max(high - low, 8.0)).astype(np.float32)


def padded(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """image [H, W] with black added below and at the right, to [rows, columns]."""
    return np.pad(image, ((0, rows - image.shape[0]), (0, columns - image.shape[1])))


def ceil_to(value: int, step: int = STRIDE) -> int:
    """The next multiple of `step`."""
    return -(-value // step) * step


def rows_to_working(rows: np.ndarray, depth: int, work_rows: int) -> np.ndarray:
    """Row numbers of a picture `depth` high -> of the same picture resampled to `work_rows`."""
    return (rows + 0.5) * (work_rows / depth) - 0.5


def columns_between(values: np.ndarray, width: int) -> np.ndarray:
    """Curves [..., columns] on another number of A-scans [..., width], linear between pixel centres; NaN spreads."""
    columns = values.shape[-1]
    at = np.clip((np.arange(width) + 0.5) * (columns / width) - 0.5, 0, columns - 1)
    left = np.minimum(at.astype(np.intp), max(columns - 2, 0))
    right = np.minimum(left + 1, columns - 1)
    part = (at - left).astype(values.dtype)
    blend = values[..., left] * (1 - part) + values[..., right] * part
    # A neighbour of weight 0 must not turn a value into NaN.
    blend = np.where(part == 0, values[..., left], blend)
    return np.where(part == 1, values[..., right], blend)
