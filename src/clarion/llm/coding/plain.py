"""What is said in plain words ("the lid droops over the pupil"): words of a clause that together mean a condition.

Looked for only in clauses in which neither a title nor a synonym was read, before the embedding is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from clarion.llm.coding.lexicon import Lexicon, Phrase
from clarion.llm.coding.words import stem, table

# A clause with one of these reports a normal state, an action or advice.
_NOT_NOW = frozenset(
    "normal unremarkable intact clear quiet healthy scheduled performed planned repaired removed discussed explained "
    "risk prevent screening".split()
)
_LINKS = frozenset("is are was were be been has have had its his her their".split())


@dataclass(frozen=True)
class Meaning:
    """groups: of each a word must stand in the clause; without: none of these may; phrase: the codes it means."""

    groups: tuple[frozenset[str], ...]
    without: frozenset[str]
    phrase: Phrase

    @property
    def words(self) -> frozenset[str]:
        """Its single words: where one of them is denied, so is the meaning. (Those side by side may hold their own
        "without", as in an eye without its lens.)"""
        return frozenset(w for group in self.groups for w in group if "_" not in w)


@lru_cache(maxsize=1)
def meanings() -> tuple[Meaning, ...]:
    """plain.tsv, rows with more groups first."""
    found = []
    for codes, text in table("plain.tsv"):
        groups = [part.strip() for part in text.split(";")]
        words = tuple(frozenset(map(_form, g.split("|"))) for g in groups if not g.startswith("!"))
        without = frozenset(_form(w) for g in groups if g.startswith("!") for w in g[1:].split("|"))
        named = tuple(sorted(w for group in words for w in group))
        found.append(Meaning(words, without, Phrase(named, codes.split(","), "plain")))
    return tuple(sorted(found, key=lambda m: -len(m.groups)))


def meaning_of(clause: Sequence[str], lexicon: Lexicon) -> Meaning | None:
    """The meaning of a clause (normalised words) among the codes of the lexicon's scope."""
    if not _NOT_NOW.isdisjoint(clause):
        return None
    words = ["eye" if w == "bilateral" else w for w in clause if w not in _LINKS and w not in ("right", "left")] + ["$"]
    here = {*words, *map("_".join, zip(words, words[1:])), *map("_".join, zip(words, words[1:], words[2:]))}
    for one in meanings():
        if all(not here.isdisjoint(g) for g in one.groups) and here.isdisjoint(one.without):
            if all(code in lexicon.codes for code in one.phrase.codes):
                return one
    return None


def _form(word: str) -> str:
    return "_".join(stem(w) for w in word.split("_"))
