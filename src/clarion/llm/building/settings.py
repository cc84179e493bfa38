"""What `clarion instruct build` may be told: the settings of conf/instruct/*.yaml, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from clarion import config
from clarion.errors import UsageError
from clarion.llm.options import MOST

KINDS = ("mcqa", "eqa")


@dataclass(frozen=True)
class BuildSettings:
    """documents: a jsonl file of {id, text [, title, patient_id]}, or a corpus folder (documents*.jsonl). generator:
    see clarion.generating. kinds: what is asked of every passage; per_passage: how many of each; options: of a
    multiple-choice question. passage_words: documents are cut at paragraphs into passages of at most so many words,
    shorter ones than least_words are left out; passages: at most so many of a document. language: of the questions.
    grounded: least share of the answer's content words that must stand in the passage; near: Jaccard from which two
    questions are the same; splits: shares of the documents; data_kind: public | private of the documents."""

    documents: str | None = None
    generator: Any = None
    kinds: tuple[str, ...] = KINDS
    per_passage: int = 2
    options: int = 4
    passage_words: int = 350
    least_words: int = 40
    passages: int | None = 4
    language: str = "English"
    grounded: float = 0.6
    near: float = 0.8
    splits: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1})
    data_kind: str = "private"
    batch: int = 16
    seed: int = 0

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> BuildSettings:
        """A mapping (a yaml file's content) -> settings; UsageError with all that is wrong at once."""
        known = [f.name for f in fields(cls)]
        problems = []
        for name in raw:
            if name not in known:
                problems.append(f"{name}: no such setting.{config.nearest(str(name), known)}")
        settings = cls(**{k: _tuple(v) for k, v in raw.items() if k in known})
        problems += settings.problems()
        if problems:
            raise UsageError(config.numbered(problems))
        return settings

    def problems(self) -> list[str]:
        """Everything wrong with the values, as sentences."""
        found = []
        if not self.documents:
            found.append("documents: say documents=PATH, a jsonl file of {id, text} or a corpus folder.")
        if not self.kinds or set(self.kinds) - set(KINDS):
            found.append(f"kinds={list(self.kinds)}: one or both of {', '.join(KINDS)}.")
        if not isinstance(self.options, int) or not 2 <= self.options <= MOST:
            found.append(f"options={self.options}: 2 to {MOST}.")
        for name in ("per_passage", "passage_words", "least_words", "batch"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                found.append(f"{name}={getattr(self, name)}: a whole number of at least 1.")
        if self.passages is not None and (not isinstance(self.passages, int) or self.passages < 1):
            found.append(f"passages={self.passages}: at least 1, or null for all.")
        for name in ("grounded", "near"):
            if not isinstance(getattr(self, name), int | float) or not 0 <= getattr(self, name) <= 1:
                found.append(f"{name}={getattr(self, name)}: a share from 0 to 1.")
        shares = dict(self.splits)
        if set(shares) - {"train", "val", "test"} or abs(sum(shares.values()) - 1) > 1e-6 or min(shares.values()) < 0:
            found.append(f"splits={shares}: shares of train, val and test that sum to 1.")
        if self.data_kind not in ("public", "private"):
            found.append(f"data_kind={self.data_kind}: public or private.")
        return found


def read_settings(name: str, overrides: Sequence[str] = ()) -> BuildSettings:
    """A yaml file, or the name of one in conf/instruct, with KEY=VALUE overrides (values in yaml) on top."""
    folder = config.conf_dir() / "instruct"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    path = folder / f"{name}.yaml" if name in known else Path(name).expanduser()
    if not path.is_file():
        raise UsageError(f"{name}: no such file, nor one of {', '.join(known)}.{config.nearest(name, known)}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        given = {}
        for text in overrides:
            key, sign, value = text.partition("=")
            if not sign:
                raise UsageError(f"{text}: give KEY=VALUE, for example per_passage=3.")
            given[key] = yaml.safe_load(value)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} or a KEY=VALUE is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{path} is no mapping of settings; conf/instruct/documents.yaml shows all of them.")
    return BuildSettings.read(raw | given)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
