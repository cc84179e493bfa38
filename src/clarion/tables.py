"""Recorded runs -> a published-style table: published figures beside measured ones, never among them.

A table is a folder `experiments/NAME` with `table.yaml` (rows, columns, which run belongs to a row),
`published.csv`, and `results/` (generated). `results/measured.json` keeps the figures of every run that was
ever collected, so that the table can be rebuilt where the run directories are gone. In `table.yaml`:

    rows       {title: column of published.csv}: what names a row
    evaluator  whose figures are shown; a column may name another
    run        {model, data, or any dotted key of a configuration: value, with {columns of published.csv}; "*": any but
               null}; a column may add its own or put others in their place: a row is a model, its columns are data sets
    columns    [{title, metric | manifest, published, digits, scale, evaluator, run, command, subgroup}]; published
               alone quotes; subgroup: {column of truth: value}, of which the evaluator gave the metric by itself;
               manifest: parameters, duration_s, or structure.share_inside of an adapter with a declared support
    folds      pool (default: predictions put together by id and scored once) | mean (scored in each fold, averaged)
    summary    {over: title of a row name, label: "mean of {n}", things: cohorts}: further rows, means over that name;
               without: {name: why}: rows that are shown and not averaged
    keep       all (default: measured.json keeps every figure of a run) | shown (those in a column)
    compare    {metric, of: X, with: [Y, ...]}: sentences on paired differences of means; X and Y are {title: value}
               of summary rows, or titles of columns
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import yaml

from clarion.config import nearest
from clarion.errors import UsageError
from clarion.record import read_json, to_json, write_atomic
from clarion.table_means import difference, fold_mean, mean_of
from clarion.table_records import Run, belongs, collect, matches, read_config, subgroup_key, with_subgroups
from clarion.table_rendering import (
    MISSING,
    Cell,
    Table,
    has_common,
    header,
    is_measured,
    is_own,
    render,
    rendered_rows,
)

__all__ = ["MISSING", "Cell", "Table", "build", "find", "header", "render", "rendered_rows", "table_names", "write"]
FOLDS = ("pool", "mean")


def experiments_dir() -> Path:
    """experiments/ below the working directory, else of the source tree, else the packaged copy."""
    here = Path(__file__).resolve()
    for folder in (Path.cwd() / "experiments", here.parents[2] / "experiments", here.parent / "experiments"):
        if any(folder.glob("*/table.yaml")):
            return folder
    raise UsageError("No experiments folder with a table.yaml is to be found: run this in the project's folder.")


def table_names() -> list[str]:
    return sorted(p.parent.name for p in experiments_dir().glob("*/table.yaml"))


def find(name: str) -> Path:
    """The folder of a table; UsageError with the nearest name where there is none."""
    if name not in table_names():
        raise UsageError(f"No table `{name}`.{nearest(name, table_names())} (tables: {', '.join(table_names())})")
    return experiments_dir() / name


def build(name: str, runs_dirs: list[Path], where: dict[str, str] | None = None) -> Table:
    """Collect runs (and earlier collected figures) into the table `name`; rows in the published order."""
    folder = find(name)
    spec = yaml.safe_load((folder / "table.yaml").read_text(encoding="utf-8"))
    if spec.get("folds", "pool") not in FOLDS:
        raise UsageError(f"{folder.name}/table.yaml: folds: {spec['folds']} is neither {' nor '.join(FOLDS)}.")
    rows = published_rows(folder, spec)
    spec["columns"] = [keyed(column) for column in spec["columns"]]
    stored = read_json(folder / "results" / "measured.json")
    records = {(r["run"], r.setdefault("evaluator", spec["evaluator"])): r for r in stored.get("runs", [])}
    for directory in runs_dirs:
        for record in collect(directory, [w for row in rows for w in wanted(spec, row)], shown_subgroups(spec)):
            records[record["run"], record["evaluator"]] = record
    kept = [r for r in records.values() if matches(r, where or {})]
    figures = stored.get("means", {})
    spec |= {"all_records": list(records.values()), "all_means": figures}
    table = Table(name, spec, [cell(spec, row, kept, figures) for row in rows])
    if "summary" in spec:
        table.summaries = summaries(table, figures)
    if "compare" in spec:
        table.remarks = comparisons(table, figures)
    return table


def published_rows(folder: Path, spec: dict) -> list[dict[str, str]]:
    with open(folder / spec["published"], encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def row_run(spec: dict, row: dict[str, str], column: dict | None = None) -> Run:
    """Which run belongs to a row, or to one column of it, with the placeholders filled in."""
    templates = {**spec.get("run", {}), **((column or {}).get("run") or {})}
    filled = {k: str(template).format(**row).lower() for k, template in templates.items()}
    return {k: spec.get("names", {}).get(v, v) for k, v in filled.items()}


def column_evaluator(spec: dict, column: dict | None) -> str:
    return (column or {}).get("evaluator") or spec["evaluator"]


def wanted(spec: dict, row: dict[str, str]) -> list[tuple[str, Run]]:
    """(evaluator, run) of everything a row shows."""
    own = [c for c in spec["columns"] if is_own(c)]
    common = [(spec["evaluator"], row_run(spec, row))] if has_common(spec) else []
    return [*common, *((column_evaluator(spec, c), row_run(spec, row, c)) for c in own)]


def keyed(column: dict) -> dict:
    """A column of a subgroup, its metric named as a record keeps it."""
    if "subgroup" not in column:
        return column
    if len(column["subgroup"]) != 1 or "metric" not in column:
        raise UsageError(f"column {column['title']}: subgroup names one column of truth, its value, beside a metric.")
    [(name, value)] = column["subgroup"].items()
    return column | {"metric": subgroup_key(column["metric"], name, value)}


def shown_subgroups(spec: dict) -> set[tuple[str, str]]:
    """(column of truth, value) of all columns that show a subgroup."""
    return {(str(k), str(v)) for c in spec["columns"] for k, v in c.get("subgroup", {}).items()}


def shown_metrics(spec: dict, column: dict | None) -> list[str]:
    """Metrics that are shown of the runs of a column with its own, or of the row's common runs."""
    columns = [column] if column else [c for c in spec["columns"] if not is_own(c)]
    return list(dict.fromkeys(c["metric"] for c in columns if "metric" in c))


# ----------------------------------------------------------------------------------------------------------- rows


def cell(spec: dict, row: dict[str, str], records: list[dict], figures: dict[str, dict]) -> Cell:
    out = Cell({title: row[column] for title, column in spec["rows"].items()}, row, None, command(spec, row))
    if has_common(spec):
        out.measured = measured(spec, row, None, records, figures, out.notes)
    for column in (c for c in spec["columns"] if is_own(c)):
        found = measured(spec, row, column, records, figures, out.notes)
        out.own[column["title"]] = (found, command(spec, row, column))
    return out


def command(spec: dict, row: dict[str, str], column: dict | None = None) -> str:
    template = (column or {}).get("command") or spec["command"]
    return template.format(**{**row, **row_run(spec, row, column)})


def measured(
    spec: dict, row: dict[str, str], column: dict | None, records: list[dict], figures: dict[str, dict],
    notes: list[str],
) -> dict[str, Any] | None:  # fmt: skip
    """The record of a row (or of one column's own run): seeds and folds of its latest setting combined."""
    run, evaluator = row_run(spec, row, column), column_evaluator(spec, column)
    settings: dict[str, list[dict]] = {}
    for record in records:
        if record["evaluator"] == evaluator and belongs(record, run):
            settings.setdefault(record["setting"], []).append(record)
    if not settings:
        return None
    latest = max(settings.values(), key=lambda rs: max(r["finished"] for r in rs))
    if len(settings) > 1:
        notes.append(f"{len(settings) - 1} other setting(s) of this row exist; --where epochs=... chooses")
    if spec.get("folds") == "mean" and any(r["fold"] is not None for r in latest):
        seeds = sorted({r["seed"] for r in latest})  # one seed's folds: the seed with most of them, then the lowest
        of = {s: [r for r in latest if r["seed"] == s and r["fold"] is not None] for s in seeds}
        best = max(seeds, key=lambda s: (len(of[s]), -s))
        found, said = fold_mean(of[best], shown_metrics(spec, column), figures)
        notes += said + ([f"seed {best} of {len(seeds)}"] if len(seeds) > 1 else [])
        return found
    return pool(latest, evaluator)


def pool(records: list[dict], evaluator: str) -> dict:
    """Seeds and folds of one setting as one row.

    Folds: their predictions are put together by id and scored once. Seeds: the mean, the interval of the
    first seed widened to hold every seed's value; n stays the number of samples.
    """
    folds = {r["fold"]: r for r in sorted(records, key=lambda r: r["finished"])}
    if len(folds) > 1 and None not in folds:
        return pool_folds(list(folds.values()), evaluator)
    if len(records) == 1:
        return records[0]
    first = min(records, key=lambda r: r["seed"])
    merged = dict(first, run=f"{len(records)} seeds", metrics={}, directory="")
    if all("structure" in r for r in records):
        numbers = [k for k, v in first["structure"].items() if isinstance(v, int | float)]
        merged["structure"] = {k: sum(r["structure"][k] for r in records) / len(records) for k in numbers}
    for name, entry in first["metrics"].items():
        values = [r["metrics"][name]["value"] for r in records if r["metrics"].get(name, {}).get("value") is not None]
        if not values:
            merged["metrics"][name] = entry
            continue
        low, high = entry.get("low"), entry.get("high")
        merged["metrics"][name] = dict(
            entry,
            value=sum(values) / len(values),
            low=min([*values, *([low] if low is not None else [])]),
            high=max([*values, *([high] if high is not None else [])]),
            method=f"mean of {len(values)} seeds; {entry.get('method', '')}",
        )
    return merged


def pool_folds(records: list[dict], evaluator: str) -> dict:
    import pandas as pd
    from omegaconf import OmegaConf

    from clarion.run import build as build_object

    directories = [Path(r.get("directory") or r["run"]) for r in records]
    gone = [d for d in directories if not (d / "predictions" / "test.parquet").is_file()]
    if gone:
        raise UsageError(f"Folds can be pooled only from their predictions; {gone[0]} has none any more.")
    predictions = pd.concat([pd.read_parquet(d / "predictions" / "test.parquet") for d in directories])
    truth = pd.concat([pd.read_parquet(d / "truth" / "test.parquet") for d in directories])
    config = read_config(directories[0] / "config.yaml")
    context = {
        "task": config["model"]["task"],
        "class_names": [],
        "seed": 0,
        "data_kind": records[0]["data_kind"],
        "validation": None,
        "train_counts": None,
    }
    judge = build_object(OmegaConf.create(config["evaluators"][evaluator]))
    result = judge.evaluate(predictions, truth, context)
    groups = {(k, v) for k, values in result.get("subgroups", {}).items() for v in values}
    scores = {"metrics": with_subgroups(result, groups), "baseline": result.get("baseline", {})}
    return dict(records[-1], run=f"{len(records)} folds pooled", directory="", **scores)


# ------------------------------------------------------------------------------------------- means over rows, words


def summaries(table: Table, figures: dict[str, dict]) -> list[Cell]:
    """A row for every combination of the other row names: the means over the one that `summary.over` names."""
    spec, over = table.spec, table.spec["summary"]["over"]
    if over not in spec["rows"]:
        raise UsageError(f"{table.name}/table.yaml: summary.over: {over} names no row.{nearest(over, spec['rows'])}")
    things = spec["summary"].get("things", "rows")
    groups: dict[tuple, list[Cell]] = {}
    without = spec["summary"].get("without", {})
    for one in table.cells:
        if one.keys[over] in without:
            one.notes.append(f"{without[one.keys[over]]}: not in the mean")
            continue
        groups.setdefault(tuple(v for k, v in one.keys.items() if k != over), []).append(one)
    out = []
    for members in groups.values():
        if not any(c.records() for c in members):
            continue

        def mean(column: dict | None, members: list[Cell] = members) -> dict | None:
            found = [(c.keys[over], c.of(column) if column else c.measured) for c in members]
            parts = [record | {"row": name} for name, record in found if record is not None]
            return mean_of(parts, shown_metrics(spec, column), things, figures) if parts else None

        common = mean(None) if has_common(spec) else None
        own = {c["title"]: (mean(c), "") for c in spec["columns"] if is_own(c)}
        counts = {len(r["parts"]) for r in [common, *(r for r, _ in own.values())] if r is not None}
        n = "/".join(map(str, sorted(counts))) + (f" of {len(members)}" if counts != {len(members)} else "")
        keys = {k: spec["summary"]["label"].format(n=n) if k == over else v for k, v in members[0].keys.items()}
        out.append(Cell(keys, {}, common, "", own=own))
    return out


def comparisons(table: Table, figures: dict[str, dict]) -> list[str]:
    """Sentences of `compare`: the paired difference of the means over rows, and who is ahead in how many of them."""
    wish = {**table.spec.get("summary", {}), **table.spec["compare"]}
    titles = {c["title"]: c for c in table.spec["columns"] if is_measured(c)}
    pairs: list[tuple[str, dict | None, dict | None, str, str]] = []
    for other in wish["with"]:
        if isinstance(other, str):
            if missing := [t for t in (wish["of"], other) if t not in titles]:
                raise UsageError(f"{table.name}/table.yaml: compare: {missing[0]} is no column."
                                 f"{nearest(missing[0], titles)}")  # fmt: skip
            for row in table.summaries:
                named = " ".join(row.keys.values()) + ": "
                pairs.append((named, row.of(titles[wish["of"]]), row.of(titles[other]), wish["of"], other))
            continue
        for theirs in _rows(table, other):
            alike = {k: v for k, v in theirs.keys.items() if k not in other}
            ours = _rows(table, {**alike, **wish["of"]})
            names = [" ".join(map(str, named.values())) for named in (wish["of"], other)]
            pairs.append(("", ours[0].measured if ours else None, theirs.measured, *names))
    return [s for place, a, b, *names in pairs if a and b and (s := sentence(place, a, b, wish, names, figures))]


def _rows(table: Table, named: dict[str, Any]) -> list[Cell]:
    return [c for c in table.summaries if all(c.keys.get(k) == str(v) for k, v in named.items())]


def sentence(place: str, a: dict, b: dict, wish: dict, names: list[str], figures: dict[str, dict]) -> str:
    """One comparison in words, over the rows that both have; empty where there are none."""
    metric, title, things = wish["metric"], wish.get("title", wish["metric"]), wish.get("things", "rows")
    both = [(x, y) for x in a["parts"] for y in b["parts"] if x["row"] == y["row"]]
    if not both:
        return ""
    first, second = (mean_of([pair[k] for pair in both], [metric], things, figures) for k in (0, 1))
    found = difference(first, second, metric, figures)
    if found["value"] is None:
        return ""
    values = [[r["metrics"].get(metric, {}).get("value") for r in pair] for pair in both]
    ahead = sum(x is not None and y is not None and x > y for x, y in values)
    mean = [r["metrics"][metric]["value"] for r in (first, second)]
    if found["low"] is None:
        verdict, how = "no paired interval (the predictions are gone, or the test patients differ)", ""
    else:
        verdict = (f"{names[0]} beats {names[1]}" if found["low"] > 0 else
                   f"{names[0]} does not beat {names[1]}: it is worse" if found["high"] < 0 else
                   f"{names[0]} does not beat {names[1]}: no difference is shown")  # fmt: skip
        how = f" [{found['low']:+.3f}, {found['high']:+.3f}]"
    return (
        f"{place}{verdict}. Mean {title} {mean[0]:.3f} against {mean[1]:.3f}, difference {found['value']:+.3f}{how} "
        f"(paired bootstrap over patients within each test set; {len(both)} {things}), "
        f"higher in {ahead} of {len(both)}."
    )


def lasting(spec: dict, record: dict) -> dict:
    """What measured.json keeps of a record: no path, and with `keep: shown` the figures that some column shows."""
    record = {k: v for k, v in record.items() if k != "directory"}
    if spec.get("keep") != "shown":
        return record
    metrics = {c["metric"] for c in spec["columns"] if "metric" in c}
    kept = {part: {k: v for k, v in record[part].items() if k in metrics} for part in ("metrics", "baseline")}
    return record | kept


def write(table: Table, out: Path) -> list[Path]:
    """All four forms and measured.json into a folder."""
    paths = []
    for form in ("md", "csv", "tex", "html"):
        paths.append(out / f"table.{form}")
        write_atomic(paths[-1], render(table, form))
    records = [lasting(table.spec, r) for r in table.spec["all_records"]]
    if records:
        ordered = sorted(records, key=lambda r: (r["run"], r["evaluator"]))
        means = table.spec["all_means"]
        write_atomic(out / "measured.json", to_json({"runs": ordered, **({"means": means} if means else {})}))
    return paths
