"""Question and answer items from a user's jsonl files, read with limits and errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clarion.errors import DataError
from clarion.llm.options import find_answer, read_options

MAX_LINE_BYTES = 4_000_000
MAX_ITEMS = 5_000_000
# question and answer are required; an item without patient_id is its own patient
FIELDS = ("id", "patient_id", "system", "kind")
OPTIONAL = ("explanation", "topic", "context", "source")
Item = dict[str, Any]  # texts by field; with options also options (list of str) and answer_index (int)
EXPECTED = (
    "Expected: train.jsonl and test.jsonl (val.jsonl is carved from train by patient when absent), UTF-8, one JSON "
    'object a line with "question" and "answer" [, "option_a" to "option_e" or "options": [2 to 5 texts], '
    '"explanation", "context", "topic", "source", "id", "patient_id", "system", "kind"].'
)


def read_records(path: Path, most: int = MAX_ITEMS) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, JSON object) of each line that is not blank; `where` names file and line for errors.

    Raises DataError for text that is not UTF-8 or JSON objects, lines above MAX_LINE_BYTES, and more than `most`."""
    with open(path, "rb") as file:
        number = count = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path.name} line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{where} is longer than {MAX_LINE_BYTES:,} bytes; split that item.")
            if not line.strip():
                continue
            count += 1
            if count > most:
                raise DataError(f"{path.name} holds more than {most:,} items; split the file.")
            try:
                raw = json.loads(line.decode("utf-8-sig"))
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                raise DataError(f"{where} is not a JSON object in UTF-8 ({error}).") from None
            if not isinstance(raw, dict):
                raise DataError(f"{where} is a {type(raw).__name__}, not a JSON object. {EXPECTED}")
            yield where, raw


def read_items(path: Path, split: str) -> list[Item]:
    """Items of one file: question, answer (text, stripped; may be empty here), id, patient_id, and what else it has;
    with options (clarion.llm.options) the answer becomes the text of its option, and answer_index its place.

    An absent id becomes "<split>-<line>". Raises DataError naming file and line (read_records), for missing fields,
    fields that are not text or numbers, and options that are wrong.
    """
    items = [_item(raw, where, f"{split}-{int(where.split()[-1]):06d}") for where, raw in read_records(path)]
    if not items:
        raise DataError(f"{path.name} holds no items. {EXPECTED}")
    return items


def _item(raw: dict[str, Any], where: str, default_id: str) -> Item:
    absent = [name for name in ("question", "answer") if name not in raw]
    if absent:
        found = ", ".join(map(str, raw)) or "nothing"
        raise DataError(f"{where} lacks {' and '.join(absent)}; it has: {found}. {EXPECTED}")
    item: Item = {}
    for name in ("question", "answer", *FIELDS, *OPTIONAL):
        value = raw.get(name)
        if value is None:
            value = ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"{where}: {name} is a {type(value).__name__}; write it as text.")
        if name not in OPTIONAL or str(value).strip():
            item[name] = str(value).strip()
    options = read_options(raw, where)
    if options:
        if not item["answer"]:
            raise DataError(f"{where}: the answer is empty, but there are options; name one of them.")
        index = find_answer(raw["answer"], options, where)
        item |= {"options": options, "answer_index": index, "answer": options[index]}
    elif item["kind"].lower() == "mcqa":
        raise DataError(f"{where}: kind is {item['kind']}, but the options are missing; add option_a, option_b, ...")
    item["id"] = item["id"] or default_id
    item["patient_id"] = item["patient_id"] or item["id"]
    return item
