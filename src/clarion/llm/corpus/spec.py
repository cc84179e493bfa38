"""The settings of a corpus: a YAML file checked as a whole, every mistake answered at once with the nearest name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clarion import config
from clarion.errors import UsageError

FORMATS = ("pdf", "xml", "json", "jsonl", "txt", "md", "html")
PII_TYPES = (
    "NAME", "DATE", "AGE", "EMAIL", "URL", "IP", "PHONE", "ID", "RRN", "SSN", "CARD", "BUSINESS", "ADDRESS",
)  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One setting: its default, what a value must be (a sentence) and the test that decides."""

    default: Any
    what: str
    accepts: Callable[[Any], bool]


def _number(default: Any, low: float, high: float, whole: bool = False, null: bool = False) -> Field:
    def accepts(value: Any) -> bool:
        if value is None:
            return null
        kinds = (int,) if whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high

    kind = "a whole number" if whole else "a number"
    bound = f" from {low:g} to {high:g}"
    return Field(default, kind + bound + (" or null" if null else ""), accepts)


def _choice(default: Any, *choices: str) -> Field:
    return Field(default, "one of " + ", ".join(choices), lambda value: value in choices)


def _flag(default: bool) -> Field:
    return Field(default, "true or false", lambda value: isinstance(value, bool))


def _text(default: str | None, null: bool = False) -> Field:
    what = "a text" + (" or null" if null else "")
    return Field(default, what, lambda v: (v is None and null) or (isinstance(v, str) and bool(v.strip())))


def _texts(default: list[str], choices: tuple[str, ...] | None = None) -> Field:
    def accepts(value: Any) -> bool:
        texts = isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
        return texts and (choices is None or set(value) <= set(choices))

    return Field(default, "a list of " + (f"any of {', '.join(choices)}" if choices else "texts"), accepts)


SOURCE: dict[str, Field] = {
    "name": _text(None),
    "path": _text(None),
    "formats": _texts(list(FORMATS), FORMATS),
    "licence": _text("unknown"),
    "text_field": _text(None, null=True),
    "title_field": _text(None, null=True),
    "id_field": _text(None, null=True),
    "patient_field": _text(None, null=True),
}
SCHEMA: dict[str, Any] = {
    "name": _text("corpus"),
    "kind": _choice("private", "private", "public"),
    "seed": _number(0, 0, 2**31, whole=True),
    "workers": _number(2, 0, 256, whole=True),
    "sources": Field([], "a list of {name, path, ...}", lambda value: isinstance(value, list)),
    "extract": {
        "tables": _choice("text", "text", "drop"),
        "references": _choice("drop", "drop", "keep"),
        "captions": _choice("keep", "keep", "drop"),
        "max_file_mb": _number(512, 0.001, 100_000),
        "max_seconds": _number(600, 1, 86_400),
        "max_pages": _number(2000, 1, 100_000, whole=True),
        "max_document_chars": _number(5_000_000, 1000, 100_000_000, whole=True),
    },
    "filters": {
        "min_words": _number(50, 0, 1e9, whole=True),
        "max_words": _number(None, 1, 1e9, whole=True, null=True),
        "duplicate_paragraphs": _number(0.3, 0, 1, null=True),
        "duplicate_characters": _number(0.2, 0, 1, null=True),
        "symbols_per_word": _number(0.1, 0, 100, null=True),
        "words_with_letters": _number(0.6, 0, 1, null=True),
        "mean_word_length": Field(
            [2.0, 14.0],
            "[lowest, highest] in characters, or null",
            lambda v: v is None or (isinstance(v, list) and len(v) == 2 and all(isinstance(x, int | float) for x in v)),
        ),
    },
    "language": {
        "keep": Field(
            ["en"],
            "a list of ISO 639-1 codes ([en, ko]), or null for all",
            lambda v: (
                v is None or (isinstance(v, list) and v and all(isinstance(x, str) and len(x) in (2, 3) for x in v))
            ),
        ),
        "threshold": _number(0.4, 0, 1),
    },
    "ophthalmology": {"threshold": _number(None, 0, 1000, null=True), "mesh": _number(6.0, 0, 1000)},
    "pii": {
        "mode": _choice("placeholder", "placeholder", "surrogate", "off"),
        "types": _texts(list(PII_TYPES), PII_TYPES),
        "dates": _choice("auto", "auto", "all", "birth", "none"),
        "date_action": _choice("remove", "remove", "shift"),
        "ner": _text(None, null=True),
        "ner_score": _number(0.7, 0, 1),
    },
    "dedup": {
        "exact": _flag(True),
        "near": _flag(True),
        "shingle_words": _number(5, 1, 50, whole=True),
        "jaccard": _number(0.8, 0.3, 1.0),
        "permutations": _number(128, 16, 1024, whole=True),
        "max_candidates": _number(200, 1, 1e6, whole=True),
    },
    "summaries": {
        "generator": Field("none", "none, a model, a folder, URL#MODEL or a mapping with `kind`", lambda v: True),
        "above_tokens": _number(70_000, 1, 1e9, whole=True),
        "chunk_tokens": _number(2000, 32, 1e6, whole=True),
        "target_tokens": _number(4000, 32, 1e6, whole=True),
    },
    "tokens": _text("smollm2_135m"),
    "output": {"shard_mb": _number(64, 0.001, 4096), "commit_s": _number(5, 0, 3600)},
}


def load(path: Path, overrides: list[str] = ()) -> dict[str, Any]:
    """Read conf (YAML) and KEY=VALUE overrides (`sources.0.path=/data`), fill in the defaults, check everything.

    Paths of sources are resolved against the file's folder. Raises UsageError with all problems at once."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: no such readable conf file ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML in UTF-8: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise UsageError(f"{path} holds no settings: see conf/corpus/ophthalmology.yaml for all of them.")
    problems: list[str] = []
    for text in overrides:
        _override(given, text, problems)
    spec = _filled(given, SCHEMA, "", problems)
    spec["sources"] = _sources(given.get("sources"), path.parent, problems)
    if problems:
        raise UsageError(config.numbered(problems))
    return spec


def find(name: str) -> Path:
    """A conf file by its path, or by the name of one that comes with Clarion. Raises UsageError with the nearest."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = config.choices("corpus")
    if name in known:
        return config.conf_dir() / "corpus" / f"{name}.yaml"
    siblings = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    hint = config.nearest(path.name, [*known, *siblings])
    raise UsageError(f"{name}: no such conf file.{hint} (they come with Clarion: {', '.join(known)})")


def _override(given: dict[str, Any], text: str, problems: list[str]) -> None:
    key, sign, value = text.partition("=")
    if not sign:
        problems.append(f"{text}: give KEY=VALUE, for example dedup.jaccard=0.7.")
        return
    node: Any = given
    *parents, last = key.split(".")
    try:
        parsed = yaml.safe_load(value)
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
        node[int(last) if isinstance(node, list) else last] = parsed
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        problems.append(f"{text}: there is no such place in the conf file.")


def _filled(given: Mapping[str, Any], schema: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    for key in given:
        if key not in schema:
            problems.append(f"{where}{key}: no such setting.{config.nearest(str(key), schema)}")
    filled: dict[str, Any] = {}
    for key, field in schema.items():
        value = given.get(key, ...)
        if isinstance(field, Field):
            filled[key] = field.default if value is ... else value
            if value is not ... and not field.accepts(value):
                problems.append(f"{where}{key}={value}: write {field.what}.{_nearest_value(value, field)}")
        elif value is ... or value is None or isinstance(value, Mapping):
            filled[key] = _filled({} if value in (..., None) else value, field, f"{where}{key}.", problems)
        else:
            problems.append(f"{where}{key}={value}: write settings below it ({', '.join(field)}).")
            filled[key] = _filled({}, field, "", problems)
    return filled


def _nearest_value(value: Any, field: Field) -> str:
    words = field.what.replace("a list of any of ", "").replace("one of ", "").split(", ")
    wrong = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str) and v not in words]
    return config.nearest(wrong[0], words) if wrong and len(words) > 1 else ""


def _sources(given: Any, folder: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        problems.append("sources: name one source or more, each {name, path}: what the corpus is built from.")
        return []
    sources, names = [], set()
    for number, node in enumerate(given):
        where = f"sources[{number}]."
        if not isinstance(node, Mapping):
            problems.append(f"sources[{number}]={node}: write {{name: ..., path: ...}}.")
            continue
        for key in ("name", "path"):
            if node.get(key) is None:
                problems.append(f"{where}{key}: every source needs a {key}.")
        source = _filled(node, SOURCE, where, problems)
        if source["name"] in names:
            problems.append(f"{where}name={source['name']}: two sources have this name.")
        names.add(source["name"])
        if isinstance(source["path"], str):
            path = Path(source["path"]).expanduser()
            path = path if path.is_absolute() else folder / path
            if not path.exists():
                siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
                hint = config.nearest(path.name, siblings)
                problems.append(f"{where}path={source['path']}: no such file or folder.{hint}")
            source["path"] = path.resolve()
        sources.append(source)
    return sources
