"""Synthetic cases of epiretinal membrane (ERM): measured findings, and questions whose answers follow from them.

Each answer is computed from the case's numbers by a rule written here, so that the truth of every item is known.
Numbers are drawn around published means: prevalence of the Govetto stages 1-4; central foveal thickness,
ectopic inner foveal layer (EIFL) and outer nuclear layer by stage (PMC9524009). The surgery rule belongs to this
demonstration and is no clinical guideline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CASES_VERSION = "1"  # part of the fingerprint: raise it when any text, number or rule below changes

_PREVALENCE = (0.12, 0.22, 0.37, 0.22, 0.07)  # stage 0 (no membrane) plus the four Govetto stages
_THICKNESS_UM = (246.0, 258.0, 346.0, 434.0, 614.0)
_EIFL_UM = (0.0, 0.0, 0.0, 161.0, 362.0)
NORMAL_THICKNESS_UM = 278  # healthy central retinal thickness (PMC5498048)
CIRCLE_MM2 = 28.27  # the 6 mm ETDRS circle
_DENOMINATORS = (20, 25, 32, 40, 50, 63, 80, 100)  # Snellen 20/x


@dataclass(frozen=True)
class Case:
    """The findings of one eye of one patient. Lengths um, areas mm2, vision the Snellen denominator of 20/x."""

    case_id: str
    laterality: str
    membrane: bool
    pit: bool
    eifl_um: int
    disrupted: bool
    thickness_um: int
    area_mm2: float
    vision: int
    distortion: bool
    cataract: bool

    @property
    def stage(self) -> int:
        """Govetto stage from the findings (0: no membrane)."""
        if not self.membrane:
            return 0
        if self.pit:
            return 1
        if self.eifl_um == 0:
            return 2
        return 4 if self.disrupted else 3

    @property
    def surgery(self) -> str:
        """The demonstration's rule: membrane with poor vision (20/40 or worse) or distortion from stage 2 on."""
        wanted = self.membrane and (self.vision >= 40 or (self.distortion and self.stage >= 2))
        if not wanted:
            return "observation"
        return "phacovitrectomy" if self.cataract else "vitrectomy"


def draw_case(case_id: str, seed: int) -> Case:
    """A case from (seed, case_id) alone: adding cases leaves those already drawn as they are."""
    digest = hashlib.blake2b(f"{CASES_VERSION}\0{seed}\0{case_id}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    stage = int(rng.choice(5, p=_PREVALENCE))
    worse = min(7, max(0, stage + int(rng.integers(-1, 3))))
    return Case(
        case_id=case_id,
        laterality=str(rng.choice(["right", "left"])),
        membrane=stage > 0,
        pit=stage <= 1,
        eifl_um=int(round(max(20.0, rng.normal(_EIFL_UM[stage], 0.15 * _EIFL_UM[stage])))) if stage >= 3 else 0,
        disrupted=stage == 4,
        thickness_um=int(round(max(180.0, rng.normal(_THICKNESS_UM[stage], 35.0)))),
        area_mm2=round(float(rng.uniform(2.0, 5.0) + 4.0 * stage), 1) if stage else 0.0,
        vision=_DENOMINATORS[worse],
        distortion=bool(rng.random() < 0.15 + 0.15 * stage),
        cataract=bool(rng.random() < 0.45),
    )


def findings_text(case: Case) -> str:
    """The case as a reader would list it: one finding a clause, with units."""
    membrane = f"present, area {case.area_mm2} mm2" if case.membrane else "absent"
    eifl = f"continuous, {case.eifl_um} um" if case.eifl_um else "absent"
    return "; ".join(
        [
            f"{case.laterality} eye",
            f"epiretinal membrane {membrane}",
            f"foveal pit {'present' if case.pit else 'absent'}",
            f"ectopic inner foveal layers {eifl}",
            f"retinal layers {'disrupted' if case.disrupted else 'distinct'}",
            f"central foveal thickness {case.thickness_um} um",
            f"visual acuity 20/{case.vision}",
            f"metamorphopsia {'yes' if case.distortion else 'no'}",
            f"cataract {'yes' if case.cataract else 'no'}",
        ]
    )


def _stage_answer(case: Case) -> str:
    if case.stage == 0:
        return "There is no epiretinal membrane, so no stage applies."
    why = {
        1: "the foveal pit is preserved",
        2: "the foveal pit is lost without ectopic inner foveal layers",
        3: "continuous ectopic inner foveal layers cross the fovea",
        4: "ectopic inner foveal layers are present and the retinal layers are disrupted",
    }[case.stage]
    return f"Stage {case.stage}: {why}."


def _surgery_answer(case: Case) -> str:
    return {
        "observation": "Observation without surgery.",
        "vitrectomy": "Vitrectomy with membrane peeling.",
        "phacovitrectomy": "Phacovitrectomy with membrane peeling.",
    }[case.surgery]


def _thickness_answer(case: Case) -> str:
    change = case.thickness_um - NORMAL_THICKNESS_UM
    if change == 0:
        return f"The fovea is as thick as normal: {case.thickness_um} um."
    return f"The fovea is {abs(change)} um {'thicker' if change > 0 else 'thinner'} than normal."


def _area_answer(case: Case) -> str:
    return f"The membrane covers {100 * case.area_mm2 / CIRCLE_MM2:.0f} % of the circle."


def _layers_answer(case: Case) -> str:
    return f"Yes, they measure {case.eifl_um} um." if case.eifl_um else "No, there are none."


@dataclass(frozen=True)
class Question:
    """A kind of question: the wordings of each split (no wording is in two splits) and its closed-form answer."""

    kind: str
    answer: Callable[[Case], str]
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


QUESTIONS = (
    Question(
        "stage",
        _stage_answer,
        (
            "Which Govetto stage is this?",
            "What is the stage of the membrane?",
            "Give the Govetto stage and the reason.",
            "How would you stage this eye?",
        ),
        ("Name the Govetto stage of this eye.",),
        ("Which stage does this eye have, and why?",),
    ),
    Question(
        "surgery",
        _surgery_answer,
        (
            "Which surgery do you advise?",
            "What is the treatment plan?",
            "Is surgery needed, and which one?",
            "Which operation fits these findings?",
        ),
        ("What surgery would you plan?",),
        ("Which surgery fits this eye?",),
    ),
    Question(
        "thickness",
        _thickness_answer,
        (
            f"Compare the foveal thickness with the normal {NORMAL_THICKNESS_UM} um.",
            f"How far is the foveal thickness from the normal {NORMAL_THICKNESS_UM} um?",
            f"The normal central thickness is {NORMAL_THICKNESS_UM} um. What is the difference here?",
            f"By how much does the thickness differ from {NORMAL_THICKNESS_UM} um?",
        ),
        (f"What is the difference of the thickness from the normal {NORMAL_THICKNESS_UM} um?",),
        (f"How does the central thickness differ from the normal {NORMAL_THICKNESS_UM} um?",),
    ),
    Question(
        "area",
        _area_answer,
        (
            f"Which share of the 6 mm circle ({CIRCLE_MM2} mm2) does the membrane cover?",
            f"How much of the 6 mm circle ({CIRCLE_MM2} mm2) is covered?",
            f"Give the covered share of the 6 mm circle ({CIRCLE_MM2} mm2) in percent.",
            f"What percentage of the 6 mm circle ({CIRCLE_MM2} mm2) does the membrane take?",
        ),
        (f"What share of the 6 mm circle ({CIRCLE_MM2} mm2) is covered by the membrane?",),
        (f"How large a share of the 6 mm circle ({CIRCLE_MM2} mm2) does the membrane cover?",),
    ),
    Question(
        "layers",
        _layers_answer,
        (
            "Are there ectopic inner foveal layers?",
            "Do you see ectopic inner foveal layers, and how thick are they?",
            "Are ectopic inner foveal layers present? Give their thickness.",
            "Ectopic inner foveal layers: present?",
        ),
        ("Does this eye have ectopic inner foveal layers?",),
        ("Are any ectopic inner foveal layers seen here?",),
    ),
)


def draw_items(split: str, count: int, seed: int, per_case: int | None = None) -> list[dict[str, str]]:
    """`count` items of a split: id, patient_id, question, answer, kind, stage (text).

    Every case answers `per_case` questions of different kinds, all five where None; the kinds take turns over the
    cases, so that count items ask each kind about equally often. Cases of two splits never meet, and neither do
    wordings. The wording of an item depends on (seed, item) alone.
    """
    items = []
    for index in range(count):
        number, turn = divmod(index, per_case or len(QUESTIONS))
        which = index % len(QUESTIONS) if per_case else turn
        case = draw_case(f"{split}-{number:05d}", seed)
        question = QUESTIONS[which]
        wordings = getattr(question, split)
        digest = hashlib.blake2b(f"{seed}\0{split}\0{index}".encode(), digest_size=8).digest()
        wording = wordings[int.from_bytes(digest, "little") % len(wordings)]
        items.append(
            {
                "id": f"{split}-{number:05d}-{question.kind}",
                "patient_id": f"case-{case.case_id}",
                "question": f"Findings: {findings_text(case)}. {wording}",
                "answer": question.answer(case),
                "kind": question.kind,
                "stage": str(case.stage),
            }
        )
    return items
