"""Codes by sentence embedding alone: every sentence of a note gets the code whose title is most like it.

The plain baseline of clinical coding (CliBench's last resort): no rule for negation, history, family or the eye. What
its confidences (cosines) are worth is for a threshold to say, which clarion.trainers.coder calibrates.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clarion.codes.icd10cm import icd10cm
from clarion.data.cache import build_once
from clarion.errors import UsageError

SENTENCES = re.compile(r"(?<=[.;!?])\s+|\n+")  # "H40.11" and "0.3" stay whole: no blank follows their dots
SHORTEST = 3  # characters of a sentence that is looked up
AT_ONCE = 1024  # sentences compared with all titles in one matrix product


@dataclass(frozen=True, slots=True)
class Match:
    """A code and the cosine of its title with the sentence that is most like it."""

    code: str
    confidence: float
    text: str


@dataclass(frozen=True, slots=True)
class Matches:
    codes: list[Match]


class EmbeddingCoder:
    """scope: ICD-10-CM code, block or chapter (or several) whose leaves are compared, None for all; encoder: a folder
    of a sentence-transformers model (None: the packaged all-MiniLM-L6-v2), loaded at the first note."""

    def __init__(self, scope: str | Sequence[str] | None = "7", encoder: str | None = None):
        system = icd10cm()
        roots = [str(s) for s in ([scope] if isinstance(scope, (str, int)) else scope or ())]
        if unknown := [root for root in roots if not system.exists(root)]:
            raise UsageError(f"model.coder.scope={unknown[0]}: {system.unknown(unknown[0])}")
        below = dict.fromkeys(c for root in roots for c in system.descendant_leaves(root, prioritize_blocks=True))
        self.codes = tuple(below) if roots else system.leaves
        self.titles = [system.title(code) for code in self.codes]
        self._where, self._encoder, self._vectors = encoder, None, None

    def batch(self, texts: Sequence[str]) -> list[Matches]:
        """Of each text the best code of every sentence, each code once with its highest cosine, highest first."""
        rows = [[s for part in SENTENCES.split(text) if len(s := part.strip()) >= SHORTEST] for text in texts]
        flat = list(dict.fromkeys(sentence for row in rows for sentence in row))
        best: dict[str, Match] = {}
        for start in range(0, len(flat), AT_ONCE):
            part = flat[start : start + AT_ONCE]
            cosines = self._encode(part) @ self.vectors.T
            for sentence, column, cosine in zip(part, cosines.argmax(1), cosines.max(1), strict=True):
                best[sentence] = Match(self.codes[column], float(cosine), sentence)
        out = []
        for row in rows:
            kept: dict[str, Match] = {}
            for match in sorted((best[s] for s in row), key=lambda m: -m.confidence):
                kept.setdefault(match.code, match)
            out.append(Matches(list(kept.values())))
        return out

    @property
    def vectors(self) -> np.ndarray:
        """Unit vectors of the titles [codes, d] float32, kept in the cache folder."""
        if self._vectors is None:
            named = "\n".join([self._signature(), *self.titles])
            key = hashlib.sha256(named.encode()).hexdigest()[:16]
            folder = build_once(f"code-titles-{key}", lambda to: np.save(to / "titles.npy", self._encode(self.titles)))
            self._vectors = np.load(folder / "titles.npy", allow_pickle=False)
        return self._vectors

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.asarray(self._loaded()(texts), dtype=np.float32)

    def _signature(self) -> str:
        return self._loaded().signature

    def _loaded(self):
        if self._encoder is None:
            from clarion.evaluators.text_embedding import Encoder

            self._encoder = Encoder(self._where)
        return self._encoder
