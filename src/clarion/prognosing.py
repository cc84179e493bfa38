"""`clarion prognose --slide S --omics row.csv --run RUN --out DIR`: a fused model's prognosis of one new patient.

prognosis.json holds the probability of survival with its interval, the text with what the fact check removed, and what
was missing; prognosis.html shows it on one page; heatmap-N.tif and slide-N.html lie beside for each slide.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clarion.config import nearest
from clarion.errors import DataError, UsageError
from clarion.record import RunRecord, read_json, to_json, write_atomic
from clarion.trained import checkpoint_of

log = logging.getLogger("clarion")
FORMAT = "clarion-prognosis/1"
LANGUAGES = ("en", "ko")
RESEARCH = "For research only: not a medical device, and not for decisions about a patient."
MODALITIES = ("omics", "slide")  # that a prognosis is of
WRITTEN = re.compile(r"prognosis\.html|heatmap-[0-9]+\.tif|slide-[0-9]+\.html")  # names in prognosis.json
QUALITY = ("auc_60m", "c_index", "brier_60m", "calibration_slope_60m")  # of the run's test patients, as recorded


@dataclass(frozen=True)
class FusedRun:
    """What the files of a fused run say before anything heavy is loaded. checkpoint: fusion/ lies in it; prompts, omics
    (facts of the omics model; {} where it has none) and slide (config of the slide model): from their JSON."""

    record: RunRecord
    checkpoint: Path
    prompts: Mapping[str, Any]
    omics: Mapping[str, Any]
    slide: Mapping[str, Any]

    @property
    def cancers(self) -> list[str]:
        return sorted({*self.prompts["genes"], *self.omics.get("cancers", [])})

    def genes(self, cancer: str = "") -> list[str]:
        """ "modality:GENE" of every gene that the omics model, or a prompt of this cancer ("": of any), reads."""
        tables = [rows for name, rows in self.prompts["genes"].items() if not cancer or name == cancer]
        told = [f"{self.prompts['modality']}:{r['gene']}" for rows in tables for r in rows]
        return list(dict.fromkeys([*self.omics.get("genes", []), *told]))


def prognose(
    run: Path, out: Path, slides: Sequence[Path] = (), omics: Path | None = None, clinical: Sequence[str] = (),
    mpp: float | None = None, language: str | None = None, device: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """Write prognosis.json, prognosis.html and the slides' files into `out` and return what stands in the JSON.

    clinical: KEY=VALUE words, or one table. language: of the page and of the text by template (None: the run's). The
    files appear when all is made, or not at all. UsageError and DataError as the inputs deserve."""
    from clarion.cancer.prognosis.missing import doubtful_inputs, missing_inputs
    from clarion.cancer.prognosis.patient import gene_coverage, named_cancer, read_patient
    from clarion.cancer.prognosis.words import Words

    if language is not None and language not in LANGUAGES:
        raise UsageError(f"--language {language}: choose {' or '.join(LANGUAGES)}.{nearest(language, LANGUAGES)}")
    fused = open_fused(run)
    patient = read_patient([p.expanduser() for p in slides], omics and omics.expanduser(), clinical, mpp)
    cancer = named_cancer(patient.clinical["cancer"], fused.cancers)
    assumed = "" if patient.clinical["cancer"] else cancer
    patient = replace(patient, clinical={**patient.clinical, "cancer": cancer})
    genes = fused.genes(cancer)
    absent = gene_coverage(patient.omics, genes) if patient.omics else []
    words = Words(language or fused.prompts["language"])
    with written_together(out, patient.name) as folder:
        tissue = tissue_of(patient, fused)
        gone = missing_inputs(patient, words, tissue=tissue, genes=genes, absent=absent, cancers=fused.cancers)
        look = doubtful_inputs(patient, words, assumed=assumed, rows=fused.prompts["genes"].get(cancer, []),
                               modality=fused.prompts["modality"])  # fmt: skip
        document = answer(fused, patient, folder, gone, look, words, device)
    return document | {"out": str(out)}


# ---- before anything heavy -------------------------------------------------------------------------------------


def open_fused(run: Path) -> FusedRun:
    """UsageError where `run` is no complete run of a fused model, or an incomplete copy of one."""
    run = run.expanduser()
    if not run.is_dir():
        raise UsageError(f"--run {run}: no such run directory.")
    record = RunRecord(run.resolve())
    if not record.complete or not (record.directory / "config.yaml").is_file():
        raise UsageError(f"--run {run} is not a complete run directory (train one: experiment=cancer_fusion_demo).")
    model = record.config().model
    if model.get("task") != "survival" or not model.get("fusion"):
        raise UsageError(f"--run {run} is a run of model={model.name}, which fuses no slide and omics; give a run of "
                         "fusion_smollm2 or another fusion_* model.")  # fmt: skip
    fuses = sorted(model.fusion.get("modalities") or [])
    if set(fuses) != set(MODALITIES):
        raise UsageError(f"--run {run} fuses {' and '.join(fuses) or 'nothing'}; a prognosis is by a run that fuses "
                         f"{' and '.join(MODALITIES)} (model.fusion.modalities).")  # fmt: skip
    checkpoint = checkpoint_of(record, f"--run {run}")
    folder = checkpoint / "fusion"
    try:
        prompts, omics, slide = (json.loads((folder / name).read_text(encoding="utf-8"))
                                 for name in ("prompts.json", "omics/model.json", "slide/model.json"))  # fmt: skip
        return FusedRun(record, checkpoint, dict(prompts), dict(omics.get("facts") or {}), dict(slide["model"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = type(error).__name__
        raise UsageError(f"--run {run} has no whole fused checkpoint ({why}): copy all of it.") from None


@contextmanager
def written_together(out: Path, patient: str) -> Iterator[Path]:
    """A hidden folder beside or in `out` whose files move there when all went well, prognosis.json last. UsageError
    where `out` is a file, holds another patient's prognosis, or cannot be written to."""
    out = out.expanduser()
    place = next(p for p in (out.resolve(), *out.resolve().parents) if p.exists())
    if not place.is_dir():
        raise UsageError(f"--out {out}: {place.name} is a file; give a folder.")
    if (earlier := _earlier(out)) is not None and earlier.get("patient") != patient:
        raise UsageError(f"--out {out} holds the prognosis of another patient: give another folder.")
    try:
        partial = Path(tempfile.mkdtemp(dir=place, prefix=".clarion-prognosis-"))
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written to ({error.strerror}): give another folder.") from None
    try:
        yield partial
        out.mkdir(parents=True, exist_ok=True)
        mine = _of_earlier(out)
        for path in partial.iterdir():
            if (out / path.name).exists() and path.name not in mine:
                raise UsageError(f"--out {out} holds another {path.name}: give another folder.")
        for name in sorted(mine):
            old = out / name
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink(missing_ok=True)
        for path in sorted(partial.iterdir(), key=lambda p: p.name == "prognosis.json"):
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _earlier(out: Path) -> dict[str, Any] | None:
    """prognosis.json of an earlier prognosis in `out`; None where there is none, UsageError where it is another's."""
    path = out / "prognosis.json"
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("files") or [], list):
        raise UsageError(f"--out {out} holds a prognosis.json that is no prognosis: give another folder.")
    return found


def _of_earlier(out: Path) -> set[str]:
    """Names in `out` that an earlier prognosis wrote, of those that this command writes: prognosis.json may come from
    elsewhere, and what it names is removed."""
    if (earlier := _earlier(out)) is None:
        return set()
    files = {name for name in map(str, earlier.get("files") or []) if WRITTEN.fullmatch(name)}
    tiles = {name.removesuffix(".html") for name in files if name.startswith("slide-")}
    plain = {*files, "prognosis.json", "openseadragon-licence.txt"}
    return {name for name in plain if not (out / name).is_dir()} | tiles


def tissue_of(patient: Any, fused: FusedRun) -> list[bool]:
    """Whether each slide shows tissue; every slide is opened and tiled (kept in the cache). DataError where none does,
    and for a slide without scale, truncated or damaged."""
    if not patient.slides:
        return []
    from clarion.cancer.slides.reader import open_slide
    from clarion.cancer.swin.bags import TileSettings, bag_of

    for path in patient.slides:
        with open_slide(path, patient.mpp) as slide:
            _ = slide.mpp
    settings = TileSettings.of(dict(fused.slide["tiles"]))
    found = {tiled.number for tiled in bag_of(patient.sample(), settings).slides}
    if not found:
        from clarion.cancer.slides.files import slide_error

        size = f"{settings.patch * settings.mpp:.0f} um"
        raise slide_error(patient.slides[0], f"shows no tissue in pieces of {size}, nor does another slide given: "
                          "check that it is a stained section, or leave --slide out.")  # fmt: skip
    return [k in found for k in range(len(patient.slides))]


# ---- the answer ------------------------------------------------------------------------------------------------


def answer(
    fused: FusedRun, patient: Any, folder: Path, gone: list[str], look: list[str], words: Any, device: str
) -> dict[str, Any]:  # fmt: skip
    """Ask the model, check its text, write everything into `folder`; returns what stands in prognosis.json. gone, look:
    what was missing, what to look at."""
    from clarion.cancer.prognosis import page
    from clarion.cancer.prognosis.checked import check_text, counted
    from clarion.cancer.prognosis.missing import unlike_validation
    from clarion.cancer.prognosis.probability import recalibrated
    from clarion.cancer.rationale.template import write_rationale
    from clarion.trained import open_model

    cfg = fused.record.config()
    trained = open_model(str(fused.record.directory), "survival", cfg.model.name, device, "--run")
    predictor, sample = trained.predictor, patient.sample()
    (given,) = predictor.inputs([sample])
    (values,) = predictor.answer([given])
    validation = validation_patients(fused.record)
    survival = recalibrated(values["risk"], values["times"][-1], validation, words, int(cfg.seed))
    if survival.low is not None:
        look = [*look, *unlike_validation(values["missing"], list(validation["missing"]), words)]
    facts = replace(given.facts, survival=survival.probability, interval=survival.interval)
    text = str(values.get("text") or "")
    symbols = [name.split(":", 1)[1] for name in fused.genes()]
    checked = check_text(text, facts, symbols, predictor.prompter.statements) if text.strip() else None
    rationale = write_rationale(facts, words.language, genes=int(fused.prompts["told"]))
    document = {
        "format": FORMAT, "patient": patient.name, "research_use": RESEARCH, "survival": survival.to_dict(),
        "answer": {"parsed": values.get("answer"), "parse_failed": values.get("parse_failed"),
                   "agrees": _agrees(values.get("answer"), survival.probability)},
        "text": checked.text if checked else "", "text_as_written": text, "text_language": fused.prompts["language"],
        "factcheck": counted(checked), "rationale": {"by": "template", **rationale.to_dict()},
        "facts": facts.to_dict(), "missing": gone, "warnings": look, "inputs": _inputs(patient),
        "model": _model(fused, trained, cfg),
    }  # fmt: skip
    told = _sentence(document)
    pictures = slide_files(predictor, sample, folder, trained, told) if patient.slides else []
    document["files"] = ["prognosis.html", *(p[key] for p in pictures for key in ("heatmap", "page"))]
    write_atomic(folder / "prognosis.html", page.render(document, checked, pictures, words))
    write_atomic(folder / "prognosis.json", to_json(document))
    return document


def validation_patients(record: RunRecord) -> Any:
    """DataFrame patient_id, risk, missing, time, event of the run's validation patients, from the predictions and the
    truth that it recorded; None where it has none."""
    import pandas as pd

    files = [record.directory / name / "val.parquet" for name in ("predictions", "truth")]
    if not all(file.is_file() for file in files):
        return None
    predictions, truth = map(pd.read_parquet, files)
    if absent := {"risk"} - set(predictions) or {"time", "event", "patient_id"} - set(truth):
        raise DataError(f"{record.directory.name}: the validation patients' record lacks {', '.join(sorted(absent))}; "
                        "evaluate the run again.")  # fmt: skip
    if "missing" not in predictions:
        predictions["missing"] = [()] * len(predictions)
    columns = truth[["sample_id", "patient_id", "time", "event"]]
    return predictions[["sample_id", "risk", "missing"]].merge(columns, on="sample_id", validate="one_to_one")


def _agrees(parsed: str | None, probability: float) -> bool | None:
    return None if parsed is None else (parsed == "survives") == (probability >= 0.5)


def _inputs(patient: Any) -> dict[str, Any]:
    values = [v for genes in (patient.omics or {}).values() for v in genes.values()]
    clinical = {k: None if v != v else v for k, v in patient.clinical.items()}
    return {"slides": len(patient.slides), "mpp": patient.mpp, "omics_values": sum(map(math.isfinite, values)),
            "modalities": sorted(patient.omics or {}), "clinical": clinical}  # fmt: skip


def _model(fused: FusedRun, trained: Any, cfg: Any) -> dict[str, Any]:
    metrics = fused.record.metrics()
    found = ((metrics.get("evaluators") or {}).get("survival") or {}).get("metrics") or {}
    keys = ("value", "low", "high", "n", "n_patients", "method")
    quality = {name: {key: found[name].get(key) for key in keys} for name in QUALITY if name in found}
    return {"run": trained.name, "name": cfg.model.name, "hash": trained.digest, "data": cfg.data.name,
            "data_kind": trained.trained_on, "table_patients": fused.prompts["patients"],
            "quality": quality}  # fmt: skip


def _sentence(document: Mapping[str, Any]) -> str:
    """The prognosis in one sentence."""
    from clarion.cancer.prognosis.page import percent

    found, interval = document["survival"], ""
    if found["low"] is not None:
        interval = f" ({percent(found['level'])} interval {percent(found['low'])} to {percent(found['high'])})"
    alive = f"Probability of being alive at {found['months']:g} months: {percent(found['probability'])}{interval}"
    return f"{alive}, by run {document['model']['run']}. {RESEARCH}"


# ---- slides ----------------------------------------------------------------------------------------------------


def slide_files(predictor: Any, sample: Any, folder: Path, trained: Any, told: str) -> list[dict[str, Any]]:
    """heatmap-N.tif and slide-N.html of each slide with tissue; returns what the page shows of them."""
    from clarion.cancer.looking.canvas import lay_out, write_heatmap
    from clarion.cancer.looking.maps import HEATMAP, patient_maps
    from clarion.cancer.looking.page import write_page
    from clarion.cancer.prognosis.page import thumbnails

    module, operator = predictor.encoders.modules["slide"], "rollout"
    maps = patient_maps(module, module.bag(sample), operator)
    pictures = []
    for number, tiled in enumerate(maps.bag.slides):
        canvas, n = lay_out(maps, HEATMAP, number), int((maps.bag.places[:, 0] == number).sum())
        heatmap = folder / f"heatmap-{number + 1}.tif"
        with tiled.open() as slide:
            write_heatmap(heatmap, slide, canvas, tiled.tiles.mpp)
            plain, heat = thumbnails(slide, canvas)
        facts = [("tiles looked at", str(n)),
                 ("side of a tile", f"{tiled.tiles.patch * tiled.tiles.read_mpp:.0f} um"),
                 ("window attention on padding", f"{maps.padding:.1%}"), ("stages merged by", operator)]  # fmt: skip
        page = write_page(folder, maps, number, kind=f"trained on {trained.trained_on}", told=told, facts=facts,
                          operator=operator)  # fmt: skip
        pictures.append({"number": tiled.number + 1, "of": len(sample.inputs["slides"]), "tiles": n, "plain": plain,
                         "heat": heat, "page": page.name, "heatmap": heatmap.name})  # fmt: skip
    return pictures


def told(result: Mapping[str, Any]) -> str:
    """What the command prints: the prognosis, the text that is left, what was missing, where everything lies."""
    check = result["factcheck"]
    lines = [_sentence(result), ""]
    if result["survival"]["reason"]:
        lines += [f"No interval: {result['survival']['reason']}.", ""]
    gone = "Nothing is left of the model's text" if result["text_as_written"] else "The model wrote no text"
    lines += [result["text"] or f"{gone}; by template, from the inputs:\n\n{result['rationale']['text']}", ""]
    if result["text_as_written"]:
        lines.append(f"{len(check['removed'])} of {check['sentences']} sentences removed by the fact check.")
    lines += [f"Missing: {one}" for one in result["missing"]] + [f"Look at: {one}" for one in result["warnings"]]
    return "\n".join([*lines, f"{result['out']}/prognosis.html"]) + "\n"
