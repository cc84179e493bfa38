"""Claims about the patient in one sentence: tissues, the probability and outcome, age, sex, stage, what was missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from clarion.evaluators import factcheck_patient_words as words
from clarion.evaluators.factcheck_claims import CONTRADICTED, SUPPORTED, UNFOUNDED, Claim, masked, written
from clarion.evaluators.factcheck_facts import Facts
from clarion.evaluators.factcheck_words import (
    ABSENT,
    ABSENT_AFTER,
    CANCERS,
    EFFECT,
    MAINLY,
    NATURE,
    NOT_AFTER,
    TISSUES,
    L,
    R,
)

_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "ten": 10}
_ROMAN = {"1": "I", "2": "II", "3": "III", "4": "IV"}


def patient_claims(sentence: str, facts: Facts) -> list[Claim]:
    """sentence: with everything about genes blanked."""
    missing, spans = _missing(sentence, facts)
    text = masked(sentence, spans)
    claims = list(missing)
    clinical, spans = _clinical(text, facts)
    claims += clinical
    text = masked(text, spans)
    found, spans = _patterns(text, facts)
    claims += found
    text = masked(text, spans)
    if found and (match := next((m for p in (*NATURE.values(), *EFFECT.values()) if (m := p.search(text))), None)):
        # No input says what a tissue does to survival.
        claims.append(Claim("direction", found[0].about, match[0], UNFOUNDED))
        text = masked(text, [match.span()])
    claims += _probability(text, facts)
    claims += _outcome(text, facts)
    claims += [
        Claim("other", name, match[0], UNFOUNDED)
        for name, pattern in words.UNKNOWABLE.items()
        if (match := pattern.search(text))
    ]
    return claims


def judged(kind: str, about: str, said: str, right: bool | None, expected: str = "") -> Claim:
    """right: None where the facts do not know."""
    verdict = UNFOUNDED if right is None else SUPPORTED if right else CONTRADICTED
    return Claim(kind, about, said.strip(), verdict, expected if right is False else "")


# ---- what was missing


def _missing(text: str, facts: Facts) -> tuple[list[Claim], list[tuple[int, int]]]:
    claims, spans = [], []
    if match := words.COMPLETE.search(text):
        spans.append(match.span())
        claims.append(judged("missing", "nothing", match[0], not facts.missing, f"missing: {', '.join(facts.missing)}"))
        return claims, spans
    for name, pattern in words.GONE.items():
        for match in pattern.finditer(text):
            spans.append(match.span())
            claims.append(judged("missing", name, match[0], name in facts.missing, f"the {name} was there"))
    return claims, spans


# ---- clinical data


def _clinical(text: str, facts: Facts) -> tuple[list[Claim], list[tuple[int, int]]]:
    claims, spans = [], []
    for match in words.AGE.finditer(text):
        value = int(next(v for v in match.groups() if v))
        # Ages are given in completed years; a rounded one is no invention either.
        right = None if facts.age is None else value in (int(facts.age), round(facts.age))
        claims.append(judged("age", "age", match[0], right, f"{facts.age or 0:.0f}"))
        spans.append(match.span())
    for match in words.DECADE.finditer(masked(text, spans)):
        decade = int(match["a"] or match["b"])
        right = None if facts.age is None else decade <= facts.age < decade + 10
        claims.append(judged("age", "age", match[0], right, f"{facts.age or 0:.0f}"))
        spans.append(match.span())
    for sex, pattern in words.SEX.items():
        if match := pattern.search(text):
            claims.append(judged("sex", "sex", match[0], facts.sex == sex if facts.sex else None, facts.sex))
            spans += [m.span() for m in pattern.finditer(text)]
    own = re.search(r"(IV|I{1,3}|[1-4])([A-C]?)", facts.stage.upper())
    for match in words.STAGE.finditer(masked(text, spans)):
        stage = next(v for k, v in match.groupdict().items() if v and k in "abc").upper()
        letter = next((v for k, v in match.groupdict().items() if v and k in ("al", "bl", "cl")), "").upper()
        right = None
        if own:
            right = _ROMAN.get(stage, stage) == _ROMAN.get(own[1], own[1]) and letter in ("", own[2])
        claims.append(judged("stage", "stage", match[0], right, facts.stage))
        spans.append(match.span())
    for word, pattern in words.STAGE_WORD.items():
        if match := pattern.search(text):
            early = own and _ROMAN.get(own[1], own[1]) in ("I", "II")
            claims.append(judged("stage", "stage", match[0], early == (word == "early") if own else None, facts.stage))
            spans.append(match.span())
    for match in re.finditer(rf"{L}[A-Z]{{2,8}}{R}", text):
        if match[0] in CANCERS or match[0] == facts.cancer:
            right = match[0] == facts.cancer if facts.cancer else None
            claims.append(judged("cancer", match[0], match[0], right, facts.cancer))
    return claims, spans


# ---- tissues


def _patterns(text: str, facts: Facts) -> tuple[list[Claim], list[tuple[int, int]]]:
    claims: list[Claim] = []
    named = list(find_patterns(text, facts))
    spans = [span for _, span in named]
    held = {p.name.casefold(): p for p in facts.patterns}
    seen_slide = "slide" not in facts.missing and bool(facts.patterns)
    for name, (start, end) in named:
        denied = ABSENT.search(text[:start]) or ABSENT_AFTER.search(text[end:])
        known = name.casefold() in held
        if denied:
            claims.append(judged("pattern", name, f"{denied[0]} {text[start:end]}", not known if seen_slide else None,
                                 "was attended"))  # fmt: skip
        else:
            claims.append(judged("pattern", name, text[start:end], True if known else None))
    claims = list({(c.about, c.verdict): c for c in claims}.values())
    for match in words.PERCENT.finditer(text) if named else ():
        if _of_probability(text, match):
            continue
        name = _beside(match, named)
        pattern = held.get(name.casefold())
        right = None if pattern is None or pattern.share is None else _percent(match["value"], pattern.share)
        expected = "" if pattern is None or pattern.share is None else f"{100 * pattern.share:.0f} %"
        claims.append(judged("share", name, match[0], right, expected))
        spans.append(match.span())
    if named and (match := MAINLY.search(text)):
        name = _following(match, named)
        shares = [p.share for p in facts.patterns if p.share is not None]
        pattern = held.get(name.casefold())
        if pattern is not None:
            right = pattern.share >= max(shares) if shares and pattern.share is not None else None
            claims.append(judged("share", name, match[0], right, "not the largest share"))
    return claims, spans


def find_patterns(text: str, facts: Facts) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, span) of every kind of tissue named, one of the facts' own labels or of the vocabulary; longest first."""
    taken: list[tuple[int, int]] = []
    hits = [(name, m.span()) for name, p in _tissues(tuple(p.name for p in facts.patterns)) for m in p.finditer(text)]
    for name, span in sorted(hits, key=lambda h: (h[1][0] - h[1][1], h[1][0])):
        if all(span[1] <= s or span[0] >= e for s, e in taken):
            taken.append(span)
            yield name, span


@lru_cache(256)
def _tissues(own: tuple[str, ...]) -> tuple[tuple[str, re.Pattern], ...]:
    """Label -> pattern: the facts' own labels as they are written, and the vocabulary."""
    found = []
    for name in dict.fromkeys([*own, *TISSUES]):
        parts = [re.escape(name).replace("_", "[-_ ]")] if name in own else []
        parts += [TISSUES[name]] if name in TISSUES else []
        found.append((name, re.compile(rf"{L}(?:{'|'.join(parts)})(?![A-Za-z])", re.IGNORECASE)))
    return tuple(found)


def _beside(match: re.Match, named) -> str:
    """Of which tissue a share speaks: "necrosis (32 %)", "32 % of ... in necrosis"."""
    after_of = re.match(r"[^,;%]{0,40}", match.string[match.end() :])[0]
    aside = match.string[: match.start()].rstrip().endswith("(")
    if not aside and re.match(r"\s?(?:of|in|to|on|에|가|이)\b", after_of):
        following = [(span[0], name) for name, span in named if 0 <= span[0] - match.end() <= len(after_of)]
        if following:
            return min(following)[1]
    before = [(span[1], name) for name, span in named if span[1] <= match.start()]
    return max(before)[1] if before else min((span[0], name) for name, span in named)[1]


def _following(match: re.Match, named) -> str:
    after = [(span[0], name) for name, span in named if span[0] >= match.end()]
    return min(after)[1] if after else max((span[1], name) for name, span in named)[1]


# ---- probability and outcome


def _of_probability(text: str, match: re.Match) -> bool:
    near = text[max(0, match.start() - 45) : match.end() + 30]
    return bool(words.CHANCE.search(near) and (words.ALIVE.search(near) or words.DEAD.search(near)))


def _percent(text: str, share: float) -> bool:
    return written(text).matches(100 * share, None)


def _probability(text: str, facts: Facts) -> list[Claim]:
    claims, used = [], []
    speaks = words.ALIVE.search(text) or words.DEAD.search(text) or words.CHANCE.search(text)
    for match in words.LEVEL.finditer(text):
        used.append(match.span())
        level = None if facts.interval is None else _percent(match["value"], facts.interval[2])
        expected = "" if facts.interval is None else f"{100 * facts.interval[2]:g} %"
        claims.append(judged("probability", "interval", match[0], level, expected))
    for match in words.RANGE.finditer(masked(text, used)):
        used.append(match.span())
        right, expected = None, ""
        if facts.interval is not None and facts.survival is not None:
            low, high, _ = facts.interval
            if _dying(text, match.start()):
                low, high = 1 - high, 1 - low
            right = _percent(match["low"], low) and _percent(match["high"], high)
            expected = f"{100 * low:.0f} to {100 * high:.0f} %"
        claims.append(judged("probability", "interval", match[0], right, expected))
    for match in words.PERCENT.finditer(masked(text, used)):
        right, expected = None, ""
        if facts.survival is not None and speaks:
            true = 1 - facts.survival if _dying(text, match.start()) else facts.survival
            right, expected = _percent(match["value"], true), f"{100 * true:.0f} %"
        claims.append(judged("probability", "probability" if speaks else "", match[0], right, expected))
    for match in words.FRACTION.finditer(text):
        if facts.survival is not None:
            true = 1 - facts.survival if _dying(text, match.start("value")) else facts.survival
            right = written(match["value"]).matches(true, None)
            claims.append(judged("probability", "probability", match["value"], right, f"{true:.2f}"))
    return claims + _horizons(text, facts, bool(speaks))


def _horizons(text: str, facts: Facts, speaks: bool) -> list[Claim]:
    """Another horizon than the predicted one is no prediction of these inputs; the right one is no claim of its own."""
    claims = []
    for match in words.YEARS.finditer(text):
        value = (match["value"] or match["ko"]).lower()
        if speaks and _NUMBERS.get(value, None if not value.isdigit() else int(value)) != facts.years:
            claims.append(Claim("probability", "horizon", match[0], UNFOUNDED))
    for match in words.MONTHS.finditer(text):
        if float(match["value"]) != facts.horizon:
            claims.append(Claim("other", "months", match[0], UNFOUNDED))
    return claims


def _dying(text: str, place: int) -> bool:
    """Whether a number at `place` is about dying: the nearer of the two words in its clause, those before it first."""
    clause_start = max(text.rfind(";", 0, place), text.rfind(" while ", 0, place), 0)
    both = ((False, words.ALIVE), (True, words.DEAD))
    before = [(m.end(), dead) for dead, p in both for m in p.finditer(text, clause_start, place)]
    after = [(m.start(), dead) for dead, p in both for m in p.finditer(text, place)]
    of = re.match(r"[\d.]+\s?(?:%|percent)\s(?:chance|probability|likelihood|risk)", text[place:], re.IGNORECASE)
    if after and (of or not before):
        return min(after)[1]
    return max(before)[1] if before else False


def _outcome(text: str, facts: Facts) -> list[Claim]:
    found = []
    for alive, pattern in words.OUTCOME.items():
        for match in pattern.finditer(text):
            turned = words.UNLIKELY.search(text[: match.start()]) or words.TURNED.search(match[0])
            turned = turned or NOT_AFTER.search(text[match.end() :])
            found.append((alive != bool(turned), match[0]))
    if not found and (match := words.BARE.match(text)):
        found.append((bool(match["alive"]), match[0]))
    expected = "" if facts.survives is None else "survives" if facts.survives else "dies"
    return [
        judged("outcome", "survives" if alive else "dies", said,
               None if facts.survives is None else alive == facts.survives, expected)
        for alive, said in found
    ]  # fmt: skip
