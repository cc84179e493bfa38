"""A rationale drafted by a language model, checked against the facts, cleaned, and completed from the template.

The generator is handed in: conversations in, texts out (`clarion.generating.open_generator`); this room knows none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from clarion.cancer.rationale import english
from clarion.cancer.rationale.rationale import HEADINGS, SECTIONS, Sentence, known_language, with_sentences
from clarion.cancer.rationale.template import write_rationale
from clarion.errors import ClarionError
from clarion.evaluators.factcheck_claims import SUPPORTED
from clarion.evaluators.factcheck_facts import Facts
from clarion.evaluators.factcheck_text import TOP, Checked, check

Message = dict[str, str]
Generate = Callable[[list[list[Message]]], list[str]]
PROMPT_VERSION = 1  # raise it when the same facts give another prompt
SYSTEM = {
    "en": "You explain the prognosis of a cancer patient to an oncologist. Use only the facts given. Name genes, "
    "numbers, tissues and clinical data exactly as given, add none, and give no advice on treatment. Write short "
    "sentences under these headings: {headings}.",
    "ko": "당신은 암 환자의 예후를 종양내과 의사에게 설명한다. 주어진 사실만 사용하라. 유전자, 숫자, 조직, 임상 정보를 "
    "주어진 대로 쓰고 다른 것을 더하지 말며 치료를 권하지 말라. "
    "다음 제목 아래 짧은 한국어 문장으로 써라: {headings}.",
}  # fmt: skip


@dataclass(frozen=True)
class Draft:
    """raw: as generated; checked: the fact check of it; text: what is left of it, completed by `added`, the template's
    sentences for what the draft left out (empty where the draft was not to be completed)."""

    language: str
    raw: str
    checked: Checked
    text: str
    added: tuple[Sentence, ...]

    def to_dict(self) -> dict[str, Any]:
        """raw precision, removed sentences and added ones beside the text: what a page shows with it."""
        return {
            "language": self.language, "text": self.text, "raw": self.raw, "precision_raw": self.checked.precision,
            "claims": len(self.checked.claims), "removed": list(self.checked.removed),
            "omitted": list(self.checked.omitted), "added": [s.text for s in self.added],
        }  # fmt: skip


def draft_rationales(
    facts: Sequence[Facts],
    generate: Generate,
    language: str = "en",
    symbols: Collection[str] = (),
    seed: int = 0,
    complete: bool = True,
) -> list[Draft]:
    """One draft a patient, all asked in one call of `generate`.

    symbols: of the coefficient table, for the fact check. complete: append the template's sentences (phrased by `seed`)
    for what the cleaned draft does not say. Raises UsageError for another language, ClarionError where the generator
    gives another number of texts than it was asked for."""  # fmt: skip
    known_language(language)
    texts = generate([conversation(f, language) for f in facts])
    if len(texts) != len(facts):
        raise ClarionError(f"The generator gave {len(texts)} texts for {len(facts)} patients: each needs one.")
    return [_finished(f, str(t).strip(), language, symbols, seed, complete) for f, t in zip(facts, texts, strict=True)]


def conversation(facts: Facts, language: str = "en") -> list[Message]:
    """System prompt and the facts as a list; at most the first TOP genes."""
    headings = ", ".join(f'"## {HEADINGS[language][name]}"' for name in SECTIONS)
    return [{"role": "system", "content": SYSTEM[language].format(headings=headings)},
            {"role": "user", "content": fact_lines(facts)}]  # fmt: skip


def fact_lines(facts: Facts) -> str:
    """The facts as short lines: what the model is given and what a reviewer sees beside a text."""
    lines = []
    if facts.survival is not None:
        ends = "survive" if facts.survives else "die"
        lines.append(f"Prediction: {ends}; probability of being alive at {english.horizon(facts)} "
                     f"{english.percent(facts.survival)}" + _interval(facts))  # fmt: skip
    for gene in facts.genes[:TOP]:
        parts = ["risk" if gene.direction > 0 else "protective", f"coefficient {gene.coef:+.2f}"]
        parts += [f"q = {english.number(gene.q)}"] if gene.q is not None else []
        if gene.z is not None:
            level = {1: "over-expressed", 0: "near average", -1: "under-expressed"}[gene.expression]
            parts.append(f"in this patient {level} (z = {gene.z:+.1f})")
        lines.append(f"Gene {gene.name}: {', '.join(parts)}")
    for pattern in facts.patterns:
        share = f": {english.percent(pattern.share)} of the attention" if pattern.share is not None else ""
        lines.append(f"Tissue {english.tissue(pattern.name)}{share}")
    known = [f"age {int(facts.age)}"] if facts.age is not None else []
    known += [{"F": "female", "M": "male"}[facts.sex]] if facts.sex else []
    known += [f"stage {facts.stage}"] if facts.stage else []
    lines += [f"Clinical: {', '.join(known)}"] if known else []
    lines.append(f"Missing inputs: {', '.join(english.MODALITY[m] for m in facts.missing) or 'none'}")
    return "\n".join(lines)


def _interval(facts: Facts) -> str:
    if facts.interval is None:
        return ""
    low, high, level = facts.interval
    return f" ({english.percent(level)} interval {english.percent(low)} to {english.percent(high)})"


def _finished(facts: Facts, raw: str, language: str, symbols: Collection[str], seed: int, complete: bool) -> Draft:
    checked = check(raw, facts, symbols)
    if not complete:
        return Draft(language, raw, checked, checked.text, ())
    left = check(checked.text, facts, symbols)
    said = {f"{c.kind}:{c.about}" for c in left.claims if c.verdict == SUPPORTED}
    added = tuple(s for s in write_rationale(facts, language, seed).sentences if not _covered(s, said))
    text = with_sentences(checked.text, added, language) if added else checked.text
    return Draft(language, raw, checked, text, added)


def _covered(sentence: Sentence, said: set[str]) -> bool:
    """Whether a cleaned draft already says all that a template sentence states."""
    about = {"outcome": {"outcome:survives", "outcome:dies"}, "probability": {"probability:probability"},
             "interval": {"probability:interval"}, "age": {"age:age"}, "sex": {"sex:sex"}, "stage": {"stage:stage"},
             "missing:none": {"missing:nothing"}}  # fmt: skip
    for fact in sentence.states:
        kind, _, name = fact.partition(":")
        wanted = about.get(fact) or {f"{'direction' if kind == 'effect' else kind}:{name}"}
        if not wanted & said:
            return False
    return True
