"""What the guides claim to be tested is: every mark names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
TEXT, _, BEHIND = GUIDE.partition("## The tests behind the marks")
ROWS = dict(re.findall(r"^\| (\w+) \| (.*`.*) \|$", BEHIND, re.MULTILINE))
MARKS = set(re.findall(r"\btested (\w+)(?:: [^\]]*)?\]", TEXT)) - {"NAME"}


def test_every_mark_has_its_line_and_every_line_its_mark():
    assert set(ROWS) == MARKS and len(MARKS) > 15
    assert "[tested]" not in TEXT  # a mark that names nothing


@pytest.mark.parametrize("mark", sorted(ROWS))
def test_the_tests_that_a_mark_names_exist(mark):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", ROWS[mark])
    assert named
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"


def test_long_tests_are_marked_as_long():
    """A mark whose test the usual run leaves out says so."""
    for mark, named in ROWS.items():
        for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", named):
            source = (ROOT / file).read_text(encoding="utf-8")
            decorated = source[: source.index(f"def {test}(")].rpartition("\n\n\n")[2]
            if "mark.long" in decorated:
                assert "*long*" in named, f"{mark}: {test}"
