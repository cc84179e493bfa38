"""Near-duplicates of a corpus: our fingerprints and index on 2 cores against datasketch's plain loop, same documents.

    python benchmarks/corpus.py                       # the claim: >= 3x the documents/s
    python benchmarks/corpus.py --documents 500       # a small run

Documents are drawn from a Zipf vocabulary (about 250 words each); some repeat an earlier one with some words changed,
so that their Jaccard index lies anywhere. Both take the same documents, 5-word shingles of lower-case words, 128
permutations and the threshold 0.8, and keep the first of a group. The peer is the loop of datasketch's documentation:
MinHash.update for every shingle, MinHashLSH.query, insert; its batched variant (MinHash.update_batch) is timed too.
Which documents are duplicates is also computed by brute force (exact Jaccard indices of all pairs): `recall` and
`precision` are of both against that. The last line is JSON: ratio is their wall time over ours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# One thread a process: the processes are the cores that are counted.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np

SETTINGS = {"exact": True, "near": True, "shingle_words": 5, "jaccard": 0.8, "permutations": 128, "max_candidates": 200}
WORD = re.compile(r"\w+")
BATCH = 128


def documents(n: int, seed: int) -> list[str]:
    """n texts; every fourth repeats an earlier one with 0 to 8 % of its words changed."""
    rng = np.random.default_rng(seed)
    letters = list("abcdefghiklmnoprstuv")
    vocabulary = np.array(["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(20_000)])
    weights = 1 / np.arange(1, len(vocabulary) + 1)
    weights /= weights.sum()
    texts: list[np.ndarray] = []
    for k in range(n):
        if k % 4 == 3:
            words = texts[rng.integers(len(texts))].copy()
            changed = rng.random(len(words)) < rng.uniform(0, 0.08)
            words[changed] = rng.choice(vocabulary, changed.sum())
        else:
            words = rng.choice(vocabulary, rng.integers(150, 350), p=weights)
        texts.append(words)
    return [" ".join(words) for words in texts]


def shingles(text: str) -> set[str]:
    words, k = WORD.findall(text.lower()), SETTINGS["shingle_words"]
    return {" ".join(words[i : i + k]) for i in range(max(len(words) - k + 1, 1))}


# ---------------------------------------------------------------------------------------------------------- ours

_make = None


def start() -> None:
    global _make
    from clarion.llm.corpus.dedup import Fingerprinter

    _make = Fingerprinter(SETTINGS)
    _make("compile, or load what was compiled")


def fingerprints(texts: list[str]) -> list:
    return [_make(text) for text in texts]


def ours(texts: list[str], workers: int) -> tuple[float, list[bool]]:
    """(seconds, which documents are duplicates): fingerprints in worker processes, the index here; no start-up."""
    from clarion.llm.corpus.dedup import Deduplicator

    batches = [texts[k : k + BATCH] for k in range(0, len(texts), BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        start()
        warm = Deduplicator(SETTINGS, Path(folder) / "warm")
        warm.start(0)
        for found in fingerprints(texts[:2]) + fingerprints(texts[:1]):
            warm.check(found)
        warm.close()
        dedup = Deduplicator(SETTINGS, Path(folder) / "timed")
        dedup.start(0)
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start) as pool:
            list(pool.map(fingerprints, [["warm up"]] * 8 * workers))
            began = time.perf_counter()
            flags = [dedup.check(f)[0] is not None for batch in pool.map(fingerprints, batches) for f in batch]
            seconds = time.perf_counter() - began
        dedup.close()
    return seconds, flags


# --------------------------------------------------------------------------------------------------------- peers


def datasketch_loop(texts: list[str], batched: bool) -> tuple[float, list[bool]]:
    from datasketch import MinHash, MinHashLSH

    began = time.perf_counter()
    lsh = MinHashLSH(threshold=SETTINGS["jaccard"], num_perm=SETTINGS["permutations"])
    flags = []
    for k, text in enumerate(texts):
        minhash = MinHash(num_perm=SETTINGS["permutations"])
        if batched:
            minhash.update_batch([s.encode() for s in shingles(text)])
        else:
            for shingle in shingles(text):
                minhash.update(shingle.encode())
        flags.append(bool(lsh.query(minhash)))
        if not flags[-1]:
            lsh.insert(str(k), minhash)
    return time.perf_counter() - began, flags


def brute_force(texts: list[str]) -> list[bool]:
    """Which documents have a Jaccard index >= the threshold with an earlier one that was kept, exactly."""
    from scipy.sparse import csr_array

    columns: dict[str, int] = {}
    indices, pointers = [], [0]
    for text in texts:
        indices += [columns.setdefault(s, len(columns)) for s in sorted(shingles(text))]
        pointers.append(len(indices))
    x = csr_array((np.ones(len(indices), np.int32), indices, pointers), shape=(len(texts), len(columns)))
    sizes, shared = np.diff(pointers), (x @ x.T).tocsr()
    flags: list[bool] = []
    for k in range(len(texts)):
        row = slice(shared.indptr[k], shared.indptr[k + 1])
        others, common = shared.indices[row], shared.data[row]
        similar = others[(common >= SETTINGS["jaccard"] * (sizes[k] + sizes[others] - common)) & (others < k)]
        flags.append(any(not flags[j] for j in similar))
    return flags


def agreement(flags: list[bool], truth: list[bool]) -> dict[str, float]:
    a, b = np.array(flags), np.array(truth)
    both = float((a & b).sum())
    return {"recall": round(both / max(b.sum(), 1), 4), "precision": round(both / max(a.sum(), 1), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    texts = documents(args.documents, args.seed)
    seconds, flags = ours(texts, args.workers)
    print(f"ours: {len(texts) / seconds:,.0f} documents/s on {args.workers} processes ({seconds:.2f} s)")
    plain, plain_flags = datasketch_loop(texts, batched=False)
    print(f"datasketch, plain loop: {len(texts) / plain:,.0f} documents/s ({plain:.2f} s)")
    batched, _ = datasketch_loop(texts, batched=True)
    print(f"datasketch, update_batch: {len(texts) / batched:,.0f} documents/s ({batched:.2f} s)")
    truth = brute_force(texts)
    same = float(np.mean(np.array(flags) == np.array(plain_flags)))
    result = {
        "name": f"near-duplicates of {len(texts)} documents, 5-word shingles, 128 permutations, Jaccard 0.8",
        "ratio": round(plain / seconds, 1),
        "peer": "datasketch MinHash.update + MinHashLSH, plain loop",
        "n": len(texts),
        "documents_per_s": round(len(texts) / seconds),
        "peer_documents_per_s": round(len(texts) / plain, 1),
        "ratio_to_update_batch": round(batched / seconds, 1),
        "workers": args.workers,
        "duplicates": {"brute_force": sum(truth), "ours": sum(flags), "datasketch": sum(plain_flags)},
        "ours_against_brute_force": agreement(flags, truth),
        "datasketch_against_brute_force": agreement(plain_flags, truth),
        "same_answer_as_datasketch": round(same, 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
