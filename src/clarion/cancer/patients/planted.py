"""Synthetic patients: a slide, omics, clinical data and survival, with everything that drives the survival known.

Three independent parts make the log hazard. Slide: shares of the tissue's area, necrosis and high-grade tumour raise
it, lymphocytes lower it (SLIDE_EFFECTS). Omics: planted genes of `clarion.cancer.synthetic`. Clinical: age and stage.
Independent parts are the point: a model of both can beat either, and by how much is known (`oracle`). A laboratory
(site) has its own stain and some of the slides have flaws; neither has anything to do with survival.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd

from clarion.cancer.cohort import Cohort
from clarion.cancer.patients.artefacts import NAMES as FLAWS
from clarion.cancer.patients.drawing import SlideRecipe, draw_slide, write_maps, write_slide
from clarion.cancer.patients.tissue_map import Composition
from clarion.cancer.synthetic import (
    AGE_EFFECT,
    LONGEST,
    SYNTHETIC_VERSION,
    PlantedCohort,
    censored_survival,
    synthetic_cohort,
)
from clarion.data.cache import build_once
from clarion.errors import UsageError

PATIENTS_VERSION = 1  # raise it when the same recipe gives other patients or other slides
SLIDE_EFFECTS = {"high_grade": 0.8, "necrosis": 0.9, "lymphocytes": -0.9}  # log hazard ratio per 10 % of the tissue
STAGES = ("I", "II", "III", "IV")
STAGE_EFFECT = 0.3  # log hazard ratio a stage
MEDIAN_MONTHS = 42.0  # of survival, of a patient of average risk
# Mean and SD of the log share, lowest and highest share: as wide as real tumours vary.
_SHARES = {
    "high_grade": (-1.9, 0.7, 0.02, 0.35),
    "necrosis": (-2.8, 1.0, 0.0, 0.22),
    "lymphocytes": (-2.5, 0.8, 0.01, 0.25),
    "low_grade": (-1.7, 0.4, 0.08, 0.3),
    "fat": (-2.6, 0.7, 0.0, 0.2),
}


@dataclass(frozen=True)
class PatientRecipe:
    """patients: how many; side: longer side of a slide in pixels of 0.5 um; genes, drivers, gene_effect: of
    `synthetic_cohort` (log hazard ratio per SD of a driver); slide_effect: factor of SLIDE_EFFECTS, 0 for slides that
    say nothing; censored: share of patients whose event is not seen; two_slides: share of patients with a second one;
    flawed: share of slides with a pen mark, a fold or a part out of focus; stain_variation: between laboratories."""

    patients: int = 120
    side: int = 2048
    genes: int = 200
    drivers: int = 4
    gene_effect: float = 0.8
    slide_effect: float = 1.5
    censored: float = 0.35
    two_slides: float = 0.1
    flawed: float = 0.25
    stain_variation: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("patients", 20, 20_000), ("side", 512, 16_384), ("two_slides", 0, 1),
                                ("flawed", 0, 1), ("slide_effect", 0, 5), ("stain_variation", 0, 3)):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"data.synthetic.{name}={getattr(self, name)} must lie between {low} and {high}.")

    @classmethod
    def of(cls, given: dict) -> PatientRecipe:
        """From a config; UsageError on a name it does not know."""
        known = [f.name for f in fields(cls)]
        if strange := sorted(set(given) - set(known)):
            raise UsageError(f"data.synthetic.{strange[0]} is unknown; known are {', '.join(known)}.")
        return cls(**given)

    def digest(self) -> str:
        text = json.dumps([PATIENTS_VERSION, SYNTHETIC_VERSION, asdict(self)], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


@dataclass(frozen=True)
class PlantedPatients:
    """cohort: patients, survival, rna and stage; genes: the omics part with its planted effects; shares: DataFrame
    [patients, kinds] of tissue area; risk: DataFrame [patients, slide | omics | clinical | all] of log hazards;
    slides: slide id -> its recipe."""

    recipe: PatientRecipe
    cohort: Cohort
    genes: PlantedCohort = field(repr=False)
    shares: pd.DataFrame = field(repr=False)
    risk: pd.DataFrame = field(repr=False)
    slides: dict[str, SlideRecipe] = field(repr=False)


def synthetic_patients(recipe: PatientRecipe, name: str = "slides_demo") -> PlantedPatients:
    """Draw the patients, not yet their slides (`build_slides`). The same recipe gives the same patients."""
    genes = synthetic_cohort(1, recipe.patients, recipe.genes, shared=recipe.drivers, specific=0, opposed=0,
                             effect=recipe.gene_effect, censored=recipe.censored, cnv=0, mut=0, missing=0,
                             seed=recipe.seed, name=name)  # fmt: skip
    rng = np.random.default_rng([PATIENTS_VERSION, 1, recipe.seed])
    patients, n = genes.patients, len(genes)
    clinical = genes.clinical.copy()
    clinical["stage"] = rng.choice(STAGES, n, p=[0.25, 0.3, 0.3, 0.15])
    shares = pd.DataFrame(
        {kind: np.clip(np.exp(rng.normal(mean, sd, n)), low, high) for kind, (mean, sd, low, high) in _SHARES.items()},
        patients,
    )
    # Where the prognostic kinds leave little room, the others shrink: stroma keeps a twentieth at least.
    neutral = shares.columns.difference(list(SLIDE_EFFECTS))
    room = (0.94 - shares[list(SLIDE_EFFECTS)].sum(axis=1)) / shares[neutral].sum(axis=1)
    shares[neutral] = shares[neutral].mul(np.minimum(room, 1), axis=0)
    age = AGE_EFFECT * (clinical["age"] - 62) / 10
    stage = STAGE_EFFECT * clinical["stage"].map(STAGES.index)
    risk = pd.DataFrame(
        {
            "slide": recipe.slide_effect * sum(b * 10 * shares[kind] for kind, b in SLIDE_EFFECTS.items()),
            "omics": genes.linear_predictor - age,
            "clinical": age + stage,
        }
    )
    risk -= risk.mean()
    risk["all"] = risk.sum(axis=1)
    time, event = censored_survival(rng, risk["all"].to_numpy(), MEDIAN_MONTHS, recipe.censored, LONGEST)
    clinical["time"], clinical["event"] = time, event
    slides = _slide_recipes(recipe, clinical, shares, rng)
    clinical["slide_ids"] = [tuple(s for s in (f"{p}-DX1", f"{p}-DX2") if s in slides) for p in patients]
    notes = (f"synthetic: 3 tissue patterns and {recipe.drivers} genes planted, seed {recipe.seed}.",)
    cohort = Cohort(name, clinical, genes.omics, "phantom", genes.scale, notes)
    return PlantedPatients(recipe, cohort, genes, shares, risk, slides)


def _slide_recipes(
    recipe: PatientRecipe, clinical: pd.DataFrame, shares: pd.DataFrame, rng: np.random.Generator
) -> dict[str, SlideRecipe]:
    """Every slide of every patient; the second one shows the same shares in another place."""
    n = len(clinical)
    second, flawed = rng.random(n) < recipe.two_slides, rng.random((n, 2)) < recipe.flawed
    names, which = list(FLAWS), rng.integers(len(FLAWS), size=(n, 2))
    slides = {}
    for k, (patient, row) in enumerate(clinical.iterrows()):
        site = int(str(row["site"])[1:])
        for s in range(1 + int(second[k])):
            slides[f"{patient}-DX{s + 1}"] = SlideRecipe(
                seed=(PATIENTS_VERSION, 2, recipe.seed, k, s),
                composition=Composition(**shares.loc[patient].to_dict()),
                side=recipe.side,
                site_seed=(PATIENTS_VERSION, 3, recipe.seed, site),
                flaws=(names[which[k, s]],) if flawed[k, s] else (),
                variation=recipe.stain_variation,
            )
    return slides


def build_slides(planted: PlantedPatients, workers: int | None = None) -> Path:
    """The folder of these patients in the cache, drawn at first use: slides/ID.tif, maps/ID.png (where every kind of
    tissue and every flaw lies), clinical.csv and omics.csv. It has the layout that data=cancer_slides reads."""
    from tqdm import tqdm

    def build(folder: Path) -> None:
        (folder / "slides").mkdir()
        (folder / "maps").mkdir()

        def draw(item: tuple[str, SlideRecipe]) -> None:
            image, kinds, flaws = draw_slide(item[1])
            write_slide(folder / "slides" / f"{item[0]}.tif", image)
            write_maps(folder / "maps" / f"{item[0]}.png", kinds, flaws)

        # Threads: drawing is numpy and OpenCV on large arrays, which leave the interpreter free; 8 at most, for each
        # holds some 20 arrays of the slide's size.
        with ThreadPoolExecutor(min(8, workers or os.cpu_count() or 1)) as pool:
            done = pool.map(draw, planted.slides.items())
            for _ in tqdm(done, total=len(planted.slides), desc="draw slides", unit="slide"):
                pass
        write_tables(planted, folder)

    return build_once(f"slides-{planted.recipe.digest()}", build)


def write_tables(planted: PlantedPatients, folder: Path) -> None:
    """clinical.csv (one row a slide) and omics.csv (one row a patient, GENE_rnaseq), as a user's folder has them."""
    clinical = planted.cohort.clinical
    rows = clinical.assign(slide_id=clinical["slide_ids"]).explode("slide_id").reset_index()
    rows = rows.rename(columns={"time": "survival_months"})
    rows["event"] = rows["event"].astype(int)
    columns = ["patient_id", "slide_id", "survival_months", "event", "cancer", "site", "age", "sex", "stage"]
    rows[columns].to_csv(folder / "clinical.csv", index=False)
    planted.cohort.omics["rna"].add_suffix("_rnaseq").to_csv(folder / "omics.csv", index_label="patient_id")
