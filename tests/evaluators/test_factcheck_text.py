"""The fact check on sentences written by hand: true ones pass, planted errors are caught, in English and Korean."""

from __future__ import annotations

import pytest

from clarion.evaluators.factcheck_claims import CONTRADICTED, UNFOUNDED, written
from clarion.evaluators.factcheck_facts import Facts, Gene, Pattern
from clarion.evaluators.factcheck_text import check, split_sentences

FACTS = Facts(
    genes=(Gene("TP53", 0.42, 0.003, 1.83), Gene("KRT5", -0.31, 0.012, -1.2), Gene("MKI67", 0.55, 4e-4, 0.1)),
    patterns=(Pattern("necrosis", 0.32), Pattern("lymphocytes", 0.21)),
    age=61.7, sex="F", stage="IIIA", cancer="LUAD", survival=0.38, interval=(0.22, 0.55, 0.95),
)  # fmt: skip
TABLE = ["TP53", "KRT5", "MKI67", "EGFR", "GENE00017", "SET"]

TRUE = [
    "TP53 is a risk gene and KRT5 is protective.",
    "The risk genes are TP53 and MKI67, the protective gene is KRT5.",
    "Risk genes: TP53 (coefficient +0.42), MKI67 (coefficient 0.55); protective genes: KRT5 (coefficient −0.31).",
    "TP53 raises the risk, while KRT5 lowers it.",
    "TP53 raises the risk, as does MKI67.",
    "KRT5 is not a risk gene.",
    "TP53 (q = 0.003, z = 1.8) is over-expressed. Its coefficient is 0.4 and its hazard ratio is 1.52.",
    "The q value of MKI67 is 4.0e-4. MKI67 has q < 0.001 and is significant.",
    "Low expression of KRT5 raises the risk.",
    "KRT5 is under-expressed, which raises this patient's risk.",
    "Tissue with necrosis (32%) and lymphocytic infiltrates (21%) drew attention, mainly necrosis.",
    "32% of the attention lay on necrosis. No fibrosis was seen.",
    "The 5-year survival probability is 38% (95% CI 22-55%), so the chance of dying is 62%.",
    "She is 61 years old, has stage III LUAD and is not expected to survive.",
    "A woman in her 60s with advanced-stage disease is predicted to die.",
    "All inputs were available.",
    "TP53은 위험 유전자이고 KRT5는 보호 유전자이다.",
    "위험 유전자는 TP53과 MKI67이며, 보호 유전자는 KRT5이다.",
    "TP53은 위험을 높이지만 KRT5는 위험을 낮춘다.",
    "KRT5는 위험 유전자가 아니다.",
    "TP53의 발현은 평균보다 높다(z = 1.8). q값은 0.003이고 계수는 0.42이다.",
    "주로 괴사(32%)와 림프구(21%)에 주목하였다. 섬유화는 없었다.",
    "61세 여성이며 병기는 III기이다. 5년 생존 확률은 38%이고 사망 확률은 62%이다.",
    "생존하지 못할 것으로 보이며 사망할 것으로 예측된다.",
]
# text, kind and verdict of what is wrong in it
FALSE = [
    ("EGFR is a risk gene.", "gene", UNFOUNDED),
    ("BRCA1 drives the risk.", "gene", UNFOUNDED),
    ("The gene gene00017 matters.", "gene", UNFOUNDED),
    ("SET is over-expressed.", "gene", UNFOUNDED),
    ("HLA-DRA and NKX2-1 are protective.", "gene", UNFOUNDED),
    ("TP53 is a protective gene.", "direction", CONTRADICTED),
    ("TP53 and KRT5 are risk genes.", "direction", CONTRADICTED),
    ("The protective genes are TP53 and KRT5.", "direction", CONTRADICTED),
    ("KRT5 raises the risk, as does MKI67.", "direction", CONTRADICTED),
    ("KRT5 is associated with worse survival.", "direction", CONTRADICTED),
    ("TP53 is not a risk gene.", "direction", CONTRADICTED),
    ("Low expression of TP53 raises the risk.", "direction", CONTRADICTED),
    ("KRT5 is under-expressed, which lowers this patient's risk.", "direction", CONTRADICTED),
    ("TP53 is under-expressed.", "expression", CONTRADICTED),
    ("MKI67 is highly expressed.", "expression", CONTRADICTED),
    ("TP53 has z = 2.8.", "expression", CONTRADICTED),
    ("TP53 (q = 0.03) matters.", "q", CONTRADICTED),
    ("TP53 (q = 0.00) matters.", "q", CONTRADICTED),
    ("KRT5 has q < 0.01.", "q", CONTRADICTED),
    ("TP53 is not significant.", "q", CONTRADICTED),
    ("TP53 has a coefficient of -0.42.", "coefficient", CONTRADICTED),
    ("TP53 matters. Its coefficient is 0.52.", "coefficient", CONTRADICTED),
    ("KRT5 has a hazard ratio of 1.36.", "coefficient", CONTRADICTED),
    ("Vascular invasion was seen.", "pattern", UNFOUNDED),
    ("The model attended to stroma.", "pattern", UNFOUNDED),
    ("No necrosis was seen.", "pattern", CONTRADICTED),
    ("Necrosis held 23% of the attention.", "share", CONTRADICTED),
    ("The attention lay mainly on lymphocytes.", "share", CONTRADICTED),
    ("The probability of survival is 62%.", "probability", CONTRADICTED),
    ("The probability of death is 38%.", "probability", CONTRADICTED),
    ("The 95% interval is 30% to 55%.", "probability", CONTRADICTED),
    ("The 3-year survival probability is 38%.", "probability", UNFOUNDED),
    ("The patient is expected to survive.", "outcome", CONTRADICTED),
    ("The patient is unlikely to die.", "outcome", CONTRADICTED),
    ("She will not die.", "outcome", CONTRADICTED),
    ("The prognosis is good: this is a favourable prognosis.", "outcome", CONTRADICTED),
    ("survive", "outcome", CONTRADICTED),
    ("She is 71 years old.", "age", CONTRADICTED),
    ("He has stage III disease.", "sex", CONTRADICTED),
    ("A stage II tumour.", "stage", CONTRADICTED),
    ("A stage IIIB tumour.", "stage", CONTRADICTED),
    ("This is a case of KIRC.", "cancer", CONTRADICTED),
    ("No slide was available.", "missing", CONTRADICTED),
    ("She is a heavy smoker.", "other", UNFOUNDED),
    ("Chemotherapy is recommended.", "other", UNFOUNDED),
    ("Median survival is 14 months.", "other", UNFOUNDED),
    ("EGFR는 위험 유전자이다.", "gene", UNFOUNDED),
    ("TP53은 보호 유전자이다.", "direction", CONTRADICTED),
    ("위험 유전자는 TP53과 KRT5이다.", "direction", CONTRADICTED),
    ("KRT5는 위험을 높인다.", "direction", CONTRADICTED),
    ("TP53은 위험 유전자가 아니다.", "direction", CONTRADICTED),
    ("TP53은 저발현되었다.", "expression", CONTRADICTED),
    ("TP53의 q값은 0.03이다.", "q", CONTRADICTED),
    ("KRT5의 계수는 0.31이다.", "coefficient", CONTRADICTED),
    ("섬유화가 관찰되었다.", "pattern", UNFOUNDED),
    ("괴사는 관찰되지 않았다.", "pattern", CONTRADICTED),
    ("괴사가 주의의 23%를 차지한다.", "share", CONTRADICTED),
    ("5년 생존 확률은 62%이다.", "probability", CONTRADICTED),
    ("사망 확률은 38%이다.", "probability", CONTRADICTED),
    ("환자는 생존할 것으로 예측된다.", "outcome", CONTRADICTED),
    ("예후가 양호하다.", "outcome", CONTRADICTED),
    ("71세 환자이다.", "age", CONTRADICTED),
    ("남성 환자이다.", "sex", CONTRADICTED),
    ("병기는 II기이다.", "stage", CONTRADICTED),
    ("슬라이드가 없었다.", "missing", CONTRADICTED),
    ("흡연력이 있다.", "other", UNFOUNDED),
]


@pytest.mark.parametrize("text", TRUE)
def test_what_the_facts_say_is_supported(text):
    found = check(text, FACTS, TABLE)
    assert found.claims and not found.unsupported, found.unsupported
    assert found.precision == 1 and found.text == text and not found.removed


@pytest.mark.parametrize(("text", "kind", "verdict"), FALSE)
def test_a_planted_error_is_caught_and_removed(text, kind, verdict):
    found = check(f"TP53 raises the risk. {text}", FACTS, TABLE)
    assert (kind, verdict) in {(c.kind, c.verdict) for c in found.unsupported}, found.claims
    assert found.precision < 1 and "TP53 raises the risk." in found.text
    assert text not in found.text and len(found.removed) >= 1
    assert check(found.text, FACTS, TABLE).precision == 1


def test_gene_like_tokens_that_are_no_genes_are_left_alone():
    text = "DNA, RNA, H&E, MIL, TCGA, WSI and stage II to IV are no genes. The CI and HR of OS neither."
    assert not [c for c in check(text, FACTS, TABLE).claims if c.kind == "gene"]
    assert not check("The set of slides.", FACTS, ["SET"]).claims  # SET is a symbol, "set" is a word


def test_one_wrong_gene_of_a_list_is_one_claim():
    found = check("TP53, MKI67 and KRT5 are risk genes.", FACTS)
    assert [(c.about, c.verdict) for c in found.unsupported] == [("KRT5", CONTRADICTED)]
    assert found.precision == pytest.approx(5 / 6)


def test_what_hangs_in_the_air_goes_with_its_gene():
    found = check("EGFR raises the risk. Its q value is 0.01. She is 61 years old.", FACTS, TABLE)
    assert found.text == "She is 61 years old." and len(found.removed) == 2


def test_cleaning_keeps_lines_and_drops_empty_headings():
    text = "## Genes\n- EGFR is a risk gene.\n\n## Tissue\n- Necrosis (32%).\n- Mucin was seen.\n"
    found = check(text, FACTS)
    assert found.text == "## Tissue\n- Necrosis (32%)." and found.unread == 0
    assert found.omitted == ("TP53", "KRT5", "MKI67", "lymphocytes") and found.omission == pytest.approx(4 / 5)


def test_sentences_end_at_their_ends():
    line = "q = 0.003, e.g. TP53. KRT5 은 보호 유전자이다. 1. first? Yes!"
    assert "".join(split_sentences(line)) == line
    assert [s.strip() for s in split_sentences(line)] == [
        "q = 0.003, e.g. TP53.", "KRT5 은 보호 유전자이다.", "1. first?", "Yes!"]  # fmt: skip
    assert split_sentences("") == []


@pytest.mark.parametrize(
    ("text", "true", "right"),
    [("0.42", 0.4249, True), ("0.42", 0.426, False), ("-0.4", 0.42, False), ("3.2e-4", 3.24e-4, True),
     ("3.2 × 10^-4", 3.3e-4, False), ("0.0", 0.04, False), ("−1.2", -1.23, True), ("1", 0.6, False), ("1", 0.8, True)],
)  # fmt: skip
def test_numbers_are_compared_as_written(text, true, right):
    assert written(text).matches(true) is right


def test_unknown_facts_make_claims_unfounded_not_wrong():
    found = check("She is 61, aged 61, with stage II disease and a 5-year survival of 40%.", Facts(), TABLE)
    assert {c.verdict for c in found.claims} == {UNFOUNDED} and found.omission is None
    assert check("", Facts()).precision is None
