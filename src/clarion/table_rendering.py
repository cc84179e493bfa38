"""A table of runs as Markdown, CSV, TeX, HTML and JSON: figures with intervals, what they come from, and captions."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

from clarion.record import to_json
from clarion.table_records import select

MISSING = "—"


@dataclass
class Cell:
    """One row of the table: its published line, its measured record (or None) and the command that fills it.

    own: title of a column that names its run or evaluator itself -> (measured record or None, command)."""

    keys: dict[str, str]
    published: dict[str, str]
    measured: dict[str, Any] | None
    command: str
    notes: list[str] = field(default_factory=list)
    own: dict[str, tuple[dict[str, Any] | None, str]] = field(default_factory=dict)

    def of(self, column: dict) -> dict[str, Any] | None:
        """The record that a column's figure comes from."""
        return self.own[column["title"]][0] if column["title"] in self.own else self.measured

    def records(self) -> list[dict[str, Any]]:
        """All measured records of the row, the common one first."""
        found = [self.measured, *(record for record, _ in self.own.values())]
        return [r for r in found if r is not None]

    def commands(self, common: bool) -> list[str]:
        """What fills the figures that are missing. common: whether any column uses the row's common record."""
        missing = [self.command] if common and self.measured is None else []
        return list(dict.fromkeys([*missing, *(c for record, c in self.own.values() if record is None and c)]))


@dataclass
class Table:
    """summaries: rows that are means over others; remarks: sentences computed from the figures."""

    name: str
    spec: dict
    cells: list[Cell]
    summaries: list[Cell] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def rows(self) -> Iterator[Cell]:
        yield from self.cells
        yield from self.summaries


def is_measured(column: dict) -> bool:
    """Whether a column is filled by runs; the others quote published.csv alone."""
    return "metric" in column or "manifest" in column


def is_own(column: dict) -> bool:
    """Whether a column names its own run or evaluator."""
    return is_measured(column) and bool(column.get("run") or column.get("evaluator"))


def has_own_n(column: dict) -> bool:
    """Whether a column's figures are of other samples than the row's: its own run's, or a subgroup's."""
    return is_own(column) or (is_measured(column) and "subgroup" in column)


def has_common(spec: dict) -> bool:
    """Whether any column takes the row's common record."""
    return any(is_measured(c) and not is_own(c) for c in spec["columns"])


def header(spec: dict) -> list[str]:
    names = list(spec["rows"])
    for column in spec["columns"]:
        names.append(column["title"])
        if is_measured(column) and "published" in column:
            names.append(f"{column['title']} published")
    return [*names, *(["n"] if has_common(spec) else []), "Data", "Device", "Settings",
            "Run, or command that fills the row"]  # fmt: skip


def rendered_rows(table: Table) -> list[list[str]]:
    common, rows = has_common(table.spec), []
    for cell in table.rows():
        row = list(cell.keys.values())
        for column in table.spec["columns"]:
            row += [shown(cell.of(column), column, with_n=has_own_n(column))] if is_measured(column) else []
            row += [cell.published.get(column["published"]) or MISSING] if "published" in column else []
        rows.append(row + _provenance(table.spec, cell, common))
    return rows


def _provenance(spec: dict, cell: Cell, common: bool) -> list[str]:
    """n, data, device, settings and run of a row; the commands where something is missing."""
    records = cell.records()
    if not records:
        return [MISSING] * (4 if common else 3) + ["; ".join(cell.commands(common)) or MISSING]
    out = []
    if common:
        shared = sorted((c for c in spec["columns"] if not is_own(c)), key=has_own_n)  # a subgroup's n last
        entries = [(cell.measured or {}).get("metrics", {}).get(c.get("metric")) for c in shared]
        entry = next((e for e in entries if e), {})
        out.append(f"{entry.get('n')} ({entry.get('n_patients')} patients)" if cell.measured else MISSING)
    settings = ", ".join(f"{k}={v}" for k, v in records[0]["settings"].items() if v is not None)
    if (trained := (records[0].get("counts") or {}).get("train")) and len(records) == 1:
        settings = f"trained on {trained}; {settings}"
    runs = [r["run"] for r in records]
    told = runs[0] if len(runs) == 1 else f"{len(runs)} runs" if len(set(runs)) > 1 else f"{len(runs)} x {runs[0]}"
    return [
        *out,
        " and ".join(sorted({r["data_kind"] for r in records})),
        " and ".join(sorted({short_device(r["device"]) for r in records})),
        settings,
        "; ".join([told, *cell.commands(common)]),
    ]


def shown(measured: dict | None, column: dict, with_n: bool = False) -> str:
    """`0.612 [0.592, 0.632]`, with n where the row's own n is not this figure's."""
    if measured is None:
        return MISSING
    digits = column.get("digits", 3)
    if "manifest" in column:
        value = select(measured, column["manifest"])
        return MISSING if value is None else f"{value * column.get('scale', 1):.{digits}f}"
    entry = measured["metrics"].get(column["metric"]) or {}
    if entry.get("value") is None:
        return MISSING
    text = f"{entry['value']:.{digits}f}"
    if entry.get("low") is not None and entry.get("high") is not None:
        text += f" [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"
    return text + (f" (n {entry['n']})" if with_n and entry.get("n") is not None else "")


def short_device(device: str | None) -> str:
    return (device or MISSING).replace("(R)", "").replace("NVIDIA ", "")


def caption(table: Table) -> list[str]:
    done = [c for c in table.cells if c.records()]
    kinds = sorted({r["data_kind"] for c in done for r in c.records()})
    lines = [
        f"{len(done)} of {len(table.cells)} rows measured"
        + (f", on {' and '.join(kinds)} data" if kinds else "")
        + ". Brackets: 95 % interval (bootstrap over patients).",
        f"Published: {table.spec['source']}.",
    ]
    if "phantom" in kinds:
        lines.append(
            "Phantom figures come from synthetic data: they say that the code works and how the models compare there, "
            "nothing about patients."
        )
    lines += [*_intervals(table), *table.remarks]
    baselines: dict[str, Any] = next((c.measured["baseline"] for c in done if (c.measured or {}).get("baseline")), {})
    for column in table.spec["columns"]:
        entry = baselines.get(column.get("metric", "")) if not is_own(column) else None
        if entry and entry.get("value") is not None:
            lines.append(
                f"Baseline {column['title']}: {entry['value']:.3f} ({entry.get('name') or entry.get('method')})."
            )
    return lines + [f"{' '.join(c.keys.values())}: {n}." for c in table.rows() for n in dict.fromkeys(c.notes)]


def _intervals(table: Table) -> list[str]:
    """How the intervals of means are made, and of which columns they are the coarser ones."""
    found = {c["title"]: {entry["method"].rsplit("; ", 1)[-1] for cell in table.rows() if (r := cell.of(c))
                          and "parts" in r and (entry := r["metrics"].get(c["metric"])) and entry.get("method")}
             for c in table.spec["columns"] if "metric" in c}  # fmt: skip
    ways = dict.fromkeys(way for methods in found.values() for way in sorted(methods))
    return [f"Intervals of means of {', '.join(t for t, methods in found.items() if way in methods)}: {way}."
            for way in ways]  # fmt: skip


def render(table: Table, form: str) -> str:
    """md, csv, tex, html or json."""
    return {"md": as_md, "csv": as_csv, "tex": as_tex, "html": as_html, "json": as_json}[form](table)


def as_md(table: Table) -> str:
    head, rows = header(table.spec), rendered_rows(table)
    lines = [f"# {table.spec['title']}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join([*r[:-1], f"`{r[-1]}`"]) + " |" for r in rows]
    return "\n".join([*lines, "", *[f"- {c}" for c in caption(table)]]) + "\n"


def csv_key(column: dict) -> str:
    """The metric's name; of a column with its own run or subgroup the title's: several may show one metric."""
    if has_own_n(column) or not is_measured(column):
        return re.sub(r"\W+", "_", column["title"].lower()).strip("_")
    return column.get("metric") or column["manifest"]


def as_csv(table: Table) -> str:
    """Numbers in columns of their own: value, low, high and published for every metric."""
    names = list(table.spec["rows"].values())
    for c in table.spec["columns"]:
        key = csv_key(c)
        names += [key] if is_measured(c) else []
        names += [f"{key}_low", f"{key}_high"] if "metric" in c else []
        names += [f"{key}_n"] if has_own_n(c) else []
        names += [f"{key}_published"] if "published" in c else []
    names += ["n", "n_patients", "data_kind", "device", "duration_s", "seed", "run", "command"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(names)), lineterminator="\n")
    writer.writeheader()
    common = has_common(table.spec)
    for cell in table.rows():
        row: dict[str, Any] = dict(zip(table.spec["rows"].values(), cell.keys.values()))
        for c in table.spec["columns"]:
            key, m = csv_key(c), cell.of(c) or {}
            if "published" in c:
                row[f"{key}_published"] = cell.published.get(c["published"])
            if "metric" in c:
                entry = m.get("metrics", {}).get(c["metric"]) or {}
                row |= {key: entry.get("value"), f"{key}_low": entry.get("low"), f"{key}_high": entry.get("high")}
                if has_own_n(c):
                    row[f"{key}_n"] = entry.get("n")
                elif entry:
                    row |= {"n": entry.get("n"), "n_patients": entry.get("n_patients")}
            elif is_measured(c):
                row[key] = select(m, c["manifest"])
        first = next(iter(cell.records()), {})
        row |= {k: first.get(k) for k in ("data_kind", "device", "duration_s", "seed", "run")}
        command = cell.command if common else "; ".join(cell.commands(common))
        writer.writerow(row | {"command": command})
    return buffer.getvalue()


def without_parts(record: dict | None) -> dict | None:
    """A record without the runs it is made of: those have rows of their own in measured.json."""
    return None if record is None else {k: v for k, v in record.items() if k != "parts"}


def as_json(table: Table) -> str:
    def plain(c: Cell) -> dict:
        own = {title: without_parts(record) for title, (record, _) in c.own.items()}
        return {"keys": c.keys, "published": c.published, "command": c.command, "measured": without_parts(c.measured),
                **({"columns": own} if own else {})}  # fmt: skip

    return to_json(
        {
            "name": table.name,
            "title": table.spec["title"],
            "source": table.spec["source"],
            "notes": caption(table),
            "rows": [plain(c) for c in table.cells],
            **({"summaries": [plain(c) for c in table.summaries]} if table.summaries else {}),
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
