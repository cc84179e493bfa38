"""A study: trials asked of optuna, run as jobs of any launcher, told back from what their run directories hold.

    RUNS_DIR/tuning/STUDY/  study.db         optuna's storage
                            trial-0007/      a run directory, scored on val (its manifest says kind: trial)
                            trials.csv best.yaml

What a trial came to is read from its directory alone, so it does not matter where it ran, and a study that was killed
goes on: finished trials stay, unfinished ones continue from their checkpoints. The sampler's randomness depends on
(seed, number of the trial), so such a study ends like one that was never killed (with n_jobs=1).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clarion import jobs
from clarion.config import NOT_IDENTITY, nearest
from clarion.errors import ClarionError, UsageError
from clarion.evaluating import headline
from clarion.record import RunRecord, write_atomic
from clarion.tuning import written
from clarion.tuning.objective import Objective, choose
from clarion.tuning.space import Axis, divide
from clarion.tuning.trial import make_pruner, open_storage

log = logging.getLogger("clarion")
SAMPLERS, PRUNERS = ("tpe", "random"), ("median", "hyperband", "none")


@dataclass
class Tuning:
    """One command of a study."""

    name: str
    folder: Path
    settings: dict[str, Any]
    objective: Objective
    fixed: list[str]  # overrides of every trial
    axes: list[Axis]
    epochs: int
    digest: str  # of all that makes the search what it is

    @classmethod
    def of(cls, settings: Mapping[str, Any], arguments: Sequence[str], config: DictConfig) -> Tuning:
        """From hydra.sweeper's settings, the overrides of the command line and the config composed without the search.

        UsageError for settings that make no study."""
        from clarion.preflight import parse

        settings = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in settings.items()}
        given, _ = parse(list(arguments))
        own = {o.key_or_group for o in given}
        extra, problems = parse([f"{k}={v}" for k, v in (settings.get("params") or {}).items() if k not in own])
        if problems:
            raise UsageError(problems[0])
        fixed, axes = divide([*given, *extra])
        check_settings(settings, axes)
        objective = choose(settings, config.evaluators, str(config.trainer.name), config.model)
        hashed = {
            "fixed": sorted(f for f in fixed if f.partition("=")[0].partition(".")[0].lstrip("+~") not in NOT_IDENTITY),
            "axes": [a.described() for a in axes],
            **{k: settings.get(k) for k in ("sampler", "pruner", "seed", "startup_trials", "warmup_epochs")},
            "objective": [objective.metric, objective.direction, objective.monitor],
        }
        digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:8]
        name = str(settings.get("study") or f"{config.model.name}-{config.data.name}-{digest}")
        if not re.fullmatch(r"[\w.-]+", name):
            raise UsageError(f"hydra.sweeper.study={name}: letters, digits, `-`, `_` and `.` make a name.")
        folder = Path(str(config.runs_dir)).expanduser().resolve() / "tuning" / name
        return cls(name, folder, settings, objective, fixed, axes, int(config.trainer.epochs), digest)

    @property
    def storage(self) -> str:
        kind = self.settings.get("storage")
        return f"journal:{self.folder / 'study.log'}" if kind == "journal" else f"sqlite:///{self.folder / 'study.db'}"

    @property
    def pruner(self) -> dict[str, Any]:
        name = self.settings["pruner"] if self.objective.monitor else "none"
        return {"name": name, "startup": int(self.settings["startup_trials"]),
                "warmup": int(self.settings["warmup_epochs"]), "epochs": self.epochs}  # fmt: skip

    # ---- the loop --------------------------------------------------------------------------------------------

    def run(self, launch: Callable, validate: Callable) -> list[Any]:
        """Run what is missing of n_trials; returns what the launcher returned of every batch."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            study_name=self.name, storage=open_storage(self.storage), direction=self.objective.direction,
            pruner=make_pruner(self.pruner), load_if_exists=True,
        )  # fmt: skip
        if study.user_attrs.get("search", self.digest) != self.digest:
            raise UsageError(f"The study {self.name} was begun with another search (space, settings or objective): "
                             f"take another hydra.sweeper.study, or delete {self.folder}.")  # fmt: skip
        study.set_user_attr("search", self.digest)
        waiting = [t.number for t in study.get_trials(deepcopy=False) if not t.state.is_finished()]
        done = len(study.get_trials(deepcopy=False)) - len(waiting)
        log.info("study %s: %s %s on val; %d of %d trials are done, in %s", self.name, self.objective.direction,
                 self.objective.metric, done, self.settings["n_trials"], self.folder)  # fmt: skip
        for number in range(done + len(waiting)):
            self._post_finished(number)
        returned = []
        while True:
            batch = self._batch(study, waiting)
            if not batch:
                break
            jobs = [self.overrides(study, number) for number in batch]
            validate(jobs)
            returned += launch(jobs, initial_job_idx=batch[0])
            for number in batch:
                self._tell(study, number)
            self._write(study)
            self._stop_where_nothing_works(study)
        self._finish(study)
        return [returned]

    def _batch(self, study: Any, waiting: list[int]) -> list[int]:
        """Numbers of the trials to run next: what a kill left first. [] when all are done."""
        size = int(self.settings["n_jobs"])
        batch = []
        while len(batch) < size:
            if waiting:
                number = waiting.pop(0)
                if self._tell(study, number, only_finished=True):
                    continue
                batch.append(number)
            elif len(study.get_trials(deepcopy=False)) < int(self.settings["n_trials"]):
                if (number := self._ask(study)) is not None:
                    batch.append(number)
            else:
                break
        # Jobs of one launch are numbered from the first on: only neighbours go together.
        whole = [n for k, n in enumerate(batch) if n == batch[0] + k]
        waiting[:0] = [n for n in batch if n not in whole]
        return whole

    def _ask(self, study: Any) -> int | None:
        """The number of a new trial; None where a trial of the same values is complete, whose score it is given."""
        earlier = study.get_trials(deepcopy=False)
        study.sampler = make_sampler(self.settings, len(earlier))
        trial = study.ask()
        for axis in self.axes:
            axis.suggest(trial)
        same = next((t for t in earlier if t.state.name == "COMPLETE" and t.params == trial.params), None)
        if same is None:
            return trial.number
        log.info("trial %d asks for what trial %d was: not run again", trial.number, same.number)
        study.tell(trial.number, same.value)
        return None

    def overrides(self, study: Any, number: int) -> list[str]:
        """The job of a trial: what is fixed, its values, and where and how it reports."""
        params = study.get_trials(deepcopy=False)[number].params
        told = {"number": number, "study": self.name, "storage": self.storage, "metric": self.objective.metric,
                "direction": self.objective.direction, "pruner": self.pruner,
                "monitor": list(self.objective.monitor) if self.objective.monitor else None}  # fmt: skip
        resume = ["resume=true"] if (self.directory(number) / "manifest.json").is_file() else []
        return [
            *(f for f in self.fixed if not (resume and f.startswith("resume="))),
            *(a.override(params[a.key]) for a in self.axes),
            *resume,
            f"hydra.sweep.dir='{self.folder}'",
            f"hydra.sweep.subdir={self.directory(number).name}",
            f"hydra.sweeper.trial='{json.dumps(told)}'",
        ]

    def directory(self, number: int) -> Path:
        return self.folder / f"trial-{number:04d}"

    def _tell(self, study: Any, number: int, only_finished: bool = False) -> bool:
        """What the trial's directory says, to the study; False (and nothing told) for an unfinished one."""
        from optuna.trial import TrialState

        record = RunRecord(self.directory(number))
        status = record.manifest().get("status")
        if record.complete:
            value = self.objective.value(record.metrics())
            if value is None:
                log.warning("trial %d: %s is undefined on val", number, self.objective.metric)
                study.tell(number, state=TrialState.FAIL)
            else:
                study.tell(number, value)
        elif status == "pruned":
            study.tell(number, state=TrialState.PRUNED)
        elif only_finished:
            return False
        else:
            study.tell(number, state=TrialState.FAIL)
        return True

    def _post_finished(self, number: int) -> None:
        """A trial of an earlier command, for the table of jobs that ends this one."""
        record = RunRecord(self.directory(number))
        if record.complete or record.manifest().get("status") == "pruned":
            score = headline(record.metrics()) if record.complete else ""
            why = "already complete" if record.complete else "pruned before"
            jobs.post({"number": number, "directory": str(record.directory), "status": "skipped", "reason": why,
                       "score": score, "seconds": 0, "command": "", "exit_code": 0})  # fmt: skip

    def _stop_where_nothing_works(self, study: Any) -> None:
        trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        if len(trials) >= 3 and all(t.state.name == "FAIL" for t in trials):
            why = (self.directory(trials[-1].number) / "error.txt")
            first = why.read_text(encoding="utf-8").splitlines()[0] if why.is_file() else "see its run.log"
            raise ClarionError(f"Every trial so far has failed ({len(trials)}), the last with: {first}. "
                               f"Mend it and delete {self.folder}.")  # fmt: skip

    # ---- results ---------------------------------------------------------------------------------------------

    def _write(self, study: Any) -> None:
        """trials.csv: number, state, value on val, epochs reported, parameters."""
        keys = [a.key for a in self.axes]
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["trial", "state", self.objective.metric, "epochs_reported", *keys])
        for t in study.get_trials(deepcopy=False):
            value = t.value if t.state.name == "COMPLETE" else ""
            values = [t.params.get(k, "") for k in keys]
            rows.writerow([t.number, t.state.name.lower(), value, len(t.intermediate_values), *values])
        write_atomic(self.folder / "trials.csv", text.getvalue())

    def _finish(self, study: Any) -> None:
        self._write(study)
        counts = {s: sum(t.state.name == s for t in study.trials) for s in ("COMPLETE", "PRUNED", "FAIL")}
        if not counts["COMPLETE"]:
            raise ClarionError(f"No trial of {self.name} was completed ({counts}): there is no best one.")
        best = study.best_trial
        shown = ", ".join(f"{k}={v}" for k, v in best.params.items())
        log.info("study %s: %d complete, %d pruned, %d failed; best is trial %d, %s %.6g on val, with %s", self.name,
                 *counts.values(), best.number, self.objective.metric, best.value, shown)  # fmt: skip
        recorded = RunRecord(self.directory(best.number))
        text = written.experiment(recorded, self.objective, best, counts, self.settings.get("experiment"))
        write_atomic(self.folder / "best.yaml", text)
        if name := self.settings.get("experiment"):
            path = written.keep(text, str(name), bool(self.settings.get("force")))
            log.info("the best configuration is %s: python train.py experiment=%s", path, name)


def check_settings(settings: Mapping[str, Any], axes: Sequence[Axis]) -> None:
    """UsageError for settings that make no study; all is found before a trial starts."""
    if not axes:
        raise UsageError("hydra/sweeper=optuna has nothing to search: give a setting a space, such as "
                         "'model.lr=tag(log,interval(1e-4,1e-2))' or trainer.batch_size=8,16.")  # fmt: skip
    for key, known in (("sampler", SAMPLERS), ("pruner", PRUNERS), ("storage", (None, "journal"))):
        if settings.get(key) not in known and not (key == "pruner" and settings.get(key) is None):
            raise UsageError(f"hydra.sweeper.{key}={settings.get(key)}: choose {', '.join(str(k) for k in known)}."
                             f"{nearest(str(settings.get(key)), [str(k) for k in known])}")  # fmt: skip
    for key, low in (("n_trials", 1), ("n_jobs", 1), ("startup_trials", 0), ("warmup_epochs", 0), ("seed", 0)):
        value = settings.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise UsageError(f"hydra.sweeper.{key}={value}: give a whole number, {low} or more.")
    if name := settings.get("experiment"):
        written.target(str(name), bool(settings.get("force")))


def make_sampler(settings: Mapping[str, Any], number: int) -> Any:
    """The sampler of one trial; its randomness depends on (seed, number) alone."""
    import numpy as np
    import optuna

    seed = int(np.random.SeedSequence([int(settings["seed"]), number]).generate_state(1)[0])
    if settings["sampler"] == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(n_startup_trials=max(1, int(settings["startup_trials"])), seed=seed)
