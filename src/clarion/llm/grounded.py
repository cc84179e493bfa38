"""A measured eye as text for a language model: findings with units and doubts, and what is missing."""

from __future__ import annotations

from clarion.findings import Document, Finding
from clarion.llm.prompts import OPHTIMUS_SYSTEM, Message

SIDES = {"OD": "right eye", "OS": "left eye"}
GROUNDED_SYSTEM = (
    f"{OPHTIMUS_SYSTEM} Use only the findings that are given; where they do not answer the question, say so."
)
# What is asked about first, and kept where a model's context holds few: the rest follows in the document's order.
FIRST = ("erm_present", "govetto_stage", "erm_area", "erm_share", "central_subfield_thickness", "fovea_eifl",
         "fovea_pit_depth", "fovea_onl", "erm_thickening", "macular_volume")  # fmt: skip


def findings_block(document: Document, most: int = 100) -> str:
    """The findings as lines "- name: value unit [low, high] (flagged: why)", then what could not be measured.

    No patient, study or date is written. most: of the findings; the rest is counted, never silently left out.
    """
    rank = {name: k for k, name in enumerate(FIRST)}
    findings = sorted(document.findings, key=lambda f: rank.get(f.id, len(FIRST)))
    sides = sorted({SIDES.get(f.laterality, "eye") for f in document.findings}) or ["eye"]
    kind = " of a phantom, no patient" if document.data_kind == "phantom" else ""
    lines = [f"Findings of the {' and '.join(sides)}{kind}:", *(_line(f) for f in findings[:most])]
    if len(document.findings) > most:
        lines.append(f"- and {len(document.findings) - most} more findings that are not listed here")
    missing = [f"{o['name']} ({o['why']})" for o in document.omitted]
    return "\n".join([*lines, *(["Not measured: " + "; ".join(missing)] if missing else [])])


def _line(finding: Finding) -> str:
    value = finding.value
    if isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
    unit = f" {finding.unit}" if finding.unit and finding.unit != "1" else ""
    interval = ""
    if finding.interval:
        low, high, level = finding.interval
        interval = f" [{low:.4g}, {high:.4g}; {100 * level:g} %]"
    doubt = f" (flagged: {finding.why})" if finding.quality == "flagged" else ""
    return f"- {finding.name}: {text}{unit}{interval}{doubt}"


def grounded_messages(
    question: str, document: Document | None, system: str | None = None, most: int = 100
) -> list[Message]:
    """[system,] user turn in the published layout; with a document up to `most` findings stand before the question."""
    if document is None:
        system = OPHTIMUS_SYSTEM if system is None else system
        user = f"Question:\n{question.strip()}"
    else:
        system = GROUNDED_SYSTEM if system is None else system
        user = f"{findings_block(document, most)}\n\nQuestion:\n{question.strip()}"
    turns = [{"role": "system", "content": system.strip()}] if system.strip() else []
    return [*turns, {"role": "user", "content": user}]
