"""Where a killed training goes on: its last two states, each written whole or not at all.

A kill, a power cut or a full disk can only harm the newest state; then the one before it is taken.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)

KEPT = 2
_NAME = re.compile(r"epoch-(\d{6})\.\w+")
State = TypeVar("State")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to; what was written there appears as `path` when the block ends well, and only then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # else a power cut after the renaming could leave a file of zeros
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def state_path(folder: Path, epochs: int, suffix: str) -> Path:
    """The file of the state after this many finished epochs."""
    return folder / f"epoch-{epochs:06d}.{suffix}"


def forget_older(folder: Path) -> None:
    """Remove all states but the newest two, and what a kill left half-written."""
    for path in [*kept(folder)[KEPT:], *folder.glob(".*.partial")]:
        remove(path)


def kept(folder: Path) -> list[Path]:
    """The states of a folder, newest first."""
    return sorted((p for p in folder.glob("epoch-*") if _NAME.fullmatch(p.name)), reverse=True)


def newest(folder: Path, read: Callable[[Path], State]) -> State | None:
    """What `read` makes of the newest state that it can read; None where there is none.

    read(path) raises for a damaged state (any exception): it is removed, and the one before it is tried.
    """
    for path in kept(folder):
        try:
            return read(path)
        except Exception as error:  # noqa: BLE001  every format has its own errors for half a file
            log.warning("%s is damaged (%s): the training goes on from the state before it.", path.name, _line(error))
            remove(path)
    return None


def remove(path: Path) -> None:
    """A state, which may be a folder where a model is spread over processes."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def forget_all(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _line(error: Any) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
