"""Where the fovea is, in eyes with a pit and in eyes whose pit a membrane has filled.

Four signs of a fovea are radially symmetric and some of them outlive the pit: the retina is thinnest (pit), the inner
retina (ILM to INL/OPL) is thinnest or at least the smallest share of the whole, the outer nuclear layer is thickest
and the outer plexiform layer thinnest (Govetto 2017, Am J Ophthalmol 175:99: in stages 3 and 4 the pit is gone and
inner layers cross the centre, while the ONL is still drawn up there). Each sign's map is filtered by a
centre-surround kernel, scaled by how much that response varies over the rest of the macula, and the signs are summed;
their common peak is the fovea.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter

from clarion.oct.enface import Grid
from clarion.oct.thickness import ThicknessMaps
from clarion.oct.volume import Volume

SEARCH_MM = 1.5  # fixation lies within this of the scan's centre, or the scan was not a macular one
_CENTRE_MM, _SURROUND_MM = 0.22, 0.75  # SD of the two Gaussians
_CAP = 8.0  # SD at which a sign saturates: none alone outweighs the others
_STEP_MM = 0.06  # the signs are much wider than a pixel of the maps
_PEAK_SHARE = 0.7  # the refined position is the centroid of what exceeds this share of the peak
_MIN_SCORE = 6.0  # summed signs, in robust SD
_MAX_RIVAL = 0.8  # of the peak's score, further than _APART_MM away
_APART_MM = 0.7
_MIN_COVERAGE = 0.5  # of the search disc; a raster of 15 x 5 degrees covers 0.6
_CLEAR_SCORE = 12.0  # from here on the ONL's own peak need not be the common one (a lamellar hole thins it)
_MIN_AGREEING = 2  # signs whose own peak lies near the common one
_NEAR_MM = 0.35
_PRIOR_MM, _PRIOR = 0.6, 0.25  # eyes fixate near the centre: lowers far scores by at most this share
_ONL = "thick outer nuclear layer"


@dataclass(frozen=True)
class Fovea:
    """En-face position, mm. If not `confident` it is the raster's centre, and `why` says what was missing.

    shift_mm: distance from the raster's centre, where the device aimed. signs: each sign's own peak, mm from the
    common one; score: height of the common peak in robust SD.
    """

    x_mm: float
    y_mm: float
    confident: bool
    why: str
    shift_mm: float
    score: float = 0.0
    signs: dict[str, float] | None = None


def find_fovea(maps: ThicknessMaps, grid: Grid, volume: Volume, surfaces: list[np.ndarray] | None = None) -> Fovea:
    """The fovea of a macular scan. surfaces: where given, lines near the place must hold measured surfaces.

    Never raises on a poor scan: the answer is then the raster's centre, `confident=False` and the reason.
    """
    cx, cy = raster_centre_mm(volume)
    stride = max(round(_STEP_MM / grid.step_mm), 1)
    x, y = (axis[::stride, ::stride] for axis in grid.mm())
    thin = {"total": maps.total, "inner": maps.inner, "ONL": maps.layers["ONL"], "OPL": maps.layers["OPL"]}
    thin = {name: values[::stride, ::stride] for name, values in thin.items()}
    step = grid.step_mm * stride
    disc = np.hypot(x - cx, y - cy) <= SEARCH_MM

    def unsure(why: str, score: float = 0.0, signs: dict | None = None) -> Fovea:
        return Fovea(cx, cy, False, why + " The centre of the scan stands in for the fovea.", 0.0, score, signs)

    coverage = min(float(np.isfinite(thin["total"][disc]).sum()) * step**2 / (np.pi * SEARCH_MM**2), 1.0)
    if coverage < _MIN_COVERAGE:
        return unsure(f"Only {coverage:.0%} of the central {2 * SEARCH_MM:g} mm was scanned and measured.")
    responses = _signs(thin, step, np.hypot(x - cx, y - cy))
    if not responses:
        return unsure("No layer was measured over the central retina.")
    total = sum(_CAP * (1 - np.exp(-np.maximum(r, 0) / _CAP)) for r in responses.values())
    prior = 1 - _PRIOR * (1 - np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * _PRIOR_MM**2)))
    score = np.where(disc & np.isfinite(thin["total"]), total * prior, -np.inf)
    row, column = np.unravel_index(int(np.argmax(score)), score.shape)
    peak = float(score[row, column])
    if peak <= 0:
        return unsure("No sign of a fovea was found.")
    fx, fy = _centroid(score, x, y, row, column, peak)
    apart = np.hypot(x - fx, y - fy)
    signs = {name: _own_peak(r, disc, apart) for name, r in responses.items()}
    local = score >= maximum_filter(score, size=2 * round(0.2 / step) + 1)
    rival = float(score[local & (apart > _APART_MM) & np.isfinite(score)].max(initial=0.0))
    if peak < _MIN_SCORE:
        return unsure(f"The signs of a fovea are too weak ({peak:.1f} SD; {_MIN_SCORE:g} needed).", peak, signs)
    if rival > _MAX_RIVAL * peak:
        return unsure("Two places look like a fovea.", peak, signs)
    if sum(d <= _NEAR_MM for d in signs.values()) < min(_MIN_AGREEING, len(signs)):
        return unsure("Thickness of the whole, the inner and the outer retina point to different places.", peak, signs)
    if not _outer_retina_agrees(responses, signs, peak, row, column):
        return unsure("The outer nuclear layer shows no fovea there.", peak, signs)
    if np.hypot(fx - cx, fy - cy) > SEARCH_MM - 0.1:
        return unsure("The likeliest place lies at the edge of the search.", peak, signs)
    if surfaces is not None and not _scanned_near(volume, surfaces, fx, fy):
        return unsure("No measured scan line passes near the likeliest place.", peak, signs)
    found = ", ".join(name for name, d in signs.items() if d <= _NEAR_MM)
    return Fovea(fx, fy, True, f"Found by {found}.", float(np.hypot(fx - cx, fy - cy)), peak, signs)


def raster_centre_mm(volume: Volume) -> tuple[float, float]:
    """Middle of the box round all scan lines, (x, y) mm."""
    ends = np.array([p for scan in volume.scans for p in (scan.start_mm, scan.end_mm)], float)
    middle = (ends.min(0) + ends.max(0)) / 2
    return float(middle[0]), float(middle[1])


def _signs(thin: dict[str, np.ndarray], step_mm: float, r: np.ndarray) -> dict[str, np.ndarray]:
    """Centre-surround response of each sign in robust SD of what it is elsewhere, [rows, columns]; positive: foveal.

    thin: maps on pixels of step_mm; r: distance from the scan's centre, mm.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(thin["total"] > 50, thin["inner"] / thin["total"], np.nan)
    sources = {
        "thin retina": -thin["total"],
        "thin inner retina": -thin["inner"],
        "small share of inner retina": -share,
        _ONL: thin["ONL"],
        "thin outer plexiform layer": -thin["OPL"],
    }
    found = {}
    for name, source in sources.items():
        known = np.isfinite(source) & (r < 3.2)
        if known.sum() < 100:
            continue
        response = _blur(source, known, _CENTRE_MM / step_mm) - _blur(source, known, _SURROUND_MM / step_mm)
        elsewhere = response[known & (r > 1.0) & (r < 2.6)]
        if elsewhere.size < 100:
            elsewhere = response[known]
        spread = 1.4826 * float(np.median(np.abs(elsewhere - np.median(elsewhere))))
        found[name] = np.where(known, (response - np.median(elsewhere)) / max(spread, 1e-6), 0.0)
    return found


def _blur(values: np.ndarray, known: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over what is known (normalised convolution)."""
    weight = gaussian_filter(known.astype(np.float32), sigma, truncate=3)
    return gaussian_filter(np.where(known, values, 0).astype(np.float32), sigma, truncate=3) / np.maximum(weight, 1e-3)


def _centroid(score: np.ndarray, x: np.ndarray, y: np.ndarray, row: int, column: int, peak: float) -> tuple:
    """x, y mm: centroid of the score's excess over _PEAK_SHARE of its peak, within 0.3 mm of it."""
    near = np.hypot(x - x[row, column], y - y[row, column]) <= 0.3
    excess = np.where(near & np.isfinite(score), np.maximum(score - _PEAK_SHARE * peak, 0), 0)
    return float((excess * x).sum() / excess.sum()), float((excess * y).sum() / excess.sum())


def _own_peak(response: np.ndarray, disc: np.ndarray, apart: np.ndarray) -> float:
    """Distance of a sign's own highest point from the common peak, mm."""
    return float(apart.ravel()[int(np.argmax(np.where(disc, response, -np.inf)))])


def _outer_retina_agrees(responses: dict, signs: dict, peak: float, row: int, column: int) -> bool:
    """The inner retina is also thin at the optic disc and outside the macula; a thick ONL is the fovea's own."""
    if _ONL not in signs or signs[_ONL] <= _NEAR_MM:
        return True
    return peak >= _CLEAR_SCORE and float(responses[_ONL][row, column]) > 0


def _scanned_near(volume: Volume, surfaces: list[np.ndarray], x_mm: float, y_mm: float) -> bool:
    """Whether an A-scan with measured ILM and BM lies within one line spacing (at least 0.15 mm) of the place."""
    spacing = max([volume.line_spacing_mm(d) or 0.0 for d in volume.directions] + [0.15])
    for scan, rows in zip(volume.scans, surfaces, strict=True):
        x, y = scan.path_mm()
        if (np.isfinite(rows[0] + rows[-1]) & (np.hypot(x - x_mm, y - y_mm) <= spacing)).any():
            return True
    return False
