"""SurvivalModule: the tabular networks under the lightning trainer; risks and survival for samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from clarion.errors import UsageError
from clarion.samples import Sample

from .heads import HEADS, five_year_loss, hazard_loss, hazard_risk, survival_at
from .layers import NETWORKS, Batch
from .tokens import Encoder, Facts, coefficient_rows


class SurvivalModule(L.LightningModule):
    """Survival from (value, coefficient) pairs of genes, cancer, age and sex.

    model (config): network (transformer | mlp), network_args (verbatim to it), head (hazard | five_year), lr,
    weight_decay, warmup_steps. facts: those of `tokens.Facts`, from the data's module."""

    def __init__(self, model: dict[str, Any], facts: dict[str, Any]):
        super().__init__()
        self.model, self.facts = model, facts
        self.encoder = Encoder(Facts.of(facts))
        self.head = _head(model)
        self.network = self._network(model, self.encoder.facts)

    @staticmethod
    def build(model: dict[str, Any], classes: int = 3) -> nn.Module:
        """A fresh network to count weights by; `classes` is the trainer's word. As many cancers as in the demo."""
        genes = int((model.get("datamodule") or {}).get("genes") or 200)
        rows = torch.zeros(5, genes)
        bins = int((model.get("datamodule") or {}).get("bins", 8))
        return _class(model)(rows, rows.long(), bins if _head(model) == "hazard" else 1, **_arguments(model))

    @staticmethod
    def _network(model: dict[str, Any], facts: Facts) -> nn.Module:
        coef, source = coefficient_rows(facts)
        outputs = len(facts.edges) - 1 if _head(model) == "hazard" else 1
        network = _class(model)(torch.from_numpy(coef), torch.from_numpy(source), outputs, **_arguments(model))
        if base := facts.base.get(_head(model)):
            with torch.no_grad():
                network.head.weight.mul_(0.1)
                network.head.bias.copy_(torch.tensor(base))
        return network

    # ---- training ------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> torch.Tensor:
        """See layers.Tabular.forward: logits [B, bins], or [B, 1] of the five-year head."""
        return self.network(batch)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean over the batch; besides the input it needs place, share, event (hazard) or label, weight."""
        logits = self(batch)
        if self.head == "hazard":
            return hazard_loss(logits, batch["place"], batch["share"], batch["event"])
        return five_year_loss(logits, batch["label"], batch["weight"])

    def training_step(self, batch: Batch, _index: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["value"]), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        self.log("val/loss", self.loss(batch), on_epoch=True, batch_size=len(batch["value"]), sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; the rate rises linearly, then falls as a cosine to 1 % of lr. Biases and norms do not decay."""
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        free = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": float(self.model.get("weight_decay", 0.0))},
                  {"params": free, "weight_decay": 0.0}]  # fmt: skip
        optimizer = torch.optim.AdamW(groups, lr=float(self.model["lr"]))
        total = max(1, int(self.trainer.estimated_stepping_batches))
        warmup = min(total // 4, int(self.model.get("warmup_steps", 0)))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            progress = min(1.0, (step - warmup) / max(1, total - warmup))
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def load_start_weights(self, path: Path) -> None:
        """Start from model.safetensors of a checkpoint (the file or its folder) with the same genes and cancers."""
        path = path / "model.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise UsageError(f"model.weights={path} is no file: give the model.safetensors of such a run.")
        try:
            self.network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        except (SafetensorError, RuntimeError) as error:
            raise UsageError(f"model.weights={path} does not fit this network: {error}.") from error

    # ---- prediction ----------------------------------------------------------------------------------------

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """The network's input of these samples, on this module's device."""
        arrays = self.encoder.encode(samples)
        return {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}

    def answer(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """{"risk": float (higher is worse), "survival": [S(t)], "times": [months]}: the horizons of the facts, of the
        five-year head its one. inputs: "omics" {modality: values}, "cancer", "age", "sex" (None or absent: unknown)."""
        if not samples:
            return []
        with torch.inference_mode():
            logits = self(self.batch(samples)).float()
        facts = self.encoder.facts
        if self.head == "hazard":
            risk, times = hazard_risk(logits), [float(t) for t in facts.horizons]
            survival = survival_at(logits, facts.edges, times)
        else:
            risk, times = logits[:, 0], [float(facts.horizons[-1])]
            survival = torch.sigmoid(-logits)
        return [
            {"risk": float(r), "survival": [float(v) for v in s], "times": list(times)}
            for r, s in zip(risk.cpu(), survival.cpu(), strict=True)
        ]

    def embed(self, samples: Sequence[Sample]) -> np.ndarray:
        """float32 [n, width]: the layer before the last."""
        with torch.inference_mode():
            return self.network.embed(self.batch(samples)).float().cpu().numpy()


def _head(model: Mapping[str, Any]) -> str:
    head = model.get("head", "hazard")
    if head not in HEADS:
        raise UsageError(f"model.head={head} is unknown: use {' or '.join(HEADS)}.")
    return head


def _class(model: Mapping[str, Any]) -> type[nn.Module]:
    named = model.get("network", "transformer")
    if named not in NETWORKS:
        raise UsageError(f"model.network={named} is unknown: use {' or '.join(NETWORKS)}.")
    return NETWORKS[named]


def _arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    return dict(model.get("network_args") or {})
