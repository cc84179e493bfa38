"""Predicted survival scored under censoring: discrimination, calibration, risk groups, beside age and Kaplan-Meier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError, UsageError
from clarion.evaluators import survival_curves as sc
from clarion.evaluators.bootstrap import Interval, bootstrap, entry, wilson
from clarion.evaluators.join import join
from clarion.evaluators.subgroups import subgroups
from clarion.evaluators.survival_comparison import compare
from clarion.evaluators.survival_measures import Cohort, Horizon, Measures, gain
from clarion.evaluators.survival_scores import Concordance, cases_and_controls
from clarion.evaluators.survival_tables import numbers, outcome, predicted_survival, texts

OVER = "percentile bootstrap over patients"
RESERVED = ("time", "event", "age", "slide_ids", "facts", "tissue")
MOST_STRATA = 64  # cancers that get a subgroup each, however few values other columns may have
MISSING_AGE = 0.2  # share of patients without an age from which age is no baseline
METHODS = {
    "c_index": "Harrell's c-index over all comparable pairs, ties in risk half (0.5 chance, 1 best)",
    "c_index_within": "Harrell's c-index over pairs inside one {within} only, pooled",
    "c_index_uno": "Uno's c-index, pairs weighted 1/G(t)^2, events before {tau:g} {unit}",
    "auc_naive": "plain area under the ROC curve among patients whose status is known then; those censored before are "
    "dropped, which biases it",
    "auc": "cumulative/dynamic area under the ROC curve, events weighted 1/G(t)",
    "label_known": "share of patients whose status is known then; Wilson interval",
    "brier": "Brier score of predicted survival, IPCW (0 best, 0.25 for saying one half)",
    "integrated_brier": "Brier score integrated over the predicted times, trapezoid rule, IPCW",
    "calibration_slope": "slope of IPCW logistic recalibration (1 best, below: too extreme)",
    "calibration_intercept": "calibration in the large, log odds (0 best, above: risk is underestimated), IPCW",
    "calibration_error": "mean |Kaplan-Meier - prediction| over groups of neighbouring predictions",
    "calibration_ratio": "observed (Kaplan-Meier) / mean predicted risk (1 best)",
    "c_index_gain_over": "Harrell's c-index minus that of the baseline on the same resamples{inside}; beside it the "
    "baseline's own c-index over the same pairs",
}
GAIN = "c_index_gain_over_"


class SurvivalEvaluator:
    """Scores of survival predictions; `evaluate` returns the dict described in CONTRIBUTING.

    horizons: times at which status is asked, in time_unit; tau: Uno's c-index counts events before it (None: the last
    horizon). risk_groups: Kaplan-Meier groups, 2 (median) to 5. within: column whose groups alone make pairs in
    c_index_within_...; censoring_by: a column, to fit the censoring distribution in each of its groups. n_resamples,
    level, most_values: see DetectionEvaluator.
    """

    def __init__(
        self, task: str = "survival", horizons: Sequence[float] = (36, 60), time_unit: str = "months",
        tau: float | None = None, risk_groups: int = 2, within: str = "cancer", censoring_by: str | None = None,
        n_resamples: int = 1000, level: float = 0.95, most_values: int = 12, name: str = "survival",
    ):  # fmt: skip
        times = sorted({float(h) for h in horizons})
        if not times or times[0] <= 0:
            raise UsageError(f"evaluator horizons={list(horizons)} must be times above 0, such as [36,60].")
        if not 2 <= int(risk_groups) <= 5:
            raise UsageError(f"evaluator risk_groups={risk_groups} must lie between 2 and 5.")
        self.task, self.name, self.unit = task, name, time_unit
        self.horizons = [Horizon(t, f"_{t:g}{time_unit[:1]}") for t in times]
        self.tau = times[-1] if tau is None else float(tau)
        self.risk_groups, self.within, self.censoring_by = int(risk_groups), within, censoring_by
        self.n_resamples, self.level, self.most_values = int(n_resamples), float(level), int(most_values)

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id, risk (higher is worse), optional survival and times (lists: S(t) at t);
        truth: time, event, optional age, cancer and columns that make subgroups; context: seed, train_truth (time,
        event of the training patients, for IPCW) or None, times (instead of the column), baselines ({name: predictions
        of another model}) or None, baseline_notes (sentences on those that are absent). The gain over each baseline
        stands in `metrics`, the baseline's own c-index under the same name in `baseline`."""
        notes: list[str] = []
        context = _with_training(context)
        predictions, truth = join(predictions, truth, ["risk"], ["time", "event"])
        cohort = self.cohort(truth, context, notes)
        patients, seed = truth["patient_id"].to_numpy(), int(context.get("seed") or 0)
        notes.insert(0, self._who(cohort, patients))
        measures = self.measures(cohort, predictions, context)
        others = self._baselines(truth, context, notes)
        gains = gain(cohort, measures.risk, others)
        stat = measures.statistic()

        def everything(weights: np.ndarray) -> dict[str, np.ndarray]:
            return stat(weights) | {GAIN + name: v for name, v in gains(weights).items()}

        metrics = self._entries(everything, cohort, patients, seed, notes)
        metrics |= self._known(cohort, patients, notes) | self._events(cohort, patients)
        notes += dict.fromkeys(measures.notes)
        if ties := measures.ties():
            notes.append(
                f"{ties} pair(s) of an event and a censoring share a time and count as comparable (as scikit-survival "
                f"does); without them, as R's survAUC has it, c_index_uno is {measures.uno_strict():.4f}."
            )
        notes += self._cancer_alone(cohort, context)
        if measures.survival is None:
            notes.append("No survival probabilities are predicted, so there is no Brier score and no calibration.")
        curves, tests = self._groups(cohort, measures, patients, notes)
        same = self._same_for_all(cohort, measures, truth, context)
        baseline = self._baseline(cohort, others, same, context, patients, seed)
        for found in (metrics, baseline):  # two integrals compare only over the same times
            if measures.survival is not None and "integrated_brier" in found:
                times = measures.survival[0][measures.usable_times()]
                span = "no time" if not len(times) else f"{len(times)} times, {times[0]:g} to {times[-1]:g} {self.unit}"
                said = found["integrated_brier"]
                said["method"] = said["method"].replace("the predicted times", span)
        return {
            "metrics": metrics | tests,
            "baseline": baseline,
            "curves": curves | self._curves(measures, same),
            "subgroups": self._subgroups(cohort, measures, truth, seed, notes),
            "notes": notes,
        }

    def compare(
        self, predictions_a: pd.DataFrame, predictions_b: pd.DataFrame, truth: pd.DataFrame,
        context: Mapping[str, Any], names: Sequence[str] = ("a", "b"),
    ) -> dict:  # fmt: skip
        """Two models by paired bootstrap and DeLong: see `survival_comparison.compare`."""
        return compare(self, predictions_a, predictions_b, truth, context, names)

    def statistic(self, predictions: pd.DataFrame, truth: pd.DataFrame) -> tuple[Callable, np.ndarray]:
        """(weights [B, n] -> {metric: [B]}, the patient of each row [n]): the scores that need no training patients, as
        means over folds draw them: c_index, and c_index_within_... where the truth has several strata."""
        predictions, truth = join(predictions, truth, ["risk"], ["time", "event"])
        time, event = outcome(truth)
        risk, ones, strata = numbers(predictions, "risk", "predictions"), np.ones(len(time)), texts(truth, self.within)
        pairs = {"c_index": Concordance(time, event, risk)}
        if strata is not None and len(set(strata)) > 1:
            pairs[f"c_index_within_{self.within}"] = Concordance(time, event, risk, strata)
        return lambda w: {name: p(w, ones)[0] for name, p in pairs.items()}, truth["patient_id"].to_numpy()

    def cohort(self, truth: pd.DataFrame, context: Mapping[str, Any], notes: list[str]) -> Cohort:
        """Outcome and censoring distribution; `notes` says where that comes from if not from the training."""
        time, event = outcome(truth)
        stratum = None
        if self.censoring_by is not None and (stratum := texts(truth, self.censoring_by)) is None:
            raise DataError(f"evaluator censoring_by={self.censoring_by}: the truth has no such column.")
        train, source = context.get("train_truth"), "training"
        if train is None or not len(train):
            train, source = truth, "test"
            notes.append("Censoring weights (IPCW) come from the test, for want of the training patients' follow-up.")
        names = texts(train, self.censoring_by)
        if stratum is not None and names is None:
            raise DataError(f"evaluator censoring_by={self.censoring_by}: the training truth has no such column.")
        if stratum is not None and (unknown := sorted(set(stratum) - set(names))):
            notes.append(f"No training patient tells of the censoring in {', '.join(unknown)}: no IPCW there.")
        fitted = sc.Censoring.fit(*outcome(train, f"{source} truth"), names, source)
        return Cohort(time, event, fitted, texts(truth, self.within), stratum)

    def measures(
        self, cohort: Cohort, predictions: pd.DataFrame, context: Mapping[str, Any], name: str = "predictions"
    ) -> Measures:
        """The scores of one table of predictions in the order of the cohort."""
        risk = numbers(predictions, "risk", name)
        return Measures(cohort, risk, predicted_survival(predictions, context), self.horizons, self.tau, self.within)

    def known(self, cohort: Cohort, h: Horizon) -> np.ndarray:
        """Whose status at a horizon is known [n] bool."""
        case, control = cases_and_controls(cohort.time, cohort.event, h.when)
        return case | control

    def counts(self, cohort: Cohort, patients: np.ndarray) -> Callable[[str], tuple[int, int]]:
        """metric -> (samples, patients) that it looks at: only those of known status for some."""
        every = (len(cohort), len(set(patients)))
        some = {}
        for h in self.horizons:
            rows = self.known(cohort, h)
            for name in ("auc_naive", "calibration_slope", "calibration_intercept"):
                some[name + h.suffix] = (int(rows.sum()), len(set(patients[rows])))
        return lambda name: some.get(name, every)

    def methods(self) -> Callable[[str], str]:
        """metric -> the sentence on how value and interval are made."""
        keys = sorted(METHODS, key=len, reverse=True)

        def tell(name: str) -> str:
            key = next(k for k in keys if name.startswith(k))
            inside = f"; pairs inside one {self.within} where the truth names it" if self.within else ""
            text = METHODS[key].format(within=self.within, tau=self.tau, unit=self.unit, inside=inside)
            return f"{text}; {OVER}"

        return tell

    def _entries(self, stat, cohort, patients, seed, notes) -> dict[str, dict]:
        found: dict[str, Interval] = bootstrap(stat, patients, self.n_resamples, seed, self.level)
        counts, tell = self.counts(cohort, patients), self.methods()
        return {
            name: entry(interval, *counts(name), tell(name), None, notes, name) for name, interval in found.items()
        }

    def _known(self, cohort, patients, notes) -> dict[str, dict]:
        """How many patients a plain label at each horizon would drop."""
        found, n = {}, len(set(patients))
        for h in self.horizons:
            known = len(set(patients[self.known(cohort, h)]))
            found[f"label_known{h.suffix}"] = entry(wilson(known, n, self.level), n, n, METHODS["label_known"])
            notes.append(
                f"Status at {h.when:g} {self.unit} is known for {known} of {n} patients; {n - known} were censored "
                f"before: auc_naive{h.suffix} drops them, auc{h.suffix} weighs the others in their place."
            )
        return found

    def _events(self, cohort: Cohort, patients: np.ndarray) -> dict[str, dict]:
        """How many had an event: what the precision of every score hangs on."""
        n = len(set(patients[cohort.event]))
        return {"events": entry(Interval(n), len(cohort), len(set(patients)), "patients with an event; a count")}

    def _baselines(self, truth: pd.DataFrame, context: Mapping[str, Any], notes: list[str]) -> dict[str, np.ndarray]:
        """Risks of what the model should beat, by name: those of the context, then age."""
        found = {}
        notes += context.get("baseline_notes") or []
        for name, table in (context.get("baselines") or {}).items():
            table, _ = join(table, truth, ["risk"], [], (f"predictions of {name}", "truth"))
            found[str(name)] = numbers(table, "risk", f"predictions of {name}")
        if "age" in truth.columns:
            age = pd.to_numeric(truth["age"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
            missing = ~np.isfinite(age)
            if missing.mean() > MISSING_AGE:
                notes.append(f"Age is no baseline: it is missing in {int(missing.sum())} of {len(age)}.")
            else:
                if missing.any():
                    notes.append(f"Baseline age: the median stands for {int(missing.sum())} missing ages.")
                found["age"] = np.where(missing, np.median(age[~missing]), age)
        return found

    def _baseline(self, cohort, others, same, context, patients, seed) -> dict[str, dict]:
        """The first baseline (the context's, age or a constant) for ranking; Kaplan-Meier for probabilities."""
        plain = {}
        if others:
            name, risk = next(iter(others.items()))
            rank = Measures(cohort, risk, None, self.horizons, self.tau, self.within).statistic()
            what = "age alone (older is worse)" if name == "age" and len(others) == 1 else name
            plain = {key: {**e, "name": what} for key, e in self._entries(rank, cohort, patients, seed, []).items()}
            plain |= self._own_scores(cohort, others, patients, seed)
        else:
            rank = Measures(cohort, np.zeros(len(cohort)), None, self.horizons, self.tau, self.within).statistic()
            counts = self.counts(cohort, patients)
            for key, value in rank(np.ones((1, len(cohort)))).items():
                half = Interval(None if np.isnan(value[0]) else float(value[0]))
                plain[key] = {**entry(half, *counts(key), "one risk for all"), "name": "a constant"}
        if same is None:
            return plain
        source = "test" if context.get("train_truth") is None else "training"
        what = f"Kaplan-Meier of the {source} patients, the same for all"
        probability = self._entries(same.brier(), cohort, patients, seed, [])
        return plain | {key: {**e, "name": what} for key, e in probability.items()}

    def _own_scores(self, cohort, others, patients, seed) -> dict[str, dict]:
        """The c-index of every baseline over the pairs of its gain, under the gain's name."""
        ones = np.ones(len(cohort))
        pairs = {GAIN + n: Concordance(cohort.time, cohort.event, r, cohort.within) for n, r in others.items()}
        found = bootstrap(
            lambda w: {name: pair(w, ones)[0] for name, pair in pairs.items()}, patients, self.n_resamples, seed,
            self.level,
        )  # fmt: skip
        inside = f", pairs inside one {self.within}" if cohort.within is not None else ""
        method = f"Harrell's c-index of the baseline{inside}; {OVER}"
        return {
            name: {**entry(interval, len(cohort), len(set(patients)), method, None), "name": name.removeprefix(GAIN)}
            for name, interval in found.items()
        }

    def _same_for_all(self, cohort, measures, truth, context) -> Measures | None:
        """Predictions that give everyone the training's Kaplan-Meier estimate; None where no survival is predicted."""
        if measures.survival is None:
            return None
        times, train = measures.survival[0], context.get("train_truth")
        step = sc.kaplan_meier(*outcome(truth if train is None else train, "training truth"))
        # Its last value is kept beyond the follow-up: a baseline must say something.
        survival = np.broadcast_to(step.at(np.minimum(times, step.time[-1])), (len(cohort), len(times)))
        return Measures(cohort, np.zeros(len(cohort)), (times, survival), self.horizons, self.tau, self.within)

    def _cancer_alone(self, cohort: Cohort, context: Mapping[str, Any]) -> list[str]:
        """How far the training's event rate of each patient's cancer gets over all pairs: a score across cancers must
        beat it before it says anything on patients."""
        train = context.get("train_truth")
        names = None if train is None else texts(train, self.within)
        if names is None or cohort.within is None or len(set(cohort.within)) < 2:
            return []
        time, event = outcome(train, "training truth")
        rate = {name: event[names == name].sum() / max(time[names == name].sum(), 1e-12) for name in set(names)}
        overall = event.sum() / max(time.sum(), 1e-12)
        risk = np.array([rate.get(name, overall) for name in cohort.within])
        value = Concordance(cohort.time, cohort.event, risk)(np.ones((1, len(cohort))), np.ones(len(cohort)))[0][0]
        if np.isnan(value):
            return []
        return [f"Knowing the {self.within} alone (its event rate in the training) has a c_index of {value:.3f}."]

    def _groups(self, cohort, measures, patients, notes) -> tuple[dict, dict]:
        """Kaplan-Meier curves of the risk groups and the log-rank test between them."""
        names, group = sc.group_names(self.risk_groups), sc.risk_groups(measures.risk, self.risk_groups)
        curves = sc.km_curves(cohort.time, cohort.event, group, names, self.unit, self.level)
        chi2, p = sc.log_rank(cohort.time, cohort.event, group)
        if len(set(group)) < self.risk_groups:
            notes.append("Tied risks leave a risk group empty: the groups are fewer or unequal.")
        if not np.isnan(p):
            found = len(set(group))
            notes.append(f"Log-rank test of the {found} risk groups: chi-square {chi2:.1f}, p = {p:.2g}.")
        told = f"p-value of the log-rank test of {self.risk_groups} risk groups cut at quantiles of the evaluated risks"
        test = entry(Interval(None if np.isnan(p) else p), len(cohort), len(set(patients)), told)
        return curves, {"logrank_p": test}

    def _subgroups(self, cohort, measures, truth, seed, notes) -> dict[str, dict[str, dict]]:
        """Ranking scores by cancer (every cancer, up to MOST_STRATA) and by other columns of few values."""
        rest = truth.drop(columns=[c for c in (self.within,) if c in truth.columns])
        found: dict[str, dict[str, dict]] = {}
        tables = [(rest, self.most_values)]
        if self.within in truth.columns:
            tables.insert(0, (truth[["sample_id", "patient_id", self.within]], MOST_STRATA))
        for table, most in tables:
            for column, value, rows in subgroups(table, RESERVED, most, notes):
                part = cohort.of(rows)
                scores = Measures(part, measures.risk[rows], None, self.horizons, self.tau, self.within)
                patients = truth["patient_id"].to_numpy()[rows]
                entries = self._entries(scores.statistic(), part, patients, seed, [])
                found.setdefault(column, {})[value] = entries | self._events(part, patients)
        return found

    def _curves(self, measures: Measures, same: Measures | None) -> dict[str, dict]:
        """AUC over time, Brier score over time (beside the baseline's), calibration by group."""
        curves = {}
        times, auc = measures.auc_over_time()
        if times.size:
            curves["auc_over_time"] = _curve(times, auc, self.unit, "cumulative/dynamic AUC")
        if measures.survival is None:
            return curves
        for name, one in (("model", measures), ("kaplan-meier", same)):
            when, parts = one.brier_table()
            if when.size:
                curves[f"brier_over_time_{name}"] = _curve(when, parts.mean(0), self.unit, "Brier score")
        for h in self.horizons:
            found = measures.calibration(h)
            points = [p for p in found.points() if p["observed"] is not None] if found else []
            if points:
                x, y = (np.array([p[key] for p in points]) for key in ("predicted", "observed"))
                curve = _curve(x, y, "predicted risk of an event", "observed (Kaplan-Meier)")
                curves[f"calibration{h.suffix}"] = curve | {key: [p[key] for p in points] for key in ("n", "events")}
        return curves

    def _who(self, cohort: Cohort, patients: np.ndarray) -> str:
        follow = sc.median_follow_up(cohort.time, cohort.event)
        watched = f"median follow-up {follow:.1f} {self.unit}" if follow is not None else "median follow-up not reached"
        return f"{len(set(patients))} patients, {int(cohort.event.sum())} events, {watched} (reverse Kaplan-Meier)."


def _with_training(context: Mapping[str, Any]) -> dict[str, Any]:
    """The context; training patients that are no one count as none given."""
    train = context.get("train_truth")
    return {**context, "train_truth": train if train is not None and len(train) else None}


def _curve(x: np.ndarray, y: np.ndarray, x_label: str, y_label: str, most: int = 201) -> dict:
    some = np.unique(np.linspace(0, len(x) - 1, min(most, len(x))).round().astype(int))
    x, y = (np.round(np.asarray(values)[some], 6).tolist() for values in (x, y))
    return {"x": x, "y": y, "x_label": x_label, "y_label": y_label}
