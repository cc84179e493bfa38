"""A data set of questions and answers (task generation): what runs, trainers and evaluators read of it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pandas as pd

from clarion.data.fingerprint import fingerprint_items
from clarion.data.integrity import IntegrityReport
from clarion.errors import UsageError
from clarion.llm.jsonl import Item
from clarion.llm.prompts import (
    ANSWER_LEAD,
    OPHTIMUS_SYSTEM,
    completion_messages,
    labelled,
    prompt_messages,
    target_text,
)
from clarion.llm.qa_checks import check_items
from clarion.samples import Sample

SPLITS = ("train", "val", "test")
SUBGROUPS = ("kind", "topic", "source", "stage")  # columns of the truth, where the items have them


def item_text(item: Item, explanation: bool = True) -> str:
    """The words of an item for the search of overlaps, without labels and system prompt, which all items share.

    Paragraphs (blank lines between): the question with its options in sorted order, the answer, the explanation, the
    context. The first one is what two copies of an item have in common, however their options are ordered."""
    options = sorted(item.get("options") or [])
    told = item.get("explanation") if explanation else None
    parts = ["\n".join([item["question"], *options]), item["answer"], told, item.get("context")]
    return "\n\n".join("\n".join(part.split("\n\n")) for part in parts if part and part.strip())


class QaData(ABC):
    """What all question sets share; a class of its own only says how its items are read (`load`).

    name, kind (phantom | public | private), seed; system: the system prompt of items without one; blind: samples of
    multiple-choice items also carry the prompt without the question (a baseline); explanations: targets begin with
    the explanation, as the published ones do (false: answer first, what option scoring asks for).
    """

    task = "generation"
    class_names: list[str] = []

    def __init__(
        self,
        name: str,
        kind: str,
        seed: int = 0,
        system: str | None = OPHTIMUS_SYSTEM,
        blind: bool = True,
        explanations: bool = True,
        fold: int | None = None,
    ):
        if fold is not None:
            raise UsageError(f"data={name} has fixed splits; leave data.fold=null.")
        if kind not in ("phantom", "public", "private"):
            raise UsageError(f"data.kind={kind} is unknown: write phantom, public or private.")
        self.name, self.kind, self.seed, self.system = name, kind, seed, system
        self.blind, self.explanations = bool(blind), bool(explanations)
        self.counts: dict[str, Any] = {}  # what reading met (dropped, corrected, ambiguous), for the card
        self.recipe: dict[str, str] = {}  # versions of generated items, for the fingerprint

    @abstractmethod
    def load(self) -> dict[str, list[Item]]:
        """split -> items {id, patient_id, question, answer, system, kind, ...}; a split may be empty or absent."""

    @abstractmethod
    def source(self) -> str:
        """One sentence for the card: where the items come from."""

    @cached_property
    def items(self) -> dict[str, list[Item]]:
        """split -> items, in a fixed order."""
        read = self.load()
        for items in read.values():
            for item in items:
                item["system"] = item.get("system") or self.system or ""
        return {split: read.get(split, []) for split in SPLITS}

    def prepare(self) -> None:
        """Read or draw all items; idempotent. Raises UsageError / DataError for a folder or line that is wrong."""
        _ = self.items

    @property
    def splits(self) -> dict[str, list[str]]:
        return {split: [item["id"] for item in items] for split, items in self.items.items()}

    def check(self) -> IntegrityReport:
        """What must stop a run, and what its author should know (clarion.llm.qa_checks)."""
        return check_items(self.items)

    def fingerprint(self) -> str:
        """Hash of every text, id and split (and of a demonstration's recipe)."""
        texts = {
            f"{split}/{item['id']}": json.dumps(item, sort_keys=True, ensure_ascii=False)
            for split in SPLITS
            for item in self.items[split]
        }
        return fingerprint_items(texts | self.recipe)

    def _prompt(self, item: Item, question: bool = True) -> list[dict[str, str]]:
        asked, context = (item["question"], item.get("context", "")) if question else ("", "")
        return prompt_messages(asked, item["system"], item.get("options") or (), context)

    def samples(self, split: str) -> Iterator[Sample]:
        """The prompts of a split, without the answers: {"messages"}, and for items with options also
        {"options": the continuations to score, "lead": what precedes them, "blind_messages": the prompt without
        question and context, or None}."""
        for item in self.items[split]:
            inputs: dict[str, Any] = {"messages": self._prompt(item)}
            if item.get("options"):
                blind = self._prompt(item, question=False) if self.blind else None
                inputs |= {"options": labelled(item["options"]), "lead": ANSWER_LEAD, "blind_messages": blind}
            yield Sample(item["id"], item["patient_id"], inputs)

    def truth(self, split: str) -> pd.DataFrame:
        """sample_id, patient_id, question, answer (the option's text, without its letter), the subgroups kind, topic,
        source and stage where items have them; with any multiple-choice item also options (list; empty for the
        others) and answer_index (-1 for the others)."""
        items = self.items[split]
        table = pd.DataFrame(
            {
                "sample_id": [i["id"] for i in items],
                **{name: [i[name] for i in items] for name in ("patient_id", "question", "answer")},
            }
        )
        for column in SUBGROUPS:
            values = [i.get(column) or "" for i in items]
            if any(values):
                table[column] = values
        if any(i.get("options") for i in items):
            table["options"] = [list(i.get("options") or []) for i in items]
            table["answer_index"] = [int(i.get("answer_index", -1)) for i in items]
        return table

    def hf_dataset(self, split: str) -> Any:
        """datasets.Dataset with sample_id, prompt and completion (lists of {role, content}).

        The conversational prompt + completion form is the one in which TRL leaves the prompt out of the loss."""
        from datasets import Dataset

        items = self.items[split]
        return Dataset.from_dict(
            {
                "sample_id": [i["id"] for i in items],
                "prompt": [self._prompt(i) for i in items],
                "completion": [completion_messages(target_text(i, self.explanations)) for i in items],
            }
        )

    def train_texts(self) -> Iterator[tuple[str, str]]:
        """(document, text) of everything that training reads of the train split (val chooses the epoch, no more)."""
        for item in self.items["train"]:
            yield item["patient_id"], item_text(item, self.explanations)

    def eval_texts(self, split: str) -> Iterator[tuple[str, str]]:
        """(sample id, text) of the items of a split, laid out as `train_texts` lays out its own."""
        for item in self.items[split]:
            yield item["id"], item_text(item, self.explanations)

    def card(self) -> dict[str, Any]:
        """The data card: sizes, kinds of question, lengths in words, what reading met, source and fingerprint."""
        splits = {}
        for split, items in self.items.items():
            words = pd.Series([len(i["answer"].split()) for i in items], dtype=float)
            splits[split] = {
                "samples": len(items),
                "patients": len({i["patient_id"] for i in items}),
                "answer_words_median": float(words.median()) if len(items) else None,
                "answer_words_max": int(words.max()) if len(items) else None,
                "kinds": dict(sorted(Counter(i["kind"] for i in items if i.get("kind")).items())),
            }
            if choices := Counter(len(i["options"]) for i in items if i.get("options")):
                splits[split]["options"] = {str(n): count for n, count in sorted(choices.items())}
        card = {
            "name": self.name,
            "task": self.task,
            "kind": self.kind,
            "source": self.source(),
            "splits": splits,
            "fingerprint": self.fingerprint(),
        }
        return card | ({"counts": self.counts} if self.counts else {})
