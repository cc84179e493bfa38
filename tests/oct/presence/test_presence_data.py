"""The phantom of presence, and a whole run on it: fit -> predict -> evaluate."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clarion.errors import UsageError
from clarion.oct.presence.dataset import ErmPresence
from clarion.oct.presence.loader import CROP, Strips
from clarion.samples import Prediction

TINY = {"eyes": {"train": 3, "val": 2, "test": 2}, "bscans_per_eye": {"train": 2, "val": 2, "test": 2}}


@pytest.fixture(scope="module")
def data() -> ErmPresence:
    made = ErmPresence("erm_presence", **TINY, workers=1)
    made.prepare()
    return made


def test_samples_and_truth_are_of_the_same_scans(data):
    data.check()
    assert {split: len(ids) for split, ids in data.splits.items()} == {"train": 6, "val": 4, "test": 4}
    samples, truth = list(data.samples("test")), data.truth("test")
    assert [s.sample_id for s in samples] == list(truth["sample_id"]) == data.splits["test"]
    for sample, presence in zip(samples, truth["presence"], strict=True):
        image, ilm = sample.inputs["bscan"], sample.inputs["ilm"]
        assert image.dtype == np.uint8 and ilm.shape == (image.shape[1],) == presence.shape
        assert set(np.unique(presence[np.isfinite(presence)])) <= {0.0, 1.0}
    again = ErmPresence("erm_presence", **TINY)
    assert again.fingerprint() == data.fingerprint()
    assert data.card()["splits"]["train"]["samples"] == 6
    with pytest.raises(UsageError, match="train split"):
        next(data.samples("train"))


def test_training_strips_change_with_epoch_and_index_alone(data):
    strips = Strips(data._stored("train"), seed=3, augment=True)
    one, again = strips.__getitems__([1, 4]), strips.__getitems__([4, 1])
    assert one["strip"].shape == (2, 1, 96, CROP) and one["presence"].shape == (2, CROP)
    assert np.array_equal(one["strip"][0], again["strip"][1])
    other = strips.__getitems__([1 + len(strips)])
    assert not np.array_equal(one["strip"][0], other["strip"][0])


@pytest.mark.parametrize("wrong, message", [
    ({"root": "somewhere"}, "data.root=null"), ({"phantom_seed": 4}, "for validation"),
    ({"eyes": {"dev": 2}}, "'dev'"), ({"bscans_per_eye": {"train": 99}}, "1 to 50"),
])  # fmt: skip
def test_bad_configs_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        ErmPresence("erm_presence", **wrong)


def test_a_whole_run(command, tmp_path, data):
    sizes = [f"data.{key}.{split}={n}" for key, part in TINY.items() for split, n in part.items()]
    result = command("train.py", "model=erm_presence", *sizes, "trainer.epochs=1", "trainer.batch_size=3",
                     "trainer.device=cpu", "model.channels=[4,4,4,4]", "model.width=8", "model.dilations=[1,2]",
                     "evaluators.scanline.n_resamples=20", f"runs_dir={tmp_path}")  # fmt: skip
    assert result.returncode == 0, result.stderr
    (run,) = tmp_path.iterdir()
    scores = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["evaluators"]["scanline"]
    assert scores["metrics"]["assessed"]["value"] > 0.9 and "dice" in scores["baseline"]
    assert (run / "report.html").is_file()
    description = json.loads((run / "checkpoints/best/model.json").read_text(encoding="utf-8"))
    assert description["facts"]["lateral_um"] == 23.4


def test_validation_scores_every_source():
    """The networks are the shipped ones; the detector, no part of this room, is one wide box a scan."""
    from clarion.oct.validation.presence import TITLES, measure

    def detector(samples):
        for sample in samples:
            assert sample.inputs["image"].dtype == np.uint8
            box = {"boxes": [[200.0, 100.0, 600.0, 200.0]], "scores": [0.7], "labels": [0]}
            yield Prediction(sample.sample_id, sample.patient_id, box)

    found = measure(eyes=3, seed=7, bscans_per_eye=2, layers_predictor="shipped", detector=detector, n_resamples=50)
    assert found["part"] == "presence" and found["n"] == 3
    assert all(len(row) == len(found["columns"]) for row in found["rows"])
    assert {row[0] for row in found["rows"]} == set(TITLES.values())
    scores = {name: found["figures"][f"auc_{name}"]["value"] for name in TITLES}
    assert min(scores["head"], scores["head_layers"]) > 0.95 > scores["boxes"]
    with pytest.raises(UsageError, match="two or more"):
        measure(eyes=1)
