"""Tables: published figures beside measured ones, missing cells with the command that fills them."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest
import yaml

from clarion import cli, tables
from clarion.errors import UsageError
from clarion.record import to_json


def entry(value, n=650, patients=65):
    return {
        "value": value,
        "low": value - 0.02,
        "high": value + 0.02,
        "n": n,
        "n_patients": patients,
        "unit": None,
        "method": "m",
    }


def recorded(
    folder, model="yolov8s", data="erm_full", seed=0, map50=0.5, fold=None, epochs=50, finished="2026-01-01", **trainer
):
    """A run directory as run.py leaves it, as far as tables read it."""
    run = folder / f"{model}-{data}-s{seed}-f{fold}-{epochs}"
    run.mkdir(parents=True)
    values = {"precision": entry(0.6), "recall": entry(0.7), "map50": entry(map50), "map50_95": entry(0.3)}
    metrics = {
        "run": run.name,
        "model": model,
        "data": data,
        "data_kind": "phantom",
        "seed": seed,
        "finished": finished,
        "evaluators": {"detection": {"metrics": values, "baseline": {"map50": {**entry(0.1), "name": "mean box"}}}},
    }
    (run / "metrics.json").write_text(to_json(metrics))
    (run / "manifest.json").write_text(to_json({"device": "NVIDIA X", "duration_s": 10.0, "parameters": 11_135_987}))
    config = {"seed": seed, "runs_dir": str(folder), "data": {"fold": fold}, "trainer": {"epochs": epochs, **trainer}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.fixture()
def experiments(tmp_path, monkeypatch):
    """A copy of experiments/erm_detection without measured results, as the working directory's own."""
    source = tables.experiments_dir() / "erm_detection"
    target = tmp_path / "experiments" / "erm_detection"
    target.mkdir(parents=True)
    for name in ("table.yaml", "published.csv"):
        shutil.copy(source / name, target / name)
    monkeypatch.chdir(tmp_path)
    return target


def test_rows_in_published_order_with_commands(experiments, tmp_path):
    table = tables.build("erm_detection", [tmp_path / "runs"])
    assert len(table.cells) == 24 and all(c.measured is None for c in table.cells)
    assert table.cells[0].command == "python train.py model=yolov5s data=erm_full"
    assert table.cells[-1].command == "python train.py model=yolo11x data=erm_half"
    text = tables.render(table, "md")
    assert text.count("| — |") >= 24 and "`python train.py model=yolo11m data=erm_full`" in text
    assert "0.556" in text, "published figures stand beside"


def test_every_command_of_the_table_is_accepted(experiments, tmp_path):
    from clarion.preflight import preflight

    for cell in tables.build("erm_detection", []).cells[::5]:
        preflight(cell.command.split()[2:])


def test_a_measured_row_has_interval_n_source_and_device(experiments, tmp_path):
    recorded(tmp_path / "runs", map50=0.612)
    table = tables.build("erm_detection", [tmp_path / "runs"])
    row = next(r for r in tables.rendered_rows(table) if r[0] == "YOLOv8" and r[1] == "S" and r[2] == "full")
    assert (
        "0.612 [0.592, 0.632]" in row
        and "11.14" in row
        and "650 (65 patients)" in row
        and "phantom" in row
        and "X" in row
    )
    assert "epochs=50" in row[-2] and row[-1].startswith("yolov8s-erm_full")
    text = tables.render(table, "md")
    assert (
        "1 of 24 rows measured" in text
        and "nothing about patients" in text
        and "Baseline mAP50: 0.100 (mean box)" in text
    )


def test_seeds_are_pooled_and_the_latest_setting_is_shown(experiments, tmp_path):
    runs = tmp_path / "runs"
    recorded(runs, seed=0, map50=0.4)
    recorded(runs, seed=1, map50=0.6)
    recorded(runs, seed=0, map50=0.9, epochs=3, finished="2025-01-01")
    cell = next(c for c in tables.build("erm_detection", [runs]).cells if c.measured)
    assert cell.measured["metrics"]["map50"]["value"] == pytest.approx(0.5) and cell.measured["run"] == "2 seeds"
    assert "other setting" in cell.notes[0]
    chosen = next(c for c in tables.build("erm_detection", [runs], {"epochs": "3"}).cells if c.measured)
    assert chosen.measured["metrics"]["map50"]["value"] == pytest.approx(0.9)


def test_figures_outlive_their_runs(experiments, tmp_path, capsys):
    run = recorded(tmp_path / "runs")
    assert cli.main(["table", "erm_detection"]) == 0
    shutil.rmtree(run)
    capsys.readouterr()
    assert cli.main(["table", "erm_detection", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert sum(r["measured"] is not None for r in rows) == 1
    assert {p.name for p in (experiments / "results").iterdir()} == {
        "table.md",
        "table.csv",
        "table.tex",
        "table.html",
        "measured.json",
    }


def test_csv_has_numbers_in_their_own_columns(experiments, tmp_path):
    recorded(tmp_path / "runs", map50=0.612)
    rows = list(csv.DictReader(io.StringIO(tables.render(tables.build("erm_detection", [tmp_path / "runs"]), "csv"))))
    row = next(r for r in rows if r["map50"])
    assert (float(row["map50"]), float(row["map50_published"]), row["n"]) == (0.612, 0.764, "650")


def test_evaluations_and_foreign_runs_stay_out(experiments, tmp_path):
    recorded(tmp_path / "runs", data="erm_demo")
    run = recorded(tmp_path / "runs")
    (run / "manifest.json").write_text(to_json({"kind": "evaluation"}))
    assert all(c.measured is None for c in tables.build("erm_detection", [tmp_path / "runs"]).cells)


def test_html_and_tex_escape(experiments, tmp_path):
    recorded(tmp_path / "runs")
    table = tables.build("erm_detection", [tmp_path / "runs"])
    next(c for c in table.cells if c.measured).measured["run"] = "<script>_&"
    assert "<script>" not in tables.render(table, "html") and "&lt;script&gt;" in tables.render(table, "html")
    assert r"\_\&" in tables.render(table, "tex")


def test_kind_errors(experiments):
    with pytest.raises(UsageError, match="erm_detection"):
        tables.build("erm_detektion", [])
    assert cli.main(["table", "erm_detection", "--runs", "nowhere"]) == 2
    assert cli.main(["table", "erm_detection", "--where", "epochs"]) == 2
