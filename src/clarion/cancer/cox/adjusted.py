"""Compiled Cox fits of several columns: genes beside the same few covariates, and Firth's penalised likelihood.

The same walk over the patients as kernels.py; the sums hold a vector and a triangle per gene instead of one number.
The first of the d variables is the gene, the others are shared by all genes. What calls one another stands in one file,
for the reason kernels.py gives.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from clarion.cancer.cox import kernels as K

_FAST = {"contract"}


@njit(cache=True, nogil=True, fastmath=_FAST)
def _pass(x, z, beta, k, end, tied, fresh, efron, gradient, information, loglik, s, e, u, w):
    """loglik [k], gradient [d, k] and information [d(d+1)/2, k] (rows of the lower triangle) at beta [d, k].

    s, e: float64 [1 + d + d(d+1)/2, k] sums over the risk set and over the tied deaths; u [d, k], w [k] scratch."""
    d = beta.shape[0]
    gradient[:] = 0.0
    information[:] = 0.0
    loglik[:] = 0.0
    u[:] = 0.0
    begin = 0
    for g in range(end.size):
        first_death = end[g] - tied[g]
        if fresh[g]:
            s[:] = 0.0
        e[:] = 0.0
        for i in range(begin, end[g]):
            dies = i >= first_death
            for j in range(k):
                u[0, j] = x[i, j]
                w[j] = x[i, j] * beta[0, j]
            for a in range(1, d):
                value = z[i, a - 1]
                for j in range(k):
                    u[a, j] = value
                    w[j] += value * beta[a, j]
            if dies:
                for j in range(k):
                    loglik[j] += w[j]
                for a in range(d):
                    for j in range(k):
                        gradient[a, j] += u[a, j]
            for j in range(k):
                w[j] = np.exp(min(max(w[j], -600.0), 600.0))
            sums = e if dies else s
            for j in range(k):
                sums[0, j] += w[j]
            at = 1 + d
            for a in range(d):
                for j in range(k):
                    sums[1 + a, j] += w[j] * u[a, j]
                for c in range(a + 1):
                    for j in range(k):
                        sums[at, j] += w[j] * u[a, j] * u[c, j]
                    at += 1
        s += e
        for l in range(tied[g]):
            f = l / tied[g] if efron else 0.0
            for j in range(k):
                total = s[0, j] - f * e[0, j]
                loglik[j] -= np.log(total)
                w[j] = 1.0 / total
            for a in range(d):
                for j in range(k):
                    u[a, j] = (s[1 + a, j] - f * e[1 + a, j]) * w[j]
                    gradient[a, j] -= u[a, j]
            at = 0
            for a in range(d):
                for c in range(a + 1):
                    for j in range(k):
                        mean2 = (s[1 + d + at, j] - f * e[1 + d + at, j]) * w[j]
                        information[at, j] += mean2 - u[a, j] * u[c, j]
                    at += 1
        begin = end[g]


@njit(cache=True, nogil=True)
def cholesky(triangle, matrix):
    """Fill the lower triangle of matrix [d, d] with the factor of `triangle` [d(d+1)/2]; False where it is singular."""
    d = matrix.shape[0]
    at = 0
    for a in range(d):
        for c in range(a + 1):
            total = triangle[at]
            for m in range(c):
                total -= matrix[a, m] * matrix[c, m]
            if a == c:
                if not total > 1e-11 * triangle[at]:
                    return False
                matrix[a, a] = np.sqrt(total)
            else:
                matrix[a, c] = total / matrix[c, c]
            at += 1
    return True


@njit(cache=True, nogil=True)
def solve(factor, right):
    """Overwrite right [d] with the solution of (factor factor^T) y = right."""
    d = right.size
    for a in range(d):
        for m in range(a):
            right[a] -= factor[a, m] * right[m]
        right[a] /= factor[a, a]
    for a in range(d - 1, -1, -1):
        for m in range(a + 1, d):
            right[a] -= factor[m, a] * right[m]
        right[a] /= factor[a, a]


@njit(cache=True, nogil=True)
def fit_adjusted(x, z, start, end, tied, fresh, efron, tolerance, max_iter, beta, variance, statistics, status):
    """Newton's method with step halving for each column of x [r, k] beside z [r, d-1] (both standardised).

    start [d]: where every gene begins (0 and the covariates' own fit). Filled: beta [d, k], variance [d, d, k],
    statistics [4, k] (score chi-square of the gene at the start, loglik there, loglik at the end, iterations), status
    [k]. A gene counts as separated when its coefficient keeps moving at the same pace while the likelihood no longer
    rises: its loglik is then the limit, beta where it was left and variance NaN."""
    k = x.shape[1]
    d = start.size
    t = d * (d + 1) // 2
    gradient, information, loglik = np.empty((d, k)), np.empty((t, k)), np.empty(k)
    s, e, u, w = np.empty((1 + d + t, k)), np.empty((1 + d + t, k)), np.empty((d, k)), np.empty(k)
    old, old_loglik, pace = np.empty((d, k)), np.full(k, -np.inf), np.full(k, np.inf)
    factor, step = np.zeros((d, d)), np.empty(d)
    done = np.zeros(k, np.bool_)
    for a in range(d):
        beta[a, :] = start[a]
    for iteration in range(max_iter + 1):
        _pass(x, z, beta, k, end, tied, fresh, efron, gradient, information, loglik, s, e, u, w)
        left = 0
        for j in range(k):
            if done[j]:
                continue
            regular = cholesky(information[:, j], factor)
            if iteration == 0:
                statistics[1, j] = loglik[j]
                statistics[2, j] = loglik[j]
                if not regular:
                    status[j] = K.NO_VARIANCE
                    done[j] = True
                    continue
                step[:] = 0.0
                step[0] = 1.0
                solve(factor, step)
                # g' I^-1 g, where only the gene's part of g is not 0: the covariates are at their own maximum
                statistics[0, j] = gradient[0, j] * gradient[0, j] * step[0]
            statistics[3, j] = iteration
            if not regular or loglik[j] < old_loglik[j] - 1e-10 * (1.0 + abs(old_loglik[j])):
                for a in range(d):
                    beta[a, j] = 0.5 * (beta[a, j] + old[a, j])
                left += 1
                continue
            gain = 0.0
            for a in range(d):
                step[a] = gradient[a, j]
            solve(factor, step)
            for a in range(d):
                gain += 0.5 * step[a] * gradient[a, j]
            statistics[2, j] = loglik[j]
            moved = abs(step[0])
            if moved <= tolerance * max(1.0, abs(beta[0, j])) and gain <= 1e-10:
                for a in range(d):
                    beta[a, j] += step[a]
                _invert(factor, variance, j)
                status[j] = K.SEPARATED if abs(beta[0, j]) > 30.0 else K.OK
                done[j] = True
                continue
            if gain <= 1e-9 and moved > 0.5 * pace[j]:
                status[j] = K.SEPARATED
                done[j] = True
                continue
            pace[j] = moved
            longest = 0.0
            for a in range(d):
                longest = max(longest, abs(step[a]))
            shrink = 1.0 if longest <= 5.0 else 5.0 / longest
            for a in range(d):
                old[a, j] = beta[a, j]
                beta[a, j] += shrink * step[a]
            old_loglik[j] = loglik[j]
            left += 1
        if left == 0:
            break
    for j in range(k):
        if not done[j]:
            status[j] = K.NOT_CONVERGED


@njit(cache=True, nogil=True)
def _invert(factor, variance, j):
    d = factor.shape[0]
    column = np.empty(d)
    for a in range(d):
        column[:] = 0.0
        column[a] = 1.0
        solve(factor, column)
        variance[:, a, j] = column


@njit(cache=True, nogil=True)
def _penalised_pass(v, beta, end, tied, fresh, efron, gradient, information, third):
    """Log partial likelihood, gradient [d], information [d, d] and its derivative third [d, d, d] at beta, v [r, d]."""
    d = beta.size
    gradient[:] = 0.0
    information[:] = 0.0
    third[:] = 0.0
    loglik = 0.0
    s0, s1, s2, s3 = 0.0, np.zeros(d), np.zeros((d, d)), np.zeros((d, d, d))
    e1, e2, e3 = np.zeros(d), np.zeros((d, d)), np.zeros((d, d, d))
    m1, m2 = np.zeros(d), np.zeros((d, d))
    begin = 0
    for g in range(end.size):
        first_death = end[g] - tied[g]
        if fresh[g]:
            s0 = 0.0
            s1[:] = 0.0
            s2[:] = 0.0
            s3[:] = 0.0
        e0 = 0.0
        e1[:] = 0.0
        e2[:] = 0.0
        e3[:] = 0.0
        for i in range(begin, end[g]):
            eta = 0.0
            for a in range(d):
                eta += v[i, a] * beta[a]
            w = np.exp(min(max(eta, -600.0), 600.0))
            dies = i >= first_death
            if dies:
                loglik += eta
                for a in range(d):
                    gradient[a] += v[i, a]
            s0 += w
            e0 += w if dies else 0.0
            for a in range(d):
                wa = w * v[i, a]
                s1[a] += wa
                if dies:
                    e1[a] += wa
                for b in range(d):
                    wab = wa * v[i, b]
                    s2[a, b] += wab
                    if dies:
                        e2[a, b] += wab
                    for c in range(d):
                        s3[a, b, c] += wab * v[i, c]
                        if dies:
                            e3[a, b, c] += wab * v[i, c]
        for l in range(tied[g]):
            f = l / tied[g] if efron else 0.0
            total = s0 - f * e0
            loglik -= np.log(total)
            for a in range(d):
                m1[a] = (s1[a] - f * e1[a]) / total
                gradient[a] -= m1[a]
            for a in range(d):
                for b in range(d):
                    m2[a, b] = (s2[a, b] - f * e2[a, b]) / total
                    information[a, b] += m2[a, b] - m1[a] * m1[b]
            for a in range(d):
                for b in range(d):
                    for c in range(d):
                        m3 = (s3[a, b, c] - f * e3[a, b, c]) / total
                        third[a, b, c] += (
                            m3 - m2[a, b] * m1[c] - m2[a, c] * m1[b] - m2[b, c] * m1[a] + 2.0 * m1[a] * m1[b] * m1[c]
                        )
        begin = end[g]
    return loglik


@njit(cache=True, nogil=True)
def firth_fit(v, end, tied, fresh, efron, hold_first, tolerance, max_iter, beta, variance):
    """Maximise the penalised likelihood of v [r, d] (standardised, in walking order) -> (penalised loglik, iterations,
    converged). beta [d] starts and ends in place; variance [d, d] is I^-1 at the maximum. hold_first keeps beta[0]
    where it is, the penalty still that of all d variables: the null model of a penalised likelihood-ratio test."""
    d = beta.size
    gradient, information, third = np.empty(d), np.empty((d, d)), np.empty((d, d, d))
    triangle, factor, step = np.empty(d * (d + 1) // 2), np.zeros((d, d)), np.empty(d)
    small, small_factor = np.empty(d * (d - 1) // 2), np.zeros((d - 1, d - 1))
    old = beta.copy()
    best = -np.inf
    for iteration in range(max_iter + 1):
        loglik = _penalised_pass(v, beta, end, tied, fresh, efron, gradient, information, third)
        at = 0
        for a in range(d):
            for c in range(a + 1):
                triangle[at] = information[a, c]
                at += 1
        regular = cholesky(triangle, factor)
        if regular:
            for a in range(d):
                loglik += np.log(factor[a, a])  # half the log determinant
        if not regular or loglik < best - 1e-12 * (1.0 + abs(best)):
            if iteration == 0:
                return np.nan, 0, False
            for a in range(d):
                beta[a] = 0.5 * (beta[a] + old[a])
            continue
        for a in range(d):
            column = np.zeros(d)
            column[a] = 1.0
            solve(factor, column)
            variance[:, a] = column
        best = loglik
        for c in range(d):
            step[c] = gradient[c]
            for a in range(d):
                for b in range(d):
                    step[c] += 0.5 * variance[a, b] * third[a, b, c]
        if hold_first:
            at = 0
            for a in range(1, d):
                for c in range(1, a + 1):
                    small[at] = information[a, c]
                    at += 1
            step[0] = 0.0
            if d > 1 and cholesky(small, small_factor):
                solve(small_factor, step[1:])
        else:
            solve(factor, step)
        longest = 0.0
        for a in range(d):
            longest = max(longest, abs(step[a]))
        if longest <= tolerance:
            return best, iteration, True
        shrink = 1.0 if longest <= 2.0 else 2.0 / longest
        for a in range(d):
            old[a] = beta[a]
            beta[a] += shrink * step[a]
    return best, max_iter, False
