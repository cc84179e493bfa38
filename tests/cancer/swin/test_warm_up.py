"""The encoder's warm-up and the whitening of its features: what they compute, and that they are the same again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clarion.cancer.swin.bags import TileSettings
from clarion.cancer.swin.encoder import PatchEncoder
from clarion.cancer.swin.warm_up import WarmUpSettings, _tiles, contrast, key_of, view, warm_up
from clarion.cancer.swin.whitening import Whitening, spaced
from clarion.errors import UsageError

NANO = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "weight_init": "jax"}


class Tiles:
    """A bag of plain textures: what `warm_up` asks of one."""

    def __init__(self, seed: int, n: int = 24):
        rng = np.random.default_rng(seed)
        shade = rng.integers(40, 220, (n, 1, 1, 3))
        grain = rng.normal(0, rng.uniform(2, 40, (n, 1, 1, 1)), (n, 32, 32, 3))
        self.tiles, self.key = np.clip(shade + grain, 0, 255).astype(np.uint8), f"textures-{seed}"

    def __len__(self):
        return len(self.tiles)

    def pixels(self, indices):
        yield self.tiles[indices]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLARION_CACHE", str(tmp_path))


def encoder() -> PatchEncoder:
    return PatchEncoder("swin_tiny_patch4_window7_224", 32, NANO)


def test_views_of_a_tile_come_together_and_the_result_is_kept(tmp_path):
    settings = WarmUpSettings(epochs=6, batch_size=24)
    first, again, other = encoder(), encoder(), encoder()
    said = warm_up(first, [Tiles(0), Tiles(1)], settings, seed=0)
    assert said["tiles"] == 48 and said["loss"]["last"] < 0.8 * said["loss"]["first"] and not first.training
    (kept,) = tmp_path.glob("slide-warm-up-*")
    written = (kept / "encoder.safetensors").stat().st_mtime_ns
    assert warm_up(again, [Tiles(0), Tiles(1)], settings, seed=0) == said and again.digest() == first.digest()
    assert (kept / "encoder.safetensors").stat().st_mtime_ns == written
    warm_up(other, [Tiles(0), Tiles(2)], settings, seed=0)
    assert other.digest() != first.digest()


def test_fewer_tiles_are_taken_from_every_patient():
    said = warm_up(encoder(), [Tiles(0), Tiles(1, 8)], WarmUpSettings(epochs=1, batch_size=4, most=16), seed=0)
    assert said["tiles"] == 16


def test_the_loss_of_pairs_that_agree_and_of_nothing():
    pairs = torch.eye(8).repeat(2, 1)  # 8 tiles, both views the same, all tiles at right angles
    expected = -math.log(math.exp(10) / (math.exp(10) + 14))
    assert float(contrast(pairs, 0.1)) == pytest.approx(expected, rel=1e-4)
    assert float(contrast(torch.ones(16, 4), 0.1)) == pytest.approx(math.log(15), rel=1e-5)


def test_views_are_pictures_and_glass_stays_glass():
    torch.manual_seed(0)
    tiles = torch.full((40, 32, 32, 3), 250, dtype=torch.uint8)
    tiles[:, :16] = 60
    seen = view(tiles, WarmUpSettings(stain=0.1))
    assert seen.shape == tiles.shape and 0 <= float(seen.min()) and float(seen.max()) <= 255
    assert float(seen.amax((1, 2, 3)).min()) > 200  # each view still shows some glass
    assert seen[:, 0, 16].std() > 1 and not torch.equal(seen[0], seen[1])
    still = view(tiles, WarmUpSettings(stain=0, zoom=1))  # turned and mirrored alone: the same colours
    assert float((still.sum((1, 2, 3)) - tiles.float().sum((1, 2, 3))).abs().max() / tiles[0].sum()) < 0.02


def test_whitened_features_are_unrelated_and_of_one_size():
    torch.manual_seed(0)
    mixed = torch.randn(4000, 6) @ torch.randn(6, 6) + 3
    white = Whitening(6).fit(mixed)(mixed)
    assert torch.allclose(white.mean(0), torch.zeros(6), atol=1e-3)
    covariance = torch.cov(white.T)
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-3
    assert 0.5 < float(covariance.diagonal().max()) <= 1.001
    assert torch.equal(Whitening(6)(mixed), mixed)  # before the fit nothing is changed


@pytest.mark.parametrize("given, expected", [
    ({"epochs": 0}, "warm_up.epochs=0 must lie between 1"), ({"temprature": 1}, "warm_up.temprature is unknown"),
    ({"zoom": 2}, "warm_up.zoom=2"), ({"epochs": 1.5}, "warm_up.epochs=1.5: give a whole number"),
    ({"epochs": None}, "warm_up.epochs=null: give a whole number"), ({"lr": "fast"}, "warm_up.lr=fast: give a number"),
    ({"lr": [1]}, r"warm_up.lr=\[1\]: give a number"), ({"stain": True}, "warm_up.stain=True: give a number"),
    ({"lr": 0}, "warm_up.lr=0 must be above 0"), ({"weight_decay": -1}, "warm_up.weight_decay=-1 must be 0 or more"),
    ({"epoch": 3}, "Did you mean `epochs`"), (True, "warm_up=True: give its settings, {epochs, "),
])  # fmt: skip
def test_wrong_settings_are_answered(given, expected):
    with pytest.raises(UsageError, match=expected):
        WarmUpSettings.of(given)


@pytest.mark.parametrize("given, expected", [
    ({"patch": 2.5}, "model.tiles.patch=2.5: give a whole number"), ({"mpp": None}, "model.tiles.mpp=null"),
    ({"most": "many"}, "model.tiles.most=many: give a whole number or null"), ({"inks": 3}, "give true or false"),
    ({"stain": 1}, "model.tiles.stain=1: give a word or null"),
])  # fmt: skip
def test_wrong_tiles_are_answered(given, expected):
    with pytest.raises(UsageError, match=expected):
        TileSettings.of(given)


def test_settings_are_of_their_type_whatever_the_config_wrote():
    found = WarmUpSettings.of({"epochs": 3.0, "batch_size": "64", "lr": "1e-3", "stain": 0})
    assert found == WarmUpSettings(epochs=3, batch_size=64, lr=1e-3, stain=0.0)
    assert [type(v) for v in (found.epochs, found.batch_size, found.stain)] == [int, int, float]
    assert TileSettings.of({"most": None, "mpp": 1, "stain": None}) == TileSettings(mpp=1.0)


def test_one_device_and_the_next_keep_their_own_result():
    given = (encoder(), [Tiles(0)], WarmUpSettings(epochs=1), 0)
    keys = [key_of(*given, torch.device(name)) for name in ("cpu", "cpu:0", "cuda", "cuda:1")]
    assert keys[0] == keys[1] != keys[2] == keys[3]


def test_features_are_whitened_by_tiles_evenly_spaced_over_the_patients():
    bags = [np.arange(a, b, dtype=np.float32)[:, None] for a, b in ((0, 4), (4, 4), (4, 5), (5, 11))]
    assert spaced(bags).squeeze().tolist() == list(range(11)) == spaced(bags, 11).squeeze().tolist()
    assert spaced(bags, 6).squeeze().tolist() == [0, 2, 4, 6, 8, 10]
    assert spaced(bags, 2).squeeze().tolist() == [0, 10]


def test_tiles_are_read_in_the_order_of_the_patients():
    bags = [Tiles(0, 24), Tiles(1, 8), Tiles(2, 1)]
    found = _tiles(bags, 12, 32).numpy()
    assert np.array_equal(found[:9], bags[0].tiles[np.linspace(0, 23, 9).round().astype(int)])
    assert len(found) == 9 + 3 + 1 and np.array_equal(found[-1], bags[2].tiles[0])
