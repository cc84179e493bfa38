"""Is a document about the eye? A score from weighted terms, English and Korean, and from MeSH headings.

score = sum over terms of weight * sqrt(times found) / sqrt(max(words, 250) / 250) + `mesh` if an eye heading is given.
The square roots make the score of a long paper comparable with that of its abstract (a term found in proportion to
length scores the same), and keep one often repeated word from deciding alone. A passing mention scores 1 to 3.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TERMS = Path(__file__).parent / "eye_terms.tsv"
_WORD = re.compile(r"[a-z]+")
USUAL_WORDS = 250  # of an abstract


@dataclass(frozen=True)
class Terms:
    """stems: beginnings of English words; phrases: English, of several words; korean: substrings; mesh: headings that
    make an eye document, lower case; each with its weight."""

    stems: dict[str, float]
    phrases: dict[str, float]
    korean: dict[str, float]
    mesh: frozenset[str]


@cache
def terms(path: Path = TERMS) -> Terms:
    """The term list: lines of weight, tab, term; `mesh` in place of a weight marks a heading. # comments."""
    found = Terms({}, {}, {}, frozenset())
    mesh = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        weight, tab, term = line.partition("\t")
        if line.startswith("#") or not tab:
            continue
        term = term.strip()
        if weight == "mesh":
            mesh.add(term.lower())
        elif re.search("[가-힣]", term):
            found.korean[term] = float(weight)
        else:
            (found.phrases if " " in term else found.stems)[term] = float(weight)
    return Terms(found.stems, found.phrases, found.korean, frozenset(mesh))


@cache
def _stem_of(word: str) -> str | None:
    stems = terms().stems
    return next((word[:k] for k in range(len(word), 2, -1) if word[:k] in stems), None)


def eye_score(text: str, title: str = "", mesh: Iterable[str] = (), mesh_weight: float = 6.0) -> float:
    """The score of a document (see above), 0 without any term. Headings may carry a qualifier ("Glaucoma/surgery")."""
    known = terms()
    lower = f"{title} {title} {text}".lower()
    words = _WORD.findall(lower)
    counts: Counter[str] = Counter()
    weights: dict[str, float] = {}
    for word, times in Counter(words).items():
        if (stem := _stem_of(word) if len(word) > 2 else None) is not None:
            counts[stem] += times
            weights[stem] = known.stems[stem]
    for phrase, weight in known.phrases.items():
        if times := lower.count(phrase):
            counts[phrase], weights[phrase] = times, weight
    length = len(words)
    if re.search("[가-힣]", text):
        length = max(length, len(text.split()))
        for term, weight in known.korean.items():
            if times := text.count(term) + 2 * title.count(term):
                counts[term], weights[term] = times, weight
    raw = sum(weights[term] * times**0.5 for term, times in counts.items())
    bonus = mesh_weight if any(is_eye_heading(heading) for heading in mesh) else 0.0
    return raw / (max(length, USUAL_WORDS) / USUAL_WORDS) ** 0.5 + bonus


def is_eye_heading(heading: str) -> bool:
    """Whether a MeSH heading lies in the trees C11 (Eye Diseases), A09.371 (Eye), E04.540 (Ophthalmologic Surgical
    Procedures) or H02.403.810.601 (Ophthalmology), as far as the list goes."""
    return heading.lower().split("/")[0].strip("* ") in terms().mesh
