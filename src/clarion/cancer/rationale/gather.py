"""One patient's facts from the coefficient table, expression, attention over tissues, clinical data and prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError
from clarion.evaluators.factcheck_facts import Facts, Gene, Pattern


def gather_facts(
    table: pd.DataFrame | None,
    expression: Mapping[str, float] | None,
    *,
    top: int = 10,
    patterns: Mapping[str, float | None] | None = None,
    clinical: Mapping[str, Any] | None = None,
    survival: float | None = None,
    interval: Sequence[float] | None = None,
    horizon: float = 60.0,
    cancer: str = "",
) -> Facts:
    """Facts of one patient; what is None or empty is listed as missing.

    table: rows of one cancer of the coefficient table (`LookupTable.of`: index gene; coef, q, z, status), fitted on the
    training patients of this fold. expression: gene -> z among them, None where the omics are missing; then no
    gene says anything of this patient and none is stated. top: how many genes, those of smallest q (ties: largest |z|
    of the fit) whose fit converged and which were measured. patterns: tissue -> share of the model's attention, None
    where there is no slide. clinical: age (years), sex ("F", "M"), stage; NaN, None and "" are unknown. survival:
    probability of being alive at `horizon` months, interval (low, high, level)."""
    genes: tuple[Gene, ...] = ()
    if table is not None and expression is not None:
        genes = _top_genes(table, pd.Series(dict(expression), dtype=np.float64), top)
    shares = sorted((patterns or {}).items(), key=lambda item: (-(item[1] if item[1] is not None else 2), item[0]))
    known = {k: v for k, v in (clinical or {}).items() if not _unknown(v)}
    missing = [name for name, gone in (("slide", patterns is None), ("omics", expression is None),
                                       ("clinical", not {"age", "sex", "stage"} & set(known))) if gone]  # fmt: skip
    return Facts(
        genes=genes,
        patterns=tuple(Pattern(str(name), None if _unknown(share) else float(share)) for name, share in shares),
        age=float(known["age"]) if "age" in known else None,
        sex=str(known.get("sex", "")),
        stage=str(known.get("stage", "")).removeprefix("Stage ").strip(),
        cancer=cancer,
        survival=None if _unknown(survival) else float(survival),
        interval=None if interval is None else tuple(map(float, interval)),
        horizon=float(horizon),
        missing=tuple(missing),
    )


def _top_genes(table: pd.DataFrame, expression: pd.Series, top: int) -> tuple[Gene, ...]:
    if absent := [c for c in ("coef", "q") if c not in table.columns]:
        raise DataError(f"The coefficient table lacks {', '.join(absent)}: hand in LookupTable.of(cancer).")
    usable = table[np.isfinite(table["coef"]) & (table["coef"] != 0) & table.index.isin(expression.dropna().index)]
    if "status" in usable:
        usable = usable[usable["status"].astype(str) == "ok"]
    strength = usable["z"].abs() if "z" in usable else usable["coef"].abs()
    order = pd.DataFrame({"q": usable["q"].fillna(2.0), "strength": -strength}).sort_values(["q", "strength"])
    rows = usable.loc[order.index[:top]]
    return tuple(
        Gene(str(name), float(coef), None if _unknown(q) else float(q), float(expression[name]))
        for name, coef, q in zip(rows.index, rows["coef"], rows["q"], strict=True)
    )


def _unknown(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
