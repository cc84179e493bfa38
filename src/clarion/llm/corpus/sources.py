"""Input files -> tasks for the workers, streamed in a fixed order, so that a build can go on at any task."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from clarion.data.paths import nfc, walk
from clarion.errors import DataError
from clarion.llm.corpus.document import Document, Problem, Unreadable
from clarion.llm.corpus.readers.records import document_of, read_json_records

SUFFIXES = {
    ".pdf": "pdf", ".xml": "xml", ".nxml": "xml", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "txt",
    ".text": "txt", ".md": "md", ".markdown": "md", ".html": "html", ".htm": "html", ".xhtml": "html",
}  # fmt: skip
GZIPPED = ("xml", "json", "jsonl")  # as PubMed's baseline files come
STREAMED = ("xml", "json", "jsonl")  # many documents a file; the others are one document each
BATCH_BYTES = 1 << 19
BATCH_RECORDS = 256


@dataclass(frozen=True)
class InputFile:
    """source: number of the source in the conf; name: path below the source, composed Unicode, with "/"."""

    source: int
    path: Path
    name: str
    format: str


@dataclass
class Task:
    """What one worker does at a time: files to open, lines of JSON to parse, or documents to clean.

    first: number of the first record in the file, for identifiers and messages."""

    files: list[InputFile]
    lines: list[bytes] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    first: int = 0


def format_of(path: Path) -> str | None:
    """The format by suffix (.xml.gz too); None for other files."""
    if path.suffix.lower() == ".gz":
        found = SUFFIXES.get(Path(path.stem).suffix.lower())
        return found if found in GZIPPED else None
    return SUFFIXES.get(path.suffix.lower())


def list_files(sources: list[Mapping[str, Any]]) -> list[InputFile]:
    """All files of all sources, by source and then by path. Links that leave a source's folder are refused (DataError).

    Raises DataError where nothing is found."""
    found: list[InputFile] = []
    suffixes = frozenset(SUFFIXES) | {".gz"}
    for number, source in enumerate(sources):
        root = source["path"]
        paths = [root] if root.is_file() else walk(root, root, suffixes)
        for path in paths:
            kind = format_of(path)
            if kind in source["formats"] and path.is_file():  # a pipe or socket would be waited for
                name = path.name if root.is_file() else path.relative_to(root).as_posix()
                found.append(InputFile(number, path, nfc(name), kind))
    if not found:
        wanted = ", ".join(sorted({f for s in sources for f in s["formats"]}))
        places = ", ".join(str(s["name"]) for s in sources)
        raise DataError(f"empty corpus: the sources ({places}) hold no files of the formats {wanted}.")
    return found


def tasks(files: list[InputFile], sources: list[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Task]:
    """Tasks in the order of the files: single-document files alone or, small ones, together; records in batches."""
    small: list[InputFile] = []
    size = 0
    for file in files:
        if file.format in STREAMED:
            if small:
                yield Task(small)
                small, size = [], 0
            yield from _stream(file, sources[file.source], options)
            continue
        weight = _size(file.path) * (4 if file.format == "pdf" else 1)
        if small and (size + weight > 4 * BATCH_BYTES or len(small) >= 64 or small[0].source != file.source):
            yield Task(small)
            small, size = [], 0
        small.append(file)
        size += weight
    if small:
        yield Task(small)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def check_size(path: Path, options: Mapping[str, Any]) -> None:
    """Raises Unreadable (too_large) for a single-document file above extract.max_file_mb."""
    size = path.stat().st_size
    if size > options["max_file_mb"] * 1e6:
        raise Unreadable("too_large", f"has {size / 1e6:.0f} MB; raise extract.max_file_mb ({options['max_file_mb']}).")


def _stream(file: InputFile, source: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[Task]:
    """Batches of one streamed file; what breaks off is a problem beside the batches before it."""
    sent = 0
    try:
        with _opened(file.path) as content:
            batches = (
                _lines(content, file, options) if file.format == "jsonl" else _documents(content, file, source, options)
            )
            for task in batches:
                sent = task.first + len(task.lines) + len(task.documents)
                yield task
    except Unreadable as error:
        yield Task([file], problems=[Problem(error.reason, file.name, str(error))], first=sent)
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        text = f"cannot be read to its end ({type(error).__name__}): copy it again; the records before were read."
        yield Task([file], problems=[Problem("broken", file.name, text)], first=sent)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")


def _lines(content: IO[bytes], file: InputFile, options: Mapping[str, Any]) -> Iterator[Task]:
    limit = 4 * options["max_document_chars"] + 65_536
    batch, size, first, number = [], 0, 0, 0
    problems: list[Problem] = []
    while line := content.readline(limit + 1):
        number += 1
        if len(line) > limit:
            text = f"line {number} is longer than {limit:,} bytes; raise extract.max_document_chars or split it."
            problems.append(Problem("too_large", file.name, text))
            while line and not line.endswith(b"\n"):
                line = content.readline(limit)
            line = b""  # keeps the numbering
        batch.append(line)
        size += len(line)
        if size > BATCH_BYTES or len(batch) >= BATCH_RECORDS:
            yield Task([file], lines=batch, problems=problems, first=first)
            batch, size, first, problems = [], 0, number, []
    if batch or problems:
        yield Task([file], lines=batch, problems=problems, first=first)


def _documents(
    content: IO[bytes], file: InputFile, source: Mapping[str, Any], options: Mapping[str, Any]
) -> Iterator[Task]:
    batch: list[Document] = []
    problems: list[Problem] = []
    size = first = 0
    for found in _records(content, file, source, options):
        if isinstance(found, Problem):
            problems.append(found)
            continue
        batch.append(found)
        size += len(found.text)
        if size > BATCH_BYTES or len(batch) >= BATCH_RECORDS:
            yield Task([file], documents=batch, problems=problems, first=first)
            first += len(batch)
            batch, problems, size = [], [], 0
    if batch or problems:
        yield Task([file], documents=batch, problems=problems, first=first)


def _records(
    content: IO[bytes], file: InputFile, source: Mapping[str, Any], options: Mapping[str, Any]
) -> Iterator[Document | Problem]:
    if file.format == "xml":
        from clarion.llm.corpus.readers.xml import read_xml

        yield from read_xml(content, options)
        return
    for number, (key, record) in enumerate(read_json_records(content, options["max_document_chars"])):
        try:
            document = document_of(record, source)
        except Unreadable as error:
            yield Problem(error.reason, file.name, f"record {number + 1} {error}")
            continue
        document.id = document.id or key
        yield document
