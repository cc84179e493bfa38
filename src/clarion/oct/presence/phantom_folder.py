"""A folder of flattened phantom strips with the membrane's presence at every column: what the network learns from.

    SPLIT.npz     strips uint8 [n, STORE_ABOVE + STORE_BELOW, columns] around the true ILM, presence float16
                  [n, columns] (share of a column's A-scans under a membrane), known bool [n, columns] (ILM visible),
                  lift float16 [n, columns] (membrane above the ILM, rows of the strip)
    SPLIT_ascans.npz   per A-scan of val and test, [n, width]: presence bool, assessable bool, boxed bool (inside a true
                  box), line float16 (brightness of the ILM line, a baseline), ilm float32 (as a layer network finds it)
    samples.csv   sample_id, patient_id, split, seed, stage, laterality, direction, line
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from clarion.oct.layers.phantom_folder import run_eyes, visible_surfaces
from clarion.oct.phantom import make_eye
from clarion.oct.phantom.dataset import SPLITS, eye_seed
from clarion.oct.phantom.eye import BScan, Eye

from .augment import ilm_error
from .strip import ABOVE, AXIAL_UM, at_columns, cut_strip, normalised

STORE_ABOVE, STORE_BELOW = 76, 74  # rows: what a strip needs, and room for an ILM that was found elsewhere
COLUMNS = ("sample_id", "patient_id", "split", "seed", "stage", "laterality", "direction", "line")


def lines_anywhere(eye: Eye, count: int) -> list[tuple[str, int]]:
    """`count` different lines of both directions, drawn from the whole raster: the area is a sum over all of them."""
    every = [(direction, line) for direction in ("H", "V") for line in range(eye.geometry.lines)]
    chosen = np.random.default_rng([eye.seed, 43]).permutation(len(every))[:count]
    return [every[k] for k in sorted(chosen)]


def lift_rows(scan: BScan) -> np.ndarray:
    """How far the membrane stands off the ILM, rows of the B-scan, float32 [width], 0 where there is none."""
    return np.nan_to_num(scan.surfaces["ILM"] - scan.membrane).astype(np.float32)


def write_presence_folder(
    folder: Path, eyes: Mapping[str, int], bscans: Mapping[str, int], seed: int = 0, workers: int | None = None
) -> None:
    """Write the folder described above. Pictures are not kept: those of val and test are rendered when asked for.

    eyes, bscans: eyes per split and B-scans per eye of a split. Stages come in their natural shares (30 % without
    membrane), so that probabilities mean what they say. The bytes do not depend on `workers`.
    """
    folder = Path(folder)
    jobs = [(split, k) for split in SPLITS for k in range(eyes.get(split, 0))]
    rows: list[dict] = []
    parts: dict[str, list[dict[str, np.ndarray]]] = {}
    job = partial(_eye, bscans=dict(bscans), seed=seed)
    for (split, _), (eye_rows, strips, ascans) in zip(jobs, run_eyes(job, jobs, workers), strict=True):
        rows += eye_rows
        for name, arrays in ((split, strips), (f"{split}_ascans", ascans)):
            if arrays:
                parts.setdefault(name, []).append(arrays)
    for name, arrays in parts.items():
        np.savez(folder / f"{name}.npz", **{key: np.concatenate([a[key] for a in arrays]) for key in arrays[0]})
    with open(folder / "samples.csv", "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _eye(job: tuple[str, int], bscans: dict[str, int], seed: int) -> tuple[list[dict], dict, dict]:
    split, k = job
    eye = make_eye(eye_seed(seed, split, k))
    lines = lines_anywhere(eye, bscans[split])
    rows = [{"sample_id": f"{eye.eye_id}_{direction}{line:02d}", "patient_id": eye.eye_id, "split": split,
             "seed": eye.seed, "stage": eye.stage, "laterality": eye.laterality, "direction": direction, "line": line}
            for direction, line in lines]  # fmt: skip
    scans = [eye.bscan(direction, line) for direction, line in lines]
    strips = [strip_of(scan) for scan in scans] if split != "test" else []
    ascans = [ascans_of(scan, eye.seed) for scan in scans] if split != "train" else []
    return rows, *({name: np.stack([m[name] for m in made]) for name in (made or [{}])[0]} for made in (strips, ascans))


def found_ilm(scan: BScan, seed: int) -> np.ndarray:
    """The ILM float32 [width] as a layer network would find it (ilm_error); NaN where it is not visible."""
    random = np.random.default_rng([seed, 47, ord(scan.direction), scan.line])
    return visible_surfaces(scan)[0] + ilm_error(random, lift_rows(scan), *scan.spacing)


def ascans_of(scan: BScan, seed: int) -> dict[str, np.ndarray]:
    """Truth and baselines of one phantom B-scan, per A-scan [width]."""
    ilm = found_ilm(scan, seed)
    strip, assessable = cut_strip(scan.image, ilm, *scan.spacing)
    return {
        "presence": scan.presence,
        "assessable": assessable,
        "boxed": boxed(scan),
        "line": line_brightness(strip, scan.presence.size),
        "ilm": ilm,
    }


def boxed(scan: BScan) -> np.ndarray:
    """Which A-scans lie inside a true box, bool [width]."""
    middle = np.arange(scan.image.shape[1]) + 0.5
    return ((middle >= scan.boxes[:, :1]) & (middle < scan.boxes[:, 2:3])).any(axis=0)


def line_brightness(strip: np.ndarray, width: int) -> np.ndarray:
    """Brightest row near the ILM relative to the inner retina, float16 [width]: what a threshold alone could use."""
    near = normalised(strip)[ABOVE - 10 : ABOVE + 5]
    return at_columns(cv2.GaussianBlur(near, (0, 0), 1.0).max(axis=0), width).astype(np.float16)


def strip_of(scan: BScan) -> dict[str, np.ndarray]:
    """One phantom B-scan as the folder stores it."""
    ilm = visible_surfaces(scan)[0]
    strip, assessable = cut_strip(scan.image, ilm, *scan.spacing, above=STORE_ABOVE, below=STORE_BELOW)
    columns = strip.shape[1]
    return {
        "strips": np.clip(np.rint(strip), 0, 255).astype(np.uint8),
        "presence": at_columns(scan.presence, columns).astype(np.float16),
        "known": at_columns(assessable, columns) > 0.99,
        "lift": at_columns(lift_rows(scan) * scan.spacing[0] / AXIAL_UM, columns).astype(np.float16),
    }
