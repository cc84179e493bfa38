"""explanation.json -> top genes as a chart and a table, checks of faithfulness, stability over runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clarion.report.charts import Chart, Series, estimate, line_chart, number, p_value, ranked_chart, score
from clarion.report.files import as_dict

METHODS = {
    "integrated_gradients": "Integrated gradients",
    "coefficient_x_value": "Coefficient × value",
    "attention": "Attention",
    "cox_table": "Cox table of the training patients alone",
}
FORMAT = "clarion-explanation/1"
DIRECTIONS = {"+": 1, "-": 0, "+-": 5}  # colours: raises the risk, lowers it, unclear
SIGNS = {"+": "↑ risk", "-": "↓ risk", "+-": "unclear"}


def explanation_view(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the template shows of one model's explanation; None where there is none, or one of another version."""
    if document.get("format") != FORMAT:
        return None
    rows = document["genes"][: document["top"]]
    method = METHODS.get(document["method"], document["method"])
    planted = document.get("planted")
    return {
        "caption": f"{method} on {document['patients']} patients of {document['split']} "
        f"({', '.join(c for c in document['cancers'] if c)}); baseline: {document['baseline']}. Intervals: "
        f"{100 * document['level']:g} %, bootstrap over patients.",
        "chart": ranked_chart(
            f"{method}: mean |share of the risk|",
            [(_gene(r), *_ends(r["attribution"]), DIRECTIONS[r["direction"]]) for r in rows],
            "mean |attribution|",
        ),
        "attention": ranked_chart(
            "Attention of the readout", [(_gene(r), *_ends(r["attention"]), 2) for r in rows if r["attention"]],
            "mean attention",
        ),
        "head": ["Gene", "Attribution", "Direction", "Effect per SD", "Cox (cancer)", "p", "q", "Effect there",
                 "Cox hit", *(["Planted"] if planted or _known(rows) else []),
                 *(["Attention, 1: even"] if rows and rows[0]["attention"] else []), "Mean share"],
        "rows": [_row(r, document["genes_read"], bool(planted or _known(rows))) for r in rows],
        "sentences": _sentences(document),
        "deletion": _deletion(document["deletion"]),
        "planted": _planted(planted),
        "verdict": planted["verdict"] if planted else "",
        "notes": document["notes"],
    }  # fmt: skip


def _known(rows: Sequence[Mapping]) -> bool:
    return any(r["planted"] is not None for r in rows)


def _row(r: Mapping, genes: int, planted: bool) -> list[str]:
    cox = as_dict(r["cox"])
    cells = [_gene(r), _estimate(r["attribution"]), SIGNS[r["direction"]], _estimate(r["effect"])]
    cells += [f"{number(cox['coef'])} ({cox['cancer']})" if cox else "—", p_value(cox.get("p")), p_value(cox.get("q"))]
    cells += [number(cox.get("effect_there")), ", ".join(cox.get("hit_in") or []) or "no"]
    cells += ["yes" if r["planted"] else "no"] if planted else []
    cells += [number(genes * r["attention"]["value"])] if r["attention"] else []
    return [*cells, _estimate(r["signed"])]


def _sentences(d: Mapping) -> list[str]:
    """Completeness, agreement and overlap in words."""
    found, complete, agreement = [], d["completeness"], d["agreement"]
    if complete["relative"] is not None:
        steps = f" with {complete['steps']} steps" if complete["steps"] else ""
        found.append(
            f"Completeness{steps}: attributions miss the change of risk by {complete['mean_delta']:.2g} on average "
            f"(largest {complete['max_delta']:.2g}; the change is {complete['mean_change_of_risk']:.2g})."
        )
    parts = [f"with {what} {agreement[key]:.2f}" for key, what in (("attention", "attention"), ("cox", "Cox strength"))
             if agreement.get(key) is not None]  # fmt: skip
    if parts:
        found.append(f"Rank correlation of the attributions over {d['genes_read']} genes: {', '.join(parts)}.")
    if overlap := d["cox_overlap"]:
        known = overlap["p"] is not None
        p = f"hypergeometric p = {p_value(overlap['p'])}" if known else "no test: all or none are hits"
        found.append(
            f"{overlap['hits_in_top']} of the top {overlap['top']} genes are Cox hits (q over genes and cancers "
            f"< {overlap['q_below']:g}) where chance gives {overlap['expected']:.2g} ({overlap['hits']} hits among "
            f"{overlap['genes']} genes; {p})."
        )
    return found


def _deletion(d: Mapping) -> dict[str, Any]:
    rows = d["rows"]
    k = [r["k"] for r in rows]
    series = [Series("top genes", k, [r["change"] for r in rows]),
              Series("random genes", k, [r["random_change"] for r in rows])]  # fmt: skip
    if "attention_change" in rows[0]:
        series.append(Series("top by attention", k, [r["attention_change"] for r in rows]))
    c_index = [Series("top genes", k, [r["c_index"] for r in rows]),
               Series("random genes", k, [r["random_c_index"] for r in rows])]  # fmt: skip
    charts: list[Chart | None] = [
        line_chart("Risk moved by deleting genes", series, "genes set to the baseline", "mean |change of risk|"),
        line_chart("c-index inside cancers after deleting", c_index, "genes set to the baseline", "c-index"),
    ]
    table = [[str(r["k"]), number(r["change"]), number(r["random_change"]), _estimate(r["excess"]), score(r["c_index"]),
              score(r["random_c_index"])] for r in rows]  # fmt: skip
    told = (
        f"c-index inside cancers {score(d['c_index'])} with all genes, {score(d['c_index_without_genes'])} with none; "
        f"random: mean of {d['draws']} draws."
    )
    head = ["Genes deleted", "Change of risk", "Random genes", "Excess", "c-index", "c-index, random genes"]
    return {"charts": [c for c in charts if c], "head": head, "rows": table, "told": told}


def _planted(planted: Mapping | None) -> dict[str, Any] | None:
    if not planted:
        return None
    rows = [[METHODS.get(name, name), _estimate(r["auroc"]), _estimate(r["precision"]),
             _estimate(r["gain"]) if "gain" in r else "—"] for name, r in planted["rankings"].items()]  # fmt: skip
    told = (
        f"{planted['planted']} of the {planted['planted_everywhere']} planted genes are among the {planted['genes']} "
        f"that the model reads; chance: AUROC 0.5, precision {planted['chance_precision']:.2f}."
    )
    return {"told": told, "head": ["Ranking by", "AUROC", f"Precision at {planted['k']}", "AUROC above the Cox table"],
            "rows": rows}  # fmt: skip


def stability_view(stability: Mapping | None, runs: Sequence[str]) -> dict[str, Any] | None:
    """Means over pairs of runs in words, and a table of the pairs."""
    if not stability:
        return None
    s = stability
    told = (
        f"Over {len(s['pairs'])} pair(s) of {s['runs']} runs: Jaccard of each run's own top {s['top']} "
        f"{number(s['jaccard'])} where chance over all genes of the data gives {number(s['jaccard_chance'])} "
        f"(p = {p_value(s['jaccard_p'])}); Kuncheva {number(s['kuncheva'])} (chance 0); Spearman over the genes that "
        f"both read {number(s['spearman_shared'])} (p = {p_value(s['spearman_shared_p'])}). "
        f"p by {s['permutations']} permutations of the genes; folds share training patients, so they agree more than "
        "independent cohorts would."
    )
    rows = [[runs[p["runs"][0]], runs[p["runs"][1]], f"{p['genes_shared']} of {p['genes_read']}", number(p["pool"]),
             number(p["jaccard"]), number(p["jaccard_chance"]), number(p["kuncheva"]), number(p["spearman_shared"])]
            for p in s["pairs"]]  # fmt: skip
    head = ["Run", "Run", "Genes both read", "Pool", "Jaccard", "by chance", "Kuncheva", "Spearman over shared"]
    return {"told": told, "head": head, "rows": rows}


def write_explanation_page(result: Mapping[str, Any], path: Path) -> Path:
    """explanation.html of `clarion explain`: {"runs": [{"run", "model", "data", "data_kind", "explanation"}],
    "stability"}."""
    from clarion.report.page import KINDS, environment, write

    kinds = sorted({r["data_kind"] for r in result["runs"]})
    view = {
        "title": "Genes of " + ", ".join(dict.fromkeys(f"{r['model']} on {r['data']}" for r in result["runs"])),
        "kinds": kinds,
        "sentences": [KINDS[k] for k in kinds if k in KINDS],
        "runs": [{**r, "view": explanation_view(r["explanation"])} for r in result["runs"]],
        "stability": stability_view(result.get("stability"), [r["run"] for r in result["runs"]]),
    }
    return write(path, environment().get_template("explanation.html").render(view))


def _gene(row: Mapping) -> str:
    """The gene's name; rna is the rule and goes without saying."""
    return str(row["gene"]).removeprefix("rna:")


def _ends(e: Mapping) -> tuple[float | None, float | None, float | None]:
    return e["value"], e["low"], e["high"]


def _estimate(e: Mapping) -> str:
    return estimate(*_ends(e))
