"""Real training processes that really die: started as a user starts them, killed with SIGKILL, compared when done."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from clarion.record import hash_file

ROOT = Path(__file__).resolve().parents[2]
THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}  # bitwise equality: one thread

# train.py, but when a function is called for the n-th time the process is killed, or may write no file above 1 MB more.
KILLED_INSIDE = """
import importlib, os, resource, signal, sys, threading
module, _, path = os.environ["DIES_IN"].partition(":")
owner = importlib.import_module(module)
*parents, name = path.split(".")
for parent in parents:
    owner = getattr(owner, parent)
original, calls, last = getattr(owner, name), 0, int(os.environ.get("DIES_AT", 1))
def dies(*args, **kwargs):
    global calls
    calls += os.environ.get("DIES_ON", "") in str(args[:1])
    if calls < last:
        return original(*args, **kwargs)
    if os.environ.get("DIES_OF") == "full disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
        return original(*args, **kwargs)
    if later := os.environ.get("DIES_LATER"):
        if calls == last:
            threading.Timer(float(later), os.kill, (os.getpid(), signal.SIGKILL)).start()
        return original(*args, **kwargs)
    if os.environ.get("DIES_AFTER"):
        original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, dies)
from clarion import launch
sys.exit(launch.train(sys.argv[1:]))
"""


def start(folder: Path, *args: str, program: list[str] | None = None, env: dict | None = None) -> subprocess.Popen:
    """A train.py of this source tree with runs_dir=folder; its output goes to files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *(program or [str(ROOT / "train.py")]), *args, f"runs_dir={folder}"]
    with open(folder / "stdout.txt", "ab") as out, open(folder / "stderr.txt", "ab") as err:
        return subprocess.Popen(
            command, stdout=out, stderr=err, cwd=folder, start_new_session=True,
            env={**os.environ, **THREADS, **(env or {})},
        )  # fmt: skip


def train(folder: Path, *args: str, expect: int = 0, **more) -> None:
    """Run to its end; the exit status must be `expect`."""
    process = start(folder, *args, **more)
    try:
        status = process.wait(timeout=560)
    finally:
        kill(process)
    assert status == expect, f"exit {status}\n{said(folder)[-4000:]}"


def said(folder: Path) -> str:
    return (folder / "stdout.txt").read_text("utf-8", "replace") + (folder / "stderr.txt").read_text("utf-8", "replace")


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the process and what it started (loader processes), and wait until it is gone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(timeout=60)


def train_until(folder: Path, *args: str, done: Callable[[], bool], delay: float = 0.0, **more) -> bool:
    """Start, wait until `done()`, then `delay` seconds more, and kill. False where the run ended before that."""
    process, limit = start(folder, *args, **more), time.monotonic() + 500
    try:
        while not done():
            if process.poll() is not None:
                return False
            assert time.monotonic() < limit, f"nothing happened\n{said(folder)[-4000:]}"
            time.sleep(0.01)
        try:
            process.wait(timeout=delay)
            return False
        except subprocess.TimeoutExpired:
            return True
    finally:
        kill(process)


def killed_inside(
    folder: Path, *args: str, where: str, at: int = 1, after: bool = False, on: str = "", later: float | None = None
) -> None:
    """Train until the `at`-th call of the function `where` ("module:name"); `on`: count only calls whose first
    argument holds this text; after: let that call finish first; later: so many seconds after that call, wherever the
    process is then. The process must have died of the kill."""
    env = {"DIES_IN": where, "DIES_AT": str(at), "DIES_AFTER": "1" if after else "", "DIES_ON": on,
           "DIES_LATER": "" if later is None else str(later)}  # fmt: skip
    train(folder, *args, program=["-c", KILLED_INSIDE], env=env, expect=-signal.SIGKILL)


def full_disk_inside(folder: Path, *args: str, where: str, at: int) -> None:
    """Train until the `at`-th call of `where`; from then on no file above 1 MB can be written. Must end with exit 1."""
    env = {"DIES_IN": where, "DIES_AT": str(at), "DIES_OF": "full disk"}
    train(folder, *args, program=["-c", KILLED_INSIDE], env=env, expect=1)


# ---- what a run left -----------------------------------------------------------------------------------------


def only_run(folder: Path) -> Path:
    (run,) = [p for p in folder.iterdir() if (p / "manifest.json").is_file()]
    return run


def rows(folder: Path) -> list[dict]:
    """metrics.jsonl of the only run in a folder, without the times; [] before there is one."""
    found = list(folder.glob("*/metrics.jsonl"))
    lines = found[0].read_text("utf-8").splitlines() if found else []
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines if line.endswith("}")]


def curves(folder: Path) -> dict[int, dict]:
    """step -> all that was logged at it, in one call or several (a resumed run may log part of a step again)."""
    found: dict[int, dict] = {}
    for row in rows(folder):
        found[row["step"]] = found.get(row["step"], {}) | row
    return found


def outcome(folder: Path) -> dict:
    """All that must not depend on whether a run was interrupted: scores, curves, predictions, weights."""
    run = only_run(folder)
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    metrics.pop("finished")
    return {
        "run": run.name,
        "metrics": metrics,
        "curves": curves(folder),
        # the weights alone: the records beside them hold run times
        "weights": {
            p.name: hash_file(p)
            for p in sorted((run / "checkpoints" / "best").iterdir())
            if p.suffix in (".safetensors", ".skops")
        },
        "predictions": {p.name: p.read_bytes() for p in sorted((run / "predictions").glob("*.parquet"))},
        "files": sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and not _by_the_way(p)),
    }


def _by_the_way(path: Path) -> bool:
    return path.name in ("run.log", ".lock")  # the lock is the process's, not the file's


def moments(steps: int, count: int, seed: int) -> list[tuple[int, float]]:
    """`count` random moments, each of a process that trains: (its step, counted from its own start, seconds after it).

    A resumed process has fewer steps left, so each draws from its share of them: it always comes that far."""
    random_ = random.Random(seed)
    return [(random_.randint(1, steps // count), round(random_.uniform(0, 0.05), 3)) for _ in range(count)]


def draw_plates(root: Path, train: int = 10, val: int = 4, test: int = 4, seed: int = 0) -> Path:
    """A YOLO folder of bright plates on a dark ground, 64 x 80 px, with splits; labels hold one or two boxes."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val), ("test", test)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for k in range(count):
            image, lines = rng.normal(40, 12, (64, 80)), []
            for _ in range(int(rng.integers(1, 3))):
                w, h = rng.uniform(0.3, 0.5, 2)
                x, y = rng.uniform(w / 2, 1 - w / 2), rng.uniform(h / 2, 1 - h / 2)
                rows_, columns = np.array([y - h / 2, y + h / 2]) * 64, np.array([x - w / 2, x + w / 2]) * 80
                image[int(rows_[0]) : int(rows_[1]), int(columns[0]) : int(columns[1])] = 190 + rng.normal(0, 8)
                lines.append(f"0 {x:.6f} {y:.6f} {w:.6f} {h:.6f}")
            name = f"{split}{k:03d}"
            cv2.imwrite(str(root / "images" / split / f"{name}.png"), image.clip(0, 255).astype(np.uint8))
            (root / "labels" / split / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return root
