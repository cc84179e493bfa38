"""The smallest real run of every trainer, as command lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from children import draw_plates, outcome, train


@pytest.fixture(scope="session")
def commands(tmp_path_factory) -> dict[str, list[str]]:
    plates: Path = draw_plates(tmp_path_factory.mktemp("plates") / "data")
    epochs = "trainer.epochs=4"
    stages = ["data=bscan_stages", "data.eyes={train:12,val:4,test:4}", "data.bscans_per_eye=1"]
    return {
        "ultralytics": [
            "model=yolo11n", "data=yolo_folder", f"data.root={plates}", "data.class_names=[plate]", epochs,
            "trainer.batch_size=4", "trainer.args.imgsz=64", "+trainer.args.close_mosaic=2", "+trainer.args.nbs=10",
            "evaluators.detection.n_resamples=20",
        ],
        "lightning": [
            "model=swin_nano", *stages, epochs, "trainer.batch_size=4", "evaluators.classification.n_resamples=20",
        ],
        "sft": [
            "model=llama_tiny", "data.train=24", "data.val=4", "data.test=4", epochs, "trainer.batch_size=4",
            "+trainer.args.logging_steps=4", "model.generation.max_new_tokens=8",
            "evaluators.generation.n_resamples=20",
        ],
        "estimator": ["model=logreg_image_stats", *stages, "evaluators.classification.n_resamples=20"],
    }  # fmt: skip


@pytest.fixture(scope="session")
def unbroken(commands, tmp_path_factory):
    """unbroken(trainer) -> what a run of it leaves that nobody interrupted."""
    found: dict[str, dict] = {}

    def call(trainer: str) -> dict:
        if trainer not in found:
            folder = tmp_path_factory.mktemp(f"unbroken-{trainer}")
            train(folder, *commands[trainer])
            found[trainer] = outcome(folder)
        return found[trainer]

    return call
