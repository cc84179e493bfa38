"""Jobs of a sweep in other processes: joblib, submitit and Ray, each with real workers; results lie in one place."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clarion import launchers
from clarion.config import compose_config
from clarion.table_records import collect

SMALL = ["model=logreg_image_stats", "data.eyes={train: 24, val: 8, test: 12}", "data.bscans_per_eye=1",
         "evaluators.classification.n_resamples=20"]  # fmt: skip
SEEDS = {"joblib": (1, 2), "submitit_local": (3, 4), "ray": (5, 6)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("launchers") / "runs"


@pytest.mark.parametrize("launcher", list(SEEDS))
def test_two_workers_of_each_launcher_fill_one_folder_and_end_with_a_table(command, runs, launcher):
    if launcher == "ray" and not shutil.which("ray", path=str(Path(sys.executable).parent)):
        pytest.skip("ray is not installed")
    seeds = SEEDS[launcher]
    done = command("train.py", "-m", f"hydra/launcher={launcher}", *SMALL, f"seed={seeds[0]},{seeds[1]}",
                   f"runs_dir={runs}")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 done" in done.stdout and done.stdout.count("auroc") == 2
    if launcher != "joblib":  # its workers compose before any code of ours runs
        assert "deprecated in Hydra" not in done.stderr
    if launcher == "ray":
        assert len(set(re.findall(r"_run_job pid=(\d+)", done.stderr + done.stdout))) == 2
    again = command("train.py", "-m", *SMALL, f"seed={seeds[0]},{seeds[1]}", f"runs_dir={runs}")
    assert "2 skipped" in again.stdout  # the same runs, whoever ran them
    found = collect(runs, [("classification", {"model": "logreg_image_stats", "data": "bscan_stages"})])
    assert set(seeds) <= {record["seed"] for record in found}
    listed = command("clarion", "list", "runs", "--runs", str(runs), "--format", "json")
    rows = json.loads(listed.stdout)
    assert len(rows) == len(found) and {row["status"] for row in rows} == {"complete"}
    assert not (runs / ".jobs").exists()


BLOCKED = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.startswith(sys.argv[1]) else real(name, *a)
from clarion import launch
sys.exit(launch.train(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [("hydra_plugins.hydra_ray", "hydra/launcher=ray", "ray"),
     ("hydra_plugins.hydra_submitit", "hydra/launcher=submitit_slurm", "slurm"),
     ("hydra_plugins.hydra_joblib", "hydra/launcher=joblib", "parallel"),
     ("optuna", "hydra/sweeper=optuna", "tune")],
)  # fmt: skip
def test_a_missing_plugin_is_refused_in_one_sentence_naming_the_extra(tmp_path, module, words, extra):
    done = subprocess.run([sys.executable, "-c", BLOCKED, module, "-m", words, "seed=1,2", f"runs_dir={tmp_path}/r"],
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == f"{words} needs a package that is not installed: pip install 'clarion[{extra}]'."


def test_the_sbatch_script_of_the_slurm_launcher(tmp_path, monkeypatch):
    """Rendered by submitit itself, with the settings in the order in which the plugin hands them on."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from omegaconf import OmegaConf

    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")  # submitit looks for srun before it renders
    chosen = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=2",
              "hydra.launcher.tasks_per_node=2", "+hydra.launcher.additional_parameters={mail-user: me}"]  # fmt: skip
    settings = OmegaConf.to_container(compose_config(chosen, with_hydra=True).hydra.launcher)
    settings.pop("_target_")
    folder, again = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
    assert folder.endswith("/.submitit/%j")
    executor = submitit.AutoExecutor(cluster="slurm", folder=str(tmp_path / "log"), slurm_max_num_timeout=again)
    base = set(OmegaConf.structured(BaseQueueConf).keys())
    executor.update_parameters(**{k if k in base else f"slurm_{k}": v for k, v in settings.items()})
    text = executor._executor._make_submission_file_text("python -m job", "id")
    for line in ("--partition=gpu", "--gpus-per-node=2", "--ntasks-per-node=2", "--time=1440", "--nodes=1",
                 "--mem=64GB", "--cpus-per-task=8", "--job-name=clarion", "--mail-user=me"):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert "--signal=USR2@120" in text or "--signal=USR1@120" in text
    assert executor._executor.max_num_timeout == 10


def test_a_requeued_slurm_job_resumes(monkeypatch):
    assert not launchers.requeued()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert launchers.requeued()


def test_workers_are_told_where_things_lie_and_no_credentials(monkeypatch):
    monkeypatch.setenv("CLARION_CACHE", "/c")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    told = launchers.worker_environment()
    assert told["CLARION_CACHE"] == "/c" and "secret" not in told.values()
