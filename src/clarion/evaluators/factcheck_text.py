"""Fact check of a rationale: every gene, sign, number, tissue and outcome it states against the patient's facts.

Rules on words in English and Korean, without a network, so that the same text always gets the same verdict. What the
rules do not read (a sentence without any claim) is counted, never called supported.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from clarion.evaluators.factcheck_claims import SUPPORTED, Claim
from clarion.evaluators.factcheck_facts import Facts
from clarion.evaluators.factcheck_genes import Vocabulary, find_genes, gene_claims
from clarion.evaluators.factcheck_patient import find_patterns, patient_claims

TOP = 10  # genes whose absence from a text counts as an omission
MIN_SHARE = 0.1  # of attention, from which a tissue's absence counts as one
_ENDS = re.compile(r"(?<=[.!?。])[\"'”’)\]]*\s+(?=\S)")
_NO_END = re.compile(
    r"(?:\b(?:e\.g|i\.e|vs|approx|ca|cf|resp|Dr|Fig|No)\.|^\s*(?:[-*•]|\d{1,2}[.)])\s*)$", re.IGNORECASE
)
_HEADING = re.compile(r"^\s*(?:#{1,6}\s.*|\*\*[^*]+\*\*:?|[^.!?。:]{1,40}:)\s*$")


@dataclass(frozen=True)
class Checked:
    """One text against its facts. sentences: (text, its claims), headings and empty lines without claims; text: what is
    left after every sentence with an unsupported claim went; removed: those sentences; omitted: genes and tissues of
    the facts that the text does not name, of `expected` many."""

    sentences: tuple[tuple[str, tuple[Claim, ...]], ...]
    text: str
    removed: tuple[str, ...]
    omitted: tuple[str, ...]
    expected: int
    left_out: tuple[str, ...] = field(default=())  # as omitted, of the text that is left

    @property
    def claims(self) -> list[Claim]:
        return [c for _, own in self.sentences for c in own]

    @property
    def precision(self) -> float | None:
        """Share of the claims that are supported, before anything is removed; None for a text without any."""
        claims = self.claims
        return sum(c.verdict == SUPPORTED for c in claims) / len(claims) if claims else None

    @property
    def omission(self) -> float | None:
        """Share of the top genes and tissues that the text does not name; None where the facts have none."""
        return len(self.omitted) / self.expected if self.expected else None

    @property
    def unsupported(self) -> list[Claim]:
        return [c for c in self.claims if c.verdict != SUPPORTED]

    @property
    def unread(self) -> int:
        """Sentences in which the rules found nothing to check."""
        return sum(not own and bool(text.strip()) and not _HEADING.match(text) for text, own in self.sentences)


def check(text: str, facts: Facts, symbols: Collection[str] = (), top: int = TOP) -> Checked:
    """Check a text (English, Korean or both) against one patient's facts.

    symbols: the gene symbols of the whole coefficient table, so that a gene of the table which is none of this
    patient's facts is seen, whatever its spelling; tokens that look like HGNC symbols are seen without. top: genes that
    the text should name. A sentence with an unsupported claim goes; what then hangs in the air (an "its" whose gene
    went) is looked for again until nothing goes."""
    known = Vocabulary.of(facts, symbols)
    lines = [split_sentences(line) for line in text.split("\n")]
    first = _claims(lines, facts, known)
    removed: list[str] = []
    claims = first
    while bad := [(i, j) for i, line in enumerate(claims) for j, own in enumerate(line)
                  if any(c.verdict != SUPPORTED for c in own)]:  # fmt: skip
        removed += [lines[i][j].strip() for i, j in bad]
        gone = set(bad)
        lines = [[s for j, s in enumerate(line) if (i, j) not in gone] for i, line in enumerate(lines)]
        claims = _claims(lines, facts, known)
    rest = _joined(lines, text) if removed else text
    given = [split_sentences(line) for line in text.split("\n")]
    sentences = [(s.strip(), tuple(c)) for line, own in zip(given, first, strict=True)
                 for s, c in zip(line, own, strict=True)]  # fmt: skip
    wanted = [g.name for g in facts.genes[:top]]
    wanted += [p.name for p in facts.patterns if p.share is None or p.share >= MIN_SHARE]
    return Checked(tuple(sentences), rest, tuple(removed), _unnamed(text, wanted, facts, known), len(wanted),
                   _unnamed(rest, wanted, facts, known))  # fmt: skip


def split_sentences(line: str) -> list[str]:
    """Sentences of one line, each with the blank behind it: joined they are the line."""
    found, start = [], 0
    for match in _ENDS.finditer(line):
        if not _NO_END.search(line[start : match.start()]):
            found.append(line[start : match.end()])
            start = match.end()
    return [*found, line[start:]] if start < len(line) else found


def _claims(lines: list[list[str]], facts: Facts, known: Vocabulary) -> list[list[list[Claim]]]:
    found = []
    for line in lines:
        last, own = None, []  # "its q value" means a gene of the same paragraph
        for sentence in line:
            claims, rest, last = gene_claims(sentence, facts, known, last)
            own.append(claims + patient_claims(rest, facts))
        found.append(own)
    return found


def _unnamed(text: str, wanted: list[str], facts: Facts, known: Vocabulary) -> tuple[str, ...]:
    named = {n.casefold() for n, _, _ in find_genes(text, known)}
    named |= {n.casefold() for n, _ in find_patterns(text, facts)}
    return tuple(n for n in wanted if n.casefold() not in named)


def _joined(lines: list[list[str]], text: str) -> str:
    """Lines that lost everything go, and headings with nothing left below them."""
    before = text.split("\n")
    kept = [("".join(line).rstrip(), old) for line, old in zip(lines, before, strict=True)]
    kept = [new for new, old in kept if new.strip(" \t-*•") or not old.strip()]
    result: list[str] = []
    for line in reversed(kept):
        below = next((later for later in reversed(result) if later.strip()), None)
        if _HEADING.match(line) and (below is None or _HEADING.match(below)):
            continue
        result.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(reversed(result))).strip()
