"""Codes and titles nearest to something that does not exist, for the sentence that says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def nearest_codes(wanted: str, codes: Iterable[str], n: int) -> list[str]:
    """Of the codes those most like `wanted` (all undotted, upper case), nearest first.

    Code systems nest by prefix, so what counts first is how long a beginning is shared; among equals the closest
    length, then the edit distance.
    """
    from rapidfuzz.distance import Levenshtein

    def shared(code: str) -> int:
        length = 0
        while length < min(len(code), len(wanted)) and code[length] == wanted[length]:
            length += 1
        return length

    if not wanted:
        return []
    alike = [(shared(code), code) for code in codes if code[0] == wanted[0]]
    best = max((length for length, _ in alike), default=0)
    pool = [(-length, Levenshtein.distance(code, wanted), code) for length, code in alike if length >= best - 1]
    return [code for _, _, code in sorted(pool)[:n]]


def nearest_titles(text: str, titles: Sequence[str], n: int, least: float = 60.0) -> list[int]:
    """Places of the n titles most like a text by their words in any order; none below `least` of 100."""
    from rapidfuzz import fuzz, process, utils

    if not text.strip():
        return []
    found = process.extract(
        text[:500], titles, scorer=fuzz.token_sort_ratio, processor=utils.default_process, limit=n, score_cutoff=least
    )
    return [place for _, _, place in found]


def no_such_code(code: object, system: str, near: Sequence[str]) -> str:
    """The sentence about a code that `system` (name and version) does not hold, with the nearest ones."""
    offer = f"; nearest: {', '.join(near)}" if near else ""
    return f"{str(code)[:40]!r} is no code of {system}{offer}."
