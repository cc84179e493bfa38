"""Korean names: a surname and one or two given syllables, told by what stands before or after.

Without such context only names whose given part is on the list of common given names count: three syllables that begin
with a surname are mostly ordinary words (이상적, 정상안, 고혈압).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache

from clarion.llm.corpus.pii.names_en import LISTS
from clarion.llm.corpus.pii.span import Span

_AFTER = (
    r"(?:씨|님|군|양|옹|환자분|환자|환아|산모|보호자|선생님|선생|교수님|교수|의사|간호사|원장님|원장|과장님|과장|전문의|전공의|주치의|"
    r"약사|기사|검안사|대표|팀장|어머니|아버지|할머니|할아버지)"
)
_BEFORE = (
    r"(?:환자\s?성명|환자명|환자\s?이름|성\s?명|이\s?름|환자|환아|보호자\s?성명|보호자|담당\s?의사|담당의|담당자|주치의|집도의|"
    r"수술의|의뢰의|판독의|작성자|시술자|검사자|기록자|서명|간호사|의사|교수|원장|어머니|아버지|배우자|아들|딸|남편|아내)"
)
_PARTICLE = (
    r"(?=(?:은|는|이|가|을|를|의|에게서|에게|께서|께|와|과|도|라고|라는|이라고|이며|입니다|임|만|로부터|으로부터)?"
    r"(?![가-힣])|\s?\()"
)
_SUFFIX_PARTICLE = r"(?:은|는|이|가|을|를|의|에게|께서|께|와|과|도|께는|은요|이며|로)?(?![가-힣])"


@cache
def _list(name: str) -> frozenset[str]:
    lines = (LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern, ...]:
    surnames = "|".join(sorted(_list("surnames_ko"), key=len, reverse=True))
    given = "".join(sorted(_list("syllables_ko")))
    name = rf"(?P<surname>{surnames})(?P<space>[ ]?)(?P<given>[{given}][{given}]?)"
    whole = rf"(?<![가-힣])(?P<surname>{surnames})(?P<space>[ ]?)(?P<given>[가-힣]{{1,3}}?)"
    return (
        re.compile(rf"(?<![가-힣]){name}(?=\s?{_AFTER}{_SUFFIX_PARTICLE})"),
        re.compile(rf"(?:(?<![가-힣]){_BEFORE}\s*[:：]\s*){whole.replace('(?<![가-힣])', '')}{_PARTICLE}"),
        re.compile(rf"(?<![가-힣]){_BEFORE}(?:인|\s)\s*{name}{_PARTICLE}"),
        re.compile(rf"(?<![가-힣])(?P<surname>{surnames})(?P<space>)(?P<given>{_given_names()}){_PARTICLE}"),
        # 에게 and 께서 follow persons
        re.compile(rf"(?<![가-힣])(?P<surname>{surnames})(?P<space>)(?P<given>[{given}]{{2}})(?=에게|께서)"),
    )


def _given_names() -> str:
    return "|".join(sorted(_list("given_ko"), key=len, reverse=True))


def find_names_ko(text: str) -> Iterator[Span]:
    """Korean names of persons in Hangul, and every later mention of a name found."""
    if not re.search("[가-힣]", text):
        return
    after, label, *others = _patterns()
    words = _list("words_ko")
    spans: set[tuple[int, int]] = set()
    for pattern in (after, label, *others):
        for match in pattern.finditer(text):
            start, end = match.start("surname"), match.end("given")
            name = match["surname"] + match["given"]
            inflected = pattern is not after and name[:-1] in words and name[-1] in "은는이가을를의도만과와로"
            if name in words or inflected or (match["space"] and match["given"] in words):
                continue
            if pattern is not label and len(match["given"]) == 1 and len(match["surname"]) == 1:
                # 김 훈 씨 is a name, 이 양 (this amount) and 정 도 are not: one syllable needs its suffix directly
                if (
                    pattern is not after
                    or match["space"]
                    or not text.startswith(("씨", "님", "환자", " 씨", " 환자"), end)
                ):
                    continue
            if match["space"] and pattern is not after and pattern is not label:
                continue
            spans.add((start, end))
    names = {text[s:e] for s, e in spans if len(text[s:e].replace(" ", "")) >= 3}
    if names:
        again = re.compile(
            rf"(?<![가-힣])(?:{'|'.join(map(re.escape, sorted(names)))})(?={_AFTER})|"
            rf"(?<![가-힣])(?:{'|'.join(map(re.escape, sorted(names)))}){_PARTICLE}"
        )
        spans |= {m.span() for m in again.finditer(text)}
    yield from (Span(s, e, "NAME") for s, e in spans)
