"""Documents for continued pre-training: the jsonl files of `clarion corpus build`, or a small embedded corpus."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from clarion.data.fingerprint import fingerprint_items
from clarion.data.integrity import IntegrityReport, check_patients
from clarion.data.paths import data_root, inside
from clarion.data.pseudonym import pseudonyms, write_mapping
from clarion.data.splits import split_patients
from clarion.errors import DataError, UsageError
from clarion.llm.erm_cases import CASES_VERSION, QUESTIONS, Case, draw_case
from clarion.samples import Sample

SPLITS = ("train", "val", "test")
REPORT_VERSION = "1"  # part of the fingerprint: raise it when the wording of the embedded documents changes
MAX_LINE_BYTES = 64_000_000
EXPECTED = (
    'Expected: documents*.jsonl (or documents/*.jsonl), UTF-8, one JSON object a line with "text" [, "id", '
    '"patient_id" (what may not be in two splits), "source"]: what `clarion corpus build` writes.'
)


@dataclass(frozen=True)
class Document:
    """Where a document lies: file and byte offset (None: drawn), the unit that is split, and what is counted."""

    id: str
    unit: str
    source: str
    file: Path | None
    offset: int
    characters: int
    content: str  # hash of the text, white space and case aside


class CorpusData:
    """Plain documents (task generation): rows {"text"} for training, whole documents scored by their likelihood.

    root: null for the embedded corpus (reports of synthetic ERM cases; train, val, test: how many), or a folder with
    documents. val_share, test_share: of the documents of a folder; a unit (patient_id, else the document) is in one
    split only, by a hash of the seed. Texts are read from disk as they are needed: memory holds a line of facts a
    document. kind: phantom | public | private (ids become pseudonyms).
    """

    class_names: list[str] = []

    def __init__(
        self,
        name: str = "corpus",
        task: str = "generation",
        root: str | None = None,
        seed: int = 0,
        kind: str = "phantom",
        train: int = 300,
        val: int = 30,
        test: int = 60,
        val_share: float = 0.01,
        test_share: float = 0.02,
        fold: int | None = None,
    ):
        if fold is not None:
            raise UsageError(f"data={name} has one split; leave data.fold=null.")
        if kind not in ("phantom", "public", "private"):
            raise UsageError(f"data.kind={kind} is unknown: write phantom, public or private.")
        if root is None and min(train, val, test) < 1:
            raise UsageError("data.train, data.val and data.test must each be at least 1.")
        if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
            raise UsageError("data.val_share and data.test_share must be above 0 and together below 1.")
        self.name, self.task, self.seed = name, task, seed
        # A folder's documents are never taken for synthetic by default.
        self.kind = "private" if root is not None and kind == "phantom" else kind
        self.root = data_root(root, EXPECTED) if root is not None else None
        self.sizes = {"train": train, "val": val, "test": test}
        self.shares = {"train": 1 - val_share - test_share, "val": val_share, "test": test_share}

    @cached_property
    def documents(self) -> dict[str, list[Document]]:
        """split -> documents, in the order of the files."""
        if self.root is None:
            return {split: [_drawn(split, k, self.seed) for k in range(self.sizes[split])] for split in SPLITS}
        found = [document for file in self._files() for document in _index(file)]
        if not found:
            raise DataError(f"data.root={self.root} holds no documents. {EXPECTED}")
        if self.kind == "private":
            found = self._hidden(found)
        parts = split_patients({d.unit for d in found}, self.shares, self.seed)
        split_of = {unit: split for split, units in parts.items() for unit in units}
        result: dict[str, list[Document]] = {split: [] for split in SPLITS}
        for document in found:
            result[split_of[document.unit]].append(document)
        return result

    def _files(self) -> list[Path]:
        root = self.root
        files = sorted([*root.glob("documents*.jsonl"), *root.glob("documents/*.jsonl")])
        if not files:
            raise UsageError(f"data.root={root} has no documents*.jsonl. {EXPECTED}")
        return [inside(root, path.relative_to(root).as_posix(), "data.root") for path in files]

    def _hidden(self, found: list[Document]) -> list[Document]:
        units, ids = pseudonyms({d.unit for d in found}, "P"), pseudonyms({d.id for d in found}, "D")
        scope = "corpus-" + hashlib.blake2b(str(self.root).encode(), digest_size=6).hexdigest()
        write_mapping(scope, {"patient": units, "document": ids})
        return [Document(ids[d.id], units[d.unit], d.source, d.file, d.offset, d.characters, d.content) for d in found]

    def texts(self, split: str) -> Iterator[tuple[Document, str]]:
        """Documents of a split with their texts, one at a time."""
        for document in self.documents[split]:
            yield document, _text(document, split, self.seed)

    def prepare(self) -> None:
        """Index or draw all documents; idempotent. UsageError / DataError for a folder or line that is wrong."""
        _ = self.documents

    @property
    def splits(self) -> dict[str, list[str]]:
        return {split: [d.id for d in documents] for split, documents in self.documents.items()}

    def check(self) -> IntegrityReport:
        """A unit or a text in two splits, repeated ids and empty texts stop the run; copies inside a split warn."""
        report = IntegrityReport()
        rows = [(split, d) for split in SPLITS for d in self.documents[split]]
        check_patients(report, self.splits, {d.id: d.unit for _, d in rows})
        empty = [(d.id, d.id) for _, d in rows if not d.characters]
        report.error("empty_text", "documents are empty; remove them", empty)
        first: dict[str, tuple[str, str]] = {}
        across, within = [], []
        for split, d in rows:
            if d.content not in first:
                first[d.content] = (split, d.id)
            else:
                pair = f"{first[d.content][1]} ({first[d.content][0]}) = {d.id} ({split})"
                (across if first[d.content][0] != split else within).append((pair, pair))
        message = "the same text is in two splits, so the score would measure memory; deduplicate the corpus"
        report.error("duplicate_across_splits", message, across)
        report.warning("duplicate", "the same text occurs twice in one split; it counts double", within)
        return report

    def fingerprint(self) -> str:
        """Hash of every text (by content), id and split, and of the embedded corpus's recipe."""
        items = {f"{split}/{d.id}": d.content for split in SPLITS for d in self.documents[split]}
        return fingerprint_items(items | ({"recipe": CASES_VERSION + REPORT_VERSION} if self.root is None else {}))

    def hf_dataset(self, split: str) -> Any:
        """datasets.Dataset {"text"}; of a folder, written to a scratch folder as it is read (memory stays bounded)."""
        from datasets import Dataset, Features, Value

        features = Features({"text": Value("string")})
        if self.root is None or not self.documents[split]:
            return Dataset.from_dict({"text": [text for _, text in self.texts(split)]}, features=features)
        if not hasattr(self, "_scratch"):  # removed with this object: no second copy of private texts stays behind
            self._scratch = tempfile.TemporaryDirectory(prefix="clarion-corpus-", ignore_cleanup_errors=True)
        return Dataset.from_generator(
            _rows, features, cache_dir=self._scratch.name, gen_kwargs={"documents": self.documents[split]}
        )

    def train_texts(self) -> Iterator[tuple[str, str]]:
        """(document id, text) of everything that a model trained on this sees, for the contamination index."""
        for document, text in self.texts("train"):
            yield document.id, text

    def eval_texts(self, split: str) -> Iterator[tuple[str, str]]:
        """(sample id, text) of a split, whose overlap with training texts is reported."""
        for document, text in self.texts(split):
            yield document.id, text

    def samples(self, split: str) -> Iterator[Sample]:
        """The documents of a split, whole: their likelihood is what is scored."""
        for document, text in self.texts(split):
            yield Sample(document.id, document.unit, {"text": text})

    def truth(self, split: str) -> pd.DataFrame:
        """sample_id, patient_id (the unit), text and source."""
        rows = [(d.id, d.unit, text, d.source) for d, text in self.texts(split)]
        return pd.DataFrame(rows, columns=["sample_id", "patient_id", "text", "source"])

    def card(self) -> dict[str, Any]:
        """Sizes, lengths in characters, sources, and the corpus's own card.json where the folder has one."""
        splits = {}
        for split, documents in self.documents.items():
            lengths = pd.Series([d.characters for d in documents], dtype=float)
            splits[split] = {
                "samples": len(documents),
                "patients": len({d.unit for d in documents}),
                "characters": int(lengths.sum()),
                "characters_median": float(lengths.median()) if len(lengths) else None,
                "sources": dict(Counter(d.source for d in documents if d.source).most_common(20)),
            }
        drawn = f"reports of synthetic ERM cases, seed {self.seed}, recipe {CASES_VERSION}.{REPORT_VERSION}"
        card = {
            "name": self.name,
            "task": self.task,
            "kind": self.kind,
            "source": drawn if self.root is None else "documents given by the user",
            "splits": splits,
            "fingerprint": self.fingerprint(),
        }
        own = self.root / "card.json" if self.root is not None and self.kind != "private" else None
        if own is not None and own.is_file() and own.stat().st_size < 1_000_000:
            card["corpus"] = json.loads(own.read_text(encoding="utf-8"))
        return card


def _rows(documents: list[Document]) -> Iterator[dict[str, str]]:
    for document in documents:
        yield {"text": _read(document)}


def _index(file: Path) -> Iterator[Document]:
    with open(file, "rb") as lines:
        number = offset = 0
        while line := lines.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{file.name} line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{where} is longer than {MAX_LINE_BYTES:,} bytes; split that document.")
            if line.strip():
                row = _parsed(line, where)
                name = str(row.get("id") or f"{file.stem}-{number:08d}")
                unit, source = str(row.get("patient_id") or name), str(row.get("source") or "")
                content = hashlib.blake2b(" ".join(row["text"].lower().split()).encode(), digest_size=12).hexdigest()
                yield Document(name, unit, source, file, offset, len(row["text"].strip()), content)
            offset += len(line)


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} is not a JSON object in UTF-8 ({error}).") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise DataError(f'{where} has no "text" (a string). {EXPECTED}')
    return row


def _text(document: Document, split: str, seed: int) -> str:
    if document.file is None:
        return report_text(draw_case(document.unit, seed))
    return _read(document)


def _read(document: Document) -> str:
    with open(document.file, "rb") as lines:
        lines.seek(document.offset)
        return _parsed(lines.readline(MAX_LINE_BYTES), document.file.name)["text"].strip()


# ----------------------------------------------------------------------------------------------- the embedded corpus


def _drawn(split: str, number: int, seed: int) -> Document:
    name = f"report-{split}-{number:05d}"  # cases of their own: no question of instruct_demo is about one of them
    text = report_text(draw_case(name, seed))
    content = hashlib.blake2b(text.lower().encode(), digest_size=12).hexdigest()
    return Document(name, name, "synthetic", None, 0, len(text), content)


def report_text(case: Case) -> str:
    """A case as the report of an OCT visit: the findings in prose, then what follows from them by the rules."""
    found = f"covers {case.area_mm2} mm2 of the macula" if case.membrane else "is not seen"
    layers = (
        f"Continuous ectopic inner foveal layers of {case.eifl_um} um cross the fovea"
        if case.eifl_um
        else "There are no ectopic inner foveal layers"
    )
    answers = {question.kind: question.answer(case) for question in QUESTIONS}
    return (
        f"Optical coherence tomography of the {case.laterality} eye, case {case.case_id.rsplit('-', 1)[-1]}. "
        f"An epiretinal membrane {found}. The foveal pit is {'preserved' if case.pit else 'lost'}. {layers}, and the "
        f"retinal layers are {'disrupted' if case.disrupted else 'distinct'}. The central foveal thickness is "
        f"{case.thickness_um} um. Visual acuity is 20/{case.vision}, "
        f"{'with' if case.distortion else 'without'} metamorphopsia; the lens "
        f"{'has a cataract' if case.cataract else 'is clear'}.\n\n"
        f"Assessment. {answers['stage']} {answers['thickness']} Plan. {answers['surgery']}"
    )
