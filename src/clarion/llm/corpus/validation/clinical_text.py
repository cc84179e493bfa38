"""Clinical text with planted personal information, English and Korean, each value's place and kind known.

Sentences are composed here; the values come from sources that the recognisers do not use: English names from the US
census through the package `names`, Korean names and addresses from Faker (ko_KR), numbers drawn. A slot is written
<KIND:context>; the context says how hard it is ("running": a name without a label; "lower": typed in lower case).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from clarion.errors import UsageError

ENGLISH = (
    "Patient name: <NAME:label> DOB: <DATE:birth> MRN: <ID:label>",
    "<NAME:running> is a <AGE:over 89> year old woman who presented on <DATE:visit> with blurred vision in the left "
    "eye.",
    "Dr. <NAME:title> performed pars plana vitrectomy with membrane peeling on <DATE:visit>.",
    "I had the pleasure of seeing Mr. <NAME:title> in the retina clinic on <DATE:visit>.",
    "Thank you for referring <NAME:running>, whom I examined today.",
    "The patient's daughter, <NAME:relative>, can be reached at <PHONE:label>.",
    "<NAME:inverted> was admitted through the emergency department with acute angle closure.",
    "Chart no. <ID:label>, seen by <NAME:credential>, MD.",
    "Please call <PHONE:plain> or write to <EMAIL:plain> to reschedule.",
    "<NAME:first only> complained of floaters and flashes since last week.",
    "spoke with <NAME:lower> about the risks of intravitreal injection.",
    "Intraocular pressure was 24 mmHg in the right eye; <NAME:running> was started on timolol twice daily.",
    "Follow-up was arranged for <DATE:visit> at the glaucoma service.",
    "The patient lives at <ADDRESS:street> and was accompanied by his wife.",
    "Her Social Security number <SSN:plain> was recorded at registration.",
    "Insurance policy number <ID:label>; card on file <CARD:plain>.",
    "Hospital number <ID:label>. Consultant: <NAME:label>. Date of birth <DATE:birth>.",
    "Images were uploaded from <IP:plain> to <URL:plain> for review.",
    "Signed: <NAME:label>, ophthalmology resident, <DATE:visit>.",
    "Dear Dr. <NAME:title>, your patient was last seen on <DATE:visit>.",
    "<NAME:running>'s visual acuity improved to 20/40 after the third injection.",
    "History was obtained from <NAME:running> because the patient has dementia.",
    "Accession number <ID:label>: fluorescein angiography, late leakage in the macula.",
    "Contact: <EMAIL:plain>, fax <PHONE:label>.",
    "Discussed with <NAME:running>; the patient agreed to proceed with phacoemulsification.",
    "Next visit <DATE:short>, dilation needed.",
    "Case discussed by <NAME:initials> and the on-call team.",
)
# Held out until 2026-11-22, then used to improve the rules (record numbers, addresses, lower case): development.
ENGLISH_SECOND = (
    "Re: <NAME:held out>, born <DATE:birth>, our reference <ID:held out>.",
    "This 67-year-old gentleman, <NAME:held out>, was kindly referred by Dr <NAME:title> of the diabetic service.",
    "Operating surgeon <NAME:held out>; assistant <NAME:held out>; anaesthesia topical.",
    "On <DATE:visit> the implant was exchanged without complication, and <NAME:held out> went home the same day.",
    "If symptoms recur, ring the ward on <PHONE:held out> and ask for Nurse <NAME:title>.",
    "Mrs <NAME:title> now reads N5 unaided and is delighted.",
    "We explained to <NAME:held out> and her husband that the macular hole had closed.",
    "Copies to: <NAME:held out>, <EMAIL:held out>.",
    "Specimen labelled <ID:held out>, received <DATE:visit>, shows no malignancy.",
    "Mother of the child, <NAME:held out>, gives a history of squint since birth.",
    "Home address on record: <ADDRESS:held out>.",
    "Please book <NAME:held out> for bilateral YAG capsulotomy before <DATE:visit>.",
    "Typed by <NAME:held out> on behalf of the corneal team, <DATE:visit>.",
)
KOREAN_SECOND = (
    "<DATE:visit> 수술실에서 <NAME:held out> 님의 좌안 섬유주절제술을 집도하였음.",
    "진료의뢰서: <NAME:held out> (남, 67세), 생일 <DATE:birth>, 환자번호 <ID:held out>.",
    "<NAME:held out>께서는 최근 시야가 흐려졌다고 말씀하셨다.",
    "아내 <NAME:held out> 씨가 동행하였고 휴대폰은 <PHONE:held out>입니다.",
    "검사 예약은 <NAME:held out> 코디네이터에게 확인하시기 바랍니다.",
    "환자 본인(<NAME:held out>)의 동의를 받아 촬영하였다.",
    "거주지 <ADDRESS:held out>에서 통원 치료 중.",
    "안과 전공의 <NAME:held out> / 지도전문의 <NAME:held out>",
    "회신은 <EMAIL:held out>로 부탁드립니다.",
    "<NAME:held out> 할머니는 녹내장 점안약을 규칙적으로 사용하지 못하였다.",
    "검체 접수번호 <ID:held out>, 접수일 <DATE:visit>.",
    "지난 <DATE:month>부터 <NAME:held out>의 좌안 시력이 저하되었다.",
)
# Written on 2026-11-22 before the rules were changed for the second set, and never used to change them.
ENGLISH_HELD_OUT = (
    "RE: <NAME:held out> (<DATE:birth>), hospital ref: <ID:held out>",
    "Many thanks for asking me to see <NAME:held out>, a retired teacher with drusen in both eyes.",
    "The biopsy (lab code <ID:held out>) was sent to ocular pathology on <DATE:visit>.",
    "Your ref <ID:held out>; dictated <DATE:visit>; not signed to avoid delay.",
    "<NAME:held out> lost vision in the right eye while driving on <DATE:visit>.",
    "Correspondence address: <ADDRESS:held out>.",
    "She recently moved to <ADDRESS:held out> and asks for a clinic nearer to home.",
    "Booking <ID:held out> was cancelled by the ward.",
    "Ms <NAME:title> could not tolerate the patch.",
    "dr <NAME:lower title> will review the corneal ulcer tomorrow.",
    "mrs <NAME:lower title> rang about her drops.",
    "The keratoplasty tissue, bag <ID:held out>, came from the eye bank.",
    "His sister <NAME:held out> interprets for him; her number is <PHONE:held out>.",
    "Anaesthetist: <NAME:held out>. Scrub nurse: <NAME:held out>.",
    "Results go to <EMAIL:held out> no later than <DATE:visit>.",
    "I phoned <NAME:held out> this morning and the pain has settled.",
    "Photographs were taken by <NAME:held out> with dilated pupils.",
    "Sample ID <ID:held out>: culture of the vitreous, no growth after 5 days.",
)
KOREAN_HELD_OUT = (
    "<NAME:held out> 어르신은 <DATE:visit> 낙상 후 안구 통증으로 응급실을 찾았다.",
    "집도의 <NAME:held out>, 마취과 <NAME:held out>.",
    "타원 의뢰번호 <ID:held out>, 회신일 <DATE:visit>.",
    "<NAME:held out> 님 앞으로 온 문자에는 <PHONE:held out>로 회신하라고 되어 있었다.",
    "딸 <NAME:held out>이 대신 약을 받아 갔다.",
    "최근 이사한 곳은 <ADDRESS:held out>이다.",
    "조직검사 번호 <ID:held out> 결과는 음성이었다.",
    "안녕하세요, <NAME:held out> 과장님. 환자를 보내 드립니다.",
    "<NAME:held out> 교수님의 소견으로는 황반원공이 의심된다.",
    "생년월일이 <DATE:birth>인 <NAME:held out> 환아는 사시 수술을 받았다.",
    "이메일 <EMAIL:held out>로 영상을 전송하였다.",
    "설명 들은 사람: <NAME:held out> (배우자), 서명일 <DATE:visit>.",
)
ENGLISH_PLAIN = (
    "Slit lamp examination showed Descemet membrane folds and a Krukenberg spindle.",
    "There was no relative afferent pupillary defect; Amsler grid testing was normal.",
    "Findings are consistent with Stargardt disease; the fundus shows pisciform flecks.",
    "OCT showed an epiretinal membrane, Govetto stage 3, with ectopic inner foveal layers.",
    "Visual acuity was 20/200 in the right eye and 20/25 in the left eye.",
    "Central subfield thickness decreased from 412 to 287 um after 3 injections.",
    "Past history includes Parkinson disease, Graves disease and Sjogren syndrome.",
    "Goldmann applanation tonometry was 16 mmHg and 18 mmHg at 10:30.",
    "Bowman's layer was disrupted; Vogt's striae and a Fleischer ring were seen.",
    "The refraction was -2.50 -0.75 x 180 in the right eye.",
    "Fuchs endothelial dystrophy was noted; endothelial cell count 1250 cells/mm2.",
    "Smith et al. reported similar outcomes in 45 of 120 eyes (37.5%).",
    "The Humphrey 24-2 field showed a superior arcuate defect, MD -8.42 dB.",
    "Aflibercept 2 mg/0.05 mL was injected 3.5 mm from the limbus.",
)
KOREAN = (
    "환자명: <NAME:label> 생년월일: <DATE:birth> 등록번호: <ID:label>",
    "<NAME:suffix> 환자는 <DATE:visit> 좌안 시력저하를 주소로 내원하였다.",
    "환자 <NAME:before>은 <DATE:visit> 유리체절제술을 시행받았다.",
    "주치의 <NAME:before> 교수의 외래에서 경과관찰 중이다.",
    "보호자 <NAME:before>에게 수술의 위험성을 설명하였다. 연락처 <PHONE:label>.",
    "<NAME:suffix> 씨는 당뇨망막병증으로 치료받고 있다.",
    "주민등록번호 <RRN:plain>, 차트번호 <ID:label>.",
    "<NAME:suffix> 님께서 다음 방문일 <DATE:visit>에 내원하실 예정입니다.",
    "주소는 <ADDRESS:road>이며 배우자와 함께 거주한다.",
    "문의는 <EMAIL:plain> 또는 <PHONE:plain>로 연락 바랍니다.",
    "판독의: <NAME:label> 판독일: <DATE:visit>",
    "<NAME:running>은 안압이 24 mmHg로 상승하여 점안약을 추가하였다.",
    "의뢰서를 보내주신 <NAME:suffix> 선생님께 감사드립니다.",
    "<AGE:over 89>세 남자 환자로 양안 백내장이 있다.",
    "수술 전 <NAME:running>에게 설명하고 동의서를 받았다.",
    "<NAME:suffix> 간호사가 <DATE:visit> 활력징후를 측정하였다.",
    "병원번호 <ID:label>, 보험번호 <ID:label>, 담당의: <NAME:label>.",
    "어머니 <NAME:before>의 전화번호는 <PHONE:plain>이다.",
    "카드번호 <CARD:plain>로 수납하였다.",
    "<NAME:latin> was referred from the local clinic on <DATE:visit>.",
    "성명 <NAME:before> (<DATE:birth>생), 우안 망막전막.",
    "<DATE:month> 재방문하여 시야검사를 시행하기로 하였다.",
    "<NAME:running> 우안 교정시력 0.5, 좌안 교정시력 0.8이었다.",
)
KOREAN_PLAIN = (
    "우안 교정시력은 0.5, 좌안 교정시력은 0.8이었다.",
    "안압은 우안 16 mmHg, 좌안 18 mmHg로 정상 범위였다.",
    "빛간섭단층촬영에서 망막전막과 중심와 함몰 소실이 관찰되었다.",
    "이상 소견은 없었으며 정기적인 경과관찰을 권유하였다.",
    "고혈압과 당뇨의 기왕력이 있으며 현재 약물 치료 중이다.",
    "백내장 수술 후 인공수정체는 후낭 내에 잘 위치하였다.",
    "환자 안전을 위해 수술 부위를 표시하였다.",
    "스타가르트병과 파킨슨병의 가족력은 없다.",
    "환자 상태는 안정적이며 통증은 호소하지 않았다.",
    "주의 깊은 관찰이 필요하며 조기 치료가 중요하다.",
    "황반부 두께는 412 um에서 287 um로 감소하였다.",
)
_SLOT = re.compile(r"<([A-Z]+):([a-z0-9 ]+)>")


@dataclass(frozen=True)
class Planted:
    """Characters start..end of a text; context: of the slot, within its kind."""

    start: int
    end: int
    kind: str
    context: str


SETS = {
    "first": {"en": ENGLISH, "ko": KOREAN},
    "second": {"en": ENGLISH_SECOND, "ko": KOREAN_SECOND},
    "held_out": {"en": ENGLISH_HELD_OUT, "ko": KOREAN_HELD_OUT},
}


def compose(language: str, n: int, seed: int, sentences: str = "first") -> list[tuple[str, list[Planted]]]:
    """n documents of 6 sentences with slots and 3 without, in drawn order. sentences: first, second (the rules were
    improved on both) or held_out. UsageError for another set, and where names or Faker is absent."""
    if sentences not in SETS:
        raise UsageError(f"sentences={sentences}: one of {', '.join(SETS)}.")
    rng = random.Random(f"{language} {seed}")
    values = _values(language, rng)
    slots, plain = SETS[sentences][language], ENGLISH_PLAIN if language == "en" else KOREAN_PLAIN
    documents = []
    for _ in range(n):
        drawn = rng.sample(slots, 6) + rng.sample(plain, 3)
        rng.shuffle(drawn)
        text, planted = "", []
        for sentence in drawn:
            position = 0
            for match in _SLOT.finditer(sentence):
                text += sentence[position : match.start()]
                value = values(match[1], match[2])
                planted.append(Planted(len(text), len(text) + len(value), match[1], match[2]))
                text, position = text + value, match.end()
            text += sentence[position:] + "\n"
        documents.append((text, planted))
    return documents


def _values(language: str, rng: random.Random) -> Callable[[str, str], str]:
    try:
        import names
        from faker import Faker
    except ImportError as error:
        raise UsageError(
            f"measuring PII removal draws names from the package {error.name}, which is not installed: "
            "pip install faker names"
        ) from None
    fake = Faker("ko_KR" if language == "ko" else "en_US")
    fake.seed_instance(rng.randrange(2**31))
    number: dict[str, Callable[[str], str]] = {
        "DATE": lambda context: _date(language, context, rng),
        "ID": lambda _: _record_number(rng),
        "PHONE": lambda _: _phone(language, rng),
        "EMAIL": lambda _: fake.ascii_email(),
        "URL": lambda _: fake.url() + "share/" + str(rng.randrange(10**6)),
        "IP": lambda _: fake.ipv4(),
        "SSN": lambda _: f"{rng.randrange(100, 665)}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}",
        "CARD": lambda _: _card(rng),
        "RRN": lambda _: _resident_number(rng),
        "AGE": lambda _: str(rng.randrange(90, 105)),
        "ADDRESS": lambda _: fake.road_address() if language == "ko" else fake.street_address(),
    }

    def english_name(context: str) -> str:
        # the package draws from `random`'s own state
        state = random.getstate()
        random.seed(rng.randrange(2**31))
        first, last = names.get_first_name(), names.get_last_name()
        random.setstate(state)
        if context == "title":
            return last if rng.random() < 0.6 else f"{first} {last}"
        if context == "inverted":
            return f"{last.upper()}, {first.upper()}" if rng.random() < 0.5 else f"{last}, {first}"
        if context == "first only":
            return first
        if context == "lower":
            return f"{first} {last}".lower()
        if context == "lower title":
            return last.lower() if rng.random() < 0.6 else f"{first} {last}".lower()
        if context == "initials":
            return f"{first[0]}. {last}"
        middle = f" {rng.choice('ABCDEFGHJKLMNPRST')}." if rng.random() < 0.2 else ""
        return f"{first}{middle} {last}"

    def korean_name(context: str) -> str:
        if context == "latin":
            surname, given = rng.choice(_LATIN_SURNAMES), rng.choice(_LATIN_GIVEN)
            return f"{surname} {given}" if rng.random() < 0.6 else f"{given} {surname}"
        return fake.name()

    def value(kind: str, context: str) -> str:
        if kind == "NAME":
            return english_name(context) if language == "en" else korean_name(context)
        return number[kind](context)

    return value


_LATIN_SURNAMES = ("Kim", "Lee", "Park", "Choi", "Jung", "Kang", "Cho", "Yoon", "Jang", "Lim", "Shin", "Hwang", "Bae")
_LATIN_GIVEN = (
    "Min-su",
    "Ji-hoon",
    "Seo-yeon",
    "Eunji",
    "Hyun-Woo",
    "Young-hee",
    "Soojin",
    "Dong Hyun",
    "Jiwon",
    "Hye-Kyo",
)


def _date(language: str, context: str, rng: random.Random) -> str:
    first = date(1930, 1, 1) if context == "birth" else date(2012, 1, 1)
    day = first + timedelta(days=rng.randrange(60 * 365 if context == "birth" else 13 * 365))
    if context == "month":
        return f"{day.year}년 {day.month}월"
    if context == "short":
        return rng.choice([day.strftime("%d %b"), day.strftime("%B %d"), f"{day.month}/{day.day}"])
    if language == "ko":
        forms = ("%Y년 {m}월 {d}일", "%Y.%m.%d", "%Y-%m-%d", "%Y. {m}. {d}", "%Y/%m/%d")
    else:
        forms = ("%B {d}, %Y", "%m/%d/%Y", "%Y-%m-%d", "{d} %B %Y", "%d-%b-%Y", "%b {d}, %Y", "{m}/{d}/%y", "%d.%m.%Y")
    return day.strftime(rng.choice(forms)).format(m=day.month, d=day.day)


def _record_number(rng: random.Random) -> str:
    form = rng.choice(["########", "#######", "A#######", "##-######", "######-#", "MR##-#####"])
    return "".join(str(rng.randrange(10)) if c == "#" else c for c in form)


def _phone(language: str, rng: random.Random) -> str:
    if language == "ko":
        form = rng.choice(
            ["010-2###-####", "010 3### ####", "02-5##-####", "031-2##-####", "+82-10-4###-####", "0102#######"]
        )
    else:
        area = rng.choice(["212", "415", "617", "312", "206", "713"])
        form = rng.choice(["(A) 5##-####", "A-5##-####", "A.5##.####", "+1 A 5## ####", "1-A-5##-####"]).replace(
            "A", area
        )
    return "".join(str(rng.randrange(2, 10)) if c == "#" else c for c in form)


def _card(rng: random.Random) -> str:
    from stdnum import luhn

    digits = "4" + "".join(str(rng.randrange(10)) for _ in range(14))
    digits += luhn.calc_check_digit(digits)
    return rng.choice([" ", "-", ""]).join(digits[k : k + 4] for k in range(0, 16, 4))


def _resident_number(rng: random.Random) -> str:
    """Half with the old checksum, half as issued since October 2020 (random last digits)."""
    day = date(1940, 1, 1) + timedelta(days=rng.randrange(58 * 365))
    digits = day.strftime("%y%m%d") + rng.choice("12") + "".join(str(rng.randrange(10)) for _ in range(5))
    weights = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
    check = (11 - sum(int(c) * w for c, w in zip(digits, weights, strict=True)) % 11) % 10
    digits += str(check if rng.random() < 0.5 else rng.randrange(10))
    return f"{digits[:6]}-{digits[6:]}"


def plain_text(language: str, n: int, seed: int) -> list[str]:
    """n documents of 8 sentences without personal information (eponyms, measurements, cited authors)."""
    rng = random.Random(f"plain {language} {seed}")
    sentences: Any = ENGLISH_PLAIN if language == "en" else KOREAN_PLAIN
    return [" ".join(rng.sample(sentences, 8)) for _ in range(n)]
