"""`clarion look RUN --out DIR`: where a slide model looked, on the slides, and whether that is true.

looking.json holds deletion and insertion against random orders over the patients of a split and, for synthetic slides,
the pointing game; a folder a patient holds heatmap-N.tif, MAP-N.tif (the numbers) and the zoomable slide-N.html. The
data of the run are built again from its config and must be the ones it was trained on. A fused run is looked into
through the slide model that its checkpoint carries. What lies in RUN/look stands on the page of the run; with
model.look={patients: 24, pages: 3} a run makes it by itself.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from clarion.config import nearest
from clarion.data.paths import is_name, named_error
from clarion.errors import ClarionError, UsageError
from clarion.explaining import same_data
from clarion.record import RunRecord, hash_tree, read_json, to_json, write_atomic
from clarion.trained import checkpoint_of

log = logging.getLogger("clarion")
FORMAT = "clarion-looking/1"
SPLITS = ("train", "val", "test")
OPERATORS = ("rollout", "mean", "last")
FOLDER = "look"  # of a run directory
WITHIN = {"patients": None, "pages": 3, "operator": "rollout"}  # model.look


def look_run(
    run: Path, out: Path, samples: Sequence[str] = (), split: str = "test", pages: int = 4,
    operator: str = "rollout", patients: int | None = None, device: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """Write looking.json and the patients' folders; return what stands in looking.json.

    samples: these patients alone, of any split; else the split's: its first `patients` (None: all) are checked, and
    `pages` of them, from the highest risk to the lowest, get their files. operator: merges the Swin's stages, see
    `cancer.looking.windows`. A fused run is looked into through its slide model.
    UsageError for a run that looks at no slides, or a sample that is none of its patients."""
    for option, value, known in (("--split", split, SPLITS), ("--operator", operator, OPERATORS)):
        if value not in known:
            raise UsageError(f"{option} {value}: choose {', '.join(known)}.{nearest(value, known)}")
    if pages < 0 or (patients is not None and patients < 1):
        raise UsageError("--pages is 0 or more, --patients 1 or more.")
    record = RunRecord(run.expanduser().resolve())
    if not record.complete or not (record.directory / "config.yaml").is_file():
        raise UsageError(f"{run} is not a complete run directory (train one with python train.py).")
    cfg = record.config()
    if cfg.model.task != "survival" or not (cfg.model.get("tiles") or cfg.model.get("fusion")):
        raise UsageError(f"{run} is a run of model={cfg.model.name}, which looks at no slides; give one of swin_mil_* "
                         "or fusion_*.")  # fmt: skip
    module, model, digest = _of_record(record, device)
    data = same_data(record)
    chosen = _named(data, samples) if samples else _of_split(data, split, patients, record.directory.name)
    about = {"run": record.directory.name, "model": model, "hash": digest, "data": cfg.data.name,
             "split": None if samples else split}  # fmt: skip
    result = look(module, data, chosen, out, about, len(chosen) if samples else pages, operator, int(cfg.seed))
    if out.resolve() == record.directory / FOLDER:  # what the page of the run links to
        from clarion.report import write_run_report

        write_run_report(record.directory)
    return result | {"out": str(out)}


def look_within(cfg: DictConfig, data: Any, predictor: Any, split: str, directory: Path, checkpoint: Path) -> None:
    """model.look: RUN/look of a run that has just been evaluated; private slides are checked and not shown, unless
    tracker.log_images=true. UsageError for an unknown setting."""
    wanted = WITHIN | dict(cfg.model.look)
    if strange := sorted(set(wanted) - set(WITHIN)):
        raise UsageError(f"model.look.{strange[0]} is unknown; it has {', '.join(WITHIN)}.")
    fused = bool(cfg.model.get("fusion"))
    module, model = (slide_part(checkpoint, str(cfg.trainer.device)) if fused
                     else (predictor.module, str(cfg.model.name)))  # fmt: skip
    if module is None:
        log.info("model.look: this model looks at no slides")
        return
    pages = 0 if data.kind == "private" and cfg.tracker.get("log_images") is not True else int(wanted["pages"])
    about = {"run": directory.name, "model": model, "hash": hash_tree(checkpoint), "data": cfg.data.name,
             "split": split}  # fmt: skip
    chosen = _of_split(data, split, wanted["patients"], directory.name)
    look(module, data, chosen, directory / FOLDER, about, pages, wanted["operator"], int(cfg.seed))


def look(
    module: Any, data: Any, chosen: Sequence[Any], out: Path, about: dict[str, Any], pages: int, operator: str,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Check `chosen`, write the files of `pages` of them (evenly from the highest risk to the lowest), looking.json.
    What an earlier look left in `out` goes. DataError for an id that cannot name a folder below `out`."""
    for sample in chosen:
        patient_folder(out, sample.sample_id)
    result = {"format": FORMAT, **about, "data_kind": data.kind, "operator": operator}
    result |= check(module, data, chosen, operator, seed)
    ranked = sorted((r for r in result["patients"] if r["tiles"]), key=lambda r: -r["risk"])
    shown = {r["sample_id"] for r in _spread(ranked, pages)}
    clear(out)
    files = {
        sample.sample_id: write_patient(module, data, sample, out, operator, about["run"])
        for sample in chosen if sample.sample_id in shown
    }  # fmt: skip
    for row in result["patients"]:
        row["files"] = files.get(row["sample_id"], [])
    write_atomic(out / "looking.json", to_json(result))
    return result


def patient_folder(out: Path, sample_id: str) -> Path:
    """out/SAMPLE. DataError for an id that is a path, and for a link that leads elsewhere."""
    if not is_name(sample_id):
        raise named_error("Patient {name!r} cannot name a folder: write ids without /, \\ or null bytes, other than . "
                          "and ..", names={"name": sample_id})  # fmt: skip
    folder = out / sample_id
    if folder.resolve().parent != out.resolve():
        raise named_error("The folder of patient {name} is a link out of --out: remove it.", names={"name": sample_id})
    return folder


def clear(out: Path) -> None:
    """Take away the patients' files that an earlier looking.json in `out` lists, with the tiles of their pages. That
    file may come from elsewhere: nothing but what `look` writes is touched."""
    from clarion.cancer.looking.maps import MAPS
    from clarion.cancer.looking.page import LICENCE

    written = re.compile(rf"slide-[0-9]+\.html|(?:heatmap|{'|'.join(MAPS)})-[0-9]+\.tif")
    try:
        earlier = read_json(out / "looking.json")
        listed = [name for row in earlier["patients"] for name in row["files"]] if earlier else []
    except (ClarionError, KeyError, TypeError):  # damaged, or another's: nothing is known to be ours
        return
    for name in map(str, listed):
        sample, _, file = name.partition("/")
        if not (is_name(sample) and written.fullmatch(file)) or (out / sample).is_symlink():
            continue
        path = out / sample / file
        if path.is_file():
            path.unlink()
        if path.suffix == ".html" and (tiles := path.with_suffix("")).is_dir() and not tiles.is_symlink():
            shutil.rmtree(tiles)
        left = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else None
        if left in ([], [LICENCE]):
            (path.parent / LICENCE).unlink(missing_ok=True)
            path.parent.rmdir()


def _of_record(record: RunRecord, device: str) -> tuple[Any, str, str]:
    """(the slide network of a recorded run, the name of its model, the hash of the checkpoint)."""
    cfg = record.config()
    if cfg.model.get("tiles"):
        from clarion.trained import open_model

        trained = open_model(str(record.directory), "survival", cfg.model.name, device, "RUN")
        return trained.predictor.module, str(cfg.model.name), trained.digest
    checkpoint = checkpoint_of(record, record.directory.name)
    module, model = slide_part(checkpoint, device)
    if module is None:
        raise UsageError(f"{record.directory.name} is a run of model={cfg.model.name} that fuses no slide model.")
    return module, model, hash_tree(checkpoint)


def slide_part(checkpoint: Path, device: str) -> tuple[Any, str]:
    """(the slide network that a fused checkpoint carries, the name of its model); (None, "") where it has none."""
    folder = checkpoint / "fusion" / "slide"
    if not (folder / "model.json").is_file():
        return None, ""
    from clarion.trainers.lightning import LightningTrainer

    model = dict(json.loads((folder / "model.json").read_text(encoding="utf-8"))["model"])
    return LightningTrainer(model, 1, 16, device).load(folder).module, str(model.get("name"))


def check(module: Any, data: Any, samples: Sequence[Any], operator: str, seed: int) -> dict[str, Any]:
    """{"patients": a row each, "faithfulness", "pointing" (None where no truth is planted), "notes"}."""
    from tqdm import tqdm

    from clarion.cancer.looking import faithful
    from clarion.cancer.looking.maps import patient_maps

    planted = getattr(data, "planted", None)
    rows, found, pointed, notes = [], {}, [], []
    for sample in tqdm(samples, desc="look", unit="patient"):
        bag = module.bag(sample)
        row = {"sample_id": sample.sample_id, "tiles": len(bag), "slides": len(bag.slides)}
        if len(bag):
            maps = patient_maps(module, bag, operator)
            row |= {"risk": maps.risk, "padding": maps.padding, "most_attention": float(maps.attention.max())}
            if len(bag) > 1:
                found[sample.sample_id] = faithful.curves(module, maps, seed)
            if planted is not None:
                pointed += faithful.points(maps, planted)
        rows.append(row)
    if without := sum(not row["tiles"] for row in rows):
        notes.append(f"{without} of {len(rows)} patients have no slide with tissue: nothing was looked at.")
    return {"patients": rows, "faithfulness": faithful.faithfulness(found, seed),
            "pointing": faithful.pointing(pointed, seed), "notes": notes}  # fmt: skip


def write_patient(module: Any, data: Any, sample: Any, out: Path, operator: str, run: str) -> list[str]:
    """The files of one patient, below out/SAMPLE; their paths from `out`."""
    from clarion.cancer.looking.canvas import lay_out, write_heatmap, write_values
    from clarion.cancer.looking.maps import HEATMAP, MAPS, patient_maps
    from clarion.cancer.looking.page import write_page

    maps = patient_maps(module, module.bag(sample), operator)
    folder, planted, written = patient_folder(out, sample.sample_id), getattr(data, "planted", None), []
    (answer,) = module.answer([sample])
    horizon = answer["times"][-1]
    told = (f"Predicted survival at {horizon:g} months: {answer['survival'][-1]:.0%}; risk score {maps.risk:+.2f} "
            f"(higher is worse), by run {run}.")  # fmt: skip
    for number, tiled in enumerate(maps.bag.slides):
        facts = [("tiles looked at", str(int((maps.bag.places[:, 0] == number).sum()))),
                 ("side of a tile", f"{tiled.tiles.patch * tiled.tiles.read_mpp:.0f} um "
                                    f"({tiled.tiles.patch} px at {tiled.tiles.read_mpp:.3g} um)"),
                 ("window attention on padding", f"{maps.padding:.1%}"),
                 ("stages merged by", operator), ("stain", "Macenko" if tiled.stains else "as scanned")]  # fmt: skip
        for name in MAPS:
            write_values(folder / f"{name}-{number + 1}.tif", lay_out(maps, name, number))
        with tiled.open() as slide:
            write_heatmap(folder / f"heatmap-{number + 1}.tif", slide, lay_out(maps, HEATMAP, number),
                          tiled.tiles.mpp)  # fmt: skip
        truth = planted(sample.sample_id, tiled.number) if planted is not None else None
        page = write_page(folder, maps, number, kind=data.kind, told=told, facts=facts, operator=operator, truth=truth)
        written += [page, folder / f"heatmap-{number + 1}.tif", *(folder / f"{name}-{number + 1}.tif" for name in MAPS)]
    return [path.relative_to(out).as_posix() for path in written]


def _named(data: Any, wanted: Sequence[str]) -> list[Any]:
    found = {s.sample_id: s for s in _every(data)}
    for name in wanted:
        if name not in found:
            raise UsageError(f"--sample {name}: no such patient of this run.{nearest(name, found)}")
    return [found[name] for name in dict.fromkeys(wanted)]


def _every(data: Any) -> Iterator[Any]:
    return chain.from_iterable(data.samples(split) for split in SPLITS if data.splits.get(split))


def _of_split(data: Any, split: str, patients: int | None, run: str) -> list[Any]:
    if not data.splits.get(split):
        raise UsageError(f"--split {split}: {run} has no such patients.")
    return list(data.samples(split))[:patients]


def _spread(ranked: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """n of the list, evenly from its first to its last."""
    if n >= len(ranked):
        return ranked
    return [ranked[round(k * (len(ranked) - 1) / max(n - 1, 1))] for k in range(n)]


def markdown(result: dict[str, Any]) -> str:
    """What the checks say, as tables."""
    lines = [f"## {result['run']} ({result['model']} on {result['data']}, {result['data_kind']} data)", ""]
    if found := result["faithfulness"]:
        lines += ["Tiles taken away (deletion) or kept alone (insertion) in the order of each map, against "
                  f"{found['draws']} random orders; {found['n']} patients. Gain above 0: truer than chance.", "",
                  "| order | deletion gain | insertion gain |", "| --- | --- | --- |"]  # fmt: skip
        for name in found["deletion"]:
            if name != "random":
                gains = [_shown(found[way][name]["gain"]) for way in ("deletion", "insertion")]
                lines.append(f"| {name} | {gains[0]} | {gains[1]} |")
        lines.append("")
    if pointed := result["pointing"]:
        lines += [f"Peaks on planted tissue, {pointed['slides']} slides of {pointed['patients']} patients; chance "
                  f"{_shown(pointed['chance'])}.", "",
                  "| map | hits | mass on it |", "| --- | --- | --- |"]  # fmt: skip
        lines += [f"| {name} | {_shown(m['hits'])} | {_shown(m['mass'])} |" for name, m in pointed["maps"].items()]
        lines.append("")
    lines += [f"- {note}" for note in result["notes"]]
    return "\n".join(lines) + "\n"


def _shown(interval: dict[str, Any]) -> str:
    bounds = "" if interval["low"] is None else f" [{interval['low']:.3f}, {interval['high']:.3f}]"
    return "-" if interval["value"] is None else f"{interval['value']:.3f}{bounds}"
