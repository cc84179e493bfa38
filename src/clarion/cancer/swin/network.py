"""SlideModule: tiles of a patient -> survival, under the lightning trainer; risks, embeddings and attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from clarion.cancer.swin.bags import Bag, TileSettings, bag_of
from clarion.cancer.swin.encoder import PatchEncoder
from clarion.cancer.swin.features import FeatureReader
from clarion.cancer.swin.loader import checkpoint_file
from clarion.cancer.swin.mil import POOLING
from clarion.cancer.transformer.heads import HEADS, five_year_loss, hazard_loss, hazard_risk, survival_at
from clarion.errors import UsageError
from clarion.networks import adamw_with_cosine, start_from
from clarion.samples import Sample

Batch = Mapping[str, torch.Tensor]


class SlideNetwork(nn.Module):
    """encoder -> a layer a tile -> pooling -> head; `width` is that of the embedding before the head."""

    def __init__(
        self, encoder: PatchEncoder, outputs: int, pooling: str = "gated", width: int = 64, dropout: float = 0.1,
        pooling_args: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        super().__init__()
        if pooling not in POOLING:
            raise UsageError(f"model.pooling={pooling} is unknown: use {', '.join(POOLING)}.")
        self.encoder, self.width = encoder, width
        self.tile = nn.Sequential(
            nn.LayerNorm(encoder.width), nn.Linear(encoder.width, width), nn.GELU(), nn.Dropout(dropout)
        )
        try:
            self.pooling = POOLING[pooling](width, **dict(pooling_args or {}))
        except (TypeError, ValueError) as error:
            raise UsageError(f"model.pooling_args do not fit pooling={pooling}: {error}.") from error
        self.head = nn.Linear(width, outputs)

    def features(self, pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """uint8 or float [B, N, h, w, 3] -> [B, N, encoder.width]; places without a tile are 0."""
        found = self.encoder(pixels[mask])
        out = found.new_zeros(*mask.shape, found.shape[-1])
        out[mask] = found
        return out

    def embed(self, features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """features [B, N, encoder.width] -> (embedding [B, width], attention [B, N])."""
        return self.pooling(self.tile(features), mask)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [B, outputs]. A patient without tiles gets the head's bias: about the training group's hazards."""
        return self.head(self.embed(features, mask)[0])


class SlideModule(L.LightningModule):
    """Survival from slides. model (config): encoder, tiles, train_encoder, pooling, pooling_args, width, dropout, head,
    augment {stain}, times. facts: of `loader.SlideBags`."""

    def __init__(self, model: dict[str, Any], facts: dict[str, Any]):
        super().__init__()
        self.model, self.facts = model, facts
        self.head, self.settings = _head(model), TileSettings.of(dict(model["tiles"]))
        self.network = _network(model, len(facts["edges"]) - 1)
        self.reader = FeatureReader(self.network.encoder)
        if base := (facts.get("base") or {}).get(self.head):
            with torch.no_grad():
                self.network.head.weight.mul_(0.1)
                self.network.head.bias.copy_(torch.tensor(base))
        if not model.get("train_encoder", True):
            self.network.encoder.requires_grad_(False)

    @staticmethod
    def build(model: dict[str, Any], classes: int = 3) -> nn.Module:
        """A fresh network to count weights by; `classes` is the trainer's word."""
        return _network(model, int((model.get("datamodule") or {}).get("bins", 8)))

    # ---- training ------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [B, bins], or [B, 1] of the five-year head, of {"pixels" | "features", "mask"}."""
        features = batch.get("features")
        if features is None:
            pixels = batch["pixels"]
            if self.training and (augment := self.model.get("augment")):
                pixels = augmented(pixels, float(augment.get("stain", 0)))
            features = self.network.features(pixels, batch["mask"])
        return self.network(features, batch["mask"])

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean over the batch; besides the input it needs place, share, event (hazard) or label, weight."""
        logits = self(batch)
        if self.head == "hazard":
            return hazard_loss(logits, batch["place"], batch["share"], batch["event"])
        return five_year_loss(logits, batch["label"], batch["weight"])

    def training_step(self, batch: Batch, _index: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["mask"]), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        self.log("val/loss", self.loss(batch), on_epoch=True, batch_size=len(batch["mask"]), sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        return adamw_with_cosine(self)

    def load_start_weights(self, path: Path) -> None:
        """model.weights: a checkpoint of this model (all of it), or a Swin's own .safetensors (the encoder)."""
        file = checkpoint_file(path)
        if is_checkpoint(file):
            start_from(self.network, file, self.model["name"])
        else:
            self.network.encoder.load(file)

    # ---- prediction ----------------------------------------------------------------------------------------

    def bag(self, sample: Sample) -> Bag:
        return bag_of(sample, self.settings)

    def bags(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
        """(features [B, N, encoder.width], mask [B, N]) of these samples' tiles, on this module's device."""
        found = [torch.from_numpy(self.reader(self.bag(sample))) for sample in samples]
        lengths = torch.tensor([len(f) for f in found])
        mask = torch.arange(max(1, int(lengths.max()))) < lengths[:, None]
        features = torch.zeros(*mask.shape, self.network.encoder.width)
        for k, own in enumerate(found):
            features[k, : len(own)] = own
        return features.to(self.device), mask.to(self.device)

    def answer(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """{"risk": float (higher is worse), "survival": [S(t)], "times": [months], "tiles": n} a sample. inputs:
        "slides" (paths), "mpp"; a patient without a slide is answered for the training group."""
        if not samples:
            return []
        with torch.inference_mode():
            features, mask = self.bags(samples)
            # each patient's own tiles; of a patient without any, one place that the mask leaves out
            own = [(f[m], m[m]) if m.any() else (f[:1], m[:1]) for f, m in zip(features, mask, strict=True)]
            logits = torch.cat([self.network(f[None], m[None]) for f, m in own])
        logits, edges, horizons = logits.float(), self.facts["edges"], self.facts["horizons"]
        if self.head == "hazard":
            times = sorted({float(t) for t in (*(self.model.get("times") or ()), *horizons)})
            survival = survival_at(logits, edges, times)
        else:
            times, survival = [float(horizons[-1])], torch.sigmoid(-logits)
        return [
            {"risk": float(r), "survival": [float(v) for v in s], "times": list(times), "tiles": int(m.sum())}
            for r, s, m in zip(self.as_risk(logits).cpu(), survival.cpu(), mask, strict=True)
        ]

    def as_risk(self, logits: torch.Tensor) -> torch.Tensor:
        """[B], differentiable; higher is worse: log cumulative hazard, or the logit of death of the five-year head."""
        return hazard_risk(logits) if self.head == "hazard" else logits[:, 0]

    def risk(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B] of features [B, N, encoder.width] and mask [B, N]."""
        return self.as_risk(self.network(features, mask).float())

    def embed(self, samples: Sequence[Sample]) -> np.ndarray:
        """float32 [n, width]: what enters the last layer; 0 for a patient without tiles."""
        with torch.inference_mode():
            return self.network.embed(*self.bags(samples))[0].float().cpu().numpy()

    def patches(self, samples: Sequence[Sample], most: int = 8) -> torch.Tensor:
        """uint8 [n, patch, patch, 3]: the first tiles of these samples, for comparing an exported encoder."""
        found: list[np.ndarray] = []
        for bag in map(self.bag, samples):
            found += list(bag.pixels(np.arange(min(len(bag), most))))
            if sum(map(len, found)) >= most:
                break
        if not found:
            raise UsageError("No sample of this run has a slide with tissue: nothing to compare an export on.")
        return torch.from_numpy(np.concatenate(found)[:most])


def augmented(pixels: torch.Tensor, stain: float) -> torch.Tensor:
    """Tiles [B, N, h, w, 3], each bag turned and mirrored as one, its optical density scaled and shifted a channel
    (log-normal with SD `stain`; Tellez et al. 2019 call it the augmentation that carries over laboratories)."""
    turned = [
        torch.rot90(bag, int(torch.randint(4, ())), (1, 2)).flip(1) if torch.rand(()) < 0.5
        else torch.rot90(bag, int(torch.randint(4, ())), (1, 2))
        for bag in pixels
    ]  # fmt: skip
    pixels = torch.stack(turned)
    if stain <= 0:
        return pixels
    density = -torch.log((pixels.float() + 1) / 256)
    draw = torch.randn(2, len(pixels), 1, 1, 1, 3, device=pixels.device)
    density = density * torch.exp(stain * draw[0]) + 0.2 * stain * draw[1]
    return (256 * torch.exp(-density) - 1).clamp(0, 255)


def is_checkpoint(file: Path) -> bool:
    """Whether a .safetensors holds a whole SlideNetwork (names begin with encoder.). UsageError for no such file."""
    try:
        with safe_open(file, "pt") as tensors:
            return any(name.startswith("encoder.") for name in tensors.keys())  # noqa: SIM118  no mapping
    except (SafetensorError, OSError) as error:
        raise UsageError(f"model.weights={file} cannot be read as safetensors: {error}.") from error


def _network(model: Mapping[str, Any], bins: int) -> SlideNetwork:
    encoder = PatchEncoder(**dict(model["encoder"]), patch=int(model["tiles"]["patch"]))
    return SlideNetwork(
        encoder, bins if _head(model) == "hazard" else 1, model.get("pooling", "gated"), int(model.get("width", 64)),
        float(model.get("dropout", 0.1)), model.get("pooling_args"),
    )  # fmt: skip


def _head(model: Mapping[str, Any]) -> str:
    head = model.get("head", "hazard")
    if head not in HEADS:
        raise UsageError(f"model.head={head} is unknown: use {' or '.join(HEADS)}.")
    return head
