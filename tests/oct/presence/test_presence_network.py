"""The presence network: the shipped one on eyes it never saw and on other instruments; calibration; bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from clarion.config import compose_config
from clarion.errors import DataError, UsageError
from clarion.oct.layers.phantom_folder import CIRRUS, TOPCON, visible_surfaces
from clarion.oct.phantom import SPECTRALIS_25, make_eye
from clarion.oct.presence.network import PresenceModule, fit_calibration
from clarion.oct.presence.shipped import SHIPPED, load_presence
from clarion.samples import Sample


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def predictor():
    return load_presence()


def sample_of(scan, ilm=None, **changed) -> Sample:
    inputs = {"bscan": scan.image, "axial_um": scan.spacing[0], "lateral_um": scan.spacing[1],
              "ilm": visible_surfaces(scan)[0] if ilm is None else ilm}  # fmt: skip
    return Sample("s", "p", inputs | changed)


def found(predictor, *samples) -> list[np.ndarray]:
    return [prediction.values["presence"] for prediction in predictor(samples)]


def dice(said: np.ndarray, true: np.ndarray) -> float:
    called = said > 0.5
    return 2 * (called & true).sum() / max(called.sum() + true.sum(), 1)


def test_membranes_of_unseen_eyes_are_found_and_healthy_eyes_stay_clean(predictor):
    length, overlap = [], []
    for k in range(6):
        eye = make_eye(920_000 + k, stage=1 + k % 4)
        scans = [eye.bscan(d, n) for d, n in (("H", 10), ("H", 14), ("V", 12))]
        said = np.concatenate(found(predictor, *map(sample_of, scans)))
        true = np.concatenate([scan.presence for scan in scans])
        overlap.append(dice(said, true))
        length.append((np.nansum(said), true.sum()))
    assert np.median(overlap) > 0.9 and min(overlap) > 0.6
    sums = np.sum(length, axis=0)
    assert sums[0] == pytest.approx(sums[1], rel=0.15)
    healthy = make_eye(920_100, stage=0)
    said = found(predictor, *(sample_of(healthy.bscan("H", n)) for n in (6, 12, 18)))
    assert np.nanmean(said) < 0.05


@pytest.mark.parametrize("geometry", [CIRRUS, TOPCON])
def test_other_instruments(predictor, geometry):
    eye = make_eye(930_001, stage=3, geometry=geometry)
    scans = [eye.bscan("H", n) for n in (10, 13)]
    said = np.concatenate(found(predictor, *map(sample_of, scans)))
    assert said.shape == (2 * geometry.width,)
    assert dice(said, np.concatenate([scan.presence for scan in scans])) > 0.75


def test_an_ilm_that_took_the_membrane_for_itself_changes_little(predictor):
    eye = make_eye(920_002, stage=3)
    scan = eye.bscan("H", 12)
    ilm = visible_surfaces(scan)[0]
    locked = np.where(scan.presence, np.fmin(scan.membrane, ilm), ilm) + 1
    right, wrong = found(predictor, sample_of(scan), sample_of(scan, locked))
    assert dice(wrong, scan.presence) > dice(right, scan.presence) - 0.1


def test_what_was_not_found_is_not_assessed(predictor):
    scan = make_eye(920_003, stage=2).bscan("H", 12)
    ilm = visible_surfaces(scan)[0].copy()
    ilm[100:140] = np.nan
    (said,) = found(predictor, sample_of(scan, ilm))
    assert said.dtype == np.float32 and np.isnan(said[100:140]).all() and np.isfinite(said[140:700]).all()
    (said,) = found(predictor, sample_of(scan, np.full(768, np.nan)))
    assert np.isnan(said).all()


def test_scans_of_different_widths_go_together(predictor):
    eye = make_eye(920_004, stage=2)
    wide = eye.bscan("H", 12)
    narrow = replace(eye, geometry=replace(SPECTRALIS_25, width=384)).bscan("H", 12)
    together = found(predictor, sample_of(wide), sample_of(narrow))
    alone = [found(predictor, s)[0] for s in (sample_of(wide), sample_of(narrow))]
    assert [len(said) for said in together] == [768, 384]
    assert np.allclose(together[0], alone[0], atol=1e-4, equal_nan=True)
    assert np.nanmax(np.abs(together[1] - alone[1])[:300]) < 0.25  # the padding beyond its end is seen near the end


def test_missing_input_is_named(predictor):
    with pytest.raises(DataError, match="'ilm'"):
        found(predictor, Sample("s", "p", {"bscan": np.zeros((50, 60), np.uint8), "axial_um": 3.9, "lateral_um": 11.7}))


def test_the_trainer_loads_the_shipped_network():
    from clarion.run import build

    cfg = compose_config(["model=erm_presence", "trainer.device=cpu"])
    loaded = build(cfg.trainer, model=cfg.model, seed=0).load(SHIPPED)
    scan = make_eye(920_005, stage=2).bscan("V", 12)
    (one,), (other,) = found(loaded, sample_of(scan)), found(load_presence(), sample_of(scan))
    assert np.allclose(one, other, atol=1e-5, equal_nan=True)
    assert sum(f.stat().st_size for f in SHIPPED.iterdir()) < 5e6


def test_a_folder_that_holds_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="model.json is missing"):
        load_presence(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"model": {}}), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        load_presence(tmp_path)
    description = json.loads((SHIPPED / "model.json").read_text(encoding="utf-8"))
    with pytest.raises(UsageError, match="another scale"):
        PresenceModule(description["model"], description["facts"] | {"lateral_um": 11.7})


def test_calibration_finds_slope_and_offset_and_keeps_the_mean():
    random = np.random.default_rng(1)
    logits = random.normal(-1, 3, 40_000)
    truth = (random.random(logits.size) < 1 / (1 + np.exp(-(0.6 * logits - 0.8)))).astype(float)
    slope, offset = fit_calibration(logits, truth)
    assert (slope, offset) == pytest.approx((0.6, -0.8), abs=0.05)
    assert (1 / (1 + np.exp(-(slope * logits + offset)))).mean() == pytest.approx(truth.mean(), abs=2e-3)
    assert fit_calibration(logits, np.zeros_like(logits)) == (1.0, 0.0)
