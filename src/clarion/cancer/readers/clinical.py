"""Clinical tables of any source -> time in months, event, cancer, site, age, sex, one row a patient."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from clarion.cancer.readers.barcodes import parse
from clarion.cancer.readers.log import ReadLog
from clarion.errors import DataError, UsageError

MONTHS = {"months": 1.0, "days": 12 / 365.25, "weeks": 7 * 12 / 365.25, "years": 12.0}
ENDPOINTS = ("OS", "DSS", "PFS", "PFI", "DFS", "DFI")

PATIENT = (
    "patient_id", "case_id", "bcr_patient_barcode", "_patient", "case_submitter_id", "submitter_id",
    "cases_submitter_id", "patient", "patient_barcode", "idx",
)  # fmt: skip
SAMPLE = ("sample_id", "sample", "sampleid", "submitter_id_samples", "tumor_sample_barcode", "barcode")
_TIMES = {  # column (as `plain` writes it) -> unit; {e} is the endpoint in lower case
    "{e}_months": "months", "survival_months_{e}": "months", "{e}_days": "days", "{e}_time": "days",
    "{e}_time_days": "days", "{e}_time_months": "months", "{e}_weeks": "weeks", "{e}_years": "years",
}  # fmt: skip
_TIMES_OS = {
    "survival_months": "months", "time_months": "months", "time_days": "days", "survival_days": "days",
    "time_weeks": "weeks", "time_years": "years", "overall_survival_months": "months", "overall_survival_days": "days",
    "survival_time_days": "days", "time": None, "survival_time": None, "overall_survival": None, "survival": None,
}  # fmt: skip
_EVENTS = ("{e}_status", "{e}_event", "{e}")
_EVENTS_OS = ("event", "vital_status", "vital_status_demographic", "status", "dead", "death", "died")
_CENSORED = ("censorship_{e}",)
_CENSORED_OS = ("censorship", "censored")
_AGE = ("age", "age_years", "age_at_index", "age_at_initial_pathologic_diagnosis", "age_at_diagnosis",
        "age_at_index_demographic", "age_at_earliest_diagnosis_in_years_diagnoses_xena_derived")  # fmt: skip
_SEX = ("sex", "gender", "gender_demographic", "is_female", "female")
_CANCER = ("cancer", "cancer_type_acronym", "cancer_type_abbreviation", "tumor_code", "project_id",
           "project_id_project", "cohort")  # fmt: skip
_SUBTYPE = ("oncotree_code", "subtype", "cancer_type_detailed")
_SITE = ("site", "tissue_source_site", "center", "institution", "hospital")
_BATCH = ("study", "batch", "platform", "plate")  # kept as they are: `check_cohort` tests them

_DEAD = {"1", "1.0", "true", "dead", "deceased", "died", "death", "event", "yes", "progressed", "progression",
         "recurred", "recurred/progressed", "dead with tumor", "사망"}  # fmt: skip
_ALIVE = {"0", "0.0", "false", "alive", "living", "censored", "no", "censor", "no event", "diseasefree",
          "disease free", "tumor free", "alive or dead tumor free", "생존"}  # fmt: skip


def plain(name: str) -> str:
    """Lower case, everything but letters and digits an underscore: "OS.time" and "OS_TIME" are one column."""
    text = re.sub(r"[^a-z0-9가-힣]+", "_", str(name).strip().lower())
    return ("_" if str(name).startswith("_") else "") + text.strip("_")


def find(table: pd.DataFrame, names: Iterable[str]) -> str | None:
    """The table's column that has the first of these (plain) names."""
    known = {plain(c): c for c in reversed([str(c) for c in table.columns])}
    return next((known[n] for n in names if n in known), None)


def ids_of(table: pd.DataFrame) -> pd.Series | None:
    """Patient of every row: from a patient column, else from a sample column; None where there is neither."""
    column = find(table, PATIENT) or find(table, SAMPLE)
    if column is None:
        return None
    ids = table[column].astype("string").str.strip()
    return ids.map(lambda s: parse(s)[0], na_action="ignore").astype(object)


def survival_columns(table: pd.DataFrame, endpoint: str) -> tuple[str | None, str | None, str | None, bool]:
    """(time column, its unit or None, event column, whether that one marks the censored) of an endpoint."""
    e = endpoint.lower()
    overall = endpoint.upper() == "OS"
    times = {k.format(e=e): v for k, v in _TIMES.items()} | (_TIMES_OS if overall else {})
    time = find(table, times)
    event = find(table, [n.format(e=e) for n in _EVENTS] + (list(_EVENTS_OS) if overall else []))
    censored = None
    if event is None or event == time:
        censored = find(table, [n.format(e=e) for n in _CENSORED] + (list(_CENSORED_OS) if overall else []))
    return time, times.get(plain(time)) if time else None, censored or event, censored is not None


def read_events(column: pd.Series, inverse: bool, log: ReadLog) -> pd.Series:
    """1.0 event, 0.0 censored, NaN unknown. Understands 0/1, true/false, words, and cBioPortal's "1:DECEASED"."""
    words = column.astype("string").str.strip().str.lower().str.replace(r"^([01]):.*$", r"\1", regex=True)
    found = set(words.dropna().unique())
    if found and found <= {"1", "2", "1.0", "2.0"} and found & {"2", "2.0"}:
        raise DataError(f"{column.name} holds 1 and 2, which can be read two ways; write 1 for event, 0 for censored.")
    result = words.map(lambda w: 1.0 if w in _DEAD else 0.0 if w in _ALIVE else np.nan, na_action="ignore")
    result = pd.to_numeric(result, errors="coerce").astype(float)
    strange = sorted(found - _DEAD - _ALIVE)
    if strange:
        log.problem(
            "event_unknown",
            f"{column.name} holds words that say neither event nor censored; write 1 and 0",
            [(f"word {k + 1}", w[:20]) for k, w in enumerate(strange)],
            "patients with such a word count as without survival",
        )
    return 1 - result if inverse else result


def _numbers(column: pd.Series, log: ReadLog) -> pd.Series:
    """float64; cells that are no number are the problem `non_numeric`."""
    read = pd.to_numeric(column, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    blank = column.isna() | column.astype(str).str.strip().eq("")
    bad = np.flatnonzero((read.isna() & ~blank).to_numpy())
    if len(bad):
        log.problem(
            "non_numeric",
            f"{column.name} holds cells that are no numbers; write a number or leave them empty",
            [(f"row {k + 1}", f"row {k + 1}: {str(column.iloc[k])[:20]!r}") for k in bad[:20]],
            "cells that are no numbers count as missing",
            total=len(bad),
        )
    return read


def _sex(column: pd.Series) -> pd.Series:
    if plain(column.name) in ("is_female", "female"):
        words = {"1": "F", "1.0": "F", "true": "F", "yes": "F", "0": "M", "0.0": "M", "false": "M", "no": "M"}
    else:  # bare numbers in a column called sex have two readings: unknown
        words = {"f": "F", "female": "F", "여": "F", "여성": "F", "m": "M", "male": "M", "남": "M", "남성": "M"}
    return column.astype("string").str.strip().str.lower().map(words).fillna("").astype(object)


def _age(column: pd.Series, log: ReadLog) -> pd.Series:
    years = _numbers(column, log)
    if years.median() > 150:  # GDC writes age at diagnosis in days
        log.note(f"{column.name} is in days and was turned into years.")
        years = years / 365.25
    return years.where((years >= 0) & (years <= 120))


def clinical_rows(
    table: pd.DataFrame,
    log: ReadLog,
    endpoint: str = "OS",
    time_unit: str | None = None,
    cancer: str | None = None,
) -> pd.DataFrame:
    """Rows as they come, columns patient, time, event, cancer, site, age, sex [, subtype, study, batch, platform].

    Columns that the table lacks are absent, so that several tables can complete each other. time_unit: overrides the
    one the column's name says; UsageError where neither does."""
    if endpoint.upper() not in ENDPOINTS:
        raise UsageError(f"endpoint={endpoint} is unknown; choose one of {', '.join(ENDPOINTS)}.")
    if time_unit is not None and time_unit not in MONTHS:
        raise UsageError(f"time_unit={time_unit} is unknown; choose one of {', '.join(MONTHS)}.")
    patients = ids_of(table)
    if patients is None:
        raise DataError("the clinical table names no patient; give it a column patient_id.")
    rows = pd.DataFrame({"patient": patients})
    time, unit, event, inverse = survival_columns(table, endpoint)
    to_death = find(table, ("days_to_death", "days_to_death_demographic"))
    to_last = find(table, ("days_to_last_follow_up", "days_to_last_followup", "days_to_last_follow_up_diagnoses"))
    if time is not None:
        if (time_unit or unit) is None:
            raise UsageError(f"the unit of {time} is not known; add time_unit=days (or months, weeks, years).")
        if time_unit and unit and time_unit != unit:
            log.note(f"{time} was read as {time_unit}, as asked for, although its name says {unit}.")
        rows["time"] = _numbers(table[time], log) * MONTHS[time_unit or unit]
    elif to_death and to_last and endpoint.upper() == "OS":
        dead = _numbers(table[to_death], log)
        rows["time"] = dead.where(dead.notna(), _numbers(table[to_last], log)) * MONTHS["days"]
    if event is not None and event != time:
        rows["event"] = read_events(table[event], inverse, log)
    if cancer is not None:
        rows["cancer"] = cancer
    elif (column := find(table, _CANCER)) is not None:
        names = table[column].astype("string").str.strip().str.replace(r"^(TCGA|CPTAC)[-_]", "", regex=True)
        rows["cancer"] = names.str.upper().fillna("").astype(object)
    if column := find(table, _SITE):
        rows["site"] = table[column].astype("string").str.strip().fillna("").astype(object)
    if column := find(table, _AGE):
        rows["age"] = _age(table[column], log)
    if column := find(table, _SEX):
        rows["sex"] = _sex(table[column])
    for target, names in (("subtype", _SUBTYPE), *((b, (b,)) for b in _BATCH)):
        if column := find(table, names):
            rows[target] = table[column].astype("string").str.strip().fillna("").astype(object)
    return rows


def one_row_a_patient(rows: Sequence[pd.DataFrame], log: ReadLog) -> pd.DataFrame:
    """Rows of one or several tables -> one row a patient, index patient_id.

    The first known value counts, tables in the order given. Patients whose rows disagree on time or event are the
    problem `patient_conflict` (allowed: the longest follow-up counts)."""
    parts = []
    for table in rows:
        table = table[table["patient"].notna()]
        known = [c for c in ("time", "event") if c in table]
        if known and table["patient"].duplicated().any():
            apart = table.groupby("patient", sort=False)[known].nunique().gt(1).any(axis=1)
            where = list(apart.index[apart])
            if where:
                log.problem(
                    "patient_conflict",
                    "the rows of a patient disagree on survival; keep one truth a patient",
                    [(f"patient {k + 1} of them", str(p)) for k, p in enumerate(where)],
                    "the row with the longest follow-up counts",
                )
                if "time" in known:
                    table = table.sort_values("time", ascending=False, kind="stable")
        order = list(dict.fromkeys(table["patient"]))
        blanked = table.replace("", np.nan) if table.dtypes.eq(object).any() else table
        parts.append(blanked.groupby("patient", sort=False).first().loc[order])
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.combine_first(part).loc[[*whole.index, *part.index.difference(whole.index)]]
    whole.index = whole.index.astype(str)
    whole.index.name = "patient_id"
    return whole
