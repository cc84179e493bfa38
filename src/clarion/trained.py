"""A trained model by what the user calls it: a run directory, a checkpoint folder, or `shipped:NAME`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarion.config import compose_config, nearest
from clarion.errors import UsageError
from clarion.record import RunRecord, hash_tree

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Trained:
    """predictor: of clarion.trainers.base; digest: hash of its checkpoint; confidence: the detector's operating point
    (best F1 on validation), None where no run recorded one."""

    predictor: Any
    name: str
    digest: str
    trained_on: str
    class_names: list[str]
    confidence: float | None = None

    @property
    def source(self) -> dict[str, str]:
        """How a finding names the model it came from."""
        return {"model": self.name, "hash": self.digest, "trained_on": self.trained_on}


def open_model(what: str, task: str, model: str, device: str = "auto", option: str = "--model") -> Trained:
    """Load `what` for `task`; a bare checkpoint is read with the config `model=MODEL`. UsageError where it is none.

    Only a run directory says what it was trained on and where its detector's boxes begin to count.
    """
    from clarion.building import build

    if what.startswith("shipped:"):
        path = shipped(what.removeprefix("shipped:"), option)
    else:
        path = Path(what).expanduser()
    if not path.exists():
        raise UsageError(f"{option} {what}: no such run directory or checkpoint.")
    if not (path / "config.yaml").is_file():
        if not path.is_dir():
            raise UsageError(f"{option} {what}: give a run directory or a checkpoint folder (checkpoints/best).")
        cfg = compose_config([f"model={model}", f"trainer.device={device}"])
        predictor = build(cfg.trainer, model=cfg.model, seed=0).load(path)
        known = "phantom" if path.parent == WEIGHTS else "unknown"
        names = list(getattr(predictor, "class_names", ["erm"]))
        return Trained(predictor, what if path.parent == WEIGHTS else path.name, hash_tree(path), known, names)

    record = RunRecord(path.resolve())
    if not record.complete:
        raise UsageError(f"{option} {what}: not a complete run directory (train one with python train.py).")
    cfg, metrics = record.config(), record.metrics()
    if cfg.model.task != task:
        raise UsageError(f"{option} {what} is a {cfg.model.task} model; a {task} model is needed.")
    checkpoint = checkpoint_of(record, f"{option} {what}")
    cfg.trainer.device = device
    predictor = build(cfg.trainer, model=cfg.model, seed=cfg.seed).load(checkpoint)
    return Trained(
        predictor,
        metrics["run"],
        hash_tree(checkpoint),
        metrics["data_kind"],
        list(metrics["data_card"].get("class_names", ["erm"])),
        operating_confidence(metrics),
    )


def checkpoint_of(record: RunRecord, named: str) -> Path:
    """The checkpoint that a run's manifest names, links resolved. UsageError where it is not there or lies outside of
    the run's folder: what a copied run holds is read, and nothing else. named: the run, in the user's words."""
    checkpoint = (record.directory / str(record.manifest().get("checkpoint"))).resolve()
    if record.directory.resolve() not in checkpoint.parents or not checkpoint.exists():
        raise UsageError(f"{named} has no checkpoint below it.")
    return checkpoint


def shipped(name: str, option: str) -> Path:
    """The folder of weights that come with Clarion."""
    known = [folder.name for folder in _shipped()]
    if name not in known:
        hint = nearest(name, known)
        raise UsageError(f"{option} shipped:{name}: no such weights are shipped.{hint} (shipped: {', '.join(known)})")
    return WEIGHTS / name


def start_weights(weights: str, kind: str) -> Path:
    """model.weights as a path: what a training starts from. `shipped:NAME` is what comes with Clarion.

    kind: of the network, as its checkpoint says (the Lightning module's path; the format of a detector). UsageError for
    a name that is not shipped, or that is of another kind; it names those that fit. Other paths are not looked at.
    """
    name = str(weights).removeprefix("shipped:")
    if name == str(weights):
        return Path(name).expanduser()
    fitting = [folder.name for folder in _shipped() if kind in _kinds(folder)]
    if name in fitting:
        return WEIGHTS / name
    known = [folder.name for folder in _shipped()]
    said = "weights of another network." if name in known else f"not shipped.{nearest(name, fitting or known)}"
    own = " or ".join(f"shipped:{fit}" for fit in fitting)
    use = f"For this model use {own}, " if own else "Clarion ships none for this model: use "
    raise UsageError(f"model.weights={weights}: {said} {use}the checkpoints/best of a run of it, or null.")


def _shipped() -> list[Path]:
    return sorted(p for p in WEIGHTS.iterdir() if p.is_dir() and not p.name.startswith("_"))


def _kinds(folder: Path) -> list[str]:
    """What the description of a checkpoint says of its network: format and module."""
    (description,) = (p for p in (folder / "model.json", folder / "network.json") if p.is_file())
    said = json.loads(description.read_text(encoding="utf-8"))
    return [said[key] for key in ("format", "module") if said.get(key)]


def operating_confidence(metrics: dict) -> float | None:
    """The confidence of best F1 that the run's own evaluation found; None where there is none."""
    entry = metrics.get("evaluators", {}).get("detection", {}).get("metrics", {}).get("confidence") or {}
    return None if entry.get("value") is None else float(entry["value"])
