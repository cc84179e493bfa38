"""Map-reduce summaries of documents above a token limit (the published preparation: only above 70,000 tokens).

Map: the document is cut at paragraphs into chunks, each summarised by itself. Reduce: while the summaries together are
longer than the target, they are taken as a text and summarised again; rounds are limited, since a model may answer
longer than it was asked to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Generate = Callable[[list[list[dict[str, str]]]], list[str]]
MAP = (
    "Summarise the following part of a medical document. Keep diagnoses, measurements with their units, treatments and "
    "outcomes; add nothing. Answer with the summary only.\n\n{text}"
)
REDUCE = (
    "The following are summaries of consecutive parts of one medical document. Write one summary of them; keep "
    "diagnoses, measurements with their units, treatments and outcomes; add nothing. Answer with the summary only."
    "\n\n{text}"
)
MOST_ROUNDS = 4
AT_ONCE = 16  # conversations handed to the generator in one call: bounds memory


def summarise(
    text: str, generate: Generate, count: Callable[[str], int], settings: Mapping[str, Any]
) -> tuple[str, dict[str, int]]:
    """(summary, {"chunks", "rounds", "empty", "truncated"}). settings: the section `summaries` of a conf.

    `empty` counts chunks for which the generator answered nothing; the summary is "" when all were. `truncated` counts
    answers that went into the summary and were cut off at the generator's token limit (its attribute `truncated`)."""
    parts, cut = _asked(chunks(text, count, settings["chunk_tokens"]), MAP, generate)
    report = {"chunks": len(parts), "rounds": 1, "empty": sum(not p for p in parts), "truncated": cut}
    parts = [p for p in parts if p]
    while len(parts) > 1 and report["rounds"] < MOST_ROUNDS and count("\n\n".join(parts)) > settings["target_tokens"]:
        answers, cut = _asked(chunks("\n\n".join(parts), count, settings["chunk_tokens"]), REDUCE, generate)
        shorter = [p for p in answers if p]
        if not shorter or sum(map(len, shorter)) >= sum(map(len, parts)):
            break
        parts, report["rounds"], report["truncated"] = shorter, report["rounds"] + 1, report["truncated"] + cut
    return "\n\n".join(parts), report


def _asked(parts: list[str], prompt: str, generate: Generate) -> tuple[list[str], int]:
    """(answers in order, how many of them were cut off at the token limit)."""
    answers: list[str] = []
    truncated = 0
    for start in range(0, len(parts), AT_ONCE):
        turns = [[{"role": "user", "content": prompt.format(text=p)}] for p in parts[start : start + AT_ONCE]]
        answers += [answer.strip() for answer in generate(turns)]
        truncated += sum(getattr(generate, "truncated", None) or ())
    return answers, truncated


def chunks(text: str, count: Callable[[str], int], most: int) -> list[str]:
    """A text cut at paragraphs, and where these are too long at sentences, then words, into pieces of at most `most`
    tokens (as near as counting the pieces by themselves goes)."""
    pieces = [(piece, count(piece)) for piece in _pieces(text, count, most)]
    result, current, size = [], [], 0
    for piece, tokens in pieces:
        if current and size + tokens > most:
            result.append("\n\n".join(current))
            current, size = [], 0
        current.append(piece)
        size += tokens
    return [*result, "\n\n".join(current)] if current else result


def _pieces(text: str, count: Callable[[str], int], most: int) -> list[str]:
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if not paragraph.strip():
            continue
        if count(paragraph) <= most:
            found.append(paragraph.strip())
            continue
        for sentence in re.split(r"(?<=[.!?。])\s+", paragraph):
            words = sentence.split()
            step = len(words) if count(sentence) <= most else max(1, int(len(words) * most / (2 * count(sentence))))
            found += [" ".join(words[k : k + step]) for k in range(0, len(words), max(step, 1))]
    return found
