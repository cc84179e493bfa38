"""What can be chosen, how it composes and what a run is called. Imports nothing heavy; preflight.py judges it."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

GROUPS = ("model", "data", "trainer", "evaluator", "tracker", "experiment")
# Subtrees handed to a library verbatim: any key may be added there, and the library judges it.
FREE = (
    "trainer.args",
    "tracker.args",
    "init_from",
    "model.network_args",
    "model.generation",
    "model.lora",
    "model.template_args",
    "model.datamodule",
    "model.estimator",
)
# Not part of what a run *is*: the same run may be resumed, tracked otherwise or kept elsewhere.
NOT_IDENTITY = ("hydra", "resume", "tracker", "runs_dir")
TARGETS = (
    "clarion.",
    "sklearn.",
    "torch.nn.",
    "torch.optim.",
    "torchvision.transforms.",
    "monai.",
    "lightning.",
    "hydra_plugins.",
)
OF_HYDRA = {"hydra/launcher": {"basic"}, "hydra/sweeper": {"basic"}}  # choices that Hydra itself brings


@lru_cache
def conf_dir() -> Path:
    """The folder of configs: packaged inside the wheel, else `conf/` of the source tree."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "conf"


@lru_cache
def choices(group: str) -> tuple[str, ...]:
    """Selectable options of a config group, `_hidden` bases left out."""
    names = {p.stem for p in (conf_dir() / group).glob("*.yaml") if not p.stem.startswith("_")}
    return tuple(sorted(names | OF_HYDRA.get(group, set())))


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean `x`?' for the nearest known names, else the empty string."""
    known = [str(k) for k in known]
    lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.55)
    names = [lower[f] for f in found] or [k for k in known if name and k.startswith(name)][:3]
    return f" Did you mean {' or '.join(f'`{n}`' for n in names)}?" if names else ""


# ---------------------------------------------------------------------------------------------------- identity


def run_id(*, _root_: DictConfig) -> str:
    """Name of a run: model, data, (fold,) seed and a hash of all that makes the run what it is.

    The same command finds the same directory again, wherever `runs_dir` points and however it is tracked.
    """
    identity = {
        k: OmegaConf.to_container(_root_[k], resolve=True) if OmegaConf.is_config(_root_[k]) else _root_[k]
        for k in sorted(_root_)
        if k not in NOT_IDENTITY
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]
    fold = OmegaConf.select(_root_, "data.fold")
    parts = [
        _root_.model.get("name"),
        _root_.data.get("name"),
        None if fold is None else f"fold{fold}",
        f"s{_root_.get('seed')}",
        digest,
    ]
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", str(p)) for p in parts if p is not None)


def register_resolvers() -> None:
    from clarion.launchers import worker_environment

    # Launchers of ours bear the names of their plugins, and their settings are checked against the plugin's.
    warnings.filterwarnings("ignore", message=r"(?s).*is validated against ConfigStore schema with the same name")
    OmegaConf.register_new_resolver("run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("worker_environment", worker_environment, replace=True)


def compose_config(overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """Compose conf/config.yaml with overrides, outside of hydra.main."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=overrides, return_hydra_config=with_hydra)


# ------------------------------------------------------------------------------------------- what a file says


@lru_cache
def group_task(group: str, name: str) -> str | None:
    """The `task` that an option states, read from its file or the `_base` it builds on (no composition: fast)."""
    path = conf_dir() / group / f"{name}.yaml"
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    if found := re.search(r"\btask:\s*\[?\s*([a-z_]+)", text):
        return found.group(1)
    if found := re.search(r"^defaults:\s*(\[[^\]]*\]|(?:\n\s*- .*)+)", text, re.M):
        own = re.sub(r"-\s*(override\s+)?/.*", "", found.group(1))  # other groups' choices are no bases
        bases = [b for b in re.findall(r"[\w]+(?=\s*[,\]\n]|$)", own) if b not in ("_self_", name)]
        return next((task for b in bases if (task := group_task(group, b))), None)
    return None


def describe(group: str, name: str) -> str:
    """First comment line of a config file: what it is."""
    for line in (conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""


# ---------------------------------------------------------------------------------------------------- safety


def numbered(problems: list[str]) -> str:
    unique = list(dict.fromkeys(problems))
    if len(unique) == 1:
        return unique[0]
    return f"{len(unique)} problems:\n" + "\n".join(f"  {i}. {p}" for i, p in enumerate(unique, 1))


def target_problems(node: object, path: str = "") -> list[str]:
    """A config must not build what no experiment needs: `_target_` may name our code and the model libraries.

    A run directory or config from someone else is data; os.system in it must stay a string. Your own packages
    are admitted by the environment variable CLARION_TARGETS (prefixes, comma separated).
    """
    allowed = TARGETS + tuple(t for t in os.environ.get("CLARION_TARGETS", "").split(",") if t)
    problems = []
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and not (isinstance(target, str) and target.startswith(allowed)):
            problems.append(
                f"{path or 'config'}._target_={target}: not an admitted class (begins with none of "
                f"{', '.join(allowed)}); admit your own package by CLARION_TARGETS=package."
            )
        for key, value in node.items():
            problems += target_problems(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for k, value in enumerate(node):
            problems += target_problems(value, f"{path}[{k}]")
    return problems
