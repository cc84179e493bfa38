"""Recorded runs -> a published-style table: published figures beside measured ones, never among them.

A table is a folder `experiments/NAME` with `table.yaml` (rows, columns, which run belongs to a row),
`published.csv`, and `results/` (generated). `results/measured.json` keeps the figures of every run that was
ever collected, so that the table can be rebuilt where the run directories are gone.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clarion.config import nearest
from clarion.errors import UsageError
from clarion.record import read_json, to_json, write_atomic

MISSING = "—"
MECHANICS = ("cache", "workers", "plots", "verbose")  # library arguments that change no figure: not shown


@dataclass
class Cell:
    """One row of the table: its published line, its measured record (or None) and the command that fills it."""

    keys: dict[str, str]
    published: dict[str, str]
    measured: dict[str, Any] | None
    command: str
    notes: list[str] = field(default_factory=list)


@dataclass
class Table:
    name: str
    spec: dict
    cells: list[Cell]


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
    records = {r["run"]: r for r in load_measured(folder)}
    wanted = wanted_pairs(folder, spec)
    for directory in runs_dirs:
        for record in collect(directory, spec["evaluator"], wanted):
            records[record["run"]] = record
    kept = [r for r in records.values() if matches(r, where or {})]
    return Table(name, {**spec, "all_records": list(records.values())}, cells(folder, spec, kept))


def published_rows(folder: Path, spec: dict) -> list[dict[str, str]]:
    with open(folder / spec["published"], encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def row_run(spec: dict, row: dict[str, str]) -> dict[str, str]:
    filled = {k: template.format(**row).lower() for k, template in spec["run"].items()}
    return {k: spec.get("names", {}).get(v, v) for k, v in filled.items()}


def wanted_pairs(folder: Path, spec: dict) -> set[tuple]:
    return {tuple(sorted(row_run(spec, row).items())) for row in published_rows(folder, spec)}


def load_measured(folder: Path) -> list[dict]:
    return read_json(folder / "results" / "measured.json").get("runs", [])


def collect(runs_dir: Path, evaluator: str, wanted: set[tuple] | None = None) -> list[dict]:
    """The figures of every complete training run below runs_dir that has this evaluator."""
    found = []
    for path in sorted(runs_dir.glob("*/metrics.json")):
        manifest, metrics = read_json(path.with_name("manifest.json")), read_json(path)
        result = metrics.get("evaluators", {}).get(evaluator)
        if result is None or manifest.get("kind") == "evaluation":
            continue
        if wanted is not None and (("data", metrics["data"]), ("model", metrics["model"])) not in wanted:
            continue
        config = yaml.safe_load(path.with_name("config.yaml").read_text(encoding="utf-8"))
        found.append(
            {
                "run": path.parent.name,
                "model": metrics["model"],
                "data": metrics["data"],
                "data_kind": metrics["data_kind"],
                "seed": metrics["seed"],
                "fold": (config.get("data") or {}).get("fold"),
                "setting": setting(config),
                "settings": shown_settings(config),
                "counts": manifest.get("data", {}).get("counts", {}),
                "device": manifest.get("device"),
                "duration_s": manifest.get("duration_s"),
                "fit_s": manifest.get("fit_s"),
                "finished": metrics["finished"],
                "parameters": manifest.get("parameters"),
                "fingerprint": manifest.get("data", {}).get("fingerprint"),
                "git": manifest.get("git", {}),
                "metrics": result["metrics"],
                "baseline": result.get("baseline", {}),
                "directory": str(path.parent),
            }
        )
    return found


def setting(config: dict) -> str:
    """Hash of everything that seeds and folds of one setting have in common."""
    common = json.loads(json.dumps(config, default=str))
    for key in ("seed", "resume", "tracker", "runs_dir"):
        common.pop(key, None)
    (common.get("data") or {}).pop("fold", None)
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:12]


def shown_settings(config: dict) -> dict[str, Any]:
    trainer = config.get("trainer") or {}
    args = {k: v for k, v in (trainer.get("args") or {}).items() if k not in MECHANICS}
    return {"epochs": trainer.get("epochs"), "batch_size": trainer.get("batch_size"), **args}


def matches(record: dict, where: dict[str, str]) -> bool:
    flat = {
        **{k: record.get(k) for k in ("run", "model", "data", "seed", "fold", "device", "data_kind")},
        **record.get("settings", {}),
    }
    return all(str(flat.get(k.removeprefix("trainer.").removeprefix("args."))) == v for k, v in where.items())


def cells(folder: Path, spec: dict, records: list[dict]) -> list[Cell]:
    out = []
    for row in published_rows(folder, spec):
        run = row_run(spec, row)
        cell = Cell(
            {title: row[column] for title, column in spec["rows"].items()},
            row,
            None,
            spec["command"].format(**row, **run),
        )
        settings: dict[str, list[dict]] = {}
        for record in records:
            if all(record.get(k) == v for k, v in run.items()):
                settings.setdefault(record["setting"], []).append(record)
        if settings:
            latest = max(settings.values(), key=lambda rs: max(r["finished"] for r in rs))
            cell.measured = pool(latest, spec["evaluator"])
            if len(settings) > 1:
                cell.notes.append(f"{len(settings) - 1} other setting(s) of this row exist; --where epochs=... chooses")
        out.append(cell)
    return out


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
    merged = dict(first, run=f"{len(records)} seeds", metrics={})
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

    directories = [Path(r["directory"]) for r in records]
    gone = [d for d in directories if not (d / "predictions" / "test.parquet").is_file()]
    if gone:
        raise UsageError(f"Folds can be pooled only from their predictions; {gone[0]} has none any more.")
    predictions = pd.concat([pd.read_parquet(d / "predictions" / "test.parquet") for d in directories])
    truth = pd.concat([pd.read_parquet(d / "truth" / "test.parquet") for d in directories])
    cfg = OmegaConf.load(directories[0] / "config.yaml")
    context = {
        "task": cfg.model.task,
        "class_names": [],
        "seed": 0,
        "data_kind": records[0]["data_kind"],
        "validation": None,
        "train_counts": None,
    }
    result = build_object(cfg.evaluators[evaluator]).evaluate(predictions, truth, context)
    return dict(
        records[-1], run=f"{len(records)} folds pooled", metrics=result["metrics"], baseline=result.get("baseline", {})
    )


# ------------------------------------------------------------------------------------------------------ rendering


def header(spec: dict) -> list[str]:
    names = list(spec["rows"])
    for column in spec["columns"]:
        names += [column["title"], f"{column['title']} published"]
    return [*names, "n", "Data", "Device", "Settings", "Run, or command that fills the row"]


def rendered_rows(table: Table) -> list[list[str]]:
    rows = []
    for cell in table.cells:
        m, row = cell.measured, list(cell.keys.values())
        for column in table.spec["columns"]:
            row += [shown(m, column), cell.published.get(column["published"]) or MISSING]
        if m is None:
            row += [MISSING] * 4 + [cell.command]
        else:
            entry = next(
                (m["metrics"][c["metric"]] for c in table.spec["columns"] if c.get("metric") in m["metrics"]), {}
            )
            settings = ", ".join(f"{k}={v}" for k, v in m["settings"].items() if v is not None)
            if trained := (m.get("counts") or {}).get("train"):
                settings = f"trained on {trained}; {settings}"
            row += [
                f"{entry.get('n')} ({entry.get('n_patients')} patients)",
                m["data_kind"],
                short_device(m["device"]),
                settings,
                m["run"],
            ]
        rows.append(row)
    return rows


def shown(measured: dict | None, column: dict) -> str:
    if measured is None:
        return MISSING
    digits = column.get("digits", 3)
    if "manifest" in column:
        value = measured.get(column["manifest"])
        return MISSING if value is None else f"{value * column.get('scale', 1):.{digits}f}"
    entry = measured["metrics"].get(column["metric"]) or {}
    if entry.get("value") is None:
        return MISSING
    text = f"{entry['value']:.{digits}f}"
    if entry.get("low") is not None and entry.get("high") is not None:
        text += f" [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"
    return text


def short_device(device: str | None) -> str:
    return (device or MISSING).replace("(R)", "").replace("NVIDIA ", "")


def caption(table: Table) -> list[str]:
    done = [c for c in table.cells if c.measured]
    kinds = sorted({c.measured["data_kind"] for c in done})
    lines = [
        f"{len(done)} of {len(table.cells)} rows measured"
        + (f", on {' and '.join(kinds)} data" if kinds else "")
        + ". Brackets: 95 % interval (bootstrap over patients).",
        f"Published: {table.spec['source']}.",
    ]
    if "phantom" in kinds:
        lines.append(
            "Phantom figures come from synthetic eyes: they say that the code works and how the detectors "
            "compare there, nothing about patients."
        )
    baselines: dict[str, Any] = next((c.measured["baseline"] for c in done if c.measured.get("baseline")), {})
    for column in table.spec["columns"]:
        entry = baselines.get(column.get("metric", ""))
        if entry and entry.get("value") is not None:
            lines.append(
                f"Baseline {column['title']}: {entry['value']:.3f} ({entry.get('name') or entry.get('method')})."
            )
    lines += [f"{' '.join(c.keys.values())}: {n}." for c in table.cells for n in c.notes]
    return lines


def render(table: Table, form: str) -> str:
    """md, csv, tex, html or json."""
    return {"md": as_md, "csv": as_csv, "tex": as_tex, "html": as_html, "json": as_json}[form](table)


def as_md(table: Table) -> str:
    head, rows = header(table.spec), rendered_rows(table)
    lines = [f"# {table.spec['title']}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join([*r[:-1], f"`{r[-1]}`"]) + " |" for r in rows]
    return "\n".join([*lines, "", *[f"- {c}" for c in caption(table)]]) + "\n"


def as_csv(table: Table) -> str:
    """Numbers in columns of their own: value, low, high and published for every metric."""
    import io

    buffer = io.StringIO()
    names = list(table.spec["rows"].values())
    for c in table.spec["columns"]:
        key = c.get("metric") or c["manifest"]
        names += [key, *([f"{key}_low", f"{key}_high"] if "metric" in c else []), f"{key}_published"]
    names += ["n", "n_patients", "data_kind", "device", "duration_s", "seed", "run", "command"]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for cell in table.cells:
        m = cell.measured or {}
        row: dict[str, Any] = dict(zip(table.spec["rows"].values(), cell.keys.values()))
        for c in table.spec["columns"]:
            key = c.get("metric") or c["manifest"]
            row[f"{key}_published"] = cell.published.get(c["published"])
            if "metric" in c:
                entry = m.get("metrics", {}).get(key) or {}
                row |= {key: entry.get("value"), f"{key}_low": entry.get("low"), f"{key}_high": entry.get("high")}
                row |= {"n": entry.get("n"), "n_patients": entry.get("n_patients")} if entry else {}
            else:
                row[key] = m.get(key)
        row |= {k: m.get(k) for k in ("data_kind", "device", "duration_s", "seed", "run")}
        writer.writerow(row | {"command": cell.command})
    return buffer.getvalue()


def as_json(table: Table) -> str:
    return to_json(
        {
            "name": table.name,
            "title": table.spec["title"],
            "source": table.spec["source"],
            "notes": caption(table),
            "rows": [
                {"keys": c.keys, "published": c.published, "command": c.command, "measured": c.measured}
                for c in table.cells
            ],
        }
    )


def as_tex(table: Table) -> str:
    def esc(text: str) -> str:
        for a, b in (
            ("\\", r"\textbackslash{}"),
            ("_", r"\_"),
            ("%", r"\%"),
            ("&", r"\&"),
            ("#", r"\#"),
            (MISSING, "---"),
        ):
            text = text.replace(a, b)
        return text

    head, rows = header(table.spec), rendered_rows(table)
    keep = [i for i, name in enumerate(head) if name not in ("Settings", "Device")]
    lines = [
        r"\begin{table}",
        r"\caption{" + esc(table.spec["title"] + ". " + " ".join(caption(table)[:2])) + "}",
        r"\begin{tabular}{" + "l" * len(keep) + "}",
        r"\hline",
        " & ".join(esc(head[i]) for i in keep) + r" \\",
        r"\hline",
    ]
    lines += [
        " & ".join((r"\texttt{" + esc(r[i]) + "}") if i == len(r) - 1 else esc(r[i]) for i in keep) + r" \\"
        for r in rows
    ]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}"]) + "\n"


def as_html(table: Table) -> str:
    from html import escape

    head, rows = header(table.spec), rendered_rows(table)
    body = "\n".join(
        "<tr>"
        + "".join(
            f"<td>{'<code>' + escape(c) + '</code>' if i == len(r) - 1 else escape(c)}</td>" for i, c in enumerate(r)
        )
        + "</tr>"
        for r in rows
    )
    notes = "".join(f"<li>{escape(c)}</li>" for c in caption(table))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(table.spec["title"])}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;color:#1b1f24;background:#fff}}
.wide{{overflow-x:auto}}table{{border-collapse:collapse;white-space:nowrap}}
th,td{{padding:.3rem .7rem;border-bottom:1px solid #d5dae1;text-align:left}}th{{background:#f3f5f8}}
code{{font-size:.85em}}</style></head>
<body><h1>{escape(table.spec["title"])}</h1><div class="wide"><table>
<thead><tr>{"".join(f"<th>{escape(h)}</th>" for h in head)}</tr></thead>
<tbody>
{body}
</tbody></table></div><ul>{notes}</ul></body></html>
"""


def write(table: Table, out: Path) -> list[Path]:
    """All four forms and measured.json into a folder."""
    paths = []
    for form in ("md", "csv", "tex", "html"):
        paths.append(out / f"table.{form}")
        write_atomic(paths[-1], render(table, form))
    records = [{k: v for k, v in r.items() if k != "directory"} for r in table.spec["all_records"]]
    if records:
        write_atomic(out / "measured.json", to_json({"runs": sorted(records, key=lambda r: r["run"])}))
    return paths
