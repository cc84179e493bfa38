"""What several trainers are checked with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from language_models import save_tiny_llama  # noqa: E402

PROGRAM = """
import json, sys
import torch; torch.set_num_threads(1)
from clarion.config import compose_config
from clarion.run import build
from clarion.trainers.base import Sample
job = json.load(sys.stdin)
cfg = compose_config([f"model={job['model']}", "trainer.device=cpu", "trainer.batch_size=16"])
predictor = build(cfg.trainer, model=cfg.model, seed=0).load(job["checkpoint"])
samples = (Sample(i, i, {"image": path}) for i, path in job["images"])
print(json.dumps([p.values["probabilities"] for p in predictor(samples)]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama with a tokenizer and a chat template, as transformers saves it."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def network(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def in_a_fresh_process(tmp_path):
    """in_a_fresh_process(model, checkpoint, samples) -> probabilities [n, K] that a new interpreter predicts."""

    def call(model: str, checkpoint: Path, samples) -> np.ndarray:
        images = [(s.sample_id, str(s.inputs["image"])) for s in samples]
        job = {"model": model, "checkpoint": str(checkpoint), "images": images}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env=os.environ,
        )
        assert done.returncode == 0, done.stderr
        return np.array(json.loads(done.stdout))

    return call
