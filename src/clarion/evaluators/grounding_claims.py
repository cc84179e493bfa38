"""What an answer claims that its source does not: numbers, sides, stages, denied or unmentioned findings.

Rules on text, without a network: each names what it found. The source is what the answer had to rest on: findings or
a passage, together with the reference answer, which holds what follows from them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from clarion.evaluators.polarity import Statement, statements, stem

KINDS = ("number", "side", "polarity", "finding")
MIN_SHARED = 0.5  # share of an answer's content words that a clause of the source must share to speak of the same
# Named findings, as stems are compared; several names of one finding stand together.
FINDINGS: tuple[tuple[str, ...], ...] = (
    ("macular hole",), ("lamellar hole",), ("pseudohole",), ("drusen",), ("geographic atrophy",),
    ("retinal detachment",),
    ("vitreous detachment", "posterior vitreous detachment"), ("vitreomacular traction",), ("retinoschisis",),
    ("macular edema", "macular oedema", "cystoid edema"), ("intraretinal fluid",), ("subretinal fluid",),
    ("intraretinal cyst", "cystoid space"), ("hemorrhage", "haemorrhage", "bleeding"), ("hard exudate", "exudates"),
    ("cotton wool",), ("microaneurysm",), ("neovascularization", "neovascularisation", "neovascular membrane"),
    ("choroidal neovascularization",), ("diabetic retinopathy",), ("hypertensive retinopathy",), ("retinal tear",),
    ("vein occlusion",), ("artery occlusion",), ("macular degeneration",), ("retinitis pigmentosa",), ("uveitis",),
    ("iritis",), ("keratitis",), ("conjunctivitis",), ("scleritis",), ("endophthalmitis",), ("glaucoma",),
    ("ocular hypertension",), ("optic neuritis",), ("optic atrophy",), ("papilledema",), ("melanoma",),
    ("retinoblastoma",), ("cataract",), ("keratoconus",), ("amblyopia",), ("strabismus",), ("nystagmus",), ("ptosis",),
    ("blepharitis",), ("dry eye",), ("corneal ulcer",), ("epiretinal membrane",), ("metamorphopsia", "distortion"),
    ("ectopic inner foveal layers", "ectopic layers"), ("pigment epithelial detachment",), ("central serous",),
    ("황반원공",), ("드루젠",), ("망막박리", "망막 박리"), ("황반부종", "황반 부종"), ("녹내장",), ("백내장",),
    ("포도막염",),
    ("당뇨망막병증", "당뇨 망막병증"), ("망막전막", "망막 전막"), ("출혈",), ("변시증",),
)  # fmt: skip
_YES_NO = re.compile(r"^(?P<name>[^;.\n]*?)\s*[:=]?\s*\b(?P<said>yes|no|none)$", re.IGNORECASE)
_HEADS = re.compile(r"^\s*(?:findings?[^:]*:|context:|question:)\s*", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Claim:
    """One claim that the source does not carry. kind: number | side | polarity | finding; what: in a few words."""

    kind: str
    what: str


@dataclass
class Source:
    """A source text, read once: its clauses, its numbers by unit, its sides, and its words."""

    clauses: list[Statement]
    numbers: dict[str, set[float]]
    sides: set[str]
    text: str


def read_source(*texts: str) -> Source:
    """Findings ("foveal pit absent; cataract no; central thickness 434 um"), passages, and reference answers."""
    parts = [part for text in texts for part in re.split(r"[;\n]+|(?<=[.!?])\s+", _HEADS.sub("", text or ""))]
    lines = [_spoken(part.strip(" -\t")) for part in parts if part.strip()]
    clauses = [s for line in lines for s in statements(line)]
    numbers: dict[str, set[float]] = {}
    for clause in clauses:
        for unit, values in clause.numbers.items():
            numbers.setdefault(unit, set()).update(values)
    sides = set().union(*(c.sides for c in clauses)) if clauses else set()
    return Source(clauses, numbers, sides, _stems(" ".join(lines)))


def unsupported(answer: str, source: Source, tolerance: float = 0.02) -> list[Claim]:
    """Claims of an answer that contradict the source or have nothing there, each once, in the order of KINDS."""
    said = statements(answer)
    found: list[Claim] = []
    for one in said:
        found += _numbers(one, source, tolerance)
        if one.sides and source.sides and not one.sides <= source.sides:
            found.append(Claim("side", f"{''.join(sorted(one.sides))} eye, source {''.join(sorted(source.sides))}"))
        found += _polarity(one, source)
    found += _findings(answer, said, source)
    return sorted(set(found), key=lambda c: (KINDS.index(c.kind), c.what))


def _spoken(part: str) -> str:
    """"cataract no" -> "no cataract", "cataract yes" -> "cataract present": how lists of findings say it."""
    match = _YES_NO.match(part.rstrip("."))
    if not match or not match["name"].strip():
        return part
    return f"no {match['name']}" if match["said"].lower() != "yes" else f"{match['name']} present"


def _numbers(one: Statement, source: Source, tolerance: float) -> list[Claim]:
    found = []
    for unit, values in sorted(one.numbers.items()):
        if unit == "":
            continue  # a bare number may count anything ("2 reasons"): only measured ones are claims
        known = source.numbers.get(unit, set())
        for value in sorted(values):
            if not any(math.isclose(value, k, rel_tol=tolerance, abs_tol=1e-9) for k in known):
                found.append(Claim("number", f"{value:g} {unit}"))
    return found


def _polarity(one: Statement, source: Source) -> list[Claim]:
    """Content affirmed here and denied there, in the clauses of the source that are about the same."""
    found = []
    for clause in source.clauses:
        shared = one.terms.keys() & clause.terms.keys()
        things = {t for t in shared if not t.startswith("~")}
        smaller = min(len(one.content), len(clause.content))
        if not things or len(shared) < MIN_SHARED * smaller or one.denied & clause.denied:
            continue
        for term in sorted(shared):
            a, b = one.terms[term], clause.terms[term]
            if len(a) == len(b) == 1 and a != b and not _carried(term, a, source):
                found.append(Claim("polarity", term.lstrip("~")))
    return found


def _carried(term: str, polarity: set[int], source: Source) -> bool:
    """Whether another clause of the source says of this term what the answer says."""
    return any(c.terms.get(term) == polarity for c in source.clauses)


def _findings(answer: str, said: Sequence[Statement], source: Source) -> list[Claim]:
    """Named findings that the answer affirms and the source does not mention at all."""
    found = []
    for names in FINDINGS:
        if any(_has(source.text, name) for name in names):
            continue
        for name in names:
            if _has(_stems(answer), name) and _affirmed(name, said):
                found.append(Claim("finding", names[0]))
                break
    return found


def _affirmed(name: str, said: Sequence[Statement]) -> bool:
    wanted = {stem(word) for word in name.split()}
    return any(wanted & s.content and not wanted & s.denied for s in said)


def _stems(text: str) -> str:
    return " ".join(stem(word) for word in re.findall(r"[^\W\d_]+", text.lower()))


def _has(stems: str, name: str) -> bool:
    wanted = _stems(name)
    if not wanted.isascii():  # Korean words carry particles
        return wanted in stems
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", stems) is not None
