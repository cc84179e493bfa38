"""False discovery rate of many p values."""

from __future__ import annotations

import numpy as np


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """q values [m] of p values [m] (Benjamini & Hochberg 1995, JRSS B 57:289, as adjusted p values).

    NaN is no test: it stays NaN and does not count among the hypotheses."""
    p = np.asarray(p, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    if tested.size:
        order = tested[np.argsort(p[tested], kind="stable")]
        adjusted = p[order] * (tested.size / np.arange(1, tested.size + 1))
        q[order] = np.minimum(1.0, np.minimum.accumulate(adjusted[::-1])[::-1])
    return q
