"""Medical Meadow (Han et al. 2023, arXiv 2304.08247): files of {instruction, input, output} from many sources."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import Any

from clarion.data.paths import data_root, walk
from clarion.errors import DataError, UsageError
from clarion.llm.jsonl import Item, read_records
from clarion.llm.options import find_answer, read_options
from clarion.llm.prompts import OPHTIMUS_SYSTEM
from clarion.llm.qa import QaData
from clarion.llm.sources.common import answered, chosen_subset, read_json, split_documents, text_of, unique
from clarion.llm.sources.eye import about_eyes

EXPECTED = (
    'Expected: *.json (a list) or *.jsonl of {"instruction", "input", "output"}, such as medical_meadow_wikidoc.json, '
    "there or in medical_meadow/."
)
FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
COMMON = 0.05  # an instruction that this share of a file's records repeats is a task description, not a question
_BRACKET = re.compile(r"\{\s*['\"]A['\"]\s*:.*\}\s*$", re.DOTALL)  # MedQA: "Q: ...? {'A': 'x', 'B': 'y'}"


class MedicalMeadowData(QaData):
    """root: a folder with files of EXPECTED. subset: eye (by words, sources.eye) or all; fractions: of the splits.

    A record whose input ends with options in braces (MedQA) becomes a multiple-choice item, every other an essay one.
    Copies are dropped before the split; blank outputs and options that cannot be read are counted in the card.
    """

    def __init__(
        self,
        name: str = "medical_meadow",
        root: str | None = None,
        seed: int = 0,
        kind: str = "public",
        subset: str = "all",
        fractions: dict[str, float] | None = None,
        system: str | None = OPHTIMUS_SYSTEM,
        blind: bool = True,
        fold: int | None = None,
    ):
        super().__init__(name, kind, seed, system, blind, fold=fold)
        if root is None:
            raise UsageError(f"data={name} has no embedded default: add data.root=/folder. {EXPECTED}")
        self.root, self.subset = data_root(root, EXPECTED), chosen_subset(name, subset)
        self.fractions = dict(fractions or FRACTIONS)

    def source(self) -> str:
        return f"Medical Meadow, subset {self.subset}; split by record, copies dropped first"

    def load(self) -> dict[str, list[Item]]:
        folder = self.root / "medical_meadow"
        files = list(walk(self.root, folder if folder.is_dir() else self.root, frozenset({".json", ".jsonl"})))
        if not files:
            raise UsageError(f"data.root={self.root} has no .json or .jsonl file. {EXPECTED}")
        self.counts |= {"records": 0, "options_unreadable": 0}
        items = [item for path in files for item in self._read(path)]
        if self.subset == "eye":
            items = [i for i in items if about_eyes(i["question"], i["answer"])]
        if not items:
            raise DataError(f"no items{' on eyes' if self.subset == 'eye' else ''} in {len(files)} file(s). {EXPECTED}")
        items, blank = answered(items)
        items, copies = unique(items)
        self.counts |= {"without_output": len(blank), "copies_dropped": copies}
        return split_documents(items, self.fractions, self.seed)

    def _read(self, path: Path) -> list[Item]:
        if path.suffix == ".jsonl":
            records = list(read_records(path))
        else:
            content = read_json(path)
            if not isinstance(content, list):
                raise DataError(f"{path.name} is no JSON list. {EXPECTED}")
            records = [(f"{path.name} record {k}", record) for k, record in enumerate(content, start=1)]
        self.counts["records"] += len(records)
        for where, record in records:
            if not isinstance(record, dict) or "instruction" not in record or "output" not in record:
                raise DataError(f"{where} lacks instruction or output. {EXPECTED}")
        frequent = Counter(text_of(r, "instruction", w) for w, r in records)
        least = max(2, COMMON * len(records))
        tasks = {instruction for instruction, count in frequent.items() if count >= least}
        name = path.stem.removeprefix("medical_meadow_")
        return [self._item(r, w, f"{name}-{k:06d}", name, tasks) for k, (w, r) in enumerate(records, start=1)]

    def _item(self, record: dict[str, Any], where: str, identifier: str, name: str, tasks: set[str]) -> Item:
        instruction, given = text_of(record, "instruction", where), text_of(record, "input", where)
        answer = text_of(record, "output", where)
        question = given if given and instruction in tasks else "\n".join(t for t in (instruction, given) if t)
        item = {
            "id": identifier,
            "patient_id": identifier,
            "question": question,
            "answer": answer,
            "kind": "eqa",
            "topic": name,
            "source": "Medical Meadow",
        }
        if answer and (bracket := _BRACKET.search(question)):
            try:
                options = read_options({"options": ast.literal_eval(bracket[0].strip())}, where)
                index = find_answer(answer, options, where)
            except (DataError, ValueError, SyntaxError, MemoryError, RecursionError):
                self.counts["options_unreadable"] += 1  # kept as an essay item, its options in the question
                return item
            stem = question[: bracket.start()].strip().removeprefix("Q:").strip()
            item |= {"question": stem, "options": options, "answer": options[index], "answer_index": index}
            item["kind"] = "mcqa"
        return item
