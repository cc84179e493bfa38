"""Exported models compute what their checkpoints do, elsewhere; what differs is not kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clarion.config import compose_config, register_resolvers
from clarion.errors import ClarionError, UsageError
from clarion.exporting import export_run
from clarion.run import execute

SMALL = ["model.image_size=32", "data.eyes={train: 24, val: 8, test: 12}", "data.bscans_per_eye=1", "trainer.epochs=1",
         "evaluators.classification.n_resamples=20", "trainer.device=cpu"]  # fmt: skip
OTHERS = {
    "survival": ["model=tabular_transformer", "data=gse7390", "model.datamodule.genes=12", "trainer.epochs=1",
                 "evaluators.survival.n_resamples=20"],
    "presence": ["model=erm_presence", "data.eyes={train: 4, val: 2, test: 2}", "trainer.epochs=1",
                 "data.bscans_per_eye={train: 2, val: 2, test: 2}", "evaluators.scanline.n_resamples=20"],
    "layers": ["model=layer_unet", "data.eyes={train: 4, val: 2, test: 2}", "data.bscans_per_eye=2", "trainer.epochs=1",
               "model.features=[4,4,4,4,4,4]", "evaluators.surfaces.n_resamples=20"],
    "detection": ["experiment=demo", "trainer.epochs=1", "data.eyes={train: 4, val: 2, test: 2}",
                  "trainer.args.imgsz=96", "evaluators.detection.n_resamples=20"],
    "yolov5": ["model=yolov5s", "data=erm_demo", "trainer.epochs=1", "data.eyes={train: 4, val: 2, test: 2}",
               "trainer.args.imgsz=64", "evaluators.detection.n_resamples=20"],
    "generation": ["model=llama_tiny", "data.train=24", "data.val=8", "data.test=8", "trainer.epochs=1",
                   "model.architecture.num_hidden_layers=1", "model.architecture.hidden_size=48",
                   "model.generation.max_new_tokens=4"],
    "adapter": ["model=llama_tiny", "data.train=24", "data.val=8", "data.test=8", "trainer.epochs=1",
                "model.architecture.num_hidden_layers=1", "model.architecture.hidden_size=48",
                "model.generation.max_new_tokens=4", "+model.lora={r: 4, alpha: 8}"],
}  # fmt: skip


def trained(folder: Path, *words: str) -> Path:
    """A run of this configuration, made in this process."""
    register_resolvers()
    directory = folder / "run"
    outcome = execute(compose_config([*words, "trainer.device=cpu"]), list(words), directory)
    assert outcome["status"] == "done", outcome["reason"]
    return directory


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("classifier"), "model=swin_nano", *SMALL)


def test_onnx_runs_without_clarion_with_any_batch(classifier, tmp_path):
    said = export_run(classifier, "onnx", tmp_path / "onnx")
    assert said["max_difference"] < 1e-5 and said["compared_samples"] == 6 and said["opset"] == 18
    assert said["inputs"]["image"] == {"dtype": "uint8", "shape": ["batch", 1, 32, 32]}
    # as a stranger: numpy and onnxruntime, one image and seven
    program = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = numpy.arange(7 * 1024, dtype="uint32").reshape(7, 1, 32, 32).astype("uint8")
one, seven = (session.run(None, {"image": images[:n]})[0] for n in (1, 7))
assert one.shape == (1, 3) and seven.shape == (7, 3) and abs(seven.sum(1) - 1).max() < 1e-5
assert abs(one - seven[:1]).max() < 1e-6 and abs(seven[0] - seven[5]).max() >= 0
assert "clarion" not in sys.modules and "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-I", "-c", program, str(tmp_path / "onnx" / "model.onnx")],
                          capture_output=True, text=True, cwd=tmp_path, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "onnx" / "README.md").read_text(encoding="utf-8")
    for words in ("**phantom**", "95 % interval", "balanced_accuracy", "Intended use", "Limits", "Licence", "opset 18"):
        assert words in card
    assert not list(tmp_path.glob(".onnx*")) and not list((tmp_path / "onnx").glob("*.np*"))  # no sample is shipped


@pytest.mark.parametrize("form", ["torchscript", "safetensors", "hf"])
def test_other_forms_of_a_classifier(classifier, tmp_path, form):
    said = export_run(classifier, form, tmp_path / form)
    assert said["max_difference"] < 1e-5
    assert json.loads((tmp_path / form / "export.json").read_text())["facts"]["class_names"][0] == "normal"


def test_a_model_that_computes_something_else_is_not_kept(classifier, tmp_path, monkeypatch):
    import torch

    from clarion import exporting_networks as networks

    real = networks.served

    def disturbed(job):
        model, inputs = real(job)
        compared = networks.compared(model, inputs)
        with torch.no_grad():  # between the comparison and the writing, a weight changes
            model.module.network.head.fc.bias[0] += 0.5
        monkeypatch.setattr(networks, "compared", lambda *_: compared)
        return model, inputs

    monkeypatch.setattr(networks, "served", disturbed)
    with pytest.raises(ClarionError, match="differs from the checkpoint by 0"):
        export_run(classifier, "torchscript", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_tolerance_and_wrong_words(classifier, tmp_path):
    with pytest.raises(UsageError, match="Did you mean `onnx`"):
        export_run(classifier, "onxn")
    with pytest.raises(UsageError, match="above 0"):
        export_run(classifier, "onnx", tolerance=0.0)
    with pytest.raises(UsageError, match="not a complete training run"):
        export_run(tmp_path, "onnx")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no export"):
        export_run(classifier, "onnx", tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_linear_baseline_is_its_arrays_and_trees_are_refused(tmp_path):
    from safetensors.numpy import load_file

    run = trained(tmp_path, "model=logreg_image_stats", *SMALL[1:])
    said = export_run(run, "safetensors", tmp_path / "out")
    assert said["max_difference"] < 1e-9 and "softmax" in said["formula"]
    assert load_file(tmp_path / "out" / "model.safetensors")["coef"].shape == (3, said["inputs"]["x"]["shape"][1])
    with pytest.raises(UsageError, match="use --format safetensors"):
        export_run(run, "onnx")


def test_the_arrays_of_two_classes():
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from clarion.exporting_estimators import arrays_of, computed

    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 3)), np.arange(40) % 2
    for estimator in (LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())):
        estimator.fit(x + y[:, None], y)
        assert np.allclose(computed(*arrays_of(estimator), x), estimator.predict_proba(x))
    with pytest.raises(UsageError, match="model.skops"):
        arrays_of(RandomForestClassifier(n_estimators=2).fit(x, y))


@pytest.mark.parametrize(("task", "form"), [("survival", "onnx"), ("survival", "torchscript")])
def test_survival_networks(task, form, tmp_path_factory):
    run = _kept(tmp_path_factory, task)
    said = export_run(run, form, run.parent / form)
    assert said["max_difference"] < 1e-4 and said["outputs"] == ["risk", "survival"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "form"),
    [("presence", "onnx"), ("layers", "onnx"), ("layers", "torchscript"), ("detection", "onnx"),
     ("detection", "torchscript"), ("detection", "safetensors"), ("yolov5", "onnx"), ("generation", "hf"),
     ("adapter", "hf")],
)  # fmt: skip
def test_every_other_kind_of_model(task, form, tmp_path_factory):
    run = _kept(tmp_path_factory, task)
    said = export_run(run, form, run.parent / form, tolerance=1e-3 if task == "adapter" else 1e-4)
    assert said["max_difference"] < 1e-3
    card = (run.parent / form / "README.md").read_text(encoding="utf-8")
    assert ("AGPL-3.0" in card) == (task in ("detection", "yolov5"))


_runs: dict[str, Path] = {}


def _kept(tmp_path_factory, task: str) -> Path:
    """One run a kind, for all its formats."""
    if task not in _runs:
        _runs[task] = trained(tmp_path_factory.mktemp(task), *OTHERS[task])
    return _runs[task]
