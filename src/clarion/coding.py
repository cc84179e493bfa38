"""`clarion code`: a note, a file or standard input -> ICD-10-CM codes with their places, confidence and level chain."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clarion.errors import DataError, UsageError

LARGEST_FILE = 16 * 2**20  # bytes


def code_text(
    given: str,
    scope: str | None = "eye",
    laterality: str | None = None,
    embedding: bool = True,
    threshold: float | None = None,
) -> dict[str, Any]:
    """What `clarion code` prints with --format json: {source, system, version, scope, codes, dropped, failures}.

    given: the text itself, the path of a text file, or "-" for standard input. Raises UsageError or DataError for what
    is no note."""
    source, text = read_note(given)
    if not text.strip():
        raise DataError(f"{source} is empty: there is nothing to code.")
    from clarion.llm.coding.coder import TextCoder
    from clarion.llm.coding.laterality import parse_side

    side = parse_side(laterality)
    coder = TextCoder(scope=None if scope == "all" else scope, threshold=threshold, embedding=embedding)
    coded = coder(text, side)
    return {
        "source": source,
        "system": coder.system.name,
        "version": coder.system.version,
        "scope": scope,
        "embedding": embedding,
        "codes": [asdict(c) for c in coded.codes],
        "dropped": [asdict(c) for c in coded.dropped],
        "failures": coded.failures,
    }


def read_note(given: str) -> tuple[str, str]:
    """(what it is: "the text", "standard input" or a file's name; the text)."""
    if given == "-":
        return "standard input", _decoded(sys.stdin.buffer.read(LARGEST_FILE + 1), "standard input")
    path = _as_path(given)
    if path is None:
        return "the text", given
    if path.is_dir():
        raise UsageError(f"{path.name} is a folder: give one text file, a text in quotes, or - for standard input.")
    try:
        return path.name, _decoded(
            path.read_bytes() if path.stat().st_size <= LARGEST_FILE else b"x" * (LARGEST_FILE + 1), path.name
        )
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror}).") from error


def _as_path(given: str) -> Path | None:
    """The argument as a path: if something lies there, or if it can only be meant as one."""
    if "\n" in given or len(given) > 1000 or "\0" in given:
        return None
    path = Path(given).expanduser()
    try:
        if path.exists():
            return path
    except OSError:
        return None
    if " " not in given and path.suffix.lower() in (".txt", ".md", ".text", ".note", ".json", ".csv", ".pdf", ".docx"):
        raise UsageError(f"{given}: no such file.")
    return None


def _decoded(raw: bytes, name: str) -> str:
    if len(raw) > LARGEST_FILE:
        raise DataError(f"{name} has more than {LARGEST_FILE >> 20} MB: a note is one text, split the file.")
    if b"\0" in raw[:65536] or raw[:5] == b"%PDF-":
        raise DataError(f"{name} is a binary file, not a note: give text in UTF-8 (clarion corpus build reads PDFs).")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 (byte {error.start}): save it as UTF-8, for Korean for example with iconv -f cp949 "
            f"-t utf-8."
        ) from error


def rendered(result: dict[str, Any]) -> str:
    """The codes as text: one line each, its chain below; then what was dropped and why."""
    lines = []
    for c in result["codes"]:
        lines.append(f"{c['code']:<9} {c['title']}")
        lines.append(f"          {_place(c)}; {c['how']}, confidence {c['confidence']:.2f}{_eye(c)}")
        lines.append(f"          {' < '.join(c['chain'])}")
    if not lines:
        lines.append("no code")
    if result["dropped"]:
        lines.append("not coded:")
        for c in result["dropped"]:
            lines.append(f"  {c['code'] or c['text']:<9} {_place(c)}: {c['reason'].replace('_', ' ')} ({c['detail']})")
    lines += [f"note: {sentence}" for sentence in result["failures"]]
    return "\n".join(lines) + "\n"


def _place(c: dict[str, Any]) -> str:
    text = " ".join(c["text"].split())
    return f'{c["start"]}-{c["end"]} "{text if len(text) <= 60 else text[:57] + "..."}"'


def _eye(c: dict[str, Any]) -> str:
    return f", {c['laterality']}" if c["laterality"] else ""
