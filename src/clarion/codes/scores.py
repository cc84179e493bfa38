"""How far predicted sets of codes agree with the true ones, level by level and along the tree. All of it vectorised.

A code coarser than a level stands for itself there, and so matches only the same coarse code; a predicted code that
does not exist matches nothing and still counts as predicted. Sets: a code counts once a case and level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from clarion.errors import DataError, UsageError


class System(Protocol):
    """What a code system offers (icd10cm, icd10pcs, atc, loinc)."""

    name: str
    version: str
    LEVELS: tuple[str, ...]

    def normalise(self, text: object) -> str | None: ...
    def at_level(self, code: str, level: str) -> str | None: ...
    def chain(self, code: str) -> list[str]: ...
    def suggest(self, text: str, n: int = 3) -> list[str]: ...
    def unknown(self, code: object) -> str: ...


@dataclass(frozen=True)
class Counts:
    """Per case [n]: codes in both sets, true codes, predicted codes."""

    both: np.ndarray
    true: np.ndarray
    predicted: np.ndarray

    def f1(self) -> np.ndarray:
        """F1 of each case [n]; NaN where it has no true code (then nothing can be found)."""
        with np.errstate(invalid="ignore"):
            return np.where(self.true > 0, 2 * self.both / (self.true + self.predicted), np.nan)


class CodeSets:
    """True and predicted codes of n cases, as arrays; `counts`, `exact` and `distances` score them.

    true, predicted: a list of codes a case, in any spelling. True codes must exist (DataError with the nearest one).
    """

    def __init__(self, true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], system: System):
        if len(true) != len(predicted):
            raise UsageError(f"{len(true)} cases with true codes, {len(predicted)} with predicted ones: give as many.")
        self.system, self.n = system, len(true)
        self._true_case, true_raw = _flat(true)
        self._case, raw = _flat(predicted)
        ids, names = pd.factorize(np.array([*true_raw, *raw], dtype=object))
        self._true, self._predicted = ids[: len(true_raw)], ids[len(true_raw) :]
        self._codes: list[str | None] = [system.normalise(name) for name in names]
        for k in np.unique(self._true):
            if self._codes[k] is None:
                raise DataError(system.unknown(names[k]))

    @property
    def exists(self) -> np.ndarray:
        """Of each predicted code, in order, whether it exists [all predicted codes] bool."""
        known = np.array([code is not None for code in self._codes], dtype=bool)
        return known[self._predicted] if len(self._predicted) else np.zeros(0, dtype=bool)

    def invalid(self) -> tuple[np.ndarray, np.ndarray]:
        """Per case [n]: predicted codes that do not exist, predicted codes (repeats counted)."""
        return (
            np.bincount(self._case[~self.exists], minlength=self.n).astype(float),
            np.bincount(self._case, minlength=self.n).astype(float),
        )

    def counts(self, level: str) -> Counts:
        """The sets at one level of the system (UsageError with the names of the levels)."""
        true, predicted, width = self._keys(level)
        both = np.intersect1d(true, predicted, assume_unique=True)
        return Counts(*(np.bincount(k // width, minlength=self.n).astype(float) for k in (both, true, predicted)))

    def exact(self) -> np.ndarray:
        """Per case [n]: 1 where the two sets of codes, as given, are the same; NaN where no code is true."""
        counts = self.counts(self.system.LEVELS[-1])
        same = (counts.both == counts.true) & (counts.both == counts.predicted)
        return np.where(counts.true > 0, same.astype(float), np.nan)

    def distances(self) -> np.ndarray:
        """Per case [n]: mean number of edges from each code of either set to the nearest one of the other.

        Chapters hang at one root, and the root stands for a set without codes and for a code that does not exist: a
        case without a prediction is as far off as its codes are deep, and not less. NaN where no code is true.
        """
        lineage = _lineages(self.system, self._codes)
        true, predicted = _unique(self._true_case, self._true), _unique(self._case, self._predicted)
        total, number = (np.zeros(self.n) for _ in range(2))
        for here, there in ((true, predicted), (predicted, true)):
            nearest = _nearest(here, there, lineage, self.n)
            total += np.bincount(here[0], nearest, minlength=self.n)
            number += np.bincount(here[0], minlength=self.n)
        has_truth = np.bincount(true[0], minlength=self.n) > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(has_truth, total / number, np.nan)

    def ranked(self, confidences: Sequence[Sequence[float]], level: str) -> Ranked:
        """The predicted codes at a level with their confidences, for curves over a threshold."""
        true, _, width = self._keys(level)
        confidence = np.array([c for row in confidences for c in row], dtype=float)
        keys = self._case * width + self._level_ids(level)[0][self._predicted]
        order = np.lexsort((-confidence, keys))  # of a code that is predicted twice the surer one is kept
        keys, first = np.unique(keys[order], return_index=True)
        return Ranked(
            keys // width, confidence[order][first], np.isin(keys, true), np.bincount(true // width, minlength=self.n)
        )

    def _keys(self, level: str) -> tuple[np.ndarray, np.ndarray, int]:
        """(true, predicted) as unique sorted numbers case * width + code at the level, and width."""
        ids, width = self._level_ids(level)
        return (
            np.unique(self._true_case * width + ids[self._true]),
            np.unique(self._case * width + ids[self._predicted]),
            width,
        )

    def _level_ids(self, level: str) -> tuple[np.ndarray, int]:
        if level not in self.system.LEVELS:
            raise UsageError(f"{level!r} is no level of {self.system.name}: write {', '.join(self.system.LEVELS)}.")
        # A code that does not exist is told apart from all others by its number.
        at = [f"?{k}" if c is None else self.system.at_level(c, level) or c for k, c in enumerate(self._codes)]
        ids, names = pd.factorize(np.array(at, dtype=object))
        return ids.astype(np.int64), max(len(names), 1)


@dataclass(frozen=True)
class Ranked:
    """Predicted codes [m] (case, confidence, whether it is right) and the number of true codes a case [n]."""

    case: np.ndarray
    confidence: np.ndarray
    right: np.ndarray
    true: np.ndarray

    def curve(self, most: int = 201) -> dict[str, np.ndarray]:
        """Keeping only codes of at least a threshold's confidence, at most `most` thresholds, rising:
        threshold; coverage (share of cases that keep a code); f1 (micro, all cases: what is not answered is missed);
        f1_answered (micro, over the cases that keep a code)."""
        if not len(self.confidence):
            return {name: np.zeros(0) for name in ("threshold", "coverage", "f1", "f1_answered")}
        n = len(self.true)
        thresholds = np.unique(self.confidence)
        if len(thresholds) > most:
            thresholds = thresholds[np.linspace(0, len(thresholds) - 1, most).round().astype(int)]
        kept = _at_least(self.confidence, np.ones(len(self.confidence)), thresholds)
        both = _at_least(self.confidence, self.right.astype(float), thresholds)
        surest = np.full(n, -np.inf)
        np.maximum.at(surest, self.case, self.confidence)
        answered = _at_least(surest, np.ones(n), thresholds)
        true_answered = _at_least(surest, self.true.astype(float), thresholds)
        return {
            "threshold": thresholds,
            "coverage": answered / n,
            "f1": 2 * both / (kept + self.true.sum()),
            "f1_answered": 2 * both / (kept + true_answered),
        }


def _flat(lists: Sequence[Sequence[str]]) -> tuple[np.ndarray, list[str]]:
    lengths = [len(row) for row in lists]
    return np.repeat(np.arange(len(lists), dtype=np.int64), lengths), [code for row in lists for code in row]


def _unique(case: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(case):
        return case, code.astype(np.int64)
    pairs = np.unique(np.stack([case, code]), axis=1)
    return pairs[0], pairs[1]


def _at_least(values: np.ndarray, weight: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Sum of the weights of values >= each threshold."""
    order = np.argsort(values, kind="stable")
    from_here = np.append(np.cumsum(weight[order][::-1])[::-1], 0.0)
    return from_here[np.searchsorted(values[order], thresholds, side="left")]


def _lineages(system: System, codes: Sequence[str | None]) -> np.ndarray:
    """[codes, depth]: number of the ancestor at each depth, chapter first, the code itself last, -1 beyond it. A code
    that does not exist has none: it stands at the root."""
    chains = [system.chain(code)[::-1] if code is not None else [] for code in codes]
    deep = max(map(len, chains), default=0)
    numbers: dict[tuple[int, str], int] = {}  # a block and its category may share a name, never a depth
    table = np.full((len(chains), max(deep, 1)), -1, dtype=np.int64)
    for row, chain in enumerate(chains):
        for depth, name in enumerate(chain):
            table[row, depth] = numbers.setdefault((depth, name), len(numbers))
    return table


def _nearest(here: tuple, there: tuple, lineage: np.ndarray, n: int) -> np.ndarray:
    """Edges from each code of `here` to the nearest of the same case in `there`, or to the root where that has none."""
    depth = (lineage >= 0).sum(1)
    result = depth[here[1]].astype(float)  # to the root
    starts = np.searchsorted(there[0], np.arange(n))
    number = np.bincount(there[0], minlength=n)[here[0]]
    asked = np.flatnonzero(number)
    if not len(asked):
        return result
    repeats = number[asked]
    left = np.repeat(asked, repeats)
    offset = np.arange(len(left)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    right = there[1][np.repeat(starts[here[0][asked]], repeats) + offset]
    a, b = lineage[here[1][left]], lineage[right]
    shared = np.cumprod((a == b) & (a >= 0), axis=1).sum(1)
    edges = depth[here[1][left]] + depth[right] - 2 * shared
    result[asked] = np.minimum.reduceat(edges, np.cumsum(repeats) - repeats)
    return result
