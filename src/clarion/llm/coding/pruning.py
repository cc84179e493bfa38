"""What is said twice: a broad name beside a narrow one, a part of another code, a symptom beside its diagnosis."""

from __future__ import annotations

from typing import Any

from clarion.codes.icd10cm import CodeSystem

# Complaints and signs: coded only where the note holds no diagnosis (ICD-10-CM guideline I.B.4-5).
SYMPTOMS = ("H53.1", "H53.2", "H53.8", "H53.9", "H57.1", "H57.8", "H57.9", "H43.39", "H04.20", "H11.43", "H57.02")

MANY = 200  # findings from which repetitions are compared once


def prune(found: list[Any], reasons: dict[int, tuple[str, str]], system: CodeSystem) -> None:
    """Fill `reasons` (index -> reason, detail) for items that add nothing. found: items with span, phrase, used, first.

    Only rules and embeddings are pruned; a code that is written down stays."""
    alive = [k for k in range(len(found)) if k not in reasons]
    said: dict[tuple, list[int]] = {}  # a note that repeats itself is compared by what it says, not by how often
    for k in alive:
        said.setdefault((found[k].span.code, found[k].span.laterality), []).append(k)
    near = [same[0] for same in said.values()] if len(alive) > MANY else alive
    above = {code: frozenset(system.chain(code)[1:]) for code, _ in said}
    names = {id(p): _names(p, system) for k in alive if (p := found[k].phrase) is not None}
    for k in alive:
        item = found[k]
        if item.phrase is None:
            continue
        for j in near:
            other = found[j]
            if j == k or other.span.code == item.span.code or j in reasons:
                continue
            if _same_eye(item.span.laterality, other.span.laterality):
                if _part(item, other):
                    reasons[k] = ("part_of", f"{other.span.code} says it")
                elif _broader(item, other, above[other.span.code], names[id(item.phrase)]):
                    reasons[k] = ("less_specific", f"{other.span.code} says more")
            if k in reasons:
                break
    alive = [k for k in alive if k not in reasons]
    diagnoses = [k for k in alive if not _symptom(found[k].span.code)]
    if diagnoses:
        for k in alive:
            if _symptom(found[k].span.code) and found[k].phrase is not None:
                reasons[k] = ("symptom", f"a symptom beside {found[diagnoses[0]].span.code}")


def _part(item: Any, other: Any) -> bool:
    """CNV of "wet AMD with active CNV": its words decided for the other finding's code, in the same sentence."""
    return bool(other.used) and set(item.phrase.words) <= other.used and abs(item.first - other.first) <= 24


def _names(phrase: Any, system: CodeSystem) -> frozenset[str]:
    """The groups of codes that a phrase stands for as a whole."""
    return frozenset(c for c in phrase.codes if not system.is_leaf(c)) | frozenset(phrase.covers)


def _broader(item: Any, other: Any, chain: frozenset[str], names: frozenset[str]) -> bool:
    """chain: the codes above the other's; names: of the item's phrase."""
    if other.span.code in item.phrase.covers or item.span.code in chain:
        return True
    # Two findings under one broad name (both eyes apart) are not each other's broader ones.
    return not names.isdisjoint(chain) and not (
        other.phrase is not None and not set(item.phrase.codes).isdisjoint(other.phrase.codes)
    )


def _same_eye(own: str | None, other: str | None) -> bool:
    return own is None or own == other or other == "bilateral" or other is None


def _symptom(code: str) -> bool:
    return code.startswith(SYMPTOMS)
