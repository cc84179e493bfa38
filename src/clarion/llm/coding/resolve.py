"""From what a phrase names (often a group of codes) to the leaf with this eye, stage and detail.

A leaf fits if its eye is the finding's and every further word of its title stands near the finding ("mild", "active
choroidal neovascularization"). Where none fits, the deepest code that all leaves of that eye share is returned: a code
that says less rather than one that says what the note does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clarion.codes.icd10cm import CodeSystem
from clarion.llm.coding.laterality import title_side
from clarion.llm.coding.lexicon import Phrase, phrase_words

# Words of titles that add nothing to be looked for in a note.
_IDLE = frozenset(
    "unspecified eye eyelid stage with and or side orbit lacrimal passage gland disease not elsewhere "
    "classified".split()
)
_EQUAL = {
    "advanced": "severe",
    "early": "mild",
    "end": "severe",
    "endstage": "severe",
    "quiescent": "inactive",
    "intermediate": "intermediate",
}


@dataclass(frozen=True, slots=True)
class Leaf:
    code: str
    side: str | None  # right, left, bilateral, unspecified; None where the code knows no eye
    words: frozenset[str]  # of the title, without those that are idle or behind "without"
    excluded: frozenset[str]  # behind "without"
    vague: bool  # "unspecified" stands in the title for something else than the eye


class Resolver:
    """Chooses leaves; the features of each leaf are taken from its title once."""

    def __init__(self, system: CodeSystem):
        self.system = system
        self._leaves: dict[str, Leaf] = {}
        self._below: dict[str, tuple[Leaf, ...]] = {}
        self._titles: dict[str, frozenset[str]] = {}

    def below(self, code: str) -> tuple[Leaf, ...]:
        if code not in self._below:
            self._below[code] = tuple(self.leaf(c) for c in self.system.descendant_leaves(code))
        return self._below[code]

    def leaf(self, code: str) -> Leaf:
        if code not in self._leaves:
            words = phrase_words(self.system.title(code))
            cut = words.index("without") if "without" in words else len(words)
            side = title_side(words)
            sides = {"right", "left", "bilateral"} if side else set()
            kept = frozenset(words[:cut]) - _IDLE - sides
            unspecified = sum(w == "unspecified" for w in words) - (side == "unspecified")
            excluded = frozenset(words[cut + 1 :]) - _IDLE - sides - kept
            self._leaves[code] = Leaf(code, side, kept, excluded, unspecified > 0)
        return self._leaves[code]

    def _title(self, code: str) -> frozenset[str]:
        if code not in self._titles:
            self._titles[code] = frozenset(phrase_words(self.system.title(code)))
        return self._titles[code]

    def resolve(self, phrase: Phrase, evidence: Iterable[str], side: str | None) -> tuple[str, frozenset[str]]:
        """(code, words of the evidence that decided for it).

        evidence: words near the finding that are not negated. side: right, left, bilateral or None."""
        near = set(evidence)
        near |= {_EQUAL[w] for w in near if w in _EQUAL}
        codes = phrase.codes
        if len(codes) == 1 and self.system.is_leaf(codes[0]):
            return codes[0], frozenset()
        for group in dict.fromkeys((tuple(codes), (codes[0],))):  # the first code is the default of several
            known = set(phrase.words)
            known |= frozenset.intersection(*map(self._title, group))
            leaves = [leaf for c in group for leaf in self.below(c)]
            best = self._best(leaves, known, near, side)
            if best is not None:
                return best.code, (best.words - known) & near
        return self._shared(codes, known, side), frozenset()

    def _best(self, leaves: list[Leaf], known: set[str], near: set[str], side: str | None) -> Leaf | None:
        fitting = []
        for leaf in leaves:
            extra = leaf.words - known
            if extra - near or not _side_fits(leaf.side, side):
                continue
            if leaf.excluded and leaf.excluded <= near | known:
                continue
            exact_side = leaf.side == side if side else leaf.side in (None, "unspecified")
            fitting.append(
                ((exact_side, len(extra), -len(leaf.excluded - known) if not leaf.excluded else 0, leaf.vague), leaf)
            )
        if not fitting:
            return None
        top = max(key for key, _ in fitting)
        return next(leaf for key, leaf in fitting if key == top)

    def _shared(self, codes: list[str], known: set[str], side: str | None) -> str:
        """The deepest code above all leaves that have the finding's eye."""
        leaves = [leaf for c in codes for leaf in self.below(c)]
        same = [leaf for leaf in leaves if leaf.side == (side or "unspecified")] or leaves
        plain = [leaf for leaf in same if "other" not in leaf.words or "other" in known] or same
        chains = [self.system.chain(leaf.code) for leaf in plain]
        return next(code for code in chains[0] if all(code in chain for chain in chains))


def _side_fits(leaf: str | None, side: str | None) -> bool:
    if leaf is None or leaf == "unspecified":
        return True
    return leaf == side
