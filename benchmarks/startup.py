"""How long an answer of train.py takes, against `python -c "import hydra, omegaconf"` in the same run.

Target: help, the composed config and every refusal within 3x. Prints the worst case as its last line.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEER = [sys.executable, "-c", "import hydra, omegaconf"]
CASES = {
    "help": ["--help"],
    "cfg job": ["model=yolo11x", "data=erm_full", "--cfg", "job"],
    "misspelt": ["modle=yolo11x", "data=erm_fulll"],
    "mismatch": ["model=swin_nano", "data=erm_demo"],
    "wrong root": ["data=erm_full", "data.root=/no/such/folder"],
    "bad values": ["trainer.epochs=0", "trainer.precision=fp16"],
    "misspelt in a sweep of 24": ["-m", "experiment=erm_detection", "trainer.epoch=3"],
}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, capture_output=True)
    return time.perf_counter() - began


def main(repeats: int = 9) -> None:
    worst = None
    for name, argv in CASES.items():
        command = [sys.executable, "train.py", *argv]
        seconds(PEER), seconds(command)  # warm the file cache
        pairs = [(seconds(command), seconds(PEER)) for _ in range(repeats)]  # alternately: load hits both
        ratio = statistics.median(a / b for a, b in pairs)
        ours, peer = (statistics.median(column) for column in zip(*pairs))
        print(f"{name:<28} {ours:.3f} s  peer {peer:.3f} s  ratio {ratio:.2f}")
        if worst is None or ratio > worst[1]:
            worst = (name, ratio)
    print(
        json.dumps(
            {
                "name": "startup",
                "ratio": round(worst[1], 3),
                "peer": "python -c 'import hydra, omegaconf'",
                "n": repeats,
                "worst_case": worst[0],
            }
        )
    )


if __name__ == "__main__":
    main()
