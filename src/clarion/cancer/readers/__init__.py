"""Cohorts from files: GDC / Xena and CPTAC matrices, cBioPortal studies, PORPOISE-style and plain tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path

from clarion.cancer.cohort import Cohort
from clarion.cancer.readers.assemble import Options
from clarion.cancer.readers.cbioportal import is_study, read_study
from clarion.cancer.readers.log import ReadLog
from clarion.cancer.readers.matrix import read_folder
from clarion.cancer.readers.tables import is_table, read_header
from clarion.cancer.readers.wide import cohort_name, has_omics, read_wide
from clarion.data.paths import inside
from clarion.errors import DataError, UsageError

FORMATS = ("auto", "porpoise", "cbioportal", "xena", "cptac", "csv")
DATES = ("keep", "repair", "drop")

__all__ = ["FORMATS", "detect_format", "porpoise_files", "read_cohort"]


def read_cohort(
    path: str | PathLike,
    format: str | None = "auto",
    *,
    name: str | None = None,
    kind: str = "private",
    cancer: str | None = None,
    clinical: str | PathLike | None = None,
    endpoint: str = "OS",
    time_unit: str | None = None,
    scale: Mapping[str, str] | None = None,
    gene_map: Mapping[str, str] | None = None,
    sample_types: Sequence[str] | None = None,
    dates: str = "keep",
    allow: Iterable[str] = (),
) -> Cohort:
    """Read one cohort.

    path: a study or matrix folder, one matrix (then `clinical` names its clinical table), or one table.
    format: auto | porpoise, csv (one row a slide or patient) | cbioportal | xena (also GDC) | cptac (LinkedOmics too).
    name: default the file's or folder's. cancer: the type of every patient; default what the clinical table says (a
    PORPOISE table: its name, "BLCA"). endpoint: OS, DSS, PFS, PFI, DFS or DFI. time_unit: days, weeks, months or years,
    needed where the column's name does not say it. scale: modality -> what its values are, checked by `check_cohort`;
    default what they look like. gene_map: id -> symbol. sample_types: TCGA sample types to accept, in order of
    preference; default primary tumours (and metastases of SKCM). dates: what becomes of gene names that a spreadsheet
    turned into dates: keep (`check_cohort` refuses them) | repair | drop.
    allow: problems to go on with: non_numeric, time_not_positive, event_unknown, patient_conflict.

    Raises DataError with all such problems at once, UsageError for a wrong option. What was left out, merged or
    renamed stands in the cohort's notes.
    """
    path, format = Path(path).expanduser(), format or "auto"
    if not path.exists():
        raise UsageError(f"{path} does not exist; give a cohort's folder or table.")
    if format not in FORMATS:
        raise UsageError(f"format={format} is unknown; choose one of {', '.join(FORMATS)}.")
    if dates not in DATES:
        raise UsageError(f"dates={dates} is unknown; choose one of {', '.join(DATES)}.")
    if clinical is not None and not (clinical := Path(clinical).expanduser()).is_file():
        raise UsageError(f"clinical={clinical} is no file.")
    chosen = detect_format(path) if format == "auto" else format
    name = name or (cohort_name(path) if path.is_file() else path.resolve().name)
    if chosen == "porpoise" and cancer is None:
        cancer = name.upper()
    options = Options(name, kind, cancer, endpoint, time_unit, scale, gene_map, sample_types, dates)
    log = ReadLog(frozenset(allow))
    if chosen == "cbioportal":
        if not path.is_dir():
            raise UsageError("a cBioPortal study is a folder; give the folder that holds data_clinical_patient.txt.")
        return read_study(path, options, log)
    if chosen in ("xena", "cptac"):
        files = [inside(path.resolve(), f, "the folder") for f in sorted(path.iterdir())] if path.is_dir() else [path]
        return read_folder([f for f in files if f.is_file()], options, log, clinical)
    if not path.is_file():
        raise UsageError(f"format={chosen} reads one table; give a file below {path.name}.")
    return read_wide(path, options, log, clinical)


def detect_format(path: Path) -> str:
    """Which format a path looks like; UsageError where it looks like none."""
    if path.is_dir():
        if is_study(path):
            return "cbioportal"
        names = [f.name.lower() for f in path.iterdir() if is_table(f)]
        if any(re.search(r"\.(cct|tsi|cbt)\b|_tumor", n) for n in names):
            return "cptac"
        if names and any("survival" in n or "clinical" in n or "phenotype" in n for n in names):
            return "xena"
        raise UsageError(f"{path} holds no cohort that is known; add format= ({', '.join(FORMATS[1:])}).")
    if not is_table(path):
        raise UsageError(f"{path.name} is no table; give a csv, tsv, txt or parquet file (or one packed with gzip).")
    header = read_header(path)
    if has_omics(header):
        return "porpoise" if {"case_id", "slide_id"} <= set(header) else "csv"
    samples = [c for c in header[1:] if c.startswith(("TCGA-", "C3L-", "C3N-"))]
    return "xena" if len(samples) > len(header) / 2 else "csv"


def porpoise_files(root: Path) -> dict[str, Path]:
    """cohort -> its table, for tables with survival and suffixed genes in `root` or one folder below it.

    DataError where one cohort has two tables (the table packed and unpacked, say)."""
    root = root.resolve()
    found: dict[str, Path] = {}
    for path in sorted([*root.glob("*"), *root.glob("*/*")]):
        if not path.is_file() or not is_table(path):
            continue
        header = read_header(inside(root, path, "data.root"))
        if not has_omics(header):
            continue
        name = cohort_name(path)
        if name in found:
            raise DataError(f"data.root holds two tables of the cohort {name}: "
                            f"{found[name].name} and {path.name}; keep one.")  # fmt: skip
        found[name] = path
    return found
