"""A scan of one eye as every reader gives it and every measurement takes it: B-scans with a place in millimetres.

En-face frame: x in mm to the right, y in mm downwards, as the infrared localiser shows the eye (right is nasal in a
right eye). Its origin is the centre of the localiser, or of the raster where there is no localiser. Rows of a B-scan
count from the vitreous side, columns from `start_mm` to `end_mm`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np

from clarion.errors import DataError

SURFACES = ("ILM", "RNFL/GCL", "IPL/INL", "INL/OPL", "OPL/ONL", "EZ", "RPE", "BM")
LATERALITIES = ("OD", "OS")


@dataclass(frozen=True)
class Scan:
    """One B-scan. start_mm, end_mm: en-face (x, y) of the outer edges of the first and the last A-scan."""

    scan_id: str  # unique in its volume, without anything of the patient: "H12"
    image: np.ndarray = field(repr=False)  # uint8 [depth, width], display grey levels (log or quartic-root scaled)
    direction: str  # "H" | "V": closer to horizontal or vertical
    line: int
    start_mm: tuple[float, float]
    end_mm: tuple[float, float]
    surfaces: dict[str, np.ndarray] = field(default_factory=dict, repr=False)  # vendor's rows, float32 [width], or NaN
    quality: float | None = None  # dB on a Spectralis

    @property
    def width(self) -> int:
        return self.image.shape[1]

    @property
    def length_mm(self) -> float:
        return float(np.hypot(self.end_mm[0] - self.start_mm[0], self.end_mm[1] - self.start_mm[1]))

    def path_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """En-face (x, y) in mm of the middle of each A-scan, float64 [width] each."""
        t = (np.arange(self.width) + 0.5) / self.width
        return tuple(a + (b - a) * t for a, b in zip(self.start_mm, self.end_mm, strict=True))


@dataclass(frozen=True)
class Localiser:
    """The infrared (SLO) picture. origin_mm: en-face (x, y) of its upper left corner; mm_per_px: (x, y)."""

    image: np.ndarray = field(repr=False)  # uint8 [height, width]
    mm_per_px: tuple[float, float]
    origin_mm: tuple[float, float]


@dataclass(frozen=True)
class Flag:
    """Something about the input that a reader must tell the user; it is printed and written beside the findings."""

    name: str  # short, snake_case: "direction_missing"
    message: str  # one plain sentence


@dataclass(frozen=True)
class Volume:
    """All B-scans of one visit of one eye. Every scan of a volume has the same depth and axial scale."""

    scans: tuple[Scan, ...]
    axial_um: float  # um per row
    laterality: str | None  # "OD" | "OS" | None: unknown
    patient_id: str  # a pseudonym
    study_id: str  # a digest of the input
    device: str  # "Heidelberg Spectralis"
    source: str  # format: "heyex_screen", "vol", "e2e", "xml", "fda", "dicom", "nifti", "folder", "phantom"
    data_kind: str  # "phantom" | "public" | "private"
    localiser: Localiser | None = None
    acquired: date | None = None  # for intervals between visits; never written out
    quality: float | None = None
    scale_from: str = "file"  # where mm come from: "file", "scale bar", "nominal", "given"
    flags: tuple[Flag, ...] = ()
    truth: Any = field(default=None, repr=False)  # a phantom's Eye

    def __post_init__(self) -> None:
        if not self.scans:
            raise DataError("The input holds no B-scan.")
        ids = [scan.scan_id for scan in self.scans]
        if len(set(ids)) < len(ids):
            raise DataError("Two B-scans of the volume have the same id: a line was exported twice; keep one of them.")
        depths = {scan.image.shape[0] for scan in self.scans}
        if len(depths) > 1:
            raise DataError(f"B-scans of different depth ({sorted(depths)} px) in one volume: export one scan pattern.")
        if not 0.5 <= self.axial_um <= 30:
            raise DataError(f"An axial scale of {self.axial_um:g} um/px is outside 0.5-30: check --spacing.")
        if self.laterality not in (None, *LATERALITIES):
            raise DataError(f"Laterality {self.laterality!r} is not OD or OS.")

    @property
    def depth(self) -> int:
        return self.scans[0].image.shape[0]

    @property
    def directions(self) -> tuple[str, ...]:
        return tuple(sorted({scan.direction for scan in self.scans}))

    def of(self, direction: str) -> list[int]:
        """Indices of the scans of one direction, in the order of their lines."""
        chosen = [k for k, scan in enumerate(self.scans) if scan.direction == direction]
        return sorted(chosen, key=lambda k: self.scans[k].line)

    def line_spacing_mm(self, direction: str) -> float | None:
        """Median distance between neighbouring lines of a direction; None with fewer than two."""
        middles = np.array(
            [np.add(self.scans[k].start_mm, self.scans[k].end_mm) / 2 for k in self.of(direction)]
        )
        if len(middles) < 2:
            return None
        across = middles[:, 1 if direction == "H" else 0]
        return float(np.median(np.diff(np.sort(across))))

    def flagged(self, *flags: Flag) -> Volume:
        """The same volume with more flags."""
        return replace(self, flags=(*self.flags, *flags))
