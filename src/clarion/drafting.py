"""`clarion review draft`: rationales of a run's patients written by any language model, checked against their facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clarion.errors import UsageError
from clarion.evaluators.bootstrap import bootstrap
from clarion.evaluators.factcheck_claims import SUPPORTED
from clarion.generating import open_generator
from clarion.record import read_json, to_json, write_atomic
from clarion.reviewing import facts_of

FORMAT = "clarion-rationale-drafts/1"


def write_drafts(
    run: Path, generator: str, out: Path, language: str = "en", split: str = "test", n: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """FILE.json: a draft for each patient of a split (at most n, by sample id), as generated and as it is after the
    sentences without support were removed and the template's were added; with the share of claims that held
    (precision) before and after, bootstrap over patients.

    run: with facts beside its predictions (a fused model's); its probabilities are part of what is to be explained.
    generator: as `clarion.generating.open_generator` takes it. Returns the summary. UsageError for a run without
    facts, another language and a generator that is none."""
    from clarion.cancer.rationale.draft import draft_rationales
    from clarion.cancer.rationale.rationale import known_language

    known_language(language)
    if out.suffix.lower() != ".json":
        raise UsageError(f"--out {out}: drafts are written as FILE.json.")
    table = facts_of(run, split).dropna(subset=["facts"]).sort_values("sample_id")
    if table.empty:
        raise UsageError(f"{run.name} has no facts beside its {split} predictions: draft for a run of a fused model.")
    table = table.head(n) if n is not None else table
    kind = read_json(run / "metrics.json").get("data_kind") if (run / "metrics.json").is_file() else None
    generate = open_generator(generator, "--generator", kind)
    if generate is None:
        raise UsageError("--generator none writes nothing: name a model, a folder or URL#MODEL.")
    facts = [
        f if f.survival is not None or p is None or p != p else replace(f, survival=float(p))
        for f, p in zip(table["facts"], table.get("probability", [None] * len(table)), strict=True)
    ]
    symbols = {gene.name for f in facts for gene in f.genes}
    drafts = draft_rationales(facts, generate, language, symbols, seed)
    rows = [
        {"sample_id": row.sample_id, "patient_id": row.patient_id, **draft.to_dict()}
        for row, draft in zip(table.itertuples(), drafts, strict=True)
    ]
    summary = {
        "format": FORMAT, "run": run.resolve().name, "split": split, "language": language, "patients": len(rows),
        "generator": generate.identity, "precision_raw": precision([d.checked for d in drafts], table["patient_id"]),
        "sentences_removed": sum(len(d.checked.removed) for d in drafts),
        "sentences_added": sum(len(d.added) for d in drafts),
    }  # fmt: skip
    write_atomic(out, to_json({**summary, "drafts": rows}))
    return summary | {"out": str(out)}


def precision(checked: Sequence[Any], patients: Sequence[str]) -> dict[str, Any]:
    """Supported claims / claims over all drafts as generated: {value, low, high, claims}; value None without claims."""
    claims = np.array([len(c.claims) for c in checked], float)
    right = np.array([sum(claim.verdict == SUPPORTED for claim in c.claims) for c in checked], float)
    if not claims.sum():
        return {"value": None, "low": None, "high": None, "claims": 0}
    found = bootstrap(lambda w: (w @ right) / np.maximum(w @ claims, 1e-12), list(patients))
    return {"value": found.value, "low": found.low, "high": found.high, "claims": int(claims.sum())}
