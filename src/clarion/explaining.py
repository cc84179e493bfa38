"""`clarion explain RUN [RUN ...]`: which genes trained survival models look at, and whether several runs agree.

Writes explanation.json, explanation.csv and explanation.html. The data of each run are built again from its config and
must be the ones it was trained on: their fingerprint is compared with the manifest's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clarion.config import nearest
from clarion.errors import DataError, UsageError
from clarion.record import RunRecord, to_json, write_atomic

log = logging.getLogger("clarion")
SPLITS = ("train", "val", "test")
DRAWS, RESAMPLES = 10, 1000  # random choices of genes in the deletion check; resamples of patients


def explain_runs(
    runs: Sequence[Path], split: str = "test", top: int = 20, out: Path | None = None, patients: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """Explain each run and write the three files into `out` (default: explanation-RUN here, explanation for several).

    patients: at most so many of the split (None: all). Returns {"runs": [{run, model, data, data_kind, seed, hash,
    explanation}], "stability": over runs or None, "out"}. UsageError for what is no run of a survival model that can be
    explained by genes; DataError where the data have changed since."""
    if top < 1:
        raise UsageError(f"--top {top}: give at least 1.")
    if len({r.expanduser().resolve() for r in runs}) < len(runs):
        raise UsageError("A run is given twice: it would agree with itself; name each run once.")
    checked = [survival_run(run, split) for run in runs]  # all refusals before the first long step
    explained, offered = zip(*(_explain(record, split, top, patients, device) for record in checked), strict=True)
    stable = None
    if len(explained) > 1:
        from clarion.cancer.explanation import stability
        from clarion.cancer.explanation.document import importance

        stable = stability([importance(e["explanation"]) for e in explained], top, offered=offered)
    alone = f"explanation-{explained[0]['run']}" if len(explained) == 1 else "explanation"
    out = out or Path(alone)
    result = {"runs": list(explained), "stability": stable}
    write(result, out)
    return result | {"out": str(out)}


def survival_run(run: Path, split: str) -> RunRecord:
    """The record of a complete run of a survival model; UsageError says what else it is. Loads nothing heavy."""
    if split not in SPLITS:
        raise UsageError(f"--split {split}: choose {', '.join(SPLITS)}.{nearest(split, SPLITS)}")
    run = run.expanduser()
    record = RunRecord(run.resolve())
    if not record.complete or not (record.directory / "config.yaml").is_file():
        raise UsageError(f"{run} is not a complete run directory (train one with python train.py).")
    cfg = record.config()
    if cfg.model.task != "survival":
        raise UsageError(
            f"{run} is a {cfg.model.task} model ({cfg.model.name}): only survival models on omics tables are explained "
            "by genes."
        )
    return record


def _explain(
    record: RunRecord, split: str, top: int, patients: int | None, device: str
) -> tuple[dict[str, Any], set[str]]:
    """(the entry of a run, the genes its data offered of the modalities it reads)."""
    from clarion.trained import open_model

    cfg = record.config()
    trained = open_model(str(record.directory), "survival", cfg.model.name, device, "RUN")
    data = same_data(record)
    if not data.splits.get(split):
        raise UsageError(f"--split {split}: {record.directory.name} has no such patients.")
    if not hasattr(data, "explain"):
        raise UsageError(f"data={cfg.data.name} holds no genes: nothing to explain {record.directory.name} by.")
    log.info("explaining %s on %s", trained.name, split)
    found = data.explain(
        trained.predictor, split, patients, top=top, draws=DRAWS, n_resamples=RESAMPLES, seed=int(cfg.seed)
    )
    read = {row["gene"].split(":", 1)[0] for row in found["genes"]}
    offered = {f"{modality}:{gene}" for modality, genes in data.genes.items() if modality in read for gene in genes}
    said = {"run": trained.name, "model": cfg.model.name, "data": cfg.data.name, "data_kind": data.kind,
            "seed": int(cfg.seed), "hash": trained.digest, "explanation": found}  # fmt: skip
    return said, offered


def same_data(record: RunRecord) -> Any:
    """The data object of a run, built again from its config and checked. DataError where it is no longer the same."""
    from clarion.building import build_data

    data = build_data(record.config())
    known, now = (record.manifest().get("data") or {}).get("fingerprint"), data.fingerprint()
    if known != now:
        raise DataError(
            f"The data of {record.directory.name} have changed since it was trained (fingerprint {str(known)[:12]}, "
            f"now {now[:12]}): bring the same files back, or train again."
        )
    return data


def write(result: dict[str, Any], out: Path) -> None:
    """explanation.json, explanation.csv (all genes, one row a run and gene) and explanation.html."""
    import pandas as pd

    from clarion.cancer.explanation.genes import flat_rows
    from clarion.report.explained import write_explanation_page

    table = pd.DataFrame([{"run": e["run"], **row} for e in result["runs"] for row in flat_rows(e["explanation"])])
    write_atomic(out / "explanation.json", to_json(result))
    write_atomic(out / "explanation.csv", table.to_csv(index=False, lineterminator="\n"))
    write_explanation_page(result, out / "explanation.html")


def markdown(result: dict[str, Any]) -> str:
    """The top genes of each run as a table, with the checks in sentences."""
    from clarion.report.explained import explanation_view, stability_view

    parts = []
    for e in result["runs"]:
        view = explanation_view(e["explanation"])
        parts += [f"## {e['run']} ({e['model']} on {e['data']}, {e['data_kind']} data)", view["caption"]]
        parts += [_table(view["head"], view["rows"]), *view["sentences"]]
        if view["planted"]:
            planted = view["planted"]
            parts += [view["verdict"], _table(planted["head"], planted["rows"]), planted["told"]]
        parts += [_table(view["deletion"]["head"], view["deletion"]["rows"]), view["deletion"]["told"]]
        parts += ["\n".join(f"- {note}" for note in view["notes"])]
    if stable := stability_view(result["stability"], [e["run"] for e in result["runs"]]):
        parts += ["## Stability over runs", stable["told"], _table(stable["head"], stable["rows"])]
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
