"""SurvivalModule under the lightning trainer: it learns what was planted, answers alone, and leaks nothing."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from clarion import config
from clarion.cancer.datasets import OmicsData
from clarion.cancer.synthetic import synthetic_cohort
from clarion.cancer.transformer.layers import TabularMLP
from clarion.cancer.transformer.loader import SurvivalTables
from clarion.cancer.transformer.network import SurvivalModule
from clarion.errors import DataError, UsageError
from clarion.evaluators.survival import SurvivalEvaluator
from clarion.run import build
from clarion.samples import Sample
from clarion.trainers.base import Run
from clarion.trainers.lightning import LightningTrainer

SMALL = (
    "{cancers: 2, patients: 150, genes: 80, shared: 3, specific: 0, opposed: 0, effect: 0.9, censored: 0.3, "
    "cnv: 10, mut: 5}"
)
MODEL = ["model=tabular_transformer", "data=omics_demo", f"data.synthetic={SMALL}", "model.datamodule.genes=25"]


class Quiet:
    def log(self, *_args, **_more):
        pass


def composed(*overrides: str):
    cfg = config.compose_config([*MODEL, *overrides])
    data = build(cfg.data, seed=0)
    data.prepare()
    return cfg, data


def trained(folder, *overrides: str, epochs: int = 6):
    cfg, data = composed(*overrides)
    trainer = LightningTrainer(cfg.model, epochs, 32, "cpu", args={"enable_progress_bar": False}, seed=0)
    checkpoint = trainer.fit(Run(OmegaConf.create(), folder, data, Quiet()))
    return cfg, data, trainer, checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("transformer"))


def evaluated(data: OmicsData, predict) -> dict:
    rows = [{"sample_id": p.sample_id, "patient_id": p.patient_id, **p.values} for p in predict(data.samples("test"))]
    context = {"seed": 0, "train_truth": data.truth("train")}
    return SurvivalEvaluator(n_resamples=50).evaluate(pd.DataFrame(rows), data.truth("test"), context)


def test_it_learns_the_planted_effect(run):
    _, data, trainer, checkpoint = run
    found = evaluated(data, trainer.load(checkpoint))["metrics"]
    assert found["c_index"]["value"] > 0.6
    assert found["integrated_brier"]["value"] < 0.25


def test_a_checkpoint_answers_alone_and_alike(run):
    _, data, trainer, checkpoint = run
    samples = list(data.samples("val"))
    first, second = (list(trainer.load(checkpoint)(samples)) for _ in range(2))
    assert [p.values for p in first] == [p.values for p in second]
    text = (checkpoint / "model.json").read_text(encoding="utf-8")
    assert not any(patient in text for patient in data.cohort().patients)
    said = json.loads(text)
    assert SurvivalModule(said["model"], said["facts"]).encoder.facts.cancers == ["ALFA", "BRAVO"]
    alone = [trainer.load(checkpoint).module.answer([sample])[0]["risk"] for sample in samples[:5]]
    assert alone == pytest.approx([p.values["risk"] for p in first[:5]], rel=1e-4)
    for p in first:
        assert p.values["times"] == [6.0, 12.0, 18.0, 24.0, 30.0, 36.0, 42.0, 48.0, 54.0, 60.0]  # the baselines' times
        survival = p.values["survival"]
        assert 1 >= survival[0] and survival[-1] >= 0 and survival == sorted(survival, reverse=True)


def test_the_answer_is_the_networks_on_the_loaders_batch(run):
    cfg, data, trainer, checkpoint = run
    module = trainer.load(checkpoint).module
    tables = data.datamodule(batch_size=500, **cfg.model.datamodule)
    batch = next(iter(tables.val_dataloader()))
    own = module.batch(list(data.samples("val")))
    for name, tensor in own.items():
        assert torch.allclose(tensor.float(), batch[name].float(), atol=1e-6), name


def test_embeddings(run):
    _, data, trainer, checkpoint = run
    module = trainer.load(checkpoint).module
    found = module.embed(list(data.samples("test")))
    assert found.shape == (len(data.splits["test"]), 32) and np.isfinite(found).all() and found.std(0).min() > 0
    assert module.answer([]) == [] and module.embed([]).shape == (0, 32)


def test_an_unknown_cancer_and_missing_inputs_get_an_answer(run):
    _, data, trainer, checkpoint = run
    sample = next(iter(data.samples("test")))
    bare = Sample("s", "s", {"omics": {"rna": sample.inputs["omics"]["rna"]}, "cancer": "NEVER SEEN", "age": None})
    nothing = Sample("n", "n", {"omics": {}})
    assert all(np.isfinite(p.values["risk"]) for p in trainer.load(checkpoint)([bare, nothing]))


def test_no_table_holds_an_evaluated_patient():
    cfg, data = composed()
    tables = data.datamodule(batch_size=32, **cfg.model.datamodule)
    assert set(tables.tables) == {"rna"} and tables.facts["trained_on"]["patients"] == len(data.splits["train"])
    for table in tables.tables.values():
        table.check([*data.splits["val"], *data.splits["test"]])
        with pytest.raises(DataError, match="leaks"):
            table.check(data.splits["train"][:1])


def test_facts_do_not_depend_on_the_evaluated():
    whole = synthetic_cohort(2, 60, 30, shared=1, specific=0, opposed=0, cnv=0, mut=0, correlation=0.1)
    ids = list(whole.patients[::2]), list(whole.patients[1::4]), list(whole.patients[3::4])
    train, a, b = (whole.of(part) for part in ids)
    assert SurvivalTables(train, a, 8, genes=9).facts == SurvivalTables(train, b, 8, genes=9).facts
    with pytest.raises(DataError):
        SurvivalTables(train, whole.of(ids[0][:5]), 8, genes=9)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.head=five_year"],
        ["model=mlp_survival", "model.datamodule.genes=25"],
        ["model.datamodule.modalities=[rna,cnv,mut]", "model.network_args.attention=latent"],
        ["model.datamodule.coefficients=false", "data.leave_out=BRAVO"],
    ],
)
def test_the_other_ways(tmp_path, overrides):
    _, data, trainer, checkpoint = trained(tmp_path, *overrides, epochs=1)
    predict = trainer.load(checkpoint)
    found = evaluated(data, predict)["metrics"]
    assert np.isfinite(found["c_index"]["value"])
    if "model=mlp_survival" in overrides:
        assert isinstance(predict.module.network, TabularMLP)


def test_weights_are_counted_and_start_weights_load(run, tmp_path):
    cfg, data, trainer, checkpoint = run
    assert trainer.parameters() > 1000
    tables = data.datamodule(batch_size=32, **cfg.model.datamodule)
    module = SurvivalModule(trainer.model, tables.facts)
    module.load_start_weights(checkpoint)
    loaded = trainer.load(checkpoint).module.network.state_dict()
    assert all(torch.equal(t, loaded[name]) for name, t in module.network.state_dict().items())
    with pytest.raises(UsageError, match="no file"):
        module.load_start_weights(tmp_path / "none")


def test_wrong_settings_are_told():
    cfg, data = composed()
    with pytest.raises(UsageError, match="at least one gene"):
        data.datamodule(batch_size=8, genes=0)
    with pytest.raises(DataError, match="has no protein data"):
        data.datamodule(batch_size=8, modalities=["protein"])
    facts = data.datamodule(batch_size=8, genes=5).facts
    json.dumps(facts)
    for wrong in ({"head": "cox"}, {"network": "forest"}):
        with pytest.raises(UsageError, match="unknown"):
            SurvivalModule({"network": "mlp", **wrong}, facts)
