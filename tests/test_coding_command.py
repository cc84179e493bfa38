"""`clarion code`: what it prints, and one sentence for what is no note."""

from __future__ import annotations

import io
import json
import sys

import pytest

from clarion import cli


def run(capsys, *arguments):
    status = cli.main(["code", *arguments, "--no-embedding"])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_text_as_json(capsys):
    status, out, _ = run(capsys, "POAG OD, severe stage. No cataract.", "--format", "json")
    found = json.loads(out)
    assert status == 0 and found["source"] == "the text" and found["system"] == "ICD-10-CM"
    (code,) = found["codes"]
    assert code["code"] == "H40.1113" and code["text"].startswith("POAG") and code["chain"][-1] == "7"
    assert [d["reason"] for d in found["dropped"]] == ["negated"]


def test_a_file_and_standard_input_as_text(capsys, tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    path.write_text("우안 망막전막. 좌안 백내장.", encoding="utf-8")
    status, out, _ = run(capsys, str(path), "--eye", "OD")
    assert status == 0 and "H35.371" in out and "wrong eye" in out and "H35.371 < H35.37" in out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"I am an AI and cannot provide a diagnosis")))
    status, out, _ = run(capsys, "-")
    assert status == 0 and out == "no code\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty"), (b"\x89PNG\r\n\0\0\0", "binary"), ("녹내장".encode("cp949"), "not UTF-8")],
)
def test_files_that_are_no_notes(capsys, tmp_path, content, sentence):
    path = tmp_path / "note.txt"
    path.write_bytes(content)
    status, out, err = run(capsys, str(path))
    assert status == 1 and out == "" and sentence in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["nowhere.txt"], "no such file"), (["ERM", "--scope", "Q99999"], "no code, block or chapter"),
     (["ERM", "--eye", "third"], "OD, OS or OU"), ([" "], "is empty")],
)  # fmt: skip
def test_wrong_usage_is_one_sentence(capsys, arguments, sentence):
    status, out, err = run(capsys, *arguments)
    assert status in (1, 2) and out == "" and sentence in err and err.count("\n") == 1


def test_a_code_that_no_longer_exists_is_named_with_the_nearest(capsys):
    status, out, _ = run(capsys, "H40.11X1")
    assert status == 0 and "no code of ICD-10-CM" in out and "H40.111" in out
