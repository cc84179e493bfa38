"""The phantom folder for layers, and a whole run of train.py on a tiny one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clarion import launch
from clarion.errors import UsageError
from clarion.oct.layers.dataset import OctLayers
from clarion.oct.layers.loader import LayerScans
from clarion.oct.layers.phantom_folder import layer_lines, visible_surfaces
from clarion.oct.phantom import SURFACES, make_eye
from clarion.record import read_json

EYES = {"train": 3, "val": 1, "test": 2}


@pytest.fixture(scope="module")
def data() -> OctLayers:
    found = OctLayers("oct_layers", eyes=EYES, bscans_per_eye=2, workers=1)
    found.prepare()
    return found


def test_truth_belongs_to_the_picture(data):
    assert {split: len(ids) for split, ids in data.splits.items()} == {"train": 6, "val": 2, "test": 4}
    truth = data.truth("test")
    assert set(truth.columns) == {"sample_id", "patient_id", "stage", "hole", "surfaces", "axial_um", "lateral_um"}
    sample = next(data.samples("test"))
    row = truth.iloc[0]
    assert row.sample_id == sample.sample_id
    seed, (direction, line) = int(row.patient_id[2:]), (sample.sample_id[-3], int(sample.sample_id[-2:]))
    scan = make_eye(seed, int(row.stage)).bscan(direction, line)
    assert np.array_equal(np.stack(row.surfaces), visible_surfaces(scan), equal_nan=True)
    assert seed < 800_000  # what validation measures on is never trained on
    assert not data.check().errors
    assert data.card()["splits"]["test"]["patients"] == 2


def test_lines_are_distinct_and_start_at_the_fovea():
    eye = make_eye(5, 1)
    lines = layer_lines(eye, 6)
    assert len(set(lines)) == 6
    assert abs(eye.geometry.line_position_mm(lines[0][1]) - eye.fovea.y_mm) <= 0.13


def test_hidden_surfaces_are_not_in_the_truth():
    scan = make_eye(7, 0).bscan("H", 3)
    image = scan.image.copy()
    limit = int(scan.surfaces["ILM"][:200].max()) + 10
    image[:limit, :200] = 0
    rows = visible_surfaces(type(scan)(**{**vars(scan), "image": image}))
    assert np.isnan(rows[0, :190]).all() and np.isfinite(rows[7]).all() and np.isfinite(rows[0, 210:]).all()


def test_other_data_is_refused_in_words():
    with pytest.raises(UsageError, match="leave data.root=null"):
        OctLayers("oct_layers", root="somewhere")
    with pytest.raises(UsageError, match="split 'training'"):
        OctLayers("oct_layers", eyes={"training": 3})


def test_training_pictures_depend_on_seed_and_epoch_alone(data):
    def batches(seed: int, epoch: int) -> np.ndarray:
        module: LayerScans = data.datamodule(2, seed=seed, crop=(128, 64))
        module.setup()
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return np.concatenate([batch["image"].numpy() for batch in loader])

    assert np.array_equal(batches(0, 0), batches(0, 0))
    assert not np.array_equal(batches(0, 0), batches(0, 1))
    assert not np.array_equal(batches(0, 0), batches(1, 0))


def test_a_run_goes_from_fit_to_report(data, tmp_path):
    code = launch.train([
        "model=layer_unet", "model.features=[8,8,8,8,8,8]", "model.datamodule.crop=[128,64]",
        *(f"data.eyes.{split}={n}" for split, n in EYES.items()), "data.bscans_per_eye=2", "trainer.epochs=1",
        "trainer.batch_size=2", "trainer.device=cpu", "evaluators.surfaces.n_resamples=20", f"runs_dir={tmp_path}",
    ])  # fmt: skip
    assert code == 0
    (run,) = tmp_path.glob("layer_unet-*")
    found = read_json(run / "metrics.json")["evaluators"]["surfaces"]
    assert found["metrics"]["mae_um_ilm"]["n"] == 4 and found["metrics"]["mae_um_ilm"]["n_patients"] == 2
    predictions = pd.read_parquet(run / "predictions" / "test.parquet")
    assert len(predictions.surfaces[0]) == len(SURFACES) and len(predictions.surfaces[0][0]) == 768
    assert (run / "report.html").stat().st_size > 5000
    assert (run / "checkpoints" / "best" / "model.safetensors").is_file()
