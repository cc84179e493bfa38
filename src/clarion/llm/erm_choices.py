"""The synthetic ERM cases as multiple-choice questions: the answer follows from the case, so do the wrong options."""

from __future__ import annotations

import hashlib

import numpy as np

from clarion.llm.erm_cases import CIRCLE_MM2, NORMAL_THICKNESS_UM, Case, draw_case, draw_items
from clarion.llm.jsonl import Item

CHOICES_VERSION = "1"  # part of the fingerprint: raise it when an option or a rule below changes

_STAGES = ("No membrane, no stage", "Stage 1", "Stage 2", "Stage 3", "Stage 4")
_SURGERY = {
    "observation": "Observation without surgery",
    "vitrectomy": "Vitrectomy with membrane peeling",
    "phacovitrectomy": "Phacovitrectomy with membrane peeling",
}
_WRONG_SURGERY = "Cataract surgery alone"  # plausible, and never the rule's answer
_STEPS = (0.3, 0.55, 0.8)  # wrong shares of the circle: these parts of the true one, or of what is not covered
_WRONG_CHANGES_UM = (-150, -100, -50, 50, 100, 150)  # beside the true difference from the normal thickness
_EIFL_RANGE_UM = (100, 420)  # a plausible thickness for an eye without ectopic layers

# Wrong options are drawn so that the answer has no place among them (the smallest, the one with a mirror image ...):
# a reader who sees the options alone is to be at chance, but for how often each stage and surgery occurs.


def _stage(case: Case, rng: np.random.Generator) -> tuple[list[str], str]:
    answer = _STAGES[case.stage]
    return [answer, *rng.choice([s for s in _STAGES if s != answer], 3, replace=False)], answer


def _surgery(case: Case, rng: np.random.Generator) -> tuple[list[str], str]:
    return [*_SURGERY.values(), _WRONG_SURGERY], _SURGERY[case.surgery]


def _thickness(case: Case, rng: np.random.Generator) -> tuple[list[str], str]:
    change = case.thickness_um - NORMAL_THICKNESS_UM
    return [_change(change + w) for w in (0, *rng.choice(_WRONG_CHANGES_UM, 3, replace=False))], _change(change)


def _change(um: int) -> str:
    return "As thick as normal" if um == 0 else f"{abs(um)} um {'thicker' if um > 0 else 'thinner'} than normal"


def _area(case: Case, rng: np.random.Generator) -> tuple[list[str], str]:
    share = 100 * case.area_mm2 / CIRCLE_MM2
    answer = f"{share:.0f} %"
    if not share:
        return [answer, "8 %", "21 %", "46 %"], answer
    below = int(rng.integers(4))  # how many of the three wrong shares are smaller than the true one
    wrong = [w * share for w in rng.permutation(_STEPS)[:below]]
    wrong += [share + w * (100 - share) for w in rng.permutation(_STEPS)[: 3 - below]]
    return [answer, *(f"{w:.0f} %" for w in wrong)], answer


def _layers(case: Case, rng: np.random.Generator) -> tuple[list[str], str]:
    measured = case.eifl_um or int(rng.integers(*_EIFL_RANGE_UM))
    options = ["No", f"Yes, {measured} um"]
    return options, options[case.eifl_um > 0]


_OPTIONS = {"stage": _stage, "surgery": _surgery, "thickness": _thickness, "area": _area, "layers": _layers}


def draw_choices(split: str, count: int, seed: int, per_case: int | None = None) -> list[Item]:
    """`count` multiple-choice items of a split over the cases (and patients) of erm_cases.draw_items: id, patient_id,
    question, options (two or four, in an order drawn per item), answer, answer_index, explanation, kind, stage."""
    items = []
    for essay in draw_items(split, count, seed, per_case):
        case = draw_case(essay["patient_id"].removeprefix("case-"), seed)
        digest = hashlib.blake2b(f"{CHOICES_VERSION}\0{seed}\0{essay['id']}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "little"))
        options, answer = _OPTIONS[essay["kind"]](case, rng)
        options = [str(options[k]) for k in rng.permutation(len(options))]
        items.append(
            {
                **essay,
                "id": f"{essay['id']}-choice",
                "options": options,
                "answer": answer,
                "answer_index": options.index(answer),
                "explanation": essay["answer"],
            }
        )
    return items
