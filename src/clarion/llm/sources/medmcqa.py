"""MedMCQA (Pal et al. 2022, arXiv 2203.14371; MIT): Indian entrance examinations, four options, 21 subjects."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from clarion.data.paths import data_root
from clarion.errors import DataError, UsageError
from clarion.llm.jsonl import Item, read_records
from clarion.llm.options import repeated
from clarion.llm.prompts import OPHTIMUS_SYSTEM
from clarion.llm.qa import QaData
from clarion.llm.qa_checks import question_key
from clarion.llm.sources.common import answered, chosen_subset, find_file, split_documents, text_of, unique

DEV = ("medmcqa_dev.jsonl", "dev.jsonl", "dev.json", "validation.jsonl")
TRAIN = ("medmcqa_train.jsonl", "train.jsonl", "train.json")
EXPECTED = (
    "Expected: the published dev file, one JSON object a line (question, opa to opd, cop, exp, subject_name, "
    "topic_name, id), as medmcqa_dev.jsonl or dev.json, there or in medmcqa/; beside it, for training, "
    "medmcqa_train.jsonl or train.json."
)
VAL_SHARE = 0.05
_OPTIONS = ("opa", "opb", "opc", "opd")
# Explanations often open with the key: "Ans. is 'b'", "Ans-a", "Answer: C". The check on which base `cop` counts from.
_STATED = re.compile(r"\s*Ans(?:wer)?[\s.:\-]*(?:is)?[\s.:\-]*['\"(]*([A-Da-d])['\")]*(?![\w'])")


class MedMcqaData(QaData):
    """root: a folder with the files of EXPECTED. subset: eye (subject Ophthalmology) or all.

    All items of the dev file are the test split; the train split comes from the train file where there is one (never
    from dev, and without the questions that dev repeats). Without it there is nothing to train on, unless
    train_fraction > 0 cuts that share (and half as much for val) from dev: then copies are dropped first.
    cop_base: 0 or 1, from where `cop` counts; null finds out (MIRAGE's copy counts from 1, the hub's from 0).
    """

    def __init__(
        self,
        name: str = "medmcqa",
        root: str | None = None,
        seed: int = 0,
        kind: str = "public",
        subset: str = "all",
        train_fraction: float = 0.0,
        cop_base: int | None = None,
        system: str | None = OPHTIMUS_SYSTEM,
        blind: bool = True,
        explanations: bool = True,
        fold: int | None = None,
    ):
        super().__init__(name, kind, seed, system, blind, explanations, fold)
        if root is None:
            raise UsageError(f"data={name} has no embedded default: add data.root=/folder. {EXPECTED}")
        if not 0 <= train_fraction <= 0.6:
            raise UsageError("data.train_fraction must lie between 0 (all items are the test) and 0.6.")
        if cop_base not in (None, 0, 1):
            raise UsageError("data.cop_base must be 0, 1 or null (found out from the file).")
        self.root, self.subset = data_root(root, EXPECTED), chosen_subset(name, subset)
        self.train_fraction, self.cop_base = float(train_fraction), cop_base

    def source(self) -> str:
        return f"MedMCQA, subset {self.subset}; test: the published dev file"

    def load(self) -> dict[str, list[Item]]:
        dev = self._read(find_file(self.root, "medmcqa", DEV, EXPECTED), "dev")
        train_file = find_file(self.root, "medmcqa", TRAIN, EXPECTED, required=False)
        if train_file is not None and self.train_fraction:
            raise UsageError("data.train_fraction cuts the dev file, but there is a train file: leave it at 0.")
        if train_file is not None:
            train, copies = unique(self._read(train_file, "train"))
            asked = {question_key(item) for item in dev}
            kept = [item for item in train if question_key(item) not in asked]
            self.counts |= {"train_copies_dropped": copies, "train_also_in_dev_dropped": len(train) - len(kept)}
            splits = split_documents(kept, {"train": 1 - VAL_SHARE, "val": VAL_SHARE}, self.seed)
            return splits | {"test": dev}
        if not self.train_fraction:
            return {"test": dev}
        kept, self.counts["copies_dropped"] = unique(dev)
        part = self.train_fraction
        return split_documents(kept, {"train": part, "val": part / 2, "test": 1 - 1.5 * part}, self.seed)

    def _read(self, path: Path, split: str) -> list[Item]:
        records = list(read_records(path))
        base = cop_base(records, path.name) if self.cop_base is None else self.cop_base
        if self.subset == "eye":
            records = [(w, r) for w, r in records if text_of(r, "subject_name", w).lower() == "ophthalmology"]
        if not records:
            raise DataError(f"{path.name} holds no items{' on eyes' if self.subset == 'eye' else ''}. {EXPECTED}")
        items, keyless = answered(_item(record, where, base) for where, record in records)
        self.counts[split] = {
            "records": len(records),
            "without_key": len(keyless),
            "same_option_twice": sum(1 for i in items if repeated(i["options"])),
            "explanation_names_another_key": sum(1 for i in items if _stated(i) not in (None, i["answer_index"])),
            "cop_counts_from": base,
        }
        return items


def cop_base(records: list[tuple[str, dict[str, Any]]], name: str) -> int:
    """From where the key counts: 0 where a key is 0, 1 where one is 4; between them, as the explanations that open with
    their letter say. DataError where neither tells, or both occur."""
    keys = Counter(r.get("cop") for _, r in records)
    if keys[0] and keys[4]:
        raise DataError(f"{name}: `cop` holds both 0 and 4, so it counts from neither 0 nor 1; mend the file.")
    if keys[0] or keys[4]:
        return 0 if keys[0] else 1
    votes: Counter = Counter()
    for _, record in records:
        letter = _STATED.match(str(record.get("exp") or ""))
        if letter and isinstance(record.get("cop"), int):
            votes[record["cop"] - "abcd".index(letter[1].lower())] += 1
    if votes[0] == votes[1]:
        raise DataError(f"{name}: `cop` holds neither 0 nor 4, so its base is unknown; give data.cop_base=0 or 1.")
    return 0 if votes[0] > votes[1] else 1


def _stated(item: Item) -> int | None:
    found = _STATED.match(item.get("explanation") or "")
    return "abcd".index(found[1].lower()) if found else None


def _item(record: dict[str, Any], where: str, base: int) -> Item:
    absent = [field for field in ("id", "question", "cop", *_OPTIONS) if field not in record]
    if absent:
        raise DataError(f"{where} lacks {', '.join(absent)}. {EXPECTED}")
    options = [text_of(record, field, where) for field in _OPTIONS]
    key = record["cop"]
    if key not in (None, -1) and (isinstance(key, bool) or not isinstance(key, int) or not 0 <= key - base < 4):
        raise DataError(f"{where}: cop is {key!r}, not one of {base} to {base + 3}; mend it, or give data.cop_base.")
    keyed = key not in (None, -1)  # the published test file has no keys
    subject, topic = text_of(record, "subject_name", where), text_of(record, "topic_name", where)
    identifier = text_of(record, "id", where)
    return {
        "id": identifier,
        "patient_id": identifier,
        "question": text_of(record, "question", where),
        "options": options,
        "answer": options[key - base] if keyed else "",
        "answer_index": key - base if keyed else -1,
        "explanation": text_of(record, "exp", where),
        "kind": "mcqa",
        "topic": subject or topic,
        "source": "MedMCQA",
    }
