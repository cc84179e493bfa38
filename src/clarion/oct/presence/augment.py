"""What training changes in a strip: where the ILM was found, how an instrument shows it, what floats above it."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from .strip import ABOVE, AXIAL_UM, BELOW

Random = np.random.Generator
PLAIN = 0.25  # share of strips that keep the phantom's own look
ERROR_LIMIT_UM = 78.0  # no layer network is further off for long


def ilm_error(random: Random, lift: np.ndarray, axial_um: float, lateral_um: float) -> np.ndarray:
    """By how much a layer network errs, float32 [width] in rows of `axial_um`, positive into the retina.

    An offset of the eye's, a slow and a quick drift (together an SD of some 1.2 Spectralis rows); in every second scan
    also stretches where the network took the membrane for the ILM. lift: rows by which the membrane stands off.
    """
    width, um = lift.size, AXIAL_UM / axial_um
    per_mm = 1000 / lateral_um
    error = random.normal(0, 0.5) + random.normal(0, 0.8) * _smooth(random, width, 0.7 * per_mm)
    error = error + random.uniform(0, 0.5) * _smooth(random, width, 0.06 * per_mm)
    if random.random() < 0.5:
        locked = _smooth(random, width, 0.5 * per_mm) > random.uniform(-0.5, 1.5)
        share = gaussian_filter1d(locked.astype(np.float32), 0.04 * per_mm)
        error = error - share * np.asarray(lift, np.float32) / um
    limit = ERROR_LIMIT_UM / AXIAL_UM
    return (np.clip(error, -limit, limit) * um).astype(np.float32)


def recut(stored: np.ndarray, error: np.ndarray, stored_above: int, stretch: float = 1.0) -> np.ndarray:
    """The strip float32 [ABOVE + BELOW, columns] of a stored one, had the ILM been found `error` rows lower.

    stretch: rows of the stored strip per row of the result (another axial scale).
    """
    rows = stored_above + error[None, :] + np.arange(-ABOVE, BELOW)[:, None] * stretch
    columns = np.broadcast_to(np.arange(stored.shape[1], dtype=np.float32), rows.shape)
    moved = cv2.remap(stored, columns, rows.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved.astype(np.float32)


def restyled(
    strip: np.ndarray, presence: np.ndarray, ilm: np.ndarray, membrane: np.ndarray, random: Random
) -> np.ndarray:
    """Another eye or instrument: tissue, membrane, look-alikes, shadows, display curve, sharpness, speckle, noise.

    strip: float32 grey levels [ABOVE + BELOW, columns]; presence: [columns]; ilm, membrane: their true rows in it.
    """
    if random.random() < PLAIN:
        return strip
    averaged = random.random() < 0.3
    if averaged:  # of many frames: speckle is gone, lines and layers stay
        along, deep = np.exp(random.uniform(-0.5, 1.5)), random.uniform(0.3, 0.7)
        strip = cv2.GaussianBlur(strip, (0, 0), sigmaX=along, sigmaY=deep)
    shown = _tissue(strip, ilm, random)
    if random.random() < 0.65:
        shown = _bright_membrane(shown, presence, membrane, random)
    if random.random() < 0.25:
        shown = _reflex(shown, presence, ilm, random)
    if random.random() < 0.3:
        shown = _vitreous(shown, random)
    columns = strip.shape[1]
    shown = shown * np.clip(1 + random.uniform(0, 0.15) * _smooth(random, columns, random.uniform(4, 60)), 0.3, 1.7)
    for _ in range(random.poisson(1.2)):  # shadows of vessels and opacities
        away = (np.arange(columns) - random.uniform(0, columns)) / random.uniform(0.7, 7)
        shown = shown * (1 - random.uniform(0.15, 0.65) * np.exp(-0.5 * away**2))
    shown = 255 * np.clip(shown / 255, 0, 1) ** np.exp(random.uniform(-0.35, 0.45))
    shown = np.clip(shown * random.uniform(0.6, 1.08) + random.uniform(-12, 15), 0, 255).astype(np.float32)
    how = random.random()
    if how < 0.35:
        shown = cv2.GaussianBlur(shown, (0, 0), sigmaX=random.uniform(0.2, 0.6), sigmaY=random.uniform(0.3, 0.8))
    elif how < 0.6:
        shown = shown + np.float32(random.uniform(0.2, 0.8)) * (shown - cv2.GaussianBlur(shown, (0, 0), 1.0))
    if not averaged and random.random() < 0.6:
        shown = shown * np.exp(np.float32(random.uniform(0, 0.15)) * _grain(random, shown.shape))
    if random.random() < (0.2 if averaged else 0.6):
        shown = shown + np.float32(random.uniform(0, 10)) * _grain(random, shown.shape)
    return np.clip(shown, 0, 255).astype(np.float32)


def _tissue(strip: np.ndarray, ilm: np.ndarray, random: Random) -> np.ndarray:
    """Tissue brighter or darker by depth: in real exports nerve fibres often stand less far above the inner retina
    than in the phantom, and lines on the surface stand out more."""
    knots = np.exp(np.r_[0, random.uniform(-0.6, 0.1), random.normal(-0.05, 0.15, 3)])
    gain = np.interp(np.arange(0, BELOW + 1, 0.25), [3.0, 6.0, 16.0, 30.0, BELOW], knots).astype(np.float32)
    below = np.arange(strip.shape[0], dtype=np.float32)[:, None] - ilm[None]
    return strip * gain[np.clip(below * 4, 0, gain.size - 1).astype(np.intp)]


def _bright_membrane(strip: np.ndarray, presence: np.ndarray, membrane: np.ndarray, random: Random) -> np.ndarray:
    """A denser membrane: its line raised to a ridge as bright as those of real exports or brighter."""
    columns, index = strip.shape[1], np.arange(strip.shape[0], dtype=np.float32)[:, None]
    grain = 1 + random.uniform(0, 0.1) * _grain(random, strip.shape)
    edge = gaussian_filter1d(np.asarray(presence, np.float32), 0.6)
    beads = np.clip(1 + random.uniform(0.02, 0.22) * _smooth(random, columns, random.uniform(1, 12)), 0.6, 1.3)
    peak = random.uniform(165, 255) * edge * beads
    ridge = np.exp(-0.5 * ((index - membrane - random.uniform(0.8, 2.0)) / random.uniform(1.4, 2.6)) ** 2)
    return np.maximum(strip, peak * ridge * grain).astype(np.float32)


def _reflex(strip: np.ndarray, presence: np.ndarray, ilm: np.ndarray, random: Random) -> np.ndarray:
    """Specular reflex of a smooth ILM in stretches: a thin bright line where there is no membrane."""
    columns = strip.shape[1]
    where = np.clip(_smooth(random, columns, random.uniform(8, 30)) - random.uniform(-0.5, 1), 0, 1)
    where = where * (1 - gaussian_filter1d(np.asarray(presence, np.float32), 2))
    distance = (np.arange(strip.shape[0])[:, None] - ilm - 1) / random.uniform(0.7, 1.3)
    return strip + (random.uniform(10, 60) * where * np.exp(-0.5 * distance**2)).astype(np.float32)


def _vitreous(strip: np.ndarray, random: Random) -> np.ndarray:
    """A detached posterior hyaloid: a faint, smooth, thin line well above the surface; or haze."""
    columns, index = strip.shape[1], np.arange(strip.shape[0])[:, None]
    if random.random() < 0.3:
        reach = random.uniform(5, 40)
        haze = random.uniform(3, 35) * np.exp(-np.maximum(ABOVE - index, 0) / reach) * (index < ABOVE)
        return strip + haze.astype(np.float32)
    height = random.uniform(7, ABOVE) + random.uniform(0, 7) * _smooth(random, columns, random.uniform(25, 80))
    grey = random.uniform(20, 110) * np.clip(_smooth(random, columns, 40) + 1, 0, 1)
    line = grey * np.exp(-0.5 * ((index - ABOVE + np.maximum(height, 5)) / random.uniform(0.5, 1.2)) ** 2)
    return np.maximum(strip, line).astype(np.float32)


def _smooth(random: Random, width: int, sigma: float) -> np.ndarray:
    """A random curve [width], mean 0 and SD 1 over all draws, of correlation length `sigma`."""
    knots = max(4, int(np.ceil(width / max(sigma, 1.0))) + 3)
    at = np.linspace(0, knots - 3, width) + random.uniform(0, 1)
    curve = np.interp(at, np.arange(knots), random.standard_normal(knots))
    return gaussian_filter1d(curve, max(sigma, 1.0) / 2, mode="nearest") / 0.75


def _grain(random: Random, shape: tuple[int, int]) -> np.ndarray:
    noise = random.standard_normal(shape, dtype=np.float32)
    if random.random() < 0.6:
        noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=random.uniform(0.2, 0.7), sigmaY=random.uniform(0.3, 0.8))
        noise /= noise.std() + 1e-6
    return noise
