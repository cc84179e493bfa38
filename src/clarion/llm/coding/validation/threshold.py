"""Calibration of the embedding match: `clarion measure eye_titles threshold` fits it and says what it is worth.

Half of the clauses of clauses.tsv fit the threshold, the other half (held out) measures it. Only what a person commits
counts: `python -m clarion.llm.coding.validation.threshold` rewrites the threshold.json that the coder reads.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from clarion.evaluators.bootstrap import wilson
from clarion.llm.coding.coder import TextCoder
from clarion.llm.coding.words import table
from clarion.record import to_json, write_atomic

MOST_FALSE = 0.05  # of the calibration's non-diagnoses may be accepted
PRIOR = 1.0  # of the logistic's slope, as a ridge: some dozen clauses must not make a step of it


@dataclass(frozen=True)
class Scored:
    """One clause: cosine of its best match (0: the rules sent nothing to the embedding), whether that code is right."""

    split: str
    clause: str
    diagnosis: bool
    code: str | None
    cosine: float
    right: bool


def score(coder: TextCoder) -> list[Scored]:
    """All clauses through the coder's own path, without a threshold."""
    rows = table("validation/clauses.tsv")
    found = []
    for (split, clause, wanted), matches in zip(rows, coder.nearest([r[1] for r in rows]), strict=True):
        _, code, cosine = max(matches, key=lambda m: m[2], default=("", None, 0.0))
        roots = [] if wanted == "-" else wanted.split(",")
        right = code is not None and any(root in coder.system.chain(code) for root in roots)
        found.append(Scored(split, clause, bool(roots), code, cosine, right))
    return found


def fit(scored: list[Scored]) -> dict[str, Any]:
    """{cosine, slope, offset}: the threshold with the most right matches less wrong ones among those that accept at
    most MOST_FALSE of the non-diagnoses; and the logistic of "right" by cosine."""
    mine = [s for s in scored if s.split == "calibration"]
    negatives = [s for s in mine if not s.diagnosis]
    best = (-np.inf, 1.0)
    for cosine in np.round(np.arange(0.40, 0.96, 0.005), 3):
        accepted = [s for s in mine if s.cosine >= cosine]
        if sum(not s.diagnosis for s in accepted) <= MOST_FALSE * len(negatives):
            gain = sum(1 if s.right else -1 for s in accepted)
            best = max(best, (gain, float(cosine)))
    asked = [s for s in mine if s.code is not None]
    slope, offset = _logistic(np.array([s.cosine for s in asked]), np.array([float(s.right) for s in asked]))
    return {"cosine": best[1], "slope": round(slope, 3), "offset": round(offset, 3)}


def _logistic(x: np.ndarray, y: np.ndarray, steps: int = 50) -> tuple[float, float]:
    """Slope and offset by Newton's method, with a ridge on the slope of the standardised cosine."""
    centre, scale = x.mean(), x.std()
    design = np.stack([(x - centre) / scale, np.ones_like(x)], 1)
    beta, ridge = np.zeros(2), np.diag([PRIOR, 0.0])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-design @ beta))
        beta -= np.linalg.solve(design.T * (p * (1 - p)) @ design + ridge, design.T @ (p - y) + ridge @ beta)
    return float(beta[0] / scale), float(beta[1] - beta[0] * centre / scale)


def measure(seed: int = 0) -> dict[str, Any]:
    """Held-out clauses at the committed threshold, and at the one that a new fit would give."""
    coder = TextCoder()
    scored = score(coder)
    fitted, committed = fit(scored), coder.threshold
    rows, figures = [], {}
    for split in ("calibration", "held_out"):
        for name, cosine in (("committed", committed.cosine), ("no threshold", 0.0)):
            mine = [s for s in scored if s.split == split]
            positive = [s for s in mine if s.diagnosis]
            negative = [s for s in mine if not s.diagnosis]
            kept = [s for s in mine if s.code is not None and s.cosine >= cosine]
            right = wilson(sum(s.right for s in kept), len(positive))
            false = wilson(sum(not s.diagnosis for s in kept), len(negative))
            precise = wilson(sum(s.right for s in kept), len(kept)) if kept else None
            rows.append(
                [
                    split,
                    name,
                    cosine,
                    len(positive),
                    right.value,
                    len(negative),
                    false.value,
                    len(kept),
                    precise and precise.value,
                ]
            )
            if name == "committed":
                figures[f"{split}: paraphrases right"] = _figure(right, len(positive))
                figures[f"{split}: non-diagnoses coded"] = _figure(false, len(negative))
                if precise:
                    figures[f"{split}: accepted matches right"] = _figure(precise, len(kept))
    for split in ("calibration", "held_out"):  # and what the whole coder, rules included, makes of them
        mine = [r for r in table("validation/clauses.tsv") if r[0] == split]
        coded = [[c.code for c in one.codes] for one in coder.batch([r[1] for r in mine])]
        wanted = [(r[2].split(","), codes) for r, codes in zip(mine, coded, strict=True) if r[2] != "-"]
        hits = sum(any(root in coder.system.chain(c) for root in roots for c in codes) for roots, codes in wanted)
        false = sum(bool(codes) for r, codes in zip(mine, coded, strict=True) if r[2] == "-")
        others = len(mine) - len(wanted)
        figures[f"{split}: paraphrases right, rules and embedding"] = _figure(wilson(hits, len(wanted)), len(wanted))
        figures[f"{split}: non-diagnoses coded, rules and embedding"] = _figure(wilson(false, others), others)
    return {
        "part": "threshold",
        "title": "Embedding match: the threshold on paraphrases and non-diagnoses",
        "columns": ["clauses", "threshold", "cosine", "paraphrases", "right", "non-diagnoses", "coded", "accepted",
        "of these right"],
        "rows": rows,
        "notes": [
            "The rows count what the embedding adds where the rules read nothing; the last figures are of the whole "
            "coder. "
            "right: the code lies below the category that the clause paraphrases. "
            "Threshold and logistic are fitted on the calibration half alone; both halves have one author.",
            f"A new fit gives cosine {fitted['cosine']}, slope {fitted['slope']}, offset {fitted['offset']}; "
            f"committed: "
            f"{committed.cosine}, {committed.slope}, {committed.offset}.",
        ],
        "n": len(scored),
        "data": "phantom",
        "figures": figures,
    }  # fmt: skip


def _figure(interval: Any, n: int) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": n}


def main() -> int:
    """Fit and write threshold.json beside the coder."""
    coder = TextCoder()
    scored = score(coder)
    fitted = fit(scored) | {
        "made_by": "python -m clarion.llm.coding.validation.threshold",
        "encoder": coder.index.encoder.signature,
        "clauses": sum(s.split == "calibration" for s in scored),
    }
    path = Path(str(files("clarion.llm.coding").joinpath("threshold.json")))
    write_atomic(path, to_json(fitted))
    print(f"{path.name}: {fitted}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
