"""Membrane area in mm2 with an interval: what lies between the lines, what was found wrong, how the eye moved.

The area is that of the union of the rasters: everywhere that at least one direction scanned. It is the integral of
the fused probability map, not the number of pixels of its mask: an interpolated map rounds every corner and closes
every gap narrower than a line spacing at any threshold, while its integral is a Cavalieri sum, unbiased for any shape
on a raster that was not placed by it (Gundersen & Jensen 1987, J Microsc 147:229).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from clarion.errors import UsageError
from clarion.oct.area_detection import EXACT, SMALL_MM2, DetectionError, apply_rule, load_calibration
from clarion.oct.area_sampling import line_shares, line_sums, motion_variance_mm4, raster_variance_mm4
from clarion.oct.enface import Grid, direction_map, fuse
from clarion.oct.projection import SCALE_MM, Projection, checked
from clarion.oct.volume import Volume

# Where a line lay beside its place in the file, 1 SD. With an eye tracker the beam's own width is the scale (14 um on
# a Spectralis); without one a fixating eye drifts by some tens of um between lines.
TRACKED_MM = 0.014
UNTRACKED_MM = 0.06
TRACKING_DEVICES = ("spectralis", "heidelberg")


@dataclass(frozen=True)
class Area:
    """Membrane area inside everything that was scanned."""

    value_mm2: float
    interval: tuple[float, float, float]  # low, high, level
    sd_mm2: dict[str, float]  # "raster", "detection", "motion": 1 SD each
    scanned_mm2: float
    map_mm2: float  # of the projection's mask, as drawn
    source: str = "unknown"  # where presence came from
    notes: tuple[str, ...] = field(default=())


def measure_area(
    volume: Volume,
    presence: list[np.ndarray],
    projection: Projection,
    grid: Grid,
    level: float = 0.95,
    detection: DetectionError | str | None = None,
    motion_mm: float | None = None,
) -> Area:
    """Area of the membrane with its interval.

    presence: float [width] a scan, 0-1; projection: project(volume, presence, grid). detection: the source of presence
    ("head", "boxes", "truth"; its calibration is read from the package), a DetectionError, or None: unknown, wide.
    motion_mm: 1 SD of each line's place; None: by the device. The three parts are independent and add in quadrature on
    the scale of the square root, the detection part with calibrated quantiles.
    UsageError on a level outside 0.5-0.99, DataError on presence that does not fit the volume.
    """
    if not 0.5 <= level <= 0.99:
        raise UsageError(f"An interval of level {level:g} is not offered: choose 0.5 to 0.99.")
    presence = checked(volume, presence)
    error = detection if isinstance(detection, DetectionError) else load_calibration(detection)
    counted = [apply_rule(p, error.rule) for p in presence]
    both = {d: direction_map(volume, counted, d, grid) for d in volume.directions}
    maps = {d: value for d, (value, _) in both.items()}
    fused = fuse(list(both.values()), SCALE_MM)
    value = error.gain * float(np.nansum(fused, dtype=np.float64)) * grid.pixel_mm2

    shares = line_shares(volume, grid)
    sums = line_sums(volume, counted, grid, shares)
    doubt = line_sums(volume, presence, grid, shares).uncertain_mm2
    tracked = any(name in volume.device.lower() for name in TRACKING_DEVICES)
    moved = motion_mm if motion_mm is not None else TRACKED_MM if tracked else UNTRACKED_MM
    root = np.sqrt(value)
    sampling = {"raster": np.sqrt(raster_variance_mm4(sums)), "motion": np.sqrt(motion_variance_mm4(sums, moved))}
    # The same deviation upwards on the scale of the square root: finite at zero area, sd / (2 sqrt(A)) at large ones.
    roots = {name: float(np.sqrt(value + sd) - root) for name, sd in sampling.items()}
    roots["detection"] = float(error.sd_root(value, doubt))
    normal = float(ndtri((1 + level) / 2))
    factor = {"raster": normal, "motion": normal, "detection": error.quantile(level, value)}
    half = float(np.sqrt(sum((factor[name] * sd) ** 2 for name, sd in roots.items())))

    scanned = float(projection.scanned.sum() * grid.pixel_mm2)
    low, high = max(root - half, 0.0) ** 2, (root + half) ** 2
    return Area(
        value_mm2=min(value, scanned),
        interval=(min(low, scanned), min(high, scanned), level),
        sd_mm2={
            "raster": float(sampling["raster"]),
            "detection": float(2 * root * roots["detection"] + roots["detection"] ** 2),
            "motion": float(sampling["motion"]),
        },
        scanned_mm2=scanned,
        map_mm2=float(projection.mask.sum() * grid.pixel_mm2),
        source=error.source,
        notes=tuple(_notes(volume, presence, error, value, maps, sampling["raster"], grid, tracked)),
    )


def _notes(volume: Volume, presence: list[np.ndarray], error: DetectionError, value: float,
           maps: dict[str, np.ndarray], raster_sd: float, grid: Grid, tracked: bool) -> list[str]:  # fmt: skip
    """What a reader of the number must know, one sentence each."""
    notes = []
    if error.n_eyes:
        notes.append(f"The error of detection ({error.source}) was measured on {error.n_eyes} phantom eyes.")
    elif error != EXACT:
        notes.append(
            f"The error of detection ({error.source}) was never measured: the interval holds a wide assumption instead."
        )
    if abs(error.gain - 1) >= 0.005:
        notes.append(f"The area found was multiplied by {error.gain:.3f}, the bias of {error.source} on those eyes.")
    if value < SMALL_MM2 and error.missed_mm2 is not None:
        notes.append(
            f"No membrane was found; in {error.n_missed} calibration eyes in which none was found "
            f"95 % had less than {error.missed_mm2:.2g} mm2."
        )
    if len(volume.directions) == 1:
        name = {"H": "horizontal", "V": "vertical"}[volume.directions[0]]
        notes.append(f"Only {name} lines were scanned: nothing checks the map between them.")
    else:
        both = np.isfinite(maps["H"]) & np.isfinite(maps["V"])
        gap = error.gain * abs(float((maps["H"] - maps["V"])[both].sum())) * grid.pixel_mm2
        # The difference of two directions scatters by 2 / sqrt(gain) times the error of their fused mean.
        allowed = 3 * np.hypot(2.3 * raster_sd, 0.05 * value) + SMALL_MM2
        if gap > allowed:
            notes.append(
                f"Horizontal and vertical lines differ by {gap:.2g} mm2 where both were scanned: look at the map."
            )
    missing = float(np.mean([np.isnan(p).mean() for p in presence]))
    if missing > 0.005:
        notes.append(f"{100 * missing:.2g} % of the A-scans could not be read and are left out of what was scanned.")
    if not tracked:
        notes.append("The device is not known to track the eye: 0.06 mm of motion per line is assumed.")
    if volume.scale_from in ("nominal", "given"):
        notes.append(f"The lateral scale is {volume.scale_from}: an error of 5 % in it is 10 % of the area.")
    return notes
