"""Rationales from templates and drafts: what they say is so, in both languages, and what a draft invents goes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clarion.cancer.lookup import fit_pancancer
from clarion.cancer.rationale.draft import conversation, draft_rationales
from clarion.cancer.rationale.gather import gather_facts
from clarion.cancer.rationale.korean import closed, listed, with_particle
from clarion.cancer.rationale.rationale import SECTIONS
from clarion.cancer.rationale.template import write_rationale
from clarion.cancer.synthetic import synthetic_cohort
from clarion.errors import ClarionError, DataError, UsageError
from clarion.evaluators.factcheck_facts import Facts, Gene, Pattern
from clarion.evaluators.factcheck_text import check

FACTS = Facts(
    genes=(Gene("TP53", 0.42, 0.003, 1.83), Gene("KRT5", -0.31, 2.3e-5, -1.2), Gene("MKI67", 0.55, None, 0.1)),
    patterns=(Pattern("necrosis", 0.32), Pattern("lymphocytes", 0.21), Pattern("fat", 0.03)),
    age=61.7, sex="F", stage="IIIA", cancer="LUAD", survival=0.38, interval=(0.22, 0.55, 0.95),
)  # fmt: skip
OTHERS = {
    "survivor": Facts(FACTS.genes, FACTS.patterns, 44, "M", "II", "", 0.71),
    "slide alone": Facts((), (Pattern("stroma"), Pattern("high_grade")), survival=0.5, missing=("omics", "clinical")),
    "omics alone": Facts(FACTS.genes, (), survival=0.2, horizon=36.0, missing=("slide", "clinical")),
    "nothing": Facts(missing=("slide", "omics", "clinical")),
}


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("facts", [FACTS, *OTHERS.values()], ids=["all", *OTHERS])
def test_every_template_sentence_is_checked_and_supported(facts, language):
    phrasings = set()
    for seed in range(8):
        rationale = write_rationale(facts, language, seed)
        text = rationale.text()
        found = check(text, facts, ["EGFR", "TP53"])
        assert not found.unsupported and found.text == text and not found.unread and not found.omission
        assert all(s.section in SECTIONS and s.states and s.text.endswith(".") for s in rationale.sentences)
        kinds = ("gene", "direction", "coefficient")
        stated = {fact for s in rationale.sentences for fact in s.states}
        assert {f"{kind}:{g.name}" for g in facts.genes for kind in kinds} <= stated
        phrasings.add(text)
    assert len(phrasings) > 1
    assert write_rationale(facts, language, 3) == write_rationale(facts, language, 3)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_a_text_of_other_facts_is_caught(language):
    """Each fact changed alone: the text written from the changed facts contradicts the true ones."""

    def changed(**fields):
        return Facts(**{**{k: getattr(FACTS, k) for k in FACTS.__dataclass_fields__}, **fields})

    tp53 = FACTS.genes[0]
    wrong = {
        "gene": changed(genes=(Gene("EGFR", 0.42, 0.003, 1.83), *FACTS.genes[1:])),
        "direction": changed(genes=(Gene("TP53", -0.42, 0.003, 1.83), *FACTS.genes[1:])),
        "q": changed(genes=(Gene("TP53", tp53.coef, 0.03, tp53.z), *FACTS.genes[1:])),
        "expression": changed(genes=(Gene("TP53", tp53.coef, tp53.q, -1.83), *FACTS.genes[1:])),
        "pattern": changed(patterns=(Pattern("stroma", 0.32), *FACTS.patterns[1:])),
        "share": changed(patterns=(Pattern("necrosis", 0.44), *FACTS.patterns[1:])),
        "outcome": changed(survival=0.62),
        "probability": changed(survival=0.48),
        "age": changed(age=71.0),
        "sex": changed(sex="M"),
        "stage": changed(stage="IIIB"),
        "missing": changed(missing=("slide",)),
    }
    for kind, facts in wrong.items():
        found = check(write_rationale(facts, language, 1).text(), FACTS, ["EGFR", "TP53"])
        assert kind in {c.kind for c in found.unsupported}, kind
        assert found.precision < 1 and found.removed
        assert check(found.text, FACTS, ["EGFR", "TP53"]).precision == 1


def test_a_draft_loses_what_it_invented_and_gets_what_it_left_out():
    asked = []

    def generate(conversations):  # a stand-in for the model: the generator is handed in, this one is told what to say
        asked.extend(conversations)
        return ["## Summary\nThe patient is predicted to survive. She is a smoker.\n## Genes\nTP53 is a risk gene. "
                "EGFR is protective."] * len(conversations)  # fmt: skip

    (draft,) = draft_rationales([FACTS], generate, symbols=["EGFR"])
    assert "TP53" in asked[0][1]["content"] and asked[0][0]["role"] == "system"
    assert len(draft.checked.removed) == 3 and draft.checked.precision < 1
    assert "EGFR" not in draft.text and "smoker" not in draft.text and "TP53 is a risk gene." in draft.text
    final = check(draft.text, FACTS, ["EGFR"])
    assert final.precision == 1 and not final.omission and draft.added
    assert draft_rationales([FACTS], generate, complete=False)[0].added == ()
    assert "한국어" in conversation(FACTS, "ko")[0]["content"]
    (korean,) = draft_rationales([FACTS], lambda c: ["TP53은 보호 유전자이다."], "ko")
    assert korean.checked.removed and check(korean.text, FACTS).precision == 1


def test_a_generator_that_loses_an_answer_and_unknown_languages_are_named():
    with pytest.raises(ClarionError, match="2 patients"):
        draft_rationales([FACTS, FACTS], lambda conversations: ["one"])
    for call in (lambda: write_rationale(FACTS, "kr"), lambda: draft_rationales([FACTS], lambda c: [""], "kr")):
        with pytest.raises(UsageError, match="en or ko"):
            call()


def test_facts_come_from_a_fitted_table():
    cohort = synthetic_cohort(1, 120, 40, shared=2, specific=0, opposed=0, effect=1.0, cnv=0, mut=0)
    cancer = cohort.cancers[0]
    train = cohort.patients[:100]
    rna = cohort.omics["rna"]
    table = fit_pancancer([(cancer, rna.loc[train], cohort.time[:100], cohort.event[:100])])
    patient = cohort.patients[110]
    z = (rna.loc[patient] - rna.loc[train].mean()) / rna.loc[train].std()
    facts = gather_facts(table.of(cancer), z, top=5, patterns={"fat": 0.1, "necrosis": 0.6}, survival=0.7,
                         clinical={"age": 58.2, "sex": "M", "stage": "Stage II"}, cancer=cancer)  # fmt: skip
    rows = table.of(cancer)
    assert len(facts.genes) == 5 and facts.patterns[0].name == "necrosis" and facts.stage == "II" and not facts.missing
    assert facts.genes[0].q == pytest.approx(rows["q"].min())
    for gene in facts.genes:
        assert gene.coef == rows.at[gene.name, "coef"] and gene.z == pytest.approx(z[gene.name])
    bare = gather_facts(table.of(cancer), None, clinical={"age": np.nan, "sex": ""})
    assert bare.missing == ("slide", "omics", "clinical") and bare.genes == ()
    for language in ("en", "ko"):
        assert check(write_rationale(facts, language).text(), facts, list(table.genes)).precision == 1
    with pytest.raises(DataError, match="coef"):
        gather_facts(pd.DataFrame({"q": [0.1]}, index=["A1"]), {"A1": 1.0})


def test_particles_follow_how_a_word_is_read():
    assert [with_particle(w, "은") for w in ("TP53", "KRT5", "EGFR", "MYC", "괴사", "기질")] == [
        "TP53은", "KRT5는", "EGFR은", "MYC는", "괴사는", "기질은"]  # fmt: skip
    assert listed(["괴사", "기질", "지방"]) == "괴사, 기질과 지방" and not closed("32%")


def test_facts_survive_json_and_refuse_what_is_no_fact():
    assert Facts.read(FACTS.to_json()) == FACTS
    for wrong in ({"survival": 1.4}, {"genes": [{"name": "A1", "coef": 0}]}, {"sex": "w"}, {"ages": 3},
                  {"missing": ["mri"]}, {"interval": [0.5, 0.2, 0.95]}, {"genes": [{"gene": "A1"}]}, "no json",
                  "[1]", {"schema": "other/2"},
                  {"genes": [{"name": "A1", "coef": 1}, {"name": "a1", "coef": 2}]}):  # fmt: skip
        with pytest.raises(DataError):
            Facts.read(wrong)
