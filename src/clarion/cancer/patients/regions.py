"""The truth of synthetic slides: where each kind of tissue lies, and whether a point was planted to matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from clarion.cancer.patients.artefacts import NAMES as FLAWS
from clarion.cancer.patients.drawing import read_maps
from clarion.cancer.patients.planted import SLIDE_EFFECTS, PlantedPatients
from clarion.cancer.patients.tissue_map import CELL, KINDS
from clarion.errors import UsageError


@dataclass(frozen=True)
class Regions:
    """One slide. kinds: uint8 [h, w], index into KINDS; flaws: uint8 [h, w] of bits, see artefacts.NAMES; both with one
    value for `downsample` x `downsample` pixels of level 0. numpy.asarray of it is `mask`."""

    kinds: np.ndarray = field(repr=False)
    flaws: np.ndarray = field(repr=False)
    downsample: int = CELL

    @property
    def mask(self) -> np.ndarray:
        """bool [h, w]: tissue that drives the survival, for better or worse: what a pointing game wants to be hit."""
        return self.of(*SLIDE_EFFECTS)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.mask.astype(dtype or bool)

    @property
    def tissue(self) -> np.ndarray:
        return self.kinds > 0

    @property
    def chance(self) -> float:
        """How often a random point of the tissue hits the mask."""
        return float(self.mask.sum() / max(self.tissue.sum(), 1))

    def of(self, *names: str) -> np.ndarray:
        """bool [h, w] of some kinds or flaws. UsageError on a name that is none."""
        found = np.zeros(self.kinds.shape, bool)
        for name in names:
            if name in KINDS:
                found |= self.kinds == KINDS.index(name)
            elif name in FLAWS:
                found |= (self.flaws & FLAWS[name]) > 0
            else:
                raise UsageError(f"{name!r} is no tissue or flaw; choose from {', '.join((*KINDS, *FLAWS))}.")
        return found

    def hit(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """bool, of points in pixels of level 0; False outside the slide."""
        row, column = np.asarray(y) // self.downsample, np.asarray(x) // self.downsample
        height, width = self.kinds.shape
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        row, column = (np.clip(v, 0, n - 1).astype(int) for v, n in ((row, height), (column, width)))
        return inside & self.mask[row, column]


@dataclass(frozen=True)
class PlantedTruth:
    """What `SlidePatients.planted` is on synthetic data; called with a sample id it gives the Regions of a slide."""

    patients: PlantedPatients
    folder: Path

    def __call__(self, sample_id: str, slide: int = 0) -> Regions:
        """Regions of a patient's first (or `slide`-th) slide. UsageError for a patient or a slide that is not there."""
        clinical = self.patients.cohort.clinical
        if sample_id not in clinical.index:
            raise UsageError(f"no planted patient is called {sample_id!r}.")
        names = clinical.at[sample_id, "slide_ids"]
        if not 0 <= slide < len(names):
            raise UsageError(f"{sample_id} has {len(names)} slide(s), none with the number {slide}.")
        return Regions(*read_maps(self.folder / "maps" / f"{names[slide]}.png"))

    @property
    def effects(self) -> pd.DataFrame:
        """Planted genes, as `PlantedCohort.effects`: log hazard ratio per SD."""
        return self.patients.genes.effects

    @property
    def slide_effects(self) -> dict[str, float]:
        """kind of tissue -> log hazard ratio per 10 % of the tissue's area."""
        return {kind: self.patients.recipe.slide_effect * b for kind, b in SLIDE_EFFECTS.items()}

    @property
    def risk(self) -> pd.DataFrame:
        """[patients, slide | omics | clinical | all] of log hazards, each centred."""
        return self.patients.risk

    @property
    def shares(self) -> pd.DataFrame:
        """[patients, kinds] of the tissue's area."""
        return self.patients.shares
