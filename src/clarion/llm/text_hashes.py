"""Texts -> hashes of their words, windows and shingles, and MinHash signatures, compiled: compared without being kept.

A shingle is k consecutive words (clarion.llm.text_words), hashed to 32 bits: two different shingles share a hash with
probability 2^-32, which changes a Jaccard index by about 1e-6. A text of fewer than k words is one shingle. MinHash:
Broder 1997; bands: Leskovec et al., Mining of Massive Datasets, ch. 3.4.
"""

from __future__ import annotations

import hashlib

import numba as nb
import numpy as np

from clarion.llm.text_words import code_points, letters

PERMUTATIONS = 128
RECALL = 0.995  # of a pair at the threshold itself; more similar pairs are found more surely


def word_hashes(text: str) -> np.ndarray:
    """uint64 [words], in their order."""
    return _word_hashes(code_points(text), letters())


def content_hash(words: np.ndarray, size: int = 16) -> bytes:
    """`size` bytes that stand for words (their hashes) in their order: texts that differ in case, spaces or punctuation
    only share them."""
    return hashlib.blake2b(words.tobytes(), digest_size=size).digest()


def windows(words: np.ndarray, n: int) -> np.ndarray:
    """Word hashes uint64 [m] -> hashes of the windows of n words, uint64 [max(0, m - n + 1)], in order."""
    return _windows(words, n) if len(words) >= n else np.empty(0, np.uint64)


def shingles(words: np.ndarray, k: int) -> np.ndarray:
    """Word hashes uint64 [m] -> sorted unique uint32 hashes of the k-word shingles; empty without words."""
    if not len(words):
        return np.empty(0, np.uint32)
    return np.unique((windows(words, min(k, len(words))) >> np.uint64(32)).astype(np.uint32))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard index of two sorted unique arrays; 0 for two empty ones."""
    if not len(a) or not len(b):
        return 0.0
    shared = _shared(a, b)
    return shared / (len(a) + len(b) - shared)


def bands_and_rows(threshold: float, permutations: int = PERMUTATIONS, recall: float = RECALL) -> tuple[int, int]:
    """(bands b, rows r) with b r <= permutations: the longest rows, hence fewest false candidates, for which a pair of
    Jaccard index `threshold` shares a band with probability 1 - (1 - t^r)^b >= recall."""
    best = (permutations, 1)
    for rows in range(1, permutations + 1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= recall:
            best = (bands, rows)
    return best


def coefficients(permutations: int = PERMUTATIONS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
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


@nb.njit(cache=True, nogil=True)
def _mix(h):
    """Finaliser of splitmix64 (Steele et al. 2014): every input bit changes every output bit."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@nb.njit(cache=True, nogil=True)
def _word_hashes(points, letter):
    """uint64 hash of every word (FNV-1a over code points, mixed)."""
    out = np.empty(len(points) // 2 + 1, np.uint64)
    count, inside, h = 0, False, np.uint64(0)
    for c in points:
        if letter[c]:
            if not inside:
                inside, h = True, np.uint64(0xCBF29CE484222325)
            h = (h ^ np.uint64(c)) * np.uint64(0x100000001B3)
        elif inside:
            out[count] = _mix(h)
            count, inside = count + 1, False
    if inside:
        out[count] = _mix(h)
        count += 1
    return out[:count].copy()


@nb.njit(cache=True, nogil=True)
def _windows(words, n):
    """A polynomial of the (mixed) word hashes in a fixed odd number modulo 2^64, rolled on from word to word, mixed."""
    factor, highest, h = np.uint64(0x9E3779B97F4A7C15), np.uint64(1), np.uint64(0)
    for k in range(n):
        h = h * factor + words[k]
        highest *= factor
    out = np.empty(len(words) - n + 1, np.uint64)
    out[0] = _mix(h)
    for k in range(n, len(words)):
        h = h * factor + words[k] - highest * words[k - n]
        out[k - n + 1] = _mix(h)
    return out


@nb.njit(cache=True, nogil=True)
def _shared(a, b):
    """How many values two sorted unique arrays have in common."""
    i = j = found = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            found, i, j = found + 1, i + 1, j + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return found
