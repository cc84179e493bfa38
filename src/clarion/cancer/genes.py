"""Gene names: one symbol a gene, whatever the file called it, and the names that a spreadsheet turned into dates.

The symbols that spreadsheets take for dates were renamed by HGNC in 2020 (Bruford et al., Nature Genetics 52, 754):
MARCH1 -> MARCHF1, SEPT2 -> SEPTIN2, MARC1 -> MTARC1, DEC1 -> DELEC1, SEP15 -> SELENOF. The old names are read as the
new ones, so that cohorts of different years meet. A date itself ("1-Mar") is not always a gene again: March 1 and 2
are MARCHF1 / MTARC1 and MARCHF2 / MTARC2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

RENAMED = {
    **{f"MARCH{k}": f"MARCHF{k}" for k in range(1, 12)},
    **{f"SEPT{k}": f"SEPTIN{k}" for k in range(1, 15)},
    "MARC1": "MTARC1",
    "MARC2": "MTARC2",
    "DEC1": "DELEC1",
    "SEP15": "SELENOF",
}

_ENSEMBL = re.compile(r"(ENS[A-Z]{0,4}[GTP]\d{11})(?:\.\d+)?(?:_PAR_Y)?$")
_BRACKETED = re.compile(r"(\S+) \((\d+|ENS[A-Z]*G\d+(?:\.\d+)?)\)$")  # "TP53 (7157)", as DepMap writes

_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "march": 3, "mrz": 3, "apr": 4, "may": 5, "mai": 5, "jun": 6, "jul": 7, "aug": 8,
    "sep": 9, "sept": 9, "oct": 10, "okt": 10, "nov": 11, "dec": 12, "dez": 12,
}  # fmt: skip
_NAME = "|".join(sorted(_MONTHS, key=len, reverse=True))
_DATES = [  # each gives the groups month and day, and the year where the spreadsheet wrote it
    re.compile(rf"(?P<day>\d{{1,2}})[-. /](?P<month>{_NAME})\.?(?:[-. /]\d{{2,4}})?$", re.IGNORECASE),  # 1-Mar, 01.Mrz
    re.compile(rf"(?P<month>{_NAME})[-. /](?P<day>\d{{1,2}})(?:[-. /]\d{{2,4}})?$", re.IGNORECASE),  # Mar-01
    re.compile(r"\d{4}[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})(?:[ T]00:00:00)?$"),  # 2001-03-01
    re.compile(r"(?P<month>\d{1,2})/(?P<day>\d{1,2})/\d{2,4}$"),  # 3/1/2001
    re.compile(r"(?:\d{4}년 ?)?(?P<month>\d{1,2})월 ?(?P<day>\d{1,2})일$"),  # a Korean spreadsheet: 3월 1일
]
_FLOAT = re.compile(r"\d(?:\.\d+)?E\+\d{2}$", re.IGNORECASE)  # RIKEN clones such as 2310009E13 read as numbers
_SERIAL = range(36526, 49310)  # days since 1900 from 2000 to 2034: a date shown as a number


def date_damage(name: str) -> str | None:
    """What a name was before a spreadsheet changed it: a symbol, "A or B" where two fit, "unknown"; None if sound."""
    text = str(name).strip()
    if _FLOAT.match(text):
        return "unknown"
    for pattern in _DATES:
        if found := pattern.match(text):
            month = found["month"].lower()
            return _gene_of(_MONTHS.get(month) or int(month) if not month.isdigit() else int(month), int(found["day"]))
    return None


def _gene_of(month: int, day: int) -> str:
    if month == 3 and 1 <= day <= 11:
        return f"MARCHF{day} or MTARC{day}" if day <= 2 else f"MARCHF{day}"
    if month == 9 and 1 <= day <= 15:
        return "SELENOF" if day == 15 else f"SEPTIN{day}"
    return "DELEC1" if (month, day) == (12, 1) else "unknown"


def damaged_names(names: Sequence[str]) -> dict[str, str]:
    """name -> what it was (see `date_damage`) for every damaged name.

    Whole numbers count as damaged where they are days since 1900 and stand among names that are no numbers."""
    found = {str(n): was for n in names if (was := date_damage(n)) is not None}
    numbers = [str(n) for n in names if str(n).strip().isdigit()]
    if numbers and len(numbers) < 0.1 * len(names):  # Entrez ids come as whole columns of numbers
        found |= {n: "unknown" for n in numbers if int(n) in _SERIAL}
    return found


def clean_name(name: str) -> str:
    """One name of a gene: the symbol of a pair ("TP53|7157", "ENSG00000141510.16|TP53"), an Ensembl id without its
    version, "ENTREZ:7157" where a pair has no symbol ("?|7157"); "" where there is nothing."""
    text = str(name).strip()
    if text.lower() in ("", "nan", "na", "none", "?", "null"):
        return ""
    if found := _BRACKETED.match(text):
        text = found[1]
    if "|" not in text:
        found = _ENSEMBL.match(text)
        return found[1] if found else text
    parts = [p.strip() for p in text.split("|")]
    symbols = [p for p in parts if p and p != "?" and not p.isdigit() and not _ENSEMBL.match(p)]
    if symbols:
        return symbols[0]
    ensembl = [m[1] for p in parts if (m := _ENSEMBL.match(p))]
    entrez = [p for p in parts if p.isdigit()]
    return ensembl[0] if ensembl else f"ENTREZ:{entrez[0]}" if entrez else ""


@dataclass(frozen=True)
class GeneNames:
    """names: as long as what was given, "" for columns to leave out; damaged: file's name -> what it was; renamed:
    old symbol -> today's; unnamed: how many had no name."""

    names: list[str]
    damaged: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    unnamed: int = 0


def harmonise(names: Sequence[str], mapping: Mapping[str, str] | None = None, dates: str = "keep") -> GeneNames:
    """Names of a file -> one symbol each.

    mapping: id without version -> symbol (a probe map); ids it does not hold keep their name. dates: what becomes of
    names turned into dates: "keep" them as they are (the check of the cohort then refuses them), "repair" those that
    can only be one gene and leave out the others, or "drop" them all."""
    damaged = damaged_names(names)
    renamed: dict[str, str] = {}
    result = []
    for raw in map(str, names):
        if raw in damaged:
            was = damaged[raw]
            sure = was != "unknown" and " or " not in was
            result.append(raw.strip() if dates == "keep" else was if dates == "repair" and sure else "")
            continue
        name = clean_name(raw)
        if mapping is not None:
            name = clean_name(mapping.get(name, name))
        if name in RENAMED:
            renamed[name] = RENAMED[name]
        result.append(RENAMED.get(name, name))
    return GeneNames(result, damaged, renamed, sum(not n for n in result))


def collapse(table: pd.DataFrame, names: Sequence[str], modality: str = "rna") -> tuple[pd.DataFrame, dict[str, int]]:
    """One column a gene. table: [patients, columns] of numbers; names: the gene of each column ("" leaves it out).

    Columns of one gene: expression keeps the column with the highest mean (the transcript or probe that is
    expressed; Miller et al. 2011, BMC Bioinformatics 12, 322), mutation any mutated, copy number the furthest from 0.
    Returns float32 [patients, genes] in the order of first appearance, and gene -> number of columns it had."""
    values = table.to_numpy(np.float32)
    order: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        if name:
            order.setdefault(name, []).append(column)
    doubled = {name: len(columns) for name, columns in order.items() if len(columns) > 1}
    if not doubled:
        kept = [columns[0] for columns in order.values()]
        whole = kept == list(range(values.shape[1]))
        return pd.DataFrame(values if whole else values[:, kept], index=table.index, columns=list(order)), {}
    result = np.empty((len(table), len(order)), np.float32)
    for k, columns in enumerate(order.values()):
        result[:, k] = values[:, columns[0]] if len(columns) == 1 else _joined(values[:, columns], modality)
    return pd.DataFrame(result, index=table.index, columns=list(order)), doubled


def _joined(block: np.ndarray, modality: str) -> np.ndarray:
    """float32 [patients, copies] of one gene -> [patients]; NaN only where every copy considered is missing."""
    seen = ~np.isnan(block)
    if modality == "mut":
        return np.where(seen.any(axis=1), np.where(seen, block, -np.inf).max(axis=1), np.nan)
    if modality == "cnv":
        furthest = np.where(seen, np.abs(block), -1.0).argmax(axis=1)
        return block[np.arange(len(block)), furthest]
    counts = seen.sum(axis=0)
    totals = np.where(seen, block, 0).sum(axis=0, dtype=np.float64)
    means = np.where(counts > 0, totals / np.maximum(counts, 1), -np.inf)
    return block[:, int(means.argmax())]
