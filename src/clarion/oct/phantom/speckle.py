"""Speckle and shot noise with the autocorrelation and amplitude measured on HEYEX exports (facts of erm.md)."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import cv2
import numpy as np

# Autocorrelation at 0, 1, 2, ... px. The layers' own structure is not in it: what a patch of a picture shows is these
# plus the layering, which runs along the scan and lifts the lateral values to .7-.86 / .5-.69 / .44-.58.
_TISSUE_AXIAL = (1.0, 0.81, 0.46, 0.20, 0.05)
_TISSUE_LATERAL = (1.0, 0.70, 0.38, 0.21, 0.12, 0.06)
_SHOT_AXIAL = (1.0, 0.67, 0.23, 0.05)
_SHOT_LATERAL = (1.0, 0.30, 0.04)


@cache
def _kernel(correlation: tuple[float, ...]) -> np.ndarray:
    """A symmetric FIR kernel that gives white noise the wanted autocorrelation: the square root of its spectrum."""
    n = 64
    wanted = np.zeros(n)
    wanted[: len(correlation)] = correlation
    wanted[-len(correlation) + 1 :] = correlation[:0:-1]
    amplitude = np.sqrt(np.maximum(np.fft.rfft(wanted).real, 0))
    half = len(correlation) + 1
    taps = np.roll(np.fft.irfft(amplitude, n), n // 2)[n // 2 - half : n // 2 + half + 1]
    return (taps / np.sqrt((taps**2).sum())).astype(np.float32)


def speckle(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Unit-variance Gaussian field float32 [depth, width] with the measured axial and lateral autocorrelation."""
    return _correlated(rng, shape, _TISSUE_AXIAL, _TISSUE_LATERAL)


def shot_noise(rng: np.random.Generator, shape: tuple[int, int], mean: float, zero_share: float) -> np.ndarray:
    """Detector noise as the display shows it: a normal cut off at black, with the given mean grey and share of zeros.

    Measured on exports: quantiles of the vitreous are those of a cut normal (e.g. mean 3.2, half zeros, 99 % at 18).
    """
    cut = NormalDist().inv_cdf(zero_share)  # noise below this quantile is shown black
    density = np.exp(-(cut**2) / 2) / np.sqrt(2 * np.pi)
    scale = mean / (density - cut * (1 - zero_share))
    noise = _correlated(rng, shape, _SHOT_AXIAL, _SHOT_LATERAL)
    noise *= scale
    noise -= cut * scale
    return np.maximum(noise, 0, out=noise)


def _correlated(rng: np.random.Generator, shape: tuple[int, int], axial, lateral) -> np.ndarray:
    white = rng.standard_normal(shape, dtype=np.float32)
    return cv2.sepFilter2D(white, -1, _kernel(lateral), _kernel(axial), borderType=cv2.BORDER_REFLECT)
