"""FusionPatients: settings of prompts and ablations that cannot be are answered before anything is drawn or trained."""

from __future__ import annotations

import pytest

from clarion.cancer.fusion.patients import FusionPatients
from clarion.errors import UsageError


def patients(**options) -> FusionPatients:
    return FusionPatients("cancer_fusion_demo", source="synthetic", synthetic={"patients": 20, "side": 512}, **options)


@pytest.mark.parametrize("prompt, words", [
    ({"language": "kr"}, "data.prompt.language=kr is unknown; choose en or ko"),
    ({"told": 4, "shown": 3}, "told=4 and shown=3; give 1 <= told <= shown"),
    ({"told": 0}, "told=0 and shown=10"),
    ({"months": 0}, "data.prompt.months=0 must be above 0"),
    ({"months": "five years"}, "data.prompt.months=five years: give a number"),
    ({"modality": "cnv"}, "data.prompt.modality=cnv is unknown; choose rna"),
    ({"min_events": 0}, "data.prompt.min_events=0 must be 1 or more"),
    ({"shown": None}, "data.prompt.shown=null: give a whole number"),
    ({"langauge": "en"}, "data.prompt.langauge is unknown; .*`language`"),
])  # fmt: skip
def test_a_wrong_prompt_is_answered(prompt, words):
    with pytest.raises(UsageError, match=words):
        patients(prompt=prompt)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(UsageError, match="(?s)^3 problems:.*told=2.5: give a whole.*language=kr.*months=-1"):
        patients(prompt={"told": 2.5, "language": "kr", "months": -1})


@pytest.mark.parametrize("ablation, words", [
    ({"patients": 0}, "data.ablation.patients=0 must be 1 or more"), ({"texts": -1}, "texts=-1 must be 0 or more"),
    ({"patients": 2.5}, "patients=2.5: give a whole number or null"), ({"text": 1}, "text is unknown; .*`texts`"),
])  # fmt: skip
def test_a_wrong_ablation_is_answered(ablation, words):
    with pytest.raises(UsageError, match=words):
        patients(ablation=ablation)


def test_numbers_in_words_are_numbers():
    found = patients(prompt={"months": 36, "shown": "5"}, ablation={"patients": None})
    assert found.prompt["months"] == 36.0 and found.prompt["shown"] == 5 and found.ablation["patients"] is None
