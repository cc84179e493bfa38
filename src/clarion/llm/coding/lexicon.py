"""The phrases that stand for codes: titles, titles without their eye, inclusion terms and the field's own synonyms.

`Lexicon.find` looks for all of them at once: word for word (Aho-Corasick over the normalised stream), then in any order
within a few words ("glaucoma, primary open-angle"), and keeps what weighs most where findings overlap.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import ahocorasick
from rapidfuzz import process
from rapidfuzz.distance import OSA

from clarion.codes.icd10cm import CodeSystem, icd10cm
from clarion.errors import UsageError
from clarion.llm.coding.words import SKIPPED, Words, composed, expansions, read_words, table

EYE = (
    "7",
    "E08.3",
    "E09.3",
    "E10.3",
    "E11.3",
    "E13.3",
    "B30",
    "C69",
    "D31",
    "G24.5",
    "L03.213",
    "Q10",
    "Q11",
    "Q12",
    "Q13",
    "Q14",
    "Q15",
    "S05",
    "Z96.1",
)
# Grammar between the words of a phrase; anything else that joins or parts findings ends a match in free order.
_JOINTS = frozenset(
    "and or with without no not but while versus vs rule r out history possible suspected denies if risk negative "
    "likely blood".split()
)
_SIDE_WORDS = frozenset(("right", "left", "bilateral"))
_AFTER_SIDE = frozenset(("eye", "side"))
_FREE_ORDER = 0.9  # weight of a match in another order beside one word for word
_SLACK = 4  # foreign words allowed inside a match in free order
_TYPO_LENGTH = 6  # letters from which one wrong letter is put right


@dataclass(slots=True)
class Phrase:
    """Words that name one or more codes. covers: codes below which the phrase says nothing new (a broad name)."""

    words: tuple[str, ...]
    codes: list[str] = field(default_factory=list)
    how: str = "title"
    covers: tuple[str, ...] = ()
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """A phrase in a text: the stream's words it took, exact (word for word, in order) or not."""

    phrase: Phrase
    places: tuple[int, ...]
    exact: bool

    @property
    def first(self) -> int:
        return min(self.places)

    @property
    def last(self) -> int:
        return max(self.places)


class Lexicon:
    """All phrases of the codes in scope."""

    def __init__(self, system: CodeSystem, roots: Sequence[str]):
        self.system = system
        self.roots = tuple(roots)
        self.phrases: dict[tuple[str, ...], Phrase] = {}
        inside = [c for root in roots for c in _below(system, root)]
        self.codes = frozenset(inside)
        for code in inside:
            self._add_code(code)
        self._add_synonyms()
        df = Counter(w for words in self.phrases for w in set(words))
        n = len(self.phrases)
        self.weight_of = {w: math.log(1 + n / count) for w, count in df.items()}
        self._automaton = ahocorasick.Automaton()
        self._ordered = list(self.phrases.values())
        self._sizes: list[int] = []
        self._postings: dict[str, list[int]] = defaultdict(list)
        for k, phrase in enumerate(self._ordered):
            phrase.weight = sum(self.weight_of[w] for w in phrase.words)
            self._automaton.add_word(f" {' '.join(phrase.words)} ", (len(phrase.words), phrase))
            distinct = set(phrase.words)
            self._sizes.append(len(distinct) if len(distinct) > 1 and not distinct & _SIDE_WORDS else 0)
            if self._sizes[-1]:
                for word in distinct:
                    self._postings[word].append(k)
        self._automaton.make_automaton()
        abbreviated = {w for words in (*expansions()[0].values(),) for w in words}
        self.vocabulary = frozenset(self.weight_of) | abbreviated
        self._long_words = [w for w in self.vocabulary if len(w) >= _TYPO_LENGTH and w.isascii()]
        self.corrected = lru_cache(maxsize=65536)(self._corrected)

    # ------------------------------------------------------------------------------------------- building

    def _add_code(self, code: str) -> None:
        title = self.system.title(code)
        for words in _variants(title):
            self._add(words, code, "title")
        if len(code.replace(".", "")) < 7:  # those of the seventh character complete the title, they are no names
            for term in self.system.terms(code):
                for words in _variants(re.sub(r"\bNOS\b", "", term)):
                    if not term.startswith("with "):
                        self._add(words, code, "synonym")

    def _add_synonyms(self) -> None:
        for row in table("terms.tsv"):
            if row[0] != "synonym":
                continue
            codes = [c for c in row[2].split(",") if c in self.codes]
            if codes:
                words = phrase_words(row[1])
                # A name of the field means these codes, also where a title has the same words.
                self.phrases[words] = Phrase(
                    words, codes, "synonym", tuple((row + [""])[3].split(",")) if len(row) > 3 else ()
                )

    def _add(self, words: tuple[str, ...], code: str, how: str) -> None:
        if not words or words in _TOO_BROAD:
            return
        phrase = self.phrases.setdefault(words, Phrase(words, [], how))
        if code not in phrase.codes:
            phrase.codes.append(code)

    # ------------------------------------------------------------------------------------------- finding

    def find(self, words: Words) -> list[Found]:
        """Findings that share no word, heaviest first, in the order of the text."""
        candidates = [*self._word_for_word(words), *self._any_order(words)]
        candidates.sort(key=lambda f: (-f.phrase.weight * (1.0 if f.exact else _FREE_ORDER), f.first))
        taken: set[int] = set()
        chosen = []
        for found in candidates:
            if taken.isdisjoint(found.places):
                taken.update(found.places)
                chosen.append(found)
        return sorted(chosen, key=lambda f: f.first)

    def _word_for_word(self, words: Words) -> list[Found]:
        kept = [k for k, w in enumerate(words.text) if w not in SKIPPED]
        tokens = [self._spelt(words, k) for k in kept]
        line = f" {' '.join(tokens)} "
        place, at = {}, 0
        for k, token in enumerate(tokens):
            place[at] = k
            at += len(token) + 1
        found = []
        for end, (n, phrase) in self._automaton.iter(line):
            start = end - sum(map(len, phrase.words)) - n
            k = place[start]
            places = tuple(kept[k : k + n])
            if words.sentences[places[0]] == words.sentences[places[-1]] and not _steals_side(words, places):
                found.append(Found(phrase, places, True))
        return found

    def _any_order(self, words: Words) -> list[Found]:
        found: list[Found] = []
        sentences: dict[int, dict[str, list[int]]] = {}
        for k, sentence in enumerate(words.sentences):
            word = self._spelt(words, k)
            if word in self._postings:
                sentences.setdefault(sentence, {}).setdefault(word, []).append(k)
        for here in sentences.values():
            counts: Counter[int] = Counter()
            for word in here:
                counts.update(self._postings[word])
            for k, count in counts.items():
                if count == self._sizes[k]:
                    places = _window(words, [here[w] for w in set(self._ordered[k].words)])
                    if places is not None and self._unbroken(words, places, self._ordered[k]):
                        found.append(Found(self._ordered[k], places, False))
        return found

    def _unbroken(self, words: Words, places: tuple[int, ...], phrase: Phrase) -> bool:
        inside = set(places)
        foreign = [words.text[k] for k in range(places[0], places[-1] + 1) if k not in inside]
        if any(w in _SIDE_WORDS for w in foreign) and any(
            words.breaks[k] for k in range(places[0] + 1, places[-1] + 1)
        ):
            return False  # behind a comma and an eye another finding begins
        rest = [w for w in foreign if w not in SKIPPED and w not in _SIDE_WORDS and w not in _AFTER_SIDE]
        return len(rest) <= _SLACK and not any(w in _JOINTS or w.startswith("@") for w in rest)

    def _spelt(self, words: Words, k: int) -> str:
        word = words.text[k]
        if words.known[k] or word in self.vocabulary or len(word) < _TYPO_LENGTH:
            return word
        return self.corrected(word)

    def _corrected(self, word: str) -> str:
        """The word of the vocabulary that is one letter away and begins alike; the word itself if there is none."""
        near = process.extract(word, self._long_words, scorer=OSA.distance, score_cutoff=1, limit=3)
        same = [w for w, _, _ in near if w[0] == word[0]]
        return same[0] if len(same) == 1 else word


# Words that make no diagnosis alone, though a title consists of them ("Other specified disorders of eyelid").
_GENERAL = (
    "other eye unspecified hemorrhage edema disorder syndrome infection injury cyst scar burn pain crisis avulsion "
    "prematurity"
)
_TOO_BROAD = {(w,) for w in _GENERAL.split()}
_TOO_BROAD |= {("other", w) for w in ("disorder", "cataract", "glaucoma")}
_TOO_BROAD |= {("visual", "disturbance"), ("ocular", "pain")}


def _steals_side(words: Words, places: tuple[int, ...]) -> bool:
    """Whether a match takes its eye from behind a comma though the sentence named another eye before:
    "Right eye POAG, left eye cataract"."""
    first, last = places[0], places[-1]
    cut = next((k for k in range(first + 1, last + 1) if words.breaks[k]), None)
    if cut is None or not any(words.text[k] in _SIDE_WORDS for k in range(cut, last + 1)):
        return False
    inside = {words.text[k] for k in range(first, last + 1)} & _SIDE_WORDS
    k = first - 1
    while k >= 0 and words.sentences[k] == words.sentences[first]:
        if words.text[k] in _SIDE_WORDS - inside:
            return True
        k -= 1
    return False


def _below(system: CodeSystem, root: str) -> Iterable[str]:
    if system.level(root) not in ("chapter", "block"):
        yield root
    for child in system.children(root):
        yield from _below(system, child)


def phrase_words(text: str) -> tuple[str, ...]:
    """A phrase as it is matched: normalised, without articles and prepositions."""
    return tuple(w for w in read_words(composed(text)).text if w not in SKIPPED)


def without_side(words: Sequence[str]) -> tuple[str, ...]:
    """Words without right/left/bilateral/unspecified and the "eye" or "side" behind them."""
    out: list[str] = []
    dropped = False
    for word in words:
        if word in _SIDE_WORDS or word == "unspecified":
            dropped = True
        elif not (dropped and word in _AFTER_SIDE):
            out.append(word)
            dropped = False
    return tuple(out)


def _variants(title: str) -> list[tuple[str, ...]]:
    """The title's words; without eye; each also without what stands in brackets (words that may be left out)."""
    plain = re.sub(r"\s*\[[^\]]*\]", "", title)
    forms = [phrase_words(plain)]
    bare = re.sub(r"\s*\([^)]*\)", "", plain)
    if bare != plain:
        forms.append(phrase_words(bare))
    full = [phrase_words(title)]
    return list(dict.fromkeys([*full, *forms, *(without_side(f) for f in forms)]))


def _window(words: Words, places: list[list[int]]) -> tuple[int, ...] | None:
    """The narrowest choice of one place for each word, None where they lie too far apart."""
    best: tuple[int, ...] | None = None
    anchor = min(places, key=len)
    for a in anchor:
        chosen = tuple(sorted(min(p, key=lambda k: abs(k - a)) for p in places))
        if best is None or chosen[-1] - chosen[0] < best[-1] - best[0]:
            best = chosen
    if best is None or best[-1] - best[0] > 2 * len(best) + _SLACK:
        return None
    return best


@lru_cache(maxsize=4)
def lexicon(scope: str | tuple[str, ...] | None = "eye") -> Lexicon:
    """The lexicon of a scope: "eye" (chapter 7 and the eye's codes of other chapters), a code, block or chapter,
    several
    of them, or None for all of ICD-10-CM. Raises UsageError for a scope that does not exist."""
    system = icd10cm()
    if scope is None:
        roots = [c for c in system.codes if system.parent(c, prioritize_blocks=True) is None]
    elif scope == "eye":
        roots = list(EYE)
    else:
        roots = [scope] if isinstance(scope, str) else list(scope)
    found = []
    for root in roots:
        name = system.normalise(root)
        if name is None:
            near = ", ".join(["eye", "7", "H40", *system.suggest(root)])
            raise UsageError(f"scope {root!r} is no code, block or chapter of {system.name}; write one such as {near}.")
        found.append(name)
    return Lexicon(system, found)
