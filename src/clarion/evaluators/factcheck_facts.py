"""The facts of one patient that a rationale may state: what a text is written from and what it is checked against."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from clarion.errors import DataError

SCHEMA = "clarion-rationale-facts/1"
MODALITIES = ("slide", "omics", "clinical")
CHANGED = 0.5  # |z| from which expression is called high or low; below it is about average


@dataclass(frozen=True)
class Gene:
    """name: symbol; coef: log hazard ratio per unit of expression (Cox); q: Benjamini-Hochberg q value of it; z: this
    patient's expression in standard deviations of the training patients. q and z are None where nobody knows."""

    name: str
    coef: float
    q: float | None = None
    z: float | None = None

    @property
    def direction(self) -> int:
        """1: higher expression raises the risk; -1: it lowers it (protective)."""
        return 1 if self.coef > 0 else -1

    @property
    def expression(self) -> int | None:
        """1 over-expressed, -1 under-expressed, 0 about average, None unknown."""
        if self.z is None:
            return None
        return 0 if abs(self.z) < CHANGED else 1 if self.z > 0 else -1


@dataclass(frozen=True)
class Pattern:
    """A kind of tissue the model attended to. share: of its attention on the slide, 0..1; None unknown."""

    name: str
    share: float | None = None


@dataclass(frozen=True)
class Facts:
    """genes and patterns: most important first. survival: predicted probability of being alive `horizon` months after
    diagnosis; interval: (low, high, level) of it, such as (0.31, 0.58, 0.95). age in years; sex "F", "M" or "";
    stage "I" to "IV" with an optional letter, or "". missing: of MODALITIES, what the prediction had to do without."""

    genes: tuple[Gene, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    age: float | None = None
    sex: str = ""
    stage: str = ""
    cancer: str = ""
    survival: float | None = None
    interval: tuple[float, float, float] | None = None
    horizon: float = 60.0
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if problems := _problems(self):
            raise DataError(f"These are no facts of a patient: {'; '.join(problems)}.")

    @property
    def survives(self) -> bool | None:
        """The predicted outcome at the horizon: alive where the probability is at least one half; None unknown."""
        return None if self.survival is None else self.survival >= 0.5

    @property
    def years(self) -> float:
        return self.horizon / 12

    def gene(self, name: str) -> Gene | None:
        return next((g for g in self.genes if g.name.casefold() == name.casefold()), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the schema's name."""
        return {"schema": SCHEMA, **asdict(self)}

    def to_json(self) -> str:
        """One line: a cell of the truth's column `facts`."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def read(cls, given: str | Mapping[str, Any]) -> Facts:
        """From `to_json` or `to_dict`. DataError for another thing, saying what is wrong."""
        try:
            data = json.loads(given) if isinstance(given, str) else dict(given)
            if not isinstance(data, dict):
                raise TypeError("no JSON object")
        except (TypeError, ValueError) as error:
            raise DataError(f"Facts are one JSON object a patient ({error}); write them with Facts.to_json.") from None
        if data.pop("schema", SCHEMA) != SCHEMA:
            raise DataError(f"Facts of another version; this one reads {SCHEMA}: make them again.")
        if strange := sorted(set(data) - {f.name for f in fields(cls)}):
            known = ", ".join(f.name for f in fields(cls))
            raise DataError(f"Facts do not have {', '.join(strange)}; they have {known}.")
        try:
            data["genes"] = tuple(Gene(**g) for g in data.get("genes") or ())
            data["patterns"] = tuple(Pattern(**p) for p in data.get("patterns") or ())
            data["missing"] = tuple(data.get("missing") or ())
            data["interval"] = tuple(map(float, data["interval"])) if data.get("interval") else None
            return cls(**data)
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"Facts of a patient cannot be read ({error}); write them with Facts.to_json.") from None


def _problems(facts: Facts) -> list[str]:
    found = []
    names = [g.name.casefold() for g in facts.genes]
    if twice := sorted({g.name for g in facts.genes if names.count(g.name.casefold()) > 1}):
        found.append(f"gene {twice[0]} comes twice")
    for gene in facts.genes:
        if not gene.name or not _finite(gene.coef) or gene.coef == 0:
            found.append(f"gene {gene.name or '(unnamed)'} needs a name and a finite coefficient that is not 0")
        if gene.q is not None and not (_finite(gene.q) and 0 <= gene.q <= 1):
            found.append(f"q of {gene.name} is {gene.q}, not in 0..1")
        if gene.z is not None and not _finite(gene.z):
            found.append(f"z of {gene.name} is {gene.z}")
    for pattern in facts.patterns:
        if not pattern.name or (pattern.share is not None and not (_finite(pattern.share) and 0 <= pattern.share <= 1)):
            found.append(f"pattern {pattern.name or '(unnamed)'} needs a name and a share in 0..1")
    if facts.survival is not None and not (_finite(facts.survival) and 0 <= facts.survival <= 1):
        found.append(f"survival is {facts.survival}, not a probability")
    if facts.interval is not None:
        low, high, level = facts.interval
        if not (0 <= low <= high <= 1 and 0 < level < 1):
            found.append(f"interval {facts.interval} is not (low, high, level) in 0..1")
    if facts.age is not None and not (_finite(facts.age) and 0 <= facts.age <= 120):
        found.append(f"age is {facts.age}")
    if facts.sex not in ("F", "M", ""):
        found.append(f"sex is {facts.sex!r}: write F, M or nothing")
    if not _finite(facts.horizon) or facts.horizon <= 0:
        found.append(f"horizon is {facts.horizon} months")
    if strange := [m for m in facts.missing if m not in MODALITIES]:
        found.append(f"missing {strange[0]!r} is none of {', '.join(MODALITIES)}")
    return found


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
