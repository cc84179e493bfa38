"""A measured eye as text for a language model: findings with units and doubts, and what is missing."""

from __future__ import annotations

from clarion.findings import Document, Finding
from clarion.llm.prompts import OPHTIMUS_SYSTEM, Message, prompt_messages

SIDES = {"OD": "right eye", "OS": "left eye"}
# What is asked about first, and kept where a model's context holds few: the rest follows in the document's order.
FIRST = ("erm_present", "govetto_stage", "erm_area", "erm_share", "central_subfield_thickness", "fovea_eifl",
         "fovea_pit_depth", "fovea_onl", "erm_thickening", "macular_volume")  # fmt: skip


def ranked(document: Document) -> list[Finding]:
    """The findings in the order in which a prompt takes them."""
    rank = {name: k for k, name in enumerate(FIRST)}
    return sorted(document.findings, key=lambda f: rank.get(f.id, len(FIRST)))


def findings_block(document: Document, most: int = 100) -> str:
    """The findings as lines "- name: value unit [low, high] (flagged: why)", then what could not be measured.

    No patient, study or date is written. most: of the findings; the rest is counted, never silently left out.
    """
    findings = ranked(document)
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
    question: str, document: Document | None, system: str | None = OPHTIMUS_SYSTEM, most: int = 100
) -> list[Message]:
    """[system,] user turn in the layout of the training: up to `most` findings stand where a passage would, as Context.

    system: what the model was trained with, None or "" for none; another one than that is another prompt."""
    context = "" if document is None else findings_block(document, most)
    return prompt_messages(question, system, context=context)
