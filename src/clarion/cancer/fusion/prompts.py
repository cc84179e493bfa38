"""What the fused language model is asked about a patient and what it is to answer, from the training patients' table.

Soft tokens cannot carry names: the prompt also holds the genes of smallest q with their Cox coefficient, q and the
patient's own z, and the clinical data, in words. The answer begins with one of two statements, so that their token
log-probabilities give a probability of survival; the rationale follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.cohort import Cohort
from clarion.cancer.cox import RankNormal
from clarion.cancer.lookup import LookupTable, fit_cohort
from clarion.cancer.rationale.english import percent, tissue
from clarion.cancer.rationale.gather import gather_facts
from clarion.cancer.rationale.template import write_rationale
from clarion.errors import DataError, UsageError
from clarion.evaluators.factcheck_facts import Facts, Pattern

FORMAT = "clarion-fusion-prompts/1"
SYSTEM = "You are an oncologist. Predict the patient's survival and explain it from the data given."
KEPT = 5  # genes kept for each one shown: a patient may lack some
WORDS = {1: "one year", 2: "two years", 3: "three years", 5: "five years", 10: "ten years"}
Message = dict[str, str]


@dataclass(frozen=True)
class Prompter:
    """Everything that prompts need, fitted on training patients; JSON and back, so that a checkpoint asks alone.

    genes: cancer -> rows {gene, coef, q, z, status, mean, sd}: of the table, of smallest q first, and the training
    patients' mean and SD of the expression. modality: which omics these are. shown: genes in a prompt; told: genes in a
    rationale. months: the horizon. language: en | ko, of the rationale. patients: how many it was fitted on."""

    genes: dict[str, list[dict[str, Any]]] = field(repr=False)
    modality: str
    shown: int
    told: int
    months: float
    language: str
    patients: int
    digest: str

    @classmethod
    def fit(
        cls, train: Cohort, evaluated: Sequence[str], modality: str = "rna", shown: int = 10, told: int = 3,
        months: float = 60.0, language: str = "en", **options: Any,
    ) -> Prompter:  # fmt: skip
        """From the training patients alone; DataError where one of `evaluated` is among them. Coefficients are per unit
        of rank-normal expression; options: of cox.fit."""
        if not 1 <= told <= shown:
            raise UsageError(f"data.prompt: told={told} and shown={shown}; give 1 <= told <= shown.")
        train = train.with_omics([modality])
        values = train.omics[modality]
        measured = values.index[values.notna().any(axis=1)]
        train = train.of(measured)
        values = train.omics[modality].astype(np.float64)
        ranked = RankNormal.fit(values.to_numpy(np.float32)).apply(values.to_numpy(np.float32))
        scaled = replace(train, omics={modality: pd.DataFrame(ranked, values.index, values.columns)})
        table = fit_cohort(scaled, modality, **options)
        table.check(evaluated)
        genes = {cancer: _rows(table, train.of_cancer(cancer), modality, shown * KEPT) for cancer in table.cancers}
        return cls(genes, modality, int(shown), int(told), float(months), language, len(train), table.digest)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Prompter:
        """From `as_dict`; UsageError for another thing."""
        data = dict(given)
        if data.pop("format", None) != FORMAT or set(data) != set(cls.__dataclass_fields__):
            raise UsageError("The checkpoint's prompts are of another version; train the fusion again.")
        return cls(**data)

    # ---- one patient ---------------------------------------------------------------------------------------

    def facts(self, inputs: Mapping[str, Any], who: str = "A patient") -> Facts:
        """The facts of a sample's inputs: slide (or slides), omics {modality: values}, genes {modality: names},
        clinical {age, sex, stage, cancer}, patterns {kind of tissue: share of the attention} or None. No outcome is
        among them. DataError for one with neither slide nor omics."""
        clinical = dict(inputs.get("clinical") or {})
        cancer = str(clinical.get("cancer") or inputs.get("cancer") or "")
        known = self.present(inputs, who)
        rows = self.genes.get(cancer) or (next(iter(self.genes.values())) if len(self.genes) == 1 else [])
        table = pd.DataFrame(rows).set_index("gene") if rows else None
        expression = self._z(inputs, rows) if known["omics"] else None
        attended = inputs.get("patterns") if known["slide"] else None
        patterns = attended if attended is not None else ({} if known["slide"] else None)
        return gather_facts(table, expression, top=self.shown, patterns=patterns, clinical=clinical,
                            horizon=self.months, cancer=cancer)  # fmt: skip

    @staticmethod
    def present(inputs: Mapping[str, Any], who: str = "A patient") -> dict[str, bool]:
        """{"slide", "omics"} -> whether the patient has it. DataError where both are missing."""
        slides = inputs.get("slides") if inputs.get("slides") is not None else inputs.get("slide")
        known = {"slide": bool(slides), "omics": _measured(inputs.get("omics"))}
        if not any(known.values()):
            raise DataError(f"{who} has neither a slide nor omics: there is nothing to predict from; leave it out.")
        return known

    def _z(self, inputs: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """gene -> z among the training patients; NaN where it was not measured."""
        given, names = inputs["omics"].get(self.modality), (inputs.get("genes") or {}).get(self.modality)
        if given is None:
            return {}
        if not isinstance(given, Mapping | pd.Series):
            if names is None or len(names) != len(given):
                raise DataError(f"The {self.modality} values of a patient need a gene name each (inputs['genes']).")
            given = dict(zip(names, np.asarray(given, np.float64), strict=True))
        return {r["gene"]: (float(given.get(r["gene"], np.nan)) - r["mean"]) / r["sd"] for r in rows}

    def messages(self, facts: Facts, placeholder: str, brief: bool = False) -> list[Message]:
        """The prompt; `placeholder`: the K placeholder tokens as text. brief: soft tokens and question alone, for the
        stage that trains the projector."""
        missing = [name for name in ("slide", "omics") if name in facts.missing]
        parts = [f"Slide and omics: {placeholder}" + (f" ({' and '.join(missing)} not available)" if missing else "")]
        if not brief:
            if facts.genes:
                lines = [f"{g.name} {g.coef:+.2f}, {_q(g.q)}, {_z(g.z)}" for g in facts.genes]
                parts.append("Genes (Cox coefficient, q, z of the patient):\n" + "\n".join(lines))
            # completed years and the rationale's own words: what the answer is to say stands in the prompt
            told = [f"age {int(facts.age)}" if facts.age is not None else "", f"sex {facts.sex}" if facts.sex else "",
                    f"stage {facts.stage}" if facts.stage else "", facts.cancer]  # fmt: skip
            parts.append("Clinical: " + (", ".join(filter(None, told)) or "unknown"))
            if facts.patterns:
                parts.append("Tissue attended: " + ", ".join(map(_attended, facts.patterns)))
        parts.append(f"Does the patient survive {self.years}? Explain.")
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n".join(parts)}]

    @property
    def years(self) -> str:
        years = self.months / 12
        return WORDS.get(years, f"{years:g} years") if float(years).is_integer() else f"{self.months:g} months"

    @property
    def statements(self) -> tuple[str, str]:
        """(survives, dies): how an answer begins."""
        return f"The patient survives {self.years}.", f"The patient dies within {self.years}."

    def rationale(self, facts: Facts, who: str = "") -> str:
        """The reasons that follow the statement, by template; nothing in them depends on the outcome."""
        return write_rationale(facts, self.language, who, genes=self.told).text()

    def parse(self, text: str) -> bool | None:
        """True: the text says that the patient survives; False: dies; None: neither, or both."""
        lower = " ".join(text.lower().split())
        said = ["survives" in lower.partition("##")[0], "dies within" in lower.partition("##")[0]]
        return None if said[0] == said[1] else said[0]


def _measured(omics: Any) -> bool:
    if not isinstance(omics, Mapping):
        return False
    given = [list(v.values()) if isinstance(v, Mapping) else v for v in omics.values() if v is not None]
    return any(np.isfinite(np.asarray(v, np.float64)).any() for v in given)


def _rows(table: LookupTable, patients: Cohort, modality: str, most: int) -> list[dict[str, Any]]:
    """The table's rows of smallest q with a converged fit, and mean and SD of the patients' expression."""
    rows = table.of(patients.cancers[0])
    usable = rows[(rows["status"].astype(str) == "ok") & np.isfinite(rows["coef"]) & (rows["coef"] != 0)]
    order = usable.assign(strength=-usable["z"].abs()).sort_values(["q", "strength"]).index[:most]
    values = patients.omics[modality][order].astype(np.float64)
    mean, sd = values.mean(), values.std(ddof=1)
    return [
        {"gene": str(gene), **{c: float(f"{usable.at[gene, c]:.6g}") for c in ("coef", "q", "z")}, "status": "ok",
         "mean": float(mean[gene]), "sd": float(sd[gene])}
        for gene in order if sd[gene] > 0
    ]  # fmt: skip


def _attended(pattern: Pattern) -> str:
    return tissue(pattern.name) + (f" {percent(pattern.share)}" if pattern.share is not None else "")


def _q(q: float | None) -> str:
    return "q unknown" if q is None else f"q {q:.3f}" if q >= 0.001 else f"q {q:.0e}"


def _z(z: float | None) -> str:
    return "z unknown" if z is None else f"z {z:+.1f}"
