"""Unimodal runs beside a fused one: shown on the same patients and splits, else a sentence says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from clarion.evaluators.survival import SurvivalEvaluator
from clarion.record import RunRecord
from clarion.unimodal import labels, side_by_side, unimodal

IDS = [f"P{k}" for k in range(30)]
DATA = {"fingerprint": "f1", "split_hash": "s1"}


def recorded(folder: Path, name: str, ids=IDS, data=DATA, checkpoint: str = "c1") -> Path:
    """A complete unimodal run with predictions of the test split."""
    run = folder / name
    (run / "predictions").mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"status": "complete", "data": data, "checkpoint_hash": checkpoint}))
    (run / "config.yaml").write_text(f"model: {{name: {name}}}\n")
    rng = np.random.default_rng(len(name))
    table = pd.DataFrame({"sample_id": ids, "patient_id": ids, "risk": rng.normal(size=len(ids))})
    table.to_parquet(run / "predictions" / "test.parquet", index=False)
    (run / "metrics.json").write_text("{}")
    return run


@pytest.fixture
def fused(tmp_path):
    """(config, record, truth) of a fused run that is being evaluated."""
    starts = {"slide": recorded(tmp_path, "swin_mil_nano"), "omics": recorded(tmp_path, "tabular_transformer")}
    directory = tmp_path / "fused"
    directory.mkdir()
    (directory / "manifest.json").write_text(json.dumps({"data": DATA, "init_from": {"slide": "c1", "omics": "c1"}}))
    cfg = OmegaConf.create({"model": {"fusion": {"modalities": ["slide", "omics"]}},
                            "init_from": {name: str(path) for name, path in starts.items()}})  # fmt: skip
    rng = np.random.default_rng(0)
    truth = pd.DataFrame({"sample_id": IDS, "patient_id": IDS, "time": rng.uniform(1, 100, 30),
                          "event": rng.random(30) < 0.7})  # fmt: skip
    return cfg, RunRecord(directory), truth


def test_their_recorded_predictions_stand_beside(fused):
    cfg, record, truth = fused
    found, absent = unimodal(cfg, record, "test", truth)
    assert list(found) == ["unimodal_slide", "unimodal_omics"] and absent == []
    assert (record.directory / "predictions" / "baselines" / "test_unimodal_slide.parquet").is_file()
    named = {"unimodal_slide": "slide alone (swin_mil_nano)", "unimodal_omics": "omics alone (tabular_transformer)"}
    assert labels(cfg, {**found, "ridge_cox": None}) == named
    own = pd.DataFrame({"sample_id": IDS, "patient_id": IDS, "risk": -truth["time"]})
    evaluator = SurvivalEvaluator(n_resamples=50)
    compared = side_by_side(evaluator, own, found, truth, {"seed": 0}, labels(cfg, found))
    for one in compared:
        entries, alone = one["metrics"]["auc_60m"], evaluator.evaluate(found[one["name"]], truth, {"seed": 0})
        assert entries["other"]["value"] == pytest.approx(alone["metrics"]["auc_60m"]["value"])
        assert entries["model"]["value"] == pytest.approx(1) and entries["difference"]["low"] > 0


@pytest.mark.parametrize("change, why", [
    (lambda d: recorded(d / "x", "omics", data=DATA | {"split_hash": "s2"}), "other splits than this one"),
    (lambda d: recorded(d / "x", "omics", data=DATA | {"fingerprint": "f2"}), "other data than this one"),
    (lambda d: recorded(d / "x", "omics", checkpoint="c2"), "trained again since the fusion started from it"),
    (lambda d: recorded(d / "x", "omics", ids=IDS[:-1]), "did not predict all of the 30 patients"),
    (lambda d: d / "gone", "no recorded predictions of the test split"),
    (lambda d: "", "init_from.omics names no run"),
])  # fmt: skip
def test_another_run_is_not_shown_and_the_reason_is_said(fused, tmp_path, change, why):
    cfg, record, truth = fused
    cfg.init_from.omics = str(change(tmp_path))
    found, (said,) = unimodal(cfg, record, "test", truth)
    assert list(found) == ["unimodal_slide"]
    assert said.startswith("The omics model alone is not shown beside: ") and why in said


def test_other_models_have_none(fused):
    cfg, record, truth = fused
    del cfg.model["fusion"]
    assert unimodal(cfg, record, "test", truth) == ({}, [])
