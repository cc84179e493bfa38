"""Attributions that sum to the risk, genes that are found or not, rankings that agree or not; names of other genes."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from clarion import config
from clarion.cancer.cox import benjamini_hochberg
from clarion.cancer.estimators import ClinicalCox, RidgeCoxPCs, SignScore, patient_rows
from clarion.cancer.explanation import attribute, attribution, explain, stability
from clarion.cancer.explanation.document import spread_over_cancers
from clarion.cancer.explanation.faithful import deletion
from clarion.cancer.explanation.genes import cox_overlap, cox_rows, direction
from clarion.cancer.explanation.stability import top_overlap
from clarion.cancer.transformer.network import SurvivalModule
from clarion.errors import DataError, UsageError
from clarion.networks import ModulePredictor
from clarion.run import build
from clarion.samples import Sample
from clarion.trainers.estimator import RiskPredictor

SMALL = (
    "{cancers: 2, patients: 120, genes: 60, shared: 4, specific: 0, opposed: 0, effect: 1.1, censored: 0.2, cnv: 0, "
    "mut: 5}"
)


def omics(*overrides: str):
    cfg = config.compose_config(["model=tabular_transformer", "data=omics_demo", f"data.synthetic={SMALL}",
                                 "model.datamodule.genes=20", *overrides])  # fmt: skip
    data = build(cfg.data, seed=0)
    data.prepare()
    return cfg, data


@pytest.fixture(scope="module")
def data():
    return omics()[1]


def network(data, *overrides: str) -> ModulePredictor:
    """A network as it starts, its head made larger: completeness holds for any weights, and must be seen."""
    cfg, _ = omics(*overrides)
    torch.manual_seed(0)
    model = config.OmegaConf.to_container(cfg.model, resolve=True)
    module = SurvivalModule(model, data.datamodule(batch_size=32, **cfg.model.datamodule).facts)
    with torch.no_grad():
        module.network.head.weight.mul_(30)
    return ModulePredictor(module, 32)


def linear(data, estimator) -> RiskPredictor:
    X, y, _ = data.table("train")
    return RiskPredictor(estimator.fit(X, y), {"columns": list(X.columns)}, patient_rows, 64, None)


@pytest.fixture(scope="module")
def score(data):
    return linear(data, SignScore(top=12))


# ---- attributions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides", [[], ["model.head=five_year", "model.network_args.attention=latent"], ["model=mlp_survival"]]
)
def test_integrated_gradients_sum_to_the_change_of_risk(data, overrides):
    predictor, samples = network(data, *overrides), list(data.samples("test"))[:12]
    samples[3] = Sample("m", "m", samples[3].inputs | {"omics": {"rna": np.full(60, np.nan, np.float32)}})
    found = attribute(predictor, samples)
    predicted = np.array([p.values["risk"] for p in predictor(samples)])
    assert found.risk == pytest.approx(predicted, rel=1e-4, abs=1e-5)
    assert np.abs(found.risk - found.base).mean() > 0.01
    assert np.abs(found.delta).max() < 1e-3 * np.abs(found.risk - found.base).max()
    assert (found.shares[3] == 0).all() and found.delta[3] == pytest.approx(0, abs=1e-6)  # nothing known, nothing owed
    assert np.abs(attribute(predictor, samples, steps=2).delta).max() > np.abs(found.delta).max()
    one = np.array([7])
    moved = found.risk - found.without(one)
    assert np.corrcoef(moved, found.shares[:, 7])[0, 1] > 0.5
    if "model=mlp_survival" in overrides:
        assert found.attention is None
    else:
        assert found.attention.shape == (12, 20) and (found.attention >= 0).all() and found.attention[0].sum() <= 1
        assert (found.attention[3] == 0).all()


@pytest.mark.parametrize("estimator", [RidgeCoxPCs(components=8, alpha=30.0), SignScore(top=12)])
def test_linear_attributions_are_coefficient_times_value(data, estimator):
    predictor, samples = linear(data, estimator), list(data.samples("test"))
    found = attribute(predictor, samples)
    X = patient_rows([s.inputs for s in samples], predictor.description["columns"])
    assert found.risk == pytest.approx(estimator.predict(X))
    nothing = X.copy()
    nothing[[c for c in X.columns if ":" in c]] = np.nan  # a missing gene counts as the middle of the training
    assert found.base == pytest.approx(estimator.predict(nothing))
    gene = found.genes[int(np.argmax(np.abs(found.shares).mean(0)))]
    without = X.copy()
    without[gene] = np.nan
    k = found.genes.index(gene)
    assert found.shares[:, k] == pytest.approx(estimator.predict(X) - estimator.predict(without), abs=1e-12)
    assert found.without(np.array([k])) == pytest.approx(estimator.predict(without))
    _, coef, values = estimator.contributions(X)
    assert np.array_equal(found.shares, coef * values)


def test_what_has_no_genes_is_refused(data):
    with pytest.raises(UsageError, match="ClinicalCox cannot be explained by genes"):
        attribute(linear(data, ClinicalCox()), list(data.samples("test"))[:3])
    with pytest.raises(UsageError, match="empty"):
        attribute(None, [])


# ---- the document --------------------------------------------------------------------------------------------


def test_planted_genes_are_found_and_their_deletion_hurts(data, score):
    found = explain(score, data, "test", None, n_resamples=100)
    ranking = found["planted"]["rankings"]["coefficient_x_value"]
    assert ranking["auroc"]["low"] > 0.6 and ranking["precision"]["value"] > 2 * found["planted"]["chance_precision"]
    assert found["planted"]["planted_everywhere"] == 4
    own, cox = ranking["auroc"]["value"], found["planted"]["rankings"]["cox_table"]["auroc"]["value"]
    gain = ranking["gain"]
    table = found["planted"]["rankings"]["cox_table"]["auroc"]
    assert table["low"] < table["value"]  # the genes are a sample too
    assert found["planted"]["verdict"].endswith(f"Both rank only the {found['genes_read']} genes that the model reads.")
    assert gain["value"] == pytest.approx(own - cox)
    clear = gain["low"] is not None and not gain["low"] <= 0 <= gain["high"]
    winner = "The Cox table alone finds" if own < cox else "The model finds the planted genes better"
    assert found["planted"]["verdict"].startswith(winner if clear else "The model finds the planted genes no better")
    first = found["deletion"]["rows"][0]
    assert first["excess"]["low"] > 0 and first["change"] > first["random_change"]
    assert first["c_index"] < first["random_c_index"] <= found["deletion"]["c_index"] + 0.05
    assert found["deletion"]["c_index_without_genes"] == 0.5  # the score is nothing but genes
    truth = {f"rna:{g}" for g in data.planted.effects.index.str.removeprefix("rna:")[
        data.planted.effects.ne(0).any(axis=1).to_numpy()]}  # fmt: skip
    rows = {r["gene"]: r for r in found["genes"]}
    assert [r["attribution"]["value"] for r in found["genes"]] == sorted(
        (r["attribution"]["value"] for r in found["genes"]), reverse=True
    )
    for gene in truth & set(rows):
        row, effect = rows[gene], data.planted.effects.loc[gene].mean()
        assert row["planted"] and row["direction"] == ("+" if effect > 0 else "-")
        assert np.sign(row["cox"]["coef"]) == np.sign(effect) == np.sign(row["cox"]["effect_there"])
    assert not any(patient in json.dumps(found) for patient in data.cohort().patients)


def test_a_networks_document_holds_its_own_cox_table(data):
    predictor = network(data)
    found = explain(predictor, data, "test", 15, n_resamples=50, steps=8)
    assert found["patients"] == 15 and found["patients_of_split"] == len(data.splits["test"])
    assert len(found["genes"]) == 20 and all(r["attention"]["value"] > 0 for r in found["genes"])
    facts = predictor.module.encoder.facts
    row = found["genes"][0]
    coef = facts.coef[1 + facts.cancers.index(row["cox"]["cancer"])][facts.genes.index(row["gene"])]
    assert row["cox"]["coef"] == pytest.approx(coef, rel=1e-3)  # what the network was given
    assert row["attribution"]["low"] < row["attribution"]["value"] < row["attribution"]["high"]
    _, other = omics("data.split_seed=1")
    with pytest.raises(DataError, match="training patients of this data are not those"):
        explain(predictor, other, "test", 5, steps=4)


def test_patients_are_spread_over_cancers():
    samples = [Sample(f"s{k}", f"s{k}", {"cancer": "A" if k % 4 else "B"}) for k in range(40)]
    kept = spread_over_cancers(samples, 12)
    assert len(kept) == 12 and sum(s.inputs["cancer"] == "B" for s in kept) == 3
    assert kept == spread_over_cancers(samples, 12) and spread_over_cancers(samples, None) == samples


def test_overlap_with_cox_hits_is_hypergeometric():
    hits = {0, 1, 2, 9}
    rows = [{"cox": {"hit_in": ["A"] if k in hits else []}} for k in range(10)]
    found = cox_overlap(rows, 3)
    assert found["hits_in_top"] == 3 and found["expected"] == pytest.approx(1.2)
    assert found["p"] == pytest.approx(4 / 120)  # C(4,3) of C(10,3) choices
    assert cox_overlap([{"cox": {"hit_in": []}}] * 5, 2)["p"] is None and cox_overlap([{"cox": None}], 1) is None


def test_direction_needs_an_interval_off_zero():
    assert direction({"value": 1.0, "low": 0.5, "high": 1.5}) == "+"
    assert direction({"value": -1.0, "low": -1.5, "high": -0.5}) == "-"
    assert direction({"value": 1.0, "low": -0.5, "high": 1.5}) == "+-"
    assert direction({"value": -1.0, "low": None, "high": None}) == "-"
    assert direction({"value": None, "low": None, "high": None}) == "+-"


def test_one_cancer_with_one_patient_who_died_has_no_pairs(data, score):
    """As where a few patients of each cancer are explained: no c-index for want of pairs, and no failure."""
    samples = list(data.samples("test"))
    truth = data.truth("test").set_index("sample_id").loc[[s.sample_id for s in samples]]
    died = int(np.flatnonzero(truth["event"])[0])
    other = np.flatnonzero((truth["cancer"] != truth["cancer"].iloc[died]).to_numpy())[:8]
    rows = [died, *other]
    found = attribute(score, [samples[k] for k in rows])
    checked = deletion(found, truth.iloc[rows], np.arange(len(found.genes)), 2, 50, 0)
    one = attribute(score, [samples[died]])
    alone = deletion(one, truth.iloc[[died]], np.arange(len(one.genes)), 2, 0, 0)
    assert checked["c_index"] is not None and alone["c_index"] is None and alone["rows"][0]["c_index"] is None


def test_a_hit_is_one_among_all_tests_of_all_cancers(data):
    table = data.datamodule(batch_size=8, genes=5).tables["rna"]
    rows = cox_rows([f"rna:{g}" for g in table.genes], {"rna": table})
    q = benjamini_hochberg(table.frame["p_lr"].to_numpy())
    assert min(r["q"] for r in rows.values() if r["q"] is not None) == pytest.approx(np.nanmin(q), rel=1e-5)
    hits = sum(len(r["hit_in"]) for r in rows.values())
    assert hits == (q < 0.05).sum() <= (table.frame["q"] < 0.05).sum() and hits > 0


def test_many_genes_keep_the_memory_bound(data, monkeypatch):
    """More genes than one pass may hold: the steps of one patient go through in parts, to the same attributions."""
    predictor, samples = network(data), list(data.samples("test"))[:3]
    whole = attribute(predictor, samples)
    sizes = []
    risk = type(predictor.module).risk
    monkeypatch.setattr(attribution, "TOKENS_AT_ONCE", 100)  # 20 genes: five steps at once
    monkeypatch.setattr(type(predictor.module), "risk",
                        lambda self, batch: sizes.append(len(batch["value"])) or risk(self, batch))  # fmt: skip
    parts = attribute(predictor, samples)
    assert max(sizes) <= 5 and parts.shares == pytest.approx(whole.shares, abs=1e-5)


# ---- stability -----------------------------------------------------------------------------------------------


def ranking(values) -> dict[str, float]:
    return {f"g{k}": float(v) for k, v in enumerate(values)}


def test_stability_of_known_rankings():
    up = ranking(range(30))
    same = stability([up, up], top=6, permutations=200)
    assert same["spearman_shared"] == same["jaccard"] == same["kuncheva"] == pytest.approx(1)
    assert same["spearman_shared_p"] == same["jaccard_p"] == pytest.approx(1 / 201)
    reverse = stability([up, ranking(range(30, 0, -1))], top=6, permutations=200)
    assert reverse["spearman_shared"] == pytest.approx(-1) and reverse["jaccard"] == 0 and reverse["jaccard_p"] == 1
    assert reverse["kuncheva"] == pytest.approx((0 - 36 / 30) / (6 - 36 / 30))


def test_stability_compares_the_top_genes_of_each_run():
    rng = np.random.default_rng(1)
    a, b, c = (ranking(rng.random(25)) for _ in range(3))
    b = {g: v for g, v in b.items() if g not in ("g3", "g4")} | {"other": 9.0}
    found = stability([a, b, c], top=5, permutations=300, seed=2)
    assert [p["genes_shared"] for p in found["pairs"]] == [23, 25, 23] and found["pairs"][0]["genes_read"] == 26
    shared = sorted(set(a) & set(b))
    expected = spearmanr([a[g] for g in shared], [b[g] for g in shared]).statistic
    assert found["pairs"][0]["spearman_shared"] == pytest.approx(expected)
    assert found["spearman_shared"] == pytest.approx(np.mean([p["spearman_shared"] for p in found["pairs"]]))
    assert 0.01 < found["spearman_shared_p"] <= 1
    best = [set(sorted(m, key=m.get)[-5:]) for m in (a, b, c)]
    assert found["pairs"][0]["jaccard"] == pytest.approx(len(best[0] & best[1]) / len(best[0] | best[1]))
    assert "other" in best[1] and found["pairs"][0]["pool"] == 26
    assert found == stability([a, b, c], top=5, permutations=300, seed=2)


def test_runs_that_chose_other_genes_do_not_agree():
    """Their few shared genes may be in the same order: the genes each of them found are not the same."""
    few = {f"s{k}": 0.01 * (k + 1) for k in range(6)}
    a, b = ({f"{name}{k}": 1.0 + k for k in range(20)} | few for name in "ab")
    offered = [[f"x{k}" for k in range(300)]] * 2
    found = stability([a, b], top=20, permutations=200, offered=offered)
    pair = found["pairs"][0]
    assert pair["genes_shared"] == 6 and pair["pool"] == 346 and pair["shared"] == 0
    assert found["jaccard"] == 0 and found["kuncheva"] < 0 and found["jaccard_p"] == 1
    assert found["spearman_shared"] == pytest.approx(1)
    half = {**b, **{f"a{k}": 50.0 + k for k in range(10, 20)}}
    half = stability([a, half], top=20, permutations=200, offered=offered)
    assert half["pairs"][0]["shared"] == 10 and half["jaccard"] == pytest.approx(1 / 3)
    assert half["jaccard_chance"] < 0.05 and half["jaccard_p"] == pytest.approx(1 / 201)


def test_jaccard_by_chance_is_the_mean_over_all_choices():
    x = np.arange(6.0)
    values = []
    for chosen in itertools.combinations(range(6), 3):
        y = np.zeros(6)
        y[list(chosen)] = 1 + np.arange(3)
        values.append(top_overlap(x, y, 3)["jaccard"])
    assert top_overlap(x, x, 3)["jaccard_chance"] == pytest.approx(np.mean(values))


def test_stability_needs_two_runs_with_genes_in_common():
    with pytest.raises(UsageError, match="two runs"):
        stability([ranking(range(5))])
    with pytest.raises(DataError, match="share 0 genes"):
        stability([ranking(range(5)), {f"h{k}": 1.0 for k in range(5)}])


# ---- names of genes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictors(data, score):
    return {"network": network(data), "score": score}


@pytest.mark.parametrize("which", ["network", "score"])
def test_genes_are_found_by_name_in_any_order(data, predictors, which):
    samples = list(data.samples("test"))[:6]
    order = np.random.default_rng(0).permutation(60)
    names = tuple(np.array(data.genes["rna"], dtype=object)[order])

    def shuffled(names) -> list[Sample]:
        return [
            Sample(s.sample_id, s.patient_id, s.inputs | {
                "omics": s.inputs["omics"] | {"rna": s.inputs["omics"]["rna"][order]}, "genes": {"rna": names}})
            for s in samples
        ]  # fmt: skip

    risk = lambda given: [p.values["risk"] for p in predictors[which](given)]  # noqa: E731
    nameless = [Sample(s.sample_id, s.patient_id, s.inputs | {"genes": None}) for s in samples]
    assert risk(samples) == risk(nameless) == pytest.approx(risk(shuffled(names)), rel=1e-6)
    others = tuple(f"ENSG{k:011d}" for k in range(60))
    with pytest.raises(DataError, match=r"gene \d+ of rna is ENSG\d+, the model was trained on GENE\d+; only 0 of"):
        risk(shuffled(others))


@pytest.mark.parametrize("which", ["network", "score"])
def test_an_absent_gene_counts_as_missing(data, predictors, which, caplog):
    sample = next(iter(data.samples("test")))
    gene = attribute(predictors[which], [sample]).genes[0].removeprefix("rna:")
    at = data.genes["rna"].index(gene)
    missing = sample.inputs["omics"]["rna"].copy()
    missing[at] = np.nan
    renamed = tuple("unknown" if name == gene else name for name in data.genes["rna"])
    a = Sample("a", "a", sample.inputs | {"omics": {"rna": missing}})
    b = Sample("b", "b", sample.inputs | {"omics": {"rna": sample.inputs["omics"]["rna"]}, "genes": {"rna": renamed}})
    if which == "score":  # it was trained on mutations too
        for s in (a, b):
            s.inputs["omics"]["mut"] = sample.inputs["omics"]["mut"]
    (first,), (second,) = (list(predictors[which]([s])) for s in (a, b))
    assert first.values["risk"] == pytest.approx(second.values["risk"])
    assert "count as missing" in caplog.text and gene in caplog.text


def test_a_series_of_other_genes_is_refused(data, predictors):
    sample = Sample("s", "s", {"omics": {"rna": pd.Series(np.zeros(60), index=[f"X{k}" for k in range(60)])}})
    with pytest.raises(DataError, match="the model was trained on GENE"):
        predictors["network"].module.answer([sample])
    short = Sample("s", "s", {"omics": {"rna": np.zeros(5, np.float32)}, "genes": {"rna": tuple(data.genes["rna"])}})
    with pytest.raises(DataError, match="5 values of rna for 60 gene names"):
        predictors["network"].module.answer([short])
