"""From the tiles of a patient to one vector: multiple-instance pooling with an attention that can be shown.

Every pooling takes x float [B, N, width] and mask bool [B, N] (True: a tile) and gives (pooled [B, width], attention
[B, N]); the attention of a patient's tiles sums to 1, and to 0 where a patient has none.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from clarion.cancer.swin.nystrom import NystromLayer


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis of what the mask keeps; rows without anything are 0."""
    scores = scores.masked_fill(~mask, -torch.inf)
    top = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).min)
    raised = torch.exp(scores - top)
    return raised / raised.sum(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)


class MeanPooling(nn.Module):
    """All tiles alike: what attention must beat."""

    def __init__(self, width: int):
        super().__init__()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attention = mask / mask.sum(1, keepdim=True).clamp_min(1)
        return torch.einsum("bn,bnd->bd", attention.to(x.dtype), x), attention.to(x.dtype)


class GatedAttention(nn.Module):
    """Gated attention (Ilse et al. 2018, arXiv:1802.04712, eq. 9): softmax over w' (tanh(V x) * sigmoid(U x)).

    It starts as nearly the mean of all tiles: with few patients an early random choice of tiles is never given up.
    hidden: rows of V and U; half the width where it is not given."""

    def __init__(self, width: int, hidden: int | None = None, dropout: float = 0.0):
        super().__init__()
        hidden = hidden or max(1, width // 2)
        self.tanh = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.score(self.dropout(torch.tanh(self.tanh(x)) * torch.sigmoid(self.gate(x))))[..., 0]
        attention = masked_softmax(scores.float(), mask).to(x.dtype)
        return torch.einsum("bn,bnd->bd", attention, x), attention


class PyramidPosition(nn.Module):
    """PPEG: the tiles laid out as a square, three depth-wise convolutions (7, 5, 3) added to it."""

    def __init__(self, width: int):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, k, padding=k // 2, groups=width) for k in (7, 5, 3))

    def forward(self, x: torch.Tensor, side: int) -> torch.Tensor:
        """x [1, 1 + side^2, width], the first is the class token."""
        token, tiles = x[:, :1], x[:, 1:]
        square = tiles.transpose(1, 2).reshape(1, -1, side, side)
        square = square + sum(convolution(square) for convolution in self.convolutions)
        return torch.cat([token, square.flatten(2).transpose(1, 2)], 1)


class TransMIL(nn.Module):
    """TransMIL (Shao et al. 2021, arXiv:2106.00908): a class token and the tiles, squared up by repeating the first
    ones, through attention, PPEG and attention; Nystroem's approximation where there are more tokens than landmarks.

    The attention shown is that of the class token in the second layer, mean over heads, repeats added to their tile."""

    def __init__(self, width: int, heads: int = 4, landmarks: int = 128, dropout: float = 0.1):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.first = NystromLayer(width, heads, landmarks, dropout)
        self.position = PyramidPosition(width)
        self.second = NystromLayer(width, heads, landmarks, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled, attention = [], x.new_zeros(mask.shape)
        for k, (tiles, own) in enumerate(zip(x, mask, strict=True)):  # bags differ in length: no padding is attended to
            kept = own.nonzero()[:, 0]
            if not len(kept):
                pooled.append(x.new_zeros(x.shape[2]))
                continue
            side = math.ceil(math.sqrt(len(kept)))
            order = torch.arange(side * side, device=x.device) % len(kept)
            tokens = torch.cat([self.token, tiles[kept][order][None]], 1)
            tokens, _ = self.first(tokens)
            tokens, row = self.second(self.position(tokens, side))
            pooled.append(self.norm(tokens)[0, 0])
            shown = x.new_zeros(len(kept)).index_add(0, order, row[0, 1:].to(x.dtype))
            attention[k, kept] = shown / shown.sum().clamp_min(1e-12)
        return torch.stack(pooled), attention


POOLING = {"gated": GatedAttention, "transmil": TransMIL, "mean": MeanPooling}
