"""Do models of other folds or seeds find the same genes?

Of each pair of runs: Spearman's rank correlation of mean |attribution| over the genes both read, and the overlap of
their top k among those, by Jaccard and by Kuncheva's index (2007, AIA: 0 by chance, 1 the same). p: the genes of one
run of every pair are shuffled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import hypergeom, rankdata

from clarion.errors import DataError, UsageError


def stability(
    importances: Sequence[Mapping[str, float]], top: int = 20, permutations: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """importances: of each run {gene: mean |attribution|}. Means over pairs with their chance level and p.

    UsageError for fewer than two runs; DataError for two that share fewer than three genes."""
    if len(importances) < 2:
        raise UsageError("Stability needs two runs or more.")
    rng = np.random.default_rng(seed)
    pairs, null = [], {"spearman": np.zeros(permutations), "jaccard": np.zeros(permutations)}
    for a, b in combinations(range(len(importances)), 2):
        first, second = importances[a], importances[b]
        genes = sorted(set(first) & set(second))
        if len(genes) < 3:
            raise DataError(f"Runs {a + 1} and {b + 1} share {len(genes)} genes: their rankings cannot be compared.")
        x, y = (np.array([m[g] for g in genes], float) for m in (first, second))
        k = min(top, len(genes) - 1)
        pairs.append({"runs": [a, b], "genes_shared": len(genes), "genes_all": len(set(first) | set(second)), "k": k,
                      "spearman": spearman(x, y), **top_overlap(x, y, k)})  # fmt: skip
        ranks_x, ranks_y, top_x, top_y = rankdata(x), rankdata(y), top_mask(x, k), top_mask(y, k)
        for number in range(permutations):
            order = rng.permutation(len(genes))
            null["spearman"][number] += _correlation(ranks_x, ranks_y[order])
            both = int((top_x & top_y[order]).sum())
            null["jaccard"][number] += both / (2 * k - both)
    out: dict[str, Any] = {"runs": len(importances), "pairs": pairs, "permutations": permutations, "top": top}
    for name in ("spearman", "jaccard", "kuncheva", "jaccard_chance"):
        known = [pair[name] for pair in pairs if pair[name] is not None]
        out[name] = float(np.mean(known)) if known else None
    for name, drawn in null.items():
        mean = out[name]
        reached = None if mean is None else int((drawn / len(pairs) >= mean - 1e-12).sum())
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
