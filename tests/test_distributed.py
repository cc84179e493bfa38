"""A run in two processes (DDP over gloo on the CPU): the same curve as one process, one writer, one end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clarion import distributed, launch
from clarion.errors import ClarionError, UsageError
from clarion.record import read_json

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["model=swin_nano", "model.image_size=32", "data.eyes={train: 24, val: 8, test: 12}", "data.bscans_per_eye=1",
         "evaluators.classification.n_resamples=20", "trainer.device=cpu", "trainer.epochs=2"]  # fmt: skip
LANGUAGE = ["model=llama_tiny", "data.val=8", "data.test=8", "trainer.epochs=1", "trainer.device=cpu",
            "trainer.batch_size=4", "trainer.args.logging_steps=1", "model.architecture.num_hidden_layers=1",
            "model.architecture.hidden_size=48", "model.generation.max_new_tokens=4"]  # fmt: skip


@pytest.fixture
def two_processes():
    """two_processes("model=...", ...) -> CompletedProcess of torchrun with two processes; none is left behind."""

    def call(*args: str, env: dict | None = None, timeout: float = 240) -> subprocess.CompletedProcess:
        head = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        return subprocess.run([*head, str(ROOT / "train.py"), *args], capture_output=True, text=True, timeout=timeout,
                              env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})})  # fmt: skip

    return call


def curve(runs: Path, name: str) -> np.ndarray:
    (path,) = runs.glob("*/metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return np.array([row[name] for row in rows if row.get(name) is not None])


def test_two_processes_learn_what_one_learns_and_one_of_them_writes(command, two_processes, tmp_path):
    alone = command("train.py", *SMALL, "trainer.batch_size=8", f"runs_dir={tmp_path}/one")
    assert alone.returncode == 0, alone.stderr[-2000:]
    done = two_processes(*SMALL, "trainer=lightning_ddp", "trainer.batch_size=8", f"runs_dir={tmp_path}/two")
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("train/loss", "val/loss"):
        one, two = curve(tmp_path / "one", name), curve(tmp_path / "two", name)
        assert len(one) == 2 and np.abs(one - two).max() < 1e-5, name
    (run,) = (tmp_path / "two").iterdir()  # one directory, no board or lock of the other process
    manifest = read_json(run / "manifest.json")
    assert manifest["processes"] == 2 and manifest["status"] == "complete"
    assert "process 0 of 2" in done.stderr and "process 1 of 2" in done.stderr
    assert done.stdout.count("done: ") == 1
    log = (run / "run.log").read_text(encoding="utf-8")
    assert log.count("epoch 1/2") == 1


FAULT = """
from lightning.pytorch.callbacks import Callback

class SecondProcessFails(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_rank == 1:
            raise RuntimeError("the disk of process 1 is full")
"""


def test_an_error_in_one_process_ends_all_and_is_recorded(two_processes, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULT)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = two_processes(*SMALL, "trainer=lightning_ddp", "trainer.batch_size=8", f"runs_dir={tmp_path}/runs",
                         "trainer.args.callbacks=[{_target_: faulty.SecondProcessFails}]",
                         env={"CLARION_TARGETS": "faulty.", "PYTHONPATH": path}, timeout=150)  # fmt: skip
    assert done.returncode != 0
    (run,) = (tmp_path / "runs").glob("swin_nano*")
    manifest, said = read_json(run / "manifest.json"), (run / "error.txt").read_text(encoding="utf-8")
    assert manifest["status"] == "failed" and not (run / "metrics.json").exists()
    assert "process 1 of 2 failed" in said and "the disk of process 1 is full" in said


def test_what_several_processes_cannot_do_is_refused_at_once(two_processes, tmp_path, monkeypatch):
    done = two_processes("-m", "model=swin_nano", "seed=1,2", f"runs_dir={tmp_path}/r")
    assert done.returncode != 0 and done.stderr.count("A sweep is not started by torchrun") == 1
    assert not (tmp_path / "r").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="trainer=ultralytics trains in one process"):
        distributed.refuse("ultralytics")


def test_the_batch_is_shared_or_refused(monkeypatch):
    assert distributed.share(7) == 7
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.share(8) == 4
    with pytest.raises(UsageError, match="multiple of 2"):
        distributed.share(7)


@pytest.mark.parametrize(
    ("trainer", "model", "said"),
    [("lightning_fsdp", "swin_nano", "FSDP"), ("sft_fsdp", "llama_tiny", "FSDP"), ("sft_zero2", "llama_tiny", "ZeRO")],
)
def test_sharding_needs_cuda_and_is_refused_before_data_are_prepared(trainer, model, said):
    from clarion.config import compose_config
    from clarion.run import build

    cfg = compose_config([f"model={model}", f"trainer={trainer}", "trainer.device=cpu"])
    with pytest.raises(UsageError, match=f"{said}.*use DDP there"):
        build(cfg.trainer, model=cfg.model, seed=0).check()


def test_the_ready_config_of_fsdp_is_one_that_trl_takes(tmp_path):
    """Past the refusal above, which a machine without CUDA never is."""
    import torch
    from omegaconf import OmegaConf

    from clarion.config import compose_config
    from clarion.trainers.sft_settings import sft_config

    args = OmegaConf.to_container(compose_config(["model=llama_tiny", "trainer=sft_fsdp"]).trainer.args, resolve=True)
    made = sft_config(args, tmp_path, torch.device("cpu"), "32", 1, 4, 0)
    assert made.fsdp is True and made.fsdp_plugin_args["fsdp_version"] == 2
    assert made.fsdp_plugin_args["activation_checkpointing"] and not made.activation_checkpointing


def test_devices_are_processes():
    from clarion.trainers import lightning_ddp

    with pytest.raises(UsageError, match="torchrun --nproc_per_node 4"):
        lightning_ddp.settings({"devices": 4})


def test_a_job_of_submitit_in_two_tasks_is_one_run_in_two_processes(command, tmp_path):
    done = command("train.py", "-m", "hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2", *SMALL,
                   "trainer=lightning_ddp", "trainer.batch_size=8", f"runs_dir={tmp_path}/runs")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 done" in done.stdout
    (manifest,) = (tmp_path / "runs").glob("*/manifest.json")
    assert read_json(manifest)["processes"] == 2


@pytest.mark.parametrize("rows", [8, pytest.param(24, marks=pytest.mark.long)])
def test_trl_in_two_processes_learns_what_one_learns(rows, two_processes, tmp_path):
    """The small twin takes two steps, the long one six; dropout is 0, so that only rounding may differ."""
    words = [*LANGUAGE, f"data.train={rows}", "evaluators.generation.n_resamples=20"]
    assert launch.train([*words, f"runs_dir={tmp_path}/one"]) == 0
    done = two_processes(*words, "trainer=sft_ddp", f"runs_dir={tmp_path}/two", timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 0 of 2" in done.stderr and "process 1 of 2" in done.stderr
    (manifest,) = (tmp_path / "two").glob("*/manifest.json")
    assert read_json(manifest)["processes"] == 2
    one, two = curve(tmp_path / "one", "train/loss"), curve(tmp_path / "two", "train/loss")
    assert len(one) == len(two) == rows / 4 and np.abs(one - two).max() < 1e-4
    assert len(set(one)) == len(one)  # it learns: the curves do not agree by standing still


def test_a_library_that_trains_with_fewer_processes_than_were_started_is_stopped(monkeypatch):
    distributed.confirm(1, "TRL")
    monkeypatch.setenv("WORLD_SIZE", "2")
    distributed.confirm(2, "TRL")
    with pytest.raises(ClarionError, match="2 processes were started and TRL trains with 1"):
        distributed.confirm(1, "TRL")
