"""How well a surface can be located at all: Cramer-Rao bounds of the eight positions on the phantom.

After DuBose et al. (IEEE TMI 37:1978, 2018): layers of known grey level, blurred by the axial point spread, seen
through speckle. For one A-scan y ~ N(mu(s), C(s)) with the positions s of the eight surfaces unknown, the Fisher
information is (Slepian-Bangs)

    J_kl = (d mu/d s_k)' C^-1 (d mu/d s_l) + 1/2 tr(C^-1 dC/d s_k C^-1 dC/d s_l)

and no unbiased estimate of s_k has a standard deviation below sqrt((J^-1)_kk): all eight are estimated jointly.

mu(z): a step of grey level at every surface, smoothed by the blur and the pixel, plus the bright lines (ILM, external
limiting membrane, EZ, RPE) that the renderer raises around it, light decaying in the choroid, compressed highlights.
C: speckle of the measured axial autocorrelation R whose SD grows with mu, SD(z) = strength(mu) mu(z), plus detector
noise and the rounding to 8 bits: C_ij = SD_i SD_j R_(i-j) + N_(i-j) + delta_ij / 12. R and N are measured on the
renderer's own noise.

Neighbouring A-scans tell of nearly the same position. Averaging over L of them divides the variance by
n_eff = L / (1 + 2 sum_l (1 - l/L) rho_l), rho the lateral autocorrelation of the speckle: `lateral_gain`.

What the bound does not know, so that it lies below what can be reached: grey levels that drift along the scan, vessels,
cysts, membranes; what it does not use, so that an estimate may lie below the bound of one A-scan: the shape of retinas.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.special import ndtr

from clarion.oct.phantom.render import FWHM_TO_SD, GREY
from clarion.oct.phantom.speckle import shot_noise, speckle

SMOOTH_MM = 0.14  # the finest structure of the phantom's interfaces (clarion.oct.phantom.anatomy)
_PSF_SD = np.sqrt(1.3**2 + 1 / 12)  # the renderer's blur and the width of a pixel, rows
_SPECKLE, _NOISE_MEAN, _NOISE_ZERO = 0.1375, 5.35, 0.41  # middle of the phantom's instrument settings
_CHOROID_ROWS = 44.0
_MARGIN = 30  # rows above the ILM and below BM that count
_STEP = 0.05  # rows, of the numerical derivatives


def bounds_px(surfaces: np.ndarray, axial_um: float = 3.872) -> np.ndarray:
    """Lower bounds float64 [8] of the standard deviation of each surface's row in one A-scan, from its rows [8].

    NaN where layers are thinner than two rows: what is not there cannot be located apart from its neighbour.
    """
    surfaces = np.asarray(surfaces, dtype=float)
    thin = np.diff(surfaces) < 2
    free = np.flatnonzero(~(np.append(thin, False) | np.append(False, thin)))
    result = np.full(len(surfaces), np.nan)
    if not free.size or not np.isfinite(surfaces).all():
        return result
    rows = np.arange(np.floor(surfaces[0]) - _MARGIN, np.ceil(surfaces[-1]) + _MARGIN)
    inverse = np.linalg.inv(covariance(rows, surfaces, axial_um))
    slopes, changes = [], []
    for k in free:
        moved = [surfaces + step * (np.arange(len(surfaces)) == k) for step in (-_STEP, _STEP)]
        low, high = (mean_profile(rows, s, axial_um) for s in moved)
        slopes.append((high - low) / (2 * _STEP))
        low, high = (covariance(rows, s, axial_um) for s in moved)
        changes.append(inverse @ ((high - low) / (2 * _STEP)))
    slopes, changes = np.array(slopes), np.array(changes)
    information = slopes @ inverse @ slopes.T + 0.5 * np.einsum("kij,lji->kl", changes, changes)
    result[free] = np.sqrt(np.diag(np.linalg.inv(information)))
    return result


def mean_profile(rows: np.ndarray, surfaces: Sequence[float], axial_um: float = 3.872) -> np.ndarray:
    """Mean grey level at `rows` [n] of an A-scan with its surfaces at `surfaces` [8], no membrane, vessel or cyst."""
    um = 3.872 / axial_um
    top = np.asarray(surfaces, dtype=float)
    steps = [(top[0], GREY["RNFL"]), (top[1], GREY["GCL"]), (0.45 * top[1] + 0.55 * top[2], GREY["IPL"]),
             (top[2], GREY["INL"]), (top[3], GREY["OPL"]), (top[4], GREY["ONL"]),
             (max(top[5] - 6 * um, top[4]), GREY["myoid"]), (top[5], GREY["EZ-RPE"]), (top[6], GREY["RPE-BM"]),
             (top[7], GREY["choroid"])]  # fmt: skip
    levels = np.array([0.0, *(grey for _, grey in steps)])
    mean = sum(jump * ndtr((rows + 0.5 - at) / _PSF_SD) for (at, _), jump in zip(steps, np.diff(levels), strict=True))
    below = np.maximum(rows - top[7], 0) / (_CHOROID_ROWS * um)
    mean = mean * (np.exp(-(below**1.25)) + 0.1 * np.exp(-below / 3) * (below > 0))
    for at, peak, fwhm in ((top[0] + 1.0, 140, 3.4 * um), (top[5] + 1.5, 190, 5.5 * um),
                           (top[5] - 7 * um, 88, 3 * um), (top[6] + 2.2 * um, 232, 11 * um)):  # fmt: skip
        mean = np.maximum(mean, peak * np.exp(-0.5 * ((rows - at) / (fwhm * FWHM_TO_SD)) ** 2))
    return np.where(mean > 205, 205 + 0.6 * (mean - 205), mean) + _NOISE_MEAN


def covariance(rows: np.ndarray, surfaces: Sequence[float], axial_um: float = 3.872) -> np.ndarray:
    """Covariance [n, n] of the grey levels at `rows` of one A-scan."""
    mean = mean_profile(rows, surfaces, axial_um) - _NOISE_MEAN
    strength = _SPECKLE * (1 - np.clip((mean - 150) / 130, 0, 0.6))
    # The renderer calms the speckle at a whole row below BM; an edge that sharp would be information no eye has.
    strength = strength * (1 - 0.38 * ndtr((rows - surfaces[-1] - 4) / _PSF_SD))
    sd = strength * mean
    lag = np.abs(np.subtract.outer(np.arange(len(rows)), np.arange(len(rows))))
    tissue, detector = _axial_covariances()
    near = np.minimum(lag, len(tissue) - 1)
    return np.outer(sd, sd) * tissue[near] + detector[near] + np.eye(len(rows)) / 12


def lateral_gain(columns: int) -> float:
    """Factor below 1 on the standard deviation when `columns` neighbouring A-scans see the same position."""
    rho = _lateral_correlation()[1 : max(columns, 1)]
    lag = np.arange(1, len(rho) + 1)
    return float(np.sqrt((1 + 2 * np.sum((1 - lag / columns) * rho)) / columns))


@cache
def _axial_covariances() -> tuple[np.ndarray, np.ndarray]:
    """Autocovariance at 0, 1, ... 10 rows (the last is 0) of unit speckle and of the detector noise."""
    shape = (1024, 512)
    noise = shot_noise(np.random.default_rng(2), shape, _NOISE_MEAN, _NOISE_ZERO)
    return _autocovariance(speckle(np.random.default_rng(1), shape)), _autocovariance(noise)


@cache
def _lateral_correlation() -> np.ndarray:
    return _autocovariance(speckle(np.random.default_rng(3), (1024, 512)).T)


def _autocovariance(field: np.ndarray, reach: int = 10) -> np.ndarray:
    """Along the first axis at lags 0 ... reach - 1; a 0 stands for all longer ones, where the noise has none."""
    field = field.astype(np.float64) - field.mean()
    spectrum = (np.abs(np.fft.fft(field, 2 * len(field), axis=0)) ** 2).mean(1)
    full = np.fft.ifft(spectrum).real / len(field)
    return np.append(full[:reach], 0.0)
