"""A growing index of band keys: which earlier documents share a band with this one.

One open-addressed table of (key, newest entry), and for each entry the next older one with the same key. At 21 bands a
document costs 21 x (12 / load + 4) bytes, about 0.6 kB.
"""

from __future__ import annotations

import numba as nb
import numpy as np

MOST_FULL = 0.7


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
