"""One run -> report.html: a static file that needs nothing but itself."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from clarion import __version__
from clarion.report.explained import explanation_view
from clarion.report.files import RunFiles, as_dict, read_run
from clarion.report.fused import ablation_view, beside_view, texts_view
from clarion.report.gallery import gallery_view
from clarion.report.language import contamination_view, examples_view
from clarion.report.looked import looking_view
from clarion.report.results import evaluator_view, flatten, grids, label, shown, training_charts
from clarion.tracking import without_paths

KINDS = {
    "phantom": "Phantom data: made by a simulator. These figures say nothing about patients.",
    "private": "Private data. This page holds pictures or text of it: keep it where the data may be kept.",
}
PRIVATE_HIDDEN = "Private data. Pictures and texts of it are left out; tracker.log_images=true shows them."
ENVIRONMENT = ("git", "device", "processes", "python", "platform", "cpu_count", "versions")  # of the manifest


def write_run_report(
    run_directory: str | os.PathLike, results: Mapping | None = None, images: Mapping | None = None
) -> Path:
    """Write report.html into a run directory from the files in it and return its path.

    results: stands in for metrics.json while that is not written yet; images: {sample_id: path} where the run
    recorded no paths (private data). Parts that are absent are left out. Raises UsageError when the folder
    is no run directory.
    """
    run = read_run(Path(run_directory), results, images)
    page = environment().get_template("run.html").render(run_view(run))
    return write(run.directory / "report.html", page)


def run_view(run: RunFiles) -> dict[str, Any]:
    """Everything the template shows, section by section; an empty section is left out by the template."""
    model, data = run.chosen("model"), run.chosen("data")
    return {
        "title": f"{model} on {data}" if model and data else model or run.name,
        "run": run,
        "error": _without_folders(run.error.splitlines()[0]) if run.error else "",
        "kind_sentence": _kind_sentence(run),
        "facts": _facts(run),
        "evaluators": [evaluator_view(name, result) for name, result in run.evaluators.items()],
        "contamination": {name: contamination_view(result) for name, result in run.evaluators.items()},
        "explanation": explanation_view(run.explanation),
        "beside": beside_view(run),
        "ablation": ablation_view(run.explanation),
        "texts": texts_view(run),
        "looking": looking_view(run),
        "gallery": gallery_view(run),
        "examples": examples_view(run),
        "curves": training_charts({run.name: run.history}),
        "card": grids(run.data_card),
        "command": _command(run),
        "config": yaml.safe_dump(without_paths(run.config), sort_keys=False, allow_unicode=True) if run.config else "",
        "manifest": [
            (str(key), shown(value))
            for key, value in flatten(without_paths(_without(run.manifest, *ENVIRONMENT))).items()
        ],
        "environment": [
            (label(str(key).replace(".", "_")), shown(value))
            for key, value in flatten({k: run.manifest[k] for k in ENVIRONMENT[:-1] if k in run.manifest}).items()
        ],
        "versions": [(str(key), shown(value)) for key, value in as_dict(run.manifest.get("versions")).items()],
    }


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    """The line under the title: what a reader asks first."""
    manifest = run.manifest
    seed = manifest.get("seed", run.config.get("seed"))
    samples = len(run.predictions) if run.predictions is not None else None
    facts = [
        ("status", run.status),
        ("evaluated on", f"{run.split}, {samples} samples" if samples is not None else ""),
        ("seed", seed),
        ("device", manifest.get("device")),
        ("took", duration(manifest.get("duration_s"))),
        ("finished", str(manifest.get("finished") or "")[:16].replace("T", " ")),
        ("run", run.name),
    ]
    return [(name, shown(value)) for name, value in facts if value not in (None, "", {})]


def duration(seconds: Any) -> str:
    """3725 -> 1 h 2 min"""
    if not isinstance(seconds, (int, float)):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _kind_sentence(run: RunFiles) -> str:
    hidden = run.data_kind == "private" and not run.shows_samples
    return PRIVATE_HIDDEN if hidden else KINDS.get(run.data_kind, "")


def _without(value: Mapping, *names: str) -> dict:
    return {key: item for key, item in value.items() if key not in names}


def _command(run: RunFiles) -> str:
    """The command that makes this run again; folders of this machine are masked, as they may name people."""
    program = str(run.manifest.get("argv0") or "")
    words = []
    for item in run.overrides:
        key, equals, value = item.partition("=")
        words.append(shlex.quote(f"{key}={without_paths(value)}" if equals else item))
    return " ".join(["python", program if program in ("train.py", "eval.py") else "train.py", *words])


def _without_folders(text: str) -> str:
    """/home/kim/scans/a.png -> …/a.png"""
    return re.sub(r"(?<![\w.])~?/(?:[^/\s'\"]+/)+", "…/", text)


@cache
def environment() -> Environment:
    """Templates of this package. Escaping is on: configs, texts of models and sample ids are not trusted."""
    found = Environment(
        loader=PackageLoader("clarion.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["version"] = __version__
    return found


def write(path: Path, page: str) -> Path:
    """Renamed into place when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path
