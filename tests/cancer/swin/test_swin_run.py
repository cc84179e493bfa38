"""A slide model from training to what people use of it: metrics, embeddings, maps, pages, an exported encoder."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from omegaconf import OmegaConf

from clarion.building import build, build_data
from clarion.cancer.slides.reader import open_slide
from clarion.cancer.swin import loader
from clarion.cancer.swin.encoder import PatchEncoder
from clarion.cancer.swin.network import SlideModule
from clarion.cancer.swin.warm_up import warm_up
from clarion.config import compose_config, register_resolvers
from clarion.distributed import NoTracker
from clarion.embedding import embed_run, read_embedding
from clarion.errors import UsageError
from clarion.exporting import export_run
from clarion.looking import look_run, markdown
from clarion.run import execute
from clarion.trained import open_model
from clarion.trainers.base import Run

sys.path.insert(0, str(Path(__file__).parents[2] / "report"))
from chromium_page import Browser, chromium  # noqa: E402

SMALL = [
    "model=swin_mil_nano", "data.fractions={train: 0.5, val: 0.2, test: 0.3}", "trainer.epochs=2", "trainer.device=cpu",
    "data.synthetic={patients: 30, side: 512, genes: 60, two_slides: 0.2, flawed: 0.3, slide_effect: 1.0, seed: 1}",
    "data.limits={min_events: 3}", "model.baselines=[cox_age]", "evaluators.survival.n_resamples=50",
    "model.encoder.args={embed_dim: 16, depths: [1, 2], num_heads: [2, 2], window_size: 4, weight_init: jax}",
    "model.datamodule.bins=3", "model.width=12", "model.lr=0.003", "model.train_encoder=true", "trainer.batch_size=8",
    "model.tiles={patch: 32, mpp: 2.0, min_tissue: 0.4, most: 1000}", "model.datamodule.warm_up=null",
]
WARM = {"epochs": 3, "batch_size": 64, "most": 400}  # fmt: skip


def trained(folder: Path, *words: str) -> Path:
    register_resolvers()
    outcome = execute(compose_config([*SMALL, *words]), [*SMALL, *words], folder / "run")
    assert outcome["status"] == "done", outcome["reason"]
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("end-to-end"))


@pytest.fixture(scope="module")
def looked(run, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("look")
    return out, look_run(run, out, pages=1)


def test_a_run_scores_beside_its_baselines(run):
    metrics = json.loads((run / "metrics.json").read_text())
    found = metrics["evaluators"]["survival"]["metrics"]
    assert 0 <= found["c_index"]["value"] <= 1 and "cox_age" in json.dumps(metrics["evaluators"]["survival"])
    facts = json.loads((run / "checkpoints" / "best" / "model.json").read_text())["facts"]
    assert facts["trained_on"]["patients"] == 15 and facts["trained_on"]["tiles"] > 60 and facts["encoder"] is None


def test_training_changes_the_encoder_and_answers_are_repeatable(run):
    model = open_model(str(run), "survival", "swin_mil_nano", "cpu").predictor
    from clarion.cancer.swin.encoder import PatchEncoder

    own = model.module.network.encoder
    start = PatchEncoder(**model.module.model["encoder"], patch=32)
    assert own.digest() != start.digest()

    samples = list(build_data(compose_config(SMALL)).samples("test"))
    first, again = list(model(samples)), list(model(samples[::-1]))[::-1]
    risks = np.array([p.values["risk"] for p in first])
    assert np.allclose(risks, [p.values["risk"] for p in again], atol=1e-5) and np.ptp(risks) > 0
    assert all(np.all(np.diff(p.values["survival"]) <= 1e-6) for p in first)


def test_a_patient_without_a_slide_gets_the_groups_hazard(run):
    model = open_model(str(run), "survival", "swin_mil_nano", "cpu").predictor
    from clarion.samples import Sample

    (found,) = model([Sample("x", "x", {"slide": None, "slides": (), "mpp": None})])
    logits = model.module.network.head.bias
    assert found.values["tiles"] == 0
    assert found.values["risk"] == pytest.approx(float(model.module.as_risk(logits[None])[0]), abs=1e-5)


def test_embeddings_are_what_enters_the_head(run, tmp_path):
    said = embed_run(run, tmp_path / "e.parquet", "test", "cpu")
    table, about = read_embedding(tmp_path / "e.parquet")
    assert said["width"] == 12 and len(table) == 9 and about["model"] == "swin_mil_nano"
    model = open_model(str(run), "survival", "swin_mil_nano", "cpu").predictor.module
    logits = model.network.head(torch.tensor(table[[f"e{k}" for k in range(12)]].to_numpy()))
    predictions = pd.read_parquet(run / "predictions" / "test.parquet").set_index("sample_id")
    assert np.allclose(model.as_risk(logits).detach(), predictions.loc[table["sample_id"], "risk"], atol=1e-4)


def test_looking_adds_up(run, looked):
    out, result = looked
    assert len(result["patients"]) == 9 and json.loads((out / "looking.json").read_text())["run"] == "run"
    found = result["faithfulness"]
    assert set(found["deletion"]) == {"mil", "gradcam", "effect", "random"}
    assert all(len(order["curve"]) == 4 for order in found["deletion"].values())
    # taking away the tiles of largest effect moves the risk more than taking random ones
    assert found["deletion"]["effect"]["gain"]["value"] > 0
    assert 0 < result["pointing"]["chance"]["value"] < 1
    assert {"combined", "mil", "window", "gradcam", "effect"} == set(result["pointing"]["maps"])
    assert "deletion gain" in markdown(result) and "planted" in markdown(result)


def test_maps_keep_mass_and_gradcam_its_sum(run):
    from clarion.cancer.looking.canvas import lay_out
    from clarion.cancer.looking.maps import patient_maps, tile_shares

    module = open_model(str(run), "survival", "swin_mil_nano", "cpu").predictor.module
    sample = next(iter(build_data(compose_config(SMALL)).samples("test")))
    maps = patient_maps(module, module.bag(sample))
    assert maps.cells["combined"].sum() == pytest.approx(1, abs=1e-4)
    assert np.allclose(maps.cells["window"].sum((1, 2)), 1 - maps.padding, atol=1e-4)
    risk, _, gradient, effect = tile_shares(module, maps.features)
    assert np.allclose(maps.cells["gradcam"].sum((1, 2)), (maps.features * gradient).sum(1), atol=1e-4)
    assert np.allclose(maps.cells["effect"].sum((1, 2)), effect, atol=1e-5)
    even = lay_out(maps, "mil")
    x, y = even.peak  # in the middle of the tile that it looked at most, not in its corner
    top = maps.bag.slides[0].tiles.xy[maps.bag.places[np.argmax(maps.attention), 1]]
    assert np.all(np.abs(np.array([x, y]) - top - maps.bag.slides[0].tiles.side / 2) <= even.downsample)
    canvas = lay_out(maps, "combined")
    assert np.nansum(canvas.values) == pytest.approx(1, abs=0.02)  # cells beyond the slide's edge are cropped
    step = 1e-3 * np.abs(maps.features).mean()
    nudged = maps.features.copy()
    nudged[0] += step * np.sign(gradient[0])
    changed = tile_shares(module, nudged)[0] - risk
    assert changed == pytest.approx(step * np.abs(gradient[0]).sum(), rel=0.2, abs=1e-6)
    assert len(effect) == len(maps.bag)


def test_the_heatmap_is_a_pyramid_at_the_slides_scale(looked):
    out, result = looked
    (row,) = (r for r in result["patients"] if r["files"])
    heatmap = next(out / f for f in row["files"] if "heatmap" in f)
    with open_slide(heatmap) as slide:
        assert slide.mpp == pytest.approx(2.0, rel=0.02) and len(slide.levels) >= 1
        assert slide.read(0, 0, 0, 64, 64).shape == (64, 64, 3)
    values = next(out / f for f in row["files"] if "combined" in f)
    with tifffile.TiffFile(values) as file:
        page = file.pages[0]
        assert page.is_tiled and page.dtype == np.float32
        x, unit = page.tags["XResolution"].value, page.tags["ResolutionUnit"].value
        assert 1e4 * x[1] / x[0] == pytest.approx(8.0, rel=0.02) and unit == 3  # 4 px of 2 um a cell


@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed: apt-get install chromium runs this test")
def test_the_page_opens_from_a_file_without_requests_elsewhere(looked):
    out, result = looked
    page = next(out / f for r in result["patients"] for f in r["files"] if f.endswith(".html"))
    assert (page.parent / "openseadragon-licence.txt").read_text().startswith("Copyright (C) 2009 CodePlex Foundation")
    with Browser() as browser:
        browser.open(page, 1000)
        deadline = time.monotonic() + 30
        while browser.value("document.body.dataset.layers") != "6" and time.monotonic() < deadline:
            time.sleep(0.2)
        assert browser.value("document.body.dataset.layers") == "6"  # five maps and the planted truth
        assert browser.value("document.body.dataset.failed") is None and browser.problems() == []
        assert all(url.startswith(page.parent.resolve().as_uri()) for url in browser.requests())
        assert browser.value("document.documentElement.scrollWidth") <= 1000


def test_the_encoder_leaves_as_onnx(run, tmp_path):
    said = export_run(run, "onnx", tmp_path / "onnx")
    assert said["max_difference"] < 1e-4 and list(said["inputs"]) == ["patch"] and said["outputs"] == ["features"]
    assert said["inputs"]["patch"] == {"dtype": "uint8", "shape": ["batch", 32, 32, 3]}


def test_frozen_features_transmil_and_five_years_after_a_warm_up(run, tmp_path):
    other = trained(tmp_path, "model.train_encoder=false", "model.pooling=transmil", "model.head=five_year",
                    "+model.pooling_args.heads=2", "trainer.epochs=1", "model.baselines=[]",
                    f"model.datamodule.warm_up={json.dumps(WARM).replace(chr(34), '')}")  # fmt: skip
    facts = json.loads((other / "checkpoints" / "best" / "model.json").read_text())["facts"]
    network = open_model(str(other), "survival", "swin_mil_nano", "cpu").predictor.module.network
    assert facts["encoder"] == network.encoder.digest()  # trained on the features it answers with
    assert facts["encoder"] != PatchEncoder(**facts_encoder(other), patch=32).digest()  # which the warm-up changed
    warm = facts["warm_up"]
    assert warm["tiles"] <= facts["trained_on"]["tiles"]  # of training patients alone
    assert warm["loss"]["last"] < warm["loss"]["first"] and warm["loss"]["last"] < warm["chance"]
    assert float(network.tile[0].mean.abs().sum()) > 0  # whitened by the training tiles, and kept


def frozen() -> tuple[dict, Any, dict]:
    """(config, data, model) of a head on the features of a warmed encoder."""
    words = [*SMALL[:-1], "model.train_encoder=false", "model.baselines=[]", "++model.datamodule.warm_up.epochs=1",
             "++model.datamodule.warm_up.batch_size=64", "++model.datamodule.warm_up.most=200"]  # fmt: skip
    register_resolvers()
    cfg = compose_config(words)
    return cfg, build_data(cfg), OmegaConf.to_container(cfg.model, resolve=True)


def test_the_encoder_is_warmed_up_and_read_where_the_trainer_computes(monkeypatch):
    _, data, model = frozen()
    moved, plain = [], torch.nn.Module.to
    monkeypatch.setattr(PatchEncoder, "to", lambda self, where: moved.append(str(where)) or plain(self, where))
    monkeypatch.setattr(loader, "warmed", lambda *a: moved.append(f"warm-up {a[-1]}") or warm_up(*a))
    made = data.datamodule(8, 0, device="cpu:0", **model["datamodule"])
    # what is in the cache is not trained again
    assert moved[0] == "warm-up cpu:0" and moved[-1] == "cpu:0" and {*moved[1:]} == {"cpu:0"}
    assert str(next(made.warmed.parameters()).device) == "cpu"


def test_a_wrong_warm_up_is_answered_before_any_slide_is_tiled():
    with pytest.raises(UsageError, match="warm_up.epochs=1.5: give a whole number"):
        loader.SlideBags(None, 8, 0, encoder={}, tiles={}, train_encoder=False, warm_up={"epochs": 1.5})


def test_a_resumed_run_after_a_warm_up_equals_the_unbroken_one(tmp_path):
    class PowerCut(Exception):
        """The machine goes down."""

    cfg, data, model = frozen()
    original = SlideModule.training_step

    def dies(self, batch, k):
        if self.current_epoch == 1:
            raise PowerCut
        return original(self, batch, k)

    def fit(directory: Path, resume: bool) -> bytes:
        best = build(cfg.trainer, model=model, seed=0).fit(Run(cfg, directory, data, NoTracker(), resume))
        return (best / "model.safetensors").read_bytes()

    unbroken = fit(tmp_path / "unbroken", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlideModule, "training_step", dies)
        with pytest.raises(PowerCut):
            fit(tmp_path / "broken", False)
    assert fit(tmp_path / "broken", True) == unbroken


def facts_encoder(run: Path) -> dict:
    return json.loads((run / "checkpoints" / "best" / "model.json").read_text())["model"]["encoder"]


@pytest.mark.parametrize("arguments, expected", [
    ({"samples": ["nobody"]}, "no such patient"), ({"split": "tset"}, "`test`"), ({"operator": "sum"}, "rollout"),
    ({"pages": -1}, "--pages"),
])  # fmt: skip
def test_wrong_words_are_answered(run, tmp_path, arguments, expected):
    with pytest.raises(UsageError, match=expected):
        look_run(run, tmp_path, **arguments)


@pytest.mark.parametrize("word, expected", [
    ("model.pooling=gate", "model.pooling=gate is unknown"), ("model.head=ten_year", "model.head=ten_year"),
    ("++model.tiles.pach=3", "model.tiles.pach is unknown"),
    ("model.datamodule.warm_up={epoch: 3}", "warm_up.epoch is unknown"),
    ("model.weights=/nowhere.safetensors", "is no file"),
])  # fmt: skip
def test_wrong_settings_are_answered(tmp_path, word, expected):
    register_resolvers()
    outcome = execute(compose_config([*SMALL, word]), [*SMALL, word], tmp_path / "run")
    assert outcome["status"] == "refused" and expected in outcome["reason"]
