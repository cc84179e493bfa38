"""hydra/sweeper=optuna: the door by which Hydra finds clarion.tuning (plugins must live in this namespace).

Hydra imports this file at every start: optuna is loaded when a sweep begins.
"""

from __future__ import annotations

import sys
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Settings: conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, **settings: Any):
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from clarion.errors import ClarionError
        from clarion.tuning.study import Tuning

        try:
            tuning = Tuning.of(self.settings, arguments, self.config)
            return tuning.run(self.launcher.launch, self.validate_batch_is_legal)
        except ClarionError as error:  # Hydra would print the whole trace
            print(error, file=sys.stderr)
            raise SystemExit(error.exit_code) from error
