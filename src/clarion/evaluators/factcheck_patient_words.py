"""What rationales say about the patient in English and Korean: outcome, clinical data, what was missing."""

from __future__ import annotations

import re

from clarion.evaluators.factcheck_words import L, R, any_of, words

# ---- probability
PERCENT = any_of(r"(?P<value>\d+(?:\.\d+)?)\s?(?:%|percent|퍼센트|프로(?![가-힣]))")
RANGE = any_of(
    r"(?P<low>\d+(?:\.\d+)?)\s?%?\s?(?:-|–|—|~|to|and|에서|부터|와|과)\s?"
    r"(?P<high>\d+(?:\.\d+)?)\s?(?:%|percent|퍼센트)"
)
LEVEL = any_of(
    r"(?P<value>\d+(?:\.\d+)?)\s?%[- ]?(?:confidence |credible |bootstrap |prediction )?"
    r"(?:intervals?|CI(?![A-Za-z])|신뢰 ?구간|구간)"
)
ALIVE = any_of(words(r"surviv\w*", "alive", "live", "living"), "생존", "살아")
DEAD = any_of(words(r"die[sd]?", "dying", "death", "dead", "mortality", r"decease\w*"), "사망", "죽")
CHANCE = any_of(
    words(r"probabilit\w+", r"chances?", "likelihood", "odds", "rate"), "확률", "가능성", "생존율", "사망률"
)
FRACTION = any_of(rf"(?:{CHANCE.pattern})[^.\d]{{0,50}}(?P<value>0?\.\d+)(?!\d*\s?%)")
YEARS = any_of(rf"{L}(?P<value>\d+|two|three|four|five|ten)[- ]?years?(?![- ]old)", r"(?<![\d.])(?P<ko>\d+)\s?년(?!도)")
MONTHS = any_of(r"(?P<value>\d+(?:\.\d+)?)\s?(?:months?(?![A-Za-z])|개월)")

# ---- outcome: what the patient is said to come to
_FORETELL = (
    rf"{L}(?:expect|predict|project|estimat|anticipat)\w*"
    r"(?: (?:that|the|this|patient|he|she|they|will|to))* (?:to )?(?:be )?"
)
_SAID = rf"{L}(?:prediction|outcome|answer|verdict|call)(?: (?:is|was))?\s?[:=]?\s?"


def _korean_end(word: str, not_before: str) -> tuple[str, ...]:
    return (
        rf"{word}할 (?:것|가능성이 (?:더 )?(?:높|크))",
        rf"{word}(?:으로|을|이) ?(?:예측|예상|판단)",
        rf"{word} (?:가능성|쪽)이? ?(?:더 )?(?:높|크|우세)",
        rf"(?:답|예측|결과)\s?[:=은는]+\s?{word}(?!{not_before})",
    )


OUTCOME = {
    True: any_of(
        rf"{_FORETELL}(?:survive|alive|live)", rf"{L}(?:will|should|would)(?: \w+)? (?:survive|be alive|live)",
        rf"{L}(?:un)?likely (?:to )?(?:survive|be alive|live|survival)", rf"{_SAID}(?:survival|survive[sd]?|alive){R}",
        rf"{L}(?:good|favou?rable) prognosis", rf"{L}favou?rs? survival", *_korean_end("생존", "율| ?확률"),
        r"예후(?:가|는) ?(?:좋|양호)",
    ),
    False: any_of(
        rf"{_FORETELL}(?:die|dead|deceased)", rf"{L}(?:will|should|would)(?: \w+)? (?:die|be dead)",
        rf"{L}(?:un)?likely (?:to )?(?:die|be dead|death)", rf"{_SAID}(?:death|die[sd]?|dead){R}",
        rf"{L}(?:poor|unfavou?rable|dismal) prognosis", rf"{L}favou?rs? death", *_korean_end("사망", "률| ?확률"),
        r"예후(?:가|는) ?(?:나쁘|나쁠|불량)",
    ),
}  # fmt: skip
BARE = re.compile(r"^\W*(?:(?P<alive>survive[sd]?|alive|생존)|(?P<dead>die[sd]?|dead|사망))\W*$", re.IGNORECASE)
UNLIKELY = any_of(r"\b(?:not|never|unlikely)\b\W*(?:\w+\W+){0,2}$", r"n[’']t $")
TURNED = any_of(r"\bnot\b", r"n[’']t\b", r"\bnever\b", r"\bunlikely\b")  # among the words: "will not survive"

# ---- clinical data
AGE = any_of(
    r"(?P<a>\d{1,3})[- ]years?[- ]old",
    rf"{L}aged?(?: (?:of|is|was|at|:))?[:=]?\s?(?P<b>\d{{1,3}})(?![\d.]*\s?%)",
    r"(?P<c>\d{1,3})\s?세",
    r"나이[는은가:]?\s?(?P<d>\d{1,3})",
)
DECADE = any_of(rf"{L}in (?:his|her|their|the) (?P<a>\d0)s", r"(?P<b>\d0)대(?![가-힣])")
SEX = {
    "F": any_of(words("female", "wom[ae]n", "she", "her", "lady", "girl"), "여성", "여자", "여환"),
    "M": any_of(words("male", "m[ae]n", "he", "his", "him", "gentleman", "boy"), "남성", "남자", "남환"),
}
_STAGE = r"(?P<{0}>IV|I{{1,3}}|[1-4])(?P<{0}l>[A-C]?)"
STAGE = any_of(
    rf"{L}stage\s?[:=]?\s?{_STAGE.format('a')}\d?{R}",
    rf"병기[는은가:]?\s?{_STAGE.format('b')}",
    rf"{L}{_STAGE.format('c')}\s?기(?![가-힣]*[전후간준능질])",
)
STAGE_WORD = {
    "early": any_of(rf"{L}early[- ]stage", "조기 병기", "초기 병기"),
    "late": any_of(rf"{L}(?:advanced|late)[- ]stage", "진행된 병기"),
}

# ---- what was missing
_INPUTS = {
    "slide": r"(?:whole[- ]slide|slides?|histolog\w+|tissue image|슬라이드|조직 ?영상)",
    "omics": r"(?:omics|expression (?:data|profile)|RNA(?:-seq)?|gene data|오믹스|유전자 발현 (?:자료|데이터))",
    "clinical": r"(?:clinical (?:data|information)|임상 (?:자료|정보|데이터))",
}


def _gone(what: str) -> re.Pattern:
    return any_of(
        rf"{L}no (?:\w+[- ]){{0,2}}{what}",
        rf"{L}without (?:a |the |any )?(?:\w+[- ]){{0,2}}{what}",
        rf"{what}(?: \w+){{0,2}} (?:is|was|were|are) (?:missing|absent|not available|unavailable|lacking|not given)",
        rf"{L}missing(?: \w+)?:? (?:the )?(?:\w+[- ])?{what}",
        rf"{what}(?: \S+)?(?:[이가은는도]|를|을)? ?(?:없|누락|결측|제공되지 않)",
    )


GONE = {name: _gone(what) for name, what in _INPUTS.items()}
COMPLETE = any_of(
    rf"{L}(?:nothing|none of the inputs|no (?:input|modality|data))(?: \w+)? "
    r"(?:is |was |were )?(?:missing|lacking|absent)",
    rf"{L}all (?:the |three |of the )?(?:inputs|modalities|data)(?: \w+)? "
    r"(?:were|are|was) (?:available|present|complete|given)",
    r"모든 (?:입력|자료)[가이] ?(?:있|갖|제공|사용)",
    r"(?:빠진|누락된) (?:입력|자료)[가이은는] ?없",
)

# ---- things rationales like to add and no input of these holds
UNKNOWABLE = {
    name: any_of(rf"{L}(?:{latin})", *korean)
    for name, latin, *korean in (
        ("smoking", r"smok\w+|tobacco", "흡연"),
        ("metastasis", r"metasta\w+", "전이"),
        ("treatment", r"chemo\w*|radiotherap\w*|radiation|immunotherap\w*|surg(?:ery|ical)|resect\w+", "항암", "방사선",
         "면역 ?치료", "수술", "절제"),
        ("comorbidity", r"diabet\w+|hypertensi\w+|heart disease|obes\w+", "당뇨", "고혈압", "비만"),
        ("family history", r"family history|hereditary|germline", "가족력", "유전성"),
        ("lymph nodes", r"lymph nodes?|nodal", "림프절"),
        ("recurrence", r"recurren\w+|relaps\w+", "재발"),
        ("mutation", r"mutat\w+|amplif\w+", "돌연변이", "변이", "증폭"),
        ("tumour size", r"\d+(?:\.\d+)?\s?(?:mm|cm)(?![A-Za-z])"),
        ("race", r"caucasian|african american|asian", "인종"),
    )
}  # fmt: skip
