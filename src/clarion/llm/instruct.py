"""Instruction data: questions with answers, for supervised fine-tuning and its evaluation."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from clarion.data.fingerprint import fingerprint_items
from clarion.data.integrity import IntegrityReport, check_patients
from clarion.data.paths import data_root, inside
from clarion.data.pseudonym import pseudonyms, write_mapping
from clarion.data.splits import split_patients
from clarion.errors import UsageError
from clarion.llm.erm_cases import CASES_VERSION, draw_items
from clarion.llm.jsonl import EXPECTED, read_items
from clarion.llm.prompts import OPHTIMUS_SYSTEM, completion_messages, prompt_messages
from clarion.samples import Sample

SPLITS = ("train", "val", "test")
VAL_SHARE = 0.1  # of the training patients, when a user gives no val.jsonl
MIN_LEAK_WORDS = 4  # shorter answers ("no", "Stage 3") occur in a question by chance


def normal(text: str) -> str:
    """Lower case, letters and digits only, single blanks: how two texts are compared for being the same."""
    return " ".join(re.findall(r"\w+", text.lower()))


class InstructData:
    """Questions and answers (task generation).

    root: null for the embedded demonstration (synthetic ERM cases with closed-form answers), or a folder with
    train.jsonl, [val.jsonl,] test.jsonl. kind: phantom | public | private; identifiers of private data become
    pseudonyms. train, val, test: items of the demonstration. system: the system prompt of items without one.
    """

    class_names: list[str] = []

    def __init__(
        self,
        name: str = "instruct_demo",
        task: str = "generation",
        root: str | None = None,
        seed: int = 0,
        kind: str = "phantom",
        train: int = 400,
        val: int = 50,
        test: int = 100,
        system: str | None = OPHTIMUS_SYSTEM,
        fold: int | None = None,
    ):
        if fold is not None:
            raise UsageError(f"data={name} has fixed splits; leave data.fold=null.")
        if kind not in ("phantom", "public", "private"):
            raise UsageError(f"data.kind={kind} is unknown: write phantom, public or private.")
        if root is None and kind != "phantom":
            raise UsageError(f"data={name} has no embedded default: add data.root=/folder. {EXPECTED}")
        if root is None and min(train, val, test) < 1:
            raise UsageError("data.train, data.val and data.test must each be at least 1.")
        self.name, self.task, self.kind, self.seed, self.system = name, task, kind, seed, system
        self.root = data_root(root, EXPECTED) if root is not None else None
        self.sizes = {"train": train, "val": val, "test": test}

    @cached_property
    def items(self) -> dict[str, list[dict[str, str]]]:
        """split -> items {id, patient_id, question, answer, system, kind [, stage]}, in file order."""
        if self.root is None:
            drawn = {split: draw_items(split, self.sizes[split], self.seed) for split in SPLITS}
            return {s: [{**item, "system": self.system or ""} for item in drawn[s]] for s in SPLITS}
        return self._read(self.root)

    def _read(self, root: Path) -> dict[str, list[dict[str, str]]]:
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
        for split in SPLITS:
            for item in items[split]:
                item["system"] = item["system"] or self.system or ""
        return {split: items[split] for split in SPLITS}

    def _hide_identifiers(self, items: dict[str, list[dict[str, str]]], root: Path) -> None:
        rows = [item for split in items.values() for item in split]
        patients = pseudonyms({r["patient_id"] for r in rows}, "P")
        samples = pseudonyms({r["id"] for r in rows}, "S")
        scope = "instruct-" + hashlib.blake2b(str(root).encode(), digest_size=6).hexdigest()
        write_mapping(scope, {"patient": patients, "sample": samples})
        for row in rows:
            row["id"], row["patient_id"] = samples[row["id"]], patients[row["patient_id"]]

    def prepare(self) -> None:
        """Read or draw all items; idempotent. Raises UsageError / DataError for a folder or line that is wrong."""
        _ = self.items

    @property
    def splits(self) -> dict[str, list[str]]:
        return {split: [item["id"] for item in items] for split, items in self.items.items()}

    def check(self) -> IntegrityReport:
        """Patients and questions in two splits, repeated ids and empty texts stop the run; duplicates inside a split
        and answers that stand in their question are warnings."""
        report = IntegrityReport()
        rows = [(split, item) for split in SPLITS for item in self.items[split]]
        check_patients(report, self.splits, {item["id"]: item["patient_id"] for _, item in rows})

        def listed(items: list[str]) -> list[tuple[str, str]]:
            return [(i, i) for i in items]

        for field in ("question", "answer"):
            empty = [item["id"] for _, item in rows if not item[field].strip()]
            report.error(f"empty_{field}", f"items have an empty {field}; fill or remove them", listed(empty))
        first: dict[str, tuple[str, str]] = {}
        across, within = [], []
        for split, item in rows:
            key = normal(item["system"]) + "\0" + normal(item["question"])
            if key not in first:
                first[key] = (split, item["id"])
            elif first[key][0] != split:
                across.append(f"{first[key][1]} ({first[key][0]}) = {item['id']} ({split})")
            else:
                within.append(f"{first[key][1]} = {item['id']} ({split})")
        message = "the same question is in two splits; keep it in one, or the score measures memory"
        report.error("duplicate_across_splits", message, listed(across))
        report.warning("duplicate", "the same question occurs twice in one split; it counts double", listed(within))
        leaked = [
            item["id"]
            for _, item in rows
            if len(normal(item["answer"]).split()) >= MIN_LEAK_WORDS
            and f" {normal(item['answer'])} " in f" {normal(item['question'])} "
        ]
        report.warning("answer_in_question", "the answer stands word for word in the question", listed(leaked))
        return report

    def fingerprint(self) -> str:
        """Hash of every text, id and split (and of the demonstration's recipe)."""
        texts = {
            f"{split}/{item['id']}": json.dumps(item, sort_keys=True, ensure_ascii=False)
            for split in SPLITS
            for item in self.items[split]
        }
        return fingerprint_items(texts | ({"recipe": CASES_VERSION} if self.root is None else {}))

    def samples(self, split: str) -> Iterator[Sample]:
        """The prompts of a split, without the answers."""
        for item in self.items[split]:
            messages = prompt_messages(item["question"], item["system"])
            yield Sample(item["id"], item["patient_id"], {"messages": messages})

    def truth(self, split: str) -> pd.DataFrame:
        """sample_id, patient_id, question, answer, and the subgroups kind and stage where the items have them."""
        table = pd.DataFrame(self.items[split]).rename(columns={"id": "sample_id"})
        columns = [c for c in ("kind", "stage") if c in table and table[c].ne("").any()]
        return table[["sample_id", "patient_id", "question", "answer", *columns]]

    def hf_dataset(self, split: str) -> Any:
        """datasets.Dataset with sample_id, prompt and completion (lists of {role, content}).

        The conversational prompt + completion form is the one in which TRL leaves the prompt out of the loss."""
        from datasets import Dataset

        items = self.items[split]
        return Dataset.from_dict(
            {
                "sample_id": [i["id"] for i in items],
                "prompt": [prompt_messages(i["question"], i["system"]) for i in items],
                "completion": [completion_messages(i["answer"]) for i in items],
            }
        )

    def card(self) -> dict[str, Any]:
        """The data card: sizes, kinds of question, lengths in words, source and fingerprint."""
        splits = {}
        for split, items in self.items.items():
            words = pd.Series([len(i["answer"].split()) for i in items])
            splits[split] = {
                "samples": len(items),
                "patients": len({i["patient_id"] for i in items}),
                "answer_words_median": float(words.median()),
                "answer_words_max": int(words.max()),
                "kinds": dict(sorted(Counter(i["kind"] for i in items if i.get("kind")).items())),
            }
        demo = f"synthetic ERM cases, seed {self.seed}, recipe {CASES_VERSION}; answers follow from the numbers"
        return {
            "name": self.name,
            "task": self.task,
            "kind": self.kind,
            "source": demo if self.root is None else "jsonl files given by the user",
            "splits": splits,
            "fingerprint": self.fingerprint(),
        }
