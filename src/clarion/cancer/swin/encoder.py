"""The patch encoder: a Swin transformer of timm, from scratch or from a file of the user's. Nothing is fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from clarion.config import nearest
from clarion.errors import UsageError

# ImageNet's channel means and SDs: what published Swin weights were trained with, and near those of H&E.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PatchEncoder(nn.Module):
    """Pixels of tiles to features. `swin`: the network of timm without its classifier; `width`: features a tile.

    network: a Swin (v1) of timm.list_models("swin_*"); patch: pixels a side of a tile; args: verbatim to timm's
    constructor (embed_dim, depths, num_heads, window_size ...). seed: of the start weights, so that an encoder that is
    never trained is the same everywhere. UsageError for what timm does not know."""

    def __init__(self, network: str, patch: int, args: Mapping[str, Any] | None = None, seed: int = 0):
        super().__init__()
        known = [name for name in timm.list_models("swin_*") if not name.startswith("swin_s3")]
        if network not in known:
            hint = nearest(network, known)
            raise UsageError(f"model.encoder.network={network} is no Swin transformer of timm.{hint}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                self.swin = timm.create_model(
                    network, pretrained=False, num_classes=0, img_size=int(patch), **dict(args or {})
                )
            except (TypeError, ValueError, AssertionError, RuntimeError) as error:
                raise UsageError(f"model.encoder: timm cannot build {network} for {patch} px: {error}.") from error
        self.patch, self.width = int(patch), int(self.swin.num_features)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(STD), persistent=False)

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (or float of 0 to 255) [n, h, w, 3] -> float32 [n, 3, h, w]."""
        return ((pixels.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)

    def last_map(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 [n, rows, columns, width]: the last stage's tokens after the norm; the features are their mean."""
        return self.swin.forward_features(self.normalised(pixels))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, h, w, 3] -> float32 [n, width]."""
        return self.swin.forward_head(self.last_map(pixels), pre_logits=True)

    def load(self, path: Path) -> None:
        """Weights of a Swin of the same widths: a .safetensors file with timm's names (a classifier in it is left
        out). UsageError where it does not fit."""
        try:
            tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        except (SafetensorError, OSError) as error:
            raise UsageError(f"model.weights={path} cannot be read as safetensors: {error}.") from error
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
        try:
            self.swin.load_state_dict(kept)
        except RuntimeError as error:
            first = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
            raise UsageError(f"model.weights={path} does not fit this Swin ({first[:200]}).") from error

    def digest(self) -> str:
        """Hash of the weights and of what surrounds them: two encoders of one digest give the same features."""
        found = hashlib.blake2b(f"{self.patch} {MEAN} {STD} {self.swin.num_features}".encode(), digest_size=10)
        for name, tensor in sorted(self.swin.state_dict().items()):
            found.update(name.encode() + str(tuple(tensor.shape)).encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()
