"""Texts -> sorted sets of hashed word shingles, compiled.

A word is a run of letters and digits (Unicode) of the lower-cased NFC text; a shingle is k consecutive words, hashed to
32 bits. Two different shingles share a hash with probability 2^-32, which changes a Jaccard index by about 1e-6. A text
of fewer than k words is one shingle.
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata

import numba as nb
import numpy as np

_CODE_POINTS = sys.maxunicode + 1


def _letters() -> np.ndarray:
    """bool [1,114,112]: which code points belong to words (letters, marks, digits)."""
    kinds = (unicodedata.category(chr(c))[0] in "LMN" for c in range(_CODE_POINTS))
    return np.fromiter(kinds, dtype=np.bool_, count=_CODE_POINTS)


_table: np.ndarray | None = None


def letters() -> np.ndarray:
    """The table of `_letters`, made once a process (0.2 s)."""
    global _table
    if _table is None:
        _table = _letters()
    return _table


def code_points(text: str) -> np.ndarray:
    """uint32 code points of a text as it is compared: NFC, lower case."""
    return np.frombuffer(unicodedata.normalize("NFC", text).lower().encode("utf-32-le", "replace"), dtype=np.uint32)


def shingles(text: str, k: int) -> np.ndarray:
    """Sorted unique uint32 hashes of the k-word shingles of a text; empty for a text without words."""
    found = _hashes(code_points(text), letters(), k)
    return np.unique(found)


def content_hash(text: str) -> bytes:
    """128 bits of a text's words in their order: texts that differ in case, spaces or punctuation only share them."""
    words = _word_hashes(code_points(text), letters())
    return hashlib.blake2b(words.tobytes(), digest_size=16).digest()


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard index of two sorted unique arrays; 0 for two empty ones."""
    if not len(a) or not len(b):
        return 0.0
    shared = _shared(a, b)
    return shared / (len(a) + len(b) - shared)


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
    return out[:count]


@nb.njit(cache=True, nogil=True)
def _hashes(points, letter, k):
    words = _word_hashes(points, letter)
    n = len(words)
    if n == 0:
        return np.empty(0, np.uint32)
    out = np.empty(max(n - k + 1, 1), np.uint32)
    for start in range(len(out)):
        h = np.uint64(0x9E3779B97F4A7C15)
        for w in words[start : min(start + k, n)]:
            h = _mix(h ^ w) + np.uint64(0x9E3779B97F4A7C15)
        out[start] = np.uint32(h >> np.uint64(32))
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
