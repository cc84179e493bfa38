"""Does an evaluated item stand in the training texts? Exact copies, shared runs of 13 words, near copies.

Three tests, each of them usual for language models: equality of the normalised text (case, punctuation and white space
set aside); a common 13-gram of words (Brown et al. 2020, arXiv 2005.14165, appendix C), where 13-grams of more than ten
training documents are boilerplate and do not count, as there (in sets below 200 documents: of more than 5 % of them);
and an estimated Jaccard similarity of word trigrams of 0.8 or more (MinHash). An index holds 64-bit hashes and
signatures only, never text. Paragraphs (blank lines between) are hashed one by one, so that a question is found inside
a document, and no 13-gram crosses from one to the next.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from clarion.errors import DataError
from clarion.llm.near_texts import NearTexts, signatures
from clarion.llm.text_hashes import PERMUTATIONS, content_hash, shingles, windows, word_hashes

N = 13  # words of a window
SHINGLE = 3  # words of a shingle: questions are short
BOILERPLATE = 10  # a window of more training documents than this is a common phrase,
SMALL_BOILERPLATE = 0.05  # in small sets of more than this share of them (but at least of three documents)
NEAR = 0.8  # Jaccard of a near copy
LONG = 5000  # words; no question comes near the Jaccard of a longer text, so it has no signature
FORMAT = "clarion-train-index-2"
_BUFFER = 1_000_000  # windows held before they are sorted and counted
_MOST = 8_000_000  # windows of an index; of larger trainings a fixed part of all windows is kept (`rate`)
_ARRAYS = ("exact", "grams", "documents", "signatures")


def paragraphs(text: str) -> list[np.ndarray]:
    """The hashed words (uint64) of each paragraph that has any; the first one of an item is its question."""
    return [found for part in text.split("\n\n") if len(found := word_hashes(part))]


def _key(words: np.ndarray) -> int:
    """What texts of the same words have in common, 64 bits."""
    return int.from_bytes(content_hash(words, 8), "little")


@dataclass(frozen=True)
class TrainIndex:
    """exact: hashes of texts and paragraphs; grams: of windows, documents: how many hold each (at most 255);
    signatures: uint32 [n, PERMUTATIONS]; sorted but for the signatures. about: sources and counts, for records.
    rate: one of so many windows is kept, chosen by its hash (1: all), so that memory stays bounded for any corpus; a
    text of n shared words is then found with probability 1 - (1 - 1/rate)^(n - 12)."""

    exact: np.ndarray
    grams: np.ndarray
    documents: np.ndarray
    signatures: np.ndarray
    about: dict[str, Any]
    rate: int = 1

    @classmethod
    def build(cls, texts: Iterable[tuple[str, str]], source: Mapping[str, Any] | None = None) -> TrainIndex:
        """(document, text), streamed: memory holds hashes (9 bytes a window, at most 8 million; 512 a signature).

        source: what the record says of the texts (run, data set, fingerprint). Raises DataError where there is none."""
        counts = {"texts": 0, "words": 0, "without_signature": 0}
        exact: set[int] = set()
        seen = _Windows()
        numbers: dict[str, int] = {}

        def sets() -> Iterable[np.ndarray]:
            for document, text in texts:
                parts = paragraphs(text)
                if not parts:
                    continue
                number = numbers.setdefault(document, len(numbers))
                whole = np.concatenate(parts)
                counts["texts"] += 1
                counts["words"] += len(whole)
                exact.add(_key(whole))
                for part in parts:
                    exact.add(_key(part))
                    seen.add(windows(part, N), number)
                if len(whole) <= LONG:
                    yield shingles(whole, SHINGLE)
                    if len(parts) > 1:
                        yield shingles(parts[0], SHINGLE)
                else:
                    counts["without_signature"] += 1

        made = signatures(sets())
        if not counts["texts"]:
            raise DataError("there are no training texts to index.")
        grams, documents = seen.finish()
        about = {"sources": [dict(source or {}) | counts | {"documents": len(numbers)}]}
        unique = np.unique(made, axis=0)
        return cls(np.array(sorted(exact), np.uint64), grams, documents, unique, about, seen.rate)

    @property
    def boilerplate(self) -> int:
        """A window of more documents than this does not count."""
        documents = sum(source.get("documents", 0) for source in self.about["sources"])
        return min(BOILERPLATE, max(2, int(SMALL_BOILERPLATE * documents)))

    @property
    def memory_bytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in _ARRAYS)

    def merge(self, other: TrainIndex) -> TrainIndex:
        """Both trainings, such as a run and the one it started from."""
        rate = max(self.rate, other.rate)
        grams, documents = _merged(*(_sampled((i.grams, i.documents), rate) for i in (self, other)))
        return TrainIndex(
            np.union1d(self.exact, other.exact),
            grams,
            documents,
            np.unique(np.concatenate([self.signatures, other.signatures]), axis=0),
            {"sources": [*self.about["sources"], *other.about["sources"]]},
            rate,
        )

    def save(self, folder: Path) -> None:
        """hashes.npz and index.json, renamed into place when whole."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            np.savez_compressed(partial / "hashes.npz", **{name: getattr(self, name) for name in _ARRAYS})
            about = {"format": FORMAT, "n": N, "shingle": SHINGLE, "rate": self.rate, "memory_bytes": self.memory_bytes}
            about |= self.about
            (partial / "index.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
            partial.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    @classmethod
    def load(cls, folder: Path) -> TrainIndex:
        """An index that `save` wrote; DataError for anything else (arrays are read without pickle)."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if about.pop("format") != FORMAT or (about.pop("n"), about.pop("shingle")) != (N, SHINGLE):
                raise ValueError("another format")
            about.pop("memory_bytes")
            rate = int(about.pop("rate"))
            with np.load(folder / "hashes.npz", allow_pickle=False) as file:
                arrays = {name: file[name] for name in _ARRAYS}
            if arrays["signatures"].ndim != 2 or arrays["signatures"].shape[1] != PERMUTATIONS:
                raise ValueError("signatures of another length")
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
            raise DataError(f"{folder} is no index of training texts that this version reads ({error}).") from None
        return cls(**arrays, about=about, rate=rate)

    def overlap(self, items: Iterable[tuple[str, str]]) -> pd.DataFrame:
        """(id, text) -> one row each, in their order: sample_id, exact, ngram13, minhash (bool), jaccard (estimated, of
        the nearest training text), ngram_share (of its windows that training holds), boilerplate (only common windows
        are shared), short (it has no window of 13 words, so ngram13 says whether the whole text or question is there).

        The question alone (first paragraph) counts like the whole item in `exact` and `minhash`."""
        rows: list[dict[str, Any]] = []
        sets: list[np.ndarray] = []
        known = set(self.exact.tolist())
        for identifier, text in items:
            parts = paragraphs(text)
            whole = np.concatenate(parts) if parts else np.empty(0, np.uint64)
            grams = np.concatenate([windows(part, N) for part in parts]) if parts else whole
            any_window = len(grams) > 0
            grams = grams[_kept(grams, self.rate)]
            hit, common = self._known(grams)
            exact = bool(parts) and (_key(parts[0]) in known or _key(whole) in known)
            rows.append(
                {
                    "sample_id": identifier,
                    "exact": exact,
                    "ngram13": bool((hit & ~common).any()) if any_window else exact,
                    "ngram_share": float((hit & ~common).mean()) if len(grams) else 0.0,
                    "boilerplate": bool(common.any() and not (hit & ~common).any()),
                    "short": not any_window,
                }
            )
            short = whole if len(whole) <= LONG else whole[:0]  # a longer one has no signature, as in the index
            sets += [shingles(short, SHINGLE), shingles(parts[0] if parts else whole, SHINGLE)]
        columns = ["sample_id", "exact", "ngram13", "minhash", "jaccard", "ngram_share", "boilerplate", "short"]
        if not rows:
            return pd.DataFrame(columns=columns)
        table = pd.DataFrame(rows)
        filled = np.array([len(s) > 0 for s in sets])
        jaccard = np.zeros(len(sets))
        if filled.any():
            made = signatures(s for s in sets if len(s))
            jaccard[filled] = NearTexts(self.signatures, NEAR).best(made)[1]
        table["jaccard"] = jaccard.reshape(-1, 2).max(axis=1)
        table["minhash"] = table["jaccard"] >= NEAR
        return table[columns]

    def _known(self, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(training holds the window, and in so many documents that it is boilerplate), each bool [n]."""
        if not len(self.grams) or not len(grams):
            return np.zeros(len(grams), bool), np.zeros(len(grams), bool)
        place = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        hit = self.grams[place] == grams
        return hit, hit & (self.documents[place] > self.boilerplate)


class _Windows:
    """Windows with the number of documents that hold each, in bounded buffers merged by size (a log-structured sort).

    A document is counted once a buffer, so one that comes back after millions of windows counts again."""

    def __init__(self) -> None:
        self.pending: list[tuple[np.ndarray, int]] = []
        self.held = 0
        self.rate = 1
        self.runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, grams: np.ndarray, document: int) -> None:
        grams = grams[_kept(grams, self.rate)]
        if len(grams):
            self.pending.append((grams, document))
            self.held += len(grams)
        if self.held >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        if not self.pending:
            return
        grams = np.concatenate([g for g, _ in self.pending])
        numbers = np.repeat([d for _, d in self.pending], [len(g) for g, _ in self.pending])
        self.pending, self.held = [], 0
        order = np.lexsort((numbers, grams))
        grams, numbers = grams[order], numbers[order]
        new = np.ones(len(grams), bool)
        new[1:] = (grams[1:] != grams[:-1]) | (numbers[1:] != numbers[:-1])
        self.runs.append(_counted(grams[new], np.ones(int(new.sum()), np.uint8)))
        while len(self.runs) > 1 and len(self.runs[-2][0]) < 2 * len(self.runs[-1][0]):
            self.runs[-2:] = [_merged(self.runs[-2], self.runs[-1])]
        while sum(len(grams) for grams, _ in self.runs) > _MOST:
            self.rate *= 2
            self.runs = [_sampled(run, self.rate) for run in self.runs]

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        self._flush()
        while len(self.runs) > 1:
            self.runs[-2:] = [_merged(self.runs[-2], self.runs[-1])]
        return self.runs[0] if self.runs else (np.empty(0, np.uint64), np.empty(0, np.uint8))


def _kept(grams: np.ndarray, rate: int) -> np.ndarray:
    """Which windows an index of this rate (a power of two) holds."""
    return (grams & np.uint64(rate - 1)) == 0


def _sampled(run: tuple[np.ndarray, np.ndarray], rate: int) -> tuple[np.ndarray, np.ndarray]:
    keep = _kept(run[0], rate)
    return run[0][keep], run[1][keep]


def _merged(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    grams, counts = np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])
    order = np.argsort(grams, kind="stable")
    return _counted(grams[order], counts[order])


def _counted(grams: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted windows with repeats -> each once, with the sum of its counts (at most 255)."""
    if not len(grams):
        return grams, counts
    starts = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]]))
    return grams[starts], np.minimum(np.add.reduceat(counts.astype(np.int64), starts), 255).astype(np.uint8)
