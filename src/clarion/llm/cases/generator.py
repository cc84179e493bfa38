"""Synthetic ophthalmology case reports with known codes: a slot (which diagnoses) becomes a CaseReport with a note.

A note names its diagnoses by abbreviation or synonym, by the code's own title, or not at all (then the findings say
it); and it may name conditions the patient does not have now: denied, healed, in the family, or in the other eye.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import yaml

from clarion.findings import Finding
from clarion.llm.cases.exam import examine
from clarion.llm.cases.knowledge import KNOWLEDGE_VERSION, LIDS, Leaf, conditions, known_prefix, vocabulary
from clarion.llm.cases.plan import Slot, age_range, draw_slots, stream
from clarion.llm.cases.schema import CaseReport, Diagnosis, Mention, Procedure, Treatment

NAMED = {"synonym": 0.68, "title": 0.10, "findings": 0.22}  # how a note gives its leading diagnosis
MENTIONED = {"negated": 0.7, "history": 0.45, "family": 0.35, "other_eye": 0.45}  # shares of the notes that can
MOST_MENTIONS = {"en": 4, "ko": 2}  # Korean takes three times the tokens in a vocabulary made of English
MOST_WEIGHT = 375  # tokens of a note, as `weight` estimates them: with prompt and codes it then fits 512 tokens
_EYE_WORDS = {
    "od": {"OD": "OD", "OS": "OS", "OU": "OU"},
    "words": {"OD": "right eye", "OS": "left eye", "OU": "both eyes"},
    "re": {"OD": "RE", "OS": "LE", "OU": "BE"},
    "ko": {"OD": "우안", "OS": "좌안", "OU": "양안"},
    "ko_od": {"OD": "OD", "OS": "OS", "OU": "OU"},
}
_LID_WORDS = {
    "od": "{0}{1}L", "re": "{0}{1}L", "ko_od": "{0}{1}L",
    "words": {"upper": "{eye} upper lid", "lower": "{eye} lower lid"},
    "ko": {"upper": "{eye} 위눈꺼풀", "lower": "{eye} 아래눈꺼풀"},
}  # fmt: skip
_OTHER = {"OD": "OS", "OS": "OD"}
_MIRRORED = {"1": "4", "4": "1", "2": "5", "5": "2"}  # the same lid of the other eye (knowledge.LIDS)


@lru_cache(maxsize=1)
def templates() -> dict[str, dict[str, Any]]:
    """id -> layout of a note (templates.yaml); each belongs to one split."""
    text = (resources.files(__package__) / "templates.yaml").read_text(encoding="utf-8")
    return yaml.load(text, yaml.CSafeLoader)


def draw_cases(
    sizes: dict[str, int], seed: int, korean: float = 0.35, most: int | None = None
) -> dict[str, list[CaseReport]]:
    """split -> case reports, from the seed alone. korean: share of cases to be told in Korean (the few whose Korean
    note would be too long are told in English); most: plan.cut."""
    slots = draw_slots(sizes, seed, most)
    trained = {leaf.condition for slot in slots["train"] for leaf in slot.leaves}
    return {split: [write(slot, seed, korean, trained) for slot in found] for split, found in slots.items()}


def write(slot: Slot, seed: int, korean: float, mentionable: set[str]) -> CaseReport:
    """The case of a slot. mentionable: conditions that may be named without being present; only those of training,
    so that no training note names a condition that the test calls unseen."""
    rng = stream(KNOWLEDGE_VERSION, seed, slot.case_id)
    language = "ko" if rng.random() < korean else "en"
    name = _pick(rng, [k for k, t in templates().items() if (t["language"], t["split"]) == (language, slot.split)])
    layout = templates()[name]
    low, high = age_range(slot.leaves)
    age = int(rng.integers(low, high + 1))
    lead = conditions()[slot.leaves[0].condition]
    sex = lead.sex if lead.sex and rng.random() < 0.85 else str(rng.choice(["female", "male"]))
    exam = examine(slot.leaves, language, rng)
    how = str(rng.choice(list(NAMED), p=list(NAMED.values())))
    named = [how, "findings" if how == "findings" else "synonym"]
    signs, names = [], []
    for leaf, how in zip(slot.leaves, named, strict=False):
        sign, label = _told(leaf, how, layout, exam.signs[leaf.code], rng)
        signs.append(sign)
        names += [label] if label else []
    mentions, sentences = _mentions(slot, age, layout, mentionable, rng, wrong_eye=how != "findings")
    child = "_child" if age < 16 else ""
    general = _pick(rng, vocabulary()["general"][language + child])
    plan, procedures, treatment = _plan(slot, language, rng)
    symptoms = _symptoms(lead.symptoms, language, rng)
    if names:
        impression = _pick(rng, layout["impression"]).format(names=(", " if language == "ko" else "; ").join(names))
    else:
        impression = _pick(rng, layout["unnamed"])

    early = 0 if lead.key in vocabulary()["acute"] else 2
    duration = layout["durations"][early + int(rng.integers(2))]

    def written(left_out: frozenset[str] = frozenset()) -> str:
        spoken = {kind: "" if kind in left_out else text for kind, text in sentences.items()}
        spoken["history"] = " ".join(p for p in ("" if "general" in left_out else general, spoken["history"]) if p)
        return _tidy(
            layout["body"].format(
                who=_who(age, sex, language), symptoms=_joined([s[1] for s in symptoms], language),
                duration=duration,
                va=exam.acuity(layout["eye"], _EYE_WORDS), measures=exam.measured(layout["eye"], _EYE_WORDS),
                signs="; ".join(signs), labs=exam.lab_text(), impression=impression, plan=plan, **spoken,
            )
        )  # fmt: skip

    note, left_out = written(), frozenset()
    for kind in ("general", "family", "history", "negated", "other_eye"):
        if weight(note) <= MOST_WEIGHT:
            break
        left_out |= {kind}
        note = written(left_out)
    if language == "ko" and weight(note) > MOST_WEIGHT:
        return write(slot, seed, 0.0, mentionable)  # two diagnoses of many syllables: such a case is told in English
    mentions = [m for m in mentions if m.kind not in left_out]
    findings = [*exam.findings, *_sign_findings(slot, exam)]
    return CaseReport(
        case_id=slot.case_id,
        patient_id=f"case-{slot.case_id}",
        note=note,
        language=language,
        age=age,
        sex=sex,
        laterality=slot.leaves[0].eye,
        symptoms=tuple(s[0] for s in symptoms),
        history=tuple(m.text for m in mentions if m.kind == "history"),
        findings=tuple(findings),
        diagnoses=tuple(Diagnosis(leaf.code, leaf.title, leaf.eye) for leaf in slot.leaves),
        procedures=tuple(procedures),
        labs=tuple(exam.labs),
        treatment=tuple(treatment),
        outcome="review arranged",
        mentions=tuple(mentions),
        template=name,
        meta={"diagnoses": slot.diagnoses, "category": lead.category, "condition": lead.key, "named": how},
    )


def weight(text: str) -> float:
    """An estimate of the tokens of a text in SmolLM2's vocabulary, which was made of English.

    Least squares over drawn notes: 2.78 a syllable of Hangul and 0.54 another letter of Korean notes (within 30 a
    note), 0.28 a letter of English ones."""
    hangul = sum("\uac00" <= letter <= "\ud7a3" for letter in text)
    return 2.78 * hangul + (0.54 if hangul else 0.28) * (len(text) - hangul)


def _pick(rng: np.random.Generator, options: list[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def _who(age: int, sex: str, language: str) -> str:
    if language == "ko":
        return f"{age}세 {'여자' if sex == 'female' else '남자'}" if age else "신생아"
    noun = ("girl", "boy") if age < 16 else ("woman", "man")
    return f"{age}-year-old {noun[sex != 'female']}" if age else f"newborn {noun[sex != 'female']}"


def _joined(parts: list[str], language: str) -> str:
    return ", ".join(parts) if language == "ko" or len(parts) < 2 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _symptoms(keys: tuple[str, ...], language: str, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(term, words of the note) of the symptoms; "none" stands alone, or gives way to others half of the time."""
    chosen = list(keys)
    if "none" in chosen and len(chosen) > 1:
        chosen = ["none"] if rng.random() < 0.5 else [k for k in chosen if k != "none"]
    table = vocabulary()["symptoms"]
    return [(table[key]["term"], _pick(rng, table[key][language])) for key in chosen]


def place(eye: str | None, lid: str, style: str) -> str:
    """Where, in the words of a layout: "OD", "right eye", "RUL", "우안 위눈꺼풀"; "" where the code has no side."""
    if eye is None:
        return ""
    words = _EYE_WORDS[style][eye]
    if not lid:
        return words
    part = LIDS[lid][1]
    form = _LID_WORDS[style]
    if isinstance(form, str):
        return form.format("R" if eye == "OD" else "L", part[0].upper())
    return form[part].format(eye=words if style == "ko" else words.split()[0])


def _told(leaf: Leaf, how: str, layout: dict, sign: str, rng: np.random.Generator) -> tuple[str, str]:
    """(the sign's words with their place, the diagnosis's words or "")."""
    condition = conditions()[leaf.condition]
    language = layout["language"]
    where = place(leaf.eye, leaf.lid, layout["eye"])
    stage = _stage(leaf, language, rng)
    sign = f"{where} {sign}".strip() if language == "ko" else ", ".join(p for p in (sign, where) if p)
    if how == "findings":
        return ", ".join(p for p in (sign, stage) if p), ""
    name = condition.title if how == "title" else _pick(rng, condition.names[language])
    label = f"{where} {name}".strip() if language == "ko" else " ".join(p for p in (name, where) if p)
    return sign, f"{label} ({stage})" if stage else label


def _stage(leaf: Leaf, language: str, rng: np.random.Generator) -> str:
    if not leaf.stage:
        return ""
    return _pick(rng, conditions()[leaf.condition].stages[leaf.stage][language])


def _mentions(
    slot: Slot, age: int, layout: dict, mentionable: set[str], rng: np.random.Generator, wrong_eye: bool
) -> tuple[list[Mention], dict[str, str]]:
    """Conditions named without being present, and the sentence of each slot of the layout ("" where none).

    wrong_eye: the note may name its own diagnosis for the other eye (not where the diagnosis is to be told from the
    findings: it would be named after all)."""
    taken = {conditions()[leaf.condition].category for leaf in slot.leaves}
    found: list[Mention] = []
    sentences = dict.fromkeys(MENTIONED, "")
    wanted = [kind for kind, share in MENTIONED.items() if rng.random() < share]
    if len(wanted) > MOST_MENTIONS[layout["language"]]:
        wanted = [str(k) for k in rng.permutation(wanted)[: MOST_MENTIONS[layout["language"]]]]
    for kind in wanted:
        if kind == "other_eye":
            leaf = _one_eyed(slot)
            if leaf is None or not wrong_eye:
                continue
            condition, eye, lid = conditions()[leaf.condition], _OTHER[leaf.eye], _MIRRORED.get(leaf.lid, "")
        else:
            fitting = [
                c
                for key in vocabulary()["mentions"][kind]
                if (c := conditions()[key]).category not in taken
                and key in mentionable
                and (kind == "family" or c.ages[0] <= age)
            ]
            if not fitting:
                continue
            condition, eye, lid = _pick(rng, fitting), str(rng.choice(["OD", "OS"])), ""
            taken = taken | {condition.category}
        name = _pick(rng, condition.names[layout["language"]])
        sentences[kind] = _pick(rng, layout[kind]).format(x=name, eye=place(eye, lid, layout["eye"]))
        code = condition.pattern.split("{")[0] + lid
        if kind in ("history", "other_eye") and "{eye}" in condition.pattern:
            code += "1" if eye == "OD" else "2"
        found.append(Mention(name, kind, known_prefix(code.rstrip("."))))
    return found, sentences


def _one_eyed(slot: Slot) -> Leaf | None:
    """A leading diagnosis of one eye, where the other eye has none of its own to confuse with."""
    lead = slot.leaves[0]
    return lead if lead.eye in _OTHER and all(leaf.eye in (lead.eye, None) for leaf in slot.leaves) else None


def _plan(slot: Slot, language: str, rng: np.random.Generator) -> tuple[str, list[Procedure], list[Treatment]]:
    words, procedures, treatment = [], [], []
    for leaf in slot.leaves:
        keys = conditions()[leaf.condition].plan
        count = len(keys) if leaf is slot.leaves[0] else 1
        for key in keys[:count]:
            entry = vocabulary()["plans"][key]
            if entry[language] in words:
                continue
            words.append(entry[language])
            if "pcs" in entry:
                eye = leaf.eye if leaf.eye in _OTHER else str(rng.choice(["OD", "OS"]))
                codes = entry["pcs"]
                code = codes[int(leaf.lid)] if isinstance(codes, dict) else codes[eye == "OS"]
                procedures.append(Procedure(entry["en"], code, eye))
            else:
                treatment.append(Treatment(entry["en"], entry.get("atc", "")))
    return _joined(words, language), procedures, treatment


def _sign_findings(slot: Slot, exam: Any) -> list[Finding]:
    return [
        Finding(
            id=f"sign_{number}",
            name=exam.terms[leaf.code] + (", both eyes" if leaf.eye == "OU" else ""),
            value=True,
            method="drawn by clarion.llm.cases.generator",
            source={"formula": "synthetic", "version": KNOWLEDGE_VERSION},
            laterality=leaf.eye if leaf.eye in _OTHER else None,
            body_site="eye",
            data_kind="phantom",
        )
        for number, leaf in enumerate(slot.leaves, start=1)
    ]


def _tidy(text: str) -> str:
    """Empty slots leave no double blanks, lone punctuation or empty lines; "an 86-year-old"."""
    text = re.sub(r"\b([Aa]) (?=(8|8\d|11|18)-year)", r"\1n ", text)
    lines = [re.sub(r"\s+([.,;])", r"\1", re.sub(r"[ \t]+", " ", line)).strip() for line in text.split("\n")]
    return "\n".join(re.sub(r"\.{2,}", ".", line) for line in lines if line)
