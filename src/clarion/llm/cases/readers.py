"""Case reports from files: jsonl, plain text with headed sections, FHIR bundles (fhir.py). Sizes are limited, codes are
checked against the installed ICD-10-CM, and every error names the file and the place."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clarion.codes.icd10cm import icd10cm
from clarion.data.pseudonym import pseudonyms
from clarion.errors import DataError
from clarion.findings import Finding
from clarion.llm.cases.schema import EYES, LANGUAGES, SEXES, CaseReport, Diagnosis, Lab, Mention, Procedure, Treatment
from clarion.llm.jsonl import read_records

MAX_NOTE = 100_000  # characters: some 30 pages; a longer text is a whole record, not a case report
MAX_TEXT_BYTES = 1_000_000
MAX_CASES = 1_000_000
MAX_ENTRIES = 500  # of a list within a case
EXPECTED = (
    "Expected: train.jsonl and test.jsonl (val.jsonl is carved from train by patient when absent), UTF-8, one case a "
    'line with "note" and "diagnoses" (a list of ICD-10-CM codes, or of {"code", "title", "laterality"}) [, "case_id", '
    '"patient_id", "age", "sex", "laterality", "language", "symptoms", "history", "findings", "procedures", "labs", '
    '"treatment", "outcome"].'
)
_HANGUL = re.compile("[\uac00-\ud7a3]")


def read_cases(path: str | Path, hide: bool = True) -> list[CaseReport]:
    """Case reports of one file by its ending: .jsonl, .txt, .json (a FHIR bundle).

    hide: identifiers become pseudonyms (clarion.data.pseudonym); the text of a note is left as it is, but for the
    patient's names and identifiers that a FHIR bundle states. DataError for what cannot be read, UsageError never."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path.name} is no file; give a .jsonl, .txt or .json (FHIR bundle) file.")
    kind = path.suffix.lower()
    if kind == ".jsonl":
        cases = read_jsonl(path, path.stem)
    elif kind == ".txt":
        cases = [read_text(path)]
    elif kind == ".json":
        from clarion.llm.cases.fhir import read_bundle

        cases = read_bundle(path)
    else:
        raise DataError(f"{path.name}: case reports are read from .jsonl, .txt and .json (FHIR bundle) files.")
    return hide_identifiers({"file": cases})[0]["file"] if hide else cases


def read_jsonl(path: Path, split: str = "case") -> list[CaseReport]:
    """The cases of a jsonl file, in its order; an absent case_id becomes "<split>-<line>". DataError names the line."""
    cases = [
        case_from_dict(raw, where, f"{split}-{int(where.split()[-1]):06d}")
        for where, raw in read_records(path, MAX_CASES)
    ]
    if not cases:
        raise DataError(f"{path.name} holds no cases. {EXPECTED}")
    return cases


def case_from_dict(raw: Mapping[str, Any], where: str, default_id: str = "case") -> CaseReport:
    """A CaseReport of plain data (CaseReport.to_dict, or what EXPECTED lists). where: file and line, for errors."""
    absent = [name for name in ("note", "diagnoses") if name not in raw]
    if absent:
        raise DataError(
            f"{where} lacks {' and '.join(absent)}; it has: {', '.join(map(str, raw)) or 'nothing'}. {EXPECTED}"
        )
    note = checked_note(raw["note"], where)
    case_id = _text(raw.get("case_id") or raw.get("id") or default_id, "case_id", where)
    return CaseReport(
        case_id=case_id,
        patient_id=_text(raw.get("patient_id") or case_id, "patient_id", where),
        note=note,
        language=_choice(raw.get("language") or language_of(note), LANGUAGES, "language", where),
        age=_age(raw.get("age"), where),
        sex=_choice(raw.get("sex"), SEXES, "sex", where),
        laterality=_choice(raw.get("laterality"), EYES, "laterality", where),
        symptoms=tuple(_text(t, "symptoms", where) for t in _rows(raw, "symptoms", where)),
        history=tuple(_text(t, "history", where) for t in _rows(raw, "history", where)),
        findings=tuple(_finding(r, n, where) for n, r in enumerate(_rows(raw, "findings", where), start=1)),
        diagnoses=tuple(_diagnosis(r, where) for r in _rows(raw, "diagnoses", where)),
        procedures=tuple(_entry(Procedure, "title", r, "procedures", where) for r in _rows(raw, "procedures", where)),
        labs=tuple(_entry(Lab, "name", r, "labs", where) for r in _rows(raw, "labs", where)),
        treatment=tuple(_entry(Treatment, "text", r, "treatment", where) for r in _rows(raw, "treatment", where)),
        outcome=_text(raw.get("outcome") or "", "outcome", where),
        mentions=tuple(_entry(Mention, "text", r, "mentions", where) for r in _rows(raw, "mentions", where)),
        template=_text(raw.get("template") or "", "template", where),
        meta=dict(raw["meta"]) if isinstance(raw.get("meta"), Mapping) else {},
    )


# The headings of a plain text, in English and Korean, and the field each one fills.
_HEADINGS = {
    "age": "age|나이|연령", "sex": "sex|gender|성별", "laterality": "eye|laterality|side|좌우",
    "symptoms": "symptoms?|chief complaint|complaint|주소|증상", "history": "history|past history|과거력|병력",
    "findings": "findings|examination|image findings|소견|검사 ?소견", "labs": "labs?|laboratory|검사실",
    "diagnoses": "diagnos[ei]s|impression|icd-?10(-cm)?|진단|진단명|코드", "procedures": "procedures?|수술|시술",
    "treatment": "treatment|plan|therapy|치료|계획", "outcome": "outcome|course|경과",
}  # fmt: skip
_HEADING = re.compile(
    r"^\s*(?:" + "|".join(f"(?P<{field}>{words})" for field, words in _HEADINGS.items()) + r")\s*[::]\s*(?P<rest>.*)$",
    re.IGNORECASE,
)
_CODE = re.compile(r"\b[A-TV-Z]\d[0-9A-Z](?:\.?[0-9A-Z]{1,4})?\b")
_QUANTITY = re.compile(r"^(?P<name>.+?)\s*[=::]?\s*(?P<eye>OD|OS)?\s+(?P<value>-?\d+(?:\.\d+)?)\s*(?P<unit>\S*)$")


def read_text(path: Path) -> CaseReport:
    """One case from a plain text with headed sections ("Age:", "Findings:", "진단:" ...).

    Codes are taken from the sections of diagnoses, and those sections are left out of the note, which is what a model
    reads. A text without headings is a note without diagnoses."""
    text = decoded(path, MAX_TEXT_BYTES)
    fields: dict[str, list[str]] = {}
    kept, current = [], ""
    for line in text.splitlines():
        if found := _HEADING.match(line):
            current = next(name for name in _HEADINGS if found.group(name))
            fields.setdefault(current, [])
            line_rest = found.group("rest").strip()
            if line_rest:
                fields[current].append(line_rest)
        elif not line.strip():
            current = ""
        elif current:
            fields[current].append(line.strip())
        if current != "diagnoses":
            kept.append(line)
    note = "\n".join(kept).strip()
    parts = {name: _split(lines) for name, lines in fields.items()}
    findings = []
    for number, entry in enumerate(parts.get("findings", []), start=1):
        found = _QUANTITY.match(entry)
        row = {"name": entry, "value": True} if found is None else {
            "name": found["name"].strip(), "value": float(found["value"]), "unit": found["unit"] or None,
            "laterality": found["eye"],
        }  # fmt: skip
        findings.append({"id": f"finding_{number}", **row})
    age = re.search(r"\d{1,3}", " ".join(parts.get("age", [])))
    raw = {
        "note": note,
        "diagnoses": _CODE.findall(" ".join(fields.get("diagnoses", []))),
        "age": int(age.group()) if age else None,
        "sex": _sex(" ".join(parts.get("sex", []))),
        "laterality": eye_of(" ".join(parts.get("laterality", []))),
        "findings": findings,
        "outcome": " ".join(fields.get("outcome", [])),
        **{name: parts.get(name, []) for name in ("symptoms", "history", "labs", "procedures", "treatment")},
    }
    return case_from_dict(raw, path.name, path.stem)


def hide_identifiers(
    cases: Mapping[str, Iterable[CaseReport]],
) -> tuple[dict[str, list[CaseReport]], dict[str, dict[str, str]]]:
    """The cases with pseudonyms for ids and patients, and the way back {"patient", "sample": {original: pseudonym}}.

    One call for all splits: a patient keeps one pseudonym."""
    rows = {split: list(found) for split, found in cases.items()}
    every = [case for found in rows.values() for case in found]
    patients = pseudonyms({c.patient_id for c in every}, "P")
    samples = pseudonyms({c.case_id for c in every}, "S")
    hidden = {
        split: [
            dataclasses.replace(c, case_id=samples[c.case_id], patient_id=patients[c.patient_id]) for c in found
        ]
        for split, found in rows.items()
    }  # fmt: skip
    return hidden, {"patient": patients, "sample": samples}


def decoded(path: Path, most: int) -> str:
    """The text of a file of at most `most` bytes; DataError above, or where it is not UTF-8."""
    if path.stat().st_size > most:
        raise DataError(f"{path.name} is larger than {most:,} bytes; give one case (or one bundle) a file.")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from None


def checked_note(note: Any, where: str) -> str:
    """The note, stripped; DataError where it is empty, no text, or longer than MAX_NOTE characters."""
    note = _text(note, "note", where)
    if not note:
        raise DataError(f"{where}: the note is empty; a case needs a text to be coded.")
    if len(note) > MAX_NOTE:
        raise DataError(f"{where}: the note has {len(note):,} characters, more than {MAX_NOTE:,}; cut it to one case.")
    return note


def checked_code(code: Any, where: str) -> str:
    """The canonical form of an ICD-10-CM code; DataError with the nearest codes where there is none."""
    found = icd10cm().normalise(str(code))
    if found is None:
        nearest = list(icd10cm().suggest(str(code)))[:3]
        hint = f"; did you mean {', '.join(nearest)}?" if nearest else "."
        raise DataError(f"{where}: {str(code)[:40]!r} is no ICD-10-CM code of version {icd10cm().version}{hint}")
    return found


def language_of(text: str) -> str:
    """ "ko" where a tenth of the letters or more are Hangul."""
    letters = sum(letter.isalpha() for letter in text)
    return "ko" if letters and len(_HANGUL.findall(text)) >= 0.1 * letters else "en"


def eye_of(text: str) -> str | None:
    """OD | OS | OU of words such as "right eye", "좌안", "OU"; None where they name none, or two different ones."""
    lowered = text.casefold()
    if re.search(r"\bou\b|\bboth\b|bilateral|양안", lowered):
        return "OU"
    right = bool(re.search(r"\bod\b|\bright\b|우안", lowered))
    left = bool(re.search(r"\bos\b|\bleft\b|좌안", lowered))
    return None if right == left else "OD" if right else "OS"


def _sex(text: str) -> str | None:
    lowered = text.casefold().strip()
    if not lowered:
        return None
    return "female" if re.match(r"f|여|w", lowered) else "male" if re.match(r"m|남", lowered) else "unknown"


def _split(lines: list[str]) -> list[str]:
    return [part.strip(" -•\t.") for line in lines for part in re.split(r"[;\n]", line) if part.strip(" -•\t.")]


def _rows(raw: Mapping[str, Any], name: str, where: str) -> list[Any]:
    rows = raw.get(name)
    if rows is None:
        return []
    rows = [rows] if isinstance(rows, str | Mapping) else rows
    if not isinstance(rows, list | tuple):
        raise DataError(f"{where}: {name} is a {type(rows).__name__}; write a list.")
    if len(rows) > MAX_ENTRIES:
        raise DataError(f"{where}: {name} has {len(rows):,} entries, more than {MAX_ENTRIES}; is this one case?")
    return list(rows)


def _text(value: Any, name: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: {name} is a {type(value).__name__}; write it as text.")
    return str(value).strip()


def _choice(value: Any, allowed: tuple[str, ...], name: str, where: str) -> str | None:
    if value in (None, ""):
        return None
    found = next((a for a in allowed if str(value).casefold() == a.casefold()), None)
    if found is None:
        raise DataError(f"{where}: {name} is {str(value)[:40]!r}; write one of {', '.join(allowed)}, or leave it out.")
    return found


def _age(value: Any, where: str) -> int | None:
    if value in (None, ""):
        return None
    try:
        age = float(value)
    except (TypeError, ValueError):
        age = math.nan
    if isinstance(value, bool) or not 0 <= age <= 130:
        raise DataError(f"{where}: age is {str(value)[:40]!r}; write years from 0 to 130, or leave it out.")
    return int(age)


def _diagnosis(row: Any, where: str) -> Diagnosis:
    row = {"code": row} if isinstance(row, str) else row
    if not isinstance(row, Mapping) or not row.get("code"):
        raise DataError(
            f'{where}: a diagnosis is {str(row)[:60]!r}; write a code, or {{"code", "title", "laterality"}}.'
        )
    code = checked_code(row["code"], where)
    eye = _choice(row.get("laterality"), EYES, "laterality of a diagnosis", where)
    return Diagnosis(code, str(row.get("title") or icd10cm().title(code)), eye)


def _entry(cls: type, main: str, row: Any, name: str, where: str) -> Any:
    """Procedure, Lab, Treatment or Mention of a text or of an object with its fields."""
    row = {main: row} if isinstance(row, str) else row
    known = {f.name for f in dataclasses.fields(cls)}
    if not isinstance(row, Mapping) or not row.get(main) or set(row) - known:
        raise DataError(
            f"{where}: an entry of {name} is {str(row)[:60]!r}; write a text, or {{{', '.join(sorted(known))}}}."
        )
    try:
        return cls(**row)
    except TypeError:
        raise DataError(f"{where}: an entry of {name} lacks a field; write {{{', '.join(sorted(known))}}}.") from None


def _finding(row: Any, number: int, where: str) -> Finding:
    row = {"name": row, "value": True} if isinstance(row, str) else row
    if not isinstance(row, Mapping) or "name" not in row or row.get("value") is None:
        raise DataError(
            f'{where}: a finding is {str(row)[:60]!r}; write a text, or {{"name", "value", "unit", "laterality"}}.'
        )
    known = {f.name for f in dataclasses.fields(Finding)}
    values = {"id": f"finding_{number}", "data_kind": "private", **{k: v for k, v in row.items() if k in known}}
    for name in ("interval", "derived_from"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    try:
        return Finding(**values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a finding is damaged ({error}).") from None
