"""Scan geometries: how many lines, how dense, how deep. Lengths in um along a scan, mm en face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SURFACES = ("ILM", "RNFL/GCL", "IPL/INL", "INL/OPL", "OPL/ONL", "EZ", "RPE", "BM")
DIRECTIONS = ("H", "V")


@dataclass(frozen=True)
class Geometry:
    """A raster of `lines` B-scans in each of the two directions, centred on the eye's frame (0, 0).

    En-face frame: x in mm to the right, y in mm downwards, as the infrared image shows the eye.
    """

    name: str
    lines: int  # B-scans per direction
    width: int  # A-scans per B-scan
    depth: int  # pixels per A-scan
    axial_um: float
    lateral_um: float
    line_spacing_um: float

    @property
    def extent_mm(self) -> float:
        """Length of one scan line."""
        return self.width * self.lateral_um / 1000

    def line_position_mm(self, line: int) -> float:
        """Where line `line` lies: its y for horizontal, its x for vertical scans.

        As on the Spectralis, line 0 is the lowest horizontal and the rightmost vertical line.
        """
        return ((self.lines - 1) / 2 - line) * self.line_spacing_um / 1000

    def path_mm(self, direction: str, line: int) -> tuple[np.ndarray, np.ndarray]:
        """En-face (x, y) in mm of each A-scan: left to right for "H", bottom to top for "V"."""
        along = (np.arange(self.width) + 0.5) * self.lateral_um / 1000 - self.extent_mm / 2
        across = np.full(self.width, self.line_position_mm(line))
        return (along, across) if direction == "H" else (across, -along)


# Values read from exports and files: facts of erm.md. Spectralis: 30 degrees in 768 A-scans.
SPECTRALIS_25 = Geometry("spectralis_25", 25, 768, 496, 3.872, 11.7, 240.0)
SPECTRALIS_49 = Geometry("spectralis_49", 49, 512, 496, 3.872, 11.5, 123.0)
SPECTRALIS_61 = Geometry("spectralis_61", 61, 768, 496, 3.872, 11.7, 120.0)
