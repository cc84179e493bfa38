"""Several runs -> one page: scores side by side, what differs in their configs, curves overlaid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clarion.errors import UsageError
from clarion.report.charts import interval_chart, number
from clarion.report.files import RunFiles, read_run
from clarion.report.page import duration, environment, write
from clarion.report.paired import paired_view
from clarion.report.results import entries, estimate_of, flatten, label, shown, training_charts
from clarion.tracking import without_paths

SAME_TO_A_READER = ("hydra.", "resume", "runs_dir")  # config keys that change no result


def write_comparison(run_directories: Sequence[str | os.PathLike], out: str | os.PathLike) -> Path:
    """Write one page that compares runs, in the given order, to `out`; return its path.

    Raises UsageError for fewer than two runs or a folder that is none.
    """
    if len(run_directories) < 2:
        raise UsageError("A comparison needs at least two run directories.")
    runs = [read_run(Path(directory)) for directory in run_directories]
    page = environment().get_template("comparison.html").render(comparison_view(runs))
    return write(Path(out), page)


def comparison_view(runs: Sequence[RunFiles]) -> dict[str, Any]:
    """Runs are called A, B, C ... on the page, as their directories' names are long."""
    letters = [_letter(index) for index in range(len(runs))]
    kinds = sorted({run.data_kind or "unknown" for run in runs})
    return {
        "title": f"{len(runs)} runs compared",
        "kinds": kinds,
        "fingerprints_differ": len({_fingerprint(run) for run in runs} - {""}) > 1,
        "runs": [
            {
                "letter": letter,
                "title": f"{run.chosen('model')} on {run.chosen('data')}",
                "name": run.name,
                "kind": run.data_kind or "unknown",
                "status": run.status,
                "seed": shown(run.manifest.get("seed", run.config.get("seed"))),
                "device": shown(run.manifest.get("device")),
                "took": duration(run.manifest.get("duration_s")) or "—",
            }
            for letter, run in zip(letters, runs, strict=True)
        ],
        "letters": letters,
        "scores": _scores(runs),
        "charts": _score_charts(runs, letters),
        "paired": paired_view(runs, letters),
        "differences": _differences(runs),
        "curves": training_charts({letter: run.history for letter, run in zip(letters, runs, strict=True)}),
        "too_many": len(runs) > 6,
    }


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"R{index + 1}"


def _fingerprint(run: RunFiles) -> str:
    data = run.manifest.get("data")
    found = data.get("fingerprint") if isinstance(data, dict) else None
    return str(found or run.data_card.get("fingerprint") or "")


def _metrics(runs: Sequence[RunFiles]) -> dict[tuple[str, str], list[dict]]:
    """(evaluator, metric) -> one entry a run ({} where a run lacks it), in the order met."""
    table: dict[tuple[str, str], list[dict]] = {}
    for index, run in enumerate(runs):
        for evaluator, result in run.evaluators.items():
            for metric, entry in entries(result.get("metrics")).items():
                table.setdefault((evaluator, metric), [{} for _ in runs])[index] = entry
    return table


def _scores(runs: Sequence[RunFiles]) -> list[dict[str, Any]]:
    return [
        {
            "evaluator": evaluator,
            "metric": label(metric),
            "cells": [
                {
                    "score": estimate_of(entry) if entry else "—",
                    "n": number(entry["n"]) if entry.get("n") is not None else "",
                }
                for entry in row
            ],
        }
        for (evaluator, metric), row in _metrics(runs).items()
    ]


def _score_charts(runs: Sequence[RunFiles], letters: Sequence[str], most: int = 12) -> list:
    charts = []
    for (_, metric), row in list(_metrics(runs).items())[:most]:
        if sum(entry.get("value") is not None for entry in row) < 2:
            continue
        points = [(letter, e.get("value"), e.get("low"), e.get("high")) for letter, e in zip(letters, row, strict=True)]
        charts.append(interval_chart(label(metric), points))
    return [chart for chart in charts if chart]


def _differences(runs: Sequence[RunFiles]) -> list[tuple[str, list[str]]]:
    """Config keys whose value is not the same in all runs."""
    flat = [flatten(without_paths(run.config)) for run in runs]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    rows = []
    for key in keys:
        cells = [shown(config[key]) if key in config else "" for config in flat]
        if len(set(cells)) > 1 and not key.startswith(SAME_TO_A_READER):
            rows.append((key, cells))
    return rows
