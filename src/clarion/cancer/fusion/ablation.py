"""Does an answer depend on its inputs? Each one zeroed, withheld, or another patient's: what changes of the answer.

slide, omics     the embeddings behind the soft tokens: zeroed (the mean training patient), shuffled (another
                 patient's), withheld (the learned vector of a missing modality; the prompt says so; its words leave
                 it too: the genes with the omics, the tissue with the slide)
genes, patterns, clinical
                 the words of the prompt: shuffled (another patient's), withheld

Zeroing or shuffling an embedding leaves the words as they are, and the other way round: what the model reads by soft
tokens is told apart from what it reads as words. Patterns are the tissue attended to; genes and patterns are shuffled
only between patients of whom the prompt names some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from clarion.data.splits import patient_order
from clarion.evaluators.bootstrap import bootstrap, entry

FORMAT = "clarion-modality-ablation/1"
ABLATIONS = (
    "slide_zeroed", "slide_shuffled", "slide_withheld", "omics_zeroed", "omics_shuffled", "omics_withheld",
    "genes_shuffled", "genes_withheld", "patterns_shuffled", "patterns_withheld", "clinical_shuffled",
    "clinical_withheld",
)  # fmt: skip
# words of the prompt -> facts they are, and what each is once withheld
WORDS = {"genes": {"genes": ()}, "patterns": {"patterns": ()}, "clinical": {"age": None, "sex": "", "stage": ""}}
OF_MODALITY = {"omics": "genes", "slide": "patterns"}
METHODS = {
    "probability_changed_by": "mean |change of the probability of survival|",
    "answers_flipped": "share of patients whose more probable statement becomes the other one",
    "texts_changed": "share of written texts that differ from the unchanged one",
}


def ablated(inputs: Sequence[Any], what: str, donors: Sequence[int], average: Any) -> list[Any | None]:
    """Inputs (FusedInput: facts, embeddings) under one of ABLATIONS, None where it does not apply (the patient lacks
    the input, or has nothing else). donors: index of the patient whose input shuffling takes; average(modality) -> the
    mean embedding of the training."""
    part, _, how = what.partition("_")
    return [_one(one, inputs[donors[k]], part, how, average) for k, one in enumerate(inputs)]


def _one(one: Any, other: Any, part: str, how: str, average: Any) -> Any | None:
    own = one.embeddings
    if part in ("slide", "omics"):
        if part not in own or (how == "shuffled" and part not in other.embeddings):
            return None
        if how == "withheld":
            if len(own) < 2:
                return None
            gone = WORDS[OF_MODALITY[part]]
            facts = replace(one.facts, missing=tuple(sorted({*one.facts.missing, part})), **gone)
            return replace(one, facts=facts, embeddings={n: e for n, e in own.items() if n != part})
        vector = other.embeddings[part] if how == "shuffled" else average(part)
        return replace(one, embeddings={**own, part: vector})
    given = [bool(getattr(facts, name)) for facts in (one.facts, other.facts) for name in WORDS[part]]
    if part in OF_MODALITY.values() and how == "shuffled" and not all(given):
        return None  # taken from or given to somebody who has none, they would be withheld
    changed = WORDS[part] if how == "withheld" else {name: getattr(other.facts, name) for name in WORDS[part]}
    facts = replace(one.facts, **changed)
    return None if facts == one.facts else replace(one, facts=facts)


def predict_ablated(
    predictor: Any, samples: Sequence[Any], seed: int = 0, patients: int | None = None, texts: int = 0,
    ablations: Sequence[str] = ABLATIONS,
) -> pd.DataFrame:  # fmt: skip
    """One row a sample and ablation (and "none"): sample_id, patient_id, ablation, probability, risk, text (None where
    none was written).

    predictor: of a fused model (`inputs`, `answer`, `average`). patients: at most so many, chosen by seed; texts: of
    how many of them a text is written too. Another patient's input is that of the next one in a seeded order."""
    order = patient_order([s.sample_id for s in samples], seed)
    place = {sample_id: k for k, sample_id in enumerate(order)}
    chosen = sorted(samples, key=lambda s: place[s.sample_id])[: patients or len(samples)]
    inputs = predictor.inputs(chosen)
    donors = [(k + 1) % len(inputs) for k in range(len(inputs))]
    rows = []
    for what in ("none", *ablations):
        if what.endswith("shuffled") and len(inputs) < 2:
            continue
        changed = list(inputs) if what == "none" else ablated(inputs, what, donors, predictor.average)
        for begin, end, write in ((0, texts, True), (texts, len(inputs), False)):
            part = [one for one in changed[begin:end] if one is not None]
            for one, values in zip(part, predictor.answer(part, text=write) if part else [], strict=True):
                rows.append({"sample_id": one.sample_id, "patient_id": one.patient_id, "ablation": what,
                             "probability": values["probability"], "risk": values["risk"],
                             "text": values.get("text")})  # fmt: skip
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame, seed: int = 0, n_resamples: int = 1000, level: float = 0.95) -> dict[str, dict]:
    """ablation -> metrics of METHODS as {value, low, high, n, ...}, intervals by bootstrap over patients."""
    plain = table[table["ablation"] == "none"].set_index("sample_id")
    found = {}
    for what, rows in table[table["ablation"] != "none"].groupby("ablation", sort=False):
        before = plain.loc[rows["sample_id"]]
        values = {
            "probability_changed_by": np.abs(rows["probability"].to_numpy() - before["probability"].to_numpy()),
            "answers_flipped": (rows["probability"].to_numpy() >= 0.5) != (before["probability"].to_numpy() >= 0.5),
            "texts_changed": rows["text"].to_numpy() != before["text"].to_numpy(),
        }
        written = rows["text"].notna().to_numpy()
        found[str(what)] = {}
        for name, each in values.items():
            kept = written if name == "texts_changed" else np.ones(len(rows), bool)
            if kept.any():
                found[str(what)][name] = _mean(each[kept].astype(float), rows["patient_id"].to_numpy()[kept], name,
                                               n_resamples, seed, level)  # fmt: skip
    return found


def _mean(each: np.ndarray, patients: np.ndarray, name: str, n_resamples: int, seed: int, level: float) -> dict:
    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {name: weights @ each / weights.sum(1)}

    interval = bootstrap(statistic, patients, n_resamples, seed, level)[name]
    return entry(interval, len(each), len(set(patients)), f"{METHODS[name]}; percentile bootstrap over patients")


def ablate(
    predictor: Any, samples: Sequence[Any], seed: int = 0, patients: int | None = None, texts: int = 0
) -> dict[str, Any]:
    """What a run keeps as explanation.json: format, patients, metrics (`summarise`), rows (`predict_ablated`)."""
    table = predict_ablated(predictor, samples, seed, patients, texts)
    metrics: Mapping[str, dict] = summarise(table, seed)
    return {
        "format": FORMAT,
        "patients": int(table["patient_id"].nunique()),
        "metrics": metrics,
        "rows": table.astype(object).where(table.notna(), None).to_dict("records"),
        "notes": ["Zeroed is the mean training patient, shuffled another patient's, withheld the learned vector of a "
                  "missing modality. An input whose change leaves the answers alone is not read."],
    }  # fmt: skip
