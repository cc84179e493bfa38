"""One eye: en-face anatomy drawn once from a seed; any of its B-scans rendered from it on demand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from clarion.errors import UsageError

from . import anatomy, membrane
from .boxes import draw_boxes
from .fields import GRID_STEP_MM, grid_mm, sample, smooth_noise, smoothstep
from .geometry import DIRECTIONS, SPECTRALIS_25, SURFACES, Geometry
from .render import Look, Section, paint
from .vessels import vessel_map

_STREAM = 0x0C7  # keeps the phantom's random numbers apart from anybody else's with the same seed
# How far a fold of the surface reaches down: share of the ILM's displacement at each surface.
_FOLD_REACH = np.array([1.0, 0.85, 0.55, 0.35, 0.18, 0.0, 0.0, 0.0], np.float32)[:, None]


@dataclass(frozen=True)
class BScan:
    """One rendered B-scan with its truth. Rows count from the vitreous side, columns along the scan."""

    image: np.ndarray  # uint8 [depth, width]
    boxes: np.ndarray  # float32 [n, 4] x1, y1, x2, y2 px
    presence: np.ndarray  # bool [width]: ERM at this A-scan
    surfaces: dict[str, np.ndarray]  # row of each of SURFACES, float32 [width]
    membrane: np.ndarray  # row of the membrane, NaN where there is none
    stage: int
    direction: str
    line: int
    spacing: tuple[float, float]  # axial_um, lateral_um
    position_mm: float


@dataclass(frozen=True)
class Eye:
    """En-face model of one eye; maps are float32 [n, n] on a square grid of `grid_step_mm`, x right, y down."""

    eye_id: str
    seed: int
    stage: int
    laterality: str
    geometry: Geometry
    fovea: anatomy.Fovea
    layers_um: np.ndarray = field(repr=False)  # [7, n, n], anatomy.LAYERS
    shape_um: np.ndarray = field(repr=False)
    disc: np.ndarray = field(repr=False)
    vessels: np.ndarray = field(repr=False)
    reflex: np.ndarray = field(repr=False)
    hyaloid_um: np.ndarray | None = field(repr=False)  # height above BM; attached where that is under the ILM
    erm: membrane.Membrane = field(repr=False)
    grid_step_mm: float = GRID_STEP_MM
    visit: int = 0  # another visit draws other speckle, noise and motion; visit 0 is the eye as make_eye gives it

    @property
    def thickness_um(self) -> np.ndarray:
        """Retinal thickness, ILM to BM, um [n, n]."""
        return self.layers_um.sum(0) + self.erm.wrinkle_um

    @property
    def erm_mask(self) -> np.ndarray:
        """Where the membrane is, bool [n, n]."""
        return self.erm.level > 0

    @property
    def erm_area_mm2(self) -> float:
        """True membrane area over the whole en-face grid, gaps excluded."""
        return membrane.area_mm2(self.erm.level)

    def erm_area_scanned_mm2(self, direction: str) -> float:
        """True membrane area inside one direction's raster, which reaches half a line spacing beyond its end lines."""
        along = self.geometry.extent_mm / 2
        across = self.geometry.lines * self.geometry.line_spacing_um / 2000
        return membrane.area_mm2(self.erm.level, *((along, across) if _checked(direction) == "H" else (across, along)))

    @property
    def central_thickness_um(self) -> float:
        """ILM to BM at the foveal centre, um (the central foveal thickness of PMC9524009)."""
        return self.fovea.thickness_um

    @property
    def central_subfield_um(self) -> float:
        """Mean thickness within 0.5 mm of the fovea: the ETDRS central subfield."""
        x, y = grid_mm()
        return float(self.thickness_um[np.hypot(x - self.fovea.x_mm, y - self.fovea.y_mm) <= 0.5].mean())

    def surfaces_um(self) -> dict[str, np.ndarray]:
        """Height of each surface above BM's lowest point, um [n, n] per name."""
        above = np.concatenate([np.cumsum(self.layers_um[::-1], 0)[::-1], np.zeros_like(self.layers_um[:1])])
        above = above + self.erm.wrinkle_um * _FOLD_REACH[:, :, None]
        return {name: above[k] + self.shape_um for k, name in enumerate(SURFACES)}

    def bscan(self, direction: str, line: int) -> BScan:
        """Render line `line` (0-based) of direction "H" or "V"."""
        geometry = self.geometry
        if not 0 <= line < geometry.lines:
            raise UsageError(f"line {line} does not exist: {geometry.name} has lines 0 to {geometry.lines - 1}.")
        rng = self.line_rng(direction, line)
        cut = self.section(rng, direction, line)
        image = paint(rng, cut, draw_look(self.seed, rng, self.visit), geometry.depth, geometry.axial_um)
        boxes = draw_boxes(
            cut.presence, cut.membrane, cut.surfaces, geometry.depth, geometry.axial_um, geometry.lateral_um
        )
        return BScan(
            image=image,
            boxes=boxes,
            presence=cut.presence,
            surfaces={name: cut.surfaces[k].astype(np.float32) for k, name in enumerate(SURFACES)},
            membrane=np.where(cut.presence, cut.membrane, np.nan).astype(np.float32),
            stage=self.stage,
            direction=direction,
            line=line,
            spacing=(geometry.axial_um, geometry.lateral_um),
            position_mm=geometry.line_position_mm(line),
        )

    def line_rng(self, direction: str, line: int) -> np.random.Generator:
        """Random numbers of one line: `section(line_rng(d, n), d, n)` is what `bscan(d, n)` shows, not painted."""
        return np.random.default_rng(
            [_STREAM, self.seed, 1 + DIRECTIONS.index(_checked(direction)), line, *_of_visit(self.visit)]
        )

    def section(self, rng: np.random.Generator, direction: str, line: int) -> Section:
        """The anatomy along one line, moved and tilted as the eye and the beam were in that moment."""
        geometry = self.geometry
        x, y = geometry.path_mm(direction, line)
        # What eye tracking leaves of the eye's motion: a few um sideways.
        drift = np.clip(rng.normal(0, 0.004, 2), -0.008, 0.008)
        x, y = x + drift[0], y + drift[1]
        erm = self.erm
        layers = np.maximum(sample(self.layers_um, x, y), 0)
        shape, disc, vessels, reflex = sample(np.stack([self.shape_um, self.disc, self.vessels, self.reflex]), x, y)
        level, lift, pegs, wrinkle, fibrosis, brightness = sample(
            np.stack([erm.level, erm.lift_um, erm.pegs, erm.wrinkle_um, erm.fibrosis, erm.brightness]), x, y
        )
        presence = level > 0
        above = np.concatenate([np.cumsum(layers[::-1], 0)[::-1], np.zeros((1, x.size), np.float32)])
        above += wrinkle * _FOLD_REACH
        above = np.maximum.accumulate(above[::-1], axis=0)[::-1]  # a fold never turns the order of the layers

        tilt = rng.normal(0, 12) * np.linspace(-1, 1, x.size)
        heights = (above + shape - shape.min()) / geometry.axial_um + tilt
        room = geometry.depth - 1 - (heights[0].max() - heights[7].min())
        base = geometry.depth * 0.62 + heights[7].min() + rng.normal(0, 14)
        if room > 0:
            base = np.clip(base, heights[0].max() + 25, geometry.depth - 20 + heights[7].min())
        surfaces = base - heights
        membrane_row = surfaces[0] - np.where(presence, lift, 0) / geometry.axial_um
        hyaloid, hyaloid_grey = np.full(x.size, np.nan), 0.0
        if self.hyaloid_um is not None:
            row = surfaces[7] - sample(self.hyaloid_um[None], x, y)[0] / geometry.axial_um
            hyaloid = np.where(row < surfaces[0] - 3, row, np.nan)
            hyaloid_grey = float(rng.uniform(32, 80))
        return Section(
            surfaces=surfaces,
            membrane=membrane_row,
            presence=presence,
            edge=np.where(presence, smoothstep(0.55 + level / 0.04), 0),
            pegs=pegs,
            fibrosis=fibrosis,
            brightness=brightness,
            vessels=vessels,
            disc=disc,
            reflex=reflex,
            hyaloid=hyaloid,
            hyaloid_grey=hyaloid_grey,
            cysts=self._cysts(x, y, surfaces),
        )

    def _cysts(
        self, x: np.ndarray, y: np.ndarray, surfaces: np.ndarray
    ) -> tuple[tuple[float, float, float, float], ...]:
        """Ellipses in which this line cuts the eye's cysts: column, row, half-width, half-height in px."""
        found = []
        horizontal = abs(x[-1] - x[0]) > abs(y[-1] - y[0])
        for cyst in self.erm.cysts:
            off, radius, along, at = (
                (y[0] - cyst.y_mm, cyst.radius_y_mm, cyst.radius_x_mm, (cyst.x_mm - x[0]) / (x[1] - x[0]))
                if horizontal
                else (x[0] - cyst.x_mm, cyst.radius_x_mm, cyst.radius_y_mm, (cyst.y_mm - y[0]) / (y[1] - y[0]))
            )
            shrink = 1 - (off / radius) ** 2
            if shrink <= 0.03 or not 0 <= at < x.size:
                continue
            column = int(at)
            k = int(cyst.level)
            row = surfaces[k, column] + (cyst.level - k) * (surfaces[k + 1, column] - surfaces[k, column])
            shrink = float(np.sqrt(shrink))
            found.append((float(at), float(row), along * shrink * 1000 / self.geometry.lateral_um,
                          cyst.radius_z_um * shrink / self.geometry.axial_um))  # fmt: skip
        return tuple(found)


def make_eye(seed: int, stage: int | None = None, geometry: Geometry = SPECTRALIS_25) -> Eye:
    """The eye of `seed` (>= 0). Without `stage`: 30 % normal (stage 0), the rest by published prevalence.

    The same seed with another geometry is the same eye under another instrument.
    """
    if seed < 0:
        raise UsageError(f"A phantom eye's seed must be 0 or more, not {seed}.")
    if stage is not None and stage not in anatomy.STAGES:
        raise UsageError(
            f"Stage {stage} does not exist: choose 0 (normal) to 4, or None for a stage drawn by prevalence."
        )
    rng = np.random.default_rng([_STREAM, seed, 0])
    drawn = anatomy.draw_stage(rng)
    stage = drawn if stage is None else stage
    laterality = "OD" if rng.random() < 0.5 else "OS"
    fovea = anatomy.draw_fovea(rng, stage)
    erm = membrane.draw_membrane(rng, stage, fovea) if stage else membrane.no_membrane()
    layers, disc = anatomy.thickness_maps(rng, stage, fovea, laterality, smoothstep(erm.level / 0.6 + 0.3))
    erm = replace(erm, level=np.minimum(erm.level, 0.5 - disc))  # it ends at the optic disc
    return Eye(
        eye_id=f"PH{seed:06d}",
        seed=seed,
        stage=stage,
        laterality=laterality,
        geometry=geometry,
        fovea=fovea,
        layers_um=layers,
        shape_um=anatomy.shape_um(rng),
        disc=disc,
        vessels=vessel_map(rng, fovea, laterality),
        reflex=_reflex(rng, fovea),
        hyaloid_um=_hyaloid(rng, stage, layers.sum(0)),
        erm=erm,
    )


def _reflex(rng: np.random.Generator, fovea: anatomy.Fovea) -> np.ndarray:
    """Specular reflex of a smooth ILM, extra grey levels [n, n]: bright where the surface faces the beam."""
    x, y = grid_mm()
    r = np.hypot(x - fovea.x_mm, y - fovea.y_mm)
    strength = rng.uniform(15, 70) if rng.random() < 0.55 else 0.0
    ring = np.exp(-(((r - rng.uniform(0.8, 1.3)) / 0.45) ** 2)) + np.exp(-((r / 0.12) ** 2))
    patches = smoothstep((smooth_noise(rng, 1.6) - 0.3) / 1.0)
    return (strength * np.maximum(ring, patches)).astype(np.float32)


def _hyaloid(rng: np.random.Generator, stage: int, thickness_um: np.ndarray) -> np.ndarray | None:
    """Posterior hyaloid, um above BM [n, n]: smooth over pits and folds, attached where the retina reaches it.

    A look-alike of a membrane, more often drawn for normal eyes so that detection is not a matter of any line.
    """
    if rng.random() > (0.45 if stage == 0 else 0.15):
        return None
    height = rng.uniform(10, 130) + rng.uniform(40, 110) * smooth_noise(rng, 4.0)
    return (cv2.GaussianBlur(thickness_um, (0, 0), 0.7 / GRID_STEP_MM) + height).astype(np.float32)


def draw_look(seed: int, rng: np.random.Generator, visit: int = 0) -> Look:
    """Instrument settings: the visit's own (media, gain) and what varies from line to line."""
    own = np.random.default_rng([_STREAM, seed, 9, *_of_visit(visit)])
    gain, speckle = own.uniform(0.96, 1.11), own.uniform(0.125, 0.15)
    noise, zero = own.uniform(3.3, 7.4), own.uniform(0.30, 0.52)
    corner = (0.0, 0.0)
    if own.random() < 0.3:
        corner = tuple(float(c) for c in np.maximum(rng.uniform(-30, 60, 2), 0))
    return Look(float(gain * rng.normal(1, 0.025)), float(speckle), float(noise), float(zero), corner)


def _of_visit(visit: int) -> tuple[int, ...]:
    """What a visit adds to a seed: nothing for visit 0, whose random numbers are those of an eye seen once."""
    return (visit,) if visit else ()


def _checked(direction: str) -> str:
    if direction not in DIRECTIONS:
        raise UsageError(f'direction {direction!r} does not exist: use "H" (horizontal) or "V" (vertical).')
    return direction
