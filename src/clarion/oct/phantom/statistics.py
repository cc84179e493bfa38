"""What a displayed B-scan measures like: the same numbers for phantom and real pictures.

Measured with this function on HEYEX exports of two eyes (44 B-scans; range of the four means, eye x direction):
vitreous mean 3.2-7.2, zeros .31-.53; line peak 180-208, FWHM 5.3-6.3 px; plateau 111-134; patch CV .24-.29;
axial autocorrelation .79 / .44 / .20; lateral .76-.86 / .57-.69 / .50-.58; grain .14-.16.
The project's earlier facts agree where they measure the same (axial .8 / .45 / .2, lateral .7-.85 / .5-.66 / .44-.56,
peak 180-208, FWHM 5-6, zeros .28-.54). Their CV of .26-.39 is that of whole patches, layering included: the speckle
alone (grain) is half as strong, and laterally shorter (.56-.70 / .22-.35 / .10-.16), than those numbers suggest.
"""

from __future__ import annotations

import cv2
import numpy as np


def find_surface(image: np.ndarray) -> np.ndarray:
    """Row of the first sustained bright band per column [width]; 0 where there is none."""
    bright = cv2.GaussianBlur(image, (0, 0), 2.0) > 45
    count = np.cumsum(bright, axis=0)
    sustained = np.zeros_like(bright)
    sustained[:-12] = (count[12:] - count[:-12]) >= 9
    first = np.pad(np.argmax(sustained & bright, axis=0), 7, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(first, 15), axis=-1).astype(int)


def display_statistics(image: np.ndarray, columns: np.ndarray | None = None) -> dict[str, float | tuple[float, ...]]:
    """Display statistics of one B-scan uint8 [depth, width]; `columns` (bool [width]) limits the line's profile.

    vitreous_mean, vitreous_zeros: grey and share of exact zeros 25-90 px above the surface.
    line_peak, line_fwhm_px: median profile of the surface's bright line, aligned at its maximum (upper flank, doubled).
    plateau, patch_cv: mean and coefficient of variation of 40x40 patches from 10 px below the surface.
    lateral: autocorrelation at 1-3 px of 20x48 patches in rows flattened to the surface, layering included.
    axial, grain: the same without layering (row means and a 6 px Gaussian taken off); grain is SD / mean.
    """
    depth, width = image.shape
    surface = find_surface(image)
    inner = np.arange(40, width - 40)
    inner = inner[(surface[inner] > 95) & (surface[inner] < depth - 160)]
    vitreous = image[surface[inner] + np.arange(-90, -25)[:, None], inner]

    flat = image[surface[inner] + np.arange(-20, 150)[:, None], inner].astype(float)
    crest = flat[12:30].argmax(axis=0) + 12
    use = np.ones(inner.size, bool) if columns is None else np.asarray(columns)[inner]
    profile = np.median(flat[crest + np.arange(-9, 10)[:, None], np.arange(inner.size)][:, use], axis=1)
    flank = np.interp(-profile[9] / 2, -profile[9:2:-1], np.arange(7))

    bands = [flat[r : r + 20, c : c + 48] for r in (28, 40) for c in range(0, inner.size - 48, 48)]
    grain = [_detrended(band) for band in bands]
    patches = []
    for c in range(60, width - 100, 40):
        top = int(surface[c : c + 40].max()) + 10
        if surface[c : c + 40].min() > 0 and top + 40 < depth:
            patches.append(image[top : top + 40, c : c + 40].astype(float))
    return {
        "vitreous_mean": float(vitreous.mean()),
        "vitreous_zeros": float((vitreous == 0).mean()),
        "line_peak": float(profile[9]),
        "line_fwhm_px": float(2 * flank),
        "plateau": float(np.median([p.mean() for p in patches])),
        "patch_cv": float(np.median([p.std() / p.mean() for p in patches])),
        "lateral": tuple(float(np.mean([_correlation(b.T, lag) for b in bands])) for lag in (1, 2, 3)),
        "axial": tuple(float(np.mean([_correlation(g, lag) for g in grain])) for lag in (1, 2, 3)),
        "grain": float(np.mean([g.std() / b.mean() for g, b in zip(grain, bands, strict=True)])),
    }


def _detrended(band: np.ndarray) -> np.ndarray:
    trend = cv2.GaussianBlur(band, (0, 0), 6.0)
    return (band - trend) - (band - trend).mean(axis=1, keepdims=True)


def _correlation(patch: np.ndarray, lag: int) -> float:
    """Autocorrelation of a patch along its first axis."""
    centred = patch - patch.mean()
    return float((centred[lag:] * centred[:-lag]).mean() / (centred**2).mean())
