"""A folder of phantom B-scans with the rows of their eight surfaces: what the layer network learns from.

    images/<split>/ID.png   uint8 [depth, width]
    surfaces/<split>.npz    ID -> float32 [8, width], rows from the top, order of SURFACES, NaN where not visible
    samples.csv             sample_id, patient_id, split, stage, hole, instrument, axial_um, lateral_um
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import current_process, get_context, get_start_method
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from clarion.oct.phantom import SPECTRALIS_25, SPECTRALIS_49, SURFACES, Geometry, make_eye
from clarion.oct.phantom.dataset import SPLITS, eye_seed
from clarion.oct.phantom.eye import BScan, Eye

COLUMNS = ("sample_id", "patient_id", "split", "stage", "hole", "instrument", "axial_um", "lateral_um")
# Other instruments' sampling (facts of erm.md); the eyes and the optics stay those of the phantom.
CIRRUS = Geometry("cirrus", 25, 512, 1024, 1.953, 11.72, 240.0)
TOPCON = Geometry("topcon_1000", 25, 512, 650, 3.5, 11.72, 240.0)
INSTRUMENTS = (SPECTRALIS_25, SPECTRALIS_49, CIRRUS, TOPCON)
INSTRUMENT_SHARE = (0.76, 0.08, 0.08, 0.08)  # in train; val and test are Spectralis alone
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]


def layer_lines(eye: Eye, count: int) -> list[tuple[str, int]]:
    """Half of the lines next to the fovea, half anywhere in the raster; directions take turns."""
    rng = np.random.default_rng([eye.seed, 29])
    position = np.array([eye.geometry.line_position_mm(n) for n in range(eye.geometry.lines)])
    chosen: list[tuple[str, int]] = []
    for k in range(count):
        direction, centre = (("H", eye.fovea.y_mm), ("V", eye.fovea.x_mm))[k % 2]
        order = np.argsort(np.abs(position - centre))
        free = [int(n) for n in (order if k < (count + 1) // 2 else rng.permutation(order))
                if (direction, int(n)) not in chosen]  # fmt: skip
        if free:
            chosen.append((direction, free[0]))
    return chosen


def visible_surfaces(scan: BScan) -> np.ndarray:
    """True rows float32 [8, width] of SURFACES; NaN outside the picture and inside its black corner."""
    rows = np.stack([scan.surfaces[name] for name in SURFACES]).astype(np.float32)
    depth, width = scan.image.shape
    # The corner is cut from the top: what lies in the run of exact zeros that starts in row 0 is hidden. The vitreous
    # has zeros too, but no unbroken run of a dozen of them over the whole neighbourhood.
    lit = scan.image > 0
    black = np.where(lit.any(0), lit.argmax(0), depth)
    black = cv2.erode(black.astype(np.float32)[None], np.ones((1, 9), np.uint8))[0]
    hidden = (rows < 0) | (rows > depth - 1) | ((black > 12) & (rows < black))
    return np.where(hidden, np.nan, rows)


def write_layer_folder(
    folder: Path, eyes: Mapping[str, int], bscans_per_eye: int = 4, seed: int = 0, workers: int | None = None
) -> None:
    """Write the folder described above. Stages 0-4 take turns: the rare ones are learned and scored as the others.

    eyes: eyes per split; seed: of the data set; workers: processes (None: all cores); the bytes do not depend on it.
    """
    folder = Path(folder)
    jobs = [(split, k) for split in SPLITS for k in range(eyes.get(split, 0))]
    for split in SPLITS:
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
    (folder / "surfaces").mkdir(exist_ok=True)
    job = partial(_write_eye, folder=folder, count=bscans_per_eye, seed=seed)
    rows: list[dict] = []
    surfaces: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
    for (split, _), (eye_rows, eye_surfaces) in zip(jobs, run_eyes(job, jobs, workers), strict=True):
        rows += eye_rows
        surfaces[split] |= eye_surfaces
    for split in SPLITS:
        np.savez(folder / "surfaces" / f"{split}.npz", **surfaces[split])
    with open(folder / "samples.csv", "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def run_eyes(job, jobs: list, workers: int | None):
    """Results in the order of `jobs`; one process where processes may not be started."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    nested = current_process().daemon or get_start_method(allow_none=True) not in (None, "fork", "spawn", "forkserver")
    if workers <= 1 or nested or len(jobs) < 8:
        yield from tqdm(map(job, jobs), "phantom eyes", len(jobs), unit="eye", disable=len(jobs) < 8)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        yield from tqdm(pool.map(job, jobs, chunksize=2), "phantom eyes", len(jobs), unit="eye")


def _write_eye(job: tuple[str, int], folder: Path, count: int, seed: int) -> tuple[list[dict], dict[str, np.ndarray]]:
    split, k = job
    number = eye_seed(seed, split, k)
    rng = np.random.default_rng([number, 31])
    geometry = INSTRUMENTS[int(rng.choice(len(INSTRUMENTS), p=INSTRUMENT_SHARE))] if split == "train" else SPECTRALIS_25
    eye = make_eye(number, k % 5, geometry)
    rows, surfaces = [], {}
    for direction, line in layer_lines(eye, count):
        scan = eye.bscan(direction, line)
        sample_id = f"{eye.eye_id}_{direction}{line:02d}"
        _, data = cv2.imencode(".png", scan.image, _PNG)
        (folder / "images" / split / f"{sample_id}.png").write_bytes(data.tobytes())
        surfaces[sample_id] = visible_surfaces(scan)
        rows.append({"sample_id": sample_id, "patient_id": eye.eye_id, "split": split, "stage": eye.stage,
                     "hole": eye.fovea.hole, "instrument": geometry.name, "axial_um": geometry.axial_um,
                     "lateral_um": geometry.lateral_um})  # fmt: skip
    return rows, surfaces
