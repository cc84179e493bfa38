"""MinHash signatures (Broder 1997) and the bands that candidates are looked up by."""

from __future__ import annotations

import numba as nb
import numpy as np

from clarion.llm.corpus.dedup.shingles import _mix

RECALL = 0.995  # of a pair at the threshold itself; more similar pairs are found more surely


def bands_and_rows(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands b, rows r) with b r <= permutations: the longest rows, hence fewest false candidates, for which a pair of
    Jaccard index `threshold` shares a band with probability 1 - (1 - t^r)^b >= RECALL (Leskovec, ch. 3.4)."""
    best = (permutations, 1)
    for rows in range(1, permutations + 1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            best = (bands, rows)
    return best


def coefficients(permutations: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(odd multipliers, offsets), uint32 [permutations]: h -> a h + b mod 2^32 is a permutation of the hashes."""
    rng = np.random.default_rng([seed, permutations])
    a = rng.integers(0, 2**32, permutations, dtype=np.uint32) | np.uint32(1)
    return a, rng.integers(0, 2**32, permutations, dtype=np.uint32)


@nb.njit(cache=True, nogil=True)
def signature(hashes, a, b):
    """uint32 [permutations]: the least image of a set of hashes under each permutation; all ones for an empty set."""
    low = np.full(len(a), np.uint32(0xFFFFFFFF), np.uint32)
    for h in hashes:
        for p in range(len(a)):
            image = np.uint32(a[p] * h + b[p])
            low[p] = image if image < low[p] else low[p]
    return low


@nb.njit(cache=True, nogil=True)
def band_keys(low, bands, rows):
    """uint64 [bands]: a hash of each band of a signature and of its number."""
    keys = np.empty(bands, np.uint64)
    for band in range(bands):
        h = _mix(np.uint64(band + 1))
        for value in low[band * rows : (band + 1) * rows]:
            h = _mix(h ^ np.uint64(value)) + np.uint64(0x9E3779B97F4A7C15)
        keys[band] = h if h else np.uint64(1)  # 0 marks an empty place of the index
    return keys
