"""Claims about genes in one sentence: that a gene matters, its direction, coefficient, q value and expression."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from clarion.evaluators import factcheck_words as words
from clarion.evaluators.factcheck_claims import CONTRADICTED, SUPPORTED, UNFOUNDED, Claim, masked, written
from clarion.evaluators.factcheck_facts import Facts, Gene

SIGNIFICANT = 0.05  # q up to which a gene may be called significant
_ASIDE = re.compile(r"\s*(?:\([^()]*\)|\[[^\[\]]*\])")  # "(coefficient +0.42, q = 0.003)" belongs to the gene before it
_JOINS = re.compile(
    r"(?:[\s,;/·+&]|\band\b|\bor\b|\bas well as\b|및|그리고|[와과](?=\s)|이?나(?=\s)|이?랑)*$", re.IGNORECASE
)
_BREAK = re.compile(r"[,;:]|\b(?:and|while|whereas|but|although)\b|(?:고|며|지만|이나|반면)(?=[\s,])", re.IGNORECASE)
_LEVEL_OF = re.compile(r"(?:low|high|reduced|elevated|increased|decreased|strong|weak)(?:er)? ", re.IGNORECASE)
_BREAK_COST = 25  # characters that a border of clauses counts for, when a cue looks for its gene
_ITS = re.compile(r"\b(?:its?|this gene|the gene)\b|(?:이|그|해당) ?유전자|그 ?(?:발현|계수)", re.IGNORECASE)
_ALSO = re.compile(r"(?:so|as) do(?:es)?|likewise|similarly|마찬가지|역시", re.IGNORECASE)


@dataclass
class Mention:
    """Genes named in one breath ("TP53 and MYC"), each with its aside; start, end: of the whole in the sentence."""

    genes: list[str]
    start: int
    end: int
    directions: list[tuple[int, re.Match, bool]] = field(default_factory=list)  # sign, match, by nature
    expressions: list[tuple[int, re.Match]] = field(default_factory=list)


@dataclass(frozen=True)
class Vocabulary:
    """symbols: gene symbols of the coefficient table; not_genes: capitals that are none (a cancer's name)."""

    symbols: frozenset[str]
    folded: dict[str, str]
    not_genes: frozenset[str]

    @classmethod
    def of(cls, facts: Facts, symbols: Collection[str] = ()) -> Vocabulary:
        every = frozenset(symbols) | {g.name for g in facts.genes}
        # Symbols are also words (SET, CAT, REST): only those with a digit are looked for in any case.
        folded = {s.casefold(): s for s in every if any(c.isdigit() for c in s)}
        return cls(every, folded, frozenset({facts.cancer, facts.cancer.upper()}) - {""})


def find_genes(sentence: str, known: Vocabulary) -> list[tuple[str, int, int]]:
    """(symbol, start, end) of every gene in a sentence, those of no table too."""
    found = []
    for match in re.finditer(rf"{words.L}[A-Za-z][A-Za-z0-9]*(?:[-.][A-Za-z0-9]+)*{words.R}", sentence):
        found += _symbols_in(match[0], match.start(), known)
    return found


def _symbols_in(token: str, start: int, known: Vocabulary) -> list[tuple[str, int, int]]:
    """A token whole, else its parts at hyphens ("TP53-driven")."""
    name = token if token in known.symbols else known.folded.get(token.casefold())
    if name is not None and name not in known.not_genes:
        return [(name, start, start + len(token))]
    if words.SYMBOL.fullmatch(token) and not _no_gene(token, known):
        return [(token, start, start + len(token))]
    parts = list(re.finditer(r"[^-.]+", token))
    return [hit for p in parts for hit in _symbols_in(p[0], start + p.start(), known)] if len(parts) > 1 else []


def _no_gene(token: str, known: Vocabulary) -> bool:
    return (token in words.ABBREVIATIONS or token in words.CANCERS or token in known.not_genes
            or re.fullmatch(r"(?:I{1,3}|IV)[ABC]?|[TNMG]\d[a-c]?|H&E|Q\d|Z|CD", token) is not None)  # fmt: skip


def gene_claims(
    sentence: str, facts: Facts, known: Vocabulary, last: str | None
) -> tuple[list[Claim], str, str | None]:
    """(claims, the sentence with what they used blanked, the gene that a following "its" would mean).

    last: the gene of the sentence before. A number of no gene is not in the inputs."""
    named = find_genes(sentence, known)
    claims = [
        Claim("gene", name, name, SUPPORTED if facts.gene(name) else UNFOUNDED)
        for name in dict.fromkeys(n for n, _, _ in named)
    ]
    used = [(start, end) for _, start, end in named]
    plain = masked(sentence, used)
    numbers, spans = _number_claims(sentence, plain, named, facts, last)
    used += spans
    if named or (last and _ITS.search(plain)):
        spoken, cues = _spoken(plain, _mentions(sentence, named) or [Mention([last], 0, 0)], facts)
        claims += spoken
        used += cues
    claims += numbers
    return claims, masked(sentence, used), named[-1][0] if named else last


# ---- numbers: a coefficient, a hazard ratio, a q value, a z score belong to the gene named before them


def _number_claims(sentence, plain, named, facts: Facts, last) -> tuple[list[Claim], list[tuple[int, int]]]:
    claims, spans = [], []
    for kind, pattern in (("q", words.Q), ("coefficient", words.COEFFICIENT), ("coefficient", words.RATIO),
                          ("expression", words.Z)):  # fmt: skip
        for match in pattern.finditer(plain):
            spans.append(match.span())
            name = _owner(match.start(), named, last)
            gene = facts.gene(name) if name else None
            said = sentence[match.start() : match.end()].strip()
            true = None if gene is None else _true(gene, kind, pattern)
            if true is None:
                claims.append(Claim(kind, name or "", said, UNFOUNDED))
                continue
            right = written(match["value"], match["op"]).matches(true, None if pattern is words.Z else 0.5)
            claims.append(Claim(kind, name, said, SUPPORTED if right else CONTRADICTED, "" if right else f"{true:.3g}"))
    for match in words.SIGNIFICANT.finditer(plain):
        denied = bool(match["no"] or match["no2"] or match["no3"])
        name = _owner(match.start(), named, last)
        gene = facts.gene(name) if name else None
        if gene is None or gene.q is None:
            claims.append(Claim("q", name or "", match[0], UNFOUNDED))
            continue
        right = (gene.q <= SIGNIFICANT) != denied
        verdict, expected = (SUPPORTED, "") if right else (CONTRADICTED, f"q {gene.q:.3g}")
        claims.append(Claim("q", name, match[0], verdict, expected))
    return claims, spans


def _true(gene: Gene, kind: str, pattern: re.Pattern) -> float | None:
    if kind == "q":
        return gene.q
    if kind == "expression":
        return gene.z
    return math.exp(gene.coef) if pattern is words.RATIO else gene.coef


def _owner(place: int, named, last: str | None) -> str | None:
    before = [name for name, _, end in named if end <= place]
    return before[-1] if before else named[0][0] if named else last


# ---- words: risk or protective, over- or under-expressed belong to the nearest genes named in one breath


def _mentions(sentence: str, named) -> list[Mention]:
    found: list[Mention] = []
    for name, start, end in named:
        aside = _ASIDE.match(sentence, end)
        end = aside.end() if aside else end
        if found and start < found[-1].end:  # named within an aside
            continue
        if found and _JOINS.fullmatch(sentence[found[-1].end : start]):
            found[-1].genes.append(name)
            found[-1].end = end
        else:
            found.append(Mention([name], start, end))
    return found


def _spoken(plain: str, mentions: list[Mention], facts: Facts) -> tuple[list[Claim], list[tuple[int, int]]]:
    """Claims of words, and where the words stand."""
    cues = []
    for sign in (1, -1):
        cues += [(sign, m, True) for m in words.NATURE[sign].finditer(plain)]
        cues += [(sign, m, False) for m in words.EFFECT[sign].finditer(plain)]
    for sign, match, nature in _longest(cues):
        turned = words.NOT_BEFORE.search(plain[: match.start()]) or words.NOT_AFTER.search(plain[match.end() :])
        _nearest(plain, match, mentions).directions.append((-sign if turned else sign, match, nature))
    levels = [(sign, m, False) for sign, p in words.EXPRESSION.items() for m in p.finditer(plain)]
    for sign, match, _ in _longest(levels):
        turned = words.NOT_BEFORE.search(plain[: match.start()]) or words.NOT_AFTER.search(plain[match.end() :])
        _nearest(plain, match, mentions).expressions.append((-sign if turned else sign, match))
    for before, after in zip(mentions, mentions[1:], strict=False):  # "TP53 raises the risk, as does MYC"
        if not after.directions and before.directions and _ALSO.search(plain, before.end, after.end + 8):
            after.directions.append(before.directions[-1])
    claims = [c for m in mentions for c in _of_mention(m, facts)]
    return claims, [m.span() for _, m, _ in cues] + [m.span() for _, m, _ in levels]


def _longest(cues: list) -> list:
    """Cues that lie within a longer one drop ("lower risk" of "lower risk genes")."""
    kept: list = []
    for cue in sorted(cues, key=lambda c: (c[1].start() - c[1].end(), c[1].start())):
        if all(cue[1].end() <= k[1].start() or cue[1].start() >= k[1].end() for k in kept):
            kept.append(cue)
    return sorted(kept, key=lambda c: c[1].start())


def _nearest(plain: str, match: re.Match, mentions: list[Mention]) -> Mention:
    def far(mention: Mention) -> float:
        if match.start() >= mention.start and match.end() <= mention.end:
            return -1.0
        if match.start() >= mention.end:
            between = plain[mention.end : match.start()]
        else:
            between = plain[match.end() : mention.start].replace(":", " ")  # "Risk genes: TP53"
        return len(between) + _BREAK_COST * len(_BREAK.findall(between))

    return min(mentions, key=far)


def _of_mention(mention: Mention, facts: Facts) -> list[Claim]:
    claims = []
    for name in mention.genes:
        gene = facts.gene(name)
        for sign, match in mention.expressions:
            if _conditional(match, mention):
                continue
            if gene is None or gene.expression is None:
                claims.append(Claim("expression", name, match[0], UNFOUNDED))
            else:
                right = gene.expression == sign
                expected = {1: "high", 0: "about average", -1: "low"}[gene.expression]
                claims.append(Claim("expression", name, match[0], SUPPORTED if right else CONTRADICTED,
                                    "" if right else expected))  # fmt: skip
        for sign, match, nature in mention.directions:
            if gene is None:
                claims.append(Claim("direction", name, match[0], UNFOUNDED))
                continue
            true = _expected(gene, match, nature, mention)
            if true is None:
                claims.append(Claim("direction", name, match[0], UNFOUNDED))
            else:
                right = true == sign
                claims.append(Claim("direction", name, match[0], SUPPORTED if right else CONTRADICTED,
                                    "" if right else {1: "risk", -1: "protective", 0: "neither"}[true]))  # fmt: skip
    return claims


def _expected(gene: Gene, match: re.Match, nature: bool, mention: Mention) -> int | None:
    """The sign that the facts give to "raises the risk".

    A gene's nature is the sign of its coefficient. "raises this patient's risk" is about coefficient x expression, and
    "low expression of X raises the risk" about the coefficient turned round."""
    if nature:
        return gene.direction
    if words.OWN.search(match[0]):
        return None if gene.z is None else gene.direction * (1 if gene.z > 0 else -1 if gene.z < 0 else 0)
    stated = [sign for sign, found in mention.expressions if _modifies(found) and found.start() < match.start()]
    return gene.direction * (stated[-1] or 1) if stated else gene.direction


def _modifies(match: re.Match) -> bool:
    """ "low expression of X ..." states a condition; "X is under-expressed" states the patient's level."""
    return _LEVEL_OF.match(match[0]) is not None


def _conditional(match: re.Match, mention: Mention) -> bool:
    """ "higher expression of X raises the risk" says nothing of this patient's level."""
    general = re.match(r"(?:higher|lower|increased|decreased) ", match[0], re.IGNORECASE)
    return general is not None and any(not nature for _, _, nature in mention.directions)
