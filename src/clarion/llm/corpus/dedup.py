"""De-duplication, documents one after the other: is this one new, or which kept one does it repeat?

The first of a group of duplicates, in the order of the sources, is kept. Texts are not held: a kept document costs its
content hash and its band keys in memory, and its shingle hashes (4 bytes a word) in a file from which the Jaccard index
of a candidate is computed exactly.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clarion.llm.near_texts import BandIndex
from clarion.llm.text_hashes import (
    band_keys,
    bands_and_rows,
    coefficients,
    content_hash,
    jaccard,
    shingles,
    signature,
    word_hashes,
)


@dataclass(frozen=True)
class Fingerprint:
    """What de-duplication knows of a text: computed by the workers, compared in the main process."""

    content: bytes
    shingles: np.ndarray  # uint32, sorted
    bands: np.ndarray  # uint64; empty without near de-duplication


class Fingerprinter:
    """Text -> Fingerprint by the section `dedup` of a conf."""

    def __init__(self, settings: Mapping[str, Any]):
        self.near, self.k = settings["near"], settings["shingle_words"]
        self.shape = bands_and_rows(settings["jaccard"], settings["permutations"])
        self.coefficients = coefficients(settings["permutations"])

    def __call__(self, text: str) -> Fingerprint:
        words = word_hashes(text)
        if not self.near:
            return Fingerprint(content_hash(words), np.empty(0, np.uint32), np.empty(0, np.uint64))
        found = shingles(words, self.k)
        return Fingerprint(content_hash(words), found, self.bands(found))

    def bands(self, found: np.ndarray) -> np.ndarray:
        return band_keys(signature(found, *self.coefficients), *self.shape)


class Deduplicator:
    """`folder` holds the record of kept documents (kept.bin, shingles.bin), appended; `resume(n)` reads it back."""

    RECORD = np.dtype([("content", "V16"), ("shingles", "<u4")])

    def __init__(self, settings: Mapping[str, Any], folder: Path):
        self.settings = dict(settings)
        self.make = Fingerprinter(settings)
        self.index = BandIndex(self.make.shape[0])
        self.contents: dict[bytes, int] = {}
        self.offsets, self.lengths = array("q", [0]), array("q")
        self.capped = 0  # documents whose list of candidates was cut
        folder.mkdir(parents=True, exist_ok=True)
        self.kept_path, self.shingle_path = folder / "kept.bin", folder / "shingles.bin"
        self.kept_file = self.shingle_file = None

    def start(self, kept: int) -> None:
        """Continue after the first `kept` documents of the record (0: anew); what was written later is cut off."""
        for path in (self.kept_path, self.shingle_path):
            path.touch()
        records = np.fromfile(self.kept_path, self.RECORD, count=kept)
        total = int(records["shingles"].sum(dtype=np.int64)) if kept else 0
        for path, size in ((self.kept_path, kept * self.RECORD.itemsize), (self.shingle_path, 4 * total)):
            with open(path, "r+b") as file:
                file.truncate(size)
        self.shingle_file = open(self.shingle_path, "r+b")  # held open until close()
        self.kept_file = open(self.kept_path, "ab")
        for record in records:
            found = np.frombuffer(self.shingle_file.read(4 * int(record["shingles"])), np.uint32)
            bands = self.make.bands(found) if self.settings["near"] else np.empty(0, np.uint64)
            self._remember(bytes(record["content"]), found, bands)

    def check(self, fingerprint: Fingerprint) -> tuple[str | None, int, float]:
        """(None, its number, 0.0) and remembered, or ("exact" | "near", number of the kept one, Jaccard index)."""
        if self.settings["exact"] and fingerprint.content in self.contents:
            return "exact", self.contents[fingerprint.content], 1.0
        if self.settings["near"] and len(fingerprint.shingles):
            number, similarity = self._nearest(fingerprint)
            if number is not None:
                return "near", number, similarity
        number = len(self.lengths)
        self.shingle_file.seek(0, 2)
        self.shingle_file.write(fingerprint.shingles.astype("<u4").tobytes())
        row = np.array([(np.void(fingerprint.content), len(fingerprint.shingles))], self.RECORD)
        self.kept_file.write(row.tobytes())
        self._remember(fingerprint.content, fingerprint.shingles, fingerprint.bands)
        return None, number, 0.0

    def _nearest(self, fingerprint: Fingerprint) -> tuple[int | None, float]:
        numbers, capped = self.index.candidates(fingerprint.bands, self.settings["max_candidates"])
        self.capped += capped
        size, best = len(fingerprint.shingles), (None, 0.0)
        for number in numbers.tolist():
            other = self.lengths[number]
            if min(size, other) < self.settings["jaccard"] * max(size, other):
                continue  # J <= smaller / larger
            similarity = jaccard(fingerprint.shingles, self._read(number))
            if similarity >= self.settings["jaccard"] and similarity > best[1]:
                best = (number, similarity)
        return best

    def _read(self, number: int) -> np.ndarray:
        self.shingle_file.seek(4 * self.offsets[number])
        return np.frombuffer(self.shingle_file.read(4 * self.lengths[number]), np.uint32)

    def _remember(self, content: bytes, found: np.ndarray, bands: np.ndarray) -> None:
        self.contents.setdefault(content, len(self.lengths))
        self.lengths.append(len(found))
        self.offsets.append(self.offsets[-1] + len(found))
        if self.settings["near"]:
            self.index.add(bands)

    def flush(self) -> None:
        """Everything checked so far is on the disk."""
        for file in (self.shingle_file, self.kept_file):
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in (self.shingle_file, self.kept_file):
            if file:
                file.close()
