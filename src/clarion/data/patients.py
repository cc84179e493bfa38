"""Which patient an image belongs to: samples.csv or patients.csv, a pattern in file names, or unknown."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from clarion.data.layout import Item
from clarion.data.paths import inside, named_error, nfc
from clarion.errors import DataError, UsageError

SAMPLE_COLUMNS = ("sample_id", "image", "image_id", "file_name", "filename", "file")
PATIENT_COLUMNS = ("patient_id", "patient", "subject_id", "subject")
LONGEST_FIELD = 131_072  # characters of one cell
RESERVED = frozenset({"sample_id", "patient_id", "split", "boxes", "labels", "width", "height", "scores"})
_IDENTIFYING = re.compile(
    r"name|birth|dob|mrn|ssn|address|phone|e-?mail|accession|(^|_)(id|uid|date)($|_)|이름|성명|생년|등록번호|환자|전화|주소",
    re.IGNORECASE,
)
_MAX_VALUES = 20  # a column with more distinct values is no subgroup


@dataclass
class Table:
    """Rows of samples.csv matched to images. patient: item key -> patient id as written; split: item key ->
    split as written (only when the column exists); groups: column -> item key -> value; file: what was read;
    unmatched: names in the table that match no image; missing: items without a row."""

    file: Path | None = None
    patient: dict[str, str] = field(default_factory=dict)
    split: dict[str, str] = field(default_factory=dict)
    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    missing: list[Item] = field(default_factory=list)


def read_table(root: Path, items: Sequence[Item]) -> Table | None:
    """samples.csv, else patients.csv, at the root; None when neither is there.

    A row names its image by path below the root, by path below its images folder, or by file name, each with
    or without suffix. All values stay text ("001" is not 1). DataError when columns or rows are ambiguous."""
    path = next((root / n for n in ("samples.csv", "patients.csv") if (root / n).is_file()), None)
    if path is None:
        return None
    inside(root, path, "data.root")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is not UTF-8; save it as UTF-8 (in Excel: CSV UTF-8).") from None
    # The limit is the whole process's, and libraries lift it when they are imported (scipy's ARFF reader does).
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DataError(f"{path.name} is not a CSV table ({error}); save it as comma-separated UTF-8.") from None
    finally:
        csv.field_size_limit(before)
    columns = {c.strip().lower(): c for c in (rows[0] if rows else {}) if c}
    sample = next((columns[c] for c in SAMPLE_COLUMNS if c in columns), None)
    patient = next((columns[c] for c in PATIENT_COLUMNS if c in columns), None)
    if sample is None or patient is None:
        found = ", ".join(columns) or "none"
        raise DataError(f"{path.name} needs the columns sample_id and patient_id and a row, found: {found}.")
    names = _names(items)
    table = Table(file=path)
    groups = {low: column for low, column in columns.items() if column not in (sample, patient) and low not in RESERVED}
    for row in rows:
        name = nfc((row[sample] or "").strip().replace("\\", "/"))
        item = names.get(name) or names.get(PurePosixPath(name).with_suffix("").as_posix() if name else "")
        if item is None:
            table.unmatched.append(name or "(empty)")
            continue
        who = nfc((row[patient] or "").strip())
        if not who:
            raise named_error("{file}: {name} has no patient_id; fill it in.", {"name": name}, file=path.name)
        if table.patient.setdefault(item.key, who) != who:
            message = "{file}: {name} has two patient ids; keep one row for each image."
            raise named_error(message, {"name": name}, file=path.name)
        if "split" in columns and (row[columns["split"]] or "").strip():
            table.split[item.key] = row[columns["split"]].strip().lower()
        for low, column in groups.items():
            table.groups.setdefault(low, {})[item.key] = (row[column] or "").strip()
    table.missing = [item for item in items if item.key not in table.patient]
    return table


def _names(items: Sequence[Item]) -> dict[str, Item]:
    """Every unambiguous way to name an image."""
    ways: list[tuple[str, Item]] = []
    for item in items:
        plain = PurePosixPath(item.key)
        ways += [(n, item) for n in {item.key, plain.with_suffix("").as_posix(), item.inner, plain.name, plain.stem}]
    count = Counter(name for name, _ in ways)
    return {name: item for name, item in ways if count[name] == 1}


def match_regex(pattern: str, items: Sequence[Item]) -> tuple[dict[str, str], list[Item]]:
    """Patient of each item by `re.search(pattern, path below the root)`: the group named patient, else the first
    group, else the whole match. Returns ({item key: patient}, items that do not match)."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"data.patient_regex={pattern!r} is not a regular expression ({error}).") from None
    patient, missed = {}, []
    for item in items:
        match = compiled.search(item.key)
        found = match and (match.groupdict().get("patient") or (match.group(1) if compiled.groups else match.group(0)))
        if found:
            patient[item.key] = found
        else:
            missed.append(item)
    return patient, missed


def safe_subgroups(groups: dict[str, dict[str, str]], patients: int) -> list[str]:
    """Columns that may be reported of private data: few values, and no name that suggests an identifier.

    A column with nearly as many values as patients would name patients one by one."""
    limit = min(_MAX_VALUES, max(2, patients // 2))
    return [c for c, values in groups.items() if not _IDENTIFYING.search(c) and len(set(values.values())) <= limit]
