"""The two experiments on cancer: they compose, their tables name runs that their sweeps make, and fine-tuning goes on
from the checkpoint it is given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from clarion import config, tables
from clarion.cancer.cohort import Cohort
from clarion.cancer.datasets import OmicsData
from clarion.cancer.readers import read_cohort, remembered
from clarion.cancer.transformer.loader import SurvivalTables, started_facts
from clarion.cancer.transformer.network import SurvivalModule
from clarion.errors import DataError, UsageError
from clarion.table_records import belongs, collect
from clarion.trainers.base import Run
from clarion.trainers.lightning import LightningTrainer

EXPERIMENTS = ("cancer_omics", "cancer_transfer", "cancer_transfer_finetuned", "cancer_transfer_few")
MODEL = {
    "name": "tabular_transformer", "module": "clarion.cancer.transformer.network.SurvivalModule",
    "network": "transformer", "head": "hazard", "lr": 3e-3, "weight_decay": 0.01, "warmup_steps": 1,
    "monitor": "train/loss", "network_args": {"width": 8, "heads": 2, "layers": 1},
    "datamodule": {"genes": 12, "bins": 4, "horizons": [36, 60]},
}  # fmt: skip
FEW = {"min_events": 1, "firth": "separated"}  # of cox.fit, for a handful of patients


def omics(**options) -> OmicsData:
    recipe = {"cancers": 3, "patients": 110, "genes": 120, "shared": 4, "specific": 2, "opposed": 2, "effect": 0.6,
              "censored": 0.3, "cnv": 0, "mut": 0, "seed": 0}  # fmt: skip
    return OmicsData("demo", source="synthetic", modalities=["rna"], synthetic=recipe, val_fraction=0.2, **options)


class Tracker:
    """Keeps nothing: these tests look at checkpoints."""

    def __getattr__(self, _name):
        return lambda *_, **__: None


def fitted(folder: Path, data: OmicsData, epochs: int = 1, **model) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    trainer = LightningTrainer(MODEL | model, epochs=epochs, batch_size=16, device="cpu", precision=32,
                               args={"enable_progress_bar": False})  # fmt: skip
    return trainer.fit(Run(cfg={}, directory=folder, data=data, tracker=Tracker(), resume=False))


def facts_of(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "model.json").read_text())["facts"]


@pytest.fixture(scope="module")
def left_out(tmp_path_factory):
    """The checkpoint of a model trained on all cancers but one, and that one's name."""
    cancer = omics().cohort().cancers[0]
    return fitted(tmp_path_factory.mktemp("zero"), omics(leave_out=cancer, few_shot=0), epochs=2), cancer


# ------------------------------------------------------------------------------------------------- configuration


def swept(name: str) -> list[str]:
    """The overrides of the first job of an experiment's sweep."""
    text = (config.conf_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    params = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
    return [f"{key}={str(values).split(',')[0]}" for key, values in params.items()]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_and_its_job_belongs_to_a_row(name):
    cfg = config.compose_config([*swept(name), f"experiment={name}"])
    table = "cancer_omics" if name == "cancer_omics" else "cancer_transfer"
    folder = tables.find(table)
    spec = yaml.safe_load((folder / "table.yaml").read_text(encoding="utf-8"))
    keys = ("data.cohort", "data.leave_out", "data.few_shot", "data.scratch", "init_from.weights")
    values = {key: config.OmegaConf.select(cfg, key) for key in keys}
    record = {"model": cfg.model.name, "data": cfg.data.name, "keys": values}
    rows = tables.published_rows(folder, spec)
    assert any(belongs(record, run) for row in rows for _, run in tables.wanted(spec, row)), record
    assert cfg.data.modalities == ["rna"] and cfg.trainer.device == "cpu"


def test_the_finetuned_run_starts_from_the_run_that_the_zero_shot_sweep_leaves():
    first = config.compose_config([*swept("cancer_transfer"), "experiment=cancer_transfer"], with_hydra=True)
    second = config.compose_config([*swept("cancer_transfer_finetuned"), "experiment=cancer_transfer_finetuned"])
    assert second.init_from.weights == f"runs/{first.hydra.sweep.subdir}"
    assert first.data.few_shot == 0 and not first.data.scratch and second.data.scratch


def test_every_row_of_the_omics_table_is_in_the_sweep():
    params = yaml.safe_load((config.conf_dir() / "experiment" / "cancer_omics.yaml").read_text())
    params = params["hydra"]["sweeper"]["params"]
    folder = tables.find("cancer_omics")
    rows = tables.published_rows(folder, yaml.safe_load((folder / "table.yaml").read_text(encoding="utf-8")))
    wanted = {(c, m) for c in params["data.cohort"].split(",") for m in params["model"].split(",")}
    assert {(r["cohort"], r["model"]) for r in rows} == wanted and len(rows) == 72
    assert not any(r["porpoise"] for r in rows), "no figure of PORPOISE per cohort is verified: none may be quoted"


def test_commands_of_both_tables_are_accepted():
    from clarion.preflight import preflight

    for table in ("cancer_omics", "cancer_transfer"):
        cell = tables.build(table, []).cells[0]
        for command in cell.commands(common=table == "cancer_omics"):
            words = [w.strip("'") for w in command.split()[2:] if w != "-m" and "data.root" not in w]
            plain = [w.split(",")[0] if w.startswith("data.fold") else w for w in words]
            few = ["data.few_shot=10"] if "experiment=cancer_transfer_few" in plain else []
            if not any("finetuned" in w for w in plain) and "data=cancer_omics" not in plain:
                preflight([*plain, *few])


# ---------------------------------------------------------------------------------------------------- fine-tuning


def test_fine_tuning_keeps_the_facts_of_its_start(tmp_path, left_out):
    start, cancer = left_out
    few = omics(leave_out=cancer, few_shot=25, scratch=True)
    tuned = fitted(tmp_path / "tuned", few, weights=str(start))
    scratch = fitted(tmp_path / "scratch", few, datamodule={**MODEL["datamodule"], **FEW})
    old, new, own = facts_of(start), facts_of(tuned), facts_of(scratch)
    kept = ("genes", "knots", "coef", "source", "cancers", "age", "edges", "horizons", "base")
    assert all(new[name] == old[name] for name in kept)
    train = few.cohort("train")
    continued = {"patients": len(train), "events": int(train.event.sum())}
    assert new["trained_on"] == old["trained_on"] | {"continued_on": continued} and len(train) == 25
    assert cancer not in new["cancers"] and own["cancers"] == [cancer]
    assert own["genes"] != old["genes"], "from scratch the few patients choose their own genes"
    samples = list(few.samples("test"))
    trainer = LightningTrainer(MODEL, epochs=1, batch_size=16, device="cpu", precision=32)
    risks = [[p.values["risk"] for p in trainer.load(one)(samples)] for one in (start, tuned, scratch)]
    assert all(np.isfinite(r).all() for r in map(np.asarray, risks))
    assert not np.allclose(risks[0], risks[1]) and not np.allclose(risks[1], risks[2])


def test_no_step_of_fine_tuning_is_the_start_itself(left_out):
    """The weights mean the same on the new patients: before any step the module predicts what the start predicts."""
    start, cancer = left_out
    few = omics(leave_out=cancer, few_shot=25, scratch=True)
    module = few.datamodule(16, start=start, **MODEL["datamodule"])
    network = SurvivalModule(MODEL, module.facts).eval()
    network.load_start_weights(start)
    samples = list(few.samples("test"))[:20]
    trainer = LightningTrainer(MODEL, epochs=1, batch_size=16, device="cpu", precision=32)
    expected = [p.values["risk"] for p in trainer.load(start)(samples)]
    assert [a["risk"] for a in network.answer(samples)] == pytest.approx(expected, abs=1e-5)


def test_genes_are_found_by_name_in_other_data(left_out):
    start, cancer = left_out
    train = omics(leave_out=cancer, few_shot=25, scratch=True).cohort("train")
    table = train.omics["rna"]
    turned = Cohort(train.name, train.clinical, {"rna": table.iloc[:, ::-1]}, train.kind)
    facts = started_facts(start, turned)
    assert [f"rna:{turned.omics['rna'].columns[k]}" for k in facts.positions] == facts.genes
    gone = facts.genes[0].split(":")[1]
    with pytest.raises(DataError, match=f"1 of the 12 genes.*{gone}.*train from scratch"):
        started_facts(start, Cohort(train.name, train.clinical, {"rna": table.drop(columns=gone)}, train.kind))


def test_a_start_that_is_no_survival_model_is_refused(tmp_path, left_out):
    train = omics(leave_out=left_out[1], few_shot=25, scratch=True)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="model.json belongs beside"):
        SurvivalTables(train.cohort("train"), train.cohort("val"), 8, start=tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text(json.dumps({"facts": {"class_names": ["a"]}}))
    with pytest.raises(UsageError, match="no survival model"):
        SurvivalTables(train.cohort("train"), train.cohort("val"), 8, start=tmp_path)


# --------------------------------------------------------------------------------------------------- real folders


def test_a_table_is_read_once_in_a_process(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    names = [f"P{k}" for k in range(30)]
    lines = ["patient_id,time_months,event,cancer,age,sex,A_rnaseq,B_rnaseq,C_rnaseq"]
    lines += [f"{p},{rng.exponential(30) + 1:.2f},{k % 2},BLCA,60,F,{rng.normal():.3f},{rng.normal():.3f},1.{k}"
              for k, p in enumerate(names)]  # fmt: skip
    path = tmp_path / "one.csv"
    path.write_text("\n".join(lines))
    reads = []
    monkeypatch.setattr(remembered, "read_cohort", lambda *a, **o: reads.append(a) or read_cohort(*a, **o))
    first = remembered.read_remembered(path, "csv", name="one", kind="public")
    assert remembered.read_remembered(path, "csv", name="one", kind="public") is first and len(reads) == 1
    remembered.read_remembered(path, "csv", name="one", kind="private")
    path.write_text("\n".join(lines[:-1]))
    assert len(remembered.read_remembered(path, "csv", name="one", kind="public")) == 29 and len(reads) == 3


def test_published_folds_of_a_real_cohort_make_a_row(real_data, tmp_path, command):
    """Two folds of age alone on a public cohort, through train.py and the table."""
    args = ["-m", "model=cox_age", "data=cancer_omics", f"data.root={real_data / 'cancer'}", "data.cohort=paad",
            "data.fold=0,1", "data.modalities=[rna]", f"runs_dir={tmp_path}"]  # fmt: skip
    done = command("train.py", *args)
    assert done.returncode == 0, done.stderr[-2000:]
    table = tables.build("cancer_omics", [tmp_path])
    cell = next(c for c in table.cells if c.keys == {"Cohort": "PAAD", "Model": "cox_age"})
    runs = collect(tmp_path, [("survival", {"model": "cox_age"})])
    values = [r["metrics"]["c_index"]["value"] for r in runs]
    got = cell.measured["metrics"]["c_index"]
    assert got["value"] == pytest.approx(np.mean(values)) and len(values) == 2
    assert got["low"] < got["value"] < got["high"] and "2 of 5 folds (missing: 2, 3, 4)" in cell.notes
