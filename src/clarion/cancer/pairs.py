"""What a tabular model is fed: for each patient and gene the pair (expression, coefficient of his cancer).

Within one cancer a gene's coefficient is the same for every patient: the pair carries information across cancers only.
Nothing is filled in silently. Every value and every coefficient comes with where it is from:

  value absent     the patient has no value, or the table's gene is not in his data: 0, `value_known` False
  coefficient      OWN (his cancer's fit), PAN (the pan-cancer mean of that gene: his cancer is unknown to the table, or
                   its fit gave no finite coefficient) or NONE (no cancer has one: 0)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from clarion.cancer.cohort import Cohort
from clarion.cancer.cox import RankNormal
from clarion.cancer.lookup import LookupTable, fit_cohort
from clarion.errors import DataError, UsageError

NONE, OWN, PAN = 0, 1, 2
USABLE = ("ok", "separated")  # with a finite coefficient: a penalised fit, or one beyond 30 standard deviations


@dataclass(frozen=True)
class Pairs:
    """n patients x p genes. value, coef: float32 [n, p]; value_known: bool [n, p]; source: int8 [n, p]: NONE, OWN, PAN;
    cancer_known: bool [n], whether the table has the patient's cancer."""

    patients: pd.Index = field(repr=False)
    genes: pd.Index = field(repr=False)
    cancer: np.ndarray = field(repr=False)
    value: np.ndarray = field(repr=False)
    value_known: np.ndarray = field(repr=False)
    coef: np.ndarray = field(repr=False)
    source: np.ndarray = field(repr=False)
    cancer_known: np.ndarray = field(repr=False)
    table_digest: str = ""

    def __len__(self) -> int:
        return len(self.patients)

    def counts(self) -> dict[str, int]:
        """How much of the table is what: cells without a value, by source of the coefficient, patients by cancer."""
        return {
            "cells": int(self.value.size),
            "values_missing": int((~self.value_known).sum()),
            "coef_own": int((self.source == OWN).sum()),
            "coef_pan": int((self.source == PAN).sum()),
            "coef_none": int((self.source == NONE).sum()),
            "patients_of_unknown_cancer": int((~self.cancer_known).sum()),
        }


def pan_cancer_mean(table: LookupTable, genes: Sequence[str] | None = None) -> pd.Series:
    """The inverse-variance mean of each gene's finite coefficients over cancers (fixed effect), NaN without any."""
    genes = table.genes if genes is None else pd.Index(genes)
    coef, se = table.matrix("coef").reindex(genes), table.matrix("se").reindex(genes)
    usable = np.isfinite(coef) & np.isfinite(se) & (se > 0) & table.matrix("status").reindex(genes).isin(USABLE)
    weight = (1.0 / se.where(usable) ** 2).fillna(0.0)
    total = weight.sum(axis=1)
    return ((weight * coef.where(usable).fillna(0.0)).sum(axis=1) / total.where(total > 0)).rename("coef")


def input_pairs(
    table: LookupTable,
    expression: pd.DataFrame,
    cancer: Sequence[str],
    *,
    evaluated: bool,
    genes: Sequence[str] | None = None,
    fallback: str = "pan_cancer",
    scale: str | None = None,
) -> Pairs:
    """The pairs of these patients.

    expression: patients x genes, index patient_id, NaN missing, in the scale the table was fitted in; cancer [n].
    evaluated: True for patients a model is scored on: the table must not have been fitted on any of them (DataError).
    genes: which, in this order; default all of the table. fallback: "pan_cancer" or "none", what stands in where the
    patient's cancer has no finite coefficient of a gene. scale: what the expression's values are (Cohort.scale);
    DataError where the table says that it was fitted in another: its coefficients are per unit of that.
    """
    if fallback not in ("pan_cancer", "none"):
        raise UsageError(f'fallback="{fallback}" is neither "pan_cancer" nor "none".')
    cancer = np.asarray(cancer, dtype=object)
    if len(cancer) != len(expression):
        raise DataError(f"{len(cancer)} cancer types for {len(expression)} patients.")
    if expression.columns.has_duplicates or expression.index.has_duplicates:
        raise DataError("Patients or genes come twice in the expression; keep one row a patient and one column a gene.")
    fitted = table.settings.get("scale")
    if scale and fitted and scale != fitted:
        raise DataError(f"The coefficient table was fitted on values in {fitted}, these are in {scale}: bring them to "
                        "one scale, or fit the table again.")  # fmt: skip
    if evaluated:
        table.check(expression.index)
    genes = table.genes if genes is None else pd.Index(list(genes), name="gene")
    if genes.has_duplicates:
        raise UsageError("A gene is asked for twice.")
    if not len(genes.intersection(expression.columns)):
        raise DataError("The expression and the coefficient table share no gene: are their gene names of one kind?")
    value = expression.reindex(columns=genes).to_numpy(np.float32)
    value_known = np.isfinite(value)

    own = table.matrix("coef").reindex(index=genes, columns=table.cancers)
    own = own.where(table.matrix("status").reindex(index=genes, columns=table.cancers).isin(USABLE)).to_numpy(
        np.float64
    )
    by_cancer = np.vstack([own.T, np.full(len(genes), np.nan)])  # the last row is every unknown cancer's
    source = np.where(np.isfinite(by_cancer), OWN, NONE).astype(np.int8)
    if fallback == "pan_cancer":
        mean = pan_cancer_mean(table, genes).to_numpy(np.float64)
        filled = (source == NONE) & np.isfinite(mean)
        by_cancer, source = np.where(filled, mean, by_cancer), np.where(filled, np.int8(PAN), source)
    coef = np.where(source == NONE, 0.0, by_cancer).astype(np.float32)
    place = pd.Index(table.cancers).get_indexer(cancer)
    return Pairs(
        patients=expression.index, genes=genes, cancer=cancer, value=np.where(value_known, value, np.float32(0)),
        value_known=value_known, coef=coef[place], source=source[place], cancer_known=place >= 0,
        table_digest=table.digest,
    )  # fmt: skip


@dataclass(frozen=True)
class FoldPairs:
    """One fold: the table of its training patients, and the pairs of both sides."""

    fold: int
    table: LookupTable
    train: Pairs
    test: Pairs


def pairs_per_fold(
    cohort: Cohort,
    folds: Iterable[tuple[Sequence[str], Sequence[str]]],
    *,
    modality: str = "rna",
    scale: str | None = "rank",
    genes: int | Sequence[str] | None = None,
    fallback: str = "pan_cancer",
    covariates: Sequence[str] = (),
    strata: str | None = None,
    **options,
) -> Iterator[FoldPairs]:
    """Table and pairs of each (training ids, evaluated ids), fitted on the training patients alone.

    scale: "rank" for rank-normal scores whose ranks are the training patients' (all cancers together), in which the
    coefficients then are too; None for the values as they are. genes: names, or how many of smallest q (the smallest
    over cancers; ties by p) in the training patients' table; None for all. options: those of cox.fit.
    """
    if scale not in ("rank", None):
        raise UsageError(f'scale="{scale}" is neither "rank" nor None.')
    for number, (train, test) in enumerate(folds):
        sides = {"train": cohort.with_omics([modality]).of(train), "test": cohort.with_omics([modality]).of(test)}
        values = {side: part.omics[modality] for side, part in sides.items()}
        if scale == "rank":
            learned = RankNormal.fit(values["train"].to_numpy())
            values = {
                side: pd.DataFrame(learned.apply(v.to_numpy()).astype(np.float32), v.index, v.columns)
                for side, v in values.items()
            }
        named = "rank-normal scores of the training" if scale == "rank" else cohort.scale.get(modality, "")
        fitted = _with(sides["train"], modality, values["train"], named)
        table = fit_cohort(fitted, modality, covariates, strata, **options)
        if not table.frame["p_lr"].notna().any():
            why = table.frame["status"].value_counts().index[0]
            raise DataError(
                f"No gene of {modality} could be fitted on {len(train)} training patients with "
                f"{int(fitted.event.sum())} events ({why}): train on more, or set model.datamodule.min_events=1."
            )
        chosen = top_genes(table, genes) if isinstance(genes, int) else genes
        yield FoldPairs(
            number, table,
            *(
                input_pairs(table, values[side], sides[side].clinical["cancer"], evaluated=side == "test", genes=chosen,
                            fallback=fallback, scale=named)
                for side in ("train", "test")
            ),
        )  # fmt: skip


def top_genes(table: LookupTable, count: int) -> pd.Index:
    """The genes of smallest q in any cancer, ties by p; in this order."""
    rows = table.frame.dropna(subset=["p_lr"])
    best = rows.sort_values(["q", "p_lr"], kind="stable").drop_duplicates("gene")["gene"].astype(str)
    return pd.Index(best.iloc[:count], name="gene")


def _with(cohort: Cohort, modality: str, values: pd.DataFrame, scale: str) -> Cohort:
    return Cohort(cohort.name, cohort.clinical, {modality: values}, cohort.kind, {modality: scale}, cohort.notes)
