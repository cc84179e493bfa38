"""Question and answer items from a user's jsonl files, read with limits and errors that name the line."""

from __future__ import annotations

import json
from pathlib import Path

from clarion.errors import DataError

MAX_LINE_BYTES = 4_000_000
MAX_ITEMS = 5_000_000
# question and answer are required; an item without patient_id is its own patient
FIELDS = ("id", "patient_id", "system", "kind")
EXPECTED = (
    "Expected: train.jsonl and test.jsonl (val.jsonl is carved from train by patient when absent), UTF-8, one JSON "
    'object a line with "question" and "answer" [, "id", "patient_id", "system", "kind"].'
)


def read_items(path: Path, split: str) -> list[dict[str, str]]:
    """Items of one file: question, answer (text, stripped; may be empty here), id, patient_id, and what else it has.

    An absent id becomes "<split>-<line>". Raises DataError naming file and line for text that is not UTF-8 or JSON,
    lines above MAX_LINE_BYTES, missing fields and fields that are not text or numbers.
    """
    items: list[dict[str, str]] = []
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{path.name} line {number} is longer than {MAX_LINE_BYTES:,} bytes; split that item.")
            if not line.strip():
                continue
            if len(items) >= MAX_ITEMS:
                raise DataError(f"{path.name} holds more than {MAX_ITEMS:,} items; split the file.")
            items.append(_item(line, f"{path.name} line {number}", f"{split}-{number:06d}"))
    if not items:
        raise DataError(f"{path.name} holds no items. {EXPECTED}")
    return items


def _item(line: bytes, where: str, default_id: str) -> dict[str, str]:
    try:
        raw = json.loads(line.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} is not a JSON object in UTF-8 ({error}).") from None
    if not isinstance(raw, dict):
        raise DataError(f"{where} is a {type(raw).__name__}, not a JSON object. {EXPECTED}")
    absent = [name for name in ("question", "answer") if name not in raw]
    if absent:
        found = ", ".join(map(str, raw)) or "nothing"
        raise DataError(f"{where} lacks {' and '.join(absent)}; it has: {found}. {EXPECTED}")
    item: dict[str, str] = {}
    for name in ("question", "answer", *FIELDS):
        value = raw.get(name)
        if value is None:
            value = ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"{where}: {name} is a {type(value).__name__}; write it as text.")
        item[name] = str(value).strip()
    item["id"] = item["id"] or default_id
    item["patient_id"] = item["patient_id"] or item["id"]
    return item
