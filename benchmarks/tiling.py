"""Tiles of a slide per CPU-second: clarion's reader beside OpenSlide, on a JPEG pyramid that this file builds.

    python benchmarks/tiling.py                            # the claim: 8192 x 8192, three levels, 256-px JPEG tiles
    python benchmarks/tiling.py --side 2048 --repeats 1    # a small run

Both give the same uint8 [n, 256, 256, 3]. OpenSlide is used as its manual says: read_region(...).convert("RGB"), and
Pillow's reducing box filter where tiles are made smaller. CPU time is the process's (all threads), the better of the
repeats, taken in turns; the slide lies in the page cache for both. Three ways: aligned (the grid falls on the file's
tiles), misaligned (shifted by 100 pixels), resized (512 -> 256 between two levels). Pixels are compared tile by tile.
Peak memory is that of a fresh process which tiles the whole slide (tissue, grid, every pixel). The last line is JSON:
ratio is aligned; targets_met says which targets were.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

# One thread each: CPU-seconds are what is compared.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import openslide
import tifffile
from PIL import Image

from clarion.cancer.slides.reader import open_slide
from clarion.cancer.slides.tiles import grid, read_tiles
from clarion.cancer.slides.tissue import find_tissue

TILE, MPP, QUALITY = 256, 0.5, 80
TARGETS = {"aligned": 2.0, "misaligned": 1.0, "resized": 1.0, "peak_mb": 1000.0}


def build(path: Path, side: int, seed: int) -> None:
    """A pyramid side x side, side / 4, side / 16 of stained texture: nuclei of 6 um in fibres, glass in a corner."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((side, side), dtype=np.float32)
    fibres = cv2.GaussianBlur(noise, (0, 0), 9, sigmaY=2)
    fibres /= fibres.std()
    nuclei = cv2.GaussianBlur(np.flipud(noise), (0, 0), 4)
    nuclei = np.clip(nuclei / nuclei.std() - 1.2, 0, 1.5)
    del noise
    glass = np.hypot(*np.ogrid[:side, :side]) < 0.35 * side
    level = np.empty((side, side, 3), np.uint8)
    for channel, (h, e) in enumerate(zip((0.65, 0.70, 0.29), (0.07, 0.79, 0.21))):
        density = h * nuclei * 0.9 + e * np.clip(0.4 + 0.15 * fibres, 0, 1)
        density[glass] = 0
        level[..., channel] = np.clip(240 * np.exp(-density) + rng.normal(0, 1.5, (side, side)), 0, 255)
    options = {
        "tile": (TILE, TILE), "compression": "jpeg", "compressionargs": {"level": QUALITY}, "photometric": "rgb",
        "resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER",
    }  # fmt: skip
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for k in range(3):
            small = cv2.resize(level, None, fx=4.0**-k, fy=4.0**-k, interpolation=cv2.INTER_AREA) if k else level
            file.write(small, subfiletype=int(k > 0), **options)


def corners(side: int, step: int, offset: int) -> np.ndarray:
    places = np.arange(offset, side - step + 1, step)
    return np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)


def theirs(slide: openslide.OpenSlide, xy: np.ndarray, size: int):
    """OpenSlide, patch by patch."""
    for x, y in xy.tolist():
        region = slide.read_region((x, y), 0, (size, size)).convert("RGB")
        yield np.asarray(
            region if size == TILE else region.resize((TILE, TILE), Image.Resampling.BOX, reducing_gap=1.0)
        )


def ours(path: Path, xy: np.ndarray, size: int):
    """clarion, as its users read tiles."""
    with open_slide(path) as slide:
        tiles = replace(grid(slide, None, TILE, MPP), xy=xy, read_size=size)
        for batch in read_tiles(slide, tiles):
            yield from batch


def measure(path: Path, xy: np.ndarray, size: int, repeats: int) -> dict:
    """CPU-seconds of both in turns, and the largest difference of any pixel."""
    seconds = {"openslide": [], "clarion": []}
    for _ in range(repeats):
        with openslide.OpenSlide(path) as slide:
            start = time.process_time()
            for _ in theirs(slide, xy, size):
                pass
            seconds["openslide"].append(time.process_time() - start)
        start = time.process_time()
        for _ in ours(path, xy, size):
            pass
        seconds["clarion"].append(time.process_time() - start)
    with openslide.OpenSlide(path) as slide:
        pairs = zip(ours(path, xy, size), theirs(slide, xy, size))
        difference = max(int(cv2.absdiff(a, b).max()) for a, b in pairs)
    best = {name: min(values) for name, values in seconds.items()}
    return {
        "ratio": best["openslide"] / best["clarion"],
        "per_cpu_second": {name: len(xy) / value for name, value in best.items()},
        "max_difference": difference,
        "n": len(xy),
    }


def peak(path: str) -> None:
    """In a process of its own: the whole way, then its peak memory on stdout."""
    with open_slide(path) as slide:
        tiles = grid(slide, find_tissue(slide), TILE, MPP)
        count = sum(len(batch) for batch in read_tiles(slide, tiles))
    print(json.dumps({"peak_mb": high_water_mb(), "tiles": count}))


def high_water_mb() -> float:
    """Peak resident memory of this program; ru_maxrss would start with the parent's, which Linux hands on."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_kb / (2**20 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        return peak(args.peak)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        build(path, args.side, args.seed)
        size_mb = path.stat().st_size / 2**20
        print(f"{args.side} x {args.side}, JPEG {QUALITY}, {size_mb:.0f} MB", file=sys.stderr)
        for _ in ours(path, corners(args.side, TILE, 0)[:1], TILE):  # compiled before the clock starts
            pass
        ways = {"aligned": (TILE, 0), "misaligned": (TILE, 100), "resized": (2 * TILE, 0)}
        found = {}
        for name, (size, offset) in ways.items():
            found[name] = measure(path, corners(args.side, size, offset), size, args.repeats)
            print(name, json.dumps(found[name]), file=sys.stderr)
        child = subprocess.run(
            [sys.executable, __file__, "--peak", str(path)], capture_output=True, text=True, check=True
        )  # fmt: skip
        memory = json.loads(child.stdout.splitlines()[-1])
    ratios = {name: round(found[name]["ratio"], 3) for name in ways}
    line = {
        "name": "tiling",
        "ratio": ratios["aligned"],
        "peer": f"openslide {openslide.__library_version__} (python {openslide.__version__})",
        "n": found["aligned"]["n"],
        "ratios": ratios,
        "per_cpu_second": {n: {k: round(v) for k, v in found[n]["per_cpu_second"].items()} for n in ways},
        "max_difference": {name: found[name]["max_difference"] for name in ways},
        "peak_mb": round(memory["peak_mb"]),
        "tiles": memory["tiles"],
        "side": args.side,
        "targets_met": {name: ratios[name] >= TARGETS[name] for name in ways}
        | {"peak_mb": memory["peak_mb"] < TARGETS["peak_mb"]},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
