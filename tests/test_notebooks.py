"""The notebooks run from the first cell to the last in a real kernel, and stay short and without outputs."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CPU_SECONDS = 180  # of all notebooks together


@pytest.fixture(scope="module")
def spent():
    return []


def test_there_are_three_and_they_hold_no_outputs():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03"]
    for path in NOTEBOOKS:
        book = nbformat.read(path, as_version=4)
        nbformat.validate(book)
        cells = [cell for cell in book.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in cells), path.name
        assert path.stat().st_size < 20_000
        text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (FOLDER / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch, spent):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # its runs
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    text = "\n".join(o.get("text", "") for c in book.cells if c.cell_type == "code" for o in c.outputs)
    assert "Traceback" not in text and len(text) > 200
    assert list(tmp_path.glob("clarion-runs-*/*/metrics.json")) and not (FOLDER / "runs").exists()


def test_they_take_less_than_three_minutes_together(spent):
    if len(spent) < len(NOTEBOOKS):
        pytest.skip("not all notebooks ran")
    assert sum(spent) < CPU_SECONDS, f"{sum(spent):.0f} s of CPU time with {os.cpu_count()} cores"
