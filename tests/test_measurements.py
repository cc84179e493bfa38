"""Tables of measurements: `clarion measure` fills parts, `clarion table` renders what was measured."""

from __future__ import annotations

import csv
import io
import json

import pytest
import yaml

from clarion import cli, measurements
from clarion.errors import UsageError

SPEC = {
    "title": "Coins & <dice>",
    "kind": "measured",
    "parts": {
        "coin": {"measure": "clarion.evaluators.bootstrap.wilson", "options": {"successes": 3, "n": 10}},
        "die": {"measure": "clarion.evaluators.bootstrap.wilson", "options": {"n": 6}},
    },
}
COIN = {
    "part": "coin", "title": "A coin", "columns": ["side", "share"], "rows": [["heads", 0.5], ["edge", None]],
    "notes": ["thrown | by hand"], "n": 10, "data": "phantom", "device": "a CPU, 2 threads", "seconds": 1.5,
    "measured": "2026-01-01T00:00:00", "models": {},
    "figures": {"heads": {"value": 0.5, "low": 0.2, "high": 0.8, "n": 10, "target": "about 0.5"}},
}  # fmt: skip


@pytest.fixture
def table(tmp_path, monkeypatch):
    folder = tmp_path / "experiments" / "luck"
    (folder / "results").mkdir(parents=True)
    (folder / "table.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False), encoding="utf-8")
    (folder / "results" / "coin.json").write_text(json.dumps(COIN), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("form", ["md", "csv", "tex", "html", "json"])
def test_every_form_shows_what_was_measured_and_what_was_not(table, capsys, form):
    assert cli.main(["table", "luck", "--format", form]) == 0
    text = capsys.readouterr().out
    assert "heads" in text
    if form == "json":
        found = json.loads(text)
        assert found["parts"]["coin"]["figures"]["heads"]["low"] == 0.2 and "die" in found["missing"][0]
    elif form == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert {"part": "coin", "kind": "figure", "row": "heads", "column": "low", "value": "0.2", "data": "phantom",
                "n": "10"} in rows  # fmt: skip
        assert [r["value"] for r in rows if r["row"] == "1"] == ["edge", ""]
    elif form == "tex":
        assert r"\begin{tabular}{ll}" in text and "---" in text
    else:
        assert "0.5 [0.2, 0.8]" in text and "clarion measure luck die" in text and "—" in text
    assert (table / "results" / "table.md").is_file()
    if form == "html":
        assert "Coins &amp; &lt;dice&gt;" in text
    if form == "md":
        assert "thrown | by hand" in text  # a note is no table cell


def test_unknown_parts_and_foreign_targets_are_refused(table, capsys):
    assert cli.main(["measure", "luck", "dye"]) == 2
    assert "Did you mean `die`?" in capsys.readouterr().err
    spec = {**SPEC, "parts": {"x": {"measure": "os.system"}}}
    (table / "table.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    with pytest.raises(UsageError, match="os.system"):
        measurements.measure(table, ["x"], table / "results")


def test_a_table_of_runs_is_not_measured(tmp_path, capsys):
    assert cli.main(["measure", "erm_detection", "--out", str(tmp_path)]) == 2
    assert "table of runs" in capsys.readouterr().err


def test_a_part_is_measured_and_kept_with_its_making(table):
    """A real part, small: the association's maps need no network."""
    spec = {"title": "t", "kind": "measured", "parts": {"association": {
        "measure": "clarion.oct.validation.association.measure",
        "options": {"eyes": 500, "permutations": 19, "workers": 1}}}}  # fmt: skip
    (table / "table.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    paths = measurements.measure(table, [], table / "results", eyes=2, seed=None)
    result = json.loads(paths[0].read_text(encoding="utf-8"))
    assert result["options"]["eyes"] == 2 and result["n"] == 2 and result["device"] and result["measured"]
    assert measurements.build(table).parts["association"]["rows"]
