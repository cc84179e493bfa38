"""The examination of a generated case: acuity, biomarkers, labs and signs that fit its diagnoses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clarion.findings import Finding
from clarion.llm.cases.knowledge import KNOWLEDGE_VERSION, Leaf, conditions, vocabulary
from clarion.llm.cases.schema import Lab

_ACUITY_ORDER = ("good", "mid", "poor", "fixedlow", "cf")  # of two diagnoses of an eye the worse one counts
_NO_NUMBER = {
    "cf": {"en": ("counting fingers", "hand motion"), "ko": ("FC", "HM")},
    "infant": {"en": ("fixes and follows",), "ko": ("fix & follow",)},
}
MOST_MEASURES = {"en": 3, "ko": 2}  # of a diagnosis, so that notes stay short in tokens


@dataclass
class Exam:
    """rows: (label, eye or None, value as shown); findings: the same as clarion findings; signs, terms: leaf code ->
    words of the note, English term."""

    language: str
    acuities: dict[str, str] = field(default_factory=dict)  # eye -> as shown
    rows: list[tuple[str, str | None, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    labs: list[Lab] = field(default_factory=list)
    signs: dict[str, str] = field(default_factory=dict)
    terms: dict[str, str] = field(default_factory=dict)

    def acuity(self, style: str, words: dict[str, dict[str, str]]) -> str:
        """ "20/40 OD, 20/20 OS" in the words of a layout."""
        if self.language == "ko":
            return ", ".join(f"{words[style][eye]} {shown}" for eye, shown in self.acuities.items())
        return ", ".join(f"{shown} {words[style][eye]}" for eye, shown in self.acuities.items())

    def measured(self, style: str, words: dict[str, dict[str, str]]) -> str:
        """ "IOP OD 28 mmHg, OS 15 mmHg; CDR OD 0.8": one clause a biomarker."""
        clauses: dict[str, list[str]] = {}
        for label, eye, shown in self.rows:
            clauses.setdefault(label, []).append(f"{words[style][eye]} {shown}" if eye else shown)
        return "; ".join(f"{label} {', '.join(parts)}" for label, parts in clauses.items())

    def lab_text(self) -> str:
        if not self.labs:
            return ""
        lead = "검사실: " if self.language == "ko" else "Blood work: "
        shown = [f"{lab.name} {lab.value}{'' if lab.unit is None else f' {lab.unit}'}" for lab in self.labs]
        return lead + ", ".join(shown) + "."


def examine(leaves: Sequence[Leaf], language: str, rng: np.random.Generator) -> Exam:
    """Draw what was seen and measured in an eye clinic visit with these diagnoses."""
    exam = Exam(language)
    for leaf in leaves:
        condition = conditions()[leaf.condition]
        choice = int(rng.integers(len(condition.signs[language])))
        exam.signs[leaf.code] = condition.signs[language][choice]
        english = condition.signs["en"]
        exam.terms[leaf.code] = english[min(choice, len(english) - 1)]
    _draw_acuity(exam, leaves, rng)
    _draw_measures(exam, leaves, rng)
    for key in dict.fromkeys(k for leaf in leaves for k in conditions()[leaf.condition].labs):
        entry = vocabulary()["labs"][key]
        value = str(rng.choice(entry["words"])) if "words" in entry else drawn(entry, rng)
        exam.labs.append(Lab(entry["name"], value, entry.get("unit"), entry["loinc"]))
    return exam


def drawn(entry: dict[str, Any], rng: np.random.Generator) -> float | int:
    """A value within entry's range, at its decimals and step; an int where it has no decimals."""
    low, high = entry["range"]
    step = entry.get("step", 10.0 ** -entry.get("decimals", 0))
    value = low + step * int(rng.integers(round((high - low) / step) + 1))
    return round(value, entry["decimals"]) if entry.get("decimals") else int(round(value))


def _eyes(leaf: Leaf) -> tuple[str, ...]:
    return (leaf.eye,) if leaf.eye in ("OD", "OS") else ("OD", "OS")


def _draw_acuity(exam: Exam, leaves: Sequence[Leaf], rng: np.random.Generator) -> None:
    worst = dict.fromkeys(("OD", "OS"), "good")
    for leaf in leaves:
        level = conditions()[leaf.condition].acuity
        for eye in _eyes(leaf):
            if level == "infant" or _ACUITY_ORDER.index(level) > _ACUITY_ORDER.index(worst[eye]):
                worst[eye] = level
    if "infant" in worst.values():  # a baby reads no chart with either eye
        worst = dict.fromkeys(worst, "infant")
    for eye, level in worst.items():
        if level in _NO_NUMBER:
            options = _NO_NUMBER[level]
            number = int(rng.integers(len(options["en"])))
            exam.acuities[eye], value = options[exam.language][number], options["en"][number]
        else:
            below = int(rng.choice(vocabulary()["acuity"][level]))
            value = round(20 / below, 2)
            exam.acuities[eye] = f"{value:.2g}" if exam.language == "ko" else f"20/{below}"
        exam.findings.append(_finding(f"va_{eye.lower()}", "best-corrected visual acuity", value, "1", eye))


def _draw_measures(exam: Exam, leaves: Sequence[Leaf], rng: np.random.Generator) -> None:
    table = vocabulary()["measures"]
    taken: set[tuple[str, str | None]] = set()

    def add(key: str, entry: dict[str, Any], eye: str | None) -> None:
        if (entry["name"], eye) in taken:
            return
        taken.add((entry["name"], eye))
        value = drawn(entry, rng)
        shown = f"{value:.{entry['decimals']}f}" if entry.get("decimals") else str(value)
        unit = entry.get("shown", "")
        exam.rows.append((entry[exam.language], eye, f"{shown}{'' if unit in ('', '+') else ' '}{unit}".strip()))
        name = key if eye is None else f"{key}_{eye.lower()}"
        exam.findings.append(_finding(name, entry["name"], value, entry["unit"], eye, entry.get("site", "eye")))

    for leaf in leaves:
        condition = conditions()[leaf.condition]
        stage = condition.stages.get(leaf.stage, {})
        chosen = {key: table[key] for key in condition.measures[: MOST_MEASURES[exam.language]]}
        chosen |= {key: table[key] | {"range": stage[key]} for key in ("md", "cst") if key in stage}
        for key, entry in chosen.items():
            for eye in _eyes(leaf) if entry.get("per_eye", True) else (None,):
                add(key, entry, eye)
    if not any("infant" == conditions()[leaf.condition].acuity for leaf in leaves):
        for eye in ("OD", "OS"):  # every visit of a child or adult has a pressure, normal where nothing says otherwise
            add("iop", table["iop"], eye)
    if not exam.rows:
        for eye in ("OD", "OS"):
            exam.rows.append(("red reflex" if exam.language == "en" else "적색반사", eye, "checked"))


def _finding(key: str, name: str, value: Any, unit: str | None, eye: str | None, site: str = "eye") -> Finding:
    return Finding(
        id=key,
        name=name,
        value=value,
        unit=unit if not isinstance(value, str) else None,
        method="drawn by clarion.llm.cases.generator",
        source={"formula": "synthetic", "version": KNOWLEDGE_VERSION},
        laterality=eye,
        body_site=site,
        data_kind="phantom",
    )
