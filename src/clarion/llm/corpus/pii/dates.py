"""Dates of days and months, English and Korean; which of them are birthdays; ages above 89; postal addresses.

A year alone is no personal information (HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C)); ages above 89 are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from clarion.llm.corpus.pii.span import Span

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_YEAR = r"(?:1[89]\d\d|20\d\d)"
_END = r"(?![\w]|[./-]\d)"
PATTERNS = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        rf"\b{_MONTH}\s+{_DAY}(?:st|nd|rd|th)?(?:,?\s+(?:{_YEAR}|'\d\d))?(?!\d|[.,]\d|\s*(?:%|mm|mg|µm|patients|eyes))",
        rf"\b{_DAY}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+(?:{_YEAR}|'\d\d))?(?!\w)",
        rf"\b{_DAY}-{_MONTH}-(?:{_YEAR}|\d\d)(?!\w)",
        rf"\b{_MONTH},?\s+{_YEAR}\b",
        rf"(?<![\w./-]){_YEAR}\s?[-./]\s?(?:0?[1-9]|1[0-2])\s?[-./]\s?{_DAY}(?:T[\d:]+Z?)?(?![\d-])",
        rf"(?<![\w./-])(?:0?[1-9]|1[0-2])[/-]{_DAY}[/-](?:{_YEAR}|\d\d){_END}",
        rf"(?<![\w./-]){_DAY}[/.-](?:0?[1-9]|1[0-2])[/.-](?:{_YEAR}|(?<=[/-])\d\d){_END}",
        rf"(?<!\d)(?:{_YEAR}|['’]?\d\d)\s?년\s?(?:0?[1-9]|1[0-2])\s?월(?:\s?{_DAY}\s?일)?",
        rf"(?<!\d)(?:0?[1-9]|1[0-2])\s?월\s?{_DAY}\s?일",
        rf"(?<![\w./])['’]\d\d[./-](?:0?[1-9]|1[0-2])[./-]{_DAY}(?!\d)",
    )
)
# "'21.01.05" needs its mark; six digits are a date only after a label
_BIRTH = re.compile(
    r"(?:\b(?:DOB|D\.O\.B\.?|date of birth|birth\s?date|birthday|born(?: on| in)?|b\.)"
    r"|생년월일|생일|출생(?:일|일자)?|생년)"
    r"[\s:：,()은는이가-]{0,6}$", re.I
)  # fmt: skip
_BIRTH_AFTER = re.compile(r"^\s{0,2}(?:\(?\s?)(?:birth|DOB|출생|생(?![가-힣])|태어)", re.I)
_BIRTH_DIGITS = re.compile(
    r"(?:\b(?:DOB|date of birth)|생년월일)\s*[:：]?\s*(?P<value>(?:\d{2}|\d{4})[01]\d[0-3]\d)(?!\d)", re.I
)
_AGE = re.compile(
    r"(?<![\d.])(?P<value>9\d|1[0-2]\d)"
    r"(?=[\s-]*(?:years?|yrs?)[\s-]*old\b|[\s-]*(?:y/?o|YO)\b|\s?세(?:의|인|이|로|에|\s|[,.)]|$)|\s?살)"
    r"|\bage[d]?\s*[:：]?\s*(?P<after>9\d|1[0-2]\d)(?![\d.%])", re.I
)  # fmt: skip
# "6/9" is an acuity: month/day counts only after such words
_SHORT = re.compile(
    r"\b(?:visit|appointment|date[ds]?|scheduled(?: for)?|f/u|follow-?up|RTC|seen on|surgery on|returned on|"
    r"admitted on|discharged on|next)\s*(?::|on|for|is)?\s*"
    r"(?P<value>(?:0?[1-9]|1[0-2])/(?:0?[1-9]|[12]\d|3[01]))(?![/\d.%])", re.I
)  # fmt: skip
_STREET_NAME = r"\b\d{1,5}[A-Za-z]?[ ]+(?:[NSEW]\.?[ ]+)?(?:[A-Z][A-Za-z'’.-]+[ ]+){1,4}"
_STREET_REST = (
    r"(?:,?[ ]+(?:Apt|Apartment|Suite|Ste|Unit|\#)\.?[ ]*[\w-]+)?"
    r"(?:,[ ]+[A-Z][A-Za-z .'-]+,?[ ]+[A-Z]{2}[ ]+\d{5}(?:-\d{4})?)?"
)
_STREET = re.compile(
    rf"{_STREET_NAME}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Terrace|Way|Highway"
    rf"|Hwy|Square|Parkway|Pkwy|Circle|Cir|Trail|Turnpike)\b\.?{_STREET_REST}"
)
# The rarer street suffixes of the USPS (Publication 28, appendix C1) and British ones that are no words of clinical
# text ("24 Goldmann Fields"); their number has two digits or more.
_RARE_STREET = re.compile(
    rf"(?<!\w){_STREET_NAME.replace('1,5', '2,5').replace('1,4', '1,2')}(?:Alley|Arcade|Bayou|Bend|Bluffs?|Bypass|"
    rf"Camp|Canyon|Causeway|Close|Common|Cove|Creek|Crescent|Crossing|Crossroads?|Dale|Estates?|Expressway|Freeway|"
    rf"Gardens?|Gateway|Glens?|Green|Groves?|Harbors?|Heights|Hills?|Hollow|Isle|Junctions?|Knolls?|Landing|Lodge|Loop|"
    rf"Manors?|Meadows?|Mews|Mills?|Motorway|Mountains?|Orchard|Oval|Overpass|Parks?|Pike|Pines?|Plains?|Plaza|Prairie|"
    rf"Ranch|Ridges?|Row|Shoals?|Shores?|Skyway|Springs?|Spurs?|Summit|Throughway|Tracks?|Underpass|Valleys?|Viaduct|"
    rf"Villages?|Vista|Walks?)\b{_STREET_REST}"
)
# whatever the street is called, after a word that says where somebody lives or before an apartment
_HOME = re.compile(
    rf"(?:\b(?i:lives|living|resid\w+|address|home|located|moved)\b(?:[ ]+(?:(?:at|in|to|is|on)|(?:on|of|for)[ ]+"
    rf"(?:record|file|correspondence)))?[ :]+)(?P<value>"
    rf"{_STREET_NAME.replace('{1,4}', '{0,4}')}[A-Z][A-Za-z'’-]+{_STREET_REST})"
)
_APARTMENT = re.compile(rf"(?P<value>{_STREET_NAME}(?:Apt|Apartment|Suite|Ste|Unit)\.?[ ]*[\w-]+)")
_PROVINCE = (
    r"(?:서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충청북|충청남|전라북|전라남|경상북|경상남|충북|충남|전북|전남|경북|경남|제주)"
    r"(?:특별자치시|특별자치도|특별시|광역시|시|도)?"
)
_KOREAN_ADDRESS = re.compile(
    rf"{_PROVINCE}\s+(?:[가-힣]{{1,5}}(?:시|군|구)\s+){{1,2}}"
    r"(?:[가-힣]{1,5}(?:읍|면)\s+)?[가-힣A-Za-z0-9·.]{1,12}?(?:대로|로|길|동|가|리)(?![가-힣0-9]{0,8}(?:로|길|거리|가)\s?\d)(?:\s?\d{1,4}(?:번?길|가))?"
    r"(?:\s*(?:지하\s?)?\d{1,5}(?:-\d{1,4})?(?:번지)?)?(?:,?\s*[가-힣0-9]{1,10}(?:동|아파트|빌라|오피스텔)(?![가-힣]))?"
    r"(?:,?\s?\([가-힣0-9, ]{1,25}\))?"
    r"(?:\s*\d{1,4}동)?(?:\s*\d{1,5}호)?"
)


def find_dates(text: str) -> Iterator[Span]:
    """Dates that name a day or a month of a year; `birth` where a label says so. Also ages above 89."""
    if not re.search(r"\d", text):
        return
    for pattern in PATTERNS:
        for match in pattern.finditer(text):
            start, end = match.span()
            end -= len(match[0]) - len(match[0].rstrip(" "))
            birth = bool(_BIRTH.search(text[max(0, start - 24) : start]) or _BIRTH_AFTER.match(text[end : end + 8]))
            yield Span(start, end, "DATE", birth)
    yield from (Span(*m.span("value"), "DATE") for m in _SHORT.finditer(text))
    for match in _BIRTH_DIGITS.finditer(text):
        yield Span(*match.span("value"), "DATE", True)
    for match in _AGE.finditer(text):
        yield Span(*match.span("value" if match["value"] else "after"), "AGE")


def find_addresses(text: str) -> Iterator[Span]:
    """US street addresses and Korean addresses (province, district, road or lot)."""
    if not re.search(r"\d", text):
        return
    for pattern in (_STREET, _RARE_STREET, _KOREAN_ADDRESS):
        yield from (Span(m.start(), m.end(), "ADDRESS") for m in pattern.finditer(text) if re.search(r"\d", m[0]))
    for pattern in (_HOME, _APARTMENT):
        yield from (Span(*m.span("value"), "ADDRESS") for m in pattern.finditer(text))
