"""Jobs of one process do not leak into each other; a sweep's outcomes come together whoever ran them."""

from __future__ import annotations

import os

import torch

from clarion import jobs


def test_state_is_restored(tmp_path):
    before = (os.getcwd(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    try:
        with jobs.isolated():
            os.chdir(tmp_path)
            os.environ["LEAK"] = "1"
            os.environ.pop("HOME", None)
            torch.set_num_threads(1)
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = True
            torch.set_grad_enabled(False)
            raise RuntimeError("a job that dies")
    except RuntimeError:
        pass
    assert (os.getcwd(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    assert "LEAK" not in os.environ and "HOME" in os.environ
    assert not torch.backends.cudnn.benchmark and torch.is_grad_enabled()


def test_an_open_wandb_run_is_closed(tmp_path):
    import wandb

    with jobs.isolated():
        os.environ["WANDB_MODE"] = "offline"
        wandb.init(dir=str(tmp_path), project="t", mode="offline", settings=wandb.Settings(silent=True))
        assert wandb.run is not None
    assert wandb.run is None


def outcome(number, status, **more):
    return {
        "number": number,
        "directory": f"runs/r{number}",
        "status": status,
        "reason": "",
        "score": "",
        "seconds": 1.0,
        "command": f"python train.py seed={number}",
        "exit_code": 1,
        **more,
    }


def test_board_and_table(tmp_path):
    with jobs.board(str(tmp_path / "runs")) as board:
        jobs.post(outcome(1, "failed", reason="disk full\nsecond line"))
        jobs.post(outcome(0, "done", score="map50 0.6", exit_code=0))
        outcomes = jobs.read_board(board)
    assert [o["number"] for o in outcomes] == [0, 1] and not board.exists()
    table = jobs.jobs_table(outcomes)
    assert "1 done, 1 failed" in table and "disk full second line" in table
    assert "python train.py seed=1 resume=true" in table and "seed=0 resume" not in table


def test_exit_codes():
    assert jobs.exit_code([outcome(0, "done"), outcome(1, "skipped")]) == 0
    assert jobs.exit_code([outcome(0, "refused", exit_code=2)]) == 2
    assert jobs.exit_code([outcome(0, "refused", exit_code=2), outcome(1, "failed")]) == 1


def test_the_command_is_typed_as_a_user_would():
    text = jobs.command_of(["model=yolo11n", "++trainer.args.lr0=0.1", "resume=true", "data.root=/a b"])
    assert text == "python train.py model=yolo11n trainer.args.lr0=0.1 'data.root=/a b'"
