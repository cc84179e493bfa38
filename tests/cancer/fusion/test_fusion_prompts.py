"""Prompts and targets: genes of the training patients' table, the patient's own z, no outcome, and what is parsed."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from clarion.cancer.fusion.prompts import Prompter
from clarion.cancer.patients.planted import PatientRecipe, synthetic_patients
from clarion.errors import DataError, UsageError


@pytest.fixture(scope="module")
def planted():
    return synthetic_patients(PatientRecipe(patients=90, genes=80, censored=0.2))


@pytest.fixture(scope="module")
def prompter(planted) -> Prompter:
    train, test = list(planted.cohort.patients[:60]), list(planted.cohort.patients[60:])
    return Prompter.fit(planted.cohort.of(train), test, shown=6, told=2)


def inputs(planted, k: int) -> dict:
    cohort = planted.cohort
    row, table = cohort.clinical.iloc[k], cohort.omics["rna"]
    clinical = {c: row[c] for c in ("age", "sex", "stage", "site", "cancer")}
    return {"slide": "a.tif", "slides": ("a.tif",), "omics": {"rna": table.iloc[k].to_numpy(np.float32)},
            "genes": {"rna": tuple(table.columns)}, "clinical": clinical}  # fmt: skip


def test_the_genes_are_those_of_smallest_q_of_the_training_patients_alone(planted, prompter):
    from clarion.cancer.lookup import fit_cohort

    train = planted.cohort.of(planted.cohort.patients[:60])
    rows = prompter.genes[train.cancers[0]]
    assert [r["q"] for r in rows] == sorted(r["q"] for r in rows) and len(rows) > 6
    drivers = set(planted.genes.effects.index[planted.genes.effects.ne(0).any(axis=1)])
    assert drivers & {f"rna:{r['gene']}" for r in rows[:6]}
    plain = fit_cohort(train, "rna").of(train.cancers[0])  # other units, the same direction
    assert all(np.sign(plain.at[r["gene"], "coef"]) == np.sign(r["coef"]) for r in rows[:6])
    with pytest.raises(DataError, match="fitted on patients that are evaluated here"):
        Prompter.fit(train, list(train.patients[:3]))


def test_z_is_the_patients_place_among_the_training_patients(planted, prompter):
    facts = prompter.facts(inputs(planted, 70))
    train = planted.cohort.omics["rna"].iloc[:60].astype(np.float64)
    for gene in facts.genes:
        value = planted.cohort.omics["rna"][gene.name].iloc[70]
        assert gene.z == pytest.approx((value - train[gene.name].mean()) / train[gene.name].std(ddof=1), abs=1e-4)
    assert len(facts.genes) == 6 and facts.survival is None


def test_genes_are_found_by_name_in_any_order(planted, prompter):
    given = inputs(planted, 65)
    turned = given | {"omics": {"rna": given["omics"]["rna"][::-1]}, "genes": {"rna": given["genes"]["rna"][::-1]}}
    named = given | {"omics": {"rna": pd.Series(given["omics"]["rna"], given["genes"]["rna"])}}
    assert prompter.facts(given) == prompter.facts(turned) == prompter.facts(named)


def test_the_prompt_holds_names_numbers_and_clinical_data_and_no_outcome(planted, prompter):
    facts = prompter.facts(inputs(planted, 61))
    system, user = prompter.messages(facts, "<p><p>")
    text = user["content"]
    assert "<p><p>" in text and system["role"] == "system"
    assert all(f"{g.name} {g.coef:+.2f}" in text and f"z {g.z:+.1f}" in text for g in facts.genes)
    assert f"age {int(facts.age)}" in text and f"stage {facts.stage}" in text
    assert "dies" not in text and "months" not in text
    brief = prompter.messages(facts, "<p><p>", brief=True)[1]["content"]
    assert "<p><p>" in brief and not any(g.name in brief for g in facts.genes)


def test_what_is_missing_is_said_and_a_patient_without_both_is_refused(planted, prompter):
    given = inputs(planted, 62)
    without = prompter.facts(given | {"omics": None})
    assert without.missing == ("omics",) and not without.genes
    assert "omics not available" in prompter.messages(without, "<p>")[1]["content"]
    assert prompter.facts(given | {"slide": None, "slides": ()}).missing == ("slide",)
    empty = {"rna": np.full(80, np.nan, np.float32)}
    with pytest.raises(DataError, match="P7 has neither a slide nor omics"):
        prompter.facts(given | {"slide": None, "slides": (), "omics": empty}, "P7")


def test_tissue_is_told_in_words_that_the_fact_check_reads_and_only_with_a_slide(planted, prompter):
    from clarion.evaluators.factcheck_patient import find_patterns

    given = inputs(planted, 66) | {"patterns": {"high_grade": 0.31, "stroma": 0.42, "괴사": None}}
    facts = prompter.facts(given)
    line = prompter.messages(facts, "<p>")[1]["content"].partition("Tissue attended: ")[2].splitlines()[0]
    assert line == "괴사, stroma 42%, high-grade tumour 31%"
    assert {name for name, _ in find_patterns(line, facts)} == {"괴사", "stroma", "high_grade"}
    assert "Tissue" not in prompter.messages(facts, "<p>", brief=True)[1]["content"]
    for without in ({"patterns": None}, {"patterns": {}}, {"slide": None, "slides": ()}):
        assert "Tissue" not in prompter.messages(prompter.facts(given | without), "<p>")[1]["content"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The patient survives five years.\n\n## Genes\nGENE1 is a risk gene.", True),
        ("The patient dies within five years.", False),
        ("the patient  DIES\nwithin five years", False),
        ("The patient survives five years, or dies within five years.", None),
        ("## Genes\nA protective gene.", None),
        ("", None),
    ],
)
def test_answers_are_parsed(prompter, text, expected):
    assert prompter.parse(text) is expected


def test_the_statements_follow_the_horizon(prompter):
    from dataclasses import replace

    assert prompter.statements == ("The patient survives five years.", "The patient dies within five years.")
    assert replace(prompter, months=36.0).statements[0] == "The patient survives three years."
    assert replace(prompter, months=18.0).statements[1] == "The patient dies within 18 months."
    assert all(prompter.parse(s) is (k == 0) for k, s in enumerate(prompter.statements))


def test_the_rationale_says_nothing_of_the_outcome_and_only_true_things(planted, prompter):
    from clarion.evaluators.factcheck_text import check

    facts = prompter.facts(inputs(planted, 63))
    text = prompter.rationale(facts, "P63")
    assert "survive" not in text and "die" not in text
    assert sum(g.name in text for g in facts.genes) == 2
    checked = check(text, facts)
    assert checked.claims and checked.precision == 1.0
    assert text == prompter.rationale(facts, "P63")


def test_it_goes_to_json_and_back(planted, prompter):
    again = Prompter.of(json.loads(json.dumps(prompter.as_dict())))
    assert again == prompter and again.facts(inputs(planted, 64)) == prompter.facts(inputs(planted, 64))
    with pytest.raises(UsageError, match="another version"):
        Prompter.of({"format": "other"})


def test_wrong_sizes_are_refused(planted):
    with pytest.raises(UsageError, match="told=3 and shown=2"):
        Prompter.fit(planted.cohort, [], shown=2, told=3)
