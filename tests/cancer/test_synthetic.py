"""The synthetic cohort holds what was planted, and only that."""

import numpy as np
import pytest
from scipy import stats

from clarion.cancer.checks import check_cohort
from clarion.cancer.synthetic import PlantedCohort, synthetic_cohort
from clarion.errors import UsageError


@pytest.fixture(scope="module")
def cohort() -> PlantedCohort:
    return synthetic_cohort(cancers=3, patients=400, genes=200, specific=2, seed=5)


def test_the_same_arguments_give_the_same_cohort():
    a, b = (synthetic_cohort(cancers=2, patients=30, genes=100, specific=1, cnv=10, mut=5, seed=3) for _ in range(2))
    assert a.fingerprint() == b.fingerprint() and a.effects.equals(b.effects)
    other = synthetic_cohort(cancers=2, patients=30, genes=100, specific=1, cnv=10, mut=5, seed=4)
    assert other.fingerprint() != a.fingerprint()


def test_it_is_the_cohort_that_was_asked_for(cohort):
    assert len(cohort) == 1200 and cohort.cancers == ["ALFA", "BRAVO", "CHARLIE"] and cohort.kind == "phantom"
    for cancer in cohort.cancers:
        assert cohort.of_cancer(cancer).event.mean() == pytest.approx(0.55, abs=0.01)
    assert (cohort.time > 0).all() and not check_cohort(cohort).errors
    assert 0.001 < cohort.omics["rna"].isna().to_numpy().mean() < 0.003
    assert isinstance(cohort.of_cancer("ALFA"), PlantedCohort)  # the truth stays with a part


def test_follow_up_ends_and_moves_nothing_else():
    """Whoever outlives it is censored then; every other time and event is as without the end."""
    from clarion.cancer.synthetic import LONGEST, censored_survival

    risk = np.random.default_rng(0).normal(0, 3, 200)
    endless, died = censored_survival(np.random.default_rng(1), risk, 60, 0.2)
    time, event = censored_survival(np.random.default_rng(1), risk, 60, 0.2, LONGEST)
    later = endless > LONGEST
    assert later.sum() > 5 and (time[later] == LONGEST).all() and not event[later].any()
    assert (time[~later] == endless[~later]).all() and (event[~later] == died[~later]).all()


def test_effects_are_shared_specific_and_opposed(cohort):
    rna = cohort.effects[cohort.effects.index.str.startswith("rna:")]
    in_cancers = rna.ne(0).sum(axis=1)
    opposed = rna[(in_cancers == 3) & (rna.max(axis=1) > 0) & (rna.min(axis=1) < 0)]
    assert (in_cancers == 1).sum() == 2 * 3 and (in_cancers == 3).sum() == 6 and len(opposed) == 2
    assert cohort.associated().sum().between(60, 140).all()


def test_the_hazard_follows_the_planted_coefficients(cohort):
    """Log-hazard against the rank of survival: with the truth as risk, the Weibull's slope is found again."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    part = cohort.of_cancer("ALFA")
    risk = cohort.linear_predictor[part.patients].to_numpy()[:, None]
    outcome = np.array(list(zip(part.event, part.time, strict=True)), dtype=[("e", bool), ("t", float)])
    assert CoxPHSurvivalAnalysis().fit(risk, outcome).coef_[0] == pytest.approx(1.0, abs=0.2)  # SE 0.06


def test_genes_of_a_module_are_correlated_and_others_are_not(cohort):
    x = np.nan_to_num(cohort.of_cancer("BRAVO").omics["rna"].to_numpy(), nan=4.0)[:, 60:]  # beyond copy number
    module = cohort.module.to_numpy()[60:]
    r = stats.spearmanr(x).statistic
    same = (module[:, None] == module[None]) & ~np.eye(len(module), dtype=bool)
    assert np.nanmedian(r[same]) == pytest.approx(0.36, abs=0.06)
    assert abs(np.nanmedian(r[module[:, None] != module[None]])) < 0.03


def test_a_cohort_of_nulls_has_no_effect():
    null = synthetic_cohort(cancers=1, patients=60, genes=150, effect=0, seed=1)
    assert null.effects.eq(0).all().all() and not null.associated().any().any()


def test_impossible_wishes_are_refused():
    with pytest.raises(UsageError, match="planted genes need as many modules"):
        synthetic_cohort(genes=50)
    with pytest.raises(UsageError, match="20 patients"):
        synthetic_cohort(patients=5)
