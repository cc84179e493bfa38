"""Where each kind of tissue lies on a synthetic slide: a map of cells of 8 x 8 pixels, with exact area shares.

Tumour grows as patches of a smooth random field; its depth necroses, a part of the rest is of high grade; lymphocytes
gather in a band along its border, fat lies away from it, and what is left is stroma. The kinds are those that a
pathologist would outline, and the shares (of the tissue's area) are what a planted prognosis is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np

KINDS = ("background", "stroma", "low_grade", "high_grade", "necrosis", "lymphocytes", "fat")
BACKGROUND, STROMA, LOW_GRADE, HIGH_GRADE, NECROSIS, LYMPHOCYTES, FAT = range(len(KINDS))
CELL = 8  # pixels of level 0 a side


@dataclass(frozen=True)
class Composition:
    """Shares of the tissue's area; the rest is stroma."""

    high_grade: float = 0.15
    low_grade: float = 0.2
    necrosis: float = 0.08
    lymphocytes: float = 0.1
    fat: float = 0.1

    def __post_init__(self) -> None:
        shares = [getattr(self, f.name) for f in fields(self)]
        if min(shares) < 0 or sum(shares) > 0.95:
            raise ValueError(f"shares of tissue must be 0 or more and leave 5 % of stroma, got {self}")


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """float32 [h, w]: noise whose features are about `scale` pixels wide, mean 0 and SD 1."""
    height, width = shape
    small = rng.standard_normal((max(3, int(height / scale) + 3), max(3, int(width / scale) + 3))).astype(np.float32)
    field = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / max(float(field.std()), 1e-6)


def draw_map(rng: np.random.Generator, height: int, width: int, composition: Composition) -> np.ndarray:
    """uint8 [height, width] of cells: index into KINDS, with the composition's shares to one cell."""
    kinds = np.full((height, width), BACKGROUND, np.uint8)
    tissue = _outline(rng, height, width)
    total = int(tissue.sum())
    shape, unit = (height, width), max(height, width) / 256  # a small slide has small structures
    inside = cv2.distanceTransform(tissue.astype(np.uint8), cv2.DIST_L2, 5) / unit

    def take(candidates: np.ndarray, score: np.ndarray, share: float) -> np.ndarray:
        """bool: the candidates with the highest score, as many as the share of the tissue wants."""
        places = np.flatnonzero(candidates)
        chosen = np.zeros(candidates.size, bool)
        if n := min(round(share * total), len(places)):
            chosen[places[np.argpartition(-score.ravel()[places], n - 1)[:n]]] = True
        return chosen.reshape(candidates.shape)

    kinds[tissue] = STROMA
    c = composition
    field = smooth_field(rng, shape, 52 * unit) + 0.25 * smooth_field(rng, shape, 16 * unit)
    tumour = take(tissue, field + np.minimum(inside / 14, 1.5), c.high_grade + c.low_grade + c.necrosis)
    depth = cv2.distanceTransform(tumour.astype(np.uint8), cv2.DIST_L2, 5) / unit
    dead = take(tumour, depth / 8 + 0.8 * smooth_field(rng, shape, 24 * unit), c.necrosis)
    high = take(tumour & ~dead, smooth_field(rng, shape, 64 * unit), c.high_grade)
    kinds[tumour], kinds[high], kinds[dead] = LOW_GRADE, HIGH_GRADE, NECROSIS
    away = cv2.distanceTransform((~tumour).astype(np.uint8), cv2.DIST_L2, 5) / unit
    band = take(kinds == STROMA, smooth_field(rng, shape, 28 * unit) - away / 9, c.lymphocytes)
    kinds[band] = LYMPHOCYTES
    lobules = smooth_field(rng, shape, 44 * unit) + away / 30 + np.minimum(inside / 8, 2)
    kinds[take(kinds == STROMA, lobules, c.fat)] = FAT
    return kinds


def _outline(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """bool [height, width]: one piece of tissue, wavy at its border, often with a bay; half to two thirds of the
    slide."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    turn, (long, short) = rng.uniform(0, np.pi), rng.uniform([0.85, 0.75], [0.95, 0.9])
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    unit = max(height, width) / 256
    score = 1 - (u / long) ** 2 - (v / short) ** 2 + 0.22 * smooth_field(rng, (height, width), 60 * unit)
    score += 0.05 * smooth_field(rng, (height, width), 12 * unit)
    frame = max(2, round(4 * unit))  # glass all around
    score[:frame], score[-frame:], score[:, :frame], score[:, -frame:] = -1, -1, -1, -1
    count, labels, stats, _ = cv2.connectedComponentsWithStats((score > 0).astype(np.uint8), connectivity=4)
    return labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 1 else score > 0


def shares(kinds: np.ndarray) -> dict[str, float]:
    """kind -> its share of the tissue's area, measured on the map."""
    counts = np.bincount(kinds.ravel(), minlength=len(KINDS))
    tissue = max(int(counts[1:].sum()), 1)
    return {name: float(counts[k] / tissue) for k, name in enumerate(KINDS) if k}
