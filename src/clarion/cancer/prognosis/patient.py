"""One new patient from what a user has at hand: slides, one row (or column) of omics, a few clinical facts.

    omics     a table of one row with gene columns (GENE_rnaseq, GENE_cnv, GENE_mut, or plain names: expression), or of
              two columns gene, value; age, sex, stage, cancer, patient_id may stand among the columns
    clinical  words such as age=61 sex=female stage=II cancer=BRCA id=P1, or a table of one row with such columns
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from clarion.cancer.patients.folder import stage_of
from clarion.cancer.readers.clinical import PATIENT, SAMPLE, plain
from clarion.cancer.readers.tables import MISSING, file_error, read_header, read_table
from clarion.cancer.readers.wide import SUFFIXES, modality_of
from clarion.config import nearest
from clarion.data.paths import nfc
from clarion.errors import DataError, UsageError
from clarion.samples import Sample

FAR = 4.0  # standard deviations
UNNAMED = "patient"  # the id where none is given: names of slide files hold patients' names
_GENES = {"gene", "genes", "gene_symbol", "gene_name", "symbol", "hugo_symbol", "hgnc_symbol", "feature", "name"}
_WORDS = {
    "id": ("id", *PATIENT, *SAMPLE), "age": ("age", "age_years", "age_at_index", "age_at_diagnosis"),
    "sex": ("sex", "gender"), "stage": ("stage", "tumor_stage", "pathologic_stage", "ajcc_pathologic_stage"),
    "cancer": ("cancer", "cancer_type_acronym", "project_id", "cohort", "oncotree_code"), "site": ("site",),
}  # fmt: skip
_NAMES = {name: fact for fact, names in _WORDS.items() for name in names}
_SEXES = {"f": "F", "female": "F", "woman": "F", "여": "F", "여성": "F",
          "m": "M", "male": "M", "man": "M", "남": "M", "남성": "M"}  # fmt: skip


@dataclass(frozen=True)
class NewPatient:
    """omics: modality -> {gene: value, NaN unknown}, or None; clinical: age in years (NaN unknown), sex F, M or "",
    stage I to IV or "", site, cancer ("" unknown); mpp: um a pixel for slides whose files do not say it."""

    name: str = UNNAMED
    slides: tuple[Path, ...] = ()
    mpp: float | None = None
    omics: Mapping[str, Mapping[str, float]] | None = field(default=None, repr=False)
    clinical: Mapping[str, Any] = field(default_factory=dict)

    def sample(self) -> Sample:
        """As a fused model is asked about patients, see `SlidePatients.samples`."""
        inputs = {
            "slide": self.slides[0] if self.slides else None,
            "slides": self.slides,
            "mpp": self.mpp,
            "omics": None if self.omics is None else {m: dict(v) for m, v in self.omics.items()},
            "clinical": dict(self.clinical),
            **{c: self.clinical[c] for c in ("cancer", "age", "sex", "site")},
        }
        return Sample(self.name, self.name, inputs)


def read_patient(
    slides: Sequence[Path] = (), omics: Path | None = None, clinical: Sequence[str] = (), mpp: float | None = None
) -> NewPatient:
    """From the words of a command line. UsageError without slide and omics, or for words that say nothing; DataError
    for tables that are no one patient's, and where two sources contradict each other."""
    if not slides and omics is None:
        raise UsageError("A prognosis needs --slide, --omics, or both: there is nothing to predict from.")
    if len({path.expanduser().resolve() for path in slides}) < len(slides):
        raise UsageError("The same --slide is given twice; name each of the patient's slides once.")
    genes, beside = ({}, {}) if omics is None else read_omics(omics)
    said = _clinical_words(clinical)
    for fact in sorted(set(said) & set(beside)):
        if _known(fact, said[fact]) != _known(fact, beside[fact]):
            raise DataError(f"--clinical says {fact}={said[fact]}, the omics table {beside[fact]}: which is right?")
    facts = {fact: _known(fact, raw) for fact, raw in {**beside, **said}.items()}
    name = facts.pop("id", "") or UNNAMED
    known = {"age": math.nan, "sex": "", "stage": "", "site": "", "cancer": ""} | facts
    return NewPatient(name, tuple(slides), mpp, genes or None, known)


# ---- omics ---------------------------------------------------------------------------------------------------


def read_omics(path: Path) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """({modality: {gene: value}}, clinical words of the same table). Empty cells are NaN; DataError for several
    patients, doubled genes, cells that are no number, or no gene at all."""
    cells = _one_patient(path)
    suffixed = any(name.lower().endswith(tuple(SUFFIXES)) for name, _ in cells)
    found: dict[str, dict[str, float]] = {}
    beside: dict[str, str] = {}
    for name, value in cells:
        fact, place = _NAMES.get(plain(name)), modality_of(name)
        if fact and not _blank(value):
            beside.setdefault(fact, str(value).strip())
        if fact or place is None or (suffixed and not name.lower().endswith(tuple(SUFFIXES))):
            continue
        modality, gene = place
        if gene in found.setdefault(modality, {}):
            raise file_error(path, f"holds the gene {gene} twice; keep one value of it.")
        found[modality][gene] = _number(path, name, value)
    if not any(math.isfinite(v) for values in found.values() for v in values.values()):
        raise file_error(path, "holds no value of any gene; give columns GENE_rnaseq (or GENE), or gene,value rows.")
    return found, beside


def _one_patient(path: Path) -> list[tuple[str, Any]]:
    """(name, cell) of a table of one row, or of a table of two columns."""
    if not path.is_file():
        raise UsageError(f"--omics {path.name}: no such file.")
    header = [nfc(name) for name in read_header(path)]
    tall = len(header) == 2 and plain(header[0]) in _GENES
    if not tall and (twice := _twice(name for name in header if name)):
        raise file_error(path, f"holds the column {twice} twice; keep one value of it.")
    table = read_table(path, text_columns=read_header(path))
    if tall:
        return [(nfc(str(name).strip()), value) for name, value in table.itertuples(index=False) if not _blank(name)]
    if len(table) != 1:
        raise file_error(path, f"holds {len(table) or 'no'} rows: a prognosis is of one patient; keep that row.")
    return [(nfc(str(name).strip()), table.iloc[0, k]) for k, name in enumerate(table.columns)]


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def _number(path: Path, name: str, value: Any) -> float:
    if _blank(value):
        return math.nan
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.inf
    if not math.isfinite(found):
        raise file_error(path, f"holds {str(value)[:20]!r} as {name}: write a number (decimal point), or leave it "
                         "empty.")  # fmt: skip
    return found


def _blank(value: Any) -> bool:
    return value is None or value is pd.NA or value != value or str(value).strip() in ("", *MISSING)


# ---- clinical facts ------------------------------------------------------------------------------------------


def _clinical_words(words: Sequence[str]) -> dict[str, str]:
    """fact -> as written."""
    if len(words) == 1 and "=" not in words[0]:
        return _clinical_table(Path(words[0]).expanduser())
    found: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            raise UsageError(f"--clinical {word}: give KEY=VALUE (age=61 sex=female stage=II), or one table.")
        fact = _NAMES.get(plain(key))
        if fact is None:
            raise UsageError(f"--clinical {key}: unknown; known are {', '.join(_WORDS)}.{nearest(key, list(_WORDS))}")
        if fact in found:
            raise UsageError(f"--clinical: {fact} is given twice.")
        found[fact] = value.strip()
    return found


def _clinical_table(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UsageError(f"--clinical {path.name}: no such file, and no KEY=VALUE such as age=61.")
    table = read_table(path, text_columns=read_header(path))
    if len(table) != 1:
        raise file_error(path, f"holds {len(table) or 'no'} rows: a prognosis is of one patient; keep that row.")
    cells = {_NAMES.get(plain(str(name))): table.iloc[0, k] for k, name in reversed([*enumerate(table.columns)])}
    found = {fact: str(value).strip() for fact, value in cells.items() if fact and not _blank(value)}
    if not found:
        raise file_error(path, f"says none of {', '.join(_WORDS)}; name the columns so.")
    return found


def _known(fact: str, raw: str) -> Any:
    """The value of a fact as written. UsageError where it cannot be read."""
    if _blank(raw):
        return math.nan if fact == "age" else ""
    if fact == "age":
        try:
            years = float(raw)
        except ValueError:
            years = math.nan
        if not 0 <= years <= 120:
            raise UsageError(f"age={raw}: give years from 0 to 120.")
        return years
    if fact == "sex":
        if (sex := _SEXES.get(raw.lower())) is None:
            raise UsageError(f"sex={raw}: write female or male.")
        return sex
    if fact == "stage":
        if not (stage := stage_of(raw)):
            raise UsageError(f"stage={raw}: write I, II, III or IV.")
        return stage
    return raw


# ---- against the model ---------------------------------------------------------------------------------------


def named_cancer(given: str, known: Sequence[str]) -> str:
    """The model's own spelling of a cancer; "" where none is given and several are known. UsageError for others."""
    if not given:
        return known[0] if len(known) == 1 else ""
    spelling = {name.casefold(): name for name in known}
    if known and given.casefold() not in spelling:
        raise UsageError(f"cancer={given}: this model knows {', '.join(known)}.{nearest(given, list(known))}")
    return spelling.get(given.casefold(), given)


def gene_coverage(omics: Mapping[str, Mapping[str, float]], wanted: Sequence[str]) -> list[str]:
    """The "modality:GENE" of `wanted` without a value. DataError where not one of them has any: other names."""
    have = {f"{m}:{g}" for m, values in omics.items() for g, v in values.items() if math.isfinite(v)}
    absent = [name for name in wanted if name not in have]
    if wanted and len(absent) == len(wanted):
        mine = ", ".join(sorted(g for values in omics.values() for g in values)[:3])
        theirs = ", ".join(name.split(":", 1)[-1] for name in wanted[:3])
        raise DataError(f"None of the model's {len(wanted)} genes is in the omics table (it has {mine} ..., the model "
                        f"reads {theirs} ...): name genes as the training did.")  # fmt: skip
    return absent


def off_scale(values: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(genes more than FAR standard deviations from the training patients' mean, genes compared): many mean another
    scale. values: of the modality of `rows`, which are {gene, mean, sd}."""
    own = [(values.get(r["gene"], math.nan), r["mean"], r["sd"]) for r in rows]
    far = [abs(value - mean) > FAR * sd for value, mean, sd in own if math.isfinite(value)]
    return sum(far), len(far)
