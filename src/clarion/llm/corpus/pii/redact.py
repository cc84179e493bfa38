"""Text -> text without personal information, and the counts of what was removed (never the values)."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from clarion.llm.corpus.pii.dates import MONTHS, find_addresses, find_dates
from clarion.llm.corpus.pii.names_en import find_names_en
from clarion.llm.corpus.pii.names_ko import find_names_ko
from clarion.llm.corpus.pii.ner import find_entities
from clarion.llm.corpus.pii.numbers import find_numbers
from clarion.llm.corpus.pii.span import Span, resolved

SHIFT_DAYS = 364  # a document's dates move together by up to so many days, never by none
_NAMES_EN = ("Alex Morgan", "Robin Carter", "Jamie Parker", "Casey Reed", "Taylor Brooks", "Jordan Hayes")
_NAMES_KO = ("가나다", "라마바", "사아자", "차카타", "파하가", "나다라", "마바사")
_ISO = re.compile(r"^(\d{4})(\s?[-./]\s?)(\d{1,2})(\s?[-./]\s?)(\d{1,2})(.*)$", re.S)
_KOREAN = re.compile(r"^(\d{4})(\s?년\s?)(\d{1,2})(\s?월)(?:(\s?)(\d{1,2})(\s?일))?$")
_MONTH_FIRST = re.compile(r"^([A-Za-z]{3,9})(\.?\s+)(\d{1,2})((?:st|nd|rd|th)?,?\s+)(\d{4})$")
_DAY_FIRST = re.compile(r"^(\d{1,2})((?:st|nd|rd|th)?\s+(?:of\s+)?)([A-Za-z]{3,9})(\.?,?\s+)(\d{4})$")


def find(text: str, settings: Mapping[str, Any]) -> list[Span]:
    """Disjoint spans of personal information, in order. settings: `pii` of a conf, with `dates` no longer auto."""
    spans = [*find_numbers(text), *find_dates(text), *find_addresses(text), *find_names_en(text), *find_names_ko(text)]
    if settings.get("ner"):
        spans += find_entities(text, settings["ner"], settings["ner_score"])
    wanted = set(settings["types"])
    if settings["dates"] == "none":
        wanted.discard("DATE")
    kept = resolved(s for s in spans if s.kind in wanted)
    if settings["dates"] == "birth":
        kept = [s for s in kept if s.kind != "DATE" or s.birth]
    return kept


def redact(text: str, settings: Mapping[str, Any], secret: str = "") -> tuple[str, Counter]:
    """(the text with every span replaced, counts by kind).

    mode placeholder: [NAME], [DATE], ...; surrogate: made-up values that stay the same within a document, dates shifted
    together. date_action shift moves dates in either mode. secret: of this document, from the pseudonym key: without it
    the shift and the surrogates cannot be computed again."""
    spans = find(text, settings)
    if not spans:
        return text, Counter()
    surrogate = Surrogates(secret)
    pieces, position = [], 0
    for span in spans:
        value = text[span.start : span.end]
        replacement = f"[{span.kind}]"
        if span.kind == "DATE" and (settings["date_action"] == "shift" or settings["mode"] == "surrogate"):
            replacement = surrogate.date(value) or replacement
        elif settings["mode"] == "surrogate":
            replacement = surrogate(span.kind, value)
        pieces += [text[position : span.start], replacement]
        position = span.end
    return "".join([*pieces, text[position:]]), Counter(span.kind for span in spans)


class Surrogates:
    """Made-up values for one document. Equal values get equal surrogates; names are taken from a short list of obvious
    stand-ins, digits are drawn anew, so that a surrogate keeps the look of what it replaces and says nothing of it."""

    def __init__(self, secret: str):
        self.secret = secret
        days = 1 + self._random("shift").randrange(SHIFT_DAYS)
        self.shift = timedelta(days=days if self._random("sign").random() < 0.5 else -days)

    def _random(self, *parts: str) -> random.Random:
        digest = hashlib.blake2b("\0".join((self.secret, *parts)).encode(), digest_size=8).digest()
        return random.Random(int.from_bytes(digest, "big"))

    def __call__(self, kind: str, value: str) -> str:
        rng = self._random(kind, " ".join(value.lower().split()))
        if kind == "NAME":
            return rng.choice(_NAMES_KO if re.search("[가-힣]", value) else _NAMES_EN)
        if kind == "EMAIL":
            return f"person{rng.randrange(1000)}@example.org"
        if kind == "URL":
            return "https://example.org"
        if kind in ("PHONE", "ID"):
            return "".join(str(rng.randrange(10)) if c.isdigit() else c for c in value)
        return f"[{kind}]"  # a drawn registration, card or security number could be somebody's

    def date(self, value: str) -> str | None:
        """The date shifted, in the format it was written in; None for a format that names no whole date."""
        if m := _ISO.match(value):
            if (d := self._moved(m[1], m[3], m[5])) is not None:
                return f"{d.year}{m[2]}{d.month:0{len(m[3])}d}{m[4]}{d.day:0{len(m[5])}d}{m[6] if m[6] == '.' else ''}"
        elif m := _KOREAN.match(value):
            if (d := self._moved(m[1], m[3], m[6] or "15")) is not None:
                day = f"{m[5]}{d.day}{m[7]}" if m[6] else ""
                return f"{d.year}{m[2]}{d.month}{m[4]}{day}"
        elif m := _MONTH_FIRST.match(value):
            if (d := self._moved(m[5], _month(m[1]), m[3])) is not None:
                return f"{_named(d, m[1])}{m[2]}{d.day}{re.sub('st|nd|rd|th', '', m[4])}{d.year}"
        elif m := _DAY_FIRST.match(value):
            if (d := self._moved(m[5], _month(m[3]), m[1])) is not None:
                return f"{d.day}{re.sub('st|nd|rd|th', '', m[2])}{_named(d, m[3])}{m[4]}{d.year}"
        return None

    def _moved(self, year: Any, month: Any, day: Any) -> date | None:
        try:
            return date(int(year), int(month), int(day)) + self.shift
        except (ValueError, TypeError, OverflowError):
            return None


def _month(name: str) -> int | None:
    return next((k for k, m in enumerate(MONTHS, 1) if m.startswith(name.lower()[:3])), None)


def _named(moved: date, like: str) -> str:
    name = MONTHS[moved.month - 1].capitalize()
    return name if len(like) > 3 else name[:3]
