"""What was learnt from a file's content, remembered by (path, size, mtime) and by content.

One SQLite file in the cache folder. It holds hashes of paths, not paths. A cache that cannot be opened or
written (a read-only home, a network disk without locks) costs time, never correctness.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from clarion.data.cache import cache_dir

log = logging.getLogger(__name__)
_RACY_NS = 2_000_000_000  # a file touched less than 2 s ago may change again within the clock's resolution


def _connect() -> sqlite3.Connection:
    connection = sqlite3.connect(cache_dir() / "files.sqlite", timeout=30)
    tables = (
        "files (path BLOB PRIMARY KEY, size INT, mtime_ns INT, digest TEXT)",
        "facts (digest TEXT, kind TEXT, value TEXT, PRIMARY KEY (digest, kind))",
    )
    for table in tables:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
    return connection


def _path_key(path: Path) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=16).digest()


def digest_bytes(content: bytes) -> str:
    """The content hash used everywhere here: blake2b, 128 bits, hex."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_file(path: Path) -> str:
    """Content hash of a file, read in pieces."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def known_digests(paths: Sequence[Path]) -> dict[Path, str]:
    """path -> content hash, for the files not changed since they were last hashed."""
    try:
        with closing(_connect()) as connection:
            known = {}
            for path in paths:
                row = connection.execute(
                    "SELECT size, mtime_ns, digest FROM files WHERE path = ?", (_path_key(path),)
                ).fetchone()
                if row:
                    try:
                        stat = os.stat(path)
                    except OSError:
                        continue
                    if (stat.st_size, stat.st_mtime_ns) == row[:2]:
                        known[path] = row[2]
            return known
    except (sqlite3.Error, OSError) as error:
        log.warning("the file cache cannot be read (%s); files are read again", error)
        return {}


def remember_digests(digests: Iterable[tuple[Path, os.stat_result, str]]) -> None:
    """Keep content hashes. The stat must have been taken before the file was read."""
    now = time.time_ns()
    rows = [
        (_path_key(path), stat.st_size, stat.st_mtime_ns, digest)
        for path, stat, digest in digests
        if now - stat.st_mtime_ns > _RACY_NS
    ]
    _write("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)


def known_facts(digests: Iterable[str], kind: str) -> dict[str, str]:
    """content hash -> what remember_facts stored for it."""
    try:
        with closing(_connect()) as connection:
            query = "SELECT value FROM facts WHERE digest = ? AND kind = ?"
            rows = ((d, connection.execute(query, (d, kind)).fetchone()) for d in digests)
            return {digest: row[0] for digest, row in rows if row}
    except (sqlite3.Error, OSError):
        return {}


def remember_facts(values: dict[str, str], kind: str) -> None:
    """Keep text that depends on content only. kind: what it is and its version, such as "image-1"."""
    _write("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", [(digest, kind, text) for digest, text in values.items()])


def _write(statement: str, rows: list[tuple]) -> None:
    if not rows:
        return
    try:
        with closing(_connect()) as connection, connection:
            connection.executemany(statement, rows)
    except (sqlite3.Error, OSError) as error:
        log.warning("the file cache cannot be written (%s); the next run reads the files again", error)


def digest_files(paths: Sequence[Path]) -> dict[Path, str]:
    """Content hash of every file; unchanged files come from the cache, the rest is read in parallel."""
    known = known_digests(paths)
    fresh = [path for path in paths if path not in known]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        made = list(pool.map(lambda path: (path, os.stat(path), digest_file(path)), fresh))
    remember_digests(made)
    return known | {path: digest for path, _, digest in made}
