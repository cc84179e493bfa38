"""What readers of public question sets share: finding files, dropping copies, splits that keep documents whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clarion.data.paths import inside
from clarion.data.splits import split_patients
from clarion.errors import DataError, UsageError
from clarion.llm.jsonl import Item
from clarion.llm.qa_checks import normal, question_key

MAX_JSON_BYTES = 1_000_000_000
SUBSETS = ("eye", "all")


def chosen_subset(name: str, subset: str) -> str:
    if subset not in SUBSETS:
        raise UsageError(f"data={name}: data.subset={subset} is unknown; write eye or all.")
    return subset


def find_file(root: Path, folder: str, names: Sequence[str], expected: str, required: bool = True) -> Path | None:
    """The first of `names` in root or root/folder. UsageError with the expected layout where a required one is not."""
    for place in (root, root / folder):
        for name in names:
            if (place / name).is_file():
                return inside(root, place / name, "data.root")
    if required:
        raise UsageError(f"data.root={root} has no {' or '.join(names)} (there or in {folder}/). {expected}")
    return None


def read_json(path: Path) -> Any:
    """A JSON document in UTF-8; DataError naming the file for one that is not, or that is implausibly large."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise DataError(f"{path.name} is larger than {MAX_JSON_BYTES:,} bytes; split it, or write it as jsonl.")
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path.name} is not JSON in UTF-8 ({error}).") from None


def text_of(record: Mapping[str, Any], field: str, where: str) -> str:
    """A field as stripped text ("" where null or absent). DataError where it is neither text nor number."""
    value = record.get(field)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: {field} is a {type(value).__name__}; write it as text.")
    return str(value).strip()


def unique(items: Iterable[Item]) -> tuple[list[Item], int]:
    """Items without the later copies of a question with the same options, context and answer, and how many those were.
    To be done before a split: copies on two sides of it measure memory."""
    kept: dict[str, Item] = {}
    total = 0
    for item in items:
        total += 1
        kept.setdefault(question_key(item) + "\0" + normal(item["answer"]), item)
    return list(kept.values()), total - len(kept)


def answered(items: Iterable[Item]) -> tuple[list[Item], list[str]]:
    """Items that have an answer, and the ids of those that have none: counted by id, so that nothing shifts."""
    items = list(items)
    return [i for i in items if i["answer"].strip()], [i["id"] for i in items if not i["answer"].strip()]


def split_documents(items: Sequence[Item], fractions: Mapping[str, float], seed: int) -> dict[str, list[Item]]:
    """Items in splits that keep a document (patient_id) whole, and with it every document that asks the same question.

    fractions: split -> share of the groups, summing to 1; zero shares are left out. Depends on seed and texts alone."""
    group = _groups(items)
    wanted = {name: share for name, share in fractions.items() if share > 0}
    parts = split_patients(set(group.values()), wanted, seed)
    where = {g: name for name, members in parts.items() for g in members}
    splits: dict[str, list[Item]] = {name: [] for name in fractions}
    for item in items:
        splits[where[group[item["patient_id"]]]].append(item)
    return splits


def _groups(items: Sequence[Item]) -> dict[str, str]:
    """document -> the first name of its group: documents linked by a question that both hold (union-find)."""
    parent: dict[str, str] = {}

    def top(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for item in items:
        document = top(item["patient_id"])
        other = top(first.setdefault(normal(item["question"]), document))
        low, high = sorted((document, other))
        parent[high] = low
    return {item["patient_id"]: top(item["patient_id"]) for item in items}
