"""What a reader saw: notes that stay with the cohort, and problems that stop it unless they are allowed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from clarion.data.integrity import IntegrityReport


@dataclass
class ReadLog:
    """allow: codes of problems to go on with. notes: sentences for the cohort; none of them names a patient."""

    allow: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    report: IntegrityReport = field(default_factory=IntegrityReport)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def problem(
        self,
        code: str,
        message: str,
        items: Iterable[tuple[str, str]],
        allowed: str,
        total: int | None = None,
    ) -> bool:
        """Record a problem and say whether it is allowed. items: (wording without names, wording for the screen);
        allowed: what is done about it when `code` is in `allow`, for the notes."""
        items = list(items)
        if code in self.allow:
            self.note(f"{allowed} ({total or len(items)}).")
            return True
        self.report.error(code, f"{message}, or allow={code}: {allowed}", items, total)
        return False
