"""Self-attention linear in the tokens: Nystroem's approximation (Xiong et al. 2021, arXiv:2102.03902)."""

from __future__ import annotations

import torch
from torch import nn

ITERATIONS = 6  # of the pseudo-inverse, as published


class NystromLayer(nn.Module):
    """x + attention(norm(x)) over [B, N, width]; exact up to `landmarks` tokens. Gives (x, row [B, N]): what the first
    token attends to, mean over heads, not below 0 and summing to 1 (the approximation can leave that range)."""

    def __init__(self, width: int, heads: int, landmarks: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.heads, self.landmarks = heads, landmarks
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        # The paper's residual: a depth-wise convolution over the values, 33 tokens long.
        self.local = nn.Conv2d(heads, heads, (33, 1), padding=(16, 0), groups=heads, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = q * q.shape[-1] ** -0.5
        if tokens <= self.landmarks:
            weights = (q @ k.transpose(-2, -1)).softmax(-1)
            found, row = weights @ v, weights[:, :, 0]
        else:
            ql, kl = self._landmarks(q), self._landmarks(k)
            left = (q @ kl.transpose(-2, -1)).softmax(-1) @ pseudo_inverse((ql @ kl.transpose(-2, -1)).softmax(-1))
            right = (ql @ k.transpose(-2, -1)).softmax(-1)
            found, row = left @ (right @ v), (left[:, :, :1] @ right)[:, :, 0]
        found = (found + self.local(v)).transpose(1, 2).reshape(batch, tokens, width)
        row = row.mean(1).clamp_min(0)
        return x + self.out(found), row / row.sum(-1, keepdim=True).clamp_min(1e-12)

    def _landmarks(self, x: torch.Tensor) -> torch.Tensor:
        """[B, heads, N, d] -> [B, heads, landmarks, d]: means of neighbouring tokens (segments differ by one token)."""
        tokens = x.shape[2]
        segment = torch.arange(tokens, device=x.device) * self.landmarks // tokens
        sums = x.new_zeros(*x.shape[:2], self.landmarks, x.shape[3]).index_add(2, segment, x)
        return sums / torch.bincount(segment, minlength=self.landmarks).to(x.dtype)[:, None]


def pseudo_inverse(a: torch.Tensor) -> torch.Tensor:
    """Moore-Penrose by the third-order iteration of Razavi et al. (2014); a [..., m, m] with rows of sum 1."""
    eye = torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
    z = a.transpose(-2, -1) / (a.abs().sum(-1).amax(-1) * a.abs().sum(-2).amax(-1))[..., None, None]
    for _ in range(ITERATIONS):
        az = a @ z
        z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z
