"""What a case of bad input is: the folder it works in, and what is expected of it."""


import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from hostile import Watch, encoded, grey

CASES: dict[str, tuple] = {}
WATCH = Watch()
SECRET = "Anna Mueller, born 1961"


class Place:
    """Where a case works: `root` (a folder to fill), `marker` (must never appear), `outside` (must never be read)."""

    def __init__(self, folder: Path, sound: Path):
        self.root, self.marker, self.outside, self.sound = folder / "data", folder / "owned", folder / "outside", sound
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text(SECRET, encoding="utf-8")
        (self.outside / "picture.png").write_bytes(encoded(grey(seed=9), "PNG"))
        (self.outside / "scan.vol").write_bytes(b"HSF-OCT-103" + bytes(3000))
        (self.outside / "train.jsonl").write_text('{"question": "x", "answer": "y"}\n' * 3, encoding="utf-8")
        (self.outside / "cohort.csv").write_text(cohort_table(), encoding="utf-8")

    def plates(self) -> Path:
        shutil.copytree(self.sound, self.root)
        return self.root

    def folder(self, **files: str | bytes) -> Path:
        """A new folder with these files; `__` in a name is a folder, the last `_` its dot."""
        for name, content in files.items():
            path = self.root / ".".join(name.replace("__", "/").rsplit("_", 1))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.root.mkdir(exist_ok=True)
        return self.root


def case(expected):
    """expected: a regular expression of the error's text, or a function of what the case returns."""

    def register(work):
        assert work.__name__ not in CASES
        CASES[work.__name__] = (work, expected)
        return work

    return register


def cohort_table(rows: int = 40, **columns) -> str:
    rng = np.random.default_rng(0)
    frame = {
        "patient_id": [f"P{k:03d}" for k in range(rows)],
        "time_months": rng.exponential(30, rows).round(2),
        "event": rng.integers(0, 2, rows),
        **{f"G{k}_rnaseq": rng.normal(0, 1, rows).round(3) for k in range(5)},
    }
    return pd.DataFrame(frame | columns).to_csv(index=False)
