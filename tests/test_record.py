"""A run directory never lies: new, refused, resumed, skipped; written atomically; one writer at a time."""

from __future__ import annotations

import json
import math
import multiprocessing

import numpy as np
import pytest
from omegaconf import OmegaConf

from clarion import record
from clarion.errors import ClarionError, UsageError
from clarion.record import RunRecord

CFG = OmegaConf.create({"seed": 0, "model": {"name": "m"}, "hydra": {"x": 1}})


def started(directory, resume=False):
    run = RunRecord.open(directory, resume=resume)
    run.start(CFG, ["model=m"], {"run": "r"})
    return run


def test_life(tmp_path):
    run = started(tmp_path / "r")
    assert run.manifest()["status"] == "running" and not run.complete
    assert "hydra" not in run.config()
    run.fail(ValueError("out of disk"), "trace")
    run.close()
    with pytest.raises(UsageError, match="incomplete run .failed.*out of disk.*resume=true"):
        RunRecord.open(tmp_path / "r", resume=False)
    again = started(tmp_path / "r", resume=True)
    assert not (tmp_path / "r" / "error.txt").exists()
    (again.directory / "work").mkdir()
    again.finish({"score": float("nan"), "array": np.arange(3)})
    again.close()
    done = RunRecord.open(tmp_path / "r", resume=False)
    assert done.complete and done.metrics() == {"score": None, "array": [0, 1, 2]}
    assert done.manifest()["status"] == "complete" and len(done.manifest()["attempts"]) == 1
    assert not (done.directory / "work").exists() and not (done.directory / ".lock").exists()


def _hold(directory, ready, release):
    run = RunRecord.open(directory, resume=False)
    ready.set()
    release.wait(30)
    run.close()


def test_a_second_process_is_refused_and_a_dead_one_leaves_no_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    child = context.Process(target=_hold, args=(tmp_path / "r", ready, release))
    child.start()
    assert ready.wait(60)
    with pytest.raises(UsageError, match="written by another process"):
        RunRecord.open(tmp_path / "r", resume=True)
    child.kill()
    child.join()
    RunRecord.open(tmp_path / "r", resume=True).close()


def test_manifest_has_what_a_reader_needs(tmp_path):
    run = started(tmp_path / "r")
    manifest = run.manifest()
    run.close()
    assert manifest["versions"]["torch"] and manifest["python"].startswith("3.")
    assert set(manifest["git"]) in ({"revision", "dirty"}, set())


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "f.json"
    record.write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        record.write_atomic(path, "\ud800")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{half")
    with pytest.raises(ClarionError, match="damaged"):
        RunRecord(tmp_path).manifest()
    assert record.read_json(tmp_path / "absent.json") == {}


def test_json_has_no_nan():
    assert json.loads(record.to_json({"a": math.inf, "b": [np.float32(1.5)], "ü": "막"})) == {
        "a": None,
        "b": [1.5],
        "ü": "막",
    }


def test_hash_tree_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = record.hash_tree(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = record.hash_tree(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, record.hash_tree(tmp_path)}) == 3
