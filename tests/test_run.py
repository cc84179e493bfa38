"""The life of a run, through train.py and eval.py as a user types them, on a tiny phantom."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from clarion import launch
from clarion.record import read_json

TINY = [
    "model=yolo11n",
    "data=erm_demo",
    "data.eyes.train=4",
    "data.eyes.val=2",
    "data.eyes.test=3",
    "trainer.epochs=1",
    "trainer.batch_size=8",
    "trainer.args.imgsz=64",
    "evaluators.detection.n_resamples=50",
]


def train(*argv: str) -> int:
    return launch.train(list(argv))


def only_run(folder: Path) -> Path:
    runs = [p.parent for p in folder.glob("*/manifest.json")]
    assert len(runs) == 1, runs
    return runs[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert train(*TINY, f"runs_dir={runs}") == 0
    return only_run(runs)


def test_everything_is_recorded(finished):
    for name in (
        "config.yaml",
        "overrides.yaml",
        "manifest.json",
        "metrics.jsonl",
        "metrics.json",
        "report.html",
        "run.log",
        "predictions/test.parquet",
        "predictions/val.parquet",
        "truth/test.parquet",
        "checkpoints/best",
    ):
        assert (finished / name).exists(), name
    assert not (finished / "work").exists() and not (finished / "error.txt").exists()
    manifest = read_json(finished / "manifest.json")
    assert (
        manifest["status"] == "complete" and manifest["seed"] == 0 and manifest["device"] and manifest["duration_s"] > 0
    )
    assert len(manifest["data"]["fingerprint"]) >= 32 and manifest["data"]["counts"] == {
        "train": 40,
        "val": 20,
        "test": 30,
    }
    assert manifest["parameters"] == 2_590_035  # yolo11n at nc=1
    result = read_json(finished / "metrics.json")["evaluators"]["detection"]
    assert result["metrics"]["map50"]["n"] == 30 and result["metrics"]["map50"]["n_patients"] == 3
    assert list(yaml.safe_load((finished / "overrides.yaml").read_text()))[0] == "model=yolo11n"


def test_the_same_command_is_skipped(finished, capsys):
    before = (finished / "metrics.json").stat().st_mtime_ns
    assert train(*TINY, f"runs_dir={finished.parent}") == 0
    assert "skipped" in capsys.readouterr().out
    assert (finished / "metrics.json").stat().st_mtime_ns == before


def test_another_copy_has_the_same_predictions(finished, tmp_path):
    assert train(*TINY, f"runs_dir={tmp_path}") == 0
    copy = only_run(tmp_path)
    assert copy.name == finished.name
    for split in ("val", "test"):
        pd.testing.assert_frame_equal(
            *(pd.read_parquet(d / "predictions" / f"{split}.parquet") for d in (finished, copy))
        )
    ours, theirs = (read_json(d / "metrics.json")["evaluators"] for d in (finished, copy))
    assert ours == theirs


def test_an_incomplete_run_is_refused_then_resumed(finished, tmp_path, capsys):
    run = tmp_path / finished.name
    shutil.copytree(finished, run)
    (run / "metrics.json").unlink()
    assert train(*TINY, f"runs_dir={tmp_path}") == 2
    assert "resume=true" in capsys.readouterr().err
    assert train(*TINY, f"runs_dir={tmp_path}", "resume=true") == 0
    assert (run / "metrics.json").is_file()
    assert read_json(run / "metrics.json")["evaluators"] == read_json(finished / "metrics.json")["evaluators"]


def test_a_run_starts_from_another(finished, tmp_path):
    """One epoch of another seed at a learning rate of nothing ends with the weights of the run it started from."""
    still = ["seed=1", "+trainer.args.optimizer=SGD", "+trainer.args.lr0=1e-9", "+trainer.args.warmup_bias_lr=0"]
    assert train(*TINY, f"runs_dir={tmp_path}", f"init_from.weights={finished}", *still) == 0
    run = only_run(tmp_path)
    start = read_json(run / "manifest.json")["init_from"]
    assert start == {"weights": read_json(finished / "manifest.json")["checkpoint_hash"]}
    before, after = (load_file(next((d / "checkpoints" / "best").glob("*.safetensors"))) for d in (finished, run))
    kernels = [name for name, tensor in before.items() if tensor.ndim == 4]
    assert len(kernels) > 50
    for name in kernels:
        np.testing.assert_allclose(after[name].float(), before[name].float(), atol=2e-3, err_msg=name)


def test_a_crash_leaves_error_txt_and_the_sweep_goes_on(tmp_path, capsys):
    """Both jobs start; the one with an argument that ultralytics refuses fails, the other finishes."""
    code = train("-m", *TINY, f"runs_dir={tmp_path}", "trainer.args.mosaic=2.5,0.5")
    out = capsys.readouterr().out
    assert code != 0
    assert "1 done" in out and "mosaic" in out and "resume=true" in out
    errors = list(tmp_path.glob("*/error.txt"))
    assert len(errors) == 1 and "mosaic" in errors[0].read_text()
    assert read_json(errors[0].with_name("manifest.json"))["status"] == "failed"
    assert not (tmp_path / ".jobs").exists()


def phantom_copy(finished: Path, folder: Path) -> Path:
    """The tiny phantom as a user's own YOLO folder."""
    images = json.loads((finished / "truth" / "test_images.json").read_text())
    root = next(p for p in Path(next(iter(images.values()))).resolve().parents if (p / "samples.csv").is_file())
    shutil.copytree(root, folder)
    return folder


def test_a_leaking_split_is_refused_with_the_list(finished, tmp_path, capsys):
    root = phantom_copy(finished, tmp_path / "mine")
    with open(root / "samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    victim = next(r for r in rows if r["split"] == "test")
    victim["patient_id"] = next(r["patient_id"] for r in rows if r["split"] == "train")
    with open(root / "samples.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    code = train(
        "model=yolo11n",
        "data=yolo_folder",
        f"data.root={root}",
        "trainer.epochs=1",
        "trainer.args.imgsz=64",
        f"runs_dir={tmp_path / 'runs'}",
    )
    assert code == 1
    text = (only_run(tmp_path / "runs") / "error.txt").read_text()
    assert "train" in text and "test" in text and "patient" in text
    assert not (only_run(tmp_path / "runs") / "checkpoints").exists(), "it trained on leaking data"


def test_evaluate_a_run_on_other_data_and_a_bare_checkpoint(finished, tmp_path, capsys):
    root = phantom_copy(finished, tmp_path / "mine")
    assert launch.evaluate([f"run={finished}", "data=yolo_folder", f"data.root={root}", f"runs_dir={tmp_path}"]) == 0
    evaluation = next(tmp_path.glob("eval-yolo11n-yolo_folder-*"))
    there, here = (
        read_json(d / "metrics.json")["evaluators"]["detection"]["metrics"]["map50"]["value"]
        for d in (finished, evaluation)
    )
    assert there == pytest.approx(here, abs=1e-6), "the same eyes through another reader must score the same"
    assert (evaluation / "report.html").is_file() and read_json(evaluation / "manifest.json")["source"] == finished.name
    code = launch.evaluate([f"run={finished / 'checkpoints' / 'best'}", *TINY, f"runs_dir={tmp_path / 'bare'}"])
    assert code == 0
    capsys.readouterr()
    assert launch.evaluate([f"run={finished / 'checkpoints' / 'best'}"]) == 2
    assert "say which model" in capsys.readouterr().err


@pytest.mark.parametrize("argv, expected", [
    ([], "Which run"), (["rnu=x"], "Which run"), (["run=/no/such"], "no such run"),
    (["run=pyproject.toml", "split=tset"], "test"),
])  # fmt: skip
def test_eval_refuses_kindly(argv, expected, capsys):
    assert launch.evaluate(argv) == 2
    assert expected in capsys.readouterr().err


def test_eval_refuses_an_evaluator_of_another_task(finished, capsys):
    assert launch.evaluate([f"run={finished}", "evaluator=classification"]) == 2
    assert "evaluator=classification is for classification" in capsys.readouterr().err


def test_a_manifest_cannot_point_outside_its_run(finished, tmp_path, capsys):
    run = tmp_path / "evil"
    shutil.copytree(finished, run)
    manifest = read_json(run / "manifest.json")
    (run / "manifest.json").write_text(
        json.dumps(manifest | {"checkpoint": "../../" + os.path.relpath(finished / "checkpoints/best", "/")})
    )
    assert launch.evaluate([f"run={run}"]) == 2


def test_three_trainers_in_one_sweep(command, tmp_path):
    """The acceptance line: three models, each with its own default data, trainer and evaluator, as a real process."""
    done = command(
        "train.py", "-m", "model=yolo11n,swin_nano,llama_tiny", "trainer.epochs=1", f"runs_dir={tmp_path}", timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 done" in done.stdout
    runs = {p.parent.name.split("-")[0]: read_json(p) for p in tmp_path.glob("*/metrics.json")}
    assert set(runs) == {"yolo11n", "swin_nano", "llama_tiny"}
    assert {m["data"] for m in runs.values()} == {"erm_demo", "bscan_stages", "instruct_demo"}
    for run in tmp_path.glob("*/report.html"):
        assert run.stat().st_size > 5_000
