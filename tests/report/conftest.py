"""One recorded run of each task."""

from __future__ import annotations

import pytest
from recorded_runs import build_classification, build_detection, build_generation


@pytest.fixture
def detection_run(tmp_path):
    return build_detection(tmp_path / "runs" / "yolo11n-erm_demo-3f9a")


@pytest.fixture
def classification_run(tmp_path):
    return build_classification(tmp_path / "runs" / "swin_nano-stages-77aa")


@pytest.fixture
def generation_run(tmp_path):
    return build_generation(tmp_path / "runs" / "llama_tiny-qa-5512")
