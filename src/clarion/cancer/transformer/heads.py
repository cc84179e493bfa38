"""What a survival network is trained on and what its logits mean: discrete hazards, or death within five years.

Hazards: time is cut into bins; logit k is that of dying in bin k for who entered it (Brown 1975; Gensheimer and
Narasimhan 2019). A patient censored within a bin counts for the share of it that he was seen, and log S is linear
inside a bin: so S(t) is continuous and falls. Five years: cross-entropy of death by the horizon, patients of known
status weighted by the inverse probability of not being censored before (Robins and Rotnitzky 1992).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from clarion.errors import DataError
from clarion.evaluators.survival_curves import censoring

HEADS = ("hazard", "five_year")
MOST_WEIGHT = 10.0  # of one patient in the five-year loss


def bin_edges(time: np.ndarray, event: np.ndarray, bins: int, horizons: Sequence[float]) -> list[float]:
    """[0, quantiles of the training events' times ..., end]; the end covers the horizons. DataError without events."""
    died = np.asarray(time)[np.asarray(event, bool)]
    if not died.size:
        raise DataError("Nobody in the training split has an event: hazards cannot be learned; take other splits.")
    inner = np.quantile(died, np.arange(1, bins) / bins) if bins > 1 else np.empty(0)
    end = max(float(died.max()), *map(float, horizons))
    inner = np.unique(inner[(inner > 0) & (inner < end)])
    return [0.0, *map(float, inner), end]


def locate(time: np.ndarray, edges: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(bin int64 [n], share of that bin lived through float32 [n]); bin k is (edge k, edge k + 1], the last is open."""
    edges = np.asarray(edges, np.float64)
    time = np.clip(np.asarray(time, np.float64), 0, edges[-1])
    place = np.clip(np.searchsorted(edges, time, side="left") - 1, 0, len(edges) - 2)
    share = (time - edges[place]) / (edges[place + 1] - edges[place])
    return place.astype(np.int64), share.astype(np.float32)


def hazard_loss(logits: torch.Tensor, place: torch.Tensor, share: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood. logits [B, bins]; place int64, share, event float [B]."""
    index = torch.arange(logits.shape[1], device=logits.device)
    survived = functional.logsigmoid(-logits)  # log(1 - hazard) of every bin
    exposed = (index < place[:, None]) + (index == place[:, None]) * (share * (1 - event))[:, None]
    died = functional.logsigmoid(logits).gather(1, place[:, None])[:, 0] * event
    return -((survived * exposed).sum(1) + died).mean()


def survival_at(logits: torch.Tensor, edges: Sequence[float], times: Sequence[float]) -> torch.Tensor:
    """S(t) [B, T] of hazard logits [B, bins]; past the last edge S stays."""
    place, share = locate(np.asarray(times, np.float64), edges)
    cumulative = -functional.logsigmoid(-logits).cumsum(1)
    before = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative], 1)
    place, share = torch.as_tensor(place, device=logits.device), torch.as_tensor(share, device=logits.device)
    low, high = before[:, place], before[:, place + 1]
    return torch.exp(-(low + share * (high - low)))


def hazard_risk(logits: torch.Tensor) -> torch.Tensor:
    """[B]: the log of the cumulative hazard over all bins; higher is worse."""
    return torch.log(-functional.logsigmoid(-logits).sum(1))


def censoring_weights(time: np.ndarray, event: np.ndarray, horizon: float, limit: float = MOST_WEIGHT):
    """(label float32, weight float32) [n] of the five-year head, from a Kaplan-Meier fit of the censoring.

    label 1: died by the horizon, weight 1 / G(time-); 0: alive then, weight 1 / G(horizon); censored before: 0."""
    time, event = np.asarray(time, np.float64), np.asarray(event, bool)
    step = censoring(time, event)
    g = np.r_[1.0, step.value]  # g[k]: before the k-th distinct time
    before = g[np.searchsorted(step.time, time, side="left")]
    at_horizon = g[np.searchsorted(step.time, horizon, side="right")]
    label = event & (time <= horizon)
    alive = time > horizon
    with np.errstate(divide="ignore"):
        weight = np.where(label, 1 / before, np.where(alive, 1 / at_horizon, 0.0))
    return label.astype(np.float32), np.minimum(weight, limit).astype(np.float32)


def group_logits(
    place: np.ndarray, share: np.ndarray, event: np.ndarray, label: np.ndarray, weight: np.ndarray, bins: int
) -> dict[str, list[float]]:
    """head -> logits that describe all patients as one group: events over those exposed, deaths over weights."""
    entered = np.bincount(place, minlength=bins)[::-1].cumsum()[::-1] - np.bincount(place, minlength=bins)
    exposed = entered + np.bincount(place, np.where(event > 0, 1.0, share), minlength=bins)
    hazard = (np.bincount(place, event, minlength=bins) + 0.5) / (exposed + 1)
    death = (float((label * weight).sum()) + 0.5) / (float(weight.sum()) + 1)
    return {"hazard": [float(np.log(h / (1 - h))) for h in hazard], "five_year": [float(np.log(death / (1 - death)))]}


def five_year_loss(logits: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted cross-entropy per patient of the batch; logits [B, 1], label and weight float [B]."""
    loss = functional.binary_cross_entropy_with_logits(logits[:, 0], label, reduction="none")
    return (loss * weight).sum() / len(label)
