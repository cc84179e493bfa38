"""`clarion slides tile`: every slide of a folder to its tiles' places, resumable, one process a slide.

OUT/S-....h5 (store.py), OUT/S-....jpg (thumbnail with the kept tiles), OUT/tiles.json (what became of each slide).
Files are named by pseudonym; the way back to names lies in the cache (clarion.data.pseudonym).
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from clarion.cancer.slides import store
from clarion.cancer.slides.files import SUFFIXES, shown
from clarion.cancer.slides.reader import open_slide
from clarion.cancer.slides.stain import estimate_slide
from clarion.cancer.slides.tiles import draw_tiles, grid
from clarion.cancer.slides.tissue import find_tissue
from clarion.data.paths import named_error, nfc, walk
from clarion.data.pseudonym import pseudonyms, write_mapping
from clarion.errors import ClarionError, DataError, UsageError
from clarion.record import read_json, to_json, write_atomic

log = logging.getLogger("clarion")


@dataclass(frozen=True)
class Settings:
    """How slides are tiled. slide_mpp: um a pixel of level 0 for slides that do not say it (it overrides the file);
    inks: False for immunostains; stain: "macenko" keeps each slide's stains beside its tiles, else None."""

    mpp: float = 0.5
    patch: int = 256
    overlap: int = 0
    min_tissue: float = 0.5
    slide_mpp: float | None = None
    inks: bool = True
    stain: str | None = None


def find_slides(path: Path) -> list[Path]:
    """The slides below a folder (links out of it are refused), or the one slide that `path` names.

    A folder of DICOM instances counts once."""
    if not path.exists():
        raise UsageError(f"{path} does not exist; give a slide or a folder of slides.")
    if path.is_file():
        return [path]
    root = path.resolve()
    found = list(walk(root, root, SUFFIXES))
    instances = {p.parent for p in found if p.suffix.lower() == ".dcm"}
    slides = sorted([p for p in found if p.suffix.lower() != ".dcm"] + list(instances))
    if not slides:
        raise UsageError(f"{path} holds no slides ({', '.join(sorted(SUFFIXES))}).")
    return slides


def tile_slide(path: Path, target: Path, settings: Settings) -> dict:
    """Tile one slide to target.h5 and target.jpg; one task of a launcher or a cluster.

    Where target.h5 already holds this slide's tiles by these settings nothing is done. Returns its row of tiles.json
    (no name). Raises DataError or UsageError of the slide."""
    wanted = asdict(settings)
    with open_slide(path, settings.slide_mpp) as slide:
        table, picture = target.with_suffix(".h5"), target.with_suffix(".jpg")
        if store.read_settings(table) == wanted | {"slide_sha": slide.sha} and picture.is_file():
            tiles = store.read(table)
            return {"status": "kept", "tiles": len(tiles), "counts": tiles.counts, "slide": slide.card()}
        tissue = find_tissue(slide, inks=settings.inks)
        tiles = grid(slide, tissue, settings.patch, settings.mpp, settings.overlap, settings.min_tissue)
        stains = estimate_slide(slide, tiles) if settings.stain == "macenko" else None
        encoded = cv2.imencode(".jpg", draw_tiles(slide, tiles)[..., ::-1])[1].tobytes()
        partial = target.with_name(f".{target.name}.partial.jpg")
        partial.write_bytes(encoded)
        os.replace(partial, picture)
        store.write(table, tiles, stains, wanted)  # last: its presence means done
        areas = {kind: round(tissue.area_mm2(kind), 4) for kind in tissue.counts}
        return {
            "status": "tiled", "tiles": len(tiles), "counts": tiles.counts, "area_mm2": areas, "slide": slide.card(),
        }  # fmt: skip


def tile_folder(path: Path, out: Path, settings: Settings, jobs: int = 1) -> dict:
    """Tile the slides of a folder into `out`, `jobs` at a time; what is there already by the same settings is kept.

    A slide that cannot be tiled does not stop the others: its row says why, and DataError names all of them at the
    end. Returns the content of tiles.json."""
    if settings.stain not in (None, "macenko"):
        raise UsageError(f"stain={settings.stain}: give macenko, or nothing.")
    if jobs < 1:
        raise UsageError(f"jobs={jobs}: give 1 or more processes.")
    slides = find_slides(path)
    root = path.resolve() if path.is_dir() else path.resolve().parent
    names = {s: nfc(s.relative_to(root).as_posix() if path.is_dir() else s.name) for s in slides}
    called = pseudonyms(list(names.values()), "S")
    scope = "slides-" + hashlib.blake2b(os.fsencode(root), digest_size=6).hexdigest()
    write_mapping(scope, {"slide": called})
    out.mkdir(parents=True, exist_ok=True)
    rows, failures = {}, {}
    tasks = [(slide, out / called[names[slide]], settings) for slide in slides]
    for k, (slide, row, error) in enumerate(_each(tasks, jobs), 1):
        name = called[names[slide]]
        if error is not None:
            failures[slide] = error
            row = {"status": "failed", "error": error.recorded or str(error)}
        rows[name] = row
        log.info("%d of %d: %s %s, %s tiles", k, len(slides), name, row["status"], row.get("tiles", 0))
    summary = _record(out, settings, rows)
    if failures:
        raise _failed(failures, len(slides))
    return summary


def _record(out: Path, settings: Settings, rows: dict[str, dict]) -> dict:
    """Write tiles.json; what other commands (a cluster's tasks, one slide each) wrote by these settings stays in it."""
    path = out / "tiles.json"
    with open(out / ".tiles.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = read_json(path)
        slides = (before.get("slides", {}) if before.get("settings") == asdict(settings) else {}) | rows
        statuses = [row["status"] for row in slides.values()]
        summary = {
            "settings": asdict(settings),
            **{status: statuses.count(status) for status in ("tiled", "kept", "failed")},
            "tiles": sum(row.get("tiles", 0) for row in slides.values()),
            "slides": dict(sorted(slides.items())),
        }
        write_atomic(path, to_json(summary))
    return summary


def _failed(failures: dict[Path, DataError], total: int) -> DataError:
    said = f"{len(failures)} of {total} slides were not tiled (the others were):\n  "
    error = DataError(said + "\n  ".join(str(failures[slide]) for slide in sorted(failures)))
    error.recorded = said + "\n  ".join(failures[slide].recorded or str(failures[slide]) for slide in sorted(failures))
    return error


def _each(tasks: list[tuple], jobs: int) -> Iterator[tuple[Path, dict | None, DataError | None]]:
    """(slide, row, None) or (slide, None, error) of each task, as they end."""
    if jobs == 1 or len(tasks) == 1:
        for task in tasks:
            yield task[0], *_attempt(*task)
        return
    # spawn: forked children would share OpenSlide's and OpenCV's threads and locks
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _one_thread) as pool:
        waiting = {pool.submit(_attempt, *task): task[0] for task in tasks}
        for done in as_completed(waiting):
            try:
                yield waiting[done], *done.result()
            except BrokenProcessPool:
                name = shown(waiting[done])
                yield (
                    waiting[done],
                    None,
                    named_error(
                        "{name} was not tiled: a process was killed (memory?); use fewer --jobs.", names={"name": name}
                    ),
                )


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _attempt(path: Path, target: Path, settings: Settings) -> tuple[dict | None, DataError | None]:
    try:
        return tile_slide(path, target, settings), None
    except ClarionError as error:
        kept = DataError(str(error))
        kept.recorded = getattr(error, "recorded", None)
        return None, kept
    except Exception as error:  # noqa: BLE001  one slide's surprise must not end a night of others
        log.exception("unforeseen")
        kept = DataError(f"{shown(path)} was not tiled: {type(error).__name__}: {error}")
        kept.recorded = f"a slide was not tiled: {type(error).__name__}"
        return None, kept
