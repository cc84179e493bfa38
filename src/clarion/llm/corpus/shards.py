"""The output: documents-00000.jsonl, ...; whole shards appear under their names, the open one grows in `work`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")')


class Appended:
    """A file that only grows; `start(size)` cuts off what was written after the last commit."""

    def __init__(self, path: Path):
        self.path, self.size = path, 0
        self.file: IO[bytes] | None = None

    def start(self, size: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        os.truncate(self.path, size)
        self.file, self.size = open(self.path, "ab"), size

    def write(self, row: dict[str, Any]) -> None:
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        self.file.write(line)
        self.size += len(line)

    def flush(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        if self.file:
            self.file.close()


class Shards:
    """Rows to documents-NNNNN.jsonl of about `most` bytes each below `out`."""

    def __init__(self, out: Path, work: Path, most: float):
        self.out, self.work, self.most = out, work, most
        self.number = 0
        self.current: Appended | None = None

    def start(self, number: int, size: int) -> None:
        """Go on in shard `number` at byte `size`; later shards, and a shard finished after the commit, are undone."""
        self.number = number
        for path in sorted(self.out.glob("documents-*.jsonl")):
            if int(path.stem.split("-")[1]) > number:
                path.unlink()
        finished = self.out / self._name(number)
        if finished.exists():
            os.replace(finished, self.work / self._name(number))
        self._open(size)

    def _name(self, number: int) -> str:
        return f"documents-{number:05d}.jsonl"

    def _open(self, size: int) -> None:
        self.current = Appended(self.work / self._name(self.number))
        self.current.start(size)

    def write(self, row: dict[str, Any]) -> None:
        if self.current.size and self.current.size >= self.most:
            self.finish()
            self.number += 1
            self._open(0)
        self.current.write(row)

    def finish(self) -> None:
        """The open shard is whole: on the disk, then under its name."""
        self.current.flush()
        self.current.close()
        os.replace(self.current.path, self.out / self._name(self.number))

    def ids(self) -> Iterator[str]:
        """Identifiers of all rows written so far."""
        for path in [*sorted(self.out.glob("documents-*.jsonl")), self.current.path]:
            with open(path, "rb") as file:
                for line in file:
                    yield json.loads(_ID.match(line)[1])
