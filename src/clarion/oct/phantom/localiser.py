"""The infrared (SLO) picture of a phantom eye: vessels dark, disc bright, fovea darker, the membrane a faint sheen."""

from __future__ import annotations

import cv2
import numpy as np

from .eye import Eye
from .fields import GRID_HALF_MM, GRID_STEP_MM, grid_mm, smooth_noise, smoothstep

_STREAM = 0x51D
SIZE = 496


def draw_localiser(eye: Eye, size: int = SIZE) -> np.ndarray:
    """uint8 [size, size], as wide and high as a scan line is long, centred on the eye's frame (0, 0).

    Anatomy is drawn from the maps that the B-scans are cut from, so that a vessel lies where its shadow is; only
    illumination and noise are the picture's own, and another visit draws them anew.
    """
    rng = np.random.default_rng([_STREAM, eye.seed, eye.visit])
    # The texture is drawn in the scan's frame and cannot move with the fundus: a later visit gets one of its own, so
    # that no registration can hold on to it.
    own = [_STREAM, eye.seed, eye.visit, 1] if eye.visit else [_STREAM, eye.seed]
    small = _reflectance(eye, np.random.default_rng(own))
    half = eye.geometry.extent_mm / 2
    middle = ((np.arange(size) + 0.5) / size * 2 - 1) * half
    column = ((middle + GRID_HALF_MM) / GRID_STEP_MM - 0.5).astype(np.float32)
    image = cv2.remap(small, *np.meshgrid(column, column), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    x, y = np.meshgrid(middle / half, middle / half)
    tilt = rng.uniform(-0.09, 0.09, 2)
    light = 1 - rng.uniform(0.12, 0.22) * (x**2 + y**2) / 2 + tilt[0] * x + tilt[1] * y
    grain = cv2.GaussianBlur(rng.standard_normal((size, size), dtype=np.float32), (0, 0), 0.8)
    return np.clip(image * light * (1 + 0.075 * grain) + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)


def _reflectance(eye: Eye, rng: np.random.Generator) -> np.ndarray:
    """Brightness of the fundus at 820 nm on the phantom's grid, float32 [n, n]."""
    x, y = grid_mm()
    erm, fovea = eye.erm, eye.fovea
    r = np.hypot(x - fovea.x_mm, y - fovea.y_mm)
    choroid = 104 + 6 * smooth_noise(rng, 1.2) + 4 * smooth_noise(rng, 0.35) + 3.5 * smooth_noise(rng, 0.08)
    choroid -= 20 * np.exp(-((r / 0.75) ** 2))
    # Nerve fibres scatter light back: brighter along the arcades and beside the disc.
    image = choroid + 0.30 * np.minimum(eye.layers_um[0], 90) + 0.25 * eye.reflex
    inside = smoothstep(erm.level / 0.25)
    slope_y, slope_x = np.gradient(cv2.GaussianBlur(erm.wrinkle_um, (0, 0), 1.0), GRID_STEP_MM)
    # A fold shines where its flank faces the beam: light and dark streaks beside each other.
    folds = np.tanh((slope_x * 0.8 + slope_y * 0.6) / 120) * 14 * inside
    sheen = inside * (9 + 22 * erm.fibrosis + 5 * smooth_noise(rng, 0.5))
    image = image + folds + sheen
    image = image * (1 - eye.disc) + eye.disc * (160 + 12 * smooth_noise(rng, 0.6))
    rim = eye.disc * (1 - eye.disc) * 4
    image = image + 30 * rim
    vessels = np.clip(eye.vessels, 0, 1)
    core = cv2.erode(vessels, np.ones((3, 3), np.uint8))  # the bright line along a wide vessel
    image = image * (1 - 0.46 * vessels) + 14 * np.clip(core - 0.6, 0, 1)
    return image.astype(np.float32)
