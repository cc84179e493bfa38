"""64-bit hashes of texts, word n-grams and MinHash signatures: how texts are compared without being kept."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

SHINGLE = 3  # words a MinHash set is made of
PERMUTATIONS = 128
BANDS = 25  # of 5 rows: a pair of Jaccard 0.8 meets in a band with probability 0.99995 (1 - (1 - .8^5)^25)
_ROWS = PERMUTATIONS // BANDS
_SEED = 1
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_CHUNK = 4096  # texts whose signatures are made at once


def words(text: str) -> list[str]:
    """Words of any script: NFKC, lower case, punctuation dropped."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


def hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def text_hash(found: Sequence[str]) -> int:
    """The hash of a text given as words: the same for texts that differ in case, punctuation and white space."""
    return hash64(" ".join(found))


class WordHashes:
    """Words -> uint64, each word hashed once. The table is emptied at `most` words, so that memory stays bounded."""

    def __init__(self, most: int = 500_000):
        self.table: dict[str, int] = {}
        self.most = most

    def __call__(self, found: Sequence[str]) -> np.ndarray:
        """[n words] -> uint64 [n]."""
        if len(self.table) > self.most:
            self.table.clear()
        table = self.table
        for word in found:
            if word not in table:
                table[word] = hash64(word)
        return np.fromiter((table[word] for word in found), np.uint64, len(found))


def ngrams(hashes: np.ndarray, n: int) -> np.ndarray:
    """Word hashes uint64 [m] -> hashes of the windows of n words, uint64 [max(0, m - n + 1)], in order.

    A polynomial in a fixed odd number modulo 2^64, then mixed (splitmix64's finaliser)."""
    count = len(hashes) - n + 1
    if count < 1:
        return np.empty(0, np.uint64)
    total = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for k in range(n):
            total = total * _PRIME + hashes[k : k + count]
        total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return total ^ (total >> np.uint64(31))


def shingles(hashes: np.ndarray) -> np.ndarray:
    """The set a text is compared by: its windows of SHINGLE words, or all its words where it has fewer."""
    return np.unique(ngrams(hashes, SHINGLE) if len(hashes) >= SHINGLE else hashes)


def signatures(sets: Iterable[np.ndarray]) -> np.ndarray:
    """Sets of uint64 -> MinHash signatures uint32 [n, PERMUTATIONS], in chunks (rensa's R-MinHash)."""
    from rensa import RMinHash

    def made(chunk: list[np.ndarray]) -> np.ndarray:
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in chunk])]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(chunk), offsets, PERMUTATIONS, _SEED)
        return np.array(matrix.to_rows(), dtype=np.uint32)

    parts, chunk = [], []
    for one in sets:
        chunk.append(np.ascontiguousarray(one, np.uint64))
        if len(chunk) == _CHUNK:
            parts.append(made(chunk))
            chunk = []
    parts += [made(chunk)] if chunk else []
    return np.concatenate(parts) if parts else np.empty((0, PERMUTATIONS), np.uint32)


class NearTexts:
    """Signatures that can be asked for near copies: locality-sensitive hashing, then the share of equal permutations.

    index: uint32 [n, PERMUTATIONS]. Memory: 8 bytes a band and signature beside the signatures."""

    def __init__(self, index: np.ndarray):
        self.index = index
        self.bands = []
        for keys in _bands(index):
            order = np.argsort(keys, kind="stable")
            self.bands.append((keys[order], order.astype(np.int64)))

    def best(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """queries [m, PERMUTATIONS] -> (row of the nearest signature or -1, its estimated Jaccard or 0), each [m]."""
        row, jaccard = np.full(len(queries), -1), np.zeros(len(queries))
        if not len(self.index):
            return row, jaccard
        for keys, (known, order) in zip(_bands(queries), self.bands, strict=True):
            low, high = np.searchsorted(known, keys, "left"), np.searchsorted(known, keys, "right")
            for q in np.flatnonzero(high > low):
                candidates = order[low[q] : high[q]]
                shares = (self.index[candidates] == queries[q]).mean(axis=1)
                k = int(shares.argmax())
                if shares[k] > jaccard[q]:
                    row[q], jaccard[q] = candidates[k], shares[k]
        return row, jaccard


def distinct(made: np.ndarray, near: float) -> np.ndarray:
    """Signatures [n, PERMUTATIONS] -> bool [n]: False where one that is kept before has a Jaccard of `near` or more."""
    keep = np.ones(len(made), bool)
    keys = np.stack(list(_bands(made)), axis=1) if len(made) else np.empty((0, BANDS), np.uint64)
    buckets: dict[tuple[int, int], list[int]] = {}
    for k, row in enumerate(keys.tolist()):
        candidates = sorted({c for place in enumerate(row) for c in buckets.get(place, ())})
        if candidates and (made[candidates] == made[k]).mean(axis=1).max() >= near:
            keep[k] = False
            continue
        for place in enumerate(row):
            buckets.setdefault(place, []).append(k)
    return keep


def _bands(matrix: np.ndarray) -> Iterable[np.ndarray]:
    for k in range(BANDS):
        total = np.zeros(len(matrix), np.uint64)
        with np.errstate(over="ignore"):
            for column in range(k * _ROWS, (k + 1) * _ROWS):
                total = (total + matrix[:, column].astype(np.uint64) + np.uint64(1)) * _PRIME
                total ^= total >> np.uint64(29)
        yield total
