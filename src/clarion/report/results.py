"""metrics.json, data cards, manifests and configs -> rows that templates can lay out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clarion.report.charts import Chart, Series, estimate, line_chart, number, p_value, score
from clarion.report.files import as_dict
from clarion.report.survival import survival_view

LABELS = {
    "map50": "mAP50",
    "map50_95": "mAP50:95",
    "map": "mAP",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "roc": "ROC",
    "pr": "Precision–recall",
    "precision_recall": "Precision–recall",
    "pr_iou50": "Precision–recall",
    "f1_confidence": "F1 over confidence",
    "precision_confidence": "Precision over confidence",
    "recall_confidence": "Recall over confidence",
    "ap_per_iou": "Average precision over IoU",
    "ece": "ECE",
    "icc": "ICC",
    "iou": "IoU",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "rougel": "ROUGE-L",
    "c_index": "c-index",
    "lr": "Learning rate",
    "mcc": "MCC",
    "brier": "Brier score",
    "macro_f1": "Macro F1",
    "n_patients": "patients",
    "coco_map50": "COCO mAP50",
    "coco_map50_95": "COCO mAP50:95",
}
WORDS = {
    "bscan": "B-scan", "bscans": "B-scans", "um": "µm", "iou": "IoU", "logprob": "log-probability", "cpu": "CPU",
    "semscore": "SemScore", "chrf": "chrF", "sacrebleu": "sacreBLEU", "rouge": "ROUGE", "bleu": "BLEU",
    "meteor": "METEOR", "p95": "95th percentile,",
} | {name: name.upper() for name in (
    "auc", "erm", "icc", "roc", "mae", "ilm", "rnfl", "gcl", "ipl", "inl", "opl", "onl", "ez", "rpe", "bm", "ece",
)}  # fmt: skip


def label(name: str) -> str:
    """map50_95 -> mAP50:95; other names: words with a capital."""
    text = str(name)
    words = " ".join(WORDS.get(word, word) for word in text.split("_"))
    return LABELS.get(text.lower()) or words[:1].upper() + words[1:]


@dataclass(frozen=True)
class MetricRow:
    name: str
    value: str
    n: str
    patients: str
    baseline: str
    before: str
    method: str


@dataclass
class EvaluatorView:
    """One evaluator's result, ready to be laid out."""

    name: str
    rows: list[MetricRow]
    baseline: str  # the column's head; empty without a baseline
    before: str  # the head of the untuned model's column; empty without
    has_patients: bool
    methods: list[str]
    charts: list[Chart]
    confusion: dict[str, Any] | None
    subgroups: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    survival: dict[str, Any] | None = None  # Kaplan-Meier and calibration


def evaluator_view(name: str, result: Mapping) -> EvaluatorView:
    """Rows, charts and subgroup tables of one evaluator result (the contract's dict)."""
    metrics, baselines = entries(result.get("metrics")), entries(result.get("baseline"))
    guessers = {str(base["name"]) for base in baselines.values() if base.get("name")}
    common = guessers.pop() if len(guessers) == 1 else ""  # named once, in the head of its column
    untuned = as_dict(result.get("before"))
    before = entries(untuned.get("metrics"))
    survival, curves = survival_view(result)
    rows = []
    for metric in [*metrics, *(m for m in baselines if m not in metrics)]:
        own, base = metrics.get(metric, {}), baselines.get(metric, {})
        unit = f" ({own['unit']})" if own.get("unit") else ""
        rows.append(
            MetricRow(
                label(metric) + unit,
                p_value(own.get("value")) if metric.endswith("_p") else estimate_of(own),
                number(own.get("n")),
                number(own.get("n_patients")),
                f"{estimate_of(base)} {base.get('name') or '' if not common else ''}".strip() if base else "—",
                estimate_of(before[metric]) if metric in before else "—",
                str(own.get("method") or ""),
            )
        )
    return EvaluatorView(
        name,
        rows,
        baseline=(f"Baseline: {common}" if common else "Baseline") if baselines else "",
        before=label(str(untuned.get("name") or "before tuning")) if before else "",
        has_patients=any(entry.get("n_patients") is not None for entry in metrics.values()),
        methods=_methods(rows),
        charts=curve_charts(curves),
        confusion=confusion_view(result.get("confusion")),
        subgroups=[
            view
            for column, groups in as_dict(result.get("subgroups")).items()
            if (view := subgroup_view(column, groups))
        ],
        notes=[str(note) for note in result.get("notes") or []],
        survival=survival,
    )


def _methods(rows: list[MetricRow]) -> list[str]:
    """How values and intervals were made: one sentence for all, or one a method after the names of its metrics."""
    by_method: dict[str, list[str]] = {}
    for row in rows:
        if row.method:
            by_method.setdefault(row.method, []).append(row.name)
    if len(by_method) == 1:
        return [method[:1].upper() + method[1:] for method in by_method]
    return [f"{', '.join(names)}: {method}" for method, names in by_method.items()]


def entries(metrics: Any) -> dict[str, dict]:
    """{metric: {"value", "low", "high", ...}}; a bare number is taken as a value without interval."""
    plain = {}
    for name, entry in as_dict(metrics).items():
        if isinstance(entry, Mapping):
            plain[str(name)] = dict(entry)
        elif entry is None or isinstance(entry, (int, float)):
            plain[str(name)] = {"value": entry}
    return plain


def estimate_of(entry: Mapping) -> str:
    return estimate(entry.get("value"), entry.get("low"), entry.get("high"))


def curve_charts(curves: Any) -> list[Chart]:
    """Curves that share both axis labels are drawn into one chart, at most six a chart."""
    groups: dict[tuple, list[Series]] = {}
    for name, curve in as_dict(curves).items():
        if isinstance(curve, Mapping) and curve.get("x") and curve.get("y"):
            axes = (str(curve.get("x_label") or "x"), str(curve.get("y_label") or "y"))
            groups.setdefault(axes, []).append(
                Series(str(name), curve["x"], curve["y"], curve.get("kind") == "scatter")
            )
    charts = []
    for (x_label, y_label), series in groups.items():
        for start in range(0, len(series), 6):
            part = series[start : start + 6]
            title, part = _titled(part, f"{y_label} over {x_label}")
            charts.append(line_chart(title, part, x_label, y_label, diagonal=_has_diagonal(series)))
    return [chart for chart in charts if chart]


def _titled(series: list[Series], otherwise: str) -> tuple[str, list[Series]]:
    """A chart's title: its curve's name, or what the names share (roc_a, roc_b: ROC, with lines a and b)."""
    if len(series) == 1:
        return label(series[0].name), series
    shared = os.path.commonprefix([s.name for s in series]).rpartition("_")[0]
    if not shared:
        return otherwise[:1].upper() + otherwise[1:], series
    return label(shared), [Series(s.name[len(shared) + 1 :], s.x, s.y, s.scatter) for s in series]


def _has_diagonal(series: list[Series]) -> bool:
    """y = x means something for these: chance, or perfect calibration."""
    return any(word in s.name.lower() for s in series for word in ("roc", "calibration", "reliability"))


def confusion_view(confusion: Any) -> dict[str, Any] | None:
    """Rows with counts and each count's share of its row (percent), for shading."""
    confusion = as_dict(confusion)
    labels, matrix = confusion.get("labels"), confusion.get("matrix")
    if not labels or not matrix:
        return None
    rows = []
    for name, counts in zip(labels, matrix, strict=False):
        total = sum(count or 0 for count in counts)
        shares = [round(100 * (count or 0) / total) if total else 0 for count in counts]
        rows.append(
            {
                "label": name,
                "cells": list(zip([number(count) for count in counts], shares, strict=True)),
                "total": number(total),
            }
        )
    return {"labels": labels, "rows": rows}


def subgroup_view(column: str, groups: Any) -> dict[str, Any] | None:
    """One table by metric and group, the longer of the two as rows (many columns are hard to read)."""
    values = {str(value): entries(metrics) for value, metrics in as_dict(groups).items()}
    names = list(dict.fromkeys(name for metrics in values.values() for name in metrics))
    if not names:
        return None
    counts = {
        value: max((e["n"] for e in metrics.values() if e.get("n") is not None), default=None)
        for value, metrics in values.items()
    }
    heads = {value: f"{value} (n {number(count)})" if count is not None else value for value, count in counts.items()}
    cell = lambda value, name: estimate_of(values[value].get(name, {}))  # noqa: E731
    if len(names) > len(values):
        rows = [[label(name), [cell(value, name) for value in values]] for name in names]
        return {"column": label(column), "corner": "Metric", "heads": list(heads.values()), "rows": rows}
    rows = [[heads[value], [cell(value, name) for name in names]] for value in values]
    return {"column": label(column), "corner": label(column), "heads": [label(name) for name in names], "rows": rows}


def training_charts(histories: Mapping[str, list[dict]], most: int = 60) -> list[Chart]:
    """metrics.jsonl -> one chart a quantity.

    One run: train/loss and val/loss share the chart "loss". Several runs ({name: rows}): one chart a metric,
    one line a run.
    """
    alone = len(histories) == 1
    groups: dict[str, dict[str, tuple[list, list]]] = {}
    for run, rows in histories.items():
        for row in rows:
            for key, value in row.items():
                if key in ("step", "time") or not (value is None or isinstance(value, (int, float))):
                    continue
                stage, _, quantity = key.rpartition("/")
                chart, line = (quantity, stage or quantity) if alone else (key, run)
                x, y = groups.setdefault(chart, {}).setdefault(line, ([], []))
                x.append(row["step"])
                y.append(value)
    charts = []
    for quantity, lines in list(groups.items())[:most]:
        series = [Series(name, *_thinned(x, y)) for name, (x, y) in lines.items()]
        title = label(quantity) if alone else quantity
        if alone and len(series) == 1 and series[0].name != quantity:
            title += f" ({series[0].name})"
        charts.append(line_chart(title, series, "step", label(quantity.rpartition("/")[2]), whole_x=True))
    return [chart for chart in charts if chart]


def _thinned(x: list, y: list, most: int = 400) -> tuple[list, list]:
    """Every k-th point and the last one: a long run must not make a heavy page."""
    every = -(-len(x) // most)
    kept = sorted({*range(0, len(x), every), len(x) - 1})
    return [x[i] for i in kept], [y[i] for i in kept]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists of plain values stay lists."""
    flat: dict[str, Any] = {}
    for key, item in as_dict(value).items():
        path = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            flat |= flatten(item, path + ".")
        elif isinstance(item, list) and any(isinstance(part, Mapping) for part in item):
            flat |= flatten(dict(enumerate(item)), path + ".")
        else:
            flat[path] = item
    return flat


def shown(value: Any) -> str:
    """A plain value for a table cell."""
    if value is None or (isinstance(value, (str, list, dict)) and not value):
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        rest = f" … ({len(value)} in all)" if len(value) > 20 else ""
        return ", ".join(shown(item) for item in value[:20]) + rest
    if isinstance(value, Mapping) and isinstance(value.get("message"), str):  # a finding of an integrity report
        return f"{value['message']} ({shown(value['total'])})" if value.get("total") else value["message"]
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {shown(item)}" for key, item in value.items())
    return str(value)


@dataclass(frozen=True)
class Grid:
    """A titled table: `columns` empty for name and value pairs."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def grids(value: Mapping, title: str = "") -> list[Grid]:
    """Any nested dict (a data card) -> tables: plain values as pairs, dicts of like dicts as one table."""
    plain = {key: item for key, item in value.items() if not isinstance(item, Mapping) or not item}
    found = [Grid(title, [], [[label(key), shown(item)] for key, item in plain.items()])] if plain else []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            name = f"{title}: {label(key).lower()}" if title else label(key)
            alike = all(isinstance(row, Mapping) for row in item.values())
            found += _row_grids(item, name) if alike else grids(item, name)
    return found


def _row_grids(rows: Mapping[str, Mapping], title: str) -> list[Grid]:
    """{"train": {"samples": 9, "boxes": {"erm": 4}}, ...}: a table of the plain values, then one a nested dict."""
    columns = list(dict.fromkeys(str(column) for row in rows.values() for column in row))
    cells = {str(name): {str(column): item for column, item in row.items()} for name, row in rows.items()}
    nested = [c for c in columns if any(isinstance(row.get(c), Mapping) and row[c] for row in cells.values())]
    plain = [c for c in columns if c not in nested]
    found = []
    if plain:
        body = [[name, *(shown(row.get(column)) for column in plain)] for name, row in cells.items()]
        found.append(Grid(title, ["", *(column.replace("_", " ") for column in plain)], body))
    for column in nested:
        inner = {name: as_dict(row.get(column)) for name, row in cells.items()}
        found += _row_grids(inner, f"{title}: {label(column).lower()}")
    return found


__all__ = [
    "EvaluatorView",
    "Grid",
    "MetricRow",
    "confusion_view",
    "curve_charts",
    "entries",
    "estimate_of",
    "evaluator_view",
    "flatten",
    "grids",
    "label",
    "score",
    "shown",
    "subgroup_view",
    "training_charts",
]
