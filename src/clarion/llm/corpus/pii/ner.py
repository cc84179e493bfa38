"""An optional recogniser: a token-classification model of transformers that lies on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from clarion.errors import UsageError
from clarion.llm.corpus.pii.span import Span

# Entity labels of usual models (CoNLL-2003, KLUE, i2b2 2014, Naver NER), without their B- and I-.
LABELS = {
    "PER": "NAME", "PERSON": "NAME", "PS": "NAME", "NAME": "NAME", "PATIENT": "NAME", "DOCTOR": "NAME",
    "STAFF": "NAME",
    "DATE": "DATE", "DAT": "DATE", "DT": "DATE", "PHONE": "PHONE", "EMAIL": "EMAIL", "ID": "ID", "MEDICALRECORD": "ID",
    "IDNUM": "ID", "URL": "URL", "AGE": "AGE", "STREET": "ADDRESS", "ADDRESS": "ADDRESS", "ZIP": "ADDRESS",
}  # fmt: skip
WINDOW, OVERLAP = 1200, 200  # characters: within the 512 tokens of usual models


def check(path: str) -> None:
    """Raises UsageError unless `path` is a folder with a token-classification model in safetensors."""
    import json

    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise UsageError(
            f"pii.ner={path}: no model folder with config.json and *.safetensors on this machine; download a "
            "token-classification model there, or write pii.ner: null to use patterns and lists alone."
        )
    kinds = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    if not any("TokenClassification" in str(kind) for kind in kinds):
        found = ", ".join(kinds) or "unnamed"
        raise UsageError(f"pii.ner={path}: the model is {found}; give one for token classification.")


@lru_cache(maxsize=1)
def _pipeline(path: str) -> Any:
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    folder = str(Path(path).expanduser())
    network = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return pipeline(
        "token-classification", model=network, tokenizer=tokenizer, aggregation_strategy="simple", device=-1
    )


def find_entities(text: str, path: str, score: float) -> Iterator[Span]:
    """Entities of the kinds of LABELS with at least `score`, from overlapping windows of the text."""
    starts = range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP)
    windows = [text[s : s + WINDOW] for s in starts]
    for start, found in zip(starts, _pipeline(path)(windows, batch_size=8), strict=True):
        for entity in found:
            label = str(entity["entity_group"]).upper().removeprefix("B-").removeprefix("I-")
            kind = LABELS.get(label)
            if kind and entity["score"] >= score and entity["end"] > entity["start"]:
                begin, end = start + entity["start"], start + entity["end"]
                begin += len(text[begin:end]) - len(text[begin:end].lstrip())
                yield Span(begin, end, kind)
