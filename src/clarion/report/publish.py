"""The end of a run, sent to a tracker: final table, subgroups and overlays (the tracker decides what may leave)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas

from clarion.report.cases import classification_mistakes, detection_cases, generation_examples
from clarion.report.files import read_run
from clarion.report.overlays import overlay_picture
from clarion.report.results import entries
from clarion.tracking import Tracker


def publish_results(
    tracker: Tracker, run_directory: str | os.PathLike, results: Mapping | None = None, images: Mapping | None = None
) -> None:
    """Scores with intervals, curves, confusion, a summary, the final table and overlays of one run.

    results and images as in `write_run_report`.
    """
    run = read_run(Path(run_directory), results, images)
    rows, subgroups, summary = [], [], {}
    for evaluator, result in run.evaluators.items():
        baselines = entries(result.get("baseline"))
        for metric, entry in entries(result.get("metrics")).items():
            rows.append(
                _row(evaluator, metric, entry, run.data_kind) | {"baseline": baselines.get(metric, {}).get("value")}
            )
            summary |= {f"{evaluator}/{metric}{end}": entry.get(key)
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
    if rows:
        tracker.table("results", pandas.DataFrame(rows))
    if subgroups:
        tracker.table("subgroups", pandas.DataFrame(subgroups))
    if examples := generation_examples(run):
        tracker.table("examples", pandas.DataFrame(examples))
    cases = detection_cases(run)
    if not cases.samples:
        cases = classification_mistakes(run)
    for case in cases.shown:
        path = run.images.get(case.sample_id)
        if path and (picture := overlay_picture(case, path)):
            tracker.image(
                f"overlays/{case.group}/{case.sample_id}", picture, f"{case.note} (truth dashed, prediction solid)"
            )
    tracker.summary({name: value for name, value in summary.items() if value is not None})


def _row(evaluator: str, metric: str, entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    keys = ("value", "low", "high", "n", "n_patients", "unit", "method")
    return {"evaluator": evaluator, "metric": metric, **{key: entry.get(key) for key in keys}, "data": kind}
