"""What train.py and eval.py do: pre-flight, then Hydra, then the table of jobs. Light until a job starts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from clarion.errors import ClarionError, UsageError

_last: dict = {}  # the outcome of this process's latest job


def train(argv: list[str]) -> int:
    """`train.py`: exit code 0 success, 1 failed work, 2 wrong usage."""
    if "--help" in argv or "-h" in argv:
        from clarion.preflight import help_text

        print(help_text())
        return 0
    from clarion import distributed, jobs, launchers
    from clarion.preflight import preflight

    follows = distributed.rank() > 0
    try:
        checked = preflight(argv)
        distributed.refuse("lightning", sweeping=any(a in ("-m", "--multirun") for a in argv))
        checked = launchers.prepare(checked, runs_dir(checked))
    except ClarionError as error:
        return error.exit_code if follows else refuse(error)
    if follows:  # one of several processes of a run: process 0 speaks for all
        os.environ["TQDM_DISABLE"] = "1"
        start_hydra(checked)
        return _last.get("exit_code", 1)
    if any(a in ("--cfg", "-c", "--info", "-i", "--hydra-help") or a.startswith(("--cfg=", "--info=")) for a in argv):
        start_hydra(checked)
        return 0
    gave_up = 0
    with jobs.board(runs_dir(checked)) as board:
        try:
            start_hydra(checked)
        except KeyboardInterrupt:
            print("interrupted; the same command with resume=true continues", file=sys.stderr)
            return 130
        except SystemExit as stop:  # Hydra or a sweeper gave up, and has said why
            gave_up = int(stop.code or 0) if isinstance(stop.code, int | None) else 1
        outcomes = jobs.read_board(board)
    if not outcomes:
        print("no job ran", file=sys.stderr)
        return gave_up or 1
    if len(outcomes) > 1 or any(a in ("-m", "--multirun") for a in argv):
        print(jobs.jobs_table(outcomes))
    else:
        one = outcomes[0]
        print(f"{one['status']}: {one['directory']}" + (f"  {one['score']}" if one["score"] else ""))
        page = Path(one["directory"]) / "report.html"
        if page.is_file():
            print(f"page: {page}")
    return jobs.exit_code(outcomes) or gave_up


def refuse(error: ClarionError) -> int:
    print(error, file=sys.stderr)
    return error.exit_code


def runs_dir(argv: list[str]) -> str:
    given = [a.split("=", 1)[1] for a in argv if a.startswith("runs_dir=")]
    return given[-1] if given else "runs"


def start_hydra(argv: list[str]) -> None:
    import hydra

    from clarion import config

    config.register_resolvers()
    before = sys.argv
    sys.argv = ["train.py", *argv]
    try:
        hydra.main(config_path=str(config.conf_dir()), config_name="config", version_base="1.3")(job)()
    finally:
        sys.argv = before


def job(cfg) -> float | None:
    """One job, in this process or a worker's. Never raises: its outcome is posted, the sweep goes on."""
    from hydra.core.hydra_config import HydraConfig

    from clarion import config, distributed, launchers
    from clarion.run import execute

    distributed.from_submitit()

    config.register_resolvers()
    cfg.resume = cfg.resume or launchers.requeued()
    hydra = HydraConfig.get()
    trial = json.loads(hydra.sweeper.get("trial") or "null")  # told by clarion.tuning
    overrides, number = list(hydra.overrides.task), int(hydra.job.get("num", 0) or 0)
    outcome = execute(cfg, overrides, Path(hydra.runtime.output_dir), number, trial)
    _last.update(outcome)
    words = outcome["score"].split()
    return float(words[1]) if len(words) > 1 else None


# --------------------------------------------------------------------------------------------------- evaluation

EVAL_HELP = """usage: python eval.py run=RUN_DIRECTORY [split=test] [data=NAME] [evaluator=NAME] [key=value ...]
       python eval.py run=CHECKPOINT model=NAME [data=NAME] ...

Evaluates a recorded run, or a bare checkpoint of a named model, on its own or other data. The result is a
directory of its own in runs_dir (default runs), with predictions, metrics.json and report.html."""


def evaluate(argv: list[str]) -> int:
    """`eval.py`: like train's contract; the model and, unless overridden, everything else come from the run."""
    if "--help" in argv or "-h" in argv:
        print(EVAL_HELP)
        return 0
    from clarion import config

    try:
        cfg, overrides, checkpoint, source, split = evaluation_setup(argv)
    except ClarionError as error:
        return refuse(error)
    import hashlib
    import logging

    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    from clarion.run import re_evaluate

    digest = hashlib.sha256(f"{source}|{split}|{config.run_id(_root_=cfg)}".encode()).hexdigest()[:8]
    directory = (
        Path(str(cfg.runs_dir)).expanduser().resolve() / f"eval-{cfg.model.name}-{cfg.data.name}-{split}-{digest}"
    )
    outcome = re_evaluate(cfg, overrides, checkpoint, source, directory, split)
    print(f"{outcome['status']}: {outcome['directory']}" + (f"  {outcome['score']}" if outcome["score"] else ""))
    return outcome["exit_code"]


def evaluation_setup(argv: list[str]):
    """(cfg, overrides, checkpoint, source name, split) of an eval.py command line; UsageError with all mistakes."""
    from omegaconf import OmegaConf

    from clarion import config
    from clarion.preflight import preflight
    from clarion.record import RunRecord, read_json

    own = {k: v for k, _, v in (a.partition("=") for a in argv) if k in ("run", "split")}
    rest = [a for a in argv if a.partition("=")[0] not in own]
    if not own.get("run"):
        keys = [a.partition("=")[0] for a in rest]
        hint = next((f" (is `{k}` meant?)" for k in keys if config.nearest(k, ["run"])), "")
        raise UsageError(f"Which run? python eval.py run=RUN_DIRECTORY [data=...] [evaluator=...]{hint}")
    split = own.get("split", "test")
    if split not in ("train", "val", "test"):
        raise UsageError(f"split={split}: choose train, val or test.{config.nearest(split, ['train', 'val', 'test'])}")
    path = Path(os.path.expanduser(own["run"]))
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UsageError(f"run={own['run']}: no such run directory or checkpoint.{config.nearest(path.name, siblings)}")
    if (path / "manifest.json").is_file():
        record = RunRecord(path.resolve())
        manifest = read_json(path / "manifest.json")
        if not record.complete:
            raise UsageError(
                f"run={path} is incomplete ({manifest.get('status')}): finish it first with "
                f"{command_from(path)} resume=true"
            )
        recorded = list(OmegaConf.load(path / "overrides.yaml")) if (path / "overrides.yaml").is_file() else []
        checkpoint, source = path / manifest.get("checkpoint", ""), manifest.get("run", path.name)
        if not manifest.get("checkpoint") or not checkpoint.exists():
            raise UsageError(f"run={path} has no checkpoint (evaluations and cleaned runs have none).")
        checkpoint = checkpoint.resolve()
        if path.resolve() not in checkpoint.parents:
            raise UsageError(f"run={path}: its manifest points outside the run directory; refused.")
    else:
        if not any(a.startswith("model=") for a in rest):
            raise UsageError(
                f"run={path} is a bare checkpoint: say which model it is, model=NAME (see `clarion list models`)."
            )
        recorded, checkpoint, source = [], path.resolve(), path.name
    merged = merge_overrides(recorded, rest)
    checked = preflight(merged)
    return config.compose_config(checked), checked, checkpoint, source, split


def merge_overrides(recorded: list[str], new: list[str]) -> list[str]:
    """New overrides win; a changed data set drops what was said of the old one (its root, fold, sizes)."""

    def key(text: str) -> str:
        return text.partition("=")[0].lstrip("+~")

    replaced = {key(n) for n in new}
    dropped = {"resume", "runs_dir", *replaced}
    prefixes = {"data": "data.", "evaluator": "evaluators."}
    below = tuple(prefix for group, prefix in prefixes.items() if group in replaced)
    kept = [r for r in recorded if key(r) not in dropped and not key(r).startswith(below or ("\0",))]
    return kept + new


def command_from(run: Path) -> str:
    from omegaconf import OmegaConf

    from clarion.jobs import command_of

    path = run / "overrides.yaml"
    return command_of(list(OmegaConf.load(path))) if path.is_file() else "python train.py ..."
