"""Tables of what Clarion measures about itself on data with known truth: `clarion measure TABLE [PART ...]`.

Beside tables of runs (clarion.tables) there are tables whose rows come from a measurement: the error of an area, the
size of a test, the agreement of a stage. `experiments/NAME/table.yaml` with `kind: measured` names one function a
part; it returns {part, title, columns, rows, notes, n, data, figures}. `results/PART.json` keeps what it returned, with
the device, the version and the date; `clarion table NAME` renders all parts that were ever measured.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

from clarion.config import nearest, numbered, target_problems
from clarion.errors import UsageError
from clarion.record import git_revision, now, read_json, to_json, write_atomic

log = logging.getLogger("clarion")
KIND = "measured"


@dataclass(frozen=True)
class MeasuredTable:
    name: str
    spec: dict[str, Any]
    parts: dict[str, dict[str, Any]]  # in the order of the spec; only those that were measured


def is_measured(folder: Path) -> bool:
    """Whether experiments/NAME is a table of measurements rather than of runs."""
    return _spec(folder).get("kind") == KIND


def build(folder: Path) -> MeasuredTable:
    """All recorded parts of a table."""
    spec = _spec(folder)
    found = {part: read_json(folder / "results" / f"{part}.json") for part in spec["parts"]}
    return MeasuredTable(folder.name, spec, {part: result for part, result in found.items() if result})


def measure(folder: Path, parts: list[str], out: Path, **options: Any) -> list[Path]:
    """Measure parts (all, if none is named) and write OUT/PART.json; options replace those of table.yaml."""
    spec = _spec(folder)
    if spec.get("kind") != KIND:
        raise UsageError(f"{folder.name} is a table of runs: fill it with python train.py experiment={folder.name}.")
    for part in parts:
        if part not in spec["parts"]:
            listed = ", ".join(spec["parts"])
            raise UsageError(f"{folder.name} has no part {part}.{nearest(part, spec['parts'])} (parts: {listed})")
    targets = {part: {"_target_": spec["parts"][part]["measure"]} for part in spec["parts"]}
    if problems := target_problems(targets):
        raise UsageError(numbered(problems))
    written = []
    for part in parts or list(spec["parts"]):
        written.append(_measure_part(part, spec["parts"][part], out, options))
    return written


def _measure_part(part: str, node: dict[str, Any], out: Path, options: dict[str, Any]) -> Path:
    from hydra.utils import get_method

    from clarion.building import device_name
    from clarion.trained import open_model

    arguments = {**node.get("options", {}), **{k: v for k, v in options.items() if v is not None}}
    models = {}
    for name, model in node.get("predictors", {}).items():
        trained = open_model(model["from"], model["task"], model["model"], device="cpu", option=f"predictors.{name}")
        arguments[name] = trained.predictor
        models[name] = trained.source
    log.info("measuring %s (%s)", part, ", ".join(f"{k}={v}" for k, v in arguments.items() if k not in models))
    began = time.time()
    result = get_method(node["measure"])(**arguments)
    recorded = {
        **result,
        "device": device_name("cpu"),
        "seconds": round(time.time() - began, 1),
        "measured": now(),
        "git": git_revision(),
        "models": models,
        "options": {k: v for k, v in arguments.items() if k not in models},
    }
    path = out / f"{part}.json"
    write_atomic(path, to_json(recorded))
    return path


def render(table: MeasuredTable, form: str) -> str:
    """md, csv, tex, html or json."""
    return {"md": _md, "csv": _csv, "tex": _tex, "html": _html, "json": _json}[form](table)


def write(table: MeasuredTable, out: Path) -> list[Path]:
    """The four rendered forms into a folder."""
    paths = []
    for form in ("md", "csv", "tex", "html"):
        paths.append(out / f"table.{form}")
        write_atomic(paths[-1], render(table, form))
    return paths


def _spec(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "table.yaml").read_text(encoding="utf-8"))


def _missing(table: MeasuredTable) -> list[str]:
    return [
        f"{part}: not measured yet; `clarion measure {table.name} {part}`"
        for part in table.spec["parts"]
        if part not in table.parts
    ]


def _provenance(part: str, result: dict[str, Any]) -> list[str]:
    """Notes of a part, then how it was made."""
    models = "; ".join(f"{k} = {m['model']} {m['hash'][:12]}" for k, m in result.get("models", {}).items())
    how = f"{result['device']}, {result['seconds']:.0f} s, {result['measured']}"
    made = f"{result['data']} data, n = {result['n']}, {how}"
    return [*result.get("notes", []), made + (f"; models: {models}" if models else "")]


def _text(cell: Any) -> str:
    if cell is None:
        return "—"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _figures(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, f in result.get("figures", {}).items():
        interval = "" if f.get("low") is None else f" [{_text(float(f['low']))}, {_text(float(f['high']))}]"
        rows.append([name, _text(f.get("value")) + interval, _text(f.get("n")), str(f.get("target") or "")])
    return rows


FIGURE_HEAD = ["figure", "measured", "n", "target"]


def _md(table: MeasuredTable) -> str:
    lines = [f"# {table.spec['title']}", ""]
    for part, result in table.parts.items():
        lines += [f"## {result['title']}", ""]
        if figures := _figures(result):
            lines += [*_md_rows(FIGURE_HEAD, figures), ""]
        lines += [*_md_rows(result["columns"], [[_text(c) for c in row] for row in result["rows"]]), ""]
        lines += [*[f"- {note}" for note in _provenance(part, result)], ""]
    lines += [f"- {note}" for note in _missing(table)]
    return "\n".join(lines).rstrip() + "\n"


def _md_rows(head: list[str], rows: list[list[str]]) -> list[str]:
    line = lambda cells: "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"  # noqa: E731
    return [line(head), "|" + "---|" * len(head), *[line(row) for row in rows]]


def _csv(table: MeasuredTable) -> str:
    """Long form: part, table (figure | row), row, column, value; one cell a line, so that parts fit one file."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["part", "kind", "row", "column", "value", "data", "n"])
    for part, result in table.parts.items():
        for name, figure in result.get("figures", {}).items():
            for key in ("value", "low", "high", "n", "target"):
                if figure.get(key) is not None:
                    writer.writerow([part, "figure", name, key, figure[key], result["data"], figure.get("n", "")])
        for index, row in enumerate(result["rows"]):
            for column, cell in zip(result["columns"], row, strict=True):
                writer.writerow([part, "row", index, column, "" if cell is None else cell, result["data"], result["n"]])
    return buffer.getvalue()


def _json(table: MeasuredTable) -> str:
    return to_json(
        {"name": table.name, "title": table.spec["title"], "parts": table.parts, "missing": _missing(table)}
    )


def _tex(table: MeasuredTable) -> str:
    def esc(text: str) -> str:
        for a, b in (("\\", r"\textbackslash{}"), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("#", r"\#"), ("—", "---")):
            text = text.replace(a, b)
        return text

    lines = []
    for result in table.parts.values():
        head = result["columns"]
        caption = esc(f"{result['title']} (n = {result['n']}, {result['data']}).")
        lines += [r"\begin{table}", r"\caption{" + caption + "}", r"\begin{tabular}{" + "l" * len(head) + "}"]
        lines += [r"\hline", " & ".join(map(esc, head)) + r" \\", r"\hline"]
        lines += [" & ".join(esc(_text(c)) for c in row) + r" \\" for row in result["rows"]]
        lines += [r"\hline", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)


def _html(table: MeasuredTable) -> str:
    def block(head: list[str], rows: list[list[str]]) -> str:
        cells = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        titles = "".join(f"<th>{escape(h)}</th>" for h in head)
        return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{cells}</tbody></table></div>'

    parts = []
    for part, result in table.parts.items():
        figures = _figures(result)
        parts.append(f"<h2>{escape(result['title'])}</h2>" + (block(FIGURE_HEAD, figures) if figures else ""))
        parts.append(block(result["columns"], [[_text(c) for c in row] for row in result["rows"]]))
        parts.append("<ul>" + "".join(f"<li>{escape(n)}</li>" for n in _provenance(part, result)) + "</ul>")
    parts += [f"<p>{escape(note)}</p>" for note in _missing(table)]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(table.spec["title"])}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;color:#1b1f24;background:#fff}}
.wide{{overflow-x:auto}}table{{border-collapse:collapse;white-space:nowrap;margin:.6rem 0}}
th,td{{padding:.3rem .7rem;border-bottom:1px solid #d5dae1;text-align:left}}th{{background:#f3f5f8}}</style></head>
<body><h1>{escape(table.spec["title"])}</h1>
{"".join(parts)}</body></html>
"""
