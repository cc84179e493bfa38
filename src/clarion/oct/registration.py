"""Two visits of one eye on one frame: rotation and shift en face, found on vessels, checked before it is believed.

The pictures are the infrared localisers, or, where a visit has none, the maps of total retinal thickness. Both are
brought to square pixels, stripped of slow shading and scaled by their local contrast. A masked normalised
cross-correlation (Padfield 2012, IEEE TIP 21:2706) over a fan of rotations finds the place, the enhanced correlation
coefficient (Evangelidis and Psarakis 2008, IEEE PAMI 30:1858) refines it below a pixel. It is accepted only if the
correlation is high and stands out from every other place, which another eye's vessels do not reach.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, degrees, radians, sin

import cv2
import numpy as np
from scipy import fft

from clarion.errors import DataError
from clarion.oct.enface import Grid
from clarion.oct.volume import Localiser

MAX_SHIFT_MM, MAX_TURN_DEG = 1.5, 10.0
MIN_TILES = 3
_SEARCH_STEP_MM = 0.04
_WEAK_SD = 0.8  # a dip less deep than this is no vessel


@dataclass(frozen=True)
class Kind:
    """How pictures of one kind are prepared and when their match is believed. Limits: see validation/progression.py."""

    name: str
    step_mm: float
    fine_mm: float  # SD of the noise filter
    coarse_mm: float  # SD of what counts as slow shading
    min_correlation: float
    min_distinct: float  # correlation over that of the best other place
    dark: bool  # only what is darker than its surroundings counts
    proves_identity: bool


VESSELS = Kind("localiser", 0.02, 0.03, 0.15, 0.40, 1.8, True, True)
# Every macula has a pit and arcades: a match of thickness cannot tell two eyes apart as vessels do.
THICKNESS = Kind("thickness", 0.04, 0.08, 0.60, 0.75, 1.0, False, False)


@dataclass(frozen=True)
class Registration:
    """x2 = R(rotation) x1 + shift: from the first visit's en-face frame (mm) to the second's.

    correlation: of the prepared pictures where they overlap. distinct: that over the best correlation elsewhere.
    residual_mm: median of what single tiles would still be moved by, None with fewer than 3 tiles of enough contrast.
    """

    rotation_deg: float
    shift_mm: tuple[float, float]
    correlation: float
    distinct: float
    residual_mm: float | None
    overlap: float
    source: str  # Kind.name
    proves_identity: bool

    def apply(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points of the first visit's frame in the second's, mm."""
        c, s = cos(radians(self.rotation_deg)), sin(radians(self.rotation_deg))
        return c * x - s * y + self.shift_mm[0], s * x + c * y + self.shift_mm[1]

    def undo(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points of the second visit's frame in the first's, mm."""
        c, s = cos(radians(self.rotation_deg)), sin(radians(self.rotation_deg))
        x, y = x - self.shift_mm[0], y - self.shift_mm[1]
        return c * x + s * y, c * y - s * x


def warp(values: np.ndarray, source: Grid, target: Grid, registration: Registration) -> np.ndarray:
    """A map [rows, columns] of the second visit on a grid of the first: float32, bilinear, NaN where unmeasured."""
    x, y = registration.apply(*target.mm())
    column = ((x - source.x0_mm) / source.step_mm - 0.5).astype(np.float32)
    row = ((y - source.y0_mm) / source.step_mm - 0.5).astype(np.float32)
    return cv2.remap(np.asarray(values, np.float32), column, row, cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"))  # fmt: skip


def register(
    first: Localiser | None,
    second: Localiser | None,
    thickness: tuple[tuple[np.ndarray, Grid], tuple[np.ndarray, Grid]] | None = None,
) -> Registration:
    """Where the first visit's points lie in the second's frame.

    Two localisers are registered by their vessels. Where one is missing, `thickness`, ((map um, grid) of the first,
    of the second), takes their place. DataError if neither is there, or if the pictures do not match: another eye,
    another region, or too poor a picture.
    """
    if first is not None and second is not None:
        pictures, kind = [_of_localiser(first), _of_localiser(second)], VESSELS
    elif thickness is not None:
        pictures, kind = [_of_map(*part) for part in thickness], THICKNESS
    else:
        raise DataError("The visits cannot be registered: one has no infrared picture and thickness was not measured; "
                        "export both visits with the infrared picture.")  # fmt: skip
    return _register(*pictures, kind)


@dataclass(frozen=True)
class _Picture:
    values: np.ndarray  # float32 [rows, columns]; NaN unknown
    step_mm: float
    x0_mm: float  # outer corner of pixel [0, 0]
    y0_mm: float


def _of_localiser(localiser: Localiser) -> _Picture:
    """The infrared picture on square pixels."""
    image = localiser.image if localiser.image.ndim == 2 else localiser.image[..., :3].mean(-1)
    height, width = image.shape
    (mx, my), step = localiser.mm_per_px, VESSELS.step_mm
    size = (max(1, round(width * mx / step)), max(1, round(height * my / step)))
    values = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA if mx < step else cv2.INTER_LINEAR)
    return _Picture(values, step, *localiser.origin_mm)


def _of_map(values: np.ndarray, grid: Grid) -> _Picture:
    step = THICKNESS.step_mm
    columns, rows = (max(1, round(n * grid.step_mm / step)) for n in (grid.columns, grid.rows))
    x = (np.arange(columns, dtype=np.float32) + 0.5) * step / grid.step_mm - 0.5
    y = (np.arange(rows, dtype=np.float32) + 0.5) * step / grid.step_mm - 0.5
    at = np.meshgrid(x, y)
    return _Picture(cv2.remap(np.asarray(values, np.float32), *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
                    step, grid.x0_mm, grid.y0_mm)  # fmt: skip


def _register(a: _Picture, b: _Picture, kind: Kind) -> Registration:
    fa, fb = _features(a, kind), _features(b, kind)
    times = max(1, round(_SEARCH_STEP_MM / kind.step_mm))
    coarse, distinct = _search(_shrunk(fa, a, times), _shrunk(fb, b, times))
    # Pixel p of the shrunk picture has its middle at times * p + (times - 1) / 2.
    half = np.full(2, (times - 1) / 2)
    coarse[:, 2] = times * coarse[:, 2] + half - coarse[:, :2] @ half
    matrix = _refine(fa, fb, coarse)
    known = _warped(np.isfinite(b.values).astype(np.float32), matrix, a.values.shape) > 0.99
    both = known & np.isfinite(a.values)
    overlap = float(both.sum() / max(np.isfinite(a.values).sum(), 1))
    moved = _warped(fb, matrix, a.values.shape)
    correlation = _correlation(fa, moved, both)
    if correlation < kind.min_correlation or distinct < kind.min_distinct:
        what = "vessels of the infrared pictures" if kind is VESSELS else "thickness maps"
        raise DataError(
            f"The {what} of the two visits do not match (correlation {correlation:.2f}, {distinct:.2f} times the best "
            f"other place; {kind.min_correlation:g} and {kind.min_distinct:g} are needed): check that both are scans "
            "of the same eye and region."
        )
    turn = degrees(float(np.arctan2(matrix[1, 0], matrix[0, 0])))
    # From pixels to mm: pixel p has its middle at (p + 0.5) step + corner.
    start = np.array([a.x0_mm, a.y0_mm]) + 0.5 * a.step_mm
    end = np.array([b.x0_mm, b.y0_mm]) + 0.5 * b.step_mm
    shift = end + matrix[:, 2] * a.step_mm - matrix[:, :2] @ start
    return Registration(turn, (float(shift[0]), float(shift[1])), correlation, distinct,
                        _residual(fa, moved, both, kind), overlap, kind.name, kind.proves_identity)  # fmt: skip


def _features(picture: _Picture, kind: Kind) -> np.ndarray:
    """Band-passed, divided by local contrast, of vessels what is clearly dark, mean 0: float32 [rows, columns]."""
    known = np.isfinite(picture.values)
    weight = known.astype(np.float32)
    values = np.where(known, picture.values, 0).astype(np.float32)

    def mean(v: np.ndarray, sd_mm: float) -> np.ndarray:
        sd = sd_mm / picture.step_mm
        return cv2.GaussianBlur(v * weight, (0, 0), sd) / np.maximum(cv2.GaussianBlur(weight, (0, 0), sd), 1e-3)

    band = mean(values, kind.fine_mm) - mean(values, kind.coarse_mm)
    contrast = np.sqrt(mean(band**2, 4 * kind.coarse_mm))
    # No more than doubled where there is little to see: what remains there is choroid, noise and burnt-in marks.
    floor = 0.5 * float(np.sqrt(np.mean(band[known] ** 2))) + 1e-6 if known.any() else 1.0
    scaled = band / np.maximum(contrast, floor)
    if kind.dark:
        scaled = np.clip(-scaled - _WEAK_SD, 0, 3)
    else:
        scaled = np.clip(scaled, -3, 3)
    middle = float(scaled[known].mean()) if known.any() else 0.0
    return np.where(known, scaled - middle, 0).astype(np.float32)


def _shrunk(features: np.ndarray, picture: _Picture, times: int) -> tuple[np.ndarray, np.ndarray, _Picture]:
    """Features, what is known (0-1), and the picture they belong to, `times` coarser."""
    known = np.isfinite(picture.values).astype(np.float32)
    if times > 1:
        rows, columns = (n // times for n in features.shape)
        features, known = (
            v[: rows * times, : columns * times].reshape(rows, times, columns, times).mean((1, 3))
            for v in (features, known)
        )
    return features, (known > 0.99).astype(np.float32), replace(picture, step_mm=picture.step_mm * times)


def _search(first: tuple, second: tuple) -> tuple[np.ndarray, float]:
    """Best rotation and whole-pixel shift, a matrix [2, 3] (pixels of a -> of b), and how far it stands out."""
    (fa, ma, a), (fb, mb, b) = first, second
    offset = np.array([a.x0_mm - b.x0_mm, a.y0_mm - b.y0_mm]) / a.step_mm  # same mm = same place
    shape = tuple(fft.next_fast_len(m + n) for m, n in zip(fa.shape, fb.shape))
    spectra = [fft.rfft2(v, shape, workers=1) for v in (fb, fb**2, mb)]
    reach = int(np.ceil(MAX_SHIFT_MM / a.step_mm))
    turns = np.arange(-MAX_TURN_DEG, MAX_TURN_DEG + 0.1, 1.0)
    peaks = []
    for turn in turns:
        # a is turned about the frame's origin (0, 0) mm, then slid over b.
        matrix = cv2.getRotationMatrix2D((-a.x0_mm / a.step_mm - 0.5, -a.y0_mm / a.step_mm - 0.5), -turn, 1.0)
        turned, known = (cv2.warpAffine(v, matrix, fa.shape[::-1], flags=cv2.INTER_LINEAR) for v in (fa, ma))
        ncc = _ncc(turned, known, spectra, shape, 0.3 * min(ma.sum(), mb.sum()))
        # ncc[dy, dx]: b(p + d) against a(p); keep shifts within reach of the one that leaves mm in place.
        dy, dx = (np.arange(-reach, reach + 1) + round(float(o)) for o in offset[::-1])
        window = ncc[np.ix_(dy % shape[0], dx % shape[1])]
        k = np.unravel_index(int(np.argmax(window)), window.shape)
        peaks.append((float(window[k]), matrix, (int(dx[k[1]]), int(dy[k[0]])), window, k))
    best = max(range(len(peaks)), key=lambda i: peaks[i][0])
    top, matrix, (dx, dy), _, at = peaks[best]
    apart = 0.35 / a.step_mm
    rivals = []
    for _, _, _, window, _ in peaks:
        rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
        rivals.append(window[np.hypot(rows - at[0], columns - at[1]) > apart].max(initial=0.0))
    matrix = matrix.copy()
    matrix[:, 2] += (dx, dy)
    return matrix, float(top / max(float(np.max(rivals)), 1e-6))


def _ncc(a: np.ndarray, known: np.ndarray, spectra: list, shape: tuple[int, int], least: float) -> np.ndarray:
    """Correlation of b(p + d) and a(p) over their overlap for each d; 0 where fewer than `least` pixels overlap."""
    fb, fb2, mb = spectra
    fa, fa2, ma = (np.conj(fft.rfft2(v, shape, workers=1)) for v in (a, a**2, known))
    product = fft.irfft2(fb * fa, shape, workers=1)
    energy_a, energy_b = fft.irfft2(mb * fa2, shape, workers=1), fft.irfft2(fb2 * ma, shape, workers=1)
    count = fft.irfft2(mb * ma, shape, workers=1)
    energy = np.sqrt(np.maximum(energy_a, 1e-3) * np.maximum(energy_b, 1e-3))
    return np.where(count >= least, product / energy, 0.0)


def _refine(fa: np.ndarray, fb: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """The matrix below a pixel; the coarse one where the iteration does not converge or leaves it."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    try:
        _, matrix = cv2.findTransformECC(fa, fb, coarse.astype(np.float32), cv2.MOTION_EUCLIDEAN, criteria, None, 3)
    except cv2.error:  # it says so by raising
        return coarse.astype(np.float64)
    middle = np.array([fa.shape[1] / 2, fa.shape[0] / 2, 1.0])
    if np.hypot(*((matrix - coarse) @ middle)) > 10:
        return coarse.astype(np.float64)
    return matrix.astype(np.float64)


def _warped(values: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """values at matrix @ p for each pixel p of `shape`, 0 outside."""
    return cv2.warpAffine(values, matrix, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _correlation(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    if where.sum() < 100:
        return 0.0
    a, b = a[where], b[where]
    return float((a * b).sum() / np.sqrt(max((a * a).sum() * (b * b).sum(), 1e-6)))


def _residual(a: np.ndarray, b: np.ndarray, where: np.ndarray, kind: Kind) -> float | None:
    """Median shift, mm, that tiles of about 1.5 mm would still take; tiles of weak correlation are left out.

    The median, for a tile with one straight vessel slides along it.
    """
    size, reach = round(1.5 / kind.step_mm), max(2, round(0.12 / kind.step_mm))
    found = []
    for row in range(0, a.shape[0] - size + 1, size):
        for column in range(0, a.shape[1] - size + 1, size):
            if not where[row : row + size, column : column + size].all():
                continue
            inner = (slice(row + reach, row + size - reach), slice(column + reach, column + size - reach))
            scores = cv2.matchTemplate(b[row : row + size, column : column + size], a[inner], cv2.TM_CCORR_NORMED)
            k = np.unravel_index(int(np.argmax(scores)), scores.shape)
            at_edge = any(i in (0, n - 1) for i, n in zip(k, scores.shape))
            if scores[k] >= max(kind.min_correlation, 0.3) and not at_edge:
                found.append(_peak(scores, k) - reach)
    if len(found) < MIN_TILES:
        return None
    return float(np.median(np.hypot(*np.transpose(found))) * kind.step_mm)


def _peak(scores: np.ndarray, k: tuple[int, int]) -> np.ndarray:
    """Row and column of a peak below a pixel, by a parabola in each direction."""
    r, c = k
    place = []
    for low, mid, high, at in ((scores[r - 1, c], scores[r, c], scores[r + 1, c], r),
                               (scores[r, c - 1], scores[r, c], scores[r, c + 1], c)):  # fmt: skip
        bend = low - 2 * mid + high
        place.append(at + (0.5 * (low - high) / bend if bend < 0 else 0.0))
    return np.array(place, dtype=float)
