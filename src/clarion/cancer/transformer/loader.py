"""The patients of a run as a LightningDataModule: table, scaling and genes from the training patients alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from clarion.cancer.cohort import Cohort
from clarion.cancer.lookup import LookupTable
from clarion.cancer.pairs import input_pairs, pairs_per_fold
from clarion.errors import DataError, UsageError

from .heads import bin_edges, censoring_weights, group_logits, locate
from .tokens import Encoder, Facts, QuantileNormal

SCALE = "normal scores by quantiles of the training"


class Patients(Dataset):
    """Whole batches of the arrays of `Encoder.table` and of the outcome."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def __len__(self) -> int:
        return len(self.arrays["value"])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        chosen = torch.as_tensor(indices)
        return {name: array[chosen] for name, array in self.arrays.items()}


class SurvivalTables(L.LightningDataModule):
    """train and val loaders, `facts` (see tokens.Facts) and `tables`: modality -> the LookupTable of the training side.

    train, val: cohorts that share no patient (DataError). genes: tokens of each modality, those of smallest q in any
    cancer of the training patients (pairs.top_genes); null: all. modalities: tokens are made of. bins, horizons
    (months): of the heads; the five-year head's horizon is the last. coefficients=false: values alone, all
    coefficients 0, to see what the pairs bring. options: of cox.fit.

    start: a checkpoint to go on from. Its facts are kept whole: genes, scaling, time bins, coefficients. Refitted genes
    would be other tokens than those its weights know, and a coefficient of d events has a standard error of about
    1 / sqrt(d) (0.5 with 4, 0.2 with 25), as large as most effects: a cancer new to the checkpoint stays "unknown" to
    it, with the pan-cancer mean coefficients, and training adapts the weights that stand for it."""

    def __init__(
        self, train: Cohort, val: Cohort, batch_size: int, seed: int = 0, genes: int | None = 200, num_workers: int = 0,
        modalities: Sequence[str] = ("rna",), bins: int = 8, horizons: Sequence[float] = (36, 60),
        coefficients: bool = True, start: str | Path | None = None, **options: Any,
    ):  # fmt: skip
        super().__init__()
        if not len(train) or not len(val):
            raise DataError("Training needs patients in the train and in the val split.")
        if genes is not None and int(genes) < 1:
            raise UsageError(f"model.datamodule.genes={genes}: at least one gene is needed, null takes all.")
        if int(bins) < 1 or not horizons or min(horizons) <= 0:
            raise UsageError("model.datamodule: bins must be at least 1 and horizons above 0 months.")
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.tables: dict[str, LookupTable] = {}
        if start is not None:
            facts = started_facts(Path(start), train)
        else:
            facts = self._fitted_facts(train, val, genes, modalities, bins, horizons, coefficients, options)
        encoder = Encoder(facts)
        self.splits = {"train": self._arrays(train, encoder), "val": self._arrays(val, encoder)}
        outcome = (self.splits["train"][name] for name in ("place", "share", "event", "label", "weight"))
        if start is None:
            facts = replace(facts, base=group_logits(*outcome, len(facts.edges) - 1))
        self.facts: dict[str, Any] = facts.as_dict()

    def _fitted_facts(self, train, val, genes, modalities, bins, horizons, coefficients, options) -> Facts:
        """Everything that is learned on the training patients but `base`; fills `tables`."""
        made = [self._modality(train, val, m, genes, coefficients, options) for m in modalities]
        age = train.clinical["age"].to_numpy(np.float64)
        age = age[np.isfinite(age)]
        horizons = sorted(float(h) for h in horizons)
        return Facts(
            genes=[g for part in made for g in part["genes"]],
            columns={m: train.omics[m].shape[1] for m in modalities},
            positions=[int(k) for part in made for k in part["positions"]],
            knots=_numbers(np.concatenate([part["knots"] for part in made], axis=1)),
            coef=_numbers(np.concatenate([part["coef"] for part in made], axis=1)),
            source=np.concatenate([part["source"] for part in made], axis=1).tolist(),
            cancers=train.cancers,
            age=[float(age.mean()), max(float(age.std()), 1.0)] if age.size else [0.0, 1.0],
            edges=bin_edges(train.time, train.event, int(bins), horizons),
            horizons=horizons,
            trained_on={"patients": len(train), "events": int(train.event.sum()),
                        "tables": {m: table.digest for m, table in self.tables.items()}},
        )  # fmt: skip

    def _modality(self, train, val, modality, genes, coefficients, options) -> dict[str, Any]:
        """Scaling, table, genes and coefficient rows of one modality, all learned on `train`."""
        train, val = train.with_omics([modality]), val.with_omics([modality])
        values = train.omics[modality]
        if values.columns.has_duplicates:
            raise DataError(f"The {modality} genes come twice; keep one column a gene.")
        scaling = QuantileNormal.fit(values.to_numpy())
        scaled = {}
        for side, part in (("train", train), ("val", val)):
            table = part.omics[modality].reindex(columns=values.columns)
            scaled[side] = pd.DataFrame(scaling.apply(table.to_numpy()), table.index, table.columns)
        whole = Cohort(
            train.name, pd.concat([train.clinical, val.clinical]), {modality: pd.concat(scaled.values())}, train.kind,
            {modality: SCALE},
        )  # fmt: skip
        # values are scaled already, by a form that the checkpoint may hold; evaluated patients are checked in there
        fold = next(
            pairs_per_fold(whole, [(list(train.patients), list(val.patients))], modality=modality, scale=None,
                           genes=None if genes is None else int(genes), **options)
        )  # fmt: skip
        self.tables[modality] = fold.table
        chosen = fold.train.genes
        # one stand-in patient a cancer, the first of a cancer no table knows: the rows of coefficients
        cancers = ["", *train.cancers]
        standin = scaled["train"].iloc[[0] * len(cancers)].set_axis([f"row {k}" for k in range(len(cancers))], axis=0)
        rows = input_pairs(fold.table, standin, cancers, evaluated=False, genes=chosen, scale=SCALE)
        return {
            "genes": [f"{modality}:{gene}" for gene in chosen],
            "positions": values.columns.get_indexer(chosen),
            "knots": scaling.knots[:, values.columns.get_indexer(chosen)],
            "coef": rows.coef * float(coefficients),
            "source": rows.source * int(coefficients),
        }

    @staticmethod
    def _arrays(cohort: Cohort, encoder: Encoder) -> dict[str, np.ndarray]:
        facts = encoder.facts
        values = np.empty((len(cohort), len(facts.genes)), np.float32)
        for modality, at in encoder.parts:
            values[:, at] = cohort.omics[modality].reindex(columns=encoder.names[modality]).to_numpy(np.float32)
        clinical = cohort.clinical
        arrays = encoder.table(values, clinical["cancer"], clinical["age"], clinical["sex"])
        place, share = locate(cohort.time, facts.edges)
        label, weight = censoring_weights(cohort.time, cohort.event, facts.horizons[-1])
        # an event after the last edge is not seen by the bins
        event = (cohort.event & (cohort.time <= facts.edges[-1])).astype(np.float32)
        return arrays | {"place": place, "share": share, "event": event, "label": label, "weight": weight}

    def write_tables(self, folder: Path) -> None:
        """MODALITY.parquet of each table, bound to the training patients; one that lies there already is kept if it is
        the same (a resumed run) and replaced if not."""
        for modality, table in self.tables.items():
            path = folder / f"{modality}.parquet"
            try:
                same = LookupTable.read(path).same_as(table)
            except DataError:
                same = False
            if not same:
                table.write(path)

    # ---- loaders -------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader:
        # the order comes from torch's global generator, which the trainer seeds by (seed, epoch)
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", shuffle=False)

    def _loader(self, split: str, shuffle: bool) -> DataLoader:
        return DataLoader(
            Patients(self.splits[split]), self.batch_size, shuffle=shuffle, num_workers=self.num_workers,
            collate_fn=whole, persistent_workers=self.num_workers > 0, pin_memory=torch.cuda.is_available(),
        )  # fmt: skip


def started_facts(start: Path, train: Cohort) -> Facts:
    """The facts of a checkpoint (its folder, or a file in it) for patients of `train`. UsageError where there are none,
    DataError where these patients lack genes that it knows."""
    path = (start if start.is_dir() else start.parent) / "model.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))["facts"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"model.weights={start}: a checkpoint's model.json belongs beside its weights; give init_from.weights=RUN."
        ) from None
    facts = Facts.of(described)
    columns, positions = {}, []
    for gene in facts.genes:
        modality, name = gene.split(":", 1)
        known = columns.setdefault(modality, train.omics[modality].columns if modality in train.omics else pd.Index([]))
        positions.append(known.get_loc(name) if name in known else -1)
    if absent := [g for g, at in zip(facts.genes, positions, strict=True) if at < 0]:
        raise DataError(f"{len(absent)} of the {len(facts.genes)} genes of the start model are not in these data "
                        f"({', '.join(absent[:5])}); bring them, or train from scratch.")  # fmt: skip
    after = {"continued_on": {"patients": len(train), "events": int(train.event.sum())}}
    lengths = {modality: len(known) for modality, known in columns.items()}
    return replace(facts, columns=lengths, positions=positions, trained_on={**facts.trained_on, **after})


def whole(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Patients hands out whole batches: nothing is left to collate."""
    return batch


def _numbers(array: np.ndarray) -> list[list[float]]:
    """Six significant digits: enough, and short in JSON."""
    return [[float(f"{v:.6g}") for v in row] for row in np.asarray(array, np.float64).tolist()]
