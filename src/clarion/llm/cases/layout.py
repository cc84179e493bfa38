"""How a case report is put to a model, and the text it is trained to answer with.

The published case-report tuning reasons in the order symptom -> image finding -> diagnosis -> treatment. Codes come
after the treatment: the order of reasoning stays whole, and the list of codes ends the answer, so that a decoder that
is held to existing codes (clarion.trainers.sft_codes) stops where the model stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from clarion.findings import Finding
from clarion.llm.cases.schema import CaseReport
from clarion.llm.prompts import OPHTIMUS_SYSTEM, Message

CODE_LEAD = "ICD-10-CM:\n"  # what stands before the codes in every target, at the start of a line
CODE_SEPARATOR = "; "
TITLE_SEPARATOR = "; "
SYMPTOM_LEAD, FINDING_LEAD, DIAGNOSIS_LEAD, TREATMENT_LEAD = (
    "Symptoms:\n", "Image findings:\n", "Diagnosis:\n", "Treatment:\n",
)  # fmt: skip
INSTRUCTION = (
    "Give the symptoms, the image findings, the current diagnoses, the treatment and the ICD-10-CM codes of the "
    "diagnoses. Code only what this patient has now, with the eye it concerns."
)
CODES_ONLY_INSTRUCTION = (
    "Give the ICD-10-CM codes of the current diagnoses. Code only what this patient has now, with the eye it concerns."
)
NOT_STATED = "not stated"


def prompt_messages(
    case: CaseReport | str, system: str | None = OPHTIMUS_SYSTEM, explanations: bool = True
) -> list[Message]:
    """[system,] user: the note, then what is asked. case: a report, or the text of a note."""
    note = case if isinstance(case, str) else case.note
    asked = INSTRUCTION if explanations else CODES_ONLY_INSTRUCTION
    turns = [{"role": "system", "content": system.strip()}] if system and system.strip() else []
    return [*turns, {"role": "user", "content": f"Case report:\n{note.strip()}\n\n{asked}"}]


def target_text(case: CaseReport, explanations: bool = True) -> str:
    """The answer a model is trained on. It ends with "ICD-10-CM:\\n<code>; <code>".

    explanations: the published order first (symptoms, image findings, diagnosis with the titles of the codes,
    treatment); false: the codes alone, so that CODE_LEAD opens the answer. What the report does not hold is said to be
    "not stated". Raises ValueError for a case without codes, which has nothing to teach."""
    if not case.codes:
        raise ValueError(f"case {case.case_id} has no ICD-10-CM code.")
    codes = CODE_LEAD + CODE_SEPARATOR.join(case.codes)
    if not explanations:
        return codes
    titles = list(dict.fromkeys(d.title or d.code for d in case.diagnoses))
    parts = (
        SYMPTOM_LEAD + _listed(case.symptoms),
        FINDING_LEAD + _listed(finding_words(case.findings)),
        DIAGNOSIS_LEAD + _listed(titles, TITLE_SEPARATOR),
        TREATMENT_LEAD + _listed([*(p.title for p in case.procedures), *(t.text for t in case.treatment)]),
        codes,
    )
    return "\n".join(parts)


def finding_words(findings: Iterable[Finding]) -> list[str]:
    """["intraocular pressure OD 28, OS 15 mm[Hg]", ...]: one entry a name, its eyes beside each other, then the unit.

    A sign without a number is its name and eye alone."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        unit = "" if finding.unit in (None, "1") else str(finding.unit)
        value = finding.value if not isinstance(finding.value, bool) else "" if finding.value else "absent"
        shown = " ".join(str(p) for p in (finding.laterality, value) if p not in (None, ""))
        grouped.setdefault((finding.name, unit), []).append(shown)
    return [" ".join(p for p in (name, ", ".join(values), unit) if p) for (name, unit), values in grouped.items()]


def codes_in_target(text: str) -> list[str]:
    """The codes that follow the last CODE_LEAD of an answer laid out as above, as they stand there (unchecked).

    For a fast look at a tuned model's answers; clarion.llm.coding reads free text."""
    _, lead, tail = text.rpartition(CODE_LEAD)
    if not lead:
        return []
    line = tail.strip().split("\n", 1)[0]
    return [c for c in (part.strip(" .") for part in re.split(r"[;,]", line)) if c]


def _listed(parts: Iterable[str], separator: str = "; ") -> str:
    return separator.join(p for p in parts if p) or NOT_STATED
