"""The configs build their evaluators, below evaluators.<name>, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONF = Path(__file__).resolve().parents[2] / "conf" / "evaluator"


@pytest.mark.parametrize("name", ["detection", "classification", "agreement"])
def test_config_builds(name):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    path = CONF / f"{name}.yaml"
    assert path.read_text(encoding="utf-8").startswith(f"# @package evaluators.{name}\n")
    evaluator = instantiate(OmegaConf.load(path), _convert_="all")
    tasks = {evaluator.task} if isinstance(evaluator.task, str) else set(evaluator.task)
    assert tasks and tasks <= {"detection", "classification"} and callable(evaluator.evaluate)


def test_evaluators_import_no_network_library():
    code = (
        "import sys, clarion.evaluators.agreement, clarion.evaluators.classification\n"
        "sys.exit(bool({'torch', 'ultralytics', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
