"""Cox's proportional-hazards model for every gene of a cohort: genome-wide in seconds, with a status for each gene."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pandas as pd
from scipy.special import chdtrc

from clarion.cancer.cox import kernels as K
from clarion.cancer.cox.adjusted import fit_adjusted
from clarion.cancer.cox.fdr import benjamini_hochberg
from clarion.cancer.cox.firth import firth as firth_one
from clarion.cancer.cox.model import fit_columns, standardise
from clarion.cancer.cox.table import STATUS, CoxTable
from clarion.cancer.cox.walk import Walk, patient_order, survival_arrays
from clarion.errors import DataError, UsageError

TESTS = ("lr", "wald", "score")
FIRTH = ("no", "separated", "all")


def fit(
    expression: np.ndarray | pd.DataFrame,
    time: Sequence[float],
    event: Sequence[bool],
    *,
    ties: str = "efron",
    horizon: float | None = None,
    strata: Sequence | None = None,
    covariates: np.ndarray | pd.DataFrame | None = None,
    firth: str = "no",
    test: str = "lr",
    min_events: int = 10,
    genes: Sequence[str] | None = None,
    max_iter: int = 50,
    tolerance: float = 1e-8,
    threads: int | None = None,
) -> CoxTable:
    """Fit hazard(t | gene, covariates) = h0(t) exp(b gene + ...) for each column of `expression`, one at a time.

    expression: float32 or float64 [n, p], NaN where unknown (that patient is left out of that gene only); as a
    DataFrame its columns name the genes. time [n] >= 0 in any unit, event [n] bool or 0/1. horizon: follow-up ends
    there, in the unit of time; deaths after it are censored, a death at it counts. ties: "efron" or "breslow". strata
    [n]: own baseline hazard for each value (missing is a value of its own). covariates [n, c] numeric: in the model of
    every gene; patients with a missing one are left out, columns without variance are dropped and noted.
    firth: "separated" refits the separated genes under Firth's penalty, "all" every gene, "no" none. test: the p value
    that q is computed from. tolerance: on the last Newton step, in standard deviations of the gene. threads: default
    NUMBA_NUM_THREADS or all cores; the result does not depend on it.

    The genes are shared out among threads that hold compiled code without the interpreter lock, rather than numba's own
    parallel loops: those abort the process when two Python threads meet in them, and forbid forking (data loaders).

    Raises UsageError on options, DataError on data that no fit should be made of (no deaths, negative times, infinite
    or non-numeric expression).
    """
    if ties not in ("efron", "breslow"):
        raise UsageError(f'ties="{ties}" is neither "efron" nor "breslow".')
    if firth not in FIRTH or test not in TESTS:
        raise UsageError(f"firth is one of {', '.join(FIRTH)} and test one of {', '.join(TESTS)}.")
    values, genes = _expression(expression, genes)
    time, event = survival_arrays(time, event, len(values), horizon)
    efron = ties == "efron"
    known = np.ones(len(values), bool)
    notes: list[str] = []
    adjust = None
    if covariates is not None:
        adjust, known, dropped = _covariates(covariates, len(values))
        notes += [f"{name} was left out: it has no variance here." for name in dropped]
        if not known.all():
            notes.append(f"{int((~known).sum())} patients were left out: a covariate is missing.")
    order, event, stratum, time = patient_order(time, event, strata)
    p = values.shape[1]
    out = np.full((p, K.FIELDS), np.nan)
    n, events = np.zeros(p, np.int64), np.zeros(p, np.int64)
    jobs = []
    for keep, columns in _patterns(values, known):
        n[columns], events[columns] = keep.sum(), event[keep].sum()
        if event[keep].sum() < max(1, min_events):
            out[columns, K.STATUS] = K.TOO_FEW_EVENTS
            continue
        walk = Walk.of(order, event, stratum, time, keep)
        if adjust is None:
            jobs.append((_univariate, (values, columns, walk, efron, tolerance, max_iter, out)))
        else:
            jobs.append((_adjusted, (values, columns, walk, adjust, efron, tolerance, max_iter, out)))
    _share(jobs, threads)
    lr = 2.0 * (out[:, K.LOGLIK] - out[:, K.LOGLIK0])
    if firth != "no":
        wanted = (K.SEPARATED,) if firth == "separated" else (K.OK, K.SEPARATED, K.NOT_CONVERGED)
        again = np.flatnonzero(np.isin(out[:, K.STATUS], wanted))
        for keep, columns in _patterns(values[:, again], known):
            walk = Walk.of(order, event, stratum, time, keep)
            for gene in again[columns]:
                _penalised(values, gene, walk, adjust, efron, out, lr)
    settings = {
        "ties": ties, "horizon": horizon, "stratified": strata is not None, "firth": firth, "test": test,
        "covariates": [] if adjust is None else list(adjust.columns), "min_events": min_events,
    }  # fmt: skip
    return _table(out, lr, n, events, genes, settings, tuple(notes))


def _univariate(values, columns, walk, efron, tolerance, max_iter, out):
    K.fit_genes(values, columns, *walk, efron, tolerance, max_iter, out)


def _adjusted(values, columns, walk, adjust, efron, tolerance, max_iter, out):
    """The covariates alone first (their maximum is every gene's start and its null model), then the genes in blocks."""
    z, _ = standardise(adjust.to_numpy()[walk.rows])
    z = np.ascontiguousarray(z[:, z.any(axis=0)])  # a covariate may vary only among those never at risk
    if not z.shape[1]:
        return _univariate(values, columns, walk, efron, tolerance, max_iter, out)
    null = fit_columns(z, walk, efron, tolerance, max_iter)
    start = np.concatenate([[0.0], null.coef])
    d = len(start)
    for begin in range(0, len(columns), K.BLOCK):
        block = columns[begin : begin + K.BLOCK]
        k = len(block)
        x, mean, scale = np.empty((len(walk.rows), k)), np.empty(k), np.empty(k)
        K.pack(values, block, walk.rows, x, mean, scale)
        beta, variance, statistics = np.full((d, k), np.nan), np.full((d, d, k), np.nan), np.full((4, k), np.nan)
        status = np.zeros(k, np.int64)
        fit_adjusted(
            x, z, start, walk.end, walk.tied, walk.fresh, efron, tolerance, max_iter, beta, variance, statistics, status
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            # Each death extreme in its risk set: no covariate can undo that. The search may have stopped at the limit
            # of exp before it noticed; its likelihood then is a lower bound.
            sign = np.empty(k)
            K.extremes(x, k, walk.end, walk.tied, walk.fresh, np.empty((4, k)), sign)
            certain = (sign != 0) & (status != K.NO_VARIANCE)
            status[certain], beta[0, certain], variance[0, 0, certain] = K.SEPARATED, sign[certain], np.nan
            endless = (status == K.SEPARATED) & np.isnan(variance[0, 0])
            out[block, K.COEF] = np.where(endless, np.copysign(np.inf, beta[0]), beta[0] / scale)
            out[block, K.SE] = np.sqrt(variance[0, 0]) / scale
        out[block, K.SCORE], out[block, K.ITERATIONS] = statistics[0], statistics[3]
        out[block, K.LOGLIK0], out[block, K.LOGLIK] = statistics[1], statistics[2]
        out[block, K.STATUS], out[block, K.SCALE] = status, scale


def _penalised(values, gene, walk, adjust, efron, out, lr):
    design = values[walk.rows, gene].astype(np.float64)[:, None]
    if adjust is not None:
        design = np.hstack([design, adjust.to_numpy()[walk.rows]])
    design, scale = standardise(design)
    design = np.ascontiguousarray(design[:, design.any(axis=0)])  # the gene varies: it stays the first
    coef, se, chi2, loglik, converged = firth_one(design, *walk[1:], efron)
    out[gene, K.COEF], out[gene, K.SE] = coef / scale[0], se / scale[0]
    out[gene, K.LOGLIK], lr[gene] = loglik, chi2
    if not converged:
        out[gene, K.STATUS] = K.NOT_CONVERGED


def _table(out, lr, n, events, genes, settings, notes) -> CoxTable:
    status = out[:, K.STATUS].astype(np.int64)
    fitted = (status == K.OK) | (status == K.SEPARATED)
    coef = np.where(fitted, out[:, K.COEF], np.nan)
    finite = fitted & np.isfinite(coef)
    se = np.where(finite, out[:, K.SE], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(finite, coef / se, np.nan)
        chi2 = {
            "wald": z * z,
            "lr": np.where(fitted, np.maximum(lr, 0.0), np.nan),
            "score": np.where(fitted | (status == K.NOT_CONVERGED), out[:, K.SCORE], np.nan),
        }
        pvalue = {name: chdtrc(1.0, value) for name, value in chi2.items()}
    return CoxTable(
        genes=genes, coef=coef, se=se, z=z, p_wald=pvalue["wald"], p_lr=pvalue["lr"], p_score=pvalue["score"],
        q=benjamini_hochberg(pvalue[settings["test"]]), n=n, events=events, status=np.array(STATUS)[status],
        lr=chi2["lr"], loglik=np.where(fitted, out[:, K.LOGLIK], np.nan),
        iterations=np.nan_to_num(out[:, K.ITERATIONS]).astype(np.int64), settings=settings, notes=notes,
    )  # fmt: skip


def _expression(expression, genes) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(expression, pd.DataFrame):
        genes = expression.columns if genes is None else genes
        wrong = [str(c) for c, kind in zip(expression.columns, expression.dtypes) if kind.kind not in "fiub"]
        if wrong:
            raise DataError(f"{len(wrong)} expression columns are not numbers ({', '.join(wrong[:3])}): convert them.")
    values = np.asarray(expression)
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise DataError("Expression must be a table of numbers, patients x genes.")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    genes = tuple(map(str, range(values.shape[1]) if genes is None else genes))
    if len(genes) != values.shape[1]:
        raise DataError(f"{len(genes)} gene names for {values.shape[1]} columns of expression.")
    return np.ascontiguousarray(values), genes


def _covariates(covariates, n) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """-> (columns with variance, patients whose covariates are all known [n] bool, names of the columns dropped)."""
    table = pd.DataFrame(covariates).rename(columns=str).reset_index(drop=True)
    if len(table) != n:
        raise DataError(f"{len(table)} rows of covariates for {n} patients.")
    try:
        table = table.astype(np.float64)
    except (TypeError, ValueError):
        raise UsageError("Covariates must be numbers: code sex as 0/1, pass site as strata.") from None
    known = np.isfinite(table.to_numpy()).all(axis=1)
    dropped = [name for name in table.columns if known.any() and np.ptp(table.loc[known, name]) == 0.0]
    table = table.drop(columns=dropped)
    if not table.shape[1]:
        return None, known, dropped
    if known.sum() <= table.shape[1] or np.linalg.matrix_rank(standardise(table.to_numpy()[known])[0]) < table.shape[1]:
        raise UsageError("The covariates are copies or sums of one another: leave out the redundant ones.")
    return table, known, dropped


def _patterns(values: np.ndarray, known: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(patients known [n] bool, columns int64) for each pattern of missing values; most tables have one."""
    with np.errstate(invalid="ignore", over="ignore"):
        suspect = ~np.isfinite(values.sum(axis=0))  # a NaN or inf anywhere shows in the sum
    clean = np.flatnonzero(~suspect)
    if clean.size:
        yield known, clean
    columns = np.flatnonzero(suspect)
    if not columns.size:
        return
    part = values[:, columns]
    if np.isinf(part).any():
        count = int(np.isinf(part).any(axis=0).sum())
        raise DataError(f"{count} genes hold infinite values (log of 0?): mark them as NaN or add a pseudo-count.")
    keep = ~np.isnan(part) & known[:, None]
    _, first, which = np.unique(np.packbits(keep, axis=0).T, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    by_pattern = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
    for example, members in zip(first, by_pattern):
        yield keep[:, example].copy(), columns[members]


def _share(jobs: list, threads: int | None) -> None:
    """Run the jobs, (function, arguments with the columns second), on `threads` threads; big ones are cut up."""
    threads = max(1, min(threads or numba.config.NUMBA_NUM_THREADS, os.cpu_count() or 1))
    pieces = []
    for call, (values, columns, *rest) in jobs:
        # whole blocks, and a few pieces a thread, so that nobody waits long for the slowest
        size = -(-len(columns) // (4 * threads * K.BLOCK)) * K.BLOCK
        pieces += [(call, (values, columns[i : i + size], *rest)) for i in range(0, len(columns), size)]
    if threads == 1 or len(pieces) == 1:
        for call, arguments in pieces:
            call(*arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(call, *arguments) for call, arguments in pieces]:
            done.result()
