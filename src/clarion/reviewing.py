"""`clarion review`: a blind sheet of a run's texts for experts, and their ratings read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clarion.errors import DataError, UsageError

SPLITS = ("test", "val", "train")


def write_sheet(runs: Sequence[Path], out: Path, split: str | None = None, n: int | None = None, seed: int = 0) -> dict:
    """The texts of runs (predictions/SPLIT.parquet, column text; facts, where they have them, as the inputs) in one
    blind sheet. n: at most so many patients, drawn by seed, the same of every run. Returns {sheet, key, items,
    patients, split}. UsageError for folders that are no runs with texts."""
    if out.suffix.lower() not in (".csv", ".html"):
        raise UsageError(f"--out {out}: a review sheet is a .csv or a .html file.")
    if n is not None and n < 1:
        raise UsageError(f"--n {n}: at least one patient.")
    if split is not None and split not in SPLITS:
        raise UsageError(f"--split {split}: choose {', '.join(SPLITS)}.")
    from random import Random

    from clarion.cancer.rationale.sheet import Item, Sheet

    names = _names(runs)
    split = split or next((s for s in SPLITS if (runs[0] / "predictions" / f"{s}.parquet").is_file()), "test")
    tables = {name: _texts(run, split) for name, run in zip(names, runs, strict=True)}
    patients = set.intersection(*(set(t["patient_id"]) for t in tables.values()))
    if not patients:
        raise DataError(f"The {split} splits of these runs have no patient in common: review runs of the same data.")
    chosen = sorted(patients)
    if n is not None and n < len(chosen):
        chosen = Random(f"{seed}").sample(chosen, n)
    kept = set(chosen)
    items = [Item(name, str(row.sample_id), str(row.patient_id), str(row.text or ""), row.inputs)
             for name, table in tables.items() for row in table.itertuples() if row.patient_id in kept]  # fmt: skip
    sheet = Sheet.of(items, seed)
    key = sheet.write(out)
    return {"sheet": str(out), "key": str(key), "items": len(sheet.rows), "patients": len(kept), "split": split}


def _names(runs: Sequence[Path]) -> list[str]:
    for run in runs:
        if not (run / "config.yaml").is_file():
            raise UsageError(f"{run} is not a run directory (no config.yaml).")
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        raise UsageError("Two of these runs have the same name: name each once.")
    return names


def _texts(run: Path, split: str) -> Any:
    """sample_id, patient_id, text, inputs of a run's split."""
    from clarion.cancer.rationale.draft import fact_lines

    table = facts_of(run, split)
    if "text" not in table.columns:
        raise UsageError(f"{run.name} has no column text in its predictions: review a run that writes texts.")
    table["inputs"] = [fact_lines(f) if f is not None else "" for f in table["facts"]]
    return table[["sample_id", "patient_id", "text", "inputs"]]


def facts_of(run: Path, split: str) -> Any:
    """The predictions of a run's split, ids as text, with a column `facts` of factcheck_facts.Facts (None where it has
    none): those of the truth, with the tissue that the model was told of. UsageError for a run without predictions."""
    import pandas as pd

    from clarion.evaluators.factcheck_facts import Facts
    from clarion.evaluators.factcheck_patterns import stated

    path = run / "predictions" / f"{split}.parquet"
    if not path.is_file():
        raise UsageError(f"{run} has no predictions of the {split} split: evaluate it first (python eval.py).")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as predictions ({error}).") from None
    if absent := [c for c in ("sample_id", "patient_id") if c not in table.columns]:
        raise UsageError(f"{run.name} has no column {absent[0]} in its predictions: review a run that writes texts.")
    table = table.assign(sample_id=table["sample_id"].astype(str), patient_id=table["patient_id"].astype(str))
    truth = run / "truth" / f"{split}.parquet"
    if "facts" not in table.columns and truth.is_file():
        known = pd.read_parquet(truth)
        if "facts" in known.columns:
            table = table.merge(known.astype({"sample_id": str})[["sample_id", "facts"]], on="sample_id", how="left")
    given = table["facts"] if "facts" in table.columns else [""] * len(table)
    table["facts"] = [
        replace(Facts.read(f), **({} if told is None else {"patterns": told})) if isinstance(f, str) and f else None
        for f, told in zip(given, stated(table, []), strict=True)
    ]
    return table


def read_reviews(files: Sequence[Path], key: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Ratings of one sheet by any number of reviewers -> means and Krippendorff's alpha (`ratings.summarise`).

    key: NAME.key.json of the sheet; None: found beside the files by the sheet's id."""
    for path in files:
        if not path.is_file():
            raise UsageError(f"{path}: no such file.")
    from clarion.cancer.rationale.ratings import read_ratings, summarise
    from clarion.cancer.rationale.sheet import read_key

    known = read_key(key) if key is not None else _key_of(files)
    return {"sheet": known["sheet"], **summarise(read_ratings(files, known), seed=seed)}


def _key_of(files: Sequence[Path]) -> dict[str, Any]:
    from clarion.cancer.rationale.sheet import read_key

    folders = dict.fromkeys(path.resolve().parent for path in files)
    keys = [path for folder in folders for path in sorted(folder.glob("*.key.json"))]
    texts = [path.read_bytes() for path in files]
    for path in keys:
        try:
            found = read_key(path)
        except DataError:  # another program's file of such a name
            continue
        if all(found["sheet"].encode() in text for text in texts):
            return found
    raise UsageError("The key of this sheet does not lie beside the files: give --key NAME.key.json (written with the "
                     "sheet by `clarion review sheet`).")  # fmt: skip


def rendered(result: dict[str, Any]) -> str:
    """The result as a table in text."""
    head = (f"sheet {result['sheet']}: {result['n_items']} texts of {result['n_patients']} patients, "
            f"{result['n_raters']} reviewer(s), {result['n_ratings']} filled rows")  # fmt: skip
    lines = [head, "", f"{'criterion':<12}{'mean':>24}{'alpha (ordinal)':>26}"]
    for name, row in result["criteria"].items():
        lines.append(f"{name:<12}{_shown(row['mean']):>24}{_shown(row['alpha']):>26}")
    if len(result["runs"]) > 1:
        lines += ["", "mean of each run"]
        for run, row in result["runs"].items():
            lines.append(f"{run}: " + ", ".join(f"{c} {_shown(v)}" for c, v in row.items()))
    lines += ["", "mean of each reviewer"]
    for who, row in result["raters"].items():
        lines.append(f"{who} (n={row['n']}): " + ", ".join(f"{c} {v:.2f}" for c, v in row.items() if c != "n"))
    return "\n".join([*lines, *result["notes"]]) + "\n"


def _shown(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return "not defined"
    interval = "" if value["low"] is None else f" [{value['low']:.2f}, {value['high']:.2f}]"
    return f"{value['value']:.2f}{interval}"


def review(action: str, paths: Sequence[str], options: Any) -> int:
    """What `clarion review` runs; prints and returns the exit status."""
    from clarion.record import to_json

    given = [Path(p).expanduser() for p in paths]
    if action == "sheet":
        if options.out is None:
            raise UsageError("clarion review sheet RUN needs --out FILE.csv or FILE.html.")
        result = write_sheet(given, Path(options.out).expanduser(), options.split, options.n, options.seed)
        print(json.dumps(result, ensure_ascii=False, indent=2))
        return 0
    if action == "draft":
        from clarion.drafting import write_drafts

        if options.out is None or options.generator is None or len(given) != 1:
            raise UsageError("clarion review draft RUN needs one run, --generator MODEL and --out FILE.json.")
        result = write_drafts(given[0], options.generator, Path(options.out).expanduser(), options.language,
                              options.split or "test", options.n, options.seed)  # fmt: skip
        print(json.dumps(result, ensure_ascii=False, indent=2))
        return 0
    key = Path(options.key).expanduser() if options.key else None
    result = read_reviews(given, key, options.seed)
    if options.out:
        from clarion.record import write_atomic

        write_atomic(Path(options.out).expanduser(), to_json(result))
    print(to_json(result) if options.format == "json" else rendered(result), end="")
    return 0
