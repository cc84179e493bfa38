"""The words of the page in English and Korean; what files and models say themselves stays as it is."""

from __future__ import annotations

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "title": "Prognosis of {name}",
        "trained_on": "trained on {kind} data",
        "research": "For research only: not a medical device, and not for decisions about a patient.",
        "phantom": "The model was trained on phantom data (made by a simulator): what it says of a real patient means "
                   "nothing.",
        "private": "This page holds a patient's data: keep it where those may be kept.",
        "survival": "Survival at {months} months",
        "alive": "Probability of being alive at {months} months",
        "interval": "{level} interval {low} to {high}",
        "no_interval": "No interval: {reason}. Shown is the model's own probability, which was not checked against "
                       "outcomes.",
        "made": "How it was made: {how}. {n} patients ({deaths} dead by then). The model's own probability, before "
                "recalibration: {raw}.",
        "mean": "The interval is that of the mean of patients with this score, not of what will happen to one.",
        "group": "All validation patients of the run (Kaplan-Meier, n = {n}), knowing nothing of this one: {value}",
        "answer": "The model's answer in words: {answer}.",
        "survives": "survives {months} months", "dies": "dies within {months} months",
        "none": "none that could be read (the text does not say)",
        "agrees": "It agrees with the probability.", "disagrees": "It contradicts the probability shown.",
        "missing": "What was missing", "nothing_missing": "Nothing: slide, omics and clinical data were there.",
        "warnings": "Look at", "rationale": "Why, in the model's words",
        "checked": "Removed (struck through) because the inputs do not support it: {removed} of {sentences} sentences. "
                   "Claims supported: {supported} of {claims}. Genes and tissues named: {named} of {expected}.",
        "unread": "Sentences in which the rules find nothing to check: {unread}.",
        "repeated": "Sentences that repeat an earlier one word for word: {n}.",
        "no_text": "The model wrote no text.", "all_removed": "Nothing of the model's text is left.",
        "hangs": "speaks of a sentence that was removed",
        "template": "The same from the inputs, by template",
        "template_note": "Written by rules from the figures on this page, not by the model.",
        "genes": "Genes that the model was told of", "gene": "gene", "coefficient": "Cox coefficient", "q": "q",
        "z": "z of the patient", "effect": "in this patient",
        "raises": "raises the risk", "lowers": "lowers the risk", "average": "about average",
        "genes_note": "Coefficient and q are those of {patients} training patients, z is in SD of their expression.",
        "no_genes": "No gene table: the omics were missing, or the cancer has none.",
        "tissue": "Tissue that the model attended to", "share": "share of the attention",
        "slides": "Where the slide model looked", "one_slide": "Slide {k} of {n}",
        "plain": "the slide", "heat": "with heat",
        "heat_note": "Red tiles raise the predicted risk, blue ones lower it: the risk less what it would be without "
                     "the tile. It shows what moved the model, not what causes the outcome.",
        "zoom": "zoomable page", "tiff": "heatmap (pyramidal TIFF)", "tiles": "{tiles} tiles looked at",
        "quality": "How good the model is", "quality_note": "On the test patients of the run {run}.",
        "measure": "measure", "value": "value", "patients": "patients",
        "input": "Inputs", "model": "Model", "years": "{value} years", "female": "female", "male": "male",
        "age": "age", "sex": "sex", "stage": "stage", "cancer": "cancer", "unknown": "unknown",
        "slides_given": "slides", "omics_given": "omics", "values": "{n} values", "data": "data",
        "footer": "Written by Clarion {version}; this page loads nothing from elsewhere.",
        "slide": "slide", "omics": "omics",
        "gone_slide": "The slide: the model used its learned stand-in for a missing slide.",
        "gone_tissue": "Slide {k} of {n} shows no tissue and was left out.",
        "gone_omics": "The omics: the model used its learned stand-in for missing omics, and no gene table.",
        "gone_genes": "{k} of the model's {n} genes ({names}).",
        "gone_clinical": "Clinical data: {names}.",
        "gone_cancer": "The cancer (one of {names}): no gene table was shown to the model.",
        "look_cancer": "The cancer was not given; {name} is taken, the only one this model knows.",
        "look_scale": "{k} of {n} genes lie more than {sd} SD from the training patients' mean: the scale may be "
                      "another one than the training's (raw counts, log2, z).",
        "look_validation": "The validation patients also chose the epoch that was kept: the interval is, if anything, "
                           "too narrow.",
        "look_lacking": "The recalibration is that of all validation patients, of whom {k} of {n} lacked what this one "
                        "lacks ({names}).",
        "look_beyond": "This patient's log-odds ({own}) lie outside those of the validation patients ({low} to "
                       "{high}): the line is drawn on beyond them.",
        "how": "logistic recalibration (Platt) of the outcome at the horizon on the model's log-odds, on the run's "
               "validation patients whose status is known, weighted by IPCW; percentile bootstrap over those patients",
        "why_none": "the run recorded no validation patients",
        "why_few": "the status at {months} months is known of {n} validation patients, {deaths} of them dead; at least "
                   "{least} dead and {least} alive are needed",
        "why_separable": "the validation patients' log-odds separate the dead from the living without overlap (or are "
                         "all the same), so that no finite line fits them",
        "why_slope": "among the validation patients higher log-odds of dying do not go with more deaths (slope "
                     "{slope}), so that the score says nothing that could be recalibrated",
    },
    "ko": {
        "title": "{name}의 예후",
        "trained_on": "{kind} 데이터로 학습",
        "research": "연구용입니다. 의료기기가 아니며 환자에 대한 결정에 쓰면 안 됩니다.",
        "phantom": "이 모델은 시뮬레이터가 만든 모의 데이터로 학습되었으므로 실제 환자에 대해서는 아무 의미가 "
                   "없습니다.",
        "private": "이 문서에는 환자의 자료가 있습니다. 그런 자료를 둘 수 있는 곳에만 보관하십시오.",
        "survival": "{months}개월 생존",
        "alive": "{months}개월에 생존해 있을 확률",
        "interval": "{level} 구간 {low}–{high}",
        "no_interval": "구간 없음: {reason}. 표시된 값은 실제 결과와 대조하지 않은 모델 자체의 확률입니다.",
        "made": "계산 방법: {how}. 환자 {n}명(그때까지 사망 {deaths}명). 보정 전 모델 자체의 확률: {raw}.",
        "mean": "구간은 같은 점수를 받은 환자들의 평균에 대한 것이며, 한 환자에게 일어날 일에 대한 것이 아닙니다.",
        "group": "이 환자를 모를 때의 값, 검증 환자 전체(카플란-마이어, n = {n}): {value}",
        "answer": "모델이 말로 한 답: {answer}.",
        "survives": "{months}개월 넘게 생존", "dies": "{months}개월 안에 사망",
        "none": "읽을 수 있는 답 없음(글에 답이 없음)",
        "agrees": "확률과 일치합니다.", "disagrees": "표시된 확률과 모순됩니다.",
        "missing": "빠진 자료", "nothing_missing": "없음: 슬라이드, 오믹스, 임상 정보가 모두 있었습니다.",
        "warnings": "확인할 점", "rationale": "모델이 쓴 이유",
        "checked": "입력 자료가 뒷받침하지 않는 내용이 있어 {sentences}개 문장 중 {removed}개를 지웠고 취소선으로 "
                   "표시했습니다. 주장 {claims}개 중 {supported}개가 뒷받침됩니다. 말해야 할 유전자와 조직 "
                   "{expected}개 중 {named}개를 말했습니다.",
        "unread": "{unread}개 문장에서는 규칙이 확인할 내용을 찾지 못했습니다.",
        "repeated": "{n}개 문장은 앞 문장을 그대로 되풀이합니다.",
        "no_text": "모델이 글을 쓰지 않았습니다.", "all_removed": "모델의 글에서 남은 것이 없습니다.",
        "hangs": "지워진 문장에 딸린 문장",
        "template": "같은 내용, 입력 자료로부터 서식에 따라",
        "template_note": "모델이 아니라 규칙이 이 문서의 수치로 쓴 글입니다.",
        "genes": "모델에 제시된 유전자", "gene": "유전자", "coefficient": "콕스 계수", "q": "q",
        "z": "환자의 z", "effect": "이 환자에서",
        "raises": "위험을 높임", "lowers": "위험을 낮춤", "average": "평균 수준",
        "genes_note": "계수와 q는 학습 환자 {patients}명에서 구했고, z는 그들의 발현 표준편차 단위입니다.",
        "no_genes": "유전자 표 없음: 오믹스가 없거나 이 암에 대한 표가 없습니다.",
        "tissue": "모델이 주목한 조직", "share": "주목 비율",
        "slides": "슬라이드 모델이 본 곳", "one_slide": "슬라이드 {k}/{n}", "plain": "슬라이드", "heat": "열지도",
        "heat_note": "빨간 타일은 예측 위험을 높이고 파란 타일은 낮춥니다(그 타일이 없을 때의 위험과의 차이). "
                     "모델을 움직인 것을 보일 뿐 결과의 원인을 뜻하지 않습니다.",
        "zoom": "확대 가능한 문서", "tiff": "열지도(피라미드 TIFF)", "tiles": "타일 {tiles}개를 봄",
        "quality": "모델의 성능", "quality_note": "실행 {run}의 시험 환자에서.",
        "measure": "지표", "value": "값", "patients": "환자",
        "input": "입력", "model": "모델", "years": "{value}세", "female": "여성", "male": "남성",
        "age": "나이", "sex": "성별", "stage": "병기", "cancer": "암", "unknown": "모름",
        "slides_given": "슬라이드", "omics_given": "오믹스", "values": "값 {n}개", "data": "데이터",
        "footer": "Clarion {version}이 작성함. 이 문서는 외부에서 아무것도 불러오지 않습니다.",
        "slide": "슬라이드", "omics": "오믹스",
        "gone_slide": "슬라이드: 모델이 없는 슬라이드를 대신하도록 학습한 값을 썼습니다.",
        "gone_tissue": "슬라이드 {n}장 중 {k}번째에는 조직이 보이지 않아 제외했습니다.",
        "gone_omics": "오믹스: 모델이 없는 오믹스를 대신하도록 학습한 값을 썼고 유전자 표는 없었습니다.",
        "gone_genes": "모델의 유전자 {n}개 중 {k}개({names}).",
        "gone_clinical": "임상 정보: {names}.",
        "gone_cancer": "암의 종류({names} 중 하나): 모델에 유전자 표가 제시되지 않았습니다.",
        "look_cancer": "암의 종류가 주어지지 않아 이 모델이 아는 유일한 암({name})으로 보았습니다.",
        "look_scale": "유전자 {n}개 중 {k}개가 학습 환자 평균에서 표준편차의 {sd}배 넘게 벗어나 있습니다. 학습 때와 "
                      "다른 척도(원시 계수, log2, z)일 수 있습니다.",
        "look_validation": "검증 환자들은 보존할 에폭을 고르는 데에도 쓰였으므로 구간이 실제보다 좁을 수 있습니다.",
        "look_lacking": "보정은 검증 환자 전체에 대한 것이며, {n}명 중 {k}명만 이 환자와 같은 자료({names})가 "
                        "없었습니다.",
        "look_beyond": "이 환자의 로그 오즈({own})는 검증 환자들의 범위({low}–{high}) 밖에 있어 보정선을 연장했습니다.",
        "how": "실행의 검증 환자 중 상태가 알려진 환자에서 모델의 로그 오즈에 대한 시점 생존 여부의 로지스틱 "
               "보정(Platt), IPCW 가중; 그 환자들에 대한 부트스트랩 백분위 구간",
        "why_none": "실행에 기록된 검증 환자가 없음",
        "why_few": "{months}개월 상태가 알려진 검증 환자가 {n}명(사망 {deaths}명)뿐이며 사망과 생존이 각각 {least}명 "
                   "이상 필요함",
        "why_separable": "검증 환자의 로그 오즈가 사망과 생존을 겹침 없이 나누어(또는 모두 같아) 유한한 보정선이 없음",
        "why_slope": "검증 환자에서 로그 오즈가 높다고 사망이 많지 않아(기울기 {slope}) 보정할 내용이 없음",
    },
}  # fmt: skip


class Words:
    """words("interval", low=..., high=...) -> the sentence in its language."""

    def __init__(self, language: str):
        self.language, self._own = language, WORDS[language]

    def __call__(self, key: str, **values: object) -> str:
        return self._own[key].format(**values)
