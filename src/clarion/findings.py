"""The schema of a measured finding: every room writes it, the reasoner and the report read it (findings.json).

A finding is one number (or word, or yes/no) with its unit, its interval, how it was made and what it was made from.
What could not be measured is listed under `omitted` with the reason, and never written as 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from clarion.errors import DataError
from clarion.record import to_json, write_atomic

SCHEMA = "clarion-findings/1"
KINDS = ("phantom", "public", "private")


@dataclass(frozen=True)
class Finding:
    """value: a number, a word or a bool; unit: UCUM ("um", "mm2", "%", "1"), None for words."""

    id: str  # unique in its document: "erm_area"
    name: str  # in words: "Area of epiretinal membrane"
    value: float | int | str | bool
    unit: str | None = None
    interval: tuple[float, float, float] | None = None  # low, high, level: (4.1, 5.2, 0.95)
    method: str = ""  # one sentence
    source: dict[str, str] = field(default_factory=dict)  # {"model": hash} or {"formula": citation}, {"version": ...}
    derived_from: tuple[str, ...] = ()  # ids of scans, masks, maps, other findings
    laterality: str | None = None  # "OD" | "OS" | None
    body_site: str = "retina"
    codes: dict[str, str] = field(default_factory=dict)  # {"loinc": ..., "icd10cm": ..., "snomed": ...}
    quality: str = "ok"  # "ok" | "flagged"
    why: str = ""  # why it is flagged
    data_kind: str = "private"

    def __post_init__(self) -> None:
        if self.value is None or (isinstance(self.value, Real) and not math.isfinite(self.value)):
            raise ValueError(f"finding {self.id}: {self.value} is no measurement; list it under omitted.")
        if self.data_kind not in KINDS or self.quality not in ("ok", "flagged"):
            raise ValueError(f"finding {self.id}: data_kind {self.data_kind!r} or quality {self.quality!r} is unknown.")
        if self.quality == "flagged" and not self.why:
            raise ValueError(f"finding {self.id} is flagged without a reason.")
        if self.interval is not None and not self.interval[0] <= self.interval[1]:
            raise ValueError(f"finding {self.id}: interval {self.interval} is upside down.")


@dataclass
class Document:
    """All findings of one study. patient: a pseudonym."""

    patient: str
    study: str
    device: str
    created: str  # ISO 8601, when the findings were made (not when the eye was scanned)
    findings: list[Finding] = field(default_factory=list)
    omitted: list[dict[str, str]] = field(default_factory=list)  # {"name", "why"}
    warnings: list[dict[str, str]] = field(default_factory=list)  # {"name", "message"}: what the reader flagged
    data_kind: str = "private"

    def add(self, *findings: Finding) -> None:
        """Append; ValueError on an id that is taken."""
        taken = {f.id for f in self.findings}
        for finding in findings:
            if finding.id in taken:
                raise ValueError(f"two findings have the id {finding.id}.")
            taken.add(finding.id)
            self.findings.append(finding)

    def omit(self, name: str, why: str) -> None:
        self.omitted.append({"name": name, "why": why})

    def get(self, finding_id: str) -> Finding | None:
        return next((f for f in self.findings if f.id == finding_id), None)

    def value(self, finding_id: str) -> Any:
        found = self.get(finding_id)
        return None if found is None else found.value

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the schema's order, intervals as lists, quality as {state, why}."""
        rows = []
        for finding in self.findings:
            row = asdict(finding)
            row["interval"] = None if finding.interval is None else list(finding.interval)
            row["derived_from"] = list(finding.derived_from)
            row["quality"] = {"state": row["quality"], "why": row.pop("why")}
            rows.append(row)
        head = {k: getattr(self, k) for k in ("patient", "study", "device", "created", "data_kind")}
        return {"schema": SCHEMA, **head, "findings": rows, "omitted": self.omitted, "warnings": self.warnings}

    def write(self, path: Path) -> Path:
        """Write findings.json atomically."""
        write_atomic(path, to_json(self.to_dict()))
        return path


def read_document(path: Path) -> Document:
    """Read a findings.json; DataError if it is none."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data.get("schema") != SCHEMA:
            raise DataError(f"{path} is no findings.json of this version (schema {data.get('schema')!r}).")
        document = Document(**{k: data[k] for k in ("patient", "study", "device", "created", "data_kind")})
        document.omitted, document.warnings = data["omitted"], data["warnings"]
        document.add(*_rows(data["findings"]))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read as findings.json ({error}).") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is a damaged findings.json ({error}): make it again with clarion quantify.") from None
    return document


def _rows(rows: Iterable[dict[str, Any]]) -> list[Finding]:
    found = []
    for row in rows:
        row = dict(row)
        quality = row.pop("quality")
        interval = row.pop("interval")
        row["derived_from"] = tuple(row["derived_from"])
        found.append(
            Finding(**row, interval=tuple(interval) if interval else None, quality=quality["state"], why=quality["why"])
        )
    return found
