"""What a prognosis had to do without, and what of its inputs a reader should look at, as sentences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from clarion.cancer.prognosis.patient import FAR, NewPatient, off_scale
from clarion.cancer.prognosis.words import Words

OFF_SCALE = 0.2  # share of a patient's genes far from the training's mean from which the scale is doubted
NAMED = 5  # absent genes named


def missing_inputs(
    patient: NewPatient, words: Words, *, tissue: Sequence[bool], genes: Sequence[str], absent: Sequence[str],
    cancers: Sequence[str],
) -> list[str]:  # fmt: skip
    """tissue: whether each slide shows some; genes, absent: "modality:GENE" that the model reads, and those of them
    without a value; cancers: that the model knows."""
    clinical, gone = patient.clinical, []
    if not patient.slides:
        gone.append(words("gone_slide"))
    gone += [words("gone_tissue", k=k + 1, n=len(tissue)) for k, seen in enumerate(tissue) if not seen]
    if patient.omics is None:
        gone.append(words("gone_omics"))
    elif absent:
        names = ", ".join(name.split(":", 1)[1] for name in absent[:NAMED]) + " ..." * (len(absent) > NAMED)
        gone.append(words("gone_genes", k=len(absent), n=len(genes), names=names))
    unknown = [words(f) for f in ("age", "sex", "stage") if clinical[f] == "" or clinical[f] != clinical[f]]
    if unknown:
        gone.append(words("gone_clinical", names=", ".join(unknown)))
    if not clinical["cancer"]:
        gone.append(words("gone_cancer", names=", ".join(cancers)))
    return gone


def doubtful_inputs(
    patient: NewPatient, words: Words, *, assumed: str, rows: Sequence[Mapping[str, Any]], modality: str
) -> list[str]:  # fmt: skip
    """assumed: the cancer that was taken because the model knows one alone, "" where it was given. rows: {gene, mean,
    sd} of the training patients, of `modality`."""
    found = [words("look_cancer", name=assumed)] if assumed else []
    far, compared = off_scale((patient.omics or {}).get(modality, {}), rows)
    if compared and far > OFF_SCALE * compared:
        found.append(words("look_scale", k=far, n=compared, sd=f"{FAR:g}"))
    return found


def unlike_validation(lacking: Collection[str], others: Sequence[Collection[str]], words: Words) -> list[str]:
    """What keeps the validation patients from standing for this one. lacking: modalities that he lacks; others: those
    that each of them lacks."""
    found, own = [words("look_validation")], {"slide", "omics"} & set(lacking)
    if own:
        alike = sum(own <= set(one) for one in others)
        names = ", ".join(words(name) for name in sorted(own))
        found.append(words("look_lacking", k=alike, n=len(others), names=names))
    return found
