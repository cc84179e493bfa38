"""How bright each layer is: mean display grey levels per layer, raw and relative to the vitreous and the RPE.

Whatever dims a whole A-scan (opaque media, vignetting, the shadow of a vessel or of a thick membrane) dims its RPE
too. The relative reflectance is therefore taken A-scan by A-scan, (layer - vitreous) / (RPE - vitreous): 0 is vitreous,
1 is RPE. Display grey levels are no physical unit (a Spectralis shows the fourth root of the signal): compare scans of
one device and one display setting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from clarion.oct.thickness import LAYERS, checked
from clarion.oct.volume import Volume

BANDS = ("vitreous", *LAYERS, "choroid")
_VITREOUS_UM = (100.0, 40.0)  # above the ILM: clear of membranes and their gaps; less where the picture ends
_CHOROID_UM = (15.0, 65.0)  # below BM
_REFERENCE = LAYERS[-1]
_SMOOTH_PX = 10.0  # speckle of one A-scan must not decide its normalisation
_MIN_CONTRAST = 15.0  # grey levels of RPE over vitreous: less is a blink or a shadow
_MIN_COLUMNS = 50


@dataclass(frozen=True)
class Reflectance:
    """grey: mean grey level 0-255 by BANDS; relative: 0 vitreous, 1 RPE; columns: A-scans used. NaN: not measurable."""

    grey: dict[str, float]
    relative: dict[str, float]
    columns: int


@dataclass(frozen=True)
class Profile:
    """Reflectance of a volume: over all A-scans, by scan_id, and inside and outside the ERM (None without presence,
    or where fewer than 50 A-scans can be used)."""

    all: Reflectance
    by_scan: dict[str, Reflectance]
    inside: Reflectance | None = None
    outside: Reflectance | None = None


def measure_reflectance(
    volume: Volume, surfaces: list[np.ndarray], presence: list[np.ndarray] | None = None, threshold: float = 0.5
) -> Profile:
    """Reflectance per layer; presence: probability of ERM [width] a scan, inside where >= threshold."""
    checked(volume, surfaces)
    tables = []
    for scan, rows in zip(volume.scans, surfaces, strict=True):
        grey = band_grey(scan.image, rows, volume.axial_um)
        tables.append((grey, _relative(grey)))
    grey = np.concatenate([t[0] for t in tables], axis=1)
    relative = np.concatenate([t[1] for t in tables], axis=1)
    every = np.ones(grey.shape[1], bool)
    parts = {}
    if presence is not None:
        likely = np.concatenate([np.asarray(p, float) for p in presence])  # NaN is neither
        parts = {"inside": likely >= threshold, "outside": likely < threshold}
        parts = {name: _mean(grey, relative, chosen) for name, chosen in parts.items()}
        parts = {name: part if part.columns >= _MIN_COLUMNS else None for name, part in parts.items()}
    by_scan = {
        scan.scan_id: _mean(g, q, np.ones(scan.width, bool)) for scan, (g, q) in zip(volume.scans, tables, strict=True)
    }
    return Profile(_mean(grey, relative, every), by_scan, **parts)


def band_grey(image: np.ndarray, rows: np.ndarray, axial_um: float) -> np.ndarray:
    """Mean grey level of each of BANDS in each A-scan, float32 [9, width]; NaN where a band is thinner than a pixel.

    image: uint8 [depth, width]; rows: [8, width] px. Pixels that a boundary cuts belong to no layer.
    """
    depth, width = image.shape
    ilm, bm = rows[0], rows[-1]
    tops = np.stack([ilm - _VITREOUS_UM[0] / axial_um, *rows[:-1], bm + _CHOROID_UM[0] / axial_um])
    bottoms = np.stack([ilm - _VITREOUS_UM[1] / axial_um, *rows[1:], bm + _CHOROID_UM[1] / axial_um])
    known = np.isfinite(tops) & np.isfinite(bottoms)
    top = np.clip(np.ceil(np.where(known, tops, 0) + 0.5), 0, depth).astype(np.intp)
    bottom = np.clip(np.floor(np.where(known, bottoms, 0) + 0.5), 0, depth).astype(np.intp)
    sums = np.zeros((depth + 1, width), np.uint32)
    np.cumsum(image, axis=0, dtype=np.uint32, out=sums[1:])
    column = np.arange(width)
    count = bottom - top
    total = sums[np.maximum(bottom, top), column].astype(np.float32) - sums[top, column]
    return np.where(known & (count > 0), total / np.maximum(count, 1), np.nan).astype(np.float32)


def _relative(grey: np.ndarray) -> np.ndarray:
    """(band - vitreous) / (RPE - vitreous) per A-scan, references smoothed along the scan; [9, width]."""
    vitreous, rpe = (_smooth(grey[BANDS.index(name)]) for name in ("vitreous", _REFERENCE))
    contrast = rpe - vitreous
    return (grey - vitreous) / np.where(contrast >= _MIN_CONTRAST, contrast, np.nan)


def _smooth(line: np.ndarray) -> np.ndarray:
    """Gaussian mean along the scan over known A-scans; NaN where none is near."""
    known = np.isfinite(line)
    weight = gaussian_filter1d(known.astype(np.float64), _SMOOTH_PX)
    total = gaussian_filter1d(np.where(known, line, 0).astype(np.float64), _SMOOTH_PX)
    return np.where(weight > 0.05, total / np.maximum(weight, 1e-9), np.nan)


def _mean(grey: np.ndarray, relative: np.ndarray, chosen: np.ndarray) -> Reflectance:
    """Means over the chosen A-scans."""
    grey, relative = grey[:, chosen], relative[:, chosen]
    usable = np.isfinite(relative).any(0)

    def means(table: np.ndarray) -> dict[str, float]:
        known = np.isfinite(table)
        total = np.where(known, table, 0).sum(1, dtype=np.float64)
        count = known.sum(1)
        return {n: float(t / c) if c else float("nan") for n, t, c in zip(BANDS, total, count, strict=True)}

    return Reflectance(means(grey), means(relative), int(usable.sum()))
