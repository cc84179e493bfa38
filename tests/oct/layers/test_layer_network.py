"""The shipped layer network: accuracy on eyes it never saw, other instruments, what is hidden, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from clarion.config import compose_config
from clarion.errors import DataError, UsageError
from clarion.networks import ModulePredictor
from clarion.oct.layers.network import LayerModule, fit_sd
from clarion.oct.layers.phantom_folder import CIRRUS, TOPCON, visible_surfaces
from clarion.oct.layers.shipped import SHIPPED, load_layers
from clarion.oct.phantom import SPECTRALIS_25, SURFACES, make_eye
from clarion.samples import Sample


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def predictor() -> ModulePredictor:
    return load_layers()


def sample(image: np.ndarray, axial: float = 3.872, lateral: float = 11.7, name: str = "s") -> Sample:
    return Sample(name, "p", {"bscan": image, "axial_um": axial, "lateral_um": lateral})


def answer(predictor, image, axial=3.872, lateral=11.7):
    (found,) = predictor([sample(image, axial, lateral)])
    return found.values["surfaces"], found.values["sd"]


@pytest.mark.parametrize("stage", range(5))
def test_surfaces_of_unseen_eyes_are_close_to_the_truth(predictor, stage):
    eye = make_eye(910_000 + stage, stage)
    error, ratio = [], []
    for direction, line in (("H", 12), ("V", 8)):
        scan = eye.bscan(direction, line)
        rows, sd = answer(predictor, scan.image)
        assert rows.shape == sd.shape == (8, 768) and rows.dtype == np.float32
        assert (np.diff(rows, axis=0)[:, np.isfinite(rows).all(0)] >= -1e-3).all()
        off = rows - visible_surfaces(scan)
        error.append(np.abs(off))
        ratio.append(off / sd)
    error = np.concatenate(error, axis=1)
    assert np.isfinite(error).mean() > 0.97
    mae = np.nanmean(error, axis=1)
    assert mae[[0, 7]].max() < 1.5 and mae.max() < 3, dict(zip(SURFACES, mae.round(2), strict=True))
    assert 0.4 < np.sqrt(np.nanmean(np.square(ratio))) < 2.5


@pytest.mark.parametrize("geometry", [TOPCON, CIRRUS])
def test_other_instruments_sampling(predictor, geometry):
    eye = make_eye(910_010, 0, geometry)
    scan = eye.bscan("H", 12)
    rows, _ = answer(predictor, scan.image, geometry.axial_um, geometry.lateral_um)
    off_um = np.abs(rows - visible_surfaces(scan)) * geometry.axial_um
    assert np.nanmean(off_um[0]) < 6 and np.nanmean(off_um[7]) < 6


def test_a_mirrored_scan_has_mirrored_surfaces(predictor):
    scan = make_eye(910_011, 1).bscan("H", 12)
    rows, mirrored = answer(predictor, scan.image)[0], answer(predictor, scan.image[:, ::-1])[0][:, ::-1]
    assert np.nanmean(np.abs(rows - mirrored)) < 0.5


def test_what_is_cut_off_is_unknown(predictor):
    scan = make_eye(910_012, 0).bscan("H", 12)
    true = visible_surfaces(scan)
    top = int(np.median(true[0])) + 25  # cut through the retina: the ILM is gone
    rows, _ = answer(predictor, scan.image[top:])
    gone = true[0] < top - 4
    assert np.isnan(rows[0, gone]).mean() > 0.6
    assert np.isfinite(rows[7]).mean() > 0.8
    dark = scan.image.copy()
    dark[:, 500:] = 0
    rows, _ = answer(predictor, dark)
    assert np.isnan(rows[:, 560:]).mean() > 0.9 and np.isfinite(rows[:, :440]).mean() > 0.95


def test_where_there_is_no_eye_there_are_no_surfaces(predictor):
    noise = np.random.default_rng(0).integers(0, 60, (496, 400)).astype(np.uint8)
    for image in (np.zeros((496, 400), np.uint8), np.full((496, 400), 255, np.uint8), noise):
        assert np.isfinite(answer(predictor, image)[0]).mean() < 0.1


def test_a_path_and_an_array_give_the_same_answer(predictor, tmp_path):
    import cv2

    scan = make_eye(910_013, 2).bscan("V", 12)
    path = tmp_path / "scan.png"
    cv2.imwrite(str(path), scan.image)
    of_path = Sample("a", "p", {"image": path, "axial_um": 3.872, "lateral_um": 11.7})
    first, second = predictor([of_path, sample(scan.image)])
    assert isinstance(first.values["surfaces"], list)  # a table takes lists
    assert np.array_equal(np.stack(first.values["surfaces"]), second.values["surfaces"], equal_nan=True)


def test_scans_of_different_size_in_one_batch(predictor):
    scan = make_eye(910_014, 0).bscan("H", 12)
    small = scan.image[60:, :400]
    mixed = [p.values["surfaces"] for p in predictor([sample(scan.image), sample(small, name="t")])]
    assert mixed[0].shape == (8, 768) and mixed[1].shape == (8, 400)
    assert np.nanmean(np.abs(mixed[1] - answer(predictor, small)[0])) < 0.2


def test_bad_input_is_named(predictor, tmp_path):
    with pytest.raises(DataError, match="grey picture"):
        list(predictor([sample(np.zeros((496, 768, 3), np.uint8))]))
    with pytest.raises(DataError, match="no scale"):
        list(predictor([sample(np.zeros((496, 768), np.uint8), lateral=0)]))
    with pytest.raises(UsageError, match="model.json is missing"):
        load_layers(tmp_path)
    (tmp_path / "model.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="cannot be read"):
        load_layers(tmp_path)


def test_the_trainer_loads_the_shipped_folder(predictor):
    from clarion.trainers.lightning import LightningTrainer

    config = compose_config(["model=layer_unet"])
    trainer = LightningTrainer(model=config.model, epochs=1, batch_size=4, device="cpu")
    scan = make_eye(910_015, 0, replace(SPECTRALIS_25, width=256)).bscan("H", 12)
    (found,) = trainer.load(SHIPPED)([sample(scan.image)])
    assert np.allclose(found.values["surfaces"], answer(predictor, scan.image)[0], atol=0.05, equal_nan=True)
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 15e6


def test_losses_prefer_the_truth_and_do_not_look_where_nothing_shows():
    module = LayerModule({"features": [8] * 6}, facts())
    rows = torch.full((1, 8, 16), 20.0)
    rows[..., 8:] = torch.nan
    at = -0.5 * (torch.arange(48.0)[:, None] - 20.0) ** 2
    right, wrong = (at.expand(1, 8, 48, 16), at.roll(6, 0).expand(1, 8, 48, 16))
    (good, good_row), (bad, bad_row) = module.losses(right, rows), module.losses(wrong, rows)
    assert good < bad and good_row < 0.05 and bad_row == pytest.approx(6, abs=0.1)
    flat = torch.cat([right[..., :8], torch.zeros(1, 8, 48, 8)], -1)
    assert module.losses(flat, rows)[0] < good


def test_calibration_finds_floor_and_gain():
    rng = np.random.default_rng(0)
    spread = rng.exponential(1.0, 20_000)
    square = (0.25 + 0.64 * spread) * rng.chisquare(1, 20_000)
    floor, gain = fit_sd(square, spread)
    assert floor == pytest.approx(0.5, abs=0.05) and gain == pytest.approx(0.8, abs=0.06)


def facts() -> dict:
    from clarion.oct.layers.scale import AXIAL_UM, LATERAL_UM

    return {"surfaces": list(SURFACES), "axial_um": AXIAL_UM, "lateral_um": LATERAL_UM}


def test_a_checkpoint_of_another_scale_is_refused():
    with pytest.raises(UsageError, match="another scale"):
        LayerModule({"features": [8] * 6}, {**facts(), "axial_um": 3.0})
