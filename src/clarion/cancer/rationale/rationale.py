"""A structured rationale: sentences in sections, each with the facts it states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clarion.config import nearest
from clarion.errors import UsageError

SECTIONS = ("summary", "genes", "tissue", "clinical", "missing")
LANGUAGES = ("en", "ko")
HEADINGS = {
    "en": {"summary": "Summary", "genes": "Genes", "tissue": "Tissue", "clinical": "Clinical data",
           "missing": "What was missing"},
    "ko": {"summary": "요약", "genes": "유전자", "tissue": "조직", "clinical": "임상 정보", "missing": "빠진 자료"},
}  # fmt: skip


def known_language(language: str) -> None:
    """UsageError for a language in which nothing is written."""
    if language not in LANGUAGES:
        hint = nearest(language, LANGUAGES)
        raise UsageError(f"language={language} is unknown; choose {' or '.join(LANGUAGES)}.{hint}")


@dataclass(frozen=True)
class Sentence:
    """states: which facts it says, as "kind:about": "direction:TP53", "share:necrosis", "outcome"."""

    section: str
    text: str
    states: tuple[str, ...]


@dataclass(frozen=True)
class Rationale:
    """language: en or ko; sentences in the order of SECTIONS."""

    language: str
    sentences: tuple[Sentence, ...]

    def section(self, name: str) -> list[Sentence]:
        return [s for s in self.sentences if s.section == name]

    def text(self) -> str:
        """Headings ("## ...") and one paragraph a section; sections without sentences are left out."""
        parts = [f"## {HEADINGS[self.language][name]}\n{' '.join(s.text for s in own)}"
                 for name in SECTIONS if (own := self.section(name))]  # fmt: skip
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        rows = [{"section": s.section, "text": s.text, "states": list(s.states)} for s in self.sentences]
        return {"language": self.language, "text": self.text(), "sentences": rows}


def with_sentences(text: str, sentences: Sequence[Sentence], language: str) -> str:
    """A text under these headings, sentences added to their sections; sections that it lacks come in their place."""
    headings = HEADINGS[language]
    parts: dict[str, list[str]] = {name: [] for name in SECTIONS}
    where = "summary"
    for line in text.strip().split("\n"):
        plain = re.sub(r"^[#*\s]+|[*:\s]+$", "", line).casefold()
        heading = next((n for n, h in headings.items() if plain == h.casefold()), None)
        if heading:
            where = heading
        elif line.strip():
            parts[where].append(line.rstrip())
    for sentence in sentences:
        parts[sentence.section].append(sentence.text)
    return "\n\n".join(f"## {headings[n]}\n" + "\n".join(lines) for n, lines in parts.items() if lines)
