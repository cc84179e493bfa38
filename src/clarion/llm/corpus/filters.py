"""Quality filters. Each drops a document for one named reason, so that the card can count them.

Repetition: the published preparation drops a document if more than 30 % of its paragraphs or more than 20 % of its
characters are duplicates (thresholds of Rae et al. 2021, arXiv 2112.11446, table A1). Symbols, words with letters and
mean word length are filters of the same paper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PARAGRAPH = re.compile(r"\n\s*\n")
_SYMBOL = re.compile(r"#|…|\.\.\.")
_LETTER = re.compile(r"[^\W\d_]")


def repetition(text: str) -> tuple[float, float]:
    """(share of paragraphs that repeat an earlier one, share of characters in them), both 0..1."""
    paragraphs = [p for p in (p.strip() for p in _PARAGRAPH.split(text)) if p]
    if len(paragraphs) < 2:  # a text without blank lines: its lines
        paragraphs = [p for p in (p.strip() for p in text.split("\n")) if p]
    seen: set[str] = set()
    repeats = characters = 0
    for paragraph in paragraphs:
        if paragraph in seen:
            repeats, characters = repeats + 1, characters + len(paragraph)
        seen.add(paragraph)
    total = sum(map(len, paragraphs))
    return (repeats / len(paragraphs), characters / total) if total else (0.0, 0.0)


def reason_to_drop(text: str, limits: Mapping[str, Any]) -> str | None:
    """The first filter that refuses the text, or None. limits: the section `filters` of a conf; null: off."""
    words = text.split()
    if len(words) < limits["min_words"]:
        return "too_short"
    if limits["max_words"] is not None and len(words) > limits["max_words"]:
        return "too_long"
    paragraphs, characters = repetition(text)
    if limits["duplicate_paragraphs"] is not None and paragraphs > limits["duplicate_paragraphs"]:
        return "duplicate_paragraphs"
    if limits["duplicate_characters"] is not None and characters > limits["duplicate_characters"]:
        return "duplicate_characters"
    if not words:
        return None
    if limits["symbols_per_word"] is not None and len(_SYMBOL.findall(text)) / len(words) > limits["symbols_per_word"]:
        return "symbols"
    lettered = limits["words_with_letters"]
    if lettered is not None and sum(1 for w in words if _LETTER.search(w)) / len(words) < lettered:
        return "few_letters"
    if limits["mean_word_length"] is not None:
        low, high = limits["mean_word_length"]
        if not low <= sum(map(len, words)) / len(words) <= high:
            return "word_length"
    return None
