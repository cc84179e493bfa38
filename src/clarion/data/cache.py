"""Generated data, kept by content: the same recipe is built once, also when two processes ask at once."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from clarion.errors import ClarionError


def cache_dir() -> Path:
    """Where generated data lies: $CLARION_CACHE, else ~/.cache/clarion (made if absent)."""
    root = Path(os.environ.get("CLARION_CACHE") or Path.home() / ".cache" / "clarion").expanduser().resolve()
    root.mkdir(parents=True, exist_ok=True)
    return root


def build_once(folder: str, build: Callable[[Path], None]) -> Path:
    """Return cache_dir()/folder, building it first if it is not there.

    `build` fills an empty temporary folder beside it; only a finished build is renamed into place, so a
    killed build leaves nothing that looks complete. A lock file makes a second process wait and reuse.
    `folder` must name its content (a hash of the recipe and of the code's version).
    """
    if Path(folder).name != folder:
        raise ValueError(f"cache folder {folder!r} must be a plain name")
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A spawned worker is re-running the user's script: it would wait for ever on the lock that its parent holds.
        raise ClarionError('Put the lines of your script that build data below `if __name__ == "__main__":` '
                           "(worker processes run the script again), or use one worker.")
    target = cache_dir() / folder
    if target.is_dir():
        return target
    with open(cache_dir() / f".{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        for stale in cache_dir().glob(f".{folder}.partial.*"):  # left by a killed build; nobody else holds the lock
            shutil.rmtree(stale, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder}.partial.", dir=cache_dir()))
        try:
            build(partial)
            partial.chmod(0o755)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return target
