"""FusionPatients: patients with slide, omics and survival, as a fused language model is trained on and asked about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.cohort import MODALITIES
from clarion.cancer.fusion.ablation import ablate
from clarion.cancer.fusion.prompts import Prompter
from clarion.cancer.patients.datasets import SlidePatients
from clarion.cancer.rationale.rationale import LANGUAGES
from clarion.cancer.swin.settings import typed
from clarion.cancer.transformer.heads import MOST_WEIGHT
from clarion.config import nearest, numbered
from clarion.data.integrity import IntegrityReport
from clarion.errors import DataError, UsageError
from clarion.evaluators.survival_curves import censoring

PROMPT = {"modality": "rna", "shown": 10, "told": 3, "months": 60.0, "language": "en", "min_events": 10}
ABLATION = {"patients": 24, "texts": 0}


class FusionPatients(SlidePatients):
    """SlidePatients with prompts. prompt: {modality, shown, told (genes in prompt and rationale), months (horizon),
    language (of the rationale), min_events (of the Cox table)}; ablation: {patients: how many of the test are predicted
    with inputs zeroed and shuffled, texts: how many of them also write}. Everything else: SlidePatients.

    The unimodal models that the fusion starts from are trained on this very data: same patients, same splits."""

    def __init__(
        self, *args: Any, prompt: Mapping[str, Any] | None = None, ablation: Mapping[str, Any] | None = None,
        **options: Any,
    ):  # fmt: skip
        super().__init__(*args, **options)
        self.prompt, self.ablation = PROMPT | dict(prompt or {}), ABLATION | dict(ablation or {})
        for name, given, known in (("prompt", self.prompt, PROMPT), ("ablation", self.ablation, ABLATION)):
            if strange := sorted(set(given) - set(known)):
                hint = nearest(str(strange[0]), known)
                raise UsageError(f"data.{name}.{strange[0]} is unknown; it has {', '.join(known)}.{hint}")
        measured = ["rna"] if self.recipe is not None else self.modalities or MODALITIES
        self.prompt, self.ablation = _checked_prompt(self.prompt, measured), _checked_ablation(self.ablation)

    @cached_property
    def prompter(self) -> Prompter:
        """Fitted on the training patients; refuses val and test patients among them."""
        others = [p for split, ids in self.splits.items() if split != "train" for p in ids]
        return Prompter.fit(self.cohort("train"), others, **self.prompt)

    def outcomes(self, split: str) -> pd.DataFrame:
        """Index sample id: died (1.0 by the horizon, 0.0 known to live longer, NaN censored before) and weight, the
        inverse probability of not being censored before (IPCW), from the training patients' follow-up; 0 where died is
        NaN: whoever's outcome is unknown is not in the loss of the statement, the others stand for them."""
        months, part, train = self.prompt["months"], self.cohort(split), self.cohort("train")
        step = censoring(train.time, train.event)
        g = np.r_[1.0, step.value]
        before = g[np.searchsorted(step.time, part.time, side="left")]
        at = g[np.searchsorted(step.time, months, side="right")]
        died = self.status(split, months)
        with np.errstate(divide="ignore"):
            weight = np.where(died == 1, 1 / before, np.where(died == 0, 1 / at, 0.0))
        found = pd.DataFrame({"died": died, "weight": np.minimum(weight, MOST_WEIGHT)}, died.index)
        if split == "train" and not {0.0, 1.0} <= set(found["died"].dropna()):
            raise DataError(f"Everybody in the training split whose status at {months:g} months is known has the same "
                            "outcome: there is nothing to learn; take other splits or data.prompt.months.")  # fmt: skip
        return found

    def truth(self, split: str) -> pd.DataFrame:
        """SlidePatients.truth and `facts`: what a text may state of the patient (JSON, for the fact check; the tissue
        attended to comes with the predictions); of synthetic patients with a slide also `tissue`: JSON {kind: share of
        its tissue, as planted}."""
        table = super().truth(split)
        given = {s.sample_id: self.prompter.facts(s.inputs, s.sample_id).to_json() for s in self.samples(split)}
        table = table.assign(facts=table["sample_id"].map(given))
        if self.planted is None:
            return table
        return table.assign(tissue=[self._planted_tissue(p) if self._paths[p] else None for p in table["patient_id"]])

    def _planted_tissue(self, patient: str) -> str:
        shares = {kind: round(float(share), 4) for kind, share in self.planted.shares.loc[patient].items()}
        return json.dumps(shares | {"stroma": round(1 - sum(shares.values()), 4)})

    def check(self) -> IntegrityReport:
        """SlidePatients.check, and that the labels of tissue can be read (before hours of training)."""
        report = super().check()
        self.tissue_labels("train")
        return report

    def card(self) -> dict[str, Any]:
        """The card with the prompts' genes and whose outcome trains the statement."""
        card, known = super().card(), self.outcomes("train")["died"].notna()
        card["prompt"] = {
            **self.prompt,
            "genes": {c: [r["gene"] for r in rows[: self.prompter.shown]] for c, rows in self.prompter.genes.items()},
            "fitted_on": {"split": "train", "patients": self.prompter.patients, "digest": self.prompter.digest},
            "statement_trained_on": int(known.sum()),
            "statement_left_out_censored": int((~known).sum()),
        }
        return card

    def explain(self, predictor: Any, split: str, *args: Any, **options: Any) -> dict[str, Any]:
        """For a fused model: what its answers depend on (`ablation.ablate`); else as SlidePatients."""
        if not hasattr(predictor, "fused"):
            return super().explain(predictor, split, *args, **options)
        return ablate(predictor, list(self.samples(split)), seed=self.plan.seed, **self.ablation)


def _checked_prompt(given: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    """data.prompt with its values of the right type. UsageError with all that is wrong: hours lie between it and the
    first prompt that is written."""
    kinds = {"modality": "str", "shown": "int", "told": "int", "months": "float", "language": "str",
             "min_events": "int"}  # fmt: skip
    found, problems = _typed(given, kinds, "data.prompt")
    chosen = {name: found.get(name) for name in PROMPT}
    for name, known in (("modality", modalities), ("language", LANGUAGES)):
        if chosen[name] is not None and chosen[name] not in known:
            problems.append(f"data.prompt.{name}={chosen[name]} is unknown; choose {' or '.join(known)}."
                            f"{nearest(chosen[name], known)}")  # fmt: skip
    if None not in (chosen["told"], chosen["shown"]) and not 1 <= chosen["told"] <= chosen["shown"]:
        problems.append(f"data.prompt: told={chosen['told']} and shown={chosen['shown']}; give 1 <= told <= shown.")
    if chosen["months"] is not None and chosen["months"] <= 0:
        problems.append(f"data.prompt.months={chosen['months']:g} must be above 0.")
    if chosen["min_events"] is not None and chosen["min_events"] < 1:
        problems.append(f"data.prompt.min_events={chosen['min_events']} must be 1 or more.")
    if problems:
        raise UsageError(numbered(problems))
    return found


def _checked_ablation(given: Mapping[str, Any]) -> dict[str, Any]:
    found, problems = _typed(given, {"patients": "int | None", "texts": "int"}, "data.ablation")
    for name, least in (("patients", 1), ("texts", 0)):
        if found.get(name) is not None and found[name] < least:
            problems.append(f"data.ablation.{name}={found[name]} must be {least} or more.")
    if problems:
        raise UsageError(numbered(problems))
    return found


def _typed(given: Mapping[str, Any], kinds: Mapping[str, str], where: str) -> tuple[dict[str, Any], list[str]]:
    """(the values that are of their kind, a sentence on each other one)."""
    found, problems = {}, []
    for name, value in given.items():
        try:
            found[name] = typed(value, kinds[name], f"{where}.{name}")
        except UsageError as error:
            problems.append(str(error))
    return found, problems
