"""What a genome-wide fit returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

STATUS = ("ok", "separated", "no variance", "too few events", "not converged")
COLUMNS = ("coef", "se", "z", "p_wald", "p_lr", "p_score", "q", "n", "events", "status")


@dataclass(frozen=True)
class CoxTable:
    """One univariate (or adjusted) Cox fit a gene; all arrays are [p], in the order of `genes`.

    coef: log hazard ratio per unit of expression as handed in; se, z = coef / se. p_wald, p_lr, p_score: chi-square
    p values on one degree of freedom. q: Benjamini-Hochberg over the test named in settings["test"]. n, events: the
    patients with a known value and those of them who died within the horizon. iterations: of Newton's method.

    status:
      "ok"             the maximum was found
      "separated"      the likelihood rises for ever (each death has the largest, or each the smallest, value of its
                       risk set): coef is its limit, +-inf, se and p_wald NaN, p_lr that of the limit (with
                       covariates: of where the search stopped, which is no smaller); or the maximum lies beyond 30
                       standard deviations. Under Firth's penalty coef, se, z, p_wald,
                       p_lr, lr and loglik are the penalised fit's; p_score and iterations stay the plain likelihood's
      "no variance"    the gene is constant among those at risk (or a copy of the covariates): all NaN
      "too few events" fewer than `min_events` deaths with a known value: all NaN
      "not converged"  all NaN but p_score, which needs no fit
    """

    genes: tuple[str, ...]
    coef: np.ndarray = field(repr=False)
    se: np.ndarray = field(repr=False)
    z: np.ndarray = field(repr=False)
    p_wald: np.ndarray = field(repr=False)
    p_lr: np.ndarray = field(repr=False)
    p_score: np.ndarray = field(repr=False)
    q: np.ndarray = field(repr=False)
    n: np.ndarray = field(repr=False)
    events: np.ndarray = field(repr=False)
    status: np.ndarray = field(repr=False)
    lr: np.ndarray = field(repr=False)  # likelihood-ratio chi-square
    loglik: np.ndarray = field(repr=False)  # log partial likelihood with the gene (penalised where Firth's)
    iterations: np.ndarray = field(repr=False)
    settings: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.genes)

    def frame(self) -> pd.DataFrame:
        """One row a gene: gene and COLUMNS."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return pd.DataFrame({"gene": list(self.genes), **columns})

    def counts(self) -> dict[str, int]:
        """How many genes have each status."""
        names, numbers = np.unique(self.status, return_counts=True)
        return {str(name): int(number) for name, number in zip(names, numbers)}

    def hits(self, level: float = 0.05) -> list[str]:
        """Genes with q <= level."""
        with np.errstate(invalid="ignore"):
            return [self.genes[i] for i in np.flatnonzero(self.q <= level)]
