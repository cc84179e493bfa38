"""From a patient's omics to the numbers of the network, with nothing but the facts kept in a checkpoint.

`Facts` is what the training side says: which genes, their scaling, the coefficient of each in every cancer, the
cancers, the age's mean and spread, the time bins. It goes to JSON and back, so that a checkpoint answers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.features import gene_places
from clarion.cancer.pairs import NONE
from clarion.cancer.quantiles import QuantileNormal
from clarion.errors import DataError, UsageError
from clarion.samples import Sample

SEXES = ("", "F", "M")  # index 0: unknown


@dataclass(frozen=True)
class Facts:
    """Everything of the data that the network needs. p tokens, c cancers.

    genes: "modality:GENE" [p]; columns: modality -> length of the samples' arrays; positions: [p] column of each gene
    in its modality's array; knots [K][p] of QuantileNormal; coef, source [c + 1][p]: row 0 is that of an unknown cancer
    (the pan-cancer mean), see pairs; cancers [c]; age: (mean, sd) in years; edges: of the time bins in months, from 0;
    horizons: months; base: head -> logits of the training patients as one group, where training starts; trained_on:
    how many, and digests of the tables."""

    genes: list[str]
    columns: dict[str, int]
    positions: list[int]
    knots: list[list[float]]
    coef: list[list[float]]
    source: list[list[int]]
    cancers: list[str]
    age: list[float]
    edges: list[float]
    horizons: list[float]
    base: dict[str, list[float]] = field(default_factory=dict)
    trained_on: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Facts:
        """From a checkpoint's facts. UsageError on those of another kind of model."""
        try:
            return cls(**{name: facts[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise UsageError(f"The checkpoint's facts lack {error}: it is no survival model of this version.") from None


class Encoder:
    """Samples -> arrays of the network, by the facts alone."""

    def __init__(self, facts: Facts):
        self.facts = facts
        self.scaling = QuantileNormal(np.asarray(facts.knots, np.float32).reshape(-1, len(facts.genes)))
        self.cancer = {name: k + 1 for k, name in enumerate(facts.cancers)}
        modality = np.array([gene.split(":", 1)[0] for gene in facts.genes])
        names = np.array([gene.split(":", 1)[1] for gene in facts.genes], dtype=object)
        positions = np.asarray(facts.positions, np.int64)
        self.parts = [(m, np.flatnonzero(modality == m)) for m in facts.columns]
        self.positions = {m: positions[at] for m, at in self.parts}
        self.names = {m: names[at] for m, at in self.parts}
        self._places: dict[str, tuple[Sequence[str], np.ndarray]] = {}  # of the last patient's names: a table's are one

    def values(
        self, omics: Mapping[str, Any], who: str = "A sample", genes: Mapping[str, Sequence[str]] | None = None
    ) -> np.ndarray:
        """Unscaled float32 [p], NaN missing. omics: modality -> array, or a Series or mapping by gene name; genes:
        modality -> the names of an array's columns, where they are known: then they are found by name, in any order.
        A nameless array is in the training cohort's order. A modality or gene that is absent is missing; DataError on
        a nameless array of other length, and on names that are others than those of the training."""
        row = np.full(len(self.facts.genes), np.nan, np.float32)
        for modality, at in self.parts:
            given = omics.get(modality)
            if given is None:
                continue
            if isinstance(given, (Mapping, pd.Series)):
                named = [*given.keys()]
                gene_places(named, self.names[modality], self.positions[modality], modality, who)
                row[at] = [given.get(name, np.nan) for name in self.names[modality]]
                continue
            given = np.asarray(given, np.float32)
            if (named := (genes or {}).get(modality)) is not None:
                row[at] = self._named(given, named, modality, who)
                continue
            expected = self.facts.columns[modality]
            if given.shape != (expected,):
                raise DataError(
                    f"{who} has {given.size} values of {modality}, the model was trained on {expected} genes: give "
                    "them in the same order, or by name as a pandas Series."
                )
            row[at] = given[self.positions[modality]]
        row[~np.isfinite(row)] = np.nan
        return row

    def _named(self, given: np.ndarray, named: Sequence[str], modality: str, who: str) -> np.ndarray:
        """The model's genes of an array whose columns have names [n of them]; NaN where there is no such column."""
        if given.shape != (len(named),):
            raise DataError(f"{who} has {given.size} values of {modality} for {len(named)} gene names: give one each.")
        known, place = self._places.get(modality, (None, None))
        if known is not named:
            place = gene_places(named, self.names[modality], self.positions[modality], modality, who)
            self._places[modality] = (named, place)
        return np.where(place < 0, np.float32(np.nan), given[place])

    def table(
        self, values: np.ndarray, cancer: Sequence[str], age: Sequence[float], sex: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Arrays of n patients from unscaled values [n, p]: value (0 where missing), known [n, p], cancer [n] (0
        unknown), age [n] in spreads (0 unknown), age_known [n], sex [n] (0 unknown)."""
        scaled = self.scaling.apply(values)
        known = np.isfinite(scaled)
        mean, spread = self.facts.age
        years = np.asarray(age, np.float32)
        age_known = np.isfinite(years)
        return {
            "value": np.where(known, scaled, np.float32(0)).astype(np.float32),
            "known": known,
            "cancer": np.array([self.cancer.get(str(c), 0) for c in cancer], np.int64),
            "age": np.where(age_known, np.clip((years - mean) / spread, -4, 4), 0).astype(np.float32),
            "age_known": age_known.astype(np.float32),
            "sex": np.array([SEXES.index(s) if s in SEXES else 0 for s in sex], np.int64),
        }

    def encode(self, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        """`table` of samples. A patient without omics (None) is one whose every gene is missing; DataError on a sample
        that is no patient at all: without the key, or with something else there."""
        values, cancer, age, sex = [], [], [], []
        for sample in samples:
            given = sample.inputs
            omics = {} if given.get("omics", "") is None else given.get("omics")
            if not isinstance(omics, Mapping):
                raise DataError(f"Sample {sample.sample_id} lacks omics: a survival model needs {{modality: values}}.")
            values.append(self.values(omics, f"Sample {sample.sample_id}", given.get("genes")))
            cancer.append(given.get("cancer") or "")
            years = given.get("age")
            age.append(np.nan if years is None else float(years))
            sex.append(given.get("sex") or "")
        if not values:
            values = np.empty((0, len(self.facts.genes)), np.float32)
        return self.table(np.asarray(values, np.float32), cancer, age, sex)


def coefficient_rows(facts: Facts) -> tuple[np.ndarray, np.ndarray]:
    """(coef float32, source int64) [cancers + 1, p]; 0 where there is none."""
    coef = np.asarray(facts.coef, np.float32).reshape(len(facts.cancers) + 1, len(facts.genes))
    source = np.asarray(facts.source, np.int64).reshape(coef.shape)
    return np.where(source == NONE, np.float32(0), coef), source
