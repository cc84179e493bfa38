"""Is the retina thicker under the membrane than beside it, at the same place of a macula? One eye, in um.

Estimand of the adjusted difference: the step in thickness at the membrane's edge, in um, that remains when thickness
may depend freely on eccentricity and smoothly on direction (see cells.trend). It is fitted by generalised least
squares with a Matern covariance of the rest, so it rests on comparisons of near neighbours under and beside the
membrane. An effect that fades in over the edge is therefore underestimated: away_from_edge_um leaves a band of 0.25 mm
on both sides of the edge free, which costs precision, and the dose-response shows the course over distance. What
a membrane does everywhere at one eccentricity (a dome under a round, centred membrane) cannot be told from the shape
of that macula and is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import stats
from scipy.ndimage import distance_transform_edt

from clarion.errors import UsageError
from clarion.evaluators.bootstrap import Interval
from clarion.oct.association import nulls
from clarion.oct.association.cells import RADIUS_MM, Cells, independent, make_cells, trend
from clarion.oct.association.covariance import Covariance, fit
from clarion.oct.enface import Grid

MIN_SCANNED_MM2 = 8.0
MIN_EACH_MM2 = 0.5  # of membrane, and of bare retina
MIN_CONTRAST = 0.02  # share of the coverage's variance that the trend leaves
EDGE_BAND_MM = 0.25  # about one line spacing: where in between the edge lies is not known
NULL = "spin"
_EDGES_MM = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)  # signed distance to the membrane's edge, positive under it
_REFERENCE_CELLS, _BIN_CELLS = 8.0, 2.0
_RHO_DRAWS = 200


@dataclass(frozen=True)
class DoseBin:
    """Excess thickness (um) of retina at from_mm..to_mm of the membrane's edge (negative: outside) over the reference.

    The reference, excess 0 without an interval, is the bin farthest outside. area_mm2: of the bin.
    """

    from_mm: float
    to_mm: float
    area_mm2: float
    excess_um: Interval


@dataclass(frozen=True)
class Association:
    """Every Interval is 95 %; None where it could not be measured, `omitted` {name: why} says so."""

    inside_um: float | None = None  # mean thickness under the membrane
    outside_um: float | None = None  # and of bare retina
    difference_um: Interval | None = None  # their difference, eccentricity and all
    adjusted_difference_um: Interval | None = None  # at equal eccentricity and direction: the step at the edge
    away_from_edge_um: Interval | None = None  # the same between retina more than 0.25 mm inside and outside the edge
    spearman: Interval | None = None  # of coverage and thickness over cells
    adjusted_spearman: Interval | None = None  # of what the trend leaves of both
    dose_response: tuple[DoseBin, ...] = ()
    p_value: float | None = None  # of no association, from moved membranes
    permutations: int = 0
    null: str = NULL
    n_pixels: int = 0
    n_cells: int = 0
    n_effective: float | None = None  # independent cells that would give the difference the same standard error
    correlation_mm: float | None = None  # practical range (correlation 5 %) of the thickness about its trend
    omitted: dict[str, str] = field(default_factory=dict)


def associate(
    thickness_um: np.ndarray,
    erm: np.ndarray,
    grid: Grid,
    fovea_xy_mm: tuple[float, float] | None,
    permutations: int = 999,
    seed: int = 0,
    null: str = NULL,
) -> Association:
    """Association of retinal thickness with the membrane over the map of one eye.

    thickness_um: float [rows, columns], NaN where not measured. erm: bool mask, or probability 0-1 with NaN where not
    scanned; a calibrated probability enters the adjusted difference as it is (which keeps it unbiased: Berkson 1950),
    the other measures use its mask at 0.5. fovea_xy_mm: en-face mm; None leaves out what is adjusted. null: "spin" or
    "torus", see nulls.moved_coverage. The optic disc is left out by using retina within 3.6 mm of the fovea.
    Raises UsageError for maps that do not fit the grid.
    """
    thickness, erm = np.asarray(thickness_um, np.float64), np.asarray(erm, np.float64)
    for name, image in (("thickness", thickness), ("ERM", erm)):
        if image.shape != (grid.rows, grid.columns):
            raise UsageError(f"The {name} map is {image.shape}, its grid {(grid.rows, grid.columns)}: use one grid.")
    if np.nanmin(erm, initial=0) < 0 or np.nanmax(erm, initial=0) > 1:
        raise UsageError("The ERM map must be a mask or probabilities from 0 to 1.")
    if permutations < 1:
        raise UsageError(f"{permutations} permutations give no p value: ask for at least 1, better 999.")
    if fovea_xy_mm is not None and not np.isfinite(fovea_xy_mm).all():
        fovea_xy_mm = None

    x, y = grid.mm()
    measured = np.isfinite(thickness) & np.isfinite(erm)
    within = measured
    if fovea_xy_mm is not None:
        within = measured & (np.hypot(x - fovea_xy_mm[0], y - fovea_xy_mm[1]) <= RADIUS_MM)
    why = _refusal(within, erm, grid)
    if not why:
        centre = fovea_xy_mm or (float(x[within].mean()), float(y[within].mean()))
        cells = make_cells(within, grid, centre)
        why = _refusal(cells.used, erm, grid)  # again: what is too scattered to fill a cell is left out
    if why:
        return Association(null=null, n_pixels=int(np.count_nonzero(within)), omitted={"association": why})
    values, coverage = cells.mean(thickness), cells.mean(erm)
    mask = np.where(np.isnan(erm), np.nan, erm >= 0.5)
    covered = cells.mean(mask)
    constant = np.ones((len(cells), 1)) / np.sqrt(len(cells))
    design = constant if fovea_xy_mm is None else independent(trend(cells, grid, centre))
    covariance = fit(values, np.column_stack([design, coverage]), cells.x_mm, cells.y_mm)

    weights = covered / covered.sum(), (1 - covered) / (1 - covered).sum()
    contrast = weights[0] - weights[1]
    variance = float(np.square(covariance.root.T @ contrast).sum())
    n_effective = min(covariance.variance_um2 * float(contrast @ contrast) / variance, 1.0) * len(cells)
    free = max(n_effective - 2, 3.0)
    found = {
        "inside_um": float(weights[0] @ values),
        "outside_um": float(weights[1] @ values),
        "difference_um": _interval(contrast @ values, variance, free),
        "spearman": _rank_correlation(covered, values, np.column_stack([design, coverage]), covariance, seed),
        "null": null,
        "n_pixels": int(np.count_nonzero(cells.used)),
        "n_cells": len(cells),
        "n_effective": float(n_effective),
        "correlation_mm": float(covariance.range_mm),
    }
    why = "the fovea was not found" if fovea_xy_mm is None else _no_contrast(coverage, design)
    if why:
        names = ("adjusted_difference_um", "away_from_edge_um", "adjusted_spearman", "dose_response", "p_value")
        return Association(**found, omitted=dict.fromkeys(names, why))
    effect, error = _effects(coverage[:, None], values, design, covariance)
    known = nulls.fill_nearest(erm)
    signed = _signed_mm(known >= 0.5, grid)
    away = _away_from_edge(signed, values, design, covariance, cells)
    omitted = {}
    if away is None:
        omitted["away_from_edge_um"] = f"too little retina lies more than {EDGE_BAND_MM:g} mm from the membrane's edge"
    moved = nulls.moved_coverage(known, grid, cells, centre, permutations, null, seed)
    return Association(
        **found,
        adjusted_difference_um=_interval(effect[0], error[0] ** 2, len(cells) - design.shape[1] - 1),
        away_from_edge_um=away,
        adjusted_spearman=_partial_rank_correlation(covered, values, design, covariance),
        dose_response=_dose_response(signed, values, design, covariance, cells),
        p_value=nulls.p_value(nulls.scores(moved, values, design, covariance)),
        permutations=permutations,
        omitted=omitted,
    )


def _refusal(within: np.ndarray, erm: np.ndarray, grid: Grid) -> str | None:
    scanned = np.count_nonzero(within) * grid.pixel_mm2
    if scanned < MIN_SCANNED_MM2:
        return f"only {scanned:.1f} mm2 of the macula have both thickness and membrane, {MIN_SCANNED_MM2:g} are needed"
    covered = np.count_nonzero(within & (np.nan_to_num(erm) >= 0.5)) * grid.pixel_mm2
    if covered == 0:
        return "there is no epiretinal membrane"
    if covered < MIN_EACH_MM2:
        return f"the membrane covers only {covered:.2f} mm2, {MIN_EACH_MM2:g} are needed"
    if scanned - covered < MIN_EACH_MM2:
        return "the membrane covers all of the scanned macula: there is no bare retina to compare with"
    return None


def _no_contrast(coverage: np.ndarray, design: np.ndarray) -> str | None:
    rest = coverage - design @ (design.T @ coverage)
    if rest @ rest < MIN_CONTRAST * len(rest) * coverage.var():
        return "covered and bare retina never lie at the same eccentricity: they cannot be compared"
    return None


def _interval(value: float, variance: float, free: float) -> Interval:
    half = float(stats.t.ppf(0.975, free) * np.sqrt(variance))
    return Interval(float(value), float(value) - half, float(value) + half)


def _effects(
    columns: np.ndarray, values: np.ndarray, design: np.ndarray, covariance: Covariance
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of columns [n, k] beside design by generalised least squares and their standard errors, [k] each."""
    white = covariance.whiten(np.column_stack([design, columns, values]))
    _, r = np.linalg.qr(white)
    d, k = design.shape[1], columns.shape[1]
    inverse = np.linalg.inv(r[d : d + k, d : d + k])
    return inverse @ r[d : d + k, -1], np.sqrt(np.square(inverse).sum(1))


def _rank_correlation(
    covered: np.ndarray, values: np.ndarray, model: np.ndarray, covariance: Covariance, seed: int
) -> Interval:
    """Spearman's rho over cells. Its interval: Fisher's z, with the spread of z over maps drawn from the fitted model
    (parametric bootstrap), since its textbook standard error takes neighbours for independent."""
    effect, _ = _effects(model, values, np.empty((len(values), 0)), covariance)
    noise = np.random.default_rng(seed).standard_normal((len(values), _RHO_DRAWS))
    rho = _spearman(covered, np.column_stack([values, (model @ effect)[:, None] + covariance.root @ noise]))
    return _fisher(float(rho[0]), float(np.arctanh(np.clip(rho[1:], -0.999999, 0.999999)).std(ddof=1)))


def _partial_rank_correlation(
    covered: np.ndarray, values: np.ndarray, design: np.ndarray, covariance: Covariance
) -> Interval:
    """Spearman's rho of what the trend and the neighbouring cells leave of coverage and thickness (both whitened by
    the fitted covariance), so that cells count as independent: standard error of Bonett & Wright 2000."""
    white = covariance.whiten(np.column_stack([design, covered, values]))
    basis, _ = np.linalg.qr(white[:, :-2])
    a, b = (white[:, -2:] - basis @ (basis.T @ white[:, -2:])).T
    rho = float(_spearman(a, b[:, None])[0])
    return _fisher(rho, float(np.sqrt((1 + rho**2 / 2) / (len(a) - design.shape[1] - 3))))


def _spearman(a: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Spearman's rho of a [n] with each of columns [n, k] -> [k]."""
    a, b = stats.rankdata(a), stats.rankdata(columns, axis=0)
    a, b = a - a.mean(), b - b.mean(0)
    return a @ b / np.sqrt((a @ a) * np.square(b).sum(0))


def _fisher(rho: float, error_of_z: float) -> Interval:
    z, half = np.arctanh(np.clip(rho, -0.999999, 0.999999)), 1.959964 * error_of_z
    return Interval(rho, float(np.tanh(z - half)), float(np.tanh(z + half)))


def _signed_mm(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Distance of each pixel to the membrane's edge, mm, positive under it."""
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.where(mask, inside - 0.5, 0.5 - outside) * grid.step_mm


def _away_from_edge(
    signed: np.ndarray, values: np.ndarray, design: np.ndarray, covariance: Covariance, cells: Cells
) -> Interval | None:
    """Difference of retina deeper under and farther beside the membrane than the edge band, which has its own level
    on each side; None where either is too small."""
    share = _shares(signed, [-np.inf, -EDGE_BAND_MM, 0.0, EDGE_BAND_MM, np.inf], cells)
    if share[:, [0, -1]].sum(0).min() * cells.size_mm**2 < MIN_EACH_MM2:
        return None
    effect, error = _effects(share[:, :0:-1], values, design, covariance)
    return _interval(effect[0], error[0] ** 2, len(cells) - design.shape[1] - 3)


def _dose_response(
    signed: np.ndarray, values: np.ndarray, design: np.ndarray, covariance: Covariance, cells: Cells
) -> tuple[DoseBin, ...]:
    edges = [-np.inf, *_EDGES_MM, np.inf]
    zero = edges.index(0.0)
    share = _shares(signed, edges, cells)
    # Thin bins at both ends are joined with their neighbour towards the edge.
    while zero > 1 and share[:, 0].sum() < _REFERENCE_CELLS:
        del edges[1]
        zero, share = zero - 1, _shares(signed, edges, cells)
    while len(edges) - zero > 2 and share[:, -1].sum() < _BIN_CELLS:
        del edges[-2]
        share = _shares(signed, edges, cells)
    effect, error = _effects(share[:, 1:], values, design, covariance)
    free = len(cells) - design.shape[1] - share.shape[1] + 1
    excess = [Interval(0.0, note="reference"), *(_interval(v, e**2, free) for v, e in zip(effect, error))]
    area = share.sum(0) * cells.size_mm**2
    return tuple(DoseBin(*item) for item in zip(edges[:-1], edges[1:], (float(a) for a in area), excess))


def _shares(signed: np.ndarray, edges: list[float], cells: Cells) -> np.ndarray:
    """Share of each cell in each distance bin, [n cells, bins]."""
    bins = np.digitize(signed, edges[1:-1])
    return np.stack([cells.mean((bins == k).astype(np.float64)) for k in range(len(edges) - 1)], 1)
