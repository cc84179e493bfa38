"""model.weights=shipped:NAME: a training starts from weights that come with Clarion, or is told which of them fit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from clarion import launch
from clarion.config import compose_config
from clarion.errors import UsageError
from clarion.run import build
from clarion.trained import WEIGHTS, start_weights

NETWORKS = [("layer_unet", "layers_unet"), ("erm_presence", "erm_presence")]


@pytest.mark.parametrize(("model", "shipped"), NETWORKS)
def test_a_network_starts_from_the_shipped_weights(model, shipped):
    cfg = compose_config([f"model={model}", f"model.weights=shipped:{shipped}", "trainer.device=cpu"])
    trainer = build(cfg.trainer, model=cfg.model, seed=0)
    trainer.check()
    known = trainer.load(WEIGHTS / shipped)  # a network of the same shape
    module = known.module
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.zero_()
    module.load_start_weights(trainer._start_weights())
    for name, tensor in load_file(WEIGHTS / shipped / "model.safetensors").items():
        assert torch.equal(module.network.state_dict()[name].float(), tensor.float()), name


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("layer_unet", "shipped:layer_unet", "not shipped. Did you mean `layers_unet`? For this model use shipped:"),
        ("layer_unet", "shipped:erm_presence", "weights of another network. For this model use shipped:layers_unet"),
        ("erm_presence", "shipped:nothing_like_it", "not shipped. For this model use shipped:erm_presence"),
        ("yolo11n", "shipped:layers_unet", "another network. For this model use shipped:yolo11n_erm_phantom"),
        ("swin_nano", "shipped:erm_presence", "Clarion ships none for this model: use the checkpoints/best"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_data_are_prepared(model, weights, said, tmp_path, capsys, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("CLARION_CACHE", str(cache))
    assert launch.train([f"model={model}", f"model.weights={weights}", f"runs_dir={tmp_path / 'runs'}"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not cache.exists()


def test_a_path_is_left_as_it_is(tmp_path):
    assert start_weights(str(tmp_path / "best"), "any") == tmp_path / "best"
    with pytest.raises(UsageError, match="not shipped"):
        start_weights("shipped:../weights", "any")
