"""Frozen features made equally large and unrelated, so that a head trained by few patients sees the faint ones too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

FLOOR = 0.02  # variance added to every direction (of standardised features): what is below it stays small
MOST = 200_000  # tiles that it is fitted on, evenly spaced: more change nothing and would be copied in 64 bit


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


def spaced(bags: Sequence[np.ndarray], most: int = MOST) -> torch.Tensor:
    """float32 [n <= most, width] of the bags' features [tiles, width]: evenly spaced over all of their tiles."""
    ends = np.cumsum([len(bag) for bag in bags])
    if ends[-1] <= most:
        return torch.from_numpy(np.concatenate(bags))
    chosen = np.linspace(0, ends[-1] - 1, most).round().astype(int)
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    begins = ends - [len(bag) for bag in bags]
    return torch.from_numpy(np.concatenate([b[own - k] for b, own, k in zip(bags, parts, begins, strict=True)]))
