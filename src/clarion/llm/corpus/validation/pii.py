"""How much planted personal information is removed, and what is removed that is none: `clarion measure corpus_pii`."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from clarion.errors import UsageError
from clarion.evaluators.bootstrap import Interval, bootstrap, wilson
from clarion.llm.corpus.clean import clean
from clarion.llm.corpus.pii.redact import find
from clarion.llm.corpus.spec import PII_TYPES
from clarion.llm.corpus.validation.clinical_text import compose, plain_text

SETTINGS = {"types": list(PII_TYPES), "dates": "all", "ner": None, "ner_score": 0.7}
_TITLES = {"first": "", "second": ", second set of sentences", "held_out": ", sentences not seen by the rules"}


def measure(language: str = "en", documents: int = 400, seed: int = 0, sentences: str = "first") -> dict[str, Any]:
    """Recall by kind and context and precision by kind, on composed documents; intervals by bootstrap over documents.
    sentences: first or second (the rules were improved on both) or held_out (never used to improve them).

    A planted value counts as removed when each of its characters (blanks and marks aside) lies in a span found,
    whatever kind the span was given."""
    if language not in ("en", "ko"):
        raise UsageError(f"language={language}: personal information is composed in en and ko.")
    recalled: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)  # (document, 1 removed | 0)
    partly: Counter = Counter()
    right: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, (text, planted) in enumerate(compose(language, documents, seed, sentences)):
        found = find(text, SETTINGS)
        covered = np.zeros(len(text), bool)
        for span in found:
            covered[span.start : span.end] = True
        for item in planted:
            wanted = np.array([text[k].isalnum() for k in range(item.start, item.end)])
            inside = covered[item.start : item.end][wanted]
            for key in ((item.kind, item.context), (item.kind, "all"), ("all", "all")):
                recalled[key].append((number, float(inside.all())))
                partly[key] += bool(inside.any() and not inside.all())
        truth = np.zeros(len(text), bool)
        for item in planted:
            truth[item.start : item.end] = True
        for span in found:
            hit = float(truth[span.start : span.end].any())
            right[span.kind].append((number, hit))
            right["all"].append((number, hit))
    order = [("all", "all"), *sorted((k for k in recalled if k[0] != "all"), key=lambda k: (k[0], k[1] != "all", k[1]))]
    rows = []
    for kind, context in order:
        recall = _share(recalled[kind, context], seed)
        precision = _share(right[kind], seed) if context == "all" else Interval(None)
        n = len(recalled[kind, context])
        found_of_kind = len(right[kind]) if context == "all" else None
        sure = [found_of_kind, precision.value, precision.low, precision.high]
        rows.append([kind, context, n, recall.value, recall.low, recall.high, partly[kind, context] / n, *sure])
    total, exact = _share(recalled["all", "all"], seed), _share(right["all"], seed)
    names = _share(recalled["NAME", "all"], seed)
    word = {"en": "English", "ko": "Korean"}[language]
    return {
        "part": word.lower() + ("" if sentences == "first" else f"_{sentences}"),
        "title": f"{word} text: personal information found" + _TITLES[sentences],
        "columns": [
            "kind",
            "context",
            "planted",
            "recall",
            "low",
            "high",
            "partly",
            "found",
            "precision",
            "p_low",
            "p_high",
        ],
        "rows": rows,
        "notes": [
            "Composed sentences; names from the US census (package names) or Faker ko_KR, which the recognisers do not "
            "use. The sentences and the rules have one author: real records are worse. "
            + (
                "These sentences were never used to improve the rules."
                if sentences == "held_out"
                else "The rules were improved on these sentences (other draws): see the held-out part."
            ),
            "recall: all characters of the value were removed; partly: some of them. Contexts `lower`, `first only` "
            "and `running` are names without any label.",
        ],
        "n": documents,
        "data": "phantom",
        "figures": {
            "recall": _figure(total, len(recalled["all", "all"])),
            "recall_names": _figure(names, len(recalled["NAME", "all"])),
            "precision": _figure(exact, len(right["all"])),
        },
    }


def measure_false_positives(documents: int = 400, seed: int = 0) -> dict[str, Any]:
    """What is removed from text without personal information: composed sentences, English and Korean, and, where
    CLARION_REAL_DATA is set, public abstracts (PubMedQA)."""
    texts = {
        "composed, English": plain_text("en", documents, seed),
        "composed, Korean": plain_text("ko", documents, seed),
    }
    abstracts = public_abstracts()
    if abstracts:
        texts["public abstracts (PubMedQA)"] = abstracts
    rows, figures = [], {}
    for name, group in texts.items():
        counts, words = Counter(), 0
        for text in group:
            words += len(text.split())
            counts.update(span.kind for span in find(text, SETTINGS))
        for kind in (*sorted(counts), "all"):
            n = sum(counts.values()) if kind == "all" else counts[kind]
            rows.append([name, len(group), words, kind, n, 1000 * n / words])
        per_document = [(k, float(bool(find(text, {**SETTINGS, "dates": "birth"})))) for k, text in enumerate(group)]
        figures[f"documents touched, dates aside: {name}"] = _figure(_share(per_document, seed), len(group))
    notes = ["All dates count as found here; with pii.dates: birth (public corpora) those of studies stay."]
    if abstracts:
        notes.append("Abstracts name places, e-mails and study periods now and then: not all of these are mistakes.")
    else:
        notes.append("CLARION_REAL_DATA is not set: no public abstracts were read.")
    return {
        "part": "false_positives",
        "title": "Text without personal information: what is removed all the same",
        "columns": ["text", "documents", "words", "kind", "removed", "per 1,000 words"],
        "rows": rows,
        "notes": notes,
        "n": sum(map(len, texts.values())),
        "data": "public" if abstracts else "phantom",
        "figures": figures,
    }


def public_abstracts() -> list[str]:
    """Abstracts of PubMedQA below CLARION_REAL_DATA; empty where it is not there."""
    path = Path(os.environ.get("CLARION_REAL_DATA") or "/nowhere") / "llm" / "pubmedqa" / "ori_pqal.json"
    if not path.is_file():
        return []
    records = json.loads(path.read_text(encoding="utf-8"))
    return [clean("\n\n".join(record["CONTEXTS"])) for record in records.values()]


def _share(hits: list[tuple[int, float]], seed: int) -> Interval:
    """Share of hits with a bootstrap interval over documents; Wilson's (over values) where all are alike."""
    if not hits:
        return Interval(None)
    groups, values = [g for g, _ in hits], np.array([v for _, v in hits])
    found = bootstrap(lambda w: (w @ values) / np.maximum(w.sum(1), 1e-12), groups, n_resamples=1000, seed=seed)
    return found if found.low is not None else wilson(float(values.sum()), len(values))


def _figure(interval: Interval, n: int) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": n}
