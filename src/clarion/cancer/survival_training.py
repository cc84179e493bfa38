"""What networks with a survival head share under the lightning trainer: loss, steps, optimiser, risks and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch

from clarion.cancer.transformer.heads import HEADS, five_year_loss, hazard_loss, hazard_risk, survival_at
from clarion.errors import UsageError
from clarion.networks import adamw_with_cosine

Batch = Mapping[str, torch.Tensor]


def chosen_head(model: Mapping[str, Any]) -> str:
    """model.head: hazard (the default) or five_year; UsageError for another word."""
    head = model.get("head", "hazard")
    if head not in HEADS:
        raise UsageError(f"model.head={head} is unknown: use {' or '.join(HEADS)}.")
    return head


class SurvivalTraining(L.LightningModule):
    """A module whose forward gives logits [B, bins] (hazard head) or [B, 1] (five-year head) of a batch, and whose
    `network` ends in the linear layer `head`. model: its config (head, lr, weight_decay, warmup_steps, times)."""

    def __init__(self, model: dict[str, Any]):
        super().__init__()
        self.model, self.head = model, chosen_head(model)

    def start_at(self, base: Mapping[str, Sequence[float]] | None) -> None:
        """The head begins near the training group's own hazards, so that the first epochs do not learn those."""
        if values := (base or {}).get(self.head):
            with torch.no_grad():
                self.network.head.weight.mul_(0.1)
                self.network.head.bias.copy_(torch.tensor(values))

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean over the batch; besides the input it needs place, share, event (hazard) or label, weight."""
        logits = self(batch)
        if self.head == "hazard":
            return hazard_loss(logits, batch["place"], batch["share"], batch["event"])
        return five_year_loss(logits, batch["label"], batch["weight"])

    def training_step(self, batch: Batch, _index: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=patients_of(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        self.log("val/loss", self.loss(batch), on_epoch=True, batch_size=patients_of(batch), sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        return adamw_with_cosine(self)

    def as_risk(self, logits: torch.Tensor) -> torch.Tensor:
        """[B], differentiable; higher is worse: log cumulative hazard, or the logit of death of the five-year head."""
        return hazard_risk(logits) if self.head == "hazard" else logits[:, 0]

    def told(self, logits: torch.Tensor, edges: Sequence[float], horizons: Sequence[float]) -> list[dict[str, Any]]:
        """{"risk", "survival": [S(t)], "times": [months]} of each row of float32 logits."""
        if self.head == "hazard":
            times = sorted({float(t) for t in (*(self.model.get("times") or ()), *horizons)})
            survival = survival_at(logits, edges, times)
        else:
            times, survival = [float(horizons[-1])], torch.sigmoid(-logits)
        return [
            {"risk": float(r), "survival": [float(v) for v in s], "times": list(times)}
            for r, s in zip(self.as_risk(logits).cpu(), survival.cpu(), strict=True)
        ]


def patients_of(batch: Batch) -> int:
    """How many patients a batch holds: every tensor in it has one row a patient."""
    return len(next(iter(batch.values())))
