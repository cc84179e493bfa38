"""Codes, units and identifiers that the DICOM and the FHIR files share."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING, NamedTuple

from clarion.errors import DataError
from clarion.findings import Document, Finding

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PRIVATE = "99CLARION"  # DICOM's coding scheme for what no public terminology names
PRIVATE_SYSTEM = "urn:clarion:findings"  # the same for FHIR
ERM = ("367649002", "Epiretinal membrane")  # SNOMED CT
RETINA = ("5665001", "Retina")
EYE = ("244486005", "Entire eye")
SIDES = {"OD": ("24028007", "Right"), "OS": ("7771000", "Left")}
PUCKERING = {  # ICD-10-CM H35.37
    "OD": ("H35.371", "Puckering of macula, right eye"),
    "OS": ("H35.372", "Puckering of macula, left eye"),
    None: ("H35.379", "Puckering of macula, unspecified eye"),
}
TOTAL_THICKNESS = ("111929", "Total retinal thickness (ILM to BM)")  # DICOM, CID 4272
LOINC = {  # OCT of the macula
    "57108-3": "Macular grid.center point thickness by OCT",
    "57109-1": "Macular grid.center subfield thickness by OCT",
    "57110-9": "Macular grid.inner superior subfield thickness by OCT",
    "57111-7": "Macular grid.inner nasal subfield thickness by OCT",
    "57112-5": "Macular grid.inner inferior subfield thickness by OCT",
    "57113-3": "Macular grid.inner temporal subfield thickness by OCT",
    "57114-1": "Macular grid.outer superior subfield thickness by OCT",
    "57115-8": "Macular grid.outer nasal subfield thickness by OCT",
    "57116-6": "Macular grid.outer inferior subfield thickness by OCT",
    "57117-4": "Macular grid.outer temporal subfield thickness by OCT",
    "57118-2": "Macular grid.total volume by OCT",
}
# What an exported image says of itself, so that a reader of it knows what it is not.
DEIDENTIFIED = "Clarion: pseudonym, no dates of the scan"
PHANTOM_STUDY = "PHANTOM: simulated images, no patient"
NO_DATE = "19000101000000"
_UNITS = {  # UCUM; others are ratios of these
    "um": "micrometer", "mm": "millimeter", "mm2": "square millimeter", "mm3": "cubic millimeter", "%": "percent",
    "1": "no units", "deg": "degree", "dB": "decibel", "s": "second", "a": "year",
}  # fmt: skip


class Segmented(NamedTuple):
    """A segmentation written by the same export. file: its name; scans: ids of the scans it segments."""

    file: str
    data: Dataset
    scans: tuple[str, ...]


class Algorithm(NamedTuple):
    """What made a finding. digest: hash of the model's weights, or "" where a formula made it."""

    name: str
    version: str
    digest: str


def uid(study: str, *parts: object) -> str:
    """A DICOM UID under 2.25 (UUID-derived, ISO/IEC 9834-8) that the same study and parts always get."""
    return f"2.25.{uuid_of(study, *parts).int}"


def uuid_of(study: str, *parts: object) -> uuid.UUID:
    """A name-based UUID of a study and parts."""
    text = "\0".join([study, *(str(part) for part in parts)])
    return uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=5)


def unit_of(finding: Finding) -> tuple[str, str]:
    """A finding's UCUM unit ("1" where it has none) and the unit in words; DataError on one that is no UCUM unit."""
    unit = finding.unit or "1"
    parts = unit.split("/")
    if any(part not in _UNITS for part in parts):
        raise DataError(f"The unit {unit!r} of {finding.id} is none of {', '.join(_UNITS)} or a ratio of these (UCUM).")
    return unit, " per ".join(_UNITS[part] for part in parts).removeprefix("no units ")


def algorithm_of(finding: Finding, version: str) -> Algorithm:
    """Name, version and model hash of what made a finding, out of its `source`."""
    source = finding.source
    digest = source.get("model", "")
    name = "Clarion, trained model" if digest else "Clarion"
    return Algorithm(name, str(source.get("version") or version), digest)


def check_laterality(document: Document, laterality: str | None) -> None:
    """DataError where a finding names another eye than the study, or two findings name different eyes."""
    named = {f.laterality for f in document.findings if f.laterality}
    wrong = [f.id for f in document.findings if f.laterality and laterality and f.laterality != laterality]
    if wrong:
        raise DataError(
            f"Laterality mismatch: the study is of {laterality}, but {_listed(wrong)} say"
            f"{'s' if len(wrong) == 1 else ''} otherwise; nothing is written until the eye is certain (--laterality)."
        )
    if len(named) > 1:
        raise DataError(
            "Laterality mismatch: findings of one study name both eyes (OD and OS); quantify each eye on its own."
        )


def _listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
