"""What passes through the build: a document, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Document:
    """id: unique in the corpus; text: paragraphs separated by a blank line; meta: what the reader knows beside the
    text (patient_id, mesh: headings, keywords, journal, year, language, licence, pages)."""

    id: str
    text: str
    title: str = ""
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """A file or record that gave no document. reason: a short name, counted in the card (encrypted, scanned, broken,
    too_large, no_text, no_patient,
    crashed); name: the user's own name of it, for the screen only; text: one sentence with the
    fix, without that name."""

    reason: str
    name: str
    text: str


class Unreadable(Exception):
    """Raised by readers: `reason` and a sentence that names the fix and not the file."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason
