"""Paths that come from files and configs: none may leave the folder the user named (DESIGN rule 8)."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clarion.errors import DataError, UsageError


def nfc(text: str) -> str:
    """The composed form of `text`: macOS writes Korean file names decomposed, tables usually hold them composed."""
    return unicodedata.normalize("NFC", text)


def is_name(text: str) -> bool:
    """Whether an id may be the name of one file or folder: no separator of any system, no null byte, not . or .."""
    return text not in ("", ".", "..") and not set(text) & {"/", "\\", "\0"}


def named_error(template: str, names: dict[str, str] | None = None, **values: Any) -> DataError:
    """DataError whose text shows `names` (the user's files or patients) on the screen, and whose attribute
    `recorded` leaves them out. template: str.format with the keys of `names` and `values`."""
    names = names or {}
    error = DataError(template.format(**names, **values))
    error.recorded = template.format(**dict.fromkeys(names, "(a name, withheld)"), **values)
    return error


def data_root(root: str | os.PathLike, expected: str = "") -> Path:
    """The user's `data.root`, absolute and with links resolved; UsageError when it is no folder.

    `expected` is a description of the layout, appended to the error."""
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise UsageError(f"data.root={root} {what}. {expected}".strip())
    return path.resolve()


def inside(root: Path, path: str | os.PathLike, source: str) -> Path:
    """`path` (absolute, or relative to `root`) when it lies below `root`, also after its symbolic links.

    root: a resolved folder. source: where the path was read, for the error. The file need not exist.
    Raises DataError for `..`, an absolute path elsewhere, or a link that points out of `root`."""
    text = os.fspath(path)
    if "\0" in text:
        raise DataError(f"{source} names a path with a null byte; correct that entry.")
    joined = Path(os.path.normpath(root / text))
    if not joined.is_relative_to(root):
        raise named_error(
            "{source} names {name!r}, which lies outside data.root; "
            "write paths relative to data.root and keep the files below it.",
            names={"name": text},
            source=source,
        )
    try:
        resolved = joined.resolve()
    except (RuntimeError, OSError):  # before Python 3.13 a loop of links is a RuntimeError
        raise named_error(
            "{source}: {name} is a link that leads to itself; remove it.",
            names={"name": joined.relative_to(root).as_posix()},
            source=source,
        ) from None
    if not resolved.is_relative_to(root):
        raise named_error(
            "{source}: {name} is a link out of data.root; "
            "put the file itself there, or set data.root to the folder that holds both.",
            names={"name": joined.relative_to(root).as_posix()},
            source=source,
        )
    return joined


def walk(root: Path, folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Files below `folder` with one of `suffixes` (lower case, with dot), sorted; hidden files are skipped.

    Links that stay below `root` are followed, each folder once; a link out of `root` raises DataError."""
    seen: set[Path] = set()
    pending = [folder]
    found: list[Path] = []
    while pending:
        current = pending.pop()
        real = current.resolve()
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    inside(root, entry.path, "the data folder")
                if entry.is_dir():
                    pending.append(Path(entry.path))
                elif os.path.splitext(entry.name)[1].lower() in suffixes:
                    if not entry.is_file() and os.path.exists(entry.path):  # reading a pipe would wait for ever
                        raise named_error(
                            "the data folder: {name} is no regular file but a pipe, socket or device; remove it.",
                            names={"name": Path(entry.path).relative_to(root).as_posix()},
                        )
                    found.append(Path(entry.path))
    yield from sorted(found)
