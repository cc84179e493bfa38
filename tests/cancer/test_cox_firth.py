"""Firth's penalty against a brute-force maximum of the penalised likelihood, and what it is for: separated genes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from clarion.cancer.cox import fit


def penalised(beta, design, time, event, efron):
    """l(b) + 1/2 log det I(b), written from the definition: a loop over deaths and their risk sets."""
    beta = np.atleast_1d(beta)
    eta = design @ beta
    total, information = 0.0, np.zeros((len(beta), len(beta)))
    for t in np.unique(time[event]):
        dead = event & (time == t)
        for l in range(dead.sum()):
            share = l / dead.sum() if efron else 0.0
            w = np.exp(eta) * ((time >= t) - share * dead)
            mean = w @ design / w.sum()
            total += eta[dead][l] - np.log(w.sum())
            information += (design - mean).T @ ((design - mean) * w[:, None]) / w.sum()
    return total + 0.5 * np.linalg.slogdet(information)[1]


def small(seed=0, n=60):
    rng = np.random.default_rng(seed)
    x, other = rng.normal(size=n), rng.normal(size=n)
    time = np.ceil(rng.exponential(8 * np.exp(-0.7 * x)))
    return x, other, time, rng.random(n) < 0.6


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_equals_brute_force(ties):
    x, other, time, event = small()
    efron = ties == "efron"
    table = fit(x[:, None], time, event, ties=ties, firth="all")
    best = minimize(lambda b: -penalised(b, x[:, None], time, event, efron), 0.0, tol=1e-12, method="Nelder-Mead",
                    options={"xatol": 1e-9, "fatol": 1e-13})  # fmt: skip
    assert table.coef[0] == pytest.approx(best.x[0], abs=1e-6)
    assert table.lr[0] == pytest.approx(2 * (-best.fun - penalised(0.0, x[:, None], time, event, efron)), abs=1e-8)
    plain = fit(x[:, None], time, event, ties=ties)
    assert abs(table.coef[0]) < abs(plain.coef[0]) and table.se[0] > 0  # the penalty shrinks


def test_equals_brute_force_beside_a_covariate():
    x, other, time, event = small(1)
    design = np.column_stack([x, other])
    options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000}
    table = fit(x[:, None], time, event, covariates=other[:, None], firth="all")
    best = minimize(lambda b: -penalised(b, design, time, event, True), [0, 0], method="Nelder-Mead", options=options)
    null = minimize(
        lambda b: -penalised(np.array([0.0, b[0]]), design, time, event, True), [0.0], method="Nelder-Mead",
        options=options,
    )  # fmt: skip
    assert table.coef[0] == pytest.approx(best.x[0], abs=1e-6)
    assert table.lr[0] == pytest.approx(2 * (null.fun - best.fun), abs=1e-7)


def test_separated_genes_get_a_finite_answer():
    x, _, time, event = small(2)
    mutated = np.zeros(len(x))
    mutated[np.flatnonzero(~event)[:6]] = 1.0  # mutated patients all live: the likelihood falls for ever
    genes = np.column_stack([mutated, x])
    plain, rescued = fit(genes, time, event), fit(genes, time, event, firth="separated")
    assert plain.coef[0] == -np.inf and np.isfinite(rescued.coef[0]) and rescued.coef[0] < 0
    assert rescued.status[0] == plain.status[0] == "separated"  # the flag stays: the reader is told
    assert np.isfinite([rescued.se[0], rescued.p_wald[0], rescued.p_lr[0]]).all()
    assert rescued.coef[1] == plain.coef[1] and rescued.status[1] == "ok"
    best = minimize(lambda b: -penalised(b, mutated[:, None], time, event, True), 0.0, method="Nelder-Mead",
                    options={"xatol": 1e-9, "fatol": 1e-13})  # fmt: skip
    assert rescued.coef[0] == pytest.approx(best.x[0], abs=1e-6)
