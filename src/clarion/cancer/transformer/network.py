"""SurvivalModule: the tabular networks under the lightning trainer; risks and survival for samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn

from clarion.errors import UsageError
from clarion.networks import adamw_with_cosine, start_from
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
        return adamw_with_cosine(self)

    def load_start_weights(self, path: Path) -> None:
        """Start from another run's weights, see clarion.networks.start_from."""
        start_from(self.network, path, self.model["name"])

    # ---- prediction ----------------------------------------------------------------------------------------

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """The network's input of these samples, on this module's device."""
        arrays = self.encoder.encode(samples)
        return {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}

    def answer(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """{"risk": float (higher is worse), "survival": [S(t)], "times": [months]}: model.times and the horizons of the
        facts, of the five-year head its one. inputs: "omics" {modality: values}, "cancer", "age", "sex" (None or
        absent: unknown)."""
        if not samples:
            return []
        with torch.inference_mode():
            logits = self(self.batch(samples)).float()
        facts, risk = self.encoder.facts, self._risk(logits)
        if self.head == "hazard":
            times = sorted({float(t) for t in (*(self.model.get("times") or ()), *facts.horizons)})
            survival = survival_at(logits, facts.edges, times)
        else:
            times = [float(facts.horizons[-1])]
            survival = torch.sigmoid(-logits)
        return [
            {"risk": float(r), "survival": [float(v) for v in s], "times": list(times)}
            for r, s in zip(risk.cpu(), survival.cpu(), strict=True)
        ]

    def risk(self, batch: Batch) -> torch.Tensor:
        """[B], differentiable; higher is worse: log cumulative hazard, or the logit of death of the five-year head."""
        return self._risk(self(batch).float())

    def _risk(self, logits: torch.Tensor) -> torch.Tensor:
        return hazard_risk(logits) if self.head == "hazard" else logits[:, 0]

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
