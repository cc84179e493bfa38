"""What a generator is asked: passages of documents, and the prompts that want JSON back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from clarion.errors import DataError, UsageError
from clarion.llm.building.settings import BuildSettings
from clarion.llm.jsonl import read_records
from clarion.llm.prompts import LETTERS, Message

PROMPTS_VERSION = "1"  # part of the card: raise it when a wording below changes
SYSTEM = (
    "You write examination questions for ophthalmologists. You use only facts stated in the passage you are given, and "
    "you answer with JSON and nothing else."
)
EXPECTED = (
    'Expected: one JSON object a line with "id" and "text" [, "title", "patient_id"], as `clarion corpus build` writes '
    "them (documents-00000.jsonl, ...)."
)


@dataclass(frozen=True)
class Passage:
    """A piece of a document. patient: what may not be in two splits (the document's patient_id, else itself)."""

    document: str
    patient: str
    number: int
    title: str
    text: str


def document_files(name: str) -> list[Path]:
    """The jsonl files that a setting names: one itself, or the documents*.jsonl of a corpus folder, in their order.

    Raises UsageError where there is none, and for the folder of a corpus build that has not ended."""
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    files = sorted(path.glob("documents*.jsonl")) if path.is_dir() else []
    if (path / "work" / "state.json").is_file() and not (path / "manifest.json").is_file():
        raise UsageError(f"documents={name}: this corpus is not complete; `clarion corpus build ... --resume` goes on.")
    if not files:
        raise UsageError(f"documents={name}: no such file, nor a folder with documents*.jsonl. {EXPECTED}")
    return files


def read_passages(files: Sequence[Path], settings: BuildSettings) -> Iterator[Passage]:
    """Passages of every document, in the order of the files. DataError for lines without id or text, and for an id
    twice."""
    seen: set[str] = set()
    for where, record in chain.from_iterable(map(read_records, files)):
        identifier, text = record.get("id"), record.get("text")
        if not isinstance(identifier, str | int) or isinstance(identifier, bool) or not isinstance(text, str):
            raise DataError(f"{where} lacks id or text. {EXPECTED}")
        document = str(identifier)
        if document in seen:
            raise DataError(f"{where}: the document id {document} occurs twice; give each document its own.")
        seen.add(document)
        title, patient = str(record.get("title") or ""), str(record.get("patient_id") or document)
        cut = [p for p in passages(text, settings.passage_words) if len(p.split()) >= settings.least_words]
        for number, passage in enumerate(cut[: settings.passages]):
            yield Passage(document, patient, number, title, passage)


def passages(text: str, most: int) -> list[str]:
    """Paragraphs joined up to `most` words; a longer paragraph is cut between sentences."""
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = paragraph.split()
        pieces += [paragraph.strip()] if len(words) <= most else re.split(r"(?<=[.!?。])\s+", paragraph.strip())
    found: list[str] = []
    held: list[str] = []
    size = 0
    for piece in (p for p in pieces if p):
        count = len(piece.split())
        if held and size + count > most:
            found.append("\n".join(held))
            held, size = [], 0
        held.append(piece)
        size += count
    return [*found, *(["\n".join(held)] if held else [])]


def request(passage: Passage, kind: str, settings: BuildSettings) -> list[Message]:
    """The messages that ask for `per_passage` questions of a kind (mcqa | eqa)."""
    example: Mapping[str, Any]
    if kind == "mcqa":
        letters = LETTERS[: settings.options]
        example = {
            "question": "...",
            "options": {k: "..." for k in letters},
            "answer": letters[0],
            "explanation": "...",
        }
        rules = (
            f"Each has {settings.options} distinct options, exactly one of which is right by the passage, its letter "
            "as `answer`, and an `explanation` of one or two sentences. Vary the position of the right option."
        )
    else:
        example = {"question": "...", "answer": "..."}
        rules = "Each `answer` has one to four sentences with the facts of the passage."
    user = (
        f"Passage{f' ({passage.title})' if passage.title else ''}:\n{passage.text}\n\n"
        f"Write {settings.per_passage} question(s) in {settings.language} that this passage answers. {rules} "
        "A question must be clear to someone who has not read the passage: do not mention the passage, the text or the "
        "study, and do not give the answer away in the question.\n\n"
        f"Answer with a JSON list of objects like {json.dumps([example])}"
    )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def request_key(messages: list[Message], identity: Mapping[str, Any]) -> str:
    """Names a reply in the cache: the same prompt to the same generator."""
    text = json.dumps([messages, identity], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
