"""Is a generated question usable? Every rule that drops one has a name, which the card counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from clarion.errors import DataError
from clarion.llm.jsonl import Item
from clarion.llm.options import MOST, find_answer, plain, read_options, repeated
from clarion.llm.qa_checks import MIN_LEAK_WORDS, normal

REASONS = {
    "no_json": "the reply holds no JSON object",
    "fields_missing": "question or answer is missing or no text",
    "options_missing": f"not 2 to {MOST} options",
    "options_repeated": "two options say the same",
    "answer_not_an_option": "the answer is none of the options",
    "placeholder": "the example of the prompt is repeated instead of filled in",
    "too_short": "the question has fewer than four words, or an essay answer fewer than three",
    "refers_to_passage": "the question speaks of a passage that its reader does not have",
    "answer_in_question": "the question gives the answer away",
    "not_grounded": "words or numbers of the answer do not stand in the passage",
    "near_duplicate": "the same question was kept before",
}
MIN_QUESTION_WORDS = 4
MIN_ESSAY_WORDS = 3
_REFERS = re.compile(
    r"\b(?:(?:the|this|given|above|following) (?:passage|text|article|document|paragraph|excerpt|abstract|study)|"
    r"according to the (?:author|text|passage|study))|지문|본문|위 글",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_STOP = frozenset(
    "a an the and or of in on at by for from with without to into is are was were be been being it its this that these "
    "those as not no yes than then which who whom whose can may might could should would will do does did has have had "
    "their there they also such more most less least very between among during after before when where while because"
    "".split()
)


class Dropped(Exception):
    """A generated question that is not kept; `reason` is a key of REASONS."""

    def __init__(self, reason: str):
        super().__init__(REASONS[reason])
        self.reason = reason


def validate(record: Mapping[str, Any], kind: str, passage: str, grounded: float) -> Item:
    """A record (replies.fields) -> item {question, answer, kind [, options, answer_index] [, explanation]}.

    Raises Dropped with the first rule that it breaks. grounded: see `grounding`."""
    question, answer = record.get("question"), record.get("answer")
    if not isinstance(question, str) or not question.strip() or not isinstance(answer, str | int) or answer == "":
        raise Dropped("fields_missing")
    item: Item = {"question": question.strip(), "answer": str(answer).strip(), "kind": kind}
    if isinstance(explanation := record.get("explanation"), str) and explanation.strip():
        item["explanation"] = explanation.strip()
    if kind == "mcqa":
        item |= _options(record, answer)
    if "..." in (item["question"], item["answer"]) or "…" in (item["question"], item["answer"]):
        raise Dropped("placeholder")
    short = kind == "eqa" and len(normal(item["answer"]).split()) < MIN_ESSAY_WORDS
    if short or len(normal(item["question"]).split()) < MIN_QUESTION_WORDS:
        raise Dropped("too_short")
    if _REFERS.search(item["question"]):
        raise Dropped("refers_to_passage")
    if leaks(item):
        raise Dropped("answer_in_question")
    if grounding(item, passage) < grounded:
        raise Dropped("not_grounded")
    return item


def _options(record: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    given = record.get("options")
    if (
        isinstance(given, list)
        and given
        and all(isinstance(o, str) for o in given)
        and len(given) <= MOST
        and repeated(given)
    ):
        raise Dropped("options_repeated")
    try:
        options = read_options(record, "")
    except DataError as error:
        raise Dropped("options_repeated" if "are the same text" in str(error) else "options_missing") from None
    if not options:
        raise Dropped("options_missing")
    try:
        index = find_answer(answer, options, "")
    except DataError:
        raise Dropped("answer_not_an_option") from None
    return {"options": options, "answer_index": index, "answer": options[index]}


def leaks(item: Item) -> bool:
    """The answer stands word for word in the question: an essay answer of four words or more; with options any, unless
    the question names another option too ("Which is commoner, A or B?")."""
    question = f" {normal(item['question'])} "
    answer = normal(item["answer"])
    if not answer or f" {answer} " not in question:
        return False
    if not item.get("options"):
        return len(answer.split()) >= MIN_LEAK_WORDS
    others = [normal(o) for k, o in enumerate(item["options"]) if k != item["answer_index"]]
    return not any(o and f" {o} " in question for o in others)


def grounding(item: Item, passage: str) -> float:
    """Share of the answer's content words (word stems) that stand in the passage, 0 where it has a number that does
    not. An answer without content words ("yes") is judged by its explanation; without one there is nothing to judge: 0.

    It measures wording, not truth: an answer may use the passage's words and still be wrong."""
    known = {_stem(w) for w in _content(passage)}
    numbers = set(_NUMBER.findall(passage))
    for text in (item["answer"], item.get("explanation", "")):
        if set(_NUMBER.findall(text)) - numbers:
            return 0.0
        if wanted := {_stem(w) for w in _content(text)}:
            return len(wanted & known) / len(wanted)
        if _NUMBER.findall(text):
            return 1.0
    return 0.0


def _content(text: str) -> list[str]:
    return [w for w in normal(plain(text)).split() if w not in _STOP and not w[0].isdigit() and len(w) > 1]


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    """Porter's stem of a Latin word; of a Korean one, to which particles and endings are glued, the first two syllables
    without the second's final consonant (낮춘다 and 낮추는 are one verb)."""
    from nltk.stem.porter import PorterStemmer

    if all("가" <= c <= "힣" for c in word[:2]):
        return word[:1] + "".join(chr(ord(c) - (ord(c) - ord("가")) % 28) for c in word[1:2])
    return PorterStemmer().stem(word)
