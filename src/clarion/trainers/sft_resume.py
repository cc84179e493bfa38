"""Which of transformers' checkpoints a training goes on from: the newest that a kill left whole."""

from __future__ import annotations

import json
import logging
import re
import shutil
import zipfile
from pathlib import Path

log = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")
_STATE = "trainer_state.json"  # the library writes it last


def last_whole(folder: Path) -> str | None:
    """The checkpoint-<step> of the highest step that can be read whole; damaged newer ones are removed.

    The library itself takes the newest folder, also where a kill or a full disk cut its files short.
    """
    if not folder.is_dir():
        return None
    found = sorted((int(m.group(1)), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name)) and p.is_dir())
    for _, path in reversed(found):
        problem = _damage(path)
        if problem is None:
            return str(path)
        log.warning("%s is damaged (%s): the training goes on from the checkpoint before it.", path.name, problem)
        shutil.rmtree(path)
    return None


def tokens_until(checkpoint: str) -> int:
    """Tokens trained on when a checkpoint was written; TRL counts anew in every process."""
    history = json.loads((Path(checkpoint) / _STATE).read_text(encoding="utf-8"))["log_history"]
    return next((int(row["num_tokens"]) for row in reversed(history) if "num_tokens" in row), 0)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        json.loads((path / _STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {_STATE}"
    except ValueError:
        return f"{_STATE} is cut short"
    weights = sorted(path.rglob("*.safetensors"))
    for file in [*weights, *path.rglob("*.pt"), *path.rglob("*.pth")]:
        try:
            if file.suffix == ".safetensors":
                from safetensors import safe_open

                with safe_open(file, framework="pt"):
                    pass
            elif zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    if archive.testzip():
                        return f"{file.name} is damaged"
            else:
                return f"{file.name} is cut short"
        except Exception:  # noqa: BLE001  safetensors and zipfile have their own errors for half a file
            return f"{file.name} is cut short"
    return None
