"""Text to ICD-10-CM: rules on sentences as clinics write them, and the embedding with its threshold."""

from __future__ import annotations

import time

import pytest

from clarion.errors import DataError, UsageError
from clarion.llm.coding.coder import LONGEST, MOST_UNKNOWN, TextCoder
from clarion.llm.coding.plain import meanings


@pytest.fixture(scope="module")
def rules():
    return TextCoder(embedding=False)


def codes(coded):
    return [c.code for c in coded.codes]


def reasons(coded):
    return {c.code: c.reason for c in coded.dropped}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("wet AMD right eye active CNV", ["H35.3211"]),  # an embedding alone says nonexudative, H35.3111
        ("no evidence of glaucoma", []),
        ("I am an AI and cannot provide a diagnosis", []),
        ("POAG OD mild stage; cataract OS", ["H40.1111", "H26.9"]),
        ("glaucoma, primary open-angle, OS, severe", ["H40.1123"]),
        ("Right eye POAG, left eye nuclear cataract", ["H40.1110", "H25.12"]),
        ("OD: nuclear cataract, POAG severe; OS: ERM", ["H25.11", "H40.1113", "H35.372"]),
        ("severe NPDR OU with DME", ["E11.3413"]),
        ("both eyes NPDR moderate without DME", ["E11.3393"]),
        ("type 1 diabetes with PDR OU", ["E10.3593"]),
        ("CRVO OS with macular oedema", ["H34.8120"]),
        ("CRVO OS", ["H34.812"]),  # no leaf without a statement on edema: the code above all of that eye
        ("rhegmatogenous retinal detachments left eye", ["H33.002"]),
        ("glacuoma OS", ["H40.9"]),  # two letters exchanged
        ("chronic iridocyclitis o.s.", ["H20.12"]),
        ("blindness right eye category 3, low vision left eye category 1", ["H54.1131"]),
        ("He takes aspirin 1 tab OD. Cataract, nuclear, OS.", ["H25.12"]),  # OD: once a day
        ("floaters OD due to posterior vitreous detachment", ["H43.811"]),  # a symptom beside its diagnosis
        ("glaucoma suspect OU", ["H40.003"]),
        ("양안 원발개방각녹내장 중기", ["H40.1132"]),
        ("우안 증식성 당뇨망막병증, 좌안 핵백내장", ["E11.3591", "H25.12"]),
        ("우안 황반 변성, 습성", ["H35.3210"]),
        ("우안 ERM 및 좌안 망막 전막", ["H35.371", "H35.372"]),
        ("우안에 녹내장이 있으나 좌안은 정상", ["H40.9"]),
        ("lot T1234, vitamin B12, H1N1, L4", []),
    ],
)
def test_reads(rules, text, wanted):
    assert codes(rules(text)) == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Denies glaucoma, cataract.", "negated"),
        ("Glaucoma was ruled out OS", "negated"),
        ("녹내장은 관찰되지 않음", "negated"),
        ("녹내장, 백내장 없음", "negated"),
        ("History of uveitis OD.", "historical"),
        ("s/p RRD repair OS", "historical"),
        ("과거력: 좌안 망막박리", "historical"),
        ("Past ocular history:\n- iritis OD\n- cataract OU", "historical"),
        ("Family history of glaucoma in her mother", "family"),
        ("녹내장 가족력이 있음", "family"),
        ("If you develop retinal detachment, call us", "hypothetical"),
        ("좌안 망막전막이 의심됨", "hypothetical"),
        ("Possible optic neuritis OS", "hypothetical"),
    ],
)
def test_what_the_patient_has_not_is_dropped_with_its_reason(rules, text, reason):
    coded = rules(text)
    assert codes(coded) == [] and set(reasons(coded).values()) == {reason}
    assert all(c.negated == (reason == "negated") and c.detail for c in coded.dropped)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("no change in glaucoma OD", ["H40.9"]),  # a pseudo-trigger
        ("She has no glaucoma but has cataract in the left eye.", ["H26.9"]),
        ("History of present illness: cataract OD.", ["H26.9"]),
        ("History: glaucoma.\nAssessment: cataract OD", ["H26.9"]),
        ("녹내장은 없으나 백내장이 있다", ["H26.9"]),
        ("백내장은 있으나 녹내장은 없다", ["H26.9"]),
        ("Retinal detachment without retinal break, right eye", ["H33.21"]),  # "without" belongs to the name
        ("diabetic retinopathy, rule out macular edema", ["E11.319"]),  # what is denied is no detail of the leaf
    ],
)
def test_scopes_end_and_names_are_no_triggers(rules, text, wanted):
    assert codes(rules(text)) == wanted


def test_the_other_eye_than_the_case_s_is_dropped(rules):
    for coded in (
        rules("Epiretinal membrane OD. Macular hole OS.", laterality="OD"),
        rules("Study eye: right. Fellow eye has a macular hole. Epiretinal membrane."),
        rules("대상안: 우안. 우안 망막전막, 좌안 황반원공."),
    ):
        assert codes(coded) == ["H35.371"]
        assert reasons(coded) == {"H35.342": "wrong_eye"}
    with pytest.raises(UsageError, match="OD, OS or OU"):
        rules("ERM", laterality="upside")


def test_codes_that_are_written(rules):
    coded = rules("Codes: H40.1131, h2511, C4A.0 and H35.99; old H40.11X1.")
    assert codes(coded) == ["H40.1131", "H25.11", "C4A.0"]
    assert coded.codes[0].chain == ["H40.1131", "H40.113", "H40.11", "H40.1", "H40", "H40-H42", "7"]
    assert [c.text for c in coded.dropped] == ["H35.99", "H40.11X1"]
    assert len(coded.failures) == 2 and "H40.111" in coded.failures[1]
    listed = rules("Diagnosis:\nMacular hole; glaucoma\nICD-10-CM:\nH35.371; H25.11")
    assert codes(listed) == ["H35.371", "H25.11"]  # what states its codes is taken at its word
    assert codes(rules("Cataract.\nICD-10-CM:\n")) == []


def test_spans_are_places_of_the_text(rules):
    text = "Sicht. 우안 망막 전막 — ERM?\nPOAG, left eye, severe stage"
    for c in rules(text).codes + rules(text).dropped:
        assert text[c.start : c.end] == c.text and c.text


def test_bad_notes_end_in_a_sentence_and_bounded_time(rules):
    empty = rules("  \n")
    assert empty.codes == [] and "empty" in empty.failures[0]
    long = rules("Patient with POAG OD and cataract OS. Cornea clear.\n" * 20_000)
    assert codes(long) == ["H40.1110", "H26.9"] and f"{LONGEST:,}" in long.failures[0]
    with pytest.raises(DataError, match="a note is text"):
        rules(b"POAG")
    with pytest.raises(UsageError, match="no code, block or chapter"):
        TextCoder(scope="H999", embedding=False)
    with pytest.raises(UsageError, match="cosine"):
        TextCoder(threshold=3.0)
    with pytest.raises(DataError, match="2 texts, but 1"):
        rules.batch(["a", "b"], ["OD"])


@pytest.mark.parametrize(
    "unit",
    ["cataract OD, glaucoma OS, ", "H40.1131 ", "H40.11{} ", "NPDR. ", "cataract. OD. ", "glaucoma and not uveitis "],
)
def test_the_time_of_a_note_grows_with_its_length_alone(rules, unit):
    """Without full stops, of codes alone, of codes that do not exist: what once took hours."""
    note = "".join(unit.format(k) for k in range(60_000 // len(unit)))
    began = time.process_time()
    coded = rules(note)
    assert time.process_time() - began < 20  # seconds; 0.2 to 2 measured
    assert coded.codes and len(coded.failures) <= MOST_UNKNOWN + 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The left upper eyelid sags.", "H02.40"),
        ("Her right eye turns and drifts outward", "H50.1"),
        ("A clot has blocked the central vein of the retina, left eye", "H34.81"),
        ("The pressure inside the eye is high, blood tests pending", "H40.05"),
        ("the right eye is without a lens", "H27.0"),
        ("the lens is not cloudy", None),
        ("a scar of the cornea was not seen", None),
        ("no raised pressure of the eye or nerve damage", None),
        ("drooping of the eyelid was ruled out", None),
        ("high blood pressure, treated by the eye doctor's colleague", None),
        ("call us at once for infection within a week of the injection", None),
        ("the retinal blood vessels are of equal width", None),
        ("the membrane was peeled off the retina", None),
        ("it turned out that the eye was sore", None),
        ("Family: mother cannot see in the dark", None),
    ],
)
def test_plain_words_that_mean_a_condition(rules, text, wanted):
    coded = rules(text)
    assert (codes(coded) == []) if wanted is None else any(wanted in c.chain for c in coded.codes), coded


def test_every_meaning_in_plain_words_names_codes_that_exist(rules):
    assert all(code in rules.lexicon.codes for one in meanings() for code in one.phrase.codes)


def test_phrases_that_an_embedding_gets_wrong_are_right_or_no_code_with_it():
    """The known failures of a bare embedding, and the disclaimer, through rules and embedding."""
    coder = TextCoder(scope=["H35.3", "H40", "H53.1"])  # their wrong answers lie in this scope; a small index
    texts = ["wet AMD right eye active CNV", "no evidence of glaucoma", "I am an AI and cannot provide a diagnosis",
             "As a language model I cannot examine your vision"]  # fmt: skip
    assert [codes(one) for one in coder.batch(texts)] == [["H35.3211"], [], [], []]


def test_scope_bounds_titles_but_not_written_codes():
    cataract = TextCoder(scope="H25", embedding=False)
    assert codes(cataract("Nuclear cataract OD, POAG OS, H40.1131")) == ["H25.11", "H40.1131"]


def test_every_eye_leaf_title_is_its_own_code(rules):
    leaves = rules.system.descendant_leaves("7")
    coded = rules.batch([rules.system.title(c) for c in leaves])
    assert len(leaves) == 2677
    assert [codes(one) for one in coded] == [[c] for c in leaves]


def test_embedding_reads_paraphrases_and_refuses_below_its_threshold():
    coder = TextCoder(scope="H35.3")  # a small index
    text = "maculopathy by toxins of the right eye"
    (clause, code, cosine), *_ = coder.nearest([text])[0]
    assert code == "H35.381" and 0.3 < cosine < 1 and clause in text
    above = TextCoder(scope="H35.3", threshold=cosine - 0.01)(text)
    below = TextCoder(scope="H35.3", threshold=cosine + 0.01)(text)
    assert codes(above) == ["H35.381"] and above.codes[0].how == "embedding" and 0 < above.codes[0].confidence < 1
    assert codes(below) == [] and reasons(below) == {"H35.381": "below_threshold"}
    denied = TextCoder(scope="H35.3", threshold=0.1)("no maculopathy by toxins of the right eye")
    assert codes(denied) == [] and "negated" in reasons(denied).values()
