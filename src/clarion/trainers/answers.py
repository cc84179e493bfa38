"""Answers of language models, kept on this machine, so that an interrupted evaluation goes on where it stopped.

One SQLite file a model below the cache folder: hash of the request -> answer. A request is hashed with everything
that decides its answer (token ids or messages, options, generation settings); the model's own hash names the file.
No prompt is stored, only hashes and answers. An answer may still repeat what a prompt said, so answers to private
data are kept only where the user asks for it (model.cache=true).
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clarion.data.cache import cache_dir
from clarion.errors import UsageError

VERSION = "1"  # raise when the way an answer is computed changes
CHOICES = ("auto", "true", "false")
KEYS_AT_ONCE = 500  # SQLite takes a limited number of values in one statement


def digest(*parts: Any) -> str:
    """One hash of JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def wanted(setting: Any, data_kind: str | None) -> bool:
    """model.cache: true, false, or auto (kept unless the data are private, or of a kind that nobody named)."""
    name = str(setting).lower()
    if name not in CHOICES:
        raise UsageError(f"model.cache={setting} is unknown: write auto, true or false.")
    return name == "true" or (name == "auto" and data_kind in ("phantom", "public"))


class AnswerCache:
    """Answers of one model, by hash of the request. Safe to be killed at any time, and for several processes."""

    def __init__(self, model: str):
        """model: a hash that no two different models share."""
        folder = cache_dir() / "answers"
        folder.mkdir(mode=0o700, exist_ok=True)
        self.path = folder / f"{digest(VERSION, model)[:32]}.sqlite"
        handle = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)  # answers are the user's alone
        os.close(handle)
        self._database = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        self._database.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        self._database.commit()

    def find(self, requests: Sequence[str]) -> dict[str, Any]:
        """The answers that are known already: request hash -> answer."""
        found: dict[str, Any] = {}
        for start in range(0, len(requests), KEYS_AT_ONCE):
            part = list(requests[start : start + KEYS_AT_ONCE])
            marks = ",".join("?" * len(part))
            rows = self._database.execute(f"SELECT request, answer FROM answers WHERE request IN ({marks})", part)
            found |= {request: json.loads(answer) for request, answer in rows}
        return found

    def keep(self, answers: Mapping[str, Any]) -> None:
        """Store answers for good before it returns."""
        rows = [(request, json.dumps(answer, ensure_ascii=False)) for request, answer in answers.items()]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)


class NoCache:
    """Keeps nothing."""

    path: Path | None = None

    def find(self, requests: Sequence[str]) -> dict[str, Any]:
        return {}

    def keep(self, answers: Mapping[str, Any]) -> None:
        pass


def network_identity(network: Any, tokenizer: Any) -> str:
    """Hash of the weights as they lie in memory (adapter and its scaling, precision and quantisation included), of the
    architecture and of the tokenizer with its chat template. About a second for a billion weights."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted({**dict(network.named_parameters()), **dict(network.named_buffers())}.items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
    # An adapter's factor (alpha / r, or alpha / sqrt(r)) multiplies its matrices and stands in none of them.
    adapters = {
        name: dict(module.scaling)
        for name, module in network.named_modules()
        if isinstance(getattr(module, "scaling", None), dict)
    }
    config = {k: v for k, v in network.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    vocabulary = digest(sorted(tokenizer.get_vocab().items()), tokenizer.chat_template)
    return digest(total.hexdigest(), config, adapters, vocabulary, network.device.type)
