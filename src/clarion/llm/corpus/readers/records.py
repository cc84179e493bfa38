"""JSON Lines and JSON of records (PubMed exports, PubMedQA, BioC), streamed record by record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from clarion.llm.corpus.document import Document, Unreadable

TEXT_FIELDS = ("text", "body", "full_text", "content", "abstract", "AbstractText", "CONTEXTS", "contexts", "passages")
TITLE_FIELDS = ("title", "ArticleTitle", "article_title", "QUESTION")
ID_FIELDS = ("id", "pmid", "PMID", "pmcid", "uid", "_id")
PATIENT_FIELDS = ("patient_id", "PatientID", "subject_id")
MESH_FIELDS = ("mesh", "MESHES", "meshes", "mesh_terms", "MeshHeadings")
WRAPPERS = ("documents", "articles", "records", "data", "results")  # {"documents": [...]}
_SPACE = re.compile(r"\s*")
_PIECE = 1 << 20


def document_of(record: Any, fields: Mapping[str, Any]) -> Document:
    """One record -> Document (id as the record gives it, "" without). fields: text_field, title_field, id_field,
    patient_field of a source, null where the usual names are to be tried. Raises Unreadable for a record without text,
    and for one without the patient that patient_field promises: it could end up in two splits."""
    if isinstance(record, str):
        record = {"text": record}
    if not isinstance(record, dict):
        raise Unreadable("broken", f"is a {type(record).__name__}, not an object with a text.")
    if fields["text_field"]:
        if fields["text_field"] not in record:
            found = ", ".join(map(str, list(record)[:12])) or "nothing"
            raise Unreadable("broken", f"has no field {fields['text_field']} (it has: {found}); set text_field.")
        text = _flat(record[fields["text_field"]])
    else:
        text = next((t for name in TEXT_FIELDS if (t := _flat(record.get(name)))), "")
        if not text and not any(name in record for name in TEXT_FIELDS):
            found = ", ".join(map(str, list(record)[:12])) or "nothing"
            raise Unreadable("broken", f"has none of the usual text fields (it has: {found}); set text_field.")
    title = _first(record, fields["title_field"], TITLE_FIELDS)
    name = _first(record, fields["id_field"], ID_FIELDS)
    mesh = next((record[m] for m in MESH_FIELDS if isinstance(record.get(m), list)), [])
    meta = {"mesh": [str(m) for m in mesh if isinstance(m, str)]} if mesh else {}
    if patient := _first(record, fields["patient_field"], PATIENT_FIELDS):
        meta["patient_id"] = patient
    elif fields["patient_field"]:
        raise Unreadable("no_patient", f"has no {fields['patient_field']}; fill it in, or set another patient_field.")
    return Document(name, text, title, meta=meta)


def _first(record: Mapping[str, Any], chosen: str | None, usual: tuple[str, ...]) -> str:
    for name in (chosen,) if chosen else usual:
        value = record.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return " ".join(str(value).split())
    return ""


def _flat(value: Any, depth: int = 0) -> str:
    """Text of a string, a list of paragraphs, or sections {label: text} / {"text": ...}."""
    if isinstance(value, str):
        return value
    if depth > 4:
        return ""
    if isinstance(value, list):
        return "\n\n".join(filter(None, (_flat(v, depth + 1) for v in value)))
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            return value["text"]
        return "\n\n".join(f"{k}: {v}" for k, v in value.items() if isinstance(v, str))
    return ""


def json_line(line: bytes) -> Any:
    """One line of JSON Lines. Raises Unreadable."""
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Unreadable("broken", f"is not JSON in UTF-8 ({str(error)[:100]}).") from None


def read_json_records(file: IO[bytes], limit: int) -> Iterator[tuple[str, Any]]:
    """(key or "", record) of a JSON array, an object of records by id, or {"documents": [...]}; streamed, so that a
    file of gigabytes needs the memory of one record. limit: most characters of one record. Raises Unreadable."""
    reader = _Reader(file, limit)
    opener = reader.take()
    if opener == "[":
        yield from (("", value) for value in reader.items("]"))
        return
    if opener != "{":
        raise Unreadable("broken", "is neither a JSON array nor an object.")
    plain: dict[str, Any] = {}
    records = 0
    for key in reader.keys():
        if key in WRAPPERS and reader.peek() == "[":
            reader.take()
            for value in reader.items("]"):
                records += 1
                yield "", value
            continue
        value = reader.value()
        if isinstance(value, dict):
            records += 1
            yield key, value
        else:
            plain[key] = value
    if not records and plain:
        yield "", plain  # the file is one record


class _Reader:
    """A JSON text taken apart one value at a time; the buffer holds one value at most."""

    def __init__(self, file: IO[bytes], limit: int):
        self.file, self.limit, self.buffer, self.at = file, limit, "", 0
        self.decode = json.JSONDecoder().raw_decode
        import codecs

        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.ended = False

    def fill(self) -> bool:
        """Read more; False at the end of the file."""
        if self.ended:
            return False
        piece = self.file.read(max(_PIECE, len(self.buffer) - self.at))
        try:
            text = self.decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise Unreadable("broken", f"is not UTF-8 ({str(error)[:80]}).") from None
        self.buffer, self.at = self.buffer[self.at :] + text, 0
        self.ended = not piece
        return not self.ended

    def peek(self) -> str:
        while True:
            self.at = _SPACE.match(self.buffer, self.at).end()
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.fill():
                raise Unreadable("broken", "breaks off: the JSON does not end.")

    def take(self) -> str:
        found = self.peek()
        self.at += 1
        return found

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self.decode(self.buffer, self.at)
                if end < len(self.buffer) or self.ended:  # a number may go on in the next piece
                    self.at = end
                    return value
            except (json.JSONDecodeError, RecursionError) as error:
                if self.ended or len(self.buffer) - self.at > self.limit:
                    why = "a record is too long" if not self.ended else str(error)[:100]
                    raise Unreadable("broken", f"is not JSON ({why}).") from None
            self.fill()

    def items(self, closer: str) -> Iterator[Any]:
        if self.peek() == closer:
            self.take()
            return
        while True:
            yield self.value()
            mark = self.take()
            if mark == closer:
                return
            if mark != ",":
                raise Unreadable("broken", f"is not JSON (a {mark!r} between records).")

    def keys(self) -> Iterator[str]:
        if self.peek() == "}":
            return
        while True:
            key = self.value()
            if not isinstance(key, str) or self.take() != ":":
                raise Unreadable("broken", "is not JSON (a key was expected).")
            self.peek()
            yield key
            mark = self.take()
            if mark == "}":
                return
            if mark != ",":
                raise Unreadable("broken", f"is not JSON (a {mark!r} between records).")
