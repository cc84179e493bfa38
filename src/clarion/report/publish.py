"""The end of a run, sent to a tracker: scores, tables with overlays, artifacts (the tracker decides what may leave)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas
import yaml

from clarion.data.filecache import digest_files
from clarion.errors import ClarionError
from clarion.record import hash_file
from clarion.report.cases import find_cases
from clarion.report.files import RunFiles, as_dict, read_run
from clarion.report.language import flat_examples
from clarion.report.overlays import overlay_picture
from clarion.report.results import entries
from clarion.tracking import Tracker

CASES_SENT = 12  # of each group: a tracker's table is for looking, the page has all


def publish_results(
    tracker: Tracker, run_directory: str | os.PathLike, results: Mapping | None = None, images: Mapping | None = None
) -> None:
    """Scores with intervals, curves, confusion, a summary, tables of cases and examples, and artifacts of one run.

    results and images as in `write_run_report`.
    """
    run = read_run(Path(run_directory), results, images)
    rows, subgroups, summary = [], [], {}
    for evaluator, result in run.evaluators.items():
        baselines = entries(result.get("baseline"))
        names = published_names(evaluator, run)
        for metric, entry in entries(result.get("metrics")).items():
            rows.append(
                _row(evaluator, metric, entry, run.data_kind) | {"baseline": baselines.get(metric, {}).get("value")}
            )
            for name in (f"{evaluator}/{metric}", *([names[metric]] if metric in names else [])):
                summary |= {f"{name}{end}": entry.get(key)
                            for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))}  # fmt: skip
        for column, groups in (result.get("subgroups") or {}).items():
            for value, metrics in groups.items():
                for metric, entry in entries(metrics).items():
                    subgroups.append(
                        {"column": column, "group": str(value)} | _row(evaluator, metric, entry, run.data_kind)
                    )
        for name, curve in (result.get("curves") or {}).items():
            axes = curve.get("x_label") or "x", curve.get("y_label") or "y"
            tracker.curve(f"{evaluator}/{name}", curve["x"], curve["y"], *axes)
        if confusion := result.get("confusion"):
            tracker.confusion(confusion["labels"], confusion["matrix"], f"{evaluator}/confusion")
    tables = {"results": rows, "subgroups": subgroups, "cases": _cases(run), "examples": flat_examples(run)}
    for name, table in tables.items():
        if table:
            tracker.table(name, pandas.DataFrame(table))
    tracker.summary({name: value for name, value in summary.items() if value is not None})
    _artifacts(tracker, run)


def published_names(evaluator: str, run: RunFiles) -> dict[str, str]:
    """{metric: its column's title} of the published table that the run's experiment names, else of the first one with
    this evaluator; {} where there is none."""
    from clarion.tables import find, table_names

    try:
        folders = {name: find(name) for name in table_names()}
    except ClarionError:  # no experiments folder beside an installed package
        return {}
    experiment = next((o.partition("=")[2] for o in run.overrides if o.lstrip("+").startswith("experiment=")), "")
    for name in sorted(folders, key=lambda n: not experiment.startswith(n)):
        spec = yaml.safe_load((folders[name] / "table.yaml").read_text(encoding="utf-8"))
        if spec.get("evaluator") == evaluator and "columns" in spec:
            return {c["metric"]: c["title"] for c in spec["columns"] if "metric" in c and "run" not in c}
    return {}


def _row(evaluator: str, metric: str, entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    keys = ("value", "low", "high", "n", "n_patients", "unit", "method")
    return {"evaluator": evaluator, "metric": metric, **{key: entry.get(key) for key in keys}, "data": kind}


def _cases(run: RunFiles) -> list[dict[str, Any]]:
    """A row a case with its drawn picture; none of private data (see RunFiles.shows_samples)."""
    rows = []
    for case in find_cases(run).few(CASES_SENT) if run.shows_samples else []:
        picture = overlay_picture(case, run.images.get(case.sample_id))
        if picture is not None:
            rows.append({"sample_id": case.sample_id, "group": case.group, "note": case.note,
                         "overlay (truth dashed)": picture})  # fmt: skip
    return rows


def _artifacts(tracker: Tracker, run: RunFiles) -> None:
    """The checkpoint with the hash of each file, and what identifies the data: hashes and counts, never the data."""
    manifest = run.manifest
    path = run.directory / str(manifest.get("checkpoint") or "\0")
    if manifest.get("checkpoint") and path.exists():
        files = {p.relative_to(run.directory).as_posix(): p for p in _files_of(path)}
        facts = {"run": run.name, "model": run.chosen("model"), "checkpoint_hash": manifest.get("checkpoint_hash")}
        facts |= {"parameters": manifest.get("parameters"), "git": as_dict(manifest.get("git")).get("revision")}
        facts["files"] = {name: {"bytes": p.stat().st_size, "sha256": hash_file(p)} for name, p in files.items()}
        tracker.artifact(f"{run.name}-checkpoint", "model", facts, files)
    if data := as_dict(manifest.get("data")):
        facts = {key: data.get(key) for key in ("name", "kind", "fingerprint", "split_hash", "counts")}
        images = sorted({*run.images.values()})
        facts["evaluated_files"] = sorted(digest_files(images).values()) if images else []  # hashes, no names
        tracker.artifact(f"{data.get('name')}-data", "dataset", facts, {})


def _files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
