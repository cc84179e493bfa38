"""Pseudonyms for patients and samples of a user's data (DESIGN rule 7).

A pseudonym is a keyed hash (HMAC-SHA256) of the identifier. The key is made at first use and lies in
the cache folder, readable by its owner only; without it nobody can test a guess ("is this patient 1234?").
The same key gives the same pseudonyms: to match runs of two machines, copy `pseudonym.key` between them.
The way back, a table pseudonym -> original, is written below the cache folder and never into a run directory.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from clarion.data.cache import cache_dir
from clarion.data.paths import nfc
from clarion.errors import DataError

KEY_FILE = "pseudonym.key"
_DIGITS = 12  # 48 bits: a collision among 100,000 names has probability 2e-5, and is refused


def _key() -> bytes:
    path = cache_dir() / KEY_FILE
    if not path.exists():
        # Written whole, then linked into place: of two first users one wins and both read the same key.
        handle, partial = tempfile.mkstemp(prefix=f".{KEY_FILE}.", dir=cache_dir())
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(partial, path)
        except FileExistsError:
            path.stat()  # the other process was first: its key counts
        finally:
            os.unlink(partial)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise DataError(f"the pseudonym key {path} is damaged; restore it, or delete it to start new pseudonyms.")
    return key


def pseudonyms(identifiers: Mapping[str, str] | set[str] | list[str], prefix: str) -> dict[str, str]:
    """Original identifier -> pseudonym such as "P-3f9a2c51b07d".

    prefix: "P" for patients, "S" for samples; it separates the two hash domains."""
    key = _key()
    result = {
        name: f"{prefix}-" + hmac.new(key, f"{prefix}\0{nfc(name)}".encode(), hashlib.sha256).hexdigest()[:_DIGITS]
        for name in identifiers
    }
    if len(set(result.values())) != len({nfc(name) for name in result}):
        raise DataError("two identifiers share a pseudonym; delete pseudonym.key in the cache to draw a new key.")
    return result


def write_mapping(scope: str, tables: Mapping[str, Mapping[str, str]]) -> Path:
    """Keep the way back in cache_dir()/pseudonyms/<scope>.csv (mode 0600): kind, pseudonym, original.

    scope: a plain name for the data set; tables: {"patient": {original: pseudonym}, ...}."""
    folder = cache_dir() / "pseudonyms"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{scope}.csv"
    handle, partial = tempfile.mkstemp(prefix=f".{scope}.", dir=folder)  # mkstemp makes it 0600
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "pseudonym", "original"])
        for kind, table in tables.items():
            writer.writerows([kind, pseudonym, original] for original, pseudonym in sorted(table.items()))
    os.replace(partial, target)
    return target
