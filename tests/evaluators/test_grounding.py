"""Hallucinations: planted ones are found, true answers are left alone, and the set says what its answers rest on."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from clarion.errors import DataError
from clarion.evaluators.grounding import GroundingEvaluator
from clarion.evaluators.grounding_claims import read_source, unsupported
from clarion.llm.erm_cases import Case, draw_case, findings_text
from clarion.llm.grounding_set import GroundingData

SOURCE = read_source(
    "left eye; epiretinal membrane present, area 8.8 mm2; foveal pit absent; central foveal thickness 346 um; "
    "visual acuity 20/40; metamorphopsia yes; cataract no"
)


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        ("The central foveal thickness is 346 um.", set()), ("The thickness is 500 um.", {"number"}),
        ("Thickness 346 microns, area 8.8 mm2, vision 20/40.", set()), ("Vision is 20/100.", {"number"}),
        ("The left eye is affected.", set()), ("The right eye is affected.", {"side"}),
        ("The foveal pit is lost.", set()), ("The foveal pit is present.", {"polarity"}),
        ("There is no cataract.", set()), ("There is a cataract.", {"polarity"}),
        ("The patient has metamorphopsia.", set()), ("There is no metamorphopsia.", {"polarity"}),
        ("A macular hole is present.", {"finding"}), ("There is no macular hole.", set()),
        ("Two reasons speak for surgery.", set()), ("", set()),
        ("In the right eye a retinal detachment of 3 mm is seen.", {"side", "number", "finding"}),
    ],
)  # fmt: skip
def test_claims_one_by_one(answer, kinds):
    assert {c.kind for c in unsupported(answer, SOURCE)} == kinds


def test_what_follows_from_the_findings_stands_in_the_reference():
    answer = "The fovea is 68 um thicker than normal."
    assert unsupported(answer, SOURCE)
    assert unsupported(answer, read_source("central foveal thickness 346 um", answer)) == []


def test_korean_sources():
    source = read_source("우안; 망막전막이 있다; 백내장이 없다; 중심 두께 434 um")
    assert unsupported("우안에 망막전막이 있다.", source) == []
    assert {c.kind for c in unsupported("좌안에 백내장이 있다.", source)} == {"side", "polarity"}
    assert [c.what for c in unsupported("녹내장이 있다.", source)] == ["녹내장"]


def statements_of(case: Case) -> list[tuple[str, str]]:
    """(true statement, its opposite) for each finding of a case, worded otherwise than the source words it."""
    other = "left" if case.laterality == "right" else "right"

    def either(said: bool, yes: str, no: str) -> tuple[str, str]:
        return (yes, no) if said else (no, yes)

    return [
        (f"The {case.laterality} eye was examined.", f"The {other} eye was examined."),
        either(case.membrane, "An epiretinal membrane is present.", "There is no epiretinal membrane."),
        either(case.pit, "The foveal pit is preserved.", "The foveal pit is lost."),
        tuple(f"Central thickness is {case.thickness_um + more} microns." for more in (0, 90)),
        (f"Visual acuity is 20/{case.vision}.", f"Visual acuity is 20/{case.vision * 3}."),
        either(case.cataract, "The eye has a cataract.", "The eye has no cataract."),
        either(case.distortion, "The patient reports metamorphopsia.", "The patient denies metamorphopsia."),
        either(case.eifl_um > 0, "Ectopic inner foveal layers are seen.", "No ectopic inner foveal layers are seen."),
    ]


INVENTED = ("Macular edema is present too.", "Drusen are seen.", "There is subretinal fluid.", "Uveitis is likely.")


def otherwise(case: Case) -> list[tuple[str, str]]:
    """The same findings in other words, written after the rules. As first measured on these, recall was .90 and
    precision .84; "is not reported" and "foveal" for "of the fovea" were then added to the rules."""
    other = "left" if case.laterality == "right" else "right"

    def either(said: bool, yes: str, no: str) -> tuple[str, str]:
        return (yes, no) if said else (no, yes)

    covered = (f"The membrane covers an area of {case.area_mm2} mm2.", "The membrane is absent.")
    bare = ("No membrane covers the retina.", "A membrane covers 7.7 mm2 of the retina.")
    return [
        (f"These are findings of the {case.laterality} eye.", f"These are findings of the {other} eye."),
        either(case.membrane, "We see an epiretinal membrane.", "No epiretinal membrane is visible."),
        covered if case.membrane else bare,
        either(case.pit, "The pit of the fovea is intact.", "There is no foveal pit."),
        tuple(f"At {case.thickness_um - less} um, the fovea was measured." for less in (0, 60)),
        (f"The eye sees 20/{case.vision}.", f"The eye sees 20/{case.vision * 2}."),
        either(case.cataract, "A cataract is found as well.", "The lens is free of cataract."),
        either(case.distortion, "Metamorphopsia is reported.", "Metamorphopsia is not reported."),
        either(case.disrupted, "The layers of the retina are disrupted.", "The layers of the retina are distinct."),
    ]


def planted(wording=statements_of, count: int = 200) -> tuple[np.ndarray, np.ndarray, dict[int, list[bool]]]:
    """(flagged true answers, flagged planted answers, planted by statement): three statements an answer."""
    rng = np.random.default_rng(0)
    clean, wrong, by_statement = [], [], {}
    for k in range(count):
        case = draw_case(f"planted-{k}", 0)
        source, said = read_source(findings_text(case)), wording(case)
        chosen = rng.choice(len(said), 3, replace=False)
        truth = [said[i][0] for i in chosen]
        clean.append(bool(unsupported(" ".join(truth), source)))
        which = int(rng.integers(0, 4))
        if which == 3:
            lie, kind = " ".join([*truth, INVENTED[k % len(INVENTED)]]), -1
        else:
            kind = int(chosen[which])
            lie = " ".join(said[i][1] if i == kind else said[i][0] for i in chosen)
        wrong.append(bool(unsupported(lie, source)))
        by_statement.setdefault(kind, []).append(wrong[-1])
    return np.array(clean), np.array(wrong), by_statement


@pytest.mark.parametrize("wording", [statements_of, otherwise])
def test_planted_contradictions_are_found_and_true_answers_left_alone(wording):
    clean, wrong, by_statement = planted(wording)
    recall, precision = wrong.mean(), wrong.sum() / (wrong.sum() + clean.sum())
    assert recall >= 0.95 and precision >= 0.95, (recall, precision, {k: np.mean(v) for k, v in by_statement.items()})
    assert {-1, *range(8)} <= set(by_statement)


@pytest.fixture(scope="module")
def data():
    data = GroundingData(train=10, val=5, test=40)
    data.prepare()
    return data


def test_the_set_rests_on_its_facts(data):
    assert data.check().ok
    truth = data.truth("test")
    assert set(truth["kind"]) == {"open_book", "closed_book"} and truth["context"].ne("").all()
    prompts = {s.sample_id: str(s.inputs["messages"]) for s in data.samples("test")}
    for row in truth.itertuples():
        assert (row.context in prompts[row.sample_id]) == (row.kind == "open_book"), "closed-book facts are withheld"
    wordings = [set(data.truth(s).query("kind == 'closed_book'")["question"]) for s in ("train", "val", "test")]
    assert not wordings[0] & wordings[1] and not wordings[1] & wordings[2] and not wordings[0] & wordings[2]


def test_reference_answers_are_grounded_and_others_are_not(data):
    truth = data.truth("test")
    predictions = truth[["sample_id", "patient_id"]].assign(text=truth["answer"])
    result = GroundingEvaluator().evaluate(predictions.sample(frac=1, random_state=0), truth, {"seed": 0})
    rate = result["metrics"]["hallucination_rate"]
    assert rate["value"] == 0 and rate["n"] == 48 and 0 < rate["high"] < 0.25 and "Wilson" in rate["method"]
    base = result["baseline"]["hallucination_rate"]
    assert base["value"] > 0.4 and base["name"] == "another question's reference answer"
    assert set(result["subgroups"]["kind"]) == {"open_book", "closed_book"}
    json.dumps(result, allow_nan=False)


def test_rates_count_answers_and_name_the_kind():
    keys = {"sample_id": ["a", "b", "c", "d"], "patient_id": ["p", "q", "r", "s"]}
    asked = "Findings: left eye; cataract no; thickness 300 um. Describe."
    truth = pd.DataFrame({**keys, "question": asked, "answer": "No."})
    texts = ["There is a cataract in the right eye.", "Thickness 300 um.", "", "Glaucoma is present, 400 um."]
    result = GroundingEvaluator().evaluate(pd.DataFrame({**keys, "text": texts}), truth, {"seed": 0})
    values = {name: m["value"] for name, m in result["metrics"].items()}
    assert values == {"hallucination_rate": 0.5, "number_rate": 0.25, "side_rate": 0.25, "polarity_rate": 0.25,
                      "finding_rate": 0.25, "empty_rate": 0.25}  # fmt: skip
    assert any("1 empty answer(s) claim nothing" in n for n in result["notes"])


def test_open_and_closed_book_are_metrics_of_their_own(data):
    """Open-book answers true, closed-book ones about another fact: 0 and 1 by their own n, in metrics and baseline."""
    truth = data.truth("test")
    closed = truth["kind"] == "closed_book"
    texts = ["There is a macular hole." if c else a for c, a in zip(closed, truth["answer"], strict=True)]
    predictions = pd.DataFrame({"sample_id": truth.sample_id, "patient_id": truth.patient_id, "text": texts})
    result = GroundingEvaluator(n_resamples=50).evaluate(predictions.sample(frac=1, random_state=1), truth, {"seed": 0})
    both = [result["metrics"][f"hallucination_rate_{book}"] for book in ("open_book", "closed_book")]
    assert [e["value"] for e in both] == [0, 1] and [e["n"] for e in both] == [(~closed).sum(), closed.sum()]
    assert both[1]["method"].startswith("closed-book questions: share of answers") and both[0]["high"] > 0
    base = [result["baseline"][f"hallucination_rate_{book}"] for book in ("open_book", "closed_book")]
    weighted = sum(e["value"] * e["n"] for e in base) / len(truth)
    assert weighted == pytest.approx(result["baseline"]["hallucination_rate"]["value"])
    none = GroundingEvaluator(n_resamples=50).evaluate(predictions, truth.drop(columns="kind"), {"seed": 0})
    assert not any("book" in name for name in none["metrics"])


def test_without_a_source_nothing_can_be_grounded():
    table = pd.DataFrame({"sample_id": ["a"], "patient_id": ["p"], "answer": ["x"]})
    with pytest.raises(DataError, match="neither context nor question"):
        GroundingEvaluator().evaluate(table.assign(text="x"), table, {})
