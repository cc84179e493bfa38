"""Detector checkpoints without pickle: a folder of `weights.safetensors` (fp32) and `network.json`.

`network.json` holds the network's structure (ultralytics' yaml as a dict), class names, image size and stride, so
that a checkpoint is loaded without the run it came from. Both files are safe to read when they come from others:
the structure may name only known blocks, and no text in it is evaluated.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clarion.errors import UsageError
from clarion.trained import start_weights

log = logging.getLogger(__name__)

FORMAT = "clarion-detector/1"
OUR_CLASSES = "clarion.detectors."  # network classes that a checkpoint may name without the config's consent
STRUCTURE_KEYS = {"nc", "scales", "scale", "backbone", "head", "channels", "reg_max", "end2end", "yaml_file",
                  "depth_multiple", "width_multiple", "activation", "anchors", "inplace"}  # fmt: skip
ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Za-z0-9]+\((inplace=(True|False))?\)")


def build_network(network: str | dict, network_class: str | None, nc: int, channels: int = 3) -> torch.nn.Module:
    """A detection network with fresh weights.

    network: the name of one of ultralytics' structures ("yolo11n.yaml"), a path to a yaml of that form, or its
    content as a dict; nc: number of classes; network_class: dotted path of a DetectionModel subclass (None:
    ultralytics' own).
    """
    from ultralytics.nn.tasks import DetectionModel

    if isinstance(network, str):
        if not network.endswith((".yaml", ".yml")):
            raise UsageError(f"model.network={network} must name a structure such as yolo11n.yaml; "
                             "start weights go to model.weights.")
        network = Path(network) if Path(network).is_absolute() else Path(Path(network).name)
    cls = DetectionModel
    if network_class:
        module, _, name = network_class.rpartition(".")
        cls = getattr(importlib.import_module(module), name)
    try:
        return cls(copy.deepcopy(network) if isinstance(network, dict) else str(network), ch=channels, nc=nc,
                   verbose=False)
    except FileNotFoundError:
        raise UsageError(f"model.network={network} is neither a network that ultralytics knows nor a file; use a name "
                         "such as yolov8s.yaml or yolo11n.yaml, or an absolute path to a yaml.") from None


def save(folder: Path, model: torch.nn.Module, description: dict[str, Any]) -> None:
    """Write model (its state as fp32) and description into `folder`, replacing what was there in one step."""
    state = {k: (v.float() if v.is_floating_point() else v).detach().cpu().contiguous().clone()
             for k, v in model.state_dict().items()}
    names = {int(k): str(v) for k, v in model.names.items()}
    record = {
        "format": FORMAT, **description,
        "structure": {k: Path(v).name if k == "yaml_file" else v  # a name, not a path of this machine
                      for k, v in model.yaml.items() if k in STRUCTURE_KEYS},
        "nc": len(names), "class_names": [names[i] for i in range(len(names))],
        "stride": [float(s) for s in model.stride],
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(state, partial / "weights.safetensors", metadata={"format": FORMAT})
    (partial / "network.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def finish_replacing(folder: Path) -> None:
    """What `save` had half done when it was killed: where the old checkpoint is set aside already, it comes back."""
    old = folder.with_name(folder.name + ".old")
    if old.is_dir() and not folder.is_dir():
        os.replace(old, folder)


def load(folder: Path, allowed_class: str | None = None) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Rebuild the network that `save` wrote: (model in eval mode on the CPU, the content of network.json).

    allowed_class: a network class outside clarion.detectors that the caller's config vouches for.
    """
    folder = checkpoint_folder(folder)
    record = _read_record(folder)
    cls = record.get("network_class")
    if cls and not cls.startswith(OUR_CLASSES) and cls != allowed_class:
        raise UsageError(f"{folder / 'network.json'} names the network class {cls}, which is not part of Clarion; "
                         f"set model.network_class={cls} if you trust it.")
    model = build_network(record["structure"], cls, record["nc"], record["structure"].get("channels", 3))
    model.names = dict(enumerate(record["class_names"]))
    missing, unexpected = model.load_state_dict(_read_state(folder / "weights.safetensors"), strict=False)
    if missing or unexpected:
        raise UsageError(f"{folder}: weights.safetensors does not belong to network.json "
                         f"({len(missing)} tensors missing, {len(unexpected)} unknown); copy both from one run.")
    return model.eval(), record


def checkpoint_folder(path: Path) -> Path:
    """The folder of a checkpoint given as that folder or as a file in it; UsageError if there is none."""
    path = Path(path)
    folder = path.parent if path.is_file() else path
    for name in ("network.json", "weights.safetensors"):
        if not (folder / name).is_file():
            raise UsageError(f"{path} is not a detector checkpoint: {name} is missing; give the folder "
                             "checkpoints/best of a finished run.")
    return folder


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        structure, names = record["structure"], record["class_names"]
        known = set(structure) <= STRUCTURE_KEYS and record["format"] == FORMAT and len(names) == int(record["nc"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UsageError(f"{folder / 'network.json'} cannot be read ({error}); copy it again from its run.") from None
    if not known:
        raise UsageError(f"{folder / 'network.json'} is not of the form {FORMAT}; train again or use a newer Clarion.")
    activation = structure.get("activation")
    if activation and not ACTIVATION.fullmatch(str(activation)):  # ultralytics evaluates this text as Python
        raise UsageError(f"{folder / 'network.json'}: activation {activation!r} is not a plain torch.nn activation; "
                         "this file is not safe to load.")
    return record


def _read_state(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{file} cannot be read ({error}); copy it again from its run.") from None


def find_start_weights(weights: str) -> Path:
    """`model.weights` as the path of a file that exists; UsageError saying what to do where there is none."""
    path = start_weights(weights, FORMAT)
    if not path.exists():
        raise UsageError(
            f"model.weights={weights} does not exist and nothing is downloaded here: fetch it yourself (official "
            "weights: https://github.com/ultralytics/assets/releases) and give its path, or use model.weights=null "
            "to train from scratch.")  # fmt: skip
    if path.suffix in (".pt", ".safetensors") and path.is_file():
        return path
    return checkpoint_folder(path) / "weights.safetensors"


def load_start_weights(model: torch.nn.Module, weights: str) -> None:
    """Copy every tensor of matching name and shape from `weights` into model (a head for other classes stays new).

    weights: a checkpoint of ours (folder or .safetensors file), or an ultralytics .pt, which is a pickle and is
    therefore read by torch's restricted unpickler (weights_only=True with the library's list of known classes).
    """
    path = find_start_weights(weights)
    state = _read_pickled_state(path) if path.suffix == ".pt" else _read_state(path)
    own = model.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not any(v.ndim > 1 for v in fitting.values()):
        raise UsageError(f"model.weights={weights} fits no layer of {model.yaml.get('yaml_file', 'this network')}; "
                         "choose weights of the same network and size.")
    model.load_state_dict(fitting, strict=False)
    log.info("start weights: %d of %d tensors taken from %s", len(fitting), len(own), path.name)


def _read_pickled_state(path: Path) -> dict[str, torch.Tensor]:
    from ultralytics.nn.tasks import torch_safe_load

    remedy = ("load it in its own project, write model.state_dict() with safetensors.torch.save_file, and give that "
              ".safetensors file")
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):  # then the library would unpickle freely
        raise UsageError(f"model.weights={path} is a pickle, which this torch cannot read safely; {remedy}.")
    try:
        content, _ = torch_safe_load(str(path.resolve()), safe_only=True)
        return (content.get("ema") or content["model"]).float().state_dict()
    except Exception as error:  # the restricted unpickler has no error class of its own
        log.debug("%s", error)
        raise UsageError(f"model.weights={path} is a pickle that may run any code when opened, and it holds more than "
                         f"a plain ultralytics network, so it is refused; {remedy}.") from error
