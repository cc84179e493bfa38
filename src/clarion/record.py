"""The run directory: what is kept of a run, written so that a kill never leaves a lie.

config.yaml overrides.yaml manifest.json   what the run is
metrics.jsonl run.log error.txt            how it went
predictions/ truth/ checkpoints/           what came out
metrics.json                               written last and atomically: its presence means complete
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clarion.errors import ClarionError, UsageError
from clarion.troubles import worded

log = logging.getLogger("clarion")

PACKAGES = (
    "clarion",
    "torch",
    "torchvision",
    "lightning",
    "ultralytics",
    "timm",
    "transformers",
    "peft",
    "trl",
    "scikit-learn",
    "numpy",
    "pandas",
    "hydra-core",
    "omegaconf",
)


_TEMPORARY = re.compile(r"\.[a-z_]+\.(json|yaml|txt|html)\.[a-z0-9_]{8}")  # as tempfile.mkstemp names them below


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that readers see the old or the new content, never a part (also after a power cut)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def to_json(value: Any) -> str:
    """Indented UTF-8 JSON; numpy scalars become numbers, NaN and infinities null (JSON has neither)."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


class RunRecord:
    """One run directory. `open` decides between new, resumed, skipped (`.complete`) and refused (UsageError)."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._lock = None
        self._started = time.time()

    # -- opening

    @classmethod
    def open(cls, directory: Path, resume: bool) -> RunRecord:
        record = cls(Path(directory).resolve())
        if record.complete:
            return record
        record.directory.mkdir(parents=True, exist_ok=True)
        record._acquire()
        record._sweep()
        before = record.manifest()
        if before and not resume:
            why = record._last_error()
            record.close()
            raise UsageError(
                f"{record.directory} holds an incomplete run ({before.get('status', 'unknown')}, started "
                f"{before.get('started', '?')}{'; ' + why if why else ''}). Add resume=true to continue it, "
                f"runs_dir=OTHER for another copy, or delete the folder."
            )
        return record

    def _acquire(self) -> None:
        """One process a directory: a second one is refused, and a killed one leaves no stale lock (flock)."""
        self._lock = open(self.directory / ".lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            self._lock = None
            raise UsageError(
                f"{self.directory} is being written by another process: wait for it, or use "
                f"runs_dir=OTHER for another copy."
            ) from error

    def _sweep(self) -> None:
        """Remove what write_atomic left half-written when a process was killed. The lock is held: nobody writes."""
        for path in self.directory.glob(".*.*"):
            if path.is_file() and _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None
            (self.directory / ".lock").unlink(missing_ok=True)

    def _last_error(self) -> str:
        path = self.directory / "error.txt"
        if not path.is_file():
            return ""
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[0][:200] if lines else ""

    # -- reading

    @property
    def complete(self) -> bool:
        return (self.directory / "metrics.json").is_file()

    @property
    def resumable(self) -> bool:
        return bool(self.manifest())

    def manifest(self) -> dict:
        return read_json(self.directory / "manifest.json")

    def metrics(self) -> dict:
        return read_json(self.directory / "metrics.json")

    def config(self) -> DictConfig:
        path = self.directory / "config.yaml"
        if not path.is_file():
            raise UsageError(f"{self.directory} is not a run directory (no config.yaml).")
        return OmegaConf.load(path)

    # -- writing

    def start(self, cfg: DictConfig, overrides: list[str], extra: dict) -> None:
        self._started = time.time()
        resolved = OmegaConf.to_container(cfg, resolve=True)
        resolved.pop("hydra", None)
        write_atomic(self.directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved)))
        write_atomic(self.directory / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(overrides))))
        before = self.manifest()
        attempts = before.get("attempts", []) + (
            [{k: before.get(k) for k in ("started", "status", "duration_s")}] if before else []
        )
        (self.directory / "error.txt").unlink(missing_ok=True)
        self.update(status="running", started=now(), attempts=attempts, seed=cfg.get("seed"), **environment(), **extra)

    def update(self, **fields: Any) -> None:
        """Merge fields into manifest.json."""
        write_atomic(self.directory / "manifest.json", to_json({**self.manifest(), **fields}))

    def fail(self, error: BaseException, trace: str) -> None:
        """error.txt: the sentence, and for unforeseen errors the trace. Names of data files stay on the screen.

        Where even that cannot be written (the disk is full), the manifest keeps saying "running", and so does a
        killed run's: what it was stopped by is still raised by the caller."""
        error = worded(error)
        if isinstance(error, ClarionError):
            text = getattr(error, "recorded", None) or str(error)
        else:
            text = f"{type(error).__name__}: {error}\n\n{trace}"
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else getattr(error, "status", "failed")
        try:
            write_atomic(self.directory / "error.txt", text.rstrip() + "\n")
            self.update(status=status, finished=now(), duration_s=round(time.time() - self._started, 1))
        except OSError as unwritable:
            log.error("%s could not be marked as failed: %s", self.directory, unwritable)

    def finish(self, metrics: dict) -> None:
        """Mark complete: manifest first, then metrics.json, whose presence is the mark."""
        spent = sum((a.get("duration_s") or 0) for a in self.manifest().get("attempts", []))
        self.update(status="complete", finished=now(), duration_s=round(time.time() - self._started + spent, 1))
        shutil.rmtree(self.directory / "work", ignore_errors=True)
        write_atomic(self.directory / "metrics.json", to_json(metrics))


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ClarionError(f"{path} is damaged ({error}); delete it or restore it from a copy.") from error


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tree(path: Path) -> str:
    """One hash of a file, or of all files below a folder (names and contents)."""
    if path.is_file():
        return hash_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def environment() -> dict:
    """git revision and dirty flag of the code, versions, platform. No user or host name."""
    return {
        "git": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "versions": versions(),
        "cpu_count": os.cpu_count(),
        "argv0": Path(sys.argv[0]).name,
    }


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> dict:
    """{revision, dirty} of the source tree. Where the code is no checkout (a container, a cluster node that got a
    copy), $CLARION_REVISION may say it; else empty."""
    if given := os.environ.get("CLARION_REVISION"):
        return {"revision": given, "dirty": None}
    folder = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}
