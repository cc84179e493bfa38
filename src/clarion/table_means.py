"""Means over folds, and over rows of a table, with intervals that come from the patients of each fold.

The risks of two fold models are on two scales, so predictions of folds must not be put together: the score is made in
each fold and the scores are averaged, as published tables do. A resample draws patients again within every fold. Which
patients it draws depends on who they are and on nothing else, so two models tested on the same patients are drawn
alike, and the difference of their means has a paired interval.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from clarion.table_records import read_config

RESAMPLES = 1000
LEVEL = 0.95
Z = 1.959964  # of the normal distribution at LEVEL
Draws = dict[str, np.ndarray]  # metric -> value in every resample, NaN where undefined


def leaves(record: dict) -> list[dict]:
    """The runs behind a record: itself, or those it is the mean of."""
    return [leaf for part in record["parts"] for leaf in leaves(part)] if "parts" in record else [record]


def key_of(record: dict) -> str:
    """Names a combination of runs: figures kept under it are those of exactly these runs."""
    names = sorted([r["run"], str(r["finished"]), str(r.get("evaluator"))] for r in leaves(record))
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def draws_of(record: dict, metric: str) -> np.ndarray | None:
    """One metric in every resample [RESAMPLES], a mean's the mean of its parts'; None where a run's predictions are
    gone, or its evaluator cannot say the metric from test predictions alone."""
    if "parts" not in record:
        return _draws(record.get("directory", ""), record["evaluator"])[1].get(metric)
    parts = [draws_of(part, metric) for part in record["parts"]]
    return None if any(p is None for p in parts) else np.mean(parts, axis=0)


def patients_of(record: dict) -> list[str]:
    """Digest of the test patients of each run, to see whether two rows can be paired."""
    return sorted(_draws(r.get("directory", ""), r["evaluator"])[0] for r in leaves(record))


def at_hand(record: dict) -> bool:
    """Whether the predictions of all its runs are there to be drawn from."""
    paths = (Path(r.get("directory") or "/nowhere") / "predictions" / "test.parquet" for r in leaves(record))
    return all(path.is_file() for path in paths)


@lru_cache(maxsize=4096)
def _draws(directory: str, evaluator: str) -> tuple[str, Draws]:
    """(digest of the test patients, draws) of one run."""
    folder = Path(directory)
    files = [folder / part / "test.parquet" for part in ("predictions", "truth")]
    if not directory or not all(f.is_file() for f in files):
        return "", {}
    import pandas as pd
    from omegaconf import OmegaConf

    from clarion.building import build
    from clarion.evaluators.bootstrap import ROWS_AT_ONCE, codes, resample_weights

    judge = build(OmegaConf.create(read_config(folder / "config.yaml")["evaluators"][evaluator]))
    if not hasattr(judge, "statistic"):
        return "", {}
    stat, patients = judge.statistic(*(pd.read_parquet(f) for f in files))
    index, names = codes(patients)
    digest = hashlib.blake2b("\n".join(map(str, names)).encode(), digest_size=8).hexdigest()
    weights = resample_weights(len(names), RESAMPLES, int(digest, 16) % 2**63)
    parts = [stat(weights[k : k + ROWS_AT_ONCE][:, index]) for k in range(0, RESAMPLES, ROWS_AT_ONCE)]
    return digest, {name: np.concatenate([p[name] for p in parts]).astype(np.float64) for name in parts[0]}


def mean_entry(entries: Sequence[dict], draws: np.ndarray | None, over: str) -> dict[str, Any]:
    """One metric averaged. entries: metrics as evaluators return them; draws: of their mean; over: "folds", ....

    Without draws the interval is the normal one from those of the entries, which share no patient."""
    known = [e for e in entries if e.get("value") is not None]
    first = (known or list(entries))[0]
    how = f"mean of {len(known)} {over}" + (f" (undefined in {len(entries) - len(known)})" if known != entries else "")
    out = dict(first, value=None, low=None, high=None, n=sum(e.get("n") or 0 for e in known),
               n_patients=sum(e.get("n_patients") or 0 for e in known))  # fmt: skip
    if known:
        out["value"] = sum(e["value"] for e in known) / len(known)
        out["low"], out["high"] = interval(draws) if draws is not None and len(known) == len(entries) else (None, None)
    if out["low"] is not None:
        inside = f"percentile bootstrap over patients within folds, {RESAMPLES} resamples"
    elif known and all(e.get("low") is not None for e in known):
        half = Z * math.sqrt(sum(((e["high"] - e["low"]) / (2 * Z)) ** 2 for e in known)) / len(known)
        out["low"], out["high"] = out["value"] - half, out["value"] + half
        inside = "normal interval from those of its parts"
    else:
        inside = "no interval"
    return out | {"method": f"{how}: {str(first.get('method') or '').split(';')[0]}; {inside}"}


def interval(draws: np.ndarray) -> tuple[float | None, float | None]:
    """Percentile bounds; None where more than half of the resamples are undefined, or all are equal."""
    defined = draws[np.isfinite(draws)]
    if defined.size < 0.5 * draws.size or np.ptp(defined) < 1e-12:
        return None, None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_of(parts: Sequence[dict], metrics: Sequence[str], over: str, kept: dict[str, dict]) -> dict[str, Any]:
    """Several measured rows or folds as one record. metrics: those the table shows; kept: figures by `key_of`, filled
    here, and read where the predictions are gone."""
    whole: dict[str, Any] = parts[0] | {"parts": list(parts), "run": f"{len(parts)} {over}", "baseline": {}}
    key, runs = key_of(whole), leaves(whole)
    if at_hand(whole) or key not in kept:
        names = [n for n in metrics if all(n in p["metrics"] for p in parts)]
        kept[key] = {n: mean_entry([p["metrics"][n] for p in parts], draws_of(whole, n), over) for n in names}
    counts = [r.get("counts", {}).get("train") for r in runs]
    few_many = sorted(c for c in counts if c is not None)
    trained = {} if None in counts else {"train": " to ".join(dict.fromkeys(map(str, (few_many[0], few_many[-1]))))}
    return whole | {
        "metrics": kept[key],
        "key": key,
        "counts": trained,
        "duration_s": sum(r.get("duration_s") or 0 for r in runs),
        "data_kind": " and ".join(sorted({r["data_kind"] for r in runs})),
    }


def fold_mean(records: Sequence[dict], metrics: Sequence[str], kept: dict[str, dict]) -> tuple[dict, list[str]]:
    """(the folds of one row as one record, notes): which folds are missing is said."""
    folds = {r["fold"]: r for r in sorted(records, key=lambda r: r["finished"])}
    ordered = [folds[k] for k in sorted(folds)]
    wanted = ordered[0].get("keys", {}).get("data.folds")
    notes = []
    if wanted and len(folds) < int(wanted):
        missing = [str(k) for k in range(int(wanted)) if k not in folds]
        notes.append(f"{len(folds)} of {wanted} folds (missing: {', '.join(missing)})")
    return mean_of(ordered, metrics, "folds", kept), notes


def difference(a: dict, b: dict, metric: str, kept: dict[str, dict]) -> dict[str, Any]:
    """{"value", "low", "high"}: a minus b of one metric; the interval is paired and so needs the same test patients."""
    key = f"{key_of(a)}-{key_of(b)}-{metric}"
    if (at_hand(a) and at_hand(b)) or key not in kept:
        values = [m["metrics"].get(metric, {}).get("value") for m in (a, b)]
        out = {"value": values[0] - values[1] if None not in values else None, "low": None, "high": None}
        first, second = draws_of(a, metric), draws_of(b, metric)
        if first is not None and second is not None and patients_of(a) == patients_of(b):
            out["low"], out["high"] = interval(first - second)
        kept[key] = out
    return kept[key]
