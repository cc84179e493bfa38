"""`clarion explain`, `clarion embed` and the page of a survival run, on real tiny runs."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from clarion import beside, cli, launch
from clarion.cancer.lookup import LookupTable
from clarion.config import compose_config
from clarion.embedding import embedder, read_embedding
from clarion.errors import DataError, UsageError
from clarion.networks import ModulePredictor
from clarion.record import RunRecord
from clarion.run import build_data
from clarion.samples import Sample
from clarion.trained import open_model
from clarion.trainers.lightning_classification import ClassificationModule

DATA = ["data=omics_demo", "data.synthetic={cancers: 2, patients: 80, genes: 60, shared: 3, specific: 0, opposed: 0, "
        "effect: 1.0, censored: 0.3, cnv: 0, mut: 0}", "evaluators.survival.n_resamples=20"]  # fmt: skip
NETWORK = ["model=tabular_transformer", "model.datamodule.genes=15", "trainer.epochs=2",
           "trainer.args.enable_progress_bar=false"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a network and a linear score."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    second = [*NETWORK, "seed=1", "model.baselines=[]"]
    first = [*NETWORK, "model.baselines=[ridge_cox,cox_age]"]
    for name, model in (("first", first), ("second", second), ("score", ["model=sign_score"])):
        assert launch.train([*model, *DATA, f"runs_dir={folder / name}"]) == 0
        found[name] = next((folder / name).glob("*/metrics.json")).parent
    return found


@pytest.fixture()
def copy(runs, tmp_path):
    """A run of one's own to damage."""

    def make(name: str):
        return shutil.copytree(runs[name], tmp_path / "copy")

    return make


# ---- the page of a run -----------------------------------------------------------------------------------------


def test_the_page_shows_survival_and_genes(runs):
    page = (runs["first"] / "report.html").read_text(encoding="utf-8")
    for part in ("Kaplan–Meier by risk group", "Numbers at risk", "Log-rank test of the 2 risk groups", "AUC over time",
                 "Calibration at 36 months", "Calibration at 60 months", "Top genes", "Integrated gradients",
                 "Attention of the readout", "Are the planted genes found?", "Completeness with 32 steps"):  # fmt: skip
        assert part in page, part
    assert 'class="band s1"' in page and "<script" not in page
    document = json.loads((runs["first"] / "explanation.json").read_text(encoding="utf-8"))
    for row in document["genes"][:15]:
        assert row["gene"].removeprefix("rna:") in page
    assert document["completeness"]["relative"] < 0.01
    linear = (runs["score"] / "report.html").read_text(encoding="utf-8")
    assert "Coefficient × value" in linear and "Attention of the readout" not in linear


def test_numbers_at_risk_are_those_of_the_patients(runs):
    metrics = json.loads((runs["first"] / "metrics.json").read_text(encoding="utf-8"))
    curves = metrics["evaluators"]["survival"]["curves"]
    truth = pd.read_parquet(runs["first"] / "truth" / "test.parquet")
    both = [curves[f"kaplan_meier_{g}"]["numbers_at_risk"] for g in ("low", "high")]
    assert both[0]["time"] == both[1]["time"] and both[0]["time"][0] == 0 and len(both[0]["time"]) <= 9
    for k, when in enumerate(both[0]["time"]):
        assert both[0]["n"][k] + both[1]["n"][k] == int((truth["time"] >= when).sum())


def test_baselines_stand_beside_a_network(runs):
    """Fitted on the training patients of the run, scored on the same test patients, with the paired gain."""
    result = json.loads((runs["first"] / "metrics.json").read_text(encoding="utf-8"))["evaluators"]["survival"]
    truth = pd.read_parquet(runs["first"] / "truth" / "test.parquet")
    for name in ("ridge_cox", "cox_age"):
        gain, own = (result[part][f"c_index_gain_over_{name}"] for part in ("metrics", "baseline"))
        assert gain["low"] < gain["value"] < gain["high"] and own["low"] < own["value"] < own["high"]
        whole = result["metrics"]["c_index_within_cancer"]["value"]
        assert whole - own["value"] == pytest.approx(gain["value"], abs=1e-9) and own["name"] == name
        table = pd.read_parquet(runs["first"] / "predictions" / "baselines" / f"test_{name}.parquet")
        assert set(table["sample_id"]) == set(truth["sample_id"])
    assert result["baseline"]["c_index"]["name"] == "ridge_cox"
    page = (runs["first"] / "report.html").read_text(encoding="utf-8")
    assert "C index gain over ridge cox" in page and " ridge_cox" in page
    alone = json.loads((runs["second"] / "metrics.json").read_text(encoding="utf-8"))["evaluators"]["survival"]
    assert "c_index_gain_over_ridge_cox" not in alone["metrics"]


def test_a_run_keeps_the_table_of_its_training_patients(runs):
    data = build_data(RunRecord(runs["first"]).config())
    table = LookupTable.read(runs["first"] / "tables" / "rna.parquet")
    table.check([*data.splits["val"], *data.splits["test"]])
    with pytest.raises(DataError, match="leaks"):
        table.check(data.splits["train"][:1])
    assert sum(fitted.n for fitted in table.patients.values()) == len(data.splits["train"])
    raw = (runs["first"] / "tables" / "rna.parquet").read_bytes()
    assert not any(patient.encode() in raw for patient in data.splits["train"])


def test_two_runs_are_compared_on_the_same_patients(runs, tmp_path, capsys):
    out = tmp_path / "both.html"
    assert cli.main(["report", str(runs["first"]), str(runs["score"]), "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert "DeLong&#39;s test of AUC naive 60m" in page or "DeLong's test of AUC naive 60m" in page
    assert "Censoring weights (IPCW) come from the test patients" in page


@pytest.mark.parametrize("wanted, told", [
    ("ridge_cx", "model.baselines: ridge_cx is no survival model. Did you mean `ridge_cox`"),
    ("mlp_survival", "is a network"),
    ("tabular_transformer", "the model itself"),
])  # fmt: skip
def test_baselines_that_are_none_are_refused_before_the_training(wanted, told):
    with pytest.raises(UsageError, match=told):
        beside.names(compose_config(["model=tabular_transformer", f"model.baselines=[{wanted}]"]))


# ---- explain ---------------------------------------------------------------------------------------------------


def test_explain_writes_what_it_prints(runs, tmp_path, capsys):
    out = tmp_path / "설명"
    argv = ["explain", str(runs["first"]), str(runs["second"]), str(runs["score"]), "--out", str(out), "--top", "5"]
    assert cli.main([*argv, "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    kept = json.loads((out / "explanation.json").read_text(encoding="utf-8"))
    assert {k: v for k, v in printed.items() if k != "out"} == kept
    assert [r["model"] for r in kept["runs"]] == ["tabular_transformer", "tabular_transformer", "sign_score"]
    assert len(kept["stability"]["pairs"]) == 3 and -1 <= kept["stability"]["spearman_shared"] <= 1
    assert kept["stability"]["pairs"][0]["k"] == 5 and kept["stability"]["pairs"][0]["pool"] == 60
    table = pd.read_csv(out / "explanation.csv")
    assert list(table.groupby("run", sort=False).size()) == [len(r["explanation"]["genes"]) for r in kept["runs"]]
    first = kept["runs"][0]["explanation"]["genes"][0]
    assert table["gene"][0] == first["gene"] and table["attribution"][0] == first["attribution"]["value"]
    assert table["cox_q"][0] == first["cox"]["q"] and table["rank"][0] == 1
    page = (out / "explanation.html").read_text(encoding="utf-8")
    assert "Stability over runs" in page and "phantom data" in page and first["gene"].removeprefix("rna:") in page


def test_explain_prints_a_table(runs, tmp_path, capsys):
    argv = ["explain", str(runs["score"]), "--split", "val", "--patients", "9", "--out", str(tmp_path / "out")]
    assert cli.main([*argv, "--top", "3"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("## sign_score") and "on 9 patients of val" in text and "Stability" not in text
    assert sum(line.startswith("| GENE") for line in text.splitlines()) == 3


def test_explain_refuses_in_one_sentence(runs, copy, tmp_path, capsys):
    def refused(*argv: str) -> tuple[int, str]:
        code = cli.main(["explain", *argv, "--out", str(tmp_path / "out")])
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert told.startswith("clarion explain: ") and not (tmp_path / "out").exists()
        return code, told

    first = str(runs["first"])
    assert refused(str(tmp_path / "none")) == (2, f"clarion explain: {tmp_path / 'none'} is not a complete run "
                                                  "directory (train one with python train.py).")  # fmt: skip
    assert refused(first, first)[0] == 2 and "did you mean `test`" in refused(first, "--split", "tset")[1].lower()
    assert refused(first, "--top", "0")[0] == 2
    changed = copy("first")
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["data"]["fingerprint"] = "0" * 32
    (changed / "manifest.json").write_text(json.dumps(manifest))
    code, told = refused(str(changed))
    assert code == 1 and "have changed since it was trained" in told
    config = (changed / "config.yaml").read_text().replace("task: survival", "task: detection")
    (changed / "config.yaml").write_text(config)
    code, told = refused(str(changed))
    assert code == 2 and "is a detection model" in told and "only survival models" in told


# ---- embed -----------------------------------------------------------------------------------------------------


def test_embeddings_come_back_as_the_network_had_them(runs, tmp_path, capsys):
    out = tmp_path / "embedding.parquet"
    assert cli.main(["embed", str(runs["first"]), "--out", str(out)]) == 0
    said = json.loads(capsys.readouterr().out)
    table, about = read_embedding(out)
    record = RunRecord(runs["first"])
    assert about["hash"] == record.manifest()["checkpoint_hash"] and about["run"] == runs["first"].name
    assert about["fingerprint"] == record.manifest()["data"]["fingerprint"] and said["rows"] == len(table) == 160
    assert list(table.columns) == ["sample_id", "patient_id", "split", *(f"e{k}" for k in range(32))]
    data = build_data(record.config())
    module = open_model(str(runs["first"]), "survival", "tabular_transformer").predictor.module
    for split in ("train", "test"):
        rows = table[table["split"] == split]
        assert list(rows["sample_id"]) == data.splits[split]
        seen: list[torch.Tensor] = []
        handle = module.network.head.register_forward_pre_hook(lambda _l, given, seen=seen: seen.append(given[0]))
        module.answer(list(data.samples(split)))  # what really enters the last layer
        handle.remove()
        assert rows.iloc[:, 3:].to_numpy() == pytest.approx(seen[0].numpy(), abs=1e-5)


def test_embed_refuses(runs, tmp_path, capsys):
    assert cli.main(["embed", str(runs["score"]), "--out", str(tmp_path / "e.parquet")]) == 2
    assert "has no embeddings" in capsys.readouterr().err
    assert cli.main(["embed", str(runs["first"]), "--out", str(tmp_path / "e.csv")]) == 2
    assert cli.main(["embed", str(runs["first"]), "--split", "tests", "--out", str(tmp_path / "e.parquet")]) == 2
    assert "test" in capsys.readouterr().err and not list(tmp_path.iterdir())
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UsageError, match="no file of `clarion embed`"):
        read_embedding(tmp_path / "other.parquet")


def test_a_classifiers_embedding_is_what_enters_its_head(tmp_path):
    facts = {"class_names": ["a", "b"], "image_size": [64, 64], "mean": 0.4, "std": 0.2, "class_counts": [1, 1]}
    module = ClassificationModule({"network": "resnet10t", "lr": 1e-3, "weight_decay": 0.0}, facts)
    samples = []
    for k in range(3):
        path = tmp_path / f"{k}.png"
        cv2.imwrite(str(path), np.random.default_rng(k).integers(0, 255, (64, 64), dtype=np.uint8))
        samples.append(Sample(str(k), str(k), {"image": path}))
    predictor = ModulePredictor(module, 8)
    found = embedder(predictor, "resnet10t")(samples)
    with torch.inference_mode():
        scores = module.network.get_classifier()(torch.from_numpy(found)).softmax(1).numpy()
    assert found.shape == (3, 512) and scores == pytest.approx(
        np.array([p.values["probabilities"] for p in predictor(samples)]), abs=1e-5
    )
