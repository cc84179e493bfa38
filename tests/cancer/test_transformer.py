"""The networks, heads and scaling of the tabular transformer against what is known of them."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from scipy.special import ndtri

from clarion import config
from clarion.cancer.transformer.heads import (
    bin_edges,
    censoring_weights,
    five_year_loss,
    group_logits,
    hazard_loss,
    hazard_risk,
    locate,
    survival_at,
)
from clarion.cancer.transformer.layers import Attention, TabularMLP, TabularTransformer
from clarion.cancer.transformer.tokens import Encoder, Facts, QuantileNormal
from clarion.errors import DataError, UsageError
from clarion.samples import Sample

P, CANCERS = 12, 3


def network(cls=TabularTransformer, genes: int = P, outputs: int = 5, seed: int = 0, **options):
    torch.manual_seed(seed)
    coef = torch.randn(CANCERS + 1, genes) * 0.2
    return cls(coef, torch.ones(CANCERS + 1, genes, dtype=torch.long), outputs, **options).eval()


def batch(n: int = 6, genes: int = P, seed: int = 1) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    known = torch.rand(n, genes, generator=made) > 0.2
    return {
        "value": torch.randn(n, genes, generator=made) * known,
        "known": known,
        "cancer": torch.arange(n) % (CANCERS + 1),
        "age": torch.randn(n, generator=made),
        "age_known": (torch.arange(n) % 3 > 0).float(),
        "sex": torch.arange(n) % 3,
    }


def facts(**other) -> Facts:
    given = {
        "genes": ["rna:A", "rna:C", "mut:A"], "columns": {"rna": 4, "mut": 1}, "positions": [0, 2, 0],
        "knots": [[-1.0, 0, 0], [0.0, 1, 0], [1.0, 2, 1]], "coef": [[0.1, 0.2, 0.3]] * 3,
        "source": [[2] * 3, [1] * 3, [1, 0, 1]],
        "cancers": ["X", "Y"], "age": [60.0, 10.0], "edges": [0.0, 20.0, 60.0], "horizons": [36.0, 60.0],
    }  # fmt: skip
    return Facts(**given | other)


# ---- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"attention": "full"}, {"attention": "latent", "latents": 4}])
def test_shapes_and_gradients(options):
    net = network(**options).train()
    given = batch()
    assert net(given).shape == (6, 5) and net.embed(given).shape == (6, 32)
    net(given).sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize(
    "cls, options",
    [(TabularTransformer, {"attention": "full"}), (TabularTransformer, {"attention": "latent"}), (TabularMLP, {})],
)
def test_a_missing_value_changes_nothing(cls, options):
    net, given = network(cls, **options), batch()
    other = dict(given, value=torch.where(given["known"], given["value"], torch.tensor(1e4)))
    other["age"] = torch.where(given["age_known"] > 0, given["age"], torch.tensor(50.0))
    assert not given["known"].all()
    assert torch.equal(net(given), net(other))
    seen = dict(given, value=torch.where(given["known"], given["value"] + 1, given["value"]))
    assert not torch.allclose(net(given), net(seen))


def test_a_missing_gene_is_as_if_it_were_not_there():
    for attention in ("full", "latent"):
        net, given = network(attention=attention), batch()
        given["known"][:, 7:] = False
        short = {k: v[:, :7] if k in ("value", "known") else v for k, v in given.items()}
        assert torch.allclose(net(given), net(dict(short, genes=torch.arange(7))), atol=1e-6)


@pytest.mark.parametrize("attention", ["full", "latent"])
def test_the_order_of_genes_does_not_matter(attention):
    net, given = network(attention=attention), batch()
    order = torch.randperm(P, generator=torch.Generator().manual_seed(3))
    moved = dict(given, value=given["value"][:, order], known=given["known"][:, order], genes=order)
    assert torch.allclose(net(given), net(moved), atol=1e-5)
    wrong = dict(given, value=given["value"][:, order], known=given["known"][:, order])
    assert not torch.allclose(net(given), net(wrong), atol=1e-4)  # a gene is known by its embedding


@pytest.mark.parametrize("attention", ["full", "latent"])
def test_a_patient_without_any_gene_gets_an_answer(attention):
    given = batch()
    given["known"][:] = False
    assert torch.isfinite(network(attention=attention)(given)).all()


def test_the_cancer_conditions_the_answer():
    given = batch(4)
    same = {k: v[:1].expand(4, *v.shape[1:]) for k, v in given.items()} | {"cancer": torch.arange(4)}
    said = network()(same)
    assert len({tuple(row.tolist()) for row in said}) == 4


def test_attention_equals_its_weights():
    torch.manual_seed(0)
    attention = Attention(8, 2, 0.0).eval()
    x, seen = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True, True, False, False, True]])
    weights = attention.weights(x, x, seen)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 5)) and (weights[1, :, 2:4] == 0).all()
    one = Attention(8, 1, 0.0).eval()
    v = one.pair(x).chunk(2, -1)[1]
    assert torch.allclose(one.out(one.weights(x, x, seen) @ v), one(x, x, seen), atol=1e-6)


@pytest.mark.parametrize("attention", ["full", "latent"])
def test_attention_to_genes_skips_the_missing(attention):
    given = batch()
    weights = network(attention=attention).attention_to_genes(given)
    assert weights.shape == (6, P) and (weights[~given["known"]] == 0).all()
    assert (weights[given["known"]] > 0).all() and (weights.sum(1) < 1).all()


STEP = """
import json, resource, sys
import torch
from clarion.cancer.transformer.layers import TabularTransformer

genes, patients, options = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
torch.manual_seed(0)
net = TabularTransformer(torch.randn(4, genes), torch.ones(4, genes, dtype=torch.long), 8, **options)
assert net.latent
sides = {"value": torch.randn(patients, genes), "known": torch.ones(patients, genes, dtype=torch.bool),
         "cancer": torch.zeros(patients, dtype=torch.long), "age": torch.zeros(patients),
         "age_known": torch.ones(patients), "sex": torch.zeros(patients, dtype=torch.long)}
optimizer = torch.optim.AdamW(net.parameters())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loss = net(sides).square().mean()
loss.backward()
optimizer.step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20, float(loss))
"""


def step_growth(genes: int) -> float:
    """GiB by which one training step of a batch as conf/model/tabular_transformer.yaml has it makes a process grow."""
    options = OmegaConf.to_container(config.compose_config(["model=tabular_transformer"]), resolve=True)
    arguments = [str(genes), str(options["trainer"]["batch_size"]), json.dumps(options["model"]["network_args"])]
    done = subprocess.run([sys.executable, "-c", STEP, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[0])


@pytest.mark.skipif(sys.platform == "win32", reason="resource is not there")
def test_a_step_over_4000_genes_is_linear_in_memory():
    assert step_growth(4000) < 1.6  # full attention would hold 32 x 4 x 4,000^2 weights: 8 GiB a layer


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="resource is not there")
def test_a_step_over_20000_genes_fits():
    assert step_growth(20_000) < 8


def test_wrong_settings_are_told():
    with pytest.raises(UsageError, match="attention"):
        network(attention="sparse")
    with pytest.raises(UsageError, match="multiple"):
        network(width=30, heads=4)


# ---- heads -------------------------------------------------------------------------------------------------


def test_hazard_loss_by_hand():
    hazard = torch.tensor([[0.1, 0.3, 0.5]] * 3)
    place, share, event = torch.tensor([1, 1, 2]), torch.tensor([0.4, 0.4, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    said = hazard_loss(torch.logit(hazard), place, share, event)
    expected = [np.log(0.9) + np.log(0.3), np.log(0.9) + 0.4 * np.log(0.7), np.log(0.9) + np.log(0.7) + np.log(0.5)]
    assert float(said) == pytest.approx(-np.mean(expected), rel=1e-5)


def test_survival_falls_and_meets_the_bins():
    logits, edges = torch.randn(4, 3), [0.0, 10.0, 30.0, 60.0]
    hazard = torch.sigmoid(logits)
    said = survival_at(logits, edges, [0, 10, 30, 60, 100])
    assert torch.allclose(said[:, 0], torch.ones(4))
    assert torch.allclose(said[:, 1:4], (1 - hazard).cumprod(1), atol=1e-6)
    assert torch.equal(said[:, 3], said[:, 4])
    assert torch.equal(hazard_risk(logits).argsort(), said[:, 3].argsort(descending=True))
    assert (survival_at(logits, edges, np.linspace(0, 60, 50)).diff(dim=1) <= 0).all()


def test_bins():
    time = np.arange(1.0, 101)
    edges = bin_edges(time, time <= 80, 4, [36, 60])
    assert edges[0] == 0 and edges[-1] == 80 and len(edges) == 5
    assert np.bincount(locate(time[:80], edges)[0]).tolist() == [20] * 4
    place, share = locate([edges[1], 80, 500], edges)
    assert place.tolist() == [0, 3, 3] and share.tolist() == [1, 1, 1]
    with pytest.raises(DataError, match="event"):
        bin_edges(time, time < 0, 4, [60])


def test_hazards_of_one_group_are_its_life_table():
    rng = np.random.default_rng(0)
    time = rng.exponential(40, 400)
    event = np.ones(400, bool)
    edges = bin_edges(time, event, 5, [60])
    place, share = (torch.from_numpy(a) for a in locate(time, edges))
    logits = torch.zeros(1, 5, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = hazard_loss(logits.expand(400, 5), place, share, torch.ones(400))
        loss.backward()
        return loss

    optimizer.step(closure)
    left = np.array([(time > e).sum() for e in edges[:-1]])
    died = np.bincount(place.numpy(), minlength=5)
    assert torch.sigmoid(logits[0, :4]).detach().numpy() == pytest.approx(died[:4] / left[:4], abs=1e-3)


def test_one_groups_logits_are_its_hazards():
    place, share, event = np.array([0, 0, 1, 1]), np.array([1, 0.5, 0.2, 1]), np.array([1.0, 0, 1, 0])
    said = group_logits(place, share, event, event, np.array([1.0, 0, 1, 2]), 2)
    odds = [1.5 / 4.5, 1.5 / 3]
    assert said["hazard"] == pytest.approx([np.log(o / (1 - o)) for o in odds])
    assert said["five_year"] == pytest.approx([0.0])


def test_ipcw_weights_by_hand():
    time, event = np.array([10.0, 20, 30, 40, 70]), np.array([True, False, True, False, False])
    label, weight = censoring_weights(time, event, 60)
    # G: 1 until 20, 3/4 from 20, 3/8 from 40
    assert label.tolist() == [1, 0, 1, 0, 0]
    assert weight == pytest.approx([1, 0, 4 / 3, 0, 8 / 3])
    assert weight.sum() == pytest.approx(5)
    loss = five_year_loss(torch.zeros(5, 1), torch.from_numpy(label), torch.from_numpy(weight))
    assert float(loss) == pytest.approx(np.log(2))


# ---- scaling and encoding ----------------------------------------------------------------------------------


def test_scaling_is_near_rank_normal_and_holds_no_patient():
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(0, 1, (400, 3)))
    values[:10, 0] = np.nan
    values[:, 2] = 0
    scaling = QuantileNormal.fit(values)
    scaled = scaling.apply(values)
    assert np.isnan(scaled[:10, 0]).all() and (scaled[:, 2] == 0).all()
    rank = pd.Series(values[:, 1]).rank().to_numpy()
    assert np.abs(scaled[:, 1] - ndtri((rank - 0.5) / 400)).mean() < 0.05
    assert np.abs(scaling.apply(values * [1, 1e6, 1])).max(initial=0, where=np.isfinite(scaled)) < 3
    assert not np.isin(values[:, 1].min().astype(np.float32), scaling.knots[:, 1])


def test_tied_values_share_a_score():
    values = np.r_[np.zeros(60), np.arange(1.0, 41)][:, None]
    scaled = QuantileNormal.fit(values).apply(values)[:, 0]
    assert np.unique(scaled[:60]).size == 1 and (np.diff(scaled[60:]) >= 0).all() and scaled[60] > scaled[0]


def test_encoder_by_position_and_by_name():
    encoder = Encoder(Facts.of(json.loads(json.dumps(facts().as_dict()))))
    arrays = {"rna": np.array([1.0, 9, 2, 9]), "mut": np.array([1.0])}
    by_place = {"omics": arrays, "cancer": "Y", "age": 70, "sex": "M"}
    by_name = dict(by_place, omics={"rna": pd.Series({"C": 2.0, "A": 1.0}), "mut": {"A": 1}})
    a, b = (encoder.encode([Sample("s", "s", inputs)]) for inputs in (by_place, by_name))
    for name in a:
        assert np.array_equal(a[name], b[name])
    assert a["cancer"].tolist() == [2] and a["age"].tolist() == [1] and a["sex"].tolist() == [2] and a["known"].all()


def test_encoder_keeps_the_unknown_unknown():
    encoder = Encoder(facts())
    said = encoder.encode([Sample("s", "s", {"omics": {"rna": np.array([np.nan, 0, 2, 0])}, "cancer": "Z"})])
    assert said["known"].tolist() == [[False, True, False]] and said["value"][0, 0] == 0
    assert said["cancer"].tolist() == [0] and said["age_known"].tolist() == [0] and said["sex"].tolist() == [0]


def test_a_patient_without_omics_is_one_of_whom_no_gene_is_known():
    encoder = Encoder(facts())
    given = [{"omics": None, "cancer": "A", "age": 60.0}, {"omics": {}, "cancer": "A", "age": 60.0}]
    said = encoder.encode([Sample("s", "s", inputs) for inputs in given])
    assert not said["known"].any() and (said["value"] == 0).all() and said["age_known"].tolist() == [1, 1]


def test_encoder_refuses_kindly():
    encoder = Encoder(facts())
    with pytest.raises(DataError, match="trained on 4"):
        encoder.encode([Sample("s", "s", {"omics": {"rna": np.zeros(3)}})])
    with pytest.raises(DataError, match="lacks omics"):
        encoder.encode([Sample("s", "s", {"image": 1})])
    with pytest.raises(UsageError, match="no survival model"):
        Facts.of({"class_names": []})
