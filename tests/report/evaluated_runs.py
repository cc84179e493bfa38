"""Run directories whose metrics are the real evaluators' on small tables with known cases."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy
import pandas
from recorded_runs import strip_png, write_run

from clarion.evaluators.grounding import GroundingEvaluator
from clarion.evaluators.mcqa import McqaEvaluator
from clarion.evaluators.perplexity import PerplexityEvaluator
from clarion.evaluators.scanline import ScanlineEvaluator
from clarion.evaluators.surfaces import SurfacesEvaluator

FEW = {"n_resamples": 100}


def record(directory: Path, model: str, data: str, task: str, evaluators: dict, predictions, truth, kind="phantom",
           class_names=(), tracker=None) -> Path:  # fmt: skip
    """Predictions and truth (lists of rows) scored by `evaluators` and written as a run."""
    predictions, truth = pandas.DataFrame(predictions), pandas.DataFrame(truth)
    context = {"seed": 0, "class_names": list(class_names), "data_kind": kind, "validation": None}
    results = {
        "run": directory.name, "model": model, "data": data, "data_kind": kind, "split": "test", "seed": 0,
        "evaluators": {name: one.evaluate(predictions, truth, context) for name, one in evaluators.items()},
        "data_card": {"name": data, "kind": kind, "class_names": list(class_names), "source": "drawn for a test"},
    }  # fmt: skip
    config = {
        "seed": 0, "model": {"name": model, "task": task}, "trainer": {"name": "any", "epochs": 2},
        "data": {"name": data, "kind": kind}, "tracker": tracker or {},
    }  # fmt: skip
    plain = json.loads(json.dumps(results, default=lambda value: value.tolist()))
    write_run(directory, config, plain, [{"step": k, "time": 0, "train/loss": 2 - k / 9} for k in range(9)])
    for name, table in (("predictions", predictions), ("truth", truth)):
        (directory / name).mkdir(exist_ok=True)
        table.to_parquet(directory / name / "test.parquet", index=False)
    return directory


def build_language(directory: Path, kind: str = "phantom", right: float = 0.6, tracker=None) -> Path:
    """24 multiple-choice questions, of which about `right` are answered right, and 16 free ones; with what a run adds:
    contamination, the scores without overlap, and those of the untuned model."""
    rng = numpy.random.default_rng(3)
    predictions, truth = [], []
    for index in range(40):
        sample, patient = f"q{index:02d}", f"case{index // 4}"
        choice = index < 24
        stage = int(rng.integers(1, 5))
        question = f"Findings: right eye; central foveal thickness {300 + index} um. Which stage is eye {index}?"
        truth.append({
            "sample_id": sample, "patient_id": patient, "question": question, "topic": "stage",
            "answer": f"Stage {stage}" if choice else f"The right eye has stage {stage}, {300 + index} um thick.",
            "options": [f"Stage {k}" for k in (1, 2, 3, 4)] if choice else None,
            "answer_index": stage - 1 if choice else -1,
        })  # fmt: skip
        logprobs = numpy.log(rng.dirichlet([0.7] * 4))
        if choice and rng.random() < right:
            logprobs[stage - 1] = 0.0
        wrong = f"The left eye has stage {stage}, 999 um thick."
        text = f"Answer: {'ABCD'[int(logprobs.argmax())]}" if choice else wrong
        predictions.append({
            "sample_id": sample, "patient_id": patient, "text": text, "stopped": True, "tokens": 5,
            "option_logprobs": logprobs.tolist() if choice else None, "option_tokens": [3] * 4 if choice else None,
        })  # fmt: skip
    evaluators = {"mcqa": McqaEvaluator(**FEW), "grounding": GroundingEvaluator(**FEW)}
    named = (directory, "llama_tiny", "ophtimus_demo", "generation")
    record(*named, evaluators, predictions, truth, kind, tracker=tracker)
    path = directory / "metrics.json"
    results = json.loads(path.read_text())
    mcqa = results["evaluators"]["mcqa"]
    source = {"run": directory.name, "data": "ophtimus_demo", "kind": kind, "texts": 400, "documents": 40}
    mcqa["contamination"] = {
        "n": 24, "exact": 1, "ngram13": 4, "minhash": 2, "any": 5, "boilerplate": 3, "short": 0, "ngram_share": 0.1,
        "index": [source], "unknown": ["pre-training data unknown"],
    }  # fmt: skip
    mcqa["clean"] = {"n": 19, "metrics": {"accuracy": {**mcqa["metrics"]["accuracy"], "value": 0.421}}}
    before = copy.deepcopy(mcqa["metrics"])
    before["accuracy"] |= {"value": 0.237, "low": 0.1, "high": 0.4}
    mcqa["before"] = {"metrics": before, "name": "before tuning"}
    path.write_text(json.dumps(results))
    return directory


def build_corpus(directory: Path) -> Path:
    """Twelve documents; the last is the least likely."""
    texts = [f"Document {k} on epiretinal membranes, {'layer ' * (k + 3)}." for k in range(12)]
    truth = [{"sample_id": f"d{k:02d}", "patient_id": f"d{k:02d}", "text": text} for k, text in enumerate(texts)]
    predictions = [
        {"sample_id": f"d{k:02d}", "patient_id": f"d{k:02d}", "nll": (1 + k / 4) * len(text), "tokens": 20 + k,
         "bytes": len(text.encode())}
        for k, text in enumerate(texts)
    ]  # fmt: skip
    return record(directory, "llama_tiny", "corpus", "generation", {"perplexity": PerplexityEvaluator(**FEW)},
                  predictions, truth)  # fmt: skip


NAMES = ("ILM", "RNFL/GCL", "BM")


def build_layers(directory: Path, lost: int = 3, kind: str = "phantom", off: float = 1.0) -> Path:
    """20 B-scans with three surfaces; of the first `lost` the second one is 30 px off."""
    rng = numpy.random.default_rng(0)
    predictions, truth, images = [], [], {}
    x = numpy.arange(768)
    for index in range(20):
        sample, patient = f"PH{index:02d}", f"P{index // 2}"
        true = numpy.stack([200 + 60 * k + 10 * numpy.sin(x / 90) for k in range(3)])
        guess = true + off * (0.5 + index / 10) + rng.normal(0, 0.5, true.shape)
        if index < lost:
            guess[1] += 30
        guess[2, :100] = numpy.nan
        keys = {"sample_id": sample, "patient_id": patient}
        predictions.append({**keys, "surfaces": guess.tolist()})
        truth.append({**keys, "surfaces": true.tolist(), "axial_um": 3.87, "lateral_um": 11.7, "stage": str(index % 3)})
        images[sample] = f"images/{sample}.png"
    record(directory, "layer_unet", "oct_layers", "layers", {"surfaces": SurfacesEvaluator(**FEW)}, predictions, truth,
           kind, NAMES)  # fmt: skip
    return _with_images(directory, images)


def build_presence(directory: Path, images: bool = False) -> Path:
    """16 B-scans with a membrane over a third of the scan (every fourth has none); of two it is not found."""
    rng = numpy.random.default_rng(0)
    predictions, truth = [], []
    for index in range(16):
        keys = {"sample_id": f"PH{index:02d}_H12", "patient_id": f"P{index // 4}"}
        true = numpy.zeros(300)
        if index % 4:
            true[60 + index : 160 + index] = 1
        said = numpy.clip(0.1 + 0.75 * numpy.roll(true, index) + rng.normal(0, 0.05, 300), 0, 1)
        if index in (5, 9):
            said = numpy.full(300, 0.08)
        predictions.append({**keys, "presence": said.tolist()})
        truth.append({**keys, "presence": true.tolist(), "stage": str(index % 3)})
    record(directory, "erm_presence", "erm_presence", "presence", {"scanline": ScanlineEvaluator(**FEW)}, predictions,
           truth, class_names=("erm",))  # fmt: skip
    return _with_images(directory, {"PH01_H12": "images/PH01_H12.png"}) if images else directory


def _with_images(directory: Path, images: dict[str, str]) -> Path:
    for index, name in enumerate(images.values()):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(strip_png(index))
    (directory / "truth" / "test_images.json").write_text(json.dumps(images))
    return directory
