"""Painting one B-scan: surfaces and grey levels -> 8-bit picture as HEYEX exports it.

Layers are painted for all A-scans at once: each surface adds its step of brightness to one row of an array and a
cumulative sum down the columns fills the layers. Lines (ILM, membrane, EZ, RPE) touch only the rows around them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .speckle import shot_noise, speckle

# Display grey levels below each painted surface, read off column profiles of HEYEX exports: RNFL 130-190,
# GCL/IPL 105-130, INL 70-95, OPL 75-130, ONL 30-78, EZ line 145-205, RPE line 168-234, choroid 75-145 at its top.
GREY = {"gap": 9.0, "peg": 118.0, "RNFL": 170.0, "GCL": 136.0, "IPL": 146.0, "INL": 98.0, "OPL": 124.0, "ONL": 58.0,
        "myoid": 86.0, "EZ-RPE": 158.0, "RPE-BM": 172.0, "choroid": 128.0, "cyst": 10.0}  # fmt: skip
FWHM_TO_SD = 1 / 2.3548


@dataclass(frozen=True)
class Section:
    """One line's cut through the eye, everything per A-scan [width], depth in px from the top."""

    surfaces: np.ndarray  # [8, width]
    membrane: np.ndarray  # row of the membrane's centre line; equal to the ILM where it lies on it
    presence: np.ndarray  # bool
    edge: np.ndarray  # 0-1: fades the membrane in at its edge
    pegs: np.ndarray
    fibrosis: np.ndarray
    brightness: np.ndarray
    vessels: np.ndarray
    disc: np.ndarray
    reflex: np.ndarray  # extra brightness of a specular ILM, grey levels
    hyaloid: np.ndarray  # row of the posterior hyaloid face, NaN where there is none
    hyaloid_grey: float
    cysts: tuple[tuple[float, float, float, float], ...]  # column, row, half-width, half-height in px


@dataclass(frozen=True)
class Look:
    """How the instrument shows this scan: gain, contrast of the speckle, noise floor, black corner of the frame."""

    gain: float
    speckle: float  # SD of log brightness
    noise_mean: float
    noise_zero: float
    corner: tuple[float, float]  # rows cut away at the left and right of the top edge


def paint(rng: np.random.Generator, cut: Section, look: Look, depth: int, axial_um: float) -> np.ndarray:
    """8-bit B-scan [depth, width]."""
    width = cut.membrane.size
    um = 3.872 / axial_um  # line widths are given in Spectralis pixels
    mean = _layers(rng, cut, depth, um)
    _choroid(rng, mean, cut, um)
    _shadows(mean, cut, um)
    for column, row, half_w, half_h in cut.cysts:
        _ellipse(mean, column, row, half_w, half_h)
    mean = cv2.GaussianBlur(mean, (3, 7), sigmaX=0.6, sigmaY=1.3)
    _lines(rng, mean, cut, um)

    mean *= (_column_gain(rng, width) * look.gain).astype(np.float32)
    lit = np.flatnonzero(mean.max(axis=1) > 0.5)  # above the membrane and far below the choroid there is only noise
    rows = slice(lit[0], lit[-1] + 1)
    part = mean[rows]
    # Bright lines saturate in the export: their speckle is weaker than the tissue's. Averaging of frames leaves the
    # choroid smoother than the retina.
    strength = look.speckle * (1 - np.clip((part - 150) / 130, 0, 0.6))
    strength[np.arange(rows.start, rows.stop)[:, None] > cut.surfaces[7] + 4] *= 0.62
    part *= np.exp(speckle(rng, part.shape) * strength - np.float32(0.5 * look.speckle**2))
    np.copyto(part, 205 + (part - 205) * 0.6, where=part > 205)
    image = mean
    image += shot_noise(rng, (depth, width), look.noise_mean, look.noise_zero)
    _black_corner(image, look.corner)
    return np.minimum(image, 255, out=image).astype(np.uint8)


def _column_gain(rng: np.random.Generator, width: int) -> np.ndarray:
    """Uneven illumination along the scan: slow swings, and narrow streaks cast by capillaries too small to draw."""
    slow = np.interp(np.arange(width), np.linspace(0, width - 1, 9), rng.normal(1, 0.05, 9))
    return slow * (1 + 0.045 * np.convolve(rng.standard_normal(width), [0.3, 0.8, 0.3], "same"))


def _layers(rng: np.random.Generator, cut: Section, depth: int, um: float) -> np.ndarray:
    """Mean brightness float32 [depth, width] of gap, layers and a first guess of the choroid, no lines."""
    width = cut.membrane.size
    columns = np.arange(width)
    top = cut.surfaces
    rnfl = top[1] - top[0]
    gap = np.where(cut.presence, GREY["gap"] + (GREY["peg"] - GREY["gap"]) * cut.pegs, 0)
    values = [
        (cut.membrane, gap),
        (top[0], GREY["RNFL"] * (1 - 0.12 * np.exp(-rnfl / 4)) * (1 + 0.15 * cut.vessels) * _mottle(rng, width)),
        (top[1], GREY["GCL"] * _mottle(rng, width)),
        (0.45 * top[1] + 0.55 * top[2], GREY["IPL"] * _mottle(rng, width)),
        (top[2], GREY["INL"] * _mottle(rng, width)),
        (top[3], GREY["OPL"] * _mottle(rng, width)),
        (top[4], GREY["ONL"] * _mottle(rng, width)),
        (np.maximum(top[5] - 6 * um, top[4]), GREY["myoid"]),  # between external limiting membrane and EZ
        (top[5], GREY["EZ-RPE"]),
        (top[6], GREY["RPE-BM"]),
        (top[7], GREY["choroid"]),
    ]
    steps = np.zeros((depth + 2, width), np.float32)
    before: np.ndarray | float = 0.0
    for rows, value in values:
        rows = np.clip(rows, 0, depth - 0.001)
        whole = rows.astype(np.intp)
        part = rows - whole
        jump = value - before
        steps[whole, columns] += jump * (1 - part)
        steps[whole + 1, columns] += jump * part
        before = value
    return np.cumsum(steps[:depth], axis=0, dtype=np.float32)


def _mottle(rng: np.random.Generator, width: int) -> np.ndarray:
    """Relative brightness of one layer along the scan: capillaries and patches of a few and of some 40 A-scans."""
    fine = np.convolve(rng.standard_normal(width), [0.25, 0.55, 0.55, 0.55, 0.25], "same")
    coarse = np.interp(np.arange(width), np.linspace(0, width - 1, 20), rng.standard_normal(20))
    return 1 + 0.05 * fine + 0.05 * coarse


def _choroid(rng: np.random.Generator, mean: np.ndarray, cut: Section, um: float) -> None:
    """Below BM: light decays with depth, dark vessel lumina, coarser with depth. Texture is drawn per scan."""
    depth, width = mean.shape
    bm = cut.surfaces[7]
    top = int(np.clip(bm.min(), 0, depth - 1))
    below = np.arange(top, depth, dtype=np.float32)[:, None] - bm.astype(np.float32)
    granules = _texture(rng, below.shape, 7, 8)
    vessels = _texture(rng, below.shape, 15, 26)
    far = np.clip((below - 8 * um) / (35 * um), 0, 1)
    reach = rng.uniform(34, 54) * um
    light = np.exp(-((np.maximum(below, 0) / reach) ** 1.25)) + 0.10 * np.exp(-np.maximum(below, 0) / (3 * reach))
    lumen = np.clip(1.0 + (1 - 0.6 * far) * 0.19 * granules + rng.uniform(0.15, 0.45) * far * vessels, 0.15, 1.3)
    lumen = 1 + (lumen - 1) * np.clip((below - 3) / (6 * um), 0, 1)
    part = mean[top:]
    np.copyto(part, part * light * lumen, where=below > 0)


def _texture(rng: np.random.Generator, shape: tuple[int, int], rows_px: float, columns_px: float) -> np.ndarray:
    small = rng.standard_normal((max(4, int(shape[0] / rows_px * 2)), max(4, int(shape[1] / columns_px * 2))))
    small = cv2.GaussianBlur(small.astype(np.float32), (0, 0), 0.9)
    return cv2.resize(small / (small.std() + 1e-6), shape[::-1], interpolation=cv2.INTER_CUBIC)


def _shadows(mean: np.ndarray, cut: Section, um: float) -> None:
    """Vessels: bright wall in the nerve fibre layer, everything below dimmed."""
    where = np.flatnonzero(cut.vessels > 0.05)
    if not where.size:
        return
    dark = (1 - 0.42 * cut.vessels[where]).astype(np.float32)
    start = (cut.surfaces[0][where] + 12 * um).astype(np.float32)
    top = max(0, int(start.min()))
    rows = np.arange(top, mean.shape[0], dtype=np.float32)[:, None]
    mean[top:, where] *= 1 - np.clip((rows - start) / np.float32(8 * um), 0, 1) * (1 - dark)


def _ellipse(mean: np.ndarray, column: float, row: float, half_w: float, half_h: float) -> None:
    r0, r1 = max(0, int(row - half_h - 2)), min(mean.shape[0], int(row + half_h + 3))
    c0, c1 = max(0, int(column - half_w - 2)), min(mean.shape[1], int(column + half_w + 3))
    if r0 >= r1 or c0 >= c1:
        return
    dy = (np.arange(r0, r1)[:, None] - row) / half_h
    dx = (np.arange(c0, c1) - column) / half_w
    soft = np.clip((1.0 - np.hypot(dx, dy)) * min(half_w, half_h) + 0.5, 0, 1).astype(np.float32)
    part = mean[r0:r1, c0:c1]
    part += soft * (GREY["cyst"] - part)


def _lines(rng: np.random.Generator, mean: np.ndarray, cut: Section, um: float) -> None:
    ilm, ez, rpe = cut.surfaces[0], cut.surfaces[5], cut.surfaces[6]
    tissue = 1 - cut.disc
    plain = np.where(cut.presence, 0, 140 + cut.reflex)
    _line(mean, ilm + 1.0, plain, 3.4 * um)
    fwhm = (5.0 + 4.0 * cut.fibrosis) * um
    _line(mean, cut.membrane + 1.5 + fwhm * cut.fibrosis * 0.3, 196 * cut.brightness * cut.edge, fwhm)
    _line(mean, ez + 1.5, 190 * tissue, 5.5 * um)
    _line(mean, ez - 7.0 * um, 88 * tissue, 3.0 * um)
    _line(mean, rpe + 2.2 * um, 232 * tissue, 11.0 * um)
    if np.isfinite(cut.hyaloid).any():
        _line(mean, cut.hyaloid, cut.hyaloid_grey * _mottle(rng, ilm.size), 3.2 * um)


def _line(mean: np.ndarray, rows: np.ndarray, peak: np.ndarray, fwhm: np.ndarray | float) -> None:
    """Raise the brightness to a Gaussian ridge of height `peak` along `rows` (never darkens what lies there)."""
    depth = mean.shape[0]
    sd = np.broadcast_to(np.asarray(fwhm) * FWHM_TO_SD, rows.shape)
    reach = int(np.ceil(3 * sd.max())) + 1
    columns = np.flatnonzero(np.isfinite(rows) & (rows > reach + 1) & (rows < depth - reach - 2) & (peak > 1))
    if not columns.size:
        return
    centre = np.round(rows[columns]).astype(np.intp)
    index = centre + np.arange(-reach, reach + 1)[:, None]
    ridge = peak[columns] * np.exp(-0.5 * ((index - rows[columns]) / sd[columns]) ** 2)
    mean[index, columns] = np.maximum(mean[index, columns], ridge)


def _black_corner(image: np.ndarray, corner: tuple[float, float]) -> None:
    """The eye tracker turns averaged frames: a black wedge remains at the top of some exports."""
    if max(corner) < 1:
        return
    limit = np.linspace(*corner, image.shape[1])
    top = int(max(corner)) + 1
    image[:top][np.arange(top)[:, None] < limit] = 0
