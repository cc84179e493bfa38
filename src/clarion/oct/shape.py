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
from scipy.optimize import curve_fit
from scipy.signal import find_peaks, savgol_filter

from clarion.oct.enface import Grid, fused_map
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
    ilm_excess_percent: how much longer the ILM is than its own course without folds.
    line_mm: length of line on which folds were measured, by the same keys.
    """

    fold_um: dict[str, float | None]  # "all", "inside", "outside"
    traction_um_per_mm: dict[str, float | None]
    crests_per_mm: dict[str, float | None]
    ilm_excess_percent: dict[str, float | None]
    line_mm: dict[str, float]


@dataclass(frozen=True)
class Pit:
    """The foveal pit in the total thickness, from profiles along 36 meridians of the map.

    present: rim above centre by more than 15 um; without one, the rest but centre_um, rim_um, depth_um is None.
    centre_um: thickness at the fovea; rim_um, rim_mm: mean height and radius of the rim; depth_um: rim - centre;
    width_mm: diameter at half the depth; slope_deg: steepest slope of the mean profile; volume_mm3: between the pit
    and the level of its rim; dubis: parameters (mm, mm2) and RMS residual (um) of the model of Dubis 2009
    (Invest Ophthalmol Vis Sci 50:1942) along the horizontal meridian, None where it does not converge.
    """

    present: bool
    centre_um: float
    rim_um: float
    depth_um: float
    rim_mm: float | None = None
    width_mm: float | None = None
    slope_deg: float | None = None
    volume_mm3: float | None = None
    dubis: dict[str, float] | None = None


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


def fold_profiles_um(volume: Volume, surfaces: list[np.ndarray], band_mm: tuple[float, float] = FOLD_BAND_MM) -> list:
    """Fold height of the ILM along every scan, um, float32 [width] each (positive: towards the vitreous)."""
    checked(volume, surfaces)
    return [
        band_um((rows[-1] - rows[0]) * volume.axial_um, scan.length_mm / scan.width, band_mm).astype(np.float32)
        for scan, rows in zip(volume.scans, surfaces, strict=True)
    ]


def fold_map_um(volume: Volume, surfaces: list[np.ndarray], grid: Grid, window_mm: float = 0.5) -> np.ndarray:
    """En-face map of local fold height: RMS within `window_mm` along the lines, um float32 [rows, columns]."""
    squares = [
        _low_pass(np.square(fold), window_mm / 2 / (scan.length_mm / scan.width))
        for scan, fold in zip(volume.scans, fold_profiles_um(volume, surfaces), strict=True)
    ]
    return np.sqrt(fused_map(volume, squares, grid))


def measure_shape(
    volume: Volume,
    surfaces: list[np.ndarray],
    fovea,
    presence: list[np.ndarray] | None = None,
    threshold: float = 0.5,
) -> Shape:
    """Fold and traction indices of a volume; presence: probability of ERM [width] a scan, inside where >= threshold."""
    checked(volume, surfaces)
    sums = {key: np.zeros(7) for key in ("all", "inside", "outside")}
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
        smooth = _low_pass(heights[0], _ISO_SIGMA * FOLD_BAND_MM[1] / pitch)
        # Arc length of a profile in mm: the fold band only, as finer ripple is the segmentation's.
        excess = (np.gradient(fold + smooth, pitch) / 1000, np.gradient(smooth, pitch) / 1000)
        arc, course = (np.sqrt(1 + slope**2) for slope in excess)
        known, pulled = np.isfinite(fold), np.isfinite(pull)
        arc, course = (np.where(np.isfinite(arc), length, 0) for length in (arc, course))
        table = np.stack([known, np.where(known, fold, 0) ** 2, crest & known, arc, course,
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
        traction_um_per_mm=each(lambda s: np.sqrt(s[6] / s[5]), line=5),
        crests_per_mm={key: float(crests[key] / s[0]) if s[0] >= _MIN_MM else None for key, s in sums.items()},
        ilm_excess_percent=each(lambda s: 100 * (s[3] / s[4] - 1)),
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
        dubis=fit_dubis(*_horizontal(profiles, radius)),
    )  # fmt: skip


def fit_dubis(x_mm: np.ndarray, thickness_um: np.ndarray) -> dict[str, float] | None:
    """Difference of two Gaussians, T = a1 exp(-(x - b1)^2 / 2 c1) - a2 exp(-(x - b2)^2 / 2 c2) + z, in mm.

    Returns {a1, b1, c1, a2, b2, c2, z, rms_um}, or None where the fit does not converge.
    """
    known = np.isfinite(thickness_um)
    if known.sum() < 20:
        return None
    x, t = x_mm[known], thickness_um[known] / 1000

    def model(x, a1, b1, c1, a2, b2, c2, z):
        return a1 * np.exp(-((x - b1) ** 2) / (2 * c1)) - a2 * np.exp(-((x - b2) ** 2) / (2 * c2)) + z

    guess = (0.24, 0.0, 5.0, 0.125, 0.0, 0.10, 0.10)  # the healthy values of Dubis
    low, high = (0, -2, 0.3, 0, -0.5, 0.005, 0), (0.8, 2, 50, 0.8, 0.5, 1.0, 0.5)
    try:
        found, _ = curve_fit(model, x, t, guess, bounds=(low, high), max_nfev=400)
    except RuntimeError:  # not converged
        return None
    rms = 1000 * float(np.sqrt(np.mean((model(x, *found) - t) ** 2)))
    names = ("a1", "b1", "c1", "a2", "b2", "c2", "z")
    return {name: float(v) for name, v in zip(names, found, strict=True)} | {"rms_um": rms}


def _at(values: np.ndarray, grid: Grid, x_mm: np.ndarray, y_mm: np.ndarray) -> np.ndarray:
    """Bilinear values of a map at points; NaN off the map and beside unmeasured pixels."""
    at = ((y_mm - grid.y0_mm) / grid.step_mm - 0.5, (x_mm - grid.x0_mm) / grid.step_mm - 0.5)
    return map_coordinates(values.astype(float), at, order=1, mode="constant", cval=np.nan)


def _horizontal(profiles: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two horizontal meridians as one profile: x mm from left to right, thickness."""
    left, right = profiles[_MERIDIANS // 2, :0:-1], profiles[0]
    return np.concatenate([-radius[:0:-1], radius]), np.concatenate([left, right])


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
