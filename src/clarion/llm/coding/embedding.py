"""Embedding match: what the rules could not read is compared with all phrases of the lexicon by sentence embeddings.

Phrases and questions are compared without their eye (the eye is resolved by rules: an embedding hardly tells right from
left). The index of the phrases lies in the cache under a hash of its content. A match counts from a threshold that was
calibrated on held-out paraphrases and non-diagnoses (`clarion measure eye_titles threshold` wrote threshold.json).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np

from clarion.data.cache import build_once
from clarion.errors import DataError
from clarion.llm.coding.lexicon import Lexicon, Phrase, without_side

log = logging.getLogger("clarion")
CANDIDATES = 5  # nearest phrases that are looked at before a clause is given up
# A title such as "other disorders of eyelid" is near everything that is said of eyelids, so it is no candidate.
VAGUE = frozenset("other disorder specified injury complication screening encounter".split())
# Words that exclude each other: near in an embedding, opposite in a clinic.
OPPOSITES = (
    ("exudative", "nonexudative"), ("wet", "dry"), ("wet", "nonexudative"), ("dry", "exudative"), ("acute", "chronic"),
    ("proliferative", "nonproliferative"), ("open", "closure"), ("artery", "vein"), ("anterior", "posterior"),
    ("upper", "lower"), ("central", "branch"), ("hypermetropia", "myopia"), ("entropion", "ectropion"),
    ("esotropia", "exotropia"), ("internal", "external"), ("hypotony", "hypertension"), ("nuclear", "cortical"),
    ("congenital", "age"), ("magnetic", "nonmagnetic"), ("convergence", "divergence"), ("mild", "severe"),
    ("mydriasis", "miosis"), ("enophthalmos", "exophthalmos"), ("deuteranopia", "protanopia"),
)  # fmt: skip


class SentenceEncoder(Protocol):
    """As clarion.evaluators.text_embedding.Encoder: texts -> unit vectors [n, d]; `signature` names the weights."""

    signature: str

    def __call__(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Threshold:
    """cosine: a match counts from here. probability = 1 / (1 + exp(-(slope * cosine + offset))), fitted on the same
    held-out clauses; it is the confidence of an embedding match."""

    cosine: float
    slope: float
    offset: float

    def probability(self, cosine: float) -> float:
        return 1.0 / (1.0 + math.exp(-(self.slope * cosine + self.offset)))


@lru_cache(maxsize=1)
def calibrated() -> Threshold:
    """The committed threshold.json."""
    found = json.loads(files("clarion.llm.coding").joinpath("threshold.json").read_text(encoding="utf-8"))
    return Threshold(found["cosine"], found["slope"], found["offset"])


@dataclass(frozen=True, slots=True)
class Match:
    """The nearest phrase of a clause that does not contradict it, and its cosine."""

    phrase: Phrase
    cosine: float


class PhraseIndex:
    """Unit vectors [phrases, d] float32 of a lexicon, and the search in them."""

    def __init__(self, lexicon: Lexicon, encoder: SentenceEncoder):
        self.encoder = encoder
        self.phrases = [
            p for p in lexicon.phrases.values() if p.words == without_side(p.words) and VAGUE.isdisjoint(p.words)
        ]
        texts = [" ".join(p.words) for p in self.phrases]
        digest = hashlib.sha256("\n".join([encoder.signature, *texts]).encode()).hexdigest()[:16]
        path = build_once(f"icd-phrases-{digest}", lambda folder: _build(folder, texts, encoder)) / "vectors.npy"
        try:
            self.vectors = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}): delete its folder, it is made again.") from error

    def search(self, clauses: Sequence[Sequence[str]]) -> list[Match | None]:
        """The match of each clause (normalised words without an eye); equal clauses are encoded once."""
        if not clauses:
            return []
        cosines = self.cosines([" ".join(c) for c in clauses])
        k = min(CANDIDATES, cosines.shape[1])
        top = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        found: list[Match | None] = []
        for row, (clause, columns) in enumerate(zip(clauses, top, strict=True)):
            ranked = sorted(columns.tolist(), key=lambda c, row=row: -cosines[row, c])
            best = next((c for c in ranked if not contradicts(clause, self.phrases[c].words)), None)
            found.append(None if best is None else Match(self.phrases[best], float(cosines[row, best])))
        return found

    def cosines(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, phrases] float32."""
        return np.asarray(self.encoder(texts), dtype=np.float32) @ self.vectors.T


def contradicts(clause: Sequence[str], phrase: Sequence[str]) -> bool:
    """Whether one names what excludes the other (wet | nonexudative)."""
    a, b = set(clause), set(phrase)
    return any(
        (x in a and y in b and y not in a) or (y in a and x in b and x not in a) for x, y in OPPOSITES
    )  # fmt: skip


def _build(folder: Path, texts: list[str], encoder: SentenceEncoder) -> None:
    if len(texts) > 20000:
        log.info("encoding %d phrases once (some minutes; kept in the cache)", len(texts))
    np.save(folder / "vectors.npy", np.asarray(encoder(texts), dtype=np.float32))
