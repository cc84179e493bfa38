"""Is an explanation true? Genes taken away must change the risk; planted genes must be found, beside the Cox table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sksurv.exceptions import NoComparablePairException
from sksurv.metrics import concordance_index_censored

from clarion.cancer.explanation.attribution import Attribution
from clarion.evaluators.bootstrap import bootstrap

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
    many were planted in all. Intervals: bootstrap over patients; the Cox table's ranking does not depend on them."""
    k, p = int(planted.sum()), len(planted)
    if not 0 < k < p:
        return None
    scores = {found.method: np.abs(found.shares)}
    if found.attention is not None:
        scores["attention"] = found.attention
    table = {"auroc": float(_auroc(cox[None], planted)[0]), "precision": float(_precision(cox[None], planted)[0])}

    def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
        out = {}
        for name, x in scores.items():
            mean = weights @ x / len(x)
            out[f"{name} auroc"], out[f"{name} precision"] = _auroc(mean, planted), _precision(mean, planted)
            out[f"{name} gain"] = out[f"{name} auroc"] - table["auroc"]
        return out

    drawn = bootstrap(stat, found.patients, n_resamples, seed)
    rankings: dict[str, Any] = {
        name: {what: _entry(drawn[f"{name} {what}"]) for what in ("auroc", "precision", "gain")} for name in scores
    }
    rankings["cox_table"] = {what: {"value": value, "low": None, "high": None} for what, value in table.items()}
    return {"genes": p, "planted": k, "planted_everywhere": everywhere, "k": k, "chance_precision": k / p,
            "rankings": rankings, "verdict": _verdict(rankings, found.method)}  # fmt: skip


def _verdict(rankings: Mapping[str, Any], method: str) -> str:
    gain = rankings[method]["gain"]
    own, cox = (rankings[name]["auroc"]["value"] for name in (method, "cox_table"))
    words = f"AUROC {own:.3f} of this one model's attributions, {cox:.3f} of the Cox table alone"
    if gain["low"] is None or gain["low"] <= 0 <= gain["high"]:
        return f"The model finds the planted genes no better and no worse than the Cox table alone ({words})."
    if gain["value"] < 0:
        return f"The Cox table alone finds the planted genes better than the model ({words})."
    return f"The model finds the planted genes better than the Cox table alone ({words})."


def mean_interval(x: np.ndarray, patients: Sequence[str], n_resamples: int, seed: int) -> dict[str, float | None]:
    """{value, low, high} of the mean of x [n] over patients."""
    return _entry(bootstrap(lambda w: w @ x / w.sum(1), patients, n_resamples, seed))


def c_index_within(truth: pd.DataFrame, risk: np.ndarray, cancers: Sequence[str]) -> float | None:
    """Harrell's c-index over pairs of one cancer, pooled; None without a comparable pair."""
    time, event, cancers = truth["time"].to_numpy(float), truth["event"].to_numpy(bool), np.asarray(cancers)
    good = pairs = 0.0
    for cancer in np.unique(cancers):
        rows = cancers == cancer
        if not event[rows].any():
            continue
        try:
            _, concordant, discordant, tied, _ = concordance_index_censored(event[rows], time[rows], risk[rows])
        except NoComparablePairException:
            continue
        good, pairs = good + concordant + tied / 2, pairs + concordant + discordant + tied
    return good / pairs if pairs else None


def _auroc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """[B] of scores [B, p], ties counted half (Mann-Whitney)."""
    k = positive.sum()
    ranks = rankdata(scores, axis=1)[:, positive].sum(1)
    return (ranks - k * (k + 1) / 2) / (k * (len(positive) - k))


def _precision(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """[B]: share of planted ones among the k of largest score, k their number."""
    k = int(positive.sum())
    return positive[np.argsort(-scores, axis=1, kind="stable")[:, :k]].mean(1)


def _entry(interval: Any) -> dict[str, float | None]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
