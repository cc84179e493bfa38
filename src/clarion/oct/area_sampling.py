"""How well lines a fifth of a millimetre apart tell an area: the raster's and the eye motion's part of its error.

The area is a systematic sample: lengths on parallel lines times their spacing (Cavalieri), in two directions. For a
planar shape with boundary length B the isotropic covariogram starts as A - (B / pi) h (Matheron 1971, The theory of
regionalized variables, ch. 2; Cruz-Orive 1989, J Microsc 153:315). Integrated along the lines its singular part is
(B / pi) y^2 ln|y|, whose Fourier transform is 2 B / |omega|^3, and the sum of that over the multiples of
2 pi / T, the frequencies which lines at spacing T cannot tell from the mean, gives

    var(area from one direction) = B T^3 zeta(3) / (2 pi^3).

B itself is counted on the lines (Crofton): T times the number of edges that lines of one direction meet is B * 2 / pi.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import zeta

from clarion.oct.enface import Grid, direction_map
from clarion.oct.volume import Volume

CAVALIERI = float(zeta(3) / (2 * np.pi**3))  # 0.0194
# Where both directions are fused by distance, each point follows the line next to it, which beats the plain mean of
# the two directions: variance of the fused map's area / variance of that mean, on 600 random discs and ellipses.
FUSED_GAIN = 0.8
PRESENT = 0.5


@dataclass(frozen=True)
class LineSums:
    """What the lines of a study hold, each A-scan weighted by the share of its direction in the fused map.

    The area is the sum over directions of spacing * lengths. Lengths are mm, lines in the order of volume.of().
    """

    spacing_mm: dict[str, float]
    length_mm: dict[str, np.ndarray]  # of membrane on each line, [lines]
    uncertain_mm: dict[str, np.ndarray]  # of p (1 - p) on each line
    edges_both: dict[str, int]  # where a line enters or leaves the membrane, inside both rasters
    edges_alone: dict[str, int]  # the same, where only this direction was scanned
    share: dict[str, float]  # of this direction where both were scanned

    @property
    def area_mm2(self) -> float:
        return float(sum(self.spacing_mm[d] * v.sum() for d, v in self.length_mm.items()))

    @property
    def uncertain_mm2(self) -> float:
        """The part of the area that hangs on A-scans which might or might not be membrane."""
        return float(sum(self.spacing_mm[d] * v.sum() for d, v in self.uncertain_mm.items()))


def line_shares(volume: Volume, grid: Grid) -> tuple[list[np.ndarray], dict[str, float], list[np.ndarray]]:
    """With which weight each A-scan enters the fused area.

    Returns (weights [width] a scan, the share of each direction where both were scanned, bool [width] a scan: both).
    """
    ones = [np.ones(scan.width) for scan in volume.scans]
    inside = {d: np.isfinite(direction_map(volume, ones, d, grid)[0]) for d in volume.directions}
    # Of two directions the denser one speaks more: distances to the nearest line scale with the spacing.
    density = {d: 1.0 / (volume.line_spacing_mm(d) or np.inf) for d in volume.directions}
    total = sum(density.values())
    share = {d: density[d] / total if total else 1.0 / len(density) for d in density}
    weights, both = [], []
    for scan in volume.scans:
        x, y = scan.path_mm()
        column = np.clip(((x - grid.x0_mm) / grid.step_mm).astype(int), 0, grid.columns - 1)
        row = np.clip(((y - grid.y0_mm) / grid.step_mm).astype(int), 0, grid.rows - 1)
        others = [inside[d][row, column] for d in inside if d != scan.direction]
        shared = np.any(others, axis=0) if others else np.zeros(scan.width, bool)
        both.append(shared)
        weights.append(np.where(shared, share[scan.direction], 1.0))
    return weights, share, both


def line_sums(volume: Volume, presence: list[np.ndarray], grid: Grid, shares: tuple | None = None) -> LineSums:
    """Sum presence [width] a scan (0-1, NaN: not measured, counts as none) along its lines.

    shares: line_shares(volume, grid), where several presences of one volume are summed.
    """
    weights, share, both = shares or line_shares(volume, grid)
    spacing, length, uncertain, inside, alone = {}, {}, {}, {}, {}
    for d in volume.directions:
        spacing[d] = volume.line_spacing_mm(d) or grid.step_mm
        lengths, doubts, n_both, n_alone = [], [], 0, 0
        for k in volume.of(d):
            p = np.nan_to_num(np.asarray(presence[k], np.float64))
            pitch = volume.scans[k].length_mm / volume.scans[k].width
            lengths.append(float(p @ weights[k]) * pitch)
            doubts.append(float((p * (1 - p)) @ weights[k]) * pitch)
            edges = np.flatnonzero(np.diff(p >= PRESENT))
            n_both += int(both[k][edges].sum())
            n_alone += int(edges.size - both[k][edges].sum())
        length[d], uncertain[d], inside[d], alone[d] = np.array(lengths), np.array(doubts), n_both, n_alone
    return LineSums(spacing, length, uncertain, inside, alone, share)


def raster_variance_mm4(sums: LineSums) -> float:
    """Variance of the area, mm4, because only lines were seen.

    Where two directions are fused their errors are independent: they see the shape's outline where the other is
    blind. At least the outline of a speck that fits between two lines counts, so that no area is ever certain.
    """
    total = 0.0
    met = [np.pi / 2 * sums.spacing_mm[d] * n for d, n in sums.edges_both.items()]
    boundary = float(np.mean(met))
    smallest = np.pi * min(sums.spacing_mm.values())
    if boundary > 0 or len(met) > 1:
        parts = [sums.share[d] ** 2 * t**3 for d, t in sums.spacing_mm.items()]
        total += FUSED_GAIN * CAVALIERI * max(boundary, smallest) * sum(parts)
    for d, n in sums.edges_alone.items():
        if n or len(sums.edges_alone) == 1:
            total += CAVALIERI * max(np.pi / 2 * sums.spacing_mm[d] * n, smallest) * sums.spacing_mm[d] ** 3
    return total


def motion_variance_mm4(sums: LineSums, sd_mm: float) -> float:
    """Variance of the area, mm4, because each line lay `sd_mm` (1 SD, independent) beside where the file has it.

    A line that slipped by s tells the length at its neighbour's side: spacing * length changes by s * d(length), the
    slope of length from line to line (first-order propagation).
    """
    slopes = [np.gradient(v) for v in sums.length_mm.values() if v.size > 1]
    return float(sum(sd_mm**2 * np.square(s).sum() for s in slopes))
