"""Shape of the retina along B-scans: curvature, folds, traction and the foveal pit.

Folds are measured as surface metrology measures roughness: the profile is separated by Gaussian filters (ISO 16610-21,
50 % transmission at the cut-off wavelength) and Rq, the root mean square of what lies between two wavelengths, is
taken. Heights are above Bruch's membrane, so that the eye's own curvature and tilt drop out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, map_coordinates
from scipy.signal import find_peaks, savgol_filter

from clarion.oct.enface import Grid
from clarion.oct.thickness import checked
from clarion.oct.volume import SURFACES, Volume

FOLD_BAND_MM = (0.1, 0.6)  # wavelengths of macular folds
TRACTION_BAND_MM = (0.1, 2.0)  # also the wider distortion round them, but not the pit's own slope over 3 mm
RING_MM = (0.5, 3.0)  # round the fovea: its walls and the optic disc are no folds
_ISO_SIGMA = 0.18739  # sigma / cut-off wavelength: sqrt(ln 2 / 2) / pi
_INNER = ("RNFL/GCL", "IPL/INL", "INL/OPL")
_MIN_MM = 2.0  # of scan line: less gives no index
_PIT_REACH_MM, _PIT_STEP_MM, _MERIDIANS = 1.8, 0.02, 36
_RIM_FROM_MM = 0.4  # a rim nearer than this is a fold
_MIN_PIT_UM = 15.0  # a shallower dip is the ripple of a plateau


@dataclass(frozen=True)
class Shape:
    """Folds and traction in the ring round the fovea (RING_MM), from the lines of both directions.

    Each value is None where less than 2 mm of line was measured (folds need ILM and BM, traction the inner surfaces
    too). inside, outside: A-scans with and without ERM.
    fold_um: RMS height of the ILM's folds (wavelengths FOLD_BAND_MM).
    traction_um_per_mm: RMS of the gradient along the scan of the mean displacement of the inner surfaces (RNFL/GCL,
    IPL/INL, INL/OPL; wavelengths TRACTION_BAND_MM), the shear part of a displacement gradient; 10 um/mm = 1 %.
    crests_per_mm: fold crests that stand out by more than 2 um, per mm of line.
    line_mm: length of line on which folds were measured, by the same keys.
    """

    fold_um: dict[str, float | None]  # "all", "inside", "outside"
    traction_um_per_mm: dict[str, float | None]
    crests_per_mm: dict[str, float | None]
    line_mm: dict[str, float]


@dataclass(frozen=True)
class Pit:
    """The foveal pit in the total thickness, from profiles along 36 meridians of the map.

    present: rim above centre by more than 15 um; without one, the rest but centre_um, rim_um, depth_um is None.
    centre_um: thickness at the fovea; rim_um, rim_mm: mean height and radius of the rim; depth_um: rim - centre;
    width_mm: diameter at half the depth; slope_deg: steepest slope of the mean profile; volume_mm3: between the pit
    and the level of its rim.
    """

    present: bool
    centre_um: float
    rim_um: float
    depth_um: float
    rim_mm: float | None = None
    width_mm: float | None = None
    slope_deg: float | None = None
    volume_mm3: float | None = None


def curvature(volume: Volume, surfaces: list[np.ndarray], surface: str = "BM", window_mm: float = 2.0) -> list:
    """Curvature of a surface along every scan, 1/mm, float32 [width] each; NaN where it is not measured.

    z'' / (1 + z'^2)^1.5 of a quadratic fitted over `window_mm` (Savitzky and Golay 1964); positive: concave towards
    the vitreous, as a normal BM. It is the curvature of the picture: devices show a fan of beams as parallel ones,
    so it compares scans of one protocol and is not the radius of the eyeball.
    """
    checked(volume, surfaces)
    k, found = SURFACES.index(surface), []
    for scan, rows in zip(volume.scans, surfaces, strict=True):
        pitch = scan.length_mm / scan.width
        window = min(2 * round(window_mm / pitch / 2) + 1, scan.width - 1 + scan.width % 2)
        known = np.isfinite(rows[k])
        if known.sum() < window:
            found.append(np.full(scan.width, np.nan, np.float32))
            continue
        height = -_filled(rows[k], known) * volume.axial_um / 1000
        slope, bend = (savgol_filter(height, window, 2, deriv=d, delta=pitch) for d in (1, 2))
        found.append(np.where(known, bend / (1 + slope**2) ** 1.5, np.nan).astype(np.float32))
    return found


def band_um(profile_um: np.ndarray, pitch_mm: float, band_mm: tuple[float, float] = FOLD_BAND_MM) -> np.ndarray:
    """What of profiles [..., width] lies between two wavelengths (mm): the difference of two ISO 16610-21 filters.

    NaN stay NaN and do not spread (normalised convolution).
    """
    short, long = (_low_pass(profile_um, _ISO_SIGMA * wavelength / pitch_mm) for wavelength in band_mm)
    return short - long


def measure_shape(
    volume: Volume,
    surfaces: list[np.ndarray],
    fovea,
    presence: list[np.ndarray] | None = None,
    threshold: float = 0.5,
) -> Shape:
    """Fold and traction indices of a volume; presence: probability of ERM [width] a scan, inside where >= threshold."""
    checked(volume, surfaces)
    sums = {key: np.zeros(5) for key in ("all", "inside", "outside")}
    crests = dict.fromkeys(sums, 0)
    inner = [SURFACES.index(name) for name in _INNER]
    for k, (scan, rows) in enumerate(zip(volume.scans, surfaces, strict=True)):
        pitch = scan.length_mm / scan.width
        heights = (rows[-1] - rows) * volume.axial_um
        fold = band_um(heights[0], pitch)
        pull = np.gradient(band_um(heights[inner].mean(0), pitch, TRACTION_BAND_MM), pitch)
        x, y = scan.path_mm()
        r = np.hypot(x - fovea.x_mm, y - fovea.y_mm)
        use = (r >= RING_MM[0]) & (r <= RING_MM[1])
        crest = np.zeros(scan.width, bool)
        crest[find_peaks(np.where(np.isfinite(fold), fold, 0), prominence=2.0)[0]] = True
        known, pulled = np.isfinite(fold), np.isfinite(pull)
        table = np.stack([known, np.where(known, fold, 0) ** 2, crest & known,
                          pulled, np.where(pulled, pull, 0) ** 2])  # fmt: skip
        parts = {"all": use}
        if presence is not None:
            likely = np.asarray(presence[k], float)  # NaN is neither
            parts |= {"inside": use & (likely >= threshold), "outside": use & (likely < threshold)}
        for key, chosen in parts.items():
            sums[key] += table[:, chosen].sum(1) * pitch
            crests[key] += int(table[2, chosen].sum())

    def each(value: Callable, line: int = 0) -> dict[str, float | None]:
        return {key: float(value(s)) if s[line] >= _MIN_MM else None for key, s in sums.items()}

    return Shape(
        fold_um=each(lambda s: np.sqrt(s[1] / s[0])),
        traction_um_per_mm=each(lambda s: np.sqrt(s[4] / s[3]), line=3),
        crests_per_mm={key: float(crests[key] / s[0]) if s[0] >= _MIN_MM else None for key, s in sums.items()},
        line_mm={key: float(s[0]) for key, s in sums.items()},
    )


def measure_pit(total_um: np.ndarray, grid: Grid, fovea) -> Pit | None:
    """The pit of a thickness map [rows, columns] in um; None if less than 80 % of its surroundings were measured."""
    radius = np.arange(0, _PIT_REACH_MM, _PIT_STEP_MM)
    angle = np.arange(_MERIDIANS) * 2 * np.pi / _MERIDIANS
    x, y = fovea.x_mm + np.outer(np.cos(angle), radius), fovea.y_mm + np.outer(np.sin(angle), radius)
    profiles = _at(total_um, grid, x, y)
    if np.isfinite(profiles).mean() < 0.8 or not np.isfinite(profiles).any(0).all():
        return None
    profile = np.nanmean(profiles, 0)
    smooth = gaussian_filter1d(profile, 0.05 / _PIT_STEP_MM, mode="mirror")
    start = int(np.ceil(_RIM_FROM_MM / _PIT_STEP_MM))
    rim = start + int(np.argmax(smooth[start:]))
    centre, top = float(profile[0]), float(smooth[rim])
    if top - centre < _MIN_PIT_UM:
        return Pit(False, centre, top, top - centre)
    inner = smooth[: rim + 1]
    half = float(np.interp((centre + top) / 2, np.maximum.accumulate(inner), radius[: rim + 1]))
    missing = np.maximum(top - profile[: rim + 1], 0) / 1000
    return Pit(
        present=True, centre_um=centre, rim_um=top, depth_um=top - centre, rim_mm=float(radius[rim]),
        width_mm=2 * half,
        slope_deg=float(np.degrees(np.arctan(np.gradient(inner, _PIT_STEP_MM).max() / 1000))),
        volume_mm3=float(np.trapezoid(missing * 2 * np.pi * radius[: rim + 1], radius[: rim + 1])),
    )  # fmt: skip


def _at(values: np.ndarray, grid: Grid, x_mm: np.ndarray, y_mm: np.ndarray) -> np.ndarray:
    """Bilinear values of a map at points; NaN off the map and beside unmeasured pixels."""
    at = ((y_mm - grid.y0_mm) / grid.step_mm - 0.5, (x_mm - grid.x0_mm) / grid.step_mm - 0.5)
    return map_coordinates(values.astype(float), at, order=1, mode="constant", cval=np.nan)


def _low_pass(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian low-pass along the last axis over what is known; NaN where nothing was."""
    known = np.isfinite(values)
    if known.all():
        return gaussian_filter1d(np.asarray(values, float), sigma, axis=-1, mode="reflect", truncate=3.5)
    weight = gaussian_filter1d(known.astype(float), sigma, axis=-1, mode="reflect", truncate=3.5)
    total = gaussian_filter1d(np.where(known, values, 0.0), sigma, axis=-1, mode="reflect", truncate=3.5)
    return np.where(known, total / np.maximum(weight, 1e-9), np.nan)


def _filled(line: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A line with its gaps bridged linearly, so that a window may pass over them."""
    index = np.arange(line.size)
    return np.interp(index, index[known], line[known])
