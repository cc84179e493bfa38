"""Strips as a LightningDataModule: cut anew along a differently found ILM and restyled in every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .augment import ilm_error, recut, restyled
from .phantom_folder import STORE_ABOVE
from .strip import ABOVE, AXIAL_UM, BELOW, LATERAL_UM, at_columns, normalised

CROP = 320  # columns of a training strip: 7.5 mm
Stored = Mapping[str, np.ndarray]  # see phantom_folder


class Strips(Dataset):
    """Batches of {"strip": float32 [B, 1, rows, columns], "presence": [B, columns], "known": [B, columns]}.

    An index may carry its epoch (`epoch * len + index`, see EpochSampler); a strip then changes with (seed, epoch,
    index) and nothing else. Without `augment`: whole strips, the ILM's error drawn once from the index, own look.
    """

    def __init__(self, stored: Stored, seed: int, augment: bool):
        self.stored, self.seed, self.augment = stored, seed, augment

    def __len__(self) -> int:
        return len(self.stored["strips"])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        made = [self._one(index % len(self), np.random.default_rng(self._key(index))) for index in indices]
        strip, presence, known = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
        return {"strip": strip.unsqueeze(1), "presence": presence, "known": known}

    def _key(self, index: int) -> list[int]:
        return [self.seed, index // len(self), index % len(self)] if self.augment else [97, index]

    def _one(self, row: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        strip, lift = self.stored["strips"][row], self.stored["lift"][row].astype(np.float32)
        presence, known = (self.stored[name][row].astype(np.float32) for name in ("presence", "known"))
        error = ilm_error(random, lift, AXIAL_UM, LATERAL_UM)
        if not self.augment:
            return normalised(recut(strip, error, STORE_ABOVE)), presence, known
        stretch = np.exp(random.uniform(-0.12, 0.12)) if random.random() < 0.5 else 1.0
        cut = recut(strip, error, STORE_ABOVE, stretch)
        ilm = ABOVE - error / stretch
        shown = normalised(restyled(cut, presence, ilm, ilm - lift / stretch, random))
        return _crop(shown, presence, known, random)


def _crop(strip, presence, known, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CROP columns from anywhere, mirrored half of the time, another lateral scale half of the time."""
    columns = strip.shape[1]
    wide = min(columns, round(CROP * np.exp(random.uniform(-0.25, 0.18)))) if random.random() < 0.5 else CROP
    first = int(random.integers(0, columns - wide + 1))
    step = -1 if random.random() < 0.5 else 1
    strip, presence, known = (v[..., first : first + wide][..., ::step] for v in (strip, presence, known))
    if wide != CROP:
        how = cv2.INTER_AREA if wide > CROP else cv2.INTER_LINEAR
        strip = cv2.resize(np.ascontiguousarray(strip), (CROP, ABOVE + BELOW), interpolation=how)
        presence, known = (at_columns(np.ascontiguousarray(v), CROP) for v in (presence, known))
    return tuple(np.ascontiguousarray(v, np.float32) for v in (strip, presence, known > 0.99))


class EpochSampler(Sampler[int]):
    """Every index once, in an order drawn from (seed, epoch), as epoch * n + index. Lightning calls set_epoch."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        return iter((self.epoch * self.count + order).tolist())


class PresenceStrips(L.LightningDataModule):
    """train and val loaders. facts: the strip's scale and rows, class names."""

    def __init__(
        self, splits: Mapping[str, Stored], batch_size: int, seed: int = 0, augment: bool = True, num_workers: int = 0
    ):
        super().__init__()
        self.splits, self.batch_size, self.seed = splits, batch_size, seed
        self.augment, self.num_workers = augment, num_workers
        self.facts: dict[str, Any] = {
            "class_names": ["erm"],
            "axial_um": AXIAL_UM,
            "lateral_um": LATERAL_UM,
            "above": ABOVE,
            "below": BELOW,
        }

    def train_dataloader(self) -> DataLoader:
        strips = Strips(self.splits["train"], self.seed, self.augment)
        if not self.augment:
            return self._loader(strips, shuffle=True)
        return self._loader(strips, sampler=EpochSampler(len(strips), self.seed))

    def val_dataloader(self) -> DataLoader:
        return self._loader(Strips(self.splits["val"], self.seed, False))

    def _loader(self, strips: Dataset, **order: Any) -> DataLoader:
        return DataLoader(
            strips, self.batch_size, num_workers=self.num_workers, collate_fn=whole,
            persistent_workers=self.num_workers > 0, pin_memory=torch.cuda.is_available(), **order,
        )  # fmt: skip


def whole(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Strips hands out whole batches: nothing is left to collate."""
    return batch
