"""`TextCoder`: a note, or what a language model wrote, to ICD-10-CM codes with their places.

In this order: codes that are written down; phrases of the lexicon (titles, inclusion terms, synonyms, abbreviations,
Korean), each resolved to the leaf with its eye and stage; and, for clauses in which nothing was read, plain words that
together mean a condition (plain.tsv), else the nearest phrase by embedding above a calibrated threshold. What is
negated, past, of the family, hypothetical or of the wrong eye is dropped with its reason. A broader code beside a
narrower one, a symptom beside a diagnosis and a part of another code are dropped likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clarion.errors import DataError, UsageError
from clarion.llm.coding.context import verdicts
from clarion.llm.coding.embedding import Match, PhraseIndex, SentenceEncoder, Threshold, calibrated
from clarion.llm.coding.laterality import declared_side, fellow_side, find_sides, parse_side, side_of
from clarion.llm.coding.lexicon import Found, Lexicon, Phrase, lexicon
from clarion.llm.coding.pruning import prune
from clarion.llm.coding.residue import Clause, residual_clauses
from clarion.llm.coding.resolve import Resolver
from clarion.llm.coding.words import Words, composed, read_words
from clarion.llm.coding.written import listed_from, written_codes

LONGEST = 262_144  # characters of a note that are read: the time of one note is bounded
MOST_UNKNOWN = 20  # codes that do not exist whose nearest ones are looked for in one note
NEAR = 10  # words to each side of a finding in which its stage and details are looked for
# Ranks, no probabilities: rules have no doubt of a number.
_WRITTEN, _TITLE, _SYNONYM, _OTHER_ORDER, _PLAIN = 1.0, 0.98, 0.95, 0.9, 0.8
_SEVERITY = frozenset("mild moderate severe early advanced intermediate indeterminate".split())


@dataclass(frozen=True, slots=True)
class CodeSpan:
    """A code and the characters [start, end) it was read from.

    how: code | title | synonym | plain | embedding. confidence: 0..1, of an embedding match a calibrated probability,
    of a rule a rank. laterality: right | left | bilateral | None. chain: [code, ..., chapter]. reason (of a dropped
    one): negated historical family hypothetical wrong_eye below_threshold no_such_code less_specific part_of symptom;
    detail says it in words."""

    code: str | None
    title: str
    start: int
    end: int
    text: str
    confidence: float
    how: str
    negated: bool = False
    historical: bool = False
    laterality: str | None = None
    chain: list[str] = field(default_factory=list)
    reason: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Coded:
    """codes: asserted and current, each code once, in the order of the text. dropped: the rest, with reasons.
    failures: sentences about what could not be read (an empty note, a code that does not exist, a cut note)."""

    codes: list[CodeSpan]
    dropped: list[CodeSpan]
    failures: list[str]


class TextCoder:
    """Text to ICD-10-CM.

    system: "icd10cm". scope: which titles are looked for: "eye" (chapter 7 and the eye's codes of others such as
    diabetic retinopathy), a chapter ("7"), block or code, several, or None for all of ICD-10-CM; codes that are written
    down count in any scope. threshold: cosine from which an embedding match counts (None: as calibrated). embedding:
    false leaves the rules alone. encoder: a SentenceEncoder (None: the packaged all-MiniLM-L6-v2, loaded at need).
    """

    def __init__(
        self,
        system: str = "icd10cm",
        scope: str | Sequence[str] | None = "eye",
        threshold: float | None = None,
        embedding: bool = True,
        encoder: SentenceEncoder | None = None,
    ):
        if system != "icd10cm":
            raise UsageError(f"system {system!r}: text is coded in icd10cm.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise UsageError(f"threshold {threshold}: a cosine lies between 0 and 1.")
        self.lexicon: Lexicon = lexicon(scope if scope is None or isinstance(scope, str) else tuple(scope))
        self.system = self.lexicon.system
        self.resolver = Resolver(self.system)
        self.embedding = embedding
        self._given = threshold
        self._encoder, self._index = encoder, None

    @property
    def threshold(self) -> Threshold:
        found = calibrated()
        return found if self._given is None else replace(found, cosine=self._given)

    @property
    def index(self) -> PhraseIndex:
        if self._index is None:
            if self._encoder is None:
                from clarion.evaluators.text_embedding import Encoder

                self._encoder = Encoder()
            self._index = PhraseIndex(self.lexicon, self._encoder)
        return self._index

    def load(self) -> TextCoder:
        """Load now what is otherwise loaded at the first clause that needs an embedding."""
        if self.embedding:
            self.index.cosines(["glaucoma"])
        return self

    def __call__(self, text: str, laterality: str | None = None) -> Coded:
        """Codes of one text. laterality: the eye of the case (OD, OS, OU, right ...), where it is known."""
        return self.batch([text], [laterality])[0]

    def batch(self, texts: Sequence[str], lateralities: Sequence[str | None] | None = None) -> list[Coded]:
        """Codes of many texts; the clauses that need an embedding are encoded together."""
        sides = [None] * len(texts) if lateralities is None else list(lateralities)
        if len(sides) != len(texts):
            raise DataError(f"{len(texts)} texts, but {len(sides)} lateralities: give one a text.")
        read = [self._read(text, parse_side(side)) for text, side in zip(texts, sides, strict=True)]
        for note, clause, match in self._matches(read):
            self._embedded(note, clause, match)
        return [self._finished(note) for note in read]

    def nearest(self, texts: Sequence[str]) -> list[list[tuple[str, str, float]]]:
        """Of each text the clauses that go to the embedding, or would without the rules for plain words: (clause, code,
        cosine), whatever the threshold."""
        read = [self._read(text, None, plain=False) for text in texts]
        found: dict[int, list[tuple[str, str, float]]] = {id(note): [] for note in read}
        for note, clause, match in self._matches(read):
            code, *_ = self._leaf_of(note, clause, match.phrase)
            found[id(note)].append((note.text[clause.start : clause.end], code, match.cosine))
        return [found[id(note)] for note in read]

    def _matches(self, read: Sequence[_Note]) -> list[tuple[_Note, Clause, Match]]:
        asked = [(note, clause) for note in read for clause in note.clauses]
        if not asked:
            return []
        matches = self.index.search([clause.words for _, clause in asked])
        return [(note, clause, m) for (note, clause), m in zip(asked, matches, strict=True) if m is not None]

    # ------------------------------------------------------------------------------------------- one note

    def _read(self, text: Any, side: str | None, plain: bool = True) -> _Note:
        if not isinstance(text, str):
            raise DataError(f"a note is text, not {type(text).__name__}.")
        note = _Note(composed(text[:LONGEST]), side)
        if not text.strip():
            note.failures.append("The note is empty: there is nothing to code.")
            return note
        if len(text) > LONGEST:
            note.failures.append(
                f"The note has {len(text):,} characters: the first {LONGEST:,} were read, split it to read all."
            )
        listed = listed_from(note.text)
        codes = written_codes(note.text, self.system, self.lexicon, listed)
        if note.side is None:
            note.side = declared_side(note.text)
        note.words = words = read_words(note.text)
        findings = [] if listed is not None else self.lexicon.find(words)
        coded = {k for c in codes for k in words.inside(c.start, c.end)}
        findings = [f for f in findings if coded.isdisjoint(range(f.first, f.last + 1))]
        spans = [(f.first, f.last) for f in findings]
        for k, side in find_sides(words):
            note.sides.setdefault(words.sentences[k], []).append((k, side))
        named = {s for here in note.sides.values() for _, s in here}
        note.only_side = named.pop() if len(named) == 1 else None
        note.type_1 = " type 1 diabetes " in f" {' '.join(words.text)} "
        together: dict[int, list[tuple[int, int]]] = {}
        for span in spans:
            together.setdefault(words.sentences[span[0]], []).append(span)
        reasons = verdicts(note.text, words, spans)
        for (first, last), verdict in zip(spans, reasons, strict=True):
            note.denied.update(range(first, last + 1) if verdict else ())
        for found, verdict in zip(findings, reasons, strict=True):
            self._add(note, found, verdict, together[words.sentences[found.first]])
        self._add_written(note, codes)
        if listed is None:
            places = [(c.start, c.end) for c in codes]
            for clause in residual_clauses(note.text, words, spans, places, self.lexicon, plain):
                if clause.meaning is not None:
                    self._add_plain(note, clause)
                elif self.embedding:
                    note.clauses.append(clause)
        return note

    def _add(self, note: _Note, found: Found, verdict, spans) -> None:
        words = note.words
        start, end = words.span(found.first, found.last)
        side = self._side(note, found.first, found.last, spans)
        code, used = self.resolver.resolve(found.phrase, self._evidence(note, found, spans), side)
        code = self._diabetes_type(note, code)
        how = "title" if found.phrase.how == "title" else "synonym"
        rank = (_TITLE if how == "title" else _SYNONYM) if found.exact else _OTHER_ORDER
        span = self._span(code, start, end, note, rank, how, side)
        note.found.append(_Item(span, found.first, found.last, used, found.phrase))
        if verdict is not None:
            note.drop(len(note.found) - 1, verdict.effect, f"because of {verdict.because!r}")
        else:
            self._check_eye(note, len(note.found) - 1)

    def _add_written(self, note: _Note, codes) -> None:
        marks = []
        for c in codes:
            inside = note.words.inside(c.start, c.end)
            marks.append((inside[0], inside[-1]) if inside else (0, 0))
        unknown: dict[str, str] = {}
        for c, mark, verdict in zip(codes, marks, verdicts(note.text, note.words, marks), strict=True):
            if c.code is None:
                if c.text not in unknown:  # the nearest codes are looked for once a code, and not for thousands
                    named = len(unknown) < MOST_UNKNOWN
                    unknown[c.text] = self.system.unknown(c.text) if named else f"no code of {self.system.name}"
                    note.failures += [unknown[c.text]] if named else []
                span = CodeSpan(
                    None, "", c.start, c.end, c.text, 0.0, "code", reason="no_such_code", detail=unknown[c.text]
                )
                note.dropped.append(span)
                continue
            side = self.resolver.leaf(c.code).side if self.system.is_leaf(c.code) else None
            span = self._span(c.code, c.start, c.end, note, _WRITTEN, "code", side if side != "unspecified" else None)
            note.found.append(_Item(span, *mark, frozenset(), None))
            if verdict is not None:
                note.drop(len(note.found) - 1, verdict.effect, f"because of {verdict.because!r}")
            else:
                self._check_eye(note, len(note.found) - 1)
        if (more := len(unknown) - MOST_UNKNOWN) > 0:
            note.failures.append(f"{more} further codes of the note do not exist in {self.system.name}.")

    def _add_plain(self, note: _Note, clause: Clause) -> None:
        code, used, side = self._leaf_of(note, clause, clause.meaning.phrase)
        span = self._span(code, clause.start, clause.end, note, _PLAIN, "plain", side)
        note.found.append(_Item(span, clause.first, clause.last, used, clause.meaning.phrase))
        verdict = clause.verdict
        if verdict is not None and (verdict.effect != "negated" or clause.meaning.words):
            note.drop(len(note.found) - 1, verdict.effect, f"because of {verdict.because!r}")
        else:
            self._check_eye(note, len(note.found) - 1)

    def _embedded(self, note: _Note, clause: Clause, match: Match) -> None:
        threshold = self.threshold
        code, used, side = self._leaf_of(note, clause, match.phrase)
        span = self._span(code, clause.start, clause.end, note, threshold.probability(match.cosine), "embedding", side)
        note.found.append(_Item(span, clause.first, clause.last, used, match.phrase))
        here = len(note.found) - 1
        if match.cosine < threshold.cosine:
            note.drop(here, "below_threshold", f"cosine {match.cosine:.3f} < {threshold.cosine:.3f}")
        elif clause.verdict is not None:
            note.drop(here, clause.verdict.effect, f"because of {clause.verdict.because!r}")
        else:
            self._check_eye(note, here)

    def _leaf_of(self, note: _Note, clause: Clause, phrase: Phrase) -> tuple[str, frozenset[str], str | None]:
        """(code, words of the clause that decided for it, eye)."""
        side = self._side(note, clause.first, clause.last, [])
        evidence = note.words.text[clause.first : clause.last + 1]
        code, used = self.resolver.resolve(phrase, evidence, side)
        return self._diabetes_type(note, code), used, side

    def _finished(self, note: _Note) -> Coded:
        prune(note.found, note.reasons, self.system)
        kept: dict[str, CodeSpan] = {}
        for k, item in enumerate(note.found):
            if k in note.reasons:
                reason, detail = note.reasons[k]
                flags = {"negated": reason == "negated", "historical": reason == "historical"}
                note.dropped.append(replace(item.span, reason=reason, detail=detail, **flags))
            elif item.span.code not in kept or item.span.confidence > kept[item.span.code].confidence:
                kept[item.span.code] = item.span
        order = lambda s: (s.start, s.end)  # noqa: E731
        return Coded(sorted(kept.values(), key=order), sorted(note.dropped, key=order), note.failures)

    # ------------------------------------------------------------------------------------------- parts

    def _span(
        self, code: str, start: int, end: int, note: _Note, confidence: float, how: str, side: str | None
    ) -> CodeSpan:
        return CodeSpan(
            code, self.system.title(code), start, end, note.text[start:end], round(confidence, 4), how,
            laterality=side, chain=self.system.chain(code),
        )  # fmt: skip

    def _side(self, note: _Note, first: int, last: int, spans) -> str | None:
        """The finding's own side; else the case's; else the only one that the note names."""
        side = side_of(note.words, first, last, note.sides.get(note.words.sentences[first], []), spans)
        if side == "fellow":
            return fellow_side(note.side)
        if side is None:
            side = note.side or note.only_side
        return None if side == "fellow" else side

    def _check_eye(self, note: _Note, k: int) -> None:
        side = note.found[k].span.laterality
        if note.side in ("right", "left") and side == fellow_side(note.side):
            note.drop(k, "wrong_eye", f"the case is of the {note.side} eye, this is the {side} one")

    @staticmethod
    def _evidence(note: _Note, found: Found, spans) -> list[str]:
        """Words near a finding that may be its details. A severity goes to the nearest finding only; what is negated
        ("no macular edema") is no detail."""
        words = note.words
        sentence, out, negated = words.sentences[found.first], [], False
        low, high = max(0, found.first - NEAR), min(len(words), found.last + NEAR + 1)
        for k in range(low, high):
            if words.sentences[k] != sentence:
                continue
            word = words.text[k]
            if words.breaks[k] or word in ("with", "and", "but"):
                negated = False
            if word in ("no", "without", "not"):
                negated = True
            if (negated or k in note.denied) and not found.first <= k <= found.last:
                continue
            if word in _SEVERITY and not found.first <= k <= found.last:
                own = max(found.first - k, k - found.last)
                if any(0 < max(first - k, k - last) < own for first, last in spans):
                    continue
            out.append(word)
        return out

    def _diabetes_type(self, note: _Note, code: str) -> str:
        """E11 is the default of diabetes whose type is not stated; a note that says type 1 means E10."""
        if note.type_1 and code.startswith("E11.3"):
            return self.system.normalise("E10" + code[3:]) or code
        return code


@dataclass(slots=True)
class _Item:
    span: CodeSpan
    first: int  # words of the stream
    last: int
    used: frozenset[str]  # words near it that decided for this code
    phrase: Any


@dataclass(slots=True)
class _Note:
    text: str
    side: str | None
    words: Words = field(default_factory=lambda: read_words(""))
    sides: dict[int, list[tuple[int, str]]] = field(default_factory=dict)  # by sentence
    only_side: str | None = None  # the side that the note names, if it names just one
    type_1: bool = False  # diabetes of type 1 is named
    denied: set[int] = field(default_factory=set)  # words of findings that are not asserted
    found: list[_Item] = field(default_factory=list)
    reasons: dict[int, tuple[str, str]] = field(default_factory=dict)
    dropped: list[CodeSpan] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    clauses: list[Clause] = field(default_factory=list)

    def drop(self, k: int, reason: str, detail: str) -> None:
        self.reasons[k] = (reason, detail)
