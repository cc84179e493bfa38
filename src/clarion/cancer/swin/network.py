"""SlideModule: tiles of a patient -> survival, under the lightning trainer; risks, embeddings and attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from clarion.cancer.survival_training import Batch, SurvivalTraining, chosen_head
from clarion.cancer.swin.bags import Bag, TileSettings, bag_of
from clarion.cancer.swin.encoder import PatchEncoder
from clarion.cancer.swin.features import FeatureReader
from clarion.cancer.swin.loader import checkpoint_file
from clarion.cancer.swin.mil import POOLING
from clarion.cancer.swin.whitening import Whitening
from clarion.errors import UsageError
from clarion.networks import start_from
from clarion.samples import Sample


class SlideNetwork(nn.Module):
    """encoder -> a layer a tile -> pooling -> head; `width` is that of the embedding before the head. frozen: the
    encoder is not trained, so that its features can be whitened once."""

    def __init__(
        self, encoder: PatchEncoder, outputs: int, pooling: str = "gated", width: int = 64, dropout: float = 0.1,
        pooling_args: Mapping[str, Any] | None = None, frozen: bool = False,
    ):  # fmt: skip
        super().__init__()
        if pooling not in POOLING:
            raise UsageError(f"model.pooling={pooling} is unknown: use {', '.join(POOLING)}.")
        self.encoder, self.width = encoder, width
        even = Whitening(encoder.width) if frozen else nn.LayerNorm(encoder.width)
        self.tile = nn.Sequential(even, nn.Linear(encoder.width, width), nn.GELU(), nn.Dropout(dropout))
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


class SlideModule(SurvivalTraining):
    """Survival from slides. model (config): encoder, tiles, train_encoder, pooling, pooling_args, width, dropout, head,
    augment {stain}, times. facts: of `loader.SlideBags`."""

    def __init__(self, model: dict[str, Any], facts: dict[str, Any]):
        super().__init__(model)
        self.facts, self.settings = facts, TileSettings.of(dict(model["tiles"]))
        self.network = _network(model, len(facts["edges"]) - 1)
        self.reader = FeatureReader(self.network.encoder)
        self.start_at(facts.get("base"))
        if not model.get("train_encoder", True):
            self.network.encoder.requires_grad_(False)

    @staticmethod
    def build(model: dict[str, Any], classes: int = 3) -> nn.Module:
        """A fresh network to count weights by; `classes` is the trainer's word."""
        return _network(model, int((model.get("datamodule") or {}).get("bins", 8)))

    # ---- training ------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Before training: what the data has learned of tiles alone: the warmed encoder, the whitening of its features.
        Weights that the model starts from have their own."""
        data = self.trainer.datamodule
        if stage == "fit" and getattr(data, "warmed", None) is not None:
            self.network.encoder.load_state_dict(data.warmed.state_dict())
        if stage == "fit" and getattr(data, "whitening", None) is not None:
            self.network.tile[0].load_state_dict(data.whitening.state_dict())

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [B, bins], or [B, 1] of the five-year head, of {"pixels" | "features", "mask"}."""
        features = batch.get("features")
        if features is None:
            pixels = batch["pixels"]
            if self.training and (augment := self.model.get("augment")):
                pixels = augmented(pixels, float(augment.get("stain", 0)))
            features = self.network.features(pixels, batch["mask"])
        return self.network(features, batch["mask"])

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
        answers = self.told(logits.float(), self.facts["edges"], self.facts["horizons"])
        return [one | {"tiles": int(m.sum())} for one, m in zip(answers, mask, strict=True)]

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
    outputs = bins if chosen_head(model) == "hazard" else 1
    return SlideNetwork(
        encoder, outputs, model.get("pooling", "gated"), int(model.get("width", 64)),
        float(model.get("dropout", 0.1)), model.get("pooling_args"),
        frozen=not model.get("train_encoder", True),
    )  # fmt: skip
