"""Is an explanation true? Genes taken away must change the risk; planted genes must be found, beside the Cox table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.explanation.attribution import INTEGRATED, Attribution
from clarion.evaluators.bootstrap import bootstrap, resample_weights
from clarion.evaluators.survival_scores import Concordance, RankedAuc

SIZES = (5, 10, 20, 50, 100)


def deletion(
    found: Attribution, truth: pd.DataFrame, order: np.ndarray, draws: int, n_resamples: int, seed: int
) -> dict[str, Any]:
    """The `order`ed first k genes set to the baseline, beside `draws` random choices of k genes (Samek et al. 2017,
    IEEE TNNLS 28:2660). change: mean |change of risk| over patients; excess: top minus random, with its interval over
    patients; c_index: Harrell's, inside cancers. truth: time and event in the order of the patients."""
    rng = np.random.default_rng([seed, len(order)])
    attention = None if found.attention is None else np.argsort(-found.attention.mean(0), kind="stable")
    rows = []
    for k in [k for k in SIZES if k < len(order)] or [max(1, len(order) // 2)]:
        chosen = found.without(order[:k])
        random = [found.without(rng.choice(len(order), k, replace=False)) for _ in range(draws)]
        top_change = np.abs(chosen - found.risk)
        random_change = np.mean([np.abs(r - found.risk) for r in random], axis=0)
        row: dict[str, Any] = {
            "k": k,
            "change": float(top_change.mean()),
            "random_change": float(random_change.mean()),
            "excess": mean_interval(top_change - random_change, found.patients, n_resamples, seed),
            "c_index": c_index_within(truth, chosen, found.cancers),
            "random_c_index": _mean([c_index_within(truth, r, found.cancers) for r in random]),
        }
        if attention is not None:
            row["attention_change"] = float(np.abs(found.without(attention[:k]) - found.risk).mean())
        rows.append(row)
    return {"rows": rows, "draws": draws, "c_index": c_index_within(truth, found.risk, found.cancers),
            "c_index_without_genes": c_index_within(truth, found.base, found.cancers)}  # fmt: skip


def planted_genes(
    found: Attribution, planted: np.ndarray, cox: np.ndarray, everywhere: int, n_resamples: int, seed: int
) -> dict[str, Any] | None:
    """How well rankings find the planted genes among those the model reads: AUROC, and precision at k = their number.

    planted bool [p]; cox [p]: strength in the Cox table of the training patients, the ranking to beat; everywhere: how
    many were planted in all. Intervals: each resample draws the explained patients, the planted genes and the others
    again, each among themselves, and all rankings are scored on the same draw: the genes are a sample too, and a
    difference on a few planted ones is no finding. (The Cox table does not depend on the explained patients.)"""
    k, p = int(planted.sum()), len(planted)
    if not 0 < k < p:
        return None
    scores = {found.method: np.abs(found.shares)}
    if found.attention is not None:
        scores["attention"] = found.attention
    genes = _gene_draws(planted, n_resamples, seed)

    def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
        # bootstrap asks for the estimate itself first, by one row of ones, then for the resamples in order
        drawn = [next(genes) for _ in weights]
        out: dict[str, list[float]] = {}
        for row, drawn_genes in zip(weights, drawn, strict=True):
            table = _found(cox, planted, drawn_genes)
            values = {f"cox_table {what}": value for what, value in table.items()}
            for name, x in scores.items():
                own = _found(row @ x, planted, drawn_genes)
                values |= {f"{name} {what}": value for what, value in own.items()}
                values[f"{name} gain"] = own["auroc"] - table["auroc"]
            for name, value in values.items():
                out.setdefault(name, []).append(value)
        return {name: np.array(values) for name, values in out.items()}

    drawn = bootstrap(stat, found.patients, n_resamples, seed)
    rankings: dict[str, Any] = {
        name: {what: _entry(drawn[f"{name} {what}"]) for what in ("auroc", "precision", "gain")} for name in scores
    }
    rankings["cox_table"] = {what: _entry(drawn[f"cox_table {what}"]) for what in ("auroc", "precision")}
    return {"genes": p, "planted": k, "planted_everywhere": everywhere, "k": k, "chance_precision": k / p,
            "rankings": rankings,
            "verdict": f"{_verdict(rankings, found.method)} {_scope(p, found.method)}"}  # fmt: skip


def _verdict(rankings: Mapping[str, Any], method: str) -> str:
    gain = rankings[method]["gain"]
    own, cox = (rankings[name]["auroc"]["value"] for name in (method, "cox_table"))
    words = f"AUROC {own:.3f} of this one model's attributions, {cox:.3f} of the Cox table alone"
    if gain["low"] is None or gain["low"] <= 0 <= gain["high"]:
        return f"The model finds the planted genes no better and no worse than the Cox table alone ({words})."
    if gain["value"] < 0:
        return f"The Cox table alone finds the planted genes better than the model ({words})."
    return f"The model finds the planted genes better than the Cox table alone ({words})."


def _scope(genes: int, method: str) -> str:
    """What the comparison is on: a network's genes were chosen by the very table it is compared with."""
    if method == INTEGRATED:
        return (f"Both rank only the {genes} genes that the Cox table of the training patients chose for the model: of "
                "planted genes that it left out this says nothing.")  # fmt: skip
    return f"Both rank only the {genes} genes that the model reads."


def mean_interval(x: np.ndarray, patients: Sequence[str], n_resamples: int, seed: int) -> dict[str, float | None]:
    """{value, low, high} of the mean of x [n] over patients."""
    return _entry(bootstrap(lambda w: w @ x / w.sum(1), patients, n_resamples, seed))


def c_index_within(truth: pd.DataFrame, risk: np.ndarray, cancers: Sequence[str]) -> float | None:
    """Harrell's c-index over pairs of one cancer, pooled; None without a comparable pair."""
    pairs = Concordance(truth["time"].to_numpy(float), truth["event"].to_numpy(bool), risk, np.asarray(cancers))
    value = pairs(np.ones((1, len(risk))), np.ones(len(risk)))[0][0]
    return None if np.isnan(value) else float(value)


def _gene_draws(planted: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Weights [p] of the genes: ones, then those of each resample; both kinds keep their number."""
    yield np.ones(len(planted))
    weights = np.empty((n_resamples, len(planted)))
    for kind, drawn in ((planted, seed + 1), (~planted, seed + 2)):  # streams of their own beside the patients'
        weights[:, kind] = resample_weights(int(kind.sum()), n_resamples, drawn)
    yield from weights


def _found(strength: np.ndarray, planted: np.ndarray, genes: np.ndarray) -> dict[str, float]:
    """auroc (ties half) of the planted genes by strength [p] under gene weights [p], and precision: their share among
    as many of largest strength as there are planted ones."""
    strength = strength / (np.abs(strength).max() or 1.0)  # RankedAuc ties what lies within 1e-8
    auroc = RankedAuc(strength)(genes[None], planted.astype(float), (~planted).astype(float))[0]
    order = np.argsort(-strength, kind="stable")
    k = planted.sum()
    taken = np.clip(k - (np.cumsum(genes[order]) - genes[order]), 0, genes[order])
    return {"auroc": float(auroc), "precision": float(taken @ planted[order] / k)}


def _entry(interval: Any) -> dict[str, float | None]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
