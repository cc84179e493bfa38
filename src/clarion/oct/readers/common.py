"""What every reader shares: what the user asked for, safe reading, pseudonyms, laterality and scale.

No message, id or flag made here holds a name of a patient or of a folder; file names appear only where a file must be
named to be repaired, and then `DataError.recorded` holds the wording without it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

import cv2
import numpy as np

from clarion.data.pseudonym import pseudonyms
from clarion.errors import DataError, UsageError
from clarion.oct.volume import LATERALITIES, Flag, Localiser, Scan, Volume

MAX_FILE_BYTES = 2 * 2**30  # the largest Spectralis and Topcon volumes stay below 1 GiB
MAX_VOXELS = 800_000_000
MAX_PIXEL_BYTES = 2**30  # of one input once decoded; compressed files of kilobytes can claim any number
MIN_DEPTH, MIN_WIDTH = 32, 32
SPACING_HELP = "give --spacing AXIAL,LATERAL[,LINE] in um (a Spectralis: 3.87,11.7,240)"
LOW_QUALITY_DB = 15.0  # Heidelberg asks for at least 15 dB
MM_PER_DEGREE = 768 * 0.0117 / 30  # a Spectralis at the mean corneal curvature: 8.99 mm in 30 degrees
AXIAL_UM = 3.872  # of every Spectralis OCT1 and OCT2


@dataclass(frozen=True)
class Spacing:
    """Scale that the user gives, um: per row, per A-scan, between neighbouring B-scans (None: as the file says)."""

    axial_um: float
    lateral_um: float
    line_um: float | None = None


@dataclass(frozen=True)
class Asked:
    """What the user said beside the path."""

    spacing: Spacing | None = None
    laterality: str | None = None
    data_kind: str = "private"


def parse_spacing(
    spacing: str | Sequence[float] | Spacing | None, line_spacing_um: float | None = None
) -> Spacing | None:
    """ "3.87,11.7,240", (3.87, 11.7) or a Spacing; line_spacing_um stands for the third number. UsageError if wrong."""
    if spacing is None or isinstance(spacing, Spacing):
        numbers = [] if spacing is None else [spacing.axial_um, spacing.lateral_um, spacing.line_um]
    else:
        try:
            numbers = [float(v) for v in (spacing.split(",") if isinstance(spacing, str) else spacing)]
        except (TypeError, ValueError):
            numbers = [math.nan]
    if not numbers:
        if line_spacing_um is not None:
            raise UsageError(f"A distance of lines alone is no scale: {SPACING_HELP}.")
        return None
    if line_spacing_um is not None:
        numbers = [*numbers[:2], line_spacing_um]
    if len(numbers) == 2:
        numbers.append(None)
    limits = ((0.5, 30), (1, 100), (1, 5000))
    if len(numbers) != 3 or not all(
        v is None or (math.isfinite(v) and low <= v <= high) for v, (low, high) in zip(numbers, limits)
    ):
        raise UsageError(
            f"--spacing {spacing!r} is not AXIAL,LATERAL[,LINE] in um (0.5-30, 1-100, 1-5000): "
            "write for example 3.87,11.7,240."
        )
    return Spacing(*numbers)


def bad_file(path: Path, problem: str, fix: str = "export it again") -> DataError:
    """An error about one file; run directories get it without the file's name, which may be a patient's."""
    error = DataError(f"{path.name} {problem}: {fix}.")
    error.recorded = f"A {path.suffix.lower() or 'nameless'} file {problem}: {fix}."
    return error


def read_bytes(path: Path) -> bytes:
    """A whole file. DataError if it is missing, unreadable, empty or far too large."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise bad_file(path, f"has {size / 2**30:.1f} GiB, more than any scan", "give the export of one eye")
        data = path.read_bytes()
    except OSError as error:
        raise bad_file(path, f"cannot be read ({error.strerror})", "check its name and permissions") from None
    if not data:
        raise bad_file(path, "is empty")
    return data


def study_id(*parts: bytes) -> str:
    """A digest of the input's content, the same wherever the files lie and whatever they are called."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return "S-" + digest.hexdigest()[:16]


def pseudonym(identifier: str | None, study: str) -> str:
    """The keyed pseudonym of the file's patient identifier; without one, a digest of the content."""
    name = " ".join((identifier or "").split())
    return pseudonyms([name], "P")[name] if name.strip("0 ") else "P-" + study[2:14]


def check_size(path: Path, lines: int, depth: int, width: int) -> None:
    """DataError unless the header's dimensions are those of B-scans."""
    if min(lines, depth, width) < 1 or lines * depth * width > MAX_VOXELS or max(lines, depth, width) > 20_000:
        raise bad_file(path, f"claims {lines} B-scans of {depth} x {width} pixels, which is impossible")
    if depth < MIN_DEPTH or width < MIN_WIDTH:
        raise bad_file(path, f"holds B-scans of only {depth} x {width} pixels", "export the whole B-scans")


def valid_date(*numbers: int) -> date | None:
    """A date from year, month, day; None for nonsense and for the placeholders of anonymised files."""
    try:
        found = date(*(int(n) for n in numbers[:3]))
    except (ValueError, TypeError, OverflowError):
        return None
    return found if date(1990, 1, 1) < found <= datetime.now().date() and found != date(2000, 1, 1) else None


def stretch(values: np.ndarray) -> np.ndarray:
    """Display grey levels of raw intensities without a known scale: 1st to 99.8th percentile -> 0-255, uint8."""
    out = np.zeros(values.shape, np.uint8)
    some = np.asarray(values.flat[:: max(1, values.size // 500_000)], np.float64)
    some = some[np.isfinite(some)]
    if not some.size:
        return out
    low, high = np.percentile(some, (1, 99.8))
    for k, part in enumerate(values):  # one B-scan at a time: no second copy of a whole volume as floats
        scaled = (np.nan_to_num(part.astype(np.float32)) - low) * (255 / max(high - low, 1e-9))
        out[k] = np.clip(scaled, 0, 255)
    return out


def upside_down(values: np.ndarray) -> bool:
    """Whether B-scans [lines, depth, width] uint8 lie with the vitreous below.

    From the vitreous into the retina brightness jumps, into the sclera it fades: the outermost steps of tissue on both
    sides are compared (125-135 against 20-28 grey levels on phantom and real scans), and only a clear answer counts.
    """
    top, bottom = [], []
    for image in values[:: max(1, len(values) // 8)].astype(np.float32):
        depth, reach = image.shape[0], max(image.shape[0] // 60, 4)
        tissue = (smooth := cv2.blur(image, (15, 5))) > 0.4 * np.percentile(smooth, 98)
        mean_of_reach = [cv2.blur(image, (15, reach), anchor=(7, at)) for at in (0, reach - 1)]  # below, above each row
        step = mean_of_reach[0] - mean_of_reach[1]
        columns = np.flatnonzero(tissue.any(0))
        if not columns.size:
            continue
        first, last = tissue.argmax(0)[columns], depth - 1 - tissue[::-1].argmax(0)[columns]
        near = np.arange(-reach, reach + 1)[:, None]
        top.append(np.median(step[np.clip(first + near, 0, depth - 1), columns].max(0)))
        bottom.append(np.median(-step[np.clip(last + near, 0, depth - 1), columns].min(0)))
    return bool(top) and float(np.median(bottom)) > 1.8 * float(np.median(top)) + 5


def scan_from(
    image: np.ndarray,
    line: int,
    start_mm: Sequence[float],
    end_mm: Sequence[float],
    surfaces: dict[str, np.ndarray] | None = None,
    quality: float | None = None,
    offset: int = 0,
) -> Scan:
    """A Scan with its direction from its course. offset: added to the line in its id (several series in one input)."""
    dx, dy = abs(end_mm[0] - start_mm[0]), abs(end_mm[1] - start_mm[1])
    direction = "H" if dx >= dy else "V"
    return Scan(
        scan_id=f"{direction}{line + offset:02d}",
        image=np.ascontiguousarray(image),
        direction=direction,
        line=line + offset,
        start_mm=(float(start_mm[0]), float(start_mm[1])),
        end_mm=(float(end_mm[0]), float(end_mm[1])),
        surfaces=surfaces or {},
        quality=quality,
    )


def raster(lines: int, width: int, lateral_um: float, line_um: float) -> list[tuple[tuple, tuple]]:
    """Start and end (mm) of horizontal lines from top to bottom, centred on (0, 0)."""
    half = width * lateral_um / 2000
    ys = (np.arange(lines) - (lines - 1) / 2) * line_um / 1000
    return [((-half, float(y)), (half, float(y))) for y in ys]


def settle_laterality(found: Iterable[str | None], asked: str | None) -> tuple[str | None, list[Flag]]:
    """One laterality of what the files say and the user asked; DataError where two of them disagree."""
    known = sorted({eye for eye in found if eye in LATERALITIES})
    if len(known) > 1:
        raise DataError("The input mixes the right and the left eye (OD and OS): give one eye at a time.")
    if asked is not None and asked not in LATERALITIES:
        raise UsageError(f"--laterality {asked!r} is not OD (right) or OS (left).")
    if known and asked and known[0] != asked:
        raise DataError(
            f"The file says {known[0]} and --laterality says {asked}: nothing was measured, because nasal and "
            "temporal would be swapped; check which eye it is."
        )
    eye = known[0] if known else asked
    if eye is None:
        message = "The input does not say which eye it is: give --laterality OD or OS, or sectors stay unnamed."
        return None, [Flag("laterality_unknown", message)]
    return eye, []


def common_flags(volume: Volume) -> list[Flag]:
    """What the scans themselves tell: a missing direction, a single line, low quality."""
    flags = []
    if len(volume.scans) == 1:
        flags.append(Flag("single_line", "Only one B-scan: no area and no thickness map can be measured from a line."))
    elif len(volume.directions) == 1:
        have, lack = ("horizontal", "vertical") if volume.directions == ("H",) else ("vertical", "horizontal")
        message = f"Only {have} lines were given, no {lack} ones: between lines the area is less certain."
        flags.append(Flag("direction_missing", message))
    low = [scan.scan_id for scan in volume.scans if scan.quality is not None and scan.quality < LOW_QUALITY_DB]
    if low:
        names = ", ".join(low[:5]) + (" ..." if len(low) > 5 else "")
        message = f"{len(low)} of {len(volume.scans)} B-scans ({names}) are below {LOW_QUALITY_DB:g} dB: "
        message += "their numbers are uncertain."
        flags.append(Flag("quality_low", message))
    return flags


def check_parallel(scans: Sequence[Scan]) -> None:
    """DataError where lines of one direction run at different angles: a radial (star) pattern."""
    for direction in ("H", "V"):
        angles = [
            np.degrees(np.arctan2(s.end_mm[1] - s.start_mm[1], s.end_mm[0] - s.start_mm[0]))
            for s in scans
            if s.direction == direction
        ]
        if angles and np.ptp(np.unwrap(angles, period=360)) > 3:
            raise DataError(
                "The lines of this scan run at different angles (a star or radial pattern), which covers no area "
                "evenly: export a raster (volume) scan."
            )


def rescale(volume: Volume, spacing: Spacing) -> Volume:
    """The volume in the scale that the user gives, recorded as scale_from="given".

    The lateral scale stretches the en-face plane about its origin, localiser included. LINE may differ from that
    only where there is no localiser that shows the lines' places; otherwise a contradiction is a DataError.
    """
    first = volume.scans[0]
    factor = spacing.lateral_um / (first.length_mm * 1000 / first.width)
    across = {"H": factor, "V": factor}
    for direction in volume.directions if spacing.line_um else ():
        own = volume.line_spacing_mm(direction)
        if not own:
            continue
        wanted = spacing.line_um / 1000 / own
        if volume.localiser is not None and abs(wanted / factor - 1) > 0.03:
            raise DataError(
                f"--spacing says {spacing.line_um:g} um between lines, but the localiser shows "
                f"{own * factor * 1000:.0f} um at this lateral scale: leave the third number out, or correct it."
            )
        across[direction] = factor if volume.localiser is not None else wanted
    # x of vertical lines and y of horizontal lines are positions across; everything else runs along.
    scans = []
    for scan in volume.scans:
        fx, fy = (factor, across["H"]) if scan.direction == "H" else (across["V"], factor)
        scans.append(replace(scan, start_mm=(scan.start_mm[0] * fx, scan.start_mm[1] * fy),
                             end_mm=(scan.end_mm[0] * fx, scan.end_mm[1] * fy)))  # fmt: skip
    picture = volume.localiser
    if picture is not None:
        picture = Localiser(
            picture.image,
            tuple(v * factor for v in picture.mm_per_px),
            tuple(v * factor for v in picture.origin_mm),
        )
    return replace(volume, scans=tuple(scans), axial_um=spacing.axial_um, localiser=picture, scale_from="given")
