"""A model's explanation on patients of a split, as one JSON-able document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clarion.cancer.explanation.attribution import BASELINE, Attribution, attribute
from clarion.cancer.explanation.faithful import deletion, planted_genes
from clarion.cancer.explanation.genes import LEVEL, cox_overlap, cox_strength, gene_rows
from clarion.cancer.explanation.stability import spearman
from clarion.cancer.lookup import LookupTable
from clarion.cancer.transformer.network import SurvivalModule
from clarion.errors import ClarionError, DataError
from clarion.samples import Sample

FORMAT = "clarion-explanation/1"
AT_ONCE = (20, 100)  # patients explained at the end of a run: as many as RUN_TOKENS allow
RUN_TOKENS = 6_400_000  # patients x steps x genes: half a minute at width 32 on one core
TABLE_BATCH = 64  # the data's module asks for a batch size; its tables do not depend on it


def explain(
    predictor: Any, data: Any, split: str, patients: int | str | None = "few", *, top: int = 20, steps: int = 32,
    draws: int = 5, n_resamples: int = 500, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Genes of a trained predictor on at most `patients` of a split (spread evenly over cancers; None: all; "few": what
    takes well under a minute, 20 to 100).

    data: of the run (samples, truth, datamodule, planted). steps: of integrated gradients; draws: random choices of
    genes in the deletion check. No patient is named in the document. UsageError for a model that cannot be explained
    by genes, DataError where the data's training patients are not those the model was trained on."""
    every = list(data.samples(split))
    samples = spread_over_cancers(every, _few(predictor, steps) if patients == "few" else patients)
    found = attribute(predictor, samples, steps)
    notes: list[str] = []
    tables = training_tables(predictor, data, found, notes)
    effects = None if data.planted is None else data.planted.effects
    planted = None if effects is None else list(effects.index[effects.ne(0).any(axis=1)])
    genes = gene_rows(found, tables, planted, n_resamples, seed)
    place = {gene: k for k, gene in enumerate(found.genes)}
    order = np.array([place[row["gene"]] for row in genes])
    cox = np.empty(len(order))
    cox[order] = cox_strength(genes)
    truth = data.truth(split).set_index("sample_id").loc[[s.sample_id for s in samples]]
    modalities = {gene.split(":")[0] for gene in found.genes}
    truth_genes = [g for g in planted or () if g.split(":")[0] in modalities]
    return {
        "format": FORMAT,
        "method": found.method,
        "baseline": BASELINE,
        "split": split,
        "patients": len(samples),
        "patients_of_split": len(every),
        "cancers": sorted(set(found.cancers)),
        "genes_read": len(genes),
        "level": LEVEL,
        "n_resamples": n_resamples,
        "top": min(top, len(genes)),
        "completeness": found.completeness(),
        "genes": genes,
        "agreement": _agreement(found, cox if tables else None),
        "cox_overlap": cox_overlap(genes, top),
        "deletion": deletion(found, truth, order, draws, n_resamples, seed),
        "planted": planted_genes(found, np.isin(found.genes, truth_genes), cox, len(truth_genes), n_resamples, seed)
        if tables and planted is not None
        else None,
        "notes": [*notes, *_notes(found, len(every), modalities)],
    }


def spread_over_cancers(samples: Sequence[Sample], most: int | None) -> list[Sample]:
    """At most `most` samples, every cancer by its share, in the order given; always the same ones."""
    if most is None or len(samples) <= most:
        return list(samples)
    by_cancer = sorted(range(len(samples)), key=lambda k: (str(samples[k].inputs.get("cancer") or ""), k))
    kept = {by_cancer[k] for k in np.linspace(0, len(by_cancer) - 1, most).round().astype(int)}
    return [sample for k, sample in enumerate(samples) if k in kept]


def _few(predictor: Any, steps: int) -> int:
    module = getattr(predictor, "module", None)
    genes = len(module.encoder.facts.genes) if isinstance(module, SurvivalModule) else 1
    return int(np.clip(RUN_TOKENS // (genes * steps), *AT_ONCE))


def training_tables(predictor: Any, data: Any, found: Attribution, notes: list[str]) -> dict[str, LookupTable]:
    """modality -> the Cox table of the training patients: fitted again as the network's was, or with the defaults for a
    baseline. Empty, with a note, where the training patients of a baseline give none."""
    module = getattr(predictor, "module", None)
    if isinstance(module, SurvivalModule):
        tables = data.datamodule(batch_size=TABLE_BATCH, **(module.model.get("datamodule") or {})).tables
        known = module.encoder.facts.trained_on.get("tables") or {}
        if any(digest != tables[m].digest for m, digest in known.items()):
            raise DataError(
                "The training patients of this data are not those the model was trained on: explain it with the data "
                "of its run."
            )
        return tables
    modalities = list(dict.fromkeys(gene.split(":")[0] for gene in found.genes))
    try:
        return data.datamodule(batch_size=TABLE_BATCH, genes=1, modalities=modalities).tables
    except ClarionError as error:
        notes.append(f"No Cox table stands beside: {error}")
        return {}


def _agreement(found: Attribution, cox: np.ndarray | None) -> dict[str, float | None]:
    """Spearman's correlation over genes of mean |attribution| with mean attention and with the Cox table's strength."""
    own = np.abs(found.shares).mean(0)
    return {
        "attention": None if found.attention is None else spearman(own, found.attention.mean(0)),
        "cox": None if cox is None else spearman(own, cox),
    }


def _notes(found: Attribution, every: int, modalities: set[str]) -> list[str]:
    notes = [
        "Attributions say what moves this model's risk, not what causes death; co-expressed genes share and swap it.",
        "Intervals are over patients, the trained model held fixed: other folds or seeds vary more (see stability).",
        "The deletion check ranks the genes on the patients it is measured on.",
    ]
    if len(found.patients) < every:
        notes.append(f"{len(found.patients)} of {every} patients are explained, spread evenly over the cancers.")
    if found.attention is not None:
        notes.append("Attention says where the network looks, not which way it is moved: it has no sign.")
    return notes


def importance(document: Mapping[str, Any]) -> dict[str, float]:
    """gene -> mean |attribution|: what `stability` compares."""
    return {row["gene"]: float(row["attribution"]["value"] or 0.0) for row in document["genes"]}
