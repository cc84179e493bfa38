"""MedQuAD (Ben Abacha and Demner-Fushman 2019; CC BY 4.0): questions answered by pages of the US NIH and CDC."""

from __future__ import annotations

from clarion.data.paths import data_root
from clarion.errors import DataError, UsageError
from clarion.llm.jsonl import Item, read_records
from clarion.llm.prompts import OPHTIMUS_SYSTEM
from clarion.llm.qa import QaData
from clarion.llm.sources.common import answered, chosen_subset, find_file, split_documents, text_of, unique
from clarion.llm.sources.eye import about_eyes

FILES = ("medquad_ophth.jsonl", "medquad.jsonl")
EXPECTED = (
    "Expected: medquad_ophth.jsonl (eye) or medquad.jsonl (all), there or in medquad/: one JSON object a line with "
    "id (DOCUMENT-NUMBER), source, url, focus, qtype, question, answer."
)
FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


class MedQuadData(QaData):
    """root: a folder with a file of EXPECTED. subset: eye (medquad_ophth.jsonl, or the eye questions of medquad.jsonl)
    or all. Split by document: all questions on a page are in one split, and so are pages that ask the same question.
    max_words: longer answers are cut after the last whole sentence within it in training targets and truth alike
    (null: never); how many were cut is in the card.
    """

    def __init__(
        self,
        name: str = "medquad",
        root: str | None = None,
        seed: int = 0,
        kind: str = "public",
        subset: str = "eye",
        fractions: dict[str, float] | None = None,
        max_words: int | None = None,
        system: str | None = OPHTIMUS_SYSTEM,
        fold: int | None = None,
    ):
        super().__init__(name, kind, seed, system, fold=fold)
        if root is None:
            raise UsageError(f"data={name} has no embedded default: add data.root=/folder. {EXPECTED}")
        if max_words is not None and max_words < 1:
            raise UsageError("data.max_words must be at least 1, or null.")
        self.root, self.subset, self.max_words = data_root(root, EXPECTED), chosen_subset(name, subset), max_words
        self.fractions = dict(fractions or FRACTIONS)

    def source(self) -> str:
        return f"MedQuAD, subset {self.subset}; split by page"

    def load(self) -> dict[str, list[Item]]:
        names = FILES if self.subset == "eye" else FILES[1:]
        path = find_file(self.root, "medquad", names, EXPECTED)
        items = [_item(record, where) for where, record in read_records(path)]
        if self.subset == "eye" and path.name == FILES[1]:
            items = [i for i in items if about_eyes(f"{i['focus']} {i['question']}", i["answer"])]
        if not items:
            raise DataError(f"{path.name} holds no items. {EXPECTED}")
        records = len(items)
        items, blank = answered(items)
        items, copies = unique(items)
        self.counts |= {"records": records, "without_answer": len(blank), "copies_dropped": copies}
        if self.max_words:
            cut = [_cut(item, self.max_words) for item in items]
            self.counts["answers_cut"] = sum(cut)
        return split_documents(items, self.fractions, self.seed)


def _item(record: dict, where: str) -> Item:
    absent = [field for field in ("id", "question", "answer") if field not in record]
    if absent:
        raise DataError(f"{where} lacks {', '.join(absent)}. {EXPECTED}")
    source, identifier = text_of(record, "source", where), text_of(record, "id", where)
    # Numbers repeat between the collections (and with them 20 of the eye ids): a page is collection and number.
    document = f"{source}/{identifier.rsplit('-', 1)[0]}" if source else identifier.rsplit("-", 1)[0]
    return {
        "id": f"{source}/{identifier}" if source else identifier,
        "patient_id": document,
        "question": text_of(record, "question", where),
        "answer": text_of(record, "answer", where),
        "kind": "eqa",
        "topic": text_of(record, "qtype", where),
        "source": "MedQuAD",
        "focus": text_of(record, "focus", where),
    }


def _cut(item: Item, most: int) -> bool:
    """Shorten the answer of `item` to whole sentences within `most` words (at least one); True where it was longer."""
    words = item["answer"].split()
    if len(words) <= most:
        return False
    ends = [k for k in range(most) if words[k].endswith((".", "!", "?"))]
    item["answer"] = " ".join(words[: ends[-1] + 1 if ends else most])
    return True
