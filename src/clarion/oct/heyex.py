"""Heidelberg HEYEX screen exports: pictures with the infrared localiser on the left and the B-scan on the right.

The usual export is 1264x496: a 496x496 localiser with the scan lines burnt in, then a 768x496 B-scan, named
`Horizontal/00NN_H.bmp` or `Vertical/00NN_V.bmp`. The seam is found in the picture itself, so other sizes read too.
Names of folders and files may name the patient: ids made here come from the pictures' content instead.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from clarion.errors import DataError

log = logging.getLogger(__name__)

SUFFIXES = {".bmp", ".png", ".tif", ".tiff", ".jpg", ".jpeg"}
MAX_PIXELS = 40_000_000
_FORMATS = ("BMP", "PNG", "TIFF", "JPEG")
_NAME = re.compile(r"(?:^|[^0-9])(\d{1,4})[ _-]?([HV])$", re.IGNORECASE)
_DIGITS = re.compile(r"(\d{1,4})(?!.*\d)")
_HASHED_BYTES = 8_000_000
_DARK = 26  # grey level below which vitreous and choroid fall, and hardly any of the localiser
LAYOUT = "Horizontal/00NN_H.bmp and Vertical/00NN_V.bmp, or one folder of such pictures"


@dataclass(frozen=True)
class ExportedScan:
    """One exported picture; its pixels are read when asked for, and not kept."""

    path: Path
    sample_id: str
    patient_id: str
    direction: str  # "H" | "V"
    line: int  # as numbered by the export, from 0

    @property
    def image(self) -> np.ndarray:
        """The B-scan, uint8 [depth, width]. DataError if the picture is damaged or holds no B-scan."""
        return self._parts()[1]

    @property
    def infrared(self) -> np.ndarray:
        """The infrared localiser with its burnt-in lines, uint8 [height, width]."""
        return self._parts()[0]

    @cached_property
    def spacing_um(self) -> tuple[float, float] | None:
        """(axial, lateral) um per pixel from the burnt-in 200 um scale bar; None where no bar is found."""
        return scale_bar_um(self.image)

    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        picture = read_picture(self.path)
        seam = find_seam(picture, self.path.name)
        return picture[:, :seam], picture[:, seam:]


def read_export(path: Path | str) -> list[ExportedScan]:
    """All scans below `path` (one eye's export, or a folder of several), sorted by eye, direction and line.

    Pictures named NNNN_H / NNNN_V are taken; if none is, those in folders Horizontal and Vertical, else every
    picture without colour, with its direction read from the lines burnt into the localiser. Only one picture per eye
    is opened here, unless the names do not tell. Raises DataError if nothing is found or a line comes twice.
    """
    root = Path(path)
    if not root.exists():
        raise DataError(f"The folder does not exist: give the folder of a HEYEX export ({LAYOUT}).")
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if is_picture(p))
    if not files:
        raise DataError(f"No picture (bmp, png, tif, jpg) in the folder: a HEYEX export is {LAYOUT}.")
    named = [p for p in files if _NAME.search(p.stem)] or [p for p in files if _folder_direction(p)]
    if not named and len(files) > 1:
        named = [p for p in files if not is_coloured(p)]
    if named and len(named) < len(files):
        log.warning(
            "%d pictures of the export are not named like a scan (NNNN_H, NNNN_V) and are left out.",
            len(files) - len(named),
        )
    eyes: dict[Path, list[Path]] = {}
    for file in named or files:
        eyes.setdefault(_eye_folder(file), []).append(file)
    scans: list[ExportedScan] = []
    seen: dict[str, Path] = {}
    for members in eyes.values():
        scans += _scans_of_eye(members, seen)
    return scans


def is_picture(path: Path) -> bool:
    """Whether the file is named like a picture and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def is_named_scan(path: Path) -> bool:
    """Whether the file is named NNNN_H or NNNN_V, or lies in a folder Horizontal or Vertical."""
    return bool(_NAME.search(path.stem)) or _folder_direction(path) is not None


def _eye_folder(file: Path) -> Path:
    """The folder that holds an eye: the parent, or its parent where scans lie in Horizontal/ and Vertical/."""
    return file.parent.parent if _folder_direction(file) else file.parent


def _folder_direction(file: Path) -> str | None:
    name = file.parent.name.lower()
    return "H" if name in ("horizontal", "h") else "V" if name in ("vertical", "v") else None


def _scans_of_eye(files: list[Path], seen: dict[str, Path]) -> list[ExportedScan]:
    try:
        with open(files[0], "rb") as first:
            patient_id = "HX" + hashlib.sha256(first.read(_HASHED_BYTES)).hexdigest()[:10]
    except OSError as error:
        raise _about(files[0], f"cannot be read ({error.strerror}): check its permissions.") from None
    scans = []
    for order, file in enumerate(files):
        match = _NAME.search(file.stem)
        digits = _DIGITS.search(file.stem)
        direction = match[2].upper() if match else _folder_direction(file) or _burnt_in_direction(file)
        line = int(match[1] if match else digits[1] if digits else order)
        sample_id = f"{patient_id}_{direction}{line:02d}"
        if sample_id in seen:
            raise DataError(
                f"Two pictures, {file.name} and {seen[sample_id].name}, are the same line {direction}{line:02d} of one "
                "eye: keep one of them."
            )
        seen[sample_id] = file
        scans.append(ExportedScan(file, sample_id, patient_id, direction, line))
    return sorted(scans, key=lambda scan: (scan.direction, scan.line))


def read_picture(path: Path) -> np.ndarray:
    """A picture as uint8 grey [height, width]; DataError if it is damaged, far too large, or coloured."""
    try:
        return decode_picture(path.read_bytes(), path)
    except OSError as error:
        raise _about(path, f"cannot be read ({error.strerror}): check its permissions.") from None


def decode_picture(content: bytes, path: Path) -> np.ndarray:
    """A picture file's bytes as uint8 grey [height, width]; path only names it. DataError as in `read_picture`."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width}x{picture.height}"
                raise _about(path, f"has {size} pixels: too large for a HEYEX screen export.")
            if picture.mode == "L":
                return np.asarray(picture)
            rgb = np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, ImportError):  # ultralytics' patch of PIL asks for a package of another format
        raise _about(path, "is not a readable picture: export it again from HEYEX as BMP or PNG.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _about(path, f"is damaged or cut off ({error}): export it again from HEYEX.") from None
    if _coloured(rgb):
        raise _about(path, "is a colour picture (a thickness map?), not a scan: leave it out of the folder.")
    return np.ascontiguousarray(rgb[..., 1])


def is_coloured(path: Path) -> bool:
    """Whether a readable picture is a colour picture, such as a thickness map; damaged ones are told of elsewhere."""
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            small = picture.width * picture.height <= MAX_PIXELS
            return small and picture.mode != "L" and _coloured(np.asarray(picture.convert("RGB")))
    except (OSError, SyntaxError, ValueError, ImportError, Image.DecompressionBombError):
        return False


def _coloured(rgb: np.ndarray) -> bool:
    return bool(np.mean(np.ptp(rgb[::2, ::2].astype(np.int16), axis=2) > 40) > 0.05)


def _about(path: Path, problem: str) -> DataError:
    """An error about one picture: its name alone on the screen, not even that in what is recorded."""
    error = DataError(f"{path.name} {problem}")
    error.recorded = f"A picture {problem}"
    return error


def find_seam(picture: np.ndarray, name: str = "picture") -> int:
    """First column of the B-scan: where the columns change from a lit localiser to mostly dark.

    A two-level step is fitted to the share of dark pixels per column (least squares over all positions). The known
    layout has a square localiser; where the fit comes near it, the square decides to the pixel.
    """
    height, width = picture.shape
    if height < 64 or width < 128:
        raise DataError(f"{name} is only {width}x{height}: a HEYEX screen export is larger (usually 1264x496).")
    dark = (picture < _DARK).mean(axis=0)
    total = np.cumsum(dark)
    at = np.arange(width // 6, width - width // 6)  # last column left of the seam
    left, right = total[at - 1] / at, (total[-1] - total[at - 1]) / (width - at)
    gain = at * (width - at) * (right - left) * np.abs(right - left)
    best = int(gain.argmax())
    seam, left_dark, right_dark = int(at[best]), left[best], right[best]
    if right_dark - left_dark < 0.25:
        raise DataError(
            f"{name} is no HEYEX screen export: no infrared picture on the left and B-scan on the right. "
            "If it is a bare B-scan, use it as an image folder (data=yolo_folder) instead."
        )
    if abs(seam - height) <= 0.04 * width:
        seam = height
    check_bscan(picture[:, seam:], name)
    return seam


def check_bscan(image: np.ndarray, name: str = "picture") -> None:
    """DataError unless most columns show a bright band (a retina) in a dark frame."""
    smooth = cv2.GaussianBlur(image, (0, 0), 2.0)
    band = cv2.erode((smooth > 45).astype(np.uint8), np.ones((9, 1), np.uint8)).any(axis=0)
    if band.mean() < 0.5 or (smooth > 45).mean() > 0.75:
        raise DataError(f"{name}: no B-scan found right of the infrared picture (no retina in a dark frame).")


def scale_bar_um(bscan: np.ndarray, length_um: float = 200.0) -> tuple[float, float] | None:
    """(axial, lateral) um per pixel from the white L-shaped bar in the lower left corner; None without one.

    The bar is drawn in whole pixels: on two real exports 51 px axially (3.92 +- 0.04 um) and 16 or 17 px laterally
    (12.5 or 11.8, +- 0.4 um). Good for refusing a wrong scale, too coarse to measure area with.
    """
    height, width = bscan.shape
    corner = bscan[-height // 4 :, : width // 8] >= 235
    best: tuple[int, int] | None = None
    for column in range(corner.shape[1]):
        start, length = longest_run(corner[:, column])
        if length >= 12 and (best is None or length > best[0]):
            _, across = longest_run(corner[start + length - 1, column : column + width // 8])
            if across >= 5:
                best = (length, across)
    return None if best is None else (length_um / best[0], length_um / best[1])


def longest_run(mask: np.ndarray) -> tuple[int, int]:
    """(start, length) of the longest run of True in a bool [n]; (0, 0) without any."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))).reshape(-1, 2)
    if not len(edges):
        return 0, 0
    lengths = edges[:, 1] - edges[:, 0]
    k = int(lengths.argmax())
    return int(edges[k, 0]), int(lengths[k])


def _burnt_in_direction(file: Path) -> str:
    """Direction of the scan lines in the localiser: they are darker than the rows or columns beside them."""
    picture = read_picture(file)
    infrared = picture[:, : find_seam(picture, file.name)].astype(np.float32)
    rows, columns = (np.abs(np.diff(infrared.mean(axis=axis), 2)).mean() for axis in (1, 0))
    return "H" if rows >= columns else "V"
