"""kill -9 at any moment, then the same command with resume=true: the run ends with the bits of an uninterrupted one."""

from __future__ import annotations

import json

import pytest
from children import (
    full_disk_inside,
    killed_inside,
    moments,
    only_run,
    outcome,
    rows,
    said,
    train,
    train_until,
)

RESUME = "resume=true"
ROWS = {"ultralytics": 4, "lightning": 4, "sft": 13}  # of metrics.jsonl, in the four epochs of an unbroken run
STEPS = {"ultralytics": 12, "lightning": 12, "sft": 24}  # backward passes of an unbroken run
STATE = {  # what writes the state of an epoch
    "ultralytics": "clarion.trainers.ultralytics_state:write",
    "lightning": "clarion.trainers.lightning_states:KeepStates.on_train_epoch_end",
    "sft": "transformers.trainer:Trainer._save_rng_state",  # after the weights, before the end
}


@pytest.mark.parametrize("trainer", ROWS)
def test_killed_once_in_the_middle(trainer, commands, unbroken, tmp_path):
    half = ROWS[trainer] // 2
    assert train_until(tmp_path, *commands[trainer], done=lambda: len(rows(tmp_path)) >= half, delay=0.2)
    train(tmp_path, *commands[trainer], RESUME)
    assert outcome(tmp_path) == unbroken(trainer)


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("trainer", ROWS)
def test_killed_at_three_random_moments(trainer, seed, commands, unbroken, tmp_path):
    """Each of the three processes trains when it is killed: it is in or after a backward pass, and on record."""
    resumed: list[str] = []
    for step, later in moments(STEPS[trainer], 3, seed):
        killed_inside(tmp_path, *commands[trainer], *resumed, where="torch:Tensor.backward", at=step, later=later)
        resumed = [RESUME]
    train(tmp_path, *commands[trainer], RESUME)
    attempts = json.loads((only_run(tmp_path) / "manifest.json").read_text("utf-8"))["attempts"]
    assert [a["status"] for a in attempts] == ["running"] * 3
    assert outcome(tmp_path) == unbroken(trainer)


@pytest.mark.long
@pytest.mark.parametrize("trainer", STATE)
def test_killed_while_a_state_is_written(trainer, commands, unbroken, tmp_path):
    """The half-written file is ignored for the state before it, or never appears under its name."""
    command = commands[trainer]
    killed_inside(tmp_path, *command, where="os:fsync", on="", at=4)
    killed_inside(tmp_path, *command, RESUME, where=STATE[trainer], at=2)
    killed_inside(tmp_path, *command, RESUME, where=STATE[trainer], at=1, after=True)
    train(tmp_path, *command, RESUME)
    if trainer == "sft":  # whose library writes into the folder of the final name
        assert said(tmp_path).count("is damaged (it has no trainer_state.json)") == 2
    assert outcome(tmp_path) == unbroken(trainer)


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "trainer", [pytest.param("ultralytics", marks=LONG), "lightning", pytest.param("sft", marks=LONG)]
)
def test_a_full_disk_is_a_sentence_and_costs_one_epoch(trainer, commands, unbroken, tmp_path):
    where = "transformers.trainer:Trainer._save_checkpoint" if trainer == "sft" else STATE[trainer]
    full_disk_inside(tmp_path, *commands[trainer], where=where, at=3)
    screen = said(tmp_path)
    assert "The disk is full" in screen and "resume=true" in screen and "Traceback" not in screen
    run = only_run(tmp_path)
    assert (run / "error.txt").read_text("utf-8").startswith("The disk is full")
    if trainer == "sft":
        assert {p.parent.name for p in run.rglob("trainer_state.json")} == {"checkpoint-6", "checkpoint-12"}
    else:
        kept = sorted(p.stem for p in (run / "checkpoints" / "resume").iterdir())
        assert kept == ["epoch-000001", "epoch-000002"]
    train(tmp_path, *commands[trainer], RESUME)
    assert outcome(tmp_path) == unbroken(trainer)


def test_killed_in_every_stage_of_a_run(commands, unbroken, tmp_path):
    """Before the manifest, in the fit, while predictions, scores and metrics.json are written: one run dies in each."""
    command, resume = commands["estimator"], []
    for where, options in (
        ("os:replace", {"on": ".manifest.json"}),
        ("clarion.trainers.estimator:EstimatorTrainer._call_fit", {}),
        ("os:replace", {"on": "test.parquet"}),
        ("clarion.evaluators.classification:ClassificationEvaluator.evaluate", {"after": True}),
        ("os:replace", {"on": "/.metrics.json."}),
    ):
        killed_inside(tmp_path, *command, *resume, where=where, **options)
        assert not list(tmp_path.glob("*/metrics.json"))  # never complete before it is
        resume = [RESUME]
    train(tmp_path, *command, RESUME)
    assert outcome(tmp_path) == unbroken("estimator")


def test_a_run_killed_before_its_page_gets_it_when_asked_again(commands, unbroken, tmp_path):
    command = commands["estimator"]
    killed_inside(tmp_path, *command, where="clarion.record:RunRecord.finish", after=True)
    assert list(tmp_path.glob("*/metrics.json")) and not list(tmp_path.glob("*/report.html"))
    train(tmp_path, *command)
    assert "skipped" in said(tmp_path)
    assert outcome(tmp_path) == unbroken("estimator")


def test_a_sweep_does_only_what_is_not_complete(commands, tmp_path):
    """Killed in its second job: the same command skips the first, finishes the second and makes the third."""
    command = ["-m", *commands["estimator"], "seed=0,1,2"]
    killed_inside(tmp_path, *command, where="clarion.trainers.estimator:EstimatorTrainer._call_fit", at=2)
    (first,) = tmp_path.glob("*/metrics.json")
    before = first.stat().st_mtime_ns
    train(tmp_path, *command, RESUME)
    assert "2 done, 1 skipped" in said(tmp_path)
    assert len(list(tmp_path.glob("*/metrics.json"))) == 3 and first.stat().st_mtime_ns == before
    attempts = [p.read_text("utf-8").count('"status": "running"') for p in tmp_path.glob("*/manifest.json")]
    assert sorted(attempts) == [0, 0, 1]  # the killed job's first attempt is on record
