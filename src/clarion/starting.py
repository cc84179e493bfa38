"""Runs that a run starts from and that are trained first: init_from: {slide: model=swin_mil_nano trainer.epochs=12}.

What stands there is what one would type after train.py. The run gets this run's data, seed, device and runs_dir, lies
in a directory of its own, and is found again where it is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from omegaconf import DictConfig, open_dict

from clarion import config
from clarion.beside import hydra_kept
from clarion.errors import ClarionError, UsageError
from clarion.record import RunRecord

log = logging.getLogger("clarion")
ALLOWED = ("model", "trainer")  # what such a command may choose: everything else is this run's


def first_run(command: str, cfg: DictConfig) -> DictConfig:
    """The config of the run that `command` trains for `cfg`. UsageError for a word it may not hold, or one that does
    not compose."""
    from clarion.preflight import check_config, parse

    words = command.split()
    if other := [w for w in words if w.lstrip("+").split("=")[0].split(".")[0] not in ALLOWED]:
        raise UsageError(f"init_from: `{other[0]}` in `{command}` is this run's to choose: give model=NAME, model.* "
                         "and trainer.* there.")  # fmt: skip
    parsed, problems = parse(words)
    if problems:
        raise UsageError(config.numbered(problems))
    try:
        with hydra_kept():
            own = config.compose_config([o.input_line for o in parsed])
    except Exception as error:
        raise UsageError(f"init_from: `{command}` does not compose: {' '.join(str(error).split())[:300]}") from error
    with open_dict(own):
        for key in ("data", "seed", "runs_dir", "tracker"):
            own[key] = deepcopy(cfg[key])
    if "trainer.device" not in command:
        own.trainer.device = cfg.trainer.device
    if problems := check_config(own):
        raise UsageError(f"init_from `{command}`: {config.numbered(problems)}")
    return own


def trained_first(cfg: DictConfig, train: Callable[..., dict]) -> DictConfig:
    """`cfg` with every command of init_from replaced by the directory of its run, trained by `train` (run.execute)
    where it is not complete. ClarionError where that fails."""
    named = {name: str(start) for name, start in (cfg.get("init_from") or {}).items()}
    wanted = {name: start for name, start in named.items() if start.startswith("model=")}
    if not wanted:
        return cfg
    cfg = deepcopy(cfg)
    for name, command in wanted.items():
        own = first_run(command, cfg)
        directory = Path(own.runs_dir).expanduser().resolve() / config.run_id(_root_=own)
        if not RunRecord(directory).complete:
            own.resume = bool(cfg.resume)
            log.info("init_from.%s: `%s` is trained first", name, command)
            outcome = train(own, [*command.split(), f"data={cfg.data.name}"], directory)
            if outcome["status"] not in ("done", "skipped"):
                raise ClarionError(f"init_from.{name}: `{command}` {outcome['status']}: {outcome['reason']}",
                                   outcome["exit_code"] or 1)  # fmt: skip
        cfg.init_from[name] = str(directory)
    return cfg
