"""Run directories with the files a real run leaves, made of small drawn images and seeded numbers."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import numpy
import pandas
import yaml
from PIL import Image, ImageDraw


def metric(value, half, n, patients=None, unit=None, method="bootstrap over patients, 1000 resamples, percentile"):
    return {
        "value": value,
        "low": value - half,
        "high": min(1.0, value + half),
        "n": n,
        "n_patients": patients,
        "unit": unit,
        "method": method,
    }


def write_run(directory: Path, config: dict, results: dict | None, history: list[dict], **manifest) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    overrides = [f"model={config['model']['name']}", f"data={config['data']['name']}", f"seed={config['seed']}"]
    (directory / "overrides.yaml").write_text(yaml.safe_dump(overrides), encoding="utf-8")
    full = {
        "run": directory.name,
        "status": "complete" if results else "running",
        "started": "2026-11-22T00:00:00+00:00",
        "finished": "2026-11-22T00:05:12+00:00",
        "duration_s": 312.4,
        "seed": config["seed"],
        "device": "CPU, 2 threads",
        "git": {"revision": "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567", "dirty": False},
        "versions": {"torch": "2.15.0", "ultralytics": "8.4.190"},
        "data": {
            "name": config["data"]["name"],
            "kind": config["data"]["kind"],
            "fingerprint": "9f" * 32,
            "split_hash": "ab" * 32,
            "counts": {"train": 160, "val": 20, "test": 40},
        },
    }
    (directory / "manifest.json").write_text(json.dumps({**full, **manifest}), encoding="utf-8")
    with open(directory / "metrics.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in history)
    if results:
        (directory / "metrics.json").write_text(json.dumps(results), encoding="utf-8")
    return directory


def save(directory: Path, predictions: list[dict], truth: list[dict]) -> None:
    for name, rows in (("predictions", predictions), ("truth", truth)):
        (directory / name).mkdir(exist_ok=True)
        pandas.DataFrame(rows).to_parquet(directory / name / "test.parquet", index=False)


@cache
def strip_png(seed: int, left: float | None = None) -> bytes:
    """A grey strip with a bright wavy layer, and from `left` on a brighter line above it, a membrane. Drawn once."""
    height, width = 496, 768
    y, x = numpy.ogrid[:height, :width]
    depth = y - 210 - 30 * numpy.sin(x / 160)
    grey = 20 + 130 * ((depth > 0) & (depth < 90)) + 70 * ((depth > 110) & (depth < 130))
    speckle = numpy.random.default_rng(seed).random(grey.shape, dtype="float32")
    picture = Image.fromarray((grey * speckle).astype("uint8"))
    if left is not None:
        line = [(float(k), 200 + 30 * numpy.sin(k / 160)) for k in range(int(left), int(left) + 220)]
        ImageDraw.Draw(picture).line(line, fill=235, width=4)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def build_detection(directory: Path, model="yolo11n", seed=0, shift=0.0, kind="phantom") -> Path:
    config = {
        "seed": seed,
        "resume": False,
        "runs_dir": "runs",
        "model": {"name": model, "task": "detection"},
        "trainer": {"name": "ultralytics", "epochs": 12, "batch_size": 16, "device": "auto", "args": {"imgsz": 320}},
        "data": {"name": "erm_demo", "kind": kind, "root": None},
        "evaluators": {"detection": {"task": "detection"}},
        "tracker": {"_target_": "clarion.tracking.LocalTracker"},
    }
    history = []
    for epoch in range(12):
        decay = numpy.exp(-epoch / 5)
        history.append(
            {
                "step": epoch,
                "time": 1.79e9 + epoch,
                "train/box_loss": 1 + 2 * decay,
                "train/cls_loss": 0.5 + 3 * decay,
                "lr": 0.01 * (1 - epoch / 12),
            }
        )
        history.append(
            {
                "step": epoch,
                "time": 1.79e9 + epoch,
                "val/box_loss": 1.2 + 2 * decay,
                "val/cls_loss": 0.7 + 3 * decay,
                "val/map50": None if epoch == 0 else (0.63 + shift) * (1 - decay),
            }
        )
    recall = numpy.linspace(0, 1, 101)
    results = {
        "run": directory.name,
        "model": model,
        "data": "erm_demo",
        "data_kind": kind,
        "split": "test",
        "seed": seed,
        "evaluators": {
            "detection": {
                "metrics": {
                    "map50": metric(0.631 + shift, 0.07, 40, 8),
                    "map50_95": metric(0.287 + shift, 0.05, 40, 8),
                    "precision": metric(0.702, 0.08, 40, 8),
                    "recall": metric(0.588, 0.09, 40, 8),
                    "confidence": {
                        "value": 0.31,
                        "low": None,
                        "high": None,
                        "n": 40,
                        "n_patients": 8,
                        "unit": None,
                        "method": "best F1 on the same split",
                    },
                },
                "baseline": {"map50": {**metric(0.104, 0.03, 40, 8), "name": "mean box"}},
                "curves": {
                    "pr": {
                        "x": recall.tolist(),
                        "y": (1 - recall**3).tolist(),
                        "x_label": "recall",
                        "y_label": "precision",
                    },
                    "f1": {
                        "x": recall.tolist(),
                        "y": (0.65 * numpy.sin(recall * 3)).tolist(),
                        "x_label": "confidence",
                        "y_label": "F1",
                    },
                },
                "confusion": {"labels": ["erm", "background"], "matrix": [[31, 9], [6, 0]]},
                "subgroups": {
                    "stage": {
                        str(k): {
                            "map50": metric(0.5 + 0.06 * k, 0.12, 8, 2),
                            "recall": metric(0.4 + 0.1 * k, 0.1, 8, 2),
                        }
                        for k in range(1, 5)
                    }
                },
                "notes": ["stage 1: 2 eyes; the interval is wide."],
            }
        },
        "data_card": {
            "name": "erm_demo",
            "kind": kind,
            "class_names": ["erm"],
            "source": "simulated eyes, version 1",
            "fingerprint": "9f" * 32,
            "splits": {
                "train": {"samples": 160, "patients": 16, "boxes": 231},
                "val": {"samples": 20, "patients": 2, "boxes": 25},
                "test": {"samples": 40, "patients": 8, "boxes": 40},
            },
            "stages": {"1": 2, "2": 2, "3": 2, "4": 2},
        },
    }
    write_run(directory, config, results, history)
    predictions, truth = [], []
    folder = directory.parent.parent / "images"
    folder.mkdir(exist_ok=True)
    for index in range(40):
        sample, left = f"PH{index:06d}-H12", 80 + 9 * index
        box = [left, 170.0, left + 220.0, 250.0]
        image = folder / f"{sample}.png"
        if not image.exists():
            image.write_bytes(strip_png(index, left if index % 5 else None))
        found = [[box[0] + index, box[1] - 5, box[2] + 2 * index, box[3] + 5]] if index % 5 != 3 else []
        scores = [0.95 - index / 80] if found else []
        if index % 7 == 2:
            found, scores = [*found, [20.0, 300.0, 160.0, 360.0]], [*scores, 0.45]
        found, scores = [*found, [0.0, 0.0, 50.0, 50.0]], [*scores, 0.01]  # below the operating confidence
        predictions.append(
            {
                "sample_id": sample,
                "patient_id": f"PH{index // 5}",
                "boxes": found,
                "scores": scores,
                "labels": [0] * len(found),
            }
        )
        truth.append(
            {
                "sample_id": sample,
                "patient_id": f"PH{index // 5}",
                "boxes": [box] if index % 5 else [],
                "labels": [0] if index % 5 else [],
                "width": 768,
                "height": 496,
                "stage": str(index % 5),
                "image": str(image),
            }
        )
    save(directory, predictions, truth)
    return directory


def build_classification(directory: Path) -> Path:
    rng = numpy.random.default_rng(1)
    names = ["normal", "ERM stage 1–2", "ERM stage 3–4"]
    config = {
        "seed": 1,
        "model": {"name": "swin_nano", "task": "classification"},
        "trainer": {"name": "lightning", "epochs": 5},
        "data": {"name": "bscan_stages", "kind": "phantom"},
    }
    x = numpy.linspace(0, 1, 51)
    roc = {
        f"roc_{name}": {
            "x": x.tolist(),
            "y": (x ** (0.2 + 0.15 * k)).tolist(),
            "x_label": "1 − specificity",
            "y_label": "sensitivity",
        }
        for k, name in enumerate(names)
    }
    results = {
        "data_kind": "phantom",
        "split": "test",
        "evaluators": {
            "classification": {
                "metrics": {"accuracy": metric(0.83, 0.05, 60, 12), "auroc": metric(0.91, 0.04, 60, 12)},
                "baseline": {"accuracy": {**metric(0.41, 0.06, 60, 12), "name": "majority"}},
                "curves": {
                    **roc,
                    "calibration": {
                        "x": [0.1, 0.3, 0.5, 0.7, 0.9],
                        "y": [0.05, 0.31, 0.42, 0.8, 0.88],
                        "x_label": "predicted probability",
                        "y_label": "observed share",
                    },
                },
                "confusion": {"labels": names, "matrix": [[22, 2, 0], [3, 15, 2], [0, 3, 13]]},
            }
        },
        "data_card": {"class_names": names},
    }
    write_run(
        directory,
        config,
        results,
        [{"step": k, "time": 0, "train/loss": 1 / (k + 1), "val/loss": 1.2 / (k + 1)} for k in range(5)],
    )
    predictions, truth, paths = [], [], {}
    for index in range(60):
        p = rng.dirichlet([1, 1, 1])
        sample = f"S{index:03d}"
        predictions.append({"sample_id": sample, "patient_id": f"P{index // 5}", "probabilities": p.tolist()})
        truth.append(
            {
                "sample_id": sample,
                "patient_id": f"P{index // 5}",
                "label": int(rng.integers(3)) if index % 4 == 0 else int(p.argmax()),
            }
        )
        if index % 4 == 0:
            path = directory / "images" / f"{sample}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(strip_png(index))
            paths[sample] = f"images/{sample}.png"
    save(directory, predictions, truth)
    (directory / "truth" / "test_images.json").write_text(json.dumps(paths))
    return directory


def build_generation(directory: Path, hostile: str = "") -> Path:
    config = {
        "seed": 2,
        "model": {"name": hostile or "llama_tiny", "task": "generation"},
        "trainer": {"name": "sft", "epochs": 1},
        "data": {"name": hostile or "qa_demo", "kind": "public"},
        "note": hostile,
    }
    entry = {**metric(0.42, 0.08, 30), "method": hostile or "bootstrap over samples"}
    results = {
        "data_kind": "public",
        "split": "test",
        "evaluators": {
            hostile or "generation": {
                "metrics": {hostile or "rouge_l": entry},
                "notes": [hostile] if hostile else [],
                "curves": {
                    hostile or "length": {
                        "x": [0, 1, 2],
                        "y": [0.1, 0.4, 0.2],
                        "x_label": hostile or "tokens",
                        "y_label": hostile or "share",
                    }
                },
                "confusion": {"labels": [hostile or "a", "b"], "matrix": [[1, 2], [3, 4]]},
                "subgroups": {hostile or "topic": {hostile or "retina": {hostile or "rouge_l": entry}}},
            }
        },
        "data_card": {
            "class_names": [hostile] if hostile else [],
            hostile or "source": hostile or "questions shipped with the demo",
            "splits": {hostile or "test": {hostile or "samples": hostile or 30}},
        },
    }
    write_run(
        directory, config, results, [{"step": k, "time": 0, hostile or "train/loss": 2.0 - k / 20} for k in range(20)]
    )
    save(
        directory,
        [
            {
                "sample_id": hostile + f"Q{k}",
                "patient_id": f"Q{k}",
                "text": hostile or f"Epiretinal membrane, stage {k % 4}.",
            }
            for k in range(30)
        ],
        [
            {
                "sample_id": hostile + f"Q{k}",
                "patient_id": f"Q{k}",
                "question": hostile or "What is seen at the inner surface of the retina?\nGive the stage.",
                "answer": hostile or f"An epiretinal membrane of stage {(k + 1) % 4}, 망막전막.",
            }
            for k in range(30)
        ],
    )
    return directory
