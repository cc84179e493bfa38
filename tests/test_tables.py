"""Tables: published figures beside measured ones, missing cells with the command that fills them."""

from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from sksurv.metrics import concordance_index_censored

from clarion import cli, tables
from clarion.errors import UsageError
from clarion.evaluators.survival import SurvivalEvaluator
from clarion.record import to_json
from clarion.table_records import same


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
    return without_results("erm_detection", tmp_path, monkeypatch)


def without_results(experiment, tmp_path, monkeypatch):
    """A copy of experiments/NAME without measured results, as the working directory's own."""
    source = tables.experiments_dir() / experiment
    target = tmp_path / "experiments" / experiment
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


# ------------------------------------------------------------- folds as means, columns with their own runs, summaries


SPEC = {
    "title": "T", "published": "published.csv", "source": "S", "evaluator": "survival",
    "rows": {"Cohort": "cohort", "Model": "model"},
    "run": {"model": "{model}", "data": "cancer_omics", "data.cohort": "{cohort}"},
    "folds": "mean", "columns": [{"title": "c", "metric": "c_index"}, {"title": "Peer", "published": "peer"}],
    "summary": {"over": "Cohort", "label": "mean of {n} cohorts", "things": "cohorts"},
    "compare": {"metric": "c_index", "of": {"Model": "net"}, "with": [{"Model": "ridge"}]},
    "command": "python train.py -m model={model} data.cohort={cohort}",
}  # fmt: skip
COHORTS, MODELS = ("a", "b"), ("net", "ridge")


def survivors(cohort, fold, n=40):
    """The test patients of one fold, the same for every model."""
    rng = np.random.default_rng(sum(map(ord, cohort)) * 10 + fold)
    names = [f"{cohort}{fold}-{k}" for k in range(n)]
    truth = {
        "sample_id": names,
        "patient_id": names,
        "time": rng.exponential(30, n) + 0.1,
        "event": rng.random(n) < 0.6,
    }
    return pd.DataFrame(truth)


def fold_run(runs, cohort, model, fold, noise, folds=2):
    """A fold's run: its risk follows the survival time, on a scale of its own, with noise."""
    run = runs / f"{model}-{cohort}-f{fold}"
    truth = survivors(cohort, fold)
    rng = np.random.default_rng(fold)
    risk = (-truth["time"] + noise * rng.normal(size=len(truth))) * 10.0**fold + 1000 * fold
    judge = SurvivalEvaluator(n_resamples=20)
    predictions = truth[["sample_id", "patient_id"]].assign(risk=risk)
    result = judge.evaluate(predictions, truth, {"seed": 0})
    for part, table in (("predictions", predictions), ("truth", truth)):
        (run / part).mkdir(parents=True)
        table.to_parquet(run / part / "test.parquet")
    head = {"run": run.name, "model": model, "data": "cancer_omics", "data_kind": "public", "seed": 0}
    metrics = head | {"finished": f"2026-01-0{fold + 1}", "evaluators": {"survival": result}}
    (run / "metrics.json").write_text(to_json(metrics))
    (run / "manifest.json").write_text(to_json({"device": "cpu", "data": {"counts": {"train": 100 + fold}}}))
    data = {"cohort": cohort, "fold": fold, "folds": folds}
    evaluators = {"survival": {"_target_": "clarion.evaluators.survival.SurvivalEvaluator", "task": "survival"}}
    (run / "config.yaml").write_text(yaml.safe_dump({"seed": 0, "data": data, "trainer": {}, "evaluators": evaluators}))
    return result["metrics"]["c_index"]["value"]


@pytest.fixture()
def cohorts(tmp_path, monkeypatch):
    """A table of 2 cohorts x 2 models with 2 folds each, recorded; (its folder, c-index of each run)."""
    folder = tmp_path / "experiments" / "omics"
    folder.mkdir(parents=True)
    (folder / "table.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    rows = [{"cohort": c, "model": m, "peer": "0.6" if c == "a" else ""} for c in COHORTS for m in MODELS]
    pd.DataFrame(rows).to_csv(folder / "published.csv", index=False)
    noises = {"net": 10.0, "ridge": 60.0}
    values = {
        (c, m, f): fold_run(tmp_path / "runs", c, m, f, noises[m]) for c in COHORTS for m in MODELS for f in (0, 1)
    }
    monkeypatch.chdir(tmp_path)
    return folder, values


def test_folds_are_averaged_not_pooled(cohorts, tmp_path):
    _, values = cohorts
    table = tables.build("omics", [tmp_path / "runs"])
    got = next(c for c in table.cells if c.keys == {"Cohort": "a", "Model": "net"}).measured["metrics"]["c_index"]
    assert got["value"] == pytest.approx((values["a", "net", 0] + values["a", "net", 1]) / 2, abs=1e-12)
    assert (got["n"], got["n_patients"]) == (80, 80) and got["low"] < got["value"] < got["high"]
    assert "mean of 2 folds" in got["method"] and "within folds" in got["method"]
    # the interval by hand: each fold's patients are drawn again, a fold knows nothing of the other
    rng, draws = np.random.default_rng(5), []
    folder = tmp_path / "runs"
    folds = []
    for fold in (0, 1):
        truth, risk = survivors("a", fold), pd.read_parquet(folder / f"net-a-f{fold}" / "predictions" / "test.parquet")
        folds.append((truth["time"].to_numpy(), truth["event"].to_numpy(), risk["risk"].to_numpy()))
    for _ in range(300):
        parts = []
        for time, event, risk in folds:
            some = rng.integers(0, len(time), len(time))
            parts.append(concordance_index_censored(event[some], time[some], risk[some])[0])
        draws.append(np.mean(parts))
    assert [got["low"], got["high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)


def test_a_missing_fold_is_named(cohorts, tmp_path):
    _, values = cohorts
    shutil.rmtree(tmp_path / "runs" / "net-b-f1")
    table = tables.build("omics", [tmp_path / "runs"])
    cell = next(c for c in table.cells if c.keys == {"Cohort": "b", "Model": "net"})
    assert cell.measured["metrics"]["c_index"]["value"] == pytest.approx(values["b", "net", 0])
    assert cell.notes == ["1 of 2 folds (missing: 1)"]
    assert "b net: 1 of 2 folds (missing: 1)." in tables.render(table, "md")


def test_summary_rows_and_a_paired_verdict(cohorts, tmp_path):
    _, values = cohorts
    table = tables.build("omics", [tmp_path / "runs"])
    means = {c.keys["Model"]: c for c in table.summaries}
    assert means["net"].keys["Cohort"] == "mean of 2 cohorts"
    for model in MODELS:
        whole = means[model].measured["metrics"]["c_index"]
        assert whole["value"] == pytest.approx(np.mean([values[c, model, f] for c in COHORTS for f in (0, 1)]))
        assert whole["n_patients"] == 160
    [said] = table.remarks
    assert said.startswith("net beats ridge.") and "higher in 2 of 2" in said and "paired bootstrap" in said
    turned = {**SPEC, "compare": {**SPEC["compare"], "of": {"Model": "ridge"}, "with": [{"Model": "net"}]}}
    (cohorts[0] / "table.yaml").write_text(yaml.safe_dump(turned))
    assert tables.build("omics", [tmp_path / "runs"]).remarks[0].startswith("ridge does not beat net: it is worse.")
    text = tables.render(table, "md")
    assert said in text and "| mean of 2 cohorts | net |" in text and "| c | Peer | n |" in text


def test_means_outlive_their_runs(cohorts, tmp_path, capsys):
    assert cli.main(["table", "omics"]) == 0
    before = capsys.readouterr().out
    shutil.rmtree(tmp_path / "runs")
    assert cli.main(["table", "omics"]) == 0
    assert capsys.readouterr().out == before
    for form in ("csv", "json", "tex", "html"):
        assert cli.main(["table", "omics", "--format", form]) == 0
    kept = json.loads((cohorts[0] / "results" / "measured.json").read_text())
    assert not any("directory" in r or "parts" in r for r in kept["runs"]) and len(kept["runs"]) == 8


def test_a_large_table_keeps_the_shown_figures_alone(cohorts, tmp_path):
    for keep, held in (("all", {"c_index", "c_index_uno"}), ("shown", {"c_index"})):
        (cohorts[0] / "table.yaml").write_text(yaml.safe_dump({**SPEC, "keep": keep}))
        tables.write(tables.build("omics", [tmp_path / "runs"]), tmp_path / keep)
        kept = json.loads((tmp_path / keep / "measured.json").read_text())["runs"]
        assert all(held <= set(r["metrics"]) and ("events" in r["metrics"]) == (keep == "all") for r in kept)


def test_a_column_may_name_its_own_run_and_evaluator(tmp_path, monkeypatch):
    """One row a model, one column a data set."""
    spec = {"title": "T", "published": "published.csv", "source": "S", "evaluator": "mcqa", "rows": {"Model": "model"},
            "run": {"model": "{model}"}, "command": "python train.py model={model}",
            "columns": [{"title": "PubMedQA", "metric": "accuracy", "published": "pubmedqa",
                         "run": {"data": "pubmedqa"}, "command": "python train.py model={model} data=pubmedqa"},
                        {"title": "Essay", "metric": "rouge_l", "evaluator": "essay", "run": {"data": "eyes"},
                         "command": "python train.py model={model} data=eyes"}]}  # fmt: skip
    folder = tmp_path / "experiments" / "language"
    folder.mkdir(parents=True)
    (folder / "table.yaml").write_text(yaml.safe_dump(spec))
    (folder / "published.csv").write_text("model,pubmedqa\nalpha,0.71\nbeta,\n")
    for model, data, evaluator, metric, value in (
        ("alpha", "pubmedqa", "mcqa", "accuracy", 0.8), ("alpha", "eyes", "essay", "rouge_l", 0.3),
        ("beta", "eyes", "essay", "rouge_l", 0.2), ("beta", "other", "mcqa", "accuracy", 0.9),
    ):  # fmt: skip
        run = recorded(tmp_path / "runs", model, data)
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["evaluators"] = {evaluator: {"metrics": {metric: entry(value, n=10, patients=10)}}}
        (run / "metrics.json").write_text(to_json(metrics))
    monkeypatch.chdir(tmp_path)
    table = tables.build("language", [tmp_path / "runs"])
    assert tables.header(spec)[:4] == ["Model", "PubMedQA", "PubMedQA published", "Essay"]
    alpha, beta = tables.rendered_rows(table)
    assert alpha[1:4] == ["0.800 [0.780, 0.820] (n 10)", "0.71", "0.300 [0.280, 0.320] (n 10)"]
    assert beta[1:4] == ["—", "—", "0.200 [0.180, 0.220] (n 10)"]
    assert alpha[-1] == "2 runs" and beta[-1].endswith("python train.py model=beta data=pubmedqa")
    first = next(csv.DictReader(io.StringIO(tables.render(table, "csv"))))
    assert (first["pubmedqa"], first["essay"], first["essay_n"]) == ("0.8", "0.3", "10")


def test_what_a_checkpoint_says_of_its_adapter_is_a_column(tmp_path, monkeypatch):
    """experiments/structured_lora: both books apart, the share inside and the effective rank, the mean of its seeds."""
    without_results("structured_lora", tmp_path, monkeypatch)
    rates = {"hallucination_rate": 0.4, "hallucination_rate_open_book": 0.3, "hallucination_rate_closed_book": 0.7}
    for seed, share in ((0, 0.2), (1, 0.4)):
        run = recorded(tmp_path, "smollm2_135m_plain_matched", "erm_grounding", seed)
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["evaluators"] = {"grounding": {"metrics": {k: entry(v) for k, v in rates.items()}}}
        (run / "metrics.json").write_text(to_json(metrics))
        (run / "checkpoints" / "best").mkdir(parents=True)
        structure = {"variant": "plain_matched", "share_inside": share, "effective_rank": 7.5, "parameters": 1000,
                     "by_layer": [{"name": "a"}]}  # fmt: skip
        (run / "checkpoints" / "best" / "clarion.json").write_text(to_json({"structure": structure}))
    table = tables.build("structured_lora", [tmp_path])
    plain = next(dict(zip(tables.header(table.spec), row, strict=True)) for row in tables.rendered_rows(table)
                 if "Plain" in row[0])  # fmt: skip
    assert plain["Hallucination rate open-book"].startswith("0.300 [")
    assert plain["Hallucination rate closed-book"].startswith("0.700 [")
    assert plain["Share of squared norm of dW inside the structure"] == "0.3000"
    assert plain["Effective rank of dW (mean over layers)"] == "7.50" and plain["Free parameters"] == "1000"
    written = list(csv.DictReader(io.StringIO(tables.render(table, "csv"))))
    assert float(written[1]["structure.share_inside"]) == pytest.approx(0.3)
    assert "by_layer" not in tables.render(table, "json")


def coded(folder, leaf: float, seed: int = 0):
    """A run of experiments/ophtimus_v2_tx whose evaluator also scored the cases with seen and unseen diagnoses."""
    run = recorded(folder, "rule_codes", "case_reports", seed)
    metrics = json.loads((run / "metrics.json").read_text())
    parts = {"seen": {"leaf_f1": entry(leaf + 0.1, 200, 190)}, "unseen": {"leaf_f1": entry(leaf - 0.1, 210, 180)}}
    scores = {"leaf_f1": entry(leaf, 410, 370), "case_leaf_f1": entry(0.9)}
    metrics["evaluators"] = {"coding": {"metrics": scores, "subgroups": {"diagnoses": parts, "language": {}}}}
    (run / "metrics.json").write_text(to_json(metrics))
    return run


def test_columns_of_subgroups(tmp_path, monkeypatch):
    """Their figures, n and seeds are theirs; where a run has none, the cell stays empty; they outlive the run."""
    coded(tmp_path / "runs", 0.5)
    coded(tmp_path / "runs", 0.6, seed=1)
    source, target = tables.experiments_dir() / "ophtimus_v2_tx", tmp_path / "experiments" / "ophtimus_v2_tx"
    target.mkdir(parents=True)
    for name in ("table.yaml", "published.csv"):
        shutil.copy(source / name, target / name)
    monkeypatch.chdir(tmp_path)

    def row() -> dict:
        found = [dict(zip(tables.header(table.spec), r, strict=True)) for r in tables.rendered_rows(table)]
        return next(r for r in found if r["Model"].startswith("Rules"))

    table = tables.build("ophtimus_v2_tx", [tmp_path / "runs"])
    assert row()["Leaf F1, seen"] == "0.650 [0.580, 0.700] (n 200)"
    assert row()["Leaf F1, unseen"] == "0.450 [0.380, 0.500] (n 210)"
    assert row()["Leaf F1, all"].startswith("0.550 [") and row()["n"] == "410 (370 patients)"
    assert row()["Category F1, unseen"] == tables.MISSING
    tables.write(table, target / "results")
    shutil.rmtree(tmp_path / "runs")
    table = tables.build("ophtimus_v2_tx", [])
    assert row()["Leaf F1, unseen"].startswith("0.450 [")
    written = list(csv.DictReader(io.StringIO(tables.render(table, "csv"))))
    rule = next(r for r in written if r["label"].startswith("Rules"))
    assert (rule["leaf_f1_unseen_n"], rule["n"]) == ("210", "410")
    assert float(rule["leaf_f1_seen"]) == pytest.approx(0.65)


def test_values_of_a_configuration_are_compared_as_written():
    assert all(
        same(*pair) for pair in ((None, "null"), ([], "[]"), (True, "true"), ("BLCA", "blca"), (10, "10"), (0, "*"))
    )
    assert not any(same(*pair) for pair in ((None, "*"), (10, "25"), (None, "0"), ("blca", "brca")))


def test_a_wrong_table_is_refused_in_one_sentence(cohorts):
    folder = cohorts[0]
    (folder / "table.yaml").write_text(yaml.safe_dump({**SPEC, "folds": "median"}))
    with pytest.raises(UsageError, match="neither pool nor mean"):
        tables.build("omics", [])
    (folder / "table.yaml").write_text(yaml.safe_dump({**SPEC, "summary": {"over": "Cohorts", "label": "m"}}))
    with pytest.raises(UsageError, match="Did you mean `Cohort`"):
        tables.build("omics", [])
