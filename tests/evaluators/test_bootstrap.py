from __future__ import annotations

import numpy as np
import pytest

from clarion.evaluators.bootstrap import auc_statistic, bootstrap, codes, entry, resample_weights, wilson


def mean_of(values):
    return lambda w: (w @ values) / w.sum(1)


def test_coverage_on_clustered_data():
    """Patients differ more than their images: intervals over patients cover the true mean, over images they do not."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 10)
    covered = np.zeros(2)
    trials = 200
    for trial in range(trials):
        values = rng.normal(0, 1, 40)[patient] + rng.normal(0, 0.5, 400)
        for which, groups in enumerate((patient, np.arange(400))):
            found = bootstrap(mean_of(values), groups, n_resamples=200, seed=trial)
            covered[which] += found.low <= 0 <= found.high
    assert 0.88 <= covered[0] / trials <= 0.99
    assert covered[1] / trials < 0.7


def test_weights_count_drawn_patients_and_follow_the_seed():
    weights = resample_weights(30, 200, seed=3)
    assert (weights.sum(1) == 30).all() and weights.std() > 0.5
    assert (weights == resample_weights(30, 200, seed=3)).all()
    assert (weights != resample_weights(30, 200, seed=4)).any()


def test_interval_is_that_of_plain_resampling():
    values = np.random.default_rng(1).gamma(2, size=60)
    found = bootstrap(mean_of(values), np.arange(60), n_resamples=4000, seed=0)
    rng = np.random.default_rng(9)
    plain = [values[rng.integers(0, 60, 60)].mean() for _ in range(4000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.02)


def test_degenerate_cases_give_no_interval_and_say_why():
    one = bootstrap(mean_of(np.array([1.0, 2.0])), ["p", "p"])
    assert (one.value, one.low, one.high) == (1.5, None, None) and "one patient" in one.note
    same = bootstrap(mean_of(np.ones(5)), np.arange(5))
    assert same.low is None and "same value" in same.note
    undefined = bootstrap(lambda w: np.full(len(w), np.nan), np.arange(5))
    assert undefined.value is None and undefined.low is None and undefined.note
    rare = np.arange(20) == 0
    found = bootstrap(lambda w: np.where(w[:, 0] > 1, w[:, 0] * 0.1, np.nan) + 0 * w.sum(1), rare * np.arange(20))
    assert found.low is None


def test_several_statistics_share_their_resamples():
    values = np.random.default_rng(0).normal(size=20)
    found = bootstrap(lambda w: {"a": mean_of(values)(w), "b": mean_of(2 * values)(w)}, np.arange(20))
    assert found["b"].low == pytest.approx(2 * found["a"].low)


def test_groups_keep_their_order_in_per_group_statistics():
    index, names = codes(["b", "a", "b"])
    assert list(index) == [1, 0, 1] and list(names) == ["a", "b"]
    found = bootstrap(lambda w: w @ np.array([1.0, 10.0]), ["b", "a", "b"], per_group=True)
    assert found.value == 11.0


def test_wilson_against_published_values():
    # Newcombe 1998 (Stat Med 17:857), table I, method 3
    assert (wilson(81, 263).low, wilson(81, 263).high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (wilson(15, 148).low, wilson(15, 148).high) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert (wilson(0, 20).low, wilson(0, 20).high) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert (wilson(29, 29).low, wilson(29, 29).high) == pytest.approx((0.8830, 1.0), abs=5e-5)
    assert wilson(0, 0).value is None


def test_auc_against_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(2)
    score, positive = np.round(rng.random(200), 1), rng.random(200) < 0.4
    weights = rng.integers(0, 3, (5, 200)).astype(float)
    found = auc_statistic(score, positive, np.arange(200), 200)(weights)
    assert found == pytest.approx([roc_auc_score(positive, score, sample_weight=w) for w in weights])
    assert np.isnan(auc_statistic(score, np.zeros(200, bool), np.arange(200), 200)(weights)).all()


def test_entry_holds_every_key_and_tells_its_note():
    notes = []
    made = entry(wilson(0, 0), 0, 0, "Wilson", None, notes, "eye_specificity")
    assert set(made) == {"value", "low", "high", "n", "n_patients", "unit", "method"}
    assert notes == ["eye_specificity: not defined on this data."]
