"""The evaluator of surfaces: known errors come back, unknown A-scans count against, ids decide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clarion.errors import DataError
from clarion.evaluators.surfaces import SurfacesEvaluator, slug

NAMES = ["ILM", "RNFL/GCL", "BM"]
CONTEXT = {"class_names": NAMES, "seed": 0, "validation": None}


def tables(error: np.ndarray, patients: int = 6, scans: int = 3, width: int = 50, seed: int = 0):
    """Truth of smooth surfaces; predictions with a constant error per surface [3] px."""
    rng = np.random.default_rng(seed)
    truth, predictions = [], []
    for p in range(patients):
        for s in range(scans):
            base = np.array([100.0, 120, 170])[:, None] + 10 * rng.random() + np.linspace(0, 5, width)
            key = {"sample_id": f"s{p}{s}", "patient_id": f"p{p}"}
            truth.append({**key, "surfaces": list(base), "axial_um": 4.0, "stage": p % 2, "lateral_um": 11.7})
            predictions.append({**key, "surfaces": list(base + error[:, None]), "sd": list(base * 0 + 1)})
    return pd.DataFrame(predictions), pd.DataFrame(truth)


def test_known_errors_come_back():
    predictions, truth = tables(np.array([0.5, -1.0, 2.0]))
    found = SurfacesEvaluator(n_resamples=50).evaluate(predictions, truth, CONTEXT)
    value = {name: entry["value"] for name, entry in found["metrics"].items()}
    assert value["mae_px_ilm"] == pytest.approx(0.5) and value["mae_um_ilm"] == pytest.approx(2.0)
    assert value["bias_um_rnfl_gcl"] == pytest.approx(-4.0) and value["bias_um_bm"] == pytest.approx(8.0)
    assert value["mae_um_total_thickness"] == pytest.approx(6.0)
    assert value["mae_um"] == pytest.approx((2 + 4 + 8) / 3)
    assert value["p95_um_bm"] == pytest.approx(8.0, abs=0.25)
    assert value["measured_ilm"] == 1.0
    assert found["metrics"]["mae_um_ilm"]["unit"] == "um" and found["metrics"]["mae_um_ilm"]["n_patients"] == 6
    assert set(found["subgroups"]) == {"stage"} and set(found["subgroups"]["stage"]) == {"0", "1"}
    json.dumps(found)


def test_the_percentile_is_numpys():
    predictions, truth = tables(np.zeros(3))
    rng = np.random.default_rng(1)
    noise = [rng.normal(0, 3, (3, 50)) for _ in range(len(predictions))]
    predictions["surfaces"] = [list(np.array(list(s)) + n) for s, n in zip(predictions.surfaces, noise, strict=True)]
    found = SurfacesEvaluator(n_resamples=50).evaluate(predictions, truth, CONTEXT)["metrics"]
    expected = np.quantile(np.abs(np.stack(noise)[:, 0]) * 4.0, 0.95)
    assert found["p95_um_ilm"]["value"] == pytest.approx(expected, abs=0.5)
    assert found["mae_um_ilm"]["low"] < found["mae_um_ilm"]["value"] < found["mae_um_ilm"]["high"]


def test_silence_is_counted():
    predictions, truth = tables(np.zeros(3))
    for surfaces in predictions.surfaces:
        surfaces[0][:25] = np.nan
    found = SurfacesEvaluator(n_resamples=20).evaluate(predictions, truth, CONTEXT)["metrics"]
    assert found["measured_ilm"]["value"] == pytest.approx(0.5) and found["measured_bm"]["value"] == 1
    for surfaces in predictions.surfaces:
        surfaces[0][:] = np.nan
    found = SurfacesEvaluator(n_resamples=20).evaluate(predictions, truth, CONTEXT)
    assert found["metrics"]["mae_um_ilm"]["value"] is None and found["metrics"]["mae_um"]["value"] is None


def test_order_of_rows_and_parquet_do_not_matter(tmp_path: Path):
    predictions, truth = tables(np.array([0.5, -1.0, 2.0]))
    straight = SurfacesEvaluator(n_resamples=50).evaluate(predictions, truth, CONTEXT)
    predictions.sample(frac=1, random_state=0).to_parquet(tmp_path / "p.parquet")
    again = SurfacesEvaluator(n_resamples=50).evaluate(pd.read_parquet(tmp_path / "p.parquet"), truth, CONTEXT)
    assert straight == again


def test_the_baseline_is_an_average_eye():
    predictions, truth = tables(np.zeros(3))
    past, known = tables(np.zeros(3), seed=5)
    found = SurfacesEvaluator(n_resamples=20).evaluate(predictions, truth, {**CONTEXT, "validation": (past, known)})
    base = found["baseline"]
    assert base["mae_um_ilm"]["value"] == pytest.approx(0, abs=1e-9)  # all eyes here have one thickness
    assert base["mae_um_bm"]["value"] > 5 and "average eye" in base["mae_um_bm"]["name"]


def test_tables_that_do_not_fit_are_refused():
    predictions, truth = tables(np.zeros(3))
    with pytest.raises(DataError, match="A-scans in the predictions"):
        short = predictions.assign(surfaces=[[row[:-1] for row in s] for s in predictions.surfaces])
        SurfacesEvaluator().evaluate(short, truth, CONTEXT)
    with pytest.raises(DataError, match="no 3 surfaces"):
        SurfacesEvaluator().evaluate(predictions.assign(surfaces=[s[:2] for s in predictions.surfaces]), truth, CONTEXT)
    with pytest.raises(DataError, match="surfaces"):
        SurfacesEvaluator().evaluate(predictions.drop(columns="surfaces"), truth, CONTEXT)


def test_the_config_builds_it():
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    path = Path(__file__).resolve().parents[2] / "conf" / "evaluator" / "surfaces.yaml"
    assert path.read_text(encoding="utf-8").startswith("# @package evaluators.surfaces\n")
    evaluator = instantiate(OmegaConf.load(path), _convert_="all")
    assert evaluator.task == "layers" and evaluator.n_resamples == 1000
    assert slug("IPL/INL") == "ipl_inl"
