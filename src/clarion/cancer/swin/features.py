"""Features of tiles, kept in the cache by what they are made of: slide, tiling and encoder."""

from __future__ import annotations

import numpy as np
import torch

from clarion.cancer.swin.bags import Bag, load_array, save_array
from clarion.cancer.swin.encoder import PatchEncoder
from clarion.data.cache import cache_dir

BATCH = 64  # tiles through the encoder at once


class FeatureReader:
    """float32 [n tiles, width] of a bag by one encoder (in eval, as it is now)."""

    def __init__(self, encoder: PatchEncoder):
        self.encoder = encoder
        self._known: tuple[tuple[int, ...], str] | None = None

    def digest(self) -> str:
        """Of the encoder, computed again only where a weight has changed since."""
        versions = tuple(value for p in self.encoder.parameters() for value in (p.data_ptr(), p._version))
        if self._known is None or self._known[0] != versions:
            self._known = versions, self.encoder.digest()
        return self._known[1]

    def __call__(self, bag: Bag) -> np.ndarray:
        if not len(bag):
            return np.empty((0, self.encoder.width), np.float32)
        path = cache_dir() / "slide-features" / self.digest() / f"{bag.key}.npy"
        kept = load_array(path)
        if kept is not None and kept.shape == (len(bag), self.encoder.width):
            return kept
        found = np.concatenate([self._encode(pixels) for pixels in bag.pixels(batch=BATCH)])
        save_array(path, found)
        return found

    def _encode(self, pixels: np.ndarray) -> np.ndarray:
        device = next(self.encoder.parameters()).device
        with torch.inference_mode():
            return self.encoder(torch.from_numpy(pixels).to(device)).float().cpu().numpy()
