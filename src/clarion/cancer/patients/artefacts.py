"""What goes wrong on real slides, at known places: marks of a pen, folds, parts out of focus."""

from __future__ import annotations

import cv2
import numpy as np

from clarion.cancer.patients.tissue_map import CELL, smooth_field

PEN, FOLD, BLUR = 1, 2, 4  # bits of an artefact map
NAMES = {"pen": PEN, "fold": FOLD, "blur": BLUR}
_INKS = {"green": (0.25, 0.72, 0.5), "blue": (0.18, 0.3, 0.72), "black": (0.12, 0.12, 0.13), "red": (0.8, 0.15, 0.17)}


def fold(rng: np.random.Generator, tissue: np.ndarray, h: np.ndarray, e: np.ndarray, places: np.ndarray) -> None:
    """Tissue that lies double along a wavy band of 40 to 70 um: its stains add up. In place; h, e: amounts at level 0;
    tissue: bool map of cells; places: uint8 map of cells, gets the bit FOLD."""
    height, width = tissue.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    inside = cv2.distanceTransform(tissue.astype(np.uint8), cv2.DIST_L2, 5)
    cy, cx = np.argwhere(inside > 0.6 * inside.max())[rng.integers((inside > 0.6 * inside.max()).sum())]
    turn = rng.uniform(0, np.pi)
    across = (x - cx) * np.sin(turn) - (y - cy) * np.cos(turn) + 5 * smooth_field(rng, tissue.shape, 40)
    along = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
    reach, half = 0.25 * max(height, width), rng.uniform(10, 18) / 2
    band = np.clip((half - np.abs(across)) / 1.5, 0, 1) * np.clip((reach - np.abs(along)) / 8, 0, 1) * tissue
    places[band > 0.5] |= FOLD
    doubled = cv2.resize(band.astype(np.float32), h.shape[::-1], interpolation=cv2.INTER_LINEAR)
    shift = (int(half * CELL), int(half * CELL))
    for amounts in (h, e):
        amounts += doubled * (np.roll(amounts, shift, (0, 1)) * 0.9 + 0.35)


def blur(rng: np.random.Generator, tissue: np.ndarray, image: np.ndarray, places: np.ndarray) -> None:
    """A round part of the tissue out of focus (SD 3 to 5 um). In place; image: uint8 [h, w, 3]."""
    inside = np.argwhere(tissue)
    cy, cx = inside[rng.integers(len(inside))]
    radius = rng.uniform(0.1, 0.17) * max(tissue.shape)
    top, left = int(max(cy - radius - 4, 0)), int(max(cx - radius - 4, 0))
    part = (slice(top, int(cy + radius + 5)), slice(left, int(cx + radius + 5)))
    shape = places[part].shape
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    far = np.hypot(y - (cy - top), x - (cx - left)) + 0.08 * radius * smooth_field(rng, shape, 12)
    weight = np.clip((radius - far) / 3, 0, 1).astype(np.float32)
    places[part][(weight > 0.5) & tissue[part]] |= BLUR
    pixels = (slice(part[0].start * CELL, (part[0].start + shape[0]) * CELL),
              slice(part[1].start * CELL, (part[1].start + shape[1]) * CELL))  # fmt: skip
    sharp = image[pixels]
    soft = cv2.GaussianBlur(sharp, (0, 0), rng.uniform(6, 10))
    mix = cv2.resize(weight, sharp.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    image[pixels] = (sharp * (1 - mix) + soft * mix + 0.5).astype(np.uint8)


def pen(rng: np.random.Generator, tissue: np.ndarray, image: np.ndarray, places: np.ndarray) -> None:
    """A stroke of a marker along the border of the tissue, half on the glass, half on the tissue. In place."""
    height, width = tissue.shape
    ink = np.array(_INKS[list(_INKS)[rng.integers(len(_INKS))]], np.float32)
    outline = max(cv2.findContours(tissue.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    start, length = rng.integers(len(outline)), int(rng.uniform(0.15, 0.4) * len(outline))
    stroke = np.take(outline[:, 0], np.arange(start, start + length), axis=0, mode="wrap").astype(np.float32)
    window = min(31, len(stroke) // 2 * 2 - 1)
    kernel = np.ones(window, np.float32) / window  # a hand draws a smooth line
    smooth = np.stack([np.convolve(stroke[:, k], kernel, mode="valid") for k in (0, 1)], axis=1)
    smooth += rng.uniform(-5, 5, 2)
    mark = np.zeros((height, width), np.uint8)
    thick = max(3, round(0.03 * max(height, width)))
    cv2.polylines(mark, [np.round(smooth).astype(np.int32)], False, 255, thick, cv2.LINE_AA)
    places[mark > 127] |= PEN
    # Ink is a filter: what lies below it shines through, more where it is thin.
    density = cv2.resize(mark, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    density = cv2.GaussianBlur(density, (0, 0), 2).astype(np.float32) / 255
    rows = np.flatnonzero(density.any(axis=1))
    columns = np.flatnonzero(density.any(axis=0))
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    thin = cv2.resize(smooth_field(rng, (64, 64), 6), density[part].shape[::-1], interpolation=cv2.INTER_LINEAR)
    depth = (density[part] * np.clip(1 + 0.12 * thin, 0.5, 1.4))[..., None]
    image[part] = np.clip(image[part] * np.exp(depth * np.log(ink)) + 0.5, 0, 255).astype(np.uint8)
