"""Cleaning, quality filters, language, and what is about the eye."""

from __future__ import annotations

import json

import pytest
from corpus_files import paragraph

from clarion.evaluators.bootstrap import auc_statistic, codes
from clarion.llm.corpus import spec as specs
from clarion.llm.corpus.clean import clean
from clarion.llm.corpus.eye import eye_score, is_eye_heading
from clarion.llm.corpus.filters import reason_to_drop, repetition
from clarion.llm.corpus.language import language

LIMITS = {key: field.default for key, field in specs.SCHEMA["filters"].items()}


@pytest.mark.parametrize(("raw", "cleaned"), [
    ("ﬁrst ﬂow oﬃce", "first flow office"),
    ("mm² µm ½ ±", "mm² µm ½ ±"),
    ("a\u00a0b\u2003c\t\td", "a b c d"),
    ("a\u200bb\u00adc\ufeffd\x00e\x07", "abcde"),
    ("안과", "안과"),
    ("a \r\n\r\n\r\n\n b\x0cc", "a\n\nb\n\nc"),
    ("  \n x \n ", "x"),
])  # fmt: skip
def test_cleaning(raw, cleaned):
    import unicodedata

    assert clean(raw) == cleaned == clean(cleaned)
    assert clean(unicodedata.normalize("NFD", raw)) == cleaned


def test_repetition_as_published():
    body = [paragraph(k, 2) for k in range(10)]
    assert repetition("\n\n".join(body)) == (0.0, 0.0)
    share, characters = repetition("\n\n".join([*body, *body[:5]]))
    repeated, whole = sum(map(len, body[:5])), sum(map(len, body + body[:5]))
    assert share == pytest.approx(5 / 15) and characters == pytest.approx(repeated / whole)
    assert repetition("a\nb\na\na")[0] == 0.5 and repetition("") == (0.0, 0.0)


@pytest.mark.parametrize(("text", "reason"), [
    (paragraph(1), None),
    ("Too short", "too_short"),
    ("\n\n".join([paragraph(1)] * 2 + [paragraph(2)]), "duplicate_paragraphs"),
    # one long paragraph twice among many short ones: few paragraphs, many characters
    ("\n\n".join([paragraph(1)] * 2 + [f"Eye {k} was seen." for k in range(9)]), "duplicate_characters"),
    ("the eye ... " * 40, "symbols"),
    ("12 34 56 eye " * 40, "few_letters"),
    ("an eye of it is by me " * 20, None),
    ("a b c d e f g h " * 20, "word_length"),
])  # fmt: skip
def test_every_filter_names_its_reason(text, reason):
    assert reason_to_drop(text, LIMITS) == reason


def test_filters_are_switched_off_by_null():
    off = {**dict.fromkeys(LIMITS), "min_words": 0}
    for text in ("x", "a " * 99, "\n\n".join(["same"] * 9), "1 2 3"):
        assert reason_to_drop(text, off) is None
    assert reason_to_drop("one two three", {**off, "max_words": 2}) == "too_long"


def test_languages_offline():
    assert language(paragraph(1))[0] == "en" and language(paragraph(1))[1] > 0.4
    assert language("환자는 양안 녹내장으로 점안약을 사용하고 있으며 안압은 정상이다.")[0] == "ko"
    assert language("Der Patient wurde gestern an der Netzhaut operiert und entlassen.")[0] == "de"
    assert language("12 345 -- 6") == ("", 0.0)


def test_eye_documents_score_higher_than_others():
    eye = "Intravitreal ranibizumab improved visual acuity in eyes with macular edema after retinal vein occlusion."
    passing = "Adverse events were nausea and, in one patient, an eye infection. " + "The dose was raised. " * 40
    korean = "우안 망막전막으로 유리체절제술을 시행하였고 안압은 정상이었다."
    assert eye_score(eye) > 8 and eye_score(korean) > 8 and eye_score(passing) < 3
    assert eye_score("The kidney and the liver.") == 0
    for heading in ("Glaucoma/surgery", "Eye Diseases"):
        assert eye_score("Nothing of it.", mesh=[heading]) == 6.0
    assert is_eye_heading("*Retinal Diseases") and not is_eye_heading("Kidney Diseases")
    # an article scores like its abstract: the same density of terms
    assert eye_score(f"{eye} " * 40) == pytest.approx(eye_score(f"{eye} " * 20), rel=0.02)


def test_the_eye_subset_of_pubmedqa_is_told_from_the_rest(real_data):
    """23 of 1,000 abstracts; text and title alone (their MeSH headings may have chosen the subset)."""
    records = json.loads((real_data / "llm/pubmedqa/ori_pqal.json").read_text("utf-8"))
    eye = set(json.loads((real_data / "llm/pubmedqa/pqal_ophth_subset.json").read_text("utf-8")))
    names = list(records)
    scores = [eye_score("\n".join(records[k]["CONTEXTS"]), records[k]["QUESTION"]) for k in names]
    truth = [k in eye for k in names]
    import numpy as np

    group, _ = codes(names)
    auc = auc_statistic(np.array(scores), np.array(truth), group, len(names))(np.ones((1, len(names))))[0]
    chosen = [score >= 5 for score in scores]
    hits = sum(c and t for c, t in zip(chosen, truth))
    print(f"AUROC {auc:.3f}, precision {hits}/{sum(chosen)}, recall {hits}/{sum(truth)}")
    assert auc > 0.95 and hits / sum(chosen) > 0.6 and hits / sum(truth) > 0.7
