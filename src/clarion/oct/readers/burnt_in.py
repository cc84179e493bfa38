"""What HEYEX burns into the infrared picture of a screen export: scan lines, the current line's arrow, bars, a counter.

All of it is found in the pixels, at any resolution. Coordinates are those of picture edges: a line that fills row r
lies at r + 0.5. For vertical lines everything is done on the transposed picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from clarion.oct.heyex import longest_run

ROWS = 496  # height of the usual export; distances below are in its pixels
_BLACK = 26


@dataclass(frozen=True)
class Lines:
    """Scan lines across a picture: their rows (sorted, sub-pixel), and the columns between which they run."""

    at: np.ndarray  # float64 [n]
    first: float
    last: float


@dataclass(frozen=True)
class Arrow:
    """The arrow head at one end of the current line. at_end: at the right (or lower) edge, else the left (upper)."""

    line: int  # index in Lines.at
    at_end: bool
    contrast: float  # 0-1


def find_lines(picture: np.ndarray, direction: str) -> Lines | None:
    """Burnt-in lines of one direction in an infrared picture uint8 [height, width]; None if there is none."""
    image = (picture if direction == "H" else picture.T).astype(np.float32)
    scale = max(image.shape[0] / ROWS, 0.5)
    reach = max(2, round(3 * scale))
    padded = np.pad(image, ((reach, reach), (0, 0)), mode="edge")
    beside = np.minimum(padded[: -2 * reach], padded[2 * reach :])
    drop = np.clip((beside - image) / np.maximum(beside, 20), 0, 1)
    strength = np.median(drop, axis=1)
    if strength.max() < 0.35:  # lines that do not cross the whole picture
        strength = np.percentile(drop, 75, axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (strength > 0.35).astype(np.int8), [0]]))).reshape(-1, 2)
    edges = edges[edges[:, 1] - edges[:, 0] <= 6 * scale]  # a dark band is no line
    if not len(edges):
        return None
    at = []
    for start, stop in edges:
        low, high = max(start - reach + 1, 0), min(stop + reach - 1, len(strength))
        weight = np.where(strength[low:high] > 0.06, strength[low:high], 0)
        at.append(float((np.arange(low, high) + 0.5) @ weight / weight.sum()))
    rows = np.clip(np.asarray(at).astype(int), 0, image.shape[0] - 1)
    across = cv2.blur(np.median(drop[rows], axis=0)[None], (max(3, 2 * reach + 1), 1))[0] > 0.35
    if not across.any():
        return None
    first, last = int(np.argmax(across)), len(across) - int(np.argmax(across[::-1]))
    if first <= 2 * reach:
        first = 0
    if len(across) - last <= 2 * reach + round(10 * scale):  # the arrow's shaft may hide the last pixels
        last = len(across)
    return Lines(np.array(at), float(first), float(last))


def find_arrow(picture: np.ndarray, lines: Lines, direction: str, clean: np.ndarray | None = None) -> Arrow | None:
    """The arrow head in one picture: a black triangle about 10 px long and high on a line, at one edge.

    clean: the same view without this arrow (a median over pictures with arrows on other lines), for what is under
    it; without one, what lies further inwards stands for it.
    """
    image = picture if direction == "H" else picture.T
    height, width = image.shape
    scale = height / ROWS
    near, far, length = round(1.6 * scale), max(round(4.5 * scale), 2), max(round(7 * scale), 3)
    if clean is None:
        inwards = round(2.2 * length)
        under = np.hstack([image[:, inwards : width // 2], image[:, width // 2 : width - inwards]])
        under = np.hstack([under[:, : under.shape[1] // 2], np.zeros((height, width - under.shape[1]), np.uint8),
                           under[:, under.shape[1] // 2 :]])  # fmt: skip
    else:
        under = clean if direction == "H" else clean.T
    found = []
    for line, row in enumerate(lines.at):
        rows = [int(row + s * d) for d in range(max(near, 1) + 1, far + 1) for s in (-1, 1)]
        rows = [r for r in rows if 0 <= r < height]
        for at_end in (False, True):
            columns = slice(width - length - 2, width - 2) if at_end else slice(2, 2 + length)
            here, bare = image[rows, columns].astype(np.float32), under[rows, columns].astype(np.float32)
            black = (here < _BLACK) & (bare > here + 20)
            found.append((float(black.mean()), line, at_end))
    found.sort(reverse=True)
    best, second = found[0], found[1] if len(found) > 1 else (0.0, 0, False)
    if best[0] < 0.25 or best[0] < 1.5 * second[0]:
        return None
    return Arrow(best[1], best[2], best[0])


def paint_out(picture: np.ndarray, lines: Lines | None, direction: str) -> np.ndarray:
    """The picture with its lines interpolated from the rows beside them, uint8."""
    if lines is None:
        return picture
    image = (picture if direction == "H" else picture.T).astype(np.float32)
    scale = max(image.shape[0] / ROWS, 0.5)
    half = 1.0 * scale + 0.7
    keep = np.ones(image.shape[0], bool)
    for row in lines.at:
        keep[max(int(np.floor(row - half)), 0) : int(np.ceil(row + half))] = False
    rows, known = np.arange(image.shape[0]), np.flatnonzero(keep)
    above = known[np.clip(np.searchsorted(known, rows, "right") - 1, 0, len(known) - 1)]
    below = known[np.clip(np.searchsorted(known, rows, "left"), 0, len(known) - 1)]
    share = np.where(below > above, (rows - above) / np.maximum(below - above, 1), 0)[:, None]
    filled = np.clip(image[above] * (1 - share) + image[below] * share, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(filled if direction == "H" else filled.T)


def paint_out_labels(picture: np.ndarray) -> np.ndarray:
    """The picture without counter (black, upper left), bar and its length (white with a rim, lower left)."""
    height, width = picture.shape
    scale = height / ROWS
    mask = np.zeros(picture.shape, np.uint8)
    top, side = round(24 * scale), min(round(60 * scale), width)
    corner = picture[:top, :side]
    mask[:top, :side] = corner < np.minimum(60, 0.6 * np.median(corner))
    base = height - round(32 * scale)
    label = picture[base:, :side]
    mask[base:, :side] = (label >= 120) & (label > np.median(label) + 40)
    mask = cv2.dilate(mask, np.ones((2 * max(round(1.6 * scale), 1) + 1,) * 2, np.uint8))
    return cv2.inpaint(picture, mask, 3 * scale, cv2.INPAINT_TELEA) if mask.any() else picture


def bar_px(picture: np.ndarray) -> tuple[int, int] | None:
    """(height, width) in px of the white L-shaped scale bar in the lower left corner; None without one."""
    height = picture.shape[0]
    corner = picture[-round(height * 0.25) :, : max(round(height * 0.09), 8)] >= 235
    least = max(4, round(7 * height / ROWS))
    best: tuple[int, int] | None = None
    for column in range(corner.shape[1]):
        start, length = longest_run(corner[:, column])
        if length < least or (best is not None and length <= best[0]):
            continue
        begin, across = longest_run(corner[start + length - 1, column:])
        if begin <= 1 and across >= least * 0.6:
            best = (length, across)
    return best


def shift_between(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """(dx, dy, response): how far the second picture's content lies right of and below the first's, px.

    Phase correlation of both pictures with illumination and line remnants filtered out.
    """
    a, b = (p.astype(np.float32) for p in (first, second))
    a, b = (cv2.GaussianBlur(p, (0, 0), 1.5) - cv2.GaussianBlur(p, (0, 0), 12) for p in (a, b))
    window = cv2.createHanningWindow(a.shape[::-1], cv2.CV_32F)
    (dx, dy), response = cv2.phaseCorrelate(a, b, window)
    return float(dx), float(dy), float(response)
