"""The threshold's fit and the perturbations that the table measures."""

from __future__ import annotations

import random

import numpy as np

from clarion.llm.coding.embedding import Threshold, calibrated, contradicts
from clarion.llm.coding.validation.perturb import KINDS, perturb
from clarion.llm.coding.validation.threshold import Scored, fit


def test_the_threshold_keeps_non_diagnoses_out():
    rng = np.random.default_rng(0)
    scored = [Scored("calibration", "", True, "H40", float(c), bool(c > 0.7)) for c in rng.uniform(0.5, 0.95, 60)]
    scored += [Scored("calibration", "", False, "H40", float(c), False) for c in rng.uniform(0.3, 0.7, 40)]
    scored += [Scored("held_out", "", False, "H40", 0.99, False)] * 20  # the other half must not matter
    found = fit(scored)
    assert 0.66 <= found["cosine"] <= 0.72
    by = Threshold(**found)
    assert by.probability(0.9) > 0.7 > 0.3 > by.probability(0.4)


def test_the_committed_threshold_is_a_cosine():
    assert 0.5 < calibrated().cosine < 1 and calibrated().slope > 0


def test_opposites_exclude_each_other():
    assert contradicts("wet macular degeneration".split(), "nonexudative macular degeneration".split())
    assert not contradicts("wet macular degeneration".split(), "exudative macular degeneration".split())


def test_each_perturbation_changes_titles_repeatably():
    title = "Exudative age-related macular degeneration, right eye, with active choroidal neovascularization"
    for kind in KINDS:
        once, again = (perturb(title, kind, random.Random(1)) for _ in range(2))
        assert once == again != title
