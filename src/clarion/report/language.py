"""Language models: answers worth reading, and what of the evaluation stood in the training texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import pandas

from clarion.evaluators.grounding_claims import read_source, unsupported
from clarion.evaluators.mcqa_parsing import LETTERS, parse_answer
from clarion.evaluators.mcqa_questions import as_text, is_list
from clarion.evaluators.text_overlap import rouge_l
from clarion.report.cases import joined
from clarion.report.charts import number
from clarion.report.files import RunFiles, as_dict
from clarion.report.results import entries, estimate_of, label

EACH = 4  # examples of each group
LONGEST = 1200  # characters of a text
MOST_RANKED = 20_000  # answers that are compared with their reference to find the best and the worst
OVERLAPS = {
    "exact": "exact copy",
    "ngram13": "13 words in a row",
    "minhash": "near copy (Jaccard 0.8)",
    "any": "any of these",
    "boilerplate": "only common phrases",
    "short": "too short for 13 words",
}
GROUPS = {"best": "Best", "worst": "Worst", "random": "At random"}


def examples_view(run: RunFiles, each: int = EACH) -> list[dict[str, Any]]:
    """[{title, told, groups: [{title, rows}]}] of a language model's answers: multiple choice, free answers, documents.

    Best and worst by the probability of the right option, by ROUGE-L or by bits per byte; the random ones by a fixed
    seed. [] for other tasks, and for private data unless the run was told that they may be shown."""
    table = joined(run)
    if table.empty or not run.shows_samples:
        return []
    if {"nll", "bytes", "text_true"} <= set(table.columns):  # both tables have a column text where both hold one
        return [_documents(table.rename(columns={"text_true": "document"}), each)]
    if {"nll", "bytes", "text"} <= set(table.columns):
        return [_documents(table.rename(columns={"text": "document"}), each)]
    if "facts" in table or "facts_true" in table:  # prognoses, which `fused.texts_view` shows beside their facts
        return []
    if "answer" not in table or not {"text", "option_logprobs"} & set(table.columns):
        return []
    choice = numpy.zeros(len(table), dtype=bool)
    if {"options", "answer_index"} <= set(table.columns):
        choice = table["answer_index"].fillna(-1).to_numpy(dtype=int) >= 0
    sections = []
    if choice.any():
        sections.append(_choices(table[choice], each))
    if (~choice).any() and "text" in table:
        sections.append(_answers(table[~choice], "grounding" in run.evaluators, each))
    return sections


def flat_examples(run: RunFiles) -> list[dict[str, Any]]:
    """The same, one plain row an example, for a tracker's table."""
    rows = []
    for section in examples_view(run):
        for group in section["groups"]:
            for row in group["rows"]:
                options = "\n".join(f"{o['letter']} {o['text']} {o['share']}".strip() for o in row["options"])
                plain = {key: row[key] for key in ("sample_id", "question", "gold", "answer", "note")}
                rows.append({"kind": section["title"], "group": group["title"], **plain, "options": options})
    return rows


def _choices(table: pandas.DataFrame, each: int) -> dict[str, Any]:
    rows, scores = [], []
    for row in table.to_dict("records"):
        options, gold = [as_text(o) for o in row["options"]], int(row["answer_index"])
        shares = _shares(row.get("option_logprobs"))
        text = as_text(row.get("text"))
        if shares is not None:
            chosen = int(shares.argmax())
        else:
            chosen = -1 if (parsed := parse_answer(text, options).index) is None else parsed
        scores.append(float(shares[gold]) if shares is not None else float(chosen == gold))
        said = LETTERS[chosen] if chosen >= 0 else "none"
        note = f"{'right' if chosen == gold else 'wrong'}: chose {said}, answer {LETTERS[gold]}"
        shown = [
            {
                "letter": LETTERS[k], "text": _shortened(option, 240), "gold": k == gold, "chosen": k == chosen,
                "share": f"{shares[k]:.3f}" if shares is not None else "",
                "percent": round(100 * float(shares[k])) if shares is not None else 0,
            }
            for k, option in enumerate(options)
        ]  # fmt: skip
        rows.append(_row(row, options[gold], text, note, shown))
    told = (
        "Probability: softmax over the options' log-probabilities, summed over tokens. Best and worst by the "
        "probability of the right option."
    )
    return _section("Multiple choice", told, rows, scores, each)


def _answers(table: pandas.DataFrame, grounded: bool, each: int) -> dict[str, Any]:
    texts, answers = ([as_text(t) for t in table[column]] for column in ("text", "answer"))
    told, scores = "", [0.0] * len(table)
    if len(table) <= MOST_RANKED:
        found, how = rouge_l(texts, answers)
        scores = found.tolist()
        told = f"Best and worst by {how}."
    rows = []
    for row, text, answer, score in zip(table.to_dict("records"), texts, answers, scores, strict=True):
        rows.append(_row(row, answer, text, f"ROUGE-L {score:.2f}" if told else "", [], grounded))
    section = _section("Free answers", told, rows, scores, each)
    for shown in (row for group in section["groups"] for row in group["rows"] if row.pop("grounded")):
        source = read_source(shown["context"], shown["whole_question"], shown["whole_gold"])
        claims = unsupported(shown["whole_answer"], source)
        said = "; ".join(f"{claim.kind}: {claim.what}" for claim in claims)
        shown["note"] += f". Not in its source: {said}" if said else ". Every claim is in its source"
    return section


def _documents(table: pandas.DataFrame, each: int) -> dict[str, Any]:
    bits = (table["nll"] / numpy.log(2) / table["bytes"]).to_numpy(float)
    rows = [
        _row({"sample_id": row["sample_id"]}, "", as_text(row["document"]), f"{b:.2f} bits per byte", [])
        for row, b in zip(table.to_dict("records"), bits, strict=True)
    ]
    return _section("Documents", "Best: fewest bits per byte.", rows, (-bits).tolist(), each)


def _row(row: Mapping, gold: str, answer: str, note: str, options: list[dict], grounded: bool = False) -> dict:
    question = as_text(row.get("question"))
    return {
        "sample_id": str(row["sample_id"]), "question": _shortened(question), "gold": _shortened(gold),
        "answer": _shortened(answer), "note": note, "options": options, "grounded": grounded,
        "context": as_text(row.get("context")), "whole_question": question, "whole_gold": gold, "whole_answer": answer,
    }  # fmt: skip


def _section(title: str, told: str, rows: list[dict], scores: Sequence[float], each: int) -> dict[str, Any]:
    """Best, worst and random rows; none of them twice."""
    order = numpy.argsort(-numpy.asarray(scores, dtype=float), kind="stable").tolist()
    groups, left = [], list(order)
    if told:
        few = min(each, len(order) // 2)
        best, worst = order[:few], order[len(order) - few :][::-1]
        left = [k for k in order if k not in {*best, *worst}]
        groups = [("best", best), ("worst", worst)]
    drawn = numpy.random.default_rng(0).permutation(sorted(left))[:each].tolist()
    groups.append(("random", sorted(drawn)))
    shown = [{"key": key, "title": GROUPS[key], "rows": [rows[k] for k in picks]} for key, picks in groups if picks]
    return {"title": title, "told": told, "groups": shown, "total": len(rows)}


def _shares(logprobs: Any) -> numpy.ndarray | None:
    """Softmax of an option's summed log-probabilities."""
    if not is_list(logprobs) or not len(logprobs):
        return None
    scores = numpy.asarray(logprobs, dtype=float)
    if not numpy.isfinite(scores).any():
        return None
    powers = numpy.exp(scores - scores.max())
    return powers / powers.sum()


def contamination_view(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Counts of overlapping items, the sources searched, and the scores of all items beside those without overlap."""
    found, clean = as_dict(result.get("contamination")), as_dict(result.get("clean"))
    if not found:
        return None
    searched = found.get("index") or []
    total = found.get("n") or 0
    counts = [(what, number(found[key]), _percent(found[key], total)) for key, what in OVERLAPS.items() if key in found]
    own, alone = entries(result.get("metrics")), entries(clean.get("metrics"))
    scores = [] if not clean or clean.get("n") == total else [
        (label(name), estimate_of(own.get(name, {})), estimate_of(entry)) for name, entry in alone.items()
    ]  # fmt: skip
    return {
        "n": total,
        "counts": counts,
        "sources": [_source(source) for source in searched],
        "unknown": [str(sentence) for sentence in found.get("unknown") or []],
        "scores": scores,
        "clean_n": clean.get("n"),
    }


def _source(source: Mapping[str, Any]) -> str:
    name = str(source.get("run") or "?")
    if source.get("unknown"):
        return f"{name}: no index of its training texts"
    parts = [f"{number(source[key])} {key}" for key in ("texts", "documents", "words") if key in source]
    return f"{name} on {source.get('data', '?')} ({source.get('kind', '?')} data): {', '.join(parts)}"


def _percent(count: Any, total: int) -> str:
    return f"{100 * count / total:.1f} %" if total and isinstance(count, (int, float)) else ""


def _shortened(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else text[:most] + " … (shortened)"
