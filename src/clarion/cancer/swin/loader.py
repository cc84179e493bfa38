"""The patients of a run as bags of tiles: pixels of sampled tiles (end to end), or cached features of all of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from clarion.cancer.swin.bags import Bag, TileSettings, bag_of
from clarion.cancer.swin.encoder import PatchEncoder
from clarion.cancer.swin.features import FeatureReader
from clarion.cancer.swin.warm_up import WarmUpSettings
from clarion.cancer.swin.warm_up import warm_up as warmed
from clarion.cancer.swin.whitening import Whitening, spaced
from clarion.cancer.transformer.heads import bin_edges, censoring_weights, group_logits, locate
from clarion.errors import DataError, UsageError

log = logging.getLogger(__name__)


class PixelBags(Dataset):
    """Patient -> {"pixels": uint8 [k, patch, patch, 3]} of `sampled` tiles, random in training and evenly spaced
    otherwise. Decoded tiles of all patients are held where they fit `hold_mb`."""

    def __init__(self, bags: Sequence[Bag], sampled: int, random: bool, patch: int, hold_mb: float):
        self.bags, self.sampled, self.random = bags, sampled, random
        size = sum(len(bag) for bag in bags) * patch * patch * 3 / 2**20
        self.held: dict[int, np.ndarray] | None = {} if size <= hold_mb else None
        if self.held is None:
            log.info("%.0f MB of tiles are read from the slides again every epoch (hold_mb=%g)", size, hold_mb)

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        bag, n = self.bags[k], len(self.bags[k])
        if n <= self.sampled:
            chosen = np.arange(n)
        elif self.random:  # torch's generator: the trainer seeds it by (seed, epoch)
            chosen = torch.randperm(n)[: self.sampled].sort().values.numpy()
        else:
            chosen = np.linspace(0, n - 1, self.sampled).round().astype(int)
        if self.held is None:
            return {"pixels": torch.from_numpy(np.concatenate(list(bag.pixels(chosen))))}
        if k not in self.held:
            self.held[k] = np.concatenate(list(bag.pixels()))
        return {"pixels": torch.from_numpy(self.held[k][chosen])}


class FeatureBags(Dataset):
    """Patient -> {"features": float32 [n, width]} of all tiles."""

    def __init__(self, bags: Sequence[Bag], reader: FeatureReader, what: str):
        self.features = [reader(bag) for bag in tqdm(bags, desc=f"features {what}", unit="patient")]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        return {"features": torch.from_numpy(self.features[k])}


class WithOutcome(Dataset):
    """A data set of bags with the outcome's arrays."""

    def __init__(self, bags: Dataset, outcome: Mapping[str, np.ndarray]):
        self.bags, self.outcome = bags, {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in outcome.items()}

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        return self.bags[k] | {name: values[k] for name, values in self.outcome.items()}


def together(patients: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Bags of different length as one batch, filled up with zeros; mask bool [B, N] says where tiles are."""
    name = "pixels" if "pixels" in patients[0] else "features"
    batch = {key: torch.stack([p[key] for p in patients]) for key in patients[0] if key != name}
    lengths = torch.tensor([len(p[name]) for p in patients])
    batch["mask"] = torch.arange(int(lengths.max())) < lengths[:, None]
    batch[name] = torch.nn.utils.rnn.pad_sequence([p[name] for p in patients], batch_first=True)
    return batch


class SlideBags(L.LightningDataModule):
    """train and val loaders and `facts` {edges, horizons, base, encoder, warm_up, trained_on}.

    data: a SlidePatients (samples, cohort). encoder, tiles: of PatchEncoder and TileSettings. train_encoder: True gives
    pixels of `sampled` tiles a patient and step (twice as many in validation), False the features of all tiles, once,
    by the start encoder (`start`: its weights, or a checkpoint's). warm_up: of `WarmUpSettings`, or None: the encoder
    is first trained without labels on the training patients' tiles, where it starts from nothing; `warmed` is that
    encoder, `whitening` that of the features (None where the start weights have their own). device: where the warm-up
    and the features are computed. Patients without tiles train nothing."""

    def __init__(
        self, data: Any, batch_size: int, seed: int, encoder: Mapping[str, Any], tiles: Mapping[str, Any],
        train_encoder: bool, sampled: int = 32, bins: int = 8, horizons: Sequence[float] = (36, 60),
        hold_mb: float = 1024, num_workers: int = 0, start: str | Path | None = None,
        warm_up: Mapping[str, Any] | None = None, device: str = "cpu",
    ):  # fmt: skip
        super().__init__()
        if sampled < 1:
            raise UsageError(f"model.datamodule.sampled={sampled}: give 1 or more tiles a patient.")
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        warming = WarmUpSettings.of(warm_up) if warm_up else None  # before hours of tiling
        settings = TileSettings.of(tiles)
        bags = {
            split: [bag_of(s, settings) for s in tqdm(data.samples(split), total=len(data.splits[split]),
                                                      desc=f"tiles {split}", unit="patient")]
            for split in ("train", "val")
        }  # fmt: skip
        kept = {split: [k for k, bag in enumerate(found) if len(bag)] for split, found in bags.items()}
        for split, found in kept.items():
            if not found:
                raise DataError(f"No patient of the {split} split has a slide with tissue: nothing to learn from.")
        cohorts = {split: data.cohort(split) for split in bags}
        train = cohorts["train"].of([cohorts["train"].patients[k] for k in kept["train"]])
        horizons = sorted(float(h) for h in horizons)
        edges = started_edges(start) or bin_edges(train.time, train.event, int(bins), horizons)
        outcomes = {
            split: outcome(cohort.time[kept[split]], cohort.event[kept[split]], edges, horizons[-1])
            for split, cohort in cohorts.items()
        }
        network = PatchEncoder(**encoder, patch=settings.patch)
        start_encoder(network, start)
        self.warmed, warmth = None, None
        if warming and start is None:
            warmth = warmed(network, [bags["train"][k] for k in kept["train"]], warming, seed, device)
            self.warmed = network
        elif start is None and not train_encoder:
            log.warning("model.weights=null: the features are those of an untrained Swin; give a .safetensors, "
                        "model.datamodule.warm_up, or train end to end by model.train_encoder=true")  # fmt: skip
        reader = None if train_encoder else FeatureReader(network.to(device).eval())
        self.splits, self.whitening = {}, None
        for split, found in bags.items():
            own = [found[k] for k in kept[split]]
            training = split == "train"
            held = (
                PixelBags(own, sampled * (1 if training else 2), training, settings.patch, float(hold_mb))
                if reader is None else FeatureBags(own, reader, split)
            )  # fmt: skip
            self.splits[split] = WithOutcome(held, outcomes[split])
            if training and reader is not None and not is_whole(start):
                self.whitening = Whitening(network.width).fit(spaced(held.features))
        network.cpu()
        counted = [len(bags["train"][k]) for k in kept["train"]]
        self.facts = {
            "edges": edges,
            "horizons": horizons,
            "base": group_logits(*(outcomes["train"][k] for k in ("place", "share", "event", "label", "weight")),
                                 len(edges) - 1),
            "encoder": None if reader is None else reader.digest(),
            "warm_up": warmth,
            "trained_on": {"patients": len(train), "events": int(train.event.sum()), "tiles": int(sum(counted)),
                           "without_tiles": len(bags["train"]) - len(counted)},
        }  # fmt: skip

    def train_dataloader(self) -> DataLoader:
        # the order comes from torch's global generator, which the trainer seeds by (seed, epoch)
        return self._loader("train", True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", False)

    def _loader(self, split: str, shuffle: bool) -> DataLoader:
        return DataLoader(
            self.splits[split], self.batch_size, shuffle=shuffle, num_workers=self.num_workers, collate_fn=together,
            persistent_workers=self.num_workers > 0, pin_memory=torch.cuda.is_available(),
        )  # fmt: skip


def outcome(time: np.ndarray, event: np.ndarray, edges: Sequence[float], horizon: float) -> dict[str, np.ndarray]:
    """What the two heads learn from, see transformer.heads."""
    place, share = locate(time, edges)
    label, weight = censoring_weights(time, event, horizon)
    seen = (np.asarray(event, bool) & (np.asarray(time) <= edges[-1])).astype(np.float32)
    return {"place": place, "share": share, "event": seen, "label": label, "weight": weight}


def is_whole(start: str | Path | None) -> bool:
    """Whether the start weights are a checkpoint of `SlideModule`, with its head."""
    from clarion.cancer.swin.network import is_checkpoint

    return start is not None and is_checkpoint(checkpoint_file(start))


def start_encoder(encoder: PatchEncoder, start: str | Path | None) -> None:
    """The encoder's part of a checkpoint of `SlideModule`, or a Swin's own .safetensors."""
    if start is None:
        return
    from safetensors.torch import load_file

    path = checkpoint_file(start)
    if not is_whole(start):
        encoder.load(path)
        return
    own = {name.removeprefix("encoder."): t for name, t in load_file(path).items() if name.startswith("encoder.")}
    try:
        encoder.load_state_dict(own)
    except RuntimeError as error:
        raise UsageError(f"model.weights={start} has another encoder: choose its model ({error}).") from error


def started_edges(start: str | Path | None) -> list[float] | None:
    """The time bins of the checkpoint that a training goes on from: its head's outputs mean those."""
    described = None if start is None else checkpoint_file(start).with_name("model.json")
    if described is None or not described.is_file():
        return None
    try:
        return [float(edge) for edge in json.loads(described.read_text(encoding="utf-8"))["facts"]["edges"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def checkpoint_file(start: str | Path) -> Path:
    """The .safetensors of a path that model.weights gives. UsageError where there is none."""
    path = Path(start)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"model.weights={start} is no file: give a Swin's .safetensors or a run's checkpoint.")
    return path
