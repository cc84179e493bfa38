"""The best trial as an experiment: what its configuration says beyond the model and data it names, as one yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from clarion.config import NOT_IDENTITY, choices, compose_config, conf_dir
from clarion.errors import UsageError
from clarion.record import RunRecord, write_atomic
from clarion.tuning.objective import Objective

GROUPS = ("trainer", "evaluator", "data", "model")


def experiment(record: RunRecord, objective: Objective, best: Any, counts: Mapping[str, int], name: str | None) -> str:
    """Text of an experiment config that composes to the configuration of this trial's run."""
    config = OmegaConf.to_container(record.config())
    metrics, manifest = record.metrics(), record.manifest()
    evaluator, _, metric = objective.metric.partition(".")
    entry = metrics["evaluators"][evaluator]["metrics"][metric]
    interval = f" [{entry['low']:.4g}, {entry['high']:.4g}]" if entry.get("low") is not None else ""
    chosen = {g: record_choice(config, g) for g in GROUPS}
    named = [f"{g}={c}" for g, c in chosen.items() if c]
    base = OmegaConf.to_container(compose_config(named), resolve=True)
    body = {k: v for k, v in difference(config, base).items() if k not in NOT_IDENTITY}
    defaults = [{f"override /{g}": c} for g, c in chosen.items() if c]
    head = (
        "# @package _global_\n"
        f"# Tuned: the best of {sum(counts.values())} trials ({counts['PRUNED']} pruned, {counts['FAIL']} failed): "
        f"python train.py experiment={name or 'NAME'}\n"
        f"# Trial {best.number}: {metric} {entry['value']:.4g}{interval} (n {entry.get('n')}) on the VALIDATION split\n"
        f"# of {metrics['data']} ({metrics['data_kind']} data), the best of many tries there, so too good:\n"
        "# the figure to quote is the one on test that this experiment gives.\n"
        f"# Found by {', '.join(f'{k}={v}' for k, v in best.params.items())}; {manifest.get('device')}.\n"
    )
    text = head + OmegaConf.to_yaml(OmegaConf.create({"defaults": defaults}))
    return text + ("\n" + OmegaConf.to_yaml(OmegaConf.create(body)) if body else "")


def record_choice(config: Mapping[str, Any], group: str) -> str | None:
    """The option of a group that a recorded config came from, by its name; None where several or none fit."""
    if group == "evaluator":
        names = list(config.get("evaluators") or {})
        return names[0] if len(names) == 1 and names[0] in choices(group) else None
    name = (config.get(group) or {}).get("name")
    return name if name in choices(group) else None


def difference(mine: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What of `mine` is not in `base`, nested alike."""
    found: dict[str, Any] = {}
    for key, value in mine.items():
        if key in base and isinstance(value, dict) and isinstance(base[key], dict):
            if inner := difference(value, base[key]):
                found[key] = inner
        elif key not in base or base[key] != value:
            found[key] = value
    return found


def target(name: str, force: bool) -> Path:
    """conf/experiment/NAME.yaml, where it may be written; UsageError where not."""
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise UsageError(f"hydra.sweeper.experiment={name}: letters, digits, `-` and `_` make a name.")
    path = conf_dir() / "experiment" / f"{name}.yaml"
    if path.exists() and not force:
        raise UsageError(f"hydra.sweeper.experiment={name}: {path.name} exists; take another name, or "
                         "hydra.sweeper.force=true to replace it.")  # fmt: skip
    return path


def keep(text: str, name: str, force: bool) -> Path:
    path = target(name, force)
    write_atomic(path, text)
    return path
