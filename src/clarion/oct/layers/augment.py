"""How a phantom B-scan is changed before the network sees it, so that it also knows instruments it has never seen.

Geometry first (scale, tilt, bend, shift, mirror, cut), with the surfaces moved along; then appearance: brightness of
each layer, choroid, shadows, haze and lines in the vitreous, display curve, sharpness, speckle, noise, black edges.
"""

from __future__ import annotations

import cv2
import numpy as np

from .scale import columns_between, normalised, resize, rows_to_working

STORE_AXIAL_UM, STORE_LATERAL_UM = 3.872, 35.1  # pictures are kept a little finer than the working scale
PLAIN = 0.2  # share of pictures that keep the phantom's own look
Random = np.random.Generator


def augmented(
    image: np.ndarray, rows: np.ndarray, random: Random, shape: tuple[int, int], step: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """A changed picture and its surfaces.

    image uint8 [h, w]; rows float32 [8, w], NaN where not visible; shape: (rows, columns) of the result; step: stored
    pixels per working pixel (axial, lateral). Returns float32 [shape], normalised, and float32 [8, columns].
    """
    picture, rows = _geometry(image, rows, random, shape, step)
    if random.random() < PLAIN:
        return normalised(np.round(picture)), rows
    _layers(picture, rows, random)
    _choriocapillaris(picture, rows, random)
    _shadows(picture, rows, random)
    _vitreous(picture, rows, random)
    picture = _display(picture, random)
    picture = _grain(picture, random)
    _black(picture, rows, random)
    np.clip(picture, 0, 255, out=picture)
    return normalised(np.round(picture)), rows


def _geometry(image, rows, random: Random, shape, step) -> tuple[np.ndarray, np.ndarray]:
    zoom_y, zoom_x = np.exp(random.uniform(-0.15, 0.15)), np.exp(random.uniform(-0.28, 0.28))
    wanted = round(shape[1] * step[1] / zoom_x)
    if wanted < image.shape[1]:
        first = int(random.integers(0, image.shape[1] - wanted + 1))
        image, rows = image[:, first : first + wanted], rows[:, first : first + wanted]
    if random.random() < 0.5:
        image, rows = image[:, ::-1], rows[:, ::-1]
    height = round(image.shape[0] / step[0] * zoom_y)
    width = min(shape[1], round(image.shape[1] / step[1] * zoom_x))
    picture = resize(image, (height, width))
    rows = columns_between(rows_to_working(rows, image.shape[0], height), width)

    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)
    move = np.zeros(width, np.float32)
    if random.random() < 0.6:
        move += (random.normal(0, 16) * x + random.normal(0, 10) * (4 * x * x - 0.33)).astype(np.float32)
    if random.random() < 0.3:  # motion of the eye while the line is scanned
        move += np.float32(random.uniform(0, 3)) * np.sin(2 * np.pi * (random.uniform(1, 6) * x + random.random()))
    if height > shape[0] or random.random() < 0.5:
        move += np.float32(_anywhere(rows + move, random, shape[0]))
    else:
        move += np.float32(random.uniform(-20, 20) + (shape[0] - height) / 2)
    columns, lines = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    fill = float(np.percentile(picture, random.uniform(0, 30))) if random.random() < 0.6 else 0.0
    edge = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": fill}
    moved = cv2.remap(picture, columns, lines - move, cv2.INTER_LINEAR, **edge)
    rows = rows + move
    rows = np.where((rows < 0) | (rows > shape[0] - 1), np.nan, rows)
    if width < shape[1]:
        moved = np.pad(moved, ((0, 0), (0, shape[1] - width)))
        rows = np.pad(rows, ((0, 0), (0, shape[1] - width)), constant_values=np.nan)
    return np.ascontiguousarray(moved, np.float32), rows.astype(np.float32)


def _anywhere(rows: np.ndarray, random: Random, height: int) -> float:
    """A shift that leaves the retina inside the picture, and now and then lets some of it leave."""
    finite = rows[np.isfinite(rows)]
    if not finite.size:
        return 0.0
    margin = -25 if random.random() < 0.2 else 4
    low, high = margin - finite.min(), height - margin - finite.max()
    return float(random.uniform(low, high) if low < high else (low + high) / 2)


def _layers(picture: np.ndarray, rows: np.ndarray, random: Random) -> None:
    """Each layer and the choroid brighter or darker, with a slow drift along the scan."""
    if random.random() < 0.15:
        return
    index = np.arange(picture.shape[0], dtype=np.float32)[:, None]
    label = np.zeros(picture.shape, np.intp)
    for surface in rows:
        label += index >= surface
    log_gain = random.normal(0, 0.16, 9)
    log_gain[0] = 0
    log_gain[8] = random.uniform(-0.7, 0.6)
    gain = cv2.GaussianBlur(np.exp(log_gain).astype(np.float32)[label], (0, 0), 0.7)
    knots = random.normal(1, random.uniform(0.02, 0.15), 6)
    drift = np.interp(np.linspace(0, 5, picture.shape[1]), np.arange(6), knots)
    picture *= gain * np.clip(drift, 0.3, 2).astype(np.float32)
    if random.random() < 0.4:  # a choroid that shines further down, with its vessels
        below = index - rows[7]
        texture = cv2.resize(random.standard_normal((20, 16)).astype(np.float32), picture.shape[::-1],
                             interpolation=cv2.INTER_CUBIC)  # fmt: skip
        light = random.uniform(20, 110) * np.exp(-np.maximum(below, 0) / random.uniform(6, 40))
        light *= np.clip(1 + random.uniform(0.1, 0.6) * texture, 0.1, 2)
        np.copyto(picture, np.maximum(picture, light), where=below > 1)


def _choriocapillaris(picture: np.ndarray, rows: np.ndarray, random: Random) -> None:
    """A bright band below BM with an edge of its own, as many real eyes show it and the phantom does not."""
    if random.random() > 0.45:
        return
    height, width = picture.shape
    x = np.linspace(0, 6, width)
    thick = random.uniform(1.5, 8) * np.interp(x, np.arange(7), random.uniform(0.4, 1.6, 7)).astype(np.float32)
    grey = random.uniform(80, 190) * np.interp(x, np.arange(7), random.uniform(0.6, 1.1, 7))
    grain = cv2.GaussianBlur(random.standard_normal(picture.shape, dtype=np.float32), (0, 0), 1.2)
    below = np.arange(height, dtype=np.float32)[:, None] - rows[7]
    band = np.clip(below - 0.3, 0, 1) * np.clip(thick - below, 0, 1) * grey * np.clip(1 + 0.5 * grain, 0.3, 1.6)
    np.copyto(picture, np.maximum(picture, band), where=np.isfinite(below))


def _shadows(picture: np.ndarray, rows: np.ndarray, random: Random) -> None:
    """Vessels and opacities: columns dimmed below a depth."""
    width = picture.shape[1]
    x, index = np.arange(width, dtype=np.float32), np.arange(picture.shape[0], dtype=np.float32)[:, None]
    for _ in range(random.poisson(2.0)):
        half = random.uniform(0.7, 5) if random.random() < 0.85 else random.uniform(5, 25)
        dim = random.uniform(0.2, 0.75) * np.exp(-0.5 * ((x - random.uniform(0, width)) / half) ** 2)
        start = rows[0] + random.uniform(-2, 14)
        start = np.where(np.isfinite(start), start, 0)
        picture *= 1 - np.clip((index - start) / 3, 0, 1).astype(np.float32) * dim.astype(np.float32)


def _vitreous(picture: np.ndarray, rows: np.ndarray, random: Random) -> None:
    """Haze, and bright lines (hyaloid) or clouds above the retina: they look like an ILM and are none."""
    index = np.arange(picture.shape[0], dtype=np.float32)[:, None]
    above = rows[0] - index
    if random.random() < 0.35:
        haze = random.uniform(3, 45) * np.exp(-np.abs(above - random.uniform(0, 60)) / random.uniform(8, 80))
        np.copyto(picture, picture + haze, where=above > 0)
    if random.random() < 0.3:
        width = picture.shape[1]
        knots = random.uniform(4, 60) + random.normal(0, 6, 7)
        line = rows[0] - np.interp(np.linspace(0, 6, width), np.arange(7), knots).astype(np.float32)
        grey = random.uniform(20, 150) * np.interp(np.arange(width), np.sort(random.uniform(0, width, 4)), [0, 1, 1, 0])
        ridge = grey * np.exp(-0.5 * ((index - line) / random.uniform(0.5, 1.4)) ** 2)
        np.copyto(picture, np.maximum(picture, ridge), where=above > 1.5)


def _display(picture: np.ndarray, random: Random) -> np.ndarray:
    """Other display curves: gamma, logarithmic instead of quartic-root, gain, black level, sharpness."""
    level = np.clip(picture / 255, 0, 1)
    kind = random.random()
    if kind < 0.45:
        level = level ** np.float32(np.exp(random.uniform(-0.6, 0.5)))
    elif kind < 0.65:
        strength = np.exp(random.uniform(1, 6))
        level = np.log1p(strength * level**2) / np.log1p(strength)
    picture = 255 * level * np.float32(random.uniform(0.6, 1.3))
    if random.random() < 0.5:
        black = random.uniform(-25, 90)
        picture = picture * (1 - max(black, 0) / 255) + black
    if random.random() < 0.4:
        axial, lateral = random.uniform(0.3, 1.1), random.uniform(0.3, 1.6)
        picture = cv2.GaussianBlur(picture, (0, 0), sigmaX=lateral, sigmaY=axial)
    elif random.random() < 0.3:
        picture = picture + np.float32(random.uniform(0.2, 0.8)) * (picture - cv2.GaussianBlur(picture, (0, 0), 1.0))
    return np.ascontiguousarray(picture, np.float32)


def _grain(picture: np.ndarray, random: Random) -> np.ndarray:
    """More speckle (grows with brightness) and more detector noise (does not), fine or coarse."""

    def field() -> np.ndarray:
        noise = random.standard_normal(picture.shape, dtype=np.float32)
        if random.random() < 0.6:
            noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=random.uniform(0.3, 0.9), sigmaY=random.uniform(0.3, 0.8))
            noise /= noise.std() + 1e-6
        return noise

    if random.random() < 0.7:
        picture = picture * np.exp(np.float32(random.uniform(0, 0.30)) * field())
    if random.random() < 0.6:
        picture = picture + np.float32(random.uniform(0, 22)) * field()
    return picture


def _black(picture: np.ndarray, rows: np.ndarray, random: Random) -> None:
    """A black wedge at a corner, black sides: what lies in it is not visible."""
    height, width = picture.shape
    if random.random() < 0.18:
        limit = np.linspace(random.uniform(-0.3, 0.45) * height, random.uniform(-0.3, 0.45) * height, width)
        if random.random() < 0.8:
            limit = np.minimum(limit, np.nan_to_num(rows[0], nan=height) - 4)  # mostly above the retina
        index = np.arange(height)[:, None]
        picture[index < limit] = 0
        rows[rows < limit] = np.nan
    if random.random() < 0.12:
        side = int(random.integers(1, width // 4))
        columns = slice(0, side) if random.random() < 0.5 else slice(width - side, width)
        picture[:, columns] *= np.float32(0 if random.random() < 0.7 else 0.03)
        rows[:, columns] = np.nan
