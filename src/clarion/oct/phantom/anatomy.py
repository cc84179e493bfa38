"""The retina without its membrane: Govetto stage -> foveal numbers -> thickness maps of seven layers.

Foveal numbers by stage 0-4 are those of PMC9524009 (central foveal thickness, ectopic inner foveal layers,
outer nuclear layer, um); the healthy profile follows Dubis et al. (pit about 215-246 um, rim about 320 um near
0.9 mm) and PMC5498048; idiopathic ERM thickens the inner nuclear layer most (Koo 2012).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import cos, exp, sin

import numpy as np

from .fields import grid_mm, smooth_noise, smoothstep

LAYERS = ("RNFL", "GCIPL", "INL", "OPL", "ONL", "EZ-RPE", "RPE-BM")  # between consecutive SURFACES
STAGES = (0, 1, 2, 3, 4)
NORMAL_SHARE = 0.30
STAGE_PREVALENCE = (0.221, 0.454, 0.263, 0.062)  # of stages 1-4 among eyes with ERM
CFT_UM = ((246, 46), (258, 45), (346, 45), (434, 61), (614, 70))  # mean, SD; stage 4's SD is not published
EIFL_UM = (7.5, 12, 27, 161, 362)
ONL_UM = (126, 143, 201, 206, 177)

_BELOW_ONL_UM = 68.0  # EZ to BM at the fovea
_HENLE_UM = 6.0  # what is left of the outer plexiform layer at the fovea
_MYOID_UM = 30.0  # external limiting membrane to EZ, inside the "ONL" slab
_DISC_RADIUS_MM = 0.85


@dataclass(frozen=True)
class Fovea:
    """Where the fovea lies and how it is built (mm en face, um in depth)."""

    x_mm: float
    y_mm: float
    thickness_um: float  # ILM to BM at its centre
    eifl_um: float
    onl_um: float
    hole: str  # "none" | "pseudohole" | "lamellar"


def draw_stage(rng: np.random.Generator) -> int:
    """0 for about 30 % of eyes, else stage 1-4 by published prevalence."""
    normal, which = rng.random(2)
    return 0 if normal < NORMAL_SHARE else 1 + int(np.searchsorted(np.cumsum(STAGE_PREVALENCE)[:-1], which))


def draw_fovea(rng: np.random.Generator, stage: int) -> Fovea:
    """Foveal numbers of one eye: thickness from its stage's distribution (cut at 1.5 SD), shared out as published."""
    x, y = np.clip(rng.normal(0, 0.15, 2), -0.35, 0.35)
    mean, sd = CFT_UM[stage]
    # Stages 0 and 1 have a pit by definition: their upper tail, which would fill it, is cut.
    total = mean + sd * float(np.clip(rng.standard_normal(), -1.5, 1.5 if stage > 1 else 1.0))
    total = max(total, 185.0)
    inner = total - _BELOW_ONL_UM - _HENLE_UM - _MYOID_UM
    eifl_share = EIFL_UM[stage] / (EIFL_UM[stage] + ONL_UM[stage])
    kind = rng.random()
    hole = "none" if stage != 1 else "pseudohole" if kind < 0.18 else "lamellar" if kind < 0.30 else "none"
    if hole == "lamellar":
        total, inner = total - 40, inner - 40
    return Fovea(float(x), float(y), float(total), float(inner * eifl_share), float(inner * (1 - eifl_share)), hole)


def disc_centre_mm(fovea: Fovea, laterality: str) -> tuple[float, float]:
    """Optic disc: 4.6 mm nasal of the fovea and a little above it (right of it in a right eye)."""
    return fovea.x_mm + (4.6 if laterality == "OD" else -4.6), fovea.y_mm - 0.4


def thickness_maps(
    rng: np.random.Generator, stage: int, fovea: Fovea, laterality: str, traction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Layer thickness um float32 [7, n, n] on the en-face grid, and the optic disc's weight 0-1 [n, n].

    `traction` [n, n], 0-1: how strongly the membrane pulls at each point.
    """
    x, y = grid_mm()
    dx, dy = x - fovea.x_mm, y - fovea.y_mm
    stretch, turn = 1 + rng.uniform(-0.12, 0.12), rng.uniform(0, np.pi)
    u, v = dx * cos(turn) + dy * sin(turn), dy * cos(turn) - dx * sin(turn)
    r = np.hypot(u * stretch, v / stretch)
    disc_x, disc_y = disc_centre_mm(fovea, laterality)
    from_disc = np.hypot(x - disc_x, y - disc_y)
    nasal = smoothstep((dx if laterality == "OD" else -dx) / 4 + 0.5)

    size = 1 + rng.normal(0, 0.04)
    near = _radial(r, lambda r: np.exp(-((r / 2.2) ** 2)))
    arcades = 22 * np.exp(-(((np.abs(dy) - 2.3) / 1.0) ** 2)) * nasal
    side = np.abs(y - disc_y) / (from_disc + 1e-3)  # 0 along the papillomacular bundle, 1 above and below the disc
    bundle = (45 + 60 * side) * np.exp(-np.maximum(from_disc - _DISC_RADIUS_MM, 0) / 1.2)
    outside = [
        17 + 8 * (1 - near) * nasal + arcades + bundle,
        44 + 48 * near,
        30 + 11 * near,
        26 + 5 * near,
        74 + 22 * near,
        46 + 2 * near,
        18 + 0 * near,
    ]
    outside = [size * (1 + 0.035 * smooth_noise(rng, 2.0)) * t for t in outside]

    central = [0.1 * fovea.eifl_um, 0.5 * fovea.eifl_um, 0.4 * fovea.eifl_um, _HENLE_UM,
               fovea.onl_um + _MYOID_UM, _BELOW_ONL_UM - 18, 18.0]  # fmt: skip
    pull = _radial(r, partial(_pull_um, stage, fovea)) * np.clip(0.35 + 0.65 * traction, 0, 1)
    share = (0.12, 0.30, 0.40, 0.05, 0.13, 0.0, 0.0)
    outside = [t + s * pull for t, s in zip(outside, share, strict=True)]
    weights = [_radial(r, partial(_foveal_weight, k, stage, fovea)) for k in range(len(LAYERS))]
    maps = [t * (1 - h) + c * h for t, c, h in zip(outside, central, weights, strict=True)]
    if stage >= 2:
        maps[:3] = _plateau(maps, outside, central, fovea, r)
    for k in (0, 1, 2, 3):  # real interfaces are never as smooth as formulas
        ripple = rng.uniform(1.2, 2.4) * smooth_noise(rng, 0.14)
        maps[k], maps[k + 1] = maps[k] + ripple, maps[k + 1] - ripple
    maps = [np.maximum(t, 0) for t in maps]

    disc = smoothstep((_DISC_RADIUS_MM + 0.1 - from_disc) / 0.3)
    cup = np.exp(-((from_disc / 0.45) ** 2))
    maps = [t * (1 - disc) for t in maps]
    maps[0] = maps[0] + disc * (380 - 300 * cup)
    return np.stack(maps).astype(np.float32), disc.astype(np.float32)


def _radial(r: np.ndarray, profile: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """profile(r) by a table in steps of 1 um: powers of 100,000 radii are the slowest part of an eye otherwise."""
    table = profile(np.arange(int(r.max() * 1000) + 2) / 1000).astype(np.float32)
    return table[(r * 1000).astype(np.int32)]


def _pull_um(stage: int, fovea: Fovea, r: np.ndarray) -> np.ndarray:
    """Parafoveal thickening by traction, so that a lost pit is a plateau or a dome and not a moat."""
    if fovea.hole != "none":
        return 130 * np.exp(-(((r - 0.35) / 0.75) ** 2))
    height = (0.0, 14.0)[stage] if stage < 2 else max(12.0, 0.85 * (fovea.thickness_um - 325))
    return height * np.exp(-((r / (1.1 if stage < 3 else 1.35)) ** 2))


def _plateau(maps: list, outside: list, central: list, fovea: Fovea, r: np.ndarray) -> list:
    """RNFL, GCIPL and INL once the pit is lost: they fill up to a surface that is smooth over the fovea."""
    dome = fovea.thickness_um > sum(outside).mean()
    h = _radial(r, lambda r: np.exp(-((r / (0.95 if dome else 1.7)) ** 2)))
    total = sum(outside) * (1 - h) + fovea.thickness_um * h
    inner = np.maximum(total - sum(maps[3:]), 0.02 * total)
    split = _radial(r, lambda r: np.exp(-((r / 0.5) ** 2)))
    weights = [o / sum(outside[:3]) * (1 - split) + c / sum(central[:3]) * split
               for o, c in zip(outside[:3], central[:3], strict=True)]  # fmt: skip
    return [inner * w for w in weights]


def _foveal_weight(layer: int, stage: int, fovea: Fovea, r: np.ndarray) -> np.ndarray:
    """1 at the foveal centre, 0 in the parafovea; how wide and how pointed depends on layer and stage."""
    if fovea.hole != "none" and layer < 4:  # steep walls
        radius = 0.20 if fovea.hole == "pseudohole" else 0.24
        edge = 1 / (1 + np.exp(np.minimum((r - radius) / 0.035, 60)))
        return edge * (1 + exp(-radius / 0.035))
    if stage >= 2 and layer == 4:  # the outer nuclear layer is drawn up like a tent
        return np.exp(-((r / 0.45) ** 1.25))
    width = (0.62, 0.50, 0.42, 0.36, 0.55, 0.35, 0.35)[layer]
    power = (2.0, 2.2, 2.2, 2.0, 1.8, 2.0, 2.0)[layer] if stage < 3 else 1.6
    return np.exp(-((r / width) ** power))


def shape_um(rng: np.random.Generator) -> np.ndarray:
    """Height of BM above its lowest point, um [n, n]: the eye's curvature as a B-scan shows it, plus waviness."""
    x, y = grid_mm()
    cx, cy = rng.uniform(-1.0, 1.0, 2)
    bend = rng.uniform(3.0, 14.0) + rng.uniform(-2.0, 2.0)
    skew = rng.uniform(0.8, 1.25)
    return (bend * (skew * (x - cx) ** 2 + (y - cy) ** 2 / skew) + 6 * smooth_noise(rng, 3.5)).astype(np.float32)
