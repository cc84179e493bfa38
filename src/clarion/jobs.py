"""Jobs in one process must not leak into each other, and a sweep must end with a table of what became of them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clarion.record import write_atomic

BOARD = "CLARION_JOB_BOARD"  # environment variable: the folder where the jobs of this sweep post their outcomes


@contextmanager
def isolated() -> Iterator[None]:
    """Restore what libraries change in passing: cwd, environment, thread counts, determinism, default dtype,
    the open W&B run, the root log level. Hydra's basic launcher, joblib and ray all reuse one process."""
    import logging

    cwd, environ, level = os.getcwd(), dict(os.environ), logging.getLogger().level
    torch_state = _torch_state()
    try:
        yield
    finally:
        os.chdir(cwd)
        for key in set(os.environ) - set(environ):
            del os.environ[key]
        os.environ.update(environ)
        logging.getLogger().setLevel(level)
        _restore_torch(torch_state)
        if "wandb" in sys.modules and getattr(sys.modules["wandb"], "run", None) is not None:
            sys.modules["wandb"].finish()


def _torch_state() -> dict | None:
    if "torch" not in sys.modules:
        return None
    import torch

    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn": torch.is_deterministic_algorithms_warn_only_enabled(),
        "dtype": torch.get_default_dtype(),
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn": torch.backends.cudnn.deterministic,
        "matmul": torch.get_float32_matmul_precision(),
        "grad": torch.is_grad_enabled(),
    }


def _restore_torch(state: dict | None) -> None:
    """Back to what was found; where torch was not loaded before, back to torch's own defaults."""
    if "torch" not in sys.modules:
        return
    import torch

    state = state or {
        "threads": None,
        "deterministic": False,
        "warn": False,
        "dtype": torch.float32,
        "benchmark": False,
        "cudnn": False,
        "matmul": "highest",
        "grad": True,
    }
    torch.set_num_threads(state["threads"] or default_threads())
    torch.use_deterministic_algorithms(state["deterministic"], warn_only=state["warn"])
    torch.set_default_dtype(state["dtype"])
    torch.backends.cudnn.benchmark = state["benchmark"]
    torch.backends.cudnn.deterministic = state["cudnn"]
    torch.set_float32_matmul_precision(state["matmul"])
    torch.set_grad_enabled(state["grad"])


def default_threads() -> int:
    """Cores this process may use; OMP_NUM_THREADS and joblib's limits respected."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(int(wanted), cores) if wanted.isdigit() and int(wanted) > 0 else cores


# ------------------------------------------------------------------------------------------------ the job board


@contextmanager
def board(runs_dir: str) -> Iterator[Path]:
    """A folder below runs_dir where every job posts its outcome, also from worker processes (the environment
    variable reaches them)."""
    folder = Path(runs_dir).expanduser().resolve() / ".jobs" / uuid.uuid4().hex[:12]
    folder.mkdir(parents=True)
    os.environ[BOARD] = str(folder)
    try:
        yield folder
    finally:
        os.environ.pop(BOARD, None)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.parent.rmdir()  # only when no other sweep is using it
        except OSError:
            pass


def post(outcome: dict) -> None:
    """Called by a job: status (done | skipped | refused | failed), reason, directory, command, seconds, score."""
    if folder := os.environ.get(BOARD):
        write_atomic(Path(folder) / f"{int(outcome['number']):06d}-{os.getpid()}.json", json.dumps(outcome))


def read_board(folder: Path) -> list[dict]:
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))]


def command_of(overrides: list[str]) -> str:
    return "python train.py " + " ".join(
        shlex.quote(o.removeprefix("++") if o.startswith("++trainer.args") else o)
        for o in overrides
        if not o.startswith("resume=")
    )


def jobs_table(outcomes: list[dict]) -> str:
    """The table that ends a multirun, and what to type for the jobs that did not finish."""
    rows = [("job", "run", "status", "seconds", "score", "why")]
    for o in outcomes:
        rows.append(
            (
                str(o["number"]),
                Path(o["directory"]).name,
                o["status"],
                f"{o['seconds']:.0f}",
                o.get("score") or "",
                _short(o.get("reason") or ""),
            )
        )
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    counts = {s: sum(o["status"] == s for o in outcomes) for s in ("done", "skipped", "pruned", "refused", "failed")}
    lines.append(", ".join(f"{n} {s}" for s, n in counts.items() if n))
    redo = [o for o in outcomes if o["status"] in ("failed", "refused")]
    if redo:
        lines.append("to do again:")
        lines += [f"  {o['command']} resume=true" for o in redo]
    return "\n".join(lines)


def _short(text: str, width: int = 90) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def exit_code(outcomes: list[dict]) -> int:
    """0: all done or skipped; 2: the only trouble was usage; 1: some work failed."""
    codes = {o.get("exit_code", 1) for o in outcomes if o["status"] in ("failed", "refused")}
    return 0 if not codes else (2 if codes == {2} else 1)
