"""Phrasings of one fact each in English; `say(rng)` chooses among them."""

from __future__ import annotations

from random import Random

from clarion.cancer.rationale.rationale import Sentence
from clarion.evaluators.factcheck_facts import Facts, Gene, Pattern
from clarion.evaluators.factcheck_words import ENGLISH_TISSUES

MODALITY = {"slide": "slide", "omics": "omics", "clinical": "clinical data"}


def number(value: float) -> str:
    """q values and the like: three decimals, in powers of ten where that would say 0."""
    return f"{value:.3f}" if value >= 0.001 or value == 0 else f"{value:.1e}"


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def tissue(name: str) -> str:
    return ENGLISH_TISSUES.get(name, name.replace("_", " "))


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def horizon(facts: Facts) -> str:
    return f"{facts.years:g} years" if facts.years != 1 else "1 year"


def summary(facts: Facts, rng: Random) -> list[Sentence]:
    if facts.survival is None:
        return []
    p, when = percent(facts.survival), horizon(facts)
    end = f"survive beyond {when}" if facts.survives else f"die within {when}"
    text = f"The patient is {rng.choice(['predicted', 'expected'])} to {end} after diagnosis."
    found = [Sentence("summary", text, ("outcome",))]
    states, text = ("probability",), rng.choice([
        f"The predicted probability of being alive at {when} is {p}",
        f"The model gives a probability of {p} of surviving {when}",
        f"The estimated chance of survival at {when} is {p}",
    ])  # fmt: skip
    if facts.interval is not None:
        low, high, level = facts.interval
        states = ("probability", "interval")
        text += f" ({percent(level)} interval {percent(low)} to {percent(high)})"
    return [*found, Sentence("summary", text + ".", states)]


def gene(one: Gene, rng: Random) -> list[Sentence]:
    states = [f"gene:{one.name}", f"direction:{one.name}", f"coefficient:{one.name}"]
    aside = f"coefficient {one.coef:+.2f}" if abs(one.coef) >= 0.01 else f"coefficient {one.coef:+.1e}"
    if one.q is not None:
        aside += f", q = {number(one.q)}"
        states.append(f"q:{one.name}")
    kind = "a risk gene" if one.direction > 0 else "a protective gene"
    verb = "raises the risk" if one.direction > 0 else "lowers the risk"
    found = [Sentence("genes", rng.choice([
        f"{one.name} is {kind} ({aside}).",
        f"Higher expression of {one.name} {verb} ({aside}).",
        f"Among the patients of the training, {one.name} is {kind} ({aside}).",
    ]), tuple(states))]  # fmt: skip
    if one.z is not None:
        level = {1: rng.choice(["is over-expressed", "lies above the average"]), 0: "is near average",
                 -1: rng.choice(["is under-expressed", "lies below the average"])}[one.expression]  # fmt: skip
        text, said = f"In this patient {one.name} {level} (z = {one.z:+.1f})", [f"expression:{one.name}"]
        if one.expression:
            effect = "raises" if one.direction * one.expression > 0 else "lowers"
            text += f", which {effect} this patient's risk"
            said.append(f"effect:{one.name}")
        found.append(Sentence("genes", text + ".", tuple(said)))
    return found


def patterns(shown: list[Pattern], rng: Random) -> list[Sentence]:
    states = tuple(f"pattern:{p.name}" for p in shown) + tuple(f"share:{p.name}" for p in shown if p.share is not None)
    words = listed([tissue(p.name) + (f" ({percent(p.share)} of the attention)" if p.share is not None else "")
                    for p in shown])  # fmt: skip
    return [Sentence("tissue", rng.choice([
        f"On the slide the model attended to {words}.",
        f"The attention of the model lay on {words}.",
        f"The regions that the model looked at show {words}.",
    ]), states)]  # fmt: skip


def stated(facts: Facts) -> tuple[str, ...]:
    """Which clinical data are known."""
    known = {"age": facts.age is not None, "sex": bool(facts.sex), "stage": bool(facts.stage)}
    return tuple(name for name, there in known.items() if there)


def clinical(facts: Facts, rng: Random) -> list[Sentence]:
    who = {"F": "woman", "M": "man"}.get(facts.sex, "patient")
    states = stated(facts)
    if not states:
        return []
    age = f"{int(facts.age)}-year-old " if facts.age is not None else ""
    article = "an" if age.startswith(("8", "11-", "18-")) else "a"
    stage = f" with stage {facts.stage} disease" if facts.stage else ""
    text = rng.choice([f"This is {article} {age}{who}{stage}.", f"The prediction is for {article} {age}{who}{stage}."])
    return [Sentence("clinical", text, states)]


def missing(facts: Facts, rng: Random) -> list[Sentence]:
    if not facts.missing:
        return [Sentence("missing", rng.choice(["All inputs were available.", "None of the inputs was missing."]),
                         ("missing:none",))]  # fmt: skip
    texts = {
        "slide": ["No slide was available; the prediction rests on the other inputs.",
                  "The slide was missing, so that no tissue could be looked at."],
        "omics": ["No omics were available, so that no gene is stated.",
                  "The omics were missing, so that nothing is said of genes."],
        "clinical": ["No clinical data were available.", "The clinical data were missing."],
    }  # fmt: skip
    return [Sentence("missing", rng.choice(texts[name]), (f"missing:{name}",)) for name in facts.missing]
