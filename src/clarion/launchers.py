"""Where jobs of a sweep run: which launchers there are, what each needs, and what their workers must be told.

Light: imports no launcher. The launchers themselves are Hydra's plugins, configured in conf/hydra/launcher.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

# launcher or sweeper -> (module it needs, extra of the package that brings it)
NEEDS = {
    "hydra/launcher": {
        "joblib": ("hydra_plugins.hydra_joblib_launcher", "parallel"),
        "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
        "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
        "ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
    },
    "hydra/sweeper": {"optuna": ("optuna", "tune")},
}
PASSED_ON = ("CLARION_", "WANDB_", "HF_", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_DEVICE")


def missing(group: str, name: str) -> str:
    """The sentence that refuses a launcher or sweeper whose package is not installed; empty where it is."""
    module, extra = NEEDS.get(group, {}).get(name, (None, None))
    if module is None or _installed(module):
        return ""
    return f"{group}={name} needs a package that is not installed: pip install 'clarion[{extra}]'."


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is absent
        return False


def chosen(argv: list[str]) -> str:
    """The launcher of a command line ('basic' where none is named)."""
    given = [a.partition("=")[2] for a in argv if a.startswith("hydra/launcher=")]
    return given[-1] if given else "basic"


def prepare(argv: list[str], runs_dir: str) -> list[str]:
    """A checked command line -> the one for Hydra: workers may stand in another folder, so theirs is absolute."""
    launcher = chosen(argv)
    if launcher == "basic":
        return argv
    if launcher == "ray":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if any(a.startswith("hydra.sweep.dir=") for a in argv):
        return argv
    return [*argv, f"hydra.sweep.dir='{Path(runs_dir).expanduser().resolve()}'"]


def worker_environment() -> dict[str, str]:
    """Variables that a worker which is no child of this process must be given (credentials are not among them)."""
    return {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON) and not k.endswith(("_KEY", "_TOKEN"))}


def requeued() -> bool:
    """Whether this process is a SLURM job that was queued again after pre-emption or its time limit."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
