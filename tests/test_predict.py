"""`clarion predict`: a trained detector on a HEYEX screen export and on plain images, no name of a file leaving."""

from __future__ import annotations

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from clarion import cli, launch
from clarion.oct.phantom import make_eye


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The shipped start weights: one epoch over four eyes at a rate that changes nothing."""
    runs = tmp_path_factory.mktemp("runs")
    argv = ["model=yolo11n", "model.weights=shipped:yolo11n_erm_phantom", "data=erm_demo", "trainer.epochs=1",
            "data.eyes.train=4", "data.eyes.val=4", "data.eyes.test=6", "trainer.args.imgsz=192",
            "trainer.args.optimizer=SGD", "trainer.args.lr0=1.0e-9", "trainer.args.warmup_bias_lr=0"]  # fmt: skip
    assert launch.train([*argv, f"runs_dir={runs}"]) == 0
    return next(runs.glob("*/metrics.json")).parent


@pytest.fixture(scope="module")
def eye():
    return make_eye(300_004, 3)


@pytest.fixture()
def export(tmp_path, eye):
    """Two scans a direction, as HEYEX exports its screen: infrared image left, B-scan right."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "홍길동 Anna"
    for direction, name in (("H", "Horizontal"), ("V", "Vertical")):
        (folder / name).mkdir(parents=True)
        for line in (12, 13):
            infrared = 95 + 22 * cv2.resize(rng.standard_normal((9, 9)), (496, 496), interpolation=cv2.INTER_CUBIC)
            infrared = np.clip(infrared + rng.normal(0, 6, (496, 496)), 0, 255).astype(np.uint8)
            picture = np.hstack([infrared, eye.bscan(direction, line).image])
            data = cv2.imencode(".bmp", picture)[1].tobytes()
            (folder / name / f"{line:04d}_{direction}.bmp").write_bytes(data)
    return folder


def test_the_shipped_weights_find_membranes(run):
    """mAP50 of the start weights on six test eyes; the mean box scores about a tenth of this."""
    metrics = json.loads((run / "metrics.json").read_text())["evaluators"]["detection"]
    assert metrics["metrics"]["map50"]["value"] > 0.4 > 2 * metrics["baseline"]["map50"]["value"]


def test_an_export_goes_through_prediction(run, export, eye, tmp_path, capsys):
    assert cli.main(["predict", str(export), "--model", str(run), "--out", str(tmp_path / "out")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["scans"] == 4 and summary["trained_on"] == "phantom" and summary["scans_with_finding"] >= 3
    with open(tmp_path / "out" / "detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["direction"], r["line"]) for r in rows} <= {("H", "12"), ("H", "13"), ("V", "12"), ("V", "13")}
    for r in rows:
        assert 0 <= float(r["x1"]) < float(r["x2"]) <= 768 and 0 <= float(r["y1"]) < float(r["y2"]) <= 496
    best = max((r for r in rows if (r["direction"], r["line"]) == ("H", "12")), key=lambda r: float(r["score"]))
    true = eye.bscan("H", 12).boxes
    overlap = max(min(float(best["x2"]), b[2]) - max(float(best["x1"]), b[0]) for b in true)
    assert overlap > 0.3 * max(b[2] - b[0] for b in true), "the best box lies beside the membrane"
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len([p for p in written if p.suffix == ".png"]) == summary["scans_with_finding"]
    assert not any("홍길동" in p.name or "홍길동".encode() in p.read_bytes() for p in written)


def test_plain_images_too(run, eye, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), eye.bscan("H", 12).image)
    assert cli.main(["predict", str(tmp_path / "in"), "--model", str(run), "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["scans"] == 1


def test_kind_refusals(run, tmp_path, capsys):
    assert cli.main(["predict", str(tmp_path / "no"), "--model", str(run), "--out", str(tmp_path / "o")]) == 2
    assert cli.main(["predict", str(tmp_path), "--model", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "is not a detector checkpoint" in capsys.readouterr().err
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "metrics.json").unlink()
    assert cli.main(["predict", str(tmp_path), "--model", str(unfinished), "--out", str(tmp_path / "o")]) == 2
    assert "not a complete run" in capsys.readouterr().err
    shutil.rmtree(unfinished)
    assert cli.main(["predict", str(tmp_path), "--model", str(run), "--out", str(tmp_path / "o")]) == 1
    assert "holds no picture" in capsys.readouterr().err
    argv = ["model=yolo11n", "model.weights=shipped:yolo11x", "data=erm_demo", f"runs_dir={tmp_path / 'r'}"]
    assert launch.train(argv) == 2
    assert "shipped:yolo11n_erm_phantom" in capsys.readouterr().err
