"""The compiled univariate Cox fit: Newton's method for a block of up to 64 genes at once.

The patients come in the order and groups of walk.py, from the last time to the first. Each pass keeps three running
sums per gene (of w, wx and wx^2, w = exp(bx)), so no [patients x genes] table of cumulative sums is ever written.

All loops run over the genes of a block innermost, where neighbours in memory are independent: they vectorise without
reordering any sum, so a gene's result does not depend on the machine's vector width beyond the rounding of a fused
multiply-add (`contract`, the one liberty given to the compiler), nor on the genes beside it. Compiled code calls no
exp and no log of the C library inside a loop: `_exp` is a polynomial (relative error < 4e-16) and the logs of the
risk-set sums are taken once, of their product, whose exponent is kept apart.

Numba's cache of compiled code notices changes of the file a function stands in, not of the functions it calls: compiled
functions that call one another stand in one file.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

BLOCK = 64  # genes at once: 500 patients x 64 x 8 bytes = 256 kB, inside a core's second-level cache
OK, SEPARATED, NO_VARIANCE, TOO_FEW_EVENTS, NOT_CONVERGED = range(5)
# columns of `out`, one row a gene
COEF, SE, SCORE, LOGLIK0, LOGLIK, STATUS, ITERATIONS, SCALE, FIELDS = range(9)
_LIMIT = 600.0  # |bx| beyond this is held there: exp stays finite even times x^2 and summed
_LN2 = 0.6931471805599453
_FAST = {"contract"}


@intrinsic
def _as_float(typingctx, bits):
    """The float64 with these 64 bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def _as_bits(typingctx, value):
    """The 64 bits of a float64 as int64."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@njit(cache=True, nogil=True, fastmath=_FAST, inline="always")
def _exp(v):
    """exp for |v| <= 600, branch-free so that loops over it vectorise: v = k ln2 + r, |r| <= ln2 / 2; the Taylor
    polynomial of degree 13 of exp(r) (truncation < 5e-18); 2^k by its bits. Cody & Waite's two-part ln2."""
    k = np.floor(v * 1.4426950408889634 + 0.5)
    r = (v - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _as_float((np.int64(np.int32(k)) + 1023) << 52)


@njit(cache=True, nogil=True)
def pack(expression, genes, rows, x, mean, scale):
    """Copy these genes' values of these rows to x [rows, genes] float64 and standardise each column in place.

    The first row is subtracted before anything is summed, so a constant column is exactly zero and a large offset
    costs no digits. scale is 0 for a constant gene."""
    k = genes.size
    for i in range(rows.size):
        row = rows[i]
        for j in range(k):
            x[i, j] = expression[row, genes[j]]
    for j in range(k):
        mean[j] = 0.0
        scale[j] = 0.0
    for i in range(rows.size - 1, -1, -1):
        for j in range(k):
            x[i, j] -= x[0, j]
            mean[j] += x[i, j]
    for j in range(k):
        mean[j] /= rows.size
    for i in range(rows.size):
        for j in range(k):
            x[i, j] -= mean[j]
            scale[j] += x[i, j] * x[i, j]
    for j in range(k):
        scale[j] = np.sqrt(scale[j] / rows.size)
        if scale[j] > 0.0:
            for i in range(rows.size):
                x[i, j] /= scale[j]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _add(x, w, s0, s1, s2, k):
    """One patient joins the sums of every gene. Two short loops: LLVM stops vectorising a loop that needs more than
    eight run-time checks for overlapping arrays."""
    for j in range(k):
        s0[j] += w[j]
    for j in range(k):
        t = w[j] * x[j]
        s1[j] += t
        s2[j] += t * x[j]


@njit(cache=True, nogil=True, fastmath=_FAST)
def newton_pass(x, b, k, end, tied, fresh, efron, weights_are_one, work, gradient, information, loglik):
    """Log partial likelihood, its derivative and minus its second derivative for the first k columns of x, at b [k].

    Efron (1977): the l-th of m tied deaths sees the risk set less l/m of the deaths; Breslow (1974): the full one.
    work: float64 [12, BLOCK] scratch. weights_are_one: b is 0, no exp is needed."""
    s0, s1, s2, d0, d1, d2 = work[0], work[1], work[2], work[3], work[4], work[5]
    w, c, m1, product, exponent, deaths_x = work[6], work[7], work[8], work[9], work[10], work[11]
    for j in range(k):
        gradient[j] = 0.0
        information[j] = 0.0
        product[j] = 1.0
        exponent[j] = 0.0
        deaths_x[j] = 0.0
        w[j] = 1.0
    begin = 0
    since = 0
    for g in range(end.size):
        first_death = end[g] - tied[g]
        if fresh[g]:
            for j in range(k):
                s0[j] = 0.0
                s1[j] = 0.0
                s2[j] = 0.0
        for j in range(k):
            d0[j] = 0.0
            d1[j] = 0.0
            d2[j] = 0.0
        for i in range(begin, end[g]):
            row = x[i]
            if not weights_are_one:
                for j in range(k):
                    v = row[j] * b[j]
                    v = _LIMIT if v > _LIMIT else v
                    v = -_LIMIT if v < -_LIMIT else v
                    w[j] = _exp(v)
            if i < first_death:
                _add(row, w, s0, s1, s2, k)
            else:
                _add(row, w, d0, d1, d2, k)
                for j in range(k):
                    deaths_x[j] += row[j]
        for j in range(k):
            s0[j] += d0[j]
        for j in range(k):
            s1[j] += d1[j]
        for j in range(k):
            s2[j] += d2[j]
        m = tied[g]
        for l in range(m):
            f = l / m if efron else 0.0
            for j in range(k):
                c[j] = s0[j] - f * d0[j]
            # log(product of c) without a log: mantissas multiply, exponents add
            for j in range(k):
                bits = _as_bits(c[j])
                exponent[j] += np.float64(np.int32((bits >> 52) - 1023))
                product[j] *= _as_float((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000)
                c[j] = 1.0 / c[j]
            since += 1
            if since == 512:  # mantissas are < 2: their product is < 2^512 here, and normalised before it grows on
                since = 0
                for j in range(k):
                    bits = _as_bits(product[j])
                    exponent[j] += np.float64(np.int32((bits >> 52) - 1023))
                    product[j] = _as_float((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000)
            for j in range(k):
                m1[j] = (s1[j] - f * d1[j]) * c[j]
                gradient[j] -= m1[j]
            for j in range(k):
                information[j] += (s2[j] - f * d2[j]) * c[j] - m1[j] * m1[j]
        begin = end[g]
    for j in range(k):
        gradient[j] += deaths_x[j]
        loglik[j] = b[j] * deaths_x[j] - exponent[j] * _LN2 - np.log(product[j])


@njit(cache=True, nogil=True)
def extremes(x, k, end, tied, fresh, work, sign):
    """sign[j]: +1 where every death has the largest value of its risk set (the likelihood rises for ever with b), -1
    where every one has the smallest, else 0. Exact: the test is on the values themselves."""
    high, low, up, down = work[0], work[1], work[2], work[3]
    for j in range(k):
        up[j] = 1.0
        down[j] = 1.0
    begin = 0
    for g in range(end.size):
        if fresh[g]:
            for j in range(k):
                high[j] = -np.inf
                low[j] = np.inf
        for i in range(begin, end[g]):
            row = x[i]
            for j in range(k):
                high[j] = row[j] if row[j] > high[j] else high[j]
            for j in range(k):
                low[j] = row[j] if row[j] < low[j] else low[j]
        for i in range(end[g] - tied[g], end[g]):
            row = x[i]
            for j in range(k):
                up[j] = 0.0 if row[j] < high[j] else up[j]
            for j in range(k):
                down[j] = 0.0 if row[j] > low[j] else down[j]
        begin = end[g]
    for j in range(k):
        sign[j] = up[j] - down[j]


@njit(cache=True, nogil=True)
def limit_loglik(x, j, sign, end, tied, fresh, efron):
    """The log partial likelihood that a separated gene tends to: at each death only those of the risk set that share
    the extreme value still count."""
    total = 0.0
    begin = 0
    best = -np.inf
    count = 0
    for g in range(end.size):
        if fresh[g]:
            best = -np.inf
        for i in range(begin, end[g]):
            v = sign * x[i, j]
            if v > best:
                best = v
                count = 1
            elif v == best:
                count += 1
        for l in range(tied[g]):
            total -= np.log(count - l if efron else count)
        begin = end[g]
    return total


@njit(cache=True, nogil=True)
def fit_block(expression, genes, rows, end, tied, fresh, efron, tolerance, max_iter, x, work, out):
    """Fit up to BLOCK genes. genes [k] int64 columns of expression; x float64 [>= rows, BLOCK] and work float64
    [12, BLOCK] are the caller's scratch; out float64 [p, FIELDS] gets a row per gene, in units of the expression.

    Newton's method on standardised values, safeguarded by a bracket: the likelihood is concave, so the sign of its
    derivative says on which side the maximum lies, and a step that leaves the bracket is replaced by its middle. A
    gene stops when its next step is below `tolerance` (that step is still taken); the stopped are swept out of the
    block as soon as they are a quarter of it."""
    k = genes.size
    mean, scale = np.empty(k), np.empty(k)
    pack(expression, genes, rows, x, mean, scale)
    gradient, information, loglik = np.empty(k), np.empty(k), np.empty(k)
    sign, b = np.empty(k), np.zeros(k)
    low, high = np.full(k, -np.inf), np.full(k, np.inf)
    who = np.arange(k)
    done = np.zeros(k, np.bool_)
    extremes(x, k, end, tied, fresh, work, sign)
    newton_pass(x, b, k, end, tied, fresh, efron, True, work, gradient, information, loglik)
    for j in range(k):
        row = out[genes[j]]
        row[LOGLIK0] = loglik[j]
        row[SCALE] = scale[j]
        row[ITERATIONS] = 0
        # information per death is the mean variance inside the risk sets, 1 being that of the whole column
        if scale[j] == 0.0 or information[j] <= 1e-12 * tied.sum():
            row[STATUS] = NO_VARIANCE
            done[j] = True
            continue
        row[SCORE] = gradient[j] * gradient[j] / information[j]
        if sign[j] != 0.0:
            row[STATUS] = SEPARATED
            row[COEF] = sign[j] * np.inf
            row[LOGLIK] = limit_loglik(x, j, sign[j], end, tied, fresh, efron)
            done[j] = True
    active = k
    for iteration in range(max_iter + 1):
        left = 0
        for j in range(active):
            if done[j]:
                continue
            if iteration > 0 or information[j] > 0.0:
                step = _step(b[j], gradient[j], information[j], low, high, j)
                if abs(step) <= tolerance * max(1.0, abs(b[j])):
                    row = out[genes[who[j]]]
                    row[COEF] = (b[j] + step) / scale[who[j]]
                    row[SE] = 1.0 / (np.sqrt(information[j]) * scale[who[j]])
                    row[LOGLIK] = loglik[j]
                    row[ITERATIONS] = iteration
                    row[STATUS] = SEPARATED if abs(b[j]) > 30.0 else OK
                    done[j] = True
                    continue
                b[j] += step
            left += 1
        if left == 0 or iteration == max_iter:
            break
        if left <= active - max(1, active // 4):
            active = _sweep(x, rows.size, active, done, b, low, high, who)
        newton_pass(x, b, active, end, tied, fresh, efron, False, work, gradient, information, loglik)
    for j in range(active):
        if not done[j]:
            out[genes[who[j]], STATUS] = NOT_CONVERGED
            out[genes[who[j]], ITERATIONS] = max_iter


@njit(cache=True, nogil=True)
def _step(b, gradient, information, low, high, j):
    """The safeguarded Newton step from b; narrows the bracket low[j], high[j]."""
    if gradient > 0.0:
        low[j] = b
    else:
        high[j] = b
    step = gradient / information if information > 0.0 else np.inf * gradient
    longest = 5.0 + abs(b)  # five standard deviations of the gene, or twice as far out as before
    if not abs(step) <= longest:  # also catches inf and nan
        step = longest if gradient > 0.0 else -longest
    if b + step <= low[j] or b + step >= high[j]:
        if np.isfinite(low[j]) and np.isfinite(high[j]) and gradient != 0.0 and abs(step) > 1e-12:
            step = 0.5 * (low[j] + high[j]) - b
    return step


@njit(cache=True, nogil=True)
def _sweep(x, n, active, done, b, low, high, who):
    """Move the columns still being fitted to the front; returns how many they are."""
    where = np.empty(active, np.int64)
    left = 0
    for j in range(active):
        if not done[j]:
            where[left] = j
            left += 1
    for i in range(n):
        row = x[i]
        for j in range(left):
            row[j] = row[where[j]]
    for j in range(left):
        o = where[j]
        b[j], low[j], high[j], who[j] = b[o], low[o], high[o], who[o]
        done[j] = False
    for j in range(left, active):
        done[j] = True
    return left


@njit(cache=True, nogil=True)
def fit_genes(expression, genes, rows, end, tied, fresh, efron, tolerance, max_iter, out):
    """fit_block over all of `genes`, BLOCK at a time; frees the interpreter, so threads may share out the genes."""
    x = np.empty((rows.size, min(BLOCK, genes.size)))
    work = np.empty((12, BLOCK))
    for begin in range(0, genes.size, BLOCK):
        block = genes[begin : begin + BLOCK]
        fit_block(expression, block, rows, end, tied, fresh, efron, tolerance, max_iter, x, work, out)
