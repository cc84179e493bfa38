"""The same eye at a later visit: other noise, the raster placed a little differently, and a known change planted.

The fundus is moved below the raster, not the raster over the fundus: everything that reads an eye (B-scans, truth maps,
the localiser) then stays in the scan's own frame, and the registration has to find the movement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, radians, sin

import cv2
import numpy as np
from scipy import ndimage

from clarion.errors import UsageError

from . import membrane
from .eye import Eye
from .fields import GRID_HALF_MM, GRID_STEP_MM, grid_mm, smoothstep

_STREAM = 0x2E5
_SHIFT_SD_MM, _SHIFT_MAX_MM = 0.10, 0.25
_TURN_SD_DEG, _TURN_MAX_DEG = 1.0, 2.5


@dataclass(frozen=True)
class Pose:
    """Where the fundus lies at a later visit: turned about the raster's centre (0, 0), then shifted."""

    shift_mm: tuple[float, float] = (0.0, 0.0)
    rotation_deg: float = 0.0  # positive turns x (right) towards y (down)

    def forward(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the first visit's frame (mm) to the later one's."""
        c, s = cos(radians(self.rotation_deg)), sin(radians(self.rotation_deg))
        return c * x - s * y + self.shift_mm[0], s * x + c * y + self.shift_mm[1]

    def back(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the later visit's frame (mm) to the first one's."""
        c, s = cos(radians(self.rotation_deg)), sin(radians(self.rotation_deg))
        x, y = x - self.shift_mm[0], y - self.shift_mm[1]
        return c * x + s * y, c * y - s * x


def draw_pose(seed: int) -> Pose:
    """How a patient sits down again: SD 0.10 mm each way and 1 degree (follow-up scans without eye tracking)."""
    rng = np.random.default_rng([_STREAM, seed])
    shift = np.clip(rng.normal(0, _SHIFT_SD_MM, 2), -_SHIFT_MAX_MM, _SHIFT_MAX_MM)
    turn = np.clip(rng.normal(0, _TURN_SD_DEG), -_TURN_MAX_DEG, _TURN_MAX_DEG)
    return Pose((float(shift[0]), float(shift[1])), float(turn))


def revisit(
    eye: Eye,
    seed: int,
    growth_mm: float = 0.0,
    thickening_um: float = 0.0,
    shift_mm: tuple[float, float] | None = None,
    rotation_deg: float | None = None,
) -> Eye:
    """The eye of the same patient at a later visit.

    seed: draws the noise of the visit (>= 1: 0 is the first visit) and, where not given, the pose (`draw_pose`).
    growth_mm: how far the membrane's outer boundary moved outwards (tears and the rim of a hole stay as they were);
    the area it then covers is `erm_area_mm2`. thickening_um: added to the inner layers within 1 mm of the fovea,
    fading out at 2 mm, so that the central subfield thickens by just that. UsageError for a seed below 1, a negative
    growth, growth in an eye without membrane, a thinning of more than 40 um or a pose that leaves the phantom.
    """
    if seed < 1:
        raise UsageError(f"A later visit's seed must be 1 or more, not {seed}.")
    if growth_mm < 0 or (growth_mm > 0 and not eye.erm_mask.any()):
        raise UsageError("A membrane can only grow (growth_mm >= 0), in an eye that has one: choose stage 1 to 4.")
    if not -40 <= thickening_um <= 300:
        raise UsageError(f"A change of thickness of {thickening_um:g} um is outside -40 to 300 um.")
    drawn = draw_pose(seed)
    pose = Pose(drawn.shift_mm if shift_mm is None else tuple(shift_mm),
                drawn.rotation_deg if rotation_deg is None else float(rotation_deg))  # fmt: skip
    if max(abs(pose.shift_mm[0]), abs(pose.shift_mm[1])) > 1 or abs(pose.rotation_deg) > 10:
        raise UsageError("The phantom is moved by at most 1 mm and 10 degrees between visits: choose less.")
    erm, layers, fovea = eye.erm, eye.layers_um, eye.fovea
    if growth_mm:
        erm = replace(erm, level=np.minimum(_grown(erm.level, growth_mm), 0.5 - eye.disc))
    if thickening_um:
        layers = _thickened(eye, thickening_um)
        fovea = replace(fovea, thickness_um=fovea.thickness_um + thickening_um, eifl_um=fovea.eifl_um + thickening_um)
    moved = _Mover(pose)
    x, y = pose.forward(fovea.x_mm, fovea.y_mm)
    cysts = tuple(replace(c, x_mm=float(cx), y_mm=float(cy)) for c in erm.cysts
                  for cx, cy in [pose.forward(c.x_mm, c.y_mm)])  # fmt: skip
    return replace(
        eye,
        visit=seed,
        fovea=replace(fovea, x_mm=float(x), y_mm=float(y)),
        layers_um=np.stack([np.maximum(moved(layer), 0) for layer in layers]),
        shape_um=moved(eye.shape_um),
        disc=np.clip(moved(eye.disc), 0, 1),
        vessels=np.clip(moved(eye.vessels), 0, 1),
        reflex=np.maximum(moved(eye.reflex), 0),
        hyaloid_um=None if eye.hyaloid_um is None else moved(eye.hyaloid_um),
        erm=membrane.Membrane(
            level=moved(erm.level),
            lift_um=np.maximum(moved(erm.lift_um), 0),
            pegs=np.clip(moved(erm.pegs), 0, 1),
            wrinkle_um=moved(erm.wrinkle_um),
            fibrosis=np.clip(moved(erm.fibrosis), 0, 1),
            brightness=moved(erm.brightness),
            cysts=cysts,
        ),
    )


class _Mover:
    """Moves a map [n, n] of the first visit to a pose; bicubic, so that folds and small vessels survive."""

    def __init__(self, pose: Pose):
        # Columns and rows of the first visit's map under each node of the later one's, from coordinates in mm.
        nodes = pose.back(*grid_mm())
        self._at = [((v + GRID_HALF_MM) / GRID_STEP_MM - 0.5).astype(np.float32) for v in nodes]
        self._still = pose == Pose()

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if self._still:
            return values
        return cv2.remap(values, *self._at, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _grown(level: np.ndarray, growth_mm: float) -> np.ndarray:
    """The level of a membrane whose outer boundary moved outwards; its tears keep their outline."""
    mask = level > 0
    filled = ndimage.binary_fill_holes(mask)
    outside = ndimage.distance_transform_edt(~filled) * GRID_STEP_MM
    inside = ndimage.distance_transform_edt(filled) * GRID_STEP_MM
    tears = filled & ~mask
    from_tear = ndimage.distance_transform_edt(~tears) * GRID_STEP_MM if tears.any() else np.full(level.shape, np.inf)
    grown = np.where(filled, np.minimum(growth_mm + inside, from_tear), growth_mm - outside + GRID_STEP_MM / 2)
    return np.where(tears, level, np.maximum(level, grown)).astype(np.float32)


def _thickened(eye: Eye, um: float) -> np.ndarray:
    """Layers with `um` more (or less) in GCIPL and INL within 1 mm of the fovea; what is thinned keeps its shares."""
    x, y = grid_mm()
    more = um * smoothstep(2 - np.hypot(x - eye.fovea.x_mm, y - eye.fovea.y_mm))
    layers = eye.layers_um.copy()
    if um > 0:
        layers[1:3] += more / 2
    else:  # no layer can lose more than it has
        layers[:3] *= np.maximum(1 + more / np.maximum(layers[:3].sum(0), 1e-3), 0)
    return layers
