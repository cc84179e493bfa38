"""English names, by title, label, credential and list; names found once are found again in the whole document.

Eponyms ("Bowman's layer", "Stargardt disease", "Govetto stage") are not names of persons here, nor are cited authors
("Smith et al.").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from clarion.llm.corpus.pii.span import Span

LISTS = Path(__file__).parent / "lists"
_PART = (
    r"(?:[A-Z][a-zà-öø-ÿ]+(?:['’-][A-Z]?[a-zà-öø-ÿ]+)*|[A-Z]['’][A-Z][a-zà-öø-ÿ]+|Ma?c[A-Z][a-z]+"
    r"|[A-Z]{2,}(?:['’-][A-Z]+)*)"
)
_INITIAL = r"(?:[A-Z]\.(?:\s?[A-Z]\.)?|[A-Z](?=\s))"
_PARTICLE = r"(?:van|von|de|del|della|der|den|di|da|dos|la|le|bin|al|el|Van|Von|De|La|Le|Del|Di|St\.)"
_NAME = rf"(?:{_PART}|{_INITIAL})(?:[ \t]+(?:{_PART}|{_INITIAL}|{_PARTICLE}(?=[ \t]+[A-Z]))){{0,3}}"
_TITLE = re.compile(
    r"\b(?:Drs?|Mr|Mrs|Ms|Miss|Mx|Prof|Professor|Doctor|Sister|Nurse|Rev|Sir|Dame|Madam|Capt|Sgt)\b\.?[ \t]+"
    rf"(?P<name>{_NAME})"
)
_LABEL = re.compile(
    rf"(?:\b(?i:patient(?:'s)?\s+name|pt\.?\s+name|full\s+name|first\s+name|last\s+name|surname|given\s+name|name|"
    rf"next\s+of\s+kin|emergency\s+contact|guardian|referring\s+(?:physician|doctor|provider)|attending(?:\s+physician)?|consultant|surgeon|"
    rf"provider|dictated\s+by|signed(?:\s+by)?|reviewed\s+by|verified\s+by|reported\s+by|referred\s+by|seen\s+by|"
    rf"examined\s+by|operated\s+(?:on\s+)?by|cc|attn)\s*[:：][ \t]*|\b(?:Dear|Regards,|Sincerely,)\s+)(?P<name>{_NAME})"
)
_BEFORE = re.compile(
    rf"\b(?i:patient|pt|son|daughter|wife|husband|mother|father|brother|sister|spouse|caregiver|carer|named|called|"
    rf"seen\s+by|examined\s+by|referred\s+by|operated\s+by|signed\s+by|dictated\s+by|spoke\s+(?:to|with)|discussed\s+(?:with|by)|obtained\s+from|referring|explained\s+to|informed|"
    rf"accompanied\s+by|letter\s+from|care\s+of|contacted|phoned)(?:,|\s+is|\s+was)?[ \t]+(?P<name>{_NAME})"
)
_CREDENTIAL = re.compile(
    rf"\b(?P<name>{_NAME}),?[ \t]+(?:M\.?D\.?|Ph\.?D\.?|D\.?O\.?|O\.?D\.?|R\.?N\.?|MBBS|FRC\w+|"
    r"FACS|COA|COT|MSc|MPH)(?![\w])"
)
_PAIR = re.compile(rf"\b(?P<first>{_PART})(?:[ \t]+{_INITIAL})?[ \t]+(?:{_PARTICLE}[ \t]+)?(?P<last>{_PART})\b")
_INVERTED = re.compile(rf"\b(?P<last>{_PART}),[ \t]+(?P<first>{_PART})(?:[ \t]+{_INITIAL})?(?![\w])")
_ROMANISED = re.compile(
    r"\b[A-Z][a-z]{1,11}(?:-[A-Za-z][a-z]{1,6})?,?(?:[ \t]+[A-Z][a-z]{1,11}(?:-[A-Za-z][a-z]{1,6})?){1,2}\b"
)
_INITIALS = re.compile(rf"(?<![\w.])[A-Z]\.[ \t]?(?:[A-Z]\.[ \t]?)?(?P<last>{_PART})\b")
# What persons do and undergo; "was" alone would take instruments for persons (Zeiss Cirrus was used).
_PERSON = re.compile(
    r"(?:['’]s\b|,?[ \t]+(?:(?:is|was)[ \t]+(?:an?[ \t]+(?:\d|[a-z]+[ \t-]+year)|seen|referred|admitted|started|"
    r"examined|diagnosed|treated|accompanied|discharged|informed|counsel|advised|born|brought|scheduled|told|asked|unable|able)"
    r"|an?[ \t]+\d{1,3}[ \t-]+year|complain|report(?:s|ed)\b|present(?:s|ed)\b|return(?:s|ed)\b|den(?:ies|ied)\b|"
    r"underwent|states\b|stated\b|lives\b|agreed|attended|missed|came\b|called\b|says\b|said\b|wears\b|noticed|"
    r"tolerated|has[ \t]+(?:been|had)|had[ \t]+been))"
)
_LOWERED = re.compile(
    r"\b(?:patient|pt|son|daughter|wife|husband|mother|father|spoke (?:to|with)|discussed with|seen by|named|called)"
    r"[ \t]+(?P<first>[a-z]{3,12})[ \t]+(?P<last>[a-z]{2,14})\b"
)
_LOWERED_TITLE = re.compile(
    r"\b(?:dr|mr|mrs|ms|mx|prof)\b\.?[ \t]+"  # "nurse", "sister", "doctor" are words too
    r"(?P<first>[a-z][a-z'’-]{1,14})(?:[ \t]+(?P<last>[a-z][a-z'’-]{1,14}))?(?![\w])"
)
_NO_PART = frozenset(
    "dob mrn age sex id date od os ou md phd rn do gender tel phone fax and the with for was is on at in eye eyes "
    "clinic".split()
)
_FUNCTION = frozenset("and or the a an is was has had will who of for to in at on with".split())
_EPONYM_AFTER = re.compile(
    r"(?:['’]s?)?[ \t-]+(?:[a-z]+[ \t-]+){0,2}?(?:disease|syndrome|sign|layer|membrane|capsule|gland|muscle|nerve|"
    r"tubercle|phenomenon|dystroph\w+|degeneration|retinopathy|cell|cells|ring|rings|line|lines|spot|spots|test|tests|chart|charts|scale|score|"
    r"stage|stages|stag\w+|grade|grading|classification|criteria|index|formula|method|procedure|operation|technique|"
    r"stain|staining|fold|folds|canal|triangle|pupil|palsy|tumou?r|lymphoma|disorder|anomaly|atrophy|amaurosis|ataxia|choroiditis|"
    r"iridocyclitis|uveitis|cyst|body|bodies|node|nodes|space|zone|reflex|law|model|lens|lenses|tonomet\w+|shunt|valve|"
    r"implant|flap|ligament|cartilage|correction|coefficient|regression|distribution|interval|analysis|plot|curve|transform)s?\b",
    re.I,
)
_INSTITUTION = re.compile(
    r"(?:[ \t]+[A-Z][\w.-]*){0,3}[ \t]+(?:Hospital|University|Institute|Cent(?:er|re)|Foundation|Medical|Clinic|"
    r"College|School|Survey|Scale|Inventory|Data|Mission|Category|Measure)\b"
)
_TITLE_BEFORE = re.compile(r"(?:\b(?:Drs?|Mr|Mrs|Ms|Miss|Prof|Professor|Doctor|Nurse)|[Nn]ame\s*:)\.?\s*$")
_LOWER = re.compile(r"(?<![\w-])[a-z]{2,}")
_ET_AL = re.compile(
    r"[ \t]*(?:,[ \t]*)?(?:et\.?[ \t]+al\b|and[ \t]+(?:co-?workers|colleagues|associates)\b|\(?\d{4}\)?)"
)


@cache
def listed(name: str) -> frozenset[str]:
    """The words of lists/NAME.txt (one or many a line, # comments), lower case."""
    lines = (LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word.lower() for line in lines if not line.startswith("#") for word in line.split())


def find_names_en(text: str) -> Iterator[Span]:
    """Names of persons in a text, parts of a document's names again wherever they stand."""
    if not re.search(r"[A-Za-z]", text):
        return
    # What the document itself writes in lower case is an ordinary word of its language.
    words = listed("words_en") | listed("eponyms") | frozenset(_LOWER.findall(text))
    found: list[tuple[int, int]] = []
    for pattern in (_TITLE, _LABEL, _CREDENTIAL):
        for match in pattern.finditer(text):
            found += _trimmed(text, match, words, sure=True)
    for match in _BEFORE.finditer(text):
        found += _trimmed(text, match, words, sure=False)
    found += _by_list(text, words)
    found += _initials_and_acts(text, words)
    found += _romanised(text, words)
    spans = {(s, e) for s, e in found if not _is_eponym(text, s, e)}
    spans |= _mentions(text, spans, words)
    yield from (Span(s, e, "NAME") for s, e in spans)


def _tokens(text: str, start: int, end: int) -> list[tuple[int, int, str]]:
    return [(start + m.start(), start + m.end(), m[0]) for m in re.finditer(r"[^\s,]+", text[start:end])]


def _trimmed(text: str, match: re.Match, words: frozenset[str], sure: bool) -> list[tuple[int, int]]:
    """The name of a match without words that cannot belong to it. sure: the words before it leave no doubt; else one
    of its parts must be on a list, or two parts must be no words of the language of medicine."""
    tokens = _tokens(text, *match.span("name"))
    known = listed("given_en") | listed("surnames_en")
    kept: list[tuple[int, int, str]] = []
    for token in tokens:
        word = token[2].strip(".'’").lower()
        if word in words and not (word in known and (sure or len(kept) < len(tokens) - 1)):
            # "Denise Paris", "Sandra Best": after a given name an ordinary word is a surname
            if not kept or kept[0][2].lower() not in listed("given_en") or word in _NO_PART or len(kept) > 2:
                break
        kept.append(token)
    while kept and kept[-1][2].lower() in ("van", "von", "de", "la", "le", "al", "el", "del", "st."):
        kept.pop()
    if not kept or all(len(t[2].strip(".")) == 1 for t in kept):
        return []
    shaped = len(kept) >= 2 and not all(t[2].isupper() for t in kept)  # in text all in capitals every word looks so
    if not (sure or shaped or any(t[2].strip(".").lower() in known for t in kept)):
        return []
    if kept[-1][2].endswith((".", "'s", "’s")) and len(kept[-1][2]) > 2:
        cut = 1 if kept[-1][2].endswith(".") else 2
        kept[-1] = (kept[-1][0], kept[-1][1] - cut, kept[-1][2][:-cut])
    return [(kept[0][0], kept[-1][1])]


def _by_list(text: str, words: frozenset[str]) -> Iterator[tuple[int, int]]:
    """ "Mary Johnson", "Johnson, Mary": a listed given name beside a capitalised word that is no common word."""
    given, surnames = listed("given_en"), listed("surnames_en")
    for pattern in (_PAIR, _INVERTED):
        position = 0
        while match := pattern.search(text, position):
            position = match.start() + max(1, len(match[1]))  # overlapping: "Today Mary Johnson"
            first, last = (re.sub(r"['’]s$", "", match[g].lower()) for g in ("first", "last"))
            known = first in given and first not in words
            other = last in surnames or (known and last not in words)
            inverted = pattern is _INVERTED
            acronym = match["first"].isupper() and len(match["first"]) <= 4
            begins = match.start() == 0 or text[match.start() - 1] == "\n" or match[0].isupper()
            if inverted and last not in words and begins and last in surnames and first not in words:
                known = True  # a list's line: "Romero, Candace"
            if known and other and not (inverted and last not in surnames and not begins):
                end = match.end() - (2 if match[0].endswith(("'s", "’s")) else 0)
                yield match.start(), end
                position = end
            elif not inverted and last in surnames and not {first, last} & words and _rare(first) and not acronym:
                yield match.start(), match.end()
                position = match.end()


def _rare(word: str) -> bool:
    """No acronym and no word of medical Latin: what may stand for a given name beside a listed surname."""
    return len(word) > 2 and not word.endswith(
        ("al", "ic", "ous", "itis", "oma", "osis", "ology", "tion", "ing", "ive")
    )


def _initials_and_acts(text: str, words: frozenset[str]) -> Iterator[tuple[int, int]]:
    """ "M. Freeman"; and by what is said of them: "Brad Giddins is a 60 year old", "Daniel complained"."""
    given, surnames = listed("given_en"), listed("surnames_en")
    for match in _INITIALS.finditer(text):
        if match["last"].lower() in surnames and match["last"].lower() not in listed("words_en"):
            yield match.span()
    for match in re.finditer(_PART, text):
        if not _PERSON.match(text, match.end()):
            continue
        word = re.sub(r"['’]s$", "", match[0]).lower()
        before = re.search(rf"({_PART})[ \t]+(?:[A-Z]\.[ \t]+)?$", text[max(0, match.start() - 30) : match.start()])
        possessive = text.startswith(("'s", "’s"), match.end())
        first = before[1].lower() if before else ""
        if before and (first in given or not possessive) and not {word, first} & words and _rare(word) and _rare(first):
            yield match.start() - len(before[0]), match.end()
        elif word in given and word not in words and not match[0].isupper():
            yield match.span()
    given_or_surname = given | surnames
    for match in _LOWERED_TITLE.finditer(text):
        common = listed("words_en") | _FUNCTION
        first, last = match["first"], match["last"] or ""
        if first in common and first not in given_or_surname:
            continue
        whole = last and last in given_or_surname and last not in common
        yield match.start("first"), match.end("last") if whole else match.end("first")
    for match in _LOWERED.finditer(text):
        if match["first"] in given - listed("words_en") and match["last"] in surnames:
            yield match.start("first"), match.end("last")


def _romanised(text: str, words: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Korean names in Latin letters: Kim Min-su, Min-su Kim, Kim Minsu, Minsu Kim, Kim Min Su (Korean syllables)."""
    surnames, syllables = listed("surnames_ko_latin"), listed("syllables_ko_latin")

    def given(tokens: list[str]) -> bool:
        parts = [part for token in tokens for part in token.split("-")]
        if len(parts) == 2:
            return len(tokens) == 1 and any(p in syllables for p in parts) or syllables.issuperset(parts)
        word = parts[0]
        halves = ((word[:k], word[k:]) for k in range(1, len(word)))
        return len(parts) == 1 and word not in words and any(syllables.issuperset(h) for h in halves)

    for match in _ROMANISED.finditer(text):
        tokens = [token.strip(",").lower() for token in match[0].split()]
        for size in (3, 2):
            for start in range(len(tokens) - size + 1):
                part = tokens[start : start + size]
                family = [t for t in (part[0], part[-1]) if t in surnames]
                rest = part[1:] if part[0] in surnames else part[:-1]
                if family and given(rest) and "-" not in family[0]:
                    edges = [m.span() for m in re.finditer(r"[^\s,]+", match[0])][start : start + size]
                    yield match.start() + edges[0][0], match.start() + edges[-1][1]
                    break
            else:
                continue
            break


def _is_eponym(text: str, start: int, end: int) -> bool:
    """Whether a name found stands for a disease, a structure, a cited work or an institution (Henry Ford Hospital)."""
    if _INSTITUTION.match(text, end) and not _titled(text, start):
        return True
    tail = text[end : end + 60]
    words = text[start:end].split()
    single = len(words) == 1
    if _ET_AL.match(tail) and single:
        return True
    if _EPONYM_AFTER.match(tail) and (single or all(w.strip("'’s").lower() in listed("eponyms") for w in words)):
        return True
    return bool(single and words[0].strip("'’s").lower() in listed("eponyms") and not _titled(text, start))


def _is_thing(text: str, end: int) -> bool:
    """Whether what follows makes a name that of a disease, a structure or a cited work."""
    return bool(_EPONYM_AFTER.match(text, end) or _ET_AL.match(text, end))


def _titled(text: str, start: int) -> bool:
    return bool(_TITLE_BEFORE.search(text[max(0, start - 12) : start]))


def _mentions(text: str, spans: set[tuple[int, int]], words: frozenset[str]) -> set[tuple[int, int]]:
    """Parts (3 letters or more, no common words) of names that were found, wherever they stand capitalised."""
    parts: set[str] = set()
    for start, end in spans:
        # "Mr. Bowman" makes "Bowman returned" a name as well, though Bowman is an eponym too
        common = listed("words_en") if _titled(text, start) else words
        found = (re.sub(r"['’]s$", "", t) for t in re.findall(r"[A-Z][\w'’-]{2,}", text[start:end]))
        parts |= {part for part in found if part.lower() not in common}
    if not parts:
        return set()
    forms = sorted({f for p in parts for f in (p, p.upper(), p.capitalize())}, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, forms))})(?![\w-])")
    return {m.span() for m in pattern.finditer(text) if not _is_thing(text, m.end())}
