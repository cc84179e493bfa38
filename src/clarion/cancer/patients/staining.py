"""A map of tissues -> an H&E picture at 0.5 um a pixel.

Amounts of haematoxylin and eosin are drawn, and Beer-Lambert's law turns them into light (Ruifrok & Johnston 2001, Anal
Quant Cytol Histol 23, 291): colours mix as they do on glass, so that stain separation (Macenko et al. 2009) and tissue
masks on saturation meet what they were made for. Nuclei have the sizes they have in tissue: small dark lymphocytes
(7 um), regular tumour nuclei (9 um) around glands, large irregular ones with nucleoli (14 um) in solid nests, spindles
in stroma, fragments in necrosis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from clarion.cancer.patients.tissue_map import (
    BACKGROUND,
    CELL,
    FAT,
    HIGH_GRADE,
    KINDS,
    LOW_GRADE,
    LYMPHOCYTES,
    NECROSIS,
    STROMA,
    smooth_field,
)

MPP = 0.5  # um a pixel of level 0
HAEMATOXYLIN = np.array([0.5626, 0.7201, 0.4062], np.float32)  # optical density in R, G, B, of unit length
EOSIN = np.array([0.2159, 0.8012, 0.5581], np.float32)
# Amounts of (haematoxylin, eosin) between the nuclei.
_GROUND = {BACKGROUND: (0, 0), STROMA: (0.07, 0.5), LOW_GRADE: (0.3, 0.38), HIGH_GRADE: (0.42, 0.36),
           NECROSIS: (0.1, 0.72), LYMPHOCYTES: (0.2, 0.32), FAT: (0, 0)}  # fmt: skip


@dataclass(frozen=True)
class Nuclei:
    """One population: spacing, long and short half axis in pixels of 0.5 um (spread: log SD of the size), amount of
    haematoxylin, share of the places that are filled, whether chromatin is coarse with nucleoli."""

    spacing: float
    long: float
    short: float
    spread: float
    amount: float
    filled: float = 1.0
    coarse: bool = False


_NUCLEI = {
    STROMA: Nuclei(44, 11, 2.8, 0.2, 1.0, 0.75),
    LOW_GRADE: Nuclei(20, 8.5, 6.3, 0.12, 1.0, 0.95),
    HIGH_GRADE: Nuclei(31, 14, 11, 0.28, 1.25, 0.95, coarse=True),
    NECROSIS: Nuclei(15, 2.4, 1.8, 0.4, 1.5, 0.45),
    LYMPHOCYTES: Nuclei(15, 6.4, 6.0, 0.08, 1.55, 0.95),
}
_STAMPS = 48  # nuclei drawn of each population; a slide takes from them


@dataclass(frozen=True)
class Stain:
    """What a laboratory makes of the same tissue. vectors: float32 [2, 3], optical density of haematoxylin and eosin;
    strength: their amounts; light: R, G, B of empty glass."""

    vectors: np.ndarray
    strength: tuple[float, float]
    light: np.ndarray

    @classmethod
    def of(cls, rng: np.random.Generator, variation: float = 1.0) -> Stain:
        """A laboratory's own; variation 0 gives the reference."""
        vectors = np.stack([HAEMATOXYLIN, EOSIN]) + variation * rng.normal(0, 0.03, (2, 3))
        vectors = np.maximum(vectors, 0.02)
        strength = np.exp(variation * rng.normal(0, 0.12, 2))
        light = 243 + variation * np.clip(rng.normal(0, 1.5, 3), -4, 4)
        return cls((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
                   (float(strength[0]), float(strength[1])), light.astype(np.float32))  # fmt: skip

    def again(self, rng: np.random.Generator) -> Stain:
        """The same laboratory on another day."""
        a, b = np.exp(rng.normal(0, 0.04, 2)) * self.strength
        return Stain(self.vectors, (float(a), float(b)), self.light)


def stain_amounts(rng: np.random.Generator, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(haematoxylin, eosin) float32 [h, w] at level 0, h and w CELL times the map's. kinds: uint8 map of cells."""
    ground, open_ = _structure(rng, kinds)
    height, width = kinds.shape[0] * CELL, kinds.shape[1] * CELL
    h, e = (cv2.resize(g, (width, height), interpolation=cv2.INTER_LINEAR) for g in cv2.split(ground))
    fibres = _crop(rng, "fibres", height, width)
    bend, direction = _waves(rng, height, width)
    fibres = cv2.remap(fibres, *bend, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    grain = _crop(rng, "grain", height, width)
    fibrous = cv2.resize(np.isin(kinds, (STROMA, LYMPHOCYTES)).astype(np.float32), (width, height))
    # Collagen runs in bundles with thin clefts between them; cytoplasm and necrosis are granular.
    e *= 1 + fibrous * (0.34 * fibres - 0.75 * (fibres < -1.9)) + (1 - fibrous) * 0.16 * grain
    h *= 1 + 0.2 * grain
    nuclei = _nuclei(rng, kinds, open_, direction)
    e *= 1 - 0.4 * np.minimum(nuclei, 1)
    h += nuclei
    return np.maximum(h, 0), np.maximum(e, 0)


def to_light(rng: np.random.Generator, h: np.ndarray, e: np.ndarray, stain: Stain) -> np.ndarray:
    """uint8 [h, w, 3]: what a scanner sees of these amounts, with its blur of half a pixel and a little noise."""
    image = np.empty((*h.shape, 3), np.float32)
    h, e = h * stain.strength[0], e * stain.strength[1]
    for k in range(3):
        image[..., k] = stain.light[k] * np.exp(-(h * stain.vectors[0, k] + e * stain.vectors[1, k]))
    image = cv2.GaussianBlur(image, (3, 3), 0.6)
    image += 1.1 * _crop(rng, "noise", *h.shape)[..., None]
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


# ---- architecture between nuclei ----------------------------------------------------------------------------


def _structure(rng: np.random.Generator, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [h/4, w/4, 2] amounts between nuclei, bool [h/4, w/4] where nuclei may lie)."""
    size = (kinds.shape[1] * 2, kinds.shape[0] * 2)
    table = np.array([_GROUND[k] for k in range(len(KINDS))], np.float32)
    # Blurred at the cells' own scale: tissues meet in soft borders, not in squares.
    ground = cv2.GaussianBlur(cv2.resize(table[kinds], size, interpolation=cv2.INTER_NEAREST), (0, 0), 1.6)
    kind = cv2.resize(kinds, size, interpolation=cv2.INTER_NEAREST)
    shape = kind.shape
    glands, nests = smooth_field(rng, shape, 17), smooth_field(rng, shape, 30)
    lumen = (kind == LOW_GRADE) & (glands > 1.05)
    septum = (kind == HIGH_GRADE) & (np.abs(nests) < 0.07) | (kind == LOW_GRADE) & (np.abs(glands + 0.9) < 0.12)
    ground[lumen] = 0.01, 0.03
    ground[septum] = _GROUND[STROMA]
    fat = kind == FAT
    if fat.any():
        ground[fat] = np.stack([np.zeros(fat.sum()), _membranes(rng, fat)], axis=1)
    ground = cv2.GaussianBlur(ground, (3, 3), 0.7)
    return ground, ~(lumen | septum | (kind == BACKGROUND) | fat)


def _membranes(rng: np.random.Generator, fat: np.ndarray) -> np.ndarray:
    """Eosin of the True pixels: thin walls between fat cells of 60 um (the borders of a Voronoi tiling)."""
    from scipy.spatial import cKDTree

    y, x = np.nonzero(fat)
    seeds = _places(rng, fat.shape, 30)
    near = cKDTree(seeds).query(np.stack([x, y], axis=1), k=2)[0]
    return 0.45 * np.exp(-(((near[:, 1] - near[:, 0]) / 1.6) ** 2))


def _places(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> np.ndarray:
    """float [n, 2] x, y: a shaken hexagonal lattice."""
    rows, columns = int(shape[0] / (spacing * 0.87)) + 2, int(shape[1] / spacing) + 2
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    x = (x + 0.5 * (y % 2)) * spacing
    points = np.stack([x, y * spacing * 0.87], axis=-1).reshape(-1, 2)
    return points + rng.uniform(-0.42, 0.42, points.shape) * spacing


# ---- nuclei -------------------------------------------------------------------------------------------------


def _nuclei(rng: np.random.Generator, kinds: np.ndarray, open_: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """float32 [h, w] at level 0: haematoxylin of all nuclei. open_: bool [h/4, w/4]; direction: of the fibres, in half
    turns [h/16, w/16]; spindles of stroma lie along it, other nuclei as they like."""
    height, width = kinds.shape[0] * CELL, kinds.shape[1] * CELL
    layer = np.zeros((height, width), np.float32)
    for kind, population in _NUCLEI.items():
        if not (kinds == kind).any():
            continue
        stamps = _stamps(kind)
        at = _places(rng, (height, width), population.spacing)
        at = at[(at >= 0).all(axis=1) & (at[:, 0] < width) & (at[:, 1] < height)].astype(int)
        at = at[(kinds[at[:, 1] // CELL, at[:, 0] // CELL] == kind) & open_[at[:, 1] // 4, at[:, 0] // 4]]
        at = at[rng.random(len(at)) < population.filled]
        which = rng.integers(len(stamps), size=len(at))
        if kind == STROMA:
            rows, columns = (np.minimum(at[:, 1 - k] // 16, direction.shape[k] - 1) for k in (0, 1))
            along = direction[rows, columns] + rng.normal(0, 0.04, len(at))
            which = np.floor(along * _STAMPS).astype(int) % _STAMPS
        for (x, y), k in zip(at.tolist(), which.tolist(), strict=True):
            stamp = stamps[k]
            r = stamp.shape[0] // 2
            top, left = max(y - r, 0), max(x - r, 0)
            part = layer[top : y + r + 1, left : x + r + 1]
            np.maximum(part, stamp[top - y + r :, left - x + r :][: part.shape[0], : part.shape[1]], out=part)
    return layer


@cache
def _stamps(kind: int) -> list[np.ndarray]:
    """Nuclei of one population, each float32 [2r + 1, 2r + 1]; the same in every process."""
    rng, spec = np.random.default_rng([7, kind]), _NUCLEI[kind]
    stamps = []
    for number in range(_STAMPS):
        size = np.exp(rng.normal(0, spec.spread, 2) * [1, 0.6])
        a, b, turn = spec.long * size[0], spec.short * size[0] * size[1], np.pi * (number + 0.5) / _STAMPS
        r = int(np.ceil(max(a, b) * 1.25)) + 2
        y, x = np.mgrid[-r : r + 1, -r : r + 1].astype(np.float32)
        u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        angle = np.arctan2(v, u)
        wobble = 1 + (0.1 if spec.coarse else 0.04) * np.sin(rng.integers(2, 5) * angle + rng.uniform(0, 6.3))
        distance = np.sqrt((u / a) ** 2 + (v / b) ** 2) / wobble
        body = 1 / (1 + np.exp((distance - 1) * 1.6 * min(a, b)))
        chromatin = smooth_field(rng, x.shape, 5.0 if spec.coarse else 3.5)
        inner = (0.62 if spec.coarse else 0.85) + (0.24 if spec.coarse else 0.1) * chromatin
        rim = 0.35 * np.exp(-(((distance - 0.9) / 0.14) ** 2)) if min(a, b) > 4 else 0.0
        stamp = body * (inner + rim)
        for _ in range(int(rng.integers(1, 3)) if spec.coarse else 0):
            cx, cy = rng.uniform(-0.4, 0.4, 2) * b
            stamp += 0.55 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 7) * body
        stamps.append((spec.amount * rng.uniform(0.85, 1.15) * np.maximum(stamp, 0)).astype(np.float32))
    return stamps


# ---- textures -----------------------------------------------------------------------------------------------

_TILE = 2048


@cache
def _texture(name: str) -> np.ndarray:
    """float32 [2048, 2048], mean 0 and SD 1, drawn once in a process: a slide takes a shifted part of it."""
    rng = np.random.default_rng([11, ("fibres", "grain", "noise").index(name)])
    noise = rng.standard_normal((_TILE, _TILE), dtype=np.float32)
    if name == "fibres":
        coarse = cv2.GaussianBlur(noise, (0, 0), sigmaX=40, sigmaY=5)
        noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=22, sigmaY=1.5)
        noise = noise / noise.std() + coarse / coarse.std()
    elif name == "grain":
        noise = cv2.GaussianBlur(noise, (0, 0), 1.8)
    return (noise - noise.mean()) / noise.std()


def _crop(rng: np.random.Generator, name: str, height: int, width: int) -> np.ndarray:
    """A part of the texture, mirrored on where the slide is larger."""
    texture, (y, x) = _texture(name), rng.integers(_TILE, size=2)
    rows, columns = (_mirror(np.arange(n) + s) for n, s in ((height, y), (width, x)))
    return texture[rows[:, None], columns]


def _mirror(index: np.ndarray) -> np.ndarray:
    index = index % (2 * _TILE)
    return np.where(index < _TILE, index, 2 * _TILE - 1 - index)


def _waves(rng: np.random.Generator, height: int, width: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """(maps for cv2.remap [height, width] that turn level fibres into waves of one general direction, that direction
    at every 16th pixel in half turns, 0 to 1)."""
    turn, small = rng.uniform(0, np.pi), (-(-height // 16), -(-width // 16))
    y, x = 16 * np.mgrid[0 : small[0], 0 : small[1]].astype(np.float32)
    dx, dy = (60 * smooth_field(rng, small, 16) + 8 * smooth_field(rng, small, 4) for _ in range(2))
    across = y * np.cos(turn) - x * np.sin(turn) + dy
    maps = (x * np.cos(turn) + y * np.sin(turn) + dx, across)
    full = (cv2.resize(m.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) for m in maps)
    # Fibres are lines of equal `across`: they run at right angles to its slope.
    down, right = np.gradient(across)
    direction = np.mod(np.arctan2(-right, down) / np.pi, 1)
    return tuple(_folded(f, n) for f, n in zip(full, (width, height), strict=True)), direction


def _folded(values: np.ndarray, length: float) -> np.ndarray:
    """Coordinates brought into 0..length by reflection."""
    return (length - 1 - np.abs(np.mod(values, 2 * (length - 1)) - (length - 1))).astype(np.float32)
