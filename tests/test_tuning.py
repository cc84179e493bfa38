"""Tuning: the search space, the objective on val, a study that is killed and goes on, and what it writes."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clarion import config
from clarion.config import compose_config
from clarion.errors import UsageError
from clarion.preflight import parse, preflight
from clarion.record import read_json
from clarion.tuning.objective import Objective, choose
from clarion.tuning.space import axis, corners, divide

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["model=swin_nano", "model.image_size=32", "data.eyes={train: 24, val: 8, test: 12}", "data.bscans_per_eye=1",
         "evaluators.classification.n_resamples=20", "trainer.device=cpu", "trainer.epochs=2"]  # fmt: skip


def axes(*texts):
    parsed, problems = parse(list(texts))
    assert not problems
    return [axis(o) for o in parsed]


def test_the_space_is_hydras_own_grammar():
    lr, batch, step, name = axes("model.lr=tag(log,interval(1e-4,1e-2))", "trainer.batch_size=int(interval(4,32))",
                                 "trainer.epochs=range(2,9,2)", "trainer.args.optimizer=choice(SGD,AdamW)")  # fmt: skip
    assert (lr.low, lr.high, lr.log, lr.whole) == (1e-4, 1e-2, True, False)
    assert batch.whole and (batch.low, batch.high) == (4, 32)
    assert (step.low, step.high, step.step) == (2, 8, 2)
    assert name.choices == ("SGD", "AdamW") and name.override("SGD") == "++trainer.args.optimizer=SGD"


@pytest.mark.parametrize("text", ["model.lr=interval(2,1)", "model.lr=tag(log,interval(0,1))"])
def test_an_empty_or_impossible_interval_is_refused(text):
    with pytest.raises(UsageError, match="model.lr"):
        axes(text)


def test_the_check_composes_every_value_once_and_not_their_product():
    parsed, _ = parse(["seed=1,2,3", "model.lr=interval(0.1,0.2)", "model=swin_nano"])
    jobs = corners(parsed)
    assert len(jobs) == 1 + 2 + 1 and all("model=swin_nano" in job for job in jobs)
    assert {j for job in jobs for j in job if j.startswith("seed")} == {"seed=1", "seed=2", "seed=3"}
    assert [a.key for a in divide(parsed)[1]] == ["seed", "model.lr"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["-m", "model=swin_nano", "model.lr=interval(0,1)"], "add hydra/sweeper=optuna"),
     (["model=swin_nano", "hydra/sweeper=optuna", "seed=1,2"], "add -m"),
     (["-m", "hydra/sweeper=optuna", "model=swin_nano", "trainer.epochs=int(interval(0,3))"], "trainer.epochs=0"),
     (["-m", "hydra/sweeper=optuna", "model=swin_nano", "model.lrr=interval(0,1)"], "model.lr")],
)  # fmt: skip
def test_a_wrong_search_is_refused_before_torch(argv, said):
    with pytest.raises(UsageError, match=said):
        preflight(argv)


def objective(settings, evaluator="classification", trainer="lightning", model=None):
    model = {"monitor": "val/loss", "monitor_mode": "min"} if model is None else model
    return choose({"pruner": "median"} | settings, {evaluator: {}}, trainer, model)


def test_metric_and_direction_are_the_headline_of_the_evaluator():
    assert objective({}) == Objective("classification.auroc", "maximize", ("val/loss", "min"))
    assert objective({"metric": "brier"}).direction == "minimize"
    assert objective({}, "perplexity", "sft", {}) == Objective("perplexity.perplexity", "minimize", ("val/loss", "min"))
    assert objective({}, "detection", "ultralytics", {}).monitor == ("val/map50", "max")
    assert objective({}, "survival", "estimator", {}).monitor is None  # fitted in one pass
    with pytest.raises(UsageError, match="hydra.sweeper.metric=NAME"):
        objective({}, "agreement")


def test_a_score_of_the_test_split_is_no_objective():
    metrics = {"run": "r", "split": "test", "evaluators": {"classification": {"metrics": {"auroc": {"value": 0.9}}}}}
    with pytest.raises(UsageError, match="not scored on the validation split"):
        objective({}).value(metrics)
    assert objective({}).value(metrics | {"split": "val"}) == 0.9
    with pytest.raises(UsageError, match="Did you mean `auroc`"):
        objective({"metric": "auroco"}).value(metrics | {"split": "val"})


def test_what_the_pruner_compares_points_in_the_studys_direction():
    assert objective({}).reported(0.25) == -0.25  # a loss, in a study that maximizes
    assert Objective("surfaces.mae_um", "minimize", ("val/loss", "min")).reported(0.25) == 0.25


# ------------------------------------------------------------------------------------------------- a real study


def study_command(runs: Path, *more: str) -> list[str]:
    # Rates up to 10: the high ones are far worse than the others after one epoch, and are pruned.
    return [sys.executable, str(ROOT / "train.py"), "-m", "hydra/sweeper=optuna", *SMALL,
            "model.lr=tag(log,interval(1e-4,10))", "hydra.sweeper.n_trials=4", "hydra.sweeper.startup_trials=1",
            "hydra.sweeper.warmup_epochs=0", "hydra.sweeper.study=small", f"runs_dir={runs}", *more]  # fmt: skip


def trials(runs: Path) -> list[dict]:
    with open(runs / "tuning" / "small" / "trials.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_killed_study_keeps_its_finished_trials_prunes_and_writes_the_best(tmp_path, monkeypatch):
    runs, folder = tmp_path / "runs", tmp_path / "runs" / "tuning" / "small"
    typed = study_command(runs)
    first = subprocess.Popen(typed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.time() + 240
        while not (folder / "trial-0002" / "manifest.json").is_file() and time.time() < deadline:
            assert first.poll() is None, "the study ended before it could be killed"
            time.sleep(0.02)
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    kept = (folder / "trial-0000" / "metrics.json").stat().st_mtime_ns
    assert not (folder / "trial-0002" / "metrics.json").exists()

    done = subprocess.run(typed, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "trial-0000" / "metrics.json").stat().st_mtime_ns == kept
    rows = trials(runs)
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    states = {row["state"] for row in rows}
    assert "skipped" in done.stdout  # trials 0 and 1 were finished
    assert "complete" in states and "pruned" in states and "running" not in states
    assert "pruned" in done.stdout
    pruned = next(row for row in rows if row["state"] == "pruned")
    manifest = read_json(folder / f"trial-{int(pruned['trial']):04d}" / "manifest.json")
    assert manifest["status"] == "pruned" and pruned["epochs_reported"] == "1"

    metrics = read_json(folder / "trial-0000" / "metrics.json")
    assert metrics["split"] == "val"  # test is neither scored nor predicted
    assert sorted(p.name for p in (folder / "trial-0000" / "predictions").iterdir()) == ["val.parquet"]
    assert read_json(folder / "trial-0000" / "manifest.json")["kind"] == "trial"

    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: float(row["classification.auroc"]))
    written = (folder / "best.yaml").read_text(encoding="utf-8")
    assert "VALIDATION split" in written and "model.lr" in written
    again = compose_with_experiment(tmp_path, written, monkeypatch)
    assert str(again.model.lr) == str(float(best["model.lr"]))
    assert again.model.image_size == 32 and again.data.eyes.train == 24 and again.trainer.epochs == 2
    wanted = [*SMALL, f"model.lr={best['model.lr']}"]
    monkeypatch.undo()
    assert config.run_id(_root_=again) == config.run_id(_root_=compose_config(wanted))  # the very same run, on test


def compose_with_experiment(tmp_path, text, monkeypatch):
    """The written yaml composed as conf/experiment/tuned.yaml would be, in a copy of the config tree."""
    copy = tmp_path / "tree"
    shutil.copytree(ROOT / "conf", copy)
    (copy / "experiment" / "tuned.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(config, "conf_dir", lambda: copy)
    return compose_config(["experiment=tuned"])


def test_an_experiment_is_not_overwritten_without_force(tmp_path, monkeypatch):
    from clarion.tuning import written

    (tmp_path / "experiment").mkdir()
    monkeypatch.setattr(written, "conf_dir", lambda: tmp_path)
    assert written.keep("a: 1\n", "tuned", False).read_text() == "a: 1\n"
    with pytest.raises(UsageError, match="force=true"):
        written.keep("a: 2\n", "tuned", False)
    assert written.keep("a: 2\n", "tuned", True).read_text() == "a: 2\n"
    with pytest.raises(UsageError, match="letters, digits"):
        written.target("../evil", False)


def test_an_interrupted_sampler_draws_what_an_unbroken_one_draws():
    import optuna

    from clarion.tuning.study import make_sampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = {"seed": 3, "sampler": "tpe", "startup_trials": 3}

    def drawn(breaks):
        study = optuna.create_study(direction="maximize")
        for number in range(8):
            if number in breaks:  # a new process: a new study object over the same trials
                other = optuna.create_study(direction="maximize")
                other.add_trials(study.trials)
                study = other
            study.sampler = make_sampler(settings, number)
            trial = study.ask()
            x = trial.suggest_float("x", 0, 1)
            study.tell(trial, -((x - 0.3) ** 2))
        return [t.params["x"] for t in study.trials]

    whole = drawn(())
    assert drawn((2, 5)) == whole and len(set(whole)) == 8
