"""Numbers that name a person: registration, business, card, social security, phone and record numbers; e-mail, URL, IP.

Checksums by python-stdnum, phone numbers by Google's rules (phonenumbers). A Korean resident registration number issued
since October 2020 has random last digits, so with its hyphen and a possible birth date it counts without the checksum.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from datetime import date

from clarion.llm.corpus.pii.span import Span

_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+%-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![A-Za-z0-9_-])"
)
_URL = re.compile(r"\b(?:https?://|ftp://|www\.)[^\s<>\"'()\[\]{}|가-힣]{3,}", re.I)
_IPV4 = re.compile(r"(?<![\d.])(?<!EC )(?<!EC)(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])")
_RRN = re.compile(r"(?<!\d)(\d{2})(\d{2})(\d{2})\s?[-–]?\s?([1-8])(\d{6}|[*xX]{6})(?!\d)")
_SSN = re.compile(r"(?<![\d-])\d{3}[- ]\d{2}[- ]\d{4}(?![\d-])")
_BUSINESS = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{5}(?![\d-])")
_CARD = re.compile(r"(?<![\d.-])[3-6]\d{3}(?:[ -]?\d){9,15}(?![\d-])")
_PHONE = re.compile(r"(?<![A-Za-z0-9.,/+-])(?:\+\d|\(\d|\d)[\d()\s.–-]{6,20}\d(?![A-Za-z0-9%]|[.,]\d|-\d)")
_KOREAN_MOBILE = re.compile(r"01[016789][ .-]?\d{3,4}[ .-]?\d{4}$")
_DASH = re.compile(r"\d[)\s]*[-–.]\s?(?=\d)")
_BRACKETED = re.compile(r"\(0?\d{2,3}\)\s?\d{3,4}[-.\s]\d{4}$")
_DECIMALS = re.compile(r"\d{1,3}\.\d{1,3}\s?[(–-]")
_PHONE_LABEL = re.compile(
    r"(?:\b(?:tel|phone|telephone|mobile|cell|fax|call|contact|ph|whatsapp)\b|☎|☏|전화|연락처|휴대폰|휴대전화|핸드폰|팩스)"
    r"[^\n\d+(]{0,20}$", re.I
)  # fmt: skip
_LABELLED_ID = re.compile(
    r"(?:\b(?:MRN|M\.R\.N\.|URN|UHID|PID|NHS (?:no|number)|EMR|"
    r"(?:medical|health|hospital|patient|chart|case|file|record|clinic|unit|accession|specimen|insurance|policy|member|"
    r"account|encounter|visit|registration|passport|licen[cs]e|study|subject|participant)"
    r"(?:\s+record)?\s*(?:id(?:entifier)?|no\.?|nr\.?|num(?:ber)?|\#))"
    r"|등록\s?번호|병원\s?번호|차트\s?번호|환자\s?번호|병록\s?번호|진료\s?번호|진료\s?카드\s?번호|접수\s?번호|검체\s?번호|병리\s?번호"
    r"|환자\s?ID|보험\s?번호|여권\s?번호|면허\s?번호|계좌\s?번호|연구\s?번호|대상자\s?번호)"
    r"(?:\s*(?:is|was|은|는))?\s*[:：#=.]?\s*\#?\s*"
    r"(?P<value>[A-Za-z]{0,5}[-–/]?\d[\dA-Za-z]*(?:[-–/][\dA-Za-z]+){0,4})(?![\dA-Za-z])",
    re.I,
)
# Any label that announces a reference, behind words that only a number of a record follows. The value must hold three
# digits and no unit: "reference 12 mm" and "sample 45 eyes" are none.
_REFERENCE = re.compile(
    r"\b(?:"
    r"(?:our|your|their|hospital|gp|clinic|lab(?:oratory)?|patient|file|case|order|request|claim|pathology|"
    r"histology)\s*(?:'s\s+)?(?:ref(?:erence)?|code|key|barcode)\b\.?"
    r"|ref(?:erence)?\s*(?:no\.?|number|code|id|\#|[:：])"
    r"|(?:specimen|sample|lab(?:oratory)?|accession|biopsy|slide|block|cassette|barcode|donor|graft|vial|tube|"
    r"container|requisition|referral|appointment|admission|episode|invoice|claim|prescription|order|"
    r"request|report|imaging|scan|device|implant|lens|lot|batch|serial|locker|bed|ward|wristband|consent|trial)"
    r"(?:\s+(?:labell?ed|marked|identified|coded|numbered|registered|tagged)(?:\s+(?:as|with|by))?"
    r"|\s*(?:id(?:entifier)?|code|no\.?|nr\.?|num(?:ber)?|ref(?:erence)?|\#|[:：]))?"
    r"|(?:labell?ed|registered|filed|coded|archived|recorded)\s+(?:as|under)"
    r"|identif(?:ier|ied\s+(?:as|by))"
    r")\s*(?:is|was)?\s*[:：#=(]?\s*"
    r"(?P<value>(?=[A-Za-z0-9/–-]*\d{2})[A-Z]{0,5}[-–/]?\d[\dA-Z]*(?:[-–/][\dA-Z]+){0,4})(?![\w%]|[.,]\d|\s*(?:mm|um|µm|mg|ml|mL|eyes|patients|"
    r"images|scans|years|months|days|weeks|D\b|dpt))",
    re.I,
)
_REFERENCE_KO = re.compile(
    r"(?<![가-힣])(?!전화|휴대|핸드폰|연락|팩스|카드|주민|우편|사업자)[가-힣]{1,8}\s?(?:번호|코드|바코드)(?:는|은)?\s*[:：#=(]?\s*(?P<value>[A-Za-z]{0,5}[-–/]?\d[\dA-Za-z]*(?:[-–/][\dA-Za-z]+){0,4})"
    r"(?![\dA-Za-z])"
)
_LONE_ID = re.compile(r"(?<![\w-])(?:ID|Chart|No\.?|환자)\s*[:：#]\s*(?P<value>[A-Za-z]{0,4}-?\d{5,12})(?!\w)")


def find_numbers(text: str, regions: tuple[str, ...] = ("KR", "US")) -> Iterator[Span]:
    """All numbered identifiers and addresses of the net in a text. regions: whose national phone formats count."""
    if "@" in text:
        yield from (Span(m.start(), m.end(), "EMAIL") for m in _EMAIL.finditer(text))
    if "://" in text or "www." in text.lower():
        yield from (Span(m.start(), m.start() + len(m[0].rstrip(".,;:!?")), "URL") for m in _URL.finditer(text))
    if not re.search(r"\d", text):
        return
    yield from _ips(text)
    for match in _RRN.finditer(text):
        if _is_rrn(match):
            yield Span(match.start(), match.end(), "RRN")
    yield from _checked(text)
    for pattern in (_LABELLED_ID, _LONE_ID):
        for match in pattern.finditer(text):
            if sum(c.isdigit() for c in match["value"]) >= 3:
                yield Span(match.start("value"), match.end("value"), "ID")
    for pattern in (_REFERENCE, _REFERENCE_KO):
        for match in pattern.finditer(text):
            digits = sum(c.isdigit() for c in match["value"])
            # a short number behind such a word may be a count or a year
            if digits >= 5 or (digits >= 3 and re.search(r"[A-Za-z]", match["value"])):
                yield Span(match.start("value"), match.end("value"), "ID")
    yield from _phones(text, regions)


def _ips(text: str) -> Iterator[Span]:
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            try:
                ipaddress.ip_address(match[0])
            except ValueError:
                continue
            yield Span(match.start(), match.end(), "IP")


def _is_rrn(match: re.Match) -> bool:
    from stdnum.kr import rrn

    year, month, day, digit, rest = match.groups()
    century = {"1": 1900, "2": 1900, "5": 1900, "6": 1900}.get(digit, 2000)
    try:
        date(century + int(year), int(month), int(day))
    except ValueError:
        return False
    if "-" in match[0] or "–" in match[0] or not rest.isdigit():
        return True
    return rrn.is_valid(re.sub(r"\D", "", match[0]))


def _is_business(number: str) -> bool:
    """The check digit of a Korean business registration number (python-stdnum 2.2 tests its shape only)."""
    digits = [int(c) for c in number if c.isdigit()]
    total = sum(d * w for d, w in zip(digits, (1, 3, 7, 1, 3, 7, 1, 3, 5), strict=False)) + digits[8] * 5 // 10
    return digits[9] == -total % 10


def _checked(text: str) -> Iterator[Span]:
    from stdnum import luhn
    from stdnum.us import ssn

    yield from (Span(m.start(), m.end(), "SSN") for m in _SSN.finditer(text) if ssn.is_valid(m[0].replace(" ", "-")))
    yield from (Span(m.start(), m.end(), "BUSINESS") for m in _BUSINESS.finditer(text) if _is_business(m[0]))
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn.is_valid(digits):
            yield Span(match.start(), match.end(), "CARD")


def _phones(text: str, regions: tuple[str, ...]) -> Iterator[Span]:
    """Candidates by shape, decided by phonenumbers. A bare row of digits or of groups without a hyphen or bracket is a
    phone number only after a label (tel, 전화, ...): tables are full of such rows."""
    for match in _PHONE.finditer(text):
        raw = match[0].split("\n")[0].rstrip()
        digits = re.sub(r"\D", "", raw)
        if not 7 <= len(digits) <= 15:
            continue
        labelled = bool(_PHONE_LABEL.search(text[max(0, match.start() - 40) : match.start()]))
        dashed = len(_DASH.findall(raw)) >= 2 or _BRACKETED.match(raw) or _KOREAN_MOBILE.match(raw)
        if _DECIMALS.match(raw):
            continue  # an estimate with its interval: 1.98 (1.73-2.27)
        if not (labelled or raw.startswith("+") or (dashed and len(digits) >= 9)):
            continue
        if labelled or _is_phone(raw, regions):
            yield Span(match.start(), match.start() + len(raw), "PHONE")


def _is_phone(raw: str, regions: tuple[str, ...]) -> bool:
    import phonenumbers

    for region in (None,) if raw.startswith("+") else regions:
        try:
            number = phonenumbers.parse(raw, region)
        except phonenumbers.NumberParseException:
            continue
        # "possible" for international ones: ranges are newly assigned every month
        if phonenumbers.is_valid_number(number) or (region is None and phonenumbers.is_possible_number(number)):
            return True
    return False
