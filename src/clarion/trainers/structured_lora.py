"""LoRA whose support is declared, enforced and verified: which modules, layers, ranks, neurons and subspace it may use.

    model.lora.structure:
      modules: "gate_proj|up_proj"           # regex, searched in the names of the network's linear layers
      layers: [10, 11, 12]                   # null: all
      rank_map: {"layers.1[0-2]": 8}         # regex -> rank; the others have model.lora.r
      neuron_mask: {"gate_proj|up_proj": "0:512"}   # regex -> rows (list, or "a:b,c"), or a .safetensors file of masks
      subspace: {onto: basis.safetensors}    # or {orthogonal: ...}: dW's columns inside / outside the span, per module
    model.lora.variant: structured           # or plain_matched: all linear layers, the same number of parameters

dW = s B A with A [r, in], B [out, r]. A neuron of a gated feed-forward block is a row of gate_proj and up_proj, and a
row of dW is a row of B. B starts at 0, its gradient is projected, and so is B after every optimiser step: rows outside
stay exactly 0 whatever the optimiser does (momentum, weight decay, noise).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from clarion.errors import DataError, UsageError

VARIANTS = ("structured", "plain_matched")
FIELDS = ("modules", "layers", "rank_map", "neuron_mask", "subspace")
RESIDUAL = 1e-5  # of ||B||: how far rounding may leave a projected B from its subspace


@dataclass
class Support:
    """What one linear layer's dW may be. rows: bool [out], None for all; basis: orthonormal columns [out, k], with
    `onto` saying whether dW's columns lie in their span or orthogonal to it."""

    rank: int
    rows: torch.Tensor | None = None
    basis: torch.Tensor | None = None
    onto: bool = True

    def project(self, b: torch.Tensor) -> torch.Tensor:
        """B [out, r] (or its gradient) -> its nearest neighbour inside the support."""
        if self.rows is not None:
            return b * self.rows.to(b.device)[:, None]
        if self.basis is not None:
            basis = self.basis.to(b.device, torch.float32)
            inside = (basis @ (basis.T @ b.float())).to(b.dtype)
            return inside if self.onto else b - inside
        return b

    def free_rows(self, out: int) -> int:
        """Degrees of freedom of a column of B."""
        if self.rows is not None:
            return int(self.rows.sum())
        if self.basis is not None:
            return self.basis.shape[1] if self.onto else out - self.basis.shape[1]
        return out


def check_structure(lora: Mapping[str, Any]) -> None:
    """UsageError for a declaration that says nothing, contradicts itself or cannot be enforced; needs no network."""
    structure, variant = dict(lora.get("structure") or {}), lora.get("variant") or "structured"
    if variant not in VARIANTS:
        raise UsageError(f"model.lora.variant={variant} is unknown: write {' or '.join(VARIANTS)}.")
    unknown = sorted(set(structure) - set(FIELDS))
    if unknown:
        raise UsageError(f"model.lora.structure has no {', '.join(unknown)}; it has {', '.join(FIELDS)}.")
    if not structure.get("modules"):
        raise UsageError('model.lora.structure needs modules, a regular expression such as "gate_proj|up_proj".')
    if lora.get("dora"):
        raise UsageError("model.lora.structure with dora=true: DoRA rescales whole rows outside it; set dora=false.")
    if lora.get("init", True) is not True:
        raise UsageError("model.lora.structure needs init=true: any other start puts dW outside the structure.")
    if structure.get("neuron_mask") and structure.get("subspace"):
        raise UsageError("model.lora.structure: give neuron_mask or subspace; their projections do not commute.")
    subspace = structure.get("subspace")
    if subspace is not None and (len(subspace) != 1 or set(subspace) - {"onto", "orthogonal"}):
        raise UsageError("model.lora.structure.subspace: write {onto: FILE} or {orthogonal: FILE}.")
    for name in ("modules", *dict(structure.get("rank_map") or {})):
        _regex(structure["modules"] if name == "modules" else name)


def linear_layers(network: Any) -> dict[str, tuple[int, int]]:
    """Name -> (in, out) of every linear layer except the output embedding: what peft calls all-linear."""
    head = network.get_output_embeddings()
    return {
        name: (module.in_features, module.out_features)
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def declared(network: Any, lora: Mapping[str, Any]) -> dict[str, Support]:
    """The declaration on this network: layer name -> Support. UsageError where it matches nothing or does not fit."""
    check_structure(lora)
    structure, sizes = dict(lora["structure"]), linear_layers(network)
    wanted = None if structure.get("layers") is None else {int(k) for k in structure["layers"]}
    pattern = _regex(structure["modules"])
    names = [n for n in sizes if pattern.search(n) and (wanted is None or layer_index(n) in wanted)]
    absent = sorted((wanted or set()) - {layer_index(n) for n in names})
    if not names or absent:
        what = f"layers {absent}" if absent and names else f"modules {structure['modules']!r}"
        raise UsageError(f"model.lora.structure: no linear layer of this network matches {what}.")
    ranks = [(_regex(key), int(rank)) for key, rank in dict(structure.get("rank_map") or {}).items()]
    found = {n: Support(next((rank for key, rank in ranks if key.search(n)), int(lora.get("r", 16)))) for n in names}
    _add_rows(found, sizes, structure.get("neuron_mask"))
    _add_basis(found, sizes, structure.get("subspace"))
    for name, support in found.items():
        if not 0 < support.rank <= min(sizes[name]):
            raise UsageError(f"model.lora.structure.rank_map gives {name} rank {support.rank}: it holds at most "
                             f"{min(sizes[name])}, at least 1.")  # fmt: skip
    return found


def _add_rows(found: dict[str, Support], sizes: Mapping[str, tuple[int, int]], mask: Any) -> None:
    if not mask:
        return
    if isinstance(mask, str):
        given = {re.escape(k) + "$": v.bool() for k, v in _tensors(mask, "neuron_mask").items()}
    else:
        given = dict(mask)
    for key, rows in given.items():
        names = [n for n in found if _regex(key).search(n)]
        if not names:
            raise UsageError(f"model.lora.structure.neuron_mask: {key} matches no declared module.")
        for name in names:
            if not name.endswith(("gate_proj", "up_proj")):
                raise UsageError(f"model.lora.structure.neuron_mask: neurons are rows of gate_proj and up_proj, not of "
                                 f"{name.rsplit('.', 1)[-1]}.")  # fmt: skip
            found[name].rows = _rows(rows, sizes[name][1], key)


def _rows(spec: Any, out: int, key: str) -> torch.Tensor:
    if isinstance(spec, torch.Tensor):
        mask = spec
    else:
        mask = torch.zeros(out, dtype=torch.bool)
        parts = spec.split(",") if isinstance(spec, str) else spec
        try:
            for part in parts:
                start, _, stop = str(part).partition(":")
                first, last = int(start), int(stop) if stop else int(start) + 1
                if not 0 <= first < last <= out:
                    raise ValueError
                mask[first:last] = True
        except ValueError:
            raise UsageError(f"model.lora.structure.neuron_mask.{key}: give row numbers or ranges a:b inside 0:{out}, "
                             f"not {part}.") from None  # fmt: skip
    if mask.shape != (out,) or not mask.any():
        raise UsageError(f"model.lora.structure.neuron_mask.{key}: give {out} rows, at least one of them on.")
    return mask


def _add_basis(found: dict[str, Support], sizes: Mapping[str, tuple[int, int]], subspace: Any) -> None:
    if not subspace:
        return
    (kind, file), = subspace.items()
    tensors = _tensors(str(file), "subspace")
    for name, support in found.items():
        if name not in tensors or tensors[name].ndim != 2 or tensors[name].shape[0] != sizes[name][1]:
            raise UsageError(
                f"model.lora.structure.subspace: {file} needs a matrix [{sizes[name][1]}, k] named {name}."
            )
        support.basis, support.onto = torch.linalg.qr(tensors[name].float())[0], kind == "onto"


def _tensors(file: str, what: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if not Path(file).is_file():
        raise UsageError(f"model.lora.structure.{what}: {file} is no file; give a .safetensors file.")
    return load_file(file)


def difference_basis(aligned: Any, base: Any, names: list[str], k: int) -> dict[str, torch.Tensor]:
    """Name -> orthonormal [out, k]: the leading left singular vectors of W_aligned - W_base, the alignment directions
    onto which Safe LoRA projects dW (arXiv 2405.16833). Save with safetensors for structure.subspace."""
    basis = {}
    for name in names:
        difference = (aligned.get_submodule(name).weight - base.get_submodule(name).weight).detach().float()
        basis[name] = torch.linalg.svd(difference, full_matrices=False)[0][:, :k].contiguous()
    return basis


def free_parameters(network: Any, supports: Mapping[str, Support]) -> int:
    """Parameters that can differ from their start: rank x (in + free rows) of each declared layer."""
    sizes = linear_layers(network)
    return sum(s.rank * (sizes[n][0] + s.free_rows(sizes[n][1])) for n, s in supports.items())


def matched_ranks(network: Any, budget: int) -> dict[str, int]:
    """Plain LoRA on all linear layers with as nearly `budget` parameters as whole ranks allow, never more.

    Every layer gets the same rank; what is left goes one rank at a time to layers spread over the depth."""
    sizes = linear_layers(network)
    cost = {name: i + o for name, (i, o) in sizes.items()}
    rank = budget // sum(cost.values())
    ranks, left = dict.fromkeys(sizes, rank), budget - rank * sum(cost.values())
    spread = sorted(range(len(sizes)), key=lambda k: (k * 0.6180339887) % 1)  # golden ratio: no end is preferred
    for name in (list(sizes)[k] for k in spread):
        if cost[name] <= left:
            ranks[name], left = ranks[name] + 1, left - cost[name]
    return {name: r for name, r in ranks.items() if r}


def peft_settings(network: Any, lora: Mapping[str, Any]) -> dict[str, Any]:
    """target_modules, rank_pattern and alpha_pattern of peft.LoraConfig for the chosen variant; alpha / r stays."""
    supports = declared(network, lora)
    r, alpha = int(lora.get("r", 16)), float(lora.get("alpha", 16))
    if (lora.get("variant") or "structured") == "plain_matched":
        ranks = matched_ranks(network, free_parameters(network, supports))
    else:
        ranks = {name: support.rank for name, support in supports.items()}
    if not ranks:
        raise UsageError("model.lora.structure is too small to be matched by plain LoRA of rank 1; declare more.")
    patterns = {re.escape(name): rank for name, rank in ranks.items()}
    return {
        "target_modules": list(ranks),
        "rank_pattern": patterns,
        "alpha_pattern": {name: alpha * rank / r for name, rank in patterns.items()},
    }


class StructureGuard(TrainerCallback):
    """Keeps dW inside the declared support while the trainer's optimiser runs, and logs how it looks.

    variant: of model.lora; plain LoRA beside it is not changed, only measured against the same declaration."""

    def __init__(self, network: Any, supports: Mapping[str, Support], variant: str | None = None, tracker: Any = None):
        self.network, self.supports, self.tracker = network, supports, tracker
        self.variant = variant or "structured"
        self.enforce = self.variant == "structured"
        if self.enforce:
            for name, _, b, _ in lora_layers(network):
                b.register_hook(supports[name].project)

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self.enforce:
            with torch.no_grad():
                for name, _, b, _ in lora_layers(self.network):
                    b.copy_(self.supports[name].project(b))

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.tracker is not None and state.is_world_process_zero:
            found = structure_report(self.network, self.supports)
            logged = {"lora/share_inside": found["share_inside"], "lora/effective_rank": found["effective_rank"]}
            self.tracker.log({k: v for k, v in logged.items() if v is not None}, step=state.global_step)

    def report(self) -> dict[str, Any]:
        """structure_report of the trained adapter, with the variant."""
        return {"variant": self.variant, **structure_report(self.network, self.supports)}

    def verify(self) -> None:
        """DataError unless every dW lies inside: masked rows exactly 0, subspaces within rounding."""
        for name, _, b, _ in lora_layers(self.network) if self.enforce else ():
            outside = (b - self.supports[name].project(b)).abs().max().item()
            allowed = 0.0 if self.supports[name].basis is None else RESIDUAL * max(1.0, b.norm().item())
            if outside > allowed:
                raise DataError(f"structured LoRA: dW of {name} left its declared support (by {outside:.2g}).")


def lora_layers(network: Any) -> list[tuple[str, torch.Tensor, torch.Tensor, float]]:
    """(layer name, A [r, in], B [out, r], scaling) of each adapted layer of a peft model, live parameters."""
    found = []
    for name, module in network.named_modules():
        if getattr(module, "lora_B", None) and "default" in module.lora_B:
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            found.append((name.removeprefix("base_model.model."), a, b, float(module.scaling["default"])))
    return found


@torch.no_grad()
def structure_report(network: Any, supports: Mapping[str, Support]) -> dict[str, Any]:
    """Share of sum ||dW||_F^2 inside the declared structure, and the effective rank of each layer's dW.

    Inside: dW of declared layers, projected onto their rows or subspace, as far as its leading `rank` singular values
    reach. Effective rank: exp of the entropy of the normalised singular values (Roy & Vetterli 2007, EUSIPCO). Both
    None before the first step (dW = 0)."""
    rows, inside, total, trained = [], 0.0, 0.0, 0
    for name, a, b, scaling in lora_layers(network):
        values = _singular_values(a, b, scaling)
        energy = float((values**2).sum())
        support, kept = supports.get(name), 0.0
        if support is not None:
            kept = float((_singular_values(a, support.project(b), scaling)[: support.rank] ** 2).sum())
        share = kept / energy if energy > 0 else None
        rows.append({"name": name, "rank": b.shape[1], "effective_rank": effective_rank(values), "norm": energy**0.5,
                     "share_inside": share})  # fmt: skip
        inside, total = inside + kept, total + energy
        trained += a.numel() + b.shape[1] * (b.shape[0] if support is None else support.free_rows(b.shape[0]))
    ranks = [row["effective_rank"] for row in rows if row["effective_rank"] is not None]
    return {
        "share_inside": inside / total if total > 0 else None,
        "effective_rank": sum(ranks) / len(ranks) if ranks else None,
        "norm": total**0.5,
        "layers": len(rows),
        "parameters": trained if not rows or all(r["name"] in supports for r in rows) else _all_parameters(network),
        "by_layer": rows,
    }


def _all_parameters(network: Any) -> int:
    return sum(a.numel() + b.numel() for _, a, b, _ in lora_layers(network))


def _singular_values(a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    # Of B A without forming it [out, in]: both factors by QR, then an r x r matrix.
    small = torch.linalg.qr(b.double())[1] @ torch.linalg.qr(a.double().T)[1].T
    return scaling * torch.linalg.svdvals(small)


def effective_rank(values: torch.Tensor) -> float | None:
    """exp(entropy of values / sum) of singular values; None where all are 0."""
    total = float(values.sum())
    if total <= 0:
        return None
    p = (values / total)[values > 0]
    return math.exp(float(-(p * p.log()).sum()))


def layer_index(name: str) -> int | None:
    """model.layers.12.mlp.up_proj -> 12."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def _regex(pattern: str) -> re.Pattern:
    try:
        return re.compile(str(pattern))
    except re.error as error:
        raise UsageError(f"model.lora.structure: {pattern!r} is no regular expression ({error}).") from None
