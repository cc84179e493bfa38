"""Poolings, encoder and tiles: what they must do with padding, order, empty bags and other files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from clarion.cancer.swin.encoder import PatchEncoder
from clarion.cancer.swin.mil import POOLING
from clarion.cancer.swin.network import augmented
from clarion.cancer.swin.nystrom import NystromLayer, pseudo_inverse
from clarion.errors import UsageError

NANO = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}


@pytest.fixture
def encoder():
    return PatchEncoder("swin_tiny_patch4_window7_224", 32, NANO).eval()


@pytest.mark.parametrize("name", POOLING)
def test_padding_and_neighbours_in_the_batch_change_nothing(name):
    torch.manual_seed(0)
    pooling, x = POOLING[name](16).eval(), torch.randn(3, 12, 16)
    mask = torch.arange(12) < torch.tensor([12, 5, 0])[:, None]
    with torch.no_grad():
        pooled, attention = pooling(x, mask)
        alone, own = pooling(x[1:2, :5], mask[1:2, :5])
    assert torch.allclose(pooled[1], alone[0], atol=1e-5) and torch.allclose(attention[1, :5], own[0], atol=1e-5)
    assert torch.allclose(attention.sum(1), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)
    assert (attention[~mask] == 0).all() and (pooled[2] == 0).all() and torch.isfinite(pooled).all()


def test_gated_attention_follows_its_formula():
    torch.manual_seed(0)
    pooling, x = POOLING["gated"](8), torch.randn(1, 4, 8)
    v, u, w = pooling.tanh, pooling.gate, pooling.score
    with torch.no_grad():
        gated = torch.tanh(x[0] @ v.weight.T + v.bias) * torch.sigmoid(x[0] @ u.weight.T + u.bias)
        expected = (gated @ w.weight.T + w.bias)[:, 0].softmax(0)
        pooled, attention = pooling(x, torch.ones(1, 4, dtype=torch.bool))
    assert torch.allclose(attention[0], expected, atol=1e-6)
    assert torch.allclose(pooled[0], expected @ x[0], atol=1e-6)


def test_nystrom_comes_near_exact_attention():
    torch.manual_seed(0)
    layer, x = NystromLayer(16, 2, 1000, 0.0).eval(), torch.randn(1, 96, 16).cumsum(1) / 4  # neighbours are alike
    with torch.no_grad():
        exact, row = layer(x)
        layer.landmarks = 48
        near, near_row = layer(x)
        layer.landmarks = 2
        far, _ = layer(x)
    error = (near - exact).norm() / (exact - x).norm()
    assert error < 0.1 and error < 0.5 * (far - exact).norm() / (exact - x).norm()
    assert torch.allclose(near_row.sum(), torch.ones(())) and (near_row >= 0).all() and row.shape == near_row.shape


def test_the_pseudo_inverse_inverts():
    torch.manual_seed(0)
    a = (torch.randn(1, 1, 6, 6) + 3 * torch.eye(6)).softmax(-1)
    assert torch.allclose(a @ pseudo_inverse(a) @ a, a, atol=1e-2)


def test_start_weights_are_those_of_the_seed(encoder):
    torch.manual_seed(123)
    again = PatchEncoder("swin_tiny_patch4_window7_224", 32, NANO)
    other = PatchEncoder("swin_tiny_patch4_window7_224", 32, NANO, seed=1)
    assert encoder.digest() == again.digest() != other.digest()


def test_features_are_the_mean_of_the_last_map(encoder):
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        last = encoder.last_map(pixels)
        assert last.shape == (2, 4, 4, encoder.width)
        assert torch.allclose(encoder(pixels), last.mean((1, 2)), atol=1e-5)


def test_a_users_file_fits_or_is_refused(encoder, tmp_path):
    other = PatchEncoder("swin_tiny_patch4_window7_224", 32, NANO, seed=1)
    file = tmp_path / "swin.safetensors"
    save_file(other.swin.state_dict() | {"head.fc.weight": torch.zeros(5, encoder.width)}, file)
    encoder.load(file)
    assert encoder.digest() == other.digest()
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(UsageError, match="does not fit"):
        encoder.load(file)
    file.write_bytes(b"no tensors")
    with pytest.raises(UsageError, match="cannot be read"):
        encoder.load(file)


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(UsageError, match="swin_tiny_patch4_window7_224"):
        PatchEncoder("swin_tiny_patch4_window7_22", 32)
    with pytest.raises(UsageError, match="timm cannot build"):
        PatchEncoder("swin_tiny_patch4_window7_224", 32, {"embed_dims": 3})


def test_augmentation_turns_a_bag_as_one_and_keeps_glass():
    torch.manual_seed(0)
    tile = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    pixels = tile.expand(2, 3, -1, -1, -1).clone()
    turned = augmented(pixels, 0.0)
    assert turned.dtype == torch.uint8
    for bag in turned:
        assert torch.equal(bag[0], bag[1]) and torch.equal(bag.float().sum(), pixels[0].float().sum())
    white = augmented(torch.full((4, 2, 8, 8, 3), 255, dtype=torch.uint8), 0.1)
    assert white.min() > 230
