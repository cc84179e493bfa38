"""`clarion look` of a fused run goes through the slide model that its checkpoint carries; the page links to it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from clarion.config import compose_config, register_resolvers
from clarion.errors import UsageError
from clarion.looking import look_run
from clarion.record import RunRecord
from clarion.run import execute

sys.path.insert(0, str(Path(__file__).parents[1] / "swin"))
from test_swin_run import SMALL  # noqa: E402


@pytest.fixture(scope="module")
def slide_run(tmp_path_factory) -> Path:
    register_resolvers()
    words = [*SMALL, "trainer.epochs=1", "model.baselines=[]"]
    folder = tmp_path_factory.mktemp("slides") / "run"
    outcome = execute(compose_config(words), words, folder)
    assert outcome["status"] == "done", outcome["reason"]
    return folder


@pytest.fixture
def fused_run(slide_run, tmp_path) -> Path:
    """The record of a fused run as the trainer leaves it: the slide model lies below checkpoints/best/fusion/slide."""
    run = tmp_path / "fused"
    shutil.copytree(slide_run, run, ignore=shutil.ignore_patterns("best", "report.html"))
    shutil.copytree(slide_run / "checkpoints" / "best", run / "checkpoints" / "best" / "fusion" / "slide")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"] = {"name": "fusion_smollm2", "task": "survival", "fusion": {"modalities": ["slide", "omics"]}}
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return run


def test_a_fused_run_is_looked_into_through_its_slide_model(slide_run, fused_run):
    found = look_run(fused_run, fused_run / "look", patients=3, pages=1)
    alone = look_run(slide_run, slide_run.parent / "alone", patients=3, pages=0)
    assert found["model"] == "swin_mil_nano" and found["run"] == "fused" and found["hash"] != alone["hash"]
    assert found["pointing"] == alone["pointing"] and found["faithfulness"] == alone["faithfulness"]
    (page,) = [f for row in found["patients"] for f in row["files"] if f.endswith("slide-1.html")]
    assert f'href="look/{page}"' in (fused_run / "report.html").read_text()
    assert json.loads((fused_run / "look" / "looking.json").read_text())["pointing"]["slides"] >= 3
    assert all(row["files"] == [] for row in alone["patients"])


def test_a_fusion_without_slides_is_answered(fused_run):
    shutil.rmtree(fused_run / "checkpoints" / "best" / "fusion" / "slide")
    assert RunRecord(fused_run).complete
    with pytest.raises(UsageError, match="fuses no slide model"):
        look_run(fused_run, fused_run / "look")
