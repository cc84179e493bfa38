"""The epiretinal membrane en face: where it is, where it is torn, how it folds and lifts, what it does below."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin

import cv2
import numpy as np

from .anatomy import Fovea
from .fields import GRID_N, GRID_STEP_MM, directed_noise, grid_mm, smooth_noise, smoothstep

_MEAN_RADIUS_MM = (0.0, 1.7, 2.0, 2.3, 2.6)  # by stage
_WRINKLE_UM = (0.0, 6.0, 8.0, 10.0, 12.0)
_CYST_CHANCE = (0.0, 0.15, 0.3, 0.45, 0.6)


@dataclass(frozen=True)
class Cyst:
    """A fluid-filled ellipsoid: centre and radii en face (mm), radius in depth (um), level between two surfaces."""

    x_mm: float
    y_mm: float
    radius_x_mm: float
    radius_y_mm: float
    radius_z_um: float
    level: float  # 1.0 = on RNFL/GCL, 2.0 = on IPL/INL, 3.0 = on INL/OPL, in between linear


@dataclass(frozen=True)
class Membrane:
    """En-face maps float32 [n, n] of one membrane."""

    level: np.ndarray  # mm; > 0 where the membrane is
    lift_um: np.ndarray  # how far it stands off the ILM (dark gap beneath)
    pegs: np.ndarray  # 0-1: strands that cross the gap
    wrinkle_um: np.ndarray  # displacement of the retinal surface, positive towards the vitreous
    fibrosis: np.ndarray  # 0-1: thick opaque patches
    brightness: np.ndarray  # about 1: beading of the line along its course
    cysts: tuple[Cyst, ...]


def no_membrane() -> Membrane:
    """The healthy eye's membrane: nowhere."""
    zero = np.zeros((GRID_N, GRID_N), np.float32)
    return Membrane(zero - 1, zero, zero, zero, zero, zero + 1, ())


def draw_membrane(rng: np.random.Generator, stage: int, fovea: Fovea) -> Membrane:
    """A membrane of Govetto `stage` 1-4 near the fovea."""
    x, y = grid_mm()
    centre_x, centre_y = fovea.x_mm + rng.normal(0, 0.6), fovea.y_mm + rng.normal(0, 0.45)
    level = _outline(rng, x - centre_x, y - centre_y, _MEAN_RADIUS_MM[stage])
    level = np.minimum(level, _tears(rng, stage))
    if fovea.hole != "none":  # the membrane ends at the rim of a pseudohole or lamellar hole
        level = np.minimum(level, np.hypot(x - fovea.x_mm, y - fovea.y_mm) - 0.24)

    inside = smoothstep(level / 0.25)
    angle = rng.uniform(0, np.pi)
    # Folds run across the direction of contraction, which turns slowly over the membrane.
    folds = directed_noise(rng, rng.uniform(0.16, 0.30), rng.uniform(0.8, 2.0), angle)
    crossing = directed_noise(rng, rng.uniform(0.14, 0.24), rng.uniform(0.5, 1.0), angle + rng.uniform(0.6, 1.5))
    where = smoothstep(0.5 + 0.5 * smooth_noise(rng, 1.2))
    folds = folds * where + crossing * (1 - where)
    # Where it is loose the membrane spans the valleys between folds; where it adheres, surface and membrane are one.
    loose = smoothstep((smooth_noise(rng, 0.8) - rng.uniform(-0.9, 0.3)) / 0.5)
    height = _WRINKLE_UM[stage] * rng.uniform(0.8, 1.5)
    wrinkle = height * folds * inside * (0.3 + 0.7 * loose)
    spanned = rng.uniform(0.1, 0.8)  # height of the folds' crests it is fixed to, in SD
    valleys = 1.8 * height * np.maximum(spanned - folds, 0) * loose
    # Here and there it stands off over a longer stretch.
    pockets = np.maximum(smooth_noise(rng, 0.9) - rng.uniform(0.9, 1.6), 0) * rng.uniform(25, 50)
    # Small cavities between pegs: the retina sinks away under a straight membrane.
    patchy = smoothstep((smooth_noise(rng, 0.7) + 0.2) / 0.4) * smoothstep(level / 0.1)
    cells = np.minimum(np.maximum(smooth_noise(rng, 0.2) - 0.45, 0) * 36, 40) * patchy
    wrinkle = wrinkle - cells
    lift = np.minimum((valleys + pockets) * smoothstep(level / 0.12) + cells, 60)
    pegs = smoothstep((smooth_noise(rng, 0.09) - 0.8) / 0.5)
    fibrosis = smoothstep((smooth_noise(rng, 0.8) - rng.uniform(1.0, 1.8)) / 0.6) * inside
    brightness = 1 + 0.07 * smooth_noise(rng, 0.35) + 0.05 * smooth_noise(rng, 1.5)
    maps = (level, lift, pegs, wrinkle, fibrosis, brightness)
    return Membrane(*(m.astype(np.float32) for m in maps), cysts=_draw_cysts(rng, stage, fovea))


def _outline(rng: np.random.Generator, dx: np.ndarray, dy: np.ndarray, mean_radius: float) -> np.ndarray:
    """Signed distance-like level (mm) of an irregular region: a wobbly ellipse with a frayed edge."""
    radius = mean_radius * rng.uniform(0.65, 1.3)
    stretch, turn = rng.uniform(0.75, 1.35), rng.uniform(0, np.pi)
    u, v = dx * cos(turn) + dy * sin(turn), dy * cos(turn) - dx * sin(turn)
    wobble = 0.22 * smooth_noise(rng, 1.8) + 0.10 * smooth_noise(rng, 0.7) + 0.05 * smooth_noise(rng, 0.25)
    return radius * (1 + wobble) - np.hypot(u * stretch, v / stretch)


def _tears(rng: np.random.Generator, stage: int) -> np.ndarray:
    """Level < 0 inside the gaps of the membrane: few and long where it contracts, many and small where it is young."""
    field = 0.7 * smooth_noise(rng, 0.8) + 0.7 * directed_noise(rng, 0.25, 0.9, rng.uniform(0, np.pi))
    share = rng.uniform(0.02, 0.16) if stage > 1 else rng.uniform(0.04, 0.22)
    edge = float(np.quantile(field[::3, ::3], 1 - share))
    return (edge - field) * 0.15


def _draw_cysts(rng: np.random.Generator, stage: int, fovea: Fovea) -> tuple[Cyst, ...]:
    cysts = []
    if fovea.hole == "lamellar":  # schisis in the walls of the hole: tall cavities, thin septa
        for angle in rng.uniform(0, 2 * np.pi, rng.integers(110, 170)):
            r = 0.28 + 0.45 * rng.random() ** 1.5
            cysts.append(Cyst(fovea.x_mm + r * cos(angle), fovea.y_mm + r * sin(angle),
                              rng.uniform(0.04, 0.09), rng.uniform(0.04, 0.09), rng.uniform(35, 85) * (1.15 - r),
                              rng.uniform(1.8, 3.7)))  # fmt: skip
    if rng.random() < _CYST_CHANCE[stage]:
        for _ in range(rng.integers(3, 14)):
            r, angle = rng.uniform(0.1, 1.5), rng.uniform(0, 2 * np.pi)
            cysts.append(Cyst(fovea.x_mm + r * cos(angle), fovea.y_mm + r * sin(angle),
                              rng.uniform(0.04, 0.14), rng.uniform(0.04, 0.14), rng.uniform(8, 26),
                              rng.uniform(2.0, 2.9)))  # fmt: skip
    return tuple(cysts)


def area_mm2(level: np.ndarray, half_x_mm: float | None = None, half_y_mm: float | None = None) -> float:
    """Area where the level is positive, mm2, on a grid four times finer (7.5 um), optionally inside |x|, |y| limits."""
    fine = cv2.resize(level, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR) > 0
    step = GRID_STEP_MM / 4
    axis = np.abs((np.arange(fine.shape[0]) + 0.5) * step - fine.shape[0] * step / 2)
    if half_x_mm is not None:
        fine = fine[:, axis <= half_x_mm]
    if half_y_mm is not None:
        fine = fine[axis <= half_y_mm]
    return float(np.count_nonzero(fine) * step**2)
