"""Fixtures of the corpus tests; the files themselves are written by corpus_files.py."""

from __future__ import annotations

import pytest

from clarion.llm.corpus import spec as specs


@pytest.fixture
def extract() -> dict:
    """The section `extract` of a conf, as its defaults are."""
    return {key: field.default for key, field in specs.SCHEMA["extract"].items()}
