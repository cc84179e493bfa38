"""PubMedQA-L (Jin et al. 2019, arXiv 1909.06146; MIT): 1,000 questions on abstracts, answered yes, no or maybe."""

from __future__ import annotations

from typing import Any

from clarion.data.paths import data_root
from clarion.errors import DataError, UsageError
from clarion.llm.jsonl import Item
from clarion.llm.prompts import OPHTIMUS_SYSTEM
from clarion.llm.qa import QaData
from clarion.llm.sources.common import answered, chosen_subset, find_file, read_json, split_documents, text_of, unique
from clarion.llm.sources.eye import about_eyes

OPTIONS = ("yes", "no", "maybe")  # three: run as True/False, the 110 "maybe" cannot be answered
EXPECTED = (
    "Expected: ori_pqal.json {PMID: {QUESTION, CONTEXTS, MESHES, final_decision, LONG_ANSWER}} and "
    "test_ground_truth.json {PMID: decision} (the official test), there or in pubmedqa/."
)
VAL_SHARE = 0.1  # of the 500 questions that are not the test, as in the published ten folds


class PubMedQaData(QaData):
    """root: a folder with the files of EXPECTED. subset: eye | all. book: open (the abstract without its conclusion
    stands in the prompt) or closed (question and options alone).

    test: the 500 official ids; train and val: the others. The explanation is the abstract's conclusion. The eye subset
    is that of pqal_ophth_subset.json where it lies beside the data, else by words and MeSH headings (sources.eye).
    """

    def __init__(
        self,
        name: str = "pubmedqa",
        root: str | None = None,
        seed: int = 0,
        kind: str = "public",
        subset: str = "all",
        book: str = "open",
        system: str | None = OPHTIMUS_SYSTEM,
        blind: bool = True,
        explanations: bool = True,
        fold: int | None = None,
    ):
        super().__init__(name, kind, seed, system, blind, explanations, fold)
        if root is None:
            raise UsageError(f"data={name} has no embedded default: add data.root=/folder. {EXPECTED}")
        if book not in ("open", "closed"):
            raise UsageError(f"data={name}: data.book={book} is unknown; write open or closed.")
        self.root, self.subset, self.book = data_root(root, EXPECTED), chosen_subset(name, subset), book

    def source(self) -> str:
        return f"PubMedQA-L, subset {self.subset}, {self.book} book; test: the official ids"

    def load(self) -> dict[str, list[Item]]:
        path = find_file(self.root, "pubmedqa", ("ori_pqal.json",), EXPECTED)
        records = read_json(path)
        official = read_json(find_file(self.root, "pubmedqa", ("test_ground_truth.json",), EXPECTED))
        for content, name in ((records, path.name), (official, "test_ground_truth.json")):
            if not isinstance(content, dict) or not content:
                raise DataError(f"{name} is no JSON object keyed by PMID. {EXPECTED}")
        if missing := sorted(set(official) - set(records)):
            raise DataError(f"{len(missing)} test id(s) are not in {path.name}, such as {missing[0]}. {EXPECTED}")
        items = [_item(pmid, record, self.book) for pmid, record in records.items()]
        eye = self._eye(records) if self.subset == "eye" else set(records)
        items, blank = answered(i for i in items if i["id"] in eye)
        conflicts = [i["id"] for i in items if i["id"] in official and official[i["id"]] != i["answer"]]
        if conflicts:
            raise DataError(
                f"{len(conflicts)} decision(s) differ from test_ground_truth.json, such as {conflicts[0]}: "
                "take both files from one release."
            )
        self.counts |= {"records": len(records), "chosen": len(eye), "without_decision": len(blank)}
        test = [i for i in items if i["id"] in official]
        rest, self.counts["train_copies_dropped"] = unique(i for i in items if i["id"] not in official)
        return split_documents(rest, {"train": 1 - VAL_SHARE, "val": VAL_SHARE}, self.seed) | {"test": test}

    def _eye(self, records: dict[str, Any]) -> set[str]:
        listed = find_file(self.root, "pubmedqa", ("pqal_ophth_subset.json",), EXPECTED, required=False)
        if listed is not None:
            self.counts["eye_by"] = listed.name
            return set(read_json(listed)) & set(records)
        self.counts["eye_by"] = "words of the question and MeSH headings"
        return {
            pmid for pmid, r in records.items() if about_eyes(str(r.get("QUESTION")), headings=r.get("MESHES") or [])
        }


def _item(pmid: str, record: Any, book: str) -> Item:
    where = f"ori_pqal.json {pmid}"
    if not isinstance(record, dict) or "QUESTION" not in record or "final_decision" not in record:
        raise DataError(f"{where} lacks QUESTION or final_decision. {EXPECTED}")
    decision = text_of(record, "final_decision", where).lower()
    if decision and decision not in OPTIONS:
        raise DataError(f"{where}: final_decision is {decision!r}; the three answers are {', '.join(OPTIONS)}.")
    contexts = record.get("CONTEXTS") or []
    if not isinstance(contexts, list) or not all(isinstance(c, str) for c in contexts):
        raise DataError(f"{where}: CONTEXTS is no list of texts.")
    item = {
        "id": pmid,
        "patient_id": pmid,
        "question": text_of(record, "QUESTION", where),
        "options": list(OPTIONS),
        "answer": decision,
        "answer_index": OPTIONS.index(decision) if decision else -1,
        "explanation": text_of(record, "LONG_ANSWER", where),
        "kind": "mcqa",
        "source": "PubMedQA",
    }
    return item | ({"context": "\n".join(c.strip() for c in contexts)} if book == "open" else {})
