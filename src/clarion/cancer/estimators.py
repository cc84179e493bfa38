"""Baselines of survival: what a network must beat, each with fit(X, y) and predict(X) -> risk, higher is worse.

X: a DataFrame, one row a patient, columns "rna:GENE", "cnv:GENE", "mut:GENE" (NaN missing), "age" (years, NaN unknown),
"sex" ("F", "M" or ""), "cancer"; y: a structured array or DataFrame with `time` and `event`. Everything (medians,
ranks, components, the choice of genes, the penalty) is learned from the rows of `fit` alone, and a prediction does not
depend on the other rows of its X. What is learned is held in arrays, numbers and texts, so that it is stored without
pickle. Cox models also say predict_survival(X, times) -> S(t) [n, T], by Breslow's baseline hazard; a score that was
chosen among thousands of genes on the same patients does not: its hazards would be far too extreme.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold

from clarion.cancer.cohort import MODALITIES
from clarion.cancer.cox import fit as fit_genes
from clarion.cancer.cox import fit_model
from clarion.cancer.features import (
    apply_clinical,
    apply_scores,
    breslow,
    gene_columns,
    gene_places,
    learn_clinical,
    learn_scores,
    on_grid,
    outcome,
    partial_loglik,
    survival_at,
    training_scores,
    varying,
)
from clarion.errors import DataError, UsageError

POOLED = ""  # the key of what is learned on all cancers together


class CoxBaseline(BaseEstimator, ABC):
    """Shared by the Cox models: subclasses learn `_learn(X, time, event)` and tell `_log_hazard(X)` [n]."""

    def fit(self, X: pd.DataFrame, y: Any) -> CoxBaseline:
        """Raises DataError without events, or where the model has no finite maximum."""
        time, event = outcome(y, len(X))
        self._learn(X, time, event)
        times, hazard = breslow(self._log_hazard(X), time, event)
        deaths = np.unique(time[event], return_counts=True)[1]
        self.baseline_times_, self.baseline_hazard_ = on_grid(times, hazard, deaths)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Log hazard ratio [n]."""
        return self._log_hazard(X)

    def predict_survival(self, X: pd.DataFrame, times: Sequence[float]) -> np.ndarray:
        """S(t) [n, T] at times in the unit of y; beyond the last event of the training it stays as it is there."""
        return survival_at(self._log_hazard(X), self.baseline_times_, self.baseline_hazard_, times)

    @abstractmethod
    def _learn(self, X: pd.DataFrame, time: np.ndarray, event: np.ndarray) -> None: ...

    @abstractmethod
    def _log_hazard(self, X: pd.DataFrame) -> np.ndarray: ...


class ClinicalCox(CoxBaseline):
    """Cox model of what is known without omics: of "age", "sex", "cancer" (one column for each but the largest).

    Missing ages and sexes get the training's median and mean; cancers of fewer than min_events training events are
    pooled, sex is left out where one sex has fewer; a cancer that was not in the training counts as its average."""

    def __init__(self, columns: Sequence[str] = ("age", "sex", "cancer"), min_events: int = 5):
        self.columns = columns
        self.min_events = min_events

    def _learn(self, X: pd.DataFrame, time: np.ndarray, event: np.ndarray) -> None:
        self.clinical_ = learn_clinical(X, event, self.columns, self.min_events)
        if not self.clinical_["names"]:
            raise DataError(f"Nothing of {', '.join(self.columns)} varies among the training patients: no Cox model.")
        self.coef_ = fit_model(apply_clinical(self.clinical_, X), time, event).coef

    def _log_hazard(self, X: pd.DataFrame) -> np.ndarray:
        return apply_clinical(self.clinical_, X) @ self.coef_


class AgeCox(ClinicalCox):
    """Cox model of age alone. DataError where no training patient has one."""

    def __init__(self):
        super().__init__(("age",))


class RidgeCoxPCs(CoxBaseline):
    """Ridge-penalised Cox model of the first principal components of a modality, with clinical columns unpenalised.

    Genes become rank-normal scores (within: "cancer", each cancer by its own training patients, or None for all
    together), the `most_genes` of largest training variance are kept, and their first `components` are standardised.
    alpha: the penalty alpha/2 |coef|^2 on the log partial likelihood; None: of `alphas`, the best cross-validated
    partial likelihood (Verweij & van Houwelingen 1993) in `folds` parts of the training patients."""

    def __init__(
        self,
        modality: str = "rna",
        components: int = 40,
        clinical: Sequence[str] = ("age", "cancer"),
        alpha: float | None = None,
        alphas: Sequence[float] = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0),
        folds: int = 5,
        within: str | None = "cancer",
        most_genes: int = 5000,
        min_events: int = 5,
        random_state: int | None = None,
    ):
        self.modality, self.components, self.clinical = modality, components, clinical
        self.alpha, self.alphas, self.folds = alpha, alphas, folds
        self.within, self.most_genes, self.min_events, self.random_state = within, most_genes, min_events, random_state

    def _learn(self, X: pd.DataFrame, time: np.ndarray, event: np.ndarray) -> None:
        self.clinical_ = learn_clinical(X, event, self.clinical, self.min_events)
        self.parts_, components = learn_components(X, self.modality, self.components, self.within, self.most_genes,
                                                   self.random_state)  # fmt: skip
        design = np.hstack([apply_clinical(self.clinical_, X), components])
        free = len(self.clinical_["names"])
        self.alpha_ = float(self.alpha) if self.alpha is not None else self._choose(design, free, time, event)
        self.coef_ = _ridge(design, free, time, event, self.alpha_)

    def _log_hazard(self, X: pd.DataFrame) -> np.ndarray:
        return self._design(X) @ self.coef_

    def contributions(self, X: pd.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray]:
        """(columns [p], coefficients [n, p], values [n, p]): their product summed over genes is what the log hazard
        owes to the genes, beyond a patient whose genes all lie in the middle of the training."""
        genes = np.asarray(self.coef_)[len(self.clinical_["names"]) :]
        coef = (genes / self.parts_["sd"]) @ self.parts_["axes"]
        values = apply_scores(self.parts_["scores"], X)
        return list(self.parts_["scores"]["columns"]), np.broadcast_to(coef, values.shape), values

    def _design(self, X: pd.DataFrame) -> np.ndarray:
        return np.hstack([apply_clinical(self.clinical_, X), apply_components(self.parts_, X)])

    def _choose(self, design: np.ndarray, free: int, time: np.ndarray, event: np.ndarray) -> float:
        folds = min(self.folds, int(event.sum()), int((~event).sum()) or int(event.sum()))
        if folds < 2:
            raise DataError("Too few events to choose a ridge penalty: set model.estimator.alpha.")
        parts = list(StratifiedKFold(folds, shuffle=True, random_state=self.random_state).split(design, event))
        gains = []
        for alpha in self.alphas:
            gain = 0.0
            for keep, _ in parts:
                lp = design @ _ridge(design[keep], free, time[keep], event[keep], float(alpha))
                gain += partial_loglik(lp, time, event) - partial_loglik(lp[keep], time[keep], event[keep])
            gains.append(gain)
        return float(self.alphas[int(np.argmax(gains))])


class GradientBoosting(CoxBaseline):
    """Boosted regression trees under Cox's partial likelihood (scikit-survival) on principal components and clinical
    columns; small by default. The fitted trees are kept as arrays."""

    def __init__(
        self,
        modality: str = "rna",
        components: int = 20,
        clinical: Sequence[str] = ("age", "sex", "cancer"),
        trees: int = 100,
        learning_rate: float = 0.05,
        max_depth: int = 2,
        subsample: float = 0.5,
        min_leaf: int = 10,
        within: str | None = "cancer",
        most_genes: int = 5000,
        min_events: int = 5,
        random_state: int | None = None,
    ):
        self.modality, self.components, self.clinical = modality, components, clinical
        self.trees, self.learning_rate, self.max_depth = trees, learning_rate, max_depth
        self.subsample, self.min_leaf = subsample, min_leaf
        self.within, self.most_genes, self.min_events, self.random_state = within, most_genes, min_events, random_state

    def _learn(self, X: pd.DataFrame, time: np.ndarray, event: np.ndarray) -> None:
        self.clinical_ = learn_clinical(X, event, self.clinical, self.min_events)
        self.parts_, components = learn_components(X, self.modality, self.components, self.within, self.most_genes,
                                                   self.random_state)  # fmt: skip
        design = np.hstack([apply_clinical(self.clinical_, X), components])
        self.forest_ = flat_trees(self._boosted(design, time, event))

    def _boosted(self, design: np.ndarray, time: np.ndarray, event: np.ndarray) -> Any:
        from sksurv.ensemble import GradientBoostingSurvivalAnalysis
        from sksurv.util import Surv

        model = GradientBoostingSurvivalAnalysis(
            n_estimators=self.trees, learning_rate=self.learning_rate, max_depth=self.max_depth,
            subsample=self.subsample, min_samples_leaf=self.min_leaf, random_state=self.random_state,
        )  # fmt: skip
        return model.fit(design, Surv.from_arrays(event, time))

    def _log_hazard(self, X: pd.DataFrame) -> np.ndarray:
        return forest_sum(self.forest_, self._design(X))

    def _design(self, X: pd.DataFrame) -> np.ndarray:
        return np.hstack([apply_clinical(self.clinical_, X), apply_components(self.parts_, X)])


class SignScore(BaseEstimator):
    """The coefficient table as a score, nested: the `top` genes of smallest likelihood-ratio p among the training
    patients of his cancer, each with the sign of its coefficient, summed over rank-normal values.

    The score is standardised by the training patients of the cancer. A cancer with fewer than min_events training
    events by the horizon (or none at all) takes the table of all cancers together, a baseline hazard each."""

    def __init__(self, modality: str = "rna", top: int = 50, horizon: float | None = 60.0, min_events: int = 10):
        self.modality, self.top, self.horizon, self.min_events = modality, top, horizon, min_events

    def fit(self, X: pd.DataFrame, y: Any) -> SignScore:
        """Raises DataError without events or where no gene can be fitted."""
        time, event = outcome(y, len(X))
        seen = event if self.horizon is None else event & (time <= self.horizon)
        columns = gene_columns(X, self.modality)
        scores = training_scores(X, columns, "cancer")
        cancer = X["cancer"].astype(str).to_numpy()
        own = [c for c in sorted(set(cancer)) if seen[cancer == c].sum() >= self.min_events]
        self.tables_ = {}
        for key in [POOLED, *own]:
            rows = np.ones(len(X), bool) if key == POOLED else cancer == key
            table = fit_genes(scores[rows], time[rows], event[rows], horizon=self.horizon, min_events=1, threads=1,
                              genes=columns, strata=cancer[rows] if key == POOLED else None)  # fmt: skip
            usable = np.flatnonzero(np.isfinite(table.p_lr))
            best = usable[np.argsort(table.p_lr[usable], kind="stable")][: self.top]
            if not best.size:
                raise DataError(f"No gene of {self.modality} can be fitted on the training patients.")
            names = [columns[k] for k in best]
            # An unseen cancer has no ranks of its own: the pooled ones are learned for it.
            entry = {"scores": learn_scores(X[rows], names, None), "signs": np.sign(table.coef[best])}
            raw = self._sum(entry, X[rows])
            self.tables_[key] = entry | {"mean": float(raw.mean()), "sd": float(raw.std()) or 1.0}
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Score [n] in standard deviations of the training patients of the cancer."""
        cancer = X["cancer"].astype(str).to_numpy()
        risk = np.zeros(len(X))
        known = np.array([c if c in self.tables_ else POOLED for c in cancer], dtype=object)
        for key in set(known):
            entry, rows = self.tables_[key], known == key
            risk[rows] = (self._sum(entry, X[rows]) - entry["mean"]) / entry["sd"]
        return risk

    def contributions(self, X: pd.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray]:
        """As RidgeCoxPCs.contributions; a patient's coefficients are those of his cancer: sign over the score's sd."""
        cancer = X["cancer"].astype(str).to_numpy()
        known = np.array([c if c in self.tables_ else POOLED for c in cancer], dtype=object)
        used = [self.tables_[key] for key in sorted(set(known))]
        columns = list(dict.fromkeys(c for entry in used for c in entry["scores"]["columns"]))
        place = {c: k for k, c in enumerate(columns)}
        coef, values = np.zeros((len(X), len(columns))), np.zeros((len(X), len(columns)))
        for key in set(known):
            entry, rows = self.tables_[key], np.flatnonzero(known == key)
            at = np.ix_(rows, [place[c] for c in entry["scores"]["columns"]])
            values[at] = apply_scores(entry["scores"], X.iloc[rows])
            coef[at] = np.asarray(entry["signs"]) / entry["sd"]
        return columns, coef, values

    @staticmethod
    def _sum(entry: Mapping[str, Any], X: pd.DataFrame) -> np.ndarray:
        return apply_scores(entry["scores"], X) @ entry["signs"]


# ---- principal components ------------------------------------------------------------------------------------


def learn_components(
    X: pd.DataFrame, modality: str, components: int, within: str | None, most_genes: int, seed: int | None
) -> tuple[dict[str, Any], np.ndarray]:
    """({"scores", "mean" [p], "axes" [k, p], "sd" [k]} of the rank-normal genes of a modality, the components of the
    training patients by their exact scores [n, k])."""
    columns = gene_columns(X, modality)
    columns = [columns[k] for k in varying(X[columns].to_numpy(np.float32), int(most_genes))]
    if not columns:
        raise DataError(f"No gene of {modality} varies among the training patients.")
    scores = learn_scores(X, columns, within)
    values = training_scores(X, columns, within)
    count = min(int(components), len(columns), len(X) - 1)
    if count < 1:
        raise UsageError(f"model.estimator.components={components} must be at least 1, on 2 patients or more.")
    pca = PCA(count, random_state=seed).fit(values)
    # Genes that are copies of one another leave components of nothing but rounding.
    kept = pca.explained_variance_ > 1e-9 * pca.explained_variance_[0]
    parts = {"scores": scores, "mean": pca.mean_, "axes": pca.components_[kept],
             "sd": np.sqrt(pca.explained_variance_[kept])}  # fmt: skip
    return parts, (values - parts["mean"]) @ parts["axes"].T / parts["sd"]


def apply_components(parts: Mapping[str, Any], X: pd.DataFrame) -> np.ndarray:
    """Standardised components [n, k]."""
    return (apply_scores(parts["scores"], X) - parts["mean"]) @ parts["axes"].T / parts["sd"]


def _ridge(design: np.ndarray, free: int, time: np.ndarray, event: np.ndarray, alpha: float) -> np.ndarray:
    """Coefficients [d]; the first `free` columns have no penalty worth the name (they need one to exist always)."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    penalty = np.full(design.shape[1], alpha)
    penalty[:free] = 1e-3
    try:
        model = CoxPHSurvivalAnalysis(alpha=penalty, ties="efron").fit(design, Surv.from_arrays(event, time))
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise DataError(f"The ridge Cox model cannot be fitted with alpha={alpha:g}: {error}.") from None
    return np.asarray(model.coef_, dtype=np.float64)


# ---- trees as arrays -----------------------------------------------------------------------------------------


def flat_trees(model: Any) -> dict[str, np.ndarray]:
    """Trees of a fitted booster as arrays [trees, nodes]: feature (-1 in a leaf), threshold, left, right, value."""
    trees = [t.tree_ for t in np.ravel(model.estimators_)]
    shape = (len(trees), max(t.node_count for t in trees))
    out = {"feature": np.full(shape, -1), "left": np.zeros(shape, int), "right": np.zeros(shape, int),
           "threshold": np.zeros(shape), "value": np.zeros(shape)}  # fmt: skip
    for k, tree in enumerate(trees):
        n = tree.node_count
        out["feature"][k, :n] = np.where(tree.children_left < 0, -1, tree.feature)
        out["left"][k, :n], out["right"][k, :n] = tree.children_left, tree.children_right
        out["threshold"][k, :n], out["value"][k, :n] = tree.threshold, tree.value[:, 0, 0] * model.learning_rate
    return out


def forest_sum(forest: Mapping[str, np.ndarray], design: np.ndarray) -> np.ndarray:
    """Sum of the trees' values [n]."""
    design = np.asarray(design, dtype=np.float32)  # as scikit-learn compares: a threshold lies between float32 values
    rows = np.arange(len(design))
    total = np.zeros(len(design))
    for k in range(len(forest["feature"])):
        node = np.zeros(len(design), int)
        while (inner := forest["feature"][k, node] >= 0).any():
            column = np.maximum(forest["feature"][k, node], 0)
            low = design[rows, column] <= forest["threshold"][k, node]
            node = np.where(inner, np.where(low, forest["left"][k, node], forest["right"][k, node]), node)
        total += forest["value"][k, node]
    return total


# ---- samples to rows -----------------------------------------------------------------------------------------


def patient_rows(inputs: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """The X of patients from the inputs of their samples (omics {modality: [genes]}, age, sex, cancer).

    columns: those of the training. Where the inputs name their genes (genes {modality: names}) the columns are found by
    name, absent ones missing; else the arrays are in the order of the training. DataError where the modalities, numbers
    of genes or names differ from the training's."""
    genes = {m: sum(c.startswith(f"{m}:") for c in columns) for m in MODALITIES}
    blocks = []
    for modality in dict.fromkeys(c.split(":")[0] for c in columns if ":" in c):
        arrays = _named_arrays(inputs, modality, [c.split(":", 1)[1] for c in columns if c.startswith(f"{modality}:")])
        if found := sorted({a.size for a in arrays} - {genes[modality]}):
            raise DataError(
                f"A patient has {found[0]} genes of {modality}, the estimator was fitted on {genes[modality]}: "
                "give the genes of the training, in its order."
            )
        blocks.append(np.stack(arrays))
    named = [c for c in columns if ":" in c]
    table = pd.DataFrame(np.hstack(blocks) if blocks else np.zeros((len(inputs), 0)), columns=named)
    clinical = {c: [row[c] for row in inputs] for c in columns if ":" not in c}
    return pd.concat([table, pd.DataFrame(clinical)], axis=1)[list(columns)]


def _named_arrays(inputs: Sequence[Mapping[str, Any]], modality: str, wanted: list[str]) -> list[np.ndarray]:
    """A float32 array a patient, arranged by name where names are given."""
    arrays, last, place = [], None, None
    for row in inputs:
        if row["omics"] is None:  # a patient of whom only a slide is there: all genes are missing
            arrays.append(np.full(len(wanted), np.nan, dtype=np.float32))
            continue
        given = np.asarray(row["omics"].get(modality, ()), dtype=np.float32)
        named = (row.get("genes") or {}).get(modality)
        if named is not None and given.size == len(named):
            if named is not last:
                last, place = named, gene_places(named, wanted, range(len(wanted)), modality)
            given = np.where(place < 0, np.float32(np.nan), given[place])
        arrays.append(given)
    return arrays
