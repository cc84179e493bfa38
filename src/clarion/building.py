"""From a composed configuration to the objects that do the work, and to what the record says of them."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clarion import config, jobs
from clarion.errors import ClarionError, UsageError

log = logging.getLogger("clarion")


def build(node: Any, **extra: Any) -> Any:
    """The one place that instantiates a config. Hydra hides the cause of a failure; this names it.

    extra: further arguments; configs among them (a trainer's `model`) arrive as plain dicts, nothing in them built.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    resolved = OmegaConf.to_container(node, resolve=True)  # while it still hangs in the whole config
    if problems := config.target_problems(resolved):
        raise UsageError(config.numbered(problems))
    # these keys serve the pre-flight and the composition; `task` also the objects that take it
    plain = OmegaConf.create(
        {
            k: v
            for k, v in resolved.items()
            if k not in ("layouts", "expected", "suggest") and (k != "task" or _takes(node, k))
        }
    )
    extra = {k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for k, v in extra.items()}
    if problems := config.target_problems(extra):
        raise UsageError(config.numbered(problems))
    try:
        return instantiate(plain, _convert_="all", _partial_=True)(**extra)
    except ClarionError:
        raise
    except (InstantiationException, TypeError) as error:
        cause = error.__cause__ or error
        while not isinstance(cause, ClarionError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ClarionError):
            raise cause from error
        raise ClarionError(
            f"{node.get('_target_')} could not be built: {type(cause).__name__}: {' '.join(str(cause).split())[:500]}"
        ) from error


def _takes(node: Any, name: str) -> bool:
    import inspect

    from hydra.utils import get_object

    try:
        parameters = inspect.signature(get_object(node["_target_"])).parameters
    except Exception:
        return True  # instantiate says what is wrong with the target
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def build_data(cfg: DictConfig) -> Any:
    """The data of a run, prepared and checked: what must not be trained on stops here, with the list."""
    data = build(cfg.data, seed=cfg.seed)
    data.prepare()
    report = data.check()
    for warning in getattr(report, "warnings", []):
        log.warning("data: %s", warning)
    return data


def data_identity(data: Any) -> dict:
    from clarion.data.splits import split_hash

    own = getattr(data, "split_hash", None)  # of the user's own names: the same on every machine
    return {
        "name": data.name,
        "kind": data.kind,
        "fingerprint": data.fingerprint(),
        "split_hash": own() if own else split_hash(data.splits),
        "counts": {k: len(v) for k, v in data.splits.items()},
    }


def seed_everything(seed: int) -> None:
    """Python, numpy and torch (all devices) from one seed; hash seeds of workers come from these."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(jobs.default_threads())


def device_name(device: str) -> str:
    """What the run computed on, in words: 'NVIDIA H100 80GB HBM3' or the processor's name and cores."""
    import torch

    if str(device) != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    model = "CPU"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((l.split(":", 1)[1].strip() for l in lines if l.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {torch.get_num_threads()} threads"
