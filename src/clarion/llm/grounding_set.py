"""Open-book and closed-book questions over synthetic ERM cases, each with the facts that its answer must rest on.

Open book: the findings stand in the question. Closed book: a question of knowledge, whose facts are withheld from the
prompt and kept as the source against which claims are checked.
"""

from __future__ import annotations

import pandas as pd

from clarion.errors import UsageError
from clarion.llm.erm_cases import CASES_VERSION, draw_case, draw_items, findings_text
from clarion.llm.jsonl import Item
from clarion.llm.prompts import OPHTIMUS_SYSTEM
from clarion.llm.qa import SPLITS, QaData

GROUNDING_VERSION = "1"  # raise when a fact or wording below changes

# (fact, wordings of train, val and test, answer): what the demonstration's own rules say (clarion.llm.erm_cases).
FACTS: tuple[tuple[str, str, str, str, str], ...] = (
    ("Govetto stage 1: membrane present, foveal pit present.", "What is Govetto stage 1?",
     "Define stage 1 of the Govetto scheme.", "Which eyes are in Govetto stage 1?",
     "Stage 1: the membrane is present and the foveal pit is preserved."),
    ("Govetto stage 2: membrane present, foveal pit absent, no ectopic inner foveal layers.",
     "What is Govetto stage 2?", "Define stage 2 of the Govetto scheme.", "Which eyes are in Govetto stage 2?",
     "Stage 2: the foveal pit is lost without ectopic inner foveal layers."),
    ("Govetto stage 3: continuous ectopic inner foveal layers, foveal pit absent.", "What is Govetto stage 3?",
     "Define stage 3 of the Govetto scheme.", "Which eyes are in Govetto stage 3?",
     "Stage 3: continuous ectopic inner foveal layers cross the fovea."),
    ("Govetto stage 4: ectopic inner foveal layers present, retinal layers disrupted, foveal pit absent.",
     "What is Govetto stage 4?", "Define stage 4 of the Govetto scheme.", "Which eyes are in Govetto stage 4?",
     "Stage 4: ectopic inner foveal layers are present and the retinal layers are disrupted."),
    ("The normal central foveal thickness is 278 um.", "What is the normal central foveal thickness?",
     "How thick is a normal fovea?", "Give the thickness of a normal fovea.",
     "The normal central foveal thickness is 278 um."),
    ("The 6 mm ETDRS circle has an area of 28.27 mm2.", "What is the area of the 6 mm ETDRS circle?",
     "How large is the 6 mm circle?", "Give the area of the ETDRS circle of 6 mm.",
     "The 6 mm circle has an area of 28.27 mm2."),
    ("Surgery: epiretinal membrane and visual acuity of 20/40 or worse. Vitrectomy with membrane peeling.",
     "Which surgery is done for an epiretinal membrane?", "How is an epiretinal membrane operated on?",
     "What is the operation for an epiretinal membrane with poor vision?", "Vitrectomy with membrane peeling."),
    ("With cataract the vitrectomy becomes a phacovitrectomy with membrane peeling.",
     "Which surgery is done for an epiretinal membrane with cataract?",
     "How is an epiretinal membrane with cataract operated on?",
     "What is the operation for an epiretinal membrane and a cataract?", "Phacovitrectomy with membrane peeling."),
)  # fmt: skip


class GroundingData(QaData):
    """Questions whose answers can be checked against facts (task generation, kind phantom).

    train, val, test: open-book items; every split also holds the closed-book ones in its own wordings. `truth` has the
    facts as `context`; kind is open_book or closed_book. The rest: QaData.
    """

    def __init__(
        self,
        name: str = "erm_grounding",
        root: None = None,
        seed: int = 0,
        kind: str = "phantom",
        train: int = 400,
        val: int = 50,
        test: int = 100,
        system: str | None = OPHTIMUS_SYSTEM,
        fold: int | None = None,
    ):
        super().__init__(name, kind, seed, system, fold=fold)
        if root is not None:
            raise UsageError(f"data={name} is generated; leave data.root=null.")
        if min(train, val, test) < 1:
            raise UsageError("data.train, data.val and data.test must each be at least 1.")
        self.sizes = {"train": train, "val": val, "test": test}
        self.recipe = {"recipe": CASES_VERSION, "grounding": GROUNDING_VERSION}

    def source(self) -> str:
        return f"synthetic ERM cases, seed {self.seed}, with their findings, and the rules that they follow"

    def load(self) -> dict[str, list[Item]]:
        items: dict[str, list[Item]] = {}
        for place, split in enumerate(SPLITS):
            opened = []
            for item in draw_items(split, self.sizes[split], self.seed):
                case = draw_case(item["patient_id"].removeprefix("case-"), self.seed)
                opened.append({**item, "kind": "open_book", "topic": item["kind"], "grounds": findings_text(case)})
            closed = [
                {
                    "id": f"{split}-fact-{number}", "patient_id": f"fact-{split}-{number}", "question": fact[1 + place],
                    "answer": fact[4], "kind": "closed_book", "topic": "knowledge", "grounds": fact[0],
                }
                for number, fact in enumerate(FACTS)
            ]  # fmt: skip
            items[split] = opened + closed
        return items

    def truth(self, split: str) -> pd.DataFrame:
        """As QaData.truth, with `context`: the facts that an answer must rest on."""
        table = super().truth(split)
        return table.assign(context=[item["grounds"] for item in self.items[split]])
