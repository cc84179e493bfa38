"""Samples of one patient: which are tumours, and which one speaks for the patient.

TCGA barcodes (TCGA-ZZ-0001-01A-11R-A38B-07): project, tissue source site, participant, sample type + vial, portion +
analyte, plate, centre. Sample types: GDC code tables (01 primary, 03 blood-derived primary, 06 metastatic,
10-14 normal, 20 control ...). CPTAC writes normals with a suffix (C3L-00001.N).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from clarion.cancer.readers.log import ReadLog

_TCGA = re.compile(r"(?P<patient>TCGA[-.](?P<site>\w{2})[-.]\w{4})(?:[-.](?P<type>\d{2})(?P<vial>[A-Z])?.*)?$")
_CPTAC = re.compile(r"(?P<patient>(?:C3[LN][-.]|\d{2}(?:BR|CO|OV))\d{3,5})[-._](?P<type>[NTA])$")
NAMES = {
    "01": "primary tumour", "02": "recurrence", "03": "primary blood", "05": "further primary", "06": "metastasis",
    "07": "further metastasis", "09": "primary marrow", "10": "blood normal", "11": "tissue normal", "12": "normal",
    "13": "normal", "14": "normal", "20": "control", "N": "normal", "A": "normal adjacent",
}  # fmt: skip
PRIMARY = ("01", "03", "09", "T", "")  # "": the id says nothing, so the sample is taken for a tumour


def wanted_types(cancer: str | None) -> tuple[str, ...]:
    """Sample types of a cohort of tumours; most melanomas of TCGA are metastases, so there they count too."""
    return (*PRIMARY, "06") if (cancer or "").upper().endswith("SKCM") else PRIMARY


def parse(sample: str) -> tuple[str, str, str]:
    """sample id -> (patient, sample type or "", tissue source site or ""); other ids are their own patient."""
    text = str(sample).strip()
    if found := _TCGA.match(text):
        return found["patient"].replace(".", "-"), found["type"] or "", found["site"]
    if found := _CPTAC.match(text):
        return found["patient"], found["type"], ""
    return text, "", ""


def one_a_patient(
    samples: Sequence[str],
    log: ReadLog,
    what: str,
    types: Sequence[str] = PRIMARY,
    patient_of: dict[str, str] | None = None,
) -> pd.Series:
    """patient -> position of the sample that speaks for them.

    Samples of other types (normals, recurrences) are left out; of several tumours of a patient the one first in
    `types` counts, then the first id in alphabetical order (vial A before the FFPE vial B). Both are noted.
    what: the modality, for the notes; patient_of: sample id -> patient where a table says so."""
    rank = {t: k for k, t in enumerate(types)}
    left_out: Counter[str] = Counter()
    kept = []
    for position, sample in enumerate(map(str, samples)):
        patient, kind, _ = parse(sample)
        if patient_of and not (known := patient_of.get(sample) or patient_of.get(sample[:15])):
            left_out["samples that the clinical tables do not know"] += 1
            continue
        if patient_of:
            patient = known
        if kind not in rank:
            left_out[f"samples of type {kind} ({NAMES.get(kind, 'other')})"] += 1
            continue
        kept.append((patient, rank[kind], sample, position))
    for text, n in sorted(left_out.items()):
        log.note(f"{what}: {n} {text} left out.")
    first: dict[str, int] = {}
    for patient, _, _, position in sorted(kept):
        first.setdefault(patient, position)
    if len(kept) > len(first):
        log.note(f"{what}: {len(kept) - len(first)} further samples of patients with several left out.")
    return pd.Series(first, dtype=int)
