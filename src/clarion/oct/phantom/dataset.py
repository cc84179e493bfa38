"""Folders of phantom B-scans for detection and stage classification; the same bytes for any number of workers."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import current_process, get_context, get_start_method
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from clarion.errors import ClarionError, UsageError

from .eye import BScan, Eye, make_eye
from .geometry import DIRECTIONS, SPECTRALIS_25

SPLITS = ("train", "val", "test")
_EYES_PER_SPLIT = 100_000  # seeds of different splits and data sets never meet below this many eyes
COLUMNS = ("sample_id", "patient_id", "split", "stage", "laterality", "direction", "line", "erm_fraction")
Lines = list[tuple[str, int]]
# Speckle has no repeats to find: Huffman coding alone is both faster and smaller than level 1 with string matching.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]


MACULA_MM = 2.2


def eye_seed(seed: int, split: str, k: int) -> int:
    """Seed of eye `k` of `split` in the data set of `seed`: one to one, so that no eye comes twice."""
    if split not in SPLITS or not 0 <= k < _EYES_PER_SPLIT or seed < 0:
        raise UsageError(
            f"No eye {k} in split {split!r} of seed {seed}: splits are {', '.join(SPLITS)}, numbers from 0."
        )
    return (seed * len(SPLITS) + SPLITS.index(split)) * _EYES_PER_SPLIT + k


def spread_lines(eye: Eye, count: int) -> Lines:
    """`count` of the eye's lines, half per direction, one from each stretch of the macula, drawn by the eye's seed.

    The macula here: MACULA_MM around the raster's centre, where graders look for membranes; more lines than that
    holds are drawn from the whole raster.
    """
    lines = range(eye.geometry.lines)
    macular = [n for n in lines if abs(eye.geometry.line_position_mm(n)) <= MACULA_MM]
    usable = macular if count - count // 2 <= len(macular) else list(lines)
    rng = np.random.default_rng([eye.seed, 17])
    chosen: Lines = []
    for direction, share in zip(DIRECTIONS, (count - count // 2, count // 2), strict=True):
        stretches = np.array_split(np.array(usable), share) if share else []
        chosen += [(direction, int(rng.choice(stretch))) for stretch in stretches]
    return chosen


def foveal_lines(eye: Eye, count: int) -> Lines:
    """The `count` lines nearest the fovea, directions taking turns."""
    nearest = {
        direction: sorted(range(eye.geometry.lines), key=lambda n: abs(eye.geometry.line_position_mm(n) - centre))
        for direction, centre in (("H", eye.fovea.y_mm), ("V", eye.fovea.x_mm))
    }
    return [(DIRECTIONS[i % 2], nearest[DIRECTIONS[i % 2]][i // 2]) for i in range(count)]


def write_detection_folder(
    folder: Path | str,
    eyes: Mapping[str, int],
    bscans_per_eye: int = 10,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write a YOLO-format folder: images/, labels/, classes.txt, samples.csv, truth.json.

    Args:
        folder: made if absent; existing files of the same name are overwritten.
        eyes: eyes per split ("train", "val", "test"). Fewer eyes give a prefix of more eyes.
        bscans_per_eye: 1 to 50, spread over the raster of both directions.
        seed: of the data set. workers: processes (default: all cores); the bytes do not depend on it.
    """
    folder = Path(folder)
    _write(folder, eyes, bscans_per_eye, seed, workers, spread_lines, labels=True)
    (folder / "classes.txt").write_text("erm\n", encoding="utf-8")


def write_stage_folder(
    folder: Path | str,
    eyes: Mapping[str, int],
    bscans_per_eye: int = 4,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write images/ and samples.csv for stage classification: the lines nearest the fovea, where stages differ."""
    _write(Path(folder), eyes, bscans_per_eye, seed, workers, foveal_lines, labels=False)


def _write(folder: Path, eyes, bscans_per_eye: int, seed: int, workers: int | None,
           choose: Callable[[Eye, int], Lines], labels: bool) -> None:  # fmt: skip
    unknown = set(eyes) - set(SPLITS)
    if unknown:
        raise UsageError(f"Unknown split {sorted(unknown)[0]!r}: the phantom writes {', '.join(SPLITS)}.")
    most = 2 * SPECTRALIS_25.lines
    if not 1 <= bscans_per_eye <= most:
        raise UsageError(f"bscans_per_eye={bscans_per_eye}: an eye has 1 to {most} B-scans to write.")
    for split in eyes:
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        if labels:
            (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
    jobs = [(split, k) for split in SPLITS for k in range(eyes.get(split, 0))]
    job = partial(_write_eye, folder=folder, count=bscans_per_eye, seed=seed, choose=choose, labels=labels)
    rows, truth = [], []
    for eye_rows, eye_truth in tqdm(_run(job, jobs, workers), total=len(jobs), desc="phantom eyes", unit="eye"):
        rows += eye_rows
        truth.append(eye_truth)
    with open(folder / "samples.csv", "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")


def _run(job: Callable, jobs: list, workers: int | None):
    """Results in the order of `jobs`, whatever the number of processes."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    # Neither a daemon (a pool's worker) nor a worker of joblib (start method "loky") can start processes of its own.
    nested = current_process().daemon or get_start_method(allow_none=True) not in (None, "fork", "spawn", "forkserver")
    if workers <= 1 or nested:
        yield from map(job, jobs)
        return
    # spawn: safe after torch or CUDA were loaded in the parent, and the same on every platform
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
            yield from pool.map(job, jobs, chunksize=max(1, min(4, len(jobs) // (4 * workers))))
    except BrokenProcessPool:
        raise ClarionError(
            "The phantom's worker processes ended early (out of memory, or a script without "
            '`if __name__ == "__main__":`): try again with workers=1.'
        ) from None


def _write_eye(
    job: tuple[str, int], folder: Path, count: int, seed: int, choose, labels: bool
) -> tuple[list[dict], dict]:
    split, k = job
    eye = make_eye(eye_seed(seed, split, k))
    rows = []
    for direction, line in choose(eye, count):
        scan = eye.bscan(direction, line)
        sample_id = f"{eye.eye_id}_{direction}{line:02d}"
        _, data = cv2.imencode(".png", scan.image, _PNG)
        (folder / "images" / split / f"{sample_id}.png").write_bytes(data.tobytes())
        if labels:
            (folder / "labels" / split / f"{sample_id}.txt").write_text(yolo_lines(scan), encoding="utf-8")
        rows.append({"sample_id": sample_id, "patient_id": eye.eye_id, "split": split, "stage": eye.stage,
                     "laterality": eye.laterality, "direction": direction, "line": line,
                     "erm_fraction": round(float(scan.presence.mean()), 4)})  # fmt: skip
    truth = {
        "patient_id": eye.eye_id,
        "split": split,
        "stage": eye.stage,
        "laterality": eye.laterality,
        "hole": eye.fovea.hole,
        "fovea_mm": [round(eye.fovea.x_mm, 3), round(eye.fovea.y_mm, 3)],
        "erm_area_mm2": round(eye.erm_area_mm2, 4),
        "erm_area_scanned_mm2": {d: round(eye.erm_area_scanned_mm2(d), 4) for d in DIRECTIONS},
        "central_thickness_um": round(eye.central_thickness_um, 1),
        "central_subfield_um": round(eye.central_subfield_um, 1),
    }
    return rows, truth


def yolo_lines(scan: BScan) -> str:
    """The scan's boxes as YOLO text: "0 cx cy w h", normalised, one a line; empty without ERM."""
    depth, width = scan.image.shape
    boxes = np.asarray(scan.boxes, float) / (width, depth, width, depth)
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return "".join(f"0 {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}\n" for (cx, cy), (w, h) in zip(centres, sizes, strict=True))
