"""Window attention back on its tokens: what must hold whatever the weights, on grids that pad, shift and merge."""

from __future__ import annotations

import pytest
import torch

from clarion.cancer.looking import windows
from clarion.cancer.looking.maps import as_cells
from clarion.cancer.swin.encoder import PatchEncoder
from clarion.errors import UsageError

NANO = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "weight_init": "jax"}


@pytest.fixture(scope="module", params=[(32, 4), (40, 4), (36, 3)], ids=["even", "padded", "odd"])
def seen(request):
    """(patch, blocks of two noise tiles): 8 x 8 tokens, 10 x 10 (padded to windows of 4), 9 x 9 (odd when merged)."""
    patch, window = request.param
    encoder = PatchEncoder("swin_tiny_patch4_window7_224", patch, NANO | {"window_size": window}).eval()
    with torch.no_grad():  # start weights attend almost evenly: sharpen, so that a wrong place is a wrong number
        for name, parameter in encoder.named_parameters():
            if "qkv.weight" in name:
                parameter.mul_(8)
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (2, patch, patch, 3), dtype=torch.uint8)
    return encoder, pixels, windows.window_attention(encoder.swin, encoder.normalised(pixels))


def test_rows_sum_to_one_in_every_block(seen):
    _, _, blocks = seen
    assert len(blocks) == 4 and [b.stage for b in blocks] == [0, 0, 1, 1]
    for block in blocks:
        assert torch.allclose(block.weights.sum(-1), torch.ones(()), atol=1e-5)


def test_shift_round_trip_is_the_identity(seen):
    _, _, blocks = seen
    assert any(any(b.shift) for b in blocks)  # else nothing is tested
    for block in blocks:
        tokens = torch.rand(2, *block.grid)
        there = windows.into_windows(tokens, block.window, block.shift)
        assert torch.equal(windows.from_windows(there, block.grid, block.window, block.shift), tokens)


def test_mass_of_every_window_is_conserved(seen):
    _, _, blocks = seen
    for block in blocks:
        weight = torch.rand(2, *block.grid)
        given = windows.into_windows(weight, block.window, block.shift)
        received = torch.einsum("nwq,nwqk->nwk", given, block.weights)
        assert torch.allclose(received.sum(-1), given.sum(-1), atol=1e-5)


def test_padding_is_cropped_and_its_mass_is_what_is_missing(seen):
    _, _, blocks = seen
    for block in blocks:
        found = block.map()
        assert found.shape[1:] == block.grid
        lost = 1 - found.sum((1, 2))
        if block.padded == block.grid:
            assert lost.abs().max() < 1e-5
        else:
            real = windows.into_windows(torch.ones(2, *block.grid), block.window, block.shift)
            given = real / (block.grid[0] * block.grid[1])
            on_padding = (torch.einsum("nwq,nwqk->nwk", given, block.weights) * (1 - real)).sum((1, 2))
            assert torch.allclose(lost, on_padding, atol=1e-5)
            if not any(block.shift):  # the mask of a shifted block may keep all queries away from padding
                assert (lost > 1e-4).all()


def test_splitting_merged_tokens_keeps_their_sum_and_place():
    coarse = torch.rand(1, 3, 3)
    for grid in ((6, 6), (5, 5), (6, 5)):
        fine = windows.split_tokens(coarse, grid)
        assert fine.shape[1:] == grid
        assert torch.allclose(fine.sum(), coarse.sum())
        assert torch.allclose(fine[0, :2, :2].sum(), coarse[0, 0, 0])
        assert torch.allclose(fine[0, 4:, 4:].sum(), coarse[0, 2, 2])


@pytest.mark.parametrize("operator", windows.OPERATORS)
def test_every_operator_gives_one_map_of_the_finest_grid(seen, operator):
    _, _, blocks = seen
    found = windows.merged(blocks, operator)
    assert found.shape[1:] == blocks[0].grid and (found >= 0).all()
    total = found.sum((1, 2))
    if all(b.padded == b.grid for b in blocks):
        assert torch.allclose(total, torch.ones(()), atol=1e-5)
    else:
        assert ((total > 0.3) & (total < 1 + 1e-5)).all()


def test_an_unknown_operator_is_refused(seen):
    with pytest.raises(UsageError, match="rollout"):
        windows.merged(seen[2], "sum")


def test_a_token_that_everyone_attends_to_is_found_where_it_lies(seen):
    """The map of a block whose queries all look at one token is that token, through shift, padding and windows."""
    _, _, blocks = seen
    for block in blocks:
        target = torch.zeros(2, *block.grid)
        target[:, block.grid[0] // 2, 1] = 1
        keys = windows.into_windows(target, block.window, block.shift)
        looking = keys[:, :, None].expand(-1, -1, keys.shape[-1], -1)
        made = windows.BlockAttention(looking, block.grid, block.window, block.shift, block.stage).map()
        assert torch.equal(made > 0, target > 0)


def test_fused_attention_hides_nothing(seen):
    encoder, pixels, blocks = seen
    layers = [m for m in encoder.modules() if hasattr(m, "fused_attn")]
    before = [m.fused_attn for m in layers]
    for layer in layers:
        layer.fused_attn = True  # as TIMM_FUSED_ATTN=2 makes them
    try:
        again = windows.window_attention(encoder.swin, encoder.normalised(pixels))
        assert all(m.fused_attn for m in layers)  # left as it was found
    finally:
        for layer, fused in zip(layers, before, strict=True):
            layer.fused_attn = fused
    for one, other in zip(blocks, again, strict=True):
        assert torch.allclose(one.weights, other.weights, atol=1e-4)


def test_cells_keep_the_sum():
    maps = torch.rand(2, 7, 7)
    for cells in (7, 4, 3):
        assert torch.allclose(as_cells(maps, cells).sum((1, 2)), maps.sum((1, 2)), atol=1e-5)
