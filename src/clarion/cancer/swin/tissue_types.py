"""Which kinds of tissue a slide model attended to: a linear head on its tile features, fitted on labelled tiles.

A multinomial logistic regression on frozen features is how patch encoders are probed (Chen et al. 2024, UNI,
doi:10.1038/s41591-024-02857-3): small enough for a few hundred labelled tiles, and it leaves the slide model as it is.
It names what the attention fell on; it does not say why.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from clarion.cancer.swin.bags import Bag
from clarion.errors import DataError, UsageError
from clarion.evaluators.bootstrap import bootstrap, entry
from clarion.samples import Sample

FORMAT = "clarion-tissue-head/1"
FEWEST = 5  # labelled tiles of a kind, below which the head does not learn it
MOST = 50_000  # tiles the head is fitted on, evenly spaced
STRENGTH = 1.0  # inverse of the L2 penalty, on whitened features


@dataclass(frozen=True)
class SeenTiles:
    """All tiles of a patient as a slide model sees them. features: float32 [n, width], whitened (or normalised) as its
    own tile layer gets them; attention: float32 [n], sums to 1."""

    bag: Bag
    features: np.ndarray = field(repr=False)
    attention: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class LabelledTiles:
    """features: float32 [n, width]; kinds, patients: object [n]."""

    features: np.ndarray = field(repr=False)
    kinds: np.ndarray = field(repr=False)
    patients: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.kinds)


def seen_tiles(module: Any, sample: Sample) -> SeenTiles:
    """Tiles, features and attention of a patient (0 tiles without a slide) by a `SlideModule` in eval."""
    bag = module.bag(sample)
    features = torch.from_numpy(module.reader(bag)).to(module.device)
    if not len(bag):
        return SeenTiles(bag, features.cpu().numpy(), np.empty(0, np.float32))
    with torch.inference_mode():
        mask = torch.ones(1, len(bag), dtype=torch.bool, device=module.device)
        _, attention = module.network.embed(features[None], mask)
        even = module.network.tile[0](features)
    return SeenTiles(bag, even.float().cpu().numpy(), attention[0].float().cpu().numpy())


def labelled_tiles(module: Any, samples: Iterable[Sample], labels: Any) -> LabelledTiles:
    """The tiles of these patients whose kind `labels` (patients.tissue_labels) knows."""
    features, kinds, patients = [], [], []
    for sample in samples:
        if not any(Path(path) in labels for path in sample.inputs.get("slides") or ()):
            continue
        seen = seen_tiles(module, sample)
        own = np.full(len(seen.bag), "", object)
        for number, tiled in enumerate(seen.bag.slides):
            if tiled.path in labels:
                of = seen.bag.places[:, 0] == number
                own[of] = labels.kinds(tiled.path, tiled.tiles.xy[seen.bag.places[of, 1]], tiled.tiles.side)
        known = own != ""
        features.append(seen.features[known])
        kinds.append(own[known])
        patients.append(np.full(int(known.sum()), sample.patient_id, object))
    if not features:
        width = module.network.encoder.width
        return LabelledTiles(np.empty((0, width), np.float32), np.empty(0, object), np.empty(0, object))
    return LabelledTiles(*(np.concatenate(parts) for parts in (features, kinds, patients)))


@dataclass(frozen=True)
class TissueHead:
    """kinds [k]; weight float32 [k, width], bias float32 [k]; encoder: `digest` of what makes the features it reads;
    trained_on: {patients, tiles {kind: n}, left_out {kind: n}, labels}; held_out: of `accuracy`, {} where unknown."""

    kinds: tuple[str, ...]
    weight: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    encoder: str = ""
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    held_out: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, tiles: LabelledTiles, encoder: str = "", labels: str = "") -> TissueHead:
        """From labelled tiles of training patients; all kinds weigh the same. Kinds of fewer than FEWEST tiles are left
        out; DataError where fewer than two are left."""
        from sklearn.linear_model import LogisticRegression

        counts = Counter(tiles.kinds)
        kinds = sorted(kind for kind, n in counts.items() if n >= FEWEST)
        if len(kinds) < 2:
            found = ", ".join(f"{kind} {n}" for kind, n in counts.most_common()) or "none"
            raise DataError(f"A head that names tissue needs {FEWEST} labelled tiles of each of two kinds in the "
                            f"training patients (found: {found}): label more, or set model.fusion.patterns=null."
                            )  # fmt: skip
        chosen = np.flatnonzero(np.isin(tiles.kinds, kinds))
        if len(chosen) > MOST:
            chosen = chosen[np.linspace(0, len(chosen) - 1, MOST).round().astype(int)]
        model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=500)
        model.fit(tiles.features[chosen], np.array([kinds.index(kind) for kind in tiles.kinds[chosen]]))
        weight, bias = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
        if len(kinds) == 2:  # scikit-learn keeps one row for two kinds: that of the second
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        about = {
            "patients": len(set(tiles.patients[chosen])),
            "tiles": {kind: int((tiles.kinds[chosen] == kind).sum()) for kind in kinds},
            "left_out": {kind: n for kind, n in sorted(counts.items()) if kind not in kinds},
            "labels": labels,
        }
        return cls(tuple(kinds), weight, bias, encoder, about)

    @classmethod
    def fit_on(cls, module: Any, data: Any, seed: int = 0) -> TissueHead:
        """By a `SlideModule` on data with tissue_labels(split): fitted on train, held out: val."""
        labels = {split: data.tissue_labels(split) for split in ("train", "val")}
        tiles = {split: labelled_tiles(module, data.samples(split), own) for split, own in labels.items()}
        head = cls.fit(tiles["train"], cls.digest(module), labels["train"].digest())
        return replace(head, held_out=head.accuracy(tiles["val"], seed))

    @staticmethod
    def digest(module: Any) -> str:
        """Of all that makes the features of `seen_tiles`: the encoder, then the whitening (or norm) after it."""
        found = hashlib.blake2b(digest_size=10)
        for name, tensor in sorted(module.network.tile[0].state_dict().items()):
            found.update(name.encode() + str(tuple(tensor.shape)).encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return f"{module.reader.digest()}-{found.hexdigest()}"

    def attended(self, module: Any, samples: Sequence[Sample], most: int, min_share: float) -> list[dict[str, float]]:
        """`patterns` of each sample."""
        return [self.patterns(seen_tiles(module, sample), most, min_share) for sample in samples]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """int [n]: place in `kinds` of each tile's most probable kind; features as `seen_tiles` gives them."""
        return (features @ self.weight.T + self.bias).argmax(axis=1)

    def accuracy(self, tiles: LabelledTiles, seed: int = 0) -> dict[str, Any]:
        """{"balanced_accuracy": entry with interval (bootstrap over patients), "recall": {kind: share found},
        "chance", "tiles", "patients", "unknown": tiles of kinds that the head has not learned, left out}; {} without
        any tile."""
        kept = np.isin(tiles.kinds, self.kinds)
        if not kept.any():
            return {}
        true, patients = tiles.kinds[kept], tiles.patients[kept]
        right = np.array(self.kinds, object)[self.predict(tiles.features[kept])] == true
        present = [kind for kind in self.kinds if (true == kind).any()]
        of_kind = np.stack([true == kind for kind in present], 1).astype(float)

        def balanced(weights: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.nanmean((weights @ (of_kind * right[:, None])) / (weights @ of_kind), axis=1)

        recall = (of_kind * right[:, None]).sum(0) / of_kind.sum(0)
        interval = bootstrap(balanced, patients, seed=seed)
        n = len(set(patients))
        return {
            "balanced_accuracy": entry(interval, len(true), n,
                                       "mean recall of the kinds; percentile bootstrap over patients"),
            "recall": {kind: round(float(r), 4) for kind, r in zip(present, recall, strict=True)},
            "chance": 1 / len(present),
            "tiles": len(true), "patients": n, "unknown": int((~kept).sum()),
        }  # fmt: skip

    def patterns(self, seen: SeenTiles, most: int, min_share: float) -> dict[str, float]:
        """kind -> share of a patient's attention that fell on tiles of it, largest first: at most `most`, of at least
        `min_share`. {} without tiles."""
        if not len(seen.attention):
            return {}
        share = np.bincount(self.predict(seen.features), seen.attention.astype(np.float64), len(self.kinds))
        share = np.round(share / share.sum(), 4)
        order = np.argsort(-share, kind="stable")[:most]
        return {self.kinds[k]: float(share[k]) for k in order if share[k] >= min_share}

    # ---- files ---------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """tissue.json and tissue.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"weight": np.ascontiguousarray(self.weight), "bias": np.ascontiguousarray(self.bias)}
        save_file(arrays, folder / "tissue.safetensors")
        about = {k: v for k, v in asdict(self).items() if k not in arrays}
        text = json.dumps({"format": FORMAT, **about}, ensure_ascii=False, indent=1)
        (folder / "tissue.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, encoder: str | None = None) -> TissueHead:
        """encoder: the digest that it must have been fitted on (older heads keep that of the encoder alone). UsageError
        for another, and for files that are none."""
        try:
            about = json.loads((folder / "tissue.json").read_text(encoding="utf-8"))
            arrays = load_file(folder / "tissue.safetensors")
            if about.pop("format") != FORMAT:
                raise ValueError("another format")
            head = cls(kinds=tuple(about.pop("kinds")), **arrays, **about)
            k = len(head.kinds)
            if head.weight.ndim != 2 or head.weight.shape[0] != k or head.bias.shape != (k,):
                raise ValueError("sizes that do not fit")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
            said = f"{type(error).__name__}: {error}"
            raise UsageError(f"{folder} holds no head for kinds of tissue ({said}).") from error
        if encoder is not None and head.encoder not in (encoder, encoder.partition("-")[0]):
            raise UsageError(f"{folder}: the head for kinds of tissue was fitted on another slide model's features.")
        return head
