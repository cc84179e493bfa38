"""Words that turn a statement round: negations, opposites, sides, units. English and Korean."""

from __future__ import annotations

import re

# Concept -> (words of one pole, words of the other); stems are compared, so one form of a word is enough.
_OPPOSITES = (
    ("increase increased increasing rise raised elevated elevation higher high gain hyper thicken thickening thick "
     "thicker enlarged enlarge accelerate accelerated more greater 증가 상승 높 두꺼 많",
     "decrease decreased decreasing fall reduced reduce reduction lowered lower low drop hypo thinning thin thinner "
     "shrink slow slowed less fewer smaller 감소 하강 낮 얇 적"),
    ("improve improved improves better recover recovered resolve resolved 호전 개선",
     "worsen worsened worse deteriorate deteriorated decline declined 악화"),
    ("present presence 존재 있", "absent absence missing lacking 부재 없"),
    ("normal unremarkable healthy 정상", "abnormal pathological 비정상"),
    ("benign 양성", "malignant cancerous 악성"),
    ("acute sudden", "chronic gradual"),
    ("reversible", "irreversible permanent"),
    ("safe", "unsafe dangerous harmful"),
    ("effective useful beneficial 효과적", "ineffective useless futile"),
    ("possible able 가능", "impossible unable 불가능"),
    ("significant 유의", "nonsignificant insignificant"),
    ("recommended indicated advised 권장", "contraindicated discouraged 금기"),
    ("preserved intact distinct maintained 보존", "lost disrupted destroyed 소실"),
    ("central", "peripheral"), ("anterior", "posterior"), ("superior", "inferior"), ("nasal", "temporal"),
    ("open", "closed closure"), ("wet exudative neovascular", "dry nonexudative atrophic"),
    ("proliferative", "nonproliferative"), ("myopia myopic nearsighted nearsightedness 근시",
                                            "hyperopia hyperopic farsighted farsightedness 원시"),
    ("dominant", "recessive"), ("early", "late"), ("mild", "severe"), ("bacterial", "viral"),
    ("surgical surgery operate 수술", "conservative observation observe 관찰"),
    ("dilate dilated dilation mydriasis 산동", "constrict constricted miosis 축동"),
    ("positive", "negative"), ("true correct", "false incorrect wrong"), ("always", "never"),
    ("infectious contagious", "noninfectious noncontagious"), ("symptomatic", "asymptomatic"),
    ("stable", "progressive"),
    ("convex", "concave"), ("attached", "detached"), ("first", "last"), ("before", "after"), ("male", "female"),
)  # fmt: skip

# Said before what it denies, up to the end of its clause.
BEFORE = re.compile(
    r"^(?:no|not|n't|cannot|never|without|neither|nor|none|deny|denies|denied|lack|lacks|lacking|free|exclude|excludes|"
    r"excluded|rather|unlikely|fails?|failed|nothing|hardly)$"
)
# Said behind what it denies: "the pit is lost", "a tear was excluded".
BEHIND = re.compile(r"^(?:absent|missing|lost|gone|disappeared|excluded|lacking|unlikely|ruled)$")
# "is not ..." of these denies that the subject is there at all: "metamorphopsia is not reported".
SEEN = frozenset("seen reported found visible present detected observed noted identified evident apparent".split())
COPULA = frozenset("is are was were be been".split())
# A clause ends here: what follows is no longer denied.
ENDS = re.compile(
    r"^(?:[,;:.!?()]|but|however|although|though|because|since|whereas|while|which|who|and|yet|so|if)$"
)
KOREAN_NEGATION = re.compile(r"없|않|아니(?!면)|못(?:하|했|함|할)|불가능")

SIDES = {
    "right": "R", "od": "R", "dexter": "R", "우안": "R", "오른쪽": "R", "우측": "R", "left": "L", "os": "L",
    "sinister": "L", "좌안": "L", "왼쪽": "L", "좌측": "L", "both": "RL", "ou": "RL", "bilateral": "RL",
    "bilaterally": "RL", "양안": "RL", "양쪽": "RL",
}  # fmt: skip

UNITS = {
    "um": "um", "µm": "um", "μm": "um", "micron": "um", "microns": "um", "micrometers": "um", "mm": "mm", "cm": "cm",
    "mm2": "mm2", "mm²": "mm2", "mmhg": "mmhg", "%": "%", "percent": "%", "d": "d", "diopter": "d", "diopters": "d",
    "dioptres": "d", "db": "db", "mg": "mg", "ml": "ml", "mcg": "ug", "μg": "ug", "year": "y", "years": "y",
    "year-old": "y", "month": "mo", "months": "mo", "week": "wk", "weeks": "wk", "day": "d_", "days": "d_",
    "hour": "h", "hours": "h", "minutes": "min", "degrees": "deg", "°": "deg", "배": "x", "개월": "mo", "년": "y",
    "주": "wk", "일": "d_", "단계": "stage", "기": "stage", "eyes": "eyes", "patients": "patients", "times": "x",
}  # fmt: skip
NAMED = {"stage": "stage", "grade": "grade", "type": "type", "class": "class", "phase": "phase"}  # "stage 3"
SPELT = {w: str(k) for k, w in enumerate("zero one two three four five six seven eight nine ten".split())}
ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5"}  # behind a word of NAMED alone

# Adjectives of places that a stemmer does not bring to their noun.
ROOTS = {"foveal": "fovea", "macular": "macula", "retinal": "retina", "corneal": "cornea", "choroidal": "choroid"}

# Words that carry no statement of their own.
STOP = frozenset(
    "a an the is are was were be been being am do does did has have had having it its this that these those there "
    "here of in on at to from by for with as and or but than then also very may can could would should will shall "
    "might must which who whom whose what when where why how he she they we you i his her their our your not no "
    "none such some any each other into over under between about only just so if because since while during both "
    "all most many much often usually generally eye eyes patient patients yes seen see found show shows shown "
    "given based case study".split()
)


def _stem(word: str) -> str:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer().stem(word)


def poles() -> dict[str, tuple[str, int]]:
    """Stem (or Korean beginning of a word) -> (concept, +1 or -1)."""
    table: dict[str, tuple[str, int]] = {}
    for plus, minus in _OPPOSITES:
        concept = plus.split()[0]
        for words, sign in ((plus, 1), (minus, -1)):
            for word in words.split():
                table.setdefault(word if not word.isascii() else _stem(word), (f"~{concept}", sign))
    return table
