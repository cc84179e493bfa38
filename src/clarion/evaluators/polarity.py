"""Do two answers contradict each other? What a cosine of embeddings cannot see: it calls "yes" and "no" alike (.73).

Rules, each of which names its reason: opposite verdicts (yes / no), the same content affirmed here and denied there,
opposite words (increase / decrease), another side (right / left), another number of the same unit. They are applied
to sentences that speak of the same thing, and, where an embedding's similarity is given, only above a threshold.
Lexical rules do not understand: a paraphrase without shared words passes as no contradiction.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from clarion.evaluators import polarity_words as w

MIN_SIMILARITY = 0.25  # below, two texts are about different things: they do not contradict each other
MIN_OVERLAP = 0.3  # share of the shorter sentence's content that must be shared before details are compared
SCOPE = 8  # words that a negation reaches at most
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|mm²|[^\W\d_]+(?:['’-][^\W\d_]+)*2?|[,;:.!?()%°/]")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_VERDICTS = (
    ("yes", re.compile(r"^\W*(?:yes|true|correct|right|예|네|그렇습니다|맞다|맞습니다)\s*(?:[,.;:!–-]|$)", re.I)),
    ("no", re.compile(r"^\W*(?:no|false|incorrect|wrong|아니오|아니요|아닙니다|틀리다)\s*(?:[,.;:!–-]|$)", re.I)),
)
_PARTICLES = re.compile(r"(?:에서|으로|에는|에게|까지|부터|은|는|이|가|을|를|의|에|로|과|와|도|만)$")


@dataclass
class Statement:
    """What a sentence says. terms: stem or concept -> polarities (+1, or -1 for denied or the opposite word); denied:
    those that a negation reaches; sides: letters R, L; numbers: unit -> values; content: the stems, for finding the
    sentence that speaks of the same."""

    terms: dict[str, set[int]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    sides: set[str] = field(default_factory=set)
    numbers: dict[str, set[float]] = field(default_factory=dict)
    content: set[str] = field(default_factory=set)


def contradiction(reference: str, answer: str, similarity: float | None = None, tolerance: float = 0.02) -> list[str]:
    """Why the answer contradicts the reference; an empty list where no rule finds that it does.

    similarity: cosine of their embeddings, or None; tolerance: relative error at which two numbers agree."""
    verdicts = verdict(reference), verdict(answer)
    if None not in verdicts:
        if verdicts[0] != verdicts[1]:
            return [f"verdict: {verdicts[0]} / {verdicts[1]}"]
    if similarity is not None and similarity < MIN_SIMILARITY:
        return []
    left, right = statements(reference), statements(answer)
    reasons: list[str] = []
    for one, other in _aligned(left, right):
        reasons += _between(one, other, tolerance)
    return list(dict.fromkeys(reasons))


def verdict(text: str) -> str | None:
    """yes or no, where a text begins with that as a sentence of its own ("No, ...", but not "No tear ...")."""
    text = _plain(text)
    return next((name for name, pattern in _VERDICTS if pattern.match(text)), None)


def statements(text: str) -> list[Statement]:
    """What each sentence of a text says."""
    found = [_statement(sentence) for sentence in _SENTENCE.split(_plain(text)) if sentence.strip()]
    return [s for s in found if s.content or s.numbers or s.sides]


def _aligned(left: Sequence[Statement], right: Sequence[Statement]) -> list[tuple[Statement, Statement]]:
    """Pairs of sentences about the same: for each on the left the most similar on the right."""
    if len(left) == 1 and len(right) == 1:
        return [(left[0], right[0])]
    pairs = []
    for one in left:
        best, overlap = None, 0.0
        for other in right:
            shared = len(one.content & other.content) / max(1, min(len(one.content), len(other.content)))
            if shared > overlap:
                best, overlap = other, shared
        if best is not None and overlap >= MIN_OVERLAP:
            pairs.append((one, best))
    return pairs


def _between(one: Statement, other: Statement, tolerance: float) -> list[str]:
    reasons = []
    if one.sides and other.sides and one.sides != other.sides:
        reasons.append(f"side: {''.join(sorted(one.sides))} / {''.join(sorted(other.sides))}")
    for unit in sorted(one.numbers.keys() & other.numbers.keys()):
        a, b = one.numbers[unit], other.numbers[unit]
        bare = unit == "" and (len(a) > 1 or len(b) > 1)  # several numbers without a unit may be about anything
        if not bare and not any(math.isclose(x, y, rel_tol=tolerance, abs_tol=1e-9) for x in a for y in b):
            reasons.append(f"number: {_listed(a)} / {_listed(b)} {unit}".strip())
    shared = sorted(one.terms.keys() & other.terms.keys())
    # "Surgery is not recommended" and "we do not recommend surgery" deny the same; only the order of words differs.
    if one.denied & other.denied:
        return reasons
    for term in shared:
        a, b = one.terms[term], other.terms[term]
        if len(a) == len(b) == 1 and a != b:
            reasons.append(f"{'opposite' if term.startswith('~') else 'negation'}: {term.lstrip('~')}")
    return reasons


def _listed(values: set[float]) -> str:
    return ", ".join(f"{v:g}" for v in sorted(values))


# --------------------------------------------------------------------------------------------- reading a sentence


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", str(text)).replace("\u2212", "-").replace("’", "'")
    return re.sub(r"\b(can)'?not\b|\b(\w+)n't\b", lambda m: f"{m[1] or m[2]} not", text)


@lru_cache(maxsize=1)
def _lexicon() -> tuple[dict[str, tuple[str, int]], Any]:
    from nltk.stem.porter import PorterStemmer

    return w.poles(), PorterStemmer()


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """Porter stem of an English word; a Korean word without its particle."""
    return _lexicon()[1].stem(w.ROOTS.get(word, word)) if word.isascii() else (_PARTICLES.sub("", word) or word)


def _statement(sentence: str) -> Statement:
    tokens = [t.lower() for t in _TOKEN.findall(sentence)]
    found = Statement()
    denied = _denied(tokens)
    opposites = _lexicon()[0]
    for k, token in enumerate(tokens):
        roman = token in w.ROMAN and k > 0 and tokens[k - 1] in w.NAMED  # "stage III"
        if token[0].isdigit() or token in w.SPELT or roman:
            _add_number(found, tokens, k)
            continue
        side = token if token.isascii() else _PARTICLES.sub("", token)
        if side in w.SIDES and _is_side(tokens, k):
            found.sides |= set(w.SIDES[side])
            continue
        if len(token) < 2 or not token[0].isalpha() or token in w.STOP or token in w.UNITS or w.BEFORE.match(token):
            continue
        root = stem(token)
        concept, sign = opposites.get(root) or _korean_opposite(token, opposites) or (root, 1)
        found.terms.setdefault(concept, set()).add(-sign if k in denied else sign)
        found.content.add(concept)
        if k in denied:
            found.denied.add(concept)
    return found


def _denied(tokens: Sequence[str]) -> set[int]:
    """Places of the words that are denied, an even number of negations being none."""
    denied: set[int] = set()
    for k, token in enumerate(tokens):
        if not w.BEFORE.match(token) or (token == "free" and tokens[k + 1 : k + 2] != ["of"]):
            continue
        end = next((j for j in range(k + 1, min(len(tokens), k + 1 + SCOPE)) if w.ENDS.match(tokens[j])), None)
        denied ^= set(range(k + 1, len(tokens[: k + 1 + SCOPE]) if end is None else end))
    for k, token in enumerate(tokens):
        not_seen = token in w.SEEN and k > 1 and tokens[k - 1] == "not" and tokens[k - 2] in w.COPULA
        if not_seen or (w.BEHIND.match(token) and k not in denied):  # "not absent" denies nothing
            last = k - 2 if not_seen else k
            start = next((j for j in range(last - 1, max(-1, last - 1 - SCOPE), -1) if w.ENDS.match(tokens[j])), -1)
            denied ^= {j for j in range(start + 1, last) if j > last - 1 - SCOPE}
        elif token == "absence" and k not in denied:  # "absence of a pit"
            end = next((j for j in range(k + 1, len(tokens)) if w.ENDS.match(tokens[j])), len(tokens))
            denied ^= set(range(k + 1, end))
    start = 0
    for k, token in enumerate([*tokens, "."]):  # in Korean the end of a clause denies all of it
        if w.ENDS.match(token):
            if sum(bool(w.KOREAN_NEGATION.search(t)) for t in tokens[start:k]) % 2:
                denied ^= {j for j in range(start, k) if not tokens[j].startswith(("있", "없"))}
            start = k + 1
    return denied


def _korean_opposite(token: str, opposites: dict[str, tuple[str, int]]) -> tuple[str, int] | None:
    if token.isascii():
        return None
    found = [key for key in opposites if not key.isascii() and token.startswith(key)]
    return opposites[max(found, key=len)] if found else None


def _is_side(tokens: Sequence[str], k: int) -> bool:
    """"right" as a side: not "right answer", not "both" of two drugs."""
    behind = tokens[k + 1 : k + 4]
    if tokens[k] in ("od", "os", "ou", "bilateral", "bilaterally") or not tokens[k].isascii():
        return True
    near = {"eye", "eyes", "side", "sided", "lens", "retina", "macula", "fovea", "optic", "pupil", "cornea", "lid"}
    last = len(tokens) - 1 == k or tokens[k + 1] in ".,;"
    place = list(tokens[:k][-2:]) in (["in", "the"], ["on", "the"])
    return bool(near & set(behind)) or (tokens[k] != "both" and (last or place))


def _add_number(found: Statement, tokens: Sequence[str], k: int) -> None:
    text = w.SPELT.get(tokens[k]) or w.ROMAN.get(tokens[k], tokens[k])
    before, behind = tokens[k - 1] if k else "", tokens[k + 1] if k + 1 < len(tokens) else ""
    if before == "/" or behind == "/":  # 20/40 is one number: visual acuity
        if behind == "/" and k + 2 < len(tokens) and tokens[k + 2][0].isdigit():
            found.numbers.setdefault("acuity", set()).add(_number(text) / max(1.0, _number(tokens[k + 2])))
        return
    unit = w.NAMED.get(before) or w.UNITS.get(behind, "")
    if tokens[k] in w.SPELT and not unit:
        return  # "one of the causes" counts nothing
    found.numbers.setdefault(unit, set()).add(_number(text))


def _number(text: str) -> float:
    thousands = re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", text)
    text = text.replace(",", "" if thousands else ".")  # "1,234.5" and the decimal comma of "2,5"
    try:
        return float(text)
    except ValueError:
        return math.nan
