"""Ablations on a model whose dependence on each input is known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clarion.cancer.fusion.ablation import ABLATIONS, ablate, ablated, predict_ablated, summarise
from clarion.evaluators.factcheck_facts import Facts, Gene, Pattern


@dataclass(frozen=True)
class Patient:
    sample_id: str
    patient_id: str
    facts: Facts
    embeddings: dict = field(repr=False)


class Known:
    """Reads the slide's first number, the first gene's z and the first tissue's share; deaf to the omics embedding and
    the clinical data."""

    fused = True

    def inputs(self, samples):
        rng = np.random.default_rng(0)
        made = []
        for k, s in enumerate(samples):
            tissue = (Pattern("necrosis", 0.2 + 0.02 * k),) if k % 3 else ()
            facts = Facts(genes=(Gene("TP53", 0.5, 0.01, float(rng.normal())),), patterns=tissue, age=50 + k, sex="F",
                          stage="II")  # fmt: skip
            own = {"slide": torch.tensor([float(rng.normal())]), "omics": torch.tensor([float(rng.normal())])}
            if k == 0:
                own.pop("omics")
            made.append(Patient(s.sample_id, s.sample_id, facts, own))
        return made

    def average(self, name):
        return torch.zeros(1)

    def answer(self, inputs, text=None):
        found = []
        for one in inputs:
            slide = float(one.embeddings["slide"][0]) if "slide" in one.embeddings else 0.0
            gene = one.facts.genes[0].z if one.facts.genes else 0.0
            tissue = one.facts.patterns[0].share if one.facts.patterns else 0.0
            risk = 3 * slide + gene + 2 * tissue
            p = 1 / (1 + np.exp(risk))
            found.append({"probability": p, "risk": risk} | ({"text": f"{p:.3f}"} if text else {}))
        return found


@pytest.fixture(scope="module")
def samples():
    return [SimpleNamespace(sample_id=f"P{k}") for k in range(30)]


def test_what_is_read_matters_and_what_is_not_does_not(samples):
    found = summarise(predict_ablated(Known(), samples), n_resamples=100)
    moved = {what: metrics["probability_changed_by"] for what, metrics in found.items()}
    assert set(moved) == set(ABLATIONS)
    assert moved["slide_zeroed"]["value"] > 0.1 and moved["slide_shuffled"]["low"] > 0
    assert moved["slide_shuffled"]["value"] > moved["genes_shuffled"]["value"] > 0
    for deaf in ("omics_zeroed", "omics_shuffled", "clinical_shuffled", "clinical_withheld"):
        assert moved[deaf]["value"] == 0 and found[deaf]["answers_flipped"]["value"] == 0


def test_patients_without_an_input_are_not_counted_as_insensitive(samples):
    table = predict_ablated(Known(), samples)
    counts = table["ablation"].value_counts()
    assert counts["none"] == 30 and counts["omics_zeroed"] == 29
    assert counts["slide_withheld"] == 29  # the one without omics would have nothing left
    assert counts["patterns_withheld"] == 20  # a third of them has none


def test_an_embedding_and_the_words_of_its_modality_are_changed_apart(samples):
    """Shuffling or zeroing the slide leaves the tissue in the prompt; withholding it takes the tissue along."""
    inputs = Known().inputs(samples[:3])
    donors = [1, 2, 0]
    for what in ("slide_zeroed", "slide_shuffled"):
        for before, after in zip(inputs, ablated(inputs, what, donors, Known().average), strict=True):
            assert after.facts == before.facts and after.embeddings["slide"] != before.embeddings["slide"]
    gone = ablated(inputs, "slide_withheld", donors, Known().average)
    assert gone[0] is None and all(g.facts.patterns == () and g.facts.missing == ("slide",) for g in gone[1:])
    none, swapped, nobody = ablated(inputs, "patterns_shuffled", donors, Known().average)
    assert none is None and nobody is None  # patient 0 has no tissue to take or to give
    assert swapped.facts.patterns == inputs[2].facts.patterns and swapped.facts.genes == inputs[1].facts.genes
    assert swapped.embeddings is inputs[1].embeddings


def test_genes_are_shuffled_only_between_patients_who_have_some(samples):
    inputs = Known().inputs(samples[:4])
    inputs[1] = replace(inputs[1], facts=replace(inputs[1].facts, genes=()))
    found = ablated(inputs, "genes_shuffled", [1, 2, 3, 0], Known().average)
    assert found[0] is None and found[1] is None  # there is nothing to take, and nothing to take away
    assert [one.facts.genes for one in found[2:]] == [inputs[3].facts.genes, inputs[0].facts.genes]


def test_withheld_omics_take_their_genes_along(samples):
    table = predict_ablated(Known(), samples).set_index(["ablation", "sample_id"])["probability"]
    same = table["omics_withheld"] - table["genes_withheld"].reindex(table["omics_withheld"].index)
    assert np.allclose(same, 0)


def test_a_subset_is_drawn_by_seed_and_writes_texts(samples):
    table = predict_ablated(Known(), samples, seed=1, patients=8, texts=3)
    again = predict_ablated(Known(), samples[::-1], seed=1, patients=8, texts=3)
    assert table["sample_id"].nunique() == 8
    assert list(table["sample_id"]) == list(again["sample_id"])
    written = table[table["text"].notna()]
    assert written["sample_id"].nunique() == 3
    found = summarise(table, n_resamples=50)
    assert found["slide_zeroed"]["texts_changed"]["n"] == 3
    silent = summarise(predict_ablated(Known(), samples, patients=4), n_resamples=50)
    assert "texts_changed" not in silent["slide_zeroed"]


def test_what_a_run_keeps_is_json(samples):
    import json

    kept = ablate(Known(), samples, patients=5)
    assert json.loads(json.dumps(kept))["patients"] == 5 and kept["metrics"]["slide_zeroed"]
