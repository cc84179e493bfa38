"""Which kind of tissue a tile shows, where somebody knows it: planted maps of synthetic slides, or a user's tissue.csv.

A synthetic tile is of the kind that covers most of it, and of none where that is less than COVERED of it. A row of
tissue.csv (slide_id, x, y in pixels of level 0, kind) labels every tile that holds the point; a tile whose points
disagree with no majority is of none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clarion.cancer.patients.folder import SUFFIXES
from clarion.cancer.patients.regions import PlantedTruth, Regions
from clarion.cancer.patients.tissue_map import KINDS
from clarion.cancer.readers.clinical import find
from clarion.cancer.readers.tables import is_table, read_header, read_table
from clarion.data.paths import inside, named_error, nfc

COVERED = 0.6  # of a tile, from which it is of one kind
FILE = "tissue"  # .csv, .tsv ... beside the clinical table
COLUMNS = ("slide_id", "x", "y", "kind")
NAMED = 3  # wrong rows that an error lists


@dataclass(frozen=True)
class PlantedLabels:
    """Synthetic slides. owners: slide -> (sample id, number of the slide among the patient's)."""

    truth: PlantedTruth
    owners: Mapping[Path, tuple[str, int]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.owners)

    def __contains__(self, slide: Path) -> bool:
        return slide in self.owners

    def kinds(self, slide: Path, xy: np.ndarray, side: float) -> np.ndarray:
        """object [n] of kinds, "" unknown, of tiles with upper left corners xy [n, 2] and `side`, pixels of level 0."""
        return kinds_of_tiles(self.truth(*self.owners[slide]), xy, side)

    def digest(self) -> str:
        """Of all labels: what a head was fitted on."""
        text = "\n".join([self.truth.patients.recipe.digest(), *sorted(slide.stem for slide in self.owners)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class PointLabels:
    """A user's points. points: slide -> DataFrame x, y (pixels of level 0), kind."""

    points: Mapping[Path, pd.DataFrame] = field(repr=False)

    def __len__(self) -> int:
        return len(self.points)

    def __contains__(self, slide: Path) -> bool:
        return slide in self.points

    def kinds(self, slide: Path, xy: np.ndarray, side: float) -> np.ndarray:
        """As PlantedLabels.kinds."""
        own = self.points[slide]
        names = sorted(set(own["kind"]))
        votes = np.zeros((len(xy), len(names)), int)
        for x, y, kind in own[["x", "y", "kind"]].itertuples(index=False):
            inside_x = (xy[:, 0] <= x) & (x < xy[:, 0] + side)
            votes[inside_x & (xy[:, 1] <= y) & (y < xy[:, 1] + side), names.index(kind)] += 1
        most = votes.max(axis=1, initial=0)
        clear = (most > 0) & ((votes == most[:, None]).sum(axis=1) == 1)
        return np.where(clear, np.array(names, object)[votes.argmax(axis=1)], "")

    def digest(self) -> str:
        """As PlantedLabels.digest."""
        found = hashlib.blake2b(digest_size=16)
        for slide in sorted(self.points, key=lambda path: path.name):
            found.update(self.points[slide].to_csv(index=False).encode())
        return found.hexdigest()


TissueLabels = PlantedLabels | PointLabels  # of some slides: `slide in labels`, len(labels) of them


def kinds_of_tiles(regions: Regions, xy: np.ndarray, side: float) -> np.ndarray:
    """object [n]: the kind of KINDS that covers at least COVERED of each tile; "" for mixtures and background."""
    share = shares_of_tiles(regions, xy, side)
    best = share[:, 1:].argmax(axis=1) + 1  # of tissue: index 0 is background
    sure = share[np.arange(len(share)), best] >= COVERED
    return np.where(sure, np.array(KINDS, object)[best], "")


def shares_of_tiles(regions: Regions, xy: np.ndarray, side: float) -> np.ndarray:
    """float64 [n, kinds]: how much of each tile each kind of KINDS covers; beyond the slide is background."""
    height, width = regions.kinds.shape
    # Sums over the rectangle above and left of every cell: a tile is then four look-ups.
    sums = np.zeros((len(KINDS), height + 1, width + 1))
    sums[:, 1:, 1:] = (regions.kinds == np.arange(len(KINDS))[:, None, None]).cumsum(1).cumsum(2)
    left, top = (np.rint(xy[:, k] / regions.downsample).astype(int) for k in (0, 1))
    cells = max(1, round(side / regions.downsample))
    x0, x1 = np.clip(left, 0, width), np.clip(left + cells, 0, width)
    y0, y1 = np.clip(top, 0, height), np.clip(top + cells, 0, height)
    counts = sums[:, y1, x1] - sums[:, y0, x1] - sums[:, y1, x0] + sums[:, y0, x0]
    counts[0] += cells**2 - counts.sum(axis=0)
    return (counts / cells**2).T


# ---- a user's table


def tissue_table(root: Path) -> Path | None:
    """tissue.csv (.tsv, .parquet ...) at the root of a folder of patients; None without."""
    found = [p for p in sorted(root.iterdir()) if p.is_file() and is_table(p) and p.name.split(".")[0].lower() == FILE]
    if len(found) > 1:
        raise named_error("data.root holds {a} and {b}; keep one.", {"a": found[0].name, "b": found[1].name})
    return inside(root, found[0], "data.root") if found else None


def read_points(table: Path, files: Mapping[str, Path], facts: Mapping[str, Mapping[str, Any]]) -> dict:
    """slide -> DataFrame x, y, kind, of all slides that the table labels. files: slide id -> its file; facts: slide id
    -> the reader's card (dimensions). Spellings of a kind that differ in case are one, the first. DataError naming, in
    one sentence, the rows whose slide nobody has, whose place is outside it or no number, or that lack a kind."""
    header = read_header(table)
    rows = read_table(table, text_columns=[c for c in header if c.strip().lower() in ("slide_id", "slide", "kind")])
    columns = {name: find(rows, [name, "slide"] if name == "slide_id" else [name]) for name in COLUMNS}
    if absent := [name for name, column in columns.items() if column is None]:
        raise named_error("{file} lacks the column(s) " + ", ".join(absent) + "; it needs slide_id, x, y (pixels of "
                          "level 0) and kind.", {"file": table.name})  # fmt: skip
    rows = rows.rename(columns={column: name for name, column in columns.items()})[list(COLUMNS)]
    ids = _slide_ids(rows["slide_id"], files)
    rows["slide_id"] = rows["slide_id"].astype(object).fillna("")
    for axis in ("x", "y"):
        rows[axis] = pd.to_numeric(rows[axis], errors="coerce")
    size = [facts.get(slide, {}).get("dimensions") for slide in ids]  # None of a slide that cannot be read
    wide, high = (np.array([np.inf if s is None else s[k] for s in size], float) for k in (0, 1))
    with np.errstate(invalid="ignore"):
        within = (rows["x"] >= 0) & (rows["x"] < wide) & (rows["y"] >= 0) & (rows["y"] < high)
    kind = rows["kind"].fillna("").astype(str).map(lambda text: nfc(" ".join(text.split())))
    known = np.array([slide is not None for slide in ids], bool)
    wrong = {
        "name a slide that is not in slides/": ~known,
        "have a place outside of their slide, or none": known & ~within.to_numpy(),
        "have no kind": (kind == "").to_numpy(),
    }
    if any(bad.any() for bad in wrong.values()):
        raise _wrong_rows(table, rows["slide_id"], wrong)
    first: dict[str, str] = {}
    rows["kind"] = [first.setdefault(text.casefold(), text) for text in kind]
    rows["file"] = [files[slide] for slide in ids]
    return {path: own[["x", "y", "kind"]].reset_index(drop=True) for path, own in rows.groupby("file", sort=False)}


def _slide_ids(given: pd.Series, files: Mapping[str, Path]) -> list[str | None]:
    """The id of `files` that each cell means: as it stands, without its suffix, or without the GDC's uuid."""
    short: dict[str, list[str]] = {}
    for slide in files:
        short.setdefault(slide.split(".")[0], []).append(slide)

    def meant(text: Any) -> str | None:
        key = nfc(text.strip()) if isinstance(text, str) else ""
        key = Path(key).stem if Path(key).suffix.lower() in SUFFIXES else key
        alike = short.get(key.split(".")[0], [])
        return key if key in files else alike[0] if len(alike) == 1 and key else None

    known = {text: meant(text) for text in given.unique()}
    return [known[text] for text in given]


def _wrong_rows(table: Path, slides: pd.Series, wrong: Mapping[str, np.ndarray]) -> Exception:
    parts, names = [], {"file": table.name}
    for what, bad in wrong.items():
        if not bad.any():
            continue
        rows = np.flatnonzero(bad)
        listed = []
        for row in rows[:NAMED]:
            key = f"s{len(names)}"
            names[key] = str(slides.iloc[row]) or "no slide_id"
            listed.append(f"row {row + 1}: {{{key}}}")
        more = ", ..." if len(rows) > NAMED else ""
        parts.append(f"{len(rows)} row(s) {what} ({', '.join(listed)}{more})")
    return named_error("In {file} " + ", and ".join(parts) + ": mend or remove them.", names)


def labels_of(patients: Collection[str], paths: Mapping[str, tuple[Path, ...]], truth: PlantedTruth | None,
              points: Mapping[Path, pd.DataFrame]) -> TissueLabels:  # fmt: skip
    """The labels of these patients' slides alone. paths: patient -> slides; truth: of synthetic patients, else
    `points` of all slides."""
    if truth is not None:
        return PlantedLabels(truth, {path: (p, k) for p in patients for k, path in enumerate(paths[p])})
    own = {path for p in patients for path in paths[p]}
    return PointLabels({path: table for path, table in points.items() if path in own})
