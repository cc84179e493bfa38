"""Firth's penalised partial likelihood, for genes whose likelihood has no maximum.

Maximised is l(b) + 1/2 log det I(b) (Firth 1993, Biometrika 80:27; for the Cox model Heinze & Schemper 2001,
Biometrics 57:114). The derivative of the information is the sum of the third cumulants of the variables over the risk
sets, so the penalised score is exact here, ties (Efron or Breslow) included.
"""

from __future__ import annotations

import numpy as np

from clarion.cancer.cox.adjusted import firth_fit


def firth(v, end, tied, fresh, efron, tolerance=1e-10, max_iter=200):
    """Penalised fit of the first column of v [r, d] -> (coef, se, penalised likelihood-ratio chi-square, penalised
    log likelihood, converged), in units of v."""
    d = v.shape[1]
    beta, variance = np.zeros(d), np.empty((d, d))
    full, _, converged = firth_fit(v, end, tied, fresh, efron, False, tolerance, max_iter, beta, variance)
    null, _, converged_null = firth_fit(
        v, end, tied, fresh, efron, True, tolerance, max_iter, np.zeros(d), np.empty((d, d))
    )
    se = float(np.sqrt(variance[0, 0])) if np.isfinite(full) else np.nan
    return float(beta[0]), se, max(0.0, 2.0 * (full - null)), float(full), bool(converged and converged_null)
