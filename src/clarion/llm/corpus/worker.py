"""What a worker process does with one task: read, clean, filter, de-identify, count, fingerprint."""

from __future__ import annotations

import hashlib
import resource
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clarion.data.paths import nfc
from clarion.llm.corpus.clean import clean
from clarion.llm.corpus.document import Document, Problem, Unreadable
from clarion.llm.corpus.filters import reason_to_drop
from clarion.llm.corpus.readers.records import document_of, json_line
from clarion.llm.corpus.sources import InputFile, Task, check_size


@dataclass
class Finished:
    """A document that passed every filter of its own: the row to write and what de-duplication compares."""

    row: dict[str, Any]
    fingerprint: Any


@dataclass
class Result:
    """finished: in the order of the records; dropped: reason -> documents; problems: files and records without one;
    read: source -> documents that were read (finished + dropped); characters: of them, as read; languages_dropped:
    language -> documents; peak_mb: the most memory its process has held."""

    finished: list[Finished] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    read: Counter = field(default_factory=Counter)
    characters: int = 0
    languages_dropped: Counter = field(default_factory=Counter)
    peak_mb: float = 0.0


def peak_mb() -> float:
    """The most memory this process has held, MB (resident)."""
    try:
        # ru_maxrss would count what the parent held when it forked
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1024**2 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Worker:
    """spec: a checked conf with absolute paths; tokenizer: path of a tokenizer.json or None (words)."""

    def __init__(self, spec: Mapping[str, Any], tokenizer: str | None, secret: str):
        from clarion.llm.corpus.dedup import Fingerprinter

        self.spec, self.tokenizer, self.secret = spec, tokenizer, secret
        self.fingerprint = Fingerprinter(spec["dedup"])
        dates = spec["pii"]["dates"]
        if dates == "auto":
            dates = "birth" if spec["kind"] == "public" else "all"
        self.pii = {**spec["pii"], "dates": dates}

    def __call__(self, task: Task) -> Result:
        result = Result(problems=list(task.problems))
        for document, file in self._documents(task, result):
            source = self.spec["sources"][file.source]
            result.read[source["name"]] += 1
            result.characters += len(document.text)
            reason = self._finish(document, file, source, result)
            if reason:
                result.dropped[reason] += 1
        result.peak_mb = peak_mb()
        return result

    # -- reading

    def _documents(self, task: Task, result: Result) -> Iterator[tuple[Document, InputFile]]:
        """(document with its identifier, its file); what cannot be read becomes a problem of the result."""
        if task.lines or task.documents:
            file = task.files[0]
            for number, document in self._records(task, file, result):
                document.id = self._id(file, document.id, number)
                yield document, file
            return
        if task.problems:
            return
        for file in task.files:
            try:
                document = self._opened(file)
            except Unreadable as error:
                result.problems.append(Problem(error.reason, file.name, str(error)))
                continue
            except OSError as error:
                text = f"cannot be read ({error.strerror}): check its permissions."
                result.problems.append(Problem("broken", file.name, text))
                continue
            document.id = self._id(file, "", None)
            yield document, file

    def _records(self, task: Task, file: InputFile, result: Result) -> Iterator[tuple[int, Document]]:
        yield from enumerate(task.documents, task.first)
        source = self.spec["sources"][file.source]
        for number, line in enumerate(task.lines, task.first):
            if not line.strip():
                continue
            try:
                yield number, document_of(json_line(line), source)
            except Unreadable as error:
                result.problems.append(Problem(error.reason, file.name, f"line {number + 1} {error}"))

    def _opened(self, file: InputFile) -> Document:
        options = self.spec["extract"]
        check_size(file.path, options)
        if file.format == "pdf":
            from clarion.llm.corpus.readers.pdf import read_pdf

            return read_pdf(file.path, options)
        from clarion.llm.corpus.readers.markup import read_html, read_markdown, read_text

        content = file.path.read_bytes()
        if file.format == "html":
            return read_html(content, options)
        return read_markdown(content) if file.format == "md" else read_text(content)

    def _id(self, file: InputFile, given: str, number: int | None) -> str:
        """SOURCE:GIVEN, or SOURCE/PATH[#RECORD]. Of private documents a keyed hash of that: names of files and records
        may be a patient's."""
        source = self.spec["sources"][file.source]["name"]
        name = f"{source}:{given}" if given else f"{source}/{file.name}" + ("" if number is None else f"#{number + 1}")
        return name if self.spec["kind"] == "public" else "D-" + self._keyed(name)

    def _patient(self, given: str) -> str:
        """A patient's identifier: as given, or for private documents a keyed hash, the same in all sources."""
        return given if self.spec["kind"] == "public" else "P-" + self._keyed(f"patient\0{nfc(given)}")

    def _keyed(self, text: str) -> str:
        return hashlib.blake2b(text.encode(), key=self.secret.encode()[:64], digest_size=8).hexdigest()

    # -- one document

    def _finish(self, document: Document, file: InputFile, source: Mapping[str, Any], result: Result) -> str | None:
        """Append to result.finished, or return why the document is dropped."""
        spec = self.spec
        text, title = clean(document.text), " ".join(clean(document.title).split())
        if not text:
            return "empty"
        if len(text) > spec["extract"]["max_document_chars"]:
            return "too_large"
        if reason := reason_to_drop(text, spec["filters"]):
            return reason
        language = score = None
        if spec["language"]["keep"] is not None:
            from clarion.llm.corpus.language import language as detect

            language, score = detect(text)
            if language not in spec["language"]["keep"] or score <= spec["language"]["threshold"]:
                result.languages_dropped[language or "none"] += 1
                return "language"
        row: dict[str, Any] = {"id": document.id, "text": text, "title": title, "source": source["name"]}
        if patient := document.meta.get("patient_id"):
            row["patient_id"] = self._patient(patient)
        if spec["ophthalmology"]["threshold"] is not None:
            from clarion.llm.corpus.eye import eye_score

            mesh = document.meta.get("mesh", [])
            found = eye_score(text, title, mesh, spec["ophthalmology"]["mesh"])
            if found < spec["ophthalmology"]["threshold"]:
                return "not_ophthalmology"
            row["ophthalmology"] = round(found, 2)
        self._redact(row)
        from clarion.llm.corpus.tokens import counter

        row |= {"format": file.format, "licence": document.meta.get("licence") or source["licence"]}
        if language:
            row |= {"language": language, "language_score": round(score, 3)}
        row["tokens"] = counter(self.tokenizer)(row["text"])
        kept = {k: document.meta[k] for k in ("mesh", "keywords", "journal", "year", "pages") if document.meta.get(k)}
        result.finished.append(Finished(row | kept, self.fingerprint(row["text"])))
        return None

    def _redact(self, row: dict[str, Any]) -> None:
        if self.spec["pii"]["mode"] == "off":
            return
        from clarion.llm.corpus.pii.redact import redact

        secret = f"{self.secret}\0{row['id']}"
        # Title and text together: who is named in one is found in the other.
        whole, counts = redact(f"{row['title']}\n\n{row['text']}", self.pii, secret)
        row["title"], _, row["text"] = whole.partition("\n\n")
        if counts:
            row["pii_removed"] = dict(sorted(counts.items()))


_worker: Worker | None = None


def start(spec: Mapping[str, Any], tokenizer: str | None, secret: str) -> None:
    """Initialise a worker process."""
    import signal

    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides
    _worker = Worker(spec, tokenizer, secret)


def work(task: Task) -> Result:
    """One task, in a worker process that `start` initialised."""
    return _worker(task)
