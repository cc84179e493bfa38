"""Contradictions: rules one by one, and how often they are right on pairs of answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clarion.evaluators.polarity import contradiction, statements, verdict

sys.path.insert(0, str(Path(__file__).parent))
from polarity_pairs import AGREE, CONTRADICT, HELD_OUT  # noqa: E402


@pytest.mark.parametrize(
    ("reference", "answer", "reason"),
    [
        ("yes", "no", "verdict"), ("The pit is present.", "The pit is absent.", "opposite"),
        ("It causes blindness.", "It does not cause blindness.", "negation"),
        ("The left eye is red.", "The right eye is red.", "side"),
        ("The pressure is 28 mmHg.", "The pressure is 14 mmHg.", "number: 28 / 14 mmhg"),
        ("Stage 2.", "This is stage III.", "number"),
    ],
)  # fmt: skip
def test_each_rule_names_its_reason(reference, answer, reason):
    found = contradiction(reference, answer)
    assert found and any(r.startswith(reason) for r in found)
    assert contradiction(answer, reference), "the rules are symmetric"
    assert contradiction(reference, reference) == [] == contradiction(answer, answer)


def test_a_verdict_is_a_sentence_of_its_own():
    assert [verdict(t) for t in ("Yes, it does.", "no", "No tear is seen.", "Not now", "예, 있습니다", "")] == [
        "yes", "no", None, None, "yes", None,
    ]  # fmt: skip


def test_two_negations_are_none():
    assert contradiction("The membrane is not absent.", "The membrane is present.") == []


def test_other_topics_do_not_contradict():
    """A low similarity of the embeddings switches the detailed rules off, but not yes against no."""
    assert contradiction("The lens is 4 mm thick.", "The lens is 9 mm thick.", similarity=0.9)
    assert contradiction("The lens is 4 mm thick.", "The lens is 9 mm thick.", similarity=0.1) == []
    assert contradiction("yes", "no", similarity=0.1)


def test_numbers_agree_within_their_tolerance_and_unit():
    assert contradiction("It measures 405 um.", "It measures 404 microns.") == []
    assert contradiction("It measures 405 um.", "It measures 2 mm.") == []  # other units are not compared
    assert contradiction("It costs 1,200 mg.", "It costs 1200 mg.") == []
    assert statements("Vision is 20/40.")[0].numbers == {"acuity": {0.5}}


def test_accuracy_on_pairs():
    """42 of 44 contradictions and 40 of 40 agreeing pairs that the rules were written beside; on 40 pairs written
    afterwards 34 are right (16 of 20 contradictions found, 18 of 20 agreements left alone)."""
    assert sum(bool(contradiction(a, b)) for a, b in CONTRADICT) >= 42
    assert sum(bool(contradiction(a, b)) for a, b in AGREE) == 0
    right = [bool(contradiction(a, b)) == wanted for a, b, wanted in HELD_OUT]
    assert sum(right) >= 34


def test_long_answers_are_compared_sentence_by_sentence():
    reference = "Uveitis is an inflammation. It is painful. Steroids are the treatment. Surgery is not needed."
    answer = "Steroids are the treatment of uveitis, an inflammation which is painful. It is not a tumour."
    assert contradiction(reference, answer) == []
    assert contradiction(reference, answer + " Surgery is needed.")
