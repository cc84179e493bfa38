"""A growing index of band keys, and what is built on it: which earlier or known text nearly repeats this one.

One open-addressed table of (key, newest entry), and for each entry the next older one with the same key. At 21 bands a
text costs 21 x (12 / load + 4) bytes, about 0.6 kB.
"""

from __future__ import annotations

from collections.abc import Iterable

import numba as nb
import numpy as np

from clarion.llm.text_hashes import PERMUTATIONS, band_keys, bands_and_rows, coefficients, jaccard, signature

MOST_FULL = 0.7
SURE = 0.9999  # recall at the threshold where a miss is a missed overlap (the corpus has a cheaper one of its own)
MOST_COMPARED = 1000  # candidates of a text, those with most bands in common first


class BandIndex:
    """Documents are numbered 0, 1, 2, ... as they are added; each has `bands` keys."""

    def __init__(self, bands: int):
        self.bands, self.count, self.used = bands, 0, 0
        self.keys = np.zeros(1 << 12, np.uint64)
        self.heads = np.empty(1 << 12, np.int32)
        self.next = np.empty(bands << 8, np.int32)

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.heads.nbytes + self.next.nbytes

    def add(self, keys: np.ndarray) -> int:
        """Enter a document (uint64 [bands]); returns its number."""
        if self.used + self.bands > MOST_FULL * len(self.keys):
            self.keys, self.heads = _grown(self.keys, self.heads)
        if (self.count + 1) * self.bands > len(self.next):
            self.next = np.concatenate([self.next, np.empty_like(self.next)])
        self.used += _insert(self.keys, self.heads, self.next, keys, self.count)
        self.count += 1
        return self.count - 1

    def candidates(self, keys: np.ndarray, most: int) -> tuple[np.ndarray, bool]:
        """(numbers of documents that share a band, most shared bands first and then the oldest; whether the list
        was cut at `most`)."""
        entries = _entries(self.keys, self.heads, self.next, keys)
        if not len(entries):
            return entries, False
        documents, shared = np.unique(entries // self.bands, return_counts=True)
        order = np.lexsort((documents, -shared))
        return documents[order][:most], len(documents) > most


def signatures(sets: Iterable[np.ndarray]) -> np.ndarray:
    """Sets of shingles (uint32 arrays) -> MinHash signatures uint32 [n, PERMUTATIONS]."""
    a, b = coefficients()
    made = [signature(one, a, b) for one in sets]
    return np.stack(made) if made else np.empty((0, PERMUTATIONS), np.uint32)


class NearTexts:
    """Signatures that can be asked for near copies: bands find candidates, the share of equal permutations decides.

    index: uint32 [n, PERMUTATIONS]; threshold: the Jaccard index from which on a copy must be found. Memory: 0.7 kB a
    signature beside the signatures."""

    def __init__(self, index: np.ndarray, threshold: float):
        self.index, self.shape = index, bands_and_rows(threshold, recall=SURE)
        self.bands = BandIndex(self.shape[0])
        for one in index:
            self.bands.add(band_keys(one, *self.shape))

    def best(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """queries [m, PERMUTATIONS] -> (row of the nearest signature or -1, its estimated Jaccard or 0), each [m]."""
        row, share = np.full(len(queries), -1), np.zeros(len(queries))
        for q, query in enumerate(queries):
            candidates, _ = self.bands.candidates(band_keys(query, *self.shape), MOST_COMPARED)
            if len(candidates):
                shares = (self.index[candidates] == query).mean(axis=1)
                k = int(shares.argmax())
                row[q], share[q] = candidates[k], shares[k]
        return row, share


def distinct(sets: Iterable[np.ndarray], near: float) -> np.ndarray:
    """Sets of shingles -> bool [n]: False where one that is kept before has a Jaccard index of `near` or more."""
    (a, b), shape = coefficients(), bands_and_rows(near, recall=SURE)
    index, kept, keep = BandIndex(shape[0]), [], []
    for one in sets:
        keys = band_keys(signature(one, a, b), *shape)
        candidates = index.candidates(keys, MOST_COMPARED)[0].tolist()
        keep.append(not any(jaccard(one, kept[number]) >= near for number in candidates))
        if keep[-1]:
            index.add(keys)
            kept.append(one)
    return np.array(keep, bool)


@nb.njit(cache=True)
def _slot(keys, key):
    mask = np.uint64(len(keys) - 1)
    at = key & mask
    while keys[at] != np.uint64(0) and keys[at] != key:
        at = (at + np.uint64(1)) & mask
    return at


@nb.njit(cache=True)
def _insert(keys, heads, following, new, number):
    """Entries number * bands + band; returns how many places of the table were taken."""
    taken = 0
    for band in range(len(new)):
        at, entry = _slot(keys, new[band]), number * len(new) + band
        if keys[at] == np.uint64(0):
            keys[at], following[entry] = new[band], -1
            taken += 1
        else:
            following[entry] = heads[at]
        heads[at] = entry
    return taken


@nb.njit(cache=True)
def _entries(keys, heads, following, wanted):
    found = [np.int32(0) for _ in range(0)]
    for key in wanted:
        at = _slot(keys, key)
        if keys[at] != np.uint64(0):
            entry = heads[at]
            while entry >= 0:
                found.append(entry)
                entry = following[entry]
    return np.array(found, dtype=np.int32)


@nb.njit(cache=True)
def _grown(keys, heads):
    larger, moved = np.zeros(2 * len(keys), np.uint64), np.empty(2 * len(keys), np.int32)
    for at in range(len(keys)):
        if keys[at] != np.uint64(0):
            to = _slot(larger, keys[at])
            larger[to], moved[to] = keys[at], heads[at]
    return larger, moved
