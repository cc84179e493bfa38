"""A fused run: beside its unimodal models, what its answers depend on, its texts against the facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy

from clarion.errors import DataError
from clarion.evaluators.factcheck_claims import SUPPORTED
from clarion.evaluators.factcheck_facts import Facts
from clarion.evaluators.factcheck_patterns import stated
from clarion.evaluators.factcheck_text import TOP, Checked, check
from clarion.evaluators.mcqa_questions import as_text
from clarion.report.cases import joined
from clarion.report.charts import estimate, number, p_value, ranked_chart, signed
from clarion.report.files import RunFiles, as_dict
from clarion.report.results import entries, estimate_of, label

ABLATION = "clarion-modality-ablation/1"
MAIN = ("auc_60m", "auc", "auc_36m", "c_index")  # the score that is drawn: the first that there is
PARTS = ("slide", "omics", "genes", "clinical")  # colours, in this order
HOW = {
    "zeroed": "the mean training patient",
    "shuffled": "another patient's",
    "withheld": "taken away",
}
CHECKS = ("precision", "precision_cleaned", "omission", "omission_cleaned", "removed_rate", "unread_rate")
MOST_CHECKED = 500  # texts that are checked again to choose the examples
TEXTS = 2  # at random, beside the text that lost most


# ------------------------------------------------------------------------------------------- beside other models


def beside_view(run: RunFiles) -> dict[str, Any] | None:
    """The model, its unimodal models and the baselines on the same patients: chart and table of the main score, tables
    of the others; None where nothing was compared."""
    result = next((r for r in run.evaluators.values() if r.get("beside")), None)
    if result is None:
        return None
    others = sorted(map(as_dict, result["beside"]), key=lambda one: not _unimodal(one))
    own = run.chosen("model") or "this model"
    metrics = list(dict.fromkeys(m for one in others for m in as_dict(one.get("metrics"))))
    main = next((m for m in MAIN if m in metrics), metrics[0] if metrics else None)
    if main is None:
        return None
    tables = [_scores_of(metric, own, others, result) for metric in sorted(metrics, key=lambda m: m != main)]
    mine = next(entry for one in others if (entry := _entry(one, main, "model")))
    rows = [("fused", *_ends(mine), 0)]
    for one in others:
        name = str(one["label"]).split(" (")[0]
        rows.append((name, *_ends(_entry(one, main, "other")), 1 if _unimodal(one) else 5))
    return {
        "told": f"All models on the same {number(mine.get('n'))} patients of the {run.split} split, with the same "
        "censoring weights. Difference: this model minus the other over the same resamples of patients; above 0 the "
        "fused model is better (below 0 of a Brier score).",
        "chart": ranked_chart(label(main), rows, label(main)),
        "first": tables[0],
        "more": tables[1:],
        "absent": [str(note) for note in result.get("notes") or [] if "alone is not shown beside" in str(note)],
    }


def _unimodal(one: Mapping) -> bool:
    return str(one.get("name")).startswith("unimodal_")


def _scores_of(metric: str, own: str, others: Sequence[Mapping], result: Mapping) -> dict[str, Any]:
    """One score of all models: rows of (model, value, difference, DeLong's p where it applies)."""
    tested = any(_delong(one, metric) is not None for one in others)
    mine = next((entry for one in others if (entry := _entry(one, metric, "model"))), {})
    rows = [[f"{own} (fused)", estimate_of(mine), "—", *(["—"] if tested else [])]]
    for one in others:
        if not (theirs := _entry(one, metric, "other")):
            continue
        p = [p_value(_delong(one, metric)) if _delong(one, metric) is not None else "—"] if tested else []
        rows.append([str(one["label"]), estimate_of(theirs), signed(*_ends(_entry(one, metric, "difference"))), *p])
    head = ["Model", label(metric), "Fused minus it", *(["DeLong p"] if tested else [])]
    return {"title": label(metric), "head": head, "rows": rows, "method": str(mine.get("method") or "")}


def _entry(one: Mapping, metric: str, side: str) -> dict[str, Any]:
    return as_dict(as_dict(as_dict(one.get("metrics")).get(metric)).get(side))


def _delong(one: Mapping, metric: str) -> float | None:
    return as_dict(as_dict(one.get("delong")).get(metric)).get("p")


def _ends(entry: Mapping) -> tuple[Any, Any, Any]:
    return entry.get("value"), entry.get("low"), entry.get("high")


# ---------------------------------------------------------------------------------- what the answer depends on


def ablation_view(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """explanation.json of a fused run as a chart and a table; None for another explanation."""
    if document.get("format") != ABLATION:
        return None
    found = {what: entries(metrics) for what, metrics in as_dict(document.get("metrics")).items()}
    texts = any("texts_changed" in metrics for metrics in found.values())
    bars, rows = [], []
    for what, metrics in found.items():
        part, _, how = what.partition("_")
        moved = metrics.get("probability_changed_by", {})
        bars.append((f"{part} {how}", *_ends(moved), PARTS.index(part) if part in PARTS else 5))
        row = [f"{part}: {HOW.get(how, how)} ({how})", _estimate(moved), _estimate(metrics.get("answers_flipped", {}))]
        row += [_estimate(metrics.get("texts_changed", {}))] if texts else []
        rows.append([*row, number(moved.get("n_patients"))])
    head = ["Input, replaced by", "Change of the probability", "Answers that flip"]
    return {
        "told": f"{document.get('patients')} patients answered again, each with one input changed. Mean |change of the "
        "probability of survival|, with 95 % intervals over patients; an input whose bar is 0 is not read.",
        "chart": ranked_chart("Change of the probability of survival", bars, "mean |change|"),
        "head": [*head, *(["Texts that change"] if texts else []), "Patients"],
        "rows": rows,
        "notes": [str(note) for note in document.get("notes") or []],
    }


def _estimate(entry: Mapping) -> str:
    return estimate(*_ends(entry)) if entry else "—"


# ------------------------------------------------------------------------------------------ texts, fact-checked


def texts_view(run: RunFiles) -> dict[str, Any] | None:
    """The fact check of the written prognoses with example texts, removed sentences struck; None for runs without.

    Texts of private data are left out, as everywhere."""
    result = next((r for r in run.evaluators.values() if "precision_cleaned" in as_dict(r.get("metrics"))), None)
    if result is None:
        return None
    metrics, baseline = entries(result["metrics"]), entries(result.get("baseline"))
    rows = [
        [label(name), estimate_of(metrics[name]), estimate_of(baseline[name]) if name in baseline else "—",
         str(metrics[name].get("method") or "").split(";")[0]]
        for name in CHECKS if name in metrics
    ]  # fmt: skip
    other = next((str(b["name"]) for b in baseline.values() if b.get("name")), "")
    notes = [str(note) for note in result.get("notes") or []]
    return {
        "told": " ".join(note for note in notes if "were removed." in note or note.startswith("Unsupported claims")),
        "head": ["Fact check", "Value", f"With {other}" if other else "Baseline", "What it is"],
        "rows": rows,
        "examples": _examples(run) if run.shows_samples else [],
    }


def _examples(run: RunFiles) -> list[dict[str, Any]]:
    """The text that lost most sentences, and some at random by a fixed seed; checked as the evaluator checks them, what
    is said of tissue against what the model was told of it."""
    table = joined(run)
    column = next((c for c in ("facts_true", "facts") if c in table), None)
    if table.empty or column is None or "text" not in table:
        return []
    rows, facts = table.to_dict("records")[:MOST_CHECKED], []
    try:
        facts = [Facts.read(row[column]) for row in rows]
        told = stated(table.head(len(rows)), [])
    except DataError:
        return []
    facts = [one if own is None else replace(one, patterns=own) for one, own in zip(facts, told, strict=True)]
    symbols = {gene.name for one in facts for gene in one.genes}
    top = int(as_dict(as_dict(run.config.get("evaluators")).get("factcheck")).get("top") or TOP)
    checked = [check(as_text(row["text"]), one, symbols, top) for row, one in zip(rows, facts, strict=True)]
    written = [k for k, row in enumerate(rows) if as_text(row["text"]).strip()]
    if not written:
        return []
    most = max(written, key=lambda k: len(checked[k].removed))
    first = [most] if checked[most].removed else []
    drawn = numpy.random.default_rng(0).permutation([k for k in written if k not in first])[: TEXTS + 1 - len(first)]
    return [_example(rows[k], facts[k], checked[k], k == most and bool(first)) for k in [*first, *map(int, drawn)]]


def _example(row: Mapping, facts: Facts, checked: Checked, most: bool) -> dict[str, Any]:
    claims = checked.claims
    wrong = [
        f"{c.kind} of {c.about}: “{c.said.strip()}” is {c.verdict}"
        + (f" (they hold {c.expected})" if c.expected else "")
        for c in checked.unsupported
    ]
    said = [f"{sum(c.verdict == SUPPORTED for c in claims)} of {len(claims)} claims supported",
            f"{len(checked.removed)} sentence{'s' * (len(checked.removed) != 1)} removed"]  # fmt: skip
    if checked.omitted:
        said.append(f"not named: {', '.join(checked.omitted[:6])}{' …' if len(checked.omitted) > 6 else ''}")
    return {
        "sample_id": str(row["sample_id"]),
        "why": "most sentences removed" if most else "at random",
        "told": _outcome(row, facts),
        "parts": struck(as_text(row["text"]), checked),
        "note": "; ".join(said),
        "wrong": wrong,
    }


def struck(text: str, checked: Checked) -> list[tuple[str, bool]]:
    """The text in parts, each with whether the fact check removed it; joined they are the text."""
    left, parts, place = Counter(checked.removed), [], 0
    for sentence, _ in checked.sentences:
        if not sentence or not left[sentence]:
            continue
        at = text.find(sentence, place)
        if at < 0:
            continue
        left[sentence] -= 1
        parts += [(text[place:at], False), (sentence, True)]
        place = at + len(sentence)
    return [part for part in [*parts, (text[place:], False)] if part[0]]


def _outcome(row: Mapping, facts: Facts) -> str:
    """What was predicted, and what happened."""
    said, horizon = [], facts.horizon
    if isinstance(row.get("probability"), float):
        said.append(f"Probability of survival{f' at {horizon:g} months' if horizon else ''}: {row['probability']:.2f}")
    if row.get("time") is not None and row.get("event") is not None:
        said.append(f"{'died' if row['event'] else 'last seen alive'} at {float(row['time']):.0f} months")
    missing = row.get("missing")
    if missing is not None and len(missing):
        said.append(f"without {' and '.join(map(str, missing))}")
    return "; ".join(said)
