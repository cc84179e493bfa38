"""Frozen features made equally large and unrelated, so that a head trained by few patients sees the faint ones too."""

from __future__ import annotations

import torch
from torch import nn

FLOOR = 0.02  # variance added to every direction (of standardised features): what is below it stays small


class Whitening(nn.Module):
    """x [..., width] -> (x - mean) @ matrix; before `fit` nothing is changed. Buffers: a checkpoint keeps them."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))

    def fit(self, features: torch.Tensor) -> Whitening:
        """From features float [n, width] of training tiles: standardised, then along their principal axes."""
        given = features.double()
        mean, sd = given.mean(0), given.std(0).clamp_min(1e-6)
        variance, axes = torch.linalg.eigh(torch.cov(((given - mean) / sd).T))
        self.mean.copy_(mean)
        self.matrix.copy_((axes / torch.sqrt(variance.clamp_min(0) + FLOOR)) / sd[:, None])
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) @ self.matrix
