"""`clarion`: JSON on stdout and nothing else there, clear refusals, exit codes."""

from __future__ import annotations

import json

import pytest

from clarion import cli


@pytest.mark.parametrize("kind", sorted(cli.KINDS))
def test_lists(kind, capsys):
    assert cli.main(["list", kind, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert (rows or kind == "runs") and all(r["name"] and not r["name"].startswith("_") for r in rows)
    assert cli.main(["list", kind]) == 0
    assert not rows or rows[0]["name"] in capsys.readouterr().out


def test_list_has_tasks(capsys):
    cli.main(["list", "models", "--format", "json"])
    tasks = {r["name"]: r["task"] for r in json.loads(capsys.readouterr().out)}
    assert (tasks["yolo11x"], tasks["swin_nano"], tasks["llama_tiny"], tasks["majority"]) == (
        "detection",
        "classification",
        "generation",
        "classification",
    )


def test_light_commands_import_nothing_heavy(command):
    """The real process: list answers without torch, and its JSON is all there is on stdout."""
    done = command("clarion", "list", "models", "--format", "json", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0 and json.loads(done.stdout)
    assert "| torch" not in done.stderr and "| pandas" not in done.stderr


@pytest.mark.parametrize("argv", [["tabel"], ["list", "modles"], ["table"], ["report"]])
def test_wrong_usage_is_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2


def test_report_of_no_run(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "not a run directory" in capsys.readouterr().err
