"""Shared by all tests: a private cache and runs folder, and the commands as a user types them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_configure(config):
    """Generated data of the tests is shared among them (also among the processes of `pytest -n 2`, which inherit the
    variable), and kept apart from the user's unless CLARION_CACHE is set."""
    if "CLARION_CACHE" not in os.environ:
        config.clarion_cache = tempfile.mkdtemp(prefix="clarion-cache-")
        os.environ["CLARION_CACHE"] = config.clarion_cache


def pytest_unconfigure(config):
    if folder := getattr(config, "clarion_cache", None):
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ["CLARION_CACHE"]


@pytest.fixture(scope="session")
def command():
    """command("train.py", "model=yolo11n", cwd=...) -> CompletedProcess of a real child process, output captured."""

    def call(program: str, *args: str, cwd: Path | None = None, timeout: float = 600, env: dict | None = None):
        head = (
            [sys.executable, str(ROOT / program)] if program.endswith(".py") else [sys.executable, "-m", "clarion.cli"]
        )
        return subprocess.run(
            [*head, *args],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            cwd=cwd or ROOT,
            env={**os.environ, **(env or {})},
        )

    return call


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data, or a skip that says so."""
    folder = os.environ.get("CLARION_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CLARION_REAL_DATA is not set: no public data to check on")
    return Path(folder)
