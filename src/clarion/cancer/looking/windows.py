"""Window attention of a Swin, brought back to the places of its tokens.

A block attends inside windows of a feature map that was rolled and padded first. To see it on the tile: mean over
heads and queries, windows put together (`window_reverse`), padding cropped, rolled back, and stages merged by an
operator that is named: see `OPERATORS`. What falls on padding is lost to the map and counted, not spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from torch import nn
from torch.nn import functional

from clarion.errors import UsageError

# mean: the mean of all blocks' maps, each spread over the finest grid; last: the last block's alone; rollout: from the
# pooled features backwards through (I + attention) / 2 (Abnar and Zuidema 2020) and through the mergings of tokens.
OPERATORS = ("rollout", "mean", "last")


@dataclass(frozen=True)
class BlockAttention:
    """weights: float [n, windows, area, area] (query, key), mean over heads, rows sum to 1; grid: the stage's (rows,
    columns) of tokens; window, shift: (rows, columns); stage: from 0."""

    weights: torch.Tensor
    grid: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int]
    stage: int

    @property
    def padded(self) -> tuple[int, int]:
        return tuple(-(-side // w) * w for side, w in zip(self.grid, self.window, strict=True))

    def received(self, weight: torch.Tensor) -> torch.Tensor:
        """[n, rows, columns]: what each token receives where the queries weigh `weight` [n, rows, columns]."""
        given = into_windows(weight, self.window, self.shift)
        return from_windows(torch.einsum("nwq,nwqk->nwk", given, self.weights), self.grid, self.window, self.shift)

    def map(self) -> torch.Tensor:
        """[n, rows, columns]: mean over heads and over all queries; sums to 1, less what falls on padding."""
        rows, columns = self.grid
        return self.received(self.weights.new_full((len(self.weights), rows, columns), 1 / (rows * columns)))


def into_windows(tokens: torch.Tensor, window: tuple[int, int], shift: tuple[int, int]) -> torch.Tensor:
    """[n, rows, columns] -> [n, windows, area] as a block lays them out: rolled by -shift, padded with 0, cut."""
    n, rows, columns = tokens.shape
    tokens = torch.roll(tokens, (-shift[0], -shift[1]), (1, 2))
    tokens = functional.pad(tokens, (0, -columns % window[1], 0, -rows % window[0]))
    return window_partition(tokens[..., None], window).reshape(n, -1, window[0] * window[1])


def from_windows(
    values: torch.Tensor, grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> torch.Tensor:
    """[n, windows, area] -> [n, rows, columns]: put together, padding cropped, rolled back. Undoes `into_windows`."""
    padded = [-(-side // w) * w for side, w in zip(grid, window, strict=True)]
    whole = window_reverse(values.reshape(-1, *window, 1), window, *padded)[..., 0]
    return torch.roll(whole[:, : grid[0], : grid[1]], shift, (1, 2))


def split_tokens(coarse: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """[n, r, c] -> [n, rows, columns] of the stage before: a merged token's share goes to its (up to) four parts in
    equal parts, and none to the padding of an odd side. Sums are kept."""
    rows, columns = grid
    spread = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :rows, :columns]
    real = coarse.new_ones(1, 1, rows, columns)
    parts = 4 * functional.avg_pool2d(functional.pad(real, (0, columns % 2, 0, rows % 2)), 2)[0]
    return spread / parts.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :rows, :columns]


def merged(blocks: Sequence[BlockAttention], operator: str = "rollout") -> torch.Tensor:
    """[n, rows, columns] on the grid of the first stage, from all blocks in order; sums to 1, less what fell on
    padding.

    UsageError for an operator that is none of OPERATORS."""
    if operator not in OPERATORS:
        raise UsageError(f"{operator} merges no stages: use {', '.join(OPERATORS)}.")
    grids = {block.stage: block.grid for block in blocks}

    def finest(found: torch.Tensor, stage: int) -> torch.Tensor:
        for finer in range(stage - 1, -1, -1):
            found = split_tokens(found, grids[finer])
        return found

    if operator == "last":
        return finest(blocks[-1].map(), blocks[-1].stage)
    if operator == "mean":
        return sum(finest(block.map(), block.stage) for block in blocks) / len(blocks)
    rows, columns = blocks[-1].grid
    weight = blocks[-1].weights.new_full((len(blocks[-1].weights), rows, columns), 1 / (rows * columns))
    stage = blocks[-1].stage
    for block in reversed(blocks):
        if block.stage < stage:
            weight, stage = split_tokens(weight, block.grid), block.stage
        weight = (weight + block.received(weight)) / 2
    return weight


def window_attention(swin: nn.Module, images: torch.Tensor) -> list[BlockAttention]:
    """The attention of every block of a Swin (v1, of timm) on images float [n, 3, h, w], first block first."""
    blocks = [m for m in swin.modules() if isinstance(m, SwinTransformerBlock)]
    stage_of = {id(b): k for k, stage in enumerate(swin.layers) for b in stage.blocks}
    seen: dict[int, torch.Tensor] = {}
    grids: dict[int, tuple[int, int]] = {}
    handles = []
    for number, block in enumerate(blocks):

        def keep_grid(_module: nn.Module, given: tuple, number: int = number) -> None:
            grids[number] = tuple(given[0].shape[1:3])

        def keep_rows(_module: nn.Module, _given: tuple, rows: torch.Tensor, number: int = number) -> None:
            seen[number] = rows.detach().float().mean(1)

        handles += [block.register_forward_pre_hook(keep_grid), block.attn.softmax.register_forward_hook(keep_rows)]
    try:
        with torch.inference_mode(), unfused(blocks):
            swin.forward_features(images)
    finally:
        for handle in handles:
            handle.remove()
    return [
        BlockAttention(seen[k].unflatten(0, (len(images), -1)), grids[k], tuple(block.window_size),
                       tuple(block.shift_size), stage_of[id(block)])
        for k, block in enumerate(blocks)
    ]  # fmt: skip


@contextmanager
def unfused(blocks: Sequence[SwinTransformerBlock]) -> Iterator[None]:
    """Attention written out: where timm fuses it (TIMM_FUSED_ATTN=2) no softmax is called that could be seen."""
    before = [block.attn.fused_attn for block in blocks]
    for block in blocks:
        block.attn.fused_attn = False
    try:
        yield
    finally:
        for block, fused in zip(blocks, before, strict=True):
            block.attn.fused_attn = fused
