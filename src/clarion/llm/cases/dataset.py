"""Case reports with ICD-10-CM codes as a data set: the generator's, or the user's own jsonl files."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clarion.data.integrity import IntegrityReport
from clarion.data.paths import data_root, inside
from clarion.data.pseudonym import write_mapping
from clarion.data.splits import split_patients
from clarion.errors import DataError, UsageError
from clarion.llm.cases.knowledge import KNOWLEDGE_VERSION
from clarion.llm.cases.layout import CODE_LEAD, prompt_messages, target_text
from clarion.llm.cases.readers import EXPECTED, hide_identifiers, read_jsonl
from clarion.llm.cases.schema import CaseReport
from clarion.llm.jsonl import Item
from clarion.llm.prompts import OPHTIMUS_SYSTEM, Message
from clarion.llm.qa import SPLITS, QaData
from clarion.samples import Sample

VAL_SHARE = 0.1  # of the training patients, when a user gives no val.jsonl
_CODE = re.compile(r"\b[A-Z]\d[0-9A-Z]\.?[0-9A-Z]{0,4}\b")


class CaseReports(QaData):
    """Notes to be coded (task generation).

    root: null for synthetic cases, or a folder with train.jsonl, [val.jsonl,] test.jsonl of case reports. kind:
    phantom | public | private; identifiers of private data become pseudonyms. Of the synthetic cases: train, val, test
    (counts; half of the test has diagnoses that training never has), korean (share of Korean notes), conditions (use
    that many of the known conditions only; null: all). explanations: targets give symptoms, image findings, diagnosis
    and treatment before the codes, as published (false: the codes alone). The rest: QaData.
    """

    def __init__(
        self,
        name: str = "case_reports",
        root: str | None = None,
        seed: int = 0,
        kind: str = "phantom",
        train: int = 1200,
        val: int = 100,
        test: int = 400,
        korean: float = 0.35,
        conditions: int | None = None,
        system: str | None = OPHTIMUS_SYSTEM,
        explanations: bool = True,
        fold: int | None = None,
    ):
        super().__init__(name, kind, seed, system, blind=False, explanations=explanations, fold=fold)
        if root is None and kind != "phantom":
            raise UsageError(f"data={name} is synthetic (kind phantom) unless you add data.root=/folder. {EXPECTED}")
        if root is None and (min(train, val) < 1 or test < 2):
            raise UsageError("data.train and data.val must be at least 1, data.test at least 2 (seen and unseen).")
        if not 0 <= korean <= 1:
            raise UsageError(f"data.korean={korean} is a share of the notes: write 0 to 1.")
        if conditions is not None and conditions < 8:
            raise UsageError(
                f"data.conditions={conditions}: at least 8, so that some can be held out, or null for all."
            )
        self.root = data_root(root, EXPECTED) if root is not None else None
        self.sizes = {"train": int(train), "val": int(val), "test": int(test)}
        self.korean, self.conditions = float(korean), conditions
        if self.root is None:
            self.recipe = {"recipe": KNOWLEDGE_VERSION}

    def source(self) -> str:
        if self.root is not None:
            return "case reports (jsonl) given by the user"
        return (
            f"synthetic ophthalmology case reports, seed {self.seed}, knowledge {KNOWLEDGE_VERSION}: written from "
            "textbook presentations, no real patient; codes of chapter 7 only (no diabetic retinopathy, which is E11)"
        )

    @cached_property
    def cases(self) -> dict[str, list[CaseReport]]:
        """split -> case reports."""
        if self.root is not None:
            return self._read(self.root)
        from clarion.llm.cases.generator import draw_cases

        return draw_cases(self.sizes, self.seed, self.korean, self.conditions)

    def load(self) -> dict[str, list[Item]]:
        trained = {code for case in self.cases["train"] for code in case.codes}
        return {
            split: [self._item(case, set(case.codes) <= trained) for case in cases]
            for split, cases in self.cases.items()
        }

    def _item(self, case: CaseReport, seen: bool) -> Item:
        return {
            "id": case.case_id,
            "patient_id": case.patient_id,
            "question": case.note,
            "answer": target_text(case, self.explanations),
            "kind": "case",
            "codes": case.codes,
            "procedures": [p.code for p in case.procedures if p.code],
            "labs": [lab.code for lab in case.labs if lab.code],
            "drugs": [t.code for t in case.treatment if t.code],
            "diagnoses": "seen" if seen else "unseen",
            "language": case.language,
            "category": case.codes[0][:3],
            "named": case.meta.get("named", ""),
            "template": case.template,
        }

    def _prompt(self, item: Item, question: bool = True) -> list[Message]:
        return prompt_messages(item["question"] if question else "", item["system"], self.explanations)

    def samples(self, split: str) -> Iterator[Sample]:
        """The prompts: {"messages", "note": the text to be coded, "code_lead": what precedes a list of codes,
        "code_first": whether answers begin with it (targets without explanations)}."""
        for item in self.items[split]:
            inputs = {
                "messages": self._prompt(item),
                "note": item["question"],
                "code_lead": CODE_LEAD,
                "code_first": not self.explanations,
            }
            yield Sample(item["id"], item["patient_id"], inputs)

    def truth(self, split: str) -> pd.DataFrame:
        """sample_id, patient_id, question (the note), answer (the target), codes, and where any case has them
        procedures, labs, drugs (lists of codes); diagnoses (seen | unseen: whether training has all its codes),
        language, category of the first code, and for synthetic cases named (how the note gives the diagnosis)."""
        items = self.items[split]
        table = super().truth(split).drop(columns=["kind"], errors="ignore")
        table["codes"] = [i["codes"] for i in items]
        for column in ("procedures", "labs", "drugs"):
            if any(i[column] for cases in self.items.values() for i in cases):
                table[column] = [i[column] for i in items]
        for column in ("diagnoses", "language", "category", "named"):
            if any(i[column] for i in items):
                table[column] = [i[column] for i in items]
        return table

    def check(self) -> IntegrityReport:
        """QaData's checks; further: a note that states its own code, and a test without unseen diagnoses."""
        report = super().check()
        told = []
        for split in SPLITS:
            for item in self.items[split]:
                wanted = {code.replace(".", "") for code in item["codes"]}
                if wanted & {found.replace(".", "") for found in _CODE.findall(item["question"])}:
                    told.append(item["id"])
        message = "the note states the code that is asked for; remove codes from the notes"
        report.warning("code_in_note", message, [(i, i) for i in told])
        return report

    def train_texts(self) -> Iterator[tuple[str, str]]:
        """(patient, note and target) of the train split. The layout of targets is no shared content: their lines stand
        in paragraphs of their own, which never match a note."""
        for item in self.items["train"]:
            yield item["patient_id"], f"{_flat(item['question'])}\n\n{_flat(item['answer'])}"

    def eval_texts(self, split: str) -> Iterator[tuple[str, str]]:
        """(sample id, note): what a model reads of a case; answers of equal diagnoses are alike by nature."""
        for item in self.items[split]:
            yield item["id"], _flat(item["question"])

    def _read(self, root: Path) -> dict[str, list[CaseReport]]:
        absent = [f"{s}.jsonl" for s in ("train", "test") if not (root / f"{s}.jsonl").is_file()]
        if absent:
            raise UsageError(f"data.root={root} lacks {' and '.join(absent)}. {EXPECTED}")
        files = {s: inside(root, f"{s}.jsonl", "data.root") for s in SPLITS if (root / f"{s}.jsonl").is_file()}
        cases = {split: read_jsonl(path, split) for split, path in files.items()}
        for split, found in cases.items():
            bare = [c.case_id for c in found if not c.codes]
            if bare:
                raise DataError(
                    f"{split}.jsonl: {len(bare)} case(s) have no ICD-10-CM code among their diagnoses (case "
                    f"{1 + next(n for n, c in enumerate(found) if not c.codes)} is the first); add codes."
                )
        if self.kind == "private":
            scope = "cases-" + hashlib.blake2b(str(root).encode(), digest_size=6).hexdigest()
            cases, tables = hide_identifiers(cases)
            write_mapping(scope, tables)
        if "val" not in cases:
            parts = split_patients(
                {c.patient_id for c in cases["train"]}, {"train": 1 - VAL_SHARE, "val": VAL_SHARE}, self.seed
            )
            held = set(parts["val"])
            cases["val"] = [c for c in cases["train"] if c.patient_id in held]
            cases["train"] = [c for c in cases["train"] if c.patient_id not in held]
        return cases

    def card(self) -> dict[str, Any]:
        """QaData's card; further per split: codes, languages, categories, seen and unseen, words of notes, and the
        shares of notes that contain a title of their codes word for word."""
        card = super().card()
        for split, items in self.items.items():
            if not items:
                continue
            words = [len(i["question"].split()) for i in items]
            card["splits"][split] |= {
                "codes": len({code for i in items for code in i["codes"]}),
                "categories": len({i["category"] for i in items}),
                "languages": dict(sorted(Counter(i["language"] for i in items).items())),
                "diagnoses": dict(sorted(Counter(i["diagnoses"] for i in items).items())),
                "named": dict(sorted(Counter(i["named"] for i in items if i["named"]).items())),
                "note_words": [int(np.percentile(words, q)) for q in (5, 50, 95)],
                "title_in_note": round(self._title_share(split), 4),
            }
        if self.root is None:
            card["how"] = (
                "Conditions are cut before cases: those of 'unseen' never occur in training with any eye, lid or "
                "stage, not even as a condition denied. No layout of notes is in two splits; the words for a sign "
                "or a name are shared between splits. Codes are drawn evenly, not as often as in a clinic."
            )
        return card

    def _title_share(self, split: str) -> float:
        """Share of cases whose note contains the title of one of its codes, or the title without eye and stage."""
        from clarion.codes.icd10cm import icd10cm

        system, hits = icd10cm(), 0
        for item in self.items[split]:
            note = item["question"].casefold()
            titles = {
                system.title(node).casefold()
                for code in item["codes"]
                for node in system.chain(code)
                if node == code or system.level(node) == "sub_category"
            }
            hits += any(title in note for title in titles if title)
        return hits / len(self.items[split])


def _flat(text: str) -> str:
    return re.sub(r"\n{2,}", "\n", text.strip())
