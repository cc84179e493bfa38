"""Whether the patient has it now: negation, history, family and hypothesis, by scopes of trigger words.

The idea is ConText's (Harkema et al. 2009): a trigger acts forward or backward to the end of its sentence or clause, a
stop word ends its scope, and a pseudo-trigger ("no change") is none. The words stand in context.tsv; Korean triggers
come out of terms.tsv as marks (@none ...), since Korean negates after the noun. Headings ("Past ocular history:") act
on all lines up to the next heading.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import ahocorasick

from clarion.llm.coding.words import Words, read_words, table

EFFECTS = ("negated", "historical", "family", "hypothetical")
_HEADING = re.compile(r"(?:^|(?<=[.;!?] ))[ \t]*(?:[-*•#\d.)]+[ \t]*)?([^:：\n.;]{2,40})[:：]", re.MULTILINE)
_HEADINGS = {
    "historical": "past ocular history;past medical history;past history;ocular history;medical history;"
    "surgical history;history;previous diagnosis;past surgical history;previous history;prior diagnosis;"
    "@history;past ocular surgery",
    "family": "family history;family ocular history;@family;@kin",
    "hypothetical": "differential diagnosis;differential;ddx;return precaution;warning sign;@suspected",
    "negated": "pertinent negative;negative",
}
_KOREAN = re.compile("[\uac00-\ud7a3]")


@dataclass(frozen=True, slots=True)
class Trigger:
    first: int  # words first..last (inclusive)
    last: int
    effect: str
    direction: str
    scope: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a finding is not a current diagnosis of the patient: the effect and the words that caused it."""

    effect: str
    because: str


@lru_cache(maxsize=1)
def _automaton() -> ahocorasick.Automaton:
    automaton = ahocorasick.Automaton()
    for effect, direction, scope, phrase in table("context.tsv"):
        words = [phrase] if phrase.startswith("@") else read_words(phrase).text
        key = f" {' '.join(words)} "
        rows = automaton.get(key, (len(words), ()))[1]
        automaton.add_word(key, (len(words), (*rows, (effect, direction, scope))))
    automaton.make_automaton()
    return automaton


def find_triggers(words: Words) -> list[Trigger]:
    """All triggers, longest first where they overlap, in the order of the text."""
    line = f" {' '.join(words.text)} "
    place, at = {}, 0
    for k, word in enumerate(words.text):
        place[at] = k
        at += len(word) + 1
    found = []
    for end, (n, rows) in _automaton().iter(line):
        last_space = end
        first = _start(line, last_space, n)
        k = place[first]
        if words.sentences[k] == words.sentences[k + n - 1]:
            found.append((k, k + n - 1, rows))
    found.sort(key=lambda f: (f[0] - f[1], f[0]))
    taken: set[int] = set()
    chosen = []
    for first, last, rows in found:
        if taken.isdisjoint(range(first, last + 1)):
            taken.update(range(first, last + 1))
            chosen += [Trigger(first, last, *row) for row in rows]
    return sorted(chosen, key=lambda t: t.first)


def _start(line: str, end: int, n: int) -> int:
    """Where the n-word match that ends at the space `end` begins, as the place of its leading space."""
    for _ in range(n):
        end = line.rfind(" ", 0, end)
    return end


def verdicts(text: str, words: Words, spans: Sequence[tuple[int, int]]) -> list[Verdict | None]:
    """For each finding (first, last word, inclusive): why it does not count, None if it is asserted.

    A trigger inside a finding ("without macular edema" of a title, "glaucoma suspect") is a part of its name."""
    inside = {k for first, last in spans for k in range(first, last + 1)}
    triggers = [t for t in find_triggers(words) if not (t.first in inside and t.last in inside)]
    by_sentence: dict[int, list[Trigger]] = {}
    for trigger in triggers:
        by_sentence.setdefault(words.sentences[trigger.first], []).append(trigger)
    headings = _headings(text)
    starts = [start for start, _, _ in headings]
    return [_verdict(text, words, span, by_sentence, headings, starts) for span in spans]


def _verdict(text, words: Words, span: tuple[int, int], by_sentence, headings, starts) -> Verdict | None:
    nearest: tuple[int, Trigger] | None = None
    here = by_sentence.get(words.sentences[span[0]], [])
    for trigger in here:
        if trigger.effect in ("stop", "none") or not _reaches(words, trigger, span, here):
            continue
        gap = span[0] - trigger.last if trigger.direction == "after" else trigger.first - span[1]
        if nearest is None or gap < nearest[0]:
            nearest = (gap, trigger)
    if nearest is not None:
        first, last = words.span(nearest[1].first, nearest[1].last)
        return Verdict(nearest[1].effect, text[first:last])
    k = bisect_right(starts, words.starts[span[0]]) - 1
    if k >= 0 and headings[k][1]:
        return Verdict(headings[k][1], headings[k][2])
    return None


def _reaches(words: Words, trigger: Trigger, span: tuple[int, int], here: list[Trigger]) -> bool:
    if trigger.direction == "after":
        if span[0] <= trigger.last:
            return False
        between = range(trigger.last + 1, span[0] + 1)
        stopped = any(t.effect == "stop" and trigger.last < t.first <= span[0] for t in here)
    else:
        if span[1] >= trigger.first:
            return False
        between = range(span[1] + 1, trigger.first + 1)
        # What another trigger decided already stays decided: "no glaucoma; cataract was ruled out".
        stopped = any(t.effect != "none" and span[1] < t.first < trigger.first and t.last < trigger.first for t in here)
    if stopped:
        return False
    return trigger.scope == "sentence" or not any(words.breaks[k] for k in between)


@lru_cache(maxsize=1)
def _heading_effects() -> dict[str, str]:
    found = {}
    for effect, phrases in _HEADINGS.items():
        for phrase in phrases.split(";"):
            found[phrase if phrase.startswith("@") else " ".join(read_words(phrase).text)] = effect
    return found


def _headings(text: str) -> list[tuple[int, str | None, str]]:
    """(where it begins, its effect or None, its words) of every line that opens with a heading."""
    effects = _heading_effects()
    found = []
    for match in _HEADING.finditer(text):
        words = read_words(match[1]).text
        key = " ".join(words)
        effect = effects.get(key)
        if effect is None and _KOREAN.search(match[1]):  # 안과 과거력: the last word names the section
            effect = next((effects[w] for w in reversed(words) if w in effects), None)
        found.append((match.start(), effect, match[1].strip()))
    return found
