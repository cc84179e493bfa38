"""Which option a generated answer chooses: tolerant of form, strict about meaning.

"Answer:\\nB) Glaucoma", "(b)", "The correct answer is **B**.", "정답: B", "정답은 ②번", "ㄴ" and the option's own text
are all read; an answer that names several options, refuses, or names none has no choice, and is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJ"
# Other ways to write the n-th option: Korean consonants and syllables, circled numbers (NFKC would lose them).
_OTHER = {mark: LETTERS[k] for marks in ("ㄱㄴㄷㄹㅁ", "①②③④⑤", "ⒶⒷⒸⒹⒺ") for k, mark in enumerate(marks)}

# What announces an answer. The negated forms ("the answer is not A") are cut out first.
_ANNOUNCED = re.compile(
    r"(?:\b(?:final|correct|right|best|my|most\s+likely|most\s+appropriate)?\s*(?:answer|choice)\b"
    r"(?:\s+(?:option|choice|letter))?(?:\s+(?:here|to\s+this\s+question))?\s*(?:is|would\s+be|:|=|-|–)+"
    r"|\b(?:correct|right|best|most\s+likely|most\s+appropriate)\s+(?:option|one)\s*(?:is|would\s+be|:)"
    r"|\bi\s+(?:choose|pick|select|would\s+choose)\b|정\s*답\s*(?:은|는|이)?\s*(?:[:：=-]|\b)|답\s*(?:은|:))\s*",
    re.IGNORECASE,
)
_FINAL = re.compile(r"\b(?:final\s+answer|최종\s*(?:정답|답))", re.IGNORECASE)
# "the answer is not A but C" announces C
_BUT = re.compile(
    r"\b(answer|choice|option|one)\s*(?:is|would\s+be)\s+not\s+[^.\n;]*?,?\s+but\s+(?:rather\s+|instead\s+)?",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(?:answer|choice|option|one)\s*(?:is|would\s+be)?\s*(?:not|n't|never)\b[^.\n;,]*"
    r"|\b(?:not|rather\s+than|instead\s+of|neither|nor)\s+(?:option\s+)?\(?[A-J]\)?(?![\w])",
    re.IGNORECASE,
)
_FILLER = re.compile(r"^(?:\s|[*_`\"'“”‘’:：\-–]|(?:the\s+)?(?:option|choice|letter)\b|보기)+", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:i\s*(?:'m|am)\s+(?:sorry|unable|not\s+able)|i\s+(?:can\s*not|can't|cannot|won't|do\s+not|don't)\s+"
    r"(?:answer|provide|determine|choose|know|give|help|say)|as\s+an\s+ai\b|unable\s+to\s+(?:answer|determine)"
    r"|(?:cannot|can\s*not|can't)\s+be\s+(?:determined|answered)|none\s+of\s+the\s+(?:above|options))"
    r"|답변할\s*수\s*없|알\s*수\s*없|모르겠|죄송",
    re.IGNORECASE,
)
# A letter that stands for an option: alone, in brackets, or before ")", ".", ":"; "A patient" is an article.
_HEAD = re.compile(
    r"^[(\[{]?([A-Ja-j])(?:[)\]}]|[.:;*](?!\w)|(?=,)|(?=\s*$)|(?=\s*\n)|(?=번)"
    r"|(?=\s*(?:and|or|/|&|및|또는|와|과)\s*[(\[]?[A-J](?!\w)))"
)
_NUMBER_HEAD = re.compile(r"^[(\[]?([1-9])\s*(?:번|[)\].](?!\d)|(?=\s*$))")
_BRACKETED = re.compile(r"(?:\b(?:option|choice)\s+([A-J])\b|[(\[]([A-J])[)\]]|(?:^|\n)\s*([A-J])[).:]\s)")
# "A) Glaucoma is wrong.": a labelled option that the same sentence rejects is no choice.
_REJECTED = re.compile(
    r"(?:^|(?<=[\n.;]))\s*[(\[]?[A-J][)\].:][^.\n;]*?(?:\b(?:is|are|was|were|seems?)\s+(?:clearly\s+|also\s+|therefore\s+)?"
    r"(?:wrong|incorrect|false|not\b|unlikely|excluded|ruled\s+out)|\b(?:isn't|aren't)\b)[^.\n;]*(?:[.;]|$|(?=\n))",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"(?:^|\n)\s*[(\[]?([A-J])[)\].:]\s*([^\n]+)")
# Words that any sentence may hold: as options they are a verdict at its head or announced, never by being mentioned.
_VERDICTS = frozenset("yes no maybe true false none unknown uncertain unclear 예 네 아니오 아니요".split())
_DETERMINERS = frozenset("no true false none unknown uncertain unclear".split())  # "No difference was found"
_DENIED = re.compile(r"\b(?:not|no|without|isn't|than|rule[sd]? out)\s+(?:an?\s+|the\s+)?$")
_MORE = re.compile(r"^\W{0,3}\s*(?:and|or|,|/|&|및|또는|와|과)\s*[(\[]?([A-J])(?:[)\].,]|\s|$)")


@dataclass(frozen=True)
class Parsed:
    """index of the option chosen, None where there is no single one; why: none | several | refusal | empty."""

    index: int | None
    why: str = ""


def parse_answer(text: str | None, options: Sequence[str]) -> Parsed:
    """The option that a text chooses. options: their texts, without letters."""
    text = _plain(text)
    if not text:
        return Parsed(None, "empty")
    names = [_fold(option) for option in options]
    kept = _REJECTED.sub(" ", _NEGATED.sub(" ", _BUT.sub(r"\1 is ", text))).strip()
    said = _announced(kept, names)
    if not said:
        head = _head(kept, names)
        said = [] if head is None else [head]
    if said:
        return _single(said)
    if _REFUSAL.search(text) and not any(_REFUSAL.search(option) for option in options):
        return Parsed(None, "refusal")
    bracketed = [LETTERS.index(next(filter(None, m.groups()))) for m in _BRACKETED.finditer(kept)]
    if found := [k for k in bracketed if k < len(options)]:
        return _single([frozenset({k}) for k in found])
    return _single([frozenset(_mentioned(kept, names))])


def _plain(text: str | None) -> str:
    text = "".join(_OTHER.get(c, c) for c in str(text or ""))
    return unicodedata.normalize("NFKC", text).replace("**", "").replace("__", "").strip()


def _fold(text: str) -> str:
    return " ".join(_plain(text).lower().rstrip(".").split())


def _single(said: Sequence[frozenset[int]]) -> Parsed:
    every = frozenset().union(*said)
    if len(every) == 1:
        return Parsed(next(iter(every)))
    return Parsed(None, "several" if every else "none")


def _announced(text: str, names: Sequence[str]) -> list[frozenset[int]]:
    """What stands behind each "the answer is"; behind "final answer" alone, where that is said."""
    found = []
    for match in _ANNOUNCED.finditer(text):
        head = _head(text[match.end() :], names, announced=True)
        if head is not None:
            found.append((bool(_FINAL.search(text[max(0, match.start() - 8) : match.end()])), head))
    final = [head for is_final, head in found if is_final]
    return final or [head for _, head in found]


def _head(text: str, names: Sequence[str], announced: bool = False) -> frozenset[int] | None:
    """The options that the beginning of a text names: a letter (with others behind it), or an option's own text."""
    text = _FILLER.sub("", text)
    line = _fold(text.split("\n", 1)[0])
    letter = _HEAD.match(text)
    if letter is None and announced:  # "the answer is B because": no article can stand here in upper case
        letter = re.match(r"^([A-J])(?![A-Za-z0-9'])", text)
    if letter and (index := LETTERS.index(letter[1].upper())) < len(names):
        rest = text[letter.end() :]
        found = {index}
        while more := _MORE.match(rest):
            found.add(LETTERS.index(more[1].upper()))
            rest = rest[more.end(1) :].lstrip(")].")
        behind = _fold(rest.split("\n", 1)[0].lstrip(" ).:*-"))
        if behind in names and behind != names[index]:  # "B) Glaucoma" where Glaucoma is option C
            found.add(names.index(behind))
        listed = {LETTERS.index(m[1]) for m in _LABELLED.finditer(text) if LETTERS.index(m[1]) < len(names)
                  and _fold(m[2]) == names[LETTERS.index(m[1])]}  # fmt: skip
        if len(listed) == len(names):  # the question's list said again, which chooses nothing
            found |= listed
        return frozenset(found)
    number = _NUMBER_HEAD.match(text)
    if number and line not in names and 1 <= int(number[1]) <= len(names):
        return frozenset({int(number[1]) - 1})
    # The longest option that the text begins with: "open-angle glaucoma" rather than "open"
    begins = [k for k, name in enumerate(names) if name and _begins(line, name)]
    if not begins:
        return None
    best = max(begins, key=lambda k: len(names[k]))
    rest = re.match(r"\W*(?:and|or|,|/|&|및|또는)\s+(.+)", line[len(names[best]) :])  # "yes or no"
    also = [k for k, name in enumerate(names) if rest and name and re.match(rf"{re.escape(name)}(?!\w)", rest[1])]
    return frozenset({best, *also})


def _begins(line: str, name: str) -> bool:
    """Whether a line begins with an option's text: of "no" and the like as a verdict, not as a determiner."""
    found = re.match(rf"{re.escape(name)}(?!\w)", line)
    if found is None or name not in _DETERMINERS:
        return found is not None
    return bool(
        re.match(r"\s*(?:$|[^\w\s]|(?:because|since|as|and|or|it|this|there|they|the|we|또는)\b)", line[found.end() :])
    )


def _mentioned(text: str, names: Sequence[str]) -> set[int]:
    """Options whose text stands in the answer, each place counted for the longest one; "not glaucoma" does not."""
    line, found = _fold(text), set()
    for k in sorted(range(len(names)), key=lambda k: -len(names[k])):
        if not names[k] or names[k] in _VERDICTS:
            continue
        for match in re.finditer(rf"(?<!\w){re.escape(names[k])}(?!\w)", line):
            if not _DENIED.search(line[: match.start()]):
                found.add(k)
        line = re.sub(rf"(?<!\w){re.escape(names[k])}(?!\w)", " ", line)
    return found
