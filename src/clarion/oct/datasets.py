"""Data objects of the eye clinic: ERM detection on a phantom or the user's folder, and a HEYEX export to predict on."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clarion.data.cache import build_once
from clarion.data.detection import DetectionData
from clarion.data.filecache import digest_files
from clarion.data.fingerprint import fingerprint_files, fingerprint_items
from clarion.data.integrity import IntegrityReport, check_images, check_patients
from clarion.errors import DataError, UsageError
from clarion.samples import Sample


class ErmDetection(DetectionData):
    """Epiretinal membrane in B-scans: `root=null` builds a phantom in the cache, `root=/path` reads a folder.

    eyes: phantom eyes a split; bscans_per_eye: B-scans of each, of both directions; phantom_seed: of the whole
    phantom, apart from `seed`, so that runs of several seeds meet the same eyes; workers: processes that draw it.
    kind: "phantom" becomes "private" when a root is given, unless it says "public".
    train_fraction: share of the train eyes kept (erm_half: 0.5 of the same phantom). The rest: DetectionData."""

    def __init__(
        self,
        name: str,
        kind: str = "phantom",
        root: str | None = None,
        eyes: Mapping[str, int] | None = None,
        bscans_per_eye: int = 10,
        phantom_seed: int = 0,
        workers: int | None = None,
        **options: Any,
    ):
        self.is_phantom = root is None
        if kind == "phantom" and not self.is_phantom:
            kind = "private"
        super().__init__(name, kind="phantom" if self.is_phantom else kind, root=root, **options)
        self.eyes = dict(eyes or {"train": 60, "val": 10, "test": 20})
        self.bscans_per_eye, self.phantom_seed, self.workers = bscans_per_eye, phantom_seed, workers

    def recipe(self) -> dict[str, Any]:
        """What determines the phantom, with the version of the code that draws it."""
        from clarion.oct.phantom import PHANTOM_VERSION

        return {
            "phantom": "erm_detection",
            "version": PHANTOM_VERSION,
            "eyes": self.eyes,
            "bscans_per_eye": self.bscans_per_eye,
            "seed": self.phantom_seed,
        }

    def find_root(self) -> Path:
        if not self.is_phantom:
            return super().find_root()
        recipe = self.recipe()
        total = sum(self.eyes.values())
        self.source = f"phantom {recipe['version']}: {total} simulated eyes x {self.bscans_per_eye} B-scans"
        print(
            f"data={self.name}: data.root is null, so this is a PHANTOM ({total} simulated eyes x {self.bscans_per_eye}"
            " B-scans), not patients; give data.root=/path for your own images.",
            file=sys.stderr,
        )
        digest = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=6).hexdigest()
        return build_once(f"erm-phantom-{recipe['version']}-{digest}", self._build).resolve()

    def _build(self, folder: Path) -> None:
        from clarion.oct.phantom import write_detection_folder

        write_detection_folder(folder, self.eyes, self.bscans_per_eye, seed=self.phantom_seed, workers=self.workers)

    def fingerprint(self) -> str:
        """Of a phantom: its recipe, samples.csv and labels (the pictures follow from the recipe)."""
        if not self.is_phantom:
            return super().fingerprint()
        self.prepare()
        if self._fingerprint is None:
            files = [*self._folder.files, self._table.file]
            recipe = json.dumps(self.recipe(), sort_keys=True)
            self._fingerprint = fingerprint_files(self._root, files, {"recipe": recipe})
        return self._fingerprint


class HeyexExport:
    """B-scans of a HEYEX screen export (clarion.oct.heyex), to predict on: there is no truth, so nothing is scored.

    The B-scan is cut out of each exported picture and kept as PNG in the cache, where detectors read it. Ids come
    from the pictures' content, never from file or folder names. Splits: test, also called predict.
    class_names: what the model that is to run can find."""

    has_truth = False
    kind = "private"

    def __init__(
        self,
        name: str,
        root: str | None = None,
        task: str = "detection",
        kind: str = "private",
        seed: int = 0,
        class_names: Sequence[str] = ("erm",),
        fold: None = None,
        expected: str = "",
    ):
        if root is None:
            message = f"data={name} reads a HEYEX export of yours: give data.root=/path/to/export. {expected}"
            raise UsageError(message.strip())
        if fold is not None:
            raise UsageError(f"data={name} has no folds; leave data.fold out.")
        self.name, self.task, self.kind, self.root, self.seed = name, task, kind, root, seed
        self.class_names = list(class_names)
        self._folder: Path | None = None
        self._damaged: list[tuple[str, str]] = []

    def prepare(self) -> None:
        """Find the scans and cut out their B-scans, once for each content."""
        if self._folder is not None:
            return
        from clarion.oct.heyex import read_export

        self._scans = {scan.sample_id: scan for scan in read_export(Path(self.root).expanduser())}
        digests = digest_files([scan.path for scan in self._scans.values()])
        self._fingerprint = fingerprint_items({i: digests[scan.path] for i, scan in self._scans.items()})
        try:
            self._folder = build_once(f"heyex-{self._fingerprint[:24]}", self._cut)
        except DataError:
            if not self._damaged:
                raise

    def _cut(self, folder: Path) -> None:
        from PIL import Image

        for sample_id, scan in self._scans.items():
            try:
                Image.fromarray(scan.image).save(folder / f"{sample_id}.png", compress_level=1)
            except DataError as error:
                self._damaged.append((sample_id, str(error)))
        if self._damaged:  # nothing half-cut is kept; check() names them all
            raise DataError("damaged pictures")

    def check(self) -> IntegrityReport:
        """Damaged pictures and pictures without a B-scan (an error naming each), and scans exported twice."""
        self.prepare()
        report = IntegrityReport()
        message = "pictures of the export cannot be used; export them again or remove them"
        report.error("image_unusable", message, self._damaged)
        report.raise_if_bad()
        patients = {i: scan.patient_id for i, scan in self._scans.items()}
        check_patients(report, self.splits, patients)
        check_images(report, {i: self._image(i) for i in self._scans}, self.splits, patients)
        report.raise_if_bad()
        return report

    def _image(self, sample_id: str) -> Path:
        return self._folder / f"{sample_id}.png"

    def fingerprint(self) -> str:
        """Of the exported pictures, whatever their names."""
        self.prepare()
        return self._fingerprint

    @property
    def splits(self) -> dict[str, list[str]]:
        self.prepare()
        return {"test": list(self._scans)}

    def samples(self, split: str = "test") -> Iterator[Sample]:
        """In order of eye, direction and line; inputs: image (the B-scan), direction ("H" or "V"), line."""
        if split not in ("test", "predict"):
            raise UsageError(f"data={self.name} has no split {split!r}; it has test.")
        self.check()
        for i, scan in self._scans.items():
            yield Sample(i, scan.patient_id, {"image": self._image(i), "direction": scan.direction, "line": scan.line})

    def truth(self, split: str = "test") -> None:
        """None: an export holds no truth."""
        return None

    def card(self) -> dict[str, Any]:
        """Counts of eyes and scans; no names."""
        report = self.check()
        eyes = {scan.patient_id for scan in self._scans.values()}
        return {
            "name": self.name,
            "task": self.task,
            "kind": self.kind,
            "source": "HEYEX screen export",
            "class_names": self.class_names,
            "splits": {"test": {"samples": len(self._scans), "patients": len(eyes)}},
            "fingerprint": self.fingerprint(),
            "integrity": report.to_dict(),
        }
