"""Trackers: where a run's curves, tables and pictures go while it runs.

`trackers(cfg.tracker, ...)` always writes local files and puts W&B or TensorBoard beside them. The local
files are the record (an error there stops the run); the other one is a convenience: when it fails, it is
switched off with one warning and the training goes on.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas
from PIL import Image

from clarion.errors import ClarionError, UsageError
from clarion.jobs import BOARD

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a run may report. Steps are epochs or logging steps of the trainer, never negative."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Points of curves: {"train/loss": 0.5, ...} at one step. Non-finite values are recorded as missing."""

    def config(self, config: Mapping[str, Any]) -> None:
        """The composed configuration (plain dict)."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final values, one a name."""

    def image(self, name: str, picture: str | os.PathLike | Image.Image, caption: str = "") -> None:
        """One picture. It must carry no identifier but pseudonyms."""

    def table(self, name: str, table: pandas.DataFrame) -> None:
        """A table; cells may be pictures (PIL), such as overlays."""

    def curve(self, name: str, x: Sequence[float], y: Sequence[float], x_label: str = "x", y_label: str = "y") -> None:
        """A curve that is not over steps: precision over recall, calibration."""

    def confusion(self, labels: Sequence[str], matrix: Sequence[Sequence[int]], name: str = "confusion") -> None:
        """Counts, rows: truth, columns: prediction, both in the order of `labels`."""

    def artifact(self, name: str, kind: str, facts: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """What came out or went in, by what identifies it. kind: model | dataset; facts: hashes, sizes, counts; files
        {name: path}: what may be kept with it."""

    def finish(self, status: str = "complete") -> None:
        """`status`: complete | failed. Safe to call twice."""


def trackers(cfg_tracker: Any, directory: str | os.PathLike, data_kind: str, run_name: str | None = None) -> Tracker:
    """Local files plus the tracker the config chose (`conf/tracker`).

    `data_kind`: phantom | public | private. Raises UsageError when the chosen tracker cannot exist (its
    package is not installed, an unknown mode); any other failure of it leaves the local one, with a warning.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from clarion import config

    plain = OmegaConf.to_container(cfg_tracker, resolve=True) if OmegaConf.is_config(cfg_tracker) else cfg_tracker
    if problems := config.target_problems(plain or {}):
        raise UsageError(config.numbered(problems))
    directory = Path(directory)
    local = LocalTracker(directory)
    target = (plain or {}).get("_target_")
    if target is None or target.endswith(".LocalTracker"):
        return local
    try:
        if target.endswith(".WandbTracker"):
            plain = plain | {k: v for k, v in belonging(directory).items() if plain.get(k) is None}
        chosen = instantiate(
            plain, directory=directory, run_name=run_name or directory.name, data_kind=data_kind, _convert_="all"
        )
    except Exception as error:
        # hydra wraps what the constructor raised
        cause = error if isinstance(error, ClarionError) else error.__cause__
        if isinstance(cause, ClarionError):
            raise cause from None
        logger.warning("%s cannot start (%s); this run is tracked in local files only.", target, first_line(error))
        return local
    return Trackers(local, chosen)


def belonging(directory: Path) -> dict[str, str]:
    """{group, job_type} of the run that is being made: the experiment (of a sweep: with the sweep's id), and train,
    eval or trial. Both are for viewers that fold the runs of an experiment together."""
    from hydra.core.hydra_config import HydraConfig

    manifest = directory / "manifest.json"
    kind = json.loads(manifest.read_text(encoding="utf-8")).get("kind") if manifest.is_file() else None
    found = {"job_type": {"evaluation": "eval", "trial": "trial"}.get(kind, "train")}
    if not HydraConfig.initialized():
        return found
    hydra = HydraConfig.get()
    group = str(hydra.runtime.choices.get("experiment") or "")
    if "MULTIRUN" in str(hydra.mode):
        # the folder where the jobs of one sweep post their outcomes, wherever they run
        sweep = os.environ.get("WANDB_SWEEP_ID") or Path(os.environ.get(BOARD, "")).name
        group = "-".join(filter(None, (group or "sweep", sweep)))
    return found | ({"group": group} if group and group != "None" else {})


class Trackers:
    """Local files first, then another tracker, which is dropped at its first error."""

    def __init__(self, local: Tracker, other: Tracker):
        self.local = local
        self.other: Tracker | None = other

    def _both(self, method: str, *args: Any) -> None:
        getattr(self.local, method)(*args)
        if self.other is None:
            return
        try:
            getattr(self.other, method)(*args)
        except Exception as error:
            name = type(self.other).__name__
            logger.warning("%s failed in %s (%s); it is off from here on.", name, method, first_line(error))
            broken, self.other = self.other, None
            try:
                broken.finish("failed")
            except Exception as closing:
                logger.debug("closing %s failed as well: %s", name, closing)

    def log(self, metrics, step):
        self._both("log", metrics, step)

    def config(self, config):
        self._both("config", config)

    def summary(self, values):
        self._both("summary", values)

    def image(self, name, picture, caption=""):
        self._both("image", name, picture, caption)

    def table(self, name, table):
        self._both("table", name, table)

    def curve(self, name, x, y, x_label="x", y_label="y"):
        self._both("curve", name, x, y, x_label, y_label)

    def confusion(self, labels, matrix, name="confusion"):
        self._both("confusion", labels, matrix, name)

    def artifact(self, name, kind, facts, files):
        self._both("artifact", name, kind, facts, files)

    def finish(self, status="complete"):
        self._both("finish", status)


class LocalTracker:
    """metrics.jsonl and media/ in the run directory.

    One line a call of `log`: {"step": int, "time": seconds since 1970, <metric>: number or null}. An existing
    file means a resumed run: a last line that the kill tore is cut off, the first `log` drops what the killed run
    wrote after that step, and what it wrote at that step is replaced metric by metric, so no step is doubled.
    """

    def __init__(self, directory: str | os.PathLike, **_: Any):  # run_name, data_kind: of no use here
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.path = self.directory / "metrics.jsonl"
        cut_torn_line(self.path)
        self._earlier = read_jsonl(self.path)
        self._at_seam: list[dict[str, Any]] = []
        self._finite = Finite()
        self._file = None

    def log(self, metrics, step):
        row = {"step": int(step), "time": round(time.time(), 3), **self._finite.only(metrics, null=True)}
        if self._earlier and (not self._at_seam or self._at_seam[0]["step"] == row["step"]):
            self._join(row)
            return
        self._earlier = []  # past the seam: from here on lines are only appended
        if self._file is None:
            self._file = open(self.path, "a", encoding="utf-8")
        self._file.write(_line(row))
        self._file.flush()

    def _join(self, row: dict[str, Any]) -> None:
        """Rewrite the file without what a killed run wrote and this one now writes again."""
        self._at_seam.append(row)
        kept = []
        for line in self._earlier:
            if line["step"] == row["step"]:
                line = {name: value for name, value in line.items() if name in ("step", "time") or name not in row}
            if line["step"] <= row["step"] and len(line) > 2:
                kept.append(line)
        self._earlier = kept
        partial = self.path.with_suffix(".jsonl.partial")
        partial.write_text("".join(map(_line, kept + self._at_seam)), encoding="utf-8")
        partial.replace(self.path)

    def config(self, config):
        """Nothing: the record keeps config.yaml."""

    def summary(self, values):
        """Nothing: the record keeps metrics.json."""

    def image(self, name, picture, caption=""):
        opened = picture if isinstance(picture, Image.Image) else Image.open(picture)
        opened.save(self._media(name, ".png"))

    def table(self, name, table):
        plain = table.copy()
        for column in picture_columns(table):
            for row, picture in enumerate(table[column]):
                path = self._media(f"{name}_{row:03d}", ".png")
                picture.save(path)
                plain.iloc[row, plain.columns.get_loc(column)] = path.name
        plain.to_csv(self._media(name, ".csv"), index=False)

    def curve(self, name, x, y, x_label="x", y_label="y"):
        content = {"x": floats(x), "y": floats(y), "x_label": x_label, "y_label": y_label}
        self._media(name, ".json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    def confusion(self, labels, matrix, name="confusion"):
        content = {"labels": list(labels), "matrix": [[int(n) for n in row] for row in matrix]}
        self._media(name, ".json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    def artifact(self, name, kind, facts, files):
        """Nothing: checkpoints and manifest.json lie in the run directory."""

    def _media(self, name: str, suffix: str) -> Path:
        folder = self.directory / "media"
        folder.mkdir(exist_ok=True)
        return folder / (safe_name(name) + suffix)

    def finish(self, status="complete"):
        if self._file is not None:
            self._file.close()
            self._file = None


class Finite:
    """Plain numbers out of whatever a library logged (0-d arrays, tensors); NaN and inf are named once."""

    def __init__(self, warn: bool = True):
        self._warned = not warn

    def only(self, metrics: Mapping[str, Any], null: bool = False) -> dict[str, float | None]:
        values = {str(name): finite_or_none(value) for name, value in metrics.items()}
        missing = [name for name, value in values.items() if value is None]
        if missing and not self._warned:
            self._warned = True
            logger.warning("Not a finite number, recorded as missing: %s (said once).", ", ".join(missing))
        return values if null else {name: value for name, value in values.items() if value is not None}


def picture_columns(table: pandas.DataFrame) -> list[str]:
    """Columns whose cells are all pictures."""
    return [c for c in table.columns if len(table) and all(isinstance(cell, Image.Image) for cell in table[c])]


def finite_or_none(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def floats(values: Sequence[float]) -> list[float | None]:
    return [finite_or_none(value) for value in values]


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def safe_name(name: str) -> str:
    """A file name out of any label: no separators, no leading dot, at most 120 characters."""
    return re.sub(r"[^\w.\-]+", "_", name).lstrip("._")[:120] or "unnamed"


def cut_torn_line(path: Path) -> None:
    """Drop what follows the last line break, which a kill in the middle of a write left: the next line would be
    joined to it and be lost with it. A whole line that lacks only its break gets one."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if last := content[len(whole) :]:
        if kept := _row(last.decode("utf-8", errors="replace")) is not None:
            whole = content + b"\n"
        partial = path.with_suffix(".jsonl.partial")
        partial.write_bytes(whole)
        partial.replace(path)
        if not kept:
            logger.warning("%s: its last line was torn by the end of the earlier process and is dropped.", path.name)


def _row(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None for what is none."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl in order; [] when absent. Lines that cannot be read, such as one torn by a kill,
    are left out with one warning. The file is not touched: its run may still be going on."""
    path = Path(path)
    if not path.exists():
        return []
    rows, torn = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # not at U+2028, as splitlines would
        row = _row(line)
        if row is not None:
            rows.append(row)
        else:
            torn += bool(line.strip())
    if torn:
        logger.warning("%s: %d unreadable line(s) left out.", path.name, torn)
    return rows


def without_paths(value: Any) -> Any:
    """A plain copy in which absolute paths read "<local path>": folders are often named after people."""
    if isinstance(value, Mapping):
        return {str(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:  # a numpy or torch number
        value = value.item()
    text = str(value) if isinstance(value, (str, os.PathLike)) else None
    if text is not None and (re.match(r"([A-Za-z]:)?[\\/]|~", text) or text.startswith("file:")):
        return "<local path>"
    if isinstance(value, (str, bool, int, type(None))):
        return value
    return Finite(warn=False).only({"": value}, null=True)[""] if isinstance(value, float) else str(value)
