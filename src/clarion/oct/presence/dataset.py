"""ErmPresence: phantom B-scans with the presence of an epiretinal membrane at every A-scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clarion.errors import UsageError
from clarion.oct.phantom_scans import SPLITS, PhantomScans
from clarion.samples import Sample

LAST_SEED = 1  # of the phantom: eyes of validation (seeds from 900,000) are never trained on
EYES = {"train": 320, "val": 50, "test": 60}
BSCANS = {"train": 8, "val": 8, "test": 12}


class ErmPresence(PhantomScans):
    """B-scans of phantom eyes in the natural mixture of stages, with presence per A-scan; built once, in the cache.

    eyes, bscans_per_eye: per split, lines drawn from the whole raster; phantom_seed: 0 or 1, of the eyes, independent
    of the run's seed. The ILM of val and test is the true one with the errors of a layer network. root must be null.
    """

    cache_name, folder_version = "erm-presence", 1
    groups = ("stage", "direction", "laterality")

    def __init__(
        self,
        name: str,
        task: str = "presence",
        root: str | None = None,
        seed: int = 0,
        phantom_seed: int = 1,
        kind: str = "phantom",
        eyes: Mapping[str, int] | None = None,
        bscans_per_eye: Mapping[str, int] | None = None,
        class_names: Sequence[str] = ("erm",),
        workers: int | None = None,
    ):
        if root is not None:
            raise UsageError(
                "data=erm_presence is the phantom's alone, since no format of labelled A-scans is read yet: "
                "leave data.root=null."
            )
        if not 0 <= int(phantom_seed) <= LAST_SEED:
            raise UsageError(f"data.phantom_seed={phantom_seed}: use 0 or {LAST_SEED}; later eyes are for validation.")
        self.name, self.task = name, task
        self.phantom_seed, self.class_names, self.workers = int(phantom_seed), list(class_names), workers
        self.eyes = {split: int((eyes or EYES).get(split, 0)) for split in SPLITS}
        self.bscans = {split: int((bscans_per_eye or BSCANS).get(split, 1)) for split in SPLITS}
        if unknown := {*(eyes or {}), *(bscans_per_eye or {})} - set(SPLITS):
            raise UsageError(f"data: split {sorted(unknown)[0]!r} does not exist; use {', '.join(SPLITS)}.")
        if wrong := [n for n in self.bscans.values() if not 1 <= n <= 50]:
            raise UsageError(f"data.bscans_per_eye: {wrong[0]} is not possible, an eye has 1 to 50 B-scans.")

    def write(self, folder: Path) -> None:
        from .phantom_folder import write_presence_folder

        write_presence_folder(folder, self.eyes, self.bscans, self.phantom_seed, self.workers)

    def files(self) -> list[Path]:
        """Every strip and truth."""
        return [*sorted(self.folder.glob("*.npz")), self.folder / "samples.csv"]

    def _stored(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as stored:
            return dict(stored)

    def samples(self, split: str) -> Iterator[Sample]:
        """Samples of val or test, rendered one by one: bscan uint8 [depth, width], axial_um, lateral_um, ilm."""
        from clarion.oct.phantom import make_eye

        if split == "train":
            raise UsageError("data=erm_presence keeps strips of its train split, no B-scans: predict val or test.")
        eye, ilm = None, self._stored(f"{split}_ascans")["ilm"]
        for row, found in zip(self.of(split), ilm, strict=True):
            if eye is None or eye.seed != int(row["seed"]):
                eye = make_eye(int(row["seed"]))
            scan = eye.bscan(row["direction"], int(row["line"]))
            axial_um, lateral_um = scan.spacing
            inputs = {"bscan": scan.image, "axial_um": axial_um, "lateral_um": lateral_um, "ilm": found}
            yield Sample(row["sample_id"], row["patient_id"], inputs)

    def truth(self, split: str) -> pd.DataFrame | None:
        """One row a sample: ids, subgroups, and per A-scan presence (0, 1, NaN where the ILM is not visible), boxed
        (inside a true box) and line (brightness of the ILM line). None for train, of which no B-scan is kept."""
        if split == "train":
            return None
        table, stored = self.truth_table(split), self._stored(f"{split}_ascans")
        presence = np.where(stored["assessable"], stored["presence"], np.nan).astype(np.float32)
        for name, values in (("presence", presence), ("boxed", stored["boxed"]), ("line", stored["line"])):
            table[name] = list(values.astype(np.float32))
        return table

    # ---- for the trainer -----------------------------------------------------------------------------------

    def datamodule(self, batch_size: int, seed: int = 0, augment: bool = True, num_workers: int = 0):
        """train and val as a LightningDataModule of strips."""
        from .loader import PresenceStrips

        return PresenceStrips({s: self._stored(s) for s in ("train", "val")}, batch_size, seed, augment, num_workers)
