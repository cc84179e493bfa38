"""LOINC: laboratory tests and observations. A code is a number and its check digit (718-7).

Its part hierarchy lies in a table of the LOINC release that the user downloads and licenses: ComponentHierarchyBySystem
.csv with the columns PATH_TO_ROOT (parts, root first, joined by dots), CODE and CODE_TEXT. Without it a code is checked
by its digit and has one level, itself.
"""

from __future__ import annotations

import csv
import re
from functools import lru_cache
from pathlib import Path

from clarion.codes.nearest import nearest_codes, no_such_code
from clarion.errors import DataError, UsageError

LEVELS = ("part_1", "part_2", "part_3", "leaf")  # the three parts nearest the root, and the code
COLUMNS = ("PATH_TO_ROOT", "CODE", "CODE_TEXT")
NO_TABLE = (
    "Laboratory codes are scored as they are, not by part: no package holds LOINC's hierarchy. Name "
    "ComponentHierarchyBySystem.csv of your LOINC release with evaluators.coding.loinc=/file."
)


@lru_cache(maxsize=4)
def loinc(table: str | None = None) -> Loinc:
    """LOINC by check digit, or with the part hierarchy of a table. Raises DataError with the fix."""
    if table is None:
        return Loinc("by check digit, no table given")
    path = Path(table).expanduser()
    paths: dict[str, tuple[str, ...]] = {}
    titles: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            absent = [c for c in COLUMNS if c not in (rows.fieldnames or ())]
            if absent:
                raise DataError(
                    f"{path} lacks the column(s) {', '.join(absent)}: give ComponentHierarchyBySystem.csv of a LOINC "
                    "release."
                )
            for row in rows:
                code = (row["CODE"] or "").strip().upper()
                # A code may hang at several parts: its first place in the table is where it is counted.
                if code and code not in paths:
                    paths[code] = tuple(part for part in (row["PATH_TO_ROOT"] or "").split(".") if part)
                    titles[code] = (row["CODE_TEXT"] or "").strip()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: LOINC's hierarchy cannot be read ({error}).") from error
    if not paths:
        raise DataError(f"{path} holds no codes: give ComponentHierarchyBySystem.csv of a LOINC release.")
    return Loinc(path.name, paths, titles)


class Loinc:
    """LOINC codes; LEVELS is ("leaf",) without a table."""

    name = "LOINC"

    def __init__(self, version: str, paths: dict[str, tuple[str, ...]] | None = None, titles: dict | None = None):
        self.version, self._paths, self._titles = version, paths, titles or {}
        self.LEVELS = LEVELS if paths is not None else ("leaf",)

    def normalise(self, text: object) -> str | None:
        """The code as LOINC writes it (718-7); None where the check digit is wrong or the table lacks the code."""
        code = text.strip().upper() if isinstance(text, str) else ""
        if self._paths is not None:
            return code if code in self._paths else None
        return code if re.fullmatch(r"\d{1,7}-\d", code) and check_digit(code[:-2]) == int(code[-1]) else None

    def title(self, code: str) -> str | None:
        """CODE_TEXT of the table; None without one."""
        return self._titles.get(self._normalised(code))

    def chain(self, code: str) -> list[str]:
        """[code, its part, ..., the root part]; the code alone without a table."""
        code = self._normalised(code)
        return [code, *reversed((self._paths or {}).get(code, ()))]

    def at_level(self, code: str, level: str) -> str | None:
        """The part 1, 2 or 3 steps from the root (the root is part_1), or the code; None where it hangs higher."""
        if level not in LEVELS:
            raise UsageError(f"{level!r} is no level of LOINC: write {', '.join(LEVELS)}.")
        if level not in self.LEVELS:
            raise UsageError(NO_TABLE)
        code = self._normalised(code)
        if level == "leaf":
            return code
        path = (*self._paths[code], code)
        depth = LEVELS.index(level)
        return path[depth] if depth < len(path) else None

    def suggest(self, text: str, n: int = 3) -> list[str]:
        """At most n codes of the table, nearest first; without one the code with its digit put right."""
        if self._paths is not None:
            return nearest_codes(text.strip().upper(), self._paths, n)
        number = re.fullmatch(r"\s*(\d{1,7})(-\d)?\s*", text)
        return [f"{number[1]}-{check_digit(number[1])}"] if number else []

    def unknown(self, code: object) -> str:
        """The sentence about a code that does not exist, with the nearest ones."""
        near = self.suggest(code) if isinstance(code, str) else []
        return no_such_code(code, f"{self.name} ({self.version})", near)

    def _normalised(self, code: str) -> str:
        if (found := self.normalise(code)) is None:
            raise DataError(self.unknown(code))
        return found


def check_digit(number: str) -> int:
    """The digit behind the hyphen (mod 10, Luhn): of 718 it is 7."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return (10 - total % 10) % 10
