"""What was counted: the numbers of the data card and of the state that a build goes on from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class Tally:
    """read, written: source -> documents; dropped: reason -> documents (duplicates among them); problems: reason ->
    files or records that gave none; pii: kind -> removed from written documents; languages: of written documents;
    formats: of written documents."""

    tasks: int = 0
    characters_read: int = 0
    characters_written: int = 0
    tokens: int = 0
    words: int = 0
    read: Counter = field(default_factory=Counter)
    written: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    problems: Counter = field(default_factory=Counter)
    problem_examples: list[str] = field(default_factory=list)
    languages: Counter = field(default_factory=Counter)
    languages_dropped: Counter = field(default_factory=Counter)
    formats: Counter = field(default_factory=Counter)
    licences: Counter = field(default_factory=Counter)
    pii: Counter = field(default_factory=Counter)
    documents_with_pii: int = 0
    summaries: Counter = field(default_factory=Counter)
    near_candidates_capped: int = 0

    @property
    def documents(self) -> int:
        return sum(self.written.values())

    def plain(self) -> dict[str, Any]:
        """As JSON; counters by falling count, then by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: dict(sorted(v.items(), key=lambda i: (-i[1], i[0]))) if isinstance(v, Counter) else v
            for k, v in values.items()
        }

    @classmethod
    def of(cls, values: dict[str, Any]) -> Tally:
        """The tally that `plain` wrote."""
        return cls(**{k: Counter(v) if isinstance(v, dict) else v for k, v in values.items()})
