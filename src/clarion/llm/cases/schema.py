"""The schema of a case report: what is read from files, drawn by the generator and laid out for a model.

A report is one visit of one patient. Findings follow clarion.findings (name, value, unit, codes); codes are strings as
their systems write them (ICD-10-CM "H40.1131", ICD-10-PCS "08DJ3ZZ", LOINC "33914-3", ATC "S01EE01"). An empty tuple or
None means "not stated", never "normal".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from clarion.findings import Finding

SEXES = ("female", "male", "other", "unknown")
EYES = ("OD", "OS", "OU")  # right, left, both
LANGUAGES = ("en", "ko")
MENTIONS = ("negated", "history", "family", "other_eye")


@dataclass(frozen=True)
class Diagnosis:
    """A current, asserted diagnosis. code: ICD-10-CM, dotted."""

    code: str
    title: str = ""
    laterality: str | None = None  # one of EYES


@dataclass(frozen=True)
class Procedure:
    """code: ICD-10-PCS, seven characters, or "" where the record gives none."""

    title: str
    code: str = ""
    laterality: str | None = None


@dataclass(frozen=True)
class Lab:
    """A laboratory result. unit: UCUM; code: LOINC."""

    name: str
    value: float | str | None = None
    unit: str | None = None
    code: str = ""


@dataclass(frozen=True)
class Treatment:
    """What was given or advised. code: ATC for drugs."""

    text: str
    code: str = ""


@dataclass(frozen=True)
class Mention:
    """A condition that the note names and that is no current diagnosis of the patient. kind: one of MENTIONS."""

    text: str
    kind: str
    code: str = ""


@dataclass(frozen=True)
class CaseReport:
    """One case. case_id and patient_id are pseudonyms wherever the data are private; note: the text a model reads."""

    case_id: str
    patient_id: str
    note: str
    language: str = "en"
    age: int | None = None  # years
    sex: str | None = None  # one of SEXES
    laterality: str | None = None  # of the leading complaint, one of EYES
    symptoms: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()
    procedures: tuple[Procedure, ...] = ()
    labs: tuple[Lab, ...] = ()
    treatment: tuple[Treatment, ...] = ()
    outcome: str = ""
    mentions: tuple[Mention, ...] = ()
    template: str = ""  # of a generated note
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def codes(self) -> list[str]:
        """ICD-10-CM codes of the current diagnoses, each once, in their order."""
        return list(dict.fromkeys(d.code for d in self.diagnoses if d.code))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as readers.case_from_dict reads it."""
        return asdict(self)
