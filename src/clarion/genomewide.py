"""`clarion cox DATA [KEY=VALUE ...] --out DIR`: the Cox model of every gene in every cancer of a cohort.

Writes table.parquet (bound to the patients it was fitted on), table.csv and summary.json. All patients are fitted: as a
model's input such a table leaks (`clarion measure cancer_leak`), and what trains and evaluates refuses it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from clarion import config
from clarion.errors import UsageError
from clarion.record import to_json, write_atomic

log = logging.getLogger("clarion")
FIT: dict[str, Any] = {
    "modality": "rna", "scale": "rank", "covariates": [], "strata": None, "horizon": 60.0, "ties": "efron",
    "min_events": 10, "firth": "no", "test": "lr",
}  # fmt: skip
SCALES = {"rank": "rank-normal scores of each cancer", "as_is": None}
LEVEL = 0.05
TOP = 5  # genes named in the summary of a cancer


def fit_genes(data: str, overrides: Sequence[str], out: Path) -> dict[str, Any]:
    """Fit and write; returns the summary.

    data: a name of conf/data for survival, or a folder (data=cancer_omics data.root=FOLDER). overrides: KEY=VALUE of
    FIT, and data.KEY=VALUE of the data's config. UsageError for names and keys that are unknown."""
    from clarion.building import build_data
    from clarion.cancer.lookup import by_cancer, fit_pancancer

    chosen, fit = composition(data, overrides)
    cohort = build_data(config.compose_config(chosen)).cohort()
    fit = dict(fit)
    scale, modality = fit.pop("scale"), fit.pop("modality")
    stream = by_cancer(cohort, modality, fit.pop("covariates"), fit.pop("strata"))
    began = time.time()
    table = fit_pancancer(ranked(stream) if scale == "rank" else stream, **fit)
    seconds = time.time() - began
    named = SCALES[scale] or cohort.scale.get(modality, "")
    table.settings.update(scale=named, cohort=cohort.with_omics([modality]).fingerprint())
    summary = {
        "data": cohort.name,
        "data_kind": cohort.kind,
        "modality": modality,
        "patients": len(cohort),
        "genes": len(table.genes),
        "fits": len(table.frame),
        "fitted": int(table.frame["p_lr"].notna().sum()),
        "hits": int((table.frame["q"] <= LEVEL).sum()),
        "level": LEVEL,
        "seconds": round(seconds, 2),
        "settings": table.settings,
        "cancers": [of_cancer(table, cancer) for cancer in table.cancers],
        "out": str(out),
    }
    table.write(out / "table.parquet")
    write_atomic(out / "table.csv", table.frame.to_csv(index=False, lineterminator="\n"))
    write_atomic(out / "summary.json", to_json({k: v for k, v in summary.items() if k != "out"}))
    return summary


def composition(data: str, overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """(overrides of Hydra, options of the fit) of the command's words; UsageError says the nearest known word."""
    known = [name for name in config.choices("data") if config.group_task("data", name) == "survival"]
    if data in known:
        chosen = [f"data={data}"]
    elif Path(data).expanduser().is_dir():
        chosen = ["data=cancer_omics", f"data.root={Path(data).expanduser().resolve()}"]
    else:
        raise UsageError(f"{data}: neither a folder nor survival data.{config.nearest(data, known)} "
                         f"(data: {', '.join(known)})")  # fmt: skip
    fit = dict(FIT)
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"{text}: give KEY=VALUE, for example horizon=36.")
        if key.startswith("data."):
            chosen.append(text)
        elif key in FIT:
            fit[key] = _value(key, value)
        else:
            raise UsageError(f"{key}: no such option.{config.nearest(key, FIT)} (options: {', '.join(FIT)}, data.KEY)")
    if fit["scale"] not in SCALES:
        raise UsageError(f"scale={fit['scale']} is unknown: use {' or '.join(SCALES)}.")
    return chosen, fit


def _value(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"{key}={text} cannot be read as a value.") from None
    if key == "firth" and isinstance(value, bool):  # YAML's no
        return "no" if not value else "all"
    if key == "covariates":
        return [value] if isinstance(value, str) else list(value or [])
    if key in ("horizon", "min_events") and not isinstance(value, (int, float)) and (key, value) != ("horizon", None):
        raise UsageError(f"{key}={text} is no number.")
    return value


def ranked(stream: Iterator[tuple]) -> Iterator[tuple]:
    """The stream of fit_pancancer with each cancer's values as rank-normal scores: outliers of public matrices weigh
    nothing, coefficients are per standard deviation."""
    import numpy as np
    import pandas as pd

    from clarion.cancer.cox import rank_normal

    for cancer, expression, *rest in stream:
        scores = rank_normal(expression.to_numpy()).astype(np.float32)
        yield cancer, pd.DataFrame(scores, expression.index, expression.columns), *rest


def of_cancer(table: Any, cancer: str) -> dict[str, Any]:
    """Counts of one cancer, and its genes of smallest p."""
    rows = table.of(cancer)
    best = rows.dropna(subset=["p_lr"]).sort_values("p_lr", kind="stable").head(TOP)
    counts = rows["status"].astype(str).value_counts()
    return {
        "cancer": cancer,
        "patients": table.patients[cancer].n,
        "deaths": int(rows["events"].max()) if len(rows) else 0,
        "fitted": int(rows["p_lr"].notna().sum()),
        "status": {name: int(n) for name, n in counts.items() if n},
        "hits": int((rows["q"] <= LEVEL).sum()),
        "top": [{"gene": gene, "coef": float(r.coef), "p": float(r.p_lr), "q": float(r.q)} for gene, r in
                zip(best.index, best.itertuples(), strict=True)],
    }  # fmt: skip


def markdown(summary: Mapping[str, Any]) -> str:
    """The summary as a table of cancers."""
    settings = summary["settings"]
    horizon = "none" if settings.get("horizon") is None else f"{settings['horizon']:g} months"
    lines = [
        f"# Cox model of every gene: {summary['data']} ({summary['data_kind']} data)", "",
        f"{summary['fits']:,} fits of {summary['genes']:,} genes on {summary['patients']:,} patients in "
        f"{summary['seconds']:.2f} s; {summary['modality']} as {settings['scale'] or 'given'}, "
        f"{settings.get('ties', 'efron')} ties, censored at {horizon}; q by Benjamini-Hochberg within each cancer.", "",
        f"| cancer | patients | deaths | genes fitted | q ≤ {summary['level']:g} | status | smallest p |",
        "|" + "---|" * 7,
    ]  # fmt: skip
    for row in summary["cancers"]:
        status = ", ".join(f"{name} {n:,}" for name, n in row["status"].items())
        best = ", ".join(f"{g['gene']} {g['coef']:+.2f} (p {g['p']:.1e})" for g in row["top"][:3])
        lines.append(f"| {row['cancer']} | {row['patients']:,} | {row['deaths']:,} | {row['fitted']:,} | "
                     f"{row['hits']:,} | {status} | {best} |")  # fmt: skip
    lines += ["", "All patients were fitted: as a model's input this table leaks their outcome; training fits its own."]
    return "\n".join(lines) + "\n"
