"""Is this cohort what it says it is? Artefacts of omics and survival tables, reported, and refused above limits.

The limits come from nine TCGA cohorts as PORPOISE published them; what those show is given beside each limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import stats

from clarion.cancer.cohort import Cohort
from clarion.cancer.genes import damaged_names
from clarion.cancer.readers.scales import percentiles, scale_problems
from clarion.data.integrity import IntegrityReport
from clarion.errors import UsageError

CODES = (
    "time_not_positive", "time_missing", "all_censored", "too_few_events", "time_scale", "gene_dates", "gene_twice",
    "expression_scale", "sample_scale", "outliers", "constant_genes", "missing_values", "pooled_studies",
    "batch_effect", "duplicate_profiles",
)  # fmt: skip
_BATCH_COLUMNS = ("study", "batch", "platform", "plate", "site")
_GENES_FOR_BATCH = 2000  # every k-th gene is enough for a question about patients


@dataclass(frozen=True)
class Limits:
    """Beyond these a cohort is refused. In brackets: the nine TCGA cohorts."""

    min_events: int = 10  # a cancer, [40 to 192]
    max_months: float = 600.0  # longest follow-up [283]; beyond it days were read as months
    max_median_months: float = 200.0  # [14 to 22; GSE7390, long followed, 146]
    min_median_months: float = 3.0  # [14 to 22]; below it years were read as months
    max_abs_z: float = 100.0  # of a z-score [269 to 36,893: all nine are refused]
    max_constant: float = 0.5  # share of genes [0]
    max_missing: float = 0.5  # share of the expression values [0]
    max_two_floors: float = 0.1  # share of genes with a floor [<= 0.024; two cohorts pooled: 0.5 to 0.9]
    max_batch: float = 0.1  # median share of a gene's variance that a site or study explains [<= 0.056]
    max_separation: float = 6.0  # Ashman's D of two groups on a principal component [<= 2.9]


def check_cohort(
    cohort: Cohort, allow: Iterable[str] = (), limits: Limits | Mapping[str, float] | None = None
) -> IntegrityReport:
    """Every artefact of a cohort, cancer by cancer. Raises nothing: `report.raise_if_bad()` does.

    allow: codes (see CODES) whose errors become warnings. limits: a Limits, or the ones that differ from it.
    """
    if limits is not None and not isinstance(limits, Limits):
        known = {f.name for f in fields(Limits)}
        if strange := sorted(set(limits) - known):
            raise UsageError(f"limits.{strange[0]} is unknown; known are {', '.join(sorted(known))}.")
        limits = replace(Limits(), **limits)
    if strange := sorted(set(allow) - set(CODES) - set(READING)):
        raise UsageError(f"allow={strange[0]} is unknown; known are {', '.join((*CODES, *READING))}.")
    check = _Check(cohort, limits or Limits())
    check.report.counts |= {"patients": len(cohort), "events": int(cohort.event.sum())}
    check.report.counts |= {f"{m}_genes": t.shape[1] for m, t in cohort.omics.items()}
    check.survival()
    check.names()
    for cancer in cohort.cancers:
        part = _measured(cohort.of_cancer(cancer)) if len(cohort.cancers) > 1 else cohort
        rows = np.flatnonzero((cohort.clinical["cancer"] == cancer).to_numpy())
        check.times(cancer, part)
        for modality, table in part.omics.items():
            check.values(cancer, modality, table.to_numpy(), list(map(str, table.columns)), rows)
        if "rna" in part.omics:
            check.batches(cancer, part)
    check.profiles()
    report, allowed = check.report, set(allow)
    report.warnings = [f for f in report.errors if f.code in allowed] + report.warnings
    report.errors = [f for f in report.errors if f.code not in allowed]
    return report


def _measured(part: Cohort) -> Cohort:
    """One cancer of a pooled cohort, without the genes that nobody measured in it."""
    held = {m: t.columns[t.notna().to_numpy().any(axis=0)] for m, t in part.omics.items()}
    return replace(part, omics={m: part.omics[m][genes] for m, genes in held.items() if len(genes)})


READING = ("non_numeric", "time_not_positive", "event_unknown", "patient_conflict")  # codes of `read_cohort`


class _Check:
    """One pass over a cohort; findings gather in `report`."""

    def __init__(self, cohort: Cohort, limits: Limits):
        self.cohort, self.limits, self.report = cohort, limits, IntegrityReport()

    def _who(self, rows: Iterable[int]) -> list[tuple[str, str]]:
        """Patients for a message: by place in what is recorded, by id on the screen."""
        return [(f"patient {r + 1}", str(self.cohort.patients[r])) for r in list(rows)[:20]]

    def survival(self) -> None:
        time = self.cohort.time
        for code, message, wrong in (
            ("time_missing", "patients have no survival time; leave them out", ~np.isfinite(time)),
            ("time_not_positive", "patients have a survival time of zero or less; correct their dates", time <= 0),
        ):
            self.report.error(code, message, self._who(np.flatnonzero(wrong)), int(wrong.sum()))

    def times(self, cancer: str, part: Cohort) -> None:
        time, events, n = part.time, int(part.event.sum()), len(part)
        time = time[np.isfinite(time)]
        report, limits = self.report, self.limits
        if events == 0:
            report.error("all_censored", f"{cancer}: no patient has an event, so nothing can be learnt; "
                         "is the event column the other way round (censorship 1 = censored)?", [], n)  # fmt: skip
        elif events < limits.min_events:
            message = f"{cancer}: fewer than {limits.min_events} events; add follow-up or patients"
            report.error("too_few_events", message, [], events)
        elif events < 50:
            report.warning("few_events", f"{cancer}: few events, so coefficients are rough", [], events)
        if n >= 20 and events > 0.95 * n:
            report.warning("hardly_censored", f"{cancer}: hardly anybody is censored; is the event column the other "
                           "way round?", [], events)  # fmt: skip
        if not len(time) or n < 10:
            return
        longest, middle = float(time.max()), float(np.median(time))
        if longest > limits.max_months or middle > limits.max_median_months:
            text = "are days (time_unit=days) or ten times too long"
        elif middle < limits.min_median_months:
            text = "are years (time_unit=years) or ten times too short"
        else:
            return
        found = f"{middle:.3g} months in the middle and {longest:.4g} at most"
        report.error("time_scale", f"{cancer}: survival times of {found} {text}?", [], n)

    def names(self) -> None:
        for modality, table in self.cohort.omics.items():
            columns = list(map(str, table.columns))
            damaged = damaged_names(columns)
            self.report.error(
                "gene_dates",
                f"{modality}: a spreadsheet turned gene names into dates; export again with names as text, or read "
                "with dates=repair or dates=drop",
                [(f"{raw} (was {was})",) * 2 for raw, was in damaged.items()],
            )
            twice = table.columns[table.columns.duplicated()].unique()
            self.report.error("gene_twice", f"{modality}: genes have several columns; keep one (genes.collapse)",
                              [(str(g), str(g)) for g in twice])  # fmt: skip

    def values(self, cancer: str, modality: str, values: np.ndarray, names: list[str], rows: np.ndarray) -> None:
        """values: float32 [patients of the cancer, genes]; rows: their places in the cohort."""
        report, limits, where = self.report, self.limits, f"{cancer} {modality}"
        seen = np.isfinite(values)
        missing = 1 - seen.mean() if values.size else 1.0
        report.counts[f"{modality}_missing"] = report.counts.get(f"{modality}_missing", 0) + int((~seen).sum())
        if missing > 0.05:
            add = report.error if missing > limits.max_missing and modality == "rna" else report.warning
            add("missing_values", f"{where}: {missing:.1%} of the values are missing, in so many genes",
                [], int((~seen).any(axis=0).sum()))  # fmt: skip
        if missing == 1.0:
            return
        low = np.where(seen, values, np.inf).min(axis=0)
        high = np.where(seen, values, -np.inf).max(axis=0)
        constant = (low == high) & seen.any(axis=0)
        share = float(constant.mean())
        if modality == "rna":  # that no patient of a cancer has a rare mutation is nothing to warn of
            add = report.error if share > limits.max_constant else report.warning
            add("constant_genes", f"{where}: genes have one value in every patient and say nothing",
                [(names[k],) * 2 for k in np.flatnonzero(constant)])  # fmt: skip
        scale = self.cohort.scale.get(modality, "")
        wrong = scale_problems(values, scale, modality)
        for text in wrong:
            report.error("expression_scale", f"{where}: {text}", [], values.shape[1])
        if modality == "rna":
            self._samples(where, values, rows)
            if not wrong:  # on another scale everything is an outlier
                self._outliers(where, values, names, scale)

    def _samples(self, where: str, values: np.ndarray, rows: np.ndarray) -> None:
        """Patients whose values spread several times wider or narrower than everybody's: another scale."""
        if values.shape[1] < 50 or len(values) < 10:
            return
        low, high = percentiles(values, [10, 90], axis=1)
        spread = high - low
        middle = np.nanmedian(spread)
        if not middle > 0:
            return
        wrong = np.flatnonzero((spread > 5 * middle) | (spread < middle / 5))  # [0.5 to 3.2 times]
        self.report.error("sample_scale", f"{where}: patients' values spread 5 times wider or narrower than the "
                          "others'; bring all samples to one scale", self._who(rows[wrong]), len(wrong))  # fmt: skip

    def _outliers(self, where: str, values: np.ndarray, names: list[str], scale: str) -> None:
        if scale == "z-score":
            size = np.abs(values)
            # No value of n numbers lies further than (n - 1) / sqrt(n) of their own SDs from their mean (Samuelson
            # 1968): such z-scores were taken against other samples.
            possible = (len(values) - 1) / np.sqrt(len(values))
            text = f"no z-score of {len(values)} patients can exceed {possible:.0f}, so others were the reference"
        else:
            linear = values if scale.startswith("log") else np.log2(1 + np.maximum(values, 0))
            q = percentiles(linear, [25, 50, 75], axis=0)
            size = np.abs(linear - q[1]) / np.maximum((q[2] - q[0]) / 1.349, 0.25)
            possible, text = 30.0, "more than 30 robust SDs from the gene's median"
        highest = np.nanmax(np.where(np.isnan(size), 0, size), axis=0)
        beyond = np.flatnonzero(highest > possible)
        order = beyond[np.argsort(-highest[beyond])]
        add = self.report.warning
        if scale == "z-score" and highest.max() > self.limits.max_abs_z:
            add, text = self.report.error, text + f"; beyond {self.limits.max_abs_z:g} take ranks or the values before"
        add("outliers", f"{where}: genes have outliers up to {highest.max():,.0f} ({text})",
            [(f"{names[k]} {highest[k]:,.0f}",) * 2 for k in order])  # fmt: skip

    # ---- several studies in one cohort ---------------------------------------------------------------------

    def batches(self, cancer: str, part: Cohort) -> None:
        values = part.omics["rna"].to_numpy()
        values = values[:, :: max(1, values.shape[1] // _GENES_FOR_BATCH)]
        held = np.isfinite(values).all(axis=0)
        values = values[:, held]
        if len(values) < 30 or values.shape[1] < 20:
            return
        report, limits = self.report, self.limits
        floors, two = two_floors(values) if part.scale.get("rna") == "z-score" else (0, 0)
        if two >= 5 and two > limits.max_two_floors * floors:
            report.error("pooled_studies", f"{cancer}: genes that are not expressed have two lowest values, as when "
                         "studies that were z-scored apart are put together; read them as cohorts of their own",
                         [], two)  # fmt: skip
        ranks = stats.rankdata(values, axis=0)
        normal = stats.norm.ppf((ranks - 0.5) / len(ranks))
        normal = normal[:, normal.std(axis=0) > 1e-6]
        normal = (normal - normal.mean(axis=0)) / normal.std(axis=0)
        for column in _BATCH_COLUMNS:
            if column not in part.clinical:
                continue
            share, groups = explained(normal, part.clinical[column].astype(str).to_numpy())
            if groups < 2:
                continue
            what = f"{share:.0%} of the variance of the median gene"
            text = f"{cancer}: {column} explains {what}; adjust for it or split by it"
            if share > limits.max_batch:
                report.error("batch_effect", text, [], groups)
            elif share > 0.75 * limits.max_batch:
                report.warning("batch_effect", text, [], groups)
        separation, sizes = two_groups(normal)
        if separation > limits.max_separation:
            report.error("pooled_studies", f"{cancer}: patients fall into two groups without overlap ({sizes[0]} and "
                         f"{sizes[1]}; Ashman's D {separation:.1f}), as pooled studies do; read them as cohorts of "
                         "their own", [], min(sizes))  # fmt: skip

    def profiles(self) -> None:
        """Two patients with the same expression are one sample under two names."""
        table = self.cohort.omics.get("rna")
        if table is None or table.shape[1] < 20:
            return
        seen: dict[bytes, int] = {}
        twice = []
        for row, values in enumerate(table.to_numpy(np.float32)):
            if np.isnan(values).all():
                continue
            key = np.round(values, 3).tobytes()
            if key in seen:
                twice.append((f"patients {seen[key] + 1} and {row + 1}",
                              f"{self.cohort.patients[seen[key]]} and {self.cohort.patients[row]}"))  # fmt: skip
            else:
                seen[key] = row
        self.report.error("duplicate_profiles", "patients share one expression profile; keep one of them", twice)


def two_floors(values: np.ndarray, share: float = 0.05) -> tuple[int, int]:
    """(genes with a floor, genes with two). values: float [patients, genes] without missing ones.

    A floor is a value that at least 5 % of the patients (and 5) share: continuous measurements repeat only where a gene
    is not expressed, and a z-score then shows its study's -mean/SD."""
    least = max(5, share * len(values))
    ordered = np.sort(values, axis=0)
    one = two = 0
    for column in ordered.T:
        starts = np.flatnonzero(np.r_[True, column[1:] != column[:-1]])
        tied = int((np.diff(np.r_[starts, len(column)]) >= least).sum())
        one, two = one + (tied >= 1), two + (tied == 2 or tied == 3)  # whole numbers (counts) tie everywhere
    return one, two


def explained(normal: np.ndarray, labels: np.ndarray, least: int = 8) -> tuple[float, int]:
    """(median omega squared over genes, number of groups) of a one-way analysis of variance.

    normal: standardised [patients, genes]; groups of fewer than `least` patients, and the label "", are left out."""
    names, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = (counts[place] >= least) & (labels != "")
    names, place = np.unique(labels[kept], return_inverse=True)
    n, k = int(kept.sum()), len(names)
    if k < 2 or n < k + 10:
        return 0.0, 0
    part = normal[kept]
    part = part - part.mean(axis=0)
    members = np.eye(k)[place]
    means = members.T @ part / members.sum(axis=0)[:, None]
    between = (members.sum(axis=0)[:, None] * means**2).sum(axis=0)
    total = (part**2).sum(axis=0)
    within = (total - between) / (n - k)
    omega = (between - (k - 1) * within) / np.maximum(total + within, 1e-12)
    return float(np.median(omega)), k


def two_groups(normal: np.ndarray, least: float = 0.05) -> tuple[float, tuple[int, int]]:
    """(Ashman's D, sizes) of the clearest split in two on one of the first three principal components.

    D = sqrt(2) |m1 - m2| / sqrt(s1^2 + s2^2) of a two-component mixture (Ashman et al. 1994, AJ 108, 2348); above 2 a
    split is clean. Splits with a side below `least` of the patients are outliers, no studies: D 0."""
    from sklearn.mixture import GaussianMixture

    weights, vectors = np.linalg.eigh(normal @ normal.T)
    best, sizes = 0.0, (len(normal), 0)
    for k in (-1, -2, -3):
        score = (vectors[:, k] * np.sqrt(max(weights[k], 0)))[:, None]
        mixture = GaussianMixture(2, random_state=0, n_init=2).fit(score)
        side = mixture.predict(score)
        counts = np.bincount(side, minlength=2)
        if counts.min() < max(5, least * len(score)):
            continue
        a, b = score[side == 0], score[side == 1]
        distance = float(np.sqrt(2) * abs(a.mean() - b.mean()) / np.sqrt(max(a.var() + b.var(), 1e-12)))
        if distance > best:
            best, sizes = distance, (int(counts.max()), int(counts.min()))
    return best, sizes
