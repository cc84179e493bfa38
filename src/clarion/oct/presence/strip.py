"""The strip along the inner limiting membrane (ILM): every A-scan shifted so that the ILM lies in one row.

Flattened, a membrane is a second line that leaves and meets the first; tilt, curvature and the eye's place in the
picture are gone, and a small network sees only what matters. A strip has one working scale for all instruments.
"""

from __future__ import annotations

import cv2
import numpy as np

from clarion.errors import DataError

AXIAL_UM, LATERAL_UM = 3.9, 23.4  # of a strip: a Spectralis row, two of its A-scans
ABOVE, BELOW = 44, 52  # rows towards the vitreous (172 um) and into the retina (203 um)
RETINA = slice(8, 40)  # rows below the ILM that set the brightness: 31 to 156 um, inner retina on a normal eye
RETINA_LEVEL = 0.5  # what the inner retina's brightness becomes
FEWEST_COLUMNS = 8


def cut_strip(
    image: np.ndarray, ilm: np.ndarray, axial_um: float, lateral_um: float, above: int = ABOVE, below: int = BELOW
) -> tuple[np.ndarray, np.ndarray]:
    """The strip of a B-scan and which of its A-scans can be assessed.

    image: uint8 [depth, width]; ilm: rows, float [width], NaN where it was not found; axial_um, lateral_um: of a pixel.
    Returns (strip float32 [above + below, columns] in grey levels, row `above` is the ILM; assessable bool [width]).
    An A-scan without ILM, with an ILM outside the picture, or without any light below it is not assessable; the strip
    bridges it. What lies outside the picture is black, as the vitreous is.
    """
    if image.ndim != 2 or ilm.shape != image.shape[1:]:
        raise DataError(f"A B-scan of shape {image.shape} does not go with an ILM of {ilm.shape}: one row per A-scan.")
    if not (axial_um > 0 and lateral_um > 0):
        raise DataError(f"A scale of {axial_um} x {lateral_um} um/px is none: both must be above 0.")
    rows, known = bridged(ilm, image.shape[0])
    strip = flatten(image, rows, axial_um, above, below)
    known &= strip[above:].any(axis=0)
    return narrow(strip, lateral_um), known


def flatten(image: np.ndarray, ilm: np.ndarray, axial_um: float, above: int = ABOVE, below: int = BELOW) -> np.ndarray:
    """uint8 [above + below, width] at AXIAL_UM a row; row `above` is the ILM. ilm: rows [width], no NaN."""
    step = AXIAL_UM / axial_um
    if step > 1.5:  # a finer instrument: average before sampling, so that its speckle is that of the strip's scale
        depth = max(1, round(image.shape[0] / step))
        ilm = (ilm + 0.5) * depth / image.shape[0] - 0.5
        step *= depth / image.shape[0]
        image = cv2.resize(image, (image.shape[1], depth), interpolation=cv2.INTER_AREA)
    rows = (ilm[None, :] + np.arange(-above, below)[:, None] * step).astype(np.float32)
    columns = np.broadcast_to(np.arange(image.shape[1], dtype=np.float32), rows.shape)
    return cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def narrow(strip: np.ndarray, lateral_um: float) -> np.ndarray:
    """The strip at LATERAL_UM a column: float32 [rows, columns], neighbours averaged."""
    columns = max(FEWEST_COLUMNS, round(strip.shape[1] * lateral_um / LATERAL_UM))
    how = cv2.INTER_AREA if columns < strip.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(strip.astype(np.float32), (columns, strip.shape[0]), interpolation=how)


def normalised(strip: np.ndarray, above: int = ABOVE) -> np.ndarray:
    """The strip with the vitreous at 0 and the inner retina at RETINA_LEVEL, float32: gain and floor taken out."""
    floor = float(np.median(strip[: above // 2]))
    level = float(np.median(strip[above + RETINA.start : above + RETINA.stop]))
    scaled = (strip - floor) * (RETINA_LEVEL / max(level - floor, 8.0))
    return np.clip(scaled, -0.5, 2.0).astype(np.float32)


def bridged(ilm: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """(ilm without NaN float32 [width], where it was found inside the picture); gaps are bridged linearly."""
    ilm = np.asarray(ilm, np.float32)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(ilm) & (ilm >= 0) & (ilm <= depth - 1)
    if not known.any():
        return np.zeros_like(ilm), known
    index = np.arange(ilm.size)
    return np.interp(index, index[known], ilm[known]).astype(np.float32), known


def at_columns(values: np.ndarray, count: int) -> np.ndarray:
    """Values [n] along a scan -> float32 [count] along the same scan: means where columns get wider, else linear."""
    values = np.asarray(values, np.float32)
    if count < values.size:
        return cv2.resize(values[None], (count, 1), interpolation=cv2.INTER_AREA)[0]
    at = (np.arange(count) + 0.5) * values.size / count - 0.5
    return np.interp(at, np.arange(values.size), values).astype(np.float32)
