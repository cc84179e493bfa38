"""The presence network: depth is collapsed, columns stay, one probability of membrane per A-scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional

from clarion.errors import DataError, UsageError
from clarion.networks import adamw_with_cosine, start_from
from clarion.samples import Sample

from .strip import ABOVE, AXIAL_UM, BELOW, LATERAL_UM, at_columns, cut_strip, normalised

BATCH = 16  # strips of one forward pass
SCALE = {"axial_um": AXIAL_UM, "lateral_um": LATERAL_UM, "above": ABOVE, "below": BELOW}


class PresenceNetwork(nn.Module):
    """Convolutions that halve the depth four times, then dilated ones along the scan: strips -> logits per column.

    channels: of the four depth-halving convolutions; width: of the layers along the scan, whose dilations double (six
    of them see +-63 columns, 1.5 mm to each side). calibration [2]: slope and offset that make logits calibrated.
    """

    def __init__(self, channels: Sequence[int], width: int, dilations: Sequence[int], dropout: float = 0.0):
        super().__init__()
        if len(channels) != 4:
            raise UsageError(f"model.channels={list(channels)}: four numbers are needed, one a halving of the depth.")
        into = (1, *channels)
        self.depth = nn.Sequential(*(_halving(a, b) for a, b in zip(into, channels)))
        self.collapse = nn.Sequential(
            nn.Conv1d(channels[-1] * (ABOVE + BELOW) // 16, width, 1, bias=False), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.along = nn.ModuleList(_dilated(width, int(d), dropout) for d in dilations)
        self.head = nn.Conv1d(width, 1, 1)
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    def forward(self, strips: torch.Tensor) -> torch.Tensor:
        """Normalised strips [B, 1, ABOVE + BELOW, columns] -> logits float32 [B, columns], not yet calibrated."""
        seen = self.collapse(self.depth(strips).flatten(1, 2))
        for layer in self.along:
            seen = seen + layer(seen)
        return self.head(seen)[:, 0].float()

    def calibrated(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities of these logits."""
        return torch.sigmoid(self.calibration[0] * logits + self.calibration[1])


def _halving(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(a, b, 3, stride=(2, 1), padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)
    )


def _dilated(width: int, dilation: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
    )  # fmt: skip


class PresenceModule(L.LightningModule):
    """Presence per column; binary cross-entropy + soft Dice; slope and offset fitted on the validation eyes.

    model (config): channels, width, dilations, dropout, dice_weight, lr, weight_decay, warmup_steps, weights.
    facts (of the data): axial_um, lateral_um, above, below of the strip.
    """

    def __init__(self, model: dict[str, Any], facts: dict[str, Any]):
        super().__init__()
        if {name: facts.get(name) for name in SCALE} != SCALE:
            raise UsageError("This checkpoint was trained on strips of another scale: train model=erm_presence again.")
        self.model, self.facts = model, facts
        self.network = self.build(model).to(memory_format=torch.channels_last)
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []  # logits and presence: for the calibration

    @staticmethod
    def build(model: dict[str, Any], classes: int = 1) -> nn.Module:
        """A fresh network; `classes` is the trainer's word, presence is always of one membrane."""
        return PresenceNetwork(model["channels"], int(model["width"]), model["dilations"], model.get("dropout", 0.0))

    # ---- training ------------------------------------------------------------------------------------------

    def forward(self, strips: torch.Tensor) -> torch.Tensor:
        """Normalised strips [B, 1, rows, columns] -> logits [B, columns]."""
        return self.network(strips.to(memory_format=torch.channels_last))

    def losses(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(logits, cross-entropy, 1 - soft Dice over the batch), over columns whose ILM is visible."""
        logits, truth, known = self(batch["strip"]), batch["presence"], batch["known"]
        cross = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        cross = (cross * known).sum() / known.sum().clamp(min=1)
        said = torch.sigmoid(logits) * known
        dice = (2 * (said * truth).sum() + 1) / (said.sum() + (truth * known).sum() + 1)
        return logits, cross, 1 - dice

    def training_step(self, batch: dict[str, torch.Tensor], _index: int) -> torch.Tensor:
        _, cross, dice = self.losses(batch)
        loss = cross + float(self.model.get("dice_weight", 0.0)) * dice
        size = len(batch["strip"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=size, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], _index: int) -> None:
        logits, cross, _ = self.losses(batch)
        self.log("val/loss", cross, on_epoch=True, batch_size=len(batch["strip"]), sync_dist=True)
        known = batch["known"] > 0
        self._seen.append((logits[known].float().cpu().numpy(), batch["presence"][known].float().cpu().numpy()))

    def on_validation_epoch_end(self) -> None:
        """Fit the calibration to this epoch's weights; it is kept with them."""
        if not self._seen:
            return
        logits, truth = (np.concatenate(part) for part in zip(*self._seen, strict=True))
        self._seen.clear()
        slope, offset = fit_calibration(logits, truth)
        self.network.calibration.copy_(torch.tensor([slope, offset]))
        said = 1 / (1 + np.exp(-(slope * logits + offset)))
        self.log("val/calibrated_loss", float(cross_entropy(slope * logits + offset, truth)))
        both = ((said > 0.5) & (truth > 0.5)).sum()
        self.log("val/dice", float(2 * both / max((said > 0.5).sum() + (truth > 0.5).sum(), 1)))

    def configure_optimizers(self) -> dict[str, Any]:
        return adamw_with_cosine(self)

    def load_start_weights(self, path: Path) -> None:
        """Start from another run's weights, see clarion.networks.start_from."""
        start_from(self.network, path, "erm_presence")

    # ---- prediction ----------------------------------------------------------------------------------------

    def answer(self, samples: Sequence[Sample]) -> list[dict[str, np.ndarray]]:
        """{"presence": float32 [width]}: calibrated probability per A-scan, NaN where it cannot be assessed.

        inputs: "bscan" uint8 [depth, width], "axial_um", "lateral_um", "ilm" rows [width] (NaN: not found).
        """
        cut = [_strip(sample) for sample in samples]
        found: list[np.ndarray] = []
        for start in range(0, len(cut), BATCH):
            strips = [strip for strip, _ in cut[start : start + BATCH]]
            columns = max(strip.shape[1] for strip in strips)
            padded = [np.pad(strip, ((0, 0), (0, columns - strip.shape[1])), mode="edge") for strip in strips]
            batch = torch.from_numpy(np.stack(padded)).unsqueeze(1).to(self.device)
            said = self.network.calibrated(self(batch)).cpu().numpy()
            found += [row[: strip.shape[1]] for row, strip in zip(said, strips, strict=True)]
        return [
            {"presence": np.where(known, at_columns(said, known.size), np.nan).astype(np.float32)}
            for said, (_, known) in zip(found, cut, strict=True)
        ]


def _strip(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    try:
        image, ilm = np.asarray(sample.inputs["bscan"]), np.asarray(sample.inputs["ilm"], np.float32)
        scale = float(sample.inputs["axial_um"]), float(sample.inputs["lateral_um"])
    except KeyError as error:
        raise DataError(
            f"Sample {sample.sample_id} lacks {error}: presence needs bscan, axial_um, lateral_um and ilm."
        ) from None
    strip, known = cut_strip(image, ilm, *scale)
    return normalised(strip), known


def fit_calibration(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Slope and offset of Platt's scaling (1999), by maximum likelihood.

    With the offset free, the mean probability equals the share of membrane on these eyes, so that lengths and areas
    summed from probabilities are not biased there. logits, truth (0 to 1): [n].
    """
    if truth.min() == truth.max():
        return 1.0, 0.0  # one kind alone calibrates nothing

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] * logits.astype(np.float64) + parameters[1]
        error = 1 / (1 + np.exp(-np.clip(z, -60, 60))) - truth
        return cross_entropy(z, truth), np.array([(error * logits).mean(), error.mean()])

    slope, offset = minimize(objective, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(0.05, 20), (-20, 20)]).x
    return float(slope), float(offset)


def cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    """Mean binary cross-entropy, stable for large logits."""
    return float((np.logaddexp(0, logits) - truth * logits).mean())
