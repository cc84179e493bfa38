"""`clarion look` of a fused run goes through the slide model that its checkpoint carries; the page links to it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from clarion.config import compose_config, register_resolvers
from clarion.errors import DataError, UsageError
from clarion.looking import clear, look_run, patient_folder
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


def test_a_second_look_takes_the_former_patients_files_away(slide_run, tmp_path):
    out = tmp_path / "look"
    first = look_run(slide_run, out, patients=3, pages=1)
    (shown,) = [row["sample_id"] for row in first["patients"] if row["files"]]
    (out / "mine.txt").write_text("mine")
    look_run(slide_run, out, patients=3, pages=0)
    assert sorted(p.name for p in out.iterdir()) == ["looking.json", "mine.txt"] and shown


def test_nothing_but_what_a_look_writes_is_taken_away(tmp_path):
    out = tmp_path / "above" / "look"
    for name in ("P1/slide-1.html", "P1/slide-1/0/0_0.jpg", "P1/notes.txt", "P2/mil-1.tif", "../slide-1.html",
                 "../P3/slide-1.html"):  # fmt: skip
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    (out / "P3").symlink_to(tmp_path / "above" / "P3")
    listed = ["P1/slide-1.html", "P1/notes.txt", "P2/mil-1.tif", "../slide-1.html", "../P3/slide-1.html",
              "P3/slide-1.html", "", "..", "P1/../../slide-1.html", "/etc/slide-1.html", "P9/slide-1.html"]  # fmt: skip
    (out / "looking.json").write_text(json.dumps({"patients": [{"files": listed}]}))
    clear(out)
    left = sorted(p.relative_to(out.parent).as_posix() for p in out.parent.rglob("*") if p.is_file())
    assert left == ["P3/slide-1.html", "look/P1/notes.txt", "look/looking.json", "slide-1.html"]
    assert not (out / "P1/slide-1").exists() and not (out / "P2").exists()
    for other in ("{", "[]", "[3]", '{"patients": [3]}', '{"patients": 3}'):
        (out / "looking.json").write_text(other)
        clear(out)


@pytest.mark.parametrize("name", ["", ".", "..", "../P1", "a/b", "a\\b", "a\0b", "linked"])
def test_an_id_that_is_a_path_gets_no_folder(tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "linked").symlink_to(tmp_path)
    with pytest.raises(DataError, match="cannot name a folder|is a link out of --out") as caught:
        patient_folder(tmp_path / "out", name)
    assert "linked" not in caught.value.recorded
    assert patient_folder(tmp_path / "out", "P-1") == tmp_path / "out" / "P-1"


def test_a_fusion_without_slides_is_answered(fused_run):
    shutil.rmtree(fused_run / "checkpoints" / "best" / "fusion" / "slide")
    assert RunRecord(fused_run).complete
    with pytest.raises(UsageError, match="fuses no slide model"):
        look_run(fused_run, fused_run / "look")
