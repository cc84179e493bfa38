"""The clauses of a note in which the rules read nothing, and which an embedding may still understand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clarion.llm.coding.context import Verdict, verdicts
from clarion.llm.coding.lexicon import Lexicon, without_side
from clarion.llm.coding.plain import Meaning, meaning_of
from clarion.llm.coding.words import SKIPPED, Words

LONGEST_CLAUSE = 24  # words; a longer one is no name of a diagnosis
MOST_CLAUSES = 400  # of one note: bounds its time
# Words of titles that say nothing about eyes; a clause of such words alone is not looked at.
_PLAIN = frozenset(
    "and or with without no not other unspecified type one two 1 2 3 4 5 6 7 8 9 0 time day year old patient eye "
    "category side stage normal due level following disease disorder condition general mild moderate severe right "
    "left bilateral "
    "procedure surgery following test use as from body part all primary secondary new initial common first second "
    "associated classified elsewhere defined usa complicating syndrome light field under external area low high risk "
    "early age related total single multiple partial full change contact ocular history past blood pressure vision "
    "visual".split()
)
# A clause with one of these reports a normal state or an action: near a title in an embedding, no diagnosis.
_NO_FINDING = frozenset(
    "normal clear intact quiet deep white flat attached full healthy reactive round unremarkable equal clean reliable "
    "regular transparent bright performed taken scheduled tested measured planned requested implanted prescribed given "
    "obtained recommended explained repeated reviewed offered ordered wear wore wearing worn inserted replaced placed "
    "examined photographed imaged scanned injected instilled dilated discussed consented stopped started continued "
    "clinic service doctor ophthalmologist consult examination allergy allergic thickness length count ratio mmhg "
    "micrometer photograph tomography angiography ultrasound gonioscopy perimetry topography tear drop".split()
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clause:
    """words: what is encoded (normalised, without eyes); first..last: words of the stream; verdict: why not asserted;
    meaning: what it says in plain words, if it does (then nothing is encoded)."""

    words: tuple[str, ...]
    first: int
    last: int
    start: int
    end: int
    verdict: Verdict | None
    meaning: Meaning | None = None


def residual_clauses(
    text: str,
    words: Words,
    findings: Sequence[tuple[int, int]],
    codes: Sequence[tuple[int, int]],
    lexicon: Lexicon,
    plain: bool = True,
) -> list[Clause]:
    """Sentences without a finding, whole where they are short, else cut at commas; only those that mean something in
    plain words (plain: false looks for no such meaning) or hold a word of the eye."""
    taken = {words.sentences[f] for f, _ in findings}
    covered = {k for first, last in findings for k in range(first, last + 1)}
    for start, end in codes:
        covered.update(words.inside(start, end))
    parts: list[tuple[int, int]] = []
    begin = 0
    for k in range(1, len(words) + 1):
        if k == len(words) or words.sentences[k] != words.sentences[k - 1]:
            parts += _cut(words, begin, k, whole=words.sentences[begin] not in taken)
            begin = k
    chosen = []
    for first, last in parts:
        if covered and not covered.isdisjoint(range(first, last + 1)):
            continue
        if words.breaks[last + 1 : last + 2] == [True] and text[words.ends[last] :].lstrip()[:1] == ":":
            continue  # a heading
        said = [w for w in words.text[first : last + 1] if w not in SKIPPED and w.isascii() and not w.startswith("@")]
        kept = without_side(said)
        if plain and len(kept) <= LONGEST_CLAUSE and (meaning := meaning_of(said, lexicon)) is not None:
            chosen.append((kept, first, last, meaning))
            continue
        telling = [w for w in kept if w in lexicon.vocabulary and w not in _PLAIN]
        if not _NO_FINDING.isdisjoint(kept):
            continue
        if telling and len(kept) >= (1 if len(telling[0]) > 5 else 2) and len(kept) <= LONGEST_CLAUSE:
            chosen.append((kept, first, last, None))
    chosen = chosen[:MOST_CLAUSES]
    cores = [_core(words, first, last, meaning) for _, first, last, meaning in chosen]
    reasons = iter(verdicts(text, words, [(k, k) for core in cores for k in core]))
    found = []
    for (kept, first, last, meaning), core in zip(chosen, cores, strict=True):
        verdict = next((v for v in [next(reasons) for _ in core] if v is not None), None)
        found.append(Clause(kept, first, last, *words.span(first, last), verdict, meaning))
    return found


def _cut(words: Words, begin: int, end: int, whole: bool) -> list[tuple[int, int]]:
    if whole and end - begin <= 16:
        return [(begin, end - 1)]
    parts, first = [], begin
    for k in range(begin + 1, end):
        if words.breaks[k]:
            parts.append((first, k - 1))
            first = k
    return [*parts, (first, end - 1)]


def _core(words: Words, first: int, last: int, meaning: Meaning | None) -> list[int]:
    """The words whose denial denies the clause: those that make its meaning; else the last one, so that a trigger
    within it ("no sign of a lazy eye") acts on the rest."""
    telling = meaning.words if meaning is not None else ()
    return [k for k in range(first, last + 1) if words.text[k] in telling] or [last]
