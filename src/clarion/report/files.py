"""What lies in a run directory, read defensively: a part that is absent or damaged is None or empty."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas
import yaml

from clarion.errors import UsageError
from clarion.tracking import read_jsonl

logger = logging.getLogger(__name__)


@dataclass
class RunFiles:
    """One run. `results` is metrics.json; `images`: sample_id -> path of its image, where known."""

    directory: Path
    config: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    predictions: pandas.DataFrame | None = None
    truth: pandas.DataFrame | None = None
    images: dict[str, Path] = field(default_factory=dict)
    explanation: dict[str, Any] = field(default_factory=dict)  # which genes a survival model looked at
    error: str = ""

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def split(self) -> str:
        return str(self.results.get("split") or "test")

    @property
    def evaluators(self) -> dict[str, dict]:
        return {
            str(name): result for name, result in as_dict(self.results.get("evaluators")).items() if as_dict(result)
        }

    @property
    def data_card(self) -> dict[str, Any]:
        return as_dict(self.results.get("data_card"))

    @property
    def data_kind(self) -> str:
        """phantom | public | private | "" (not recorded)."""
        places = (
            self.results.get("data_kind"),
            self.data_card.get("kind"),
            as_dict(self.manifest.get("data")).get("kind"),
            as_dict(self.config.get("data")).get("kind"),
        )
        return next((str(kind) for kind in places if kind), "")

    @property
    def status(self) -> str:
        return str(self.manifest.get("status") or ("complete" if self.results else "unknown"))

    @property
    def shows_samples(self) -> bool:
        """Whether pictures and texts may be shown: not of private data (or data of unknown kind), unless the run was
        told so by tracker.log_images=true."""
        told = as_dict(self.config.get("tracker")).get("log_images") is True
        return told or self.data_kind in ("phantom", "public")

    @property
    def class_names(self) -> list[str]:
        """Names in the order of class indices; [] when no file tells."""
        for names in (self.data_card.get("class_names"), self.results.get("class_names")):
            if isinstance(names, list) and names:
                return [str(name) for name in names]
        for result in self.evaluators.values():
            labels = as_dict(result.get("confusion")).get("labels")
            if isinstance(labels, list) and labels:
                return [str(name) for name in labels]
        return []

    def class_name(self, index: Any) -> str:
        names = self.class_names
        return names[int(index)] if 0 <= int(index) < len(names) else str(int(index))

    def chosen(self, group: str) -> str:
        """The name of the model or data in the config."""
        return str(as_dict(self.config.get(group)).get("name") or self.results.get(group) or "")


def read_run(directory: str | Path, results: Mapping | None = None, images: Mapping | None = None) -> RunFiles:
    """Read a run directory. `results` stands in for a metrics.json that is not written yet; `images` gives
    the path of each sample's image where the run recorded none (private data).

    Raises UsageError when the folder is no run directory (neither config.yaml, manifest.json nor metrics.json).
    """
    directory = Path(directory).resolve()
    marks = ("config.yaml", "manifest.json", "metrics.json")
    if not any((directory / name).is_file() for name in marks):
        raise UsageError(f"{directory} is not a run directory: it holds none of {', '.join(marks)}.")
    run = RunFiles(
        directory,
        config=as_dict(_yaml(directory / "config.yaml")),
        overrides=[str(item) for item in _yaml(directory / "overrides.yaml") or []],
        manifest=as_dict(_json(directory / "manifest.json")),
        results=dict(results) if results is not None else as_dict(_json(directory / "metrics.json")),
        history=read_jsonl(directory / "metrics.jsonl"),
        explanation=as_dict(_json(directory / "explanation.json")),
    )
    error = directory / "error.txt"
    if error.is_file() and run.status != "complete":
        run.error = error.read_text(encoding="utf-8", errors="replace").strip()
    run.predictions = _table(directory / "predictions" / f"{run.split}.parquet")
    run.truth = _table(directory / "truth" / f"{run.split}.parquet")
    run.images = _images(run, images)
    return run


def _images(run: RunFiles, given: Mapping | None) -> dict[str, Path]:
    """Image of each sample: given, or truth/<split>_images.json, or the truth's column `image`.

    Paths are absolute, or relative to the run directory (or data.root) without leaving it.
    """
    recorded: dict[Any, Any] = as_dict(_json(run.directory / "truth" / f"{run.split}_images.json"))
    if run.truth is not None and "image" in run.truth:
        recorded = dict(zip(run.truth["sample_id"], run.truth["image"], strict=True)) | recorded
    data_root = as_dict(run.config.get("data")).get("root")
    roots = [run.directory] + ([Path(data_root)] if isinstance(data_root, str) else [])
    found = {}
    for sample, name in {**recorded, **(given or {})}.items():
        if not isinstance(name, (str, Path)) or not str(name):
            continue
        path = Path(name)
        candidates = [path] if path.is_absolute() else [root / path for root in roots if ".." not in path.parts]
        here = next((candidate for candidate in candidates if candidate.is_file()), None)
        if here:
            found[str(sample)] = here
    return found


def as_dict(value: Any) -> dict:
    return dict(value) if isinstance(value, Mapping) else {}


def _json(path: Path) -> Any:
    return _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))


def _yaml(path: Path) -> Any:
    return _read(path, lambda: yaml.safe_load(path.read_text(encoding="utf-8")))


def _table(path: Path) -> pandas.DataFrame | None:
    table = _read(path, lambda: pandas.read_parquet(path))
    if table is not None and "sample_id" not in table:
        logger.warning("%s has no column sample_id: its section is left out of the page.", path.name)
        return None
    return table


def _read(path: Path, reader) -> Any:
    if not path.is_file():
        return None
    try:
        return reader()
    except Exception as error:  # a page about a broken run is worth more than none
        logger.warning("%s cannot be read (%s): its section is left out of the page.", path.name, error)
        return None
