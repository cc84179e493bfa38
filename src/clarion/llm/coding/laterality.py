"""Which eye: of a finding, by the words around it, and of the case, where the note declares it."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from clarion.errors import UsageError
from clarion.llm.coding.words import Words, read_words

SIDES = ("right", "left", "bilateral")
_ALIASES = {
    "od": "right", "r": "right", "re": "right", "right": "right", "os": "left", "l": "left", "le": "left",
    "left": "left",
    "ou": "bilateral", "b": "bilateral", "both": "bilateral", "bilateral": "bilateral", "우안": "right", "좌안": "left",
    "양안": "bilateral",
}  # fmt: skip
_NO_SIDE_AFTER = frozenset(
    "away now after before handed hand arm leg foot ear lung knee shoulder heart ventricular".split()
)
_DECLARED = re.compile(
    r"(?:study eye|affected eye|operated eye|operative eye|index eye|treated eye|laterality|eye of interest|eye|"
    r"대상\s?안|환측\s?안|수술\s?안|이환\s?안)[ \t]*[:：=][ \t]*(\S+(?:[ \t]+eyes?)?)",
    re.IGNORECASE,
)
_OTHER = {"right": "left", "left": "right"}
_FELLOW = frozenset(("fellow", "contralateral", "other", "opposite"))
_TURNS = frozenset(("and", "while", "whereas", "but", "with", "@turn", "및", "와", "과"))


def parse_side(text: str | None) -> str | None:
    """ "OD", "right", "우안" -> "right"; None stays None. Raises UsageError for anything else."""
    if text is None or not str(text).strip():
        return None
    side = _ALIASES.get(str(text).strip().lower().replace(".", ""))
    if side is None:
        raise UsageError(f"laterality {str(text)[:20]!r}: write OD, OS or OU (right, left, both).")
    return side


def declared_side(text: str) -> str | None:
    """The eye that a note declares for the whole case ("Study eye: OD", "대상안: 우안"), if it declares just one."""
    found = set()
    for match in _DECLARED.finditer(text):
        sides = {side for _, side in find_sides(read_words(match[1].strip(" .,;")))}
        found |= sides
    return found.pop() if len(found) == 1 else None


def find_sides(words: Words) -> list[tuple[int, str]]:
    """(word, right | left | bilateral | fellow) of every mention of a side."""
    found = []
    text = words.text
    for k, word in enumerate(text):
        if word in SIDES:
            following = text[k + 1] if k + 1 < len(text) else ""
            if following in _NO_SIDE_AFTER or (word == "right" and k and text[k - 1] == "all"):
                continue
            found.append((k, word))
        elif word in _FELLOW and k + 1 < len(text) and text[k + 1] == "eye":
            found.append((k, "fellow"))
    return found


def title_side(words: Sequence[str]) -> str | None:
    """The side that a title names: right, left, bilateral; unspecified ("unspecified eye"); None without one, or with
    two that differ (blindness of one eye, low vision of the other)."""
    named = {word for word in words if word in SIDES}
    if len(named) == 1:
        return named.pop()
    if named:
        return None
    places = ("eye", "orbit", "orbital", "eyelid", "lacrimal", "side", "ear")
    for k, word in enumerate(words[:-1]):
        if word == "unspecified" and (words[k + 1] in places):
            return "unspecified"
    return None


def side_of(
    words: Words, first: int, last: int, here: Sequence[tuple[int, str]], others: Sequence[tuple[int, int]]
) -> str | None:
    """The side of the finding in words first..last, by the mentions `here` in its sentence; others: its findings.

    One side in the sentence: that one. Several: the one in the same part of the sentence (between commas and "and");
    else the nearest one with no other finding between, the following before the preceding ("POAG OD, cataract OS")."""
    named = {side for _, side in here}
    if len(named) <= 1:
        return named.pop() if named else None
    inside = [side for k, side in here if first <= k <= last]
    if len(set(inside)) == 1:
        return inside[0]
    parts = _parts(words, words.sentences[first])
    same = {side for k, side in here if parts.get(k) == parts.get(first) or parts.get(k) == parts.get(last)}
    if len(same) == 1:
        return same.pop()

    def clear(a: int, b: int) -> bool:
        return not any(a < f <= b or a < e <= b for f, e in others if (f, e) != (first, last))

    after = [(k - last, side) for k, side in here if k > last and clear(last, k)]
    before = [(first - k, side) for k, side in here if k < first and clear(k, first - 1)]
    if after and (not before or min(after)[0] <= min(before)[0]):
        return min(after)[1]
    if before:
        return min(before)[1]
    # Another finding stands between: a list behind one eye ("OD: cataract, POAG") belongs to the last eye named.
    preceding = [(first - k, side) for k, side in here if k < first]
    return min(preceding)[1] if preceding else None


def _parts(words: Words, sentence: int) -> dict[int, int]:
    """Word -> number of the part of its sentence, cut at commas and conjunctions. A colon joins,
    as in "OD: cataract"."""
    found, part = {}, 0
    for k in range(bisect_left(words.sentences, sentence), bisect_right(words.sentences, sentence)):
        heads = k > 0 and words.text[k - 1] in ("eye", "bilateral")
        if (words.breaks[k] and not heads) or words.text[k] in _TURNS:
            part += 1
        found[k] = part
    return found


def fellow_side(side: str | None) -> str | None:
    """The other eye of a case whose eye is known."""
    return _OTHER.get(side or "")
