"""One trial inside its job: reports every epoch to the study, and ends the training that the pruner gives up.

It works on the tracker, to which every trainer logs its epochs, so it works for all of them alike.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clarion.errors import ClarionError
from clarion.tuning.objective import Objective

log = logging.getLogger("clarion")


class Pruned(ClarionError):
    """The training was stopped by the pruner: no failure."""

    status = "pruned"


class Trial:
    """settings: the JSON-able description of `hydra.sweeper.trial`, made by study.Tuning.

    number, study, storage (see `open_storage`), metric, direction, monitor, pruner {name, startup, warmup, epochs}.
    """

    def __init__(self, settings: Mapping[str, Any]):
        self.settings = dict(settings)
        monitor = settings.get("monitor")
        self.objective = Objective(settings["metric"], settings["direction"], tuple(monitor) if monitor else None)

    def watched(self, tracker: Any) -> Any:
        """The tracker, reporting to the study as well (itself where nothing is monitored)."""
        return WatchedTracker(tracker, self._trial(), self.objective) if self.objective.monitor else tracker

    def _trial(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.load_study(
            study_name=self.settings["study"],
            storage=open_storage(self.settings["storage"]),
            pruner=make_pruner(self.settings["pruner"]),
        )
        frozen = study.get_trials(deepcopy=False)[self.settings["number"]]
        return optuna.trial.Trial(study, frozen._trial_id)


class WatchedTracker:
    """A tracker that raises Pruned from `log` when the study gives this trial up; all else is the tracker's own."""

    def __init__(self, tracker: Any, trial: Any, objective: Objective):
        self._tracker, self._trial, self._objective = tracker, trial, objective

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._tracker.log(metrics, step)
        name = self._objective.monitor[0]
        value = metrics.get(name)
        if value is None or value != value:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resumed trial reports its last epoch again: the first report counts
            self._trial.report(self._objective.reported(float(value)), int(step))
        if self._trial.should_prune():
            raise Pruned(f"pruned at step {step}: {name} {value:.4g} is worse than the other trials' then.")


def open_storage(where: str) -> Any:
    """sqlite:///FILE as it is; journal:FILE -> optuna's journal, which a network file system bears."""
    import optuna

    if where.startswith("journal:"):
        from optuna.storages.journal import JournalFileBackend

        return optuna.storages.JournalStorage(JournalFileBackend(where.removeprefix("journal:")))
    Path(where.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.RDBStorage(where, engine_kwargs={"connect_args": {"timeout": 60}})


def make_pruner(settings: Mapping[str, Any]) -> Any:
    """median, hyperband or none; see conf/hydra/sweeper/optuna.yaml."""
    import optuna

    if settings["name"] == "median":
        return optuna.pruners.MedianPruner(settings["startup"], settings["warmup"])
    if settings["name"] == "hyperband":
        return optuna.pruners.HyperbandPruner(max(1, settings["warmup"]), max(2, settings["epochs"]))
    return optuna.pruners.NopPruner()
