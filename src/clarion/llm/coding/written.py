"""Codes that are written down: "H40.1131", "h401131", "C4A.0", and codes that no longer exist."""

from __future__ import annotations

import re
from dataclasses import dataclass

from clarion.codes.icd10cm import CodeSystem
from clarion.llm.coding.lexicon import Lexicon

_CODE = re.compile(r"(?<![A-Za-z0-9.])([A-Za-z][0-9][0-9A-Za-z](?:\.[0-9A-Za-z]{1,4}|[0-9A-Za-z]{0,4}))(?![A-Za-z0-9])")
_LIST = re.compile(r"^[ \t*#-]*(?:final )?ICD-?\s?10(?:-?CM)?(?: codes?)?[ \t*]*[:：]", re.IGNORECASE | re.MULTILINE)
_NAMED = re.compile(r"(?:ICD|codes?|코드)[^\n]{0,40}$|[(\[]\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Written:
    """code: None where there is no such code in the system."""

    code: str | None
    start: int
    end: int
    text: str


def listed_from(text: str) -> int | None:
    """Where the last list of codes ("ICD-10-CM:") begins. What states its codes is taken at its word: then nothing is
    read from the prose before."""
    found = list(_LIST.finditer(text))
    return found[-1].end() if found else None


def written_codes(text: str, system: CodeSystem, lexicon: Lexicon, start: int | None = None) -> list[Written]:
    """Codes in the text, from `start` on where a list begins there.

    A dotted code that exists counts everywhere. Without a dot three characters ("B12", "T20") are more often something
    else, so they count where codes are named ("ICD-10: H40"), in brackets, or inside the scope; and longer ones must
    exist. What looks like a code of the scope (or stands where codes are named) and does not exist is reported."""
    found = []
    for match in _CODE.finditer(text, start or 0):
        raw = match[1]
        code = system.normalise(raw)
        named = start is not None or bool(_NAMED.search(text[max(0, match.start() - 48) : match.start()]))
        dotted = "." in raw
        if code is not None and system.level(code) in ("chapter", "block"):
            code = None
        if code is not None:
            if dotted or named or len(raw) > 4 or (len(raw) >= 3 and raw[0].isupper() and code in lexicon.codes):
                found.append(Written(code, match.start(), match.end(), raw))
        elif _looks_like(raw, system, lexicon, dotted, named):
            found.append(Written(None, match.start(), match.end(), raw))
    return found


def _looks_like(raw: str, system: CodeSystem, lexicon: Lexicon, dotted: bool, named: bool) -> bool:
    category = system.normalise(raw[:3])
    if category is None:
        return named and (dotted or len(raw) > 4)
    return (dotted and (named or raw[0].isupper())) or (len(raw) > 4 and (named or category in lexicon.codes))
