"""A synthetic pan-cancer cohort whose effects are known: the demonstration, and what estimators are checked on.

Genes come in co-expressed modules (a factor a module). Every cancer has its own mean expression. In some modules one
gene drives survival: in all cancers alike ("shared"), or in one cancer, or with opposite signs ("opposed"). Copy
number moves the expression of its gene; a few mutations and age act on survival too. Times are Weibull with
proportional hazards, censored by uniform accrual and loss to follow-up. The coefficients, per standard deviation of
the gene within its cancer, are kept: `PlantedCohort.effects`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from clarion.cancer.cohort import Cohort
from clarion.errors import UsageError

SYNTHETIC_VERSION = 1  # raise it when the same arguments give other values
NAMES = ("ALFA", "BRAVO", "CHARLIE", "DELTA", "ECHO", "FOXTROT", "GOLF", "HOTEL", "INDIA", "JULIETT", "KILO", "LIMA")
AGE_EFFECT = 0.25  # log hazard ratio per 10 years
_SHAPE = 1.2  # of the Weibull: hazards that rise slowly
LONGEST = 600.0  # months of follow-up; a study ends, and no registry follows a cohort for longer
_ARM = 12  # neighbouring genes that are gained and lost together


@dataclass(frozen=True)
class PlantedCohort(Cohort):
    """A cohort with its truth. effects: [rows "rna:GENE" | "mut:GENE", columns cancers] log hazard ratio per SD
    (mutations: of having it), 0 where there is none; module: gene -> module of co-expression; linear_predictor: log
    hazard of every patient of the whole cohort, centred within the cancer; copied: the first so many genes have copy
    number."""

    effects: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    module: pd.Series = field(default_factory=lambda: pd.Series(dtype=int), repr=False)
    linear_predictor: pd.Series = field(default_factory=lambda: pd.Series(dtype=float), repr=False)
    copied: int = 0

    def associated(self) -> pd.DataFrame:
        """bool [genes of rna, cancers]: whether a gene says anything about survival on its own.

        A gene without an effect does, where a gene of its module has one, or a gene whose copies come and go with its
        own: a univariate fit that finds it is right. Hits elsewhere are false discoveries."""
        rna = self.effects.loc[[f"rna:{g}" for g in self.module.index]].set_axis(self.module.index, axis=0).ne(0)
        copied = np.arange(len(rna)) < self.copied
        arm = np.where(copied, np.arange(len(rna)) // _ARM, -1 - np.arange(len(rna)))
        return rna.groupby(self.module.to_numpy()).transform("any") | rna.groupby(arm).transform("any")


def synthetic_cohort(
    cancers: int = 4,
    patients: int = 150,
    genes: int = 400,
    *,
    shared: int = 4,
    specific: int = 2,
    opposed: int = 2,
    effect: float = 0.6,
    module_size: int = 10,
    correlation: float = 0.4,
    censored: float = 0.45,
    cnv: int = 60,
    mut: int = 40,
    missing: float = 0.002,
    seed: int = 0,
    name: str = "omics_demo",
) -> PlantedCohort:
    """Draw a cohort.

    cancers, patients (of each), genes: its size. shared: genes with one effect in every cancer; specific: genes with an
    effect in one cancer only, of each cancer; opposed: genes whose sign alternates between cancers. effect: their size,
    the log hazard ratio per SD (each gene's own lies within +-30 % of it); 0 gives a cohort of nulls. correlation: of
    two genes of a module of module_size. censored: share of patients whose event is not seen. cnv, mut: genes with
    copy number (the first ones) and with mutations. missing: share of expression values left out. The same arguments
    give the same cohort. UsageError where the planted genes do not fit."""
    modules = -(-genes // module_size)
    drivers = shared + specific * cancers + opposed
    if cancers < 1 or patients < 20 or genes < 1 or not 0 <= correlation < 1 or not 0 <= censored < 0.95:
        raise UsageError("a synthetic cohort needs 1 cancer, 20 patients, 1 gene, correlation in [0, 1) and censored "
                         "in [0, 0.95).")  # fmt: skip
    if drivers > modules or cnv > genes or not 0 <= missing < 1:
        raise UsageError(f"{drivers} planted genes need as many modules, and {genes} genes have {modules}; "
                         "ask for more genes or fewer effects, and for no more cnv than genes.")  # fmt: skip
    rng = np.random.default_rng([SYNTHETIC_VERSION, seed])
    names = [NAMES[k] if k < len(NAMES) else f"CANCER{k + 1}" for k in range(cancers)]
    symbols = [f"GENE{k + 1:05d}" for k in range(genes)]
    mutated = [f"MUTG{k + 1:04d}" for k in range(mut)]
    module = rng.permutation(genes) % modules
    beta = _plant(rng, module, cancers, genes, (shared, specific, opposed), effect)
    mean = rng.normal(4.0, 2.2, genes)  # log2(TPM + 1); genes with a low mean are unexpressed in many patients
    spread = rng.uniform(0.5, 1.4, genes)
    frequency = rng.beta(1.2, 10, mut)
    beta_mut = np.zeros((mut, cancers))
    beta_mut[np.argsort(-frequency)[:2]] = 1.5 * effect  # of the two most frequent, in every cancer
    parts = [
        _draw(rng, patients, module, modules, correlation, cnv, mean + rng.normal(0, 0.8, genes), spread, frequency)
        for _ in names
    ]
    clinical, risks = [], []
    for k, (cancer, part) in enumerate(zip(names, parts, strict=True)):
        rows = _clinical(rng, cancer, patients)
        risk = part["latent"] @ beta[:, k] + (part["mut"] - frequency) @ beta_mut[:, k]
        risk = risk + AGE_EFFECT * (rows["age"].to_numpy() - 62) / 10
        risk = risk - risk.mean()
        rows.insert(0, "time", 0.0)
        rows.insert(1, "event", False)
        rows["time"], rows["event"] = censored_survival(rng, risk, rng.uniform(18, 60), censored)
        clinical.append(rows)
        risks.append(pd.Series(risk, rows.index))
    table = pd.concat(clinical)
    rna = np.concatenate([p["rna"] for p in parts])
    rna[rng.random(rna.shape) < missing] = np.nan
    omics = {"rna": pd.DataFrame(rna.astype(np.float32), table.index, symbols)}
    if cnv:
        omics["cnv"] = pd.DataFrame(np.concatenate([p["cnv"] for p in parts]), table.index, symbols[:cnv])
    if mut:
        omics["mut"] = pd.DataFrame(np.concatenate([p["mut"] for p in parts]), table.index, mutated)
    rows = [f"rna:{g}" for g in symbols] + [f"mut:{g}" for g in mutated]
    return PlantedCohort(
        name,
        table,
        omics,
        "phantom",
        {"rna": "log2(TPM+1)", "cnv": "-2..2", "mut": "0/1"},
        (f"synthetic: {drivers} genes planted in {cancers} cancers, seed {seed}.",),
        effects=pd.DataFrame(np.concatenate([beta, beta_mut]), rows, names),
        module=pd.Series(module, symbols),
        linear_predictor=pd.concat(risks),
        copied=cnv,
    )


def _plant(
    rng: np.random.Generator, module: np.ndarray, cancers: int, genes: int, counts: tuple[int, int, int],
    effect: float,
) -> np.ndarray:  # fmt: skip
    """float64 [genes, cancers] of log hazard ratios, one planted gene a module."""
    shared, specific, opposed = counts
    beta = np.zeros((genes, cancers))
    hosts = rng.permutation(int(module.max()) + 1 if genes else 0)[: shared + specific * cancers + opposed]
    drivers = [int(rng.choice(np.flatnonzero(module == m))) for m in hosts]
    sizes = effect * rng.uniform(0.7, 1.3, len(drivers)) * rng.choice([-1, 1], len(drivers))
    for place, (gene, size) in enumerate(zip(drivers, sizes, strict=True)):
        if place < shared:
            beta[gene] = size
        elif place < shared + specific * cancers:
            beta[gene, (place - shared) % cancers] = size
        else:
            beta[gene] = size * np.where(np.arange(cancers) % 2, -1, 1)
    return beta


def _draw(
    rng: np.random.Generator, n: int, module: np.ndarray, modules: int, correlation: float, cnv: int,
    mean: np.ndarray, spread: np.ndarray, frequency: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """One cancer: latent expression (standardised), rna as log2(TPM + 1), cnv, mut; each [n, genes of it]."""
    factors = rng.standard_normal((n, modules))
    own = rng.standard_normal((n, len(module)))
    latent = np.sqrt(correlation) * factors[:, module] + np.sqrt(1 - correlation) * own
    arms = np.repeat(rng.standard_normal((n, -(-cnv // _ARM))), _ARM, axis=1)[:, :cnv]
    copies = np.clip(np.rint(0.9 * arms + 0.4 * rng.standard_normal((n, cnv))), -2, 2)
    if cnv:
        latent[:, :cnv] = 0.9 * latent[:, :cnv] + np.sqrt(1 - 0.81) * copies
    latent = (latent - latent.mean(axis=0)) / latent.std(axis=0)
    depth = rng.normal(0, 0.1, (n, 1))  # of the library
    rna = np.clip(mean + spread * latent + depth, 0, 16)
    return {
        "latent": latent,
        "rna": rna,
        "cnv": copies.astype(np.float32),
        "mut": (rng.random((n, len(frequency))) < frequency).astype(np.float32),
    }


def _clinical(rng: np.random.Generator, cancer: str, n: int) -> pd.DataFrame:
    ids = [f"SYN-{cancer}-{k + 1:04d}" for k in range(n)]
    return pd.DataFrame(
        {
            "cancer": cancer,
            "site": rng.choice(["S1", "S2", "S3", "S4", "S5"], n),
            "age": np.round(np.clip(rng.normal(62, 11, n), 20, 92), 1),
            "sex": rng.choice(["F", "M"], n),
            "slide_ids": [(f"{i}-DX1",) for i in ids],
        },
        index=pd.Index(ids, name="patient_id"),
    )


def censored_survival(
    rng: np.random.Generator, risk: np.ndarray, median: float, censored: float, longest: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """(months, event). median: months of survival at risk 0; the follow-up is stretched until the wanted share is
    censored (Bender et al. 2005, Statistics in Medicine 24, 1713, for times with proportional hazards). It ends after
    `longest` months at most: whoever outlives that is censored too, on top of the share."""
    death = median * (-np.log(rng.random(len(risk))) / (np.log(2) * np.exp(risk))) ** (1 / _SHAPE)
    accrual, lost = rng.uniform(0.3, 1.0, len(risk)), rng.exponential(1.5, len(risk))
    unit = np.minimum(accrual, lost)
    if censored == 0:
        end = np.full(len(risk), np.inf)
    else:
        end = unit * np.quantile(death / unit, 1 - censored)  # exactly that share has its event after its end
    end = np.minimum(end, longest)
    time = np.maximum(np.round(np.minimum(death, end), 2), 0.01)
    return time, death <= end
