"""LoRA whose support is declared: dW outside is exactly 0 whatever the optimiser does; shares, ranks, the plain one."""

from __future__ import annotations

import json
import math

import pytest
import torch
from sft_small import SMALL, Log, model_config, run_in, trainer_for

from clarion.errors import DataError, UsageError
from clarion.llm.instruct import InstructData
from clarion.trainers import structured_lora
from clarion.trainers.sft_lora import lora_config
from clarion.trainers.sft_models import architecture
from clarion.trainers.structured_lora import (
    Support,
    declared,
    effective_rank,
    free_parameters,
    linear_layers,
    lora_layers,
    matched_ranks,
    structure_report,
)

STRUCTURE = {
    "modules": "gate_proj|up_proj|o_proj",
    "layers": [1],
    "rank_map": {"o_proj": 2},
    "neuron_mask": {"gate_proj|up_proj": "0:40,100"},
}


def lora(**changes) -> dict:
    return {"r": 4, "alpha": 8, "dropout": 0.0, "structure": STRUCTURE, "variant": "structured"} | changes


@pytest.fixture(scope="module")
def network():
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(architecture(model_config("llama_tiny", architecture=SMALL), 300))


def fit(folder, tracker=None, **changes):
    model = model_config("llama_tiny", architecture=SMALL) | {"lora": lora(**changes.pop("lora", {}))}
    # A large weight decay and momentum: what a masked gradient alone would have to survive.
    args = {"weight_decay": 0.5, "learning_rate": 1e-2, "max_steps": 4, "eval_strategy": "no"} | changes
    trainer = trainer_for(model, load_best_model_at_end=False, **args)
    return trainer, trainer.fit(run_in(folder, InstructData(train=20, val=5, test=5), tracker))


def test_the_declaration_becomes_layers_ranks_and_rows(network):
    found = declared(network, lora())
    assert {n.split(".")[-1] for n in found} == {"gate_proj", "up_proj", "o_proj"}
    assert all(".1." in n for n in found)
    by_kind = {n.split(".")[-1]: s for n, s in found.items()}
    assert (by_kind["o_proj"].rank, by_kind["up_proj"].rank) == (2, 4)
    assert by_kind["up_proj"].rows.sum() == 41 and by_kind["up_proj"].rows[100] and by_kind["o_proj"].rows is None
    assert free_parameters(network, found) == 2 * 4 * (96 + 41) + 2 * (96 + 96)


@pytest.mark.parametrize("optimiser", ["adamw_torch", "sgd", "adafactor"])
def test_outside_the_support_nothing_moves(tmp_path, optimiser):
    trainer, checkpoint = fit(tmp_path, optim=optimiser)
    network = trainer.load(checkpoint).network
    rows = {name: b for name, _, b, _ in lora_layers(network)}
    assert len(rows) == 3 and all(".1." in name for name in rows)
    for name, b in rows.items():
        if not name.endswith("o_proj"):
            mask = torch.zeros(len(b), dtype=torch.bool)
            mask[:40] = mask[100] = True
            assert (b[~mask] == 0).all() and (b[mask] != 0).any()
    record = json.loads((checkpoint / "clarion.json").read_text())["structure"]
    assert record["share_inside"] == pytest.approx(1.0, abs=1e-6) and record["variant"] == "structured"


def test_the_merged_weights_differ_inside_only(tmp_path):
    from safetensors.torch import load_file

    from clarion.merging import merge_run

    _, checkpoint = fit(tmp_path)
    merge_run(checkpoint, tmp_path / "merged")
    before, after = load_file(checkpoint / "base/model.safetensors"), load_file(tmp_path / "merged/model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.1.{n}.weight" for n in ("mlp.gate_proj", "mlp.up_proj", "self_attn.o_proj")}
    rows = (before["model.layers.1.mlp.up_proj.weight"] != after["model.layers.1.mlp.up_proj.weight"]).any(1)
    assert not rows[40:100].any() and not rows[101:].any() and rows[:40].any()


def test_plain_lora_of_the_same_size_is_trained_beside_it(tmp_path):
    """The comparison: all linear layers, no mask, at most as many parameters; its share inside is measured."""
    tracker = Log()
    trainer, checkpoint = fit(tmp_path, tracker, lora={"variant": "plain_matched"})
    record = json.loads((checkpoint / "clarion.json").read_text())["structure"]
    network = trainer.load(checkpoint).network
    trained = sum(a.numel() + b.numel() for _, a, b, _ in lora_layers(network))
    budget = 2 * 4 * (96 + 41) + 2 * (96 + 96)
    assert record["parameters"] == trained and 0.8 * budget < trained <= budget
    assert 0 < record["share_inside"] < 0.6
    logged = [row for _, row in tracker.rows if "lora/share_inside" in row]
    assert logged and logged[-1]["lora/effective_rank"] >= 1


def test_matched_ranks_spend_the_budget(network):
    sizes = linear_layers(network)
    for budget in (2000, 20_000, 100_000):
        ranks = matched_ranks(network, budget)
        spent = sum(rank * sum(sizes[name]) for name, rank in ranks.items())
        assert budget - max(map(sum, sizes.values())) < spent <= budget
        assert max(ranks.values()) - min([*ranks.values(), max(ranks.values())]) <= 1


def test_share_and_effective_rank_against_dense_algebra(network):
    """structure_report on an adapter filled at random, against dW = s B A written out."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(network.config)
    supports = declared(base, lora())
    model = {"lora": lora(variant="plain_matched")}
    adapted = get_peft_model(base, lora_config(model, base))
    generator = torch.Generator().manual_seed(1)
    inside = total = 0.0
    ranks = []
    for name, a, b, s in lora_layers(adapted):
        with torch.no_grad():
            a.copy_(torch.randn(a.shape, generator=generator)), b.copy_(torch.randn(b.shape, generator=generator))
        dense = (s * b @ a).detach().double()
        values = torch.linalg.svdvals(dense)
        total += float((dense**2).sum())
        p = values[: b.shape[1]] / values[: b.shape[1]].sum()
        ranks.append(math.exp(float(-(p * p.log()).sum())))
        if name in supports:
            kept = dense if supports[name].rows is None else dense * supports[name].rows[:, None]
            inside += float((torch.linalg.svdvals(kept)[: supports[name].rank] ** 2).sum())
    found = structure_report(adapted, supports)
    assert found["share_inside"] == pytest.approx(inside / total, rel=1e-5)
    assert found["effective_rank"] == pytest.approx(sum(ranks) / len(ranks), rel=1e-5)


def test_a_structured_adapter_is_counted_without_weights():
    """Of SmolLM2, on the meta device: 10 layers x gate and up, ranks 8 and 16; the matched one within a rank of it."""
    from omegaconf import OmegaConf

    from clarion.config import compose_config
    from clarion.trainers.sft_models import parameter_counts

    counts = {}
    for variant in structured_lora.VARIANTS:
        cfg = compose_config(["experiment=structured_lora", f"model.lora.variant={variant}"])
        assert cfg.model.name == f"smollm2_135m_{variant}" and set(cfg.evaluators) == {"grounding", "generation"}
        counts[variant] = parameter_counts(OmegaConf.to_container(cfg.model, resolve=True))["lora"]
    assert counts["structured"] == 2 * 5 * (8 + 16) * (576 + 1536)
    free = 2 * 5 * (8 + 16) * (576 + 768)
    assert free - (576 + 1536) < counts["plain_matched"] <= free


def test_effective_rank_of_known_spectra():
    assert effective_rank(torch.tensor([3.0, 3.0, 3.0, 3.0])) == pytest.approx(4)
    assert effective_rank(torch.tensor([5.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(torch.zeros(3)) is None


@pytest.mark.parametrize("kind", ["onto", "orthogonal"])
def test_subspaces(tmp_path, network, kind):
    from safetensors.torch import save_file

    basis = {f"model.layers.1.mlp.{n}": torch.randn(192, 5) for n in ("gate_proj", "up_proj")}
    save_file(basis, tmp_path / "basis.safetensors")
    structure = {"modules": "gate_proj|up_proj", "layers": [1], "subspace": {kind: str(tmp_path / "basis.safetensors")}}
    trainer, checkpoint = fit(tmp_path, lora={"structure": structure})
    for name, _, b, _ in lora_layers(trainer.load(checkpoint).network):
        q = torch.linalg.qr(basis[name])[0]
        inside = q @ (q.T @ b)
        residual = b - inside if kind == "onto" else inside
        assert b.norm() > 0 and residual.norm() < 1e-4 * b.norm()
    assert json.loads((checkpoint / "clarion.json").read_text())["structure"]["share_inside"] > 0.9999


def test_alignment_directions_of_two_models(network):
    """difference_basis finds the directions in which an aligned model left its base."""
    import copy

    aligned, name = copy.deepcopy(network), "model.layers.0.mlp.up_proj"
    direction = torch.nn.functional.normalize(torch.randn(192), dim=0)
    with torch.no_grad():
        aligned.get_submodule(name).weight += torch.outer(direction, torch.randn(96))
    basis = structured_lora.difference_basis(aligned, network, [name], 1)[name]
    assert abs(float(basis[:, 0] @ direction)) == pytest.approx(1, abs=1e-4)


def test_a_guard_that_fails_is_noticed(tmp_path, network, monkeypatch):
    monkeypatch.setattr(structured_lora.StructureGuard, "on_optimizer_step", lambda *a, **k: None)
    monkeypatch.setattr(torch.Tensor, "register_hook", lambda *a, **k: None)
    with pytest.raises(DataError, match="left its declared support"):
        fit(tmp_path)


def test_projection_is_idempotent():
    rows = torch.tensor([True, False, True])
    basis = torch.linalg.qr(torch.randn(3, 2))[0]
    b = torch.randn(3, 4)
    for support in (Support(2, rows=rows), Support(2, basis=basis), Support(2, basis=basis, onto=False)):
        assert torch.allclose(support.project(support.project(b)), support.project(b), atol=1e-6)


@pytest.mark.parametrize(("changes", "said"), [
    ({"structure": {"layers": [1]}}, "needs modules"),
    ({"structure": {"modules": "gate_proj", "layer": [1]}}, "has no layer; it has modules, layers"),
    ({"structure": {"modules": "gaet_proj"}}, "no linear layer of this network matches modules 'gaet_proj'"),
    ({"structure": {"modules": "gate_proj", "layers": [1, 9]}}, r"matches layers \[9\]"),
    ({"structure": {"modules": "gate_proj("}}, "is no regular expression"),
    ({"structure": {"modules": "o_proj", "neuron_mask": {"o_proj": [1]}}}, "neurons are rows of gate_proj and up_proj"),
    ({"structure": {"modules": "up_proj", "neuron_mask": {"up_proj": "0:500"}}}, "ranges a:b inside 0:192, not 0:500"),
    ({"structure": {"modules": "up_proj", "neuron_mask": {"gate": [1]}}}, "gate matches no declared module"),
    ({"structure": {"modules": "up_proj", "rank_map": {"up": 0}}}, "rank 0: it holds at most 96"),
    ({"structure": {"modules": "up_proj", "subspace": {"onto": "/no/file"}}}, "/no/file is no file"),
    ({"structure": {"modules": "up_proj", "subspace": {"along": "x"}}}, "write {onto: FILE} or {orthogonal: FILE}"),
    ({"structure": {"modules": "up_proj", "subspace": {"onto": "x"}, "neuron_mask": {"up": [1]}}}, "do not commute"),
    ({"dora": True}, "set dora=false"),
    ({"init": "pissa"}, "needs init=true"),
    ({"variant": "plane"}, "variant=plane is unknown: write structured or plain_matched"),
])  # fmt: skip
def test_refusals(network, changes, said):
    with pytest.raises(UsageError, match=said):
        declared(network, lora(**changes))


def test_a_variant_without_structure_is_refused():
    with pytest.raises(UsageError, match="needs model.lora.structure to be matched against"):
        lora_config({"lora": {"r": 4, "variant": "plain_matched"}})
