"""What rationales say about genes and tissues in English and Korean, as patterns on text.

Korean particles stand right behind a word ("TP53은"), and Python counts Hangul as word characters: borders of Latin
words are therefore stated by `L` and `R`, never by \\b.
"""

from __future__ import annotations

import re

L, R = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
NUMBER = r"[+\-−–]?\d+(?:\.\d+)?(?:\s?(?:[eE][+\-−]?\d+|[×x]\s?10\^?[+\-−]?\d+))?"
_IS = r"\s*(?:values?|score|값|점수)?\s*(?:[은는이가도]|of|is|was|at)?\s*(?P<op>[=:<>≤≥≈~]?)\s*"


def any_of(*alternatives: str) -> re.Pattern:
    """One pattern, in any case."""
    return re.compile("|".join(alternatives), re.IGNORECASE)


def words(*alternatives: str) -> str:
    """Whole words in Latin letters."""
    return f"{L}(?:{'|'.join(alternatives)}){R}"


# What HGNC symbols look like: letters and digits in capitals, also C1orf112, HLA-A, NKX2-1, MT-CO1.
SYMBOL = re.compile(rf"{L}(?:C(?:\d+|X|Y)orf\d+|[A-Z][A-Z0-9]{{1,14}}(?:-[A-Z0-9]{{1,6}})?|ENSG\d{{11}}){R}")
# Capitals that name no gene. TCGA's cancers are read as cancers.
ABBREVIATIONS = frozenset("""
AI AJCC AND AUC BH CI CNN CNV CT DFS DNA DSS FDR FPKM HE HR ICD ID II III IPCW IV LLM LOG MIL MRI MRNA NA NGS NO NOT
OR OS PCR PET PFI PFS PM PT QC RGB RNA ROC ROI SD SE TCGA TIL TILS TNM TPM UICC US VI VS WHO WSI XAI YES AGE SEX STAGE
SUMMARY GENES TISSUE CLINICAL MISSING DATA PATIENT MALE FEMALE RISK THE OF
""".split())  # fmt: skip
CANCERS = frozenset("""
ACC BLCA BRCA CESC CHOL COAD COADREAD DLBC ESCA GBM GBMLGG HNSC KICH KIPAN KIRC KIRP LAML LGG LIHC LUAD LUSC MESO OV
PAAD PCPG PRAD READ SARC SKCM STAD STES TGCT THCA THYM UCEC UCS UVM
""".split())  # fmt: skip

# ---- directions: what a gene is ("a risk gene"), or what it does ("raises the risk"), which may be about this patient
_WORSE = r"(?:rais|increas|elevat|worsen|heighten|add|driv|push)\w*"
_BETTER = r"(?:lower|reduc|decreas|diminish|cut|lessen)\w*"
_WHOSE = r"(?:to )?(?:this patient[’']?s? |the patient[’']s |his |her |their |the |an? )?"
_RISK = rf"{_WHOSE}(?:(?:own|predicted|estimated|overall|death) )*(?:risk|hazard|mortality)"
_KOREAN_RISK = r"(?:이 환자의 )?(?:사망 )?위험(?:도를|도|을|이|률을)? ?"
OWN = any_of(r"patient[’']?s?", words("his", "her", "their"), "이 환자의")
NATURE = {
    1: any_of(
        words(r"risk[- ](?:genes?|factors?|markers?)", r"risk[- ](?:increasing|raising)(?:[- ]genes?)?", "adverse",
              "unfavou?rable", "harmful", "deleterious", r"positive (?:coefficients?|sign)"),
        r"위험 ?(?:유전자|인자)", r"위험을 높이는 ?(?:유전자|인자)", "불리한", r"양의 (?:계수|부호)",
    ),
    -1: any_of(
        words(r"protect(?:ive|s|ing|ion)(?:[- ]genes?)?", r"favou?rable", "beneficial",
              r"risk[- ](?:lowering|reducing)(?:[- ]genes?)?", r"negative (?:coefficients?|sign)"),
        r"보호 ?(?:유전자|인자|효과)", r"보호적", r"보호하는", "유리한", r"음의 (?:계수|부호)",
        r"위험을 낮추는 ?(?:유전자|인자)",
    ),
}  # fmt: skip
EFFECT = {
    1: any_of(
        rf"{L}{_WORSE} {_RISK}{R}", rf"{L}{_WORSE} it{R}",
        words(r"(?:higher|increased|greater|elevated|more) (?:risk|hazard|mortality)",
              r"(?:worse|poor|poorer|shorter|reduced) (?:overall )?(?:prognosis|outcomes?|survival)",
              r"worsen\w* (?:the )?(?:prognosis|outcomes?|survival)"),
        _KOREAN_RISK + r"(?:높[이아은인]|높였|올[리라린]|증가|키[우운운])", r"(?:나쁜|불량한) 예후",
        r"예후(?:가|를|는)? ?(?:나쁘|나빠|불량|악화)",
    ),
    -1: any_of(
        rf"{L}{_BETTER} {_RISK}{R}", rf"{L}{_BETTER} it{R}",
        words(r"(?:lower|reduced|decreased|smaller|less) (?:risk|hazard|mortality)",
              r"(?:better|good|longer|improved) (?:overall )?(?:prognosis|outcomes?|survival)",
              r"improv\w* (?:the )?(?:prognosis|outcomes?|survival)"),
        _KOREAN_RISK + r"(?:낮[추춘아은춰]|낮췄|감소|줄[이인])", r"(?:좋은|양호한) 예후",
        r"예후(?:가|를|는)? ?(?:좋|양호|개선)",
    ),
}  # fmt: skip
NOT_BEFORE = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|without|rather than|instead of)\b|n[’']t)\W*(?:\w+\W+){0,2}$", re.IGNORECASE
)
NOT_AFTER = re.compile(r"^\S{0,6}?\s?(?:지 ?(?:않|못)|(?:이|가)? ?아니|이 ?아닌|보다는)")

# ---- expression in this patient
EXPRESSION = {
    1: any_of(
        rf"{L}(?:over|highly|strongly)[- ]?express\w*", rf"{L}up-?regulated",
        rf"{L}(?:high|higher|elevated|increased|strong) (?:\w+ )?express\w*",
        r"express\w*(?: level)? (?:is|was|lies|lay|being)?\s?(?:high|elevated|above|increased)",
        rf"{L}above (?:the )?(?:average|mean)",
        "과발현", "고발현", r"발현(?:량|도)?[이은가는을]? ?(?:평균보다 ?)?(?:높|증가|상승)",
        r"평균보다 (?:뚜렷이 |매우 )?높",
    ),
    -1: any_of(
        rf"{L}(?:under|lowly|weakly)[- ]?express\w*", rf"{L}down-?regulated",
        rf"{L}(?:low|lower|reduced|decreased|weak) (?:\w+ )?express\w*",
        r"express\w*(?: level)? (?:is|was|lies|lay|being)?\s?(?:low|reduced|below|decreased)",
        rf"{L}below (?:the )?(?:average|mean)",
        "저발현", r"발현(?:량|도)?[이은가는을]? ?(?:평균보다 ?)?(?:낮|감소|저하)", r"평균보다 (?:뚜렷이 |매우 )?낮",
    ),
    0: any_of(
        rf"{L}(?:near|about|around|close to) (?:the )?(?:average|mean)", rf"{L}average express\w*", "평균 수준",
        "평균에 가[깝까]",
    ),
}  # fmt: skip

# ---- numbers of a gene
Q = any_of(rf"(?:{L}q(?:[- ]?value)?|{L}FDR|q값){_IS}(?P<value>{NUMBER})")
COEFFICIENT = any_of(
    rf"(?:{L}coef(?:ficient)?s?|{L}beta{R}|β|{L}log[- ](?:hazard[- ]ratio|HR)|계수|로그 ?위험비)"
    rf"{_IS}(?P<value>{NUMBER})"
)
RATIO = any_of(rf"(?:(?<!log )(?<!log-){L}(?:hazard[- ]ratio|HR){R}|(?<!로그)(?<!로그 )위험비){_IS}(?P<value>{NUMBER})")
Z = any_of(rf"{L}z(?:[- ]?score)?(?![A-Za-z0-9]){_IS}(?P<value>{NUMBER})")
SIGNIFICANT = any_of(
    rf"{L}(?P<no>in|non-?|not (?:statistically )?)?significant(?:ly)?{R}",
    r"통계적으로 유의(?P<no2>하지 않|미하지 않)?", r"유의[한하](?P<no3>지 않)?",
)  # fmt: skip

# ---- tissues: name -> how it is said; the first ones are clarion's own labels
TISSUES: dict[str, str] = {
    "high_grade": r"high[- _]grade(?: tumou?r\w*| carcinoma\w*)?|solid (?:tumou?r )?nests?|고등급(?: ?종양)?",
    "low_grade": r"low[- _]grade(?: tumou?r\w*| carcinoma\w*)?|저등급(?: ?종양)?",
    "tumour": r"tumou?r (?:nests?|cells?|epithelium|islands?|tissue)|종양 ?(?:세포|둥지|조직|상피)",
    "necrosis": r"necro(?:sis|tic|ses)|괴사",
    "lymphocytes": r"lympho(?:cyt\w*|id)|tumou?r[- ]infiltrating|림프구",
    "stroma": r"strom(?:a|al)|기질|간질",
    "fat": r"fat(?:ty)?|adipos\w+|adipocyt\w+|지방",
    "mucin": r"mucin\w*|mucus|점액",
    "keratin": r"keratin\w*|각질|각화",
    "fibrosis": r"fibro(?:sis|tic)|desmoplas\w+|섬유화",
    "haemorrhage": r"ha?emorrhag\w+|출혈",
    "calcification": r"calcif\w+|석회화",
    "vascular invasion": r"(?:lympho)?vascular invasion|angioinvasion|(?:맥관|혈관) ?침범",
    "perineural invasion": r"perineural invasion|신경 ?침범",
    "mitoses": r"mito(?:sis|ses|tic)(?: figures?)?|유사 ?분열",
    "vessels": r"blood vessels?|microvascular\w*|혈관 ?(?:증식|신생)",
    "inflammation": r"inflammat\w+|neutrophil\w*|macrophage\w*|plasma cells?|염증|호중구|대식세포|형질세포",
    "glands": r"gland(?:s|ular)|선 ?구조",
    "normal": r"normal (?:tissue|mucosa|epithelium|parenchyma)|정상 ?(?:조직|점막|상피)",
    "budding": r"tumou?r budding|종양 ?발아",
}
ENGLISH_TISSUES = {"high_grade": "high-grade tumour", "low_grade": "low-grade tumour", "tumour": "tumour nests",
                   "fat": "fatty tissue", "normal": "normal tissue"}  # fmt: skip
KOREAN_TISSUES = {
    "high_grade": "고등급 종양", "low_grade": "저등급 종양", "tumour": "종양 세포", "necrosis": "괴사",
    "lymphocytes": "림프구 침윤", "stroma": "기질", "fat": "지방 조직", "mucin": "점액", "keratin": "각질",
    "fibrosis": "섬유화", "haemorrhage": "출혈", "calcification": "석회화", "inflammation": "염증", "glands": "선 구조",
    "normal": "정상 조직",
}  # fmt: skip
MAINLY = any_of(
    words(r"main(?:ly)?", r"most(?:ly)?", r"predominant(?:ly)?", r"chief(?:ly)?", "largest", "primarily", "foremost"),
    "주로", "가장", "대부분",
)  # fmt: skip
ABSENT = any_of(rf"{L}(?:no|without|lack(?:s|ed|ing)?|absence of|free of|devoid of)(?: \w+){{0,2}} $")
ABSENT_AFTER = any_of(
    r"^(?:\s?(?:침윤|조직|종양|영역|소견))*[은는이가도]?\s?(?:\S+\s)?(?:없|관찰되지 않|보이지 않)",
    r"^(?: \w+){0,2} (?:is|was|were|are) (?:absent|not (?:seen|present|found|attended|observed))",
)
