"""Labelled images as a LightningDataModule: decoded once, augmented by (seed, epoch, image), uint8 to the device."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from clarion.data.grey import read_grey

log = logging.getLogger(__name__)

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded images kept; more are decoded again in every epoch


@dataclass(frozen=True)
class Labelled:
    """Image files and their class indices, in one order."""

    paths: Sequence[Path]
    labels: np.ndarray


class GreyImages(Dataset):
    """Batches of {"image": uint8 [B, 1, H, W], "label": int64 [B]}.

    An index may carry its epoch (`epoch * len + index`, see EpochSampler). With `augment` an image then changes
    with (seed, epoch, index) and nothing else: in any order, with any number of workers, also after a resume.
    """

    def __init__(self, items: Labelled, size: tuple[int, int], seed: int, augment: bool, decoded: np.ndarray | None):
        self.items, self.size, self.seed, self.augment, self.decoded = items, size, seed, augment, decoded

    def __len__(self) -> int:
        return len(self.items.paths)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        rows = [index % len(self) for index in indices]
        images = (
            self.decoded[rows] if self.decoded is not None else decode([self.items.paths[r] for r in rows], self.size)
        )
        if self.augment:
            images = np.stack(
                [
                    augmented(image, np.random.default_rng([self.seed, index // len(self), row]))
                    for image, index, row in zip(images, indices, rows, strict=True)
                ]
            )
        labels = torch.from_numpy(self.items.labels[rows].astype(np.int64))
        return {"image": torch.from_numpy(images).unsqueeze(1), "label": labels}


class EpochSampler(Sampler[int]):
    """Every index once, in an order drawn from (seed, epoch), as epoch * n + index. Lightning calls set_epoch."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        return iter((self.epoch * self.count + order).tolist())


class GreyImageModule(L.LightningDataModule):
    """train and val loaders of grey images of one size.

    facts: class_names, image_size [H, W], mean and std of the grey values in 0..1 (over train), class_counts.
    """

    def __init__(
        self,
        splits: dict[str, Labelled],
        class_names: Sequence[str],
        batch_size: int,
        image_size: int | Sequence[int],
        seed: int = 0,
        augment: bool = True,
        num_workers: int = 0,
    ):
        super().__init__()
        self.splits, self.class_names, self.batch_size = splits, list(class_names), batch_size
        self.size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.seed, self.augment, self.num_workers = seed, augment, num_workers
        self.decoded: dict[str, np.ndarray | None] = {}
        self.facts: dict[str, Any] = {}

    def setup(self, stage: str | None = None) -> None:
        """Decode train and val (once) and take train's statistics."""
        if self.facts:
            return
        keep = sum(len(self.splits[s].paths) for s in ("train", "val")) * self.size[0] * self.size[1] <= MEMORY_LIMIT
        for split in ("train", "val"):
            paths = self.splits[split].paths
            self.decoded[split] = decode(paths, self.size, f"decoding {split}") if keep else None
        sampled = self.decoded["train"]
        if sampled is None:
            sampled = decode(self.splits["train"].paths[:: max(1, len(self.splits["train"].paths) // 2000)], self.size)
        counts = np.bincount(np.concatenate([np.arange(256), *(image.ravel() for image in sampled)]), minlength=256) - 1
        levels = np.arange(256) / 255
        mean = float(np.average(levels, weights=counts))
        std = float(np.sqrt(np.average((levels - mean) ** 2, weights=counts)))
        self.facts = {
            "class_names": self.class_names,
            "image_size": list(self.size),
            "mean": round(mean, 6),
            "std": round(max(std, 1e-3), 6),
            "class_counts": np.bincount(self.splits["train"].labels, minlength=len(self.class_names)).tolist(),
        }

    def train_dataloader(self) -> DataLoader:
        images = GreyImages(self.splits["train"], self.size, self.seed, self.augment, self.decoded["train"])
        return self._loader(images, sampler=EpochSampler(len(images), self.seed))

    def val_dataloader(self) -> DataLoader:
        return self._loader(GreyImages(self.splits["val"], self.size, self.seed, False, self.decoded["val"]))

    def _loader(self, images: GreyImages, sampler: Sampler | None = None) -> DataLoader:
        return DataLoader(
            images,
            self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=as_is,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def as_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GreyImages hands out whole batches: nothing is left to collate."""
    return batch


def decode(paths: Sequence[Path], size: tuple[int, int], title: str = "") -> np.ndarray:
    """Picture files -> uint8 [n, H, W], by threads (decoding releases the GIL), progress on stderr."""
    images = np.empty((len(paths), *size), dtype=np.uint8)
    with ThreadPoolExecutor(max_workers=4) as readers:
        found = readers.map(lambda path: read_grey(path, size), paths)
        for row, image in enumerate(tqdm(found, title, len(paths), disable=len(paths) < 500 or not title, leave=False)):
            images[row] = image
    return images


def augmented(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One grey image [H, W] uint8, lightly changed: mirrored (half of the time: OD and OS are mirror images),
    shifted by up to 3 % of each side (edges repeated), gamma within 0.9..1.1, contrast within +-5 %."""
    if random.random() < 0.5:
        image = image[:, ::-1]
    height, width = image.shape
    down, right = (int(random.integers(-round(0.03 * side), round(0.03 * side) + 1)) for side in (height, width))
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    gamma, gain = np.exp(random.uniform(-0.1, 0.1)), random.uniform(0.95, 1.05)
    table = (255 * np.clip(gain * (np.arange(256) / 255) ** gamma, 0, 1)).round().astype(np.uint8)
    return table[image[rows[:, None], columns[None, :]]]
