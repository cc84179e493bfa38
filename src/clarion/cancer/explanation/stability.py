"""Do models of other folds or seeds find the same genes?

Of each pair of runs: the overlap of their top k genes, each run's own, by Jaccard and by Kuncheva's index (2007, AIA: 0
by chance, 1 the same). Chance is over the pool that both could choose from, all genes that the data of either offered:
a gene that a run did not read it did not choose, its attribution is 0. Beside it Spearman's rank correlation of mean
|attribution| over the genes that both read, which says nothing of those that one of them left out. p: the genes of one
run of every pair are shuffled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import hypergeom, rankdata

from clarion.errors import DataError, UsageError

SHARED = 3  # genes that both must read for a rank correlation


def stability(
    importances: Sequence[Mapping[str, float]], top: int = 20, permutations: int = 2000, seed: int = 0,
    offered: Sequence[Collection[str]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """importances: of each run {gene: mean |attribution|} of those it read; offered: the genes of its data, from which
    it chose them (default: those it read). Means over pairs with their chance level and p.

    UsageError for fewer than two runs; DataError for two whose data have no gene in common."""
    if len(importances) < 2:
        raise UsageError("Stability needs two runs or more.")
    rng = np.random.default_rng(seed)
    pools = [set(m) | set(genes) for m, genes in zip(importances, offered or importances, strict=True)]
    pairs, null = [], {"spearman_shared": np.zeros(permutations), "jaccard": np.zeros(permutations)}
    for a, b in combinations(range(len(importances)), 2):
        first, second = importances[a], importances[b]
        if not pools[a] & pools[b]:
            raise DataError(f"The data of runs {a + 1} and {b + 1} share 0 genes: their choices cannot be compared.")
        pool = sorted(pools[a] | pools[b])
        k = min(top, len(first), len(second), len(pool) - 1)
        overlap = top_overlap(*(np.array([m.get(g, 0.0) for g in pool], float) for m in (first, second)), k)
        genes = sorted(set(first) & set(second))
        x, y = (np.array([m[g] for g in genes], float) for m in (first, second))
        ranked = spearman(x, y) if len(genes) >= SHARED else None
        pairs.append({"runs": [a, b], "genes_shared": len(genes), "genes_read": len(set(first) | set(second)),
                      "pool": len(pool), "k": k, "spearman_shared": ranked, **overlap})  # fmt: skip
        both = rng.hypergeometric(k, len(pool) - k, k, permutations)  # the top k of one run anywhere in the pool
        null["jaccard"] += both / (2 * k - both)
        if ranked is not None:
            ranks_x, ranks_y = rankdata(x), rankdata(y)
            null["spearman_shared"] += [_correlation(ranks_x, rng.permutation(ranks_y)) for _ in range(permutations)]
    out: dict[str, Any] = {"runs": len(importances), "pairs": pairs, "permutations": permutations, "top": top}
    for name in ("spearman_shared", "jaccard", "kuncheva", "jaccard_chance"):
        known = [pair[name] for pair in pairs if pair[name] is not None]
        out[name] = float(np.mean(known)) if known else None
    for name, drawn in null.items():
        mean, known = out[name], sum(pair[name] is not None for pair in pairs)
        reached = None if mean is None else int((drawn / known >= mean - 1e-12).sum())
        out[f"{name}_p"] = None if reached is None else (1 + reached) / (1 + permutations)
    return out


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Rank correlation, ties shared; None where one of them is constant."""
    found = _correlation(rankdata(x), rankdata(y))
    return None if np.isnan(found) else float(found)


def top_overlap(x: np.ndarray, y: np.ndarray, k: int) -> dict[str, float | int]:
    """Overlap of the k largest of x and of y [p]: shared, jaccard, kuncheva, and the Jaccard index that two random
    choices of k among p have on average."""
    p = len(x)
    both = int((top_mask(x, k) & top_mask(y, k)).sum())
    chance = np.arange(max(0, 2 * k - p), k + 1)
    expected = float((hypergeom.pmf(chance, p, k, k) * chance / (2 * k - chance)).sum())
    return {"shared": both, "jaccard": both / (2 * k - both), "jaccard_chance": expected,
            "kuncheva": (both - k * k / p) / (k - k * k / p)}  # fmt: skip


def top_mask(x: np.ndarray, k: int) -> np.ndarray:
    """bool [p]: the k largest; among equals the first."""
    mask = np.zeros(len(x), bool)
    mask[np.argsort(-x, kind="stable")[:k]] = True
    return mask


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else float("nan")
