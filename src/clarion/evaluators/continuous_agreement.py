"""Agreement of raters on a measurement: ICC(2,1) and Bland-Altman, with classical and bootstrap intervals.

Sources: Shrout & Fleiss 1979 (Psychol Bull 86:420), ICC(2,1) = two-way random effects, absolute agreement, one
rating; Bland & Altman 1999 (Stat Methods Med Res 8:135) for bias, limits of agreement and their standard errors.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from clarion.evaluators.bootstrap import Interval, Statistic, bootstrap, codes
from clarion.evaluators.confusion_statistics import ratio


def icc_2_1(ratings: np.ndarray, level: float = 0.95) -> Interval:
    """ratings [n targets, k raters] -> ICC(2,1) with the F-based interval of Shrout & Fleiss (p. 424).

    Targets must be independent (one a patient). None, with a note, for fewer than two targets or raters, or when
    all ratings are equal, so that there is nothing to tell apart.
    """
    ratings = np.asarray(ratings, dtype=np.float64)
    n, k = ratings.shape
    if n < 2 or k < 2:
        return Interval(None, note="not defined for fewer than two targets or raters")
    ones = np.ones((1, n))
    rows, columns, error = (float(v[0]) for v in _mean_squares(ratings, np.arange(n), n)(ones))
    value = float(_icc(*map(np.array, (rows, columns, error)), np.array(float(n)), k))
    if not np.isfinite(value):
        return Interval(None, note="not defined: all ratings are equal")
    if error <= 0:
        return Interval(value, note="no interval: the raters differ by a constant only")
    spread = n * (1 + (k - 1) * value) - k * value
    ratio_columns = columns / error
    freedom = (k - 1) * (n - 1) * (k * value * ratio_columns + spread) ** 2
    freedom /= (n - 1) * k**2 * value**2 * ratio_columns**2 + spread**2
    tail = (1 + level) / 2
    upper, lower = f_distribution.ppf(tail, n - 1, freedom), f_distribution.ppf(tail, freedom, n - 1)
    rest = k * columns + (k * n - k - n) * error
    low = n * (rows - upper * error) / (upper * rest + n * rows)
    high = n * (lower * rows - error) / (rest + n * lower * rows)
    return Interval(value, float(low), float(high))


def bland_altman(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> dict[str, Interval]:
    """Bias (mean of second - first) and the 95 % limits of agreement bias -+ 1.96 SD, over independent targets [n].

    Intervals from Student's t with standard errors SD/sqrt(n) and SD*sqrt(1/n + 1.96^2/(2(n-1))).
    """
    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    n = len(difference)
    if n < 2:
        nothing = Interval(None, note="not defined for fewer than two targets")
        bias = Interval(float(difference[0]), note="no interval: one target only") if n else nothing
        return {"bias": bias, "loa_low": nothing, "loa_high": nothing}
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    t = float(t_distribution.ppf((1 + level) / 2, n - 1))
    half, half_limit = t * sd / np.sqrt(n), t * sd * np.sqrt(1 / n + 1.96**2 / (2 * (n - 1)))

    def around(value: float, margin: float) -> Interval:
        if sd == 0:
            return Interval(value, note="no interval: all differences are equal")
        return Interval(value, float(value - margin), float(value + margin))

    return {
        "bias": around(bias, half),
        "loa_low": around(bias - 1.96 * sd, half_limit),
        "loa_high": around(bias + 1.96 * sd, half_limit),
    }


def clustered_agreement(
    first: np.ndarray, second: np.ndarray, patients: np.ndarray, n_resamples: int, seed: int, level: float
) -> dict[str, Interval]:
    """The same four values (icc, bias, loa_low, loa_high) where targets of one patient resemble each other, so that
    the classical intervals would be too narrow: percentile bootstrap over patients."""
    patient, names = codes(patients)
    pair = np.stack([first, second], axis=1).astype(np.float64)
    stat = _pair_statistic(pair, patient, len(names))
    return bootstrap(stat, patients, n_resamples, seed, level, per_group=True)


def _pair_statistic(pair: np.ndarray, patient: np.ndarray, n_patients: int) -> Statistic:
    squares = _mean_squares(pair, patient, n_patients)
    difference = pair[:, 1] - pair[:, 0]
    powers = (difference**0, difference, difference**2)
    count, total, square = (np.bincount(patient, values, n_patients) for values in powers)

    def stat(w: np.ndarray) -> dict[str, np.ndarray]:
        n = w @ count
        bias = ratio(w @ total, n)
        sd = np.sqrt(np.maximum(ratio(w @ square - n * bias**2, n - 1), 0))
        return {
            "icc": _icc(*squares(w), n, 2),
            "bias": bias,
            "loa_low": bias - 1.96 * sd,
            "loa_high": bias + 1.96 * sd,
        }

    return stat


def _mean_squares(ratings: np.ndarray, patient: np.ndarray, n_patients: int):
    """Two-way analysis of variance under patient weights [B, P] -> mean squares of targets, raters, error, each [B]."""
    k = ratings.shape[1]
    ratings = ratings - ratings.mean()  # sums of squares lose digits far from 0
    by_target = ratings.mean(1)

    def per_patient(values: np.ndarray) -> np.ndarray:
        return np.bincount(patient, values, n_patients)

    count = per_patient(np.ones(len(ratings)))
    sums = np.stack([per_patient(column) for column in ratings.T], axis=1)  # [P, k]
    target_squares, all_squares = per_patient(by_target**2), per_patient((ratings**2).sum(1))

    def mean_squares(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, columns = w @ count, w @ sums
        grand = ratio(columns.sum(1), k * n)
        rows_ss = np.maximum(k * (w @ target_squares - n * grand**2), 0)
        columns_ss = np.maximum((columns**2).sum(1) / n - k * n * grand**2, 0)
        whole = w @ all_squares - k * n * grand**2
        error_ss = whole - rows_ss - columns_ss
        error_ss = np.where(error_ss > 1e-12 * np.abs(whole), error_ss, 0.0)
        return ratio(rows_ss, n - 1), columns_ss / (k - 1), ratio(error_ss, (n - 1) * (k - 1))

    return mean_squares


def _icc(rows: np.ndarray, columns: np.ndarray, error: np.ndarray, n: np.ndarray, k: int) -> np.ndarray:
    whole = rows + (k - 1) * error + k * (columns - error) / n
    part, whole = np.broadcast_arrays(rows - error, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=np.abs(whole) > 1e-15)
