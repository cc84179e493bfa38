"""Phantom B-scans as a LightningDataModule for the layer network: read once, changed anew in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
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
from clarion.oct.stage_loader import EpochSampler, as_is
from clarion.oct.volume import SURFACES

from .augment import STORE_AXIAL_UM, STORE_LATERAL_UM, augmented
from .scale import (
    AXIAL_UM,
    LATERAL_UM,
    ceil_to,
    columns_between,
    normalised,
    padded,
    resize,
    rows_to_working,
    working_shape,
)


@dataclass(frozen=True)
class Labelled:
    """One picture: its file, the rows of its surfaces [8, width] (NaN: not visible), um per px."""

    path: Path
    rows: np.ndarray
    axial_um: float
    lateral_um: float


class Stored:
    """Pictures of one split kept in memory at the storing scale: uint8 [h, w] each, with float32 [8, w]."""

    def __init__(self, items: Sequence[Labelled], title: str):
        self.images: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []
        with ThreadPoolExecutor(max_workers=2) as readers:  # decoding releases the GIL
            found = readers.map(self._read, items)
            for image, rows in tqdm(found, title, len(items), disable=len(items) < 500, leave=False):
                self.images.append(image)
                self.rows.append(rows)

    @staticmethod
    def _read(item: Labelled) -> tuple[np.ndarray, np.ndarray]:
        image = read_grey(item.path)
        shape = (round(image.shape[0] * item.axial_um / STORE_AXIAL_UM),
                 round(image.shape[1] * item.lateral_um / STORE_LATERAL_UM))  # fmt: skip
        rows = columns_between(rows_to_working(item.rows, image.shape[0], shape[0]), shape[1])
        return resize(image, shape).round().astype(np.uint8), rows.astype(np.float32)


class TrainScans(Dataset):
    """Batches {"image": float32 [B, 1, H, W], "rows": float32 [B, 8, W]}: crops that depend on (seed, epoch, index)."""

    def __init__(self, stored: Stored, seed: int, crop: tuple[int, int]):
        self.stored, self.seed, self.crop = stored, seed, crop

    def __len__(self) -> int:
        return len(self.stored.images)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        step = (AXIAL_UM / STORE_AXIAL_UM, LATERAL_UM / STORE_LATERAL_UM)
        made = []
        for index in indices:
            epoch, row = divmod(index, len(self))
            random = np.random.default_rng([self.seed, epoch, row])
            made.append(augmented(self.stored.images[row], self.stored.rows[row], random, self.crop, step))
        return as_batch(made)


class WholeScans(Dataset):
    """Batches of whole pictures at the working scale, unchanged, padded to one size: for validation."""

    def __init__(self, stored: Stored):
        shapes = [working_shape(i.shape, STORE_AXIAL_UM, STORE_LATERAL_UM) for i in stored.images]
        size = tuple(ceil_to(max(shape[side] for shape in shapes)) for side in (0, 1))
        self.made = []
        for image, rows, shape in zip(stored.images, stored.rows, shapes, strict=True):
            rows = columns_between(rows_to_working(rows, image.shape[0], shape[0]), shape[1])
            rows = np.pad(rows, ((0, 0), (0, size[1] - shape[1])), constant_values=np.nan).astype(np.float32)
            self.made.append((padded(normalised(resize(image, shape)), *size), rows))

    def __len__(self) -> int:
        return len(self.made)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        return as_batch([self.made[index] for index in indices])


def as_batch(made: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Pairs of picture and rows -> the tensors a step takes."""
    images, rows = zip(*made, strict=True)
    return {"image": torch.from_numpy(np.stack(images)).unsqueeze(1), "rows": torch.from_numpy(np.stack(rows))}


class LayerScans(L.LightningDataModule):
    """train and val loaders. facts: surfaces, axial_um and lateral_um of the working scale."""

    def __init__(
        self, splits: dict[str, Sequence[Labelled]], batch_size: int, seed: int = 0,
        crop: Sequence[int] = (192, 128), num_workers: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.splits, self.batch_size, self.seed = splits, batch_size, seed
        self.crop, self.num_workers = (int(crop[0]), int(crop[1])), num_workers
        self.stored: dict[str, Stored] = {}
        self.facts: dict[str, Any] = {
            "surfaces": list(SURFACES),
            "axial_um": AXIAL_UM,
            "lateral_um": LATERAL_UM,
            "class_names": list(SURFACES),
        }

    def setup(self, stage: str | None = None) -> None:
        """Read train and val (once)."""
        for split in ("train", "val"):
            if split not in self.stored:
                self.stored[split] = Stored(self.splits[split], f"reading {split}")

    def train_dataloader(self) -> DataLoader:
        scans = TrainScans(self.stored["train"], self.seed, self.crop)
        return self._loader(scans, sampler=EpochSampler(len(scans), self.seed))

    def val_dataloader(self) -> DataLoader:
        return self._loader(WholeScans(self.stored["val"]))

    def _loader(self, scans: Dataset, sampler: Sampler | None = None) -> DataLoader:
        return DataLoader(
            scans, self.batch_size, sampler=sampler, num_workers=self.num_workers, collate_fn=as_is,
            persistent_workers=self.num_workers > 0, pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
