"""Recorded runs as a table reads them: the figures of one evaluator, and what of the configuration names the run.

A record is JSON-able and outlives its run directory (results/measured.json keeps it), but for its `directory`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from clarion.record import read_json

MECHANICS = ("cache", "workers", "plots", "verbose")  # library arguments that change no figure: not shown
ALWAYS = ("data.fold", "data.folds")  # configuration that every record keeps

Run = dict[str, str]  # configuration keys (`model`, `data`: names of choices; `data.cohort` and so on) -> value as text


def collect(
    runs_dir: Path, wanted: Iterable[tuple[str, Run]], subgroups: Collection[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
    """A record for every complete training run below runs_dir and every (evaluator, run) of `wanted` it belongs to.

    subgroups: (column of truth, value) whose metrics are kept too, each under its subgroup_key."""
    wanted = list(wanted)
    keys = sorted({key for _, run in wanted for key in run if "." in key} | set(ALWAYS))
    found = []
    for path in sorted(runs_dir.glob("*/metrics.json")):
        manifest, metrics = read_json(path.with_name("manifest.json")), read_json(path)
        if manifest.get("kind") in ("evaluation", "trial"):  # a trial is scored on val
            continue
        plain = [(e, run) for e, run in wanted if e in metrics.get("evaluators", {}) and _named(metrics, run)]
        if not plain:
            continue
        config = read_config(path.with_name("config.yaml"))
        common = {
            "run": path.parent.name,
            "model": metrics["model"],
            "data": metrics["data"],
            "data_kind": metrics["data_kind"],
            "seed": metrics["seed"],
            "fold": (config.get("data") or {}).get("fold"),
            "keys": {key: portable(key, select(config, key)) for key in keys},
            "setting": setting(config),
            "settings": shown_settings(config),
            "counts": manifest.get("data", {}).get("counts", {}),
            "device": manifest.get("device"),
            "duration_s": manifest.get("duration_s"),
            "fit_s": manifest.get("fit_s"),
            "finished": metrics["finished"],
            "parameters": manifest.get("parameters"),
            **({"structure": shape} if (shape := _structure(path.parent, manifest)) else {}),
            "fingerprint": manifest.get("data", {}).get("fingerprint"),
            "git": manifest.get("git", {}),
        }
        for evaluator in dict.fromkeys(e for e, run in plain if belongs(common, run)):
            result = metrics["evaluators"][evaluator]
            scores = {"metrics": with_subgroups(result, subgroups), "baseline": result.get("baseline", {})}
            found.append(common | {"evaluator": evaluator, **scores, "directory": str(path.parent)})
    return found


def subgroup_key(metric: str, column: str, value: Any) -> str:
    """How a record names a metric of the samples whose truth has this value: `leaf_f1, diagnoses=unseen`."""
    return f"{metric}, {column}={value}"


def with_subgroups(result: Mapping[str, Any], subgroups: Collection[tuple[str, str]]) -> dict[str, Any]:
    """An evaluator's metrics and those of the subgroups, where it made them."""
    found = dict(result["metrics"])
    for column, value in sorted(subgroups):
        part = result.get("subgroups", {}).get(column, {}).get(value, {})
        found |= {subgroup_key(name, column, value): entry for name, entry in part.items()}
    return found


def overview(runs_dirs: Iterable[Path]) -> list[dict[str, Any]]:
    """What every run directory says of itself, whatever became of it and wherever it ran: for `clarion list runs`."""
    from clarion.evaluating import headline

    rows = []
    for path in sorted(p for folder in runs_dirs for p in folder.glob("*/manifest.json")):
        manifest, metrics = read_json(path), read_json(path.with_name("metrics.json"))
        status = str(manifest.get("status"))
        score = headline(metrics) if metrics else ""
        said = "  ".join(filter(None, (score, str(manifest.get("device") or ""), str(manifest.get("started") or ""))))
        rows.append({"name": path.parent.name, "task": status, "description": said, "status": status, "score": score,
                     "directory": str(path.parent), "device": manifest.get("device"),
                     "duration_s": manifest.get("duration_s")})  # fmt: skip
    return rows


def _structure(directory: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's checkpoint says of an adapter with a declared support, over all layers; {} without one."""
    found = read_json(directory / str(manifest.get("checkpoint") or "checkpoints/best") / "clarion.json")
    return {k: v for k, v in (found.get("structure") or {}).items() if k != "by_layer"}


def _named(metrics: Mapping[str, Any], run: Run) -> bool:
    return all(same(metrics[key], run[key]) for key in ("model", "data") if key in run)


def belongs(record: Mapping[str, Any], run: Run) -> bool:
    """Whether a record was made with this configuration."""
    keys = record.get("keys", {})
    return all(same(record[k] if k in ("model", "data") else keys.get(k), v) for k, v in run.items())


def same(value: Any, text: str) -> bool:
    """Whether a value of a configuration is the one written in a table: `null`, `[]`, `10`, in any case of letters; `*`
    is any value but null."""
    if text == "*":
        return value is not None
    try:
        wanted = yaml.safe_load(text)
    except yaml.YAMLError:
        wanted = text
    return str(value).lower() == str(wanted).lower()


def portable(key: str, value: Any) -> Any:
    """A value of a configuration as a record keeps it: of a run that was started from, its name and not its folder."""
    return Path(str(value)).name if key.startswith("init_from.") and value is not None else value


def select(config: Mapping[str, Any], dotted: str) -> Any:
    """config["a"]["b"] of "a.b"; None where there is none."""
    node: Any = config
    for name in dotted.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def read_config(path: Path) -> dict[str, Any]:
    """A recorded configuration (libyaml's safe loader where there is one: a sweep has hundreds of them)."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}


def setting(config: Mapping[str, Any]) -> str:
    """Hash of everything that seeds and folds of one setting have in common."""
    common = json.loads(json.dumps(config, default=str))
    for key in ("seed", "resume", "tracker", "runs_dir"):
        common.pop(key, None)
    (common.get("data") or {}).pop("fold", None)
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:12]


def shown_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    trainer = config.get("trainer") or {}
    args = {k: v for k, v in (trainer.get("args") or {}).items() if k not in MECHANICS}
    return {"epochs": trainer.get("epochs"), "batch_size": trainer.get("batch_size"), **args}


def matches(record: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    """Whether a record has the settings of --where KEY=VALUE."""
    flat = {
        **{k: record.get(k) for k in ("run", "model", "data", "seed", "fold", "device", "data_kind")},
        **record.get("keys", {}),
        **record.get("settings", {}),
    }
    return all(str(flat.get(k, flat.get(k.removeprefix("trainer.").removeprefix("args.")))) == v
               for k, v in where.items())  # fmt: skip
