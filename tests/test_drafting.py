"""`clarion review draft`: whatever a language model writes, what is kept holds, and what it left out is added."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from clarion.cli import main
from clarion.evaluators.factcheck_facts import Facts, Gene
from clarion.evaluators.factcheck_text import check

sys.path.insert(0, str(Path(__file__).parent / "trainers"))
from language_models import save_tiny_llama  # noqa: E402

FACTS = Facts((Gene("TP53", 0.4, 0.01, 1.2), Gene("ESR1", -0.3, 0.04, -0.1)), age=61, sex="F", stage="II",
              missing=("slide",))  # fmt: skip


@pytest.fixture
def run(tmp_path) -> Path:
    """A run whose truth holds the facts and whose predictions hold probability and tissue, as a fused model's do."""
    run = tmp_path / "run_a"
    for name in ("predictions", "truth"):
        (run / name).mkdir(parents=True)
    (run / "config.yaml").write_text("model: {name: x}\n", encoding="utf-8")
    (run / "metrics.json").write_text('{"data_kind": "phantom"}', encoding="utf-8")
    ids = [{"sample_id": f"S-{k}", "patient_id": f"P-{k}"} for k in range(3)]
    told = json.dumps([{"name": "necrosis", "share": 0.4}])
    rows = [row | {"probability": 0.25, "patterns": told} for row in ids]
    pd.DataFrame(rows).to_parquet(run / "predictions" / "test.parquet")
    pd.DataFrame([row | {"facts": FACTS.to_json()} for row in ids]).to_parquet(run / "truth" / "test.parquet")
    return run


@pytest.mark.parametrize("language", ["en", "ko"])
def test_drafts_are_checked_and_completed(run, tmp_path, capsys, monkeypatch, language):
    monkeypatch.setenv("CLARION_CACHE", str(tmp_path / "cache"))
    model, out = save_tiny_llama(tmp_path / "tiny", context=4096), tmp_path / "drafts.json"
    words = ["review", "draft", str(run), "--generator", str(model), "--out", str(out), "--n", "2"]
    assert main([*words, "--language", language]) == 0
    said, kept = json.loads(capsys.readouterr().out), json.loads(out.read_text(encoding="utf-8"))
    assert said["patients"] == len(kept["drafts"]) == 2 and kept["generator"]["kind"] == "local"
    assert said["sentences_added"] > 0  # random weights explain nothing: the template does
    for draft in kept["drafts"]:
        assert "TP53" in draft["text"] and "ESR1" in draft["text"] and draft["raw"] != draft["text"]
        assert "necrosis" in draft["text"] or "괴사" in draft["text"]  # the tissue that the model was told of
        assert "25%" in draft["text"]  # the run's own probability
        assert check(draft["text"], FACTS, ("TP53", "ESR1")).text  # something is left to read


@pytest.mark.parametrize("words, expected", [
    (["--out", "d.json"], "--generator MODEL"), (["--generator", "none", "--out", "d.json"], "none writes nothing"),
    (["--generator", "none", "--out", "d.txt"], "FILE.json"),
    (["--generator", "none", "--out", "d.json", "--split", "val"], "no predictions of the val split"),
])  # fmt: skip
def test_wrong_words_are_answered(run, capsys, words, expected):
    assert main(["review", "draft", str(run), *words]) == 2
    assert expected in capsys.readouterr().err


def test_a_run_without_facts_is_named(run, capsys):
    (run / "truth" / "test.parquet").unlink()
    assert main(["review", "draft", str(run), "--generator", "none", "--out", "d.json"]) == 2
    assert "has no facts beside its test predictions" in capsys.readouterr().err
