"""Self-supervised warm-up of the patch encoder on the training patients' tiles, before any outcome is looked at.

A survival label a patient is too little to learn what tissue looks like from: two views of a tile must be told from the
views of all other tiles (SimCLR, Chen et al. 2020, arXiv:2002.05709). The result is cached by what it was made of.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from clarion.cancer.swin.bags import Bag
from clarion.cancer.swin.encoder import PatchEncoder
from clarion.cancer.swin.settings import settings_of
from clarion.data.cache import build_once
from clarion.errors import UsageError

log = logging.getLogger(__name__)
WARM_UP_VERSION = 1  # raise it when the same tiles and settings give other weights


@dataclass(frozen=True)
class WarmUpSettings:
    """epochs over the tiles, batch_size, lr, weight_decay; temperature of the contrast; stain: SD of the log optical
    density a channel between views; zoom: smallest share of a tile's side that a view shows; most: tiles at most,
    evenly spaced over the patients."""

    epochs: int = 10
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05
    temperature: float = 0.1
    stain: float = 0.1
    zoom: float = 0.7
    most: int = 20_000

    def __post_init__(self) -> None:
        for name, low, high in (("epochs", 1, 10_000), ("batch_size", 4, 65_536), ("temperature", 0.01, 10),
                                ("stain", 0, 1), ("zoom", 0.1, 1), ("most", 4, 10**9)):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"model.datamodule.warm_up.{name}={getattr(self, name)} must lie between {low} and "
                                 f"{high}.")  # fmt: skip
        if self.lr <= 0:
            raise UsageError(f"model.datamodule.warm_up.lr={self.lr:g} must be above 0.")
        if self.weight_decay < 0:
            raise UsageError(f"model.datamodule.warm_up.weight_decay={self.weight_decay:g} must be 0 or more.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> WarmUpSettings:
        """From a config; UsageError on a name it does not know and on a value of another type."""
        return settings_of(cls, given, "model.datamodule.warm_up")


def warm_up(
    encoder: PatchEncoder, bags: Sequence[Bag], settings: WarmUpSettings, seed: int, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Train `encoder` in place on tiles of the bags (those of the training patients, and no others), on `device`; it
    ends on the CPU. Gives {"tiles", "epochs", "loss": {"first", "last"}, "chance": loss of a guess}."""
    device = torch.device(device)
    key = key_of(encoder, bags, settings, seed, device)

    def build(folder: Path) -> None:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
            torch.manual_seed(seed)
            said = _train(encoder, _tiles(bags, settings.most, encoder.patch), settings, device)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
        save_file(tensors, folder / "encoder.safetensors")
        (folder / "warm_up.json").write_text(json.dumps(said, indent=1), encoding="utf-8")

    folder = build_once(f"slide-warm-up-{key}", build)
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    encoder.eval()
    return json.loads((folder / "warm_up.json").read_text(encoding="utf-8"))


def key_of(
    encoder: PatchEncoder, bags: Sequence[Bag], settings: WarmUpSettings, seed: int, device: torch.device
) -> str:
    """Names the result in the cache by all that it is made of."""
    made_of = [WARM_UP_VERSION, asdict(settings), seed, encoder.digest(), [bag.key for bag in bags]]
    if device.type != "cpu":  # another arithmetic: other weights
        made_of.append(device.type)
    return hashlib.blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=12).hexdigest()


def _tiles(bags: Sequence[Bag], most: int, patch: int) -> torch.Tensor:
    """uint8 [n, patch, patch, 3]: about `most` of all tiles, one a bag at least; read into one array, for a copy of it
    may not fit the memory."""
    share = min(1.0, most / sum(map(len, bags)))
    counts = [max(1, round(share * len(bag))) for bag in bags]
    found, end = np.empty((sum(counts), patch, patch, 3), np.uint8), 0
    for bag, count in zip(bags, counts, strict=True):
        for pixels in bag.pixels(np.linspace(0, len(bag) - 1, count).round().astype(int)):
            found[end : end + len(pixels)] = pixels
            end += len(pixels)
    return torch.from_numpy(found)


def _train(encoder: PatchEncoder, tiles: torch.Tensor, s: WarmUpSettings, device: torch.device) -> dict[str, Any]:
    size = min(s.batch_size, len(tiles))
    steps = s.epochs * (len(tiles) // size)
    projector = nn.Sequential(nn.Linear(encoder.width, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64))
    encoder.to(device).train()
    projector.to(device).train()
    parameters = [*encoder.parameters(), *projector.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=s.lr, weight_decay=s.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, s.lr, total_steps=max(steps, 2), pct_start=0.1)
    losses: list[float] = []
    with tqdm(total=steps, desc="warm-up of the encoder", unit="step") as bar:
        for _ in range(s.epochs):
            order, epoch = torch.randperm(len(tiles)), []
            for own in order[: len(order) // size * size].split(size):
                pixels = tiles[own].to(device)
                loss = contrast(projector(encoder(torch.cat([view(pixels, s), view(pixels, s)]))), s.temperature)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                rate.step()
                epoch.append(float(loss.detach()))
                bar.update()
            losses.append(float(np.mean(epoch)))
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
    encoder.cpu().eval()
    return {"tiles": len(tiles), "epochs": s.epochs, "loss": {"first": losses[0], "last": losses[-1]},
            "chance": float(np.log(2 * size - 1))}  # fmt: skip


def contrast(found: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent of [2 n, d]: row k and row n + k are views of one tile, all other rows are of others."""
    n = len(found) // 2
    found = functional.normalize(found, dim=1)
    alike = (found @ found.T / temperature).fill_diagonal_(-torch.inf)
    return functional.cross_entropy(alike, torch.arange(2 * n, device=found.device).roll(n))


def view(pixels: torch.Tensor, settings: WarmUpSettings) -> torch.Tensor:
    """Tiles [n, h, w, 3], each mirrored, turned, cut out and stained anew; float32 of 0 to 255."""
    n, height, width = pixels.shape[:3]
    density = -torch.log((pixels.float() + 1) / 256)
    draw = settings.stain * torch.randn(2, n, 1, 1, 3, device=pixels.device)
    density = density * torch.exp(draw[0]) + 0.2 * draw[1]
    scale = torch.empty(n, 2, device=pixels.device).uniform_(settings.zoom, 1)[:, :1].expand(-1, 2)
    sign = torch.randint(0, 2, (n, 2), device=pixels.device) * 2 - 1
    move = torch.zeros(n, 2, 3, device=pixels.device)
    turned = torch.rand(n, device=pixels.device) < 0.5
    move[~turned, 0, 0], move[~turned, 1, 1] = (scale * sign)[~turned].T
    move[turned, 0, 1], move[turned, 1, 0] = (scale * sign)[turned].T
    move[:, :, 2] = (2 * torch.rand(n, 2, device=pixels.device) - 1) * (1 - scale)
    where = functional.affine_grid(move, [n, 3, height, width], align_corners=False)
    density = functional.grid_sample(density.permute(0, 3, 1, 2), where, padding_mode="reflection", align_corners=False)
    return (256 * torch.exp(-density.permute(0, 2, 3, 1)) - 1).clamp(0, 255)
