"""Personal information: what must go, what must stay, replacement, and the measured recall."""

from __future__ import annotations

import json

import pytest

from clarion.errors import UsageError
from clarion.llm.corpus.pii.ner import check
from clarion.llm.corpus.pii.redact import Surrogates, find, redact
from clarion.llm.corpus.pii.span import Span, resolved
from clarion.llm.corpus.spec import PII_TYPES
from clarion.llm.corpus.validation.pii import SETTINGS, measure, measure_false_positives, public_abstracts

FLOORS = [("en", 0.80, 0.78), ("ko", 0.95, 0.92)]
REDACT = {**SETTINGS, "mode": "placeholder", "date_action": "remove"}


def found(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in find(text, SETTINGS)]


@pytest.mark.parametrize(("text", "expected"), [
    ("Dr. Sarah O'Connor saw Mr. Bowman.", [("NAME", "Sarah O'Connor"), ("NAME", "Bowman")]),
    ("Mr. Bowman came. Later Bowman left; Bowman's layer was intact.", [("NAME", "Bowman"), ("NAME", "Bowman")]),
    ("PATIENT NAME: SMITH, JOHN", [("NAME", "SMITH, JOHN")]),
    ("Patient Kim Min-su was seen by Prof. Lee.", [("NAME", "Kim Min-su"), ("NAME", "Lee")]),
    ("환자 김민수는 내원하였다. 김민수가 동의하였다.", [("NAME", "김민수"), ("NAME", "김민수")]),
    ("주치의 박지현 교수, 남궁민 씨", [("NAME", "박지현"), ("NAME", "남궁민")]),
    ("seen on January 5, 2021 and 5 May 2020", [("DATE", "January 5, 2021"), ("DATE", "5 May 2020")]),
    ("2021년 3월 5일, 2021.03.05 및 2021-03-05",
     [("DATE", "2021년 3월 5일"), ("DATE", "2021.03.05"), ("DATE", "2021-03-05")]),
    ("a 92-year-old man; 93세 남자; a 65-year-old woman", [("AGE", "92"), ("AGE", "93")]),
    ("MRN: 1234567, 등록번호 12-345678, chart no. A1234567",
     [("ID", "1234567"), ("ID", "12-345678"), ("ID", "A1234567")]),
    ("Call (212) 555-0187 or 010-1234-5678로 연락", [("PHONE", "(212) 555-0187"), ("PHONE", "010-1234-5678")]),
    ("write to j.kim@eye.co.kr or www.eye.org/x.", [("EMAIL", "j.kim@eye.co.kr"), ("URL", "www.eye.org/x")]),
    ("850101-1234567 and 536-90-4399 and 220-81-62517",
     [("RRN", "850101-1234567"), ("SSN", "536-90-4399"), ("BUSINESS", "220-81-62517")]),
    ("our reference 12-345678; Specimen labelled MR12-34567; lab ref: A1234567; sample ID 4455667",
     [("ID", "12-345678"), ("ID", "MR12-34567"), ("ID", "A1234567"), ("ID", "4455667")]),
    ("검사코드 12-345678, 의뢰번호: A1234567", [("ID", "12-345678"), ("ID", "A1234567")]),
    ("dr smith will see mrs garcia lopez", [("NAME", "smith"), ("NAME", "garcia lopez")]),
    ("Home address on record: 37162 Julia Crossing. 814 Morales Springs",
     [("ADDRESS", "37162 Julia Crossing"), ("ADDRESS", "814 Morales Springs")]),
    ("거주지 대전광역시 중랑구 영동대39거리 411 (서연나마을)에서",
     [("ADDRESS", "대전광역시 중랑구 영동대39거리 411 (서연나마을)")]),
    ("card 4111 1111 1111 1111 from 192.168.0.1", [("CARD", "4111 1111 1111 1111"), ("IP", "192.168.0.1")]),
    ("lives at 12 Oak Street, Springfield, IL 62704 now", [("ADDRESS", "12 Oak Street, Springfield, IL 62704")]),
    ("주소 서울특별시 강남구 테헤란로 123이다", [("ADDRESS", "서울특별시 강남구 테헤란로 123")]),
])  # fmt: skip
def test_what_must_go(text, expected):
    assert found(text) == expected


@pytest.mark.parametrize("text", [
    "Parkinson disease, Stargardt disease, Descemet membrane folds and Bowman's layer.",
    "Govetto stage 3; Goldmann tonometry 16 mmHg; Amsler grid; Fuchs dystrophy; Graves disease.",
    "Smith et al. (2019) and Jones and colleagues reported 45 of 120 eyes (37.5%).",
    "The ratio was 1.98 (1.73-2.27), p = 0.001, 95% CI 1.2-3.4 in 2010-2015; visual acuity 6/9 and 20/200.",
    "The refraction was -2.50 -0.75 x 180; cell count 1250 cells/mm2; enzyme EC 3.1.1.11.",
    "Patients were treated at Henry Ford Hospital. The Patient Education Program was used.",
    "환자 안전을 위해 이상 소견을 확인하였고 정상 범위였다. 백내장과 고혈압이 있다. 주의 깊은 조기 치료.",
    "Card-like 4111 1111 1111 1112 fails its checksum; 991332-1234567 is no birthday.",
    "In the reference 2019 study a sample of 1250 eyes, report 2020, order 3, scan 12345 images, lens 2250 D.",
    "mr and mrs; the dr is here; mr scans of ms patients; doctor characteristics; nurse practitioners; sister pairs.",
    "Tested with 24 Goldmann Fields; 30 Humphrey Plots; block 12 Fuchs Spots.",
    "Snellen Chart was used. Zeiss Cirrus was used in May or June.",
])  # fmt: skip
def test_what_must_stay(text):
    assert found(text) == []


def test_counts_and_placeholders_hold_no_value():
    text, counts = redact("Dr. Sarah Connor, MRN: 1234567, saw Mary Johnson on 2021-02-03.", REDACT)
    assert text == "Dr. [NAME], MRN: [ID], saw [NAME] on [DATE]."
    assert counts == {"NAME": 2, "ID": 1, "DATE": 1}
    assert redact("Nothing here.", REDACT) == ("Nothing here.", {})


def test_dates_by_config():
    text = "DOB: 1950-03-04, visit 2020-01-02, 1960년 2월 3일생"
    assert redact(text, {**REDACT, "dates": "birth"})[0] == "DOB: [DATE], visit 2020-01-02, [DATE]생"
    assert redact(text, {**REDACT, "dates": "none"})[0] == text
    assert redact(text, {**REDACT, "types": ["NAME"]})[0] == text


def test_dates_are_shifted_together_and_surrogates_stay_the_same():
    settings = {**REDACT, "mode": "surrogate"}
    text = "Mary Johnson: 2020-01-10, January 20, 2020, 2020년 1월 30일, 9 Feb 2020, id MRN: 55512. Mary Johnson again."
    first, _ = redact(text, settings, "secret")
    again, _ = redact(text, settings, "secret")
    other, _ = redact(text, settings, "other secret")
    assert first == again != other
    import re
    from datetime import datetime

    dates = re.search(r": (\d+-\d+-\d+), (\w+ \d+, \d+), (\d+)년 (\d+)월 (\d+)일, (\d+ \w+ \d+),", first)
    parsed = [
        datetime.strptime(dates[1], "%Y-%m-%d"),
        datetime.strptime(dates[2], "%B %d, %Y"),
        datetime(*map(int, dates.group(3, 4, 5))),
        datetime.strptime(dates[6], "%d %b %Y"),
    ]
    assert [(b - a).days for a, b in zip(parsed, parsed[1:])] == [10, 10, 10]
    assert parsed[0] != datetime(2020, 1, 10) and "Johnson" not in first and "55512" not in first
    name = first.split(":")[0]
    assert first.endswith(f"{name} again.")
    assert Surrogates("x").date("31 February 2020") is None and Surrogates("x").date("March 2020") is None


def test_overlaps_go_to_the_surer_kind():
    spans = [Span(0, 10, "PHONE"), Span(0, 10, "ID"), Span(5, 20, "NAME"), Span(12, 15, "DATE")]
    assert resolved(spans) == [Span(0, 10, "ID"), Span(12, 15, "DATE")]


def test_a_recognition_model_must_be_here(tmp_path):
    with pytest.raises(UsageError, match="pii.ner="):
        check("/no/such/model")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="token classification"):
        check(str(tmp_path))


def test_a_recognition_model_adds_its_entities(tmp_path):
    """A real token-classification network, its head set by hand: every word it knows is a person."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "zorblax", "saw", "the", "retina"]
    tokenizer = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(tmp_path)
    config = BertConfig(vocab_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                        id2label={0: "O", 1: "B-PER"}, label2id={"O": 0, "B-PER": 1})  # fmt: skip
    network = BertForTokenClassification(config).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
        network.bert.embeddings.word_embeddings.weight[2, :4] = 50.0
        for module in network.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(1.0)
        network.classifier.weight[1, :4] = 5.0
        network.classifier.bias[0] = 3.0
    network.save_pretrained(tmp_path)
    check(str(tmp_path))
    settings = {**SETTINGS, "ner": str(tmp_path)}
    text = "zorblax saw the retina " * 80
    spans = find(text, settings)
    assert len(spans) == 80 and {text[s.start : s.end] for s in spans} == {"zorblax"}
    assert find(text, SETTINGS) == []


@pytest.mark.parametrize(("language", "recall", "names"), [("en", 0.93, 0.85), ("ko", 0.97, 0.95)])
def test_planted_values_are_found(language, recall, names):
    result = measure(language, documents=60, seed=3)
    figures = result["figures"]
    assert figures["recall"]["value"] > recall and figures["recall_names"]["value"] > names
    assert figures["precision"]["value"] > 0.98 and figures["recall"]["low"] < figures["recall"]["value"]
    kinds = {row[0]: row for row in result["rows"] if row[1] == "all"}
    assert set(kinds) - {"all"} <= set(PII_TYPES)
    for kind in ("DATE", "EMAIL", "ID", "PHONE"):
        assert kinds[kind][3] > 0.95, kind
    if language == "en":  # the table is honest about what is missed: names in lower case
        lower = next(row for row in result["rows"] if row[1] == "lower")
        assert lower[3] < 0.7


@pytest.mark.parametrize(("language", "recall", "names"), FLOORS)
def test_values_in_sentences_that_the_rules_never_saw(language, recall, names):
    """A floor below what was measured on 400 documents: see experiments/corpus_pii."""
    figures = measure(language, documents=60, seed=11, sentences="held_out")["figures"]
    assert figures["recall"]["value"] > recall and figures["recall_names"]["value"] > names
    assert figures["precision"]["value"] > 0.97
    with pytest.raises(UsageError, match="sentences=new"):
        measure(language, documents=1, sentences="new")


def test_false_positives_are_counted(monkeypatch):
    monkeypatch.delenv("CLARION_REAL_DATA", raising=False)
    result = measure_false_positives(documents=20, seed=0)
    assert result["data"] == "phantom" and len(result["rows"]) >= 2
    assert all(figure["value"] <= 0.05 for figure in result["figures"].values())


def test_public_abstracts_are_hardly_touched(real_data, monkeypatch):
    monkeypatch.setenv("CLARION_REAL_DATA", str(real_data))
    abstracts = public_abstracts()[:300]
    names = sum(span.kind == "NAME" for text in abstracts for span in find(text, SETTINGS))
    assert names / sum(len(text.split()) for text in abstracts) < 3e-4
