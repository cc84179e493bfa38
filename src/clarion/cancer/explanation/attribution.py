"""The risk of patients shared out over their genes.

Networks: integrated gradients (Sundararajan et al. 2017, ICML) of the risk along the straight line from the baseline to
the patient, by captum; and the attention of the readout to each gene, which says where the network looks and not which
way it is moved (Jain and Wallace 2019, NAACL). Linear models: coefficient x value, which integrated gradients would
give too. The baseline is 0 of the scaled value, the median of the training patients, for every gene at once; cancer,
age and sex stay the patient's own. So attributions sum to risk(patient) - risk(same patient with median genes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from clarion.cancer.transformer.layers import Batch
from clarion.cancer.transformer.network import SurvivalModule
from clarion.errors import UsageError
from clarion.samples import Sample

BASELINE = (
    "every gene at 0 of its scaled value, the median of the training patients; cancer, age and sex stay the patient's"
)
INTEGRATED, LINEAR = "integrated_gradients", "coefficient_x_value"
TOKENS_AT_ONCE = 51_200  # patients x steps x genes in one pass: about 1 GB of activations at width 32


@dataclass(frozen=True)
class Attribution:
    """n patients, p genes ("modality:GENE"). values: scaled, 0 at the baseline and where missing [n, p]; shares: what
    the risk owes to each gene [n, p]; risk, base: of the patients and of them with all genes at the baseline [n];
    attention: [n, p], None where the model has none; without(columns): risk [n] with these genes at the baseline."""

    method: str
    genes: list[str]
    patients: list[str]
    cancers: list[str]
    values: np.ndarray = field(repr=False)
    shares: np.ndarray = field(repr=False)
    risk: np.ndarray = field(repr=False)
    base: np.ndarray = field(repr=False)
    without: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    attention: np.ndarray | None = field(default=None, repr=False)
    steps: int | None = None

    @property
    def delta(self) -> np.ndarray:
        """[n]: sum of the shares minus what they must sum to; 0 where the integral is exact."""
        return self.shares.sum(1) - (self.risk - self.base)

    def completeness(self) -> dict[str, float | int | None]:
        """The convergence delta over patients, absolute and relative to the mean |risk - base|."""
        size = float(np.abs(self.risk - self.base).mean())
        worst, mean = (float(f(np.abs(self.delta))) for f in (np.max, np.mean))
        return {"mean_delta": mean, "max_delta": worst, "mean_change_of_risk": size,
                "relative": mean / size if size > 0 else None, "steps": self.steps}  # fmt: skip


def attribute(predictor: Any, samples: Sequence[Sample], steps: int = 32) -> Attribution:
    """Attributions of a survival predictor. UsageError for one that cannot be explained by genes."""
    if not samples:
        raise UsageError("No patient to explain: the split is empty.")
    if isinstance(getattr(predictor, "module", None), SurvivalModule):
        return of_network(predictor.module, samples, steps)
    estimator = getattr(predictor, "estimator", None)
    if hasattr(estimator, "contributions"):
        X = predictor.make_rows([s.inputs for s in samples], predictor.description["columns"])
        return of_linear(estimator, X, samples)
    what = type(estimator if estimator is not None else predictor).__name__
    raise UsageError(
        f"{what} cannot be explained by genes: it is neither a tabular network (tabular_transformer, mlp_survival) nor "
        "linear in the genes (ridge_cox, sign_score)."
    )


def of_linear(estimator: Any, X: Any, samples: Sequence[Sample]) -> Attribution:
    """Coefficient x value, exact; `estimator.contributions(X)` tells both."""
    genes, coef, values = estimator.contributions(X)
    shares = np.asarray(coef, np.float64) * values
    risk = np.asarray(estimator.predict(X), np.float64)
    return Attribution(
        LINEAR, list(genes), [s.patient_id for s in samples], [str(s.inputs.get("cancer") or "") for s in samples],
        values, shares, risk, risk - shares.sum(1), lambda columns: risk - shares[:, columns].sum(1),
    )  # fmt: skip


def of_network(module: SurvivalModule, samples: Sequence[Sample], steps: int = 32) -> Attribution:
    """Integrated gradients with `steps` points (Gauss-Legendre) and attention, a few patients at a time."""
    from captum.attr import IntegratedGradients

    genes = list(module.encoder.facts.genes)
    batch = module.batch(samples)
    others = [name for name in batch if name != "value"]

    def risk(value: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return module.risk({"value": value, **dict(zip(others, rest, strict=True))})

    integrated = IntegratedGradients(risk)
    parts = []
    for rows in _chunks(len(samples), len(genes) * steps):
        part = {name: tensor[rows] for name, tensor in batch.items()}
        shares = integrated.attribute(
            part["value"], baselines=0.0, additional_forward_args=tuple(part[name] for name in others), n_steps=steps,
            internal_batch_size=max(1, TOKENS_AT_ONCE // len(genes)),  # where one patient's steps are too many already
        )  # fmt: skip
        parts.append(shares.detach().double().cpu().numpy())
    has_attention = hasattr(module.network, "attention_to_genes")
    attention = _in_parts(module.network.attention_to_genes, batch, len(genes)) if has_attention else None

    def without(columns: np.ndarray) -> np.ndarray:
        value = batch["value"].clone()
        value[:, torch.as_tensor(np.asarray(columns, np.int64), device=value.device)] = 0
        return _in_parts(module.risk, batch | {"value": value}, len(genes))

    return Attribution(
        INTEGRATED, genes, [s.patient_id for s in samples], [str(s.inputs.get("cancer") or "") for s in samples],
        batch["value"].double().cpu().numpy(), np.concatenate(parts), _in_parts(module.risk, batch, len(genes)),
        without(np.arange(len(genes))), without, attention, steps,
    )  # fmt: skip


def _in_parts(function: Callable[[Batch], torch.Tensor], batch: Batch, genes: int) -> np.ndarray:
    with torch.no_grad():
        parts = [
            function({name: tensor[rows] for name, tensor in batch.items()})
            for rows in _chunks(len(batch["value"]), genes)
        ]
    return torch.cat(parts).double().cpu().numpy()


def _chunks(n: int, tokens: int) -> list[slice]:
    """Slices of n patients, so many at a time that TOKENS_AT_ONCE is kept."""
    size = max(1, TOKENS_AT_ONCE // max(1, tokens))
    return [slice(start, start + size) for start in range(0, n, size)]
