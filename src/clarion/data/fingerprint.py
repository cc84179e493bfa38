"""A content hash of a data set: same bytes under the same names give the same fingerprint, in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from clarion.data.filecache import digest_files
from clarion.data.paths import nfc


def fingerprint_items(items: Mapping[str, str]) -> str:
    """name -> content hash (or any text) to one hex digest of 128 bits, independent of order."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(items):
        for text in (name, items[name]):
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)  # lengths: "ab"+"c" is not "a"+"bc"
    return digest.hexdigest()


def fingerprint_files(root: Path, paths: Iterable[Path], extra: Mapping[str, str] | None = None) -> str:
    """Fingerprint of files below `root`, by relative name and content; `extra` adds named texts (a recipe).

    Hashes are cached by (path, size, mtime_ns). Raises OSError when a file cannot be read."""
    paths = list(dict.fromkeys(paths))
    digests = digest_files(paths)
    items = {nfc(path.relative_to(root).as_posix()): digests[path] for path in paths}
    return fingerprint_items(items | {f"\0{name}": text for name, text in (extra or {}).items()})
