"""A user's folder of patients: slides/, a clinical table, a table of omics -> one cohort and the files of its slides.

    slides/     TCGA-AB-1234-01Z-00-DX1.<uuid>.svs, .tif, .ndpi, .mrxs, .dcm ..., also one folder below (as the GDC's
                client leaves them), or a folder of DICOM files a slide
    clinical.*  one row a patient or a slide: patient_id (case_id), survival_months (OS_MONTHS, days_to_death ...),
                event (censorship, OS_STATUS ...), and, where known, slide_id, age, sex, stage, site, cancer, split
    omics.*     what `clarion.cancer.readers.read_cohort` reads: a table of GENE_rnaseq ... columns, a matrix of genes x
                samples, or a folder omics/ (cBioPortal, Xena, CPTAC); none: slides alone

A slide belongs to the patient whose row names it; without such a column, to the patient with whose id its name begins.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.cohort import CLINICAL, Cohort
from clarion.cancer.readers import read_cohort
from clarion.cancer.readers.assemble import with_known_survival
from clarion.cancer.readers.barcodes import parse
from clarion.cancer.readers.clinical import PATIENT, SAMPLE, clinical_rows, find, ids_of, one_row_a_patient, plain
from clarion.cancer.readers.log import ReadLog
from clarion.cancer.readers.tables import is_table, read_header, read_table
from clarion.cancer.slides.files import SUFFIXES
from clarion.data.layout import split_name
from clarion.data.paths import inside, is_name, nfc
from clarion.errors import UsageError

_SLIDE = ("slide_id", "slide", "slide_ids", "slide_file", "file_name")
_STAGE = ("stage", "tumor_stage", "pathologic_stage", "ajcc_pathologic_tumor_stage", "ajcc_pathologic_stage",
          "ajcc_pathologic_stage_diagnoses")  # fmt: skip
_STAGE_TEXT = re.compile(r"(?:STAGE)?[\s_:]*(IV|III|II|I|[1-4])(?:\.0)?[ABC]?\d?")


@dataclass(frozen=True)
class SlideFolder:
    """cohort: all patients with survival (omics NaN where there are none); clinical gets the column stage. slides:
    slide id -> file (or DICOM folder), of the patients' slide_ids; absent: slides that a table names and nobody has;
    strays: files of no patient. splits: patient -> its splits as the table says, empty without that column."""

    cohort: Cohort
    slides: dict[str, Path]
    absent: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    splits: dict[str, list[str]] = field(default_factory=dict)


def read_slide_folder(
    root: Path, name: str, kind: str, *, endpoint: str = "OS", time_unit: str | None = None,
    scale: Mapping[str, str] | None = None, sample_types: Iterable[str] | None = None, dates: str = "keep",
    format: str = "auto", allow: Iterable[str] = (),
) -> SlideFolder:  # fmt: skip
    """Read `root`; the options are those of `read_cohort`. UsageError where a part is not there, DataError for tables
    that cannot be read or that contradict themselves."""
    log = ReadLog(frozenset(allow))
    clinical_file = _one(root, "clinical")
    if clinical_file is None:
        raise UsageError(f"data.root={root} holds no clinical table; put clinical.csv there (patient_id, "
                         "survival_months, event).")  # fmt: skip
    files = slide_files(root)
    as_text = {*PATIENT, *SAMPLE, *_SLIDE, *_STAGE, "site", "split"}
    texts = [c for c in read_header(clinical_file) if plain(c) in as_text]
    table = read_table(clinical_file, text_columns=texts)
    rows = clinical_rows(table, log, endpoint, time_unit)
    if column := find(table, _STAGE):
        rows["stage"] = table[column].map(stage_of)
    rows = _with_survival(one_row_a_patient([rows], log), endpoint, log)
    _names_only(rows.index, files, log)
    log.report.raise_if_bad()
    slides, absent, strays = _slides_of(table, list(rows.index), files, log)
    omics, scales = _omics(root, rows, clinical_file, log, name=name, kind=kind, endpoint=endpoint, time_unit=time_unit,
                           scale=scale, sample_types=sample_types, dates=dates, format=format, allow=allow)  # fmt: skip
    log.report.raise_if_bad()
    own = {s: path for ids in slides.values() for s, path in ids.items()}
    cohort = Cohort(name, _clinical(rows, slides, name), omics, kind, scales, tuple(log.notes))
    return SlideFolder(cohort, own, absent, strays, _splits(table, rows.index))


def slide_files(root: Path) -> dict[str, Path]:
    """name without suffix -> file or DICOM folder, in root/slides or one folder below it (the GDC's client makes one
    for each file). UsageError where there is none."""
    folder = root / "slides"
    found: dict[str, Path] = {}

    def add(path: Path, key: str) -> None:
        if found.setdefault(nfc(key), path) != path:
            raise UsageError(f"data.root/slides holds {found[nfc(key)].name} and {path.name}: two files of one slide; "
                             "keep one.")  # fmt: skip

    for path in _visible(root, folder):
        if not path.is_dir():
            if path.suffix.lower() in SUFFIXES:
                add(path, path.stem)
            continue
        inner = [p for p in _visible(root, path) if p.is_file() and p.suffix.lower() in SUFFIXES]
        if any(p.suffix.lower() == ".dcm" for p in inner):
            add(path, path.name)
        else:
            for file in inner:
                add(file, file.stem)
    if not found:
        raise UsageError(f"data.root={root} holds no slide; put them into {folder.name}/ "
                         f"({', '.join(sorted(SUFFIXES))}).")  # fmt: skip
    return found


def _visible(root: Path, folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files; DataError for a link out of the root."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [inside(root, p, "the data folder") for p in entries if not p.name.startswith(".")]


def stage_of(value: Any) -> str:
    """ "I" to "IV", "" unknown, of "Stage IIIA", "stage_iv", "2", "T2 ..." (unknown)."""
    found = _STAGE_TEXT.fullmatch("" if value is None else str(value).strip().upper())
    return {"1": "I", "2": "II", "3": "III", "4": "IV"}.get(found[1], found[1]) if found else ""


def _one(root: Path, stem: str) -> Path | None:
    """The table clinical.csv, clinical.tsv.gz ... at the root. UsageError where there are two."""
    found = [p for p in sorted(root.iterdir()) if p.is_file() and is_table(p) and p.name.split(".")[0].lower() == stem]
    if len(found) > 1:
        raise UsageError(f"data.root holds {found[0].name} and {found[1].name}; keep one.")
    return inside(root, found[0], "data.root") if found else None


def _with_survival(rows: pd.DataFrame, endpoint: str, log: ReadLog) -> pd.DataFrame:
    if absent := [c for c in ("time", "event") if c not in rows]:
        raise UsageError(f"the clinical table holds no {' and no '.join(absent)} of the endpoint {endpoint}; name the "
                         "columns as in survival_months and event, or choose data.endpoint.")  # fmt: skip
    return with_known_survival(rows, log)


def _clinical(rows: pd.DataFrame, slides: Mapping[str, Mapping[str, Path]], name: str) -> pd.DataFrame:
    def text(column: str) -> pd.Series:
        return rows[column].fillna("").astype(object) if column in rows else pd.Series("", rows.index, object)

    site = text("site")
    table = pd.DataFrame(
        {
            "time": rows["time"].astype(float),
            "event": rows["event"].astype(bool),
            "cancer": text("cancer").replace("", name.upper()),
            "site": site.where(site != "", [parse(p)[2] for p in rows.index]),
            "age": rows["age"].astype(float) if "age" in rows else np.nan,
            "sex": text("sex"),
            "slide_ids": [tuple(slides.get(p, ())) for p in rows.index],
            "stage": text("stage"),
        },
        index=rows.index,
    )
    assert tuple(table.columns[: len(CLINICAL)]) == CLINICAL
    return table


def _slides_of(
    table: pd.DataFrame, patients: list[str], files: dict[str, Path], log: ReadLog
) -> tuple[dict[str, dict[str, Path]], list[str], list[str]]:
    """(patient -> {slide id: file}, named slides without a file, files of no patient). Slides of normal tissue (TCGA
    sample types from 10) belong to nobody. A slide that the table gives to two patients is an error in `log`."""
    short: dict[str, list[str]] = {}
    for key in files:
        short.setdefault(key.split(".")[0], []).append(key)
    known, owners, absent = set(patients), {}, []
    named: dict[str, str] = {}  # slide -> the first patient whose row names it
    twice: list[tuple[str, str]] = []
    column = find(table, _SLIDE)
    if column is not None:
        for patient, slide in zip(ids_of(table), table[column], strict=True):
            if not isinstance(slide, str) or not slide.strip() or not isinstance(patient, str):
                continue
            key = nfc(slide.strip())
            key = Path(key).stem if Path(key).suffix.lower() in SUFFIXES else key
            own = [key] if key in files else short.get(key.split(".")[0], [])
            twice += [(f"slide {len(twice) + 1} of them", f"{k} of {named[k]} and {patient}")
                      for k in own if named.setdefault(k, patient) != patient]  # fmt: skip
            if patient in known and not _normal(key):
                owners.setdefault(patient, {}).update({k: files[k] for k in own})
                absent += [] if own else [key]
    if twice:
        log.report.error("slide_of_two", "the clinical table gives a slide to two patients; keep the row that is right",
                         twice)  # fmt: skip
    strays = []
    longest = sorted(known, key=lambda p: (-len(p), p))
    for key in files:
        if key in named:
            continue
        patient = parse(key.split(".")[0])[0]
        if patient not in known:
            patient = next((p for p in longest if key == p or key.startswith(p) and key[len(p)] in "-_. "), None)
        if patient is None or _normal(key):
            strays.append(key)
        else:
            owners.setdefault(patient, {})[key] = files[key]
    return owners, list(dict.fromkeys(absent)), strays


def _normal(slide: str) -> bool:
    kind = parse(slide.split(".")[0])[1]
    return kind.isdigit() and int(kind) >= 10


def _omics(
    root: Path, rows: pd.DataFrame, clinical: Path, log: ReadLog, **options: Any
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """(modality -> float32 [patients, genes], NaN rows for patients without, modality -> scale); ({}, {}) without."""
    source = _one(root, "omics") or (inside(root, root / "omics", "data.root") if (root / "omics").is_dir() else None)
    if source is None:
        log.note("no omics table: slides alone.")
        return {}, {}
    if source.is_file():
        _columns_once(source, log)
        options["format"] = None if options["format"] == "auto" else options["format"]
    read = read_cohort(source, options.pop("format"), clinical=clinical if source.is_file() else None, **options)
    for note in read.notes:
        if "without omics" not in note:
            log.note(note)
    lacking = len(rows) - int(rows.index.isin(read.patients).sum())
    if lacking == len(rows):
        raise UsageError("no patient of the clinical table is in the omics table; do they share patient ids?")
    if lacking:
        log.note(f"{lacking} of {len(rows)} patients have no omics.")
    return {m: t.reindex(rows.index) for m, t in read.omics.items()}, dict(read.scale)


def _names_only(patients: Iterable[str], slides: Iterable[str], log: ReadLog) -> None:
    """Ids become names of folders (`clarion look`) and of files: one that is a path would lead out of theirs."""
    strange = [("patient", p) for p in patients if not is_name(p)] + [("slide", s) for s in slides if not is_name(s)]
    log.report.error("id_no_name", "ids cannot name a file or folder; write ids without /, \\ or null bytes, other "
                     "than . and ..", [(f"{what} {k + 1} of them", f"{what} {one!r}")
                                       for k, (what, one) in enumerate(strange)])  # fmt: skip


def _columns_once(source: Path, log: ReadLog) -> None:
    """A gene that comes twice may come with other values: which one counts is not for us to say."""
    counts = Counter(read_header(source))
    doubled = [name for name, n in counts.items() if n > 1 and name]
    if doubled:
        log.problem("gene_twice", "columns of the omics table come twice; keep one of each",
                    [(name, name) for name in doubled], "the first of them counts")  # fmt: skip


def _splits(table: pd.DataFrame, patients: pd.Index) -> dict[str, list[str]]:
    """patient -> every split that its rows name. UsageError where the column is there and does not hold for all."""
    column = find(table, ("split",))
    if column is None or table[column].isna().all():
        return {}
    found: dict[str, dict[str, None]] = {}
    for patient, value in zip(ids_of(table), table[column], strict=True):
        if isinstance(patient, str) and isinstance(value, str):
            if (split := split_name(value)) is None:
                raise UsageError(f"the column split holds {value!r}; write train, val or test.")
            found.setdefault(patient, {})[split] = None
    if lacking := sum(p not in found for p in patients):
        raise UsageError(f"the column split is empty for {lacking} patient(s); fill it in, or remove it.")
    return {p: list(found[p]) for p in patients}
