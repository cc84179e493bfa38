"""Everything wrong with a command line, found before torch is imported and said at once.

Hydra alone stops at the first mistake and offers no names.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clarion import launchers
from clarion.config import (
    FREE,
    GROUPS,
    choices,
    compose_config,
    conf_dir,
    group_task,
    nearest,
    numbered,
    target_problems,
)
from clarion.errors import UsageError
from clarion.tuning.space import corners

PRECISIONS = ("auto", "32", "16", "bf16")


def preflight(argv: list[str]) -> list[str]:
    """Check a train.py command line; return it in the form that hydra.main takes.

    Raises UsageError listing every mistake. Additions below the FREE subtrees (`trainer.args.lr0=0.01`)
    are rewritten to Hydra's `++` form, so that users need not know it.
    """
    args = get_args_parser().parse_args(argv)
    if args.multirun and (args.cfg or args.info):
        raise UsageError("--cfg and --info print one job's configuration: leave out -m.")
    if args.config_name or args.config_dir or args.config_path:
        return argv  # the user's own config tree: Hydra's business
    overrides, problems = parse(args.overrides)
    problems += group_problems(overrides)
    composed = None if problems else try_compose(overrides)
    if composed is None or any(o.is_add() or o.is_force_add() for o in overrides):
        problems += key_problems(overrides)  # Hydra's own complaint about a key, if any, names no neighbour
    if not problems:
        problems += job_problems([o.input_line for o in overrides], bool(args.multirun), composed)
    if problems:
        raise UsageError(numbered(problems))
    rewritten = {raw: o.input_line for raw, o in zip(args.overrides, overrides)}
    return [rewritten.get(a, a) for a in argv]


def try_compose(overrides: list[Override]) -> DictConfig | None:
    """The config of a single job, or None where it does not compose or where several jobs are asked for."""
    if any(o.is_sweep_override() or o.key_or_group == "experiment" for o in overrides):
        return None
    try:
        return compose_config([o.input_line for o in overrides])
    except Exception:
        return None


def parse(texts: list[str]) -> tuple[list[Override], list[str]]:
    """Parse overrides one by one, so that one syntax error does not hide the others."""
    parser, overrides, problems = OverridesParser.create(), [], []
    for text in texts:
        if not re.match(r"^(\+\+?|~)?[\w./@:-]+(=|$)", text) or ("=" not in text and not text.startswith("~")):
            problems.append(f"`{text}`: not of the form key=value (for example model=yolo11x or trainer.epochs=10).")
            continue
        if any(re.match(rf"^\+?{re.escape(f)}\.", text) for f in FREE):
            text = "++" + text.lstrip("+")
        try:
            overrides.append(parser.parse_override(text))
        except Exception as error:  # HydraException and antlr's own
            reason = str(error).splitlines()[0].strip()
            problems.append(
                f"`{text}`: Hydra cannot read this value ({reason}); quote it: '{text.split('=')[0]}=\"...\"'."
            )
    return overrides, problems


def option_names(override: Override) -> list[str]:
    """The options a group override names: one, a sweep's several, or a list's."""
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
    names: list[str] = []
    for value in values:
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            value = [v.strip() for v in value[1:-1].split(",")]
        names += [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]
    return names


def is_group(override: Override) -> bool:
    return override.key_or_group in GROUPS or (conf_dir() / override.key_or_group).is_dir()


def group_problems(overrides: list[Override]) -> list[str]:
    problems, seen = [], set()
    for o in overrides:
        if o.key_or_group in seen and not o.is_add():
            problems.append(f"`{o.key_or_group}` is given twice; keep one.")
        seen.add(o.key_or_group)
        if not is_group(o) or o.is_delete():
            continue
        for name in option_names(o):
            known = choices(o.key_or_group)
            if absent := launchers.missing(o.key_or_group, name):
                problems.append(absent)
            if name in known or (name in ("null", "None") and o.key_or_group in ("experiment", "evaluator")):
                continue
            if name.startswith("_"):
                problems.append(f"{o.key_or_group}={name}: `{name}` is a base that others build on, not a choice.")
            else:
                listed = ", ".join(known) if len(known) <= 12 else f"see `clarion list {o.key_or_group}`"
                problems.append(
                    f"{o.key_or_group}={name}: no such {o.key_or_group}.{nearest(name, known)} (choices: {listed})"
                )
    return problems


def key_problems(overrides: list[Override]) -> list[str]:
    """Keys that no composed config has. Composed with the valid group choices (a sweep's first one)."""
    selected = []
    for o in overrides:
        if is_group(o) and not o.is_delete():
            good = [n for n in option_names(o) if n in choices(o.key_or_group)]
            if good and not o.key_or_group.startswith("hydra"):
                value = (
                    f"[{','.join(good)}]" if o.key_or_group == "evaluator" and not o.is_sweep_override() else good[0]
                )
                selected.append(f"{o.key_or_group}={value}")
    try:
        cfg = compose_config(selected)
    except Exception:
        cfg = compose_config([])  # the real composition below reports what is wrong with the choices
    known = set(flat_keys(cfg))
    problems = []
    for o in overrides:
        key = o.key_or_group
        if is_group(o) or key in known or key == "hydra" or key.startswith("hydra."):
            continue
        if any(key == f or key.startswith(f + ".") for f in FREE):
            continue
        if "." not in key:
            names = [k for k in known if "." not in k] + list(GROUPS)
            hint = nearest(key, names)
            problems.append(f"`{key}`: no such config group or key.{hint or ' See train.py --help.'}")
            group = next((g for g in difflib.get_close_matches(key, GROUPS, 1, 0.55)), None)
            for name in option_names(o) if group else []:
                if name not in choices(group):
                    problems.append(f"{group}={name}: no such {group}.{nearest(name, choices(group))}")
        else:
            parent, _, leaf = key.rpartition(".")
            siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent]
            hint = nearest(leaf, siblings) or nearest(key, known)
            listed = f" ({parent} has: {', '.join(sorted(siblings))})" if siblings else ""
            problems.append(f"`{key}`: nothing reads this key.{hint}{listed}")
    return problems


def flat_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in node:
        path = f"{prefix}{key}"
        yield path
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from flat_keys(child, path + ".")


def expand(overrides: list[str], params: dict | None = None) -> list[list[str]]:
    """All jobs of a (basic) sweep: the product of every `a,b` override, an experiment's sweeper.params below them."""
    parsed, _ = parse(overrides)
    given = {o.key_or_group for o in parsed}
    extra, _ = parse([f"{k}={v}" for k, v in (params or {}).items() if k not in given])
    axes = []
    for o in parsed + extra:
        if o.is_sweep_override():
            axes.append([f"{o.input_line.split('=')[0]}={v}" for v in o.sweep_string_iterator()])
        else:
            axes.append([o.input_line])
    return [list(job) for job in itertools.product(*axes)]


def job_problems(overrides: list[str], sweeping: bool, composed: DictConfig | None = None) -> list[str]:
    """Compose every job and check it; the same complaint of several jobs is said once."""
    if composed is not None:
        return check_config(composed)
    params: dict = {}
    tuned = False
    if any(o.startswith(("experiment=", "hydra.sweep", "hydra/sweeper=")) for o in overrides):
        try:
            hydra = compose_config([o for o in overrides if not _sweeps(o)], with_hydra=True).hydra
        except Exception as error:
            return [composition_problem(error)]
        params = dict(hydra.sweeper.get("params") or {})
        tuned = str(hydra.sweeper.get("_target_")).endswith(".OptunaSweeper")
        sweeping = sweeping or str(hydra.get("mode")).endswith("MULTIRUN")
    if not sweeping:
        several = [o for o in overrides if _sweeps(o)]
        if several:
            return [f"`{several[0]}` asks for several runs: add -m (python train.py -m ...)."]
    jobs = [overrides]
    if sweeping and tuned:
        parsed, _ = parse(overrides)
        given = {o.key_or_group for o in parsed}
        extra, bad = parse([f"{k}={v}" for k, v in params.items() if k not in given])
        try:
            jobs = corners([*parsed, *extra])
        except UsageError as error:
            return [*bad, str(error)]
    elif sweeping:
        for o in overrides:
            if _sweeps(o) and parse([o])[0][0].is_interval_sweep():
                return [f"`{o}` is a space to search: add hydra/sweeper=optuna, or list values (a,b,c)."]
        jobs = expand(overrides, params)
    problems = []
    for job in jobs:
        try:
            cfg = compose_config(job)
        except Exception as error:
            problems.append(composition_problem(error))
            continue
        problems += check_config(cfg)
    return problems


def _sweeps(override: str) -> bool:
    parsed, _ = parse([override])
    return bool(parsed) and parsed[0].is_sweep_override()


def composition_problem(error: Exception) -> str:
    return "The configuration does not compose: " + " ".join(str(error).split())[:400]


# ----------------------------------------------------------------------------------------------------- the checks


def check_config(cfg: DictConfig) -> list[str]:
    """Everything wrong with one composed config, as sentences. Imports nothing, opens no data file."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        return [composition_problem(error)]
    return [
        *value_problems(plain),
        *match_problems(plain),
        *root_problems(plain.get("data") or {}),
        *init_problems(plain.get("init_from") or {}, plain.get("model") or {}),
        *target_problems({k: v for k, v in plain.items() if k != "hydra"}),
    ]


def value_problems(cfg: dict) -> list[str]:
    problems = []

    def whole(path: str, value, low: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            problems.append(f"{path}={value}: give a whole number, {low} or more.")

    whole("seed", cfg.get("seed"), 0)
    trainer = cfg.get("trainer") or {}
    whole("trainer.epochs", trainer.get("epochs"), 1)
    whole("trainer.batch_size", trainer.get("batch_size"), 1)
    if not isinstance(cfg.get("resume"), bool):
        problems.append(f"resume={cfg.get('resume')}: give true or false.")
    if str(trainer.get("precision")) not in PRECISIONS:
        problems.append(
            f"trainer.precision={trainer.get('precision')}: choose one of {', '.join(PRECISIONS)}."
            f"{nearest(str(trainer.get('precision')), PRECISIONS)}"
        )
    if not re.fullmatch(r"auto|cpu|mps|cuda|cuda:\d+(,\d+)*", str(trainer.get("device"))):
        problems.append(f"trainer.device={trainer.get('device')}: choose auto, cpu, mps, cuda or cuda:0.")
    fold = (cfg.get("data") or {}).get("fold")
    if fold is not None:
        whole("data.fold", fold, 0)
    if not isinstance(cfg.get("runs_dir"), str) or Path(cfg["runs_dir"]).is_file():
        problems.append(f"runs_dir={cfg.get('runs_dir')}: give a folder (it is made if absent).")
    return problems


def match_problems(cfg: dict) -> list[str]:
    """Model, trainer, data and evaluators must be about the same task; refused by name."""
    model, data, trainer = cfg.get("model") or {}, cfg.get("data") or {}, cfg.get("trainer") or {}
    task, name = model.get("task"), model.get("name")
    if not task or not name:
        return ["No model is chosen: add model=NAME (see `clarion list models`)."]
    problems = []
    runs_on = model.get("trainer") or trainer.get("name")
    runs_on = runs_on if isinstance(runs_on, list) else [runs_on]
    if trainer.get("name") not in runs_on:
        problems.append(
            f"model={name} runs on trainer={' or '.join(runs_on)}, not on trainer={trainer.get('name')}: "
            f"drop trainer={trainer.get('name')} (the model brings its own)."
        )
    if data.get("task") != task:
        problems.append(
            f"model={name} is for {task}, data={data.get('name')} is for {data.get('task')}: "
            f"choose {offered('data', task)}, or {offered('model', data.get('task'))}."
        )
    evaluators = cfg.get("evaluators") or {}
    if not evaluators:
        problems.append(f"No evaluator is chosen: add evaluator=NAME ({offered('evaluator', task)}).")
    for key, evaluator in evaluators.items():
        tasks = evaluator.get("task")
        if task not in (tasks if isinstance(tasks, list) else [tasks]):
            problems.append(
                f"evaluator={key} is for {tasks if isinstance(tasks, str) else ' / '.join(tasks or [])}, "
                f"model={name} is for {task}: choose {offered('evaluator', task)}."
            )
    return problems


def offered(group: str, task: str | None) -> str:
    """'data=a, b or c': the options of a group whose config states this task."""
    names = [n for n in choices(group) if group_task(group, n) == task]
    if not names:
        return f"another {group}"
    shown = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    return f"{group}={shown}"


def root_problems(data: dict) -> list[str]:
    """A data root that is given must exist and look like one of the layouts its config expects."""
    root, layouts = data.get("root"), data.get("layouts") or {}
    expected = data.get("expected") or (
        ""
        if not layouts
        else "Expected below it, one of:"
        + "".join(f"\n     {name}: {', '.join(patterns)}" for name, patterns in layouts.items())
    )
    expected = f"\n{expected}" if expected else ""
    if root is None:
        if data.get("kind") in ("private", "public") and "root" in data:
            return [f"data={data.get('name')} has no embedded default: add data.root=/path/to/your/data.{expected}"]
        return []
    path = Path(os.path.expanduser(str(root)))
    if not path.exists():
        parent = path.parent
        siblings = [p.name for p in itertools.islice(parent.iterdir(), 500)] if parent.is_dir() else []
        return [f"data.root={root}: no such folder.{nearest(path.name, siblings)}{expected}"]
    if layouts and not any(all(_matches(path, pattern) for pattern in patterns) for patterns in layouts.values()):
        return [f"data.root={root}: not a {data.get('name')} data set.{expected}"]
    return []


def _matches(root: Path, pattern: str) -> bool:
    if pattern in (".", ""):
        return True
    return next(iter(root.glob(pattern)), None) is not None if root.is_dir() else False


def init_problems(init_from: dict, model: dict) -> list[str]:
    """init_from.NAME fills model.NAME with a run's checkpoint, so the model must have such a setting."""
    problems = []
    for name, run in init_from.items():
        if name not in model:
            hint = nearest(name, model)
            problems.append(f"init_from.{name}: model={model.get('name')} has no setting `{name}`.{hint}")
        if str(run).startswith("model="):  # trained first, see clarion.starting
            named = str(run).split()[0].removeprefix("model=")
            if named not in choices("model"):
                problems.append(f"init_from.{name}={run}: no such model.{nearest(named, choices('model'))}")
        elif not (Path(str(run)).expanduser() / "metrics.json").is_file():
            problems.append(f"init_from.{name}={run}: not a complete run (no metrics.json there).")
    return problems


def help_text(program: str = "train.py") -> str:
    lines = [
        f"usage: python {program} [-m] [group=option ...] [key=value ...]",
        "",
        "  python train.py experiment=demo                    the demo: yolo11n on a small ERM phantom",
        "  python train.py model=yolo11x data=erm_full       one run; a model brings its trainer and evaluator",
        "  python train.py -m model=yolo11n,yolov8s seed=0,1  a sweep, ended by a table of its jobs",
        "  python train.py -m experiment=erm_detection       the published table's 24 cells",
        "  python train.py ... data.root=/path                your own data",
        "  python train.py ... resume=true                    continue an incomplete run",
        "  python train.py ... --cfg job                      print the composed config and stop",
        "",
        "choices:",
    ]
    for group in GROUPS:
        names = ", ".join(choices(group))
        lines += _wrap(f"  {group:<11}", names)
    lines += [
        "",
        "the same for every trainer: trainer.epochs trainer.batch_size trainer.device trainer.precision seed",
        "everything else goes to the library verbatim: trainer.args.KEY=VALUE",
        "where runs lie: runs_dir=runs      more: README.md, `clarion --help`",
    ]
    return "\n".join(lines)


def _wrap(head: str, text: str, width: int = 110) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * len(head)) or [head]
