"""Instruction data of the user's own, or the embedded demonstration: questions with answers, for fine-tuning."""

from __future__ import annotations

import hashlib
from pathlib import Path

from clarion.data.paths import data_root, inside
from clarion.data.pseudonym import pseudonyms, write_mapping
from clarion.data.splits import split_patients
from clarion.errors import UsageError
from clarion.llm.erm_cases import CASES_VERSION, QUESTIONS, draw_items
from clarion.llm.erm_choices import CHOICES_VERSION, draw_choices
from clarion.llm.jsonl import EXPECTED, Item, read_items
from clarion.llm.prompts import OPHTIMUS_SYSTEM
from clarion.llm.qa import SPLITS, QaData

VAL_SHARE = 0.1  # of the training patients, when a user gives no val.jsonl
FORMS = ("eqa", "mcqa")


class InstructData(QaData):
    """Questions and answers (task generation).

    root: null for the embedded demonstration (synthetic ERM cases with closed-form answers), or a folder with
    train.jsonl, [val.jsonl,] test.jsonl. kind: phantom | public | private; identifiers of private data become
    pseudonyms. train, val, test: items of the demonstration; forms: which it holds, essay questions (eqa) and/or the
    same with options (mcqa). The rest: QaData.
    """

    def __init__(
        self,
        name: str = "instruct_demo",
        root: str | None = None,
        seed: int = 0,
        kind: str = "phantom",
        train: int = 400,
        val: int = 50,
        test: int = 100,
        forms: tuple[str, ...] = ("eqa",),
        system: str | None = OPHTIMUS_SYSTEM,
        blind: bool = True,
        explanations: bool = True,
        fold: int | None = None,
        per_case: int | None = None,
    ):
        super().__init__(name, kind, seed, system, blind, explanations, fold)
        if root is None and kind != "phantom":
            raise UsageError(f"data={name} has no embedded default: add data.root=/folder. {EXPECTED}")
        if root is None and min(train, val, test) < 1:
            raise UsageError("data.train, data.val and data.test must each be at least 1.")
        if not forms or set(forms) - set(FORMS):
            raise UsageError(f"data.forms={list(forms)}: give one or both of {', '.join(FORMS)}.")
        if per_case is not None and not 1 <= per_case <= len(QUESTIONS):
            raise UsageError(f"data.per_case={per_case}: 1 to {len(QUESTIONS)} questions a case in each form, or null.")
        self.per_case = per_case
        self.root = data_root(root, EXPECTED) if root is not None else None
        self.sizes = {"train": train, "val": val, "test": test}
        self.forms = tuple(forms)
        if self.root is None:
            self.recipe = {"recipe": CASES_VERSION} | ({"choices": CHOICES_VERSION} if "mcqa" in self.forms else {})
            self.recipe |= {"per_case": str(per_case)} if per_case else {}

    def source(self) -> str:
        if self.root is None:
            return f"synthetic ERM cases, seed {self.seed}, recipe {CASES_VERSION}; answers follow from the numbers"
        return "jsonl files given by the user"

    def load(self) -> dict[str, list[Item]]:
        if self.root is not None:
            return self._read(self.root)
        draw = {"eqa": draw_items, "mcqa": draw_choices}
        drawn: dict[str, list[Item]] = {}
        for split in SPLITS:
            if self.forms == ("eqa",):
                drawn[split] = draw_items(split, self.sizes[split], self.seed, self.per_case)
            else:  # the same cases in every form: a case is in one split, with all its questions
                share = -(-self.sizes[split] // len(self.forms))
                drawn[split] = [
                    {**item, "kind": form, "topic": item["kind"]}
                    for form in self.forms
                    for item in draw[form](split, share, self.seed, self.per_case)
                ][: self.sizes[split]]
        return drawn

    def _read(self, root: Path) -> dict[str, list[Item]]:
        absent = [f"{s}.jsonl" for s in ("train", "test") if not (root / f"{s}.jsonl").is_file()]
        if absent:
            raise UsageError(f"data.root={root} lacks {' and '.join(absent)}. {EXPECTED}")
        files = {s: inside(root, f"{s}.jsonl", "data.root") for s in SPLITS if (root / f"{s}.jsonl").is_file()}
        items = {split: read_items(path, split) for split, path in files.items()}
        if self.kind == "private":
            self._hide_identifiers(items, root)
        if "val" not in items:
            parts = split_patients(
                {i["patient_id"] for i in items["train"]}, {"train": 1 - VAL_SHARE, "val": VAL_SHARE}, self.seed
            )
            held = set(parts["val"])
            items["val"] = [i for i in items["train"] if i["patient_id"] in held]
            items["train"] = [i for i in items["train"] if i["patient_id"] not in held]
        return items

    def _hide_identifiers(self, items: dict[str, list[Item]], root: Path) -> None:
        rows = [item for split in items.values() for item in split]
        patients = pseudonyms({r["patient_id"] for r in rows}, "P")
        samples = pseudonyms({r["id"] for r in rows}, "S")
        scope = "instruct-" + hashlib.blake2b(str(root).encode(), digest_size=6).hexdigest()
        write_mapping(scope, {"patient": patients, "sample": samples})
        for row in rows:
            row["id"], row["patient_id"] = samples[row["id"]], patients[row["patient_id"]]
