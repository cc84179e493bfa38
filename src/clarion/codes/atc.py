"""ATC: medicines. The levels follow from the code itself, at 1, 3, 4, 5 and 7 characters: A, A10, A10B, A10BA, A10BA02.

No package holds the WHO's table. A code of the right shape counts as existing unless the user gives one.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

from clarion.codes.prefixes import PrefixCodes
from clarion.errors import DataError

# The WHO's names: anatomical main group, therapeutic, pharmacological and chemical subgroup, chemical substance.
LENGTHS = {"anatomical": 1, "therapeutic": 3, "pharmacological": 4, "chemical": 5, "substance": 7}
LEVELS = tuple(LENGTHS)
_SHAPE = r"[ABCDGHJLMNPRSV](\d\d([A-Z]([A-Z](\d\d)?)?)?)?"  # the fourteen anatomical groups


@lru_cache(maxsize=4)
def atc(table: str | None = None) -> PrefixCodes:
    """ATC by shape, or restricted to a table (csv or tsv whose first column is the code and second the title)."""
    if table is None:
        return PrefixCodes("ATC", "by the shape of the code, no table given", LENGTHS, _SHAPE)
    path = Path(table).expanduser()
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t" if path.suffix.lower() in {".tsv", ".txt"} else ","))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no table of ATC codes can be read ({error}).") from error
    by_shape = atc()
    titles = {code: row[1].strip() if len(row) > 1 else "" for row in rows if (code := by_shape.normalise(_first(row)))}
    if not titles:
        raise DataError(f"{path}: no ATC code stands in the first column; give a csv with code and title.")
    return PrefixCodes("ATC", path.name, LENGTHS, _SHAPE, titles)


def _first(row: list[str]) -> str:
    return row[0] if row else ""
