"""SurvivalModule: the tabular networks under the lightning trainer; risks and survival for samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clarion.cancer.survival_training import SurvivalTraining, chosen_head
from clarion.errors import UsageError
from clarion.networks import start_from
from clarion.samples import Sample

from .layers import NETWORKS, Batch
from .tokens import Encoder, Facts, coefficient_rows


class SurvivalModule(SurvivalTraining):
    """Survival from (value, coefficient) pairs of genes, cancer, age and sex.

    model (config): network (transformer | mlp), network_args (verbatim to it), head (hazard | five_year), lr,
    weight_decay, warmup_steps. facts: those of `tokens.Facts`, from the data's module."""

    def __init__(self, model: dict[str, Any], facts: dict[str, Any]):
        super().__init__(model)
        self.facts, self.encoder = facts, Encoder(Facts.of(facts))
        self.network = self._network(model, self.encoder.facts)
        self.start_at(self.encoder.facts.base)

    @staticmethod
    def build(model: dict[str, Any], classes: int = 3) -> nn.Module:
        """A fresh network to count weights by; `classes` is the trainer's word. As many cancers as in the demo."""
        genes = int((model.get("datamodule") or {}).get("genes") or 200)
        rows = torch.zeros(5, genes)
        bins = int((model.get("datamodule") or {}).get("bins", 8))
        return _class(model)(rows, rows.long(), bins if chosen_head(model) == "hazard" else 1, **_arguments(model))

    @staticmethod
    def _network(model: dict[str, Any], facts: Facts) -> nn.Module:
        coef, source = coefficient_rows(facts)
        outputs = len(facts.edges) - 1 if chosen_head(model) == "hazard" else 1
        return _class(model)(torch.from_numpy(coef), torch.from_numpy(source), outputs, **_arguments(model))

    # ---- training ------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> torch.Tensor:
        """See layers.Tabular.forward: logits [B, bins], or [B, 1] of the five-year head."""
        return self.network(batch)

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
        return self.told(logits, self.encoder.facts.edges, self.encoder.facts.horizons)

    def risk(self, batch: Batch) -> torch.Tensor:
        """[B], differentiable; higher is worse: log cumulative hazard, or the logit of death of the five-year head."""
        return self.as_risk(self(batch).float())

    def embed(self, samples: Sequence[Sample]) -> np.ndarray:
        """float32 [n, width]: the layer before the last."""
        with torch.inference_mode():
            return self.network.embed(self.batch(samples)).float().cpu().numpy()


def _class(model: Mapping[str, Any]) -> type[nn.Module]:
    named = model.get("network", "transformer")
    if named not in NETWORKS:
        raise UsageError(f"model.network={named} is unknown: use {' or '.join(NETWORKS)}.")
    return NETWORKS[named]


def _arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    return dict(model.get("network_args") or {})
