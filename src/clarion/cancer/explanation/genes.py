"""One row a gene: its share of the risk with intervals over patients, its attention, its Cox fit in the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from clarion.cancer.cox import benjamini_hochberg
from clarion.cancer.explanation.attribution import Attribution
from clarion.cancer.lookup import LookupTable
from clarion.evaluators.bootstrap import resample_weights

LEVEL, HIT = 0.95, 0.05  # of the intervals; q, over genes and cancers, below which a gene is a Cox hit
TESTED = {"lr": "p_lr", "wald": "p_wald", "score": "p_score"}
MOST_DRAWN = 4_000_000  # resamples x genes held at once


def gene_rows(
    found: Attribution, tables: Mapping[str, LookupTable], planted: Sequence[str] | None, n_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Rows of largest mean |attribution| first: gene, attribution (mean |share|), signed (mean share), effect (change
    of risk per unit of the scaled value: the slope of share on value through 0), direction, attention, cox, planted.
    cox.effect_there: the model's effect in the cancer of that fit. Estimates are {value, low, high}: percentile
    bootstrap over the patients, the model held fixed."""
    columns = {"attribution": np.abs(found.shares), "signed": found.shares, "attention": found.attention}
    estimates = {name: _means(x, n_resamples, seed) for name, x in columns.items() if x is not None}
    estimates["effect"] = _means(found.shares * found.values, n_resamples, seed, found.values**2)
    cox = cox_rows(found.genes, tables)
    inside = _effects_inside(found)
    truth = None if planted is None else set(planted)
    rows = []
    for k in np.argsort(-estimates["attribution"]["value"], kind="stable"):
        row: dict[str, Any] = {"gene": found.genes[k]}
        for name in ("attribution", "signed", "effect", "attention"):
            row[name] = _estimate(estimates[name], k) if name in estimates else None
        row["direction"] = direction(row["effect"])
        row["cox"] = cox.get(found.genes[k])
        if row["cox"]:
            effects = inside.get(row["cox"]["cancer"])
            row["cox"]["effect_there"] = None if effects is None else _number(effects[k])
        row["planted"] = None if truth is None else found.genes[k] in truth
        rows.append(row)
    return rows


def _effects_inside(found: Attribution) -> dict[str, np.ndarray]:
    """cancer -> effect [p] on its explained patients: what a coefficient of that cancer is compared with."""
    cancers, together, squares = np.array(found.cancers), found.shares * found.values, found.values**2
    return {c: _means(together[cancers == c], 0, 0, squares[cancers == c])["value"] for c in set(found.cancers)}


def direction(effect: Mapping[str, float | None]) -> str:
    """The sign: "+" where more of the gene is more risk, "-" where it is less, "+-" where the interval holds 0. An
    effect without an interval is a coefficient, the same for every patient."""
    value = effect.get("value") or 0.0
    low, high = (value if effect.get(end) is None else effect[end] for end in ("low", "high"))
    return "+" if low > 0 else "-" if high < 0 else "+-"


def cox_rows(genes: Sequence[str], tables: Mapping[str, LookupTable]) -> dict[str, dict[str, Any]]:
    """gene -> its fit in the cancer of smallest q (ties by p): cancer, coef, p, q, status, and the cancers it is a hit
    in. q is over all genes and all cancers of the table at once (its own q is within each cancer): who looks for a gene
    in any of c cancers makes c times the tests. Coefficients are log hazard ratios per unit of the scaled value."""
    out = {}
    wanted = set(genes)
    for modality, table in tables.items():
        tested = table.frame[TESTED[table.settings.get("test", "lr")]].to_numpy(np.float64)
        frame = table.frame.assign(name=modality + ":" + table.frame["gene"].astype(str), q=benjamini_hochberg(tested))
        frame = frame[frame["name"].isin(wanted)].sort_values(["q", "p_lr"], kind="stable", na_position="last")
        hits = frame[frame["q"] < HIT].groupby("name")["cancer"].agg(lambda c: sorted(map(str, c)))
        for row in frame.drop_duplicates("name").itertuples(index=False):
            fit = {"coef": _number(row.coef), "p": _number(row.p_lr), "q": _number(row.q), "status": str(row.status)}
            out[row.name] = {"cancer": str(row.cancer), **fit, "hit_in": hits.get(row.name, [])}
    return out


def cox_overlap(rows: Sequence[Mapping], top: int) -> dict[str, Any] | None:
    """How many of the first `top` rows are Cox hits, beside chance: hypergeometric over all genes the model reads. p is
    None where all or none of them are hits. None without a Cox table."""
    if not any(row["cox"] for row in rows):
        return None
    hit = np.array([bool(row["cox"] and row["cox"]["hit_in"]) for row in rows])
    top, among, hits = min(top, len(rows)), len(rows), int(hit.sum())
    seen = int(hit[:top].sum())
    p = float(hypergeom.sf(seen - 1, among, hits, top)) if 0 < hits < among and top < among else None
    return {"top": top, "genes": among, "hits": hits, "hits_in_top": seen, "expected": top * hits / among, "p": p,
            "q_below": HIT}  # fmt: skip


def cox_strength(rows: Sequence[Mapping]) -> np.ndarray:
    """-log10 of the smallest p of each gene, 0 where there is none: the Cox table's own ranking."""
    p = np.array([np.nan if not row["cox"] or row["cox"]["p"] is None else row["cox"]["p"] for row in rows], float)
    return np.nan_to_num(-np.log10(np.maximum(p, 1e-300)))


def _means(x: np.ndarray, n_resamples: int, seed: int, per: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """value, low, high [p] of the mean of x [n, p] over patients, or of sum x / sum per; NaN where undefined."""
    n, p = x.shape

    def of(weights: np.ndarray, at: slice) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ x[:, at]) / (n if per is None else weights @ per[:, at])

    out = {name: np.full(p, np.nan) for name in ("value", "low", "high")}
    weights = resample_weights(n, n_resamples, seed) if n > 1 and n_resamples else None
    size = max(1, MOST_DRAWN // max(1, n_resamples))
    for at in (slice(start, start + size) for start in range(0, p, size)):
        out["value"][at] = of(np.ones((1, n)), at)[0]
        if weights is not None:
            ends = np.quantile(of(weights, at), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
            # the same in every resample: an interval of no width would claim a certainty that is none
            out["low"][at], out["high"][at] = np.where(np.ptp(ends, axis=0) > 1e-9 * np.abs(ends[1]), ends, np.nan)
    return out


def _estimate(columns: Mapping[str, np.ndarray], k: int) -> dict[str, float | None]:
    return {name: _number(values[k]) for name, values in columns.items()}


def _number(value: Any) -> float | None:
    """Six significant digits; None for what is not finite."""
    return float(f"{value:.6g}") if value is not None and np.isfinite(value) else None


def flat_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The genes of an explanation as rows of plain cells, for explanation.csv."""
    rows = []
    for rank, row in enumerate(document["genes"], 1):
        flat: dict[str, Any] = {"rank": rank, "gene": row["gene"], "direction": row["direction"]}
        for name in ("attribution", "signed", "effect", "attention"):
            for end, value in (row[name] or {"value": None, "low": None, "high": None}).items():
                flat[name if end == "value" else f"{name}_{end}"] = value
        cox = row["cox"] or {}
        flat |= {f"cox_{name}": cox.get(name) for name in ("cancer", "coef", "p", "q", "status", "effect_there")}
        flat |= {"cox_hit_in": " ".join(cox.get("hit_in", [])), "planted": row["planted"]}
        rows.append(flat)
    return rows
