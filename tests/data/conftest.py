from __future__ import annotations

from pathlib import Path

import pytest
from detection_folders import write_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Each test has a cache of its own: what it finds there it put there."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLARION_CACHE", str(cache))
    return cache


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "scans")
