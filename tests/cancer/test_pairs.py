"""(expression, coefficient) pairs: what is missing is marked, what is evaluated was not fitted on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clarion.cancer.cohort import Cohort
from clarion.cancer.lookup import fit_pancancer
from clarion.cancer.pairs import NONE, OWN, PAN, input_pairs, pairs_per_fold, pan_cancer_mean, top_genes
from clarion.errors import DataError, UsageError

GENES = [f"G{i}" for i in range(6)]


def cohort(n=90, seed=0):
    rng = np.random.default_rng(seed)
    cancers = np.repeat(["AAA", "BBB", "CCC"], n)
    x = rng.normal(size=(3 * n, len(GENES))).astype(np.float32)
    death, censor = rng.exponential(40 * np.exp(-0.8 * x[:, 0])), rng.uniform(10, 100, 3 * n)
    clinical = pd.DataFrame(
        {"time": np.ceil(np.minimum(death, censor)), "event": death <= censor, "cancer": cancers, "site": "",
         "age": 60.0, "sex": "", "slide_ids": [()] * (3 * n)},
        index=[f"P{i}" for i in range(3 * n)],
    )  # fmt: skip
    return Cohort("three", clinical, {"rna": pd.DataFrame(x, clinical.index, GENES)})


@pytest.fixture(scope="module")
def table():
    """AAA has all genes, BBB lacks G5 and has a constant G4."""
    data = cohort()
    stream = []
    for cancer in ("AAA", "BBB"):
        one = data.of_cancer(cancer)
        x = one.omics["rna"].copy()
        if cancer == "BBB":
            x = x.drop(columns="G5").assign(G4=1.0)
        stream.append((cancer, x, one.time, one.event))
    return fit_pancancer(stream)


def patients(n=3, genes=GENES):
    return pd.DataFrame(np.arange(n * len(genes), dtype=float).reshape(n, -1), [f"new{i}" for i in range(n)], genes)


def test_own_coefficients_and_the_pan_cancer_mean(table):
    pairs = input_pairs(table, patients(), ["AAA", "BBB", "ZZZ"], evaluated=True)
    assert list(pairs.genes) == GENES and pairs.coef.dtype == np.float32 == pairs.value.dtype
    own = table.matrix()
    np.testing.assert_allclose(pairs.coef[0], own["AAA"], rtol=1e-6)
    np.testing.assert_allclose(pairs.coef[1, :4], own["BBB"][:4], rtol=1e-6)
    # BBB has no fit of G4 and no G5; nobody knows ZZZ: the mean over cancers stands in, and says so
    assert pairs.source.tolist() == [[OWN] * 6, [OWN] * 4 + [PAN] * 2, [PAN] * 6]
    np.testing.assert_allclose(pairs.coef[1, 4:], own["AAA"][4:], rtol=1e-6)
    coef, se = own.loc["G0"], table.matrix("se").loc["G0"]
    assert pairs.coef[2, 0] == pytest.approx((coef / se**2).sum() / (1 / se**2).sum(), rel=1e-6)
    assert pan_cancer_mean(table)["G0"] == pytest.approx(pairs.coef[2, 0], rel=1e-6)
    assert pairs.cancer_known.tolist() == [True, True, False] and pairs.value_known.all()
    assert pairs.counts() == {
        "cells": 18, "values_missing": 0, "coef_own": 10, "coef_pan": 8, "coef_none": 0,
        "patients_of_unknown_cancer": 1,
    }  # fmt: skip


def test_without_fallback_the_coefficient_is_zero_and_marked(table):
    pairs = input_pairs(table, patients(), ["AAA", "BBB", "ZZZ"], evaluated=True, fallback="none")
    assert (pairs.source[2] == NONE).all() and (pairs.coef[2] == 0).all() and (pairs.source[1, 4:] == NONE).all()


def test_missing_values_and_genes_are_zero_and_marked(table):
    x = patients(genes=GENES[:4])
    x.iloc[1, 2] = np.nan
    pairs = input_pairs(table, x, ["AAA"] * 3, evaluated=True, genes=["G2", "G5", "NEW", "G0"])
    assert pairs.value_known.tolist() == [[True, False, False, True], [False, False, False, True]] + [
        [True, False, False, True]
    ]
    assert pairs.value[1, 0] == 0 and pairs.value[0, 0] == x.iloc[0, 2]
    assert pairs.source[0].tolist() == [OWN, OWN, NONE, OWN] and pairs.coef[0, 2] == 0
    with pytest.raises(DataError, match="share no gene"):
        input_pairs(table, patients(genes=["ENSG1"]), ["AAA"] * 3, evaluated=True)


def test_separated_genes_give_no_infinite_coefficient():
    data = cohort().of_cancer("AAA")
    x = data.omics["rna"].copy()
    x["G1"] = -data.time
    table = fit_pancancer([("AAA", x, data.time, data.event)])
    pairs = input_pairs(table, patients(), ["AAA"] * 3, evaluated=True)
    assert np.isinf(table.matrix().loc["G1", "AAA"]) and (pairs.source[:, 1] == NONE).all()
    assert np.isfinite(pairs.coef).all()
    penalised = fit_pancancer([("AAA", x, data.time, data.event)], firth="separated")
    pairs = input_pairs(penalised, patients(), ["AAA"] * 3, evaluated=True)
    assert (pairs.source[:, 1] == OWN).all() and (pairs.coef[:, 1] > 0).all()


def test_evaluated_patients_must_be_new(table):
    mine = cohort().omics["rna"].iloc[:3]
    input_pairs(table, mine, ["AAA"] * 3, evaluated=False)
    with pytest.raises(DataError, match="3 of AAA"):
        input_pairs(table, mine, ["AAA"] * 3, evaluated=True)


def test_folds_are_nested_and_scaled_by_their_training_patients():
    data = cohort()
    ids = data.patients.to_numpy()
    folds = [(np.setdiff1d(ids, ids[k::3]), ids[k::3]) for k in range(3)]
    seen = []
    for part in pairs_per_fold(data, folds, genes=4, horizon=60.0):
        assert len(part.test) == 90 and len(part.train) == 180 and part.test.value.shape == (90, 4)
        part.table.check(part.test.patients)
        with pytest.raises(DataError):
            part.table.check(part.train.patients)
        assert part.test.genes.equals(part.train.genes) and part.test.genes[0] == "G0"
        assert part.test.genes.equals(top_genes(part.table, 4))
        assert (part.test.source == OWN).all() and (part.test.coef[:, 0] > 0.3).all()
        assert abs(part.train.value.mean()) < 0.01 and abs(part.train.value.std() - 1) < 0.05
        assert part.train.table_digest == part.test.table_digest
        seen.append(part.table.digest)
    assert len(set(seen)) == 3
    # an outlier among the evaluated changes nobody else's value
    loud = data.omics["rna"].copy()
    loud.loc[folds[0][1][0], "G0"] = 36_893.0
    calm = next(pairs_per_fold(data, folds[:1], genes=["G0"]))
    wild = next(pairs_per_fold(Cohort("loud", data.clinical, {"rna": loud}), folds[:1], genes=["G0"]))
    np.testing.assert_array_equal(calm.test.value[1:], wild.test.value[1:])
    assert wild.test.value[0] < 3.5
    with pytest.raises(DataError, match="leaks"):
        next(pairs_per_fold(data, [(ids, ids[:10])]))


def test_usage():
    data = cohort()
    table = fit_pancancer([("AAA", data.omics["rna"].iloc[:90], data.time[:90], data.event[:90])])
    for match, call in {
        "fallback": lambda: input_pairs(table, patients(), ["AAA"] * 3, evaluated=True, fallback="zero"),
        "3 patients": lambda: input_pairs(table, patients(), ["AAA"], evaluated=True),
        "twice": lambda: input_pairs(table, patients(), ["AAA"] * 3, evaluated=True, genes=["G0", "G0"]),
        "rank": lambda: next(pairs_per_fold(data, [(data.patients[:9], data.patients[9:])], scale="z")),
    }.items():
        with pytest.raises((DataError, UsageError), match=match):
            call()
