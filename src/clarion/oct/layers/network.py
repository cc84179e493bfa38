"""The layer network: a compact U-Net that gives, for each of eight surfaces, a distribution over rows per column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from monai.networks.nets import BasicUNet
from torch import nn

from clarion.data.grey import read_grey
from clarion.errors import DataError, UsageError
from clarion.networks import adamw_with_cosine, start_from
from clarion.oct.volume import SURFACES
from clarion.samples import Sample

from .scale import AXIAL_UM, LATERAL_UM, ceil_to, columns_between, normalised, padded, to_working
from .surfaces import trace

VISIBLE_MASS = 0.35  # less probability than this near the path: the surface is not visible there
BATCH = 4  # scans of one forward pass: measured fastest and leanest of 2 to 16 on two cores


class LayerNetwork(nn.Module):
    """MONAI BasicUNet, 1 -> 8 channels, and the calibration of its standard deviations.

    sd_floor, sd_gain [8], working rows: sd^2 = floor^2 + gain^2 * (variance of the distribution beyond the target's).
    """

    def __init__(self, features: Sequence[int], dropout: float = 0.0):
        super().__init__()
        if len(features) != 6:
            raise UsageError(f"model.features={list(features)}: BasicUNet takes six numbers of channels.")
        self.unet = BasicUNet(
            spatial_dims=2, in_channels=1, out_channels=len(SURFACES), features=tuple(int(f) for f in features),
            act=("relu", {"inplace": True}), norm="batch", dropout=float(dropout), upsample="nontrainable",
        )  # fmt: skip
        self.register_buffer("sd_floor", torch.full((len(SURFACES),), 0.5))
        self.register_buffer("sd_gain", torch.ones(len(SURFACES)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised pictures [B, 1, H, W] (H, W multiples of 16) -> logits float32 [B, 8, H, W]."""
        return self.unet(images).float()


class LayerModule(L.LightningModule):
    """Rows of the eight retinal surfaces; cross-entropy against a narrow Gaussian + L1 of the expected row.

    model (config): features (six channel numbers), dropout, target_sd (of the Gaussian, working rows), l1_weight,
    lr, weight_decay, warmup_steps, weights. facts (of the data): surfaces, axial_um, lateral_um.
    """

    def __init__(self, model: dict[str, Any], facts: dict[str, Any]):
        super().__init__()
        found = (facts.get("surfaces"), facts.get("axial_um"), facts.get("lateral_um"))
        if found != (list(SURFACES), AXIAL_UM, LATERAL_UM):
            raise UsageError("This checkpoint was trained for other surfaces or another scale: train model=layer_unet.")
        self.model, self.facts = model, facts
        self.network = self.build(model).to(memory_format=torch.channels_last)
        self.target_sd, self.l1_weight = float(model.get("target_sd", 1.0)), float(model.get("l1_weight", 0.1))
        self._seen: list[np.ndarray] = []  # squared error, variance by surface: for the calibration

    @staticmethod
    def build(model: dict[str, Any], classes: int = len(SURFACES)) -> nn.Module:
        """A fresh network; `classes` is the trainer's word, a layer network always has the eight surfaces."""
        return LayerNetwork(model["features"], model.get("dropout", 0.0))

    # ---- training ------------------------------------------------------------------------------------------

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised pictures [B, 1, H, W] -> logits [B, 8, H, W]."""
        return self.network(images.to(memory_format=torch.channels_last))

    def losses(self, logits: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(cross-entropy per column, mean |expected - true| row) for true rows [B, 8, W], NaN where not visible.

        Where a surface is not visible the target is flat over depth: the network learns to say that it cannot tell.
        """
        height = logits.shape[2]
        visible, truth = torch.isfinite(rows), torch.nan_to_num(rows)
        total = logits.logsumexp(2)
        around = truth.round().long()[:, :, None] + torch.arange(-4, 5, device=logits.device)[:, None]
        target = torch.exp(-0.5 * ((around - truth[:, :, None]) / self.target_sd) ** 2)
        target = target * ((around >= 0) & (around < height))
        target = target / target.sum(2, keepdim=True).clamp(min=1e-6)
        entropy = total - (target * logits.gather(2, around.clamp(0, height - 1))).sum(2)
        flat = total - logits.mean(2)
        cross = torch.where(visible, entropy, 0.3 * flat).mean()
        index = torch.arange(height, device=logits.device, dtype=torch.float32)[:, None]
        expected = ((logits - total[:, :, None]).exp() * index).sum(2)
        error = (expected - truth).abs().clamp(max=40)
        return cross, (error * visible).sum() / visible.sum().clamp(min=1)

    def training_step(self, batch: dict[str, torch.Tensor], _index: int) -> torch.Tensor:
        cross, error = self.losses(self(batch["image"]), batch["rows"])
        loss = cross + self.l1_weight * error
        size = len(batch["image"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=size, prog_bar=True)
        self.log("train/expected_rows", error, on_step=False, on_epoch=True, batch_size=size)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], _index: int) -> None:
        logits, rows = self(batch["image"]), batch["rows"]
        cross, error = self.losses(logits, rows)
        size = len(rows)
        self.log("val/loss", cross + self.l1_weight * error, on_epoch=True, batch_size=size, sync_dist=True)
        traced = trace(logits.float().cpu())
        truth = rows.cpu().numpy()
        off = np.abs(traced.rows - truth)
        shown = np.isfinite(off) & (traced.mass > VISIBLE_MASS)
        for k, name in enumerate(SURFACES):
            if shown[:, k].any():
                value = float(off[:, k][shown[:, k]].mean() * AXIAL_UM)
                self.log(f"val/um_{name.replace('/', '_')}", value, on_epoch=True, batch_size=size)
        hidden = ~np.isfinite(truth)
        self.log("val/lost", float((~shown & ~hidden).sum() / max(1, (~hidden).sum())), on_epoch=True, batch_size=size)
        self._seen.append(np.where(shown, np.stack([off**2, traced.variance]), np.nan))

    def on_validation_epoch_end(self) -> None:
        """Fit sd_floor and sd_gain: the mean squared error over the variance, by bins of the variance."""
        if not self._seen:
            return
        square, variance = np.concatenate([s.transpose(0, 2, 1, 3).reshape(2, 8, -1) for s in self._seen], axis=2)
        self._seen.clear()
        for k in range(len(SURFACES)):
            use = np.isfinite(square[k])
            if use.sum() < 500:
                continue
            floor, gain = fit_sd(square[k][use], np.maximum(variance[k][use] - self.target_sd**2, 0))
            self.network.sd_floor[k], self.network.sd_gain[k] = floor, gain

    def configure_optimizers(self) -> dict[str, Any]:
        return adamw_with_cosine(self)

    def load_start_weights(self, path: Path) -> None:
        """Start from another run's weights, see clarion.networks.start_from."""
        start_from(self.network, path, "layer_unet")

    # ---- prediction ----------------------------------------------------------------------------------------

    def answer(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """{"surfaces": rows [8, width], "sd": rows [8, width]} float32 per sample, NaN where not visible.

        inputs: "bscan" uint8 [depth, width] (or "image": a path), "axial_um", "lateral_um". Any depth, width and
        scale: sampling differs, the retina does not. From a path the values are lists of eight arrays, as a table
        takes them.
        """
        pictures = [_picture(sample) for sample in samples]
        scales = [(float(s.inputs["axial_um"]), float(s.inputs["lateral_um"])) for s in samples]
        found = surfaces_of(self.network, pictures, scales, self.device, self.target_sd)
        as_rows = [(lambda v: v) if "bscan" in sample.inputs else list for sample in samples]
        return [{"surfaces": shape(rows), "sd": shape(sd)} for shape, (rows, sd) in zip(as_rows, found, strict=True)]


def surfaces_of(
    network: LayerNetwork, pictures: Sequence[np.ndarray], scales: Sequence[tuple[float, float]],
    device: torch.device | str = "cpu", target_sd: float = 1.0,
) -> list[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """(rows, sd) float32 [8, width] each for pictures [depth, width] of (axial, lateral) um per px."""
    work = [to_working(picture, *scale) for picture, scale in zip(pictures, scales, strict=True)]
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(work), BATCH):
        part = work[start : start + BATCH]
        size = tuple(ceil_to(max(w.shape[side] for w in part)) for side in (0, 1))
        ready = [normalised(w) for w in part]
        ready = [padded(r - r.min(), *size) + r.min() for r in ready]  # padding is black, as outside of a picture
        batch = torch.from_numpy(np.stack(ready)).unsqueeze(1).to(device, memory_format=torch.channels_last)
        traced = trace(network(batch).cpu())
        floor, gain = (b.cpu().numpy()[:, None] for b in (network.sd_floor, network.sd_gain))
        for k, picture in enumerate(pictures[start : start + BATCH]):
            rows, columns = part[k].shape
            spread = np.maximum(traced.variance[k, :, :columns] - target_sd**2, 0)
            sd = np.sqrt(floor**2 + gain**2 * spread)
            seen = (traced.mass[k, :, :columns] > VISIBLE_MASS) & (traced.rows[k, :, :columns] <= rows - 0.5)
            seen &= seen[0] | seen[-2:].any(0)  # neither ILM nor RPE nor BM: there is no retina to have layers
            found.append(_native(traced.rows[k, :, :columns], sd, seen, picture.shape, rows))
    return found


def _native(rows, sd, seen, shape: tuple[int, int], work_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Curves of the working scale on the picture's own rows and columns, NaN where not seen."""
    depth, width = shape
    scale = depth / work_rows
    known = columns_between(seen.astype(np.float32), width) >= 0.5
    rows = (columns_between(rows, width) + 0.5) * scale - 0.5
    known &= (rows >= 0) & (rows <= depth - 1)
    sd = columns_between(sd, width) * scale
    return np.where(known, rows, np.nan).astype(np.float32), np.where(known, sd, np.nan).astype(np.float32)


def _picture(sample: Sample) -> np.ndarray:
    if "bscan" in sample.inputs:
        picture = np.asarray(sample.inputs["bscan"])
        if picture.ndim != 2 or min(picture.shape) < 32:
            raise DataError(
                f"B-scan {sample.sample_id} has shape {picture.shape}: give a grey picture of 32 px a side or more."
            )
        return picture
    return read_grey(Path(sample.inputs["image"]))


def fit_sd(square: np.ndarray, spread: np.ndarray, bins: int = 12) -> tuple[float, float]:
    """(floor, gain) with mean squared error = floor^2 + gain^2 * spread, through medians of equal bins, both >= 0."""
    order = np.array_split(np.argsort(spread), bins)
    x = np.array([spread[part].mean() for part in order])
    y = np.array([square[part].mean() for part in order])
    slope = 0.0
    if np.ptp(x) > 1e-9:
        slope = max(0.0, float(np.polyfit(x, y, 1, w=1 / (y + 1e-3))[0]))
    floor = max(1e-4, float(np.average(y - slope * x, weights=1 / (y + 1e-3))))
    return math.sqrt(floor), math.sqrt(slope)
