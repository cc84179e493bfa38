"""Encoders, weights and damaged tiles of slide models: one sentence that says what is wrong and what fits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tifffile
import torch
from drawn_slides import tissue_picture, write_pyramid
from safetensors.torch import save_file

from clarion.cancer.swin.bags import TileSettings, bag_of
from clarion.cancer.swin.encoder import PatchEncoder
from clarion.config import compose_config, register_resolvers
from clarion.errors import DataError, UsageError
from clarion.run import execute
from clarion.samples import Sample

sys.path.insert(0, str(Path(__file__).parents[1] / "swin"))
from test_swin_run import SMALL  # noqa: E402

NETWORK = "swin_tiny_patch4_window7_224"
TINY = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}


@pytest.fixture(scope="module")
def encoder() -> PatchEncoder:
    return PatchEncoder(NETWORK, 32, TINY)


def test_an_unknown_encoder_offers_the_nearest():
    with pytest.raises(UsageError) as caught:
        PatchEncoder("swin_tiny_patch4_window7_22", 32, TINY)
    said = "model.encoder.network=swin_tiny_patch4_window7_22 is no Swin transformer of timm. Did you mean "
    assert str(caught.value).startswith(f"{said}`{NETWORK}`")


def test_a_network_that_is_no_swin_is_refused():
    with pytest.raises(UsageError, match="model.encoder.network=resnet18 is no Swin transformer of timm."):
        PatchEncoder("resnet18", 224)


def test_arguments_that_timm_does_not_know_are_said():
    with pytest.raises(UsageError, match=rf"model\.encoder: timm cannot build {NETWORK} for 32 px: .*embed_dims"):
        PatchEncoder(NETWORK, 32, {"embed_dims": 16})


def test_weights_of_another_size_do_not_fit(encoder, tmp_path):
    wide = PatchEncoder(NETWORK, 32, {**TINY, "embed_dim": 24})
    save_file({k: v.contiguous() for k, v in wide.swin.state_dict().items()}, tmp_path / "wide.safetensors")
    with pytest.raises(UsageError) as caught:
        encoder.load(tmp_path / "wide.safetensors")
    said = str(caught.value)
    assert said.startswith(f"model.weights={tmp_path}/wide.safetensors does not fit this Swin (size mismatch for ")
    assert "\n" not in said


@pytest.mark.parametrize("damage", ["cut", "pickle", "empty"])
def test_files_that_are_no_weights(encoder, tmp_path, damage):
    path = tmp_path / "w.safetensors"
    if damage == "pickle":
        torch.save(encoder.swin.state_dict(), path)
    else:
        save_file({k: v.contiguous() for k, v in encoder.swin.state_dict().items()}, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if damage == "cut" else 0])
    with pytest.raises(UsageError, match=r"model\.weights=.*w\.safetensors cannot be read as safetensors: "):
        encoder.load(path)


@pytest.mark.parametrize("words, sentence", [
    (["model.encoder.network=swin_huge"], "model.encoder.network=swin_huge is no Swin transformer of timm."),
    (["model.weights=/nowhere/swin.safetensors"],
     "model.weights=/nowhere/swin.safetensors is no file: give a Swin's .safetensors or a run's checkpoint."),
])  # fmt: skip
def test_a_run_is_refused_before_it_trains(tmp_path, words, sentence):
    register_resolvers()
    outcome = execute(compose_config([*SMALL, *words]), [*SMALL, *words], tmp_path / "run")
    assert outcome["status"] == "refused" and outcome["exit_code"] == 2
    assert outcome["reason"].startswith(sentence)
    assert not (tmp_path / "run" / "checkpoints" / "best").exists()


def test_a_corrupt_tile_stops_with_the_slide_and_the_place(tmp_path):
    path = write_pyramid(tmp_path / "P1-DX1.tif", tissue_picture(512, 768), (1,), compression="jpeg")
    patient = Sample("P1", "P1", {"slides": (path,), "mpp": None})
    bag = bag_of(patient, TileSettings.of({"patch": 64, "mpp": 0.5}))  # tiled while it was whole
    assert sum(map(len, bag.pixels())) == len(bag)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[4], file.pages[0].databytecounts[4]
    with open(path, "r+b") as file:
        file.seek(offset + count // 2)
        file.write(bytes(count - count // 2))
    with pytest.raises(DataError, match="another slide than the one these tiles were found on; tile it again"):
        list(bag.pixels(range(len(bag))))
    with pytest.raises(DataError) as caught:
        bag_of(patient, TileSettings.of({"patch": 64, "mpp": 0.5}))
    # the place is that of the piece of the slide which was read: the tile lies at (256, 256)
    assert str(caught.value).startswith("P1-DX1.tif is damaged: a tile of level 0 at or right below (")
    assert str(caught.value).endswith("; copy it again.")
    assert "P1-DX1" not in caught.value.recorded
