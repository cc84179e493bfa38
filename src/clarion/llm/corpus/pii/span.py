"""A piece of text that is personal information."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Characters start..end of a text; kind: one of spec.PII_TYPES; birth: a date that is somebody's birthday."""

    start: int
    end: int
    kind: str
    birth: bool = False


# Where two kinds claim the same characters: what is told by a checksum or a label beats what a shape suggests.
PRIORITY = ("RRN", "EMAIL", "URL", "IP", "CARD", "SSN", "BUSINESS", "ID", "PHONE", "DATE", "ADDRESS", "AGE", "NAME")


def resolved(spans: Iterable[Span]) -> list[Span]:
    """Disjoint spans in the order of the text: by priority, then the longer one, then the earlier one."""
    rank = {kind: k for k, kind in enumerate(PRIORITY)}
    kept: list[Span] = []
    for span in sorted(set(spans), key=lambda s: (rank[s.kind], s.start - s.end, s.start)):
        if all(span.end <= k.start or span.start >= k.end for k in kept):
            kept.append(span)
    return sorted(kept, key=lambda s: s.start)
