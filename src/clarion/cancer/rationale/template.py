"""Facts -> structured rationale, from templates: every sentence says facts that are there, and which."""

from __future__ import annotations

from random import Random

from clarion.cancer.rationale import english, hangul
from clarion.cancer.rationale.rationale import Rationale, Sentence, known_language
from clarion.evaluators.factcheck_facts import Facts
from clarion.evaluators.factcheck_text import MIN_SHARE

_PHRASES = {"en": english, "ko": hangul}


def write_rationale(facts: Facts, language: str = "en", seed: int = 0, genes: int = 10, patterns: int = 3) -> Rationale:
    """The rationale of one patient. language: en or ko. seed: which phrasings; the same facts and seed give the same
    text. genes, patterns: at most so many of each, the first ones of the facts; of the patterns those with at least
    MIN_SHARE of the attention (one at least). Raises UsageError for another language."""
    known_language(language)
    say, rng = _PHRASES[language], Random(f"{seed}")
    sentences: list[Sentence] = [*say.summary(facts, rng)]
    for gene in facts.genes[:genes]:
        sentences += say.gene(gene, rng)
    shown = [p for p in facts.patterns if p.share is None or p.share >= MIN_SHARE] or list(facts.patterns[:1])
    if shown:
        sentences += say.patterns(shown[:patterns], rng)
    sentences += [*say.clinical(facts, rng), *say.missing(facts, rng)]
    return Rationale(language, tuple(sentences))
