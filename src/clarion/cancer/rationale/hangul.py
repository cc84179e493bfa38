"""Phrasings of one fact each in Korean; the same facts, in the same order, as in English."""

from __future__ import annotations

from random import Random

from clarion.cancer.rationale.english import number, percent, stated
from clarion.cancer.rationale.korean import listed, with_particle
from clarion.cancer.rationale.rationale import Sentence
from clarion.evaluators.factcheck_facts import Facts, Gene, Pattern
from clarion.evaluators.factcheck_words import KOREAN_TISSUES


def tissue(name: str) -> str:
    return KOREAN_TISSUES.get(name, name.replace("_", " "))


def summary(facts: Facts, rng: Random) -> list[Sentence]:
    if facts.survival is None:
        return []
    p, when = percent(facts.survival), f"{facts.years:g}년"
    end = "시점에 생존할 것으로" if facts.survives else "이내에 사망할 것으로"
    text = f"이 환자는 진단 후 {when} {end} {rng.choice(['예측된다', '예상된다'])}."
    found = [Sentence("summary", text, ("outcome",))]
    states, inside = ("probability",), ""
    if facts.interval is not None:
        low, high, level = facts.interval
        states = ("probability", "interval")
        inside = f"({percent(level)} 신뢰구간 {percent(low)}~{percent(high)})"
    text = rng.choice([
        f"예측된 {when} 생존 확률은 {p}{inside}이다.",
        f"모델이 추정한 {when} 생존 확률은 {p}{inside}이다.",
        f"{when} 시점의 생존 가능성은 {p}{inside}로 추정된다.",
    ])  # fmt: skip
    return [*found, Sentence("summary", text, states)]


def gene(one: Gene, rng: Random) -> list[Sentence]:
    states = [f"gene:{one.name}", f"direction:{one.name}", f"coefficient:{one.name}"]
    aside = f"계수 {one.coef:+.2f}" if abs(one.coef) >= 0.01 else f"계수 {one.coef:+.1e}"
    if one.q is not None:
        aside += f", q = {number(one.q)}"
        states.append(f"q:{one.name}")
    kind = "위험 유전자" if one.direction > 0 else "보호 유전자"
    verb = "위험을 높인다" if one.direction > 0 else "위험을 낮춘다"
    topic, subject = with_particle(one.name, "은"), with_particle(one.name, "이")
    found = [Sentence("genes", rng.choice([
        f"{topic} {kind}이다({aside}).",
        f"{subject} 많이 발현될수록 {verb}({aside}).",
        f"학습 환자들에서 {topic} {kind}이다({aside}).",
    ]), tuple(states))]  # fmt: skip
    if one.z is not None:
        level = {1: rng.choice(["과발현되어", "평균보다 높아"]), 0: "평균 수준",
                 -1: rng.choice(["저발현되어", "평균보다 낮아"])}[one.expression]  # fmt: skip
        said = [f"expression:{one.name}"]
        if one.expression:
            effect = "높인다" if one.direction * one.expression > 0 else "낮춘다"
            text = f"이 환자에서 {topic} {level}(z = {one.z:+.1f}) 이 환자의 위험을 {effect}."
            said.append(f"effect:{one.name}")
        else:
            text = f"이 환자에서 {topic} {level}이다(z = {one.z:+.1f})."
        found.append(Sentence("genes", text, tuple(said)))
    return found


def patterns(shown: list[Pattern], rng: Random) -> list[Sentence]:
    states = tuple(f"pattern:{p.name}" for p in shown) + tuple(f"share:{p.name}" for p in shown if p.share is not None)
    words = listed([tissue(p.name) + (f"(주의의 {percent(p.share)})" if p.share is not None else "") for p in shown])
    return [Sentence("tissue", rng.choice([
        f"모델이 슬라이드에서 주목한 조직은 {words}이다.",
        f"모델의 주의가 향한 조직은 다음과 같다: {words}.",
        f"모델이 본 부위의 조직 소견은 {words}이다.",
    ]), states)]  # fmt: skip


def clinical(facts: Facts, rng: Random) -> list[Sentence]:
    who = {"F": "여성 환자", "M": "남성 환자"}.get(facts.sex, "환자")
    states = stated(facts)
    if not states:
        return []
    age = f"{int(facts.age)}세 " if facts.age is not None else ""
    if facts.stage:
        text = rng.choice([f"{age}{who}로 병기는 {facts.stage}기이다.",
                           f"이 예측은 {facts.stage}기 {age}{who}에 대한 것이다."])  # fmt: skip
    else:
        text = rng.choice([f"{age}{who}이다.", f"이 예측은 {age}{who}에 대한 것이다."])
    return [Sentence("clinical", text, states)]


def missing(facts: Facts, rng: Random) -> list[Sentence]:
    if not facts.missing:
        return [Sentence("missing", rng.choice(["모든 입력이 사용되었다.", "빠진 자료가 없다."]), ("missing:none",))]
    texts = {
        "slide": ["슬라이드가 없어 조직은 보지 못했다.", "슬라이드가 누락되어 다른 입력으로만 예측하였다."],
        "omics": ["오믹스가 없어 유전자는 언급하지 않는다.", "오믹스가 누락되어 유전자에 대해서는 말할 수 없다."],
        "clinical": ["임상 정보가 없다.", "임상 정보가 누락되었다."],
    }  # fmt: skip
    return [Sentence("missing", rng.choice(texts[name]), (f"missing:{name}",)) for name in facts.missing]
